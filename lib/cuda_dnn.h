/* The seam to cuDNN and cuBLASLt: convolutions and matrix products on feature maps as kernels/gpu.h has them.
 *
 * A dnn owns the libraries' handles and one workspace, and works on one stream: one a stream, used by one thread at a
 * time. An op is one product of one shape, for one number of images; it belongs to the caller and must not outlive its
 * dnn. Pointers are device memory, aligned to 16 bytes. lib/cuda_dnn.c is the real one; tests/emu/dnn.c answers the
 * same functions by plain loops.
 *
 * The same bytes every time on one kind of GPU with one version of the libraries: whatever adds up in an order of
 * chance is excluded, and what runs follows from the libraries' own prediction, never from a timing, whose noise would
 * decide the last bits of every result.
 *
 * Why convolutions are not fused with their neighbours. Asked for an H200, cuDNN 9.19 has these for bfloat16:
 * - (scale, bias, ReLU,) convolution, GEN_STATS: one engine, compiled when it is needed, for sm_80 (mma, not wgmma). Its
 *   code adds the sums of all blocks by RED.ADD.F32, in an order of chance, and no numerical note says so;
 * - dgrad, ReLU's gradient, BN_BWD_WEIGHTS: no engine that can be built;
 * - convolution, then scale, bias and ReLU, or dgrad, then ReLU's gradient: the first choices are for sm_80 as well.
 * The sums are what a norm and a matched layer wait for; without them a fusion saves a pass over the maps and gives up
 * the engines that cuDNN prefers for a plain convolution. So the rest are own kernels, behind each convolution. What cuDNN
 * compiles for plain ones (depthwise) has no atomics. */
#ifndef CUDA_DNN_H
#define CUDA_DNN_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>

#include "util.h"

#ifdef __cplusplus
extern "C" {
#endif

struct dnn;
struct dnn *dnn_new(cudaStream_t s, char err[ERRLEN]); /* NULL: err says what is missing */
void dnn_free(struct dnn *d);
const char *dnn_version(void); /* "cuDNN 9.1.0, cuBLASLt 12.4.5" */

/* The operands' type and how they are multiplied; sums are float. F32: no TF32. TF32: float maps whose products may
 * drop bits. */
enum dnn_math { DNN_F32, DNN_TF32, DNN_BF16 };
enum dnn_way {
	DNN_FORWARD, /* y from x, w */
	DNN_DGRAD,   /* dx from dy, w */
	DNN_WGRAD,   /* dw from dy, x: always float */
};

/* x (n,h,w,cs), of which c channels are used, y (n,oh,ow,ks), of which k; w (k,r,r,c/groups) without gaps. Channels
 * beyond c and k are neither read nor written: what is to be zero there stays so only if it was. Tensor cores want
 * multiples of 8, and most engines maps without gaps: round c and k up and give zero filters; with as many groups as
 * channels, round these, c = k = groups, as well. */
struct dnn_shape {
	int n, c, h, w, k, oh, ow;
	int r, stride, pad, groups;
	int cs, ks;
};

/* y (m,n) = x (m,k) * w (n,k)^T, all in rows: the rows lie xs, ws, ys values apart. dx, dy as x, y; dw as w. */
struct dnn_gemm {
	int m, n, k;
	int xs, ws, ys;
	bool wide; /* y or dx is written as float, whatever the operands are */
};

/* Lanes are streams that work side by side, each with a workspace of its own; at first there is lane 0 alone, dnn_new()'s
 * stream. What is run from now on goes to that lane, which is this stream. */
cudaError_t dnn_lanes(struct dnn *d, int lanes, char err[ERRLEN]); /* at least so many; not while a graph is captured */
int dnn_use(struct dnn *d, int lane, cudaStream_t s, char err[ERRLEN]);

struct dnn_op;
/* NULL: err says what no engine does. */
struct dnn_op *dnn_conv_op(struct dnn *d, struct dnn_shape s, enum dnn_way way, enum dnn_math math, char err[ERRLEN]);
struct dnn_op *dnn_gemm_op(struct dnn *d, struct dnn_gemm s, enum dnn_way way, enum dnn_math math, char err[ERRLEN]);
/* Not before its last run, and that of every graph that captured it, is over. */
void dnn_op_free(struct dnn_op *op);
/* What was chosen: "cudnn:eng21{k2=1,k13=0}", "cublaslt:algo66{tile=20,stages=11,splitk=1}". "+widen" at the end: dw was
 * rounded to bfloat16 before it became float, since nothing fast writes float. */
const char *dnn_op_engine(const struct dnn_op *op);
size_t dnn_op_workspace(const struct dnn_op *op); /* bytes */

/* Makes the workspace at least so large: for every op before it is run first, and not while a graph is captured. What
 * a captured graph uses stays until dnn_free(). Both give back what CUDA says, and err: an earlier kernel's error may show
 * there, too. */
cudaError_t dnn_reserve(struct dnn *d, size_t bytes, char err[ERRLEN]);
size_t dnn_lacked(const struct dnn *d); /* bytes, of all lanes, that the last failure of these was about */

/* Starts op on d's stream. out, a, b are y, x, w; dx, dy, w; or dw, dy, x. out is written, never added to. Counted by
 * gpu_launches() as conv_forward, conv_dgrad, conv_wgrad, gemm_forward, gemm_dgrad, gemm_wgrad. */
int dnn_run(struct dnn *d, const struct dnn_op *op, void *out, const void *a, const void *b, char err[ERRLEN]);

#ifdef __cplusplus
}
#endif
#endif
