/* The CUDA backend's preparation: memory, weights, and what cuDNN and cuBLASLt are to run. */
#include <stdlib.h>
#include <string.h>

#include "cuda.h"

static float *floats(struct cuda *cu, size_t n) { return cuda_room(&cu->room, n * sizeof(float)); }
static double *doubles(struct cuda *cu, size_t n) { return cuda_room(&cu->room, n * sizeof(double)); }

static const struct node *head_of(const struct plan *p, const struct stage *s)
{
	return s->head < 0 ? NULL : &p->net->node[s->head];
}

static bool is_linear(const struct plan *p, const struct stage *s)
{
	return s->head >= 0 && p->net->node[s->head].op == OP_LINEAR;
}

static enum dnn_math math_of(const struct plan *p)
{
	return p->opts.precision == PRECISION_BF16 ? DNN_BF16 : p->opts.precision == PRECISION_TF32 ? DNN_TF32 : DNN_F32;
}

static bool wants(const struct plan *p, const struct stage *s, enum dnn_way way)
{
	if (way == DNN_FORWARD)
		return true;
	if (way == DNN_WGRAD)
		return p->opts.purpose == PLAN_TRAIN;
	return p->opts.purpose != PLAN_EVAL && stage_needs_gin(p, s);
}

static void compile_head(struct plan *p, const struct stage *s, struct exec *e)
{
	const struct node *n = head_of(p, s), *src = &p->net->node[n->in[0]];
	struct cuda *cu = cuda_of(p);
	bool follows = s->norm >= 0 || s->add >= 0 || s->relu >= 0 || s->pool >= 0;
	bool conv = n->op == OP_CONV;
	int groups = conv ? n->groups : 1;

	if (conv)
		e->shape = cuda_conv_shape(n, src);
	e->spread = groups > 1 && e->shape.groups == 1 ? groups : 1;
	e->fo = n->c, e->fi = src->c / groups, e->fkk = conv ? n->k * n->k : 1;
	e->fop = round8(n->c), e->fip = groups > 1 && e->spread == 1 ? e->fi : round8(src->c);
	e->biased = n->param[P_BIAS] >= 0 && !follows;
	e->filter = cuda_room(&cu->room, (size_t)e->fop * e->fkk * e->fip * elem_bytes(cu->type));
	if (p->opts.purpose == PLAN_TRAIN)
		e->dfilter = floats(cu, (size_t)e->fop * e->fkk * e->fip);
}

/* What the libraries have prepared so far, for whichever plan needs it: teachers are alike, and to find an engine takes
 * them milliseconds. Freed with the process. */
struct prepared {
	bool linear;
	struct dnn_shape conv;
	struct dnn_gemm gemm;
	enum dnn_way way;
	enum dnn_math math;
	struct dnn_op *op;
};
static struct prepared *prepared;
static int nprepared;

static bool same(const struct prepared *a, const struct prepared *b)
{
	const struct dnn_gemm *g = &a->gemm, *h = &b->gemm;

	return a->linear == b->linear && a->way == b->way && a->math == b->math &&
	    !memcmp(&a->conv, &b->conv, sizeof a->conv) && g->m == h->m && g->n == h->n && g->k == h->k && g->xs == h->xs &&
	    g->ws == h->ws && g->ys == h->ys && g->wide == h->wide;
}

static struct dnn_op *prepare(struct prepared want, char err[ERRLEN])
{
	for (int i = 0; i < nprepared; i++)
		if (same(&prepared[i], &want))
			return prepared[i].op;
	want.op = want.linear ? dnn_gemm_op(gpu.dnn, want.gemm, want.way, want.math, err)
	    : dnn_conv_op(gpu.dnn, want.conv, want.way, want.math, err);
	if (!want.op)
		return NULL;
	prepared = erealloc(prepared, nprepared + 1, sizeof *prepared);
	prepared[nprepared++] = want;
	return want.op;
}

static int add_sized(struct plan *p, const struct stage *s, int n, char err[ERRLEN])
{
	struct exec *e = s->exec;
	struct prepared want = { .linear = is_linear(p, s), .math = math_of(p) };

	if (want.linear)
		want.gemm = (struct dnn_gemm){ n, e->fop, e->fip, e->fip, e->fip, e->fop, e->type != cuda_of(p)->type };
	else
		want.conv = e->shape, want.conv.n = n;
	e->sized = erealloc(e->sized, e->nsized + 1, sizeof *e->sized);
	struct sized *z = &e->sized[e->nsized++];
	*z = (struct sized){ .n = n };
	for (enum dnn_way way = DNN_FORWARD; way <= DNN_WGRAD; way++) {
		cudaError_t got;

		if (!wants(p, s, way))
			continue;
		want.way = way;
		want.gemm.wide &= way == DNN_FORWARD;
		z->op[way] = prepare(want, err);
		if (!z->op[way])
			return -1;
		got = dnn_reserve(gpu.dnn, dnn_op_workspace(z->op[way]), err);
		if (got == cudaErrorMemoryAllocation)
			cuda_no_memory(dnn_lacked(gpu.dnn));
		if (got)
			return -1;
	}
	return 0;
}

