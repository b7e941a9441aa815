/* Eight floats as GCC's vector extension has them: the same source makes SSE2, AVX2 or AVX-512VL code by flags alone. */
#ifndef VEC_H
#define VEC_H

#include <stdint.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

typedef float v8 __attribute__((vector_size(32)));
typedef int32_t v8i __attribute__((vector_size(32)));

#define INLINE static inline __attribute__((always_inline))

INLINE v8 load8(const float *p) { v8 v; memcpy(&v, p, sizeof v); return v; }
INLINE void store8(float *p, v8 v) { memcpy(p, &v, sizeof v); }
INLINE v8 splat8(float x) { return (v8){ x, x, x, x, x, x, x, x }; }
INLINE v8 zero8(void) { return (v8){ 0 }; }

/* One bit a lane where v > 0, and back to a vector that is v there and 0 elsewhere. */
INLINE uint8_t positive8(v8 v)
{
#ifdef __AVX2__
	return _mm256_movemask_ps(_mm256_cmp_ps((__m256)v, _mm256_setzero_ps(), _CMP_GT_OQ));
#else
	uint8_t m = 0;
	for (int i = 0; i < 8; i++)
		m |= (v[i] > 0) << i;
	return m;
#endif
}

INLINE v8 keep8(v8 v, uint8_t mask)
{
	const v8i bit = { 1, 2, 4, 8, 16, 32, 64, 128 };
	v8i m = { mask, mask, mask, mask, mask, mask, mask, mask };

	return (v8)((v8i)v & ((m & bit) != 0));
}

/* max(v, 0); NaN stays NaN so that a diverged run is seen. */
INLINE v8 relu8(v8 v)
{
	return (v8)((v8i)v & ~(v8i)(v <= 0));
}

INLINE float sum8(v8 v)
{
	return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

#ifdef __AVX512F__
/* Sixteen: two blocks of eight channels. */
typedef float v16 __attribute__((vector_size(64)));

INLINE v16 load16(const float *p) { v16 v; memcpy(&v, p, sizeof v); return v; }
INLINE v16 both(v8 lo, v8 hi) { return (v16)_mm512_insertf32x8(_mm512_castps256_ps512((__m256)lo), (__m256)hi, 1); }
INLINE v8 low8(v16 v) { return (v8)_mm512_castps512_ps256((__m512)v); }
INLINE v8 high8(v16 v) { return (v8)_mm512_extractf32x8_ps((__m512)v, 1); }

/* Kept in a register, where a compiler would rather read it from memory in each of its uses. */
INLINE v16 splat16(float x)
{
	__m512 v = _mm512_set1_ps(x);

	__asm__("" : "+v"(v));
	return (v16)v;
}
#endif

/* The sum of vector i of several arrays: gradients that meet. */
INLINE v8 total8(const float *const *dy, int ndy, int64_t i)
{
	v8 v = load8(dy[0] + i * 8);

	for (int j = 1; j < ndy; j++)
		v += load8(dy[j] + i * 8);
	return v;
}

/* Asks for `cols` (even) columns from `left` on of some rows of a map (h,w,8): those that the next tile will touch. The
 * processor's own prefetching does not follow short pieces of many rows. */
INLINE void prefetch_rows(const float *x, int h, int w, int top, int rows, int left, int cols, int write)
{
	for (int i = top < 0 ? 0 : top; i < top + rows && i < h; i++) {
		const float *p = x + ((int64_t)i * w + left) * 8;
		for (int j = 0; j < cols; j += 2)
			if (write)
				__builtin_prefetch(p + j * 8, 1);
			else
				__builtin_prefetch(p + j * 8);
	}
}

/* Names of this file's functions for the instruction set that it is compiled for. */
#define PASTE_(a, b) a##_##b
#define PASTE(a, b) PASTE_(a, b)
#define KERNEL(name) PASTE(name, ISA)

#endif
