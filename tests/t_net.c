/* Networks against PyTorch in float64 (fixtures/nets.ts, made by gen_nets.py): logits, synthesis, training. And what a
 * plan promises: the same bytes at any number of threads and in a larger plan; gradients are slopes. Prints TAP. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../lib/loss.h"
#include "../lib/optim.h"
#include "problem.h"
#include "tap.h"

enum { STEPS = 10 };

static void test_eval(struct problem *p, struct workspace *ws)
{
	struct plan *plan = make_plan(p, PLAN_EVAL, p->n, ws);
	size_t count = (size_t)p->n * p->k;

	plan_forward(plan, p->n, p->images, p->logits);
	double off = off_max(p->logits, want32(p, "eval.logits", count), count);
	ok(off <= BOUND_LOGITS, "%s: logits off by %.1e", p->name, off);
	plan_free(plan);
}

static void test_synth(struct problem *p, struct workspace *ws)
{
	static const struct { const char *name; double w; } form[] = { { "global", 0 }, { "classwise", 1 }, { "mixed", 0.5 } };
	struct plan *plan = make_plan(p, PLAN_SYNTH, p->n, ws);
	float *grad = ecalloc(p->pixels, sizeof *grad);

	ok(plan_ntaps(plan) == p->ntap || !p->ntap, "%s: %d batch norms tapped", p->name, p->ntap);
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

static void test_adam(struct problem *p, struct workspace *ws)
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

static void test_train(struct problem *p, struct workspace *ws)
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

static struct outcome outcome(struct problem *p, int threads, int batch)
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

static int same(const struct problem *p, const struct outcome *a, const struct outcome *b)
{
	return a->loss == b->loss && !memcmp(a->grad, b->grad, p->pixels * sizeof *a->grad) &&
	    !memcmp(a->logits, b->logits, (size_t)p->n * p->k * sizeof *a->logits);
}

static void test_bytes(struct problem *p)
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
static void test_slope(struct problem *p, struct workspace *ws)
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

int main(int argc, char **argv)
{
	struct workspace *ws = ws_new();
	struct ts_reader r;
	struct val *frame;
	struct problem p;
	char err[ERRLEN];
	int got, n = 0;

	progname = "t_net";
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (ts_open(&r, argc > 1 ? argv[1] : "tests/fixtures/nets.ts", "fixture") < 0)
		die("%s", r.err);
	for (; (got = ts_next(&r, &frame)) > 0; n++) {
		problem_new(&p, frame);
		ok(p.found == p.net->nparam && p.found == (int)p.names->list.len, "%s: PyTorch's %zu tensors by name", p.name,
		    p.names->list.len);
		int good = plannable(&p, err);
		ok(good, "%s: plans for all purposes%s%s", p.name, good ? "" : ": ", good ? "" : err);
		if (good) {
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
