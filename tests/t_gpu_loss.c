/* kernels/loss.cu against lib/loss.c. Prints TAP. */
#include <math.h>
#include <string.h>

#include "../kernels/gpu.h"
#include "../lib/loss.h"
#include "../lib/rng.h"
#include "gpu_mem.h"
#include "tap.h"

enum { MOST = 3 }; /* teachers */
enum which { CE, MIXED, KL, ENSEMBLE };

struct problem {
	enum which which;
	enum ensemble how;
	int n, k, teachers;
	double temperature, weight;
	bool t2, gradient;
	float lambda;
	float *x, *target;        /* (teachers,n,k), (n,k) */
	int64_t *label, *partner; /* (n) */
};

static void fill(float *x, int count, double size, int place)
{
	struct rng r = rng_at(1, RNG_NOISE, place, 0, 0);

	for (int i = 0; i < count; i++)
		x[i] = size * rng_normal(&r);
}

static struct problem problem_new(enum which which, int n, int k, int teachers)
{
	struct problem p = { .which = which, .n = n, .k = k, .teachers = teachers, .temperature = 1, .weight = 1, .gradient = true,
		.lambda = 0.3f };

	p.x = ecalloc((size_t)teachers * n * k, sizeof *p.x);
	p.target = ecalloc((size_t)n * k, sizeof *p.target);
	p.label = ecalloc(n, sizeof *p.label);
	p.partner = ecalloc(n, sizeof *p.partner);
	fill(p.x, teachers * n * k, 3, 0);
	fill(p.target, n * k, 3, 1);
	for (int i = 0; i < n; i++)
		p.label[i] = (i * 37 + k - 1) % k, p.partner[i] = i * 11 % k;
	return p;
}

static void problem_free(struct problem *p)
{
	free(p->x);
	free(p->target);
	free(p->label);
	free(p->partner);
}

/* d (teachers,n,k) */
static double on_cpu(const struct problem *p, float *d)
{
	float *xs[MOST], *ds[MOST];

	for (int t = 0; t < p->teachers; t++) {
		xs[t] = p->x + (size_t)t * p->n * p->k;
		ds[t] = d + (size_t)t * p->n * p->k;
	}
	switch (p->which) {
	case CE:
		return loss_ce(p->x, p->label, p->n, p->k, d);
	case MIXED:
		return loss_ce_mixed(p->x, p->label, p->partner, p->lambda, p->n, p->k, d);
	case KL:
		return loss_kl(p->x, p->target, p->n, p->k, p->temperature, p->t2, d);
	default:
		break;
	}
	double value = loss_ensemble(xs, p->teachers, p->label, p->n, p->k, p->how, ds);
	for (int i = 0; i < p->teachers * p->n * p->k; i++)
		d[i] *= p->weight;
	return value;
}

static void start(const struct problem *p, double *value, double *rows, float *x, float *d, const float *target,
    const int64_t *label, const int64_t *partner, const float *lambda)
{
	struct gpu_members t = { .n = p->teachers, .weight = p->weight };

	for (int i = 0; i < t.n; i++) {
		t.logits[i] = x + (size_t)i * p->n * p->k;
		t.dlogits[i] = d ? d + (size_t)i * p->n * p->k : NULL;
	}
	if (p->which == CE)
		gpu_ce(0, value, rows, d, x, label, p->n, p->k);
	else if (p->which == MIXED)
		gpu_ce_mixed(0, value, rows, d, x, label, partner, lambda, p->n, p->k);
	else if (p->which == KL)
		gpu_kl(0, value, rows, d, x, target, p->n, p->k, p->temperature, p->t2);
	else
		gpu_ensemble(0, value, rows, t, label, p->n, p->k, p->how);
}

static double on_gpu(const struct problem *p, float *d)
{
	size_t size = (size_t)p->n * p->k * sizeof(float);
	float *x = on_device(p->x, p->teachers * size), *target = on_device(p->target, size);
	float *dd = on_device(NULL, p->teachers * size), *lambda = on_device(&p->lambda, sizeof p->lambda);
	int64_t *label = on_device(p->label, p->n * sizeof *label);
	int64_t *partner = on_device(p->partner, p->n * sizeof *partner);
	double *value = on_device(NULL, sizeof *value), *rows = on_device(NULL, p->n * sizeof *rows), loss;

	start(p, value, rows, x, p->gradient ? dd : NULL, target, label, partner, lambda);
	from_device(&loss, value, sizeof loss);
	from_device(d, dd, p->teachers * size);
	void *all[] = { x, target, dd, lambda, label, partner, value, rows };
	for (size_t i = 0; i < LEN(all); i++)
		cudaFree(all[i]);
	return loss;
}

/* Equal, or both NaN, or off by float's rounding at most. */
static bool near_to(float got, float want)
{
	return isnan(want) ? isnan(got) : fabs((double)got - want) <= 1e-7 * fabs((double)want) + 1e-38;
}

static const char *kernel_of(const struct problem *p)
{
	static const char *name[] = { "ce", "ce_mixed", "kl" };
	static const char *of[] = { "ensemble_logits", "ensemble_probs", "ensemble_each" };

	return p->which == ENSEMBLE ? of[p->how] : name[p->which];
}

