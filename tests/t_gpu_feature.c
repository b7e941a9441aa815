/* kernels/feature.cu against plain sums and lib's references, in double. Prints TAP. */
#include "gpu_maps.h"
#include "ref.h"
#include "tap.h"

static const int shape[][4] = { /* N,C,H,W */
	{ 1, 3, 1, 1 }, { 2, 13, 5, 7 }, { 3, 24, 4, 4 }, { 1, 64, 41, 40 }, { 2, 20, 33, 30 }, { 1, 136, 9, 9 },
	{ 2, 8, 1, 6 },
};
enum { SHAPES = LEN(shape) };

static struct maps shaped(enum elem type, int k)
{
	return maps_of(type, shape[k][0], shape[k][1], shape[k][2], shape[k][3]);
}

static const char *describe(struct maps m)
{
	static char text[64];

	snprintf(text, sizeof text, "%s %d,%d,%d,%d", type_name(m.type), m.n, m.c, m.h, m.w);
	return text;
}

/* Coefficients here and there; one row for all images, or one each. */
struct table {
	float *host;
	int64_t stride;
	struct coef there;
};

/* around + spread * normal ones, beyond C `beyond`. */
static struct table table_new(struct maps m, bool each, double around, double spread, float beyond, int seed)
{
	struct rng r = rng_at(seed, RNG_NOISE, 99, 0, 0);
	int rows = each ? m.n : 1;
	struct table t = { .host = ecalloc((size_t)rows * m.cp, sizeof *t.host), .stride = each ? m.cp : 0 };

	for (int i = 0; i < rows * m.cp; i++)
		t.host[i] = i % m.cp < m.c ? around + spread * rng_normal(&r) : beyond;
	t.there = (struct coef){ on_device(t.host, (size_t)rows * m.cp * sizeof *t.host), t.stride };
	return t;
}

static void table_free(struct table *t)
{
	free(t->host);
	cudaFree((void *)t->there.v);
}

static void *scratch_for(struct maps m)
{
	size_t n = gpu_sums_scratch(m);

	return on_device(NULL, n ? n : 8);
}

/* What is made for a batch serves fewer images, which may be cut into more pieces each. */
static void test_scratch(void)
{
	static const int side[] = { 4, 7, 14, 28, 32, 56, 64, 112 }, channels[] = { 8, 64, 128, 512 }, batch[] = { 100, 128, 256 };
	int bad = 0;

	for (size_t i = 0; i < LEN(side); i++)
		for (size_t j = 0; j < LEN(channels); j++)
			for (size_t k = 0; k < LEN(batch); k++) {
				struct maps m = { batch[k], side[i], side[i], channels[j], channels[j], ELEM_F32 };
				size_t room = gpu_sums_scratch(m);
				for (m.n = 1; m.n < batch[k]; m.n += 9)
					bad += gpu_sums_scratch(m) > room;
			}
	ok(bad == 0, "scratch for a batch is enough for each part of it (%d times not)", bad);
}

/* The doubles at p, which is released, against want: the largest error over size, which is that of the terms. */
static double sums_differ(double *p, const double *want, const double *size, size_t n)
{
	double *got = emalloc(n * sizeof *got), worst = 0;

	from_device(got, p, n * sizeof *got);
	cuda_ok(cudaFree(p), "cudaFree");
	for (size_t i = 0; i < n; i++) {
		double d = isnan(want[i]) && isnan(got[i]) ? 0 : fabs(got[i] - want[i]) / (size[i] + 1e-30);
		worst = isnan(d) ? INFINITY : fmax(worst, d);
	}
	free(got);
	return worst;
}

/* want[0] = sum of x, want[1] = of x*y, by image and channel, and the same of absolute values in size. */
static void sums_of(double *want[2], double *size[2], const double *x, const double *y, struct maps m)
{
	int per = m.h * m.w;

	for (int k = 0; k < 2; k++) {
		want[k] = ecalloc((size_t)m.n * m.c, sizeof *want[k]);
		size[k] = ecalloc((size_t)m.n * m.c, sizeof *size[k]);
	}
	for (size_t i = 0; i < maps_values(m); i++) {
		want[0][i / per] += x[i], size[0][i / per] += fabs(x[i]);
		want[1][i / per] += x[i] * y[i], size[1][i / per] += fabs(x[i] * y[i]);
	}
}

