/* Groups, widths, sizes and scores against Torch-Pruning's on torchvision's models (fixtures/prune.ts, made by
 * gen_prune.py). Prints TAP. */
#include <math.h>
#include <stdlib.h>

#include "../formats/tstream.h"
#include "../lib/prune.h"
#include "pruned.h"
#include "tap.h"

enum { SETTINGS = 8 };

/* What Teddy starts from, at the ratio of its post-generation. */
static void paper(void)
{
	struct net *net = arch_of("resnet18", 224, 1000), *small;
	struct depgraph *g = graph_of(net);
	double *score = ecalloc(g->nunit, sizeof *score);
	bool *gone = ecalloc(g->nunit, sizeof *gone);
	char err[ERRLEN];

	prune_scores(g, IMP_RANDOM, NULL, 0, 0, score);
	prune_choose(g, score, &(struct prune_how){ .ratio = 0.19, .round_to = 1, .max_ratio = 1 }, gone);
	if (!(small = depgraph_prune(g, gone, err)))
		die("%s", err);
	ok(net_params(small) == 7717661 && net_macs(small) == 1191148692 && !strcmp(small->arch, "resnet18-pruned"),
	    "%s at ratio 0.19: %lld parameters, %lld multiply-adds", small->arch, (long long)net_params(small),
	    (long long)net_macs(small));
	net_free(small);
	net_free(net);
	depgraph_free(g);
	free(score);
	free(gone);
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
	int settings, bad; /* looked at; results that differ */
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

/* Every producer stands in the group of the root that the fixture names; "" for one of which nothing may go. */
static int groups_differ(const struct depgraph *g, const struct val *names, const struct val *roots)
{
	const struct net *net = g->net;

	for (size_t k = 0; k < names->list.len; k++) {
		const char *name = names->list.item[k]->s.p, *want = roots->list.item[k]->s.p, *root = "";
		int v = 0;

		while (v < net->nnode && strcmp(net->node[v].name, name))
			v++;
		if (v == net->nnode || (!depgraph_producer(net, v) && !*want))
			continue; /* widths_differ() says so; depthwise: in no group as a producer on either side */
		int unit = g->unit[g->element[v]], of = 0;
		while (unit >= g->group[of].first + g->group[of].n)
			of++;
		if (!g->group[of].fixed)
			root = net->node[g->group[of].root].name;
		if (strcmp(root, want)) {
			printf("# %s: in the group of '%s', '%s' expected\n", name, root, want);
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
	if (val_get(s->frame, "untraced"))
		ok(!s->bad && !s->settings, "%s: torchvision's widths; Torch-Pruning cannot trace it, see t_depgraph", s->arch);
	else
		ok(!s->bad && s->settings == SETTINGS, "%s: groups, widths, parameters and multiply-adds are Torch-Pruning's",
		    s->arch);
	net_free(s->net);
	depgraph_free(s->g);
	val_free(s->frame);
	free(s->score);
	free(s->gone);
	*s = (struct subject){ .net = NULL };
}

/* The formula's; a grouped convolution's score is the mean over what its groups have at a place. */
static void mean_scores(struct subject *s)
{
	const struct depgraph *g = s->g;

	for (int k = 0; k < g->ngroup; k++) {
		int root = g->group[k].root, channels = s->net->node[root].c, each = g->group[k].n;
		uint32_t name = name_hash(s->net->node[root].name);

		for (int u = 0; u < each; u++) {
			double sum = 0;

			for (int c = u; c < channels; c += each)
				sum += formula(name, c);
			s->score[g->group[k].first + u] = sum / (channels / each);
		}
	}
}

static void subject_new(struct subject *s, struct val *frame)
{
	const struct tensor *layers = val_get_tensor(frame, "layers");
	const struct val *names = val_get(frame, "names");

	s->frame = frame;
	s->arch = val_get_str(frame, "arch");
	s->net = named(s->arch, val_get_int(frame, "size", 0),
	    ((const int32_t *)layers->data)[2 * layers->shape[0] - 2]);
	s->g = graph_of(s->net);
	s->score = ecalloc(s->g->nunit, sizeof *s->score);
	s->gone = ecalloc(s->g->nunit, sizeof *s->gone);
	mean_scores(s);
	s->bad = widths_differ(s->net, names, layers);
	if (!val_get(frame, "untraced"))
		s->bad += sizes_differ(s->net, frame) + groups_differ(s->g, names, val_get(frame, "roots"));
}

static void check_widths(struct subject *s, struct val *frame)
{
	const struct val *global = val_get(frame, "global");
	struct prune_how how = { .max_ratio = 1, .ratio = val_get_f64(frame, "ratio", 0), .global = global && global->b,
		.round_to = val_get_int(frame, "round_to", 0) };
	char err[ERRLEN];
	struct net *small;

	s->settings++;
	prune_choose(s->g, s->score, &how, s->gone);
	if (!(small = depgraph_prune(s->g, s->gone, err)))
		die("%s: %s", s->arch, err);
	if (widths_differ(small, val_get(s->frame, "names"), val_get_tensor(frame, "widths")) ||
	    sizes_differ(small, frame)) {
		printf("# %s: differs at ratio %g, global %d, to %d\n", s->arch, how.ratio, how.global, how.round_to);
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

	for (int p = 0; p < net->nparam; p++) {
		float *x = weights_param(net, &w, p);
		uint32_t name = name_hash(net->param[p].name);

		for (size_t i = 0; i < net->param[p].count; i++)
			x[i] = formula(name, i) - 0.25;
	}
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
	progname = "t_prune";
	paper();
	against_torch_pruning(argc > 1 ? argv[1] : "tests/fixtures/prune.ts");
	return tap_end();
}