static void compare(const char *what, const struct problem *p)
{
	int count = p->teachers * p->n * p->k, wrong = 0, unwritten = 0;
	float *want = ecalloc(count, sizeof *want), *got = ecalloc(count, sizeof *got);
	float *again = ecalloc(count, sizeof *again);
	const char *kernel = kernel_of(p);

	gpu_forget_launches();
	double cpu = on_cpu(p, want), gpu = on_gpu(p, got);
	ok(gpu_launches(kernel) == 1 && gpu_launches("mean_rows") == 1 && gpu_launches(NULL) == 2, "%s: %s ran", what,
	    kernel);
	ok(isnan(cpu) ? isnan(gpu) : isinf(cpu) ? gpu == cpu : fabs(gpu - cpu) <= 1e-12 * (1 + fabs(cpu)),
	    "%s: value %.15g, the CPU's %.15g", what, gpu, cpu);
	for (int i = 0; i < count; i++) {
		wrong += !near_to(got[i], want[i]);
		unwritten += isnan(got[i]) && !isnan(want[i]);
	}
	if (p->gradient)
		ok(!wrong && !unwritten, "%s: %d of %d gradients wrong, %d missing", what, wrong, count, unwritten);
	else
		ok(unwritten == count, "%s: no gradient wanted, none written", what);
	double second = on_gpu(p, again);
	ok(!memcmp(&second, &gpu, sizeof gpu) && !memcmp(again, got, count * sizeof *got), "%s: the same bytes again",
	    what);
	free(want);
	free(got);
	free(again);
}

static void test_sizes(void)
{
	const int n[] = { 1, 7, 3, 5, 300 }, k[] = { 10, 1, 129, 1000, 2 };
	const char *name[] = { "cross-entropy", "mixed labels", "KL" };
	char what[80];

	for (size_t i = 0; i < LEN(n); i++)
		for (enum which w = CE; w <= KL; w++) {
			struct problem p = problem_new(w, n[i], k[i], 1);
			snprintf(what, sizeof what, "%s, %d x %d", name[w], n[i], k[i]);
			compare(what, &p);
			p.gradient = false;
			snprintf(what, sizeof what, "%s, %d x %d, value alone", name[w], n[i], k[i]);
			compare(what, &p);
			problem_free(&p);
		}
}

static void test_kl(void)
{
	struct problem p = problem_new(KL, 4, 21, 1);

	p.temperature = 20;
	compare("KL at T = 20", &p);
	p.t2 = true;
	compare("KL at T = 20, times T^2", &p);
	p.temperature = 0.1;
	compare("KL at T = 0.1, times T^2", &p);
	p.target[3] = p.target[22] = -INFINITY;
	compare("KL, a class ruled out", &p);
	p.target[50] = NAN;
	compare("KL, NaN in the target", &p);
	problem_free(&p);
}

static void test_ensembles(void)
{
	const char *name[] = { "logits", "probabilities", "each" };
	char what[80];

	for (enum ensemble how = ENS_LOGITS; how <= ENS_EACH; how++)
		for (int teachers = 1; teachers <= MOST; teachers += 2)
			for (int gradient = 0; gradient < 2; gradient++) {
				struct problem p = problem_new(ENSEMBLE, 5, 201, teachers);
				p.how = how;
				p.gradient = gradient;
				p.weight = teachers == 1 ? 1 : 0.25; /* which rounds nothing */
				snprintf(what, sizeof what, "ensemble of %d, %s%s", teachers, name[how],
				    gradient ? "" : ", value alone");
				compare(what, &p);
				problem_free(&p);
			}
}

/* Values that a sum of exponentials cannot take as they are; NaN. */
static void test_extremes(void)
{
	const char *name[] = { "cross-entropy", "mixed labels", "KL", "ensemble" };
	char what[80];

	for (enum which w = CE; w <= ENSEMBLE; w++)
		for (enum ensemble how = ENS_LOGITS; how <= (w == ENSEMBLE ? ENS_EACH : ENS_LOGITS); how++) {
			struct problem p = problem_new(w, 2, 5, w == ENSEMBLE ? 3 : 1);
			float x[] = { 1e30f, -1e30f, 0, 0, 0, 900, 900, -900, -900, 0 };
			for (int i = 0; i < p.teachers * 10; i++)
				p.x[i] = x[i % 10] * (1 + i / 10 * 0.1f);
			p.how = how;
			p.label[0] = 0, p.label[1] = 2, p.partner[0] = 0;
			snprintf(what, sizeof what, "huge logits, %s %d", name[w], how);
			compare(what, &p);
			p.x[3] = NAN;
			snprintf(what, sizeof what, "NaN, %s %d", name[w], how);
			compare(what, &p);
			p.x[0] = p.x[3];
			snprintf(what, sizeof what, "NaN at the label, %s %d", name[w], how);
			compare(what, &p);
			problem_free(&p);
		}
}

int main(void)
{
	progname = "t_gpu_loss";
	setvbuf(stdout, NULL, _IOLBF, 0);
	test_sizes();
	test_kl();
	test_ensembles();
	test_extremes();
	return tap_end();
}
