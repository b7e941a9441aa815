/* The CUDA backend's own kernels: one contract per kernel. What cuDNN and cuBLASLt do is in lib/cuda_dnn.h.
 *
 * Every function starts work on a stream and returns; pointers are device memory unless said otherwise. Nothing here
 * allocates or synchronises, and sizes are the host's, so that calls can be captured into a graph; what changes from one
 * replay to the next (draws, rates, labels) is read from device memory. Sums are made in an order that depends on shapes
 * alone, without float atomics: the same bytes every time.
 *
 * Feature maps are (N,H,W,CP), float or bfloat16, with CP = C rounded up to 8 and zeros in the channels beyond C, which
 * every kernel keeps so. Per-channel arrays have CP values, zeros beyond C, where not said otherwise. Images, logits and
 * everything that leaves the backend are float, (N,C,H,W) and (N,K). All arithmetic is float or double.
 *
 * Compiled by nvcc into the backend; and by a C++ compiler with tests/emu in its path, where it runs on the CPU.
 */
#ifndef GPU_H
#define GPU_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum elem { ELEM_F32, ELEM_BF16 };

struct maps {
	int n, h, w, c, cp;
	enum elem type;
};

/* A coefficient of image i and channel c: v[i*stride + c]. stride 0: one for all images; else at least cp, and
 * both stride and v are multiples of 16 bytes. */
struct coef {
	const float *v;
	int64_t stride;
};

/* Every launch is counted under its kernel's name, on the host (kernels/launch.c): tests say what they expect to run.
 * gpu_launches(NULL): all of them. */
void gpu_count_launch(const char *kernel);
long gpu_launches(const char *kernel);
void gpu_forget_launches(void);

/* convert.cu: whether this build has machine code for the device, or such as its driver compiles. */
cudaError_t gpu_kernels_fit(void);

/* feature.cu: what happens between convolutions. */

/* Bytes of scratch that the sums below need for such maps, of m.n images or fewer. */
size_t gpu_sums_scratch(struct maps m);
/* sum (n,c) = sum over h,w of x - ref[c]; sumsq (n,c) of (x - ref[c])^2: real channels only, no padding. Exact to float's
 * precision wherever ref lies: sums are taken about a value of the image itself and moved to ref in double. */
void gpu_sums(cudaStream_t s, double *sum, double *sumsq, const void *x, const float *ref, struct maps m, void *scratch);
/* sdz (n,c) = sum of dz; sdzx (n,c) = sum of dz*(x - center). */
void gpu_sums_back(cudaStream_t s, double *sdz, double *sdzx, const void *dz, const void *x, struct coef center,
    struct maps m, void *scratch);
/* out (c) = sum over n,h,w of x: a bias's gradient. */
void gpu_channel_sums(cudaStream_t s, float *out, const void *x, struct maps m, void *scratch);
/* v = x*scale + shift + res; bit c%8 of mask (N,H,W,CP/8) = v > 0 and v = max(v, 0) with relu; y = v, or with pool the mean
 * of 2x2 (y (N,H/2,W/2,CP); a last odd row or column is dropped, and its bits are 0). A NaN stays one. res, mask may be
 * NULL; y may be x without pool. scale must be 0 beyond C, or x and shift. */
void gpu_epilogue(cudaStream_t s, void *y, uint8_t *mask, const void *x, const void *res, struct coef scale,
    struct coef shift, struct maps m, bool relu, bool pool);

enum { GPU_GRADIENTS = 8 };
struct gradients { /* of one output, one a consumer: their sum counts */
	int n;
	const void *dy[GPU_GRADIENTS];
};
/* The way back. dz = the sum of g's, each spread over its 2x2 window / 4 with pool (0 in a dropped row or column), where
 * the mask's bit is set (NULL: everywhere); dx = gain*dz + a + b*(x - ref). dz, dx: either may be NULL; dx may be a dy
 * without pool, or dz, which is not kept then. a.v NULL: a, b and x are not read. gain.v NULL: 1. */
void gpu_undo(cudaStream_t s, void *dx, void *dz, struct gradients g, const uint8_t *mask, bool pool, struct coef gain,
    struct coef a, struct coef b, struct coef ref, const void *x, struct maps m);

/* norm.cu: from sums to coefficients. n images, c channels, per values an image and channel. */

