/* Synthesis on the device: an iteration is one graph, captured once for a set of teachers, that reads its draws and rates
 * at its own count from device memory. After a call the host has the unit as well, so that what is computed here can be
 * stopped, stored and resumed anywhere; a call uploads it if it is another one, launches its graphs and waits once.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_features.h"
#include "cuda_graphs.h"
#include "cuda_synth.h"

/* Of the programs that open the backend only synth-step has these: weak, so that ld.so may look for all names at once. */
#pragma weak synth_matched
#pragma weak synth_pick
#pragma weak synth_draw

enum { LANES = 4 };

struct member { /* one teacher */
	struct plan *plan;         /* made when it is first drawn */
	struct gpu_match *layer;   /* (ntap) on the device; NULL without matching */
	int maxc;
	void *scratch;
};

struct device_synth {
	struct synth_opts o;
	const struct teacher_ref *teacher;
	int nteacher, batch, nclass;
	int flight, matched;       /* teachers at a time, and of them those that are matched, which come first */
	int nvalue;                /* doubles that one of them matches with: layers, or parts of classes */
	struct device_features *features; /* what they are matched by, and the prior; NULL: by statistics */
	int nown;                  /* classes of the unit, with features */
	int chw[3];
	struct member *member;     /* (nteacher) */
	struct workspace *ws[GPU_TEACHERS]; /* one a teacher in flight, like all arrays below that have one each */
	struct graphs graphs;
	struct room mem;           /* everything below */
	float *logits[GPU_TEACHERS], *dlogits[GPU_TEACHERS]; /* (batch,K), or as wide as features */
	double *bn;                /* (matched,nvalue) */
	double *ce, *rows;         /* (1), (batch) */
	float *x, *m, *v, *lo, *hi, *aug, *dx, *means; /* (batch,C,H,W); means: room for DSA's */
	float *daug[GPU_TEACHERS]; /* (batch,C,H,W) gradient of aug, one a teacher; the first: the sum */
	int lanes;                 /* teachers work side by side on so many streams, the first of which is the synth's own */
	cudaStream_t lane[LANES];
	cudaEvent_t event[LANES];
	int64_t *label;
	int *group, *classes, *at, *bad;
	int draws;                 /* of augmentation in an iteration: one, or one an image */
	struct view *view;         /* (draws) this iteration's, and its rates, */
	struct dsa *dsa;
	struct gpu_step *step;
	struct view *views;        /* and (room,draws) those of the iterations of a call */
	struct dsa *dsas;
	struct gpu_step *steps;
	double *loss;              /* (room,2) */
	int room;
	uint64_t unit;             /* whose copy lies here, by its u->there; 0: none that is whole */
	cudaStream_t stream;
};

static size_t pixels(const struct device_synth *s, int n)
{
	return (size_t)n * s->chw[0] * s->chw[1] * s->chw[2];
}

/* Smaller networks leave much of the device idle: the teachers of a subset go side by side. */
static void open_lanes(struct device_synth *s)
{
	char err[ERRLEN];
	cudaError_t got = dnn_lanes(gpu.dnn, s->lanes, err);

	s->lane[0] = s->stream;
	if (got == cudaErrorMemoryAllocation)
		cuda_no_memory(dnn_lacked(gpu.dnn));
	if (got)
		cuda_die("device cuda (%s): %s", gpu.name, err);
	for (int i = 0; i < s->lanes; i++) {
		if (i)
			cuda_check(cudaStreamCreateWithFlags(&s->lane[i], cudaStreamNonBlocking), "stream");
		cuda_check(cudaEventCreateWithFlags(&s->event[i], cudaEventDisableTiming), "event");
	}
}

