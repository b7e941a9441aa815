/* Threads of one plan do not meet: what several compute side by side is what one computes alone. A net with everything
 * that a library runs for us (1x1 convolutions under a stride among it) and a batch of several chunks; more threads than
 * cores, several times, since a race need not show at once. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../lib/loss.h"
#include "../lib/plan.h"
#include "../lib/rng.h"
#include "tap.h"

enum { IMAGES = 52, SIDE = 16, CLASSES = 10, TIMES = 3 };

struct result { /* of one step: logits, and the gradient that the purpose gives */
	size_t nlogits, ngrad;
	float *logits, *grad;
};

static struct result step(const struct net *net, const struct weights *w, const float *images, const int64_t *label,
    enum purpose purpose, int threads)
{
	char err[ERRLEN];
	struct workspace *ws = ws_new();
	struct result r = { .nlogits = IMAGES * CLASSES };
	float *dlogits = emalloc(r.nlogits * sizeof *dlogits);
	struct plan *p;

	set_threads(threads);
	if (!(p = plan_new(net, (struct plan_opts){ .purpose = purpose, .batch = IMAGES }, err)))
		die("%s", err);
	r.ngrad = purpose == PLAN_TRAIN ? net->ntheta : purpose == PLAN_SYNTH ? IMAGES * 3 * SIDE * SIDE : 0;
	r.logits = emalloc(r.nlogits * sizeof *r.logits);
	r.grad = ecalloc(r.ngrad + 1, sizeof *r.grad);
	plan_bind(p, ws);
	plan_load(p, w);
	plan_forward(p, IMAGES, images, r.logits);
	loss_ce(r.logits, label, IMAGES, CLASSES, dlogits);
	if (r.ngrad)
		plan_backward(p, IMAGES, dlogits, purpose == PLAN_SYNTH ? r.grad : NULL, purpose == PLAN_TRAIN ? r.grad : NULL);
	plan_free(p);
	ws_free(ws);
	free(dlogits);
	return r;
}

static bool same(const struct result *a, const struct result *b)
{
	return !memcmp(a->logits, b->logits, a->nlogits * sizeof *a->logits) &&
	    !memcmp(a->grad, b->grad, a->ngrad * sizeof *a->grad);
}

static void result_free(struct result *r)
{
	free(r->logits);
	free(r->grad);
}

/* bfloat16 operands: another result, near the one in float, by the kernels that say so; and not for training. */
static void test_bf16(const struct net *net, const struct weights *w, const float *images, const int64_t *label)
{
	char err[ERRLEN], impl[IMPLLEN];
	struct workspace *ws = ws_new();
	size_t pixels = (size_t)IMAGES * 3 * SIDE * SIDE;
	float *logits[2], *dlogits = emalloc(IMAGES * CLASSES * sizeof *dlogits), *grad[2];
	double off[2] = { 0 }, size[2] = { 0 };
	int named = 0;

	set_threads(2);
	for (int half = 0; half < 2; half++) {
		struct plan *p = plan_new(net, (struct plan_opts){ .purpose = PLAN_SYNTH, .batch = IMAGES,
			.precision = half ? PRECISION_BF16 : PRECISION_FP32 }, err);
		if (!p)
			die("%s", err);
		for (int i = 0; plan_impl(p, i, PART_FORWARD, impl) || i < 20; i++)
			named += half && !strncmp(impl, "bf16:", 5);
		logits[half] = emalloc(IMAGES * CLASSES * sizeof *dlogits);
		grad[half] = emalloc(pixels * sizeof *grad[half]);
		plan_bind(p, ws);
		plan_load(p, w);
		plan_forward(p, IMAGES, images, logits[half]);
		loss_ce(logits[half], label, IMAGES, CLASSES, dlogits);
		plan_backward(p, IMAGES, dlogits, grad[half], NULL);
		plan_free(p);
	}
	for (int i = 0; i < IMAGES * CLASSES; i++)
		off[0] += pow(logits[1][i] - logits[0][i], 2), size[0] += pow(logits[0][i], 2);
	for (size_t i = 0; i < pixels; i++)
		off[1] += pow(grad[1][i] - grad[0][i], 2), size[1] += pow(grad[0][i], 2);
	for (int j = 0; j < 2; j++)
		off[j] = sqrt(off[j] / size[j]);
	ok(named == 13, "thirteen convolutions of ResNet-18 run on bfloat16 operands, by name: %d", named);
	ok(off[0] > 1e-4 && off[0] < 0.03 && off[1] > 1e-4 && off[1] < 0.5, "near float: logits %.2g, gradient %.2g off", off[0],
	    off[1]);
	struct plan *p = plan_new(net, (struct plan_opts){ .purpose = PLAN_TRAIN, .batch = 2, .precision = PRECISION_BF16 }, err);
	ok(!p && !strcmp(err, "training on the cpu is in float"), "not for training");
	for (int half = 0; half < 2; half++)
		free(logits[half]), free(grad[half]);
	free(dlogits);
	ws_free(ws);
}

/* Gradients that have all but vanished cost nothing and give nothing; the caller's own floats are left alone. */
static void test_denormals(const struct net *net, const struct weights *w, const float *images)
{
	char err[ERRLEN];
	struct workspace *ws = ws_new();
	struct plan *p = plan_new(net, (struct plan_opts){ .purpose = PLAN_SYNTH, .batch = 2 }, err);
	float logits[2 * CLASSES], dlogits[2 * CLASSES], *grad = ecalloc(2 * 3 * SIDE * SIDE, sizeof *grad);
	volatile float tiny = 1e-30f;
	int alive = 0;

	if (!p)
		die("%s", err);
	for (int i = 0; i < 2 * CLASSES; i++)
		dlogits[i] = 1e-40f;
	plan_bind(p, ws);
	plan_load(p, w);
	plan_forward(p, 2, images, logits);
	plan_backward(p, 2, dlogits, grad, NULL);
	for (int i = 0; i < 2 * 3 * SIDE * SIDE; i++)
		alive += grad[i] != 0;
#if defined __SSE2__
	ok(!alive, "denormal gradients are 0 inside");
#endif
	ok(tiny * 1e-10f != 0, "denormal numbers are numbers outside");
	plan_free(p);
	ws_free(ws);
	free(grad);
}