/* Batch norm in training. sum, sumsq (n,c) about ref; mean (c) of x - ref, var (c) biased, both double; scale, shift, center
 * (cp): y = x*scale + shift; center = ref + mean. */
void gpu_bn_forward(cudaStream_t s, double *mean, double *var, float *scale, float *shift, float *center,
    const double *sum, const double *sumsq, const float *ref, const float *gamma, const float *beta, float eps, int n,
    int64_t per, int c);
/* From sdz, sdzx (n,c) about center: dx = gain*dz + a + b*(x - center), (cp) each, and dgamma, dbeta (c), which may be NULL. */
void gpu_bn_backward(cudaStream_t s, float *gain, float *a, float *b, float *dgamma, float *dbeta, const double *sdz,
    const double *sdzx, const double *var, const float *gamma, float eps, int n, int64_t per, int c);
/* running_mean += momentum*(mean + at - running_mean), variance likewise with the unbiased one of `count` values; at (c): what
 * the mean was taken about, as running_mean counts it. momentum is read from the device. Nothing where *bad. */
void gpu_bn_running(cudaStream_t s, float *running_mean, float *running_var, const double *mean, const double *var,
    const float *at, const float *momentum, int64_t count, int c, const int *bad);
/* Instance norm: all (n,cp) but gamma, beta (cp); sums about 0. y = x*scale + shift; center: the mean. */
void gpu_in_forward(cudaStream_t s, float *scale, float *shift, float *center, const double *sum, const double *sumsq,
    const float *gamma, const float *beta, float eps, int n, int64_t per, int c);
/* dx = gain*dz + a + b*(x - center). ta, tb (n,cp): a tap's, about 0, added on; or NULL. dgamma, dbeta (c) or NULL. */
void gpu_in_backward(cudaStream_t s, float *gain, float *a, float *b, float *dgamma, float *dbeta, const double *sdz,
    const double *sdzx, const double *sum, const double *sumsq, const float *center, const float *gamma, float eps,
    const float *ta, const float *tb, int n, int64_t per, int c);
/* A frozen batch norm, or none: scale, shift (cp) of y = (x + bias - mean)*gamma/sqrt(var + eps) + beta, and ref = mean -
 * bias (cp). bias may be NULL; gamma NULL: no norm: scale 1, shift bias, ref -bias. */
void gpu_bn_frozen(cudaStream_t s, float *scale, float *shift, float *ref, const float *bias, const float *mean,
    const float *var, const float *gamma, const float *beta, float eps, int c);

/* convert.cu: in and out of the backend's layout. */
void gpu_from_nchw(cudaStream_t s, void *y, const float *x, struct maps m); /* (N,C,H,W) -> maps */
void gpu_to_nchw(cudaStream_t s, float *y, const void *x, struct maps m);
/* (O,I,kk) float -> (OP,kk,IP) with zeros beyond; and back (float both ways): dw of what cuDNN wrote. groups > 1: I inputs of
 * each group, put side by side in IP >= groups*I with zeros between: a dense convolution's. */
void gpu_filters(cudaStream_t s, void *to, enum elem type, const float *w, int o, int i, int kk, int op, int ip, int groups);
void gpu_filters_back(cudaStream_t s, float *dw, const float *from, int o, int i, int kk, int op, int ip, int groups);
/* (N,H,W,CP) -> (N, C*H*W rounded up to 8), in NCHW order; and back. m: of the maps. */
void gpu_flatten(cudaStream_t s, void *y, const void *x, struct maps m);
void gpu_flatten_back(cudaStream_t s, void *dx, const void *dy, struct maps m);
/* y's channel c (m.c of them) is channel which[c] of a (ca channels), or which[c] - ca of b (cb channels; may be NULL); 0 where
 * which is -1. which (m.cp), aligned to 16 bytes: -1 beyond C. m: of y. Concat, select, and both backwards. */
void gpu_channels(cudaStream_t s, void *y, const int *which, const void *a, int ca, const void *b, int cb, struct maps m);
/* y += x. */
void gpu_add(cudaStream_t s, float *y, const float *x, size_t count);

