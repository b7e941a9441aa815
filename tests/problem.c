#include "problem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../lib/loss.h"

enum { WHOLE = 3200 }; /* image tensors up to this size are stored whole */
enum { SIGNS = 5000 }; /* the tensor that the signs of calm biases are of */

double uniform(uint32_t i, uint32_t j)
{
	uint32_t h = i * 2654435761u + j * 40503u + 12345u;

	h ^= h >> 16;
	h *= 0x45d9f3bu;
	h ^= h >> 16;
	return h / 4294967296.0;
}

enum form { PLUS, CENTRED };

static float *values(size_t count, int j, enum form form)
{
	float *x = ecalloc(count, sizeof *x);

	for (size_t i = 0; i < count; i++)
		x[i] = form == PLUS ? 0.5 + uniform(i, j) : (uniform(i, j) - 0.5) * 0.5;
	return x;
}

int find_param(const struct net *net, const char *name)
{
	for (int i = 0; i < net->nparam; i++)
		if (!strcmp(net->param[i].name, name))
			return i;
	return -1;
}

static void fill_param(struct problem *p, int param, int j)
{
	const struct param *q = &p->net->param[param];
	enum op op = p->net->node[q->node].op;
	int heavy = op_weighs(op), biased = p->net->node[q->node].param[P_BIAS] >= 0;
	float *x = weights_param(p->net, &p->weights, param);
	size_t fan_in = q->count / q->shape[0];

	for (size_t i = 0; i < q->count; i++) {
		double u = uniform(i, j), calm_beta = u < 0.5 ? u - 1 : u;
		if (p->gain)
			calm_beta = (0.5 + u / 2) * (uniform(i, SIGNS) < 0.5 ? -1 : 1);
		if (heavy && p->gain && biased)
			x[i] = q->role == P_WEIGHT ? (2 * u - 1) * sqrt(3) * sqrt(2.0 / fan_in) * p->gain : calm_beta;
		else if (heavy)
			x[i] = q->role == P_WEIGHT ? (2 * u - 1) * sqrt(3) * sqrt(2.0 / fan_in) : (u - 0.5) * 0.2;
		else if (q->role == P_WEIGHT)
			x[i] = (0.5 + u) * (p->gain ? p->gain : p->calm ? 0.15 : 1);
		else if (q->role == P_BIAS && (p->calm || p->gain))
			x[i] = calm_beta;
		else
			x[i] = q->role == P_VAR ? 0.5 + u : (u - 0.5) * 0.5;
	}
}

/* "names" as such, or from "modules": the path of a module, ":", a letter for each of its parameters. */
static struct val *read_names(const struct val *frame)
{
	static const char letter[P_COUNT + 1] = "wbmv"; /* in the order of enum role, and of PyTorch */
	const struct val *modules = val_get(frame, "modules");
	struct val *names;

	if (!modules)
		return val_copy(val_get(frame, "names"));
	names = val_list();
	for (size_t i = 0; i < modules->list.len; i++) {
		const char *module = modules->list.item[i]->s.p, *colon = strchr(module, ':');
		for (int r = 0; r < P_COUNT; r++) {
			if (!strchr(colon, letter[r]))
				continue;
			char *name = eprintf_str("%.*s.%s", (int)(colon - module), module, role_name[r]);
			val_push(names, val_str(name));
			free(name);
		}
	}
	return names;
}

/* "bn", or the modules that have a running mean. */
static struct val *read_bn(const struct val *frame)
{
	const struct val *modules = val_get(frame, "modules");
	struct val *names;

	if (!modules)
		return val_copy(val_get(frame, "bn"));
	names = val_list();
	for (size_t i = 0; i < modules->list.len; i++) {
		const char *module = modules->list.item[i]->s.p, *colon = strchr(module, ':');
		char *path = estrndup(module, colon - module);
		if (strchr(colon, 'm'))
			val_push(names, val_str(path));
		free(path);
	}
	return names;
}

static void fill_weights(struct problem *p)
{
	for (size_t j = 0; j < p->names->list.len; j++) {
		int param = find_param(p->net, p->names->list.item[j]->s.p);
		if (param < 0)
			continue;
		fill_param(p, param, j);
		p->found++;
	}
}

