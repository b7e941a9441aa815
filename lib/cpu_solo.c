/* Operations of the CPU backend that run alone: small cost, plain loops. */
#include <math.h>
#include <stdlib.h>

#include "cpu.h"

/* Concat and select move channels: from[c] is the channel of the first input, or behind those of the second, that output
 * channel c is; to[0], to[1] the other way round, -1 where a channel is not selected. */
int solo_compile(const struct plan *p, const struct stage *s, struct exec *e, char err[ERRLEN])
{
	const struct node *n = &p->net->node[s->solo];
	int first, second;

	(void)err;
	if (n->op != OP_CONCAT && n->op != OP_SELECT)
		return 0;
	first = p->net->node[n->in[0]].c;
	second = n->op == OP_CONCAT ? n->c - first : 0;
	e->from = emalloc(n->c * sizeof *e->from);
	e->to[0] = emalloc((first + second) * sizeof *e->to[0]);
	e->to[1] = e->to[0] + first;
	for (int c = 0; c < first + second; c++)
		e->to[0][c] = -1;
	for (int c = 0; c < n->c; c++) {
		e->from[c] = n->op == OP_CONCAT ? c : n->map[c];
		e->to[0][e->from[c]] = c;
	}
	return 0;
}

void solo_release(struct exec *e)
{
	free(e->from);
	free(e->to[0]);
}

/* y (c channels): channel i is channel which[i] of a (ca channels) and b behind them, or 0 where that is -1. */
static void move_channels(float *y, int c, int64_t per, const int *which, const float *a, int ca, const float *b)
{
	static const float nothing;

	for (int first = 0; first < c; first += 8, y += per * 8) {
		const float *src[8];
		int step[8];
		bool whole = true; /* the eight lie side by side */

		for (int l = 0; l < 8; l++) {
			int w = first + l < c ? which[first + l] : -1;
			const float *x = w < ca ? a : b;
			w = w < ca ? w : w - ca;
			src[l] = w < 0 ? &nothing : x + (w / 8 * per) * 8 + w % 8;
			step[l] = w < 0 ? 0 : 8;
			whole = whole && w >= 0 && w % 8 == l && src[l] == src[0] + l;
		}
		if (whole) {
			memcpy(y, src[0], per * 8 * sizeof *y);
			continue;
		}
		for (int64_t j = 0; j < per; j++)
			for (int l = 0; l < 8; l++)
				y[j * 8 + l] = src[l][j * step[l]];
	}
}

/* y = x without what is dropped, the rest scaled so that the mean stays. Draws count values in NCHW order. */
static void drop(const struct pass *q, const struct node *n, float *y, const float *x, int i)
{
	const struct plan *p = q->p;
	int64_t per = (int64_t)n->h * n->w;
	float keep = 1 / (1 - n->p);
	struct rng r = rng_at(p->drop_seed, RNG_DROP, p->drop_step, i, n - p->net->node);

	if (!p->drops || p->opts.purpose != PLAN_TRAIN)
		memcpy(y, x, cpu_floats(n, BLOCKED) * sizeof *y);
	else if (n->op == OP_DROPPATH) {
		float scale = rng_uniform(&r) < n->p ? 0 : keep;
		for (size_t j = 0; j < cpu_floats(n, BLOCKED); j++)
			y[j] = x[j] * scale;
	} else {
		uint32_t below = n->p * 4294967296.0;
		memset(y, 0, cpu_floats(n, BLOCKED) * sizeof *y);
		for (int c = 0; c < n->c; c++)
			for (int64_t j = c / 8 * per * 8 + c % 8, k = 0; k < per; k++, j += 8)
				y[j] = rng_u32(&r) < below ? 0 : x[j] * keep;
	}
}

/* Where window o of k adaptive ones over a side begins; it ends where the last one that overlaps o + 1 ends. */
static int adapt_begin(int o, int k, int side)
{
	return (int64_t)o * side / k;
}

static int adapt_end(int o, int k, int side)
{
	return ((int64_t)(o + 1) * side + k - 1) / k;
}

/* Both directions of adaptive pooling: every output with the pixels of its window. */
static void adapt(const struct node *n, const struct node *src, float *y, const float *x, float *dx, const float *dy)
{
	for (int b = 0; b < pad8(src->c) / 8; b++)
		for (int r = 0; r < n->h; r++)
			for (int t = 0; t < n->w; t++) {
				int y0 = adapt_begin(r, n->h, src->h), y1 = adapt_end(r, n->h, src->h);
				int x0 = adapt_begin(t, n->w, src->w), x1 = adapt_end(t, n->w, src->w);
				size_t o = (((size_t)b * n->h + r) * n->w + t) * 8;
				float sum[8] = { 0 }, share = 1.0f / ((y1 - y0) * (x1 - x0));

				for (int yy = y0; yy < y1; yy++)
					for (int xx = x0; xx < x1; xx++)
						for (int l = 0; l < 8; l++) {
							size_t at = (((size_t)b * src->h + yy) * src->w + xx) * 8 + l;
							if (y)
								sum[l] += x[at];
							else
								dx[at] += dy[o + l] * share;
						}
				for (int l = 0; y && l < 8; l++)
					y[o + l] = sum[l] * share;
			}
}

static struct pool_shape pool_of(const struct node *n, const struct node *src)
{
	return (struct pool_shape){ pad8(src->c) / 8, src->h, src->w, n->h, n->w, n->k, n->stride, n->pad };
}

static enum act act_of(enum op op)
{
	return op == OP_RELU6 ? ACT_RELU6 : op == OP_SILU ? ACT_SILU : ACT_SIGMOID;
}

