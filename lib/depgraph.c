#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "depgraph.h"

struct tie { /* of an element, to another */
	int to, next;
};

struct walk {
	struct depgraph *g;
	struct tie *tie;
	int ntie, cap;
	int *head;        /* (elements) first tie of each, -1: none */
	int *owner;       /* (elements) node */
	int *stack;       /* (elements) flooded, but not looked around yet */
	int *member;      /* (nnode) producers of the group that is walked now */
	int nmember;
	bool *seen;       /* (nnode) producers that are in a group */
};

/* One channel a group on either side: no group can lose a part of itself. */
static bool whole_groups(const struct net *net, const struct node *v)
{
	return v->op == OP_CONV && v->groups > 1 && (v->groups == v->c || v->groups == net->node[v->in[0]].c);
}

bool depgraph_producer(const struct net *net, int node)
{
	return op_weighs(net->node[node].op) && !whole_groups(net, &net->node[node]);
}

static void half_tie(struct walk *w, int a, int b)
{
	if (w->ntie == w->cap) {
		w->cap = w->cap ? 2 * w->cap : 4096;
		w->tie = erealloc(w->tie, w->cap, sizeof *w->tie);
	}
	w->tie[w->ntie] = (struct tie){ b, w->head[a] };
	w->head[a] = w->ntie++;
}

static void tie(struct walk *w, int a, int b)
{
	half_tie(w, a, b);
	half_tie(w, b, a);
}

/* The channels of a grouped convolution, from `first` on: those of one group each, or at one place of every group. */
static void tie_groups(struct walk *w, int first, int channels, int groups, bool whole)
{
	int size = channels / groups;

	for (int c = 0; c < channels; c++)
		if (whole)
			tie(w, first + c, first + c / size * size);
		else
			tie(w, first + c, first + c % size);
}

/* What node i ties: x, y are the first elements of its inputs, z its own. */
static void tie_node(struct walk *w, int i)
{
	const struct net *net = w->g->net;
	const struct node *v = &net->node[i], *a = v->nin > 0 ? &net->node[v->in[0]] : NULL;
	int x = v->nin > 0 ? w->g->element[v->in[0]] : 0, y = v->nin > 1 ? w->g->element[v->in[1]] : 0;
	int z = w->g->element[i];

	switch (v->op) {
	case OP_INPUT:
	case OP_LINEAR:
	case OP_COUNT:
		break;
	case OP_CONV:
		if (v->groups == 1)
			break;
		tie_groups(w, x, a->c, v->groups, whole_groups(net, v));
		tie_groups(w, z, v->c, v->groups, whole_groups(net, v));
		for (int k = 0; whole_groups(net, v) && k < v->groups; k++)
			tie(w, z + k * (v->c / v->groups), x + k * (a->c / v->groups));
		break;
	case OP_AFFINE:
	case OP_BN:
	case OP_IN:
	case OP_RELU:
	case OP_RELU6:
	case OP_SILU:
	case OP_SIGMOID:
	case OP_MAXPOOL:
	case OP_AVGPOOL:
	case OP_GAP:
	case OP_ADAPT:
	case OP_DROPOUT:
	case OP_DROPPATH:
		for (int c = 0; c < v->c; c++)
			tie(w, z + c, x + c);
		break;
	case OP_ADD:
	case OP_MUL:
		for (int c = 0; c < v->c; c++) {
			tie(w, z + c, x + c);
			tie(w, z + c, y + c);
		}
		break;
	case OP_CONCAT:
		for (int c = 0; c < v->c; c++)
			tie(w, z + c, c < a->c ? x + c : y + c - a->c);
		break;
	case OP_SELECT:
		for (int c = 0; c < v->c; c++)
			tie(w, z + c, x + v->map[c]);
		break;
	case OP_FLATTEN:
		for (int c = 0; c < v->c; c++)
			tie(w, z + c, x + c / (a->h * a->w));
		break;
	}
}

