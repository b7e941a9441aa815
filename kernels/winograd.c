/* 3x3 convolution of stride 1 by Winograd F(4x4,3x3): a quarter of the multiplications.
 *
 * Y = A^T [ (G g G^T) . (B^T d B) ] A for each 4x4 tile of the output, d the 6x6 inputs under it (Lavin & Gray 2016,
 * points 0, +-1, +-2, infinity). The 36 products over channels are 36 matrix products:
 *
 *     V (36, tiles, C)  input transform      U (36, K/16, C, 16)  filters      M (36, tiles, K) = V * U
 *
 * done for a block of tiles at a time, of whatever images they belong to: small maps of many images make one long
 * product. In each, a panel U (C,16) stays in L1 while it meets 6 tiles at a time: 12 vectors of sums, two loads of U
 * and six broadcasts of V for 12 multiply-adds. V's and M's 36 planes are set apart by 16 floats more than they need,
 * lest they all fall into one cache set.
 */
#include "kernels.h"
#include "vec.h"
#include "isa.h"
#include "wino.h"

#define UNROLL _Pragma("GCC unroll 12")

void KERNEL(wino_filter)(float *u, const float *w, int c, int k, bool flip)
{
	static const double G[SPAN][3] = {
		{ 1. / 4, 0, 0 }, { -1. / 6, -1. / 6, -1. / 6 }, { -1. / 6, 1. / 6, -1. / 6 },
		{ 1. / 24, 1. / 12, 1. / 6 }, { 1. / 24, -1. / 12, 1. / 6 }, { 0, 0, 1 },
	};
	int panels = (k + PANEL - 1) / PANEL;

	memset(u, 0, sizeof *u * POINTS * panels * c * PANEL);
	for (int o = 0; o < k; o++)
		for (int i = 0; i < c; i++) {
			const float *g = flip ? w + ((size_t)i * k + o) * 9 : w + ((size_t)o * c + i) * 9;
			double t[SPAN][3];

			for (int a = 0; a < SPAN; a++)
				for (int b = 0; b < 3; b++) {
					t[a][b] = 0;
					for (int j = 0; j < 3; j++)
						t[a][b] += G[a][j] * (flip ? g[(2 - j) * 3 + 2 - b] : g[j * 3 + b]);
				}
			for (int a = 0; a < SPAN; a++)
				for (int b = 0; b < SPAN; b++) {
					double s = t[a][0] * G[b][0] + t[a][1] * G[b][1] + t[a][2] * G[b][2];
					u[(((size_t)(a * SPAN + b) * panels + o / PANEL) * c + i) * PANEL + o % PANEL] = s;
				}
		}
}

/* B^T applied to six vectors. */
#define INPUT_TRANSFORM(o0, o1, o2, o3, o4, o5, d0, d1, d2, d3, d4, d5) do { \
	v8 p_ = d4 - 4 * d2, q_ = d3 - 4 * d1, r_ = d4 - d2, s_ = 2 * (d3 - d1); \
	v8 e0_ = 4 * d0 - 5 * d2 + d4, e5_ = 4 * d1 - 5 * d3 + d5; \
	o0 = e0_, o1 = p_ + q_, o2 = p_ - q_, o3 = r_ + s_, o4 = r_ - s_, o5 = e5_; \
} while (0)

/* One tile of eight channels: 36 vectors, `plane` floats apart. x is the channel block's map (ih,iw,8). */
INLINE void input_tile(float *v, size_t plane, const float *x, int ih, int iw, int top, int left)
{
	v8 t[SPAN][SPAN];

	if (top >= 0 && left >= 0 && top + SPAN <= ih && left + SPAN <= iw) {
		const float *p = x + ((int64_t)top * iw + left) * 8;
		UNROLL
		for (int j = 0; j < SPAN; j++) {
#define D(i) load8(p + ((int64_t)(i) * iw + j) * 8)
			v8 d0 = D(0), d1 = D(1), d2 = D(2), d3 = D(3), d4 = D(4), d5 = D(5);
			INPUT_TRANSFORM(t[0][j], t[1][j], t[2][j], t[3][j], t[4][j], t[5][j], d0, d1, d2, d3, d4, d5);
#undef D
		}
	} else {
		for (int j = 0; j < SPAN; j++) {
			v8 d[SPAN];
			for (int i = 0; i < SPAN; i++) {
				bool in = top + i >= 0 && top + i < ih && left + j >= 0 && left + j < iw;
				d[i] = in ? load8(x + ((int64_t)(top + i) * iw + left + j) * 8) : zero8();
			}
			INPUT_TRANSFORM(t[0][j], t[1][j], t[2][j], t[3][j], t[4][j], t[5][j], d[0], d[1], d[2], d[3], d[4], d[5]);
		}
	}
	UNROLL
	for (int i = 0; i < SPAN; i++) {
		v8 o0, o1, o2, o3, o4, o5;
		INPUT_TRANSFORM(o0, o1, o2, o3, o4, o5, t[i][0], t[i][1], t[i][2], t[i][3], t[i][4], t[i][5]);
		store8(v + (i * SPAN + 0) * plane, o0);
		store8(v + (i * SPAN + 1) * plane, o1);
		store8(v + (i * SPAN + 2) * plane, o2);
		store8(v + (i * SPAN + 3) * plane, o3);
		store8(v + (i * SPAN + 4) * plane, o4);
		store8(v + (i * SPAN + 5) * plane, o5);
	}
}

