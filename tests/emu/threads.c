/* A launch: blocks one after the other, the threads of a block as fibres that leave the processor only where they
 * synchronise. A fibre that reaches its thread's end takes the next of the warp: without synchronising, a warp costs
 * one switch. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "inside.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
enum { STACK = 512 << 10 };
#else
enum { STACK = 128 << 10 };
#endif

enum { THREADS = 1024, WARP = 32, GUARD = 4096 };

struct fibre {
	struct fibre *next; /* of the idle ones */
	void *sp;           /* where it stopped */
	char *stack;
	void *shadow;       /* the address sanitizer's */
};

static struct thread {
	enum { FRESH, READY, RUNNING, AT_BARRIER, AT_EXCHANGE, ENDED } state;
	struct fibre *fibre;
	const char *what, *file; /* where it waits */
	int line;
} thread[THREADS];

/* Two turns, so that a lane that runs ahead to the next exchange does not write over what others still read. */
static struct warp {
	uint64_t value[2][WARP];
	int turn, begun;
	uint32_t here;
} warp[THREADS / WARP];

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

static const struct item *running; /* the kernel */
static const char *outside;        /* the name of what runs that is no kernel */
static int count, current;         /* threads of the block; the one that runs */
static bool synced;                /* some thread of this launch waited for others */
static uint3 index_of[THREADS];
static struct fibre home, *idle;   /* home: who runs the block */

