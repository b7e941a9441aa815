/* The CUDA backend: carries out a plan's calls, a whole batch at a time, on one stream. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_course.h"
#include "cuda_replay.h"
#include "cuda_synth.h"
#include "cuda_train.h"
#include "../build/abi.h"
#include "device.h"

/* ---- forward */

static void *grad_out(struct plan *p, const struct stage *s)
{
	if (s->out == p->net->nnode - 1)
		return cuda_of(p)->dout;
	return cuda_at(p, s->dz >= 0 ? s->dz : s->dy[0]);
}

static struct maps maps_at(const struct exec *e, int n)
{
	return (struct maps){ n, e->h, e->w, e->c, e->cp, e->type };
}

static struct coef of(const struct exec *e, const float *v)
{
	return (struct coef){ v, e->stride };
}

static void run_op(struct plan *p, const struct stage *s, int n, enum dnn_way way, void *out, const void *a, const void *b)
{
	char err[ERRLEN];

	if (dnn_run(gpu.dnn, cuda_sized(p, s, n)->op[way], out, a, b, err) < 0)
		cuda_die("device cuda (%s): node %s: %s", gpu.name, p->net->node[s->head].name, err);
}

static bool is_instance(const struct plan *p, const struct stage *s)
{
	return s->norm >= 0 && p->net->node[s->norm].op == OP_IN;
}

static void f_head(struct plan *p, const struct stage *s, int n)
{
	struct cuda *cu = cuda_of(p);
	struct exec *e = s->exec;
	struct maps m = maps_at(e, n);
	void *x = cuda_at(p, s->x);

	if (s->head >= 0)
		run_op(p, s, n, DNN_FORWARD, x, cuda_value(p, s->in_stage), e->filter);
	if (e->biased)
		gpu_epilogue(cu->stream, x, NULL, x, NULL, of(e, e->scale), of(e, e->shift), m, false, false);
	/* An instance norm's are about 0, its own ref. */
	if ((s->tap >= 0 && (p->opts.taps || p->opts.purpose == PLAN_TRAIN)) || is_instance(p, s)) {
		bool bn = s->norm >= 0 && !is_instance(p, s);
		gpu_sums(cu->stream, e->sum, e->sumsq, x, bn ? e->ref : cu->zero, m, cu->scratch);
	}
}

static float *norm_param(const struct plan *p, const struct stage *s, enum role r)
{
	return cuda_of(p)->theta + p->net->param[p->net->node[s->norm].param[r]].offset;
}

static void f_epilogue(struct plan *p, const struct stage *s, int n)
{
	struct cuda *cu = cuda_of(p);
	struct exec *e = s->exec;
	int64_t per = (int64_t)e->h * e->w;

	if (s->y == s->x)
		return;
	if (is_instance(p, s))
		gpu_in_forward(cu->stream, e->scale, e->shift, e->center, e->sum, e->sumsq, norm_param(p, s, P_WEIGHT),
		    norm_param(p, s, P_BIAS), p->net->node[s->norm].eps, n, per, e->c);
	else if (s->norm >= 0 && p->opts.purpose == PLAN_TRAIN)
		gpu_bn_forward(cu->stream, e->mean, e->var, e->scale, e->shift, e->center, e->sum, e->sumsq, e->ref,
		    norm_param(p, s, P_WEIGHT), norm_param(p, s, P_BIAS), p->net->node[s->norm].eps, n, per, e->c);
	gpu_epilogue(cu->stream, cuda_at(p, s->y), s->mask >= 0 ? cuda_at(p, s->mask) : NULL, cuda_at(p, s->x),
	    s->res >= 0 ? cuda_value(p, s->res_stage) : NULL, of(e, e->scale), of(e, e->shift), maps_at(e, n), s->relu >= 0,
	    s->pool >= 0);
}

/* ---- backward */

/* Whether the norm's own sums over dz come first, so that dz must lie ready. */
static bool sums_first(const struct plan *p, const struct stage *s)
{
	return s->norm >= 0 && (p->opts.purpose == PLAN_TRAIN || is_instance(p, s));
}

static struct gradients gradients_of(struct plan *p, const struct stage *s)
{
	struct gradients g = { 0 };

	if (s->out == p->net->nnode - 1)
		g.dy[g.n++] = cuda_of(p)->dout;
	for (int i = 0; i < s->ndy; i++)
		g.dy[g.n++] = cuda_at(p, s->dy[i]);
	return g;
}

