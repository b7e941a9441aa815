/* The CPU backend's preparation: which implementation runs each stage, its memory, its copy of the weights. */
#include <math.h>
#include <stdlib.h>

#include "cpu.h"
#include "device.h"

enum { LEAST_CHUNK = 8 }; /* images: with chunks of 8 one thread's step of ResNet-18 takes 6 % longer than with 25 */

static const char *isa_name;
static bool want_amx;

/* amx is avx512 with bf16's products by AMX. */
int set_isa(const char *name, char err[ERRLEN])
{
	bool amx = !strcmp(name, "amx");

	if (amx ? !bf16_named(name) : !kernels_named(name))
		return fail(err, "instruction set '%s': unknown, or not on this processor (amx, avx512, avx2, plain)", name);
	want_amx = amx;
	if (amx)
		name = "avx512";
	isa_name = name;
	dnn_pin(name);
	return 0;
}

size_t cpu_floats(const struct node *n, enum layout l)
{
	return (size_t)(l == BLOCKED ? pad8(n->c) : n->c) * n->h * n->w;
}

/* Images a chunk: enough to use every filter that passes through the cache several times, few enough to split over
 * threads. A function of plan and net alone, or bytes would depend on the machine; but for training, whose weight gradients
 * add up in an order that the number of threads decides anyway, so that there each has as many chunks as the others. */
int cpu_chunk(const struct plan *p)
{
	bool trains = p->opts.purpose == PLAN_TRAIN;
	int want = trains || p->net->ntheta > 4000000 ? 25 : 10;
	int chunks = (p->opts.batch + want - 1) / want;
	int threads = trains ? MAX(1, MIN(get_threads(), p->opts.batch / LEAST_CHUNK)) : 1;

	if (chunks > 1)
		chunks += chunks & 1; /* two threads at least share evenly */
	chunks = (chunks + threads - 1) / threads * threads;
	return (p->opts.batch + chunks - 1) / chunks;
}

static bool winograd_fits(const struct conv_shape *s, int pad)
{
	return s->k == 3 && s->stride == 1 && !s->plain_src && pad >= 0 && pad <= 2;
}

/* Every channel has a filter of its own. */
static void compile_depthwise(struct plan *p, struct head *h, bool dgrad)
{
	size_t floats = (size_t)pad8(h->shape.oc) * h->shape.k * h->shape.k;

	h->depthwise = true;
	h->fwd = ealigned(floats, 4);
	if (dgrad)
		h->dgrad = ealigned(floats, 4);
	h->bias = ealigned(pad8(h->shape.oc), 4);
	if (p->opts.purpose == PLAN_TRAIN)
		h->ndw = floats;
}

