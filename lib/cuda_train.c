/* Training on the device: a learner's weights and moments lie there from its first step on, and a step moves them there. Of
 * a whole batch it is two graphs, between which the loss goes to the host.
 */
#include <math.h>
#include <stdlib.h>

#include "cuda_learner.h"
#include "cuda_train.h"

struct device_learner *cuda_learner_new(const struct net *net, const struct learner *l)
{
	static long learners;
	struct device_learner *d = ecalloc(1, sizeof *d);

	d->id = ++learners;
	d->ntheta = net->ntheta * sizeof(float), d->nbuffer = net->nbuffer * sizeof(float);
	d->theta = cuda_copy(&d->room, l->w.theta, d->ntheta);
	d->buffer = cuda_copy(&d->room, l->w.buffer, d->nbuffer);
	d->m = cuda_copy(&d->room, l->opt.m, d->ntheta);
	d->v = cuda_copy(&d->room, l->opt.v, d->ntheta);
	d->decay = cuda_copy(&d->room, l->decay, net->ntheta);
	d->ema = l->ema;
	d->mean_theta = cuda_copy(&d->room, l->mean.theta, d->ntheta);
	d->mean_buffer = cuda_copy(&d->room, l->mean.buffer, d->nbuffer);
	d->dtheta = cuda_room(&d->room, d->ntheta);
	d->momentum = cuda_room(&d->room, sizeof(float));
	d->step = cuda_room(&d->room, sizeof *d->step);
	d->bad = cuda_room(&d->room, sizeof *d->bad);
	cuda_check(cudaMallocHost((void **)&d->loss, sizeof *d->loss), "memory");
	cuda_check(cudaEventCreateWithFlags(&d->judged, cudaEventDisableTiming), "event");
	cuda_wait("the learner");
	return d;
}

static void forget_graphs(struct device_learner *d)
{
	if (d->ahead)
		cuda_check(cudaGraphExecDestroy(d->ahead), "graph");
	if (d->behind)
		cuda_check(cudaGraphExecDestroy(d->behind), "graph");
	d->ahead = d->behind = NULL;
	d->warm = false;
}

void cuda_learner_free(struct device_learner *d)
{
	cuda_wait("training");
	forget_graphs(d);
	cuda_empty(&d->room);
	cuda_check(cudaEventDestroy(d->judged), "event");
	cuda_check(cudaFreeHost(d->loss), "memory");
	free(d);
}

void cuda_learner_get(struct device_learner *d, struct learner *l)
{
	cuda_fetch(l->w.theta, d->theta, d->ntheta);
	cuda_fetch(l->w.buffer, d->buffer, d->nbuffer);
	if (d->ema) {
		cuda_fetch(l->mean.theta, d->mean_theta, d->ntheta);
		cuda_fetch(l->mean.buffer, d->mean_buffer, d->nbuffer);
	}
	cuda_fetch(l->opt.m, d->m, d->ntheta);
	if (l->opt.v)
		cuda_fetch(l->opt.v, d->v, d->ntheta);
	cuda_wait("the learner");
}

void cuda_learner_load(struct plan *p, struct device_learner *d)
{
	struct cuda *cu = cuda_of(p);

	cu->theta = d->theta, cu->buffer = d->buffer;
	cuda_prepare(p);
}

/* The batch's statistics are about the running mean as it was in this pass. */
static void move_statistics(struct plan *p, struct device_learner *d, int n, const int *bad)
{
	for (int i = 0; i < p->nstage; i++) {
		const struct stage *s = &p->stage[i];
		const struct exec *e = s->exec;
		if (s->tap < 0)
			continue;
		const struct node *v = &p->net->node[s->norm];
		float *mean = d->buffer + p->net->param[v->param[P_MEAN]].offset;
		float *var = d->buffer + p->net->param[v->param[P_VAR]].offset;
		gpu_bn_running(gpu.stream, mean, var, e->mean, e->var, mean, d->momentum, (int64_t)n * e->h * e->w, e->c,
		    bad);
	}
}

