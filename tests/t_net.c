/* Networks against PyTorch in float64 (fixtures/nets.ts, made by gen_nets.py): logits, synthesis, training. And what a
 * plan promises: the same bytes at any number of threads and in a larger plan; gradients are slopes. Prints TAP. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../formats/tstream.h"
#include "../lib/loss.h"
#include "../lib/match.h"
#include "../lib/optim.h"
#include "../lib/plan.h"
#include "tap.h"

#define BOUND_LOGITS 1e-4
#define BOUND 1e-3

enum { STEPS = 10, STRIDE = 7, WHOLE = 3200, MAX_TAPS = 64 };

/* One case of the fixture, ready to run. */
struct problem {
	const char *name;
	struct val *frame;
	struct net *net;
	struct weights weights;
	int n, k, ntap;
	int chw[3];
	size_t pixels;                /* of all images */
	const int64_t *label;         /* (n) */
	float *images;                /* (n,C,H,W) */
	float *logits, *dlogits;      /* (n,K) */
	double alpha, first;
	int calm;                     /* another formula for norms, see gen_nets.py */
	struct layer_stats stat[MAX_TAPS]; /* in the order of the frame's "bn" */
};

/* The formula of the fixture's values: element i of tensor j, in [0, 1). */
static double
uniform(uint32_t i, uint32_t j)
{
	uint32_t h = i * 2654435761u + j * 40503u + 12345u;

	h ^= h >> 16;
	h *= 0x45d9f3bu;
	h ^= h >> 16;
	return h / 4294967296.0;
}

enum form { PLUS, CENTRED };

static float *
values(size_t count, int j, enum form form)
{
	float *x = ecalloc(count, sizeof *x);

	for (size_t i = 0; i < count; i++)
		x[i] = form == PLUS ? 0.5 + uniform(i, j) : (uniform(i, j) - 0.5) * 0.5;
	return x;
}

static int
find_param(const struct net *net, const char *name)
{
	for (int i = 0; i < net->nparam; i++)
		if (!strcmp(net->param[i].name, name))
			return i;
	return -1;
}

static void
fill_param(struct problem *p, int param, int j)
{
	const struct param *q = &p->net->param[param];
	enum op op = p->net->node[q->node].op;
	int heavy = op == OP_CONV || op == OP_LINEAR;
	float *x = weights_param(p->net, &p->weights, param);
	size_t fan_in = q->count / q->shape[0];

	for (size_t i = 0; i < q->count; i++) {
		double u = uniform(i, j), calm_beta = u < 0.5 ? u - 1 : u;
		if (heavy)
			x[i] = q->role == P_WEIGHT ? (2 * u - 1) * sqrt(3) * sqrt(2.0 / fan_in) : (u - 0.5) * 0.2;
		else if (q->role == P_WEIGHT)
			x[i] = (0.5 + u) * (p->calm ? 0.15 : 1);
		else if (q->role == P_BIAS && p->calm)
			x[i] = calm_beta;
		else
			x[i] = q->role == P_VAR ? 0.5 + u : (u - 0.5) * 0.5;
	}
}

static void
fill_weights(struct problem *p)
{
	const struct val *names = val_get(p->frame, "names");
	int found = 0;

	for (size_t j = 0; j < names->list.len; j++) {
		int param = find_param(p->net, names->list.item[j]->s.p);
		if (param < 0)
			continue;
		fill_param(p, param, j);
		found++;
	}
	ok(found == p->net->nparam && found == (int)names->list.len, "%s: PyTorch's %zu tensors by name", p->name,
	    names->list.len);
}