/* Other grouped convolutions run as dense ones with zeros between the groups: right, and in no network of the zoo. */
static int compile_conv(struct plan *p, struct stage *s, struct exec *e, char err[ERRLEN])
{
	const struct node *n = &p->net->node[s->head], *src = &p->net->node[n->in[0]];
	bool dgrad = p->opts.purpose == PLAN_SYNTH || (p->opts.purpose == PLAN_TRAIN && stage_needs_gin(p, s));
	struct head *h = &e->head;
	int want = 0;

	h->shape = (struct conv_shape){ src->c, src->h, src->w, n->c, n->h, n->w, n->k, n->stride, n->pad,
		node_layout(p->net, n->in[0]) == PLAIN };
	h->groups = n->groups;
	if (n->groups > 1 && n->groups == n->c && n->groups == src->c && !h->shape.plain_src) {
		h->groups = 1;
		compile_depthwise(p, h, dgrad);
		return 0;
	}
	if (h->shape.plain_src && src->c > 4 && dgrad)
		return fail(err, "node %s: gradients of images with %d channels (at most 4)", n->name, src->c);
	h->wino_fwd = winograd_fits(&h->shape, n->pad);
	h->wino_dgrad = dgrad && winograd_fits(&h->shape, 2 - n->pad);
	h->image_dgrad = dgrad && h->shape.plain_src;
	h->wino_wgrad = p->opts.purpose == PLAN_TRAIN && h->wino_fwd;
	h->image_back = h->image_dgrad && n->stride == 1;
	/* A residual's branch needs dz, an instance norm its sums. */
	h->image_raw = h->image_back && s->res < 0 && (s->norm < 0 || p->net->node[s->norm].op == OP_BN);
	h->image_wgrad = p->opts.purpose == PLAN_TRAIN && h->shape.plain_src && src->c <= 4 && n->k == 3 && n->stride == 1 &&
	    s->res < 0;
	h->direct = (struct direct_shape){ src->c, n->c, src->h, src->w, n->h, n->w, n->k, n->stride, n->pad };
	h->polyphase = !h->shape.plain_src && poly_fits(&h->direct);
	/* Under a stride the direct kernel is up to 1.4 times as fast as oneDNN, whose 1x1 and gradients have no equal here. */
	h->direct_fwd = n->stride > 1 && n->k > 1 && !h->shape.plain_src && !h->polyphase;
	h->image_fwd = h->shape.plain_src && n->stride == 1 && ((struct cpu *)p->be_data)->k->wide;
	want |= h->wino_fwd || h->polyphase || h->direct_fwd || h->image_fwd ? 0 : CONV_FWD;
	want |= dgrad && !h->wino_dgrad && !h->polyphase && !h->image_dgrad ? CONV_DGRAD : 0;
	want |= p->opts.purpose == PLAN_TRAIN && !h->wino_wgrad && !h->polyphase && !h->image_wgrad ? CONV_WGRAD : 0;
	int have = want ? dnn_conv_new(&h->dnn, &h->shape, want, p->chunk) : 0;
	h->image_fwd |= want & ~have & CONV_FWD && h->shape.plain_src;
	h->direct_fwd |= want & ~have & CONV_FWD && !h->shape.plain_src;
	h->direct_dgrad = want & ~have & CONV_DGRAD;
	h->own_wgrad = want & ~have & CONV_WGRAD;
	if ((h->direct_fwd || h->direct_dgrad) && n->k * n->k > KERNEL_TAPS)
		return fail(err, "node %s: a window of %dx%d", n->name, n->k, n->k);
	size_t image = (size_t)pad8(n->c) * src->c * n->k * n->k;
	h->bf16 = h->wino_fwd && ((struct cpu *)p->be_data)->bf16;
	h->fwd = ealigned(h->bf16 ? bf16_filter_halves(src->c, n->c) / 2 : h->wino_fwd ? wino_filter_floats(src->c, n->c)
	    : h->polyphase ? poly_filter_floats(&h->direct, false) : h->direct_fwd ? direct_filter_floats(&h->direct, false)
	    : h->image_fwd ? image : dnn_conv_weights(h->dnn, CONV_FWD), 4);
	if (dgrad)
		h->dgrad = ealigned(h->bf16 ? bf16_filter_halves(n->c, src->c) / 2 : h->wino_dgrad ? wino_filter_floats(n->c, src->c)
		    : h->polyphase ? poly_filter_floats(&h->direct, true) : h->image_dgrad ? image
		    : h->direct_dgrad ? direct_filter_floats(&h->direct, true) : dnn_conv_weights(h->dnn, CONV_DGRAD), 4);
	h->bias = ealigned(pad8(n->c), 4);
	if (p->opts.purpose == PLAN_TRAIN)
		h->ndw = h->wino_wgrad || h->polyphase || h->own_wgrad || h->image_wgrad ? (size_t)pad8(n->c) * src->c * n->k * n->k
		    : dnn_conv_weights(h->dnn, CONV_WGRAD);
	return 0;
}

