/* Graphs: what streams do between two calls, written down and replayed. A node knows how much of every stream of the
 * capture comes before it; replays go in the order of recording, or with EMU_ORDER in another that respects just that,
 * so that branches which should have waited for each other are seen. */
#include <limits.h>
#include <string.h>

#include "inside.h"

struct CUgraph_st {
	struct item **node;
	int count;
};

struct CUgraphExec_st {
	struct CUgraph_st graph;
};

struct capture {
	struct capture *next; /* of those going on */
	cudaStream_t origin, member[CAPTURED];
	int members;
	enum cudaStreamCaptureMode mode;
	bool spoiled;
	cudaGraph_t graph;
};

static struct capture *captures;

bool emu_may_not(void)
{
	bool not = false;

	for (struct capture *c = captures; c; c = c->next)
		if (c->mode != cudaStreamCaptureModeRelaxed)
			c->spoiled = not = true;
	return not;
}

static void join(struct capture *c, cudaStream_t s)
{
	if (c->members == CAPTURED)
		emu_fail("more than %d streams in a capture", CAPTURED);
	s->capture = c;
	s->slot = c->members;
	s->clock = (struct clock){ 0 };
	c->member[c->members++] = s;
}

void emu_node(cudaStream_t s, struct item *item)
{
	struct CUgraph_st *g = s->capture->graph;

	if ((g->count & (g->count - 1)) == 0) /* grows by doubling */
		g->node = realloc(g->node, (g->count ? 2 * g->count : 1) * sizeof(*g->node));
	item->after = malloc(sizeof(*item->after));
	if (!g->node || !item->after)
		emu_fail("out of memory");
	*item->after = s->clock;
	item->slot = s->slot;
	g->node[g->count++] = item;
	s->clock.seen[s->slot]++;
}

void emu_mark(cudaEvent_t e, cudaStream_t s)
{
	e->capture = s->capture;
	e->clock = s->clock;
}

static bool going_on(const struct capture *c)
{
	for (const struct capture *i = captures; i; i = i->next)
		if (i == c)
			return true;
	return false;
}

cudaError_t emu_join(cudaStream_t s, cudaEvent_t e)
{
	if (!e->capture || !going_on(e->capture)) /* recorded outside: what it stands for is no part of the graph */
		return e->capture ? cudaErrorInvalidValue : cudaErrorStreamCaptureUnsupported;
	if (!s->capture)
		join(e->capture, s);
	if (s->capture != e->capture)
		return cudaErrorStreamCaptureMerge;
	for (int i = 0; i < CAPTURED; i++)
		if (s->clock.seen[i] < e->clock.seen[i])
			s->clock.seen[i] = e->clock.seen[i];
	return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode)
{
	struct capture *c;

	if (!s)
		return emu_error(cudaErrorStreamCaptureUnsupported);
	if (s->capture)
		return emu_error(cudaErrorInvalidValue);
	c = calloc(1, sizeof(*c));
	if (!c || !(c->graph = calloc(1, sizeof(*c->graph))))
		emu_fail("out of memory");
	c->origin = s;
	c->mode = mode;
	emu_lock();
	join(c, s);
	c->next = captures;
	captures = c;
	emu_unlock();
	return emu_error(cudaSuccess);
}

/* Everything that was forked off must have come back. */
static bool unjoined(const struct capture *c)
{
	for (int i = 0; i < c->members; i++)
		if (c->origin->clock.seen[i] < c->member[i]->clock.seen[i])
			return true;
	return false;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph)
{
	struct capture *c = s ? s->capture : NULL, **at = &captures;
	cudaError_t e = cudaSuccess;

	*graph = NULL;
	if (!c || c->origin != s)
		return emu_error(cudaErrorInvalidValue);
	emu_lock();
	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	if (c->spoiled)
		e = cudaErrorStreamCaptureInvalidated;
	else if (unjoined(c))
		e = cudaErrorStreamCaptureUnjoined;
	for (int i = 0; i < c->members; i++)
		c->member[i]->capture = NULL;
	emu_unlock();
	if (e)
		cudaGraphDestroy(c->graph);
	else
		*graph = c->graph;
	free(c);
	return emu_error(e);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *status)
{
	*status = !s || !s->capture ? cudaStreamCaptureStatusNone :
	    s->capture->spoiled ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
	return emu_error(cudaSuccess);
}