/* dx from the gradients g, which stand behind the norm. dz: wanted as well, or NULL. */
static void undo(struct plan *p, const struct stage *s, int n, struct gradients g, const uint8_t *mask, bool pool, void *dz)
{
	struct cuda *cu = cuda_of(p);
	struct exec *e = s->exec;
	struct coef gain = { 0 }, a = { 0 }, b = { 0 }, ref = { 0 };
	bool matched = cu->matched && e->ta;

	if (sums_first(p, s))
		gain = of(e, e->gain), a = of(e, e->a), b = of(e, e->b), ref = of(e, e->center);
	else {
		if (s->norm >= 0)
			gain = of(e, e->scale);
		if (matched)
			a = (struct coef){ e->ta, e->cp }, b = (struct coef){ e->tb, e->cp }, ref = (struct coef){ e->ref, 0 };
		if (matched && s->norm < 0)
			ref.v = cu->zero;
	}
	gpu_undo(cu->stream, cuda_at(p, s->dx), dz, g, mask, pool, gain, a, b, ref, cuda_at(p, s->x), maps_at(e, n));
}

static void b_epilogue(struct plan *p, const struct stage *s, int n)
{
	struct cuda *cu = cuda_of(p);
	struct exec *e = s->exec;
	struct coef none = { 0 };
	const uint8_t *mask = s->mask >= 0 && s->solo < 0 ? cuda_at(p, s->mask) : NULL;
	bool same = s->norm < 0 && s->tap < 0;

	if (s->dz < 0)
		return;
	if (s->solo >= 0) {
		gpu_undo(cu->stream, NULL, cuda_at(p, s->dz), gradients_of(p, s), NULL, false, none, none, none, none, NULL,
		    maps_of(p, s->out, n));
		return;
	}
	if (same || sums_first(p, s))
		gpu_undo(cu->stream, NULL, cuda_at(p, s->dz), gradients_of(p, s), mask, s->pool >= 0, none, none, none, none, NULL,
		    maps_at(e, n));
	else
		undo(p, s, n, gradients_of(p, s), mask, s->pool >= 0, s->dx != s->dz ? cuda_at(p, s->dz) : NULL);
	if (sums_first(p, s))
		gpu_sums_back(cu->stream, e->sdz, e->sdzx, cuda_at(p, s->dz), cuda_at(p, s->x), of(e, e->center), maps_at(e, n),
		    cu->scratch);
}

static float *gradient_at(const struct plan *p, float *dtheta, int node, enum role r)
{
	int i = p->net->node[node].param[r];

	return i < 0 || !dtheta ? NULL : dtheta + p->net->param[i].offset;
}

static void undo_norm(struct plan *p, const struct stage *s, int n, float *dtheta)
{
	struct cuda *cu = cuda_of(p);
	struct exec *e = s->exec;
	float eps = p->net->node[s->norm].eps, *dgamma = gradient_at(p, dtheta, s->norm, P_WEIGHT);
	float *dbeta = gradient_at(p, dtheta, s->norm, P_BIAS);
	int64_t per = (int64_t)e->h * e->w;
	bool matched = cu->matched && e->ta;

	if (is_instance(p, s))
		gpu_in_backward(cu->stream, e->gain, e->a, e->b, dgamma, dbeta, e->sdz, e->sdzx, e->sum, e->sumsq, e->center,
		    norm_param(p, s, P_WEIGHT), eps, matched ? e->ta : NULL, matched ? e->tb : NULL, n, per, e->c);
	else
		gpu_bn_backward(cu->stream, e->gain, e->a, e->b, dgamma, dbeta, e->sdz, e->sdzx, e->var, norm_param(p, s, P_WEIGHT),
		    eps, n, per, e->c);
	undo(p, s, n, (struct gradients){ 1, { cuda_at(p, s->dz) } }, NULL, false, NULL);
}

/* dx has a mean of 0 in front of a norm, so that a bias there has no gradient. */
static void head_gradients(struct plan *p, const struct stage *s, int n, const void *dy, float *dtheta)
{
	struct cuda *cu = cuda_of(p);
	struct exec *e = s->exec;
	float *dw = gradient_at(p, dtheta, s->head, P_WEIGHT), *db = gradient_at(p, dtheta, s->head, P_BIAS);
	struct maps m = maps_at(e, n);

	m.type = cu->type;
	run_op(p, s, n, DNN_WGRAD, e->dfilter, dy, cuda_value(p, s->in_stage));
	gpu_filters_back(cu->stream, dw, e->dfilter, e->fo, e->fi, e->fkk, e->fop, e->fip, e->spread);
	if (db && s->norm >= 0)
		cuda_check(cudaMemsetAsync(db, 0, e->c * sizeof *db, cu->stream), "gradients");
	else if (db)
		gpu_channel_sums(cu->stream, db, dy, m, cu->scratch);
}