struct gpu_step cuda_learner_step(const struct optim *o, double t, double lr)
{
	return (struct gpu_step){ lr, 1 - pow(o->beta1, t), 1 - pow(o->beta2, t), t == 1 };
}

void cuda_learner_move(struct plan *p, struct device_learner *d, int n, const float *dlogits, const struct optim *o,
    const int *bad)
{
	cuda_run_backward(p, n, dlogits, NULL, d->dtheta);
	move_statistics(p, d, n, bad);
	gpu_optim_step(gpu.stream, (struct gpu_optim){ .kind = o->kind, .nesterov = o->nesterov, .momentum = o->momentum,
		.beta1 = o->beta1, .beta2 = o->beta2, .eps = o->eps, .weight_decay = o->weight_decay, .n = d->ntheta / sizeof(float),
		.theta = d->theta, .m = d->m, .v = d->v, .grad = d->dtheta, .decay = d->decay, .step = d->step, .bad = bad });
	if (d->ema) {
		gpu_average(gpu.stream, d->mean_theta, d->theta, d->ntheta / sizeof(float), d->ema, bad);
		gpu_average(gpu.stream, d->mean_buffer, d->buffer, d->nbuffer / sizeof(float), d->ema, bad);
	}
}

/* What the loss is computed from, for one plan's batches. */
static void answers_room(struct device_learner *d, const struct plan *p)
{
	size_t batch = p->opts.batch, logits = batch * p->net->nclass * sizeof(float);

	if (d->batch >= p->opts.batch)
		return;
	forget_graphs(d);
	d->batch = p->opts.batch;
	d->label = cuda_room(&d->room, batch * sizeof *d->label);
	d->partner = cuda_room(&d->room, batch * sizeof *d->partner);
	d->soft = cuda_room(&d->room, logits);
	d->logits = cuda_room(&d->room, logits);
	d->dlogits = cuda_room(&d->room, logits);
	d->rows = cuda_room(&d->room, batch * sizeof *d->rows);
	d->lambda = cuda_room(&d->room, sizeof *d->lambda);
	d->value = cuda_room(&d->room, sizeof *d->value);
}

static void put_target(struct device_learner *d, const struct target *t, int n, int k)
{
	switch (t->kind) {
	case TARGET_MIXED:
		cuda_send(d->partner, t->partner, n * sizeof *d->partner);
		cuda_send(d->lambda, &t->lambda, sizeof *d->lambda);
		/* FALLTHROUGH */
	case TARGET_LABELS:
		cuda_send(d->label, t->label, n * sizeof *d->label);
		break;
	case TARGET_SOFT:
		cuda_send(d->soft, t->soft, (size_t)n * k * sizeof *d->soft);
		break;
	}
}

static void judge(struct device_learner *d, const struct target *t, int n, int k)
{
	cudaStream_t s = gpu.stream;

	switch (t->kind) {
	case TARGET_LABELS:
		gpu_ce(s, d->value, d->rows, d->dlogits, d->logits, d->label, n, k);
		break;
	case TARGET_MIXED:
		gpu_ce_mixed(s, d->value, d->rows, d->dlogits, d->logits, d->label, d->partner, d->lambda, n, k);
		break;
	case TARGET_SOFT:
		gpu_kl(s, d->value, d->rows, d->dlogits, d->logits, d->soft, n, k, t->temperature, t->t2);
		break;
	}
	gpu_check(s, d->bad, 1, NULL, 0, d->value, 1);
}

bool cuda_same_figures(const struct optim *a, const struct optim *b)
{
	return a->kind == b->kind && a->momentum == b->momentum && a->nesterov == b->nesterov && a->beta1 == b->beta1 &&
	    a->beta2 == b->beta2 && a->eps == b->eps && a->weight_decay == b->weight_decay;
}

static bool same_key(const struct step_key *a, const struct step_key *b)
{
	return a->plan == b->plan && a->x == b->x && a->batch_at == b->batch_at && a->chunk_at == b->chunk_at &&
	    a->kind == b->kind && a->temperature == b->temperature && a->t2 == b->t2 && cuda_same_figures(&a->optim, &b->optim);
}