struct sized *cuda_sized(struct plan *p, const struct stage *s, int n)
{
	struct exec *e = s->exec;
	char err[ERRLEN];

	for (int i = 0; i < e->nsized; i++)
		if (e->sized[i].n == n)
			return &e->sized[i];
	if (add_sized(p, s, n, err) < 0)
		cuda_die("device cuda (%s): node %s: %s", gpu.name, head_of(p, s)->name, err);
	return &e->sized[e->nsized - 1];
}

void cuda_size(struct plan *p, int n)
{
	for (int i = 0; i < p->nstage; i++)
		if (p->stage[i].head >= 0)
			cuda_sized(p, &p->stage[i], n);
}

/* Concat and select move channels: see gpu_channels(). */
static void compile_channels(struct plan *p, const struct stage *s, struct exec *e)
{
	const struct node *n = &p->net->node[s->solo], *a = &p->net->node[n->in[0]];
	const struct node *b = n->op == OP_CONCAT ? &p->net->node[n->in[1]] : NULL;
	int size[3] = { round8(n->c), round8(a->c), b ? round8(b->c) : 0 }, *which[3] = { 0 };

	for (int i = 0; i < 3 && size[i]; i++) {
		which[i] = emalloc(size[i] * sizeof *which[i]);
		for (int c = 0; c < size[i]; c++)
			which[i][c] = -1;
	}
	for (int c = 0; c < n->c; c++) {
		int from = b ? c : n->map[c];
		which[0][c] = from;
		which[from < a->c ? 1 : 2][from < a->c ? from : from - a->c] = c;
	}
	for (int i = 0; i < 3 && size[i]; i++) {
		e->which[i] = cuda_room(&cuda_of(p)->room, size[i] * sizeof *which[i]);
		cuda_send(e->which[i], which[i], size[i] * sizeof *which[i]);
		cuda_wait("channels");
		free(which[i]);
	}
}

static void compile_norm(struct plan *p, const struct stage *s, struct exec *e)
{
	struct cuda *cu = cuda_of(p);
	bool in = s->norm >= 0 && p->net->node[s->norm].op == OP_IN, train = p->opts.purpose == PLAN_TRAIN;
	size_t batch = p->opts.batch, many = in ? batch : 1, nc = batch * e->c;
	float **each[] = { &e->scale, &e->shift, &e->ref, &e->center, &e->gain, &e->a, &e->b };

	e->stride = in ? e->cp : 0;
	for (size_t i = 0; i < LEN(each); i++)
		*each[i] = floats(cu, many * e->cp);
	if (s->tap >= 0 || in)
		e->sum = doubles(cu, nc), e->sumsq = doubles(cu, nc);
	if (s->norm >= 0 && p->opts.purpose != PLAN_EVAL && (train || in))
		e->sdz = doubles(cu, nc), e->sdzx = doubles(cu, nc);
	if (train && s->norm >= 0)
		e->mean = doubles(cu, e->c), e->var = doubles(cu, e->c);
	if (s->tap >= 0 && p->opts.purpose == PLAN_SYNTH)
		e->ta = floats(cu, batch * e->cp), e->tb = floats(cu, batch * e->cp);
}

static int compile_stage(struct plan *p, struct stage *s, char err[ERRLEN])
{
	const struct node *n = s->norm >= 0 ? &p->net->node[s->norm] : s->head >= 0 ? &p->net->node[s->head]
	    : &p->net->node[s->add >= 0 ? s->add : s->relu >= 0 ? s->relu : s->out];
	struct exec *e = s->exec = ecalloc(1, sizeof *e);

	if (s->solo < 0 && s->pool >= 0 && s->norm < 0 && s->head < 0 && s->add < 0 && s->relu < 0)
		n = &p->net->node[s->in]; /* a pool alone: its input counts */
	e->c = n->c, e->cp = round8(n->c), e->h = n->h, e->w = n->w;
	if (s->solo >= 0) {
		if (n->op == OP_CONCAT || n->op == OP_SELECT)
			compile_channels(p, s, e);
		if (n->op == OP_AFFINE)
			e->scale = floats(cuda_of(p), e->cp), e->shift = floats(cuda_of(p), e->cp);
		return 0;
	}
	if (s->in < 0)
		return 0;
	e->type = is_linear(p, s) && s->y == s->x && s->out == p->net->nnode - 1 ? ELEM_F32 : cuda_of(p)->type;
	compile_norm(p, s, e);
	if (s->head < 0)
		return 0;
	compile_head(p, s, e);
	if (add_sized(p, s, p->opts.batch, err) < 0) {
		char why[ERRLEN];
		memcpy(why, err, sizeof why);
		return fail(err, "node %s: %.400s", head_of(p, s)->name, why);
	}
	return 0;
}

