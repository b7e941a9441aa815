#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "times.h"

const char *const precision_name[] = { "fp32", "tf32", "bf16" };

static int threads;
static enum precision precision;
static _Atomic int workspaces;
static _Atomic size_t held;
static _Thread_local struct plan_memory asks;

struct plan_memory plan_memory(void)
{
	asks.workspaces = workspaces;
	asks.held = held;
	return asks;
}

static void ask(const struct plan *p)
{
	size_t image = p->be->floats(p, &p->net->node[0], PLAIN); /* in the backend's own form, its gradient too */

	asks.batch = p->opts.batch;
	asks.image = 4.0 * (p->batch_floats + p->chunk_floats + 2 * image);
}

void set_threads(int n)
{
	threads = n;
	omp_set_num_threads(n); /* for the loops that ask for no number */
}

void set_precision(enum precision p)
{
	precision = p;
}

enum precision get_precision(void)
{
	return precision;
}

int get_threads(void)
{
	return threads > 0 ? threads : MIN(omp_get_max_threads(), MAX_THREADS);
}

static struct stage *stage_with(struct plan *p, int node)
{
	for (int i = 0; i < p->nstage; i++)
		if (p->stage[i].norm == node || p->stage[i].head == node)
			return &p->stage[i];
	return NULL;
}

/* Training needs those of batch norms only. */
static void make_taps(struct plan *p)
{
	int *at = emalloc(p->net->nnode * sizeof *at), n = net_matched(p->net, at);

	p->tap = ecalloc(n + 1, sizeof *p->tap);
	p->tap_ref = ecalloc(n + 1, sizeof *p->tap_ref);
	for (int i = 0; i < n && (p->opts.purpose != PLAN_TRAIN || p->net->node[at[i]].op == OP_BN); i++) {
		const struct node *v = &p->net->node[at[i]];
		size_t nc = (size_t)p->opts.batch * v->c;
		struct tap *t = &p->tap[i];

		stage_with(p, at[i])->tap = p->ntap++;
		p->tap_ref[i] = ealigned((v->c + 7) / 8 * 8, sizeof(float));
		*t = (struct tap){ .node = at[i], .c = v->c, .per = (int64_t)v->h * v->w, .ref = p->tap_ref[i] };
		if (p->opts.taps || p->opts.purpose == PLAN_TRAIN) {
			t->sum = ealigned(nc, sizeof *t->sum);
			t->sumsq = ealigned(nc, sizeof *t->sumsq);
		}
		if (p->opts.purpose == PLAN_SYNTH) {
			t->a = ealigned(nc, sizeof *t->a);
			t->b = ealigned(nc, sizeof *t->b);
		}
	}
	free(at);
}

struct plan *plan_new(const struct net *net, struct plan_opts o, char err[ERRLEN])
{
	struct plan *p = ecalloc(1, sizeof *p);
	double bytes;

	p->net = net;
	p->opts = o;
	p->be = plan_backend();
	if (o.purpose == PLAN_SYNTH)
		p->opts.taps = true;
	if (make_stages(p, err) < 0)
		goto bad;
	make_taps(p);
	p->chunk = p->be->chunk(p);
	make_buffers(p);
	make_calls(p);
	place_buffers(p);
	bytes = 4.0 * (p->batch_floats * (double)o.batch + p->chunk_floats * (double)p->chunk * (p->be->host ? get_threads() : 1));
	if (bytes > 1e13) {
		fail(err, "%s with a batch of %d would need %.0f GB", net->arch, o.batch, bytes / 1e9);
		goto bad;
	}
	ask(p);
	if (p->be->compile(p, err) == 0) {
		plan_made(p);
		return p;
	}
bad:
	plan_free(p);
	return NULL;
}

static void count_times(const struct plan *p)
{
	double ms[PARTS];

	for (int i = 0; i < p->nstage; i++) {
		p->be->times(p, i, ms);
		for (int j = 0; j < PARTS; j++)
			times_add(j == PART_EPILOGUE || j == PART_UNDO ? TIME_MEMORY : TIME_ARITHMETIC, ms[j] / 1e3);
	}
}

