/* The count of a graph that is launched again and again. Mostly a few bytes, so that latency is all that they cost; take also
 * brings the weights of networks that take turns: it reads and writes them once, word by word, since records start anywhere. */
#include "gpu.cuh"

static __global__ void take(uint32_t *to, const uint32_t *from, int words, const int *at)
{
	for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < words; i += gridDim.x * blockDim.x)
		to[i] = from[(size_t)*at * words + i];
}

static __global__ void note(double *loss, int *at, const double *ce, const double *bn, int nbn, double share, int *bad)
{
	__shared__ double room[32];
	double sum = 0;

	for (int i = threadIdx.x; i < nbn; i += blockDim.x)
		sum += bn[i];
	sum = block_sum(sum, room);
	if (threadIdx.x || (*bad & GPU_NOTED))
		return;
	loss[2 * *at] = *ce;
	loss[2 * *at + 1] = sum * share;
	if (*bad)
		*bad |= GPU_NOTED;
	else
		++*at;
}

void gpu_take(cudaStream_t s, void *to, const void *from, size_t bytes, const int *at)
{
	LAUNCH(take, blocks_for(bytes / 4, 256), 256, s, (uint32_t *)to, (const uint32_t *)from, (int)(bytes / 4), at);
}

void gpu_note(cudaStream_t s, double *loss, int *at, const double *ce, const double *bn, int nbn, double share,
    int *bad)
{
	LAUNCH(note, 1, 128, s, loss, at, ce, bn, nbn, share, bad);
}
