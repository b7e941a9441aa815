/* Whole steps of training on the device: the set lies there as bytes; a step gathers its images, augments them, and moves
 * the learner on. A step of a whole batch is one graph, captured once for a learner, that reads its draws and its rate at
 * its own count from device memory.
 */
#include <stdlib.h>

#include "augment.h"
#include "cuda_course.h"
#include "cuda_learner.h"

struct draws { /* of so many steps, on the device; arrays are (steps,batch) */
	int64_t *image, *label;
	struct view *view;
	struct dsa *dsa;
	struct gpu_step *step;
	struct gpu_drop *drop;
	double *loss; /* (steps,2): as gpu_note() puts them */
};

struct device_course {
	struct room room; /* everything below */
	struct plan *plan;
	int c, h, w, batch;
	uint8_t *u8;
	float *mean, *std, *plain, *seen, *other, *means, *logits, *dlogits;
	double *ce, *rows;
	int *at, *bad;
	struct draws all, now; /* of a call; of the step that runs */
	bool dsa;
	struct device_learner *learner; /* that the graph moves on */
	long learner_id;
	struct optim optim;             /* by these figures */
	const float *batch_at, *chunk_at; /* in this memory, which the plan's workspace had then */
	cudaGraphExec_t graph;          /* NULL: none yet, or */
	bool full;                      /* no room for it */
	bool warm;                      /* a whole batch has run: libraries have loaded what they need, which no capture bears */
};

enum { ROOM = 64 }; /* steps of a call */

static struct draws draws_room(struct room *mem, size_t steps, size_t batch)
{
	size_t n = steps * batch;

	return (struct draws){ cuda_room(mem, n * sizeof(int64_t)), cuda_room(mem, n * sizeof(int64_t)),
		cuda_room(mem, n * sizeof(struct view)), cuda_room(mem, n * sizeof(struct dsa)),
		cuda_room(mem, steps * sizeof(struct gpu_step)), cuda_room(mem, steps * sizeof(struct gpu_drop)),
		cuda_room(mem, steps * 2 * sizeof(double)) };
}

struct device_course *cuda_course_new(struct plan *p, const struct dataset *s)
{
	size_t each = (size_t)s->chw[0] * s->chw[1] * s->chw[2], batch = p->opts.batch;
	struct device_course *c;

	if (!s->u8 || !cuda_spare(s->n * each))
		return NULL;
	c = ecalloc(1, sizeof *c);
	c->plan = p;
	c->c = s->chw[0], c->h = s->chw[1], c->w = s->chw[2];
	c->batch = batch;
	c->u8 = cuda_copy(&c->room, s->u8, s->n * each);
	c->mean = cuda_copy(&c->room, s->mean, c->c * sizeof(float));
	c->std = cuda_copy(&c->room, s->std, c->c * sizeof(float));
	cuda_wait("the images");
	float **image[] = { &c->plain, &c->seen, &c->other };
	for (size_t i = 0; i < LEN(image); i++)
		*image[i] = cuda_room(&c->room, batch * each * sizeof(float));
	c->means = cuda_room(&c->room, batch * 3 * sizeof(float));
	c->logits = cuda_room(&c->room, batch * p->net->nclass * sizeof(float));
	c->dlogits = cuda_room(&c->room, batch * p->net->nclass * sizeof(float));
	c->ce = cuda_room(&c->room, sizeof(double));
	c->rows = cuda_room(&c->room, batch * sizeof(double));
	c->at = cuda_room(&c->room, sizeof(int));
	c->bad = cuda_room(&c->room, sizeof(int));
	c->all = draws_room(&c->room, ROOM, batch);
	c->now = draws_room(&c->room, 1, batch);
	return c;
}

static void forget_graph(struct device_course *c)
{
	if (c->graph)
		cuda_check(cudaGraphExecDestroy(c->graph), "graph");
	c->graph = NULL;
	c->full = false;
}

void cuda_course_free(struct device_course *c)
{
	cuda_wait("training");
	forget_graph(c);
	cuda_empty(&c->room);
	free(c);
}

static void take_draws(struct device_course *c)
{
	cudaStream_t s = gpu.stream;
	size_t n = c->batch;

	gpu_take(s, c->now.image, c->all.image, n * sizeof *c->now.image, c->at);
	gpu_take(s, c->now.label, c->all.label, n * sizeof *c->now.label, c->at);
	gpu_take(s, c->now.view, c->all.view, n * sizeof *c->now.view, c->at);
	if (c->dsa)
		gpu_take(s, c->now.dsa, c->all.dsa, n * sizeof *c->now.dsa, c->at);
	gpu_take(s, c->learner->step, c->all.step, sizeof *c->all.step, c->at);
	gpu_take(s, cuda_of(c->plan)->drop, c->all.drop, sizeof *c->all.drop, c->at);
}

