/* Augmentation as data: what was drawn, how it is applied to one image, and the adjoint for gradients.
 *
 * Draws are made on the host in double; applying them is float arithmetic on one image at a time, so that results do
 * not depend on how a batch is split. Images are planes (C,H,W) in normalised space. Adjoints accumulate: the caller
 * zeroes din. Resampling is bilinear with half-pixel centres (align_corners=False).
 */
#ifndef AUGMENT_H
#define AUGMENT_H

#include <stdint.h>

#include "rng.h"
#include "util.h"

/* A geometric view, applied in this order: crop box (source pixels, whole numbers) resampled to H x W with edge pixels
 * repeated (torchvision's resized_crop of tensors), horizontal flip, roll (cyclic shift: out[y][x] =
 * in[(y-dy) mod H][(x-dx) mod W], torch.roll's sign). zero > 0: instead of resampling, shift: the box may hang over the
 * edge by up to zero pixels and what lies outside is 0 (RandomCrop with padding). */
struct view {
	int top, left, height, width;
	int flip, dy, dx;
	int zero;
};
#define VIEW_IDENTITY(H, W) ((struct view){ 0, 0, (H), (W), 0, 0, 0, 0 })

/* view.c. The draws set the whole view: no flip, no roll; these are the caller's to draw. Whole-number resampling only
 * enlarges: 1 <= height <= h, 1 <= width <= w.
 * torchvision RandomResizedCrop: area scale in [smin, smax], log-uniform ratio in [3/4, 4/3], ten tries, then the
 * centred fallback. */
void view_draw_rrc(struct rng *r, int h, int w, double smin, double smax, struct view *v);
void view_draw_pad(struct rng *r, int h, int w, int pad, struct view *v); /* RandomCrop(size, padding=pad) */
void view_apply(float *out, const float *in, int c, int h, int w, const struct view *v);    /* (C,H,W) <- (C,H,W) */
void view_adjoint(float *din, const float *dout, int c, int h, int w, const struct view *v); /* din += J^T dout */

/* dsa.c. DSA ("color_crop_cutout_flip_scale_rotate", Zhao & Bilen 2021; field figures in augment(7)): one group of
 * the six is drawn per call. Colour: brightness x + (r-0.5), saturation (x-m)*2r + m with m the mean over channels of each pixel,
 * contrast (x-m)*(r+0.5) + m with m the mean of the whole image, in this order. Crop: shift by up to
 * int(0.125*size + 0.5) with zero fill. Cutout: a zero square of half the side (int(0.5*size + 0.5)), centre anywhere,
 * clipped. Flip with probability 0.5. Scale: 1/1.2..1.2 per axis; rotate: +-15 degrees: bilinear, zeros outside,
 * affine_grid/grid_sample with align_corners=False. */
enum dsa_kind { DSA_NONE, DSA_COLOUR, DSA_CROP, DSA_CUTOUT, DSA_FLIP, DSA_SCALE, DSA_ROTATE, DSA_KINDS };
struct dsa {
	enum dsa_kind kind;
	float bright, sat, contrast;   /* uniform draws r in [0,1) */
	int dy, dx;                    /* crop: out[y][x] = in[y+dy][x+dx] or 0 */
	int cy, cx;                    /* cutout: centre */
	int flip;
	float sx, sy;                  /* scale: theta = diag(sx, sy) */
	float angle;                   /* radians: theta = [[cos, -sin], [sin, cos]] as DSA writes it */
};
enum dsa_kind dsa_draw_kind(struct rng *r, unsigned mask); /* mask: bit per kind that may be drawn */
void dsa_draw(struct rng *r, enum dsa_kind kind, int h, int w, struct dsa *d); /* parameters of one image */
/* "color_crop_cutout_flip_scale_rotate" -> mask, or 0 and err */
unsigned dsa_parse(const char *names, char err[ERRLEN]);
void dsa_apply(float *out, const float *in, int c, int h, int w, const struct dsa *d);
/* din += J^T dout; every one of the six is affine in the image, so the image itself is not needed. */
void dsa_adjoint(float *din, const float *dout, int c, int h, int w, const struct dsa *d);

/* mix.c. Mixing of a batch (N,C,H,W) by one recipe: image i with partner[i]. CutMix (Yun et al. 2019): the box [y0,y1) x
 * [x0,x1) comes from the partner. MixUp: lambda*x + (1-lambda)*partner. */
enum mix_kind { MIX_NONE, MIX_CUTMIX, MIX_MIXUP };
struct mix {
	enum mix_kind kind;
	float lambda;        /* CutMix: the share of the image that is its own, after clipping the box */
	int y0, y1, x0, x1;
};
/* lambda ~ Beta(alpha, alpha), then for CutMix the centre, row and column, uniform. */
void mix_draw(struct rng *r, enum mix_kind kind, double alpha, int h, int w, struct mix *m);
/* CutMix's box about (cy, cx): sides int(size*sqrt(1-lambda)), half sides that // 2, clipped; lambda as it then is. */
void mix_box(struct mix *m, double lambda, int cy, int cx, int h, int w);
/* One image, out = own mixed with partner; own may be out. */
void mix_apply(float *out, const float *own, const float *partner, int c, int h, int w, const struct mix *m);

/* RDED's 2 x 2 patches, shuffled across and down: halves change places, which is a roll by half a side. The half that
 * comes first in the image is the smaller one where a side is odd. */
enum swap { SWAP_ACROSS = 1, SWAP_DOWN = 2, SWAP_BOTH };
struct view swap_view(int swap, int h, int w);
int swap_of(const struct view *v);

/* One batch of an augmented epoch: what a frame of kind "recipes" says. Arrays are (n), owned by the recipe. */
struct recipe {
	int n;
	int64_t *index;      /* image of the images part of the stream */
	struct view *view;
	int64_t *partner;    /* place in this batch */
	struct mix mix;
	struct view *swap;   /* before the view: rolls as swap_view() has them; NULL: none in the whole batch */
};
void recipe_free(struct recipe *r);
struct dataset;
/* The one replay routine: out (n,C,H,W) = the batch, of the images that it names. scratch: (n,C,H,W), other memory than
 * out. Parallel over images; the bytes are the same at any number of threads. */
void recipe_replay(const struct recipe *r, const struct dataset *images, float *out, float *scratch);

#endif
