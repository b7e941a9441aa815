/* Every architecture against torchvision in float64 (fixtures/zoo.ts, made by gen_zoo.py): names, counts, what is
 * dropped, first weights; logits, gradients of images, training. Prints TAP.
 * usage: t_zoo [FIXTURE [ARCH...]]: these alone, where all would take a device too long */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../lib/loss.h"
#include "problem.h"
#include "tap.h"

enum { NETWORKS = 20 };

static void test_counts(const struct problem *p)
{
	const struct val *counts = val_get(p->frame, "counts");
	int64_t params = counts->list.item[0]->i, macs = counts->list.item[1]->i;
	char err[ERRLEN];
	struct net *net = net_arch(p->net->arch, (int[]){ 3, 224, 224 }, 1000, err);

	if (!net)
		die("%s: %s", p->name, err);
	ok(p->found == p->net->nparam && p->found == (int)p->names->list.len, "%s: PyTorch's %zu tensors by name", p->name,
	    p->names->list.len);
	ok(net_params(net) == params, "%s: %lld parameters (%lld)", p->name, (long long)net_params(net), (long long)params);
	ok(net_macs(net) == macs, "%s: %lld MACs at 224x224 (%lld)", p->name, (long long)net_macs(net), (long long)macs);
	net_free(net);
}

/* The probabilities of nodes of one kind, in order. */
static void test_drops(const struct problem *p, enum op op)
{
	const struct val *share = val_get(p->frame, op_name[op]);
	size_t n = 0;
	int good = 1;

	for (int i = 0; i < p->net->nnode; i++) {
		const struct node *v = &p->net->node[i];
		if (v->op != op)
			continue;
		good = good && n < share->list.len && fabs(v->p - share->list.item[n]->f) < 1e-6;
		n++;
	}
	ok(good && n == share->list.len, "%s: %zu of %s", p->name, share->list.len, op_name[op]);
}

/* First weights: deviation, and largest value in deviations, which tells uniform (1.7) from normal (3 and more). The
 * larger a tensor, the nearer its deviation is to the one it was drawn with. */
static int drawn_alike(const float *x, size_t n, double deviation, double peak)
{
	double size = norm(x, n) / sqrt(n), top = 0;

	if (deviation == 0)
		return size == 0;
	for (size_t i = 0; i < n; i++)
		top = fmax(top, fabsf(x[i]));
	return fabs(size / deviation - 1) < 0.05 + 2 / sqrt(n) && (peak == 0 || (top / size < 2) == (peak < 2));
}

static void test_init(const struct problem *p)
{
	const struct tensor *init = val_get_tensor(p->frame, "init");
	size_t rows = init ? init->shape[0] : 0, row = 0;
	const float *want = rows ? want32(p, "init", 2 * rows) : NULL;
	char err[ERRLEN], worst[160] = "";
	struct net *net = rows ? net_arch(p->net->arch, (int[]){ 3, 64, 64 }, 1000, err) : NULL;
	struct weights w;
	int bad = 0;

	if (!net)
		return;
	w = weights_new(net);
	net_init(net, &w, 1, RNG_INIT);
	for (size_t i = 0; i < p->names->list.len; i++) {
		int j = find_param(net, p->names->list.item[i]->s.p);
		if (j < 0 || !op_weighs(net->node[net->param[j].node].op) || row >= rows)
			continue;
		const float *ref = want + 2 * row++;
		if (ref[0] < 0 || drawn_alike(weights_param(net, &w, j), net->param[j].count, ref[0], ref[1]))
			continue;
		if (!bad++)
			snprintf(worst, sizeof worst, ": %s is not like %.3g, %.3g", net->param[j].name, ref[0], ref[1]);
	}
	bad += row != rows;
	ok(!bad, "%s: first weights as torchvision draws them%s", p->name, worst);
	weights_free(&w);
	net_free(net);
}

static void test_eval(struct problem *p, struct workspace *ws)
{
	struct plan *plan = make_plan(p, PLAN_SYNTH, p->n, ws);
	float *grad = ecalloc(p->pixels, sizeof *grad);
	size_t count = (size_t)p->n * p->k;
	double off, loss, ref;

	plan_forward(plan, p->n, p->images, p->logits);
	off = off_max(p->logits, want32(p, "eval.logits", count), count);
	ok(off <= BOUND_LOGITS, "%s: logits off by %.1e", p->name, off);
	loss_ce(p->logits, p->label, p->n, p->k, p->dlogits);
	plan_backward(plan, p->n, p->dlogits, grad, NULL);
	off = off_images(p, "ce.grad", grad);
	ok(off <= BOUND, "%s: image gradient of the logits off by %.1e", p->name, off);
	ok(plan_ntaps(plan) == p->ntap || !p->ntap, "%s: %d batch norms tapped", p->name, p->ntap);
	if (p->ntap) {
		loss = synthesis(p, plan, p->images, 0.5, grad);
		ref = *want(p, "synth.loss", 1);
		ok(fabs(loss - ref) <= BOUND * fabs(ref), "%s: matching loss off by %.1e", p->name, fabs(loss - ref) / ref);
		off = off_images(p, "synth.grad", grad);
		ok(off <= BOUND, "%s: image gradient of matching off by %.1e", p->name, off);
	}
	free(grad);
	plan_free(plan);
}

