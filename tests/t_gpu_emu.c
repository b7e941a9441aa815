/* The emulated device itself: that it does what a GPU does, and reports what a GPU would leave unsaid. */
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "emu/emu.h"
#include "emu/probe.h"
#include "tap.h"

static void *device(const void *from, size_t size)
{
	void *p;

	if (cudaMalloc(&p, size) || (from && cudaMemcpy(p, from, size, cudaMemcpyHostToDevice)))
		die("no device memory");
	return p;
}

static void *fetch(void *to, const void *from, size_t size)
{
	if (cudaMemcpy(to, from, size, cudaMemcpyDeviceToHost))
		die("cannot copy");
	return to;
}

static void sums(void)
{
	enum { BLOCKS = 7 };
	float x[BLOCKS * 256], out[BLOCKS], *dx, *dout;
	bool good = true;

	for (int i = 0; i < BLOCKS * 256; i++)
		x[i] = i % 19 + i / 256;
	dx = device(x, sizeof(x)), dout = device(NULL, sizeof(out));
	fetch(out, dout, sizeof(out));
	ok(isnan(out[0]), "fresh memory is NaN");
	gpu_forget_launches();
	probe_sums(NULL, dout, dx, BLOCKS);
	fetch(out, dout, sizeof(out));
	for (int b = 0; b < BLOCKS; b++) {
		float s = 0;
		for (int i = 0; i < 256; i++)
			s += x[b * 256 + i];
		good &= out[b] == s;
	}
	ok(good, "sums of blocks through barriers and shuffles");
	ok(gpu_launches("sums") == 1 && gpu_launches(NULL) == 1, "one launch was counted");
	ok(!cudaFree(dx) && !cudaFree(dout) && cudaFree(dout) == cudaErrorInvalidValue, "freed once, not twice");
	ok(cudaGetLastError() == cudaErrorInvalidValue && !cudaGetLastError(), "an error is remembered until asked for");
}

static void lanes(void)
{
	int out[192], *d = device(NULL, sizeof(out)), two[2] = { 0, -1 }, *dtwo = device(two, sizeof(two));
	bool good = true;

	probe_shuffles(NULL, d);
	fetch(out, d, sizeof(out));
	for (int i = 0; i < 32; i++)
		good &= out[i] == (i < 3 ? i : i - 3) && out[32 + i] == (i < 29 ? i + 3 : i) && out[64 + i] == (i ^ 5) &&
		    out[96 + i] == 70 && out[128 + i] == 0x49249249 && out[160 + i] == (i ^ 16);
	ok(good, "shuffles and ballots, of int and double");
	probe_count(NULL, dtwo, 5);
	fetch(two, dtwo, sizeof(two));
	ok(two[0] == 5 * 2 * 32 && two[1] == 4 * 8 + 7, "atomics over a grid in two dimensions: %d, %d", two[0], two[1]);
	cudaFree(d), cudaFree(dtwo);
}

static void types(void)
{
	float x[5] = { 1, -3, 1.00390625f, 1.01171875f, NAN };
	uint16_t b[5] = { 0x3f80, 0xc040, 0x4040, 0x7f80, 0xffc1 }, y[5];
	float *dx = device(x, sizeof(x));
	uint16_t *db = device(b, sizeof(b));

	probe_scale(NULL, dx, dx, 2, 5, ELEM_F32);
	fetch(x, dx, sizeof(x));
	ok(x[0] == 2 && x[1] == -6 && isnan(x[4]), "a template of float");
	probe_scale(NULL, db, db, 1.00390625f, 5, ELEM_BF16);
	fetch(y, db, sizeof(y));
	ok(y[0] == 0x3f80 && y[1] == 0xc041 && y[2] == 0x4041 && y[3] == 0x7f80 && y[4] == 0x7fff,
	    "bfloat16 rounds to nearest, ties to even; NaN stays: %x %x %x %x %x", y[0], y[1], y[2], y[3], y[4]);
	cudaFree(dx), cudaFree(db);
}

static void shared(void)
{
	float out[96], *d = device(NULL, sizeof(out));
	bool good = true;

	for (int launch = 0; launch < 2; launch++) {
		probe_unwritten(NULL, d, 3);
		fetch(out, d, sizeof(out));
		for (int i = 0; i < 96; i++)
			good &= isnan(out[i]);
	}
	ok(good, "shared memory is NaN before each block of each launch");
	cudaFree(d);
}

static float at(const float *d)
{
	float x;

	return *(float *)fetch(&x, d, sizeof(x));
}

