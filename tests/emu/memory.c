/* Device memory: buffers in one range of addresses, closed to the host. A fault on a buffer opens it while emulated
 * work runs, and is reported otherwise; each ends at a page that is never opened. Addresses are not used again, so that
 * a freed buffer stays known as one. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "inside.h"

/* The sanitizer sees reads around a buffer too. */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define UNSANITIZED __attribute__((no_sanitize("address")))
#else
#define ASAN_POISON_MEMORY_REGION(p, size) ((void)(p), (void)(size))
#define UNSANITIZED
#endif

enum { PAGE = 4096, HUGE = 2 << 20, ALIGN = 256, BUFFERS = 1 << 16 };
static const size_t RANGE = (size_t)1 << 40;

struct buffer {
	char *page, *start; /* start is aligned, what lies around the buffer filled up to the pages' ends */
	char *next;         /* the page behind the last */
	size_t size;
	enum memory kind;
	bool open;
};

/* In the order of their addresses. */
static struct buffer *buffer;
static int nbuffer;
static char *base, *top;
static size_t in_use;
static int opened[BUFFERS], nopened;
static _Thread_local int inside;
static struct sigaction before;

static struct buffer *find(const void *p)
{
	int lo = 0, hi = nbuffer;

	if (!emu_arena(p))
		return NULL;
	while (hi - lo > 1) {
		int mid = (lo + hi) / 2;
		if ((const char *)p < buffer[mid].page)
			hi = mid;
		else
			lo = mid;
	}
	return nbuffer ? &buffer[lo] : NULL;
}

bool emu_arena(const void *p)
{
	return base && (const char *)p >= base && (const char *)p < base + RANGE;
}

enum memory emu_memory(const void *p, size_t size)
{
	const struct buffer *b;
	const char *c = p;
	enum memory kind = MEMORY_OTHER;

	emu_lock();
	b = find(p);
	if (b && c >= b->start && c <= b->start + b->size && size <= (size_t)(b->start + b->size - c))
		kind = b->kind;
	emu_unlock();
	return kind;
}

static void describe(char *text, size_t room, const char *p)
{
	const struct buffer *b = find(p);

	if (!b)
		snprintf(text, room, "%p, which is no buffer's", (const void *)p);
	else if (p < b->start)
		snprintf(text, room, "%zu bytes before a buffer of %zu", (size_t)(b->start - p), b->size);
	else if (p >= b->start + b->size)
		snprintf(text, room, "byte %zu of a buffer of %zu", (size_t)(p - b->start), b->size);
	else
		snprintf(text, room, "byte %zu of a %s buffer of %zu", (size_t)(p - b->start),
		    b->kind == MEMORY_FREED ? "freed" : "device", b->size);
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
	const char *p = info->si_addr;
	struct buffer *b = find(p);
	char text[128];

	(void)context;
	if (inside && b && b->kind == MEMORY_DEVICE && !b->open && p >= b->page && p < b->next) {
		mprotect(b->page, b->next - b->page, PROT_READ | PROT_WRITE);
		b->open = true;
		opened[nopened++] = b - buffer;
		return;
	}
	if (!emu_arena(p)) { /* not ours: as if we were not here, but for the words */
		if (inside)
			dprintf(STDERR_FILENO, "emu: %s: access to %p, no device memory, or misaligned\n", emu_where(),
			    info->si_addr);
		sigaction(sig, &before, NULL);
		return;
	}
	describe(text, sizeof(text), p);
	if (inside)
		emu_fail("access to %s", text);
	emu_fail("the host reads or writes device memory: %s", text);
}

static void start(void)
{
	struct sigaction a = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };

	base = mmap(NULL, RANGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	buffer = calloc(BUFFERS, sizeof(*buffer));
	if (base == MAP_FAILED || !buffer)
		emu_fail("no addresses for the device's memory");
	top = base + PAGE;
	sigaction(SIGSEGV, &a, &before);
}

void emu_enter(void)
{
	inside++;
}

UNSANITIZED static void check_around(const struct buffer *b)
{
	for (const char *p = b->start - b->page < PAGE ? b->page : b->start - PAGE; p < b->start; p++)
		if (*p != (char)0xff)
			emu_fail("written to %zu bytes before a buffer of %zu", (size_t)(b->start - p), b->size);
	for (const char *p = b->start + b->size; p < b->next; p++)
		if (*p != (char)0xff)
			emu_fail("written to byte %zu of a buffer of %zu", (size_t)(p - b->start), b->size);
}

void emu_leave(void)
{
	for (int i = 0; i < nopened; i++)
		check_around(&buffer[opened[i]]);
	if (--inside)
		return;
	for (int i = 0; i < nopened; i++) {
		struct buffer *b = &buffer[opened[i]];
		mprotect(b->page, b->next - b->page, PROT_NONE);
		b->open = false;
	}
	nopened = 0;
}

