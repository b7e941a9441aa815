/* CUDA's C++ for a host compiler: a kernel is a function, its threads are fibres (../threads.c). */
#ifndef EMU_CUDA_RUNTIME_H
#define EMU_CUDA_RUNTIME_H

#include <cuda_runtime_api.h>
#ifdef __cplusplus

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <tuple>
#include <type_traits>

#include "../emu.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__
/* One block runs at a time. shared.ld gathers these, so that they can be filled with NaN before each block. */
#define __shared__ static

extern "C" uint3 threadIdx, blockIdx;
extern "C" dim3 blockDim, gridDim;
static const int warpSize = 32;

struct cudaFuncAttributes {
	int numRegs;
};

template <typename T> static inline cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, T *kernel)
{
	a->numRegs = kernel ? 1 : 0;
	return cudaSuccess;
}

#define LAUNCH(kernel, grid, block, stream, ...) \
	(gpu_count_launch(#kernel), emu_start(#kernel, kernel, grid, block, stream, ##__VA_ARGS__))

template <typename T> static inline void emu_check(const char *name, int i, const T &arg)
{
	if constexpr (std::is_pointer_v<T>)
		emu_check_pointer(name, i, (const void *)arg);
	else if constexpr (std::is_class_v<T>)
		emu_check_struct(name, i, &arg, sizeof(arg));
}

template <typename T> struct emu_plain {
	typedef T type;
};

/* The arguments are converted to the parameters' types now and copied, as a launch does. */
template <typename... P>
static void emu_start(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, cudaStream_t s,
    typename emu_plain<P>::type... a)
{
	struct call {
		void (*kernel)(P...);
		std::tuple<P...> args;
	} c = { kernel, std::tuple<P...>(a...) };
	int i = 0;

	static_assert((std::is_trivially_copyable_v<P> && ...), "kernels take plain values");
	std::apply([&](const P &...p) { (emu_check(name, i++, p), ...); }, c.args);
	emu_launch(name, grid, block, s, [](void *v) { std::apply(((call *)v)->kernel, ((call *)v)->args); }, &c, sizeof(c));
}

template <typename T> static inline cudaError_t cudaMalloc(T **p, size_t size) { return cudaMalloc((void **)p, size); }
template <typename T> static inline cudaError_t cudaMallocHost(T **p, size_t size)
{
	return cudaMallocHost((void **)p, size);
}

/* Synchronising: who calls from where is remembered, for the report when others call from elsewhere or not at all. */
#define EMU_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

static inline void __syncthreads(EMU_HERE) { emu_barrier(file, line); }

template <typename T> static inline uint64_t emu_pack(T x)
{
	uint64_t u = 0;

	static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
	memcpy(&u, &x, sizeof(T));
	return u;
}

template <typename T> static inline T emu_unpack(uint64_t u)
{
	T x;

	memcpy(&x, &u, sizeof(T));
	return x;
}

static inline int emu_lane(void)
{
	return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32;
}

static inline void __syncwarp(uint32_t mask = ~0u, EMU_HERE) { emu_exchange(mask, 0, "__syncwarp", file, line); }

/* Lanes exchange within groups of `width`; who would reach beyond keeps its own. */
#define EMU_SHUFFLE(name, type, expression, within) \
	template <typename T> static inline T name(uint32_t mask, T x, type by, int width = 32, EMU_HERE) \
	{ \
		const uint64_t *all = emu_exchange(mask, emu_pack(x), #name, file, line); \
		int lane = emu_lane(), first = lane / width * width, from = (expression); \
		return emu_unpack<T>(all[(within) ? from : lane]); \
	}
EMU_SHUFFLE(__shfl_sync, int, first + (by & (width - 1)), true)
EMU_SHUFFLE(__shfl_up_sync, unsigned, lane - (int)by, from >= first)
EMU_SHUFFLE(__shfl_down_sync, unsigned, lane + (int)by, from < first + width)
EMU_SHUFFLE(__shfl_xor_sync, int, lane ^ by, from < first + width)

static inline unsigned __ballot_sync(uint32_t mask, int yes, EMU_HERE)
{
	const uint64_t *all = emu_exchange(mask, yes != 0, "__ballot_sync", file, line);
	unsigned set = 0;

	for (int i = 0; i < 32; i++)
		set |= (unsigned)all[i] << i;
	return set;
}

static inline int __any_sync(uint32_t mask, int yes, EMU_HERE) { return __ballot_sync(mask, yes, file, line) != 0; }
static inline int __all_sync(uint32_t mask, int yes, EMU_HERE) { return __ballot_sync(mask, yes, file, line) == mask; }
static inline void __threadfence(void) {}
static inline void __threadfence_block(void) {}

/* One thread at a time: each is atomic as it stands. */
#define EMU_ATOMIC(name, expression) \
	template <typename T> static inline T name(T *p, std::common_type_t<T> x) \
	{ \
		T old = *p; \
		static_assert(std::is_integral_v<T>, "no float atomics: their order is nobody's"); \
		*p = (expression); \
		return old; \
	}
EMU_ATOMIC(atomicAdd, old + x)
EMU_ATOMIC(atomicSub, old - x)
EMU_ATOMIC(atomicOr, old | x)
EMU_ATOMIC(atomicAnd, old & x)
EMU_ATOMIC(atomicXor, old ^ x)
EMU_ATOMIC(atomicMax, old > x ? old : x)
EMU_ATOMIC(atomicMin, old < x ? old : x)
EMU_ATOMIC(atomicExch, x)
template <typename T> static inline T atomicCAS(T *p, std::common_type_t<T> seen, std::common_type_t<T> x)
{
	T old = *p;

	*p = old == seen ? x : old;
	return old;
}

#include "device_functions.h"

#endif
#endif
