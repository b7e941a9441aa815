/* kernels/means.cu against lib/match.c. Prints TAP. */
#include <math.h>
#include <string.h>

#include "../kernels/gpu.h"
#include "../lib/match.h"
#include "../lib/rng.h"
#include "gpu_mem.h"
#include "tap.h"

/* The last class has more rows than a block has warps. */
enum { CLASSES = 4, FEW = 11, ROWS = 50, WIDEST = 300 };

static float *draw(int count, int place)
{
	struct rng r = rng_at(5, RNG_NOISE, place, 0, 0);
	float *x = ecalloc(count, sizeof *x);

	for (int i = 0; i < count; i++)
		x[i] = 2 + rng_normal(&r);
	return x;
}

static double off_by(const float *got, const float *want, int count)
{
	double worst = 0;

	for (int i = 0; i < count; i++)
		worst = fmax(worst, isnan(want[i]) ? (isnan(got[i]) ? 0 : INFINITY) : fabs(got[i] - want[i]));
	return worst;
}

/* Means and deviations of rows that stand class by class, one class without any, some rows that do not count. */
static void test_means(int f)
{
	static const struct gpu_group group[CLASSES] = { { 0, 3 }, { 4, 1 }, { 5, 0 }, { 6, ROWS - 7 } };
	float *x = draw(ROWS * f, 1), mean[CLASSES * WIDEST], dev[CLASSES * WIDEST], got[CLASSES * WIDEST];
	const size_t bytes = (size_t)CLASSES * f * sizeof *x;

	for (int k = 0; k < CLASSES; k++)
		for (int j = 0; j < f; j++) {
			double sum = 0, square = 0;
			for (int i = 0; i < group[k].n; i++)
				sum += x[(group[k].first + i) * f + j] / (double)group[k].n;
			for (int i = 0; i < group[k].n; i++)
				square += pow(x[(group[k].first + i) * f + j] - sum, 2) / group[k].n;
			mean[k * f + j] = group[k].n ? sum : -7, dev[k * f + j] = group[k].n ? sqrt(square) : -7;
		}
	for (int i = 0; i < CLASSES * f; i++)
		got[i] = -7;
	float *at = on_device(x, ROWS * f * sizeof *x), *m = on_device(got, bytes), *d = on_device(got, bytes);
	struct gpu_group *g = on_device(group, sizeof group);
	gpu_forget_launches();
	gpu_class_means(0, m, d, at, g, CLASSES, f);
	ok(gpu_launches(NULL) == 1 && gpu_launches("class_means") == 1, "%d features: all classes in one launch", f);
	from_device(got, m, bytes);
	ok(off_by(got, mean, CLASSES * f) < 1e-6, "%d features: means, a class without rows left alone", f);
	from_device(got, d, bytes);
	ok(off_by(got, dev, CLASSES * f) < 1e-6, "%d features: deviations", f);
	gpu_class_means(0, m, NULL, at, g, CLASSES, f);
	void *all[] = { at, m, d, g };
	for (size_t i = 0; i < LEN(all); i++)
		cudaFree(all[i]);
	free(x);
}

/* Rows of classes 2, 0, 3 in no order, and many more of 3; class 1 has none. The rest is index_rows()'. */
static int64_t label[ROWS] = { 2, 0, 2, 2, 3, 0, 2, 3, 3, 3, 3 };
static int order[ROWS];
static struct gpu_group group[CLASSES];

static void index_rows(void)
{
	int n = 0;

	for (int i = FEW; i < ROWS; i++)
		label[i] = CLASSES - 1;
	for (int k = 0; k < CLASSES; k++) {
		group[k].first = n;
		for (int i = 0; i < ROWS; i++)
			if (label[i] == k)
				order[n++] = i;
		group[k].n = n - group[k].first;
	}
}

static double on_gpu(float *dx, const float *x, const float *mu, const float *sigma, int f, double w, double scale)
{
	int count = gpu_match_means_values(CLASSES, f);
	size_t rows = (size_t)ROWS * f * sizeof *x, classes = (size_t)CLASSES * f * sizeof *x;
	double *value = emalloc(count * sizeof *value), sum = 0;
	float *at = on_device(x, rows), *to = on_device(NULL, rows), *m = on_device(mu, classes);
	float *s = sigma ? on_device(sigma, classes) : NULL;
	struct gpu_group *g = on_device(group, sizeof group);
	int *o = on_device(order, sizeof order);
	double *v = on_device(NULL, count * sizeof *v);

	gpu_match_means(0, v, to, at, g, o, m, s, CLASSES, f, w, scale);
	from_device(value, v, count * sizeof *v);
	from_device(dx, to, rows);
	for (int i = 0; i < count; i++)
		sum += value[i];
	void *all[] = { at, to, m, s, g, o, v };
	for (size_t i = 0; i < LEN(all); i++)
		cudaFree(all[i]);
	free(value);
	return sum;
}

static void compare(const char *what, const float *x, const float *mu, const float *sigma, int f, double w)
{
	float want[ROWS * WIDEST], got[ROWS * WIDEST], again[ROWS * WIDEST];
	double loss = match_features(x, ROWS, f, label, mu, sigma, w, 0.25, want);

	gpu_forget_launches();
	double value = on_gpu(got, x, mu, w > 0 ? sigma : NULL, f, w, 0.25);
	ok(gpu_launches(NULL) == 1 && gpu_launches("match_means") == 1, "%s: all classes in one launch", what);
	ok(isnan(loss) ? isnan(value) : fabs(value - loss) <= 1e-10 * loss, "%s: value %.15g, the CPU's %.15g", what, value, loss);
	ok(off_by(got, want, ROWS * f) < 1e-6, "%s: the gradient is off by %.2g", what, off_by(got, want, ROWS * f));
	value -= on_gpu(again, x, mu, w > 0 ? sigma : NULL, f, w, 0.25);
	ok((value == 0 || isnan(value)) && !memcmp(got, again, ROWS * f * sizeof *got), "%s: the same bytes again", what);
}

static void test_match(int f)
{
	float *x = draw(ROWS * f, 2), *mu = draw(CLASSES * f, 3), *sigma = draw(CLASSES * f, 4);
	char what[80];

	snprintf(what, sizeof what, "%d features", f);
	compare(what, x, mu, sigma, f, 0);
	snprintf(what, sizeof what, "%d features and deviations", f);
	compare(what, x, mu, sigma, f, 0.5);
	for (int i = 0; i < ROWS; i++) /* all alike: no deviation to divide by */
		x[i * f + 2] = 1.5;
	snprintf(what, sizeof what, "%d features, one without deviation", f);
	compare(what, x, mu, sigma, f, 0.5);
	x[3 * f + 1] = NAN;
	snprintf(what, sizeof what, "%d features, NaN in one", f);
	compare(what, x, mu, sigma, f, 0.5);
	free(x), free(mu), free(sigma);
}

int main(void)
{
	static const int width[] = { 5, 128, WIDEST };

	progname = "t_gpu_means";
	setvbuf(stdout, NULL, _IOLBF, 0);
	index_rows();
	for (size_t i = 0; i < LEN(width); i++) {
		test_means(width[i]);
		test_match(width[i]);
	}
	return tap_end();
}
