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

#define UNROLL _Pragma("GCC unroll 8")

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

/* m (rows, kp), from v (rows, cp) and a panel u (c,16): `vecs` vectors of eight outputs. */
#define MICRO(rows, vecs) \
INLINE void \
micro_##rows##_##vecs(float *m, int kp, const float *v, int cp, const float *u, int c) \
{ \
	v8 acc[rows][vecs]; \
	UNROLL \
	for (int r = 0; r < rows; r++) \
		for (int j = 0; j < vecs; j++) \
			acc[r][j] = zero8(); \
	for (int i = 0; i < c; i++, u += PANEL) { \
		v8 u0 = load8(u), u1 = vecs > 1 ? load8(u + 8) : u0; \
		UNROLL \
		for (int r = 0; r < rows; r++) { \
			v8 b = splat8(v[r * cp + i]); \
			acc[r][0] += b * u0; \
			if (vecs > 1) \
				acc[r][vecs - 1] += b * u1; \
		} \
	} \
	UNROLL \
	for (int r = 0; r < rows; r++) \
		for (int j = 0; j < vecs; j++) \
			store8(m + r * kp + j * 8, acc[r][j]); \
}
MICRO(6, 2) MICRO(6, 1) MICRO(4, 2) MICRO(4, 1) MICRO(2, 2) MICRO(2, 1) MICRO(1, 2) MICRO(1, 1)

static void product(float *m, const float *v, const float *u, int tiles, int c, int cp, int kp)
{
	for (int k = 0; k < kp; k += PANEL, u += (size_t)c * PANEL) {
		bool two = k + PANEL <= kp;
		int t = 0;

#define STEP(rows) do { \
		if (two) \
			micro_##rows##_2(m + (size_t)t * kp + k, kp, v + (size_t)t * cp, cp, u, c); \
		else \
			micro_##rows##_1(m + (size_t)t * kp + k, kp, v + (size_t)t * cp, cp, u, c); \
		t += rows; \
} while (0)
		while (t + 6 <= tiles)
			STEP(6);
		if (t + 4 <= tiles)
			STEP(4);
		if (t + 2 <= tiles)
			STEP(2);
		if (t < tiles)
			STEP(1);
#undef STEP
	}
}

void KERNEL(wino_conv)(float *y, const float *x, const float *u, const float *bias, float *scratch, int n,
    const struct wino_shape *s)
{
	int cp = pad8(s->c), kp = pad8(s->k), block = wino_tiles(cp, kp);
	int th = (s->oh + TILE - 1) / TILE, tw = (s->ow + TILE - 1) / TILE, per = th * tw;
	size_t vplane = (size_t)block * cp + SKEW, mplane = (size_t)block * kp + SKEW;
	size_t upoint = (size_t)((s->k + PANEL - 1) / PANEL) * s->c * PANEL;
	int64_t imap = (int64_t)s->ih * s->iw * 8, omap = (int64_t)s->oh * s->ow * 8, total = (int64_t)n * per;
	float *v = scratch, *m = scratch + POINTS * vplane;

	for (int64_t first = 0; first < total; first += block) {
		int tiles = total - first < block ? total - first : block;

		for (int t = 0; t < tiles; t++) {
			int64_t image = (first + t) / per;
			int at = (first + t) % per, top = at / tw * TILE - s->pad, left = at % tw * TILE - s->pad;
			for (int b = 0; b < cp / 8; b++)
				input_tile(v + (size_t)t * cp + b * 8, vplane, x + (image * (cp / 8) + b) * imap, s->ih, s->iw, top, left);
		}
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
