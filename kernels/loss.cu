/* Losses: a block an image, each sum in double; then one block adds the images up, in one order.
 *
 * Of a row x (k): lse = log sum_j exp(x_j/t), about the largest; CE = lse - x_label, its gradient exp(x_j - lse) - [j =
 * label]; KL = sum_j p_j*(log p_j - log q_j), its gradient (q_j - p_j)/t, with p the target's softmax, q the logits'.
 *
 * Traffic: logits are read once from memory, for the later passes from the cache, dlogits is written once: CE 8*n*k
 * bytes, KL 12*n*k, an ensemble of t 8*t*n*k; and 16*n for the rows' values. Accesses are coalesced words, as k need not
 * be a multiple of four. It is the exponentials in double that cost: two a value, KL four.
 */
#include "../lib/loss.h"
#include "gpu.cuh"

enum { LOSS_BLOCK = 128, MEAN_BLOCK = 256 };

/* The larger; a NaN in y is passed over. */
template <typename T> __device__ static inline T larger(T x, T y) { return y > x ? y : x; }

/* The largest of x, none of them NaN, over the block, in every thread. room: a value a warp, free again afterwards. */
template <typename T> __device__ static T block_top(T x, T *room)
{
	for (int step = 16; step > 0; step /= 2)
		x = larger(x, __shfl_xor_sync(0xffffffffu, x, step));
	if (threadIdx.x % 32 == 0)
		room[threadIdx.x / 32] = x;
	__syncthreads();
	x = room[0];
	for (int i = 1; i < LOSS_BLOCK / 32; i++)
		x = larger(x, room[i]);
	__syncthreads();
	return x;
}

/* lib/loss.c's log_sum_exp, by the block, in every thread. A NaN anywhere passes through the sum. */
__device__ static double log_sum_exp(const float *x, int k, double t)
{
	__shared__ float tops[LOSS_BLOCK / 32];
	__shared__ double room[32];
	float top = -INFINITY;
	double sum = 0;

	for (int j = threadIdx.x; j < k; j += LOSS_BLOCK)
		top = larger(top, x[j]);
	top = block_top(top, tops);
	for (int j = threadIdx.x; j < k; j += LOSS_BLOCK)
		sum += exp(((double)x[j] - top) / t);
	return top / t + log(block_sum(sum, room));
}

/* d (k) = weight * the gradient of CE. */
__device__ static void ce_back(float *d, const float *x, int64_t label, int k, double lse, double weight)
{
	for (int j = threadIdx.x; j < k; j += LOSS_BLOCK)
		d[j] = weight * (exp(x[j] - lse) - (j == label));
}

static __global__ void ce(double *rows, float *dlogits, const float *logits, const int64_t *label, int n, int k)
{
	int i = blockIdx.x;
	size_t at = (size_t)i * k;
	double lse = log_sum_exp(logits + at, k, 1);

	if (threadIdx.x == 0)
		rows[i] = lse - logits[at + label[i]];
	if (dlogits)
		ce_back(dlogits + at, logits + at, label[i], k, lse, 1.0 / n);
}

static __global__ void ce_mixed(double *rows, float *dlogits, const float *logits, const int64_t *label,
    const int64_t *partner, const float *lambda, int n, int k)
{
	int i = blockIdx.x;
	const float *x = logits + (size_t)i * k; /* (k) */
	int64_t own = label[i], other = partner[i];
	double l = *lambda, lse = log_sum_exp(x, k, 1);

	if (threadIdx.x == 0)
		rows[i] = lse - l * x[own] - (1 - l) * x[other];
	for (int j = threadIdx.x; j < k && dlogits; j += LOSS_BLOCK)
		dlogits[(size_t)i * k + j] = (exp(x[j] - lse) - l * (j == own) - (1 - l) * (j == other)) / n;
}

static __global__ void kl(double *rows, float *dlogits, const float *logits, const float *target, int n, int k,
    double t, double factor)
{
	__shared__ double room[32];
	size_t at = (size_t)blockIdx.x * k;
	const float *x = logits + at, *y = target + at; /* (k) */
	double lx = log_sum_exp(x, k, t), ly = log_sum_exp(y, k, t), loss = 0;

	for (int j = threadIdx.x; j < k; j += LOSS_BLOCK) {
		double logq = x[j] / t - lx, logp = y[j] / t - ly, p = exp(logp);
		/* A class that the target rules out (-inf) costs nothing: lim p log p = 0. */
		if (p > 0 || isnan(p))
			loss += p * (logp - logq);
		if (dlogits)
			dlogits[at + j] = factor * (exp(logq) - p) / (t * n);
	}
	loss = block_sum(loss, room);
	if (threadIdx.x == 0)
		rows[blockIdx.x] = loss;
}

__device__ static double mean_logit(const struct gpu_members &t, size_t at)
{
	double sum = 0;

	for (int i = 0; i < t.n; i++)
		sum += t.logits[i][at];
	return sum / t.n;
}

