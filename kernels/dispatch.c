/* Which table runs here. Decided by the processor that runs, never by the one that compiled. */
#include <string.h>

#include "kernels.h"
#include "wino.h"

size_t wino_filter_floats(int c, int k)
{
	return (size_t)POINTS * ((k + PANEL - 1) / PANEL) * c * PANEL;
}

size_t wino_scratch_floats(int c, int k)
{
	size_t t = wino_tiles(pad8(c), pad8(k));

	return POINTS * (t * pad8(c) + SKEW + t * pad8(k) + SKEW);
}

size_t wino_wgrad_scratch_floats(int c, int k)
{
	return wino_scratch_floats(c, k) + POINTS * ((size_t)c * pad8(k) + SKEW);
}

const struct kernels *kernels_named(const char *name)
{
#if defined __x86_64__
	if (!strcmp(name, "avx512"))
		return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") ? &kernels_avx512 : NULL;
	if (!strcmp(name, "avx2"))
		return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &kernels_avx2 : NULL;
#endif
	return strcmp(name, "plain") ? NULL : &kernels_plain;
}

const struct kernels *kernels_best(void)
{
	const struct kernels *k = kernels_named("avx512");

	if (!k)
		k = kernels_named("avx2");
	return k ? k : &kernels_plain;
}