/* Everything tied to element e becomes unit u; a producer met on the way joins the group. */
static void flood(struct walk *w, int e, int u, struct group *group)
{
	struct depgraph *g = w->g;
	int n = 0;

	g->unit[e] = u;
	w->stack[n++] = e;
	while (n) {
		e = w->stack[--n];
		int node = w->owner[e];

		if (node == 0 || node == g->net->nnode - 1)
			group->fixed = true;
		if (!w->seen[node] && depgraph_producer(g->net, node)) {
			w->seen[node] = true;
			w->member[w->nmember++] = node;
		}
		for (int t = w->head[e]; t >= 0; t = w->tie[t].next)
			if (g->unit[w->tie[t].to] < 0) {
				g->unit[w->tie[t].to] = u;
				w->stack[n++] = w->tie[t].to;
			}
	}
}

static void walk_from(struct walk *w, int root)
{
	struct depgraph *g = w->g;
	struct group group = { .root = root, .first = g->nunit };

	w->seen[root] = true;
	w->member[0] = root;
	w->nmember = 1;
	for (int m = 0; m < w->nmember; m++)
		for (int e = g->element[w->member[m]]; e < g->element[w->member[m] + 1]; e++)
			if (g->unit[e] < 0)
				flood(w, e, g->nunit++, &group);
	group.n = g->nunit - group.first;
	g->group = erealloc(g->group, g->ngroup + 1, sizeof *g->group);
	g->group[g->ngroup++] = group;
}

struct depgraph *depgraph_new(const struct net *net, char err[ERRLEN])
{
	struct depgraph *g = ecalloc(1, sizeof *g);
	struct walk w = { .g = g };
	int elements = 0;

	g->net = net;
	g->element = ecalloc(net->nnode + 1, sizeof *g->element);
	for (int i = 0; i < net->nnode; i++) {
		if (net->node[i].c > MAX_ELEMENTS - elements) {
			fail(err, "node %s: more than %d channels up to here", net->node[i].name, MAX_ELEMENTS);
			depgraph_free(g);
			return NULL;
		}
		g->element[i + 1] = elements += net->node[i].c;
	}
	g->unit = ecalloc(elements, sizeof *g->unit);
	w.head = ecalloc(elements, sizeof *w.head);
	w.owner = ecalloc(elements, sizeof *w.owner);
	w.stack = ecalloc(elements, sizeof *w.stack);
	w.member = ecalloc(net->nnode, sizeof *w.member);
	w.seen = ecalloc(net->nnode, sizeof *w.seen);
	for (int i = 0; i < net->nnode; i++)
		for (int e = g->element[i]; e < g->element[i + 1]; e++) {
			w.owner[e] = i;
			w.head[e] = g->unit[e] = -1;
		}
	for (int i = 0; i < net->nnode; i++)
		tie_node(&w, i);
	for (int i = 0; i < net->nnode; i++)
		if (!w.seen[i] && depgraph_producer(net, i))
			walk_from(&w, i);
	free(w.tie);
	free(w.head);
	free(w.owner);
	free(w.stack);
	free(w.member);
	free(w.seen);
	return g;
}

void depgraph_free(struct depgraph *g)
{
	if (!g)
		return;
	free(g->element);
	free(g->unit);
	free(g->group);
	free(g);
}

int depgraph_kept(const struct depgraph *g, const bool *gone, int node, bool *keep)
{
	int n = 0;

	for (int c = 0; c < g->net->node[node].c; c++) {
		int u = g->unit[g->element[node] + c];
		bool stays = u < 0 || !gone[u];

		n += stays;
		if (keep)
			keep[c] = stays;
	}
	return n;
}

/* What stays of x (n). */
static float *few_floats(const float *x, const bool *keep, int n)
{
	float *few;
	int k = 0;

	if (!x)
		return NULL;
	few = ecalloc(n, sizeof *few);
	for (int c = 0; c < n; c++)
		if (keep[c])
			few[k++] = x[c];
	return few;
}

/* What stays of a map, in the input's new channels. */
static int *few_places(const struct node *v, const bool *keep, const bool *keep_in, int nin)
{
	int *rank, *few, k = 0;

	if (!v->map)
		return NULL;
	rank = ecalloc(nin, sizeof *rank);
	few = ecalloc(v->c, sizeof *few);
	for (int c = 1; c < nin; c++)
		rank[c] = rank[c - 1] + keep_in[c - 1];
	for (int c = 0; c < v->c; c++)
		if (keep[c])
			few[k++] = rank[v->map[c]];
	free(rank);
	return few;
}