static int busy(const struct net *net, enum purpose purpose, int threads)
{
	char err[ERRLEN];
	struct plan *p;
	int n;

	set_threads(threads);
	if (!(p = plan_new(net, (struct plan_opts){ .purpose = purpose, .batch = IMAGES }, err)))
		die("%s", err);
	n = plan_threads(p);
	plan_free(p);
	return n;
}

/* Training has a chunk for every thread, eight images at least; the rest's are the same on any machine. */
static void test_shares(const struct net *net, const struct weights *w, const float *images, const int64_t *label)
{
	struct result one = step(net, w, images, label, PLAN_TRAIN, 1), six = step(net, w, images, label, PLAN_TRAIN, 6);
	double off = 0, size = 0;

	for (size_t i = 0; i < one.ngrad; i++)
		off += pow(six.grad[i] - one.grad[i], 2), size += pow(one.grad[i], 2);
	off = sqrt(off / size);
	ok(off > 0 && off < 1e-4, "training: six threads' gradient is %.2g off that of one", off);
	ok(busy(net, PLAN_TRAIN, 6) == 6 && busy(net, PLAN_TRAIN, 64) == IMAGES / 8, "a chunk for each, or eight images");
	ok(busy(net, PLAN_EVAL, 64) == 4 && busy(net, PLAN_SYNTH, 64) == 4, "labelling, synthesis: chunks of 13 for any threads");
	result_free(&one);
	result_free(&six);
}

static float *logits_of(struct plan *p, const struct weights *w, const float *images)
{
	float *logits = emalloc(IMAGES * CLASSES * sizeof *logits);

	plan_load(p, w);
	plan_forward(p, IMAGES, images, logits);
	return logits;
}

/* One workspace for two plans in turn, of which the second wants more of it, and for more threads than it was bound for. */
static void test_lent(const struct net *net, const struct weights *w, const float *images)
{
	char err[ERRLEN];
	struct net *small = net_arch("convnet1-8", (int[]){ 3, SIDE, SIDE }, CLASSES, err);
	const struct net *nets[] = { small, net };
	struct weights ws[] = { weights_new(small), *w };
	struct workspace *lent = ws_new(), *own;
	struct plan *plan[2];
	int differ = 0;

	net_init(small, &ws[0], 1, RNG_INIT);
	set_threads(1);
	for (int i = 0; i < 2; i++)
		if (!(plan[i] = plan_new(nets[i], (struct plan_opts){ .purpose = PLAN_EVAL, .batch = IMAGES }, err)))
			die("%s", err);
	for (int turn = 0; turn < 4; turn++) {
		int i = turn % 2;
		float *logits, *alone;
		plan_bind(plan[i], lent);
		set_threads(turn < 2 ? 1 : 4);
		logits = logits_of(plan[i], &ws[i], images);
		set_threads(1);
		plan_bind(plan[i], own = ws_new());
		alone = logits_of(plan[i], &ws[i], images);
		differ += !!memcmp(logits, alone, IMAGES * CLASSES * sizeof *logits);
		ws_free(own);
		free(logits);
		free(alone);
	}
	ok(!differ, "a workspace lent in turn, to one thread and to four: %d of 4 differ", differ);
	for (int i = 0; i < 2; i++)
		plan_free(plan[i]);
	ws_free(lent);
	weights_free(&ws[0]);
	net_free(small);
}

int main(void)
{
	static const char *const name[] = { "labelling", "synthesis", "training" };
	char err[ERRLEN];
	struct net *net = net_arch("resnet18-small", (int[]){ 3, SIDE, SIDE }, CLASSES, err);
	size_t pixels = (size_t)IMAGES * 3 * SIDE * SIDE;
	float *images = ealigned(pixels, sizeof *images);
	int64_t label[IMAGES];
	struct rng r = rng_at(1, RNG_NOISE, 0, 0, 0);
	struct weights w;

	progname = "t_plan";
	if (!net)
		die("%s", err);
	w = weights_new(net);
	net_init(net, &w, 1, RNG_INIT);
	for (size_t i = 0; i < pixels; i++)
		images[i] = rng_normal(&r);
	for (int i = 0; i < IMAGES; i++)
		label[i] = i % CLASSES;
	for (enum purpose purpose = PLAN_EVAL; purpose <= PLAN_TRAIN; purpose++) {
		/* Weight gradients add up by threads: training is the same at one number of them. */
		int alone = purpose == PLAN_TRAIN ? 4 : 1, differ = 0;
		struct result first = step(net, &w, images, label, purpose, alone);
		for (int i = 0; i < TIMES; i++) {
			struct result next = step(net, &w, images, label, purpose, 4);
			differ += !same(&first, &next);
			result_free(&next);
		}
		ok(!differ, "%s: four threads, %d times out of %d the bytes of %s", name[purpose], TIMES - differ, TIMES,
		    alone > 1 ? "the first time" : "one thread");
		result_free(&first);
	}
	test_shares(net, &w, images, label);
	test_lent(net, &w, images);
	test_denormals(net, &w, images);
	test_bf16(net, &w, images, label);
	free(images);
	weights_free(&w);
	net_free(net);
	return tap_end();
}
