/* The CPU's inner loops: one contract per kernel, one table per instruction set, chosen at run time.
 *
 * Arguments: outputs, inputs, sizes. Feature maps are blocked, (CB,H,W,8) with CB = ceil(C/8) and zeros in the channels
 * beyond C; per-channel arrays are padded to 8*CB with zeros. Every call takes one image (winograd: n) and runs on the
 * calling thread; nothing here allocates. Each kernel has a plain double reference in
 * tests/ref.h, or is part of a net that t_ops compares with one.
 */
#ifndef KERNELS_H
#define KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct wino_shape { /* 3x3, stride 1: y (K,oh,ow) = w * x (C,ih,iw), oh = ih + 2*pad - 2 */
	int c, k;       /* channels, as they are (not padded) */
	int ih, iw, oh, ow, pad;
};

enum { KERNEL_TAPS = 256 }; /* at most k*k */
struct direct_shape { /* y (o,oh,ow) = w * x (c,ih,iw), k x k taps */
	int c, o;       /* channels, as they are (not padded) */
	int ih, iw, oh, ow, k, stride, pad;
};

/* The gradient in front of a norm, not yet computed: g = gain[c]*dz + a[c] + b[c]*(x - ref[c]), dz from dy as gather()
 * makes it. Arguments as of gather() and affine_back(). */
struct feature_grad {
	const float *const *dy;
	int ndy;
	const uint8_t *mask;
	bool pool;
	const float *gain, *a, *b, *ref, *x;
	int kb, h, w;
};

/* Square windows of k over maps (CB,h,w,8), to (CB,oh,ow,8). The mean of a window is of all of it: without pad. */
struct pool_shape {
	int cb, h, w, oh, ow, k, stride, pad; /* pad at most k/2, k at most 15 */
};

enum act { ACT_RELU6, ACT_SILU, ACT_SIGMOID };

struct kernels {
	const char *isa;
	bool wide; /* registers take two blocks of channels */

	/* sum[c] += sum over p of x - ref[c]; sumsq[c] += sum of (x - ref[c])^2; x (CB,H,W,8), c real channels. Float
	 * within a row, double across rows. */
	void (*sums)(double *sum, double *sumsq, const float *x, const float *ref, int c, int h, int w);
	/* sdz[c] += sum of dz, sdzx[c] += sum of dz*(x - ref[c]). */
	void (*sums_back)(double *sdz, double *sdzx, const float *dz, const float *x, const float *ref, int c, int h, int w);
	/* v = x*scale[c] + shift[c] + res; mask bit = v > 0, v = max(v, 0) where relu; y = v, or with pool the mean of 2x2
	 * (y (CB,H/2,W/2,8); a last odd row or column is dropped). res, mask may be NULL; y may be x without pool. */
	void (*epilogue)(float *y, uint8_t *mask, const float *x, const float *res, const float *scale, const float *shift,
	    int cb, int h, int w, bool relu, bool pool);
	/* dz = (sum of the ndy gradients dy[i], each spread over its 2x2 window / 4 with pool) where the mask's bit is set. */
	void (*gather)(float *dz, const float *const *dy, int ndy, const uint8_t *mask, int cb, int h, int w, bool pool);
	/* dx = g[c]*dz + a[c] + b[c]*(x - ref[c]); x may be NULL (then b, ref are not read); dx may be dz. */
	void (*affine_back)(float *dx, const float *dz, const float *x, const float *g, const float *a, const float *b,
	    const float *ref, int cb, int64_t p);
	/* Gradient of an image (C,ih,iw), C <= 4, from dy (KB,oh,ow,8) through a k x k convolution of stride s:
	 * w is (KB,k,k,C,8), prepared. dx is written. */
	void (*image_dgrad)(float *dx, const float *dy, const float *w, int c, int ih, int iw, int kb, int oh, int ow, int k,
	    int stride, int pad);
	/* The same with everything that lies between, for stride 1: dx from the feature gradient f; scratch:
	 * image_back_floats(). dw (KB,C,3,3,8) += and db (KB*8) += of a 3x3 one from f and the image. */
	void (*image_back)(float *dx, const struct feature_grad *f, const float *w, float *scratch, int c, int ih, int iw,
	    int k, int pad);
	void (*image_wgrad)(float *dw, float *db, const struct feature_grad *f, const float *image, float *scratch, int c,
	    int ih, int iw, int pad);