/* The classifier by hand on what net_features() leaves, forwards and back: the whole network's logits and gradient. */
static void test_features(struct problem *p, struct workspace *ws)
{
	const struct node *last = &p->net->node[p->net->nnode - 1];
	const float *w = weights_param(p->net, &p->weights, last->param[P_WEIGHT]); /* (K,F) */
	const float *b = weights_param(p->net, &p->weights, last->param[P_BIAS]);
	int f = net_width(p->net, false), all = net_width(p->net, true);
	float *grad = ecalloc(p->pixels, sizeof *grad), *logits = ecalloc((size_t)p->n * p->k, sizeof *logits);
	double off = 0, top = 0;

	for (int deep = 0; deep < 2; deep++) {
		char err[ERRLEN];
		struct net *net = net_features(p->net, deep, err);
		int width = deep ? all : f;
		float *x = ecalloc((size_t)p->n * width, sizeof *x), *dx = ecalloc((size_t)p->n * width, sizeof *dx);
		struct plan *plan = net ? plan_new(net, (struct plan_opts){ .purpose = PLAN_SYNTH, .batch = p->n }, err) : NULL;

		if (!plan)
			die("%s: %s", p->name, err);
		plan_load(plan, &p->weights);
		plan_bind(plan, ws);
		plan_forward(plan, p->n, p->images, x);
		for (int i = 0; i < p->n * p->k; i++) {
			double sum = b[i % p->k];
			for (int j = 0; j < f; j++)
				sum += (double)w[(size_t)(i % p->k) * f + j] * x[(size_t)(i / p->k) * width + j];
			logits[i] = sum;
		}
		loss_ce(logits, p->label, p->n, p->k, p->dlogits);
		for (int i = 0; i < p->n; i++)
			for (int j = 0; j < f; j++)
				for (int k = 0; k < p->k; k++)
					dx[(size_t)i * width + j] += p->dlogits[i * p->k + k] * w[(size_t)k * f + j];
		plan_backward(plan, p->n, dx, grad, NULL);
		off = off_max(logits, want32(p, "eval.logits", (size_t)p->n * p->k), (size_t)p->n * p->k);
		top = off_images(p, "ce.grad", grad);
		ok(net->nclass == width && off <= BOUND_LOGITS && top <= BOUND,
		    "%s: %d features%s: logits off by %.1e, image gradient by %.1e", p->name, width,
		    deep ? ", with earlier ones behind" : "", off, top);
		plan_free(plan);
		net_free(net);
		free(x), free(dx);
	}
	ok((all > f) == (net_has(p->net, OP_MAXPOOL) || net_has(p->net, OP_AVGPOOL) || net_has(p->net, OP_ADD)),
	    "%s: %d earlier features beside the %d last ones", p->name, all - f, f);
	free(grad);
	free(logits);
}

static void test_train(struct problem *p, struct workspace *ws)
{
	struct plan *plan = make_plan(p, PLAN_TRAIN, p->n, ws);
	struct weights grad = weights_new(p->net);
	size_t count = (size_t)p->n * p->k;
	double off;

	plan_forward(plan, p->n, p->images, p->logits);
	loss_ce(p->logits, p->label, p->n, p->k, p->dlogits);
	plan_backward(plan, p->n, p->dlogits, NULL, grad.theta);
	off = off_max(p->logits, want32(p, "train.logits", count), count);
	ok(off <= BOUND, "%s: batch logits off by %.1e", p->name, off);
	off = off_params(p, "train.grad", TRAINED, &grad, 1e-4);
	ok(off <= BOUND, "%s: gradients of parameters off by %.1e", p->name, off);
	if (p->ntap) {
		plan_update_running(plan, p->n, &p->weights, BN_MOMENTUM);
		off = off_params(p, "train.running", RUNNING, &p->weights, 0);
		ok(off <= BOUND, "%s: running statistics off by %.1e", p->name, off);
	}
	weights_free(&grad);
	plan_free(plan);
}

static void test_net(struct problem *p, struct workspace *ws)
{
	test_counts(p);
	test_drops(p, OP_DROPOUT);
	test_drops(p, OP_DROPPATH);
	test_init(p);
	test_eval(p, ws);
	test_features(p, ws);
	if (val_get(p->frame, "train.logits"))
		test_train(p, ws); /* last: it changes the running statistics */
}

static bool wanted(const char *arch, char **names, int n)
{
	for (int i = 0; i < n; i++)
		if (!strcmp(arch, names[i]))
			return true;
	return n == 0;
}

int main(int argc, char **argv)
{
	int names = MAX(argc - 2, 0), all = names ? names : NETWORKS;
	struct workspace *ws = ws_new();
	struct ts_reader r;
	struct val *frame;
	struct problem p;
	int got, n = 0;

	progname = "t_zoo";
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (ts_open(&r, argc > 1 ? argv[1] : "tests/fixtures/zoo.ts", "fixture") < 0)
		die("%s", r.err);
	while ((got = ts_next(&r, &frame)) > 0) {
		problem_new(&p, frame);
		if (wanted(p.net->arch, argv + 2, names)) {
			test_net(&p, ws);
			n++;
		}
		problem_free(&p);
	}
	ok(got == 0 && n == all, "%d networks%s", all, got < 0 ? r.err : "");
	ts_close(&r);
	ws_free(ws);
	return tap_end();
}