/* CE of the mean logits. */
static __global__ void ensemble_logits(double *rows, struct gpu_members t, const int64_t *label, int n, int k)
{
	__shared__ double room[32];
	size_t at = (size_t)blockIdx.x * k;
	int64_t own = label[blockIdx.x];
	double top = -INFINITY, sum = 0;

	for (int j = threadIdx.x; j < k; j += LOSS_BLOCK)
		top = larger(top, mean_logit(t, at + j));
	top = block_top(top, room);
	for (int j = threadIdx.x; j < k; j += LOSS_BLOCK)
		sum += exp(mean_logit(t, at + j) - top);
	double lse = top + log(block_sum(sum, room));
	if (threadIdx.x == 0)
		rows[blockIdx.x] = lse - mean_logit(t, at + own);
	for (int j = threadIdx.x; j < k && t.dlogits[0]; j += LOSS_BLOCK) {
		float d = t.weight * ((exp(mean_logit(t, at + j) - lse) - (j == own)) / n / t.n);
		for (int i = 0; i < t.n; i++)
			t.dlogits[i][at + j] = d;
	}
}

/* CE of the mean of softmax, in logarithms: a teacher weighs in the gradient by its share of the label's
 * probability. */
static __global__ void ensemble_probs(double *rows, struct gpu_members t, const int64_t *label, int n, int k)
{
	__shared__ double lse[GPU_TEACHERS];
	size_t at = (size_t)blockIdx.x * k;
	int64_t own = label[blockIdx.x];
	double top = -INFINITY, sum = 0;

	for (int i = 0; i < t.n; i++) {
		double l = log_sum_exp(t.logits[i] + at, k, 1);
		if (threadIdx.x == 0)
			lse[i] = l;
	}
	__syncthreads();
	for (int i = 0; i < t.n; i++)
		top = larger(top, t.logits[i][at + own] - lse[i]);
	for (int i = 0; i < t.n; i++)
		sum += exp(t.logits[i][at + own] - lse[i] - top);
	double logp = top + log(sum); /* of the sum over teachers */
	for (int i = 0; i < t.n && t.dlogits[0]; i++) {
		double share = exp(t.logits[i][at + own] - lse[i] - logp);
		ce_back(t.dlogits[i] + at, t.logits[i] + at, own, k, lse[i], t.weight * share / n);
	}
	if (threadIdx.x == 0)
		rows[blockIdx.x] = log((double)t.n) - logp;
}

/* The mean of CEs. */
static __global__ void ensemble_each(double *rows, struct gpu_members t, const int64_t *label, int n, int k)
{
	size_t at = (size_t)blockIdx.x * k;
	int64_t own = label[blockIdx.x];
	double loss = 0;

	for (int i = 0; i < t.n; i++) {
		double lse = log_sum_exp(t.logits[i] + at, k, 1);
		loss += (lse - t.logits[i][at + own]) / t.n;
		if (t.dlogits[0])
			ce_back(t.dlogits[i] + at, t.logits[i] + at, own, k, lse, t.weight / n / t.n);
	}
	if (threadIdx.x == 0)
		rows[blockIdx.x] = loss;
}

/* value = factor * the mean of rows (n). One block. */
static __global__ void mean_rows(double *value, const double *rows, int n, double factor)
{
	__shared__ double room[32];
	double sum = 0;

	for (int i = threadIdx.x; i < n; i += MEAN_BLOCK)
		sum += rows[i];
	sum = block_sum(sum, room);
	if (threadIdx.x == 0)
		*value = factor * sum / n;
}

void gpu_ce(cudaStream_t s, double *value, double *rows, float *dlogits, const float *logits, const int64_t *label,
    int n, int k)
{
	LAUNCH(ce, n, LOSS_BLOCK, s, rows, dlogits, logits, label, n, k);
	LAUNCH(mean_rows, 1, MEAN_BLOCK, s, value, rows, n, 1);
}

void gpu_ce_mixed(cudaStream_t s, double *value, double *rows, float *dlogits, const float *logits,
    const int64_t *label, const int64_t *partner, const float *lambda, int n, int k)
{
	LAUNCH(ce_mixed, n, LOSS_BLOCK, s, rows, dlogits, logits, label, partner, lambda, n, k);
	LAUNCH(mean_rows, 1, MEAN_BLOCK, s, value, rows, n, 1);
}

void gpu_kl(cudaStream_t s, double *value, double *rows, float *dlogits, const float *logits, const float *target,
    int n, int k, double temperature, bool t2)
{
	double factor = t2 ? temperature * temperature : 1;

	LAUNCH(kl, n, LOSS_BLOCK, s, rows, dlogits, logits, target, n, k, temperature, factor);
	LAUNCH(mean_rows, 1, MEAN_BLOCK, s, value, rows, n, factor);
}

void gpu_ensemble(cudaStream_t s, double *value, double *rows, struct gpu_members t, const int64_t *label, int n, int k,
    int how)
{
	if (how == ENS_LOGITS)
		LAUNCH(ensemble_logits, n, LOSS_BLOCK, s, rows, t, label, n, k);
	else if (how == ENS_PROBS)
		LAUNCH(ensemble_probs, n, LOSS_BLOCK, s, rows, t, label, n, k);
	else
		LAUNCH(ensemble_each, n, LOSS_BLOCK, s, rows, t, label, n, k);
	LAUNCH(mean_rows, 1, MEAN_BLOCK, s, value, rows, n, 1);
}
