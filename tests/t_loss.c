/* Losses, matching, optimisers and schedules: against finite differences of plain double references, and PyTorch's
 * optimisers (fixtures/optim.ts). Prints TAP. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "../formats/tstream.h"
#include "../lib/loss.h"
#include "../lib/match.h"
#include "../lib/optim.h"
#include "../lib/rng.h"
#include "tap.h"

enum { N = 7, K = 5, T = 3 };

static void
fill(float *x, int n, double size, int place)
{
	struct rng r = rng_at(1, RNG_NOISE, place, 0, 0);

	for (int i = 0; i < n; i++)
		x[i] = size * rng_normal(&r);
}

/* References: the definitions, in double, over logits in double. */
struct problem {
	int64_t label[N], partner[N];
	double target[N * K], lambda, temperature;
	int t2, how;
};
typedef double loss_fn(const struct problem *p, const double *x);

static void
softmax(double *p, const double *x, double t)
{
	double sum = 0;

	for (int j = 0; j < K; j++)
		sum += p[j] = exp(x[j] / t);
	for (int j = 0; j < K; j++)
		p[j] /= sum;
}

static double
ref_mixed(const struct problem *p, const double *x)
{
	double loss = 0, q[K];

	for (int i = 0; i < N; i++) {
		softmax(q, x + i * K, 1);
		loss -= (p->lambda * log(q[p->label[i]]) + (1 - p->lambda) * log(q[p->partner[i]])) / N;
	}
	return loss;
}

static double
ref_kl(const struct problem *p, const double *x)
{
	double loss = 0, q[K], y[K];

	for (int i = 0; i < N; i++) {
		softmax(q, x + i * K, p->temperature);
		softmax(y, p->target + i * K, p->temperature);
		for (int j = 0; j < K; j++)
			loss += y[j] * log(y[j] / q[j]) / N;
	}
	return loss * (p->t2 ? p->temperature * p->temperature : 1);
}

static double
ref_ensemble(const struct problem *p, const double *x) /* (T,N,K) */
{
	double loss = 0, q[K];

	for (int i = 0; i < N; i++) {
		double mean[K] = { 0 }, prob = 0, ce = 0;
		for (int t = 0; t < T; t++) {
			const double *row = x + (t * N + i) * K;
			for (int j = 0; j < K; j++)
				mean[j] += row[j] / T;
			softmax(q, row, 1);
			prob += q[p->label[i]] / T;
			ce -= log(q[p->label[i]]) / T;
		}
		softmax(q, mean, 1);
		loss += (p->how == ENS_LOGITS ? -log(q[p->label[i]]) : p->how == ENS_PROBS ? -log(prob) : ce) / N;
	}
	return loss;
}

/* value and d (n) are what the library gave for x (n). */
static void
against(const char *name, loss_fn *f, const struct problem *p, const float *x, int n, double value, const float *d)
{
	double y[T * N * K] = { 0 }, worst = 0, size = 0, h = 1e-5;

	for (int i = 0; i < n; i++)
		y[i] = x[i];
	ok(fabs(f(p, y) - value) <= 1e-6 * (1 + fabs(value)), "%s: value %g, reference %g", name, value, f(p, y));
	for (int i = 0; i < n; i++) {
		double keep = y[i];
		y[i] = keep + h;
		double up = f(p, y);
		y[i] = keep - h;
		double slope = (up - f(p, y)) / (2 * h);
		y[i] = keep;
		worst = fmax(worst, fabs(slope - d[i]));
		size = fmax(size, fabs(slope));
	}
	ok(size > 0 && worst <= 1e-5 * size, "%s: gradient off by %g of %g", name, worst, size);
}