static void free_sums(double *want[2], double *size[2])
{
	for (int k = 0; k < 2; k++)
		free(want[k]), free(size[k]);
}

/* Values around `mean`, sums about something `off` away from it; two launches where an image has several blocks. */
static void test_sums(struct maps m, double mean, double off, bool bad)
{
	int per = m.h * m.w;
	double *x = random_planes(m, 1), *d = ecalloc(maps_values(m), sizeof *d), *want[2], *size[2];
	struct table ref = table_new(m, false, mean + off, 0.5, 0, 2);
	void *scratch = scratch_for(m);
	double *sum = on_device(NULL, m.n * m.c * sizeof *sum), *sumsq = on_device(NULL, m.n * m.c * sizeof *sum);

	for (size_t i = 0; i < maps_values(m); i++) {
		x[i] = rounded(x[i] + mean, m.type);
		if (bad && i == maps_values(m) / 2)
			x[i] = NAN;
		d[i] = x[i] - ref.host[i / per % m.c];
	}
	sums_of(want, size, d, d, m);
	void *maps = maps_to_device(x, m);
	gpu_forget_launches();
	gpu_sums(0, sum, sumsq, maps, ref.there.v, m, scratch);
	double e1 = sums_differ(sum, want[0], size[0], m.n * m.c), e2 = sums_differ(sumsq, want[1], size[1], m.n * m.c);
	ok(e1 < 2e-7 && e2 < 4e-7, "%s: sums of values about %g%s (errors %.2g %.2g)", describe(m), mean,
	    bad ? ", one NaN" : "", e1, e2);
	ok(gpu_launches("sums") == 1 && gpu_launches(NULL) == 1 + (per > 900), "and what was launched");
	cudaFree(scratch), cudaFree(maps);
	table_free(&ref);
	free_sums(want, size);
	free(x), free(d);
}

static void test_sums_back(struct maps m, bool each)
{
	int per = m.h * m.w;
	double *x = random_planes(m, 3), *dz = random_planes(m, 4), *want[2], *size[2];
	struct table center = table_new(m, each, 2, 1, 0, 5);
	void *scratch = scratch_for(m), *there = maps_to_device(x, m), *dzthere = maps_to_device(dz, m);
	double *sdz = on_device(NULL, m.n * m.c * sizeof *sdz), *sdzx = on_device(NULL, m.n * m.c * sizeof *sdz);

	for (size_t i = 0; i < maps_values(m); i++)
		x[i] -= center.host[i / per / m.c * center.stride + i / per % m.c];
	sums_of(want, size, dz, x, m);
	gpu_forget_launches();
	gpu_sums_back(0, sdz, sdzx, dzthere, there, center.there, m, scratch);
	double e1 = sums_differ(sdz, want[0], size[0], m.n * m.c), e2 = sums_differ(sdzx, want[1], size[1], m.n * m.c);
	ok(e1 < 2e-7 && e2 < 4e-7, "%s: sums of gradients%s (errors %.2g %.2g)", describe(m),
	    each ? ", a center each" : "", e1, e2);
	ok(gpu_launches("sums") == 1, "and what was launched");
	cudaFree(scratch), cudaFree(there), cudaFree(dzthere);
	table_free(&center);
	free_sums(want, size);
	free(x), free(dz);
}

static void test_channel_sums(struct maps m)
{
	int per = m.h * m.w;
	double *x = random_planes(m, 6), *want = ecalloc(m.c, sizeof *want), *size = ecalloc(m.c, sizeof *size), worst = 0;
	void *scratch = scratch_for(m), *there = maps_to_device(x, m);
	float *out = on_device(NULL, m.c * sizeof *out), *got = emalloc(m.c * sizeof *got);

	for (size_t i = 0; i < maps_values(m); i++) {
		want[i / per % m.c] += x[i];
		size[i / per % m.c] += fabs(x[i]);
	}
	gpu_forget_launches();
	gpu_channel_sums(0, out, there, m, scratch);
	from_device(got, out, m.c * sizeof *got);
	for (int c = 0; c < m.c; c++)
		worst = fmax(worst, isnan(got[c]) ? INFINITY : fabs(got[c] - want[c]) / size[c]);
	ok(worst < 2e-7, "%s: sums by channel (error %.2g)", describe(m), worst);
	ok(gpu_launches("sums") == 1 && gpu_launches("fold_sums") == 1, "and what was launched");
	cudaFree(scratch), cudaFree(there), cudaFree(out);
	free(x), free(want), free(size), free(got);
}

