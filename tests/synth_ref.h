/* The objective of synthesis in double on a small pool, and its gradient against synth_gradient's: for t_synth, t_fresh. */
#ifndef SYNTH_REF_H
#define SYNTH_REF_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../lib/plan.h"
#include "../lib/synth.h"
#include "ref.h"
#include "tap.h"

enum { C = 3, S = 8, HW = S * S, PIX = C * HW, K = 4, POOL = 9, MAXN = 10, WIDEST = 16 * HW, REAL = 14, LAST = 8 * HW / 16,
	WIDTH = LAST + 8 * HW / 4 };

static const int chw[3] = { C, S, S };

/* Teachers of two blocks with statistics to match, all random. */
struct pool {
	struct net *net;
	struct weights w[POOL];
	struct layer_stats stats[POOL][2];
	struct teacher_ref ref[POOL];
};

static float *fill(struct rng *r, size_t n, double mean, double size, int positive)
{
	float *x = emalloc(n * sizeof *x);

	for (size_t i = 0; i < n; i++) {
		double v = mean + size * rng_normal(r);
		x[i] = positive ? fabs(v) + 0.1 : v;
	}
	return x;
}

static struct pool *make_pool(void)
{
	struct pool *p = ecalloc(1, sizeof *p);
	char err[ERRLEN];

	p->net = net_arch("convnet2-8", chw, K, err);
	if (!p->net)
		die("%s", err);
	for (int t = 0; t < POOL; t++) {
		struct rng r = rng_at(7, RNG_NOISE, t, 0, 0);
		int layer = 0;
		p->w[t] = weights_new(p->net);
		net_init(p->net, &p->w[t], t, RNG_INIT);
		for (int i = 0; i < p->net->nnode; i++) {
			const struct node *v = &p->net->node[i];
			if (v->op != OP_BN)
				continue;
			for (int role = 0; role < P_COUNT; role++) {
				float *to = weights_param(p->net, &p->w[t], v->param[role]);
				float *from = fill(&r, v->c, role == P_WEIGHT || role == P_VAR, 0.3, role == P_VAR);
				memcpy(to, from, v->c * sizeof *to);
				free(from);
			}
			p->stats[t][layer++] = (struct layer_stats){ .c = v->c, .nclass = K, .mean = fill(&r, v->c, 0, 0.5, 0),
				.var = fill(&r, v->c, 1, 0.5, 1), .cmean = fill(&r, K * v->c, 0, 0.5, 0),
				.cvar = fill(&r, K * v->c, 1, 0.5, 1) };
		}
		p->ref[t] = (struct teacher_ref){ p->net, &p->w[t], p->stats[t] };
	}
	return p;
}

static void free_pool(struct pool *p)
{
	for (int t = 0; t < POOL; t++) {
		weights_free(&p->w[t]);
		layer_stats_free(&p->stats[t][0]);
		layer_stats_free(&p->stats[t][1]);
	}
	net_free(p->net);
	free(p);
}

static int64_t by_class[MAXN] = { 0, 1, 2, 3, 0, 1, 2, 3, 0, 1 }, in_turn[MAXN] = { 0, 0, 0, 0, 1, 1, 1, 1, 2, 2 };
static float low[MAXN * PIX], high[MAXN * PIX];

static struct unit make_unit(int n, int64_t number)
{
	struct rng r = rng_at(3, RNG_NOISE, 0, 0, 0);

	for (int i = 0; i < MAXN * PIX; i++)
		low[i] = -2 + 0.1 * (i / HW % C), high[i] = 2.5;
	return (struct unit){ .n = n, .number = number, .label = by_class, .index = in_turn, .x = fill(&r, n * PIX, 0, 1, 0),
		.opt = optim_new(OPT_ADAM, n * PIX), .total = 40, .lo = low, .hi = high };
}

static void free_unit(struct unit *u)
{
	free(u->x);
	optim_free(&u->opt);
}

/* out = matrix*in + shift for one image: how the augmentation of this iteration acts, found from where it sends each
 * pixel. The draws are those that rng(7) promises. */
struct affine {
	double matrix[PIX][PIX], shift[PIX];
};

