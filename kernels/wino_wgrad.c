/* Weight gradient of the 3x3 convolution that winograd.c computes, by the same products' adjoints:
 *
 *     dw = G^T [ sum over tiles (B^T d B) . (A dy A^T) ] G
 *
 * V (36, C/24, tiles, 24) and M (36, K/16, tiles, 16) are the two transforms of a block of tiles, in parts that are
 * multiplied as they lie. A pair of parts goes through all 36 products dU = V^T M while they stay in L2, and straight
 * back through G into dw: dU as a whole would be four times as large as the weights.
 */
#include "wino.h"
#include "isa.h"

/* A applied to four vectors: the adjoint of OUTPUT_TRANSFORM. */
#define OUTPUT_ADJOINT(o0, o1, o2, o3, o4, o5, d0, d1, d2, d3) do { \
	v8 a_ = d0 + A * A * d2, b_ = A * d1 + A * A * A * d3, c_ = d0 + B * B * d2, d_ = B * d1 + B * B * B * d3; \
	o0 = d0, o1 = a_ + b_, o2 = a_ - b_, o3 = c_ + d_, o4 = c_ - d_, o5 = d3; \
} while (0)

INLINE void output_tile_back(float *m, size_t plane, const float *dy, int oh, int ow, int top, int left)
{
	v8 t[SPAN][TILE];

	if (left + TILE < ow)
		prefetch_rows(dy, oh, ow, top, TILE, left + TILE, TILE, 0);
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
	v8 a_ = (u1 + u2) * (1 / NA), b_ = (u1 - u2) * (A / NA), c_ = (u3 + u4) * (1 / NB), d_ = (u3 - u4) * (B / NB); \
	o0 = u0 * (1 / N0) + a_ + c_, o1 = b_ + d_, o2 = A * A * a_ + B * B * c_ + u5; \
} while (0)

/* dw (9,8) += G^T du G for the eight outputs of one input channel. */
INLINE void filter_back(float *dw, const float *du, size_t plane)
{
	v8 t[3][SPAN], o[3];

	UNROLL
	for (int j = 0; j < SPAN; j++) {
#define U(a) load8(du + ((a) * SPAN + j) * plane)
		v8 u0 = U(0), u1 = U(1), u2 = U(2), u3 = U(3), u4 = U(4), u5 = U(5);
		FILTER_ADJOINT(t[0][j], t[1][j], t[2][j], u0, u1, u2, u3, u4, u5);
#undef U
	}
	UNROLL
	for (int a = 0; a < 3; a++) {
		FILTER_ADJOINT(o[0], o[1], o[2], t[a][0], t[a][1], t[a][2], t[a][3], t[a][4], t[a][5]);
		for (int b = 0; b < 3; b++)
			store8(dw + (a * 3 + b) * 8, load8(dw + (a * 3 + b) * 8) + o[b]);
	}
}

void KERNEL(wino_wgrad)(float *dw, const float *x, const float *dy, float *scratch, int n, const struct wino_shape *s)
{
	int kb = pad8(s->k) / 8, parts = (s->c + WGRAD_PART - 1) / WGRAD_PART, panels = (kb + 1) / 2;
	int tw = (s->ow + TILE - 1) / TILE, per = (s->oh + TILE - 1) / TILE * tw;
	int64_t map = (int64_t)s->oh * s->ow * 8, total = (int64_t)n * per;
	int64_t blocks = wino_blocks(total, wino_wgrad_tiles(pad8(s->c), kb * 8));
	size_t most = (total + blocks - 1) / blocks;
	size_t vplane = most * parts * WGRAD_PART + SKEW, mplane = most * panels * PANEL + SKEW;
	float *v = scratch, *m = v + POINTS * vplane, *du = m + POINTS * mplane;

	for (int64_t first = 0, tiles; blocks > 0; blocks--, first += tiles) {
		tiles = (total - first + blocks - 1) / blocks;
		input_block(v, vplane, WGRAD_PART, x, first, tiles, s);
		for (int t = 0; t < tiles; t++) {
			int64_t image = (first + t) / per;
			int at = (first + t) % per;
			for (int b = 0; b < kb; b++)
				output_tile_back(m + ((size_t)(b / 2) * tiles + t) * PANEL + b % 2 * 8, mplane, dy + (image * kb + b) * map,
				    s->oh, s->ow, at / tw * TILE, at % tw * TILE);
		}
		for (int part = 0; part < parts; part++)
			for (int k = 0; k < panels; k++) {
				int c0 = part * WGRAD_PART, c = s->c - c0 < WGRAD_PART ? s->c - c0 : WGRAD_PART;
				bool two = 2 * k + 1 < kb;
				for (int e = 0; e < POINTS; e++)
					panel(du + e * DU_PLANE, PANEL, v + e * vplane + (size_t)part * tiles * WGRAD_PART, 1,
					    WGRAD_PART, m + e * mplane + (size_t)k * tiles * PANEL, PANEL, c, tiles, two);
				for (int h = 0; h < 1 + two; h++)
					for (int i = 0; i < c; i++)
						filter_back(dw + ((size_t)(2 * k + h) * s->c + c0 + i) * 72, du + i * PANEL + h * 8, DU_PLANE);
			}
	}
}