static void b_head(struct plan *p, const struct stage *s, int n, float *dtheta)
{
	void *gin = s->gin >= 0 ? cuda_at(p, s->gin) : NULL;

	if (s->solo >= 0) {
		void *gres = s->gres >= 0 ? cuda_at(p, s->gres) : NULL;
		if (gin || gres)
			cuda_solo_backward(p, s, n, grad_out(p, s), gin, gres);
		return;
	}
	if (sums_first(p, s))
		undo_norm(p, s, n, dtheta);
	if (s->head < 0)
		return;
	const void *dy = s->dx >= 0 ? cuda_at(p, s->dx) : grad_out(p, s);
	if (gin)
		run_op(p, s, n, DNN_DGRAD, gin, dy, ((struct exec *)s->exec)->filter);
	if (dtheta)
		head_gradients(p, s, n, dy, dtheta);
}

/* ---- a pass */

static struct maps image_maps(const struct plan *p, int n)
{
	return maps_of(p, 0, n);
}

static struct maps logit_maps(const struct plan *p, int n)
{
	return maps_of(p, p->net->nnode - 1, n);
}

void cuda_run_forward(struct plan *p, int n, const float *images, float *logits)
{
	struct cuda *cu = cuda_of(p);
	struct maps out = logit_maps(p, n);
	const struct stage *last = &p->stage[p->nstage - 1];

	gpu_from_nchw(cu->stream, cuda_value(p, 0), images, image_maps(p, n));
	for (int i = 0; i < p->nforward; i++) {
		const struct stage *s = &p->stage[p->call[i].stage];
		if (s->solo >= 0 && p->call[i].what == F_EPILOGUE)
			cuda_solo_forward(p, s, n);
		else if (s->solo < 0 && p->call[i].what == F_HEAD)
			f_head(p, s, n);
		else if (s->solo < 0)
			f_epilogue(p, s, n);
	}
	if (last->solo < 0)
		out.type = ((struct exec *)last->exec)->type;
	gpu_to_nchw(cu->stream, logits, cuda_value(p, p->nstage - 1), out);
}

void cuda_run_backward(struct plan *p, int n, const float *dlogits, float *dimages, float *dtheta)
{
	struct cuda *cu = cuda_of(p);

	gpu_from_nchw(cu->stream, cu->dout, dlogits, logit_maps(p, n));
	for (int i = p->nforward; i < p->ncall; i++) {
		const struct stage *s = &p->stage[p->call[i].stage];
		if (p->call[i].what == B_EPILOGUE)
			b_epilogue(p, s, n);
		else
			b_head(p, s, n, dtheta);
	}
	for (int i = 1; i < p->nstage && dimages; i++)
		if (p->stage[i].in_stage == 0)
			gpu_to_nchw(cu->stream, dimages, cuda_at(p, p->stage[i].gin), image_maps(p, n));
}

/* ---- the caller's arrays, which are the host's */

float *cuda_stage(struct cuda *cu, float **at, size_t floats)
{
	if (!*at)
		*at = cuda_room(&cu->room, floats * sizeof **at);
	return *at;
}

static void cuda_forward(struct plan *p, int n, const float *images, float *logits)
{
	struct cuda *cu = cuda_of(p);
	const struct node *image = &p->net->node[0];
	size_t pixels = (size_t)image->c * image->h * image->w, batch = p->opts.batch;
	float *x = cuda_stage(cu, &cu->images, batch * pixels), *y = cuda_stage(cu, &cu->logits, batch * p->net->nclass);
	struct gpu_drop drop = { p->drop_seed, p->drop_step, p->drops };

	cuda_send(x, images, n * pixels * sizeof *x);
	cuda_send(cu->drop, &drop, sizeof drop);
	cuda_run_forward(p, n, x, y);
	cuda_fetch(logits, y, (size_t)n * p->net->nclass * sizeof *y);
	for (int i = 0; i < p->nstage && p->opts.taps; i++) {
		const struct stage *s = &p->stage[i];
		const struct exec *e = s->exec;
		if (s->tap < 0)
			continue;
		cuda_fetch(p->tap[s->tap].sum, e->sum, (size_t)n * e->c * sizeof *e->sum);
		cuda_fetch(p->tap[s->tap].sumsq, e->sumsq, (size_t)n * e->c * sizeof *e->sumsq);
	}
	cuda_wait("forward pass");
}

