/* 3x3 convolution of stride 1 by Winograd F(4x4,3x3): a quarter of the multiplications.
 *
 * Y = A^T [ (G g G^T) . (B^T d B) ] A for each 4x4 tile of the output, d the 6x6 inputs under it (Lavin & Gray 2016;
 * the points are wino.h's). The 36 products over channels are 36 matrix products:
 *
 *     V (36, tiles, C)  input transform      U (36, K/16, C, 16)  filters      M (36, tiles, K) = V * U
 *
 * done for a block of tiles at a time, of whatever images they belong to: small maps of many images make one long
 * product. In each, a panel U (C,16) stays in L1 while it meets up to 6 tiles at a time: 12 vectors of sums, two loads of
 * U and six broadcasts of V for 12 multiply-adds. V's and M's 36 planes are set apart by 16 floats more than they need,
 * lest they all fall into one cache set.
 */
#include "wino.h"
#include "isa.h"

/* G applied to three vectors. */
#define FILTER_TRANSFORM(o0, o1, o2, o3, o4, o5, g0, g1, g2) do { \
	v8 a_ = (g0 + A * A * g2) * (1 / NA), b_ = g1 * (A / NA), c_ = (g0 + B * B * g2) * (1 / NB), d_ = g1 * (B / NB); \
	o0 = g0 * (1 / N0), o1 = a_ + b_, o2 = a_ - b_, o3 = c_ + d_, o4 = c_ - d_, o5 = g2; \
} while (0)

/* Eight filters of one input channel, a lane each: 36 vectors, `point` floats apart. */
INLINE void filter_tile(float *u, size_t point, v8 g[9])
{
	v8 t[SPAN][3];

	for (int j = 0; j < 3; j++)
		FILTER_TRANSFORM(t[0][j], t[1][j], t[2][j], t[3][j], t[4][j], t[5][j], g[j], g[3 + j], g[6 + j]);
	for (int a = 0; a < SPAN; a++) {
		v8 o[SPAN];
		FILTER_TRANSFORM(o[0], o[1], o[2], o[3], o[4], o[5], t[a][0], t[a][1], t[a][2]);
		for (int b = 0; b < SPAN; b++)
			store8(u + (a * SPAN + b) * point, o[b]);
	}
}

void KERNEL(wino_filter)(float *u, const float *w, int c, int k, bool flip)
{
	int panels = (k + PANEL - 1) / PANEL;
	size_t point = (size_t)panels * c * PANEL;

	for (int o = 0; o < panels * PANEL; o += 8)
		for (int i = 0; i < c; i++) {
			v8 g[9];

			eight_filters(g, w, o, i, c, k, flip);
			filter_tile(u + ((size_t)(o / PANEL) * c + i) * PANEL + o % PANEL, point, g);
		}
}

INLINE void output_tile(float *y, const float *m, size_t plane, v8 bias, int oh, int ow, int top, int left)
{
	v8 t[TILE][SPAN];
	int rows = oh - top < TILE ? oh - top : TILE, cols = ow - left < TILE ? ow - left : TILE;

	if (left + TILE < ow)
		prefetch_rows(y, oh, ow, top, TILE, left + TILE, TILE, 1);
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

/* m (tiles, kp) = v (tiles, cp) * u (K/16, c, 16) */
static void product(float *m, const float *v, const float *u, int tiles, int c, int cp, int kp)
{
	int k = 0;

#ifdef __AVX512F__
	for (; k + 2 * PANEL <= kp; k += 2 * PANEL, u += (size_t)2 * c * PANEL)
		panels(m + k, kp, v, cp, u, (size_t)c * PANEL, tiles, c);
#endif
	for (; k < kp; k += PANEL, u += (size_t)c * PANEL)
		panel(m + k, kp, v, cp, 1, u, PANEL, tiles, c, k + PANEL <= kp);
}

void KERNEL(wino_conv)(float *y, const float *x, const float *u, const float *bias, float *scratch, int n,
    const struct wino_shape *s)
{
	int cp = pad8(s->c), kp = pad8(s->k), block = wino_tiles(cp, kp);
	int th = (s->oh + TILE - 1) / TILE, tw = (s->ow + TILE - 1) / TILE, per = th * tw;
	size_t upoint = (size_t)((s->k + PANEL - 1) / PANEL) * s->c * PANEL;
	int64_t omap = (int64_t)s->oh * s->ow * 8, total = (int64_t)n * per, blocks = wino_blocks(total, block);
	size_t most = (total + blocks - 1) / blocks, vplane = most * cp + SKEW, mplane = most * kp + SKEW;
	float *v = scratch, *m = scratch + POINTS * vplane;

	for (int64_t first = 0, tiles; blocks > 0; blocks--, first += tiles) {
		tiles = (total - first + blocks - 1) / blocks;

		input_block(v, vplane, cp, x, first, tiles, s);
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
