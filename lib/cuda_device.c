/* The CUDA backend's device: taking hold of it, its memory, and what is said when it fails. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cuda.h"
#include "device.h"

struct gpu gpu;

/* Where this thread's work is tried, and what it died of. */
static _Thread_local jmp_buf *rescue;
static _Thread_local char why[ERRLEN];

void cuda_die(const char *fmt, ...)
{
	static atomic_flag dying = ATOMIC_FLAG_INIT;
	char text[ERRLEN];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (rescue) {
		memcpy(why, text, sizeof text);
		longjmp(*rescue, 1);
	}
	while (atomic_flag_test_and_set(&dying)) /* another thread says it, and ends the process */
		pause();
	die("%s", text);
}

int cuda_try(void (*work)(void *), void *context, char err[ERRLEN])
{
	jmp_buf here, *outer = rescue;

	if (setjmp(here) == 0) {
		rescue = &here;
		work(context);
		rescue = outer;
		return 0;
	}
	rescue = outer;
	return fail(err, "%s", why);
}

void cuda_check(cudaError_t e, const char *what)
{
	if (e != cudaSuccess)
		cuda_die("device cuda (%s): %s: %s", gpu.name, what, cudaGetErrorString(e));
}

/* ---- memory */

struct size_text {
	char s[32];
};

static struct size_text text_of(double bytes)
{
	struct size_text t;

	if (bytes < 1e9)
		snprintf(t.s, sizeof t.s, "%.1f MB", bytes / 1e6);
	else
		snprintf(t.s, sizeof t.s, "%.2f GB", bytes / 1e9);
	return t;
}

/* Rather too few: some is kept for draws, sums and weights, every workspace is taken to serve this plan, and what else
 * shrinks with the batch is not counted. */
static struct size_text what_fits(double left)
{
	struct plan_memory m = plan_memory();
	struct size_text t = { "a smaller batch needs less" };
	double most = m.batch ? 0.85 * (m.held + left) / (m.image * MAX(m.workspaces, 1)) : 0;

	if (m.batch == 1)
		snprintf(t.s, sizeof t.s, "even one image needs more");
	else if (most >= 1 && most < m.batch)
		snprintf(t.s, sizeof t.s, "a batch of %d would fit", (int)most);
	return t;
}

void cuda_no_memory(size_t bytes)
{
	size_t left = 0, all = 0;

	cudaGetLastError();
	cudaMemGetInfo(&left, &all);
	cuda_die("device cuda (%s): out of memory: %s more are needed, %s of %s are free; %s", gpu.name, text_of(bytes).s,
	    text_of(left).s, text_of(all).s, what_fits(left).s);
}

void *cuda_alloc(size_t bytes)
{
	void *p = NULL;
	cudaError_t e = cudaMalloc(&p, MAX(bytes, 1));

	if (e == cudaErrorMemoryAllocation)
		cuda_no_memory(bytes);
	cuda_check(e, "memory");
	cuda_check(cudaMemsetAsync(p, 0, MAX(bytes, 1), gpu.stream), "memory");
	return p;
}

void *cuda_room(struct room *r, size_t bytes)
{
	r->block = erealloc(r->block, r->n + 1, sizeof *r->block);
	return r->block[r->n++] = cuda_alloc(bytes);
}

void cuda_empty(struct room *r)
{
	for (int i = 0; i < r->n; i++)
		cuda_free(r->block[i]);
	free(r->block);
	*r = (struct room){ 0 };
}

void *cuda_copy(struct room *r, const void *from, size_t bytes)
{
	void *to = from ? cuda_room(r, bytes) : NULL;

	if (to)
		cuda_send(to, from, bytes);
	return to;
}

void cuda_send(void *to, const void *from, size_t bytes)
{
	if (bytes)
		cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, gpu.stream), "copy");
}

void cuda_fetch(void *to, const void *from, size_t bytes)
{
	if (bytes)
		cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, gpu.stream), "copy");
}

void cuda_launched(const char *what)
{
	cuda_check(cudaGetLastError(), what);
}

void cuda_wait(const char *what)
{
	cuda_check(cudaStreamSynchronize(gpu.stream), what);
	cuda_launched(what);
}

static pthread_mutex_t stream_taken = PTHREAD_MUTEX_INITIALIZER;

void cuda_enter(void)
{
	pthread_mutex_lock(&stream_taken);
}

void cuda_leave(void)
{
	pthread_mutex_unlock(&stream_taken);
}

/* The graph of what work puts on the stream; NULL and err. */
static cudaGraph_t capture(cudaStream_t s, void (*work)(void *), void *context, char err[ERRLEN])
{
	cudaError_t e = cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal), refused;
	cudaGraph_t graph = NULL;

	if (e == cudaSuccess && cuda_try(work, context, err) < 0) {
		cudaStreamEndCapture(s, &graph);
		return NULL;
	}
	if (e == cudaSuccess) {
		refused = cudaGetLastError(); /* a kernel's */
		e = cudaStreamEndCapture(s, &graph);
		e = refused ? refused : e;
	}
	if (e == cudaSuccess)
		return graph;
	if (graph)
		cudaGraphDestroy(graph);
	fail(err, "%s", cudaGetErrorString(e));
	return NULL;
}