static void
test_losses(void)
{
	struct problem p = { .lambda = 0.3f, .temperature = 20 };
	float x[T * N * K], target[N * K], d[T * N * K], *xs[T], *ds[T];
	double l;

	fill(x, T * N * K, 2, 0);
	fill(target, N * K, 2, 1);
	for (int i = 0; i < N * K; i++)
		p.target[i] = target[i];
	for (int i = 0; i < N; i++)
		p.label[i] = i * 3 % K, p.partner[i] = i % K;
	for (int t = 0; t < T; t++)
		xs[t] = x + t * N * K, ds[t] = d + t * N * K;

	l = loss_ce_mixed(x, p.label, p.partner, 0.3f, N, K, d);
	against("mixed labels", ref_mixed, &p, x, N * K, l, d);
	p.lambda = 1;
	l = loss_ce(x, p.label, N, K, d);
	against("cross-entropy", ref_mixed, &p, x, N * K, l, d);
	ok(loss_ce(x, p.label, N, K, NULL) == l, "cross-entropy without a gradient");
	for (p.t2 = 0; p.t2 < 2; p.t2++) {
		l = loss_kl(x, target, N, K, 20, p.t2, d);
		against(p.t2 ? "KL times T^2" : "KL at T = 20", ref_kl, &p, x, N * K, l, d);
	}
	p.t2 = 0, p.temperature = 1;
	l = loss_kl(x, target, N, K, 1, false, d);
	against("KL at T = 1", ref_kl, &p, x, N * K, l, d);
	ok(fabs(loss_kl(x, x, N, K, 20, false, d)) < 1e-12, "KL of equal logits is 0");
	for (p.how = ENS_LOGITS; p.how <= (int)ENS_EACH; p.how++) {
		const char *name[] = { "ensemble: logits", "ensemble: probabilities", "ensemble: each" };
		l = loss_ensemble(xs, T, p.label, N, K, p.how, ds);
		against(name[p.how], ref_ensemble, &p, x, T * N * K, l, d);
		ok(loss_ensemble(xs, T, p.label, N, K, p.how, NULL) == l, "%s: without a gradient", name[p.how]);
	}
}

static void
test_extremes(void)
{
	float x[2 * K] = { 1e30f, -1e30f, 0, 0, 0, 900, 900, -900, -900, 0 }, d[2 * K], d2[2 * K];
	float *xs[2] = { x, x }, *ds[2] = { d, d2 };
	int64_t label[2] = { 0, 1 };
	double half = log(2) / 2, l = loss_ce(x, label, 2, K, d);
	int finite = 1;

	ok(fabs(l - half) < 1e-6, "huge logits: %g", l);
	for (int how = ENS_LOGITS; how <= (int)ENS_EACH; how++) {
		l = loss_ensemble(xs, 2, label, 2, K, how, ds);
		finite &= fabs(l - half) < 1e-6;
		for (int i = 0; i < 2 * K; i++)
			finite &= isfinite(d[i]) && isfinite(d2[i]);
	}
	ok(finite, "huge logits: ensembles");
	label[1] = 2; /* probability exp(-1800): the mean of softmax underflows, its logarithm must not */
	l = loss_ensemble(xs, 2, label, 2, K, ENS_PROBS, ds);
	ok(fabs(l - (1800 + log(2)) / 2) < 1e-6 && fabs(d[K + 2] + 0.25) < 1e-6, "improbable label: %g", l);
	x[3] = NAN;
	ok(isnan(loss_ce(x, label, 2, K, d)) && isnan(loss_kl(x, x, 2, K, 1, false, d)), "NaN stays NaN");

	float y[4 * 3] = { 1, 1, 0, 0, 2, 2, NAN, NAN, NAN, 3, 2, 1 };
	int64_t top[4] = { 0, 2, 0, 0 };
	ok(count_correct(y, top, 4, 3) == 2, "top-1: ties go to the lower class, NaN to none");
}

/* A tap as a plan fills it, from features x (n,C,per). */
struct features {
	int n, c;
	int64_t per;
	float ref[3];
	struct tap tap;
};