/* y = 3 * x on two streams: fork and join. */
static void graph(void)
{
	float one = 1, two = 2, *x = device(&one, 4), *y = device(&one, 4), *z = device(&one, 4);
	cudaStream_t s, t;
	cudaEvent_t fork, back;
	cudaGraph_t g;
	cudaGraphExec_t e;
	size_t nodes = 0;
	long before = gpu_launches("scale");
	bool good;
	void *p;

	cudaStreamCreate(&s), cudaStreamCreate(&t);
	cudaEventCreate(&fork), cudaEventCreate(&back);
	cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal);
	probe_scale(s, y, x, 3, 1, ELEM_F32);
	cudaEventRecord(fork, s), cudaStreamWaitEvent(t, fork, 0);
	probe_scale(t, z, y, 2, 1, ELEM_F32);
	cudaEventRecord(back, t), cudaStreamWaitEvent(s, back, 0);
	cudaMemcpyAsync(x, z, 4, cudaMemcpyDeviceToDevice, s);
	good = !cudaStreamEndCapture(s, &g) && !cudaGraphInstantiate(&e, g, 0) && !cudaGraphGetNodes(g, NULL, &nodes);
	ok(good && nodes == 3, "a capture over two streams, %zu nodes", nodes);
	ok(at(y) == 1 && gpu_launches("scale") == before + 2, "counted and recorded, not run");
	cudaGraphLaunch(e, s), cudaStreamSynchronize(s);
	ok(at(y) == 3 && at(z) == 6 && at(x) == 6, "replayed: %g %g %g", at(x), at(y), at(z));
	cudaMemcpy(x, &two, 4, cudaMemcpyHostToDevice);
	cudaGraphLaunch(e, s), cudaGraphLaunch(e, s), cudaStreamSynchronize(s);
	ok(at(x) == 72, "and with other contents: %g", at(x));
	cudaGraphExecDestroy(e), cudaGraphDestroy(g);

	cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal);
	ok(cudaMalloc(&p, 4) == cudaErrorStreamCaptureUnsupported, "no allocation in a capture");
	ok(cudaStreamEndCapture(s, &g) == cudaErrorStreamCaptureInvalidated && !g, "which is spoiled by it");
	cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal);
	cudaEventRecord(fork, s), cudaStreamWaitEvent(t, fork, 0);
	probe_scale(t, z, y, 2, 1, ELEM_F32);
	ok(cudaStreamEndCapture(s, &g) == cudaErrorStreamCaptureUnjoined, "a fork that does not come back is told");
	cudaGetLastError();
	cudaStreamDestroy(s), cudaStreamDestroy(t), cudaEventDestroy(fork), cudaEventDestroy(back);
	cudaFree(x), cudaFree(y), cudaFree(z);
}

static void add_one(void *context)
{
	**(float **)context += 1;
}

static void seam(void)
{
	float one = 1, *x = device(&one, 4), ms = -1;
	cudaEvent_t a, b;

	cudaEventCreate(&a), cudaEventCreate(&b);
	cudaEventRecord(a, NULL);
	emu_enqueue(NULL, "add_one", add_one, &x, sizeof(x));
	cudaEventRecord(b, NULL), cudaEventSynchronize(b);
	ok(at(x) == 2, "work of the host's on device memory");
	ok(!cudaEventElapsedTime(&ms, a, b) && ms >= 0 && ms < 1e4, "events have times");
	cudaEventDestroy(a), cudaEventDestroy(b), cudaFree(x);
}

static void configuration(void)
{
	probe_nothing(NULL, 0, 32);
	ok(cudaGetLastError() == cudaErrorInvalidConfiguration, "an empty grid is an error");
	probe_nothing(NULL, 1, 1025);
	ok(cudaGetLastError() == cudaErrorInvalidConfiguration, "and 1025 threads");
}

/* What follows runs in a child each, because it ends there, or because it needs an environment of its own. */
static const char *self;

static int as_child(const char *what, const char *env, char *said, size_t room)
{
	char command[512];
	size_t n;
	FILE *f;

	snprintf(command, sizeof(command), "%s ASAN_OPTIONS=detect_leaks=0 %s %s 2>&1", env, self, what);
	f = popen(command, "r");
	if (!f)
		die("popen:");
	n = fread(said, 1, room - 1, f);
	said[n] = '\0';
	said[strcspn(said, "\n")] = '\0';
	return pclose(f);
}

static void reported(const char *what, const char *words)
{
	char said[4096];
	int status = as_child(what, "ulimit -c 0;", said, sizeof(said));
#ifdef __SANITIZE_ADDRESS__
	bool first = !strncmp(said, "=====", 5); /* the sanitizer saw it before us */
#else
	bool first = false;
#endif

	ok(status && (first || strstr(said, words)), "%s: %s", what, said);
}

