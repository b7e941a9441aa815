/* Recipes, or DSA, replayed over one set of images, where networks will see them: by the device that plans run on, if it
 * has room for the set, else by all threads. Slots are batches that stay as they are until they are replayed into again.
 */
#ifndef REPLAY_H
#define REPLAY_H

#include "augment.h"
#include "dataset.h"

struct replay;
/* What images has is borrowed; batches of at most `batch`. */
struct replay *replay_new(struct dataset images, int batch, int slots);
void replay_free(struct replay *r);
/* The batch (n,C,H,W) of that slot: for plan_forward() and train_step() alone, since it may lie on the device. */
const float *replay_run(struct replay *r, const struct recipe *recipe, int slot);
/* Likewise images index (n), each under its own d (n). Without a device, threads may do different slots side by side. */
const float *replay_dsa(struct replay *r, const int64_t *index, const struct dsa *d, int n, int slot);

#endif
