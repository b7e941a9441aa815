/* From sums to the coefficients of normalisations. All arithmetic is double; maps are not touched, so that these
 * kernels take as long as the way to memory and back. A block has 32 channels, its rows share the images. */
#include "gpu.cuh"

enum { LANES = 32, ROWS = 16, BLOCK = LANES * ROWS };

static int pad8(int c)
{
	return (c + 7) / 8 * 8;
}

/* Negative by rounding alone; a NaN stays one (fmax would hide it). */
__device__ static inline double not_negative(double x)
{
	return x < 0 ? 0 : x;
}

/* Adds the rows' a and b up into those of row 0, in one order. */
__device__ static inline void add_rows(double *a, double *b)
{
	__shared__ double room[2][ROWS][LANES];
	int lane = threadIdx.x % LANES, row = threadIdx.x / LANES;

	room[0][row][lane] = *a;
	room[1][row][lane] = *b;
	__syncthreads();
	for (int i = 1; row == 0 && i < ROWS; i++)
		*a += room[0][i][lane], *b += room[1][i][lane];
}

/* Sums over the n images of two arrays (n,c), in row 0. */
__device__ static inline void sum_images(double *a, double *b, const double *x, const double *y, int n, int c,
    int channel)
{
	*a = *b = 0;
	if (channel < c) {
		#pragma unroll 4
		for (int i = threadIdx.x / LANES; i < n; i += ROWS)
			*a += x[(size_t)i * c + channel], *b += y[(size_t)i * c + channel];
	}
	add_rows(a, b);
}

/* With m = n*per values: mean = sum/m, var = sumsq/m - mean^2, scale = gamma/sqrt(var + eps),
 * shift = beta - (mean + ref)*scale. Traffic: 16 bytes an image and channel. */
static __global__ void __launch_bounds__(BLOCK) bn_forward(double *mean, double *var, float *scale, float *shift,
    float *center, const double *sum, const double *sumsq, const float *ref, const float *gamma, const float *beta,
    float eps, int n, int64_t per, int c, int cp)
{
	int j = blockIdx.x * LANES + threadIdx.x % LANES;
	double mu, v, m = (double)n * per;

	sum_images(&mu, &v, sum, sumsq, n, c, j);
	if (threadIdx.x >= LANES || j >= cp)
		return;
	if (j >= c) {
		scale[j] = shift[j] = center[j] = 0;
		return;
	}
	mu /= m;
	v = not_negative(v / m - mu * mu);
	double g = gamma[j] / sqrt(v + eps);
	mean[j] = mu;
	var[j] = v;
	scale[j] = g;
	shift[j] = beta[j] - (mu + ref[j]) * g;
	center[j] = mu + ref[j];
}

void gpu_bn_forward(cudaStream_t s, double *mean, double *var, float *scale, float *shift, float *center,
    const double *sum, const double *sumsq, const float *ref, const float *gamma, const float *beta, float eps, int n,
    int64_t per, int c)
{
	LAUNCH(bn_forward, (pad8(c) + LANES - 1) / LANES, BLOCK, s, mean, var, scale, shift, center, sum, sumsq, ref, gamma,
	    beta, eps, n, per, c, pad8(c));
}

/* Of one normalisation over m values, about a center that is `off` below the mean:
 *     dx = g*(dz - mean(dz) - (x - mu)/(v + eps) * mean(dz*(x - mu))), g = gamma/sqrt(v + eps)
 * as gain*dz + a + b*(x - center). */
struct back {
	double gain, a, b;
};

__device__ static inline back norm_back(double m, double off, double v, float eps, float gamma, double sdz,
    double sdzx)
{
	double g = gamma / sqrt(v + eps), cov = (sdzx - off * sdz) / m / (v + eps);

	return { g, g * (cov * off - sdz / m), -g * cov };
}

/* norm_back of the whole batch, dgamma = sum of dz*(x - center)/sqrt(var + eps), dbeta = sum of dz. Traffic: 16 bytes
 * an image and channel. */