static cudaError_t make(void **p, size_t size, enum memory kind)
{
	/* Huge pages, because opening and closing costs by the page. */
	size_t page = size < HUGE ? PAGE : HUGE;
	size_t rounded = (size + ALIGN - 1) / ALIGN * ALIGN, pages = (rounded + page - 1) / page * page;
	struct buffer *b;
	size_t limit = emu_setting("EMU_MEMORY", (long)4 << 30);

	*p = NULL;
	if (!base)
		start();
	if (size == 0)
		return cudaSuccess;
	if (kind == MEMORY_DEVICE && (size > limit || in_use + rounded > limit))
		return cudaErrorMemoryAllocation;
	if (nbuffer == BUFFERS || pages > (size_t)(base + RANGE - top) - HUGE - PAGE)
		emu_fail("too many buffers in one run");
	top = (char *)(((uintptr_t)top + page - 1) / page * page);
	b = &buffer[nbuffer];
	if (page == HUGE)
		madvise(top, pages, MADV_HUGEPAGE);
	if (mprotect(top, pages, PROT_READ | PROT_WRITE))
		return cudaErrorMemoryAllocation;
	*b = (struct buffer){ .page = top, .start = top + pages - rounded, .next = top + pages, .size = size, .kind = kind };
	top = b->next + PAGE;
	memset(b->page, 0xff, pages);
	ASAN_POISON_MEMORY_REGION(b->page, b->start - b->page);
	ASAN_POISON_MEMORY_REGION(b->start + size, b->next - b->start - size);
	if (kind == MEMORY_DEVICE) {
		in_use += rounded;
		mprotect(b->page, pages, PROT_NONE);
	}
	nbuffer++;
	*p = b->start;
	return cudaSuccess;
}

static cudaError_t allocate(void **p, size_t size, enum memory kind)
{
	cudaError_t e;

	emu_lock();
	e = emu_may_not() ? cudaErrorStreamCaptureUnsupported : emu_error(cudaSuccess);
	if (!e)
		e = make(p, size, kind);
	emu_unlock();
	return emu_error(e);
}

static cudaError_t release(void *p, enum memory kind)
{
	struct buffer *b;
	cudaError_t e = cudaSuccess;

	if (!p)
		return emu_error(cudaSuccess);
	emu_lock();
	b = find(p);
	if (emu_may_not())
		e = cudaErrorStreamCaptureUnsupported;
	else if (!b || b->start != p || b->kind != kind)
		e = cudaErrorInvalidValue;
	else {
		emu_finish(NULL);
		if (kind == MEMORY_PINNED)
			check_around(b);
		else
			in_use -= (b->size + ALIGN - 1) / ALIGN * ALIGN;
		mmap(b->page, b->next - b->page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
		b->kind = MEMORY_FREED;
	}
	emu_unlock();
	return emu_error(e);
}

cudaError_t cudaMalloc(void **p, size_t size)
{
	return allocate(p, size, MEMORY_DEVICE);
}

cudaError_t cudaFree(void *p)
{
	return release(p, MEMORY_DEVICE);
}

cudaError_t cudaMallocHost(void **p, size_t size)
{
	return allocate(p, size, MEMORY_PINNED);
}

cudaError_t cudaHostAlloc(void **p, size_t size, unsigned flags)
{
	(void)flags;
	return allocate(p, size, MEMORY_PINNED);
}

cudaError_t cudaFreeHost(void *p)
{
	return release(p, MEMORY_PINNED);
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
	*total = emu_setting("EMU_MEMORY", (long)4 << 30);
	*free = *total > in_use ? *total - in_use : 0;
	return emu_error(cudaSuccess);
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p)
{
	enum memory kind = emu_memory(p, 1);

	*a = (struct cudaPointerAttributes){ .type = kind == MEMORY_DEVICE ? cudaMemoryTypeDevice :
		kind == MEMORY_PINNED ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered, .device = 0 };
	a->devicePointer = kind == MEMORY_OTHER ? NULL : (void *)p;
	a->hostPointer = kind == MEMORY_DEVICE ? NULL : (void *)p;
	return emu_error(cudaSuccess);
}

void emu_check_pointer(const char *name, int i, const void *p)
{
	enum memory kind = emu_memory(p, 0);
	char text[128];

	if (!p || kind == MEMORY_DEVICE || kind == MEMORY_PINNED)
		return;
	emu_running(name);
	describe(text, sizeof(text), p);
	if (!emu_arena(p))
		emu_fail("argument %d is the host's pointer %p", i, p);
	emu_fail("argument %d points to %s", i, text);
}

/* A word that is the address of something here, but not on the device. A small lower half is an int's, with whatever
 * lies in the padding behind it. */
void emu_check_struct(const char *name, int i, const void *p, size_t size)
{
	unsigned char seen;

	for (size_t at = 0; at + sizeof(uintptr_t) <= size; at += sizeof(uintptr_t)) {
		uintptr_t word;
		memcpy(&word, (const char *)p + at, sizeof(word));
		if (word >> 40 == 0 || word >> 47 || (uint32_t)word < 1u << 24)
			continue;
		if (emu_arena((void *)word))
			emu_check_pointer(name, i, (void *)word);
		else if (!mincore((void *)(word & -(uintptr_t)PAGE), PAGE, &seen)) {
			emu_running(name);
			emu_fail("argument %d has the host's pointer %p at byte %zu", i, (void *)word, at);
		}
	}
}