void problem_new(struct problem *p, struct val *frame)
{
	const struct val *shape = val_get(frame, "shape");
	const struct tensor *labels = val_get_tensor(frame, "labels");
	char err[ERRLEN];

	*p = (struct problem){ .name = val_get_str(frame, "case"), .frame = frame, .n = labels->shape[0] };
	p->label = labels->data;
	p->k = val_get_int(frame, "classes", 0);
	p->alpha = val_get_f64(frame, "alpha", 0);
	const struct val *calm = val_get(frame, "calm");
	p->calm = calm && calm->type == V_BOOL && calm->b;
	p->first = val_get_f64(frame, "first", 0);
	p->gain = val_get_f64(frame, "gain", 0);
	p->sampled = val_get_int(frame, "sampled", 41);
	p->names = read_names(frame);
	p->bn = read_bn(frame);
	for (int i = 0; i < 3; i++)
		p->chw[i] = shape->list.item[i]->i;
	p->net = net_arch(val_get_str(frame, "arch"), p->chw, p->k, err);
	if (!p->net)
		die("%s: %s", p->name, err);
	p->weights = weights_new(p->net);
	fill_weights(p);
	p->pixels = (size_t)p->n * p->chw[0] * p->chw[1] * p->chw[2];
	p->stride = p->pixels > WHOLE ? val_get_int(frame, "stride", 7) : 1;
	p->images = ecalloc(p->pixels, sizeof *p->images);
	for (size_t i = 0; i < p->pixels; i++)
		p->images[i] = (2 * uniform(i, 1000 + val_get_int(frame, "seed", 0)) - 1) * 1.7;
	p->logits = ecalloc((size_t)p->n * p->k, sizeof *p->logits);
	p->dlogits = ecalloc((size_t)p->n * p->k, sizeof *p->dlogits);
	p->ntap = p->bn->list.len;
	for (int l = 0; l < p->ntap; l++) {
		char gamma[96];
		snprintf(gamma, sizeof gamma, "%s.weight", p->bn->list.item[l]->s.p);
		int param = find_param(p->net, gamma);
		size_t c = param < 0 ? 1 : p->net->param[param].count;
		p->stat[l] = (struct layer_stats){ c, p->k, values(c, 2000 + 2 * l, CENTRED),
			values(c, 2001 + 2 * l, PLUS), values(p->k * c, 3000 + 2 * l, CENTRED),
			values(p->k * c, 3001 + 2 * l, PLUS) };
	}
}

void problem_free(struct problem *p)
{
	for (int l = 0; l < p->ntap; l++) {
		free(p->stat[l].mean);
		free(p->stat[l].var);
		free(p->stat[l].cmean);
		free(p->stat[l].cvar);
	}
	free(p->images);
	free(p->logits);
	free(p->dlogits);
	weights_free(&p->weights);
	net_free(p->net);
	val_free(p->names);
	val_free(p->bn);
	val_free(p->frame);
}

const double *want(const struct problem *p, const char *key, size_t count)
{
	const struct tensor *t = val_get_tensor(p->frame, key);

	if (!t || t->type != DT_F64 || tensor_count(t) != count)
		die("fixture %s: no %s of %zu", p->name, key, count);
	return t->data;
}

const float *want32(const struct problem *p, const char *key, size_t count)
{
	const struct tensor *t = val_get_tensor(p->frame, key);

	if (!t || t->type != DT_F32 || tensor_count(t) != count)
		die("fixture %s: no %s of %zu", p->name, key, count);
	return t->data;
}

double off_max(const float *got, const float *ref, size_t n)
{
	double worst = 0, size = 0;

	for (size_t i = 0; i < n; i++) {
		double d = fabs((double)got[i] - ref[i]);
		worst = isnan(d) ? INFINITY : fmax(worst, d);
		size = fmax(size, fabs(ref[i]));
	}
	return worst / size;
}

double off_max64(const double *got, const double *ref, size_t n)
{
	double worst = 0, size = 0;

	for (size_t i = 0; i < n; i++) {
		double d = fabs(got[i] - ref[i]);
		worst = isnan(d) ? INFINITY : fmax(worst, d);
		size = fmax(size, fabs(ref[i]));
	}
	return worst / size;
}

double norm(const float *x, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += (double)x[i] * x[i];
	return sqrt(sum);
}

double off_images(const struct problem *p, const char *key, const float *got)
{
	size_t stride = p->stride, count = (p->pixels + stride - 1) / stride;
	const float *ref = want32(p, key, count);
	char *norm_key = eprintf_str("%s.norm", key);
	double full = *want(p, norm_key, 1), diff = 0, size = 0;

	free(norm_key);
	for (size_t i = 0; i < count; i++) {
		double d = (double)got[i * stride] - ref[i];
		diff += d * d;
		size += (double)ref[i] * ref[i];
	}
	return fmax(sqrt(diff / size), fabs(norm(got, p->pixels) - full) / full);
}