static void answered(const char *what, const char *env, int status)
{
	char said[4096];
	int got = as_child(what, env, said, sizeof(said));

	ok(WIFEXITED(got) && WEXITSTATUS(got) == status, "%s %s: status %x, %s", env, what, got, said);
}

static int race(bool barrier)
{
	int out[64], *d = device(NULL, sizeof(out));

	probe_race(NULL, d, barrier);
	fetch(out, d, sizeof(out));
	for (int i = 0; i < 64; i++)
		if (out[i] != i)
			return 1;
	return 0;
}

/* Two branches of a graph, of which the second should have waited for the first. */
static int forgotten_wait(bool forgotten)
{
	float one = 1, *x = device(&one, 4), *y = device(&one, 4);
	cudaStream_t s, t;
	cudaEvent_t a, b;
	cudaGraph_t g;
	cudaGraphExec_t e;

	cudaStreamCreate(&s), cudaStreamCreate(&t);
	cudaEventCreate(&a), cudaEventCreate(&b);
	cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal);
	if (forgotten)
		cudaEventRecord(a, s);
	probe_scale(s, x, x, 5, 1, ELEM_F32);
	if (!forgotten)
		cudaEventRecord(a, s);
	cudaStreamWaitEvent(t, a, 0);
	probe_scale(t, y, x, 2, 1, ELEM_F32);
	cudaEventRecord(b, t), cudaStreamWaitEvent(s, b, 0);
	if (cudaStreamEndCapture(s, &g) || cudaGraphInstantiate(&e, g, 0))
		return 2;
	cudaGraphLaunch(e, s), cudaStreamSynchronize(s);
	return at(y) != 10;
}

/* Two streams, of a graph or by themselves, that each keep a value in scratch memory for a moment, in one or in two places. */
static int scratch(bool graph, bool shared)
{
	float in[] = { 1, 1, 0, 0 }, out[4], *x = device(in, sizeof in), *y = device(in, sizeof in);
	cudaStream_t stream[2];
	cudaEvent_t begun, ended;
	cudaGraph_t g;
	cudaGraphExec_t e;

	for (int i = 0; i < 2; i++)
		cudaStreamCreateWithFlags(&stream[i], cudaStreamNonBlocking);
	cudaEventCreate(&begun), cudaEventCreate(&ended);
	if (graph)
		cudaStreamBeginCapture(stream[0], cudaStreamCaptureModeGlobal);
	cudaEventRecord(begun, stream[0]), cudaStreamWaitEvent(stream[1], begun, 0);
	for (int i = 0; i < 2; i++) {
		float *kept = x + (shared ? 2 : 2 + i);
		probe_scale(stream[i], kept, x + i, 5 + i, 1, ELEM_F32);
		probe_scale(stream[i], y + 2 + i, kept, 1, 1, ELEM_F32);
	}
	cudaEventRecord(ended, stream[1]), cudaStreamWaitEvent(stream[0], ended, 0);
	if (graph && (cudaStreamEndCapture(stream[0], &g) || cudaGraphInstantiate(&e, g, 0) || cudaGraphLaunch(e, stream[0])))
		return 2;
	cudaStreamSynchronize(stream[0]);
	fetch(out, y, sizeof out);
	return out[2] != 5 || out[3] != 6;
}

/* A pinned buffer written over before the copy from it has been waited for. */
static int hasty(bool wait)
{
	float *host, *d = device(NULL, 4);
	cudaStream_t s;

	cudaStreamCreate(&s);
	cudaMallocHost((void **)&host, 4);
	*host = 1;
	cudaMemcpyAsync(d, host, 4, cudaMemcpyHostToDevice, s);
	if (wait)
		cudaStreamSynchronize(s);
	*host = 2;
	cudaStreamSynchronize(s);
	return at(d) != 1;
}

static int lost(void)
{
	float one = 1, *d = device(&one, 4);

	probe_write(NULL, d, 0, 5);
	if (cudaGetLastError() || at(d) != 5)
		return 2;
	probe_write(NULL, d, 0, 6);
	return cudaGetLastError() == cudaErrorDevicesUnavailable && cudaFree(d) && cudaDeviceSynchronize() ? 0 : 3;
}

static int limits(void)
{
	struct cudaDeviceProp p;
	void *a, *b;
	size_t free, total;

	return !cudaMalloc(&a, 600) && cudaMalloc(&b, 600) == cudaErrorMemoryAllocation && !b &&
	    !cudaMemGetInfo(&free, &total) && total == 1000 && free == 232 && !cudaFree(a) && !cudaMalloc(&b, 600) &&
	    !cudaGetDeviceProperties(&p, 0) && p.totalGlobalMem == 1000 ? 0 : 1;
}

