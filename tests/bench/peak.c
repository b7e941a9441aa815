#include "peak.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "../../lib/plan.h"

enum { CHAINS = 12 };

/* Chains of multiply-adds on vectors of W floats, enough of them to hide the latency of one. */
#define FMA_LOOP(name, W, target) \
	target static float name(int64_t rounds) \
	{ \
		typedef float vec __attribute__((vector_size(4 * W))); \
		vec a[CHAINS], x = (vec){ 0 } + 0.999999f, y = x * 1e-6f; \
		float sum = 0; \
		\
		for (int i = 0; i < CHAINS; i++) \
			a[i] = x * (float)i; \
		for (int64_t r = 0; r < rounds; r++) { \
			_Pragma("GCC unroll 12") \
			for (int i = 0; i < CHAINS; i++) \
				a[i] = a[i] * x + y; \
		} \
		for (int i = 0; i < CHAINS; i++) \
			sum += a[i][0]; \
		return sum; \
	}

FMA_LOOP(fma_plain, 4, )
#if defined __x86_64__
FMA_LOOP(fma_avx2, 8, __attribute__((target("avx2,fma"))))
FMA_LOOP(fma_avx512, 16, __attribute__((target("avx512f"))))
#endif

static double fma_rate(float (*loop)(int64_t), int width, int repeats)
{
	enum { ROUNDS = 20000000 };
	double best = INFINITY;
	volatile float sink;

	for (int i = 0; i < repeats; i++) {
		double start = now(), sum = 0;

		#pragma omp parallel num_threads(get_threads()) reduction(+ : sum)
		sum += loop(ROUNDS);
		best = fmin(best, now() - start);
		sink = sum;
	}
	(void)sink;
	return 2e-9 * CHAINS * width * ROUNDS * get_threads() / best;
}

double peak_fma(int repeats)
{
	double rate = fma_rate(fma_plain, 4, repeats);

#if defined __x86_64__
	__builtin_cpu_init();
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
		rate = fmax(rate, fma_rate(fma_avx2, 8, repeats));
	if (__builtin_cpu_supports("avx512f"))
		rate = fmax(rate, fma_rate(fma_avx512, 16, repeats));
#endif
	return rate;
}

double peak_triad(int repeats)
{
	enum { FLOATS = 1 << 24 };
	float *a = ealigned(FLOATS, 4), *b = ealigned(FLOATS, 4), *c = ealigned(FLOATS, 4);
	double best = INFINITY;
	volatile float sink;

	for (int i = 0; i < repeats + 1; i++) { /* the first touches the pages */
		double start = now();

		#pragma omp parallel for num_threads(get_threads())
		for (int j = 0; j < FLOATS; j++)
			a[j] = b[j] + 3 * c[j];
		best = fmin(best, now() - start);
		sink = a[i];
	}
	(void)sink;
	free(a), free(b), free(c);
	return 12e-9 * FLOATS / best;
}