static int picked(const struct param *q, enum pick pick)
{
	int running = q->role == P_MEAN || q->role == P_VAR;

	return pick == ALL || running == (pick == RUNNING);
}

static double number(const struct tensor *t, size_t i)
{
	return t->type == DT_F64 ? ((const double *)t->data)[i] : ((const float *)t->data)[i];
}

double off_params(const struct problem *p, const char *key, enum pick pick, const struct weights *w, double floor)
{
	const struct val *names = p->names;
	const struct tensor *stored = val_get_tensor(p->frame, key);
	char *norm_key = eprintf_str("%s.norm", key);
	const struct tensor *norms = val_get_tensor(p->frame, norm_key);
	double worst = 0, top = 0;
	size_t at = 0, tensor = 0;

	free(norm_key);
	if (!stored || !norms || stored->type != DT_F32)
		die("fixture %s: no %s", p->name, key);
	const float *ref = stored->data;
	for (size_t i = 0; i < tensor_count(norms); i++)
		top = fmax(top, number(norms, i));
	for (size_t j = 0; j < names->list.len; j++) {
		int i = find_param(p->net, names->list.item[j]->s.p);
		const struct param *q = &p->net->param[i];
		if (!picked(q, pick))
			continue;
		const float *got = weights_param(p->net, w, i);
		size_t stride = q->count / p->sampled + 1;
		double diff = 0, size = 0, share, full = number(norms, MIN(tensor, tensor_count(norms) - 1));
		for (size_t e = 0; e < q->count; e += stride, at++) {
			double d = (double)got[e] - ref[at];
			diff += d * d;
			size += (double)ref[at] * ref[at];
		}
		/* The stored part stands for the whole: its size, and its floor, are in proportion. */
		share = sqrt((double)((q->count + stride - 1) / stride) / q->count);
		double off = fmax(sqrt(diff) / fmax(sqrt(size), fmax(full, floor * top) * share),
		    fabs(norm(got, q->count) - full) / fmax(full, floor * top));
		worst = isnan(off) ? INFINITY : fmax(worst, off);
		tensor++;
	}
	if (at != tensor_count(stored) || tensor != tensor_count(norms))
		die("fixture %s: %s has %zu values, not %zu", p->name, key, tensor_count(stored), at);
	return worst;
}

struct plan *make_plan(const struct problem *p, enum purpose purpose, int batch, struct workspace *ws)
{
	char err[ERRLEN];
	struct plan *plan = plan_new(p->net, (struct plan_opts){ .purpose = purpose, .batch = batch }, err);

	if (!plan)
		die("%s: %s", p->name, err);
	plan_bind(plan, ws);
	plan_load(plan, &p->weights);
	return plan;
}

/* The statistics that belong to tap i of a plan, by the BN layer's name. */
static int stats_of(const struct problem *p, struct plan *plan, int i)
{
	const struct val *bn = p->bn;

	for (size_t l = 0; l < bn->list.len; l++)
		if (!strcmp(bn->list.item[l]->s.p, p->net->node[plan_tap(plan, i)->node].name))
			return l;
	die("%s: a tap that the fixture has not", p->name);
}

double synthesis(const struct problem *p, struct plan *plan, const float *images, double w, float *dimages)
{
	plan_forward(plan, p->n, images, p->logits);
	double loss = loss_ce(p->logits, p->label, p->n, p->k, p->dlogits);
	for (int i = 0; i < plan_ntaps(plan); i++) {
		if (p->net->node[plan_tap(plan, i)->node].op != OP_BN)
			continue; /* the fixture has batch norms only, t_ops all others */
		int l = stats_of(p, plan, i);
		loss += p->alpha * match_layer(plan_tap(plan, i), &p->stat[l], p->label, p->n, w, l == 0 ? p->first : 1,
		    p->alpha);
	}
	if (dimages)
		plan_backward(plan, p->n, p->dlogits, dimages, NULL);
	return loss;
}

int plannable(const struct problem *p, char err[ERRLEN])
{
	for (int purpose = PLAN_EVAL; purpose <= PLAN_TRAIN; purpose++) {
		struct plan *plan = plan_new(p->net, (struct plan_opts){ .purpose = purpose, .batch = p->n }, err);
		if (!plan)
			return 0;
		plan_free(plan);
	}
	return 1;
}
