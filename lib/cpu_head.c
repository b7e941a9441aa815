/* A stage's head, convolution or linear layer, in its three directions: whatever implementation cpu_setup.c chose. */
#include <stdlib.h>

#include "cpu.h"

static void linear_forward(const struct pass *q, const struct stage *s, int i0, int i1)
{
	const struct plan *p = q->p;
	const struct node *n = &p->net->node[s->head];
	const struct exec *e = s->exec;
	const struct cpu *cpu = p->be_data;
	int in = p->net->node[n->in[0]].c;
	size_t ys = p->buffer[s->x].floats, xs = p->buffer[p->stage[s->in_stage].y].floats;

	cpu->k->linear(at(q, s->x, i0), value(q, s->in_stage, i0), e->head.fwd, e->head.bias, i1 - i0, in, n->c, ys, xs);
	for (int i = i0; i < i1; i++) {
		float *y = at(q, s->x, i);
		memset(y + n->c, 0, (e->cp - n->c) * sizeof *y);
		if (s->out == p->net->nnode - 1)
			memcpy(q->logits + (size_t)i * n->c, y, n->c * sizeof *y);
	}
}

static void winograd(const struct cpu *cpu, const struct head *h, float *y, const float *x, const float *u, const float *bias,
    float *room, int n, const struct wino_shape *s)
{
	if (h->bf16)
		cpu->bf16->conv(y, x, (const uint16_t *)u, bias, room, n, s);
	else
		cpu->k->wino_conv(y, x, u, bias, room, n, s);
}

static void conv_forward(const struct pass *q, const struct stage *s, int i0, int i1)
{
	const struct cpu *cpu = q->p->be_data;
	const struct exec *e = s->exec;
	const struct head *h = &e->head;
	const struct conv_shape *c = &h->shape;

	if (h->wino_fwd) {
		struct wino_shape ws = { c->ic, c->oc, c->ih, c->iw, c->oh, c->ow, c->pad };
		winograd(cpu, h, at(q, s->x, i0), value(q, s->in_stage, i0), h->fwd, h->bias, scratch(q), i1 - i0, &ws);
		return;
	}
	if (h->polyphase || h->direct_fwd) {
		(h->polyphase ? cpu->k->poly_conv : cpu->k->direct_conv)(at(q, s->x, i0), value(q, s->in_stage, i0), h->fwd,
		    h->bias, scratch(q), i1 - i0, &h->direct);
		return;
	}
	for (int i = i0; i < i1; i++) {
		float *y = at(q, s->x, i);
		const float *x = value(q, s->in_stage, i);
		if (h->depthwise)
			cpu->k->dw_conv(y, x, h->fwd, h->bias, e->cp / 8, c->ih, c->iw, c->oh, c->ow, c->k, c->stride, c->pad);
		else if (h->image_fwd)
			cpu->k->image_conv(y, x, h->fwd, h->bias, c->ic, c->ih, c->iw, e->cp / 8, c->oh, c->ow, c->k, c->stride, c->pad);
		else
			dnn_conv_forward(h->dnn, q->tid, y, x, h->fwd, h->bias);
	}
}

static bool is_linear(const struct pass *q, const struct stage *s)
{
	return q->p->net->node[s->head].op == OP_LINEAR;
}

void head_forward(const struct pass *q, const struct stage *s, int i0, int i1)
{
	(is_linear(q, s) ? linear_forward : conv_forward)(q, s, i0, i1);
}

void head_dgrad(const struct pass *q, const struct stage *s, int i, float *gin)
{
	const struct cpu *cpu = q->p->be_data;
	const struct head *h = &((struct exec *)s->exec)->head;
	const struct conv_shape *c = &h->shape;

	if (h->image_back) {
		const float *dy[LEN(s->dy)];
		struct feature_grad f = describe_grad(q, s, i, h->image_raw, dy);
		cpu->k->image_back(gin, &f, h->dgrad, scratch(q), c->ic, c->ih, c->iw, c->k, c->pad);
		return;
	}
	if (!h->dgrad || h->wino_dgrad || h->polyphase || h->direct_dgrad)
		return;
	const float *dx = at(q, s->dx >= 0 ? s->dx : s->dy[0], i);
	if (h->depthwise)
		cpu->k->dw_dgrad(gin, dx, h->dgrad, pad8(c->oc) / 8, c->ih, c->iw, c->oh, c->ow, c->k, c->stride, c->pad);
	else if (h->image_dgrad)
		cpu->k->image_dgrad(gin, dx, h->dgrad, c->ic, c->ih, c->iw, pad8(c->oc) / 8, c->oh, c->ow, c->k, c->stride, c->pad);
	else
		dnn_conv_dgrad(h->dnn, q->tid, gin, dx, h->dgrad);
}

