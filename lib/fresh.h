/* Real images beside a unit: some of every class, drawn anew at every iteration of synthesis. Owns its lists; the images
 * are borrowed. What is drawn is a function of (seed, class, iteration), so that units computed apart see the same.
 */
#ifndef FRESH_H
#define FRESH_H

#include "dataset.h"

struct fresh {
	struct dataset images;
	int per_class;       /* drawn at a time, at most: as was asked, or all of the largest class */
	int64_t **of, *n;    /* (nclass): the images of a class, and how many there are */
	int nclass;
};
struct fresh *fresh_new(struct dataset images, int nclass, int per_class);
void fresh_free(struct fresh *f);
/* Images of a class, none twice: pick (per_class). Returns how many: fewer where the class has fewer. */
int fresh_draw(const struct fresh *f, uint32_t seed, int64_t class, int64_t iteration, int64_t *pick);

#endif
