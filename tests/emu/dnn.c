/* lib/cuda_dnn.h by plain loops on emulated memory, sums in double. EMU_LACKS=conv_dgrad (or several names): as of a
 * library that has no engine for it. EMU_UNCAPTURED=gemm_forward: as of one that cannot be part of a graph. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../kernels/gpu.h"
#include "../../lib/cuda_dnn.h"
#include "../../lib/cuda_space.h"
#include "emu.h"

enum { WORKSPACE = 512, WHAT = 160 }; /* bytes that every op wants, and spoils */

struct dnn {
	cudaStream_t stream;
	struct space space;
	int lane;
};

struct dnn_op {
	struct dnn_shape s; /* a matrix product is a convolution of 1x1 maps */
	int ws;             /* values from one filter to the next */
	enum dnn_way way;
	enum dnn_math math;
	bool wide;
	const char *counted;
	char what[WHAT];
};

struct job {
	struct dnn_op op;
	void *out;
	long *workspace, mark; /* mark is this job's own */
	const void *a, *b;
};

static const char *const way_name[] = { "forward", "dgrad", "wgrad" };

const char *dnn_version(void)
{
	return "cuDNN 9.0.0, cuBLASLt 13.0.0 (emulated)";
}

struct dnn *dnn_new(cudaStream_t s, char err[ERRLEN])
{
	struct dnn *d;
	int n;

	if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
		fail(err, "start: cuDNN: CUDNN_STATUS_NOT_INITIALIZED");
		return NULL;
	}
	d = ecalloc(1, sizeof *d);
	d->stream = s;
	d->space.lanes = 1;
	return d;
}

void dnn_free(struct dnn *d)
{
	if (!d)
		return;
	space_free(&d->space);
	free(d);
}

cudaError_t dnn_reserve(struct dnn *d, size_t bytes, char err[ERRLEN])
{
	return space_reserve(&d->space, bytes, err);
}

cudaError_t dnn_lanes(struct dnn *d, int lanes, char err[ERRLEN])
{
	return space_lanes(&d->space, lanes, err);
}

size_t dnn_lacked(const struct dnn *d)
{
	return d->space.lacked;
}

int dnn_use(struct dnn *d, int lane, cudaStream_t s, char err[ERRLEN])
{
	(void)err;
	d->lane = lane;
	d->stream = s;
	return 0;
}

/* What the libraries refuse. */
static bool possible(const struct dnn_op *op)
{
	const struct dnn_shape *s = &op->s;
	const char *lacks = getenv("EMU_LACKS");

	return !(lacks && strstr(lacks, op->counted)) && s->n > 0 && s->c > 0 && s->k > 0 && s->groups > 0 &&
	    s->c % s->groups == 0 && s->k % s->groups == 0 && s->cs >= s->c && s->ks >= s->k && s->stride > 0 &&
	    s->oh == (s->h + 2 * s->pad - s->r) / s->stride + 1 && s->ow == (s->w + 2 * s->pad - s->r) / s->stride + 1;
}

static struct dnn_op *keep(struct dnn_op op, char err[ERRLEN])
{
	struct dnn_op *kept = NULL;

	if (possible(&op)) {
		kept = ecalloc(1, sizeof *kept);
		*kept = op;
	} else
		fail(err, "%s: %s has no engine for it", op.what, dnn_version());
	return kept;
}

struct dnn_op *dnn_conv_op(struct dnn *d, struct dnn_shape s, enum dnn_way way, enum dnn_math math, char err[ERRLEN])
{
	static const char *const counted[] = { "conv_forward", "conv_dgrad", "conv_wgrad" };
	struct dnn_op op = { s, 0, way, math, math != DNN_BF16 || way == DNN_WGRAD, counted[way], "" };

	(void)d;
	op.ws = s.groups > 0 ? s.r * s.r * (s.c / s.groups) : 0;
	snprintf(op.what, WHAT, "convolution (%s) %dx%d, stride %d, padding %d, groups %d, of %dx%dx%dx%d to %dx%dx%d",
	    way_name[way], s.r, s.r, s.stride, s.pad, s.groups, s.n, s.c, s.h, s.w, s.k, s.oh, s.ow);
	return keep(op, err);
}