/* solo.cu, pool.cu: operations that run alone. m: of the input, where input and output differ. */
enum gpu_act { GPU_RELU6, GPU_SILU, GPU_SIGMOID };
void gpu_act(cudaStream_t s, void *y, const void *x, enum gpu_act act, struct maps m);
/* seen: the output of ReLU6 and sigmoid, the input of SiLU. */
void gpu_act_back(cudaStream_t s, void *dx, const void *dy, const void *seen, enum gpu_act act, struct maps m);
/* Windows of k x k; choice (N,OH,OW,CP): which place of its window won (dr*k + dc), the first of equals, the last NaN; NULL:
 * not wanted. Back: gathered by input pixel. oh, ow: (H + 2*pad - k)/stride + 1. */
void gpu_maxpool(cudaStream_t s, void *y, uint8_t *choice, const void *x, struct maps m, int k, int stride, int pad);
void gpu_maxpool_back(cudaStream_t s, void *dx, const void *dy, const uint8_t *choice, struct maps m, int k, int stride,
    int pad);
void gpu_avgpool(cudaStream_t s, void *y, const void *x, struct maps m, int k, int stride);
void gpu_avgpool_back(cudaStream_t s, void *dx, const void *dy, struct maps m, int k, int stride);
/* PyTorch's adaptive average pool to k x k: window o of a side is [o*side/k, ((o+1)*side + k-1)/k). k = 1: global. */
void gpu_adaptpool(cudaStream_t s, void *y, const void *x, struct maps m, int k);
void gpu_adaptpool_back(cudaStream_t s, void *dx, const void *dy, struct maps m, int k);
/* y = x * gate, gate (N,1,1,CP) of m's type; back: dx = dy*gate, dgate = sum over h,w of dy*x, either may be NULL. */
void gpu_mul(cudaStream_t s, void *y, const void *x, const void *gate, struct maps m);
void gpu_mul_back(cudaStream_t s, void *dx, void *dgate, const void *dy, const void *x, const void *gate, struct maps m);

struct gpu_drop { /* in device memory: RNG_DROP's seed and step; on 0: nothing is dropped */
	uint32_t seed, step;
	int on;
};
/* y = x without what is dropped, the rest / (1 - p). Dropout: value j of image i (NCHW order) is dropped where word j of the
 * generator at (step, i, node) is below p*2^32; whole: stochastic depth, image i where its uniform is below p. rng.h. */
void gpu_drop(cudaStream_t s, void *y, const void *x, const struct gpu_drop *d, float p, int node, bool whole,
    struct maps m);

/* loss.cu: lib/loss.h's losses. value (1) double, written; rows (n): scratch, each image's part of it; logits, dlogits (n,k)
 * float, dlogits may be NULL. */
void gpu_ce(cudaStream_t s, double *value, double *rows, float *dlogits, const float *logits, const int64_t *label, int n,
    int k);
/* lambda (1), partner (n): as loss_ce_mixed. */
void gpu_ce_mixed(cudaStream_t s, double *value, double *rows, float *dlogits, const float *logits, const int64_t *label,
    const int64_t *partner, const float *lambda, int n, int k);
void gpu_kl(cudaStream_t s, double *value, double *rows, float *dlogits, const float *logits, const float *target, int n,
    int k, double temperature, bool t2);
enum { GPU_TEACHERS = 64 };
struct gpu_members { /* (n,k) each */
	int64_t n; /* no int: it would leave a hole in what a launch copies */
	double weight; /* of the gradient; the value is without */
	const float *logits[GPU_TEACHERS];
	float *dlogits[GPU_TEACHERS]; /* all NULL: no gradient is wanted */
};
/* how: loss.h's enum ensemble. */
void gpu_ensemble(cudaStream_t s, double *value, double *rows, struct gpu_members t, const int64_t *label, int n, int k,
    int how);

/* match.cu: lib/match.h's objective, all layers of one network in two launches. */
struct gpu_match { /* one layer, in device memory */
	const double *sum, *sumsq; /* (n,c) about ref */
	const float *ref;          /* (c): about what, in the units of mean */
	const float *mean, *var;   /* (c) targets */
	const float *cmean, *cvar; /* (nclass,c), NULL with weight 0 */
	float *a, *b;              /* (n,cp) written, zeros beyond c */
	int c, cp;
	int64_t per;
	double multiplier;
};
/* value (nlayer): multiplier * (…) each. group (n): the first image of the same label; classes: how many differ. w, scale
 * as match_layer's. scratch: gpu_match_scratch() bytes. */
size_t gpu_match_scratch(int nlayer, int maxc, int n);
void gpu_match_layers(cudaStream_t s, double *value, const struct gpu_match *layer, int nlayer, int maxc,
    const int64_t *label, const int *group, const int *classes, int n, double w, double scale, void *scratch);

