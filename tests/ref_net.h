/* A network in double and plain loops, NCHW: what every operation means. Small nets only. */
#ifndef REF_NET_H
#define REF_NET_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../lib/net.h"

struct ref { /* one pass */
	const struct net *net;
	const double *theta, *buffer; /* as struct weights, in double */
	int n;                        /* images */
	bool train;                   /* batch statistics */
	bool drops;                   /* and dropout, by these draws */
	uint32_t seed, step;
	double **y;                   /* (nodes)(n,C,H,W) */
};

static double ref_param(const struct ref *r, const struct node *v, enum role role, size_t i)
{
	const struct param *p = &r->net->param[v->param[role]];

	return (role == P_MEAN || role == P_VAR ? r->buffer : r->theta)[p->offset + i];
}

static double ref_conv(const struct ref *r, const struct node *v, const struct node *a, const double *x, int o, int h, int w)
{
	int each = a->c / v->groups, first = o / (v->c / v->groups) * each;
	double sum = v->param[P_BIAS] < 0 ? 0 : ref_param(r, v, P_BIAS, o);

	for (int c = 0; c < each; c++)
		for (int i = 0; i < v->k; i++)
			for (int j = 0; j < v->k; j++) {
				int yy = h * v->stride + i - v->pad, xx = w * v->stride + j - v->pad;
				if (yy >= 0 && xx >= 0 && yy < a->h && xx < a->w)
					sum += x[((first + c) * a->h + yy) * a->w + xx] *
					    ref_param(r, v, P_WEIGHT, ((size_t)(o * each + c) * v->k + i) * v->k + j);
			}
	return sum;
}

static double ref_pool(const struct node *v, const struct node *a, const double *x, int c, int h, int w)
{
	int y0 = h * v->stride - v->pad, x0 = w * v->stride - v->pad, y1 = y0 + v->k, x1 = x0 + v->k;
	double sum = 0, best = -INFINITY;

	if (v->op == OP_ADAPT || v->op == OP_GAP) {
		y0 = h * a->h / v->h, y1 = ((h + 1) * a->h + v->h - 1) / v->h;
		x0 = w * a->w / v->w, x1 = ((w + 1) * a->w + v->w - 1) / v->w;
	}
	for (int yy = y0 < 0 ? 0 : y0; yy < y1 && yy < a->h; yy++)
		for (int xx = x0 < 0 ? 0 : x0; xx < x1 && xx < a->w; xx++) {
			sum += x[(c * a->h + yy) * a->w + xx];
			best = fmax(best, x[(c * a->h + yy) * a->w + xx]);
		}
	return v->op == OP_MAXPOOL ? best : sum / ((y1 - y0) * (x1 - x0));
}

static void ref_norm(const struct ref *r, const struct node *v, double *y, const double *x)
{
	size_t per = (size_t)v->h * v->w, each = per * v->c;

	for (int c = 0; c < v->c; c++)
		for (int i = 0; i < r->n; i++) {
			int from = v->op == OP_IN ? i : 0, to = v->op == OP_IN ? i + 1 : r->n;
			double m = 0, var = 0;
			for (int k = from; k < to; k++)
				for (size_t j = 0; j < per; j++)
					m += x[k * each + c * per + j] / ((to - from) * per);
			for (int k = from; k < to; k++)
				for (size_t j = 0; j < per; j++)
					var += pow(x[k * each + c * per + j] - m, 2) / ((to - from) * per);
			if (v->op == OP_BN && !r->train)
				m = ref_param(r, v, P_MEAN, c), var = ref_param(r, v, P_VAR, c);
			for (size_t j = 0; j < per; j++)
				y[i * each + c * per + j] = (x[i * each + c * per + j] - m) / sqrt(var + v->eps) *
				    ref_param(r, v, P_WEIGHT, c) + ref_param(r, v, P_BIAS, c);
		}
}

