/* Recipes and soft labels as stream frames (tensorstream(5), recipes).
 *
 * A stream of kind "recipes" passes the images frames first, then one frame per batch. Its header's key "recipes" is a
 * map: epochs, batches (an epoch), batch (images a full batch). Frame keys: "epoch", "batch" int; "index" i64 (n);
 * "box" i32 (n,4) top, left, height, width; "flip" u8 (n); "pad" int; "partner" i64 (n); "mix" str (none, cutmix,
 * mixup); "lambda" f64; "cut" list y0, y1, x0, x1; and, once labelled, one of the three soft-label forms below.
 */
#ifndef RECIPES_H
#define RECIPES_H

#include "../lib/augment.h"
#include "header.h"

/* Into a frame map and back. All draws are range-checked against the number of images and their size. */
void recipe_to_frame(struct val *frame, const struct recipe *r);
int recipe_from_frame(const struct val *frame, int64_t nimages, int h, int w, struct recipe *r, char err[ERRLEN]);

/* Soft labels: logits (n,K).
 *   f16:  "soft.f16" (n,K)
 *   u8:   "soft.u8" (n,K) with "soft.range" f32 (n,2): logit = lo + (hi-lo)*q/255
 *   topk: "soft.index" i32 (n,k), "soft.top" f16 (n,k), "soft.rest" f16 (n): what all other classes get, chosen so
 *         that the others' share of the softmax (T = 1) stays as it was. */
enum soft_form { SOFT_F16, SOFT_U8, SOFT_TOPK };
void soft_to_frame(struct val *frame, const float *logits, int n, int k, enum soft_form form, int top);
/* 1 and logits (n,K); 0: the frame has no soft labels; -1 and err. */
int soft_from_frame(const struct val *frame, int n, int k, float *logits, char err[ERRLEN]);

#endif
