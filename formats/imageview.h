/* A whole set of images as a network takes them: in the network's normalisation, with its labels. Owns all in it. */
#ifndef IMAGEVIEW_H
#define IMAGEVIEW_H

#include "imageset.h"

struct imageview {
	struct imageset set;
	struct norm norm;   /* the network's */
	int64_t *label;     /* (N) the network's; as the set's once it was read */
};
/* The set of a whole stream, in its own normalisation with its own labels; path NULL: standard input. -1 and err. */
int imageview_read(struct imageview *v, const char *path, char err[ERRLEN]);
void imageview_free(struct imageview *v);

/* Makes it the view of a network that takes images chw and has this header. Classes are matched by name: whole: both
 * have the same ones, in any order; else the set has no others. -1 and err; then the view is as it was. */
int imageview_fit(struct imageview *v, const struct val *header, const int chw[3], bool whole, char err[ERRLEN]);

/* Valid while the view stays where it is; a later fit is seen through it. */
struct dataset imageview_dataset(const struct imageview *v);

#endif