static void
tap_fill(struct features *f, const double *x)
{
	int cells = f->n * f->c;

	f->tap = (struct tap){ .c = f->c, .per = f->per, .ref = f->ref };
	f->tap.sum = ecalloc(cells, sizeof(double));
	f->tap.sumsq = ecalloc(cells, sizeof(double));
	f->tap.a = ecalloc(cells, sizeof(float));
	f->tap.b = ecalloc(cells, sizeof(float));
	for (int i = 0; i < cells; i++)
		for (int64_t p = 0; p < f->per; p++) {
			double d = x[i * f->per + p] - f->ref[i % f->c];
			f->tap.sum[i] += d;
			f->tap.sumsq[i] += d * d;
		}
}

static void
tap_free(struct features *f)
{
	free(f->tap.sum);
	free(f->tap.sumsq);
	free(f->tap.a);
	free(f->tap.b);
}

static void
test_match_case(const char *name, const int64_t *label, double w)
{
	enum { IMAGES = 5, C = 3, PER = 4, CLASSES = 6, ALL = IMAGES * C * PER };
	struct features f = { .n = IMAGES, .c = C, .per = PER, .ref = { 0.5f, -2, 0 } };
	float mean[C], var[C], cmean[CLASSES * C], cvar[CLASSES * C], noise[ALL];
	struct layer_stats s = { C, CLASSES, mean, var, cmean, cvar };
	double x[ALL], dx[ALL] = { 0 }, unused[ALL], worst = 0, off = 0, size = 0, h = 1e-5;

	fill(mean, C, 1, 2);
	fill(var, C, 1, 3);
	fill(cmean, CLASSES * C, 1, 4);
	fill(cvar, CLASSES * C, 1, 5);
	fill(noise, ALL, 1.5, 6);
	for (int i = 0; i < ALL; i++)
		x[i] = noise[i] + 0.3;
	double ref = match_layer_ref(x, IMAGES, C, PER, &s, label, w, 10, 0.25, dx);
	tap_fill(&f, x);
	f.tap.a[0] = NAN; /* coefficients are written, not added to */
	double fast = match_layer(&f.tap, &s, label, IMAGES, w, 10, 0.25);
	for (int i = 0; i < ALL; i++) {
		double keep = x[i], fast_dx = f.tap.a[i / PER] + f.tap.b[i / PER] * (x[i] - f.ref[i / PER % C]);
		x[i] = keep + h;
		double up = match_layer_ref(x, IMAGES, C, PER, &s, label, w, 10, 0.25, unused);
		x[i] = keep - h;
		double down = match_layer_ref(x, IMAGES, C, PER, &s, label, w, 10, 0.25, unused);
		x[i] = keep;
		worst = fmax(worst, fabs(0.25 * (up - down) / (2 * h) - dx[i]));
		off = fmax(off, isnan(fast_dx) ? INFINITY : fabs(fast_dx - dx[i]));
		size = fmax(size, fabs(dx[i]));
	}
	ok(ref > 1 && fabs(fast - ref) <= 1e-9 * ref, "match, %s: value %.9g, reference %.9g", name, fast, ref);
	ok(size > 0 && worst <= 1e-6 * size, "match, %s: the reference's gradient is its slope (%g of %g)", name, worst, size);
	ok(off <= 1e-6 * size, "match, %s: gradient off by %g of %g", name, off, size);
	tap_free(&f);
}

