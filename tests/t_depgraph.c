/* A pruned network gives the logits of the whole one in which the lost channels are zero: networks by hand, with every
 * way in which channels hang together, and the zoo, ShuffleNetV2 (which Torch-Pruning cannot trace) among it. Prints
 * TAP. */
#include <math.h>
#include <stdlib.h>

#include "../lib/plan.h"
#include "../lib/prune.h"
#include "pruned.h"
#include "tap.h"

#define BOUND 1e-4

enum { IMAGES = 2, CLASSES = 5 };

static int pair(enum op o, int a, int b)
{
	return put((struct node){ .op = o, .in = { a, b }, .nin = 2 }, 0);
}

static int conv(int from, int out, int k, int groups)
{
	return put((struct node){ .op = OP_CONV, .in = { from }, .nin = 1, .k = k, .stride = 1, .pad = k / 2,
	    .groups = groups, .has_bias = out % 2 }, out);
}

static int conv_bn(int from, int out, int k, int groups)
{
	conv(from, out, k, groups);
	op(OP_BN);
	return op(OP_RELU);
}

static int pick(int from, const int *map, int n)
{
	return put((struct node){ .op = OP_SELECT, .in = { from }, .nin = 1, .map = (int *)map }, n);
}

static struct net *end(void)
{
	char err[ERRLEN];

	op(OP_FLATTEN);
	put((struct node){ .op = OP_LINEAR }, CLASSES);
	if (net_finish(hand, CLASSES, err) < 0)
		die("%s", err);
	return hand;
}

static struct net *chain(void)
{
	begin(8);
	conv(conv_bn(0, 12, 3, 1), 7, 3, 1);
	op(OP_IN);
	op(OP_SILU);
	op(OP_AVGPOOL);
	return end(); /* flatten with spatial extent */
}

static struct net *residual(void)
{
	begin(8);
	int a = conv_bn(0, 10, 3, 1);

	conv(conv_bn(a, 6, 3, 1), 10, 3, 1);
	pair(OP_ADD, op(OP_DROPPATH), a);
	a = op(OP_RELU6);
	pair(OP_ADD, a, conv(a, 10, 1, 1));
	op(OP_GAP);
	op(OP_DROPOUT);
	return end();
}

static struct net *dense(void)
{
	static const int slice[] = { 7, 8, 9, 10, 11, 12 }; /* the end of a, all of b, the start of c */

	begin(6);
	int a = conv_bn(0, 9, 3, 1), b = conv_bn(a, 2, 3, 1), c, d;

	b = pair(OP_CONCAT, a, b);
	c = pair(OP_CONCAT, b, conv_bn(b, 6, 3, 1));
	d = conv_bn(pick(c, slice, 6), 6, 1, 1);
	pair(OP_ADD, d, pick(c, slice, 6));
	op(OP_MAXPOOL);
	return end();
}

/* Channels tied to the end of what another producer has; which of the two is met first makes no difference. */
static struct net *half_tied(void)
{
	static const int tail[] = { 6, 7, 8, 9 };

	begin(6);
	int a = conv_bn(0, 10, 3, 1), b = conv_bn(a, 4, 3, 1);

	pair(OP_ADD, pick(a, tail, 4), b);
	conv_bn(hand->nnode - 1, 8, 3, 1);
	op(OP_GAP);
	return end();
}

static struct net *half_tied_root(void)
{
	static const int tail[] = { 6, 7, 8, 9 };

	begin(6);
	int a = conv_bn(0, 4, 3, 1), b = conv_bn(a, 10, 3, 1), c;

	c = pair(OP_ADD, pick(b, tail, 4), a);
	pair(OP_CONCAT, b, conv_bn(c, 8, 3, 1));
	op(OP_GAP);
	return end();
}

static struct net *grouped(void)
{
	begin(6);
	int a = conv_bn(0, 12, 3, 1);

	a = conv_bn(a, 18, 3, 3);
	conv_bn(a, 12, 3, 2);
	op(OP_GAP);
	return end();
}

static struct net *depthwise(void)
{
	begin(6);
	int a = conv_bn(0, 8, 1, 1);

	a = conv_bn(a, 8, 3, 8);  /* depthwise */
	a = conv_bn(a, 16, 3, 8); /* two outputs a channel */
	a = conv_bn(a, 4, 3, 4);  /* four inputs an output */
	conv_bn(a, 6, 1, 1);
	op(OP_GAP);
	return end();
}

