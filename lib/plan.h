/* A plan binds a net to a backend, a largest batch and a purpose; it decides fusion, memory and the order of calls once.
 * Running it allocates nothing.
 *
 * The plan owns its prepared copy of the weights; the activations lie in a workspace, which the caller owns and may lend
 * to several plans in turn (a pool of teachers needs one workspace per teacher in flight, not per teacher).
 *
 * How nodes are fused: a *stage* is an optional head (convolution or linear) and an optional epilogue in this order:
 * norm, residual add, ReLU, pooling. Every net is a list of stages; a lone ReLU is a stage without head.
 */
#ifndef PLAN_H
#define PLAN_H

#include <stdbool.h>

#include "net.h"

enum purpose {
	PLAN_EVAL,  /* logits (and taps) with running statistics */
	PLAN_SYNTH, /* EVAL + gradients with respect to the images, statistics of every BN input and their gradient */
	PLAN_TRAIN, /* batch statistics, gradients of the parameters, running statistics updated */
};

/* What operands of convolutions and matrix products are rounded to; sums and everything between are float. tf32: on a GPU
 * only. bf16 on a GPU: feature maps too; on the CPU: 3x3 convolutions of stride 1 alone, and not in training. */
enum precision { PRECISION_FP32, PRECISION_TF32, PRECISION_BF16, PRECISIONS };
extern const char *const precision_name[PRECISIONS];
/* What the filters' --precision says, for whoever makes plans for them. */
void set_precision(enum precision p);
enum precision get_precision(void);

struct plan_opts {
	enum purpose purpose;
	int batch;     /* largest n of plan_forward */
	bool taps;     /* EVAL: collect statistics too (always on for SYNTH) */
	enum precision precision;
};

/* Activations and gradients of one pass, which ws_bytes() counts, and the threads' scratch. ws_new() is empty; it grows to
 * the largest plan bound to it. */
struct workspace;
struct workspace *ws_new(void);
void ws_free(struct workspace *w);
size_t ws_bytes(const struct workspace *w);

/* Statistics of one matched node (net_matched) over the images of the last forward pass. Sums are kept per image, so that
 * any grouping (all, by class, mixed) follows, and so that they do not depend on how the batch was split. */
struct tap {
	int node;
	int c;               /* channels */
	int64_t per;         /* H*W: values summed for each (image, channel) */
	const float *ref;    /* (C) the sums are about this: a batch norm's running mean, else 0 or, on a GPU, x's bias */
	double *sum, *sumsq; /* (n,C): sum of x - ref, of (x - ref)^2 */
	/* For the backward pass, set by the caller: dL/dx = … + a[n][c] + b[n][c]*(x - ref[c]). */
	float *a, *b;        /* (n,C), zero after plan_new */
};

struct plan;
/* NULL and err when a node has no implementation or memory's arithmetic overflows. The net is borrowed. */
struct plan *plan_new(const struct net *net, struct plan_opts o, char err[ERRLEN]);
void plan_free(struct plan *p);
/* Binds the workspace that the next passes use; grows it. */
void plan_bind(struct plan *p, struct workspace *ws);
/* Takes the weights over into the backend's layout (TRAIN: after every optimiser step). */
void plan_load(struct plan *p, const struct weights *w);

/* TRAIN: the draws that dropout and stochastic depth take in the passes that follow, RNG_DROP at (step, image of the batch,
 * node). A plan that was never told drops nothing. */
void plan_draws(struct plan *p, uint32_t seed, uint32_t step);

/* images (n,C,H,W) in the net's input normalisation -> logits (n,K); of net_features(), the last features. */
void plan_forward(struct plan *p, int n, const float *images, float *logits);
/* After plan_forward of the same n and workspace. dlogits (n,K); dimages (n,C,H,W): written, SYNTH only, may be NULL;
 * dtheta (ntheta): written, TRAIN only, may be NULL. */
void plan_backward(struct plan *p, int n, const float *dlogits, float *dimages, float *dtheta);
/* TRAIN: folds the last forward pass's batch statistics into running ones: (1-m)*old + m*new, new variance unbiased.
 * BN_MOMENTUM is PyTorch's; 1/k at the k-th pass makes them the average over passes. */
#define BN_MOMENTUM 0.1
void plan_update_running(struct plan *p, int n, struct weights *w, double momentum);

/* Whether the device has instructions for bfloat16; without, a plan computes the same more slowly than in float. */
bool plan_fast_bf16(void);

int plan_ntaps(const struct plan *p);
struct tap *plan_tap(struct plan *p, int i);

/* What a stage consists of, both ways: its head, the epilogue behind it and that one undone, the gradients of the head's
 * input and of its weights. A node that runs alone is its stage's forward and dgrad. */
enum part { PART_FORWARD, PART_EPILOGUE, PART_UNDO, PART_DGRAD, PART_WGRAD, PARTS };
extern const char *const plan_part_name[PARTS];
enum { IMPLLEN = 64 };
/* What runs a part of stage i: out, or NULL where nothing does and past the last stage. */
const char *plan_impl(const struct plan *p, int i, enum part part, char out[IMPLLEN]);
/* Of a pass of a whole batch, by shapes and chunks alone: multiply-adds as the implementation does them, those on padding
 * and borders too, and bytes that must be read and written: every array once, weights once a chunk. Zero where nothing
 * runs. */
struct cost {
	int64_t madds, bytes;
};
struct cost plan_cost(const struct plan *p, int i, enum part part);

/* From now on every plan writes what it does to standard error: when it is made, and with times when it is freed after
 * having run; performance(7) has the format. */
void plan_verbose(bool on);
void plan_describe(const struct plan *p); /* the same now, with times */

/* Threads that plans and kernels use (default: OpenMP's), at most MAX_THREADS. Training's bytes depend on how many they are
 * when its plan is made, which divides the batch for them, and when it runs; all others are the same for any number. */
enum { MAX_THREADS = 1024 };
void set_threads(int n);
int get_threads(void);
int plan_threads(const struct plan *p); /* that a plan on the host can use: at most one a chunk */

#endif