/* What the memory below is for. -1: this cannot be done here; err is empty where the host can. */
static int open_teachers(struct device_synth *s, char err[ERRLEN])
{
	const struct synth_opts *o = &s->o;

	*err = '\0';
	s->matched = synth_matched(o, s->nteacher);
	s->flight = s->matched + MIN(o->predict, o->prior);
	if (s->flight > GPU_TEACHERS)
		return -1;
	s->lanes = MIN(s->flight, LANES);
	s->nclass = s->teacher[0].net->nclass;
	if (!o->fresh) {
		s->member = ecalloc(s->nteacher, sizeof *s->member);
		for (int i = 0; i < s->nteacher; i++)
			s->nvalue = MAX(s->nvalue, net_matched(s->teacher[i].net, NULL));
		return 0;
	}
	/* Statistics of fresh images are the host's. */
	s->features = o->features ? cuda_features_new(&s->o, s->teacher, s->nteacher, s->batch, s->lanes, err) : NULL;
	if (!s->features)
		return -1;
	s->nvalue = cuda_features_values(s->features);
	return 0;
}

struct device_synth *cuda_synth_new(const struct synth_opts *o, const struct teacher_ref *t, int nteacher, int batch)
{
	struct device_synth *s = ecalloc(1, sizeof *s);
	char err[ERRLEN];
	size_t width;

	*s = (struct device_synth){ .o = *o, .teacher = t, .nteacher = nteacher, .batch = batch, .stream = gpu.stream };
	if (open_teachers(s, err) < 0) {
		free(s);
		if (*err)
			die("%s", err);
		return NULL;
	}
	width = s->features ? cuda_features_width(s->features) : s->nclass;
	s->draws = o->per_class ? batch : 1;
	memcpy(s->chw, t[0].net->chw, sizeof s->chw);
	float **image[] = { &s->x, &s->m, &s->v, &s->lo, &s->hi, &s->aug, &s->dx };
	for (size_t i = 0; i < LEN(image); i++)
		*image[i] = cuda_room(&s->mem, pixels(s, batch) * sizeof(float));
	for (int i = 0; i < s->flight; i++) {
		s->ws[i] = s->features ? NULL : ws_new(); /* features have their own */
		s->logits[i] = cuda_room(&s->mem, batch * width * sizeof(float));
		s->dlogits[i] = cuda_room(&s->mem, batch * width * sizeof(float));
		s->daug[i] = cuda_room(&s->mem, pixels(s, batch) * sizeof(float));
	}
	s->means = cuda_room(&s->mem, (size_t)batch * 3 * sizeof(float));
	s->bn = cuda_room(&s->mem, (size_t)(s->matched * s->nvalue + 1) * sizeof(double));
	s->ce = cuda_room(&s->mem, sizeof(double));
	s->rows = cuda_room(&s->mem, batch * sizeof(double));
	s->label = cuda_room(&s->mem, batch * sizeof *s->label);
	s->group = cuda_room(&s->mem, batch * sizeof *s->group);
	s->classes = cuda_room(&s->mem, sizeof(int));
	s->at = cuda_room(&s->mem, sizeof(int));
	s->bad = cuda_room(&s->mem, sizeof(int));
	s->view = cuda_room(&s->mem, s->draws * sizeof *s->view);
	s->dsa = cuda_room(&s->mem, s->draws * sizeof *s->dsa);
	s->step = cuda_room(&s->mem, sizeof *s->step);
	open_lanes(s);
	return s;
}

static void free_room(struct device_synth *s)
{
	cuda_free(s->views), cuda_free(s->dsas), cuda_free(s->steps), cuda_free(s->loss);
}

void cuda_synth_free(struct device_synth *s)
{
	cuda_wait("synthesis");
	graphs_forget(&s->graphs);
	for (int i = 0; i < s->nteacher && s->member; i++)
		plan_free(s->member[i].plan);
	for (int i = 0; i < s->flight; i++)
		ws_free(s->ws[i]);
	cuda_features_free(s->features);
	for (int i = 0; i < s->lanes; i++) {
		if (i)
			cuda_check(cudaStreamDestroy(s->lane[i]), "stream");
		cuda_check(cudaEventDestroy(s->event[i]), "event");
	}
	cuda_empty(&s->mem);
	free_room(s);
	free(s->member), free(s);
}

size_t cuda_synth_bytes(const struct device_synth *s)
{
	size_t sum = s->features ? cuda_features_bytes(s->features) : 0;

	for (int i = 0; i < s->flight && !s->features; i++)
		sum += ws_bytes(s->ws[i]);
	return sum;
}

/* ---- teachers */

