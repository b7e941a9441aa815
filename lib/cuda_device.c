/* The CUDA backend's device: taking hold of it, its memory, and what is said when it fails. */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda.h"

struct gpu gpu;

void cuda_die(const char *fmt, ...)
{
	char text[ERRLEN];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (!gpu.rescue)
		die("%s", text);
	memcpy(gpu.why, text, sizeof text);
	longjmp(*gpu.rescue, 1);
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

void cuda_capture(cudaStream_t s)
{
	cuda_enter();
	cuda_check(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal), "graph");
}

cudaGraphExec_t cuda_captured(cudaStream_t s)
{
	cudaGraphExec_t exec = NULL;
	cudaGraph_t graph;
	cudaError_t e;

	cuda_launched("graph");
	cuda_check(cudaStreamEndCapture(s, &graph), "graph");
	cuda_leave();
	e = cudaGraphInstantiate(&exec, graph, 0);
	cuda_check(cudaGraphDestroy(graph), "graph");
	if (e == cudaErrorMemoryAllocation) {
		cudaGetLastError();
		return NULL;
	}
	cuda_check(e, "graph");
	return exec;
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
	char err[ERRLEN];
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
	if (!(gpu.dnn = dnn_new(gpu.stream, err)))
		return fail(text, "device cuda (%s): %s", prop.name, err);
	snprintf(text, ERRLEN, "device cuda: %s, %s, capability %d.%d; driver for CUDA %d.%d, run time %d.%d, %s", prop.name,
	    text_of(prop.totalGlobalMem).s, prop.major, prop.minor, driver / 1000, driver % 1000 / 10, runtime / 1000,
	    runtime % 1000 / 10, dnn_version());
	return 0;
}
