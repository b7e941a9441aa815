/* Backward through the first convolution of a net (stride 1, an image of few channels in planes), together with what lies
 * behind it: pooling, ReLU's mask and the normalisation's affine are undone a few rows at a time, in a band that stays
 * in cache, instead of in whole maps that are several times as large as all the rest of such a layer.
 *
 *     g[k] = gain[k]*dz[k] + a[k] + b[k]*(x[k] - ref[k])          gradient in front of the norm, see feature.c
 *     dx[c][y][x]   = sum over k, i, j of w[k][c][i][j] * g[k][y+pad-i][x+pad-j]
 *     dw[k][c][i][j] += sum over y, x of g[k][y][x] * image[c][y+i-pad][x+j-pad],  db[k] += sum of g[k]
 *
 * Lanes are eight output channels k: no multiplication is spent on padding channels of the image.
 */
#include "kernels.h"
#include "micro.h"
#include "sizes.h"
#include "isa.h"

/* One vector of g from its dz. The flags are constants in every caller below. */
INLINE v8 grad_at(v8 dz, const uint8_t *mask, const float *x, int64_t i, v8 gain, v8 a, v8 b, v8 ref, int has_mask, int has_x)
{
	if (has_mask)
		dz = keep8(dz, mask[i]);
	dz = dz * gain + a;
	return has_x ? dz + b * (load8(x + i * 8) - ref) : dz;
}

/* Row r of channel block b: w vectors, `lanes` floats apart. */
INLINE void grad_row_as(float *out, const struct feature_grad *f, int b, int r, int lanes, int pool, int has_mask, int has_x)
{
	const v8 gain = load8(f->gain + b * 8), a = load8(f->a + b * 8);
	const v8 vb = has_x ? load8(f->b + b * 8) : zero8(), ref = has_x ? load8(f->ref + b * 8) : zero8();
	int w = f->w, half = w / 2, ndy = f->ndy;
	int64_t row = ((int64_t)b * f->h + r) * w, low = ((int64_t)b * (f->h / 2) + r / 2) * half;
	const uint8_t *mask = has_mask ? f->mask + row : NULL;
	const float *const *dy = f->dy, *x = has_x ? f->x + row * 8 : NULL;

#define AT(dz, q) store8(out + (q) * lanes, grad_at(dz, mask, x, q, gain, a, vb, ref, has_mask, has_x))
	if (!pool) {
		for (int q = 0; q < w; q++)
			AT(total8(dy, ndy, row + q), q);
		return;
	}
	for (int q = 0; q < half; q++) {
		v8 dz = r / 2 < f->h / 2 ? total8(dy, ndy, low + q) * splat8(0.25f) : zero8();
		AT(dz, 2 * q);
		AT(dz, 2 * q + 1);
	}
	if (w & 1)
		AT(zero8(), w - 1);
#undef AT
}

INLINE void grad_row(float *out, const struct feature_grad *f, int b, int r, int lanes)
{
#define CASE(m, x) \
	if (f->pool) \
		grad_row_as(out, f, b, r, lanes, 1, m, x); \
	else \
		grad_row_as(out, f, b, r, lanes, 0, m, x)
	if (f->mask) {
		if (f->x) { CASE(1, 1); } else { CASE(1, 0); }
	} else {
		if (f->x) { CASE(0, 1); } else { CASE(0, 0); }
	}
#undef CASE
}

/* N pixels from x0 on of one row of dx, all C channels. band: (kb,rows,wide,8); taps [i0,i1) of the window's rows lie in
 * the map; row i of the window is row top - i of the band. */
#define STRIP_HEAD(name) INLINE void name(float *dx, int64_t plane, int n, const float *band, const float *w, int kb, int rows, \
    int wide, int k, int top, int i0, int i1, int x0)
