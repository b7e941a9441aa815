/* What is to go: scores of a dependency graph's units, ratios, targets. Arrays are the caller's. */
#ifndef PRUNE_H
#define PRUNE_H

#include "depgraph.h"

/* What makes a unit worth keeping. RANDOM: nothing, a draw each. L1, L2: the magnitudes, the squares of the weights
 * that go with it, rows of its producers and columns of what reads it, and of batch norm. BN: the magnitudes of batch
 * norm's weights alone. All but RANDOM relative to the group's mean. */
#define IMPORTANCES(X) X(IMP_RANDOM, "random") X(IMP_L1, "l1") X(IMP_L2, "l2") X(IMP_BN, "bn")
#define X(id, name) id,
enum importance { IMPORTANCES(X) IMP_COUNT };
#undef X
extern const char *const importance_name[IMP_COUNT];

struct prune_how {
	double ratio;     /* share of the units that go, in (0, 1) */
	bool global;      /* one ranking of all groups' units, else each group by itself */
	int round_to;     /* what stays of a group is a multiple of it; 1: any number */
	double max_ratio; /* largest share of a group; 1: none */
};

/* What a target counts: multiply-adds or parameters. PRUNE_RATIO: there is no target, prune_how's ratio says it all. */
enum prune_measure { PRUNE_RATIO, PRUNE_MACS, PRUNE_PARAMS };
int64_t prune_measure(const struct net *net, enum prune_measure m);

/* score (nunit): the higher, the longer it stays; NAN for the units of a group that nothing is known of. */
void prune_scores(const struct depgraph *g, enum importance imp, const struct weights *w, uint32_t seed,
    uint32_t member, double *score);

/* Fills gone (nunit). Of n units, n - int(n*(1 - ratio)) of the lowest scores go; in a global ranking all scores up to
 * that of the last one that goes do. Then what stays is rounded down. A group that would lose all its units loses none,
 * but should that leave some node without channels, units come back, best first. */
void prune_choose(const struct depgraph *g, const double *score, const struct prune_how *how, bool *gone);

/* The same for the smallest ratio that gives a network of at most `target`; how->ratio is set to it. -1 and err, which
 * has the nearest size that can be had, when none does. */
int prune_to_target(const struct depgraph *g, const double *score, struct prune_how *how, enum prune_measure m,
    int64_t target, bool *gone, char err[ERRLEN]);

#endif
