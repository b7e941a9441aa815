/* kernels/norm.cu against the definitions of normalisation, in double, on the values that sums are of. Prints TAP. */
#include <math.h>
#include <string.h>

#include "../kernels/gpu.h"
#include "../lib/rng.h"
#include "gpu_mem.h"
#include "tap.h"

static const float eps = 1e-3f;

/* Feature maps (N,C,per), gradients likewise, and what the kernels know of them. */
struct problem {
	int n, c, cp, per;
	double *x, *dz;                   /* (n,c,per) */
	float *gamma, *beta, *ref, *var0; /* (cp) */
	float *ta, *tb;                   /* (n,cp) a tap's */
};

static float *floats(size_t rows, int c, int cp, double around, double spread, int seed)
{
	struct rng r = rng_at(seed, RNG_NOISE, 7, 0, 0);
	float *v = ecalloc(rows * cp, sizeof *v);

	for (size_t i = 0; i < rows * cp; i++)
		if ((int)(i % cp) < c)
			v[i] = around + spread * rng_normal(&r);
	return v;
}

static struct problem problem_new(int n, int c, int per)
{
	struct problem p = { .n = n, .c = c, .cp = (c + 7) / 8 * 8, .per = per };
	struct rng r = rng_at(1, RNG_NOISE, n, c, per);
	size_t values = (size_t)n * c * per;

	p.x = ecalloc(values, sizeof *p.x);
	p.dz = ecalloc(values, sizeof *p.dz);
	for (size_t i = 0; i < values; i++)
		p.x[i] = 1 + 0.02 * (i / per % c) + rng_normal(&r), p.dz[i] = 0.05 + rng_normal(&r);
	p.gamma = floats(1, c, p.cp, 1, 0.3, 2);
	p.beta = floats(1, c, p.cp, 0, 1, 3);
	p.ref = floats(1, c, p.cp, 3, 1, 4);
	p.var0 = floats(1, c, p.cp, 2, 0.1, 5);
	p.ta = floats(n, c, p.cp, 0, 0.1, 6);
	p.tb = floats(n, c, p.cp, 0, 0.1, 7);
	return p;
}

static void problem_free(struct problem *p)
{
	free(p->x), free(p->dz);
	free(p->gamma), free(p->beta), free(p->ref), free(p->var0), free(p->ta), free(p->tb);
}

/* (n,c) on the device: the sums over an image's values of x - about, of its square, or of dz times 1 or x - about. */
enum what { SUM, SUMSQ, SDZ, SDZX };

static double *sums(const struct problem *p, enum what what, const float *about, int stride)
{
	double *s = ecalloc((size_t)p->n * p->c, sizeof *s), *there;

	for (size_t i = 0; i < (size_t)p->n * p->c * p->per; i++) {
		size_t at = i / p->per;
		double d = p->x[i] - (about ? about[at / p->c * stride + at % p->c] : 0), z = p->dz[i];
		s[at] += what == SUM ? d : what == SUMSQ ? d * d : what == SDZ ? z : z * d;
	}
	there = on_device(s, (size_t)p->n * p->c * sizeof *s);
	free(s);
	return there;
}

/* mean, var (biased) over images i0..i1 of channel c, and the sums of dz and dz*(x - mean). */
struct moments {
	double m, mean, var, sdz, sdzx;
};

static struct moments moments(const struct problem *p, int i0, int i1, int c)
{
	struct moments k = { .m = (double)(i1 - i0) * p->per };

	for (int i = i0; i < i1; i++)
		for (int j = 0; j < p->per; j++)
			k.mean += p->x[((size_t)i * p->c + c) * p->per + j] / k.m;
	for (int i = i0; i < i1; i++)
		for (int j = 0; j < p->per; j++) {
			double d = p->x[((size_t)i * p->c + c) * p->per + j] - k.mean, z = p->dz[((size_t)i * p->c + c) * p->per + j];
			k.var += d * d / k.m;
			k.sdz += z;
			k.sdzx += z * d;
		}
	return k;
}

/* dx of the definition. */
static double back(const struct moments *k, double gamma, double x, double dz)
{
	double inverse = 1 / sqrt(k->var + eps);

	return gamma * inverse * (dz - k->sdz / k->m - (x - k->mean) * inverse * inverse * k->sdzx / k->m);
}

static double further(double worst, double got, double want)
{
	double d = fabs(got - want) / (1 + fabs(want));

	return isnan(d) ? INFINITY : fmax(worst, d);
}

static float *float_room(size_t n)
{
	return on_device(NULL, n * sizeof(float));
}

/* The floats at p, which is released. */
static float *fetch(float *p, size_t n)
{
	float *got = emalloc(n * sizeof *got);

	from_device(got, p, n * sizeof *got);
	cuda_ok(cudaFree(p), "cudaFree");
	return got;
}