static void
problem_new(struct problem *p, struct val *frame)
{
	const struct val *shape = val_get(frame, "shape"), *bn = val_get(frame, "bn");
	const struct tensor *labels = val_get_tensor(frame, "labels");
	char err[ERRLEN];

	*p = (struct problem){ .name = val_get_str(frame, "case"), .frame = frame, .n = labels->shape[0] };
	p->label = labels->data;
	p->k = val_get_int(frame, "classes", 0);
	p->alpha = val_get_f64(frame, "alpha", 0);
	const struct val *calm = val_get(frame, "calm");
	p->calm = calm && calm->type == V_BOOL && calm->b;
	p->first = val_get_f64(frame, "first", 0);
	for (int i = 0; i < 3; i++)
		p->chw[i] = shape->list.item[i]->i;
	p->net = net_arch(val_get_str(frame, "arch"), p->chw, p->k, err);
	if (!p->net)
		die("%s: %s", p->name, err);
	p->weights = weights_new(p->net);
	fill_weights(p);
	p->pixels = (size_t)p->n * p->chw[0] * p->chw[1] * p->chw[2];
	p->images = ecalloc(p->pixels, sizeof *p->images);
	for (size_t i = 0; i < p->pixels; i++)
		p->images[i] = (2 * uniform(i, 1000 + val_get_int(frame, "seed", 0)) - 1) * 1.7;
	p->logits = ecalloc((size_t)p->n * p->k, sizeof *p->logits);
	p->dlogits = ecalloc((size_t)p->n * p->k, sizeof *p->dlogits);
	p->ntap = bn->list.len;
	for (int l = 0; l < p->ntap; l++) {
		char gamma[96];
		snprintf(gamma, sizeof gamma, "%s.weight", bn->list.item[l]->s.p);
		int param = find_param(p->net, gamma);
		size_t c = param < 0 ? 1 : p->net->param[param].count;
		p->stat[l] = (struct layer_stats){ c, p->k, values(c, 2000 + 2 * l, CENTRED),
			values(c, 2001 + 2 * l, PLUS), values(p->k * c, 3000 + 2 * l, CENTRED),
			values(p->k * c, 3001 + 2 * l, PLUS) };
	}
}

static void
problem_free(struct problem *p)
{
	for (int l = 0; l < p->ntap; l++) {
		free(p->stat[l].mean);
		free(p->stat[l].var);
		free(p->stat[l].cmean);
		free(p->stat[l].cvar);
	}
	free(p->images);
	free(p->logits);
	free(p->dlogits);
	weights_free(&p->weights);
	net_free(p->net);
	val_free(p->frame);
}

static const double *
want(const struct problem *p, const char *key, size_t count) /* f64; dies unless it has so many */
{
	const struct tensor *t = val_get_tensor(p->frame, key);

	if (!t || t->type != DT_F64 || tensor_count(t) != count)
		die("fixture %s: no %s of %zu", p->name, key, count);
	return t->data;
}

static const float *
want32(const struct problem *p, const char *key, size_t count)
{
	const struct tensor *t = val_get_tensor(p->frame, key);

	if (!t || t->type != DT_F32 || tensor_count(t) != count)
		die("fixture %s: no %s of %zu", p->name, key, count);
	return t->data;
}

/* Largest difference over largest value. */
static double
off_max(const float *got, const float *ref, size_t n)
{
	double worst = 0, size = 0;

	for (size_t i = 0; i < n; i++) {
		double d = fabs((double)got[i] - ref[i]);
		worst = isnan(d) ? INFINITY : fmax(worst, d);
		size = fmax(size, fabs(ref[i]));
	}
	return worst / size;
}

static double
off_max64(const double *got, const double *ref, size_t n)
{
	double worst = 0, size = 0;

	for (size_t i = 0; i < n; i++) {
		double d = fabs(got[i] - ref[i]);
		worst = isnan(d) ? INFINITY : fmax(worst, d);
		size = fmax(size, fabs(ref[i]));
	}
	return worst / size;
}

static double
norm(const float *x, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += (double)x[i] * x[i];
	return sqrt(sum);
}

/* Relative L2 distance of what the fixture stores of an image tensor (all, or every STRIDEth), and of its norm. */
static double
off_images(const struct problem *p, const char *key, const float *got)
{
	size_t stride = p->pixels > WHOLE ? STRIDE : 1, count = (p->pixels + stride - 1) / stride;
	const float *ref = want32(p, key, count);
	char *norm_key = eprintf_str("%s.norm", key);
	double full = *want(p, norm_key, 1), diff = 0, size = 0;

	free(norm_key);
	for (size_t i = 0; i < count; i++) {
		double d = (double)got[i * stride] - ref[i];
		diff += d * d;
		size += (double)ref[i] * ref[i];
	}
	return fmax(sqrt(diff / size), fabs(norm(got, p->pixels) - full) / full);
}

/* Parameters in the fixture's order: those that `pick` names. */
enum pick { TRAINED, RUNNING, ALL };

static int
picked(const struct param *q, enum pick pick)
{
	int running = q->role == P_MEAN || q->role == P_VAR;

	return pick == ALL || running == (pick == RUNNING);
}

/* Largest relative L2 distance of a tensor (its stored part, its norm) from the fixture. A tensor far smaller than the
 * largest, as the gradient of a bias in front of a norm (zero but for rounding), is held against `floor` of that. */