/* Gradient in front of a linear layer's norm, and how far apart images' lie. */
static const float *linear_dy(const struct pass *q, const struct stage *s, int i0, size_t *stride)
{
	const struct plan *p = q->p;
	int dx = s->dx >= 0 ? s->dx : s->ndy ? s->dy[0] : -1;

	*stride = dx >= 0 ? p->buffer[dx].floats : (size_t)p->net->node[s->head].c;
	return dx >= 0 ? at(q, dx, i0) : q->dlogits + (size_t)i0 * p->net->node[s->head].c;
}

static void linear_dgrad(const struct pass *q, const struct stage *s, int i0, int i1)
{
	const struct plan *p = q->p;
	const struct node *n = &p->net->node[s->head];
	const struct head *h = &((struct exec *)s->exec)->head;
	const struct cpu *cpu = p->be_data;
	int in = p->net->node[n->in[0]].c;
	size_t xs = p->buffer[s->gin].floats, ys;
	const float *dy = linear_dy(q, s, i0, &ys);

	cpu->k->linear_dgrad(at(q, s->gin, i0), dy, h->fwd, i1 - i0, in, n->c, xs, ys);
	for (int i = i0; i < i1; i++)
		memset(at(q, s->gin, i) + in, 0, (xs - in) * sizeof *dy);
}

void head_dgrad_all(const struct pass *q, const struct stage *s, int i0, int i1)
{
	const struct cpu *cpu = q->p->be_data;
	const struct head *h = &((struct exec *)s->exec)->head;
	const struct conv_shape *c = &h->shape;
	int dx = s->dx >= 0 ? s->dx : s->ndy ? s->dy[0] : -1;

	if (is_linear(q, s))
		linear_dgrad(q, s, i0, i1);
	else if (h->polyphase || h->direct_dgrad)
		(h->polyphase ? cpu->k->poly_dgrad : cpu->k->direct_dgrad)(at(q, s->gin, i0), at(q, dx, i0), h->dgrad,
		    scratch(q), i1 - i0, &h->direct);
	else if (h->wino_dgrad) {
		struct wino_shape ws = { c->oc, c->ic, c->oh, c->ow, c->ih, c->iw, 2 - c->pad };
		winograd(cpu, h, at(q, s->gin, i0), at(q, dx, i0), h->dgrad, NULL, scratch(q), i1 - i0, &ws);
	}
}

static void linear_wgrad(const struct pass *q, const struct stage *s, int i0, int i1)
{
	const struct plan *p = q->p;
	const struct node *n = &p->net->node[s->head];
	const struct head *h = &((struct exec *)s->exec)->head;
	const struct cpu *cpu = p->be_data;
	size_t ys;
	const float *dy = linear_dy(q, s, i0, &ys);

	if (q->fresh) {
		memset(h->dw[q->tid], 0, h->ndw * sizeof(float));
		memset(h->db[q->tid], 0, n->c * sizeof(float));
	}
	cpu->k->linear_wgrad(h->dw[q->tid], dy, value(q, s->in_stage, i0), i1 - i0, p->net->node[n->in[0]].c, n->c, ys,
	    p->buffer[p->stage[s->in_stage].y].floats);
	for (int i = 0; i < i1 - i0; i++)
		add_floats(h->db[q->tid], dy + i * ys, n->c);
}

/* Weights and bias of the first convolution, whose gradient in front of the norm is never written. */
static void image_wgrad(const struct pass *q, const struct stage *s, int i0, int i1)
{
	const struct cpu *cpu = q->p->be_data;
	const struct head *h = &((struct exec *)s->exec)->head;
	const struct conv_shape *c = &h->shape;
	const float *dy[LEN(s->dy)];

	if (q->fresh) {
		memset(h->dw[q->tid], 0, h->ndw * sizeof(float));
		memset(h->db[q->tid], 0, pad8(c->oc) * sizeof(float));
	}
	for (int i = i0; i < i1; i++) {
		struct feature_grad f = describe_grad(q, s, i, false, dy);
		cpu->k->image_wgrad(h->dw[q->tid], h->db[q->tid], &f, value(q, s->in_stage, i), scratch(q), c->ic, c->ih,
		    c->iw, c->pad);
	}
}