/* A^T applied to six vectors. */
#define OUTPUT_TRANSFORM(o0, o1, o2, o3, m0, m1, m2, m3, m4, m5) do { \
	v8 a_ = m1 + m2, b_ = m1 - m2, c_ = m3 + m4, d_ = m3 - m4; \
	o0 = m0 + a_ + c_, o1 = b_ + 2 * d_, o2 = a_ + 4 * c_, o3 = b_ + 8 * d_ + m5; \
} while (0)

INLINE void output_tile(float *y, const float *m, size_t plane, v8 bias, int oh, int ow, int top, int left)
{
	v8 t[TILE][SPAN];
	int rows = oh - top < TILE ? oh - top : TILE, cols = ow - left < TILE ? ow - left : TILE;

	UNROLL
	for (int j = 0; j < SPAN; j++) {
#define MM(i) load8(m + ((i) * SPAN + j) * plane)
		v8 m0 = MM(0), m1 = MM(1), m2 = MM(2), m3 = MM(3), m4 = MM(4), m5 = MM(5);
		OUTPUT_TRANSFORM(t[0][j], t[1][j], t[2][j], t[3][j], m0, m1, m2, m3, m4, m5);
#undef MM
	}
	UNROLL
	for (int i = 0; i < TILE; i++) {
		v8 o0, o1, o2, o3;
		float *p = y + ((int64_t)(top + i) * ow + left) * 8;

		if (i >= rows)
			break;
		OUTPUT_TRANSFORM(o0, o1, o2, o3, t[i][0], t[i][1], t[i][2], t[i][3], t[i][4], t[i][5]);
		store8(p, o0 + bias);
		if (cols > 1)
			store8(p + 8, o1 + bias);
		if (cols > 2)
			store8(p + 16, o2 + bias);
		if (cols > 3)
			store8(p + 24, o3 + bias);
	}
}

/* acc (rows, 8*vecs) = sum over i < n of v[r*rstride + i*istride] * u[i*ustride + 0..8*vecs): six broadcasts and two loads
 * for twelve multiply-adds. It lands at m, rows mstride apart; added there where `add`. */
#define MICRO(rows, vecs) \
INLINE void micro_##rows##_##vecs(float *m, size_t mstride, const float *v, size_t rstride, size_t istride, const float *u, \
    size_t ustride, int n, bool add) \
{ \
	v8 acc[rows][vecs]; \
	UNROLL \
	for (int r = 0; r < rows; r++) \
		for (int j = 0; j < vecs; j++) \
			acc[r][j] = zero8(); \
	for (int i = 0; i < n; i++, u += ustride, v += istride) { \
		v8 u0 = load8(u), u1 = vecs > 1 ? load8(u + 8) : u0; \
		UNROLL \
		for (int r = 0; r < rows; r++) { \
			v8 b = splat8(v[r * rstride]); \
			acc[r][0] += b * u0; \
			if (vecs > 1) \
				acc[r][vecs - 1] += b * u1; \
		} \
	} \
	UNROLL \
	for (int r = 0; r < rows; r++) \
		for (int j = 0; j < vecs; j++) { \
			float *o = m + r * mstride + j * 8; \
			store8(o, add ? load8(o) + acc[r][j] : acc[r][j]); \
		} \
}
MICRO(12, 1) MICRO(6, 2) MICRO(6, 1) MICRO(4, 2) MICRO(4, 1) MICRO(2, 2) MICRO(2, 1) MICRO(1, 2) MICRO(1, 1)

