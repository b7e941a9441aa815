/* Copies. What is not device memory by the copy's kind is a report, not an error code: it is a bug of the caller. */
#include <string.h>

#include "inside.h"

struct copy {
	char *to;
	const char *from; /* NULL: the bytes behind, or value */
	size_t tpitch, fpitch, width, height;
	int value;
};

static void run_copy(void *context)
{
	struct copy *c = context;

	for (size_t i = 0; i < c->height; i++)
		memmove(c->to + i * c->tpitch, c->from + i * c->fpitch, c->width);
}

/* From pageable memory the bytes travel with the item: the host may write over them at once. */
static void run_staged(void *context)
{
	struct copy *c = context;

	for (size_t i = 0; i < c->height; i++)
		memcpy(c->to + i * c->tpitch, (char *)(c + 1) + i * c->width, c->width);
}

static void run_set(void *context)
{
	struct copy *c = context;

	memset(c->to, c->value, c->width);
}

static void want(const char *what, const void *p, size_t size, bool device)
{
	enum memory kind = emu_memory(p, size);

	if (device ? kind == MEMORY_DEVICE : kind == MEMORY_PINNED || !emu_arena(p))
		return;
	emu_running(what);
	emu_fail("%zu bytes at %p: %s", size, p, kind == MEMORY_FREED ? "freed" : emu_arena(p) ?
	    "not within one buffer of the kind" : "host memory where the device's is meant");
}

static enum cudaMemcpyKind infer(const void *to, const void *from)
{
	bool t = emu_memory(to, 0) == MEMORY_DEVICE, f = emu_memory(from, 0) == MEMORY_DEVICE;

	return t ? f ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice :
	    f ? cudaMemcpyDeviceToHost : cudaMemcpyHostToHost;
}

static bool to_device(enum cudaMemcpyKind kind)
{
	return kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
}

static bool from_device(enum cudaMemcpyKind kind)
{
	return kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
}

static size_t extent(size_t pitch, size_t width, size_t height)
{
	return height ? (height - 1) * pitch + width : 0;
}

static cudaError_t staged(const struct copy *c, cudaStream_t s)
{
	struct item *item = emu_item("copy", ITEM_CALL, run_staged, c, sizeof(*c));

	item = realloc(item, sizeof(*item) + sizeof(*c) + c->width * c->height);
	item->size = sizeof(*c) + c->width * c->height;
	for (size_t i = 0; i < c->height; i++)
		memcpy(item->context + sizeof(*c) + i * c->width, c->from + i * c->fpitch, c->width);
	return emu_add(s, item);
}

static cudaError_t start(struct copy c, enum cudaMemcpyKind kind, cudaStream_t s)
{
	cudaError_t e;

	if (kind == cudaMemcpyDefault)
		kind = infer(c.to, c.from);
	if (c.width * c.height == 0)
		return emu_error(cudaSuccess);
	want("copy, target", c.to, extent(c.tpitch, c.width, c.height), to_device(kind));
	want("copy, source", c.from, extent(c.fpitch, c.width, c.height), from_device(kind));
	if (s && s->capture)
		return emu_enqueue(s, "copy", run_copy, &c, sizeof(c));
	if (kind == cudaMemcpyHostToDevice && emu_memory(c.from, 0) != MEMORY_PINNED)
		return staged(&c, s);
	e = emu_enqueue(s, "copy", run_copy, &c, sizeof(c));
	if (!e && !to_device(kind) && emu_memory(c.to, 0) != MEMORY_PINNED)
		e = cudaStreamSynchronize(s);
	return e;
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t tpitch, const void *from, size_t fpitch, size_t width, size_t height,
    enum cudaMemcpyKind kind, cudaStream_t s)
{
	if (width > tpitch || width > fpitch)
		return emu_error(cudaErrorInvalidValue);
	return start((struct copy){ to, from, tpitch, fpitch, width, height, 0 }, kind, s);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t s)
{
	return start((struct copy){ to, from, size, size, size, 1, 0 }, kind, s);
}

cudaError_t cudaMemcpy2D(void *to, size_t tpitch, const void *from, size_t fpitch, size_t width, size_t height,
    enum cudaMemcpyKind kind)
{
	cudaError_t e = cudaMemcpy2DAsync(to, tpitch, from, fpitch, width, height, kind, NULL);

	return e ? e : cudaStreamSynchronize(NULL);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind)
{
	cudaError_t e = cudaMemcpyAsync(to, from, size, kind, NULL);

	return e ? e : cudaStreamSynchronize(NULL);
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t size, cudaStream_t s)
{
	struct copy c = { .to = p, .width = size, .value = value };

	if (!size)
		return emu_error(cudaSuccess);
	want("memset", p, size, true);
	return emu_enqueue(s, "memset", run_set, &c, sizeof(c));
}

cudaError_t cudaMemset(void *p, int value, size_t size)
{
	return cudaMemsetAsync(p, value, size, NULL);
}