static bool padding_zero(const float *v, size_t rows, int c, int cp)
{
	bool good = true;

	for (size_t i = 0; i < rows * cp; i++)
		good = good && ((int)(i % cp) < c || v[i] == 0);
	return good;
}

static void *there(const float *v, size_t n)
{
	return on_device(v, n * sizeof *v);
}

/* Forward, backward and the running statistics of one batch. */
static void test_bn(int n, int c, int per)
{
	struct problem p = problem_new(n, c, per);
	int cp = p.cp;
	double *sum = sums(&p, SUM, p.ref, 0), *sumsq = sums(&p, SUMSQ, p.ref, 0), *mean = on_device(NULL, c * sizeof *mean),
	    *var = on_device(NULL, c * sizeof *var), got_mean[256], got_var[256];
	float *gamma = there(p.gamma, cp), *beta = there(p.beta, cp), *ref = there(p.ref, cp);
	float *dscale = float_room(cp), *dshift = float_room(cp), *dcenter = float_room(cp);

	gpu_forget_launches();
	gpu_bn_forward(0, mean, var, dscale, dshift, dcenter, sum, sumsq, ref, gamma, beta, eps, n, per, c);
	float *scale = fetch(dscale, cp), *shift = fetch(dshift, cp), *center = fetch(dcenter, cp);
	from_device(got_mean, mean, c * sizeof *mean);
	from_device(got_var, var, c * sizeof *var);

	double *sdz = sums(&p, SDZ, center, 0), *sdzx = sums(&p, SDZX, center, 0);
	float *dgain = float_room(cp), *da = float_room(cp), *db = float_room(cp), *ddg = float_room(c), *ddb = float_room(c);
	gpu_bn_backward(0, dgain, da, db, ddg, ddb, sdz, sdzx, var, gamma, eps, n, per, c);
	float *gain = fetch(dgain, cp), *a = fetch(da, cp), *b = fetch(db, cp), *dg = fetch(ddg, c), *dbeta = fetch(ddb, c);

	float momentum = 0.3f, *dmomentum = there(&momentum, 1), *dmean = there(p.beta, cp), *dvar = there(p.var0, cp);
	int zero = 0, one = 1, *good = on_device(&zero, sizeof zero), *bad = on_device(&one, sizeof one);
	gpu_bn_running(0, dmean, dvar, mean, var, ref, dmomentum, (int64_t)n * per, c, good);
	gpu_bn_running(0, dmean, dvar, mean, var, ref, dmomentum, (int64_t)n * per, c, bad);
	float *rmean = fetch(dmean, cp), *rvar = fetch(dvar, cp);

	double forward = 0, backward = 0, affine = 0, running = 0, stats = 0;
	for (int j = 0; j < c; j++) {
		struct moments k = moments(&p, 0, n, j);
		double count = k.m, unbiased = k.var * (count > 1 ? count / (count - 1) : 1);
		stats = further(stats, got_mean[j] + p.ref[j], k.mean);
		stats = further(stats, got_var[j], k.var);
		stats = further(stats, center[j], k.mean);
		for (int i = 0; i < n; i++)
			for (int q = 0; q < per; q++) {
				double x = p.x[((size_t)i * c + j) * per + q], dz = p.dz[((size_t)i * c + j) * per + q];
				forward = further(forward, x * scale[j] + shift[j], (x - k.mean) / sqrt(k.var + eps) * p.gamma[j] + p.beta[j]);
				backward = further(backward, gain[j] * dz + a[j] + b[j] * (x - center[j]), back(&k, p.gamma[j], x, dz));
			}
		affine = further(affine, dg[j], k.sdzx / sqrt(k.var + eps));
		affine = further(affine, dbeta[j], k.sdz);
		double moved = per * n > 1 ? 0.3 : 0; /* one value has no variance */
		running = further(running, rmean[j], p.beta[j] + moved * (k.mean - p.beta[j]));
		running = further(running, rvar[j], p.var0[j] + moved * (unbiased - p.var0[j]));
	}
	double room = per * n > 1 ? 1 : 30; /* a variance of 0: slopes are as steep as eps lets them */
	ok(stats < 1e-6 && forward < 2e-6 * room, "batch norm %d,%d,%d (errors %.2g %.2g)", n, c, per, stats, forward);
	ok(backward < 2e-6 * room && affine < 2e-6 * room, "and back (errors %.2g %.2g)", backward, affine);
	ok(running < 1e-6, "and running statistics (error %.2g)", running);
	ok(padding_zero(scale, 1, c, cp) && padding_zero(shift, 1, c, cp) && padding_zero(center, 1, c, cp) &&
	    padding_zero(gain, 1, c, cp) && padding_zero(a, 1, c, cp) && padding_zero(b, 1, c, cp), "zeros beyond C");
	ok(gpu_launches("bn_forward") == 1 && gpu_launches("bn_backward") == 1 && gpu_launches("bn_running") == 2 &&
	    gpu_launches(NULL) == 4, "and what was launched");
	free(scale), free(shift), free(center), free(gain), free(a), free(b), free(dg), free(dbeta), free(rmean), free(rvar);
	cudaFree(sum), cudaFree(sumsq), cudaFree(mean), cudaFree(var), cudaFree(gamma), cudaFree(beta), cudaFree(ref);
	cudaFree(sdz), cudaFree(sdzx), cudaFree(dmomentum), cudaFree(good), cudaFree(bad);
	problem_free(&p);
}