static void cuda_forward_all(struct plan *const *p, int nplan, int n, const float *images, float *const *logits)
{
	struct cuda *cu = cuda_of(p[0]);
	const struct node *image = &p[0]->net->node[0];
	size_t pixels = (size_t)image->c * image->h * image->w;
	float *x = cuda_stage(cu, &cu->images, p[0]->opts.batch * pixels);

	cuda_send(x, images, n * pixels * sizeof *x);
	for (int i = 0; i < nplan; i++) {
		struct cuda *each = cuda_of(p[i]);
		size_t k = p[i]->net->nclass;
		cuda_run_forward(p[i], n, x, cuda_stage(each, &each->logits, p[i]->opts.batch * k));
	}
	/* Apart: a copy to memory that is not pinned waits for what is queued before it. */
	for (int i = 0; i < nplan; i++)
		cuda_fetch(logits[i], cuda_of(p[i])->logits, n * p[i]->net->nclass * sizeof(float));
	cuda_wait("forward passes");
}

static void put_taps(struct plan *p, int n)
{
	struct cuda *cu = cuda_of(p);

	for (int i = 0; i < p->nstage; i++) {
		const struct stage *s = &p->stage[i];
		const struct exec *e = s->exec;
		size_t row = e && s->tap >= 0 ? e->c * sizeof(float) : 0;
		if (!row || !e->ta)
			continue;
		cuda_check(cudaMemcpy2DAsync(e->ta, e->cp * sizeof(float), p->tap[s->tap].a, row, row, n, cudaMemcpyHostToDevice,
		    cu->stream), "copy");
		cuda_check(cudaMemcpy2DAsync(e->tb, e->cp * sizeof(float), p->tap[s->tap].b, row, row, n, cudaMemcpyHostToDevice,
		    cu->stream), "copy");
		cu->matched = true;
	}
}

static void cuda_backward(struct plan *p, int n, const float *dlogits, float *dimages, float *dtheta)
{
	struct cuda *cu = cuda_of(p);
	const struct node *image = &p->net->node[0];
	size_t pixels = (size_t)image->c * image->h * image->w, batch = p->opts.batch;
	size_t k = p->net->nclass;
	float *dy = cuda_stage(cu, &cu->dlogits, batch * k), *dx = NULL, *dt = NULL;

	cuda_send(dy, dlogits, n * k * sizeof *dy);
	if (dimages)
		dx = cuda_stage(cu, &cu->dimages, batch * pixels);
	if (dtheta)
		dt = cuda_stage(cu, &cu->dtheta, p->net->ntheta);
	if (p->opts.purpose == PLAN_SYNTH)
		put_taps(p, n);
	cuda_run_backward(p, n, dy, dx, dt);
	if (dx)
		cuda_fetch(dimages, dx, n * pixels * sizeof *dx);
	if (dt)
		cuda_fetch(dtheta, dt, p->net->ntheta * sizeof *dt);
	cuda_wait("backward pass");
}

static void cuda_update_running(struct plan *p, int n, struct weights *w, double momentum)
{
	double *mean = NULL;

	for (int i = 0; i < p->nstage; i++) {
		const struct stage *s = &p->stage[i];
		const struct exec *e = s->exec;
		if (s->tap < 0)
			continue;
		const struct node *v = &p->net->node[s->norm];
		float *rm = weights_param(p->net, w, v->param[P_MEAN]), *rv = weights_param(p->net, w, v->param[P_VAR]);
		const float *ref = p->tap_ref[s->tap];
		double m = (double)n * e->h * e->w;
		mean = erealloc(mean, 2 * e->c, sizeof *mean);
		cuda_fetch(mean, e->mean, e->c * sizeof *mean);
		cuda_fetch(mean + e->c, e->var, e->c * sizeof *mean);
		cuda_wait("statistics");
		for (int c = 0; c < e->c; c++) {
			rm[c] += momentum * (mean[c] + ref[c] - rm[c]);
			rv[c] += momentum * (mean[e->c + c] * (m > 1 ? m / (m - 1) : 1) - rv[c]);
		}
	}
	free(mean);
}

/* ---- the table */