static void
test_match(void)
{
	const int64_t mixed[] = { 4, 1, 4, 4, 1 }, single[] = { 0, 5, 2, 3, 4 }, some[] = { 0, 5, 0, 3, 4 };

	test_match_case("global", NULL, 0);
	test_match_case("class-wise", mixed, 1);
	test_match_case("class-wise, lone images too", some, 1);
	test_match_case("mixture", single, 1);
	test_match_case("half and half", mixed, 0.5);
	test_match_case("half mixture", single, 0.25);

	/* Statistics that are exactly right: mean 1 (ref 1), variance 1. */
	double x[] = { 0, 2, 2, 0, 0, 2 };
	struct features f = { .n = 3, .c = 1, .per = 2, .ref = { 1 } };
	float one = 1, many[] = { 1, 1 };
	struct layer_stats s = { 1, 2, &one, &one, many, many };
	const int64_t label[] = { 0, 1, 0 }, lone[] = { 1 };
	double w[] = { 0, 0.5, 1 };
	for (size_t i = 0; i < LEN(w); i++) {
		int zero = 1;
		tap_fill(&f, x);
		zero &= match_layer(&f.tap, &s, label, 3, w[i], 10, 1) == 0;
		for (int j = 0; j < 3; j++)
			zero &= f.tap.a[j] == 0 && f.tap.b[j] == 0;
		zero &= match_layer(&f.tap, &s, lone, 1, w[i], 10, 1) == 0 && f.tap.a[0] == 0 && f.tap.b[0] == 0;
		ok(zero, "match: no difference, no gradient (w = %g)", w[i]);
		tap_free(&f);
	}
	x[1] = NAN;
	tap_fill(&f, x);
	ok(isnan(match_layer(&f.tap, &s, NULL, 3, 0, 1, 1)), "match: NaN stays NaN");
	tap_free(&f);
}

static struct optim
optim_named(const char *name, size_t n)
{
	int adamw = !strcmp(name, "adamw");
	struct optim o = optim_new(adamw ? OPT_ADAMW : strncmp(name, "adam", 4) ? OPT_SGD : OPT_ADAM, n);

	o.weight_decay = 0;
	if (!strcmp(name, "sgd-momentum") || !strcmp(name, "sgd-nesterov"))
		o.momentum = 0.9;
	if (!strcmp(name, "sgd-decay"))
		o.momentum = 0.5;
	o.nesterov = !strcmp(name, "sgd-nesterov");
	if (!strcmp(name, "adam"))
		o.beta1 = 0.5, o.beta2 = 0.9;
	if (adamw || !strcmp(name, "sgd-nesterov") || !strcmp(name, "sgd-decay") || !strcmp(name, "adam-l2"))
		o.weight_decay = 0.05;
	return o;
}

static void
test_pytorch(const char *path)
{
	struct ts_reader r;
	struct val *frame;
	int n = 0;

	if (ts_open(&r, path, "fixture") < 0)
		die("%s", r.err);
	while (ts_next(&r, &frame) > 0) {
		const struct tensor *want = val_get_tensor(frame, "theta"), *start = val_get_tensor(frame, "start");
		const struct tensor *grad = val_get_tensor(frame, "grad"); /* (steps,n), (n), (steps,n) */
		const char *name = val_get_str(frame, "case");
		int steps = want->shape[0], size = want->shape[1];
		struct optim o = optim_named(name, size);
		float *theta = ecalloc(size, sizeof *theta), *g = ecalloc(size, sizeof *g);
		double worst = 0;

		for (int i = 0; i < size; i++)
			theta[i] = ((double *)start->data)[i];
		for (int s = 0; s < steps; s++) {
			for (int i = 0; i < size; i++)
				g[i] = ((double *)grad->data)[s * size + i];
			optim_step(&o, theta, g, 0.1, NULL, NULL, NULL);
			for (int i = 0; i < size; i++)
				worst = fmax(worst, fabs(theta[i] - ((double *)want->data)[s * size + i]));
		}
		ok(steps == 10 && worst < 2e-6, "%s: ten steps off by %g from PyTorch", name, worst);
		n++;
		optim_free(&o);
		free(theta);
		free(g);
		val_free(frame);
	}
	ok(!*r.err && n == 7, "seven optimisers in %s%s", path, r.err);
	ts_close(&r);
}

