/* Pruning. Against Torch-Pruning on torchvision's models (fixtures/prune.ts, made by gen_prune.py): groups, widths, sizes,
 * scores. And as a property: a pruned network gives the logits of the whole one in which the lost channels are zero, for
 * networks by hand and for the zoo, ShuffleNetV2 (which Torch-Pruning cannot trace) among them. Prints TAP. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../formats/tstream.h"
#include "../lib/plan.h"
#include "../lib/prune.h"
#include "tap.h"

#define BOUND 1e-4

enum { IMAGES = 2, CLASSES = 5 };

/* gen_prune.py's formula: element i of what has this name, in [0, 1). */
static double formula(const char *name, uint32_t i)
{
	uint32_t h = 2166136261u;

	for (const char *s = name; *s; s++)
		h = (h ^ (uint8_t)*s) * 16777619u;
	h += i * 2654435761u;
	h ^= h >> 16;
	h *= 0x45d9f3bu;
	h ^= h >> 16;
	return (h >> 8) / 16777216.0;
}

/* Nets by hand: put() appends a node behind the last one, or behind those of v. */
static struct net *hand;

static int put(struct node v, int out)
{
	char err[ERRLEN];
	int i;

	if (!*v.name)
		snprintf(v.name, sizeof v.name, "n%d", hand->nnode);
	if (v.op != OP_INPUT && !v.nin) {
		v.in[0] = hand->nnode - 1;
		v.nin = 1;
	}
	v.groups = MAX(v.groups, 1);
	if ((i = net_add(hand, &v, out, err)) < 0)
		die("%s", err);
	return i;
}

static int op(enum op o)
{
	return put((struct node){ .op = o, .eps = 1e-5f, .p = o == OP_DROPOUT || o == OP_DROPPATH ? 0.5 : 0, .k = 2,
	    .stride = 2 }, 0);
}

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