static struct item *copy_node(const struct item *from)
{
	struct item *item = emu_item(from->name, from->kind, from->run, from->context, from->size);

	item->grid = from->grid, item->block = from->block;
	item->slot = from->slot;
	item->after = malloc(sizeof(*item->after));
	if (!item->after)
		emu_fail("out of memory");
	*item->after = *from->after;
	return item;
}

static void empty(struct CUgraph_st *g)
{
	for (int i = 0; i < g->count; i++) {
		free(g->node[i]->after);
		free(g->node[i]);
	}
	free(g->node);
}

static int executable; /* graphs that there are now */

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
	struct CUgraph_st *g;

	(void)flags;
	if (executable >= emu_setting("EMU_GRAPHS", INT_MAX))
		return emu_error(cudaErrorMemoryAllocation);
	executable++;
	*exec = calloc(1, sizeof(**exec));
	if (!*exec)
		emu_fail("out of memory");
	g = &(*exec)->graph;
	g->node = calloc(graph->count + 1, sizeof(*g->node));
	if (!g->node)
		emu_fail("out of memory");
	for (g->count = 0; g->count < graph->count; g->count++)
		g->node[g->count] = copy_node(graph->node[g->count]);
	return emu_error(cudaSuccess);
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t s)
{
	if (!exec || (s && s->capture))
		return emu_error(cudaErrorInvalidValue);
	return emu_error(executable > emu_setting("EMU_UPLOADS", INT_MAX) ? cudaErrorMemoryAllocation : cudaSuccess);
}

static bool ready(const struct item *node, const struct clock *done)
{
	for (int i = 0; i < CAPTURED; i++)
		if (done->seen[i] < node->after->seen[i])
			return false;
	return true;
}

/* Which node comes now: each stream's next one is a candidate. The last one, always, or by turns. */
static int choose(const struct CUgraph_st *g, const bool *ran, const struct clock *done, int step)
{
	int candidate[CAPTURED], n = 0;

	for (int i = 0; i < g->count; i++)
		if (!ran[i] && ready(g->node[i], done) && n < CAPTURED)
			candidate[n++] = i;
	return candidate[emu_order() == SHUFFLE ? step % n : n - 1];
}

/* A node's context is a copy each time: kernels own their parameters. */
static void run_node(const struct item *node)
{
	struct item *item = copy_node(node);

	emu_run(item);
	free(item->after);
	free(item);
}

/* Device memory stays open throughout. */
static void replay(void *context)
{
	struct CUgraph_st *g = &(*(cudaGraphExec_t *)context)->graph;
	bool *ran;
	struct clock done = { { 0 } };

	if (emu_order() == FORWARD) {
		for (int i = 0; i < g->count; i++)
			run_node(g->node[i]);
		return;
	}
	ran = calloc(g->count + 1, sizeof(*ran));
	for (int step = 0; step < g->count; step++) {
		int i = choose(g, ran, &done, step);
		ran[i] = true;
		done.seen[g->node[i]->slot]++;
		run_node(g->node[i]);
	}
	free(ran);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
	return emu_add(s, emu_item("graph", ITEM_CALL, replay, &exec, sizeof(exec)));
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *n)
{
	if (nodes)
		return emu_error(cudaErrorNotSupported);
	*n = graph->count;
	return emu_error(cudaSuccess);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
	emu_lock();
	emu_finish(NULL);
	emu_unlock();
	empty(&exec->graph);
	free(exec);
	executable--;
	return emu_error(cudaSuccess);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
	empty(graph);
	free(graph);
	return emu_error(cudaSuccess);
}
