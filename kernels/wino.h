/* Winograd's F(4x4,3x3) at the points 0, +-A, +-B, infinity, along one axis: what its files share. V = B^T d B of a tile.
 *
 * Any five points will do; these are short binary fractions, so that no coefficient but the filters' is rounded, and
 * enlarge what rounding does elsewhere half as much as 0, +-1, +-2 (which need three operations less).
 */
#ifndef WINO_H
#define WINO_H

#include "kernels.h"
#include "micro.h"
#include "sizes.h"

#define A (5.0f / 8)
#define B (3.0f / 2)
/* What the filters' side is divided by: the products of a point's distances to the others. */
#define N0 (A * A * B * B)
#define NA (2 * A * A * (A * A - B * B))
#define NB (2 * B * B * (B * B - A * A))

/* B^T applied to six vectors. */
#define INPUT_TRANSFORM(o0, o1, o2, o3, o4, o5, d0, d1, d2, d3, d4, d5) do { \
	v8 p_ = d4 - B * B * d2, q_ = A * (d3 - B * B * d1), r_ = d4 - A * A * d2, s_ = B * (d3 - A * A * d1); \
	v8 e0_ = A * A * B * B * d0 - (A * A + B * B) * d2 + d4, e5_ = A * A * B * B * d1 - (A * A + B * B) * d3 + d5; \
	o0 = e0_, o1 = p_ + q_, o2 = p_ - q_, o3 = r_ + s_, o4 = r_ - s_, o5 = e5_; \
} while (0)

/* A^T applied to six vectors. */
#define OUTPUT_TRANSFORM(o0, o1, o2, o3, m0, m1, m2, m3, m4, m5) do { \
	v8 a_ = m1 + m2, b_ = m1 - m2, c_ = m3 + m4, d_ = m3 - m4; \
	o0 = m0 + a_ + c_, o1 = A * b_ + B * d_, o2 = A * A * a_ + B * B * c_, o3 = A * A * A * b_ + B * B * B * d_ + m5; \
} while (0)

/* One tile of eight channels: 36 vectors, `plane` floats apart. x is the channel block's map (ih,iw,8). */
INLINE void input_tile(float *v, size_t plane, const float *x, int ih, int iw, int top, int left)
{
	v8 t[SPAN][SPAN];

	if (left + SPAN < iw)
		prefetch_rows(x, ih, iw, top, SPAN, left + SPAN, TILE, 0);
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

/* V of the tiles from `first` on, counted through all images: (36, C/width, tiles, width), planes `plane` floats apart.
 * width: all channels where V's rows are what is multiplied, a part of them where its columns are. */
INLINE void input_block(float *v, size_t plane, int width, const float *x, int64_t first, int tiles,
    const struct wino_shape *s)
{
	int cb = pad8(s->c) / 8, tw = (s->ow + TILE - 1) / TILE, per = (s->oh + TILE - 1) / TILE * tw, each = width / 8;
	int64_t map = (int64_t)s->ih * s->iw * 8;

	for (int t = 0; t < tiles; t++) {
		int64_t image = (first + t) / per;
		int at = (first + t) % per, top = at / tw * TILE - s->pad, left = at % tw * TILE - s->pad;
		for (int b = 0; b < cb; b++)
			input_tile(v + ((size_t)(b / each) * tiles + t) * width + b % each * 8, plane, x + (image * cb + b) * map, s->ih,
			    s->iw, top, left);
	}
}

#endif
