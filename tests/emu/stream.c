/* Streams and events: queues of items. They run when they are added, or with EMU_STREAMS=late when somebody waits for
 * them, so that what is missing is seen: a wait, a host buffer that must stay as it is. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "inside.h"

static struct CUstream_st *streams;
static struct CUstream_st by_default = { .tail = &by_default.head };

static bool late(void)
{
	static int is = -1;

	if (is < 0)
		is = getenv("EMU_STREAMS") && !strcmp(getenv("EMU_STREAMS"), "late");
	return is;
}

struct item *emu_item(const char *name, int kind, void (*run)(void *), const void *context, size_t size)
{
	struct item *item = calloc(1, sizeof(*item) + size);

	if (!item)
		emu_fail("out of memory");
	item->name = name, item->kind = kind, item->run = run, item->size = size;
	if (size)
		memcpy(item->context, context, size);
	return item;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static void run_first(cudaStream_t s);

void emu_run(struct item *item)
{
	emu_tally(item->name);
	switch (item->kind) {
	case ITEM_HOST:
		item->run(item->context);
		return;
	case ITEM_RECORD:
		item->event->time = now();
		if (item->event->done < item->turn)
			item->event->done = item->turn;
		return;
	case ITEM_WAIT:
		while (item->event->done < item->turn && item->from && item->from->head)
			run_first(item->from);
		return;
	case ITEM_KERNEL:
		if (emu_lose())
			return;
		emu_enter();
		emu_grid(item);
		emu_leave();
		emu_running(NULL);
		return;
	case ITEM_CALL:
		emu_running(item->name);
		emu_enter();
		item->run(item->context);
		emu_leave();
		emu_running(NULL);
		return;
	}
}

/* Taken off the queue before it runs: a wait may lead back here. */
static void run_first(cudaStream_t s)
{
	struct item *item = s->head;

	s->head = item->next;
	if (!s->head)
		s->tail = &s->head;
	emu_run(item);
	free(item->after);
	free(item);
}

/* To its end. EMU_ORDER=shuffle: the others get on by a piece of work for each of its own. */
static void finish(cudaStream_t s)
{
	while (s->head) {
		run_first(s);
		for (cudaStream_t i = streams; i && emu_order() == SHUFFLE; i = i->next)
			if (i != s && i->head)
				run_first(i);
	}
}

void emu_finish(cudaStream_t s)
{
	for (cudaStream_t i = streams; i; i = i->next)
		if (!s || i == s)
			finish(i);
	if (!s || s == &by_default)
		finish(&by_default);
}

static void append(cudaStream_t s, struct item *item)
{
	*s->tail = item;
	s->tail = &item->next;
	if (!late())
		emu_finish(s);
}

/* The default stream waits for all others and they for it, but for those apart. */
cudaError_t emu_add(cudaStream_t s, struct item *item)
{
	cudaError_t e;

	emu_lock();
	e = emu_error(cudaSuccess);
	if (!e && !s && emu_may_not())
		e = cudaErrorStreamCaptureImplicit;
	if (e)
		free(item);
	else if (!s) {
		for (cudaStream_t i = streams; i; i = i->next)
			if (!i->apart)
				emu_finish(i);
		append(&by_default, item);
		e = emu_error(cudaSuccess);
	} else if (s->capture) {
		emu_node(s, item);
	} else {
		if (!s->apart)
			emu_finish(&by_default);
		append(s, item);
		e = emu_error(cudaSuccess);
	}
	emu_unlock();
	return emu_error(e);
}

cudaError_t emu_enqueue(cudaStream_t s, const char *name, void (*run)(void *), const void *context, size_t size)
{
	return emu_add(s, emu_item(name, ITEM_CALL, run, context, size));
}

void emu_launch(const char *name, dim3 grid, dim3 block, cudaStream_t s, void (*thread)(void *), const void *context,
    size_t size)
{
	const char *refused = getenv("EMU_REFUSE");
	struct item *item;
	size_t threads = (size_t)block.x * block.y * block.z;

	if ((refused && strstr(name, refused)) || !grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535 ||
	    threads == 0 || threads > 1024 || block.z > 64) {
		emu_error(cudaErrorInvalidConfiguration);
		return;
	}
	item = emu_item(name, ITEM_KERNEL, thread, context, size);
	item->grid = grid, item->block = block;
	emu_add(s, item);
}

struct host_call {
	cudaHostFn_t f;
	void *data;
};

