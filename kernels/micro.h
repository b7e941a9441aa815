/* Products of small matrices with everything in registers: what Winograd's and direct convolutions come down to. */
#ifndef MICRO_H
#define MICRO_H

#include <stdbool.h>
#include <stddef.h>

#include "vec.h"

#define UNROLL _Pragma("GCC unroll 12")

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
MICRO(12, 1) MICRO(6, 2) MICRO(6, 1) MICRO(5, 2) MICRO(5, 1) MICRO(4, 2) MICRO(4, 1) MICRO(3, 2) MICRO(3, 1)
MICRO(2, 2) MICRO(2, 1) MICRO(1, 2) MICRO(1, 1)

/* All rows of one panel of 8 or 16 columns. The last ones share evenly, 7 as 4 and 3: the sums of one row alone would wait for
 * each other. */
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
	while (rows - t >= 12 || rows - t == 6)
		STEP(6);
	while (t < rows)
		switch (rows - t > 6 ? (rows - t + 1) / 2 : rows - t) {
		case 6: STEP(6); break;
		case 5: STEP(5); break;
		case 4: STEP(4); break;
		case 3: STEP(3); break;
		case 2: STEP(2); break;
		case 1: STEP(1); break;
		}
#undef STEP
}


#endif