static int compile_stage(struct plan *p, struct stage *s, char err[ERRLEN])
{
	const struct node *n = s->norm >= 0 ? &p->net->node[s->norm] : s->head >= 0 ? &p->net->node[s->head]
	    : &p->net->node[s->add >= 0 ? s->add : s->relu >= 0 ? s->relu : s->out];
	bool train = p->opts.purpose == PLAN_TRAIN, in = s->norm >= 0 && n->op == OP_IN;
	struct exec *e = s->exec = ecalloc(1, sizeof *e);

	e->c = n->c, e->cp = pad8(n->c), e->h = n->h, e->w = n->w;
	if (s->pool >= 0 && s->norm < 0 && s->head < 0 && s->add < 0 && s->relu < 0) { /* a pool alone: its input counts */
		const struct node *src = &p->net->node[s->in];
		e->h = src->h, e->w = src->w;
	}
	if (s->solo >= 0)
		return solo_compile(p, s, e, err);
	if (s->head >= 0 && p->net->node[s->head].op == OP_LINEAR) {
		size_t nw = p->net->param[p->net->node[s->head].param[P_WEIGHT]].count;
		e->head.groups = 1;
		e->head.fwd = ealigned(nw, 4);
		e->head.bias = ealigned(e->cp, 4);
		e->head.ndw = train ? nw : 0;
	} else if (s->head >= 0 && compile_conv(p, s, e, err) < 0)
		return -1;
	/* Wide maps go image by image, so that the epilogue finds them in cache; small ones by the chunk, so that
	 * filters are read less often. */
	size_t bytes = (size_t)e->cp * e->h * e->w * 4;
	e->step = MAX(1, MIN(p->chunk, (int)((256 << 10) / bytes)));
	if (s->head >= 0 && p->net->node[s->head].op == OP_LINEAR)
		e->step = p->chunk;
	const struct head *h = &e->head;
	if ((h->wino_fwd && wino_filter_floats(h->shape.ic, h->shape.oc) > (1 << 20)) ||
	    (h->polyphase && poly_filter_floats(&h->direct, false) > (1 << 20)) ||
	    (h->direct_fwd && direct_filter_floats(&h->direct, false) > (1 << 20)))
		e->step = p->chunk;
	if ((h->direct_fwd || h->direct_dgrad) && direct_scratch_floats(&h->direct, e->step) > INT32_MAX)
		return fail(err, "node %s: more than 2^31 values at once", p->net->node[s->head].name);
	e->scale = ealigned(e->cp, 4);
	e->shift = ealigned(e->cp, 4);
	e->gain = ealigned(e->cp, 4);
	e->a = ealigned(e->cp, 4);
	e->b = ealigned(e->cp, 4);
	e->gamma = ealigned(e->cp, 4);
	e->beta = ealigned(e->cp, 4);
	for (int i = 0; i < e->c; i++)
		e->scale[i] = e->gain[i] = 1;
	e->ref = s->tap >= 0 ? p->tap_ref[s->tap] : ealigned(e->cp, 4);
	e->center = train && s->norm >= 0 && !in ? ealigned(e->cp, 4) : e->ref;
	size_t nc = (size_t)p->opts.batch * e->c;
	if (in) {
		e->isum = ecalloc(nc, sizeof *e->isum);
		e->isumsq = ecalloc(nc, sizeof *e->isumsq);
	}
	if (s->norm >= 0 && p->opts.purpose != PLAN_EVAL && (train || in)) {
		e->sdz = ecalloc(nc, sizeof *e->sdz);
		e->sdzx = ecalloc(nc, sizeof *e->sdzx);
		e->mean = ecalloc(e->c, sizeof *e->mean);
		e->var = ecalloc(e->c, sizeof *e->var);
	}
	return 0;
}

void cpu_threads(struct plan *p, int nthread)
{
	struct cpu *cpu = p->be_data;

	if (nthread <= cpu->nthread)
		return;
	cpu->coef = erealloc(cpu->coef, nthread, sizeof *cpu->coef);
	cpu->sum = erealloc(cpu->sum, nthread, sizeof *cpu->sum);
	for (int t = cpu->nthread; t < nthread; t++) {
		cpu->coef[t] = ealigned(cpu->ncoef + 1, 4);
		cpu->sum[t] = ealigned(cpu->ncoef + 1, 8);
	}
	for (int i = 0; i < p->nstage; i++) {
		struct exec *e = p->stage[i].exec;
		if (!e || !e->head.ndw)
			continue;
		e->head.dw = erealloc(e->head.dw, nthread, sizeof *e->head.dw);
		e->head.db = erealloc(e->head.db, nthread, sizeof *e->head.db);
		for (int t = cpu->nthread; t < nthread; t++) {
			e->head.dw[t] = ealigned(e->head.ndw, 4);
			e->head.db[t] = ealigned(pad8(p->net->node[p->stage[i].head].c), 4);
		}
	}
	cpu->nthread = nthread;
}

/* The bfloat16 kernels that go with others. Without instructions of their own they come out the same, slowly. */
static const struct bf16_kernels *bf16_of(const struct kernels *k)
{
	const struct bf16_kernels *b =
	    want_amx ? bf16_named("amx") : !strcmp(k->isa, "avx512") ? bf16_fast() : bf16_named(k->isa);

	return b ? b : bf16_named("avx2");
}

bool cpu_fast_bf16(void)
{
	return bf16_fast() && (!isa_name || !strcmp(isa_name, "avx512"));
}

