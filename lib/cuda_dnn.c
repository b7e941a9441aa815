/* What cuDNN's convolutions and cuBLASLt's products share: handles, workspace, errors. Nothing in the three files is of
 * one minor version: what a library lacks shows when it is asked. */
#include "cuda_dnn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/gpu.h"
#include "cuda_op.h"

const char *const dnn_way_name[] = { "forward", "dgrad", "wgrad" };
const char *const dnn_math_name[] = { "f32", "tf32", "bf16" };

const char *dnn_version(void)
{
	static char text[64];
	size_t dnn = cudnnGetVersion(), blas = cublasLtGetVersion();

	snprintf(text, sizeof text, "cuDNN %zu.%zu.%zu, cuBLASLt %zu.%zu.%zu", dnn / 10000, dnn / 100 % 100, dnn % 100,
	    blas / 10000, blas / 100 % 100, blas % 100);
	return text;
}

int dnn_failed(char err[ERRLEN], const char *what, cudnnStatus_t st)
{
	char said[ERRLEN / 2] = "";

	cudnnGetLastErrorString(said, sizeof said);
	said[strcspn(said, "\n")] = '\0';
	return fail(err, "%s: cuDNN: %s%s%s", what, cudnnGetErrorString(st), said[0] ? ": " : "", said);
}

int dnn_blas_failed(char err[ERRLEN], const char *what, cublasStatus_t st)
{
	return fail(err, "%s: cuBLASLt: %s", what, cublasLtGetStatusString(st));
}

/* Those for CUDA 12 and 13 have one name, and the wrong one fails later, and obscurely. */
static int same_toolkit(char err[ERRLEN])
{
	int runtime = 0, dnn = (int)cudnnGetCudartVersion();

	if (cudaRuntimeGetVersion(&runtime) == cudaSuccess && runtime / 1000 != dnn / 1000)
		return fail(err, "the libcudnn.so.9 that was found is for CUDA %d, the backend for CUDA %d", dnn / 1000, runtime / 1000);
	return 0;
}

static int start(struct dnn *d, char err[ERRLEN])
{
	cudnnStatus_t st;
	cublasStatus_t bst;

	if (same_toolkit(err) < 0)
		return -1;
	st = cudnnCreate(&d->dnn);
	if (st == CUDNN_STATUS_SUCCESS)
		st = cudnnSetStream(d->dnn, d->stream);
	if (st != CUDNN_STATUS_SUCCESS)
		return dnn_failed(err, "start", st);
	bst = cublasLtCreate(&d->blas);
	return bst == CUBLAS_STATUS_SUCCESS ? 0 : dnn_blas_failed(err, "start", bst);
}

struct dnn *dnn_new(cudaStream_t s, char err[ERRLEN])
{
	struct dnn *d = ecalloc(1, sizeof *d);

	d->stream = s;
	d->space.lanes = 1;
	if (start(d, err) == 0)
		return d;
	dnn_free(d);
	return NULL;
}

void dnn_free(struct dnn *d)
{
	if (!d)
		return;
	if (d->dnn)
		cudnnDestroy(d->dnn);
	if (d->blas)
		cublasLtDestroy(d->blas);
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
	cudnnStatus_t st = cudnnSetStream(d->dnn, s);

	d->lane = lane;
	d->stream = s;
	return st == CUDNN_STATUS_SUCCESS ? 0 : dnn_failed(err, "stream", st);
}

void dnn_op_free(struct dnn_op *op)
{
	if (op)
		op->release(op);
	free(op);
}

const char *dnn_op_engine(const struct dnn_op *op)
{
	return op->engine;
}

size_t dnn_op_workspace(const struct dnn_op *op)
{
	return op->workspace;
}

int dnn_run(struct dnn *d, const struct dnn_op *op, void *out, const void *a, const void *b, char err[ERRLEN])
{
	if (op->workspace > d->space.bytes)
		return fail(err, "%s: %zu bytes of workspace, %zu are reserved", op->what, op->workspace, d->space.bytes);
	gpu_count_launch(op->counted);
	return op->run(d, op, out, a, b, space_of(&d->space, d->lane, d->stream), err);
}
