/* Features by class: their means and deviations, and the distance of some from others' (lib/match.h's match_features()).
 *
 * A block is 32 features, of which there may be millions, of one class, a lane each; every warp takes its share of the
 * rows, 128 bytes of one at a time.
 * Sums go row by row in double, then warp by warp: one order. Traffic: means 4 bytes a row and feature, 8 with deviations
 * (the second time mostly from the cache); matching 8 and 12.
 */
#include "gpu.cuh"

enum { WARPS = 16, FEATURES = 32 };
typedef double sums[WARPS][FEATURES]; /* of every warp, in shared memory */

struct rows { /* the warp's of its block's class, in the lane's feature */
	const float *x;
	const int *order;
	int first, n; /* of the class */
	int f;        /* features */
	bool some;    /* whether the lane has one of them */
};

__device__ static inline struct rows rows_of(const float *x, const int *order, const struct gpu_group &g, int f)
{
	int j = blockIdx.x * FEATURES + threadIdx.x % 32;

	return { x + j, order, g.first, g.n, f, j < f };
}

#define WARP_ROWS(i, r) (int i = threadIdx.x / 32; i < (r).n && (r).some; i += WARPS)

__device__ static inline int64_t place(const struct rows &r, int i)
{
	return (int64_t)(r.order ? r.order[r.first + i] : r.first + i) * r.f;
}

__device__ static double mean_of(const struct rows &r, sums &room)
{
	double sum = 0;

#pragma unroll 4
	for WARP_ROWS (i, r)
		sum += r.x[place(r, i)];
	return over_warps<WARPS>(sum, room) / r.n;
}

__device__ static double deviation_of(const struct rows &r, double mean, sums &room)
{
	double sum = 0;

#pragma unroll 4
	for WARP_ROWS (i, r) {
		double d = r.x[place(r, i)] - mean;
		sum += d * d;
	}
	return sqrt(over_warps<WARPS>(sum, room) / r.n);
}

static __global__ void class_means(float *mean, float *deviation, const float *x, const struct gpu_group *group, int f)
{
	__shared__ sums room;
	struct gpu_group g = group[blockIdx.y];
	struct rows r = rows_of(x, NULL, g, f);
	bool writes = threadIdx.x < 32 && r.some;
	size_t at = (size_t)blockIdx.y * f + blockIdx.x * FEATURES + threadIdx.x % 32;

	if (!g.n)
		return;
	double m = mean_of(r, room);
	if (writes)
		mean[at] = m;
	if (!deviation)
		return;
	m = deviation_of(r, m, room);
	if (writes)
		deviation[at] = m;
}

/* The slope of a feature is 2*(mean - mu)/n for each of the class's images, and w*2*(dev - sigma)/(n*dev) times its own
 * distance from their mean. */
static __global__ void match_means(double *value, float *dx, const float *x, const struct gpu_group *group, const int *order,
    const float *mu, const float *sigma, int f, double w, double scale)
{
	__shared__ sums room;
	struct gpu_group g = group[blockIdx.y];
	struct rows r = rows_of(x, order, g, f);
	int j = blockIdx.x * FEATURES + threadIdx.x % 32;
	size_t at = (size_t)blockIdx.y * f + j;
	double loss = 0;

	if (g.n) {
		double m = mean_of(r, room), gap = r.some ? m - mu[at] : 0, spread = 0;
		loss = gap * gap;
		if (sigma) {
			double dev = deviation_of(r, m, room), off = r.some ? dev - sigma[at] : 0;
			loss += w * off * off;
			spread = dev > 0 ? w * off / dev : 0;
		}
		for WARP_ROWS (i, r) {
			int64_t k = place(r, i);
			dx[k + j] = scale * 2 * (gap + (spread != 0 ? spread * (r.x[k] - m) : 0)) / g.n;
		}
	}
	loss = warp_sum(loss); /* every warp has the same */
	if (threadIdx.x == 0)
		value[blockIdx.y * gridDim.x + blockIdx.x] = loss;
}

int gpu_match_means_values(int classes, int f)
{
	return classes * ((f + FEATURES - 1) / FEATURES);
}

void gpu_class_means(cudaStream_t s, float *mean, float *deviation, const float *x, const struct gpu_group *group,
    int classes, int f)
{
	LAUNCH(class_means, dim3((f + FEATURES - 1) / FEATURES, classes), WARPS * 32, s, mean, deviation, x, group, f);
}

void gpu_match_means(cudaStream_t s, double *value, float *dx, const float *x, const struct gpu_group *group,
    const int *order, const float *mu, const float *sigma, int classes, int f, double w, double scale)
{
	LAUNCH(match_means, dim3((f + FEATURES - 1) / FEATURES, classes), WARPS * 32, s, value, dx, x, group, order, mu, sigma,
	    f, w, scale);
}