/* Floats that a stage's head wants of its thread's scratch: Winograd's tiles, rows laid out anew, weight gradients. */
static size_t scratch_of(const struct exec *e)
{
	const struct head *h = &e->head;
	const struct conv_shape *c = &h->shape;
	size_t most = h->dnn ? h->ndw : 0; /* the library's gradient of one chunk, before it is added */

	if (h->wino_wgrad)
		most = MAX(most, wino_wgrad_scratch_floats(c->ic, c->oc));
	if (h->direct_fwd || h->direct_dgrad)
		most = MAX(most, direct_scratch_floats(&h->direct, e->step));
	if (h->polyphase)
		most = MAX(most, poly_scratch_floats(&h->direct));
	if (h->bf16)
		most = MAX(most, MAX(bf16_scratch_floats(c->ic, c->oc), bf16_scratch_floats(c->oc, c->ic)));
	if (h->wino_fwd)
		most = MAX(most, wino_scratch_floats(c->ic, c->oc));
	if (h->image_back || h->image_wgrad)
		most = MAX(most, image_back_floats(c->ic, c->oc, c->ih, c->iw, c->k, c->pad));
	return most;
}

int cpu_compile(struct plan *p, char err[ERRLEN])
{
	struct cpu *cpu = p->be_data = ecalloc(1, sizeof *cpu);
	bool bf16 = p->opts.precision == PRECISION_BF16;

	if (p->opts.precision == PRECISION_TF32)
		return fail(err, "precision tf32 is of the cuda device alone");
	if (bf16 && p->opts.purpose == PLAN_TRAIN)
		return fail(err, "training on the cpu is in float");
	cpu->k = isa_name ? kernels_named(isa_name) : kernels_best();
	cpu->bf16 = bf16 ? bf16_of(cpu->k) : NULL;
	for (int i = 0; i < p->nstage; i++) {
		if (compile_stage(p, &p->stage[i], err) < 0)
			return -1;
		struct exec *e = p->stage[i].exec;
		struct conv_shape *c = &e->head.shape;
		p->scratch_floats = MAX(p->scratch_floats, scratch_of(e));
		cpu->ncoef = MAX(cpu->ncoef, 4 * (size_t)MAX(e->cp, pad8(c->oc)));
	}
	cpu->zero = ealigned(cpu->ncoef + 1, 4);
	cpu_threads(p, plan_threads(p));
	return 0;
}

void cpu_release(struct plan *p)
{
	struct cpu *cpu = p->be_data;

	for (int i = 0; p->stage && i < p->nstage; i++) {
		struct exec *e = p->stage[i].exec;
		if (!e)
			continue;
		dnn_conv_free(e->head.dnn);
		for (int t = 0; e->head.dw && t < cpu->nthread; t++) {
			free(e->head.dw[t]);
			free(e->head.db[t]);
		}
		free(e->head.dw), free(e->head.db);
		free(e->head.fwd), free(e->head.dgrad), free(e->head.bias);
		free(e->scale), free(e->shift), free(e->gain), free(e->a), free(e->b), free(e->gamma), free(e->beta);
		if (e->center != e->ref)
			free(e->center);
		if (p->stage[i].tap < 0)
			free(e->ref);
		solo_release(e);
		free(e->sdz), free(e->sdzx), free(e->mean), free(e->var), free(e->isum), free(e->isumsq);
		free(e);
	}
	for (int t = 0; cpu && t < cpu->nthread; t++) {
		free(cpu->coef[t]);
		free(cpu->sum[t]);
	}
	if (cpu) {
		free(cpu->sum);
		free(cpu->zero);
		free(cpu->coef);
	}
	free(cpu);
}

static const float *param(const struct plan *p, const struct weights *w, int node, enum role r)
{
	int i = p->net->node[node].param[r];

	return i < 0 ? NULL : weights_param(p->net, w, i);
}

/* (C,1,k,k) -> (CB,k,k,8) */
static void load_depthwise(struct head *h, const float *w)
{
	int kk = h->shape.k * h->shape.k;

	for (int c = 0; c < h->shape.oc; c++)
		for (int t = 0; t < kk; t++)
			h->fwd[((size_t)(c / 8) * kk + t) * 8 + c % 8] = w[(size_t)c * kk + t];
	if (h->dgrad)
		memcpy(h->dgrad, h->fwd, (size_t)pad8(h->shape.oc) * kk * sizeof *w);
}