static double
off_params(const struct problem *p, const char *key, enum pick pick, const struct weights *w, double floor)
{
	const struct val *names = val_get(p->frame, "names");
	const struct tensor *stored = val_get_tensor(p->frame, key);
	char *norm_key = eprintf_str("%s.norm", key);
	const struct tensor *norms = val_get_tensor(p->frame, norm_key);
	double worst = 0, top = 0;
	size_t at = 0, tensor = 0;

	free(norm_key);
	if (!stored || !norms || stored->type != DT_F32 || norms->type != DT_F64)
		die("fixture %s: no %s", p->name, key);
	const float *ref = stored->data;
	const double *full = norms->data;
	for (size_t i = 0; i < tensor_count(norms); i++)
		top = fmax(top, full[i]);
	for (size_t j = 0; j < names->list.len; j++) {
		int i = find_param(p->net, names->list.item[j]->s.p);
		const struct param *q = &p->net->param[i];
		if (!picked(q, pick))
			continue;
		const float *got = weights_param(p->net, w, i);
		size_t stride = q->count / 41 + 1;
		double diff = 0, size = 0, share;
		for (size_t e = 0; e < q->count; e += stride, at++) {
			double d = (double)got[e] - ref[at];
			diff += d * d;
			size += (double)ref[at] * ref[at];
		}
		/* The stored part stands for the whole: its floor is in proportion. */
		share = sqrt((double)((q->count + stride - 1) / stride) / q->count);
		double off = fmax(sqrt(diff) / fmax(sqrt(size), floor * top * share),
		    fabs(norm(got, q->count) - full[tensor]) / fmax(full[tensor], floor * top));
		worst = isnan(off) ? INFINITY : fmax(worst, off);
		tensor++;
	}
	if (at != tensor_count(stored) || tensor != tensor_count(norms))
		die("fixture %s: %s has %zu values, not %zu", p->name, key, tensor_count(stored), at);
	return worst;
}

static struct plan *
make_plan(const struct problem *p, enum purpose purpose, int batch, struct workspace *ws)
{
	char err[ERRLEN];
	struct plan *plan = plan_new(p->net, (struct plan_opts){ .purpose = purpose, .batch = batch }, err);

	if (!plan)
		die("%s: %s", p->name, err);
	plan_bind(plan, ws);
	plan_load(plan, &p->weights);
	return plan;
}

/* The statistics that belong to tap i of a plan, by the BN layer's name. */
static int
stats_of(const struct problem *p, struct plan *plan, int i)
{
	const struct val *bn = val_get(p->frame, "bn");

	for (size_t l = 0; l < bn->list.len; l++)
		if (!strcmp(bn->list.item[l]->s.p, p->net->node[plan_tap(plan, i)->node].name))
			return l;
	die("%s: a tap that the fixture has not", p->name);
}

/* CE + alpha * matching of every BN layer; the gradient of the images in dimages (n,C,H,W), if any. */
static double
synthesis(const struct problem *p, struct plan *plan, const float *images, double w, float *dimages)
{
	plan_forward(plan, p->n, images, p->logits);
	double loss = loss_ce(p->logits, p->label, p->n, p->k, p->dlogits);
	for (int i = 0; i < plan_ntaps(plan); i++) {
		int l = stats_of(p, plan, i);
		loss += p->alpha * match_layer(plan_tap(plan, i), &p->stat[l], p->label, p->n, w, l == 0 ? p->first : 1,
		    p->alpha);
	}
	if (dimages)
		plan_backward(plan, p->n, p->dlogits, dimages, NULL);
	return loss;
}

/* Whether plans for all purposes can be made, so that one that cannot does not hide the networks after it. */
static int
plannable(const struct problem *p)
{
	char err[ERRLEN] = "";
	int good = 1;

	for (int purpose = PLAN_EVAL; purpose <= PLAN_TRAIN && good; purpose++) {
		struct plan *plan = plan_new(p->net, (struct plan_opts){ .purpose = purpose, .batch = p->n }, err);
		good = plan != NULL;
		if (plan)
			plan_free(plan);
	}
	ok(good, "%s: plans for all purposes %s", p->name, err);
	return good;
}

static void
test_eval(struct problem *p, struct workspace *ws)
{
	struct plan *plan = make_plan(p, PLAN_EVAL, p->n, ws);
	size_t count = (size_t)p->n * p->k;

	plan_forward(plan, p->n, p->images, p->logits);
	double off = off_max(p->logits, want32(p, "eval.logits", count), count);
	ok(off <= BOUND_LOGITS, "%s: logits off by %.1e", p->name, off);
	plan_free(plan);
}

