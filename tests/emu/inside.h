/* What the emulator's files share. One lock stands over all: emulated work runs one piece at a time. */
#ifndef EMU_INSIDE_H
#define EMU_INSIDE_H

#include <stdlib.h>

#include "emu.h"

/* A piece of a stream's work, or a node of a graph, which is copied at each replay. */
struct item {
	struct item *next;
	const char *name;
	enum { ITEM_CALL, ITEM_HOST, ITEM_KERNEL, ITEM_RECORD, ITEM_WAIT } kind;
	void (*run)(void *);
	dim3 grid, block;      /* ITEM_KERNEL */
	cudaEvent_t event;     /* ITEM_RECORD, ITEM_WAIT */
	long turn;             /* which record of the event */
	cudaStream_t from;     /* ITEM_WAIT: whose record */
	struct clock *after;   /* nodes: what comes before */
	int slot;              /* nodes: of which captured stream */
	size_t size;
	_Alignas(16) char context[]; /* size bytes */
};

/* How much of each captured stream's work is known to be done. */
enum { CAPTURED = 64 };
struct clock {
	long seen[CAPTURED];
};

struct CUstream_st {
	struct CUstream_st *next; /* of all streams */
	struct item *head, **tail;
	struct capture *capture;
	int slot;
	bool apart; /* cudaStreamNonBlocking: the default stream and it do not wait for each other */
	struct clock clock;
};

struct CUevent_st {
	long asked, done; /* records */
	double time;
	cudaStream_t from;
	struct capture *capture;
	struct clock clock;
};

/* device.c */
long emu_setting(const char *name, long otherwise); /* the environment's */
cudaError_t emu_error(cudaError_t e);               /* remembered for cudaGetLastError; e, or what the device died of */
bool emu_lose(void);                                /* counts a kernel; true from the one on that EMU_LOSE names */
void emu_lock(void);                                /* the same thread may take it again */
void emu_unlock(void);

/* threads.c */
void emu_grid(const struct item *item);
const char *emu_where(void); /* the running kernel, block and thread */
void emu_running(const char *name);
enum order { FORWARD, REVERSE, SHUFFLE };
enum order emu_order(void);           /* EMU_ORDER */
size_t emu_place(size_t i, size_t n); /* what comes i-th of n in that order */

/* memory.c: device memory is open to reads and writes between these two, which nest. */
void emu_enter(void);
void emu_leave(void);
enum memory { MEMORY_OTHER, MEMORY_DEVICE, MEMORY_PINNED, MEMORY_FREED };
enum memory emu_memory(const void *p, size_t size); /* size bytes at p: OTHER where not wholly in one buffer */
bool emu_arena(const void *p);

/* stream.c */
struct item *emu_item(const char *name, int kind, void (*run)(void *), const void *context, size_t size);
cudaError_t emu_add(cudaStream_t s, struct item *item); /* takes item */
void emu_tally(const char *name); /* something of that name runs */
void emu_run(struct item *item);
void emu_finish(cudaStream_t s); /* NULL: every stream */

/* graph.c */
void emu_node(cudaStream_t s, struct item *item);
bool emu_may_not(void); /* call where a capture forbids: true, and the capture is spoiled */
void emu_mark(cudaEvent_t e, cudaStream_t s);
cudaError_t emu_join(cudaStream_t s, cudaEvent_t e);

#endif
