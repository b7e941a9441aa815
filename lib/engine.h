/* Inside the engine: what plan.c decides and what a backend executes. Nothing outside lib/ includes this.
 *
 * The plan owns stages, buffers and calls; the backend owns what hangs at stage->exec and plan->be_data.
 */
#ifndef ENGINE_H
#define ENGINE_H

#include "plan.h"

/* A stage's parts are node indices, -1 where absent. solo: a node that runs alone (whatever is not named here). Otherwise
 * head, norm, add, relu, pool as present. */
struct stage {
	int solo, head, norm, add, relu, pool;
	int in, res, out;        /* nodes: input, residual or second input, the one whose output this stage gives */
	int in_stage, res_stage; /* the stages that produce them, -1: none */
	/* Buffers, -1: none. x: head's output (or the input's y, without a head); y: the stage's output; mask: ReLU's
	 * signs, one byte per 8 channels, or max-pool's choices; dz: gradient behind the norm; dx: before it; gin: for
	 * the input, gradient of the stage's input; gres: of its second (a residual's is dz). */
	int x, y, mask, dz, dx, gin, gres;
	int ndy, dy[8];          /* gradients of y, one a consumer; their sum counts */
	int tap;                 /* index into plan->tap, -1 */
	void *exec;
};

enum layout { BLOCKED /* (C/8, H, W, 8) zero-padded */, PLAIN /* (C, H, W) */ };

struct buffer { /* floats of one image; lives from call `first` to call `last` */
	size_t floats;
	int first, last;
	bool batch;    /* crosses a barrier: room for the whole batch; else for one chunk of each thread */
	size_t offset; /* in floats of one image: times the batch, or the chunk */
};

enum what { F_HEAD, F_EPILOGUE, B_EPILOGUE, B_HEAD };
struct call {
	enum what what;
	int stage, phase; /* between phases every chunk waits for all others */
};

/* The output's gradient as dgrad and wgrad want it: in front of the norm, written by undo; behind the norm, with the norm's
 * input; as the consumers left it, so that nothing is undone before. */
enum reads { READS_DX, READS_DZ, READS_DY };
struct work { /* of a part of a stage */
	int64_t madds;   /* of one image */
	int64_t weights; /* floats of them that are read or written */
	enum reads reads;
};

struct backend;
struct device_synth;
struct device_learner;
struct device_course;
struct device_replay;
struct recipe;
struct dataset;
struct learner;
struct optim;
struct target;
struct synth_opts;
struct view;
struct dsa;
struct teacher_ref;
struct unit;
struct synth_loss;
struct plan {
	const struct net *net;
	struct plan_opts opts;
	const struct backend *be;
	int nstage, nbuffer, ncall, nforward; /* calls [0, nforward) are the forward pass */
	struct stage *stage;
	struct buffer *buffer;
	struct call *call;
	int ntap;
	struct tap *tap;
	float **tap_ref;       /* (ntap)(C): storage behind tap->ref */
	int chunk;             /* images that one thread takes through a phase at a time */
	size_t batch_floats, chunk_floats; /* memory of a batch; of one chunk of one thread */
	size_t scratch_floats; /* of one thread, for a call */
	struct workspace *ws;
	void *be_data;
	bool ran;
	bool drops;            /* TRAIN: whether and by which draws dropout drops */
	uint32_t drop_seed, drop_step;
	const float *last_images; /* of the last forward pass: training reads them again */
};

struct workspace {
	const struct backend *be; /* of the first plan bound to it */
	float *batch;
	size_t batch_floats;
	float **chunk, **scratch; /* per thread */
	size_t chunk_floats, scratch_floats;
	int nthread;
};

/* One step of a course on a device: which images, in which view, and what goes with the step. The arrays of a call's steps
 * lie one behind the other: all of them but the last are whole batches. */
struct course_step {
	int n;
	const int64_t *image, *label; /* (n) */
	const struct view *view;      /* (n) */
	const struct dsa *dsa;        /* (n); NULL: none in the whole course */
	double lr;
	uint32_t drop_seed, drop_step;
};