static void conv_wgrad(const struct pass *q, const struct stage *s, int i0, int i1)
{
	const struct cpu *cpu = q->p->be_data;
	const struct exec *e = s->exec;
	const struct head *h = &e->head;
	const struct node *n = &q->p->net->node[s->head];
	int dx = s->dx >= 0 ? s->dx : s->dy[0];
	float *dw = q->fresh ? h->dw[q->tid] : scratch(q);

	const struct conv_shape *c = &h->shape;
	if (q->fresh && (h->own_wgrad || h->wino_wgrad || h->polyphase || h->depthwise))
		memset(h->dw[q->tid], 0, h->ndw * sizeof(float));
	if (h->wino_wgrad) {
		struct wino_shape ws = { c->ic, c->oc, c->ih, c->iw, c->oh, c->ow, c->pad };
		cpu->k->wino_wgrad(h->dw[q->tid], value(q, s->in_stage, i0), at(q, dx, i0), scratch(q), i1 - i0, &ws);
	} else if (h->polyphase)
		cpu->k->poly_wgrad(h->dw[q->tid], value(q, s->in_stage, i0), at(q, dx, i0), scratch(q), i1 - i0, &h->direct);
	else if (h->depthwise) {
		for (int i = i0; i < i1; i++)
			cpu->k->dw_wgrad(h->dw[q->tid], value(q, s->in_stage, i), at(q, dx, i), pad8(c->oc) / 8, c->ih, c->iw, c->oh,
			    c->ow, c->k, c->stride, c->pad);
	} else if (h->own_wgrad) {
		for (int i = i0; i < i1; i++)
			cpu->k->conv_wgrad(h->dw[q->tid], value(q, s->in_stage, i), at(q, dx, i), c->ic, c->ih, c->iw, c->plain_src,
			    pad8(c->oc) / 8, c->oh, c->ow, c->k, c->stride, c->pad);
	} else if (i1 - i0 < q->p->chunk && !q->fresh) { /* single images need a scratch of their own */
		for (int i = i0; i < i1; i++) {
			dnn_conv_wgrad(h->dnn, q->tid, dw, NULL, value(q, s->in_stage, i), at(q, dx, i), 1);
			add_floats(h->dw[q->tid], dw, h->ndw);
		}
	} else {
		dnn_conv_wgrad(h->dnn, q->tid, dw, scratch(q), value(q, s->in_stage, i0), at(q, dx, i0), i1 - i0);
		if (!q->fresh)
			add_floats(h->dw[q->tid], dw, h->ndw);
	}
	if (n->param[P_BIAS] < 0)
		return;
	if (q->fresh)
		memset(h->db[q->tid], 0, n->c * sizeof(float));
	for (int i = i0; i < i1; i++) {
		double *sum = cpu->sum[q->tid];
		memset(sum, 0, 2 * n->c * sizeof *sum);
		cpu->k->sums(sum, sum + n->c, at(q, dx, i), cpu->zero, n->c, n->h, n->w);
		for (int c = 0; c < n->c; c++)
			h->db[q->tid][c] += sum[c];
	}
}

void head_wgrad(const struct pass *q, const struct stage *s, int i0, int i1)
{
	const struct head *h = &((struct exec *)s->exec)->head;

	(is_linear(q, s) ? linear_wgrad : h->image_wgrad ? image_wgrad : conv_wgrad)(q, s, i0, i1);
}

/* (KB,per,8) -> (O,per) */
static void unblock(float *dw, const float *blocked, size_t out, size_t per)
{
	for (size_t o = 0; o < out; o++)
		for (size_t j = 0; j < per; j++)
			dw[o * per + j] = blocked[((o / 8) * per + j) * 8 + o % 8];
}

void put_weight_gradient(const struct head *h, const struct node *n, float *dw, size_t count)
{
	size_t kk = (size_t)n->k * n->k, in = h->shape.ic, each = in / h->groups, out = n->c / h->groups;
	float *dense = h->groups > 1 ? emalloc(n->c * in * kk * sizeof *dense) : dw;

	if (n->op == OP_LINEAR)
		memcpy(dense, h->dw[0], count * sizeof *dw);
	else if (h->depthwise)
		unblock(dense, h->dw[0], n->c, kk);
	else if (h->own_wgrad || h->wino_wgrad || h->polyphase || h->image_wgrad)
		unblock(dense, h->dw[0], n->c, in * kk);
	else
		dnn_conv_unprepare(h->dnn, dense, h->dw[0]);
	if (dense == dw)
		return;
	for (size_t o = 0; o < (size_t)n->c; o++) /* of the dense one, what lies within the groups */
		memcpy(dw + o * each * kk, dense + (o * in + o / out * each) * kk, each * kk * sizeof *dw);
	free(dense);
}