static void find_affine(struct affine *a, const struct synth_opts *o, const struct unit *u)
{
	struct rng r = rng_at(o->seed, RNG_SYNTHAUG, u->number, u->opt.step, 0);
	struct view v = VIEW_IDENTITY(S, S);
	float in[PIX] = { 0 }, out[PIX];
	struct dsa d;

	if (o->dsa) {
		enum dsa_kind kind = dsa_draw_kind(&r, o->dsa);
		dsa_draw(&r, kind, S, S, &d);
	} else {
		if (o->crop_max > 0)
			view_draw_rrc(&r, S, S, o->crop_min, o->crop_max, &v);
		v.flip = rng_uniform(&r) < o->flip;
		if (o->roll_min || o->roll_max) {
			v.dy = (int)rng_below(&r, o->roll_max - o->roll_min + 1) + o->roll_min;
			v.dx = (int)rng_below(&r, o->roll_max - o->roll_min + 1) + o->roll_min;
		}
	}
	for (int j = -1; j < PIX; j++) {
		if (j >= 0)
			in[j] = 1;
		if (o->dsa)
			dsa_apply(out, in, C, S, S, &d);
		else
			view_apply(out, in, C, S, S, &v);
		for (int i = 0; i < PIX; i++)
			if (j < 0)
				a->shift[i] = out[i];
			else
				a->matrix[i][j] = out[i] - a->shift[i];
		if (j >= 0)
			in[j] = 0;
	}
}

/* Logits (K) of one image (C,S,S), the inputs of both BN layers, and features: the last ones (LAST), behind them those of the
 * pooling before (WIDTH in all). */
static void ref_forward(const struct net *net, const struct weights *w, const double *image, double *logits,
    double *const *bn, double *last)
{
	double a[WIDEST], b[WIDEST], weight[16 * 16 * 9], bias[16];
	int layer = 0, c = C, h = S;

	memcpy(a, image, PIX * sizeof *a);
	for (int i = 0; i < net->nnode; i++) {
		const struct node *v = &net->node[i];
		const float *p[P_COUNT];
		for (int r = 0; r < P_COUNT; r++)
			p[r] = v->param[r] < 0 ? NULL : weights_param(net, w, v->param[r]);
		switch (v->op) {
		case OP_CONV:
			for (int j = 0; j < v->c * c * 9; j++)
				weight[j] = p[P_WEIGHT][j];
			for (int j = 0; j < v->c; j++)
				bias[j] = p[P_BIAS][j];
			ref_conv(b, a, weight, bias, c, h, h, v->c, h, h, 3, 1, 1);
			memcpy(a, b, v->c * h * h * sizeof *a);
			break;
		case OP_BN:
			memcpy(bn[layer++], a, c * h * h * sizeof *a);
			for (int j = 0; j < c * h * h; j++) {
				int k = j / (h * h);
				a[j] = (a[j] - p[P_MEAN][k]) / sqrt(p[P_VAR][k] + (double)v->eps) * p[P_WEIGHT][k] + p[P_BIAS][k];
			}
			break;
		case OP_RELU:
			for (int j = 0; j < c * h * h; j++)
				a[j] = MAX(a[j], 0);
			break;
		case OP_AVGPOOL:
			for (int j = 0; j < c * v->h * v->w; j++) {
				const double *x = a + j / (v->h * v->w) * h * h + j / v->w % v->h * 2 * h + j % v->w * 2;
				b[j] = (x[0] + x[1] + x[h] + x[h + 1]) / 4;
			}
			memcpy(a, b, c * v->h * v->w * sizeof *a);
			if (c * v->h * v->w > LAST)
				memcpy(last + LAST, a, (WIDTH - LAST) * sizeof *a);
			break;
		case OP_LINEAR:
			memcpy(last, a, LAST * sizeof *a);
			for (int k = 0; k < K; k++) {
				logits[k] = p[P_BIAS][k];
				for (int j = 0; j < c; j++)
					logits[k] += p[P_WEIGHT][k * c + j] * a[j];
			}
			break;
		default:
			break;
		}
		c = v->c, h = v->h;
	}
}