struct epilogue {
	bool res, mask, relu, pool, each, inplace;
};

static struct maps pooled(struct maps m, bool pool)
{
	return pool ? maps_of(m.type, m.n, m.c, m.h / 2, m.w / 2) : m;
}

/* Does the mask there, which is released, have these bits, and none beyond C and where a pool drops? */
static bool mask_is(uint8_t *there, const unsigned char *positive, struct maps m, bool pool)
{
	int per = m.h * m.w, groups = m.cp / 8;
	uint8_t *got = emalloc((size_t)m.n * per * groups);
	bool good = true;

	from_device(got, there, (size_t)m.n * per * groups);
	cuda_ok(cudaFree(there), "cudaFree");
	for (int i = 0; i < m.n; i++)
		for (int c = 0; c < m.cp; c++)
			for (int j = 0; j < per; j++) {
				bool dropped = pool && (j / m.w >= m.h / 2 * 2 || j % m.w >= m.w / 2 * 2);
				bool want = c < m.c && !dropped && positive[((size_t)i * m.c + c) * per + j];
				good = good && (got[((size_t)i * per + j) * groups + c / 8] >> c % 8 & 1) == want;
			}
	free(got);
	return good;
}

static void test_epilogue(struct maps m, struct epilogue how)
{
	struct maps out = pooled(m, how.pool);
	int per = m.h * m.w;
	double *x = random_planes(m, 7), *res = random_planes(m, 8), *want = ecalloc(maps_values(out) + 1, sizeof *want);
	unsigned char *positive = ecalloc(maps_values(m), 1);
	struct table scale = table_new(m, how.each, 1, 0.5, how.relu ? 3 : 0, 9);
	struct table shift = table_new(m, how.each, 0, 0.5, 0, 10);
	void *there = maps_to_device(x, m), *rthere = maps_to_device(res, m);
	void *y = how.inplace ? there : on_device(NULL, maps_bytes(out) + 16);
	uint8_t *mask = on_device(NULL, (size_t)m.n * per * m.cp / 8);

	for (int i = 0; i < m.n; i++) {
		double s[256], t[256];
		for (int c = 0; c < m.c; c++)
			s[c] = scale.host[i * scale.stride + c], t[c] = shift.host[i * shift.stride + c];
		size_t at = (size_t)i * m.c;
		ref_epilogue(want + at * out.h * out.w, positive + at * per, x + at * per, how.res ? res + at * per : NULL, s, t, m.c,
		    m.h, m.w, how.relu, how.pool);
	}
	gpu_forget_launches();
	gpu_epilogue(0, y, how.mask ? mask : NULL, there, how.res ? rthere : NULL, scale.there, shift.there, m, how.relu,
	    how.pool);
	double e = maps_differ(y, want, out);
	bool marked = how.mask ? mask_is(mask, positive, m, how.pool) : true;
	ok(e < tolerance(m.type) && marked, "%s: epilogue%s%s%s%s%s%s (error %.2g%s)", describe(m), how.res ? " res" : "",
	    how.mask ? " mask" : "", how.relu ? " relu" : "", how.pool ? " pool" : "", how.each ? " each" : "",
	    how.inplace ? " in place" : "", e, marked ? "" : ", mask");
	ok(gpu_launches(how.pool ? "epilogue_pool" : "epilogue") == 1 && gpu_launches(NULL) == 1, "and what was launched");
	if (!how.inplace)
		cudaFree(there);
	if (!how.mask)
		cudaFree(mask);
	cudaFree(rthere);
	table_free(&scale), table_free(&shift);
	free(x), free(res), free(want), free(positive);
}