/* means.cu: features (rows,f) class by class. */
struct gpu_group { /* rows [first, first + n), or those that stand there in an order */
	int first, n;
};
/* mean, deviation (classes,f); deviation may be NULL. group (classes): of whole rows; one without rows is left as it was. */
void gpu_class_means(cudaStream_t s, float *mean, float *deviation, const float *x, const struct gpu_group *group,
    int classes, int f);
/* lib/match.h's match_features(): value (gpu_match_means_values()) sums to the loss; dx (rows,f) is written where a group has
 * its rows. order: rows by class. mu, sigma (classes,f); sigma NULL: deviations do not count. */
int gpu_match_means_values(int classes, int f);
void gpu_match_means(cudaStream_t s, double *value, float *dx, const float *x, const struct gpu_group *group,
    const int *order, const float *mu, const float *sigma, int classes, int f, double w, double scale);

/* optim.cu: lib/optim.h's steps over flat arenas. */
struct gpu_step { /* in device memory: what changes from step to step */
	double lr;
	double c1, c2; /* Adam: 1 - beta1^t, 1 - beta2^t */
	int first;     /* SGD: the first step of this buffer */
};
/* kind: enum optim_kind. The bytes of optim_step's one. *bad not 0: nothing is touched. bad, decay, lo and hi (both) may be
 * NULL; v is Adam's. */
struct gpu_optim {
	int kind;
	int nesterov; /* a flag; as an int it leaves no hole in what a launch copies */
	double momentum, beta1, beta2, eps, weight_decay;
	size_t n;
	float *theta, *m, *v;
	const float *grad;
	const unsigned char *decay;
	const float *lo, *hi;
	const struct gpu_step *step;
	const int *bad;
};
void gpu_optim_step(cudaStream_t s, struct gpu_optim o);
/* optim_average()'s bytes; bad as above. */
void gpu_average(cudaStream_t s, float *mean, const float *x, size_t n, double keep, const int *bad);
/* *bad |= mask where one of `count` floats, or of nvalue doubles, is not finite. */
void gpu_check(cudaStream_t s, int *bad, int mask, const float *x, size_t count, const double *value, int nvalue);

/* step.cu: what a graph that is launched again and again reads and writes at its own count. */
/* to = from[*at], records of `bytes`, a multiple of 4. */
void gpu_take(cudaStream_t s, void *to, const void *from, size_t bytes, const int *at);
/* loss[2 * *at] = *ce, loss[2 * *at + 1] = sum of bn[0..nbn) * share; then, unless *bad, ++*at. Once *bad, whose bit
 * GPU_NOTED says that this was the first such time, nothing is written any more. */
enum { GPU_NOTED = 1 << 30 };
void gpu_note(cudaStream_t s, double *loss, int *at, const double *ce, const double *bn, int nbn, double share,
    int *bad);

/* augment.cu, dsa.cu: lib/augment.h's views, (N,C,H,W) float. each: a draw for each image; else one for all of them. index (n): which
 * image of `in` stands at each place, NULL: its own. in and out differ. */
struct view;
struct dsa;
struct mix;
void gpu_view(cudaStream_t s, float *out, const float *in, const int64_t *index, const struct view *v, bool each, int n,
    int c, int h, int w);
void gpu_view_back(cudaStream_t s, float *din, const float *dout, const struct view *v, bool each, int n, int c, int h,
    int w); /* din = J^T dout, written */
/* scratch: n*3 floats. */
void gpu_dsa(cudaStream_t s, float *out, const float *in, const int64_t *index, const struct dsa *d, bool each, int n, int c,
    int h, int w, float *scratch);
void gpu_dsa_back(cudaStream_t s, float *din, const float *dout, const struct dsa *d, bool each, int n, int c, int h, int w,
    float *scratch);
/* out = each image mixed with in's image partner[i] by *m. */
void gpu_mix(cudaStream_t s, float *out, const float *in, const int64_t *partner, const struct mix *m, int n, int c, int h,
    int w);
/* out = (in/255 - mean[c])/sd[c] of images index (n) of in (…,C,H,W) u8. */
void gpu_pixels(cudaStream_t s, float *out, const uint8_t *in, const int64_t *index, const float *mean, const float *sd,
    int n, int c, int h, int w);

#ifdef __cplusplus
}
#endif
#endif