/* taps: with a tap's coefficients; affine: with the gradients of gamma and beta. */
static void test_in(int n, int c, int per, bool taps, bool affine)
{
	struct problem p = problem_new(n, c, per);
	int cp = p.cp;
	size_t nc = (size_t)n * cp;
	double *sum = sums(&p, SUM, NULL, 0), *sumsq = sums(&p, SUMSQ, NULL, 0);
	float *gamma = there(p.gamma, cp), *beta = there(p.beta, cp), *ta = there(p.ta, nc), *tb = there(p.tb, nc);
	float *dscale = float_room(nc), *dshift = float_room(nc), *dcenter = float_room(nc);
	float *dgain = float_room(nc), *da = float_room(nc), *db = float_room(nc), *ddg = float_room(c), *ddb = float_room(c);

	gpu_forget_launches();
	gpu_in_forward(0, dscale, dshift, dcenter, sum, sumsq, gamma, beta, eps, n, per, c);
	float *scale = fetch(dscale, nc), *shift = fetch(dshift, nc), *center = emalloc(nc * sizeof *center);
	from_device(center, dcenter, nc * sizeof *center);
	double *sdz = sums(&p, SDZ, center, cp), *sdzx = sums(&p, SDZX, center, cp);
	gpu_in_backward(0, dgain, da, db, affine ? ddg : NULL, affine ? ddb : NULL, sdz, sdzx, sum, sumsq, dcenter, gamma, eps,
	    taps ? ta : NULL, taps ? tb : NULL, n, per, c);
	float *gain = fetch(dgain, nc), *a = fetch(da, nc), *b = fetch(db, nc), *dg = fetch(ddg, c), *dbeta = fetch(ddb, c);

	double forward = 0, backward = 0, gradients = 0;
	for (int j = 0; j < c; j++) {
		double dgamma = 0, dbias = 0;
		for (int i = 0; i < n; i++) {
			struct moments k = moments(&p, i, i + 1, j);
			size_t at = (size_t)i * cp + j;
			for (int q = 0; q < per; q++) {
				double x = p.x[((size_t)i * c + j) * per + q], dz = p.dz[((size_t)i * c + j) * per + q];
				double dx = back(&k, p.gamma[j], x, dz) + (taps ? p.ta[at] + p.tb[at] * x : 0);
				forward = further(forward, x * scale[at] + shift[at], (x - k.mean) / sqrt(k.var + eps) * p.gamma[j] + p.beta[j]);
				backward = further(backward, gain[at] * dz + a[at] + b[at] * (x - center[at]), dx);
			}
			dgamma += k.sdzx / sqrt(k.var + eps);
			dbias += k.sdz;
		}
		if (affine) {
			gradients = further(gradients, dg[j], dgamma);
			gradients = further(gradients, dbeta[j], dbias);
		}
	}
	double room = per > 4 ? 1 : 30;
	ok(forward < 4e-6 * room, "instance norm %d,%d,%d (error %.2g)", n, c, per, forward);
	ok(backward < 4e-6 * room && gradients < 2e-6 * room, "and back%s%s (errors %.2g %.2g)", taps ? " with a tap" : "",
	    affine ? ", with gamma and beta" : "", backward, gradients);
	ok(padding_zero(scale, n, c, cp) && padding_zero(shift, n, c, cp) && padding_zero(center, n, c, cp) &&
	    padding_zero(gain, n, c, cp) && padding_zero(a, n, c, cp) && padding_zero(b, n, c, cp), "zeros beyond C");
	ok(gpu_launches("in_forward") == 1 && gpu_launches("in_backward") == 1 && gpu_launches(NULL) == 2,
	    "and what was launched");
	free(scale), free(shift), free(center), free(gain), free(a), free(b), free(dg), free(dbeta);
	cudaFree(sum), cudaFree(sumsq), cudaFree(gamma), cudaFree(beta), cudaFree(ta), cudaFree(tb), cudaFree(dcenter);
	cudaFree(sdz), cudaFree(sdzx);
	problem_free(&p);
}

