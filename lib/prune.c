#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "prune.h"

#define X(id, name) name,
const char *const importance_name[IMP_COUNT] = { IMPORTANCES(X) };
#undef X

/* Adds |w|^p of every weight of a convolution or linear to the units of its row and of its column. */
static void add_weights(const struct depgraph *g, int i, const float *w, enum importance imp, double *sum)
{
	const struct node *v = &g->net->node[i];
	int nin = g->net->node[v->in[0]].c, groups = v->op == OP_CONV ? v->groups : 1, columns = nin / groups;
	int plane = v->op == OP_CONV ? v->k * v->k : 1;
	const int *row = g->unit + g->element[i], *column = g->unit + g->element[v->in[0]];

	for (int r = 0; r < v->c; r++)
		for (int c = 0; c < columns; c++, w += plane) {
			double s = 0;

			for (int j = 0; j < plane; j++)
				s += imp == IMP_L1 ? fabs(w[j]) : (double)w[j] * w[j];
			if (row[r] >= 0)
				sum[row[r]] += s;
			/* A place is the same unit in every group, and counts in each. */
			if (column[c] >= 0)
				sum[column[c]] += s * groups;
		}
}

static void add_norm(const struct depgraph *g, int i, const float *w, enum importance imp, double *sum)
{
	const int *unit = g->unit + g->element[i];

	for (int c = 0; c < g->net->node[i].c; c++)
		if (unit[c] >= 0)
			sum[unit[c]] += imp == IMP_L2 ? (double)w[c] * w[c] : fabs(w[c]);
}

/* Of the sums over a group's elements, what each of the root's channels has, relative to the group's mean. */
static void relate(const struct depgraph *g, const struct group *group, const bool *known, double *score)
{
	int *channels = ecalloc(group->n, sizeof *channels);
	double total = 0, all = 0;
	bool any = false;

	for (int e = g->element[group->root]; e < g->element[group->root + 1]; e++)
		channels[g->unit[e] - group->first]++;
	for (int k = 0; k < group->n; k++) {
		double *s = &score[group->first + k];

		channels[k] = MAX(channels[k], 1); /* of another producer */
		any |= known[group->first + k];
		total += *s;
		all += channels[k];
		*s /= channels[k];
	}
	for (int k = 0; k < group->n; k++)
		if (!any)
			score[group->first + k] = NAN;
		else if (total > 0)
			score[group->first + k] /= total / all;
	free(channels);
}

void prune_scores(const struct depgraph *g, enum importance imp, const struct weights *w, uint32_t seed,
    uint32_t member, double *score)
{
	const struct net *net = g->net;
	bool *known = ecalloc(g->nunit, sizeof *known);

	for (int u = 0; u < g->nunit; u++)
		score[u] = 0;
	for (int i = 0; i < net->nnode && imp != IMP_RANDOM; i++) {
		const struct node *v = &net->node[i];
		bool weighs = op_weighs(v->op) && imp != IMP_BN;
		/* Depthwise kernels are as large for an idle channel as for any, so they say nothing. */
		bool mixes = depgraph_producer(net, i);

		if ((!weighs || !mixes) && v->op != OP_BN)
			continue;
		(weighs ? add_weights : add_norm)(g, i, weights_param(net, w, v->param[P_WEIGHT]), imp, score);
		for (int e = g->element[i]; e < g->element[i + 1]; e++)
			if (g->unit[e] >= 0)
				known[g->unit[e]] = true;
	}
	for (int k = 0; k < g->ngroup; k++) {
		const struct group *group = &g->group[k];

		if (imp == IMP_RANDOM) {
			struct rng r = rng_at(seed, RNG_PRUNE, member, group->root, 0);

			for (int u = group->first; u < group->first + group->n; u++)
				score[u] = rng_uniform(&r);
		} else {
			relate(g, group, known, score);
		}
	}
	free(known);
}

struct ranked {
	double score;
	int unit;
};

static int by_score(const void *a, const void *b)
{
	const struct ranked *x = a, *y = b;

	return x->score != y->score ? (x->score > y->score) - (x->score < y->score) : x->unit - y->unit;
}

/* The group's units, lowest first; NULL: nothing of it may go. */
static struct ranked *rank(const struct group *group, const double *score)
{
	struct ranked *r;

	if (group->fixed || group->n < 2 || isnan(score[group->first]))
		return NULL;
	r = ecalloc(group->n, sizeof *r);
	for (int k = 0; k < group->n; k++)
		r[k] = (struct ranked){ score[group->first + k], group->first + k };
	qsort(r, group->n, sizeof *r, by_score);
	return r;
}