const char *emu_where(void)
{
	static _Thread_local char text[512];

	if (running)
		snprintf(text, sizeof(text), "%s: block %u,%u,%u thread %u,%u,%u", running->name, blockIdx.x, blockIdx.y,
		    blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
	else
		snprintf(text, sizeof(text), "%s", outside ? outside : "host");
	return text;
}

void emu_running(const char *name)
{
	outside = name;
}

void emu_fail(const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	dprintf(STDERR_FILENO, "emu: %s: %s\n", emu_where(), text);
	abort();
}

/* A step that shares no factor with n goes through all places. */
static size_t shuffled(size_t i, size_t n)
{
	size_t step = n * 0.618, a, b;

	for (step += !step;; step++) {
		for (a = step, b = n; b;) {
			size_t r = a % b;
			a = b, b = r;
		}
		if (a == 1)
			return (i * step + n / 3) % n;
	}
}

enum order emu_order(void)
{
	static int order = -1;

	if (order < 0) {
		const char *s = getenv("EMU_ORDER");
		order = !s ? FORWARD : !strcmp(s, "reverse") ? REVERSE : !strcmp(s, "shuffle") ? SHUFFLE : FORWARD;
	}
	return order;
}

size_t emu_place(size_t i, size_t n)
{
	switch (emu_order()) {
	case REVERSE: return n - 1 - i;
	case SHUFFLE: return shuffled(i, n);
	default: return i;
	}
}

/* Saves what a function must keep, stores the stack at *from, goes on at `to`. */
void emu_switch(void **from, void *to);
#ifdef __x86_64__
__asm__(
    ".text\n.globl emu_switch\n.type emu_switch, @function\n"
    "emu_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\n"
    "ret\n.size emu_switch, . - emu_switch\n");

/* What emu_switch pops, with the address that it returns to; the stack is as after a call there. */
static void *start_at(char *top, void (*f)(void))
{
	void **sp = (void **)top - 2;

	sp[0] = (void *)f, sp[1] = NULL;
	memset(sp - 6, 0, 6 * sizeof(*sp));
	return sp - 6;
}
#else
#include <ucontext.h>
void emu_switch(void **from, void *to)
{
	ucontext_t *mine = *from ? *from : (*from = calloc(1, sizeof(*mine)));

	swapcontext(mine, to);
}

static void *start_at(char *top, void (*f)(void))
{
	ucontext_t *u = calloc(1, sizeof(*u));

	getcontext(u);
	u->uc_stack.ss_sp = top - STACK;
	u->uc_stack.ss_size = STACK;
	makecontext(u, f, 0);
	return u;
}
#endif

#ifdef __SANITIZE_ADDRESS__
/* The sanitizer wants to know whose stack comes next: home's is learnt on leaving it. */
static const void *home_stack;
static size_t home_size;

static void arrive(struct fibre *me)
{
	__sanitizer_finish_switch_fiber(me ? me->shadow : NULL, me == &home ? NULL : &home_stack,
	    me == &home ? NULL : &home_size);
}

static void switch_to(struct fibre *from, struct fibre *to)
{
	__sanitizer_start_switch_fiber(&from->shadow, to == &home ? home_stack : to->stack, to == &home ? home_size : STACK);
	emu_switch(&from->sp, to->sp);
	arrive(from);
}
#else
static void arrive(struct fibre *me)
{
	(void)me;
}

static void switch_to(struct fibre *from, struct fibre *to)
{
	emu_switch(&from->sp, to->sp);
}
#endif

static void begin(int t)
{
	current = t;
	threadIdx = index_of[t];
	thread[t].state = RUNNING;
}

static int lanes_of(int w)
{
	return count - w * WARP < WARP ? count - w * WARP : WARP;
}

/* The next thread of the warp that has not begun, in the order in which they do; or -1. */
static int following(int w)
{
	int lanes = lanes_of(w);

	return warp[w].begun == lanes ? -1 : w * WARP + (int)emu_place(warp[w].begun++, lanes);
}

static void fibre_main(void)
{
	struct fibre *me;
	int next;

	arrive(NULL);
	for (;;) {
		me = thread[current].fibre;
		running->run((void *)running->context);
		thread[current].state = ENDED;
		thread[current].fibre = NULL;
		next = following(current / WARP);
		if (next >= 0) {
			begin(next);
			thread[next].fibre = me;
		} else {
			me->next = idle;
			idle = me;
			switch_to(me, &home);
		}
	}
}

/* Stacks begin at different places of their pages, or all would want the same lines of the cache. */
static struct fibre *new_fibre(void)
{
	static int made;
	struct fibre *f = calloc(1, sizeof(*f));

	f->stack = mmap(NULL, STACK + GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (f->stack == MAP_FAILED || mprotect(f->stack, GUARD, PROT_NONE))
		emu_fail("no memory for stacks");
	f->stack += GUARD;
	f->sp = start_at(f->stack + STACK - made++ % 64 * 320, fibre_main);
	return f;
}

static void resume(int t)
{
	struct fibre *f = thread[t].fibre;

	if (!f) {
		if (!idle)
			idle = new_fibre(), idle->next = NULL;
		f = thread[t].fibre = idle;
		idle = f->next;
	}
	begin(t);
	switch_to(&home, f);
}

static void suspend(int state, const char *what, const char *file, int line)
{
	struct thread *t = &thread[current];

	t->state = state;
	t->what = what, t->file = file, t->line = line;
	synced = true;
	switch_to(t->fibre, &home);
}

void emu_barrier(const char *file, int line)
{
	suspend(AT_BARRIER, "__syncthreads", file, line);
}

/* Thread t as the one that a report speaks of. */
static void speak_of(int t)
{
	current = t;
	threadIdx = index_of[t];
}

static const char *doing(int t)
{
	static char text[256];

	if (thread[t].state == ENDED)
		return "has ended";
	snprintf(text, sizeof(text), "is at %s in %s:%d", thread[t].what, thread[t].file, thread[t].line);
	return text;
}

static bool same(const char *a, const char *b)
{
	return a == b || !strcmp(a, b);
}

/* The last lane finds all values there and goes on; the others were waiting for it. */
const uint64_t *emu_exchange(uint32_t mask, uint64_t value, const char *what, const char *file, int line)
{
	int first = current / WARP * WARP, lane = current % WARP;
	struct warp *w = &warp[first / WARP];
	struct thread *me = &thread[current];
	const uint64_t *all = w->value[w->turn];

	if (mask != ~0u)
		emu_fail("%s at %s:%d: the mask is %08x, not all lanes", what, file, line, mask);
	synced = true;
	w->value[w->turn][lane] = value;
	w->here |= 1u << lane;
	if (w->here != mask) {
		suspend(AT_EXCHANGE, what, file, line);
		return all;
	}
	for (struct thread *t = &thread[first]; t < &thread[first + WARP]; t++) {
		if (t == me)
			continue;
		if (t->line != line || !same(t->what, what) || !same(t->file, file))
			emu_fail("%s at %s:%d: thread %d of the block %s", what, file, line, (int)(t - thread),
			    doing(t - thread));
		t->state = READY;
	}
	w->here = 0;
	w->turn ^= 1;
	return all;
}

/* Some lanes wait for others of their warp that will not come. */
static void lanes_diverge(int first, int lanes)
{
	int at = first, absent = first;

	while (thread[at].state != AT_EXCHANGE)
		at++;
	while (absent < first + lanes && thread[absent].state == AT_EXCHANGE)
		absent++;
	speak_of(at);
	if (absent == first + lanes)
		emu_fail("%s at %s:%d: the warp has %d lanes only", thread[at].what, thread[at].file, thread[at].line, lanes);
	emu_fail("%s at %s:%d is not reached by all lanes: thread %d of the block %s", thread[at].what, thread[at].file,
	    thread[at].line, absent, doing(absent));
}

/* Until every lane has ended or waits for the block. */
static void run_warp(int w)
{
	int lanes = lanes_of(w), t;
	bool ran;

	while ((t = following(w)) >= 0)
		resume(t);
	do {
		ran = false;
		for (int i = 0; i < lanes; i++) {
			t = w * WARP + (int)emu_place(i, lanes);
			if (thread[t].state == READY) {
				resume(t);
				ran = true;
			}
		}
	} while (ran);
	if (warp[w].here)
		lanes_diverge(w * WARP, lanes);
}

/* All wait at one barrier: they may go on. False: all have ended. */
static bool pass_barrier(void)
{
	int at = -1, not_at = -1;

	for (int t = count - 1; t >= 0; t--)
		*(thread[t].state == AT_BARRIER ? &at : &not_at) = t;
	if (at < 0)
		return false;
	for (int t = 0; not_at < 0 && t < count; t++)
		if (thread[t].line != thread[at].line || !same(thread[t].file, thread[at].file))
			not_at = t;
	if (not_at >= 0) {
		speak_of(at);
		emu_fail("__syncthreads at %s:%d is not reached by all: thread %d of the block %s", thread[at].file,
		    thread[at].line, not_at, doing(not_at));
	}
	for (int t = 0; t < count; t++)
		thread[t].state = READY;
	return true;
}

/* shared.ld puts these around the kernels' __shared__ arrays; without it nothing is filled. */
extern char emu_shared_start[] __attribute__((weak)), emu_shared_end[] __attribute__((weak));

enum { CHUNK = 128, CHUNKS = 4096 }; /* words; chunks */
static bool touched[CHUNKS];

/* Fills the touched chunks with NaN; look: finds first which they are. The arrays of all kernels lie here, and a kernel
 * has few of them. A loop of its own: the address sanitizer would object to what lies between the arrays. */
__attribute__((no_sanitize("address"))) static void poison_shared(bool look)
{
	uint64_t *p = (uint64_t *)emu_shared_start, *end = (uint64_t *)emu_shared_end;

	for (int c = 0; p && p < end && c < CHUNKS; c++, p += CHUNK) {
		int words = end - p < CHUNK ? end - p : CHUNK;
		uint64_t all = UINT64_MAX;
		for (int i = 0; look && i < words; i++)
			all &= p[i];
		if (look)
			touched[c] = ~all;
		for (int i = 0; touched[c] && i < words; i++)
			((volatile uint64_t *)p)[i] = UINT64_MAX;
	}
}

static void run_block(void)
{
	int warps = (count + WARP - 1) / WARP;

	for (int t = 0; t < count; t++)
		thread[t] = (struct thread){ .state = FRESH };
	for (int w = 0; w < warps; w++)
		warp[w].turn = warp[w].begun = warp[w].here = 0;
	do {
		for (int i = 0; i < warps; i++)
			run_warp((int)emu_place(i, warps));
	} while (pass_barrier());
}

void emu_grid(const struct item *item)
{
	static bool poisoned;
	size_t blocks = (size_t)item->grid.x * item->grid.y * item->grid.z;

	running = item;
	gridDim = item->grid, blockDim = item->block;
	count = blockDim.x * blockDim.y * blockDim.z;
	for (int t = 0; t < count; t++)
		index_of[t] = (uint3){ t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y };
	if (!poisoned)
		poison_shared(true);
	poisoned = true;
	synced = false;
	for (size_t i = 0; i < blocks; i++) {
		size_t b = emu_place(i, blocks);
		blockIdx = (uint3){ b % gridDim.x, b / gridDim.x % gridDim.y, b / gridDim.x / gridDim.y };
		/* Threads that never wait for each other share nothing. The first block shows which arrays there are. */
		if (synced)
			poison_shared(i == 1);
		run_block();
	}
	if (synced)
		poison_shared(true);
	running = NULL;
	outside = item->name;
}