static struct net *squeeze(void)
{
	begin(6);
	int a = conv_bn(0, 12, 3, 1), b;

	op(OP_GAP);
	conv(hand->nnode - 1, 5, 1, 1);
	op(OP_SILU);
	conv(hand->nnode - 1, 12, 1, 1);
	b = op(OP_SIGMOID);
	pair(OP_MUL, a, b);
	conv_bn(hand->nnode - 1, 9, 3, 1);
	put((struct node){ .op = OP_ADAPT, .k = 2 }, 0);
	return end();
}

static struct net *shuffle(void)
{
	static const int left[] = { 0, 1, 2, 3 }, right[] = { 4, 5, 6, 7 }, mixed[] = { 0, 4, 1, 5, 2, 6, 3, 7 };

	begin(6);
	int x = conv_bn(0, 8, 3, 1);

	for (int i = 0; i < 3; i++) {
		int a = pick(x, left, 4), b = pick(x, right, 4);
		b = conv_bn(b, 4, 1, 1);
		b = conv_bn(b, 4, 3, 4);
		b = conv_bn(b, 4, 1, 1);
		x = pick(pair(OP_CONCAT, a, b), mixed, 8);
	}
	op(OP_GAP);
	return end();
}

/* Nothing of the image may go, nor what is added to it. */
static struct net *image_added(void)
{
	begin(6);
	int x = conv(0, 3, 3, 3);

	conv_bn(pair(OP_ADD, conv_bn(x, 3, 3, 1), x), 6, 3, 1);
	op(OP_GAP);
	return end();
}

static struct weights weights_of(const struct net *net)
{
	struct weights w = weights_new(net);

	for (int p = 0; p < net->nparam; p++) {
		const struct param *q = &net->param[p];
		float *x = weights_param(net, &w, p);
		uint32_t name = name_hash(q->name);

		for (size_t i = 0; i < q->count; i++) {
			double u = formula(name, i);

			if (op_weighs(net->node[q->node].op) && q->role == P_WEIGHT)
				x[i] = (2 * u - 1) * sqrt(6.0 / (q->count / q->shape[0]));
			else
				x[i] = q->role == P_WEIGHT || q->role == P_VAR ? 0.5 + u : u - 0.5;
		}
	}
	return w;
}

static void logits_of(const struct net *net, const struct weights *w, float *logits)
{
	size_t count = (size_t)IMAGES * net->chw[0] * net->chw[1] * net->chw[2];
	float *x = ealigned(count, sizeof *x);
	struct workspace *ws = ws_new();
	char err[ERRLEN];
	struct plan *p = plan_new(net, (struct plan_opts){ .purpose = PLAN_EVAL, .batch = IMAGES }, err);

	if (!p)
		die("%s: %s", net->arch, err);
	for (size_t i = 0; i < count; i++)
		x[i] = 4 * formula(7, i) - 2;
	plan_bind(p, ws);
	plan_load(p, w);
	plan_forward(p, IMAGES, x, logits);
	plan_free(p);
	ws_free(ws);
	free(x);
}

/* All that a lost channel has of parameters becomes zero, so that nothing of it reaches what reads it. */
static void zero(const struct depgraph *g, const bool *gone, struct weights *w)
{
	for (int p = 0; p < g->net->nparam; p++) {
		const struct param *q = &g->net->param[p];
		int channels = g->net->node[q->node].c;
		float *x = weights_param(g->net, w, p);
		bool *keep = ecalloc(channels, sizeof *keep);

		depgraph_kept(g, gone, q->node, keep);
		for (size_t i = 0; i < q->count && (q->role == P_WEIGHT || q->role == P_BIAS); i++)
			if (!keep[i / (q->count / channels)])
				x[i] = 0;
		free(keep);
	}
}

static double apart(const float *a, const float *b, int n)
{
	double most = 0, size = 0;

	for (int i = 0; i < n; i++) {
		most = fmax(most, fabs((double)a[i] - b[i]));
		size = fmax(size, fabs(b[i]));
	}
	return size > 1e-3 && isfinite(most) ? most / size : INFINITY;
}

