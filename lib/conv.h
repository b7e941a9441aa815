/* Convolutions of the CPU backend: one image shape, one weight shape, several implementations.
 *
 * A conv owns its primitives and per-thread scratch; prepared weights belong to the caller. Feature maps are blocked
 * (C/8,H,W,8); plain_src: the source is an image (C,H,W). Thread t of the caller passes tid = t; nothing in here starts
 * threads, so that results do not depend on how many there are.
 */
#ifndef CONV_H
#define CONV_H

#include <stdbool.h>
#include <stddef.h>

#include "util.h"

struct conv_shape {
	int ic, ih, iw, oc, oh, ow, k, stride, pad;
	bool plain_src;
};

/* Pins oneDNN's instruction set as set_isa() pins ours; only before the first primitive is made, without effect later. */
void dnn_pin(const char *isa);

enum { CONV_FWD = 1, CONV_DGRAD = 2, CONV_WGRAD = 4 };

/* oneDNN: lib/onednn.c is the one file that knows it. */
struct dnn_conv;
/* want: a set of CONV_…; wgrad_batch: images that one dnn_conv_wgrad of a full chunk takes. Returns the set of those that
 * oneDNN has fast code for: the others do not exist. */
int dnn_conv_new(struct dnn_conv **out, const struct conv_shape *s, int want, int wgrad_batch);
void dnn_conv_free(struct dnn_conv *c);
size_t dnn_conv_weights(const struct dnn_conv *c, int dir); /* floats of prepared weights or of a weight gradient */
void dnn_conv_prepare(struct dnn_conv *c, int dir, float *out, const float *w /* (O,I,k,k) */);
void dnn_conv_unprepare(struct dnn_conv *c, float *dw /* (O,I,k,k) */, const float *in); /* of WGRAD */
/* One image. bias (oc padded to 8) may be NULL only if the shape was always run so. */
void dnn_conv_forward(struct dnn_conv *c, int tid, float *y, const float *x, const float *w, const float *bias);
void dnn_conv_dgrad(struct dnn_conv *c, int tid, float *dx, const float *dy, const float *w);
/* n images (any n up to wgrad_batch; n < wgrad_batch runs one by one and adds up): dw is written. */
void dnn_conv_wgrad(struct dnn_conv *c, int tid, float *dw, float *scratch, const float *x, const float *dy, int n);
const char *dnn_conv_impl(const struct dnn_conv *c, int dir);

#endif