static double cross_entropy(double (*logits)[MAXN][K], int nteacher, const struct unit *u, enum ensemble how)
{
	double sum = 0;

	for (int i = 0; i < u->n; i++) {
		double mean[K] = { 0 }, z = 0, prob = 0, each = 0;
		for (int t = 0; t < nteacher; t++) {
			double zt = 0;
			for (int k = 0; k < K; k++) {
				mean[k] += logits[t][i][k] / nteacher;
				zt += exp(logits[t][i][k]);
			}
			prob += exp(logits[t][i][u->label[i]]) / zt / nteacher;
			each += (log(zt) - logits[t][i][u->label[i]]) / nteacher;
		}
		for (int k = 0; k < K; k++)
			z += exp(mean[k]);
		sum += how == ENS_LOGITS ? log(z) - mean[u->label[i]] : how == ENS_PROBS ? -log(prob) : each;
	}
	return sum / u->n;
}

/* Real images for t_fresh: of class k those whose number is k modulo K. */
static float real_image[REAL][PIX];

static void affine_image(const struct affine *a, const double *x, double *out)
{
	for (int j = 0; j < PIX; j++) {
		out[j] = a->shift[j];
		for (int k = 0; k < PIX; k++)
			out[j] += a->matrix[j][k] * x[k];
	}
}

/* What all real images show of one teacher under the augmentation: statistics of its layers, mean and deviation of the
 * features of each class. */
static void see_all(const struct pool *p, const struct affine *a, int teacher, struct layer_stats *stats,
    double mean[K][WIDTH], double deviation[K][WIDTH])
{
	static const int per[2] = { HW, HW / 4 };
	static double x[PIX], aug[PIX], feature[2][REAL][8 * HW], last[REAL][WIDTH];

	for (int i = 0; i < REAL; i++) {
		double *at[2] = { feature[0][i], feature[1][i] }, logits[K];
		for (int j = 0; j < PIX; j++)
			x[j] = real_image[i][j];
		affine_image(a, x, aug);
		ref_forward(p->net, &p->w[teacher], aug, logits, at, last[i]);
	}
	for (int k = 0; k < K; k++)
		for (int j = 0; j < WIDTH; j++) {
			int n = 0;
			mean[k][j] = 0;
			for (int i = k; i < REAL; i += K, n++)
				mean[k][j] += last[i][j];
			mean[k][j] /= n;
			deviation[k][j] = 0;
			for (int i = k; i < REAL; i += K)
				deviation[k][j] += (last[i][j] - mean[k][j]) * (last[i][j] - mean[k][j]) / n;
			deviation[k][j] = sqrt(deviation[k][j]);
		}
	for (int l = 0; l < 2; l++)
		for (int c = 0; c < 8; c++)
			for (int k = -1; k < K; k++) { /* -1: all */
				double sum = 0, sumsq = 0, n = 0, m;
				for (int i = MAX(k, 0); i < REAL; i += k < 0 ? 1 : K)
					for (int j = 0; j < per[l]; j++, n++) {
						double v = feature[l][i][c * per[l] + j];
						sum += v, sumsq += v * v;
					}
				m = sum / n;
				*(k < 0 ? &stats[l].mean[c] : &stats[l].cmean[k * 8 + c]) = m;
				*(k < 0 ? &stats[l].var[c] : &stats[l].cvar[k * 8 + c]) = sumsq / n - m * m;
			}
}

/* Squared distances of the features' means and deviations, of every class in the unit. */
static double distance(const struct synth_opts *o, double (*last)[WIDTH], const struct unit *u, double mean[K][WIDTH],
    double deviation[K][WIDTH])
{
	double sum = 0;

	for (int k = 0; k < K; k++)
		for (int j = 0; j < (o->depth ? WIDTH : LAST); j++) {
			double m = 0, d = 0;
			int n = 0;
			for (int i = 0; i < u->n; i++)
				if (u->label[i] == k)
					m += last[i][j], n++;
			if (!n)
				continue;
			m /= n;
			for (int i = 0; i < u->n; i++)
				if (u->label[i] == k)
					d += (last[i][j] - m) * (last[i][j] - m) / n;
			sum += (m - mean[k][j]) * (m - mean[k][j]);
			sum += o->deviations * (sqrt(d) - deviation[k][j]) * (sqrt(d) - deviation[k][j]);
		}
	return sum;
}