static __global__ void __launch_bounds__(BLOCK) bn_backward(float *gain, float *a, float *b, float *dgamma,
    float *dbeta, const double *sdz, const double *sdzx, const double *var, const float *gamma, float eps, int n,
    int64_t per, int c, int cp)
{
	int j = blockIdx.x * LANES + threadIdx.x % LANES;
	double s, sx;

	sum_images(&s, &sx, sdz, sdzx, n, c, j);
	if (threadIdx.x >= LANES || j >= cp)
		return;
	if (j >= c) {
		gain[j] = a[j] = b[j] = 0;
		return;
	}
	back k = norm_back((double)n * per, 0, var[j], eps, gamma[j], s, sx);
	gain[j] = k.gain;
	a[j] = k.a;
	b[j] = k.b;
	if (dgamma)
		dgamma[j] = sx / sqrt(var[j] + eps);
	if (dbeta)
		dbeta[j] = s;
}

void gpu_bn_backward(cudaStream_t s, float *gain, float *a, float *b, float *dgamma, float *dbeta, const double *sdz,
    const double *sdzx, const double *var, const float *gamma, float eps, int n, int64_t per, int c)
{
	LAUNCH(bn_backward, (pad8(c) + LANES - 1) / LANES, BLOCK, s, gain, a, b, dgamma, dbeta, sdz, sdzx, var, gamma, eps, n,
	    per, c, pad8(c));
}

enum { FEW = 128 }; /* threads a block where each has one channel */

/* running += momentum*(batch - running), unless the step is a bad one. Traffic: 36 bytes a channel. */
static __global__ void __launch_bounds__(FEW) bn_running(float *running_mean, float *running_var, const double *mean,
    const double *var, const float *at, const float *momentum, int64_t count, int c, const int *bad)
{
	int j = blockIdx.x * FEW + threadIdx.x;

	if (j >= c || count < 2 || *bad) /* one value has no variance */
		return;
	double unbiased = var[j] * (count / (count - 1.0));
	running_mean[j] += *momentum * (mean[j] + at[j] - running_mean[j]);
	running_var[j] += *momentum * (unbiased - running_var[j]);
}

void gpu_bn_running(cudaStream_t s, float *running_mean, float *running_var, const double *mean, const double *var,
    const float *at, const float *momentum, int64_t count, int c, const int *bad)
{
	LAUNCH(bn_running, (c + FEW - 1) / FEW, FEW, s, running_mean, running_var, mean, var, at, momentum, count, c, bad);
}

/* One image and channel of per values: mean = sum/per, var = sumsq/per - mean^2. */
struct moments {
	double mean, var;
};

__device__ static inline moments moments_of(double sum, double sumsq, int64_t per)
{
	double mean = sum / per;

	return { mean, not_negative(sumsq / per - mean * mean) };
}

/* scale = gamma/sqrt(var + eps), shift = beta - mean*scale, by image. Traffic: 28 bytes an image and channel. */
static __global__ void __launch_bounds__(FEW) in_forward(float *scale, float *shift, float *center, const double *sum,
    const double *sumsq, const float *gamma, const float *beta, float eps, int n, int64_t per, int c, int cp)
{
	for (size_t k = (size_t)blockIdx.x * FEW + threadIdx.x; k < (size_t)n * cp; k += (size_t)gridDim.x * FEW) {
		int j = k % cp;
		size_t at = k / cp * c + j;
		if (j >= c) {
			scale[k] = shift[k] = center[k] = 0;
			continue;
		}
		moments of = moments_of(sum[at], sumsq[at], per);
		double g = gamma[j] / sqrt(of.var + eps);
		scale[k] = g;
		shift[k] = beta[j] - of.mean * g;
		center[k] = of.mean;
	}
}

void gpu_in_forward(cudaStream_t s, float *scale, float *shift, float *center, const double *sum, const double *sumsq,
    const float *gamma, const float *beta, float eps, int n, int64_t per, int c)
{
	LAUNCH(in_forward, blocks_for((size_t)n * pad8(c), FEW), FEW, s, scale, shift, center, sum, sumsq, gamma, beta, eps, n,
	    per, c, pad8(c));
}