/* The seam. A backend is this table; plan.c calls nothing else of it. */
struct backend {
	const char *name;
	bool host;                                             /* its memory is the processor's */
	void *(*alloc)(size_t bytes);                          /* zeroed; dies when there is none */
	void (*dealloc)(void *p);
	bool (*fast_bf16)(void);
	size_t (*floats)(const struct plan *p, const struct node *n, enum layout l); /* room of one image, in 4 bytes */
	int (*chunk)(const struct plan *p);
	int (*compile)(struct plan *p, char err[ERRLEN]);      /* after stages and buffers are fixed */
	void (*release)(struct plan *p);
	void (*load)(struct plan *p, const struct weights *w);
	void (*forward)(struct plan *p, int n, const float *images, float *logits);
	void (*backward)(struct plan *p, int n, const float *dlogits, float *dimages, float *dtheta);
	void (*update_running)(struct plan *p, int n, struct weights *w, double momentum);
	const char *(*isa)(const struct plan *p); /* the instruction set */
	/* Synthesis as synth.h has it, by the device itself; NULL, or a NULL from synth_new: by plans and the host. */
	struct device_synth *(*synth_new)(const struct synth_opts *o, const struct teacher_ref *t, int nteacher, int batch);
	void (*synth_free)(struct device_synth *s);
	int (*synth_run)(struct device_synth *s, struct unit *u, int k, struct synth_loss *loss, char err[ERRLEN]);
	size_t (*synth_bytes)(const struct device_synth *s);
	/* Training with a learner that stays on the device; NULL: by the functions above. learner_get: what it has become.
	 * learn_step: train_step()'s; counts o->step up, and moves running statistics on by momentum. */
	struct device_learner *(*learner_new)(const struct net *net, const struct learner *l);
	void (*learner_free)(struct device_learner *d);
	void (*learner_get)(struct device_learner *d, struct learner *l);
	double (*learn_step)(struct plan *p, struct device_learner *d, int n, const float *images, const struct target *t,
	    struct optim *o, double lr, double momentum);
	/* Whole steps on images that lie on the device as bytes, augmented, under the cross-entropy of their labels: a course
	 * of batches of p's size at most. NULL from course_new: the set is not in bytes, or there is no room for it. */
	struct device_course *(*course_new)(struct plan *p, const struct dataset *s);
	void (*course_free)(struct device_course *c);
	/* Steps in one call, and their losses; one that is not finite ends them. Returns how many were taken. */
	int (*course_run)(struct device_course *c, struct device_learner *d, struct optim *o, const struct course_step *step,
	    int steps, double momentum, double *loss);
	/* replay.h's, on the device; NULL from replay_new: the set is not whole in memory, or there is no room for it.
	 * Batches lie on the device, where forward passes take them as they take the host's. */
	struct device_replay *(*replay_new)(const struct dataset *images, int batch, int slots);
	void (*replay_free)(struct device_replay *r);
	const float *(*replay_run)(struct device_replay *r, const struct recipe *recipe, int slot);
	const float *(*replay_dsa)(struct device_replay *r, const int64_t *index, const struct dsa *d, int n, int slot);
	/* The forward passes of several plans over the same images. */
	void (*forward_all)(struct plan *const *p, int nplan, int n, const float *images, float *const *logits);
	/* What runs a part of a stage; false: nothing does. */
	bool (*impl)(const struct plan *p, int stage, enum part part, char out[IMPLLEN]);
	struct work (*work)(const struct plan *p, int stage, enum part part);
	void (*times)(const struct plan *p, int stage, double ms[PARTS]); /* spent so far, of one thread */
};
extern const struct backend backend_cpu;
const struct backend *plan_backend(void); /* which plans are made for from now on: device.c */

/* For whoever runs out of memory: how many workspaces there are and what they hold on a device, and of the plan that this
 * thread made or bound last its batch and about what one image takes. batch 0: there was none. */
struct plan_memory {
	int workspaces, batch;
	double held, image; /* bytes */
};
struct plan_memory plan_memory(void);

/* stage.c: from the net to stages, buffers, calls and their places; in this order, after p->chunk is known. */
int make_stages(struct plan *p, char err[ERRLEN]);
void make_buffers(struct plan *p);
void make_calls(struct plan *p);
void place_buffers(struct plan *p);
enum layout node_layout(const struct net *net, int node);
/* Whether the backward pass reads the stage's x: batch statistics, instance norm, or a tap's b coefficient. */
bool stage_keeps_x(const struct plan *p, const struct stage *s);
/* Whether the stage's input needs a gradient at all (TRAIN: not the image's side). */
bool stage_needs_gin(const struct plan *p, const struct stage *s);
/* What a solo's backward pass reads of the forward one. */
bool op_reads_input(enum op op);
bool op_reads_output(enum op op);
/* describe.c's, for plan_verbose(). */
void plan_made(const struct plan *p);
void plan_over(const struct plan *p);

#endif
