/* What the kernels share: launching, values of both types, sums within a warp and a block. */
#ifndef GPU_CUH
#define GPU_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "gpu.h"

/* LAUNCH(kernel, grid, block, stream, arguments…): kernel may be a template's instance in parentheses. Shared memory is
 * declared in the kernel. tests/emu has its own. */
#ifndef LAUNCH
#define LAUNCH(kernel, grid, block, stream, ...) \
	(gpu_count_launch(#kernel), kernel<<<grid, block, 0, stream>>>(__VA_ARGS__))
#endif

typedef __nv_bfloat16 bf16;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }
template <typename T> __device__ inline T from_float(float x);
template <> __device__ inline float from_float<float>(float x) { return x; }
template <> __device__ inline bf16 from_float<bf16>(float x) { return __float2bfloat16_rn(x); }

/* Eight channels of one pixel: 32 or 16 bytes, read and written as 16-byte words. p is aligned to 16 bytes. */
struct eight {
	float v[8];
};

__device__ inline eight load8(const float *p)
{
	float4 a = reinterpret_cast<const float4 *>(p)[0], b = reinterpret_cast<const float4 *>(p)[1];

	return { { a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w } };
}

__device__ inline eight load8(const bf16 *p)
{
	uint4 u = *reinterpret_cast<const uint4 *>(p);
	uint32_t word[4] = { u.x, u.y, u.z, u.w };
	eight e;

	for (int i = 0; i < 4; i++) {
		e.v[2 * i] = __uint_as_float(word[i] << 16);
		e.v[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
	}
	return e;
}

__device__ inline void store8(float *p, eight e)
{
	reinterpret_cast<float4 *>(p)[0] = make_float4(e.v[0], e.v[1], e.v[2], e.v[3]);
	reinterpret_cast<float4 *>(p)[1] = make_float4(e.v[4], e.v[5], e.v[6], e.v[7]);
}

__device__ inline void store8(bf16 *p, eight e)
{
	uint32_t word[4];

	for (int i = 0; i < 4; i++)
		word[i] = __bfloat16_as_ushort(__float2bfloat16_rn(e.v[2 * i])) |
		    (uint32_t)__bfloat16_as_ushort(__float2bfloat16_rn(e.v[2 * i + 1])) << 16;
	*reinterpret_cast<uint4 *>(p) = make_uint4(word[0], word[1], word[2], word[3]);
}

/* The sum over a warp, in every lane, in one order. */
template <typename T> __device__ inline T warp_sum(T x)
{
	for (int step = 16; step > 0; step /= 2)
		x += __shfl_xor_sync(0xffffffffu, x, step);
	return x;
}

/* The sum over a block of up to 1024 threads, in every thread; room: 32 values of shared memory, free again afterwards. */
template <typename T> __device__ inline T block_sum(T x, T *room)
{
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = (blockDim.x + 31) / 32;

	x = warp_sum(x);
	if (lane == 0)
		room[warp] = x;
	__syncthreads();
	x = 0;
	for (int i = 0; i < warps; i++)
		x += room[i];
	__syncthreads();
	return x;
}

/* The sum over a block's warps, lane by lane, in every thread; room is free again afterwards. */
template <int WARPS> __device__ inline double over_warps(double x, double (*room)[32] /* (WARPS,32), shared */)
{
	int lane = threadIdx.x % 32;

	room[threadIdx.x / 32][lane] = x;
	__syncthreads();
	x = 0;
	for (int i = 0; i < WARPS; i++)
		x += room[i][lane];
	__syncthreads();
	return x;
}

/* Threads that go over `count` things, at most eight blocks an SM of the largest card; kernels loop with this stride. */
inline int blocks_for(size_t count, int block)
{
	size_t n = (count + block - 1) / block;

	return n < 1 ? 1 : n > 2048 ? 2048 : (int)n;
}

#define GRID_STRIDE(i, count) \
	(size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < (count); i += (size_t)gridDim.x * blockDim.x)

#endif