/* norm_back of each image, plus ta + tb*x about 0; dgamma = sum of dz*(x - mean)/sqrt(var + eps), dbeta = sum of dz.
 * Where these are wanted, a channel's images are one block's. Traffic: 48 bytes an image and channel, 8 for a tap. */
static __global__ void __launch_bounds__(BLOCK) in_backward(float *gain, float *a, float *b, float *dgamma,
    float *dbeta, const double *sdz, const double *sdzx, const double *sum, const double *sumsq, const float *center,
    const float *gamma, float eps, const float *ta, const float *tb, int n, int64_t per, int c, int cp)
{
	int j = blockIdx.x * LANES + threadIdx.x % LANES;
	double total = 0, total_x = 0;

	for (int i = blockIdx.y * ROWS + threadIdx.x / LANES; i < n && j < cp; i += gridDim.y * ROWS) {
		size_t at = (size_t)i * c + j, k = (size_t)i * cp + j;
		if (j >= c) {
			gain[k] = a[k] = b[k] = 0;
			continue;
		}
		moments of = moments_of(sum[at], sumsq[at], per);
		double off = of.mean - center[k]; /* what a float could not hold */
		back f = norm_back(per, off, of.var, eps, gamma[j], sdz[at], sdzx[at]);
		if (ta) {
			f.a += ta[k] + tb[k] * (double)center[k];
			f.b += tb[k];
		}
		gain[k] = f.gain;
		a[k] = f.a;
		b[k] = f.b;
		total += sdz[at];
		total_x += (sdzx[at] - off * sdz[at]) / sqrt(of.var + eps);
	}
	add_rows(&total, &total_x);
	if (threadIdx.x >= LANES || j >= c)
		return;
	if (dgamma)
		dgamma[j] = total_x;
	if (dbeta)
		dbeta[j] = total;
}

void gpu_in_backward(cudaStream_t s, float *gain, float *a, float *b, float *dgamma, float *dbeta, const double *sdz,
    const double *sdzx, const double *sum, const double *sumsq, const float *center, const float *gamma, float eps,
    const float *ta, const float *tb, int n, int64_t per, int c)
{
	int share = dgamma || dbeta ? 1 : (n + ROWS - 1) / ROWS;

	LAUNCH(in_backward, dim3((pad8(c) + LANES - 1) / LANES, share < 65535 ? share : 65535), BLOCK, s, gain, a, b, dgamma,
	    dbeta, sdz, sdzx, sum, sumsq, center, gamma, eps, ta, tb, n, per, c, pad8(c));
}

/* scale = gamma/sqrt(var + eps), shift = beta + (bias - mean)*scale, ref = mean - bias. Traffic: 32 bytes a channel. */
static __global__ void __launch_bounds__(FEW) bn_frozen(float *scale, float *shift, float *ref, const float *bias,
    const float *mean, const float *var, const float *gamma, const float *beta, float eps, int c, int cp)
{
	int j = blockIdx.x * FEW + threadIdx.x;

	if (j >= cp)
		return;
	double g = 0, t = 0, mu = 0;
	if (j < c) {
		double off = bias ? bias[j] : 0;
		g = gamma ? gamma[j] / sqrt((double)var[j] + eps) : 1;
		mu = (gamma ? mean[j] : 0) - off;
		t = (gamma ? beta[j] : 0) - mu * g;
	}
	scale[j] = g;
	shift[j] = t;
	ref[j] = mu;
}

void gpu_bn_frozen(cudaStream_t s, float *scale, float *shift, float *ref, const float *bias, const float *mean,
    const float *var, const float *gamma, const float *beta, float eps, int c)
{
	LAUNCH(bn_frozen, (pad8(c) + FEW - 1) / FEW, FEW, s, scale, shift, ref, bias, mean, var, gamma, beta, eps, c, pad8(c));
}
