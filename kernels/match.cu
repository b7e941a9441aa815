/* Matching of feature statistics: lib/match.h's objective over all layers of a network.
 *
 * A group of m values (all images, or those of one class) has mean = ref + off, off = sum/m, and var = sumsq/m - off^2;
 * its loss is |mean - mu| + |var - sigma2|, norms over channels, and its slopes per value are
 *     b = 2*(var - sigma2)/|var - sigma2|/m, a = (mean - mu)/|mean - mu|/m - b*off.
 * The norms need every channel before the first slope, hence two launches: one leaves the squares of a block's
 * channels, the other takes the sums again, adds the squares up and writes the slopes. A block is 32 channels of a layer
 * by 16 warps; a sum over all images is split over the warps, a class belongs to one warp. Order: image by image in a
 * warp, then the warps, then the blocks.
 *
 * Traffic: sum and sumsq are read twice, 32*n*c bytes, the second time mostly from the cache; a and b are written,
 * 8*n*cp; in rows of 256 and 128 bytes a warp (c is any number: rows start anywhere). The mixture reads cmean twice and
 * cvar once in either launch, 24*n*c more.
 */
#include "gpu.cuh"

enum { WARPS = 16, CHANNELS = 32 };

struct gap { /* of a group, in one channel */
	double off, mean, var, values;
};

struct slopes {
	float a, b;
};

__device__ static struct gap missing(double sum, double sumsq, double values, double ref, double mu, double sigma2)
{
	double off = sum / values, var = sumsq / values - off * off;
	struct gap g = { off, ref + off - mu, (var < 0 ? 0 : var) - sigma2, values }; /* not fmax: it would hide a NaN */

	return g;
}

/* What the images have together: channel j's sums over all of them. */
struct total {
	double sum, sumsq;
};

__device__ static struct total total(const struct gpu_match &l, int j, int n, double room[WARPS][CHANNELS])
{
	struct total t = { 0, 0 };

	for (int i = threadIdx.x / 32; i < n && j < l.c; i += WARPS) {
		t.sum += l.sum[(size_t)i * l.c + j];
		t.sumsq += l.sumsq[(size_t)i * l.c + j];
	}
	t.sum = over_warps<WARPS>(t.sum, room);
	t.sumsq = over_warps<WARPS>(t.sumsq, room);
	return t;
}

__device__ static struct gap gap_global(const struct gpu_match &l, struct total t, int j, int n)
{
	struct gap none = { 0, 0, 0, 1 };

	return j < l.c ? missing(t.sum, t.sumsq, (double)n * l.per, l.ref[j], l.mean[j], l.var[j]) : none;
}

/* From what n images with these labels should have together: the variance within classes plus that of the class
 * means. */
__device__ static struct gap gap_mixture(const struct gpu_match &l, struct total t, const int64_t *label, int j, int n,
    double room[WARPS][CHANNELS])
{
	double mu = 0, sigma2 = 0;
	struct gap none = { 0, 0, 0, 1 };

	for (int i = threadIdx.x / 32; i < n && j < l.c; i += WARPS)
		mu += l.cmean[label[i] * l.c + j] / (double)n;
	mu = over_warps<WARPS>(mu, room);
	for (int i = threadIdx.x / 32; i < n && j < l.c; i += WARPS) {
		double d = l.cmean[label[i] * l.c + j] - mu;
		sigma2 += (l.cvar[label[i] * l.c + j] + d * d) / n;
	}
	sigma2 = over_warps<WARPS>(sigma2, room);
	return j < l.c ? missing(t.sum, t.sumsq, (double)n * l.per, l.ref[j], mu, sigma2) : none;
}

/* The class whose first image is f. */
__device__ static struct gap gap_class(const struct gpu_match &l, const int64_t *label, const int *group, int f, int j,
    int n)
{
	struct total t = { 0, 0 };
	struct gap none = { 0, 0, 0, 1 };
	int images = 0;

	if (j >= l.c)
		return none;
	for (int i = f; i < n; i++)
		if (group[i] == f) {
			t.sum += l.sum[(size_t)i * l.c + j];
			t.sumsq += l.sumsq[(size_t)i * l.c + j];
			images++;
		}
	return missing(t.sum, t.sumsq, (double)images * l.per, l.ref[j], l.cmean[label[f] * l.c + j],
	    l.cvar[label[f] * l.c + j]);
}

/* Squares (nlayer, 1 + n, blocks, 2): of the means and of the variances, over a block's channels. Slot 0 is the global
 * group's, 1 + f that of the class whose first image is f, 1 the mixture's. */
__device__ static double *squares_of(double *squares, int layer, int slot, int n, int blocks)
{
	return squares + ((size_t)layer * (1 + n) + slot) * blocks * 2;
}

/* By a whole warp, a lane a channel; one warp of those that call writes. */
__device__ static void note(double *to, struct gap g, bool writes)
{
	double mean = warp_sum(g.mean * g.mean), var = warp_sum(g.var * g.var);

	if (writes && threadIdx.x % 32 == 0) {
		to[blockIdx.x * 2] = mean;
		to[blockIdx.x * 2 + 1] = var;
	}
}

struct norms {
	double mean, var;
};

/* Over all channels of a layer, by a whole warp. */
__device__ static struct norms norms(const double *from, int c)
{
	int blocks = (c + CHANNELS - 1) / CHANNELS;
	double mean = 0, var = 0;

	for (int i = threadIdx.x % 32; i < blocks; i += 32) {
		mean += from[i * 2];
		var += from[i * 2 + 1];
	}
	struct norms r = { sqrt(warp_sum(mean)), sqrt(warp_sum(var)) };
	return r;
}

