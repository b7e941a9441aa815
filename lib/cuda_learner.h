/* A learner on the device: what cuda_train.c and cuda_course.c both move on. */
#ifndef CUDA_LEARNER_H
#define CUDA_LEARNER_H

#include "cuda.h"
#include "optim.h"

struct step_key { /* what a step's graphs have in them */
	long plan;
	const float *x, *batch_at, *chunk_at;
	int kind;
	double temperature;
	bool t2;
	struct optim optim;
};

struct device_learner {
	long id;                /* no other in this process ever has it */
	struct room room;       /* all below */
	size_t ntheta, nbuffer; /* bytes */
	float *theta, *buffer, *m, *v, *dtheta, *momentum;
	double ema;             /* 0: no averages: */
	float *mean_theta, *mean_buffer;
	unsigned char *decay;
	struct gpu_step *step;
	/* Of steps whose images come from outside: */
	int batch;              /* of so many images at most */
	int64_t *label, *partner;
	float *lambda, *soft, *logits, *dlogits;
	double *rows, *value;
	int *bad;               /* not 0: the loss was no number */
	double *loss;           /* the host's, pinned */
	cudaEvent_t judged;     /* when it is there */
	struct step_key key;    /* of whole batches, whose steps are two graphs, up to the loss and behind it: */
	cudaGraphExec_t ahead, behind;
	bool full;              /* there was no room for them */
	bool warm;              /* one such step has run: libraries have loaded what they need, which no capture bears */
};

/* Puts it in force for p's next pass. */
void cuda_learner_load(struct plan *p, struct device_learner *d);
/* After a forward pass of n images: gradients from dlogits, running statistics, the optimiser's step by *d->step, which does
 * nothing where *bad. */
void cuda_learner_move(struct plan *p, struct device_learner *d, int n, const float *dlogits, const struct optim *o,
    const int *bad);
/* The figures of an optimiser that a graph has in it. */
bool cuda_same_figures(const struct optim *a, const struct optim *b);
/* The figures of o's step t (from 1) at this rate. */
struct gpu_step cuda_learner_step(const struct optim *o, double t, double lr);

#endif