/* Sent there now: at its first launch there would be no other way any more. */
static cudaError_t make_graph(cudaGraphExec_t *exec, cudaGraph_t graph, cudaStream_t s)
{
	cudaError_t e = cudaGraphInstantiate(exec, graph, 0);

	if (e == cudaSuccess && (e = cudaGraphUpload(*exec, s)) != cudaSuccess)
		cudaGraphExecDestroy(*exec);
	cudaGraphDestroy(graph);
	return e;
}

cudaGraphExec_t cuda_record(cudaStream_t s, void (*work)(void *), void *context)
{
	static atomic_flag said = ATOMIC_FLAG_INIT;
	const char *wanted = getenv("TEDDY_GRAPHS");
	cudaGraphExec_t exec;
	cudaGraph_t graph;
	cudaError_t e = cudaSuccess;
	char err[ERRLEN];

	if (wanted && !strcmp(wanted, "0"))
		return NULL;
	cuda_launched("graph"); /* what went wrong before is not the graph's */
	cuda_enter();
	graph = capture(s, work, context, err);
	cuda_leave();
	if (graph && (e = make_graph(&exec, graph, s)) == cudaSuccess)
		return exec;
	cudaGetLastError();
	cuda_check(cudaStreamSynchronize(s), "graph"); /* a device that is lost */
	if (e != cudaErrorMemoryAllocation && !atomic_flag_test_and_set(&said))
		warn("device cuda (%s): no graphs, single calls instead: %s", gpu.name, e ? cudaGetErrorString(e) : err);
	return NULL;
}

bool cuda_spare(size_t bytes)
{
	size_t left = 0, all = 0;

	cuda_check(cudaMemGetInfo(&left, &all), "memory");
	return bytes < left / 2;
}

void cuda_free(void *p)
{
	if (!p)
		return;
	cuda_wait("memory"); /* what is queued may use it */
	cuda_check(cudaFree(p), "memory");
}

int cuda_afford(const struct plan *p, char err[ERRLEN])
{
	double bytes = 4.0 * (p->batch_floats + p->chunk_floats) * p->opts.batch;
	size_t left = 0, all = 0;

	cuda_check(cudaMemGetInfo(&left, &all), "memory");
	if (bytes <= left + plan_memory().held)
		return 0;
	return fail(err, "device cuda (%s): out of memory: %s for a batch of %d are needed, %s of %s are free; %s", gpu.name,
	    text_of(bytes).s, p->opts.batch, text_of(left).s, text_of(all).s, what_fits(left).s);
}

/* ---- taking hold */

int cuda_open(char text[ERRLEN])
{
	enum { OLDEST = 80 }; /* compute capability that the kernels are compiled for, at least */
	struct cudaDeviceProp prop;
	int count = 0, driver = 0, runtime = 0;
	char err[ERRLEN], compiler[32];
	cudaError_t e;

	if (gpu.dnn)
		return 0;
	cudaDriverGetVersion(&driver);
	cudaRuntimeGetVersion(&runtime);
	if (!driver)
		return fail(text, "device cuda: there is no NVIDIA driver");
	e = cudaGetDeviceCount(&count);
	if (e == cudaErrorInsufficientDriver)
		return fail(text, "device cuda: the driver is for CUDA %d.%d, this build is for %d.%d", driver / 1000,
		    driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
	if (e != cudaSuccess || count == 0)
		return fail(text, "device cuda: no device: %s", cudaGetErrorString(e != cudaSuccess ? e : cudaErrorNoDevice));
	if ((e = cudaGetDeviceProperties(&prop, 0)) != cudaSuccess)
		return fail(text, "device cuda: %s", cudaGetErrorString(e));
	snprintf(gpu.name, sizeof gpu.name, "%s", prop.name);
	if (prop.major * 10 + prop.minor < OLDEST)
		return fail(text, "device cuda: %s has compute capability %d.%d, the kernels need %d.%d", prop.name, prop.major,
		    prop.minor, OLDEST / 10, OLDEST % 10);
	if ((e = cudaStreamCreateWithFlags(&gpu.stream, cudaStreamNonBlocking)) != cudaSuccess)
		return fail(text, "device cuda (%s): %s", prop.name, cudaGetErrorString(e));
	if ((e = gpu_kernels_fit()) != cudaSuccess)
		return fail(text, "device cuda (%s): no kernels for it in this build: %s", prop.name, cudaGetErrorString(e));
	/* cuDNN compiles some engines, with this if there is one: where it lies must not decide which engine runs. */
	snprintf(compiler, sizeof compiler, "libnvrtc.so.%d", CUDART_VERSION / 1000);
	open_cuda_library(compiler);
	if (!(gpu.dnn = dnn_new(gpu.stream, err)))
		return fail(text, "device cuda (%s): %s", prop.name, err);
	snprintf(text, ERRLEN, "device cuda: %s, %s, capability %d.%d; driver for CUDA %d.%d, run time %d.%d, %s", prop.name,
	    text_of(prop.totalGlobalMem).s, prop.major, prop.minor, driver / 1000, driver % 1000 / 10, runtime / 1000,
	    runtime % 1000 / 10, dnn_version());
	return 0;
}