/* An address whose lower half could be no int's. */
static float *host_page(void)
{
	void *p = mmap((void *)0x4100f0000000, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static int child(const char *what)
{
	float v[4] = { 0 }, *d;
	int n;

	if (!strcmp(what, "none"))
		return cudaGetDeviceCount(&n) == cudaErrorNoDevice && n == 0 ? 0 : 1;
	if (!strcmp(what, "driver"))
		return cudaGetDeviceCount(&n) == cudaErrorInsufficientDriver ? 0 : 1;
	if (!strcmp(what, "limits"))
		return limits();
	if (!strcmp(what, "lost"))
		return lost();
	if (!strncmp(what, "race", 4))
		return race(!strcmp(what, "race-not"));
	if (!strncmp(what, "branch", 6))
		return forgotten_wait(strcmp(what, "branch-waits"));
	if (!strncmp(what, "scratch", 7))
		return scratch(strstr(what, "graph"), strstr(what, "shared"));
	if (!strncmp(what, "hasty", 5))
		return hasty(!strcmp(what, "hasty-not"));
	d = device(v, sizeof(v));
	if (!strcmp(what, "barrier"))
		probe_barrier(NULL, 37);
	if (!strcmp(what, "divergent"))
		probe_divergent(NULL, 9);
	if (!strcmp(what, "beyond"))
		probe_write(NULL, d, 4, 1);
	if (!strcmp(what, "before"))
		probe_write(NULL, d, -1, 1);
	if (!strcmp(what, "far"))
		probe_write(NULL, d, 1024, 1);
	if (!strcmp(what, "host-argument"))
		probe_write(NULL, v, 0, 1);
	if (!strcmp(what, "host-in-struct"))
		probe_pair(NULL, d, (struct pair){ d, host_page() });
	if (!strcmp(what, "freed")) {
		cudaFree(d);
		probe_write(NULL, d, 0, 1);
	}
	if (!strcmp(what, "host-reads"))
		printf("%g\n", *(volatile float *)d);
	if (!strcmp(what, "long-copy"))
		cudaMemcpy(d, v, 32, cudaMemcpyHostToDevice);
	return 0;
}

int main(int argc, char *argv[])
{
	self = argv[0];
	if (argc > 1)
		return child(argv[1]);
	sums();
	lanes();
	types();
	shared();
	graph();
	seam();
	configuration();
	reported("barrier", "barrier: block 0,0,0 thread 0,0,0: __syncthreads at tests/emu/probe.cu:");
	reported("divergent", "divergent: block 0,0,0");
	reported("beyond", "write_at: written to byte 16 of a buffer of 16");
	reported("before", "write_at: written to 4 bytes before a buffer of 16");
	reported("far", "write_at: block 0,0,0 thread 3,0,0: access to byte 4096 of a buffer of 16");
	reported("host-argument", "write_at: argument 0 is the host's pointer");
	reported("host-in-struct", "pair_sum: argument 1 has the host's pointer");
	reported("freed", "write_at: argument 0 points to byte 0 of a freed buffer of 16");
	reported("host-reads", "the host reads or writes device memory: byte 0 of a device buffer of 16");
	reported("long-copy", "copy, target: 32 bytes at");
	answered("race", "EMU_ORDER=forward", 0);
	answered("race", "EMU_ORDER=reverse", 1);
	answered("race", "EMU_ORDER=shuffle", 1);
	answered("race-not", "EMU_ORDER=reverse", 0);
	answered("branch-waits", "EMU_ORDER=reverse", 0);
	answered("branch", "EMU_ORDER=reverse", 1);
	answered("scratch-shared-graph", "EMU_ORDER=forward", 0);
	answered("scratch-shared-graph", "EMU_ORDER=shuffle", 1);
	answered("scratch-graph", "EMU_ORDER=shuffle", 0);
	answered("scratch-shared", "EMU_STREAMS=late", 0);
	answered("scratch-shared", "EMU_STREAMS=late EMU_ORDER=shuffle", 1);
	answered("scratch", "EMU_STREAMS=late EMU_ORDER=shuffle", 0);
	answered("hasty", "EMU_STREAMS=late", 1);
	answered("hasty-not", "EMU_STREAMS=late", 0);
	answered("limits", "EMU_MEMORY=1000", 0);
	answered("none", "EMU_DEVICES=0", 0);
	answered("driver", "EMU_DRIVER=12080", 0);
	answered("lost", "EMU_LOSE=2", 0);
	return tap_end();
}