struct dnn_op *dnn_gemm_op(struct dnn *d, struct dnn_gemm s, enum dnn_way way, enum dnn_math math, char err[ERRLEN])
{
	static const char *const counted[] = { "gemm_forward", "gemm_dgrad", "gemm_wgrad" };
	struct dnn_shape as = { s.m, s.k, 1, 1, s.n, 1, 1, 1, 1, 0, 1, s.xs, s.ys };
	struct dnn_op op = { as, s.ws, way, math, math != DNN_BF16 || way == DNN_WGRAD || s.wide, counted[way], "" };

	(void)d;
	snprintf(op.what, WHAT, "matrix product (%s) of %d rows, %d to %d", way_name[way], s.m, s.k, s.n);
	return keep(op, err);
}

void dnn_op_free(struct dnn_op *op)
{
	free(op);
}

const char *dnn_op_engine(const struct dnn_op *op)
{
	return op->counted[0] == 'c' ? "cudnn:emulated" : "cublaslt:emulated";
}

size_t dnn_op_workspace(const struct dnn_op *op)
{
	(void)op;
	return WORKSPACE;
}

static float from_bits(uint32_t u)
{
	float x;

	memcpy(&x, &u, sizeof x);
	return x;
}

static uint32_t to_bits(float x)
{
	uint32_t u;

	memcpy(&u, &x, sizeof u);
	return u;
}

/* Without its last so many bits, to the nearest, halves to even. */
static uint32_t round_off(float x, int bits)
{
	uint32_t u = to_bits(x), below = (UINT32_C(1) << bits) - 1;

	if (x != x)
		return u | UINT32_C(1) << 22;
	return (u + below / 2 + (u >> bits & 1)) & ~below;
}

/* Rows of so many values, `apart` from one to the next, as doubles without gaps. */
static double *take(const void *p, size_t rows, int values, int apart, enum dnn_math math)
{
	double *out = ecalloc(rows * values, sizeof *out);

	for (size_t i = 0; i < rows; i++)
		for (int j = 0; j < values; j++) {
			float x = math == DNN_BF16 ? from_bits((uint32_t)((const uint16_t *)p)[i * apart + j] << 16) :
			    ((const float *)p)[i * apart + j];
			out[i * values + j] = math == DNN_TF32 ? from_bits(round_off(x, 13)) : x;
		}
	return out;
}

static void give(void *p, const double *from, size_t rows, int values, int apart, bool wide)
{
	for (size_t i = 0; i < rows; i++)
		for (int j = 0; j < values; j++) {
			float x = from[i * values + j];
			if (wide)
				((float *)p)[i * apart + j] = x;
			else
				((uint16_t *)p)[i * apart + j] = round_off(x, 16) >> 16;
		}
}

static double dot(const double *a, const double *b, int n)
{
	double s[4] = { 0 };
	int i = 0;

	for (; i + 4 <= n; i += 4)
		for (int j = 0; j < 4; j++)
			s[j] += a[i + j] * b[i + j];
	for (; i < n; i++)
		s[0] += a[i] * b[i];
	return s[0] + s[1] + s[2] + s[3];
}

static void add(double *y, double f, const double *x, int n)
{
	for (int i = 0; i < n; i++)
		y[i] += f * x[i];
}

/* One place of the filters (K,…) over one pixel x (C) and one y (K): what is wanted gets its share of the sum. */
static void place(const struct dnn_op *op, double *x, double *y, double *w)
{
	int cg = op->s.c / op->s.groups, kg = op->s.k / op->s.groups, filter = op->s.r * op->s.r * cg;

	for (int o = 0; o < op->s.k; o++, w += filter) {
		double *part = x + o / kg * cg;
		if (op->way == DNN_FORWARD)
			y[o] += dot(part, w, cg);
		else if (op->way == DNN_DGRAD)
			add(part, y[o], w, cg);
		else
			add(w, y[o], part, cg);
	}
}