/* The whole objective in double at x (n,C,S,S). */
static double objective(const struct synth_opts *o, const struct pool *p, const struct unit *u, const struct affine *a,
    const int *pick, int npick, const double *x)
{
	static double aug[PIX], logits[POOL][MAXN][K], feature[2][MAXN * 8 * HW], waste[MAXN * 8 * HW], last[MAXN][WIDTH];
	static double mean[K][WIDTH], deviation[K][WIDTH];
	static float room[2][2 * 8 * (1 + K)];
	static const int per[2] = { HW, HW / 4 };
	struct layer_stats seen[2];
	int matched = synth_matched(o, POOL), first = o->prior ? matched : 0; /* who is matched, who predicts */
	double bn = 0;

	for (int l = 0; l < 2; l++)
		seen[l] = (struct layer_stats){ 8, K, room[l], room[l] + 8, room[l] + 16, room[l] + 16 + 8 * K };
	for (int t = 0; t < npick; t++) {
		for (int i = 0; i < u->n; i++) {
			double *at[2] = { feature[0] + i * 8 * per[0], feature[1] + i * 8 * per[1] };
			affine_image(a, x + i * PIX, aug);
			ref_forward(p->net, &p->w[pick[t]], aug, logits[t][i], at, last[i]);
		}
		if (t >= matched)
			continue;
		if (o->fresh)
			see_all(p, a, pick[t], seen, mean, deviation);
		if (o->features)
			bn += distance(o, last, u, mean, deviation);
		for (int l = 0; !o->features && o->alpha > 0 && l < 2; l++)
			bn += match_layer_ref(feature[l], u->n, 8, per[l], o->fresh ? &seen[l] : &p->stats[pick[t]][l], u->label,
			    o->class_weight, l ? 1 : o->first, 1, waste);
	}
	return (o->ce > 0 ? o->ce * cross_entropy(logits + first, npick - first, u, o->ensemble) : 0) +
	    o->alpha * bn / (o->mean_bn ? matched : 1);
}

static void check_gradient(const char *name, const struct synth_opts *o, const struct pool *p, int n, long step)
{
	struct unit u = make_unit(n, 5);
	struct affine *a = emalloc(sizeof *a);
	struct synth *s = synth_new(o, p->ref, POOL, n);
	struct synth_loss loss;
	double x[MAXN * PIX], h = 1e-5, off = 0, size = 0, value, want;
	float dx[MAXN * PIX];
	char err[ERRLEN];
	int pick[POOL], npick;

	u.opt.step = step;
	if (synth_gradient(s, &u, dx, &loss, err) < 0)
		die("%s", err);
	npick = synth_subset(s, &u, step, pick);
	find_affine(a, o, &u);
	for (int i = 0; i < n * PIX; i++)
		x[i] = u.x[i];
	want = objective(o, p, &u, a, pick, npick, x);
	value = o->ce * loss.ce + o->alpha * loss.bn;
	ok(fabs(value - want) <= 1e-5 * fabs(want), "%s, iteration %ld: loss %.7g, reference %.7g", name, step, value, want);
	for (int i = 0; i < n * PIX; i += 11) {
		double keep = x[i], up, slope;
		x[i] = keep + h;
		up = objective(o, p, &u, a, pick, npick, x);
		x[i] = keep - h;
		slope = (up - objective(o, p, &u, a, pick, npick, x)) / (2 * h);
		x[i] = keep;
		off += (slope - dx[i]) * (slope - dx[i]);
		size += slope * slope;
	}
	ok(size > 0 && sqrt(off / size) < 1e-4, "%s, iteration %ld: gradient off by %.2g", name, step, sqrt(off / size));
	synth_free(s);
	free_unit(&u);
	free(a);
}

static const struct synth_opts plain = { .seed = 1, .subset = 3, .ce = 1, .alpha = 1, .first = 10, .opt = OPT_ADAM,
	.lr = 0.1, .beta1 = 0.5, .beta2 = 0.9, .sched = SCHED_COSINE };

#endif