static size_t cuda_floats(const struct plan *p, const struct node *n, enum layout l)
{
	size_t values = (size_t)round8(n->c) * n->h * n->w;
	bool wide = p->opts.precision != PRECISION_BF16 || n == &p->net->node[p->net->nnode - 1];

	(void)l;
	return wide ? values : (values + 1) / 2;
}

/* Everything at once. */
static int cuda_chunk(const struct plan *p)
{
	return p->opts.batch;
}

static int compile(struct plan *p, char err[ERRLEN])
{
	static long plans;
	struct cuda *cu = p->be_data = ecalloc(1, sizeof *cu);

	cu->id = ++plans;
	cu->type = p->opts.precision == PRECISION_BF16 ? ELEM_BF16 : ELEM_F32;
	return cuda_compile(p, err);
}

static const char *cuda_isa(const struct plan *p)
{
	(void)p;
	return gpu.name;
}

static bool cuda_impl(const struct plan *p, int i, enum part part, char out[IMPLLEN])
{
	static const enum dnn_way way[PARTS] = { [PART_DGRAD] = DNN_DGRAD, [PART_WGRAD] = DNN_WGRAD };
	const struct stage *s = &p->stage[i];
	const struct exec *e = s->exec;
	bool back = p->opts.purpose != PLAN_EVAL, side = part == PART_EPILOGUE || part == PART_UNDO;

	if (s->in < 0 || (part >= PART_UNDO && !back))
		return false;
	if (side && s->solo >= 0)
		return part == PART_UNDO && s->dz >= 0 && snprintf(out, IMPLLEN, "cuda:undo") > 0;
	if (side)
		return (part == PART_EPILOGUE ? s->y != s->x : s->dz >= 0) &&
		    snprintf(out, IMPLLEN, "cuda:%s", part == PART_EPILOGUE ? "epilogue" : "undo") > 0;
	if (s->solo >= 0)
		return (part == PART_FORWARD || (part == PART_DGRAD && (stage_needs_gin(p, s) || s->gres >= 0))) &&
		    snprintf(out, IMPLLEN, "cuda:%s", op_name[p->net->node[s->solo].op]) > 0;
	if (s->head < 0 || !e->sized || !e->sized[0].op[way[part]])
		return false;
	snprintf(out, IMPLLEN, "%s", dnn_op_engine(e->sized[0].op[way[part]]));
	return true;
}

static struct work cuda_work(const struct plan *p, int i, enum part part)
{
	const struct stage *s = &p->stage[i];
	const struct exec *e = s->exec;
	const struct node *n = s->head < 0 ? NULL : &p->net->node[s->head];

	if (!n || part == PART_EPILOGUE || part == PART_UNDO)
		return (struct work){ 0 };
	int64_t weights = (int64_t)e->fop * e->fkk * e->fip;
	return (struct work){ weights * n->h * n->w, weights, READS_DX };
}

/* Times are the benchmark's to take: measuring here would make the processor wait. */
static void cuda_times(const struct plan *p, int stage, double ms[PARTS])
{
	(void)p, (void)stage;
	memset(ms, 0, PARTS * sizeof *ms);
}

static bool cuda_fast_bf16(void)
{
	return true;
}

static const struct backend backend_cuda = {
	.name = "cuda",
	.host = false,
	.alloc = cuda_alloc,
	.dealloc = cuda_free,
	.fast_bf16 = cuda_fast_bf16,
	.floats = cuda_floats,
	.chunk = cuda_chunk,
	.compile = compile,
	.release = cuda_release,
	.load = cuda_load,
	.forward = cuda_forward,
	.backward = cuda_backward,
	.update_running = cuda_update_running,
	.synth_new = cuda_synth_new,
	.synth_free = cuda_synth_free,
	.synth_run = cuda_synth_run,
	.synth_bytes = cuda_synth_bytes,
	.learner_new = cuda_learner_new,
	.learner_free = cuda_learner_free,
	.learner_get = cuda_learner_get,
	.learn_step = cuda_learn_step,
	.course_new = cuda_course_new,
	.course_free = cuda_course_free,
	.course_run = cuda_course_run,
	.replay_new = cuda_replay_new,
	.replay_free = cuda_replay_free,
	.replay_run = cuda_replay_run,
	.replay_dsa = cuda_replay_dsa,
	.forward_all = cuda_forward_all,
	.isa = cuda_isa,
	.impl = cuda_impl,
	.work = cuda_work,
	.times = cuda_times,
};

__attribute__((visibility("default"))) const struct device teddy_device = { DEVICE_ABI, &backend_cuda, cuda_open };
