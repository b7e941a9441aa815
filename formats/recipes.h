/* Recipes and soft labels as stream frames (tensorstream(5), recipes).
 *
 * A stream of kind "recipes" passes the images frames first, then one frame per batch. Its header's key "recipes" is a
 * map: epochs, batches (an epoch), batch (images a full batch). Frame keys: "index" i64 (n), the images; "epoch",
 * "batch" int, from 0; "box" i32 (n,4) top, left, height, width; "flip" u8 (n); "swap" u8 (n), halves that change
 * places before that (enum swap), where any may; "pad" int; "partner" i64 (n), places in this batch; "mix" str (none,
 * cutmix, mixup); "lambda" f64; "cut" list y0, y1, x0, x1; and, once labelled, one of the three soft-label forms below.
 */
#ifndef RECIPES_H
#define RECIPES_H

#include "../lib/augment.h"
#include "header.h"
#include "imageset.h"
#include "tstream.h"

extern const char *const mix_name[]; /* by enum mix_kind; NULL behind the last */

/* Into a frame map and back (a roll does not travel). All draws are range-checked against the number of images and
 * their size; -1 and err, r is then empty. */
void recipe_to_frame(struct val *frame, const struct recipe *r);
int recipe_from_frame(const struct val *frame, int64_t nimages, int h, int w, struct recipe *r, char err[ERRLEN]);

/* Soft labels: logits (n,K).
 *   f16:  "soft.f16" (n,K)
 *   u8:   "soft.u8" (n,K) with "soft.range" f32 (n,2): logit = lo + (hi-lo)*q/255
 *   topk: "soft.index" i32 (n,k), "soft.top" f16 (n,k), "soft.rest" f16 (n): what all other classes get, chosen so
 *         that the others' share of the softmax (T = 1) stays as it was.
 * "soft.f32" (n,K), which no filter here writes into recipes, is read too. Logits must be finite; beyond the range of
 * f16 they are clipped to it. soft_drop removes any of them. */
enum soft_form { SOFT_F16, SOFT_U8, SOFT_TOPK };
void soft_to_frame(struct val *frame, const float *logits, int n, int k, enum soft_form form, int top);
/* 1 and logits (n,K); 0: the frame has no soft labels; -1 and err. */
int soft_from_frame(const struct val *frame, int n, int k, float *logits, char err[ERRLEN]);
void soft_drop(struct val *frame);

/* A recipes stream: its images, kept whole and, if wanted, as the frames that they came in, then its batches one by one. */
struct recipe_stream {
	struct ts_reader r;
	struct imageset set;
	int epochs;
	int64_t batches, batch;    /* batches an epoch, images a full batch */
	struct val **image_frames; /* to pass on; none unless kept */
	int64_t nimage_frames;
	struct val *pending;       /* first batch frame, read ahead; NULL when it has been handed out */
	int64_t done;              /* batches handed out */
};
/* Reads up to and including the first batch. keep: the images' frames. -1: s->r.err says why, s needs no close. */
int recipe_stream_open(struct recipe_stream *s, const char *path, bool keep);
/* The same from a reader of kind recipes of which only the header was read; it moves into s. */
int recipe_stream_begin(struct recipe_stream *s, const struct ts_reader *r, bool keep);
/* Next batch, in order of epoch and batch: 1, *frame and *out are the caller's (val_free, recipe_free); 0 at the end,
 * after exactly epochs*batches of them; -1 with s->r.err. */
int recipe_stream_next(struct recipe_stream *s, struct val **frame, struct recipe *out);
void recipe_stream_close(struct recipe_stream *s);

#endif