/* All rows of one panel of 8 or 16 columns. */
INLINE void panel(float *m, size_t mstride, const float *v, size_t rstride, size_t istride, const float *u, size_t ustride,
    int rows, int n, bool two, bool add)
{
	int t = 0;

#define STEP(k) do { \
	if (two) \
		micro_##k##_2(m + t * mstride, mstride, v + t * rstride, rstride, istride, u, ustride, n, add); \
	else \
		micro_##k##_1(m + t * mstride, mstride, v + t * rstride, rstride, istride, u, ustride, n, add); \
	t += k; \
} while (0)
	for (; !two && t + 12 <= rows; t += 12) /* a single vector has too few sums to hide additions behind each other */
		micro_12_1(m + t * mstride, mstride, v + t * rstride, rstride, istride, u, ustride, n, add);
	while (t + 6 <= rows)
		STEP(6);
	if (t + 4 <= rows)
		STEP(4);
	if (t + 2 <= rows)
		STEP(2);
	if (t < rows)
		STEP(1);
#undef STEP
}

/* m (tiles, kp) = v (tiles, cp) * u (K/16, c, 16) */
static void product(float *m, const float *v, const float *u, int tiles, int c, int cp, int kp)
{
	for (int k = 0; k < kp; k += PANEL, u += (size_t)c * PANEL)
		panel(m + k, kp, v, cp, 1, u, PANEL, tiles, c, k + PANEL <= kp, false);
}

/* du (c, kp) = or += v (tiles, cp)^T * m (tiles, kp) */
static void outer(float *du, const float *v, const float *m, int tiles, int c, int cp, int kp, bool add)
{
	for (int k = 0; k < kp; k += PANEL)
		panel(du + k, kp, v, 1, cp, m + k, kp, c, tiles, k + PANEL <= kp, add);
}

/* V of the tiles from `first` on, counted through all images. */
static void input_block(float *v, size_t plane, const float *x, int64_t first, int tiles, const struct wino_shape *s)
{
	int cp = pad8(s->c), tw = (s->ow + TILE - 1) / TILE, per = (s->oh + TILE - 1) / TILE * tw;
	int64_t map = (int64_t)s->ih * s->iw * 8;

	for (int t = 0; t < tiles; t++) {
		int64_t image = (first + t) / per;
		int at = (first + t) % per, top = at / tw * TILE - s->pad, left = at % tw * TILE - s->pad;
		for (int b = 0; b < cp / 8; b++)
			input_tile(v + (size_t)t * cp + b * 8, plane, x + (image * (cp / 8) + b) * map, s->ih, s->iw, top, left);
	}
}

void KERNEL(wino_conv)(float *y, const float *x, const float *u, const float *bias, float *scratch, int n,
    const struct wino_shape *s)
{
	int cp = pad8(s->c), kp = pad8(s->k), block = wino_tiles(cp, kp);
	int th = (s->oh + TILE - 1) / TILE, tw = (s->ow + TILE - 1) / TILE, per = th * tw;
	size_t vplane = (size_t)block * cp + SKEW, mplane = (size_t)block * kp + SKEW;
	size_t upoint = (size_t)((s->k + PANEL - 1) / PANEL) * s->c * PANEL;
	int64_t omap = (int64_t)s->oh * s->ow * 8, total = (int64_t)n * per;
	float *v = scratch, *m = scratch + POINTS * vplane;

	for (int64_t first = 0; first < total; first += block) {
		int tiles = total - first < block ? total - first : block;

		input_block(v, vplane, x, first, tiles, s);
		for (int e = 0; e < POINTS; e++)
			product(m + e * mplane, v + e * vplane, u + e * upoint, tiles, s->c, cp, kp);
		for (int t = 0; t < tiles; t++) {
			int64_t image = (first + t) / per;
			int at = (first + t) % per;
			for (int b = 0; b < kp / 8; b++)
				output_tile(y + (image * (kp / 8) + b) * omap, m + (size_t)t * kp + b * 8, mplane,
				    bias ? load8(bias + b * 8) : zero8(), s->oh, s->ow, at / tw * TILE, at % tw * TILE);
		}
	}
}

/* A applied to four vectors: the adjoint of OUTPUT_TRANSFORM. */
#define OUTPUT_ADJOINT(o0, o1, o2, o3, o4, o5, d0, d1, d2, d3) do { \
	v8 a_ = d0 + d2, b_ = d1 + d3, c_ = d0 + 4 * d2, d_ = 2 * d1 + 8 * d3; \
	o0 = d0, o1 = a_ + b_, o2 = a_ - b_, o3 = c_ + d_, o4 = c_ - d_, o5 = d3; \
} while (0)

