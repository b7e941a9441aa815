/* What Winograd's convolutions of both strides share: eight filters as vectors, and products of small matrices with
 * everything in registers. */
#ifndef MICRO_H
#define MICRO_H

#include <stdbool.h>
#include <stddef.h>

#include "vec.h"

#define UNROLL _Pragma("GCC unroll 12")

/* Filters 3x3 of outputs o..o+7 (those there are) and input i, a lane each, from w (k,c,9); flip: from w (c,k,9), turned by
 * 180 degrees, for input gradients. */
INLINE void eight_filters(v8 g[9], const float *w, int o, int i, int c, int k, bool flip)
{
	float rows[9][8] = { 0 };

	for (int l = 0; l < 8 && o + l < k; l++) {
		const float *from = flip ? w + ((size_t)i * k + o + l) * 9 : w + ((size_t)(o + l) * c + i) * 9;
		for (int t = 0; t < 9; t++)
			rows[t][l] = from[flip ? 8 - t : t];
	}
	for (int t = 0; t < 9; t++)
		g[t] = load8(rows[t]);
}

/* m (rows, 8*vecs; rows mstride apart) = sum over i < n of v[r*rstride + i*istride] * u[i*ustride + 0..8*vecs): for 6x16
 * six broadcasts and two loads for twelve multiply-adds. */
#define MICRO_HEAD(name) INLINE void name(float *m, size_t mstride, const float *v, size_t rstride, size_t istride, \
    const float *u, size_t ustride, int n)
#define MICRO(rows, vecs) \
MICRO_HEAD(micro_##rows##_##vecs) \
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
		for (int j = 0; j < vecs; j++) \
			store8(m + r * mstride + j * 8, acc[r][j]); \
}
MICRO(12, 1) MICRO(6, 1) MICRO(5, 1) MICRO(4, 1) MICRO(3, 1) MICRO(2, 1) MICRO(1, 1)

#ifdef __AVX512F__
/* Sixteen columns in one register, each element's sum in the same order; the broadcasts are part of the multiply-adds. */
#define MICRO16(rows) \
MICRO_HEAD(micro_##rows##_2) \
{ \
	v16 acc[rows] = { { 0 } }; \
	for (int i = 0; i < n; i++, u += ustride, v += istride) { \
		v16 u0 = load16(u); \
		UNROLL \
		for (int r = 0; r < rows; r++) \
			acc[r] += v[r * rstride] * u0; \
	} \
	UNROLL \
	for (int r = 0; r < rows; r++) \
		memcpy(m + r * mstride, &acc[r], sizeof acc[r]); \
}
MICRO16(12) MICRO16(6) MICRO16(5) MICRO16(4) MICRO16(3) MICRO16(2) MICRO16(1)

/* The same of two panels, the second at u + other and m + 16: a broadcast serves both, and what the rows are read from is
 * read half as often. */
#define MICRO32(rows) \
INLINE void micro_##rows##_4(float *m, size_t mstride, const float *v, size_t rstride, const float *u, size_t other, int n) \
{ \
	v16 acc[rows][2] = { { { 0 } } }; \
	for (int i = 0; i < n; i++, u += 16, v++) { \
		v16 u0 = load16(u), u1 = load16(u + other); \
		UNROLL \
		for (int r = 0; r < rows; r++) { \
			v16 b = splat16(v[r * rstride]); \
			acc[r][0] += b * u0; \
			acc[r][1] += b * u1; \
		} \
	} \
	UNROLL \
	for (int r = 0; r < rows; r++) \
		memcpy(m + r * mstride, acc[r], sizeof acc[r]); \
}
MICRO32(12) MICRO32(6) MICRO32(5) MICRO32(4) MICRO32(3) MICRO32(2) MICRO32(1)
#else
MICRO(6, 2) MICRO(5, 2) MICRO(4, 2) MICRO(3, 2) MICRO(2, 2) MICRO(1, 2)
#define micro_12_2(m, mstride, v, rstride, ...) do { /* twelve rows of two are more sums than registers */ \
	micro_6_2(m, mstride, v, rstride, __VA_ARGS__); \
	micro_6_2(m + 6 * mstride, mstride, v + 6 * rstride, rstride, __VA_ARGS__); \
} while (0)
#endif

/* STEP(k) for all rows, twelve at a time. The last ones share evenly, 7 as 4 and 3: the sums of one row alone would wait for
 * each other. */
#define SHARE(t, rows, STEP) do { \
	while (rows - t >= 12) \
		STEP(12); \
	while (t < rows) \
		switch (rows - t > 6 ? (rows - t + 1) / 2 : rows - t) { \
		case 6: STEP(6); break; \
		case 5: STEP(5); break; \
		case 4: STEP(4); break; \
		case 3: STEP(3); break; \
		case 2: STEP(2); break; \
		case 1: STEP(1); break; \
		} \
} while (0)

/* All rows of one panel of 8 or 16 columns; the sums of a single column of vectors would wait if fewer than twelve. */
INLINE void panel(float *m, size_t mstride, const float *v, size_t rstride, size_t istride, const float *u, size_t ustride,
    int rows, int n, bool two)
{
	int t = 0;

#define STEP(k) do { \
	if (two) \
		micro_##k##_2(m + t * mstride, mstride, v + t * rstride, rstride, istride, u, ustride, n); \
	else \
		micro_##k##_1(m + t * mstride, mstride, v + t * rstride, rstride, istride, u, ustride, n); \
	t += k; \
} while (0)
	SHARE(t, rows, STEP);
#undef STEP
}

#ifdef __AVX512F__
/* The same of two panels of 16 columns whose rows follow each other in v and u, the second `other` floats behind in u. */
INLINE void panels(float *m, size_t mstride, const float *v, size_t rstride, const float *u, size_t other, int rows, int n)
{
	int t = 0;

#define STEP(k) do { \
	micro_##k##_4(m + t * mstride, mstride, v + t * rstride, rstride, u, other, n); \
	t += k; \
} while (0)
	SHARE(t, rows, STEP);
#undef STEP
}
#endif

#endif
