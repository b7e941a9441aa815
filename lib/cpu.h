/* The CPU backend's own data: what it hangs at a plan and its stages. Shared by cpu.c (carrying calls out), cpu_head.c
 * (convolutions, linears), cpu_setup.c (primitives, weights, memory), cpu_solo.c (operations that run alone) and cpu_work.c
 * (what runs, and its cost). */
#ifndef CPU_H
#define CPU_H

#include <string.h>

#include "../kernels/bf16.h"
#include "../kernels/kernels.h"
#include "../kernels/sizes.h"
#include "conv.h"
#include "engine.h"

/* What a stage's head is made of. Prepared weights lie here, in the implementation's layout. */
struct head {
	struct conv_shape shape;
	int groups;                   /* of a grouped convolution that runs as a dense one, else 1 */
	/* Our kernels; else oneDNN. direct: strides, where it is faster, and what oneDNN has no fast code for. */
	bool depthwise, wino_fwd, wino_dgrad, image_fwd, image_dgrad, wino_wgrad, direct_fwd, direct_dgrad, own_wgrad;
	bool polyphase;               /* in all directions */
	bool bf16;                    /* Winograd's: fwd and dgrad hold halves */
	bool image_back, image_wgrad; /* with the norm behind the convolution: its dx is never written */
	bool image_raw;               /* image_back: with the epilogue too: nor is its dz */
	struct direct_shape direct;
	struct dnn_conv *dnn;         /* whatever our kernels leave over; NULL: nothing */
	float *fwd, *dgrad, *bias;    /* bias padded to 8, zeros where the node has none */
	float **dw;                   /* TRAIN: weight gradients, one a thread, in the implementation's layout */
	float **db;                   /* TRAIN: bias gradients */
	size_t ndw;
};

struct exec {
	struct head head;
	int c, cp, h, w;              /* features at the norm: channels, padded; their size */
	int step;                     /* images that head and epilogue take together */
	float *scale, *shift;         /* (cp) forward affine of the norm */
	float *gain, *a, *b;          /* (cp) backward: dx = gain*dz + a + b*(x - ref) */
	float *ref;                   /* (cp) zeros (instance norm) or the tap's */
	float *gamma, *beta;          /* (cp) */
	/* (cp) what backward sums are taken about: in training the batch's mean, since sums about a value far from it cancel
	 * (instance norms: the image's, see center_of()); else ref. */
	float *center;
	double *sdz, *sdzx;           /* TRAIN: (batch,c) sums of dz and dz*(x - ref) per image */
	double *mean, *var;           /* TRAIN: (c) of the batch, biased */
	double *isum, *isumsq;        /* instance norm: (batch,c) */
	int *from, *to[2];            /* concat, select: see cpu_solo.c */
	double spent[4];              /* seconds of the first thread, by enum what */
	double wgrad_spent;
};

struct cpu {
	const struct kernels *k;
	const struct bf16_kernels *bf16; /* NULL: everything in float */
	int nthread;                  /* that the per-thread arrays below are made for */
	float **coef;                 /* (4*cp) per thread: per-image affine coefficients */
	double **sum;                 /* (4*cp) per thread */
	float *zero;                  /* (4*cp) */
	size_t ncoef;
};

size_t cpu_floats(const struct node *n, enum layout l); /* of one image */
bool cpu_fast_bf16(void);
int cpu_chunk(const struct plan *p);
int cpu_compile(struct plan *p, char err[ERRLEN]);
void cpu_release(struct plan *p);
void cpu_load(struct plan *p, const struct weights *w);
void cpu_threads(struct plan *p, int nthread); /* per-thread arrays, remade when set_threads() asked for more since */

/* What runs and what that costs: cpu_work.c. */
const char *cpu_isa(const struct plan *p);
bool cpu_impl(const struct plan *p, int stage, enum part part, char out[IMPLLEN]);
struct work cpu_work(const struct plan *p, int stage, enum part part);

/* One pass over one chunk: who runs it, which images, and the caller's arrays. */
struct pass {
	struct plan *p;
	int tid, first; /* thread; first image of the chunk */
	bool fresh;     /* TRAIN: this thread's first chunk: gradients are written, not added */
	const float *images;
	float *logits;
	const float *dlogits;
	float *dimages;
};

/* Where image i (of the batch) of a buffer lies. */
static inline float *at(const struct pass *q, int buffer, int i)
{
	const struct plan *p = q->p;
	const struct buffer *b = &p->buffer[buffer];

	if (b->batch)
		return p->ws->batch + b->offset * p->opts.batch + b->floats * i;
	return p->ws->chunk[q->tid] + b->offset * p->chunk + b->floats * (i - q->first);
}

static inline float *scratch(const struct pass *q)
{
	return q->p->ws->scratch[q->tid];
}

/* Output of a stage, image i: the image itself where the stage is the input. */
static inline const float *value(const struct pass *q, int stage, int i)
{
	const struct stage *s = &q->p->stage[stage];

	if (s->y >= 0)
		return at(q, s->y, i);
	return q->images + (size_t)i * cpu_floats(&q->p->net->node[0], PLAIN);
}

/* Heads: cpu_head.c. Images [i0,i1) of the batch. dgrad: image by image where it leads to an image (or is done so), all at
 * once otherwise; each does nothing where the other does it. wgrad adds to this thread's sums, from 0 where fresh. */
void head_forward(const struct pass *q, const struct stage *s, int i0, int i1);
void head_dgrad(const struct pass *q, const struct stage *s, int i, float *gin);
void head_dgrad_all(const struct pass *q, const struct stage *s, int i0, int i1);
void head_wgrad(const struct pass *q, const struct stage *s, int i0, int i1);
/* A weight gradient as its implementation left it -> (O,I/groups,k,k). */
void put_weight_gradient(const struct head *h, const struct node *n, float *dw, size_t count);

/* The gradient in front of the norm, not carried out but described: for kernels that make it as they need it. whole: the
 * epilogue is undone on the way as well, else it lies in dz. dy: room for pointers. */
struct feature_grad describe_grad(const struct pass *q, const struct stage *s, int i, bool whole, const float **dy);

static inline void add_floats(float *out, const float *in, size_t n)
{
	for (size_t i = 0; i < n; i++)
		out[i] += in[i];
}

/* Operations that no stage fuses. din and dres (of the second input) are written, unless NULL. */
int solo_compile(const struct plan *p, const struct stage *s, struct exec *e, char err[ERRLEN]);
void solo_release(struct exec *e);
void solo_forward(const struct pass *q, const struct stage *s, int i0, int i1);
void solo_backward(const struct pass *q, const struct stage *s, const float *dy, float *din, float *dres, int i);

#endif
