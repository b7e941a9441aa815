/* Synthesis on the device where features are matched (DM, and a prior beside it): fresh real images, networks that take
 * turns, class means. Part of cuda_synth.c, which has the unit, its augmentation and its optimiser; all that changes from
 * one iteration to the next is read at that one's count, so that one graph is all of them.
 *
 * Networks of one pool are alike, so a place in flight has plans that are any of them: their weights lie on the device
 * side by side, and a place's are those of whoever was drawn.
 */
#ifndef CUDA_FEATURES_H
#define CUDA_FEATURES_H

#include "cuda.h"
#include "synth.h"

/* NULL and no err where the host can do it alone: the real images are not bytes or do not fit, or networks of one pool
 * differ. The place of a network in flight, i, runs on lane i % lanes. */
struct device_features *cuda_features_new(const struct synth_opts *o, const struct teacher_ref *t, int nteacher, int batch,
    int lanes, char err[ERRLEN]);
void cuda_features_free(struct device_features *f);
size_t cuda_features_bytes(const struct device_features *f);
int cuda_features_width(const struct device_features *f);  /* of what a place gives: features, or classes */
int cuda_features_values(const struct device_features *f); /* doubles of one place's loss, at most */

/* The unit's classes; their number, part of what a graph is recorded for. */
int cuda_features_unit(struct device_features *f, const struct unit *u);
/* Room for the draws of so many iterations. The caller has forgotten the graphs that know the last one. */
void cuda_features_room(struct device_features *f, int k);
/* What chance decides in k iterations from u's; draws of augmentation (k,draws), one for all or one an image of the unit.
 * cuda_wait() before they are freed. -1 and err. */
int cuda_features_draws(struct device_features *f, const struct unit *u, int k, const struct view *view,
    const struct dsa *dsa, int draws, char err[ERRLEN]);
/* Whatever n images need is made now. True: some memory has moved. */
bool cuda_features_ready(struct device_features *f, int n);

/* In an iteration: the real images of count *at, on gpu's stream; */
void cuda_features_see(struct device_features *f, const int *at);
/* on a lane: a place's plan with its network of this iteration, for images of the unit; */
struct plan *cuda_features_take(struct device_features *f, int place, cudaStream_t stream);
/* behind its forward pass: what it sees in the real images, and how far out (n,width) is from that: value, dout. */
void cuda_features_match(struct device_features *f, int place, const float *out, float *dout, double *value, double scale);

#endif