static void convolve(const struct dnn_op *op, double *x, double *y, double *w)
{
	const struct dnn_shape *s = &op->s;
	int cg = s->c / s->groups;

	for (int i = 0; i < s->n; i++)
		for (int oy = 0; oy < s->oh; oy++)
			for (int ox = 0; ox < s->ow; ox++)
				for (int at = 0; at < s->r * s->r; at++) {
					int iy = oy * s->stride + at / s->r - s->pad, ix = ox * s->stride + at % s->r - s->pad;
					if (iy >= 0 && ix >= 0 && iy < s->h && ix < s->w)
						place(op, x + (((size_t)i * s->h + iy) * s->w + ix) * s->c,
						    y + (((size_t)i * s->oh + oy) * s->ow + ox) * s->k, w + at * cg);
				}
}

/* A job is two pieces of work, with its mark in the workspace from one to the other: what another stream runs meanwhile has
 * no business there. */
static void begin(void *context)
{
	const struct job *j = context;

	for (size_t i = 0; i < WORKSPACE / sizeof(long); i++)
		j->workspace[i] = j->mark;
}

static void run(void *context)
{
	const struct job *j = context;
	const struct dnn_op *op = &j->op;
	const struct dnn_shape *s = &op->s;
	size_t pixels = (size_t)s->n * s->h * s->w, places = (size_t)s->n * s->oh * s->ow;
	int filter = s->r * s->r * (s->c / s->groups);
	double *x, *y, *w;

	for (size_t i = 0; i < WORKSPACE / sizeof(long); i++)
		if (j->workspace[i] != j->mark)
			emu_fail("%s: its workspace was written by something else", op->what);
	memset(j->workspace, 0xff, WORKSPACE);
	x = op->way == DNN_DGRAD ? ecalloc(pixels * s->c, sizeof *x) :
	    take(op->way == DNN_FORWARD ? j->a : j->b, pixels, s->c, s->cs, op->math);
	y = op->way == DNN_FORWARD ? ecalloc(places * s->k, sizeof *y) : take(j->a, places, s->k, s->ks, op->math);
	w = op->way == DNN_WGRAD ? ecalloc((size_t)s->k * filter, sizeof *w) : take(j->b, s->k, filter, op->ws, op->math);
	convolve(op, x, y, w);
	if (op->way == DNN_FORWARD)
		give(j->out, y, places, s->k, s->ks, op->wide);
	else if (op->way == DNN_DGRAD)
		give(j->out, x, pixels, s->c, s->cs, op->wide);
	else
		give(j->out, w, s->k, filter, op->ws, true);
	free(x);
	free(y);
	free(w);
}

/* Whether the stream captures, and this is said not to bear it: as an engine that takes memory when it runs. */
static bool uncaptured(cudaStream_t s, const struct dnn_op *op)
{
	const char *names = getenv("EMU_UNCAPTURED");
	enum cudaStreamCaptureStatus status;
	void *memory;

	return names && strstr(names, op->counted) && cudaStreamIsCapturing(s, &status) == cudaSuccess &&
	    status != cudaStreamCaptureStatusNone && cudaMalloc(&memory, 1) != cudaSuccess;
}

int dnn_run(struct dnn *d, const struct dnn_op *op, void *out, const void *a, const void *b, char err[ERRLEN])
{
	static long mark;
	struct job j = { *op, out, space_of(&d->space, d->lane, d->stream), ++mark, a, b };

	if (WORKSPACE > d->space.bytes)
		return fail(err, "%s: %d bytes of workspace, %zu are reserved", op->what, WORKSPACE, d->space.bytes);
	if (((uintptr_t)out | (uintptr_t)a | (uintptr_t)b) % 16)
		return fail(err, "%s: cuDNN: CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER", op->what);
	if (uncaptured(d->stream, op))
		return fail(err, "%s: cuDNN: CUDNN_STATUS_EXECUTION_FAILED", op->what);
	emu_check_pointer(op->counted, 0, out);
	emu_check_pointer(op->counted, 1, a);
	emu_check_pointer(op->counted, 2, b);
	gpu_count_launch(op->counted);
	if (emu_enqueue(d->stream, "workspace", begin, &j, sizeof j) != cudaSuccess ||
	    emu_enqueue(d->stream, op->counted, run, &j, sizeof j) != cudaSuccess)
		return fail(err, "%s: %s", op->what, cudaGetErrorString(cudaGetLastError()));
	return 0;
}