/* The pruned network beside the whole one with zeros; how far apart they are. */
static double compare(const struct net *net, const struct prune_how *how, uint32_t member, double *left)
{
	struct depgraph *g = graph_of(net);
	struct weights w = weights_of(net), few;
	double *score = ecalloc(g->nunit, sizeof *score), off;
	bool *gone = ecalloc(g->nunit, sizeof *gone);
	float *a = ecalloc(IMAGES * net->nclass, sizeof *a), *b = ecalloc(IMAGES * net->nclass, sizeof *b);
	char err[ERRLEN];
	struct net *small;

	prune_scores(g, IMP_RANDOM, &w, 1, member, score);
	prune_choose(g, score, how, gone);
	if (!(small = depgraph_prune(g, gone, err)))
		die("%s: %s", net->arch, err);
	few = weights_new(small);
	depgraph_weights(g, gone, &w, small, &few);
	logits_of(small, &few, a);
	zero(g, gone, &w);
	logits_of(net, &w, b);
	off = apart(a, b, IMAGES * net->nclass);
	*left = (double)net_params(small) / net_params(net);
	weights_free(&w);
	weights_free(&few);
	net_free(small);
	depgraph_free(g);
	free(score);
	free(gone);
	free(a);
	free(b);
	return off;
}

static void check_zeroed(const char *name, const struct net *net, int members)
{
	static const double ratios[] = { 0.19, 0.5, 0.8 };
	double worst = 0, least = 1;

	for (int k = 0; k < members; k++) {
		struct prune_how how = { .ratio = ratios[k % 3], .global = k / 3 % 2, .round_to = 1 + k / 6 % 2,
			.max_ratio = 1 };
		double left;

		worst = fmax(worst, compare(net, &how, k, &left));
		least = fmin(least, left);
	}
	ok(worst < BOUND && least < 0.8, "%s: as the whole network with zeros (%.1e; down to %.3f of it)", name, worst,
	    least);
}

static void by_hand(void)
{
	static const struct {
		const char *name;
		struct net *(*build)(void);
		int groups, units, fixed; /* of the graph; the classifier's group is fixed */
	} nets[] = {
		{ "chain, flattened", chain, 3, 12 + 7 + CLASSES, 1 },
		{ "residual", residual, 3, 10 + 6 + CLASSES, 1 },
		{ "concat and slices", dense, 2, 9 + 2 + 6 + CLASSES, 1 }, /* the sum ties all three */
		{ "half tied", half_tied, 3, 10 + 8 + CLASSES, 1 },
		{ "half tied, the lesser first", half_tied_root, 3, 10 + 8 + CLASSES, 1 },
		{ "grouped", grouped, 4, 4 + 3 + 6 + CLASSES, 1 }, /* the second: of 3 groups, read by 2 */
		{ "depthwise", depthwise, 3, 4 + 6 + CLASSES, 1 },
		{ "squeeze and excitation", squeeze, 4, 12 + 5 + 9 + CLASSES, 1 },
		{ "shuffle", shuffle, 8, 8 + 3 * (4 + 4) + CLASSES, 1 },
		{ "image added", image_added, 3, 3 + 6 + CLASSES, 2 },
	};

	for (size_t i = 0; i < LEN(nets); i++) {
		struct net *net = nets[i].build();
		struct depgraph *g = graph_of(net);
		int fixed = 0;

		for (int k = 0; k < g->ngroup; k++)
			fixed += g->group[k].fixed;
		ok(g->ngroup == nets[i].groups && g->nunit == nets[i].units && fixed == nets[i].fixed,
		    "%s: %d groups, %d fixed, of %d units", nets[i].name, g->ngroup, fixed, g->nunit);
		check_zeroed(nets[i].name, net, 12);
		depgraph_free(g);
		net_free(net);
	}
}

static void zoo(void)
{
	static const char *const archs[] = { "convnet3-32", "resnet18-small", "resnet50", "densenet121", "mobilenet_v2",
		"efficientnet_b0", "shufflenet_v2_x1_0", "shufflenet_v2_x1_0-small" };

	for (size_t i = 0; i < LEN(archs); i++) {
		struct net *net = arch_of(archs[i], strchr(archs[i], '-') ? 32 : 64, CLASSES);

		check_zeroed(archs[i], net, !strncmp(archs[i], "shuffle", 7) ? 4 : 2);
		net_free(net);
	}
}

int main(void)
{
	progname = "t_depgraph";
	by_hand();
	zoo();
	return tap_end();
}