static void one_step(struct device_course *c, int n)
{
	cudaStream_t s = gpu.stream;
	const float *images = c->seen;

	take_draws(c);
	gpu_pixels(s, c->plain, c->u8, c->now.image, c->mean, c->std, n, c->c, c->h, c->w);
	gpu_view(s, c->seen, c->plain, NULL, c->now.view, true, n, c->c, c->h, c->w);
	if (c->dsa) {
		gpu_dsa(s, c->other, c->seen, NULL, c->now.dsa, true, n, c->c, c->h, c->w, c->means);
		images = c->other;
	}
	cuda_learner_load(c->plan, c->learner);
	cuda_run_forward(c->plan, n, images, c->logits);
	gpu_ce(s, c->ce, c->rows, c->dlogits, c->logits, c->now.label, n, c->plan->net->nclass);
	gpu_check(s, c->bad, 1, NULL, 0, c->ce, 1);
	cuda_learner_move(c->plan, c->learner, n, c->dlogits, &c->optim, c->bad);
	gpu_note(s, c->all.loss, c->at, c->ce, NULL, 0, 0, c->bad);
}

static void whole_step(void *course)
{
	struct device_course *c = course;

	one_step(c, c->batch);
}

static void record(struct device_course *c)
{
	c->graph = cuda_record(gpu.stream, whole_step, c);
	c->full = !c->graph;
}

static void put_draws(struct device_course *c, const struct course_step *step, int steps, const struct optim *o)
{
	struct gpu_step *rate = ecalloc(steps, sizeof *rate);
	struct gpu_drop *drop = ecalloc(steps, sizeof *drop);
	size_t n = (size_t)(steps - 1) * c->batch + step[steps - 1].n;
	int zero = 0;

	for (int i = 0; i < steps; i++) {
		rate[i] = cuda_learner_step(o, o->step + i + 1.0, step[i].lr);
		drop[i] = (struct gpu_drop){ step[i].drop_seed, step[i].drop_step, 1 };
	}
	cuda_send(c->all.image, step->image, n * sizeof *step->image);
	cuda_send(c->all.label, step->label, n * sizeof *step->label);
	cuda_send(c->all.view, step->view, n * sizeof *step->view);
	if (step->dsa)
		cuda_send(c->all.dsa, step->dsa, n * sizeof *step->dsa);
	cuda_send(c->all.step, rate, steps * sizeof *rate);
	cuda_send(c->all.drop, drop, steps * sizeof *drop);
	cuda_send(c->at, &zero, sizeof zero);
	cuda_send(c->bad, &zero, sizeof zero);
	cuda_wait("draws");
	free(rate), free(drop);
}

int cuda_course_run(struct device_course *c, struct device_learner *d, struct optim *o, const struct course_step *step,
    int steps, double momentum, double *loss)
{
	float m = momentum;
	double pairs[ROOM][2];
	int done, bad;

	steps = MIN(steps, ROOM);
	const struct workspace *ws = c->plan->ws;
	if (!c->learner || c->learner_id != d->id || !cuda_same_figures(&c->optim, o) || c->dsa != (step[0].dsa != NULL) ||
	    c->batch_at != ws->batch || c->chunk_at != ws->chunk[0])
		forget_graph(c);
	c->batch_at = ws->batch, c->chunk_at = ws->chunk[0];
	c->learner = d;
	c->learner_id = d->id;
	c->optim = *o;
	c->dsa = step[0].dsa;
	for (int t = 0; t < steps; t++)
		cuda_size(c->plan, step[t].n);
	cuda_send(d->momentum, &m, sizeof m);
	put_draws(c, step, steps, o);
	for (int i = 0; i < steps; i++) {
		if (step[i].n < c->batch || !c->warm) {
			one_step(c, step[i].n);
			c->warm = c->warm || step[i].n == c->batch;
			continue;
		}
		if (!c->graph && !c->full)
			record(c);
		if (c->graph)
			cuda_check(cudaGraphLaunch(c->graph, gpu.stream), "graph");
		else
			one_step(c, c->batch);
	}
	cuda_fetch(pairs, c->all.loss, steps * sizeof *pairs);
	cuda_fetch(&done, c->at, sizeof done);
	cuda_fetch(&bad, c->bad, sizeof bad);
	cuda_wait("training");
	for (int i = 0; i < steps && i <= done; i++)
		loss[i] = pairs[i][0];
	o->step += done;
	return done;
}