	/* Convolutions of any kind, n images at once, and their input gradients. u: prepared filters of the one or the other,
	 * direct_filter_floats() of them, from w (O,C,k,k). bias (OB*8) or NULL. scratch: direct_scratch_floats(). */
	void (*direct_filter)(float *u, const float *w, const struct direct_shape *s, bool dgrad);
	void (*direct_conv)(float *y, const float *x, const float *u, const float *bias, float *scratch, int n,
	    const struct direct_shape *s);
	void (*direct_dgrad)(float *dx, const float *dy, const float *u, float *scratch, int n, const struct direct_shape *s);
	/* 3x3 ones of stride 2 where poly_fits(), and both gradients; dw (OB,C,3,3,8) is added to. u: poly_filter_floats() of
	 * prepared filters; scratch: poly_scratch_floats(). */
	void (*poly_filter)(float *u, const float *w, const struct direct_shape *s, bool dgrad);
	void (*poly_conv)(float *y, const float *x, const float *u, const float *bias, float *scratch, int n,
	    const struct direct_shape *s);
	void (*poly_dgrad)(float *dx, const float *dy, const float *u, float *scratch, int n, const struct direct_shape *s);
	void (*poly_wgrad)(float *dw, const float *x, const float *dy, float *scratch, int n, const struct direct_shape *s);
	/* y (KB,oh,ow,8) from a plain image (C,ih,iw), w (KB,k,k,C,8), bias (KB*8) or NULL. Fast on wide
	 * registers without a stride. */
	void (*image_conv)(float *y, const float *x, const float *w, const float *bias, int c, int ih, int iw, int kb, int oh,
	    int ow, int k, int stride, int pad);
	/* Weight gradient dw (KB,C,k,k,8) += of a k x k convolution from x, blocked or plain (C,ih,iw), and dy (KB,oh,ow,8). */
	void (*conv_wgrad)(float *dw, const float *x, const float *dy, int c, int ih, int iw, bool plain, int kb, int oh,
	    int ow, int k, int stride, int pad);
	/* Depthwise k x k convolutions of stride s: y (CB,oh,ow,8) from x (CB,ih,iw,8), w (CB,k,k,8), bias (CB*8) or NULL;
	 * the input's gradient, written; the weights', added to. */
	void (*dw_conv)(float *y, const float *x, const float *w, const float *bias, int cb, int ih, int iw, int oh, int ow,
	    int k, int stride, int pad);
	void (*dw_dgrad)(float *dx, const float *dy, const float *w, int cb, int ih, int iw, int oh, int ow, int k,
	    int stride, int pad);
	void (*dw_wgrad)(float *dw, const float *x, const float *dy, int cb, int ih, int iw, int oh, int ow, int k,
	    int stride, int pad);
	/* y = act(x); dx = dy * act'. v is x for ACT_SILU, y for the others. n8 vectors of eight; y may be x, dx dy. */
	void (*act)(float *y, const float *x, enum act what, int64_t n8);
	void (*act_back)(float *dx, const float *dy, const float *v, enum act what, int64_t n8);
	/* y = the largest of each window, choice = its place there, row by row; NULL: nobody asks. dx is written. */
	void (*max_pool)(float *y, uint8_t *choice, const float *x, const struct pool_shape *s);
	void (*max_pool_back)(float *dx, const float *dy, const uint8_t *choice, const struct pool_shape *s);
	void (*avg_pool)(float *y, const float *x, const struct pool_shape *s);
	void (*avg_pool_back)(float *dx, const float *dy, const struct pool_shape *s);
	/* The mean of whole maps: y (CB*8) of x (CB,p,8), in double; dx is written. */
	void (*mean)(float *y, const float *x, int cb, int64_t p);
	void (*mean_back)(float *dx, const float *dy, int cb, int64_t p);
	/* y (n,out) = x (n,in) * w^T + bias; w (out,in). x and y: image i at xs*i, ys*i floats. */
	void (*linear)(float *y, const float *x, const float *w, const float *bias, int n, int in, int out, size_t ys,
	    size_t xs);
	/* dx (n,in) = dy (n,out) * w; dw (out,in) += dy^T * x. Strides as above. */
	void (*linear_dgrad)(float *dx, const float *dy, const float *w, int n, int in, int out, size_t xs, size_t ys);
	void (*linear_wgrad)(float *dw, const float *dy, const float *x, int n, int in, int out, size_t ys, size_t xs);

	/* Winograd F(4x4,3x3) (Lavin & Gray 2016). u: prepared filters, wino_filter_floats() of them, from w (K,C,3,3);
	 * flip: for the input gradient, w (C,K,3,3) rotated by 180 degrees. scratch: wino_scratch_floats(). */
	void (*wino_filter)(float *u, const float *w, int c, int k, bool flip);
	void (*wino_conv)(float *y, const float *x, const float *u, const float *bias, float *scratch, int n,
	    const struct wino_shape *s);
	/* Weight gradient dw (KB,C,3,3,8) += of the same convolution, from x (n images) and dy. scratch:
	 * wino_wgrad_scratch_floats(). */
	void (*wino_wgrad)(float *dw, const float *x, const float *dy, float *scratch, int n, const struct wino_shape *s);
};
struct direct_border { /* zeros around what is read: x, or for its gradient dy */
	int before, after_h, after_w;
};
struct direct_border direct_border(const struct direct_shape *s, bool dgrad);
size_t direct_filter_floats(const struct direct_shape *s, bool dgrad);
size_t direct_scratch_floats(const struct direct_shape *s, int n);
bool poly_fits(const struct direct_shape *s);
int64_t poly_products(const struct direct_shape *s, bool dgrad); /* of a pair of channels; the weight gradient as forward */
size_t poly_filter_floats(const struct direct_shape *s, bool dgrad);
size_t poly_scratch_floats(const struct direct_shape *s);
size_t wino_filter_floats(int c, int k);
size_t wino_scratch_floats(int c, int k);
size_t wino_wgrad_scratch_floats(int c, int k);

size_t image_back_floats(int c, int o, int ih, int iw, int k, int pad); /* for both */

extern const struct kernels kernels_plain, kernels_avx2, kernels_avx512;
/* The best that this processor runs; name ("plain", "avx2", "avx512") pins one: NULL when it cannot run here. */
const struct kernels *kernels_best(void);
const struct kernels *kernels_named(const char *name);

#endif