/* The two parts of a step of n images x, which are on the device like all else. */
static void ahead(struct plan *p, struct device_learner *d, int n, const float *x, const struct target *t)
{
	cuda_learner_load(p, d);
	cuda_run_forward(p, n, x, d->logits);
	judge(d, t, n, p->net->nclass);
}

static void behind(struct plan *p, struct device_learner *d, int n, const struct optim *o)
{
	cuda_learner_move(p, d, n, d->dlogits, o, d->bad);
}

struct step {
	struct plan *p;
	struct device_learner *d;
	int n;
	const float *x;
	const struct target *t;
	const struct optim *o;
};

static void ahead_of(void *step)
{
	const struct step *s = step;

	ahead(s->p, s->d, s->n, s->x, s->t);
}

static void behind_of(void *step)
{
	const struct step *s = step;

	behind(s->p, s->d, s->n, s->o);
}

static void record(struct plan *p, struct device_learner *d, int n, const float *x, const struct target *t,
    const struct optim *o)
{
	struct step step = { p, d, n, x, t, o };

	cuda_size(p, n);
	d->ahead = cuda_record(gpu.stream, ahead_of, &step);
	if (d->ahead)
		d->behind = cuda_record(gpu.stream, behind_of, &step);
	if (!d->behind) {
		forget_graphs(d);
		d->full = true;
	}
}

/* Whether this step's graphs are there; they are made at the second whole batch. */
static bool have_graphs(struct plan *p, struct device_learner *d, int n, const float *x, const struct target *t,
    const struct optim *o)
{
	const struct workspace *ws = p->ws;
	struct step_key key = { .plan = cuda_of(p)->id, .x = x, .batch_at = ws->batch, .chunk_at = ws->chunk[0],
		.kind = t->kind, .optim = *o };

	if (n < p->opts.batch)
		return false;
	if (t->kind == TARGET_SOFT)
		key.temperature = t->temperature, key.t2 = t->t2;
	if (!same_key(&key, &d->key))
		forget_graphs(d);
	d->key = key;
	if (d->warm && !d->ahead && !d->full)
		record(p, d, n, x, t, o);
	d->warm = true;
	return d->ahead;
}

/* Waits for the loss alone, with the rest of the step behind it, so that the device goes on while the host prepares the next
 * one. The caller's arrays are its own again: copies have been made of what is not pinned. */
double cuda_learn_step(struct plan *p, struct device_learner *d, int n, const float *images, const struct target *t,
    struct optim *o, double lr, double momentum)
{
	struct cuda *cu = cuda_of(p);
	const struct node *image = &p->net->node[0];
	size_t pixels = (size_t)image->c * image->h * image->w;
	struct gpu_step step = cuda_learner_step(o, o->step + 1.0, lr);
	struct gpu_drop drop = { p->drop_seed, p->drop_step, p->drops };
	float *x = cuda_stage(cu, &cu->images, p->opts.batch * pixels), m = momentum;
	bool graphs;

	answers_room(d, p);
	graphs = have_graphs(p, d, n, x, t, o);
	cuda_send(x, images, n * pixels * sizeof *x);
	cuda_send(cu->drop, &drop, sizeof drop);
	cuda_send(d->step, &step, sizeof step);
	cuda_send(d->momentum, &m, sizeof m);
	put_target(d, t, n, p->net->nclass);
	if (graphs)
		cuda_check(cudaGraphLaunch(d->ahead, gpu.stream), "graph");
	else
		ahead(p, d, n, x, t);
	cuda_fetch(d->loss, d->value, sizeof *d->loss);
	cuda_check(cudaEventRecord(d->judged, gpu.stream), "event");
	if (graphs)
		cuda_check(cudaGraphLaunch(d->behind, gpu.stream), "graph");
	else
		behind(p, d, n, o);
	cuda_launched("training");
	cuda_check(cudaEventSynchronize(d->judged), "training");
	o->step += isfinite(*d->loss);
	return *d->loss;
}