/* A NaN goes through ReLU and pool, and no further than to its own value; infinity and its negative are sorted. */
static void test_nan(enum elem type, bool pool)
{
	struct maps m = maps_of(type, 1, 9, 4, 4), out = pooled(m, pool);
	double *x = random_planes(m, 11), *want = ecalloc(maps_values(out), sizeof *want), one[9], zero[9] = { 0 };
	unsigned char *positive = ecalloc(maps_values(m), 1);
	struct table scale = table_new(m, false, 1, 0, 0, 1), shift = table_new(m, false, 0, 0, 0, 1);
	void *y = maps_on_device(out);
	uint8_t *mask = on_device(NULL, 2 * 16);

	x[20] = NAN, x[40] = INFINITY, x[60] = -INFINITY;
	for (int c = 0; c < 9; c++)
		one[c] = 1;
	ref_epilogue(want, positive, x, NULL, one, zero, m.c, m.h, m.w, true, pool);
	void *there = maps_to_device(x, m);
	gpu_epilogue(0, y, mask, there, NULL, scale.there, shift.there, m, true, pool);
	double e = maps_differ(y, want, out);
	ok(e < tolerance(type) && mask_is(mask, positive, m, pool), "%s: NaN and infinity%s", type_name(type),
	    pool ? ", pooled" : "");
	cudaFree(there);
	table_free(&scale), table_free(&shift);
	free(x), free(want), free(positive);
}

struct undo {
	int ndy;
	bool mask, pool, gain, norm, each;
	enum { BOTH, DX, DZ, OVER_DZ, OVER_DY } out;
};

/* dz (N,C,H,W) of gradients dy, by the definition; a mask of its own bits. */
static void undo_ref(double *dz, double *const *dy, const uint8_t *mask, struct maps m, struct undo how)
{
	struct maps out = pooled(m, how.pool);
	int per = m.h * m.w;

	for (int i = 0; i < m.n; i++)
		for (int c = 0; c < m.c; c++)
			for (int j = 0; j < per; j++) {
				double *z = dz + ((size_t)i * m.c + c) * per + j;
				int r = how.pool ? j / m.w / 2 : j / m.w, q = how.pool ? j % m.w / 2 : j % m.w;
				*z = 0;
				if (r >= out.h || q >= out.w)
					continue;
				if (mask && !(mask[((size_t)i * per + j) * m.cp / 8 + c / 8] >> c % 8 & 1))
					continue;
				for (int d = 0; d < how.ndy; d++)
					*z += dy[d][(((size_t)i * m.c + c) * out.h + r) * out.w + q] / (how.pool ? 4 : 1);
			}
}