/* The targets of one teacher's layers, beside the taps that they are compared with. */
static void place_targets(struct device_synth *s, struct member *m, const struct layer_stats *stats)
{
	struct plan *p = m->plan;
	struct gpu_match *layer = ecalloc(p->ntap + 1, sizeof *layer);

	for (int i = 0; i < p->nstage; i++) {
		const struct stage *g = &p->stage[i];
		const struct exec *e = g->exec;
		if (g->tap < 0)
			continue;
		const struct layer_stats *l = &stats[g->tap];
		size_t all = e->c * sizeof(float), each = s->o.class_weight > 0 ? l->nclass * all : 0;
		layer[g->tap] = (struct gpu_match){ .sum = e->sum, .sumsq = e->sumsq, .a = e->ta, .b = e->tb, .c = e->c, .cp = e->cp,
			.ref = cuda_copy(&s->mem, p->tap_ref[g->tap], all), .mean = cuda_copy(&s->mem, l->mean, all),
			.var = cuda_copy(&s->mem, l->var, all), .per = p->tap[g->tap].per,
			.multiplier = g->tap ? 1 : s->o.first, .cmean = each ? cuda_copy(&s->mem, l->cmean, each) : NULL,
			.cvar = each ? cuda_copy(&s->mem, l->cvar, each) : NULL };
		m->maxc = MAX(m->maxc, e->c);
	}
	m->layer = cuda_copy(&s->mem, layer, (p->ntap + 1) * sizeof *layer);
	m->scratch = cuda_room(&s->mem, gpu_match_scratch(p->ntap, m->maxc, s->batch));
	cuda_wait("targets");
	free(layer);
}

/* Ready for n images in workspace `slot`. */
static int ready(struct device_synth *s, int who, int slot, int n, char err[ERRLEN])
{
	struct member *m = &s->member[who];
	const struct teacher_ref *t = &s->teacher[who];
	size_t before = ws_bytes(s->ws[slot]);

	if (!m->plan) {
		m->plan = plan_new(t->net, (struct plan_opts){ .purpose = PLAN_SYNTH, .batch = s->batch,
			.precision = s->o.precision }, err);
		if (!m->plan)
			return -1;
		plan_load(m->plan, t->w);
		if (s->o.alpha > 0 && who < s->nteacher - s->o.prior)
			place_targets(s, m, t->stats);
	}
	plan_bind(m->plan, s->ws[slot]);
	if (before != ws_bytes(s->ws[slot]))
		graphs_forget(&s->graphs);
	cuda_size(m->plan, n);
	return 0;
}

/* ---- one iteration */

static void augment(struct device_synth *s, int n)
{
	bool each = s->o.per_class;

	gpu_take(s->stream, s->step, s->steps, sizeof *s->step, s->at);
	if (s->o.dsa) {
		gpu_take(s->stream, s->dsa, s->dsas, s->draws * sizeof *s->dsa, s->at);
		gpu_dsa(s->stream, s->aug, s->x, NULL, s->dsa, each, n, s->chw[0], s->chw[1], s->chw[2], s->means);
	} else {
		gpu_take(s->stream, s->view, s->views, s->draws * sizeof *s->view, s->at);
		gpu_view(s->stream, s->aug, s->x, NULL, s->view, each, n, s->chw[0], s->chw[1], s->chw[2]);
	}
}

static void augment_back(struct device_synth *s, int n)
{
	if (s->o.dsa)
		gpu_dsa_back(s->stream, s->dx, s->daug[0], s->dsa, s->o.per_class, n, s->chw[0], s->chw[1], s->chw[2], s->means);
	else
		gpu_view_back(s->stream, s->dx, s->daug[0], s->view, s->o.per_class, n, s->chw[0], s->chw[1], s->chw[2]);
}

/* The lanes go on when the synth's own stream is here; and it goes on when they are. */
static void fork_lanes(struct device_synth *s, int lanes)
{
	cuda_check(cudaEventRecord(s->event[0], s->stream), "event");
	for (int i = 1; i < lanes; i++)
		cuda_check(cudaStreamWaitEvent(s->lane[i], s->event[0], 0), "event");
}

static void join_lanes(struct device_synth *s, int lanes)
{
	for (int i = 1; i < lanes; i++) {
		cuda_check(cudaEventRecord(s->event[i], s->lane[i]), "event");
		cuda_check(cudaStreamWaitEvent(s->stream, s->event[i], 0), "event");
	}
}

