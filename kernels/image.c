/* The first convolution, whose image has few channels, in planes: lanes are outputs. And the gradient with respect to the
 * image, its input gradient:
 *
 * dx[c][y][x] = sum over k, taps (i,j) with (y + pad - i) and (x + pad - j) multiples of the stride, in range:
 *               w[k][c][i][j] * dy[k][(y+pad-i)/s][(x+pad-j)/s]
 * The lanes are eight output channels k, added up at the end: as many multiplications as the convolution has, none on
 * padding channels. Without a stride image_grad.c does it several pixels at a time.
 */
#include "kernels.h"
#include "micro.h"
#include "isa.h"

static void pixel(float *dx, const float *dy, const float *w, int c, int ih, int iw, int kb, int oh, int ow, int k, int stride,
    int pad, int y, int x)
{
	v8 acc[4] = { zero8(), zero8(), zero8(), zero8() };

	for (int i = 0; i < k; i++)
		for (int j = 0; j < k; j++) {
			int sy = y + pad - i, sx = x + pad - j;

			if (sy < 0 || sx < 0 || sy % stride || sx % stride || sy / stride >= oh || sx / stride >= ow)
				continue;
			for (int b = 0; b < kb; b++) {
				v8 v = load8(dy + (((int64_t)b * oh + sy / stride) * ow + sx / stride) * 8);
				const float *f = w + (((int64_t)b * k + i) * k + j) * c * 8;
				for (int q = 0; q < c; q++)
					acc[q] += v * load8(f + q * 8);
			}
		}
	for (int q = 0; q < c; q++)
		dx[((int64_t)q * ih + y) * iw + x] = sum8(acc[q]);
}

void KERNEL(image_dgrad)(float *dx, const float *dy, const float *w, int c, int ih, int iw, int kb, int oh, int ow, int k,
    int stride, int pad)
{
	for (int y = 0; y < ih; y++)
		for (int x = 0; x < iw; x++)
			pixel(dx, dy, w, c, ih, iw, kb, oh, ow, k, stride, pad, y, x);
}

/* Outputs of pixel (r,q), eight at a time. */
static void image_pixel(float *y, const float *x, const float *w, v8 acc, int c, int ih, int iw, int k, int stride, int pad,
    int r, int q)
{
	for (int i = 0; i < k; i++)
		for (int j = 0; j < k; j++) {
			int yy = r * stride + i - pad, xx = q * stride + j - pad;

			if (yy < 0 || xx < 0 || yy >= ih || xx >= iw)
				continue;
			for (int ch = 0; ch < c; ch++)
				acc += splat8(x[((int64_t)ch * ih + yy) * iw + xx]) * load8(w + ((i * k + j) * c + ch) * 8);
		}
	store8(y, acc);
}

#ifdef __AVX512F__
/* N pixels of a row and 2*PAIRS blocks of outputs, or one less where half is 0, so that up to 24 sums wait for a broadcast and
 * four loads. A tap (i,j) of channel ch reads x[ch*plane + at + i*iw + j] on; those outside the image are not in
 * [i0,i1) x [j0,j1). y: the first block's, omap apart. */
#define STRIP(N, PAIRS) \
INLINE void strip_##N##_##PAIRS(float *y, int64_t omap, const float *x, int64_t plane, int64_t at, int iw, const float *w, \
    int64_t block, const float *bias, int half, int c, int k, int i0, int i1, int j0, int j1) \
{ \
	v16 acc[N][PAIRS] = { { { 0 } } }; \
	for (int s = 0; s < PAIRS && bias; s++) { \
		v16 v = both(load8(bias + s * 16), load8(bias + s * 16 + (s < PAIRS - 1 ? 1 : half) * 8)); \
		UNROLL \
		for (int q = 0; q < N; q++) \
			acc[q][s] = v; \
	} \
	for (int i = i0; i < i1; i++) \
		for (int j = j0; j < j1; j++) \
			for (int ch = 0; ch < c; ch++) { \
				const float *f = w + ((i * k + j) * c + ch) * 8, *p = x + ch * plane + at + (int64_t)i * iw + j; \
				v16 u[PAIRS]; \
				for (int s = 0; s < PAIRS; s++) \
					u[s] = both(load8(f + 2 * s * block), load8(f + (2 * s + (s < PAIRS - 1 ? 1 : half)) * block)); \
				UNROLL \
				for (int q = 0; q < N; q++) { \
					v16 v = splat16(p[q]); \
					for (int s = 0; s < PAIRS; s++) \
						acc[q][s] += v * u[s]; \
				} \
			} \
	UNROLL \
	for (int q = 0; q < N; q++) \
		for (int s = 0; s < PAIRS; s++) { \
			store8(y + 2 * s * omap + q * 8, low8(acc[q][s])); \
			if (s < PAIRS - 1 || half) \
				store8(y + (2 * s + 1) * omap + q * 8, high8(acc[q][s])); \
		} \
}
#define STRIPS(N) STRIP(N, 1) STRIP(N, 2)
STRIPS(12) STRIPS(6) STRIPS(5) STRIPS(4) STRIPS(3) STRIPS(2) STRIPS(1)

/* Row r of one to four blocks of outputs. */
static void wide_row(float *y, int64_t omap, const float *x, const float *w, const float *bias, int blocks, int c, int ih, int iw,
    int ow, int k, int pad, int r)
{
	int i0 = pad > r ? pad - r : 0, i1 = ih + pad - r < k ? ih + pad - r : k, half = blocks % 2 == 0;
	int inner = iw + pad - k + 1 < ow ? iw + pad - k + 1 : ow, q = 0; /* from here on the right border is seen */
	int64_t block = (int64_t)k * k * c * 8, plane = (int64_t)ih * iw, at = (int64_t)(r - pad) * iw - pad;

#define AT(N, j0, j1) do { \
	if (blocks > 2) \
		strip_##N##_2(y + (int64_t)q * 8, omap, x, plane, at + q, iw, w, block, bias, half, c, k, i0, i1, j0, j1); \
	else \
		strip_##N##_1(y + (int64_t)q * 8, omap, x, plane, at + q, iw, w, block, bias, half, c, k, i0, i1, j0, j1); \
} while (0)
	for (; q < pad && q < ow; q++)
		AT(1, pad - q, iw + pad - q < k ? iw + pad - q : k);
#define STEP(N) do { AT(N, 0, k); q += N; } while (0)
	SHARE(q, inner, STEP);
	for (; q < ow; q++)
		AT(1, 0, iw + pad - q);
#undef STEP
#undef AT
}
#endif

void KERNEL(image_conv)(float *y, const float *x, const float *w, const float *bias, int c, int ih, int iw, int kb, int oh,
    int ow, int k, int stride, int pad)
{
	int64_t omap = (int64_t)oh * ow * 8, block = (int64_t)k * k * c * 8;
	int b = 0;

#ifdef __AVX512F__
	for (; stride == 1 && b < kb; b += 4)
		for (int r = 0; r < oh; r++)
			wide_row(y + b * omap + (int64_t)r * ow * 8, omap, x, w + b * block, bias ? bias + b * 8 : NULL,
			    kb - b < 4 ? kb - b : 4, c, ih, iw, ow, k, pad, r);
#endif
	for (; b < kb; b++)
		for (int r = 0; r < oh; r++)
			for (int q = 0; q < ow; q++)
				image_pixel(y + b * omap + ((int64_t)r * ow + q) * 8, x, w + b * block, bias ? load8(bias + b * 8) : zero8(), c, ih,
				    iw, k, stride, pad, r, q);
}