#define STRIP(C, N) \
STRIP_HEAD(strip_##C) \
{ \
	v8 acc[C][N]; \
	for (int c = 0; c < C; c++) \
		for (int q = 0; q < N; q++) \
			acc[c][q] = zero8(); \
	for (int b = 0; b < kb; b++) \
		for (int i = i0; i < i1; i++) { \
			const float *d = band + (((int64_t)b * rows + top - i) * wide + x0 + k - 1) * 8; \
			const float *f = w + ((int64_t)b * k + i) * k * C * 8; \
			for (int j = 0; j < k; j++, d -= 8, f += C * 8) { \
				v8 tap[C]; \
				for (int c = 0; c < C; c++) \
					tap[c] = load8(f + c * 8); \
				for (int q = 0; q < N; q++) { \
					v8 v = load8(d + q * 8); \
					for (int c = 0; c < C; c++) \
						acc[c][q] += v * tap[c]; \
				} \
			} \
		} \
	for (int c = 0; c < C; c++) \
		for (int q = 0; q < N && q < n; q++) \
			dx[c * plane + q] = sum8(acc[c][q]); \
}
STRIP(1, IMAGE_STRIP) STRIP(2, 4) STRIP(3, 4) STRIP(4, 2)

#ifdef __AVX512F__
/* The same by pairs of blocks: band (kb/2,rows,wide,16), w as it is. */
#define STRIP16(C, N) \
STRIP_HEAD(wide_##C) \
{ \
	v16 acc[C][N] = { { { 0 } } }; \
	const int64_t block = (int64_t)k * k * C * 8; \
	for (int b = 0; b < kb; b += 2) \
		for (int i = i0; i < i1; i++) { \
			const float *d = band + (((int64_t)b / 2 * rows + top - i) * wide + x0 + k - 1) * 16; \
			const float *f = w + b * block + (int64_t)i * k * C * 8; \
			for (int j = 0; j < k; j++, d -= 16, f += C * 8) { \
				v16 tap[C]; \
				UNROLL \
				for (int c = 0; c < C; c++) \
					tap[c] = both(load8(f + c * 8), load8(f + block + c * 8)); \
				UNROLL \
				for (int q = 0; q < N; q++) { \
					v16 v = load16(d + q * 16); \
					for (int c = 0; c < C; c++) \
						acc[c][q] += v * tap[c]; \
				} \
			} \
		} \
	UNROLL \
	for (int q = 0; q < N; q++) \
		for (int c = 0; c < C && q < n; c++) \
			dx[c * plane + q] = sum8(low8(acc[c][q]) + high8(acc[c][q])); \
}
STRIP16(1, IMAGE_STRIP) STRIP16(2, IMAGE_STRIP) STRIP16(3, IMAGE_STRIP) STRIP16(4, 4)
#endif

/* Channels that lie side by side in a band or a row of it: two blocks where registers take so many. */
INLINE int lanes_of(const struct feature_grad *f)
{
#ifdef __AVX512F__
	return f->kb % 2 ? 8 : 16;
#else
	(void)f;
	return 8;
#endif
}

void KERNEL(image_back)(float *dx, const struct feature_grad *f, const float *w, float *band, int c, int ih, int iw, int k,
    int pad)
{
	int lanes = lanes_of(f), blocks = lanes / 8;
	int shift = image_band_shift(k, pad), left = k - 1 - pad + shift, rows = IMAGE_BAND + k - 1;
	int wide = image_band_width(iw, k, pad), have = 0, first = 0;
	int strip = image_strip(c, lanes == 16);

	memset(band, 0, (size_t)f->kb * rows * wide * 8 * sizeof *band);
	for (int y0 = 0; y0 < ih; y0 += IMAGE_BAND) {
		/* The band's row t is row base + t of the map; what the last band had of it moves up. */
		int base = y0 + pad - (k - 1), end = base + rows < f->h ? base + rows : f->h, kept = have - base;
		kept = have > base && base > first ? kept : 0;
		for (int b = 0; b < f->kb; b++) {
			float *to = band + (int64_t)(b / blocks) * rows * wide * lanes;
			if (kept > 0 && b % blocks == 0)
				memmove(to, to + (int64_t)(base - first) * wide * lanes, (size_t)kept * wide * lanes * sizeof *to);
			for (int r = kept > 0 ? have : base > 0 ? base : 0; r < end; r++)
				grad_row(to + ((int64_t)(r - base) * wide + left) * lanes + b % blocks * 8, f, b, r, lanes);
		}
		first = base, have = end > have ? end : have;
		for (int x = 0; x < iw; x += strip)
			for (int y = y0; y < y0 + IMAGE_BAND && y < ih; y++) {
				/* Window rows i with 0 <= y + pad - i < h. */
				int top = y + pad - base, i0 = y + pad - f->h + 1, i1 = y + pad + 1;
				float *to = dx + (int64_t)y * iw + x;
				i0 = i0 < 0 ? 0 : i0, i1 = i1 > k ? k : i1;
#define CASE(kind, C) case C: kind##_##C(to, (int64_t)ih * iw, iw - x, band, w, f->kb, rows, wide, k, top, i0, i1, x + shift); break
#ifdef __AVX512F__
				if (lanes == 16)
					switch (c) { CASE(wide, 1); CASE(wide, 2); CASE(wide, 3); CASE(wide, 4); }
				else
#endif
				switch (c) { CASE(strip, 1); CASE(strip, 2); CASE(strip, 3); CASE(strip, 4); }
#undef CASE
			}
	}
}

/* Weight gradient of eight outputs from one row of g: three window rows of one channel, nine sums in registers. */
INLINE void row_taps(float *dw, const float *g, const float *image, int wide, int w)
{
	v8 acc[9];

	for (int t = 0; t < 9; t++)
		acc[t] = load8(dw + t * 8);
	for (int q = 0; q < w; q++) {
		v8 v = load8(g + q * 8);
		for (int i = 0; i < 3; i++)
			for (int j = 0; j < 3; j++)
				acc[i * 3 + j] += v * splat8(image[i * wide + q + j]);
	}
	for (int t = 0; t < 9; t++)
		store8(dw + t * 8, acc[t]);
}

#ifdef __AVX512F__
/* The same of two blocks of outputs, the second's sums `block` floats behind. */
INLINE void row_taps_wide(float *dw, int64_t block, const float *g, const float *image, int wide, int w)
{
	v16 acc[9];

	UNROLL
	for (int t = 0; t < 9; t++)
		acc[t] = both(load8(dw + t * 8), load8(dw + block + t * 8));
	for (int q = 0; q < w; q++) {
		v16 v = load16(g + q * 16);
		UNROLL
		for (int i = 0; i < 3; i++)
			for (int j = 0; j < 3; j++)
				acc[i * 3 + j] += v * image[i * wide + q + j];
	}
	UNROLL
	for (int t = 0; t < 9; t++) {
		store8(dw + t * 8, low8(acc[t]));
		store8(dw + block + t * 8, high8(acc[t]));
	}
}
#endif

/* Sums of one row of g, a lane each. */
INLINE void row_sums(double *sum, const float *g, int lanes, int w)
{
	v8 s = zero8();

	for (int q = 0; q < w; q++)
		s += load8(g + q * lanes);
	for (int l = 0; l < 8; l++)
		sum[l] += s[l];
}

void KERNEL(image_wgrad)(float *dw, float *db, const struct feature_grad *f, const float *image, float *scratch, int c, int ih,
    int iw, int pad)
{
	int wide = iw + 2 * pad, tall = ih + 2 * pad, lanes = lanes_of(f), blocks = lanes / 8;
	float *row = scratch + (((size_t)c * wide * tall + 7) / 8 * 8);

	memset(scratch, 0, (size_t)c * wide * tall * sizeof *scratch);
	for (int ch = 0; ch < c; ch++)
		for (int y = 0; y < ih; y++)
			memcpy(scratch + ((int64_t)ch * tall + y + pad) * wide + pad, image + ((int64_t)ch * ih + y) * iw, iw * sizeof *image);
	for (int b = 0; b < f->kb; b += blocks) {
		double sum[16] = { 0 };
		for (int r = 0; r < f->h; r++) {
			for (int i = 0; i < blocks; i++) {
				grad_row(row + i * 8, f, b + i, r, lanes);
				row_sums(sum + i * 8, row + i * 8, lanes, f->w);
			}
			for (int ch = 0; ch < c; ch++) {
				float *to = dw + ((int64_t)b * c + ch) * 72;
				const float *from = scratch + ((int64_t)ch * tall + r) * wide;
#ifdef __AVX512F__
				if (lanes == 16)
					row_taps_wide(to, (int64_t)c * 72, row, from, wide, f->w);
				else
#endif
				row_taps(to, row, from, wide, f->w);
			}
		}
		for (int l = 0; l < lanes; l++)
			db[b * 8 + l] += sum[l];
	}
}