/* What is started from now on is started on that lane. */
static void take_lane(struct device_synth *s, int lane)
{
	char err[ERRLEN];

	if (dnn_use(gpu.dnn, lane, s->lane[lane], err) < 0)
		cuda_die("device cuda (%s): %s", gpu.name, err);
}

/* The plan of the teacher in flight i, in force on the lane that was taken. */
static struct plan *plan_at(struct device_synth *s, const int *pick, int i, cudaStream_t lane)
{
	struct plan *p;

	if (s->features)
		return cuda_features_take(s->features, i, lane);
	p = s->member[pick[i]].plan;
	p->ws = s->ws[i];
	cuda_of(p)->stream = lane;
	return p;
}

/* Teacher i against its statistics: the plan's taps get their slopes. */
static void match_statistics(struct device_synth *s, const struct member *m, int i, int n, double scale)
{
	gpu_match_layers(cuda_of(m->plan)->stream, s->bn + i * s->nvalue, m->layer, m->plan->ntap, m->maxc, s->label, s->group,
	    s->classes, n, s->o.class_weight, scale, m->scratch);
}

static void iterate(struct device_synth *s, const int *pick, int npick, int n)
{
	int matched = MIN(s->matched, npick), first = s->o.prior ? matched : 0; /* of those that predict */
	struct gpu_members all = { .n = s->features && !s->o.prior ? 0 : npick - first, .weight = s->o.ce };
	double share = s->o.alpha / (s->o.mean_bn ? matched : 1);
	int lanes = MIN(s->lanes, npick);
	struct plan *plan[GPU_TEACHERS];

	augment(s, n);
	cuda_check(cudaMemsetAsync(s->bn, 0, (size_t)matched * s->nvalue * sizeof *s->bn, s->stream), "memory");
	if (s->features)
		cuda_features_see(s->features, s->at);
	fork_lanes(s, lanes);
	for (int i = 0; i < npick; i++) {
		take_lane(s, i % lanes);
		plan[i] = plan_at(s, pick, i, s->lane[i % lanes]);
		cuda_run_forward(plan[i], n, s->aug, s->logits[i]);
		if (s->features && i < matched)
			cuda_features_match(s->features, i, s->logits[i], s->dlogits[i], s->bn + i * s->nvalue, share);
	}
	join_lanes(s, lanes);
	for (int i = 0; i < all.n; i++)
		all.logits[i] = s->logits[first + i], all.dlogits[i] = s->dlogits[first + i];
	if (all.n)
		gpu_ensemble(s->stream, s->ce, s->rows, all, s->label, n, s->nclass, s->o.ensemble);
	fork_lanes(s, lanes);
	for (int i = 0; i < npick; i++) {
		const struct member *m = s->features ? NULL : &s->member[pick[i]];
		take_lane(s, i % lanes);
		if (m && m->layer)
			match_statistics(s, m, i, n, share);
		cuda_of(plan[i])->matched = m && m->layer;
		cuda_run_backward(plan[i], n, s->dlogits[i], s->daug[i], NULL);
		cuda_of(plan[i])->stream = s->stream;
	}
	join_lanes(s, lanes);
	take_lane(s, 0);
	for (int i = 1; i < npick; i++)
		gpu_add(s->stream, s->daug[0], s->daug[i], pixels(s, n));
	augment_back(s, n);
	gpu_check(s->stream, s->bad, 1, NULL, 0, s->ce, 1);
	gpu_check(s->stream, s->bad, 1, NULL, 0, s->bn, matched * s->nvalue);
	gpu_check(s->stream, s->bad, 2, s->dx, pixels(s, n), NULL, 0);
	gpu_optim_step(s->stream, (struct gpu_optim){ .kind = s->o.opt, .momentum = s->o.momentum, .beta1 = s->o.beta1,
		.beta2 = s->o.beta2, .eps = 1e-8, .weight_decay = s->o.weight_decay, .n = pixels(s, n), .theta = s->x, .m = s->m,
		.v = s->v, .grad = s->dx,
		.lo = s->lo, .hi = s->hi, .step = s->step, .bad = s->bad });
	gpu_note(s->stream, s->loss, s->at, s->ce, s->bn, matched * s->nvalue, s->o.mean_bn ? 1.0 / matched : 1, s->bad);
}