/* Over more than one block and an odd rest: flags, clamp, and the same bytes at any number of threads. */
static void
test_blocks(enum optim_kind kind)
{
	enum { SIZE = 5003 };
	float *grad = ecalloc(SIZE, sizeof *grad), *lo = ecalloc(SIZE, sizeof *lo), *hi = ecalloc(SIZE, sizeof *hi);
	float *theta[3];
	unsigned char *decay = ecalloc(SIZE, 1);
	int same = 1, inside = 1, still = 1;

	for (int i = 0; i < SIZE; i++)
		lo[i] = -0.6f - i % 3, hi[i] = 0.7f + i % 5, decay[i] = i % 2;
	for (int t = 0; t < 3; t++) {
		struct optim o = optim_new(kind, SIZE);
		o.weight_decay = 0.5;
		theta[t] = ecalloc(SIZE, sizeof *theta[t]);
		fill(theta[t], SIZE, 1, 7);
		omp_set_num_threads(t + 1);
		for (int s = 0; s < 5; s++) {
			fill(grad, SIZE, 1, 8 + s);
			optim_step(&o, theta[t], grad, 0.05, decay, lo, hi);
		}
		same &= !memcmp(theta[t], theta[0], SIZE * sizeof *theta[t]);
		optim_free(&o);
	}
	for (int i = 0; i < SIZE; i++)
		inside &= theta[0][i] >= lo[i] && theta[0][i] <= hi[i];
	ok(same, "optimiser %d: the same bytes with 1, 2 and 3 threads", kind);
	ok(inside, "optimiser %d: clamped", kind);

	struct optim o = optim_new(kind, SIZE); /* without a gradient only decay moves anything */
	o.weight_decay = 0.5;
	memset(grad, 0, SIZE * sizeof *grad);
	fill(theta[0], SIZE, 1, 7);
	fill(theta[1], SIZE, 1, 7);
	optim_step(&o, theta[0], grad, 0.05, decay, NULL, NULL);
	for (int i = 0; i < SIZE; i++)
		still &= (theta[0][i] == theta[1][i]) == !decay[i];
	ok(still, "optimiser %d: decay only where its flag is set", kind);
	optim_free(&o);
	for (int t = 0; t < 3; t++)
		free(theta[t]);
	free(grad);
	free(lo);
	free(hi);
	free(decay);
}

static void
rate(const char *spec, double t, double want)
{
	struct schedule s;
	char err[ERRLEN] = "";
	double got = schedule_parse(&s, spec, 0.2, err) < 0 ? NAN : schedule_rate(&s, t, 50);

	ok(fabs(got - want) < 1e-12, "%s at %g of 50: %g%s", spec, t, got, err);
}

static void
test_schedules(void)
{
	const char *bad[] = { "", "cos", "cosine:", "cosine:x", "cosine:5:1", "cosine:-1", "step", "step:0", "step:3:2",
		"step:3:0.1:", "smooth:0.5", "const:1", "cosine 5", "cosine: 5", "step:nan", "cosine:1e99" };
	struct schedule s;
	char err[ERRLEN];

	rate("const", 49, 0.2);
	rate("cosine", 0, 0.2);
	rate("cosine", 25, 0.1);
	rate("cosine", 50, 0);
	rate("cosine:5", 0, 0.002);
	rate("cosine:5", 2.5, 0.2 * (0.01 + 0.99 / 2));
	rate("cosine:5", 5, 0.2);
	rate("cosine:5", 27.5, 0.1);
	rate("step:20", 19, 0.2);
	rate("step:20", 20, 0.02);
	rate("step:20:0.5", 40, 0.05);
	rate("smooth", 25, 0.1 * (1 + cos(M_PI / 4)));
	rate("smooth:1", 25, 0.1);
	for (size_t i = 0; i < LEN(bad); i++) {
		*err = 0;
		ok(schedule_parse(&s, bad[i], 0.2, err) < 0 && *err, "schedule '%s' is refused", bad[i]);
	}
}

int
main(int argc, char **argv)
{
	progname = "t_loss";
	setvbuf(stdout, NULL, _IOLBF, 0);
	test_losses();
	test_extremes();
	test_match();
	test_pytorch(argc > 1 ? argv[1] : "tests/fixtures/optim.ts");
	for (int kind = OPT_SGD; kind <= OPT_ADAMW; kind++)
		test_blocks(kind);
	test_schedules();
	return tap_end();
}