/* (O,I/groups,k,k) -> (O,I,k,k) with zeros between the groups; the caller frees it. */
static float *dense_weights(const struct head *h, const float *w)
{
	const struct conv_shape *s = &h->shape;
	size_t kk = (size_t)s->k * s->k, each = s->ic / h->groups, out = s->oc / h->groups;
	float *dense = ecalloc((size_t)s->oc * s->ic * kk, sizeof *dense);

	for (size_t o = 0; o < (size_t)s->oc; o++)
		memcpy(dense + (o * s->ic + o / out * each) * kk, w + o * each * kk, each * kk * sizeof *w);
	return dense;
}

/* (O,I,k,k) -> (OB,k,k,I,8) */
static void block_filters(float *to, const float *w, int oc, int ic, int kk)
{
	for (int o = 0; o < oc; o++)
		for (int i = 0; i < ic; i++)
			for (int t = 0; t < kk; t++)
				to[(((size_t)(o / 8) * kk + t) * ic + i) * 8 + o % 8] = w[((size_t)o * ic + i) * kk + t];
}

static void load_conv(const struct cpu *cpu, struct head *h, const float *w)
{
	const struct conv_shape *s = &h->shape;

	if (h->depthwise) {
		load_depthwise(h, w);
		return;
	}
	if (h->bf16)
		cpu->bf16->filter((uint16_t *)h->fwd, w, s->ic, s->oc, false);
	else if (h->wino_fwd)
		cpu->k->wino_filter(h->fwd, w, s->ic, s->oc, false);
	else if (h->polyphase)
		cpu->k->poly_filter(h->fwd, w, &h->direct, false);
	else if (h->direct_fwd)
		cpu->k->direct_filter(h->fwd, w, &h->direct, false);
	else if (h->image_fwd)
		block_filters(h->fwd, w, s->oc, s->ic, s->k * s->k);
	else
		dnn_conv_prepare(h->dnn, CONV_FWD, h->fwd, w);
	if (h->bf16 && h->dgrad)
		cpu->bf16->filter((uint16_t *)h->dgrad, w, s->oc, s->ic, true);
	else if (h->wino_dgrad)
		cpu->k->wino_filter(h->dgrad, w, s->oc, s->ic, true);
	else if (h->polyphase && h->dgrad)
		cpu->k->poly_filter(h->dgrad, w, &h->direct, true);
	else if (h->direct_dgrad)
		cpu->k->direct_filter(h->dgrad, w, &h->direct, true);
	else if (h->image_dgrad)
		block_filters(h->dgrad, w, s->oc, s->ic, s->k * s->k);
	else if (h->dgrad)
		dnn_conv_prepare(h->dnn, CONV_DGRAD, h->dgrad, w);
}

void cpu_load(struct plan *p, const struct weights *w)
{
	#pragma omp parallel for schedule(dynamic, 1) num_threads(get_threads())
	for (int i = 0; i < p->nstage; i++) {
		struct stage *s = &p->stage[i];
		struct exec *e = s->exec;

		if (s->solo >= 0)
			continue;
		if (s->head >= 0) {
			const struct node *n = &p->net->node[s->head];
			const float *weight = param(p, w, s->head, P_WEIGHT), *bias = param(p, w, s->head, P_BIAS);
			if (bias)
				memcpy(e->head.bias, bias, n->c * sizeof *bias);
			if (n->op == OP_LINEAR)
				memcpy(e->head.fwd, weight, p->net->param[n->param[P_WEIGHT]].count * sizeof *weight);
			else if (e->head.groups > 1) {
				float *dense = dense_weights(&e->head, weight);
				load_conv(p->be_data, &e->head, dense);
				free(dense);
			} else
				load_conv(p->be_data, &e->head, weight);
		}
		if (s->norm >= 0) {
			const struct node *n = &p->net->node[s->norm];
			const float *mean = param(p, w, s->norm, P_MEAN), *var = param(p, w, s->norm, P_VAR);
			memcpy(e->gamma, param(p, w, s->norm, P_WEIGHT), n->c * sizeof *e->gamma);
			memcpy(e->beta, param(p, w, s->norm, P_BIAS), n->c * sizeof *e->beta);
			for (int c = 0; n->op == OP_BN && c < n->c; c++) {
				double g = e->gamma[c] / sqrt((double)var[c] + n->eps);
				e->scale[c] = e->gain[c] = g;
				e->shift[c] = e->beta[c] - mean[c] * g;
			}
		}
	}
}