static void begin(int size)
{
	hand = net_new("hand", (int[]){ 3, size, size });
	op(OP_INPUT);
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

static struct depgraph *graph_of(const struct net *net)
{
	char err[ERRLEN];
	struct depgraph *g = depgraph_new(net, err);

	if (!g)
		die("%s", err);
	return g;
}

static struct weights weights_of(const struct net *net)
{
	struct weights w = weights_new(net);

	for (int p = 0; p < net->nparam; p++) {
		const struct param *q = &net->param[p];
		float *x = weights_param(net, &w, p);

		for (size_t i = 0; i < q->count; i++) {
			double u = formula(q->name, i);

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
		x[i] = 4 * formula("images", i) - 2;
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
		struct prune_how how = { .ratio = ratios[k % 3], .global = k / 3 % 2, .round_to = 1 + k / 6 % 2, .max_ratio = 1 };
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

static struct net *arch_of(const char *arch, int size, int nclass)
{
	char err[ERRLEN];
	struct net *net = net_arch(arch, (int[]){ 3, size, size }, nclass, err);

	if (!net)
		die("%s: %s", arch, err);
	return net;
}

static void zoo(void)
{
	static const char *const archs[] = { "convnet3-32", "resnet18-small", "resnet50-small", "densenet121-small",
		"mobilenet_v2-small", "efficientnet_b0-small", "shufflenet_v2_x1_0-small" };

	for (size_t i = 0; i < LEN(archs); i++) {
		struct net *net = arch_of(archs[i], 32, CLASSES);

		check_zeroed(archs[i], net, !strncmp(archs[i], "shuffle", 7) ? 4 : 2);
		net_free(net);
	}
}

/* A network of gen_prune.py, by the names of torchvision. */
static struct net *named(const char *arch, int size, int nclass)
{
	char err[ERRLEN];

	if (strcmp(arch, "grouped"))
		return arch_of(arch, size, nclass);
	begin(size);
	put((struct node){ .op = OP_CONV, .name = "c1", .k = 3, .stride = 1, .pad = 1 }, 12);
	put((struct node){ .op = OP_BN, .name = "b1", .eps = 1e-5f }, 0);
	put((struct node){ .op = OP_CONV, .name = "c2", .k = 3, .stride = 1, .pad = 1, .groups = 3 }, 24);
	put((struct node){ .op = OP_BN, .name = "b2", .eps = 1e-5f }, 0);
	op(OP_GAP);
	op(OP_FLATTEN);
	put((struct node){ .op = OP_LINEAR, .name = "fc" }, nclass);
	if (net_finish(hand, nclass, err) < 0)
		die("%s", err);
	return hand;
}

/* What the fixture has on one architecture. */
struct subject {
	const char *arch;
	struct net *net;
	struct depgraph *g;
	struct val *frame; /* the first of it: "names", "layers" */
	double *score;     /* the formula's */
	bool *gone;
	int bad;           /* results that differ */
};

/* Widths of every convolution and linear: (n,2) outputs and inputs a group. */
static int widths_differ(const struct net *net, const struct val *names, const struct tensor *t)
{
	const int32_t *want = t->data;

	for (size_t k = 0; k < names->list.len; k++, want += 2) {
		const struct node *v = net->node;

		while (v < net->node + net->nnode && strcmp(v->name, names->list.item[k]->s.p))
			v++;
		if (v == net->node + net->nnode || v->c != want[0] || net->node[v->in[0]].c / v->groups != want[1]) {
			printf("# %s: %d expected of %d inputs\n", names->list.item[k]->s.p, want[0], want[1]);
			return 1;
		}
	}
	return 0;
}

static int sizes_differ(const struct net *net, const struct val *frame)
{
	return net_params(net) != val_get_int(frame, "params", 0) || net_macs(net) != val_get_int(frame, "macs", 0);
}

static void subject_free(struct subject *s)
{
	if (!s->net)
		return;
	ok(!s->bad, "%s: widths, parameters and multiply-adds are Torch-Pruning's", s->arch);
	net_free(s->net);
	depgraph_free(s->g);
	val_free(s->frame);
	free(s->score);
	free(s->gone);
	*s = (struct subject){ .net = NULL };
}

static void subject_new(struct subject *s, struct val *frame)
{
	const struct tensor *layers = val_get_tensor(frame, "layers");
	const struct val *names = val_get(frame, "names");

	s->frame = frame;
	s->arch = val_get_str(frame, "arch");
	s->net = named(s->arch, val_get_int(frame, "size", 0), ((const int32_t *)layers->data)[2 * layers->shape[0] - 2]);
	s->g = graph_of(s->net);
	s->score = ecalloc(s->g->nunit, sizeof *s->score);
	s->gone = ecalloc(s->g->nunit, sizeof *s->gone);
	for (int k = 0; k < s->g->ngroup; k++)
		for (int u = 0; u < s->g->group[k].n; u++)
			s->score[s->g->group[k].first + u] = formula(s->net->node[s->g->group[k].root].name, u);
	s->bad = widths_differ(s->net, names, layers);
	if (!val_get(frame, "untraced"))
		s->bad += sizes_differ(s->net, frame);
}

/* A grouped convolution's score is the mean over what its groups have at a place. */
static void mean_scores(struct subject *s, struct depgraph *g)
{
	for (int k = 0; k < g->ngroup; k++) {
		int root = g->group[k].root, channels = s->net->node[root].c, each = g->group[k].n;

		for (int u = 0; u < each; u++) {
			double sum = 0;

			for (int c = u; c < channels; c += each)
				sum += formula(s->net->node[root].name, c);
			s->score[g->group[k].first + u] = sum / (channels / each);
		}
	}
}

static void check_widths(struct subject *s, struct val *frame)
{
	const struct val *global = val_get(frame, "global");
	struct prune_how how = { .max_ratio = 1, .ratio = val_get_f64(frame, "ratio", 0), .global = global && global->b,
		.round_to = val_get_int(frame, "round_to", 0) };
	char err[ERRLEN];
	struct net *small;

	prune_choose(s->g, s->score, &how, s->gone);
	if (!(small = depgraph_prune(s->g, s->gone, err)))
		die("%s: %s", s->arch, err);
	if (widths_differ(small, val_get(s->frame, "names"), val_get_tensor(frame, "widths")) || sizes_differ(small, frame)) {
		printf("# %s: ratio %g, global %d, round to %d: differs\n", s->arch, how.ratio, how.global, how.round_to);
		s->bad++;
	}
	net_free(small);
	val_free(frame);
}

/* Scores of l1, l2 and bn; weights by the formula, too. */
static void check_scores(struct val *frame)
{
	const char *arch = val_get_str(frame, "arch"), *how = val_get_str(frame, "importance");
	const struct val *roots = val_get(frame, "roots");
	const struct tensor *t = val_get_tensor(frame, "scores");
	const float *want = t->data;
	struct net *net = named(arch, val_get_int(frame, "size", 0), strstr(arch, "net_v2") || strstr(arch, "resnet") ?
	    1000 : 10);
	struct weights w = weights_new(net);
	struct depgraph *g = graph_of(net);
	double *score = ecalloc(g->nunit, sizeof *score), worst = 0;
	int imp = 0, checked = 0, expected = 0;

	for (int p = 0; p < net->nparam; p++)
		for (size_t i = 0; i < net->param[p].count; i++)
			weights_param(net, &w, p)[i] = formula(net->param[p].name, i) - 0.25;
	while (imp < IMP_COUNT && strcmp(importance_name[imp], how))
		imp++;
	prune_scores(g, imp, &w, 0, 0, score);
	for (int k = 0; k < g->ngroup; k++)
		expected += !g->group[k].fixed && !isnan(score[g->group[k].first]);
	for (size_t r = 0; r < roots->list.len; r++)
		for (int k = 0; k < g->ngroup; k++) {
			if (strcmp(net->node[g->group[k].root].name, roots->list.item[r]->s.p))
				continue;
			checked++;
			for (int u = 0; u < t->shape[1] && u < g->group[k].n; u++) {
				double x = score[g->group[k].first + u], y = want[r * t->shape[1] + u];

				worst = fmax(worst, isfinite(x) ? fabs(x - y) / fabs(y) : INFINITY);
			}
		}
	ok(worst < 1e-5 && checked == expected && checked == (int)roots->list.len,
	    "%s: %s as Torch-Pruning has it (%.1e) in %d groups", arch, how, worst, checked);
	free(score);
	depgraph_free(g);
	weights_free(&w);
	net_free(net);
	val_free(frame);
}

static void against_torch_pruning(const char *path)
{
	struct subject s = { .net = NULL };
	struct ts_reader r;
	struct val *frame;
	int got;

	if (ts_open(&r, path, "fixture") < 0)
		die("%s", r.err);
	while ((got = ts_next(&r, &frame)) > 0)
		if (val_get(frame, "layers")) {
			subject_free(&s);
			subject_new(&s, frame);
			mean_scores(&s, s.g);
		} else if (val_get(frame, "widths")) {
			check_widths(&s, frame);
		} else {
			subject_free(&s);
			check_scores(frame);
		}
	if (got < 0)
		die("%s", r.err);
	subject_free(&s);
	ts_close(&r);
}

int main(int argc, char **argv)
{
	progname = "t_depgraph";
	by_hand();
	zoo();
	against_torch_pruning(argc > 1 ? argv[1] : "tests/fixtures/prune.ts");
	return tap_end();
}