static void test_undo(struct maps m, struct undo how)
{
	struct maps out = pooled(m, how.pool);
	int per = m.h * m.w;
	size_t values = maps_values(m), nmask = (size_t)m.n * per * m.cp / 8;
	double *dy[GPU_GRADIENTS], *x = random_planes(m, 12);
	double *dz = ecalloc(values, sizeof *dz), *dx = ecalloc(values, sizeof *dx);
	struct gradients g = { .n = how.ndy };
	uint8_t *mask = ecalloc(nmask, 1);
	struct rng r = rng_at(13, RNG_NOISE, 0, 0, 0);
	struct table gain = table_new(m, how.each, 1, 0.5, 0, 14), a = table_new(m, how.each, 0, 1, 0, 15);
	struct table b = table_new(m, how.each, 0, 1, 0, 16), ref = table_new(m, false, 1, 1, 0, 17);
	const struct coef none = { NULL, 0 };
	void *there = maps_to_device(x, m);

	for (size_t i = 0; i < nmask; i++)
		mask[i] = rng_u32(&r);
	void *mthere = on_device(mask, nmask);
	for (int d = 0; d < how.ndy; d++) {
		dy[d] = maps_values(out) ? random_planes(out, 20 + d) : NULL;
		g.dy[d] = maps_values(out) ? maps_to_device(dy[d], out) : on_device(NULL, 16);
	}
	undo_ref(dz, dy, how.mask ? mask : NULL, m, how);
	for (size_t i = 0; i < values; i++) {
		int c = i / per % m.c;
		size_t at = i / per / m.c * gain.stride + c;
		dx[i] = (how.gain ? gain.host[at] : 1) * dz[i];
		if (how.norm)
			dx[i] += a.host[at] + b.host[at] * (x[i] - ref.host[c]);
	}
	void *dzthere = how.out == DX || how.out == OVER_DY ? NULL : maps_on_device(m);
	void *dxthere = how.out == DZ ? NULL : how.out == OVER_DZ ? dzthere : how.out == OVER_DY ? (void *)g.dy[0] :
	    maps_on_device(m);
	gpu_forget_launches();
	gpu_undo(0, dxthere, dzthere, g, how.mask ? mthere : NULL, how.pool, how.gain ? gain.there : none,
	    how.norm ? a.there : none, b.there, ref.there, how.norm ? there : NULL, m);
	double ez = dzthere && how.out != OVER_DZ ? maps_differ(dzthere, dz, m) : 0;
	double ex = dxthere ? maps_differ(dxthere, dx, m) : 0;
	static const char *name[] = { "both", "dx", "dz", "dx over dz", "dx over dy" };
	ok(ez < tolerance(m.type) && ex < 2 * tolerance(m.type), "%s: undo of %d%s%s%s%s%s, %s (errors %.2g %.2g)",
	    describe(m), how.ndy, how.mask ? " mask" : "", how.pool ? " pool" : "", how.gain ? " gain" : "",
	    how.norm ? " norm" : "", how.each ? " each" : "", name[how.out], ez, ex);
	ok(gpu_launches(how.pool ? "undo_pool" : "undo") == 1 && gpu_launches(NULL) == 1, "and what was launched");
	for (int d = 0; d < how.ndy; d++) {
		if (d || how.out != OVER_DY)
			cudaFree((void *)g.dy[d]);
		free(dy[d]);
	}
	cudaFree(there), cudaFree(mthere);
	table_free(&gain), table_free(&a), table_free(&b), table_free(&ref);
	free(x), free(dz), free(dx), free(mask);
}

static void test_type(enum elem type)
{
	for (int k = 0; k < SHAPES; k++) {
		struct maps m = shaped(type, k);
		test_sums(m, 0, 0, false);
		test_sums_back(m, k % 2);
		test_channel_sums(m);
		for (int bits = 0; bits < 16; bits++) { /* every mix somewhere: a different one of `each` on the next shape */
			struct epilogue e = { bits & 1, bits & 2 && bits & 4, bits & 4, bits & 8, (bits + k) % 2, false };
			if (k < 4 || (bits + k) % 5 == 0)
				test_epilogue(m, e);
		}
		test_epilogue(m, (struct epilogue){ .res = k % 2, .mask = true, .relu = true, .each = k % 3, .inplace = true });
		for (int bits = 0; bits < 16; bits++) {
			struct undo u = { bits % 3 ? 1 : 2, bits & 1, bits & 2, bits & 4, bits & 8, (bits + k) % 2, (bits + k) % 4 };
			if (k < 3 || (bits + k) % 5 == 0)
				test_undo(m, u);
		}
		test_undo(m, (struct undo){ GPU_GRADIENTS, true, k % 2, true, true, k % 3, BOTH });
		test_undo(m, (struct undo){ 3, true, false, true, k % 2, false, OVER_DY });
	}
	test_sums(maps_of(type, 1, 128, 49, 47), 0, 1, false); /* more blocks an image than the second stage has rows */
	test_channel_sums(maps_of(type, 3, 128, 31, 29));
	test_sums(shaped(type, 3), 1000, 0, false);
	test_sums(shaped(type, 1), 1000, 0, false);
	test_sums(shaped(type, 4), 100, -100, false);
	test_sums(shaped(type, 4), 0, 0, true);
	test_nan(type, false);
	test_nan(type, true);
}

int main(void)
{
	progname = "t_gpu_feature";
	test_scratch();
	test_type(ELEM_F32);
	test_type(ELEM_BF16);
	return tap_end();
}