static void
test_synth(struct problem *p, struct workspace *ws)
{
	static const struct { const char *name; double w; } form[] = { { "global", 0 }, { "classwise", 1 }, { "mixed", 0.5 } };
	struct plan *plan = make_plan(p, PLAN_SYNTH, p->n, ws);
	float *grad = ecalloc(p->pixels, sizeof *grad);

	ok(plan_ntaps(plan) == p->ntap, "%s: %d taps", p->name, p->ntap);
	for (size_t f = 0; f < LEN(form); f++) {
		char *loss_key = eprintf_str("synth.%s.loss", form[f].name);
		char *grad_key = eprintf_str("synth.%s.grad", form[f].name);
		double loss = synthesis(p, plan, p->images, form[f].w, grad), ref = *want(p, loss_key, 1);
		ok(fabs(loss - ref) <= BOUND * fabs(ref), "%s: %s loss off by %.1e", p->name, form[f].name,
		    fabs(loss - ref) / fabs(ref));
		double off = off_images(p, grad_key, grad);
		ok(off <= BOUND, "%s: %s image gradient off by %.1e", p->name, form[f].name, off);
		free(loss_key);
		free(grad_key);
	}
	free(grad);
	plan_free(plan);
}

static void
test_adam(struct problem *p, struct workspace *ws)
{
	struct plan *plan = make_plan(p, PLAN_SYNTH, p->n, ws);
	struct optim adam = optim_new(OPT_ADAM, p->pixels);
	struct schedule cosine = { .kind = SCHED_COSINE, .base = val_get_f64(p->frame, "adam_lr", 0) };
	float *x = ecalloc(p->pixels, sizeof *x), *grad = ecalloc(p->pixels, sizeof *grad);
	float *lo = ecalloc(p->pixels, sizeof *lo), *hi = ecalloc(p->pixels, sizeof *hi);
	double losses[STEPS];

	adam.beta1 = 0.5, adam.beta2 = 0.9;
	memcpy(x, p->images, p->pixels * sizeof *x);
	for (size_t i = 0; i < p->pixels; i++) {
		hi[i] = 1.8 + 0.1 * (i / (p->chw[1] * p->chw[2]) % p->chw[0]);
		lo[i] = -hi[i];
	}
	for (int s = 0; s < STEPS; s++) {
		losses[s] = synthesis(p, plan, x, 0.5, grad);
		optim_step(&adam, x, grad, schedule_rate(&cosine, s, STEPS), NULL, lo, hi);
	}
	double off = off_max64(losses, want(p, "adam.losses", STEPS), STEPS);
	ok(off <= BOUND, "%s: ten Adam steps, losses off by %.1e", p->name, off);
	off = off_images(p, "adam.images", x);
	ok(off <= BOUND, "%s: ten Adam steps, images off by %.1e", p->name, off);
	optim_free(&adam);
	free(x);
	free(grad);
	free(lo);
	free(hi);
	plan_free(plan);
}

static void
test_train(struct problem *p, struct workspace *ws)
{
	struct plan *plan = make_plan(p, PLAN_TRAIN, p->n, ws);
	struct optim sgd = optim_new(OPT_SGD, p->net->ntheta);
	struct weights grad = weights_new(p->net);
	size_t count = (size_t)p->n * p->k;
	double losses[STEPS], off;

	sgd.momentum = 0.9, sgd.weight_decay = 5e-4;
	for (int s = 0; s < STEPS; s++) {
		plan_forward(plan, p->n, p->images, p->logits);
		losses[s] = loss_ce(p->logits, p->label, p->n, p->k, p->dlogits);
		plan_backward(plan, p->n, p->dlogits, NULL, grad.theta);
		plan_update_running(plan, p->n, &p->weights, BN_MOMENTUM);
		if (s == 0) {
			off = off_max(p->logits, want32(p, "train.logits", count), count);
			ok(off <= BOUND, "%s: batch logits off by %.1e", p->name, off);
			off = off_params(p, "train.grad", TRAINED, &grad, 1e-4);
			ok(off <= BOUND, "%s: gradients of parameters off by %.1e", p->name, off);
			if (p->ntap)
				off = off_params(p, "train.running", RUNNING, &p->weights, 0);
			if (p->ntap)
				ok(off <= BOUND, "%s: running statistics off by %.1e", p->name, off);
		}
		optim_step(&sgd, p->weights.theta, grad.theta, val_get_f64(p->frame, "sgd_lr", 0), NULL, NULL, NULL);
		plan_load(plan, &p->weights);
	}
	off = off_max64(losses, want(p, "train.losses", STEPS), STEPS);
	ok(off <= BOUND, "%s: ten training steps, losses off by %.1e", p->name, off);
	off = off_params(p, "train.final", ALL, &p->weights, 0);
	ok(off <= BOUND, "%s: ten training steps, weights off by %.1e", p->name, off);
	optim_free(&sgd);
	weights_free(&grad);
	plan_free(plan);
}