INLINE void output_tile_back(float *m, size_t plane, const float *dy, int oh, int ow, int top, int left)
{
	v8 t[SPAN][TILE];

	for (int j = 0; j < TILE; j++) {
		v8 d[TILE];
		for (int i = 0; i < TILE; i++)
			d[i] = top + i < oh && left + j < ow ? load8(dy + ((int64_t)(top + i) * ow + left + j) * 8) : zero8();
		OUTPUT_ADJOINT(t[0][j], t[1][j], t[2][j], t[3][j], t[4][j], t[5][j], d[0], d[1], d[2], d[3]);
	}
	UNROLL
	for (int i = 0; i < SPAN; i++) {
		v8 o[SPAN];
		OUTPUT_ADJOINT(o[0], o[1], o[2], o[3], o[4], o[5], t[i][0], t[i][1], t[i][2], t[i][3]);
		for (int j = 0; j < SPAN; j++)
			store8(m + (i * SPAN + j) * plane, o[j]);
	}
}

/* G^T applied to six vectors. */
#define FILTER_ADJOINT(o0, o1, o2, u0, u1, u2, u3, u4, u5) do { \
	v8 a_ = (u1 + u2) * (1.0f / 6), b_ = (u2 - u1) * (1.0f / 6), c_ = u3 + u4, d_ = (u3 - u4) * (1.0f / 12); \
	o0 = u0 * 0.25f - a_ + c_ * (1.0f / 24), o1 = b_ + d_, o2 = c_ * (1.0f / 6) - a_ + u5; \
} while (0)

/* dw (k,c,3,3) += G^T du G for the eight outputs from k on of input channel i; du's points lie `plane` apart. */
static void filter_back(float *dw, const float *du, size_t plane, int i, int k, const struct wino_shape *s)
{
	v8 t[3][SPAN], o[3][3];

	for (int j = 0; j < SPAN; j++) {
#define U(a) load8(du + ((a) * SPAN + j) * plane)
		v8 u0 = U(0), u1 = U(1), u2 = U(2), u3 = U(3), u4 = U(4), u5 = U(5);
		FILTER_ADJOINT(t[0][j], t[1][j], t[2][j], u0, u1, u2, u3, u4, u5);
#undef U
	}
	for (int a = 0; a < 3; a++)
		FILTER_ADJOINT(o[a][0], o[a][1], o[a][2], t[a][0], t[a][1], t[a][2], t[a][3], t[a][4], t[a][5]);
	for (int l = 0; l < 8 && k + l < s->k; l++)
		for (int a = 0; a < 9; a++)
			dw[((size_t)(k + l) * s->c + i) * 9 + a] += o[a / 3][a % 3][l];
}

void KERNEL(wino_wgrad)(float *dw, const float *x, const float *dy, float *scratch, int n, const struct wino_shape *s)
{
	int cp = pad8(s->c), kp = pad8(s->k), block = wino_tiles(cp, kp);
	int tw = (s->ow + TILE - 1) / TILE, per = (s->oh + TILE - 1) / TILE * tw;
	size_t vplane = (size_t)block * cp + SKEW, mplane = (size_t)block * kp + SKEW, uplane = (size_t)s->c * kp + SKEW;
	int64_t map = (int64_t)s->oh * s->ow * 8, total = (int64_t)n * per;
	float *v = scratch, *m = v + POINTS * vplane, *du = m + POINTS * mplane;

	for (int64_t first = 0; first < total; first += block) {
		int tiles = total - first < block ? total - first : block;

		input_block(v, vplane, x, first, tiles, s);
		for (int t = 0; t < tiles; t++) {
			int64_t image = (first + t) / per;
			int at = (first + t) % per;
			for (int b = 0; b < kp / 8; b++)
				output_tile_back(m + (size_t)t * kp + b * 8, mplane, dy + (image * (kp / 8) + b) * map, s->oh, s->ow,
				    at / tw * TILE, at % tw * TILE);
		}
		for (int e = 0; e < POINTS; e++)
			outer(du + e * uplane, v + e * vplane, m + e * mplane, tiles, s->c, cp, kp, first > 0);
	}
	for (int k = 0; k < kp; k += 8)
		for (int i = 0; i < s->c; i++)
			filter_back(dw, du + (size_t)i * kp + k, uplane, i, k, s);
}
