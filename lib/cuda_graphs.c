#include <string.h>

#include "cuda_graphs.h"

struct recorded *graphs_find(struct graphs *g, const int *pick, int npick, int n, int classes)
{
	for (int i = 0; i < g->n; i++)
		if (g->of[i].n == n && g->of[i].classes == classes && g->of[i].npick == npick &&
		    !memcmp(g->of[i].pick, pick, npick * sizeof *pick))
			return &g->of[i];
	return NULL;
}

void graphs_remember(struct graphs *g, const int *pick, int npick, int n, int classes)
{
	struct recorded *r = &g->of[g->n];

	if (g->n == GRAPHS)
		return;
	*r = (struct recorded){ .n = n, .classes = classes, .npick = npick };
	memcpy(r->pick, pick, npick * sizeof *pick);
	g->n++;
}

void graphs_forget(struct graphs *g)
{
	for (int i = 0; i < g->n; i++)
		if (g->of[i].graph)
			cuda_check(cudaGraphExecDestroy(g->of[i].graph), "graph");
	g->n = 0;
	g->full = false;
}