static int add_pruned(const struct depgraph *g, const bool *gone, struct net *out, int i, char err[ERRLEN])
{
	const struct net *net = g->net;
	struct node v = net->node[i];
	int nin = v.nin ? net->node[v.in[0]].c : 0, left, rc;
	bool *keep = ecalloc(v.c, sizeof *keep), *keep_in = ecalloc(nin, sizeof *keep_in);

	left = depgraph_kept(g, gone, i, keep);
	if (v.nin)
		depgraph_kept(g, gone, v.in[0], keep_in);
	v.scale = few_floats(v.scale, keep, v.c);
	v.shift = few_floats(v.shift, keep, v.c);
	v.map = few_places(&v, keep, keep_in, nin);
	if (whole_groups(net, &v))
		v.groups = (int64_t)v.groups * left / v.c;
	rc = left ? net_add(out, &v, left, err) : fail(err, "node %s: no channel is left", v.name);
	free(v.scale);
	free(v.shift);
	free(v.map);
	free(keep);
	free(keep_in);
	return rc;
}

struct net *depgraph_prune(const struct depgraph *g, const bool *gone, char err[ERRLEN])
{
	static const char suffix[] = "-pruned";
	const struct net *net = g->net;
	char arch[sizeof net->arch + sizeof suffix];
	size_t len = strlen(net->arch), tail = sizeof suffix - 1;
	struct net *out;

	/* pruned again, it is still called so once */
	snprintf(arch, sizeof arch, "%s%s", net->arch,
	    len > tail && !strcmp(net->arch + len - tail, suffix) ? "" : suffix);
	if (strlen(arch) >= sizeof net->arch) {
		fail(err, "the architecture's name is too long to append '%s': %s", suffix, net->arch);
		return NULL;
	}
	out = net_new(arch, net->chw);
	out->init = net->init;
	for (int i = 0; i < net->nnode; i++)
		if (add_pruned(g, gone, out, i, err) < 0) {
			net_free(out);
			return NULL;
		}
	if (net_finish(out, net->nclass, err) < 0) {
		net_free(out);
		return NULL;
	}
	return out;
}

/* Rows and columns of one parameter: x (rows, columns, plane) -> out, in which only what is kept stands. */
static void cut(float *out, const float *x, const bool *row, int rows, const bool *column, int columns, size_t plane)
{
	for (int r = 0; r < rows; r++)
		for (int c = 0; c < columns; c++, x += plane)
			if ((!row || row[r]) && (!column || column[c])) {
				memcpy(out, x, plane * sizeof *x);
				out += plane;
			}
}

static void cut_weight(const struct depgraph *g, const bool *gone, int i, const bool *row, const float *x, float *out)
{
	const struct node *v = &g->net->node[i];
	int in = v->in[0], nin = g->net->node[in].c;
	bool *column = ecalloc(nin, sizeof *column);

	/* All groups of a grouped convolution keep the same places, the first says which; whole groups keep theirs. */
	depgraph_kept(g, gone, in, column);
	cut(out, x, row, v->c, whole_groups(g->net, v) ? NULL : column, v->op == OP_CONV ? nin / v->groups : nin,
	    v->op == OP_CONV ? (size_t)v->k * v->k : 1);
	free(column);
}

void depgraph_weights(const struct depgraph *g, const bool *gone, const struct weights *whole, const struct net *pruned,
    struct weights *out)
{
	const struct net *net = g->net;

	for (int p = 0; p < net->nparam; p++) {
		const struct param *q = &net->param[p];
		int i = q->node;
		bool *row = ecalloc(net->node[i].c, sizeof *row);
		const float *x = weights_param(net, whole, p);
		float *y = weights_param(pruned, out, p);

		depgraph_kept(g, gone, i, row);
		if (op_weighs(net->node[i].op) && q->role == P_WEIGHT)
			cut_weight(g, gone, i, row, x, y);
		else
			cut(y, x, row, net->node[i].c, NULL, 1, 1);
		free(row);
	}
}