__device__ static void add_slopes(struct slopes *s, struct gap g, struct norms r, double weight)
{
	double u = r.mean > 0 ? g.mean / r.mean / g.values : 0;
	double v = r.var > 0 ? 2 * g.var / r.var / g.values : 0;

	s->a += weight * (u - v * g.off);
	s->b += weight * v;
}

/* Lanes beyond C have zeros to store, those beyond CP nothing. */
__device__ static void store(const struct gpu_match &l, int i, int j, struct slopes s)
{
	if (j >= l.cp)
		return;
	l.a[(size_t)i * l.cp + j] = s.a;
	l.b[(size_t)i * l.cp + j] = s.b;
}

static __global__ void match_squares(double *squares, const struct gpu_match *layer, const int64_t *label,
    const int *group, const int *classes, int n, double w)
{
	__shared__ double room[WARPS][CHANNELS];
	struct gpu_match l = layer[blockIdx.y];
	int warp = threadIdx.x / 32, j = blockIdx.x * CHANNELS + threadIdx.x % 32;
	bool mixture = w > 0 && *classes == n;
	double *to = squares_of(squares, blockIdx.y, 0, n, gridDim.x);

	if ((int)blockIdx.x * CHANNELS >= l.c)
		return;
	if (w < 1 || mixture) {
		struct total t = total(l, j, n, room);
		if (w < 1)
			note(to, gap_global(l, t, j, n), warp == 0);
		if (mixture)
			note(to + gridDim.x * 2, gap_mixture(l, t, label, j, n, room), warp == 0);
	}
	for (int f = warp; f < n && w > 0 && !mixture; f += WARPS)
		if (group[f] == f)
			note(to + (size_t)(1 + f) * gridDim.x * 2, gap_class(l, label, group, f, j, n), true);
}

/* By a whole block. */
__device__ static double layer_value(const struct gpu_match &l, const double *from, const int *group, int classes,
    int n, double w, int blocks, double *room)
{
	double sum = 0, loss = 0;
	bool mixture = w > 0 && classes == n;

	if (w < 1) {
		struct norms r = norms(from, l.c);
		loss += (1 - w) * (r.mean + r.var);
	}
	for (int f = threadIdx.x / 32; f < n && w > 0; f += WARPS)
		if (mixture ? f == 0 : group[f] == f) {
			struct norms r = norms(from + (size_t)(1 + f) * blocks * 2, l.c);
			sum += r.mean + r.var;
		}
	sum = block_sum(threadIdx.x % 32 ? 0 : sum, room);
	return l.multiplier * (loss + (w > 0 ? w / (mixture ? 1 : classes) * sum : 0));
}

static __global__ void match_slopes(double *value, double *squares, const struct gpu_match *layer, const int64_t *label,
    const int *group, const int *classes, int n, double w, double scale)
{
	__shared__ double room[WARPS][CHANNELS];
	struct gpu_match l = layer[blockIdx.y];
	int warp = threadIdx.x / 32, j = blockIdx.x * CHANNELS + threadIdx.x % 32, blocks = gridDim.x;
	bool mixture = w > 0 && *classes == n, by_class = w > 0 && !mixture;
	const double *from = squares_of(squares, blockIdx.y, 0, n, blocks);
	double weight = scale * l.multiplier;
	struct slopes all = { 0, 0 };

	if ((int)blockIdx.x * CHANNELS >= l.c)
		return;
	if (w < 1 || mixture) {
		struct total t = total(l, j, n, room);
		if (w < 1)
			add_slopes(&all, gap_global(l, t, j, n), norms(from, l.c), weight * (1 - w));
		if (mixture)
			add_slopes(&all, gap_mixture(l, t, label, j, n, room), norms(from + blocks * 2, l.c), weight * w);
	}
	for (int i = warp; i < n && !by_class; i += WARPS)
		store(l, i, j, all);
	for (int f = warp; f < n && by_class; f += WARPS)
		if (group[f] == f) {
			struct slopes own = all;
			struct norms r = norms(from + (size_t)(1 + f) * blocks * 2, l.c);
			add_slopes(&own, gap_class(l, label, group, f, j, n), r, weight * w / *classes);
			for (int i = f; i < n; i++)
				if (group[i] == f)
					store(l, i, j, own);
		}
	if (blockIdx.x == 0) {
		double loss = layer_value(l, from, group, w > 0 ? *classes : 0, n, w, blocks, &room[0][0]);
		if (threadIdx.x == 0)
			value[blockIdx.y] = loss;
	}
}

size_t gpu_match_scratch(int nlayer, int maxc, int n)
{
	size_t blocks = (maxc + CHANNELS - 1) / CHANNELS;

	return (size_t)nlayer * (1 + n) * blocks * 2 * sizeof(double);
}

void gpu_match_layers(cudaStream_t s, double *value, const struct gpu_match *layer, int nlayer, int maxc,
    const int64_t *label, const int *group, const int *classes, int n, double w, double scale, void *scratch)
{
	double *squares = (double *)scratch;
	dim3 grid((maxc + CHANNELS - 1) / CHANNELS, nlayer);

	LAUNCH(match_squares, grid, WARPS * 32, s, squares, layer, label, group, classes, n, w);
	LAUNCH(match_slopes, grid, WARPS * 32, s, value, squares, layer, label, group, classes, n, w, scale);
}
