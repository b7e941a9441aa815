/* Features by class: their means and deviations, and the distance of some from others' (lib/match.h's match_features()).
 *
 * A block is one class by 128 features, a thread a feature: a warp reads rows side by side. Sums go row by row in double,
 * those of a block's losses over its warps: one order. Traffic: means 4 bytes a row and feature, 8 with deviations (the
 * second time mostly from the cache); matching 8 and 12.
 */
#include "gpu.cuh"

enum { WIDE = 128 };

struct rows { /* those of the block's class, in the thread's feature */
	const float *x;
	const int *order;
	int first, n, f;
};

__device__ static inline struct rows rows_of(const float *x, const int *order, const struct gpu_group &g, int f)
{
	return { x + blockIdx.x * WIDE + threadIdx.x, order, g.first, g.n, f };
}

__device__ static inline int64_t place(const struct rows &r, int i)
{
	return (int64_t)(r.order ? r.order[r.first + i] : r.first + i) * r.f;
}

__device__ static double mean_of(const struct rows &r)
{
	double sum = 0;

#pragma unroll 8
	for (int i = 0; i < r.n; i++)
		sum += r.x[place(r, i)];
	return sum / r.n;
}

__device__ static double deviation_of(const struct rows &r, double mean)
{
	double sum = 0;

#pragma unroll 8
	for (int i = 0; i < r.n; i++) {
		double d = r.x[place(r, i)] - mean;
		sum += d * d;
	}
	return sqrt(sum / r.n);
}

static __global__ void class_means(float *mean, float *deviation, const float *x, const struct gpu_group *group, int f)
{
	struct gpu_group g = group[blockIdx.y];
	struct rows r = rows_of(x, NULL, g, f);
	int j = blockIdx.x * WIDE + threadIdx.x;

	if (j >= f || !g.n)
		return;
	double m = mean_of(r);
	mean[(size_t)blockIdx.y * f + j] = m;
	if (deviation)
		deviation[(size_t)blockIdx.y * f + j] = deviation_of(r, m);
}

/* The slope of a feature is 2*(mean - mu)/n for each of the class's images, and w*2*(dev - sigma)/(n*dev) times its own
 * distance from their mean. */
static __global__ void match_means(double *value, float *dx, const float *x, const struct gpu_group *group, const int *order,
    const float *mu, const float *sigma, int f, double w, double scale)
{
	__shared__ double room[32];
	struct gpu_group g = group[blockIdx.y];
	struct rows r = rows_of(x, order, g, f);
	int j = blockIdx.x * WIDE + threadIdx.x;
	double loss = 0;

	if (j < f && g.n) {
		size_t at = (size_t)blockIdx.y * f + j;
		double m = mean_of(r), gap = m - mu[at], spread = 0;
		loss = gap * gap;
		if (sigma) {
			double dev = deviation_of(r, m), off = dev - sigma[at];
			loss += w * off * off;
			spread = dev > 0 ? w * off / dev : 0;
		}
		for (int i = 0; i < g.n; i++) {
			int64_t k = place(r, i) + j;
			dx[k] = scale * 2 * (gap + (spread != 0 ? spread * (x[k] - m) : 0)) / g.n;
		}
	}
	loss = block_sum(loss, room);
	if (threadIdx.x == 0)
		value[blockIdx.y * gridDim.x + blockIdx.x] = loss;
}

int gpu_match_means_values(int classes, int f)
{
	return classes * ((f + WIDE - 1) / WIDE);
}

void gpu_class_means(cudaStream_t s, float *mean, float *deviation, const float *x, const struct gpu_group *group,
    int classes, int f)
{
	LAUNCH(class_means, dim3((f + WIDE - 1) / WIDE, classes), WIDE, s, mean, deviation, x, group, f);
}

void gpu_match_means(cudaStream_t s, double *value, float *dx, const float *x, const struct gpu_group *group,
    const int *order, const float *mu, const float *sigma, int classes, int f, double w, double scale)
{
	LAUNCH(match_means, dim3((f + WIDE - 1) / WIDE, classes), WIDE, s, value, dx, x, group, order, mu, sigma, f, w, scale);
}