/* Logits, image gradient and loss with so many threads in a plan for a batch of so many. */
struct outcome {
	float *logits, *grad;
	double loss;
};

static struct outcome
outcome(struct problem *p, int threads, int batch)
{
	struct workspace *ws = ws_new();
	struct plan *plan;
	struct outcome o = { .grad = ecalloc(p->pixels, sizeof(float)) };
	size_t bytes = (size_t)p->n * p->k * sizeof(float);

	set_threads(threads);
	plan = make_plan(p, PLAN_SYNTH, batch, ws);
	o.loss = synthesis(p, plan, p->images, 0.5, o.grad);
	o.logits = emalloc(bytes);
	memcpy(o.logits, p->logits, bytes);
	plan_free(plan);
	ws_free(ws);
	return o;
}

static int
same(const struct problem *p, const struct outcome *a, const struct outcome *b)
{
	return a->loss == b->loss && !memcmp(a->grad, b->grad, p->pixels * sizeof *a->grad) &&
	    !memcmp(a->logits, b->logits, (size_t)p->n * p->k * sizeof *a->logits);
}

static void
test_bytes(struct problem *p)
{
	static const struct { int threads, more; } way[] = { { 1, 0 }, { 2, 0 }, { 3, 0 }, { 2, 5 }, { 1, 100 } };
	struct outcome first = outcome(p, way[0].threads, p->n);

	for (size_t i = 1; i < LEN(way); i++) {
		struct outcome o = outcome(p, way[i].threads, p->n + way[i].more);
		ok(same(p, &first, &o), "%s: the same bytes with %d threads in a plan for %d", p->name, way[i].threads,
		    p->n + way[i].more);
		free(o.logits);
		free(o.grad);
	}
	free(first.logits);
	free(first.grad);
	set_threads(2);
}

/* Along its gradient and across it, the loss climbs as the gradient says. */
static void
test_slope(struct problem *p, struct workspace *ws)
{
	struct plan *plan = make_plan(p, PLAN_SYNTH, p->n, ws);
	float *grad = ecalloc(p->pixels, sizeof *grad), *x = ecalloc(p->pixels, sizeof *x);
	double *dir = ecalloc(p->pixels, sizeof *dir), h = 1e-2, size;

	synthesis(p, plan, p->images, 0.5, grad);
	size = norm(grad, p->pixels);
	for (int k = 0; k < 3; k++) {
		double length = 0, slope = 0, loss[2];
		for (size_t i = 0; i < p->pixels; i++) {
			/* Half gradient, half chance: a random direction alone would see next to nothing. */
			dir[i] = grad[i] / size + (k > 0) * 2 * (uniform(i, 4000 + k) - 0.5) / sqrt(p->pixels);
			length += dir[i] * dir[i];
		}
		for (size_t i = 0; i < p->pixels; i++)
			slope += grad[i] * (dir[i] /= sqrt(length));
		for (int side = 0; side < 2; side++) {
			for (size_t i = 0; i < p->pixels; i++)
				x[i] = p->images[i] + (side ? h : -h) * dir[i];
			loss[side] = synthesis(p, plan, x, 0.5, NULL);
		}
		double measured = (loss[1] - loss[0]) / (2 * h);
		ok(size > 0 && fabs(measured - slope) <= 5e-3 * size, "%s: slope %g, gradient says %g", p->name, measured,
		    slope);
	}
	free(grad);
	free(x);
	free(dir);
	plan_free(plan);
}

int
main(int argc, char **argv)
{
	struct workspace *ws = ws_new();
	struct ts_reader r;
	struct val *frame;
	struct problem p;
	int got, n = 0;

	progname = "t_net";
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (ts_open(&r, argc > 1 ? argv[1] : "tests/fixtures/nets.ts", "fixture") < 0)
		die("%s", r.err);
	for (; (got = ts_next(&r, &frame)) > 0; n++) {
		problem_new(&p, frame);
		if (plannable(&p)) {
			test_eval(&p, ws);
			test_synth(&p, ws);
			test_adam(&p, ws);
			test_bytes(&p);
			if (!strcmp(p.name, "single") || !strcmp(p.name, "odd"))
				test_slope(&p, ws);
			test_train(&p, ws); /* last: it changes the weights */
		}
		problem_free(&p);
	}
	ok(got == 0 && n == 10, "ten networks%s", got < 0 ? r.err : "");
	ts_close(&r);
	ws_free(ws);
	return tap_end();
}
