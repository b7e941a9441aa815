/* The CUDA backend's own data: what it hangs at a plan and its stages. Shared by cuda_device.c (the device), cuda.c
 * (carrying calls out), cuda_setup.c (memory, weights) and cuda_solo.c (operations that run alone). All of it is linked
 * into teddy-cuda.so.
 *
 * Features are (N,H,W,CP), float or bfloat16 (kernels/gpu.h); a whole batch goes through a call at a time. A convolution's
 * bias is never added where a norm or an epilogue follows: x lies lower by it everywhere, and whatever x is compared with
 * lies lower as well.
 */
#ifndef CUDA_H
#define CUDA_H


#include "../kernels/gpu.h"
#include "cuda_dnn.h"
#include "engine.h"

enum { WAYS = 3 };
struct sized { /* what cuDNN and cuBLASLt prepared for so many images */
	int n;
	struct dnn_op *op[WAYS]; /* by enum dnn_way, NULL: not needed; shared with other plans */
};

struct exec {
	int c, cp, h, w;             /* features at the norm: channels, padded; their size */
	enum elem type;              /* of x; logits are float */
	/* The head. */
	struct dnn_shape shape;      /* of a convolution, n open */
	int fo, fi, fkk, fop, fip;   /* filters (fo,fi,fkk) as they are, (fop,fkk,fip) as they lie here */
	int spread;                  /* groups of a convolution that runs as a dense one, else 1 */
	void *filter;
	float *dfilter;              /* TRAIN, (fop,fkk,fip) */
	bool biased;                 /* x has its bias: nothing follows that would take it in */
	struct sized *sized;
	int nsized;
	/* The norm; (cp), or (n,cp) for an instance norm. */
	int64_t stride;              /* of these: 0, or cp */
	float *scale, *shift, *ref, *center, *gain, *a, *b;
	double *sum, *sumsq, *sdz, *sdzx; /* (n,c) */
	double *mean, *var;          /* (c) of the batch */
	float *ta, *tb;              /* SYNTH: (n,cp) the tap's coefficients */
	int *which[3];               /* concat, select: forward, and back to either input */
};

struct room { /* the device's memory that one thing owns; {0} is empty */
	void **block;
	int n;
};

struct cuda {
	long id;                     /* no other plan's of this process ever */
	cudaStream_t stream;
	enum elem type;
	float *theta, *buffer;       /* the weights that are in force: own ones, or a learner's on the device */
	float *own_theta, *own_buffer;
	void *dout;                  /* the gradient of the logits as features */
	float *images, *logits, *dlogits, *dimages, *dtheta; /* as the caller's arrays, made when first wanted */
	void *scratch;
	float *zero;                 /* as many as any stage has channels */
	struct gpu_drop *drop;
	bool matched;                /* SYNTH: ta, tb of every tap count in the next backward pass */
	struct room room;            /* all that it has */
};

/* The device itself, one a process. */
struct gpu {
	cudaStream_t stream;
	struct dnn *dnn;
	char name[256];
};
extern struct gpu gpu;
int cuda_open(char text[ERRLEN]); /* what it is; -1: what is missing */
/* After an error of CUDA there is no way to go on: the process ends with one line, whichever thread meets it first; or the
 * thread goes back to where its work was tried. */
__attribute__((format(printf, 1, 2))) _Noreturn void cuda_die(const char *fmt, ...);
int cuda_try(void (*work)(void *), void *context, char err[ERRLEN]); /* work(context); -1: it died, err has the line */
void cuda_check(cudaError_t e, const char *what);
_Noreturn void cuda_no_memory(size_t bytes); /* so many more there are not; says what would fit */
void *cuda_alloc(size_t bytes); /* zeroed; dies when there is no room */
void cuda_free(void *p);
bool cuda_spare(size_t bytes); /* whether a set of images may take so much: half of what is free */
/* To the device, from the host or the device itself, and to the host, on gpu's stream (which the default one does not wait
 * for): the host's arrays are the caller's again after cuda_wait(). what: said of an error that shows then. */
void cuda_send(void *to, const void *from, size_t bytes);
void cuda_fetch(void *to, const void *from, size_t bytes);
void cuda_wait(const char *what);
/* What no later call would tell: that a kernel could not be started. */
void cuda_launched(const char *what);
/* What work(context) puts on the stream, as a graph; other threads are kept out meanwhile. NULL: the device has no room for
 * it, something is no part of a graph, which is said, or TEDDY_GRAPHS=0; the work is then done call by call, to the same
 * bytes. */
cudaGraphExec_t cuda_record(cudaStream_t s, void (*work)(void *), void *context);
/* Around what a second thread puts on gpu's stream, so that it is no part of a graph. */
void cuda_enter(void);
void cuda_leave(void);
int cuda_afford(const struct plan *p, char err[ERRLEN]); /* -1: a workspace of the plan is more than there is */

void *cuda_room(struct room *r, size_t bytes); /* zeroed */
void *cuda_copy(struct room *r, const void *from, size_t bytes); /* cuda_send() into new room; NULL of NULL */
void cuda_empty(struct room *r); /* waits for what still runs */

/* Of convolution n of src's features, for any number of images: n is left open. cuda_shape.c */
struct dnn_shape cuda_conv_shape(const struct node *n, const struct node *src);
int cuda_compile(struct plan *p, char err[ERRLEN]);
void cuda_release(struct plan *p);
void cuda_load(struct plan *p, const struct weights *w);
/* What follows from the weights in force: filters, frozen norms. */
void cuda_prepare(struct plan *p);
/* Of so many images; makes what is missing, dies when it cannot. */
struct sized *cuda_sized(struct plan *p, const struct stage *s, int n);
/* The same for every stage: what a pass needs is there before one is captured. */
void cuda_size(struct plan *p, int n);

/* n images (n,C,H,W) and logits (n,K) on the device, on gpu's stream; nothing waits. */
void cuda_run_forward(struct plan *p, int n, const float *images, float *logits);
void cuda_run_backward(struct plan *p, int n, const float *dlogits, float *dimages, float *dtheta);

/* One of cu's arrays of that many floats for what comes from the caller or goes there; made when first wanted. */
float *cuda_stage(struct cuda *cu, float **at, size_t floats);

void cuda_solo_forward(struct plan *p, const struct stage *s, int n);
void cuda_solo_backward(struct plan *p, const struct stage *s, int n, const void *dy, void *din, void *dres);

static inline struct cuda *cuda_of(const struct plan *p)
{
	return p->be_data;
}

static inline int round8(int c)
{
	return (c + 7) / 8 * 8;
}

static inline size_t elem_bytes(enum elem t)
{
	return t == ELEM_F32 ? 4 : 2;
}

static inline struct maps maps_of(const struct plan *p, int node, int n)
{
	const struct node *v = &p->net->node[node];

	return (struct maps){ n, v->h, v->w, v->c, round8(v->c), cuda_of(p)->type };
}

static inline void *cuda_at(const struct plan *p, int buffer)
{
	const struct buffer *b = &p->buffer[buffer];

	return b->batch ? p->ws->batch + b->offset * p->opts.batch : p->ws->chunk[0] + b->offset * p->chunk;
}

/* Output of a stage: the images as features where the stage is the input. */
static inline void *cuda_value(const struct plan *p, int stage)
{
	return cuda_at(p, p->stage[stage].y);
}

#endif