static int share(int n, double ratio)
{
	return n - (int)(n * (1 - ratio));
}

/* The highest score that goes when all groups are ranked as one. */
static double threshold(const struct depgraph *g, const double *score, double ratio)
{
	struct ranked *all = ecalloc(g->nunit, sizeof *all);
	double at = -INFINITY;
	int n = 0;

	for (int k = 0; k < g->ngroup; k++) {
		struct ranked *r = rank(&g->group[k], score);

		if (r)
			memcpy(all + n, r, g->group[k].n * sizeof *r);
		n += r ? g->group[k].n : 0;
		free(r);
	}
	qsort(all, n, sizeof *all, by_score);
	if (n && share(n, ratio) > 0)
		at = all[share(n, ratio) - 1].score;
	free(all);
	return at;
}

/* How many of a group's n units go, where `want` would. */
static int allowed(int n, int want, const struct prune_how *how)
{
	int most = how->max_ratio < 1 ? share(n, how->max_ratio) : n, round = how->round_to, left;

	want = MIN(want, most);
	if (!want)
		return 0;
	left = (n - want) / round * round;
	if (n - left > most) /* rounding took too much: to the next multiple, then */
		left += round;
	return left && left < n ? n - left : 0;
}

/* A slice may have lost all that it takes of several groups: the best of that comes back. */
static void refill(const struct depgraph *g, const double *score, bool *gone)
{
	for (int i = 0; i < g->net->nnode; i++) {
		int best = -1;

		if (depgraph_kept(g, gone, i, NULL))
			continue;
		for (int e = g->element[i]; e < g->element[i + 1]; e++)
			if (best < 0 || score[g->unit[e]] > score[best])
				best = g->unit[e];
		gone[best] = false;
	}
}

void prune_choose(const struct depgraph *g, const double *score, const struct prune_how *how, bool *gone)
{
	double at = how->global ? threshold(g, score, how->ratio) : 0;

	memset(gone, 0, g->nunit * sizeof *gone);
	for (int k = 0; k < g->ngroup; k++) {
		const struct group *group = &g->group[k];
		struct ranked *r = rank(group, score);
		int want = 0;

		if (!r)
			continue;
		if (how->global)
			while (want < group->n && r[want].score <= at)
				want++;
		else
			want = share(group->n, how->ratio);
		want = allowed(group->n, want, how);
		for (int u = 0; u < want; u++)
			gone[r[u].unit] = true;
		free(r);
	}
	refill(g, score, gone);
}

int64_t prune_measure(const struct net *net, enum prune_measure m)
{
	return m == PRUNE_MACS ? net_macs(net) : net_params(net);
}

/* The size that a ratio gives; -1 and err. */
static int64_t size_at(const struct depgraph *g, const double *score, struct prune_how *how, double ratio,
    enum prune_measure m, bool *gone, char err[ERRLEN])
{
	struct net *net;
	int64_t size;

	how->ratio = ratio;
	prune_choose(g, score, how, gone);
	if (!(net = depgraph_prune(g, gone, err)))
		return -1;
	size = prune_measure(net, m);
	net_free(net);
	return size;
}

int prune_to_target(const struct depgraph *g, const double *score, struct prune_how *how, enum prune_measure m,
    int64_t target, bool *gone, char err[ERRLEN])
{
	static const int grids[] = { 64, 1024 };
	int64_t size, least = INT64_MAX;
	double lo = 0, hi = 0;

	/* Groups that would lose all lose nothing, so sizes need not fall with the ratio: the first of a grid that is small
	 * enough is looked for, and then the first of all between it and the one before. */
	for (size_t k = 0; k < LEN(grids) && !hi; k++)
		for (int i = 1; i < grids[k] && !hi; i++) {
			if ((size = size_at(g, score, how, (double)i / grids[k], m, gone, err)) < 0)
				return -1;
			least = MIN(least, size);
			if (size <= target) {
				lo = (i - 1.0) / grids[k];
				hi = how->ratio;
			}
		}
	if (!hi)
		return fail(err, "no ratio gives a network of at most %lld %s; the nearest has %lld", (long long)target,
			m == PRUNE_MACS ? "multiply-adds" : "parameters", (long long)least);
	for (int i = 0; i < 24; i++) {
		double mid = (lo + hi) / 2;

		if ((size = size_at(g, score, how, mid, m, gone, err)) < 0)
			return -1;
		*(size <= target ? &hi : &lo) = mid;
	}
	return size_at(g, score, how, hi, m, gone, err) < 0 ? -1 : 0;
}