struct recording {
	struct device_synth *s;
	const struct recorded *r;
};

static void iterate_recorded(void *recording)
{
	const struct recording *of = recording;

	iterate(of->s, of->r->pick, of->r->npick, of->r->n);
}

static void record(struct device_synth *s, struct recorded *r)
{
	r->graph = cuda_record(s->stream, iterate_recorded, &(struct recording){ s, r });
	s->graphs.full = !r->graph;
}

/* ---- a call */

static void make_room(struct device_synth *s, int k)
{
	int room = MAX(s->room, 64);

	while (room < k) /* twice as many, since graphs are made anew with it */
		room *= 2;
	if (room == s->room)
		return;
	graphs_forget(&s->graphs);
	free_room(s);
	s->room = room;
	s->views = cuda_alloc((size_t)room * s->draws * sizeof *s->views);
	s->dsas = cuda_alloc((size_t)room * s->draws * sizeof *s->dsas);
	s->steps = cuda_alloc(room * sizeof *s->steps);
	s->loss = cuda_alloc(room * 2 * sizeof *s->loss);
	if (s->features)
		cuda_features_room(s->features, room);
}

/* Draws and rates of the next k iterations. */
static int put_draws(struct device_synth *s, const struct unit *u, int k, char err[ERRLEN])
{
	struct schedule rate = { .kind = s->o.sched, .base = s->o.lr };
	size_t draws = (size_t)k * s->draws;
	struct view *view = ecalloc(draws, sizeof *view);
	struct dsa *dsa = ecalloc(draws, sizeof *dsa);
	struct gpu_step *step = ecalloc(k, sizeof *step);
	int rc = 0;

	for (int i = 0; i < k; i++) {
		int64_t t = u->opt.step + i;
		for (int j = 0; j < MIN(s->draws, u->n); j++)
			synth_draw(&s->o, s->chw, u, t, s->o.per_class ? u->label[j] : -1, &view[(size_t)i * s->draws + j],
			    &dsa[(size_t)i * s->draws + j]);
		step[i] = (struct gpu_step){ schedule_rate(&rate, t, u->total), 1 - pow(s->o.beta1, t + 1.0),
			1 - pow(s->o.beta2, t + 1.0), 0 };
	}
	cuda_send(s->views, view, draws * sizeof *view);
	cuda_send(s->dsas, dsa, draws * sizeof *dsa);
	cuda_send(s->steps, step, k * sizeof *step);
	if (s->features)
		rc = cuda_features_draws(s->features, u, k, view, dsa, s->draws, err);
	cuda_wait("draws");
	free(view), free(dsa), free(step);
	return rc;
}

static void put_unit(struct device_synth *s, const struct unit *u)
{
	size_t bytes = pixels(s, u->n) * sizeof(float);
	int *group = emalloc(u->n * sizeof *group), classes = 0;

	for (int i = 0; i < u->n; i++) {
		group[i] = i;
		for (int j = 0; j < i && group[i] == i; j++)
			if (u->label[j] == u->label[i])
				group[i] = j;
		classes += group[i] == i;
	}
	cuda_send(s->x, u->x, bytes), cuda_send(s->m, u->opt.m, bytes);
	if (u->opt.v)
		cuda_send(s->v, u->opt.v, bytes);
	cuda_send(s->lo, u->lo, bytes), cuda_send(s->hi, u->hi, bytes);
	cuda_send(s->label, u->label, u->n * sizeof *u->label);
	cuda_send(s->group, group, u->n * sizeof *group);
	cuda_send(s->classes, &classes, sizeof classes);
	if (s->features)
		s->nown = cuda_features_unit(s->features, u);
	cuda_wait("the unit");
	free(group);
}

