/* Sizes that kernels work with and their callers allocate by. */
#ifndef SIZES_H
#define SIZES_H

#include <stdbool.h>
#include <stdint.h>

enum { PAIR = 2 }; /* bfloat16 values that an instruction takes side by side */
enum { TILE = 4, SPAN = 6, POINTS = 36, ROWS = 6, PANEL = 16, SKEW = 16 };
/* Weight gradients take inputs by parts of 24, four times six rows, and 16 outputs; dU of such a pair, a point. */
enum { WGRAD_PART = 24, DU_PLANE = WGRAD_PART * PANEL + SKEW };

static inline int pad8(int c)
{
	return (c + 7) / 8 * 8;
}

/* Tiles in one block: as many as keep V and M near 4 MB each, whole sixes. */
static inline int wino_tiles(int cp, int kp)
{
	int t = (1 << 20) / (POINTS * (cp > kp ? cp : kp));

	t = t > 96 ? 96 : t < ROWS ? ROWS : t;
	return t / ROWS * ROWS;
}

/* Into how many blocks of even length tiles are dealt, and how long the longest is: each block reads all filters, so that
 * a few tiles more are better than a block more. */
static inline int64_t wino_blocks(int64_t tiles, int block)
{
	int64_t n = (tiles + block / 2) / block;

	return n < 1 ? 1 : n;
}

static inline int wino_most(int block)
{
	return block + block / 2 + 1;
}

/* The same for the weight gradient, which goes through V once for every 16 outputs: less, so that it stays in L2. */
static inline int wino_wgrad_tiles(int cp, int kp)
{
	int t = wino_tiles(cp, kp);

	return t > 48 ? 48 : t;
}

/* polyphase.c: products of a tile along one axis; tiles in one block. */
enum { POLY = 9 };
int poly_corner(int pad); /* first pixel of the input gradient's tiles, in the map or before it */

static inline int poly_tiles(int c, int o)
{
	int t = (1 << 20) / (POLY * POLY * pad8(c > o ? c : o));

	return t > 48 ? 48 : t < 1 ? 1 : t;
}

/* image_grad.c: pixels of c channels that are made together, at most IMAGE_STRIP; rows from one band; a band's columns. */
enum { IMAGE_STRIP = 8, IMAGE_BAND = 4 };

static inline int image_strip(int c, bool wide)
{
	return c == 1 ? IMAGE_STRIP : c < 4 ? (wide ? IMAGE_STRIP : 4) : wide ? 4 : 2;
}

/* The columns lie such that the last tap of pixel 0 reads column image_band_shift(). */
static inline int image_band_shift(int k, int pad)
{
	return pad >= k ? pad - k + 1 : 0;
}

static inline int image_band_width(int iw, int k, int pad)
{
	int strips = (iw + IMAGE_STRIP - 1) / IMAGE_STRIP * IMAGE_STRIP + k - 1 + image_band_shift(k, pad);
	int map = iw + 2 * pad - k + 1 + (pad < k ? k - 1 - pad : 0);

	return strips > map ? strips : map;
}

#endif