static void ref_drop(const struct ref *r, const struct node *v, double *y, const double *x, int image)
{
	struct rng g = rng_at(r->seed, RNG_DROP, r->step, image, v - r->net->node);
	bool out = v->op == OP_DROPPATH && rng_uniform(&g) < v->p;

	for (int j = 0; j < v->c * v->h * v->w; j++) {
		if (v->op == OP_DROPOUT)
			out = rng_u32(&g) < (uint32_t)(v->p * 4294967296.0);
		y[j] = !r->train || !r->drops ? x[j] : out ? 0 : x[j] / (1 - (double)v->p);
	}
}

static double ref_value(const struct ref *r, const struct node *v, const double *x, const double *x2, int c, int h, int w)
{
	const struct node *a = &r->net->node[v->in[0]];
	size_t per = (size_t)a->h * a->w, j = c * per + (size_t)h * a->w + w;

	switch (v->op) {
	case OP_AFFINE:  return x[j] * v->scale[c] + v->shift[c];
	case OP_CONV:    return ref_conv(r, v, a, x, c, h, w);
	case OP_RELU:    return fmax(x[j], 0);
	case OP_RELU6:   return fmin(fmax(x[j], 0), 6);
	case OP_SILU:    return x[j] / (1 + exp(-x[j]));
	case OP_SIGMOID: return 1 / (1 + exp(-x[j]));
	case OP_MAXPOOL:
	case OP_AVGPOOL:
	case OP_ADAPT:
	case OP_GAP:     return ref_pool(v, a, x, c, h, w);
	case OP_ADD:     return x[j] + x2[j];
	case OP_MUL:     return x[j] * x2[c];
	case OP_CONCAT:  return c < a->c ? x[j] : x2[j - a->c * per];
	case OP_SELECT:  return x[v->map[c] * per + j - c * per];
	case OP_FLATTEN: return x[c];
	case OP_LINEAR: {
		double sum = ref_param(r, v, P_BIAS, c);
		for (int i = 0; i < a->c; i++)
			sum += x[i] * ref_param(r, v, P_WEIGHT, (size_t)c * a->c + i);
		return sum;
	}
	default:         die("node %s: no reference", v->name);
	}
}

/* images (n,C,H,W) -> logits (n,K), owned by r until ref_free(). */
static const double *ref_forward(struct ref *r, const double *images)
{
	r->y = ecalloc(r->net->nnode, sizeof *r->y);
	for (int k = 0; k < r->net->nnode; k++) {
		const struct node *v = &r->net->node[k];
		size_t each = (size_t)v->c * v->h * v->w;
		double *y = r->y[k] = ecalloc(r->n * each, sizeof *y);

		if (v->op == OP_INPUT) {
			memcpy(y, images, r->n * each * sizeof *y);
			continue;
		}
		const struct node *a = &r->net->node[v->in[0]], *b = v->nin > 1 ? &r->net->node[v->in[1]] : a;
		const double *x = r->y[v->in[0]], *x2 = v->nin > 1 ? r->y[v->in[1]] : NULL;
		size_t xa = (size_t)a->c * a->h * a->w, xb = (size_t)b->c * b->h * b->w;
		if (v->op == OP_BN || v->op == OP_IN) {
			ref_norm(r, v, y, x);
			continue;
		}
		for (int i = 0; i < r->n; i++)
			if (v->op == OP_DROPOUT || v->op == OP_DROPPATH)
				ref_drop(r, v, y + i * each, x + i * xa, i);
			else
				for (int c = 0; c < v->c; c++)
					for (int h = 0; h < v->h; h++)
						for (int w = 0; w < v->w; w++)
							y[i * each + ((size_t)c * v->h + h) * v->w + w] = ref_value(r, v, x + i * xa,
							    x2 ? x2 + i * xb : NULL, c, h, w);
	}
	return r->y[r->net->nnode - 1];
}

static void ref_free(struct ref *r)
{
	for (int k = 0; r->y && k < r->net->nnode; k++)
		free(r->y[k]);
	free(r->y);
	r->y = NULL;
}

#endif