void solo_forward(const struct pass *q, const struct stage *s, int i0, int i1)
{
	const struct node *n = &q->p->net->node[s->solo], *src = &q->p->net->node[n->in[0]];
	const struct cpu *cpu = q->p->be_data;
	const struct exec *e = s->exec;
	struct pool_shape pool = pool_of(n, src);
	int64_t in = (int64_t)src->h * src->w;

	for (int i = i0; i < i1; i++) {
		const float *x = value(q, s->in_stage, i);
		float *y = at(q, s->y, i);
		uint8_t *choice = s->mask >= 0 ? (uint8_t *)at(q, s->mask, i) : NULL;

		switch (n->op) {
		case OP_AFFINE:
			for (int c = 0; c < n->c; c++)
				for (int64_t j = 0; j < in; j++)
					y[c * in + j] = x[c * in + j] * n->scale[c] + n->shift[c];
			break;
		case OP_RELU6:
		case OP_SILU:
		case OP_SIGMOID:
			cpu->k->act(y, x, act_of(n->op), cpu_floats(n, BLOCKED) / 8);
			break;
		case OP_MUL:
			cpu->k->affine_back(y, x, NULL, value(q, s->res_stage, i), cpu->zero, NULL, NULL, pad8(n->c) / 8, in);
			break;
		case OP_CONCAT:
		case OP_SELECT:
			move_channels(y, n->c, in, e->from, x, src->c, n->nin > 1 ? value(q, s->res_stage, i) : NULL);
			break;
		case OP_DROPOUT:
		case OP_DROPPATH:
			drop(q, n, y, x, i);
			break;
		case OP_ADAPT:
			adapt(n, src, y, x, NULL, NULL);
			break;
		case OP_FLATTEN:
			for (int c = 0; c < src->c; c++)
				for (int64_t j = 0; j < in; j++)
					y[c * in + j] = x[((c / 8) * in + j) * 8 + c % 8];
			memset(y + n->c, 0, (pad8(n->c) - n->c) * sizeof *y);
			break;
		case OP_GAP:
			cpu->k->mean(y, x, pad8(src->c) / 8, in);
			break;
		case OP_MAXPOOL:
			cpu->k->max_pool(y, choice, x, &pool);
			break;
		case OP_AVGPOOL:
			cpu->k->avg_pool(y, x, &pool);
			break;
		default:
			die("stage of node %s: no implementation", n->name);
		}
	}
}

/* y = x * s per channel: dx = dy * s, ds = sum of dy * x. */
static void mul_backward(const struct pass *q, const struct stage *s, const float *dy, float *din, float *dres, int i)
{
	const struct node *n = &q->p->net->node[s->solo];
	const struct cpu *cpu = q->p->be_data;
	double *sum = cpu->sum[q->tid], *with = sum + n->c;

	if (din)
		cpu->k->affine_back(din, dy, NULL, value(q, s->res_stage, i), cpu->zero, NULL, NULL, pad8(n->c) / 8,
		    (int64_t)n->h * n->w);
	if (!dres)
		return;
	memset(sum, 0, 2 * n->c * sizeof *sum);
	cpu->k->sums_back(sum, with, dy, value(q, s->in_stage, i), cpu->zero, n->c, n->h, n->w);
	memset(dres, 0, pad8(n->c) * sizeof *dres);
	for (int c = 0; c < n->c; c++)
		dres[c] = with[c];
}

void solo_backward(const struct pass *q, const struct stage *s, const float *dy, float *din, float *dres, int i)
{
	const struct node *n = &q->p->net->node[s->solo], *src = &q->p->net->node[n->in[0]];
	const struct cpu *cpu = q->p->be_data;
	const struct exec *e = s->exec;
	struct pool_shape pool = pool_of(n, src);
	int64_t in = (int64_t)src->h * src->w;
	size_t total = cpu_floats(src, node_layout(q->p->net, n->in[0]));

	if (n->op == OP_MUL) {
		mul_backward(q, s, dy, din, dres, i);
		return;
	}
	if (dres)
		move_channels(dres, n->c - src->c, in, e->to[1], dy, n->c, NULL);
	if (!din)
		return;
	switch (n->op) {
	case OP_RELU6:
	case OP_SIGMOID:
		cpu->k->act_back(din, dy, at(q, s->y, i), act_of(n->op), total / 8);
		break;
	case OP_SILU:
		cpu->k->act_back(din, dy, value(q, s->in_stage, i), ACT_SILU, total / 8);
		break;
	case OP_CONCAT:
	case OP_SELECT:
		move_channels(din, src->c, in, e->to[0], dy, n->c, NULL);
		break;
	case OP_DROPOUT:
	case OP_DROPPATH:
		drop(q, n, din, dy, i);
		break;
	case OP_ADAPT:
		memset(din, 0, total * sizeof *din);
		adapt(n, src, NULL, NULL, din, dy);
		break;
	case OP_AFFINE:
		for (int c = 0; c < n->c; c++)
			for (int64_t j = 0; j < in; j++)
				din[c * in + j] = dy[c * in + j] * n->scale[c];
		break;
	case OP_FLATTEN:
		memset(din, 0, total * sizeof *din);
		for (int c = 0; c < src->c; c++)
			for (int64_t j = 0; j < in; j++)
				din[((c / 8) * in + j) * 8 + c % 8] = dy[c * in + j];
		break;
	case OP_GAP:
		cpu->k->mean_back(din, dy, pad8(src->c) / 8, in);
		break;
	case OP_MAXPOOL:
		cpu->k->max_pool_back(din, dy, (uint8_t *)at(q, s->mask, i), &pool);
		break;
	case OP_AVGPOOL:
		cpu->k->avg_pool_back(din, dy, &pool);
		break;
	default:
		die("stage of node %s: no implementation", n->name);
	}
}