int cuda_compile(struct plan *p, char err[ERRLEN])
{
	struct cuda *cu = cuda_of(p);
	const struct node *last = &p->net->node[p->net->nnode - 1];
	size_t scratch = 0, batch = p->opts.batch;
	int most = 8;
	size_t logits = round8(last->c) * elem_bytes(cu->type);

	if (cuda_afford(p, err) < 0)
		return -1;
	cu->stream = gpu.stream;
	cu->own_theta = cu->theta = floats(cu, p->net->ntheta);
	cu->own_buffer = cu->buffer = floats(cu, p->net->nbuffer);
	for (int i = 0; i < p->nstage; i++) {
		if (compile_stage(p, &p->stage[i], err) < 0)
			return -1;
		const struct exec *e = p->stage[i].exec;
		most = MAX(most, e->cp);
		if (e->c)
			scratch = MAX(scratch, gpu_sums_scratch((struct maps){ batch, e->h, e->w, e->c, e->cp, ELEM_F32 }));
	}
	cu->scratch = cuda_room(&cu->room, scratch);
	cu->zero = floats(cu, most);
	cu->drop = cuda_room(&cu->room, sizeof *cu->drop);
	if (p->opts.purpose == PLAN_EVAL)
		return 0;
	cu->dout = cuda_room(&cu->room, batch * logits);
	return 0;
}

void cuda_release(struct plan *p)
{
	struct cuda *cu = cuda_of(p);

	if (!cu)
		return;
	for (int i = 0; p->stage && i < p->nstage; i++) {
		struct exec *e = p->stage[i].exec;
		if (e)
			free(e->sized);
		free(e);
	}
	cuda_empty(&cu->room);
	free(cu);
}

static float *theta_of(const struct plan *p, int node, enum role r)
{
	int i = p->net->node[node].param[r];

	return i < 0 ? NULL : cuda_of(p)->theta + p->net->param[i].offset;
}

static float *buffer_of(const struct plan *p, int node, enum role r)
{
	int i = p->net->node[node].param[r];

	return i < 0 ? NULL : cuda_of(p)->buffer + p->net->param[i].offset;
}

void cuda_prepare(struct plan *p)
{
	struct cuda *cu = cuda_of(p);

	for (int i = 0; i < p->nstage; i++) {
		const struct stage *s = &p->stage[i];
		struct exec *e = s->exec;
		if (s->solo >= 0 || s->in < 0)
			continue;
		const float *bias = s->head >= 0 && !e->biased ? theta_of(p, s->head, P_BIAS) : NULL;
		if (s->head >= 0)
			gpu_filters(cu->stream, e->filter, cu->type, theta_of(p, s->head, P_WEIGHT), e->fo, e->fi, e->fkk, e->fop, e->fip,
			    e->spread);
		if (s->norm >= 0 && p->net->node[s->norm].op == OP_BN)
			gpu_bn_frozen(cu->stream, e->scale, e->shift, e->ref, bias, buffer_of(p, s->norm, P_MEAN),
			    buffer_of(p, s->norm, P_VAR), theta_of(p, s->norm, P_WEIGHT), theta_of(p, s->norm, P_BIAS),
			    p->net->node[s->norm].eps, e->c);
		else if (s->norm < 0) /* no norm: scale 1, shift bias; a biased x needs both, too */
			gpu_bn_frozen(cu->stream, e->scale, e->shift, e->ref, e->biased ? theta_of(p, s->head, P_BIAS) : bias, NULL, NULL,
			    NULL, NULL, 0, e->c);
	}
}

/* What a tap's sums are about, in the network's own units: a running mean; else the bias that x lies lower by. */
static void place_taps(struct plan *p, const struct weights *w)
{
	for (int i = 0; i < p->nstage; i++) {
		const struct stage *s = &p->stage[i];
		const struct exec *e = s->exec;
		if (s->tap < 0 || (s->norm >= 0 && p->net->node[s->norm].op == OP_BN))
			continue;
		memset(p->tap_ref[s->tap], 0, e->c * sizeof(float));
		if (s->head >= 0 && !e->biased && p->net->node[s->head].param[P_BIAS] >= 0)
			memcpy(p->tap_ref[s->tap], weights_param(p->net, w, p->net->node[s->head].param[P_BIAS]), e->c * sizeof(float));
	}
}

void cuda_load(struct plan *p, const struct weights *w)
{
	struct cuda *cu = cuda_of(p);

	cu->theta = cu->own_theta, cu->buffer = cu->own_buffer;
	cuda_send(cu->theta, w->theta, p->net->ntheta * sizeof(float));
	cuda_send(cu->buffer, w->buffer, p->net->nbuffer * sizeof(float));
	for (int i = 0; i < p->nstage; i++) {
		const struct stage *s = &p->stage[i];
		const struct node *n = s->solo < 0 ? NULL : &p->net->node[s->solo];
		const struct exec *e = s->exec;
		if (!n || n->op != OP_AFFINE)
			continue;
		cuda_send(e->scale, n->scale, n->c * sizeof(float));
		cuda_send(e->shift, n->shift, n->c * sizeof(float));
	}
	place_taps(p, w);
	cuda_prepare(p);
	/* The caller's arrays are its own again. */
	cuda_wait("the weights");
}
