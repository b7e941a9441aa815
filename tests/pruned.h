/* What the tests of pruning share: values by formula, networks by hand, by name, their graphs. */
#ifndef PRUNED_H
#define PRUNED_H

#include <stdio.h>
#include <string.h>

#include "../lib/depgraph.h"

/* gen_prune.py's formula: element i of what has the name of this hash, in [0, 1). */
static uint32_t name_hash(const char *name)
{
	uint32_t h = 2166136261u;

	for (const char *s = name; *s; s++)
		h = (h ^ (uint8_t)*s) * 16777619u;
	return h;
}

static double formula(uint32_t name, uint32_t i)
{
	uint32_t h = name + i * 2654435761u;

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

static void begin(int size)
{
	hand = net_new("hand", (int[]){ 3, size, size });
	op(OP_INPUT);
}

static struct net *arch_of(const char *arch, int size, int nclass)
{
	char err[ERRLEN];
	struct net *net = net_arch(arch, (int[]){ 3, size, size }, nclass, err);

	if (!net)
		die("%s: %s", arch, err);
	return net;
}

static struct depgraph *graph_of(const struct net *net)
{
	char err[ERRLEN];
	struct depgraph *g = depgraph_new(net, err);

	if (!g)
		die("%s", err);
	return g;
}

#endif