void plan_free(struct plan *p)
{
	if (!p)
		return;
	if (p->ran)
		count_times(p);
	plan_over(p);
	p->be->release(p);
	for (int i = 0; i < p->ntap; i++) {
		free(p->tap[i].sum);
		free(p->tap[i].sumsq);
		free(p->tap[i].a);
		free(p->tap[i].b);
		free(p->tap_ref[i]);
	}
	free(p->tap);
	free(p->tap_ref);
	free(p->stage);
	free(p->buffer);
	free(p->call);
	free(p);
}

struct workspace *ws_new(void)
{
	workspaces++;
	return ecalloc(1, sizeof(struct workspace));
}

static float *take(const struct backend *be, size_t floats)
{
	float *p = floats ? be->alloc(floats * sizeof *p) : NULL;

	held += be->host ? 0 : floats * sizeof *p;
	return p;
}

static void give(const struct backend *be, float *p, size_t floats)
{
	be->dealloc(p);
	held -= be->host ? 0 : floats * sizeof *p;
}

/* As many arrays of at least so many floats each as there are threads, in place of those that there were. */
static float **take_each(struct workspace *w, float **each, size_t *floats, size_t want, int nthread)
{
	for (int i = 0; i < w->nthread; i++)
		give(w->be, each[i], *floats);
	*floats = MAX(want, *floats);
	each = erealloc(each, nthread, sizeof *each);
	for (int i = 0; i < nthread; i++)
		each[i] = take(w->be, *floats);
	return each;
}

static void ws_reserve(struct workspace *w, const struct backend *be, size_t batch, size_t chunk, size_t scratch,
    int nthread)
{
	w->be = be;
	if (batch > w->batch_floats) {
		give(be, w->batch, w->batch_floats);
		w->batch = take(be, batch);
		w->batch_floats = batch;
	}
	nthread = MAX(nthread, w->nthread);
	if (chunk > w->chunk_floats || nthread > w->nthread)
		w->chunk = take_each(w, w->chunk, &w->chunk_floats, chunk, nthread);
	if (scratch > w->scratch_floats || nthread > w->nthread)
		w->scratch = take_each(w, w->scratch, &w->scratch_floats, scratch, nthread);
	w->nthread = nthread;
}

void ws_free(struct workspace *w)
{
	if (!w)
		return;
	for (int i = 0; i < w->nthread; i++) {
		give(w->be, w->chunk[i], w->chunk_floats);
		give(w->be, w->scratch[i], w->scratch_floats);
	}
	free(w->chunk);
	free(w->scratch);
	if (w->be)
		give(w->be, w->batch, w->batch_floats);
	free(w);
	workspaces--;
}

size_t ws_bytes(const struct workspace *w)
{
	return 4 * (w->batch_floats + w->nthread * w->chunk_floats);
}

int plan_threads(const struct plan *p)
{
	return MIN(get_threads(), (p->opts.batch + p->chunk - 1) / p->chunk);
}

void plan_bind(struct plan *p, struct workspace *ws)
{
	ask(p);
	ws_reserve(ws, p->be, p->batch_floats * p->opts.batch, p->chunk_floats * p->chunk, p->scratch_floats,
	    p->be->host ? plan_threads(p) : 1);
	p->ws = ws;
}

void plan_load(struct plan *p, const struct weights *w)
{
	for (int i = 0; i < p->ntap; i++) {
		const struct node *n = &p->net->node[p->tap[i].node];
		if (n->op == OP_BN)
			memcpy(p->tap_ref[i], weights_param(p->net, w, n->param[P_MEAN]), n->c * sizeof(float));
	}
	p->be->load(p, w);
}

void plan_forward(struct plan *p, int n, const float *images, float *logits)
{
	if (p->be->host && plan_threads(p) > p->ws->nthread)
		plan_bind(p, p->ws);
	p->ran = true;
	p->be->forward(p, n, images, logits);
}

void plan_draws(struct plan *p, uint32_t seed, uint32_t step)
{
	p->drops = true;
	p->drop_seed = seed;
	p->drop_step = step;
}

void plan_backward(struct plan *p, int n, const float *dlogits, float *dimages, float *dtheta)
{
	p->be->backward(p, n, dlogits, dimages, dtheta);
}

void plan_update_running(struct plan *p, int n, struct weights *w, double momentum)
{
	p->be->update_running(p, n, w, momentum);
}

int plan_ntaps(const struct plan *p)
{
	return p->ntap;
}

struct tap *plan_tap(struct plan *p, int i)
{
	return &p->tap[i];
}