/* The teachers of an iteration. Where features are matched, whoever was drawn is read from the device: always the same. */
static int pick_of(const struct device_synth *s, const struct unit *u, int64_t iteration, int pick[GPU_TEACHERS])
{
	int *drawn, npick;

	if (s->features) {
		for (int i = 0; i < s->flight; i++)
			pick[i] = i;
		return s->flight;
	}
	drawn = emalloc(s->nteacher * sizeof *drawn);
	npick = synth_pick(&s->o, s->nteacher, u, iteration, drawn);
	memcpy(pick, drawn, npick * sizeof *pick);
	free(drawn);
	return npick;
}

/* Whatever these need is made now, since nothing can be while a graph is captured. */
static int prepare(struct device_synth *s, const int *pick, int npick, int n, char err[ERRLEN])
{
	if (s->features) {
		if (cuda_features_ready(s->features, n))
			graphs_forget(&s->graphs);
		return 0;
	}
	for (int i = 0; i < npick; i++)
		if (ready(s, pick[i], i, n, err) < 0)
			return -1;
	return 0;
}

static int launch(struct device_synth *s, const struct unit *u, int64_t iteration, char err[ERRLEN])
{
	int pick[GPU_TEACHERS], npick = pick_of(s, u, iteration, pick);
	struct recorded *r = graphs_find(&s->graphs, pick, npick, u->n, s->nown);

	if (!r) { /* not captured the first time: libraries load what they need then, which a capture would not bear */
		if (prepare(s, pick, npick, u->n, err) < 0)
			return -1;
		graphs_remember(&s->graphs, pick, npick, u->n, s->nown);
		iterate(s, pick, npick, u->n);
		return 0;
	}
	if (!r->graph && !s->graphs.full)
		record(s, r);
	if (r->graph)
		cuda_check(cudaGraphLaunch(r->graph, s->stream), "graph");
	else
		iterate(s, pick, npick, u->n);
	return 0;
}

static int verdict(const struct unit *u, int bad, const struct synth_loss *l, char err[ERRLEN])
{
	if (!bad)
		return 0;
	if (bad & 1)
		return fail(err, "unit %lld, iteration %lld: the loss is not finite (cross-entropy %g, statistics %g)",
		    (long long)u->number, (long long)u->opt.step, l->ce, l->bn);
	return fail(err, "unit %lld, iteration %lld: the gradient is not finite", (long long)u->number, (long long)u->opt.step);
}

static int run(struct device_synth *s, struct unit *u, int k, struct synth_loss *loss, char err[ERRLEN])
{
	static uint64_t units; /* of all synths: a copy is told from any other */
	size_t bytes = pixels(s, u->n) * sizeof(float);
	uint64_t unit = u->there && u->there == s->unit ? s->unit : ++units;
	int done, bad, zero = 0;

	make_room(s, k);
	if (unit != s->unit)
		put_unit(s, u);
	s->unit = u->there = 0; /* until this has come to its end */
	cuda_send(s->at, &zero, sizeof zero);
	cuda_send(s->bad, &zero, sizeof zero);
	if (put_draws(s, u, k, err) < 0)
		return -1;
	for (int i = 0; i < k; i++)
		if (launch(s, u, u->opt.step + i, err) < 0)
			return -1;
	/* A device that is lost must not leave half of the unit behind. */
	cuda_wait("synthesis");
	cuda_fetch(u->x, s->x, bytes), cuda_fetch(u->opt.m, s->m, bytes);
	if (u->opt.v)
		cuda_fetch(u->opt.v, s->v, bytes);
	cuda_fetch(loss, s->loss, k * sizeof *loss);
	cuda_fetch(&done, s->at, sizeof done);
	cuda_fetch(&bad, s->bad, sizeof bad);
	cuda_wait("synthesis");
	u->opt.step += done;
	if (!bad)
		s->unit = u->there = unit;
	return verdict(u, bad, &loss[MIN(done, k - 1)], err);
}

struct attempt {
	struct device_synth *s;
	struct unit *u;
	int k, rc;
	struct synth_loss *loss;
	char *err;
};

static void attempt(void *of)
{
	struct attempt *a = of;

	a->rc = run(a->s, a->u, a->k, a->loss, a->err);
}

int cuda_synth_run(struct device_synth *s, struct unit *u, int k, struct synth_loss *loss, char err[ERRLEN])
{
	struct attempt a = { s, u, k, 0, loss, err };

	return cuda_try(attempt, &a, err) < 0 ? -1 : a.rc;
}