static void call_host(void *context)
{
	struct host_call *c = context;

	c->f(c->data);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t f, void *data)
{
	struct host_call call = { f, data };

	return emu_add(s, emu_item("host function", ITEM_HOST, call_host, &call, sizeof(call)));
}

/* Waits for one stream, or all. */
static cudaError_t wait_for(cudaStream_t s)
{
	cudaError_t e = cudaSuccess;

	emu_lock();
	if (emu_may_not())
		e = cudaErrorStreamCaptureUnsupported;
	else
		emu_finish(s);
	emu_unlock();
	return emu_error(e);
}

cudaError_t cudaDeviceSynchronize(void)
{
	return wait_for(NULL);
}

cudaError_t cudaDeviceReset(void)
{
	return wait_for(NULL);
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
	return wait_for(s);
}

/* Whoever asks again and again lets it go on by one item each time. */
static cudaError_t query(cudaStream_t s, bool ready)
{
	cudaError_t e = cudaSuccess;

	emu_lock();
	if (emu_may_not())
		e = cudaErrorStreamCaptureUnsupported;
	else if (!ready && s && s->head) {
		run_first(s);
		e = cudaErrorNotReady;
	}
	emu_unlock();
	return emu_error(e);
}

cudaError_t cudaStreamQuery(cudaStream_t s)
{
	return query(s, false);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
	cudaError_t e = emu_error(cudaSuccess);

	if (e)
		return e;
	*s = calloc(1, sizeof(**s));
	if (!*s)
		emu_fail("out of memory");
	(*s)->tail = &(*s)->head;
	(*s)->apart = flags & cudaStreamNonBlocking;
	emu_lock();
	(*s)->next = streams;
	streams = *s;
	emu_unlock();
	return e;
}

cudaError_t cudaStreamCreate(cudaStream_t *s)
{
	return cudaStreamCreateWithFlags(s, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority)
{
	(void)priority;
	return cudaStreamCreateWithFlags(s, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
	struct CUstream_st **at = &streams;

	emu_lock();
	while (*at && *at != s)
		at = &(*at)->next;
	if (!*at || s->capture) {
		emu_unlock();
		return emu_error(cudaErrorInvalidResourceHandle);
	}
	emu_finish(NULL); /* others may wait for an event of this one */
	*at = s->next;
	emu_unlock();
	free(s);
	return emu_error(cudaSuccess);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags)
{
	cudaError_t bad = emu_error(cudaSuccess);

	(void)flags;
	if (bad)
		return bad;
	*e = calloc(1, sizeof(**e));
	if (!*e)
		emu_fail("out of memory");
	return bad;
}

cudaError_t cudaEventCreate(cudaEvent_t *e)
{
	return cudaEventCreateWithFlags(e, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
	emu_lock();
	emu_finish(NULL);
	emu_unlock();
	free(e);
	return emu_error(cudaSuccess);
}

/* Within a capture an event is a mark in the graph's order, and never done. */
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
	struct item *item;

	if (s && s->capture) {
		emu_lock();
		emu_mark(e, s);
		emu_unlock();
		return emu_error(cudaSuccess);
	}
	item = emu_item("event", ITEM_RECORD, NULL, NULL, 0);
	emu_lock();
	e->capture = NULL;
	e->from = s;
	item->event = e;
	item->turn = ++e->asked;
	emu_unlock();
	return emu_add(s, item);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags)
{
	struct item *item;
	cudaError_t bad;

	(void)flags;
	if (s && (e->capture || s->capture)) {
		emu_lock();
		bad = emu_join(s, e);
		emu_unlock();
		return emu_error(bad);
	}
	item = emu_item("event", ITEM_WAIT, NULL, NULL, 0);
	item->event = e, item->turn = e->asked, item->from = e->from;
	return emu_add(s, item);
}

cudaError_t cudaEventQuery(cudaEvent_t e)
{
	return query(e->from, e->done == e->asked);
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
	cudaError_t bad = cudaSuccess;

	emu_lock();
	if (e->capture || emu_may_not())
		bad = cudaErrorStreamCaptureUnsupported;
	while (!bad && e->done < e->asked && e->from && e->from->head)
		run_first(e->from);
	emu_unlock();
	return emu_error(bad);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
	if (!from->asked || !to->asked)
		return emu_error(cudaErrorInvalidResourceHandle);
	if (from->done < from->asked || to->done < to->asked)
		return emu_error(cudaErrorNotReady);
	*ms = (float)((to->time - from->time) * 1e3);
	return emu_error(cudaSuccess);
}