static void test_frozen(int c, bool biased, bool norm)
{
	struct problem p = problem_new(1, c, 1);
	int cp = p.cp;
	float *bias = floats(1, c, cp, 0, 1, 8), *dbias = there(bias, cp), *mean = there(p.ref, cp), *var = there(p.var0, cp);
	float *gamma = there(p.gamma, cp), *beta = there(p.beta, cp);
	float *dscale = float_room(cp), *dshift = float_room(cp), *dref = float_room(cp);
	double worst = 0;

	gpu_forget_launches();
	gpu_bn_frozen(0, dscale, dshift, dref, biased ? dbias : NULL, norm ? mean : NULL, norm ? var : NULL,
	    norm ? gamma : NULL, norm ? beta : NULL, eps, c);
	float *scale = fetch(dscale, cp), *shift = fetch(dshift, cp), *ref = fetch(dref, cp);
	for (int j = 0; j < c; j++) {
		double x = p.x[j], v = x + (biased ? bias[j] : 0);
		double want = norm ? (v - p.ref[j]) / sqrt((double)p.var0[j] + eps) * p.gamma[j] + p.beta[j] : v;
		worst = further(worst, x * scale[j] + shift[j], want);
		worst = further(worst, ref[j], (norm ? p.ref[j] : 0) - (biased ? bias[j] : 0));
	}
	ok(worst < 2e-6, "frozen%s%s, %d channels (error %.2g)", biased ? ", bias" : "", norm ? ", norm" : "", c, worst);
	ok(padding_zero(scale, 1, c, cp) && padding_zero(shift, 1, c, cp) && padding_zero(ref, 1, c, cp) &&
	    gpu_launches("bn_frozen") == 1, "zeros beyond C; one launch");
	free(scale), free(shift), free(ref), free(bias);
	cudaFree(dbias), cudaFree(mean), cudaFree(var), cudaFree(gamma), cudaFree(beta);
	problem_free(&p);
}

/* A sum that is NaN is seen in its channel alone; a variance that rounding made negative counts as 0. */
static void test_nan(void)
{
	double sum[3] = { NAN, 2, 1 }, sumsq[3] = { 1, 4 - 1e-9, 5 }, var[3];
	float gamma[8] = { 1, 1, 1 }, zero[8] = { 0 };
	double *dsum = on_device(sum, sizeof sum), *dsumsq = on_device(sumsq, sizeof sumsq);
	double *dmean = on_device(NULL, sizeof var), *dvar = on_device(NULL, sizeof var);
	float *dgamma = there(gamma, 8), *dzero = there(zero, 8), *dscale = float_room(8), *dshift = float_room(8),
	    *dcenter = float_room(8);

	gpu_bn_forward(0, dmean, dvar, dscale, dshift, dcenter, dsum, dsumsq, dzero, dgamma, dzero, eps, 1, 1, 3);
	from_device(var, dvar, sizeof var);
	float *scale = fetch(dscale, 8), *shift = fetch(dshift, 8), *center = fetch(dcenter, 8);
	ok(isnan(var[0]) && isnan(scale[0]) && isnan(shift[0]) && isnan(center[0]), "batch norm: NaN stays NaN");
	ok(var[1] == 0 && var[2] == 4 && isfinite(scale[1]), "and a variance below 0 is 0");
	free(scale), free(shift), free(center);
	dscale = float_room(8), dshift = float_room(8), dcenter = float_room(8);
	gpu_in_forward(0, dscale, dshift, dcenter, dsum, dsumsq, dgamma, dzero, eps, 1, 1, 3);
	scale = fetch(dscale, 8), shift = fetch(dshift, 8), center = fetch(dcenter, 8);
	ok(isnan(scale[0]) && isnan(shift[0]), "instance norm: NaN stays NaN");
	ok(fabs(scale[1] - 1 / sqrt(eps)) < 1e-4 && isfinite(shift[2]), "and a variance below 0 is 0");
	free(scale), free(shift), free(center);
	cudaFree(dsum), cudaFree(dsumsq), cudaFree(dmean), cudaFree(dvar), cudaFree(dgamma), cudaFree(dzero);
}

int main(void)
{
	progname = "t_gpu_norm";
	test_bn(1, 3, 1);
	test_bn(2, 13, 9);
	test_bn(37, 70, 6);
	test_bn(16, 64, 4);
	for (int i = 0; i < 4; i++) {
		test_in(1, 3, 12, i & 1, i & 2);
		test_in(37, 70, 6, i & 1, i & 2);
		test_in(2, 8, 2, i & 1, i & 2);
		test_frozen(5 + i * 59, i & 1, i & 2);
	}
	test_nan();
	return tap_end();
}
