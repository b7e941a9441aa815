/* Operations of the CPU backend that run alone: small maps, small cost, plain loops. */
#include <math.h>

#include "cpu.h"

void solo_forward(const struct pass *q, const struct stage *s, int i0, int i1)
{
	const struct node *n = &q->p->net->node[s->solo], *src = &q->p->net->node[n->in[0]];
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
		case OP_FLATTEN:
			for (int c = 0; c < src->c; c++)
				for (int64_t j = 0; j < in; j++)
					y[c * in + j] = x[((c / 8) * in + j) * 8 + c % 8];
			break;
		case OP_GAP:
			for (int b = 0; b < pad8(src->c) / 8; b++) {
				double sum[8] = { 0 };
				for (int64_t j = 0; j < in * 8; j++)
					sum[j % 8] += x[b * in * 8 + j];
				for (int j = 0; j < 8; j++)
					y[b * 8 + j] = sum[j] / in;
			}
			break;
		case OP_MAXPOOL:
		case OP_AVGPOOL:
			for (int b = 0; b < pad8(src->c) / 8; b++)
				for (int r = 0; r < n->h; r++)
					for (int t = 0; t < n->w; t++)
						for (int l = 0; l < 8; l++) {
							float best = -INFINITY, sum = 0;
							int k2 = 0, pick = -1;
							for (int dr = 0; dr < n->k; dr++)
								for (int dt = 0; dt < n->k; dt++, k2++) {
									int yy = r * n->stride + dr - n->pad, xx = t * n->stride + dt - n->pad;
									if (yy < 0 || xx < 0 || yy >= src->h || xx >= src->w)
										continue;
									float v = x[((b * in) + (int64_t)yy * src->w + xx) * 8 + l];
									sum += v;
									if (pick < 0 || v > best || v != v)
										best = v, pick = k2;
								}
							size_t o = (((size_t)b * n->h + r) * n->w + t) * 8 + l;
							y[o] = n->op == OP_MAXPOOL ? best : sum / (n->k * n->k);
							if (choice)
								choice[o] = pick;
						}
			break;
		default:
			die("stage of node %s: no implementation", n->name);
		}
	}
}

void solo_backward(const struct pass *q, const struct stage *s, const float *dy, float *din, int i)
{
	const struct node *n = &q->p->net->node[s->solo], *src = &q->p->net->node[n->in[0]];
	int64_t in = (int64_t)src->h * src->w;
	size_t total = cpu_floats(src, node_layout(q->p->net, n->in[0]));

	switch (n->op) {
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
		for (size_t j = 0; j < total; j++)
			din[j] = dy[j / (in * 8) * 8 + j % 8] / in;
		break;
	case OP_MAXPOOL:
	case OP_AVGPOOL: {
		const uint8_t *choice = s->mask >= 0 ? (uint8_t *)at(q, s->mask, i) : NULL;
		memset(din, 0, total * sizeof *din);
		for (size_t o = 0; o < cpu_floats(n, BLOCKED); o++) {
			int l = o % 8, t = o / 8 % n->w, r = o / 8 / n->w % n->h;
			int64_t b = o / 8 / n->w / n->h;
			for (int k2 = 0; k2 < n->k * n->k; k2++) {
				int yy = r * n->stride + k2 / n->k - n->pad, xx = t * n->stride + k2 % n->k - n->pad;
				if (n->op == OP_MAXPOOL ? choice[o] == k2 : true)
					din[(b * in + (int64_t)yy * src->w + xx) * 8 + l] += n->op == OP_MAXPOOL ? dy[o] : dy[o] / (n->k * n->k);
			}
		}
		break;
	}
	default:
		die("stage of node %s: no implementation", n->name);
	}
}
