#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"
#include "rng.h"

#define X(id, name, nin) name,
const char *const op_name[OP_COUNT] = { OPS(X) };
#undef X
#define X(id, name, nin) nin,
static const int op_nin[OP_COUNT] = { OPS(X) };
#undef X
#define X(id, name) name,
const char *const role_name[P_COUNT] = { ROLES(X) };
#undef X

enum { MAX_CHANNELS_OUT = 1 << 16, MAX_SIDE = 1 << 16 };

struct net *net_new(const char *arch, const int chw[3])
{
	struct net *n = ecalloc(1, sizeof *n);

	snprintf(n->arch, sizeof n->arch, "%s", arch);
	memcpy(n->chw, chw, sizeof n->chw);
	return n;
}

void net_free(struct net *n)
{
	if (!n)
		return;
	for (int i = 0; i < n->nnode; i++) {
		free(n->node[i].scale);
		free(n->node[i].shift);
		free(n->node[i].map);
	}
	free(n->node);
	free(n->param);
	free(n);
}

/* n elements of this size, the caller's; NULL of NULL. */
static void *copy_array(const void *p, int n, size_t size)
{
	return p ? memcpy(emalloc(n * size), p, n * size) : NULL;
}

bool op_weighs(enum op op)
{
	return op == OP_CONV || op == OP_LINEAR;
}

struct net *net_copy(const struct net *n)
{
	struct net *m = emalloc(sizeof *m);

	*m = *n;
	m->node = emalloc(n->nnode * sizeof *m->node);
	memcpy(m->node, n->node, n->nnode * sizeof *m->node);
	m->param = emalloc((n->nparam + 1) * sizeof *m->param);
	memcpy(m->param, n->param, n->nparam * sizeof *m->param);
	for (int i = 0; i < n->nnode; i++) {
		m->node[i].scale = copy_array(n->node[i].scale, n->node[i].c, sizeof(float));
		m->node[i].shift = copy_array(n->node[i].shift, n->node[i].c, sizeof(float));
		m->node[i].map = copy_array(n->node[i].map, n->node[i].c, sizeof(int));
	}
	return m;
}

static bool same(const void *a, const void *b, size_t bytes)
{
	return !a == !b && (!a || !memcmp(a, b, bytes));
}

bool net_alike(const struct net *a, const struct net *b)
{
	if (a->nnode != b->nnode)
		return false;
	for (int i = 0; i < a->nnode; i++) {
		const struct node *v = &a->node[i], *w = &b->node[i];

		if (v->op != w->op || v->nin != w->nin || !same(v->in, w->in, v->nin * sizeof *v->in) || v->c != w->c || v->h != w->h ||
		    v->w != w->w || v->k != w->k || v->stride != w->stride || v->pad != w->pad || v->groups != w->groups ||
		    v->has_bias != w->has_bias || v->eps != w->eps || v->p != w->p || !same(v->map, w->map, v->c * sizeof *v->map) ||
		    !same(v->scale, w->scale, v->c * sizeof *v->scale) || !same(v->shift, w->shift, v->c * sizeof *v->shift))
			return false;
	}
	return true;
}

/* Output size of a window of k every stride over size with padding on both sides; 0 when it does not fit. */
static int window(int size, int k, int stride, int pad)
{
	if (k < 1 || stride < 1 || pad < 0 || pad > MAX_SIDE || k > MAX_SIDE || size + 2 * pad < k)
		return 0;
	return (size + 2 * pad - k) / stride + 1;
}

/* Every channel at most once, so that the gradient has one place to come from. */
static int check_map(const struct node *n, int out, int in, char err[ERRLEN])
{
	char *taken = ecalloc(in, 1);
	int rc = 0;

	for (int i = 0; i < out && !rc; i++)
		if (!n->map || n->map[i] < 0 || n->map[i] >= in || taken[n->map[i]]++)
			rc = fail(err, "node %s: selects a channel twice, or one that its input has not", n->name);
	free(taken);
	return rc;
}

static int infer(const struct net *net, struct node *n, int out, char err[ERRLEN])
{
	const struct node *a = n->nin > 0 ? &net->node[n->in[0]] : NULL;

	switch (n->op) {
	case OP_INPUT:
		n->c = net->chw[0], n->h = net->chw[1], n->w = net->chw[2];
		break;
	case OP_CONV:
		if (n->groups < 1 || a->c % n->groups || out % n->groups)
			return fail(err, "node %s: %d groups do not divide %d -> %d channels", n->name, n->groups, a->c, out);
		n->c = out;
		n->h = window(a->h, n->k, n->stride, n->pad);
		n->w = window(a->w, n->k, n->stride, n->pad);
		break;
	case OP_MAXPOOL:
	case OP_AVGPOOL:
		if (n->pad > n->k / 2 || (n->op == OP_AVGPOOL && n->pad))
			return fail(err, "node %s: padding %d for a window of %d", n->name, n->pad, n->k);
		n->c = a->c;
		n->h = window(a->h, n->k, n->stride, n->pad);
		n->w = window(a->w, n->k, n->stride, n->pad);
		break;
	case OP_AFFINE:
	case OP_BN:
	case OP_IN:
	case OP_RELU:
	case OP_RELU6:
	case OP_SILU:
	case OP_SIGMOID:
	case OP_DROPOUT:
	case OP_DROPPATH:
		if (!(n->p >= 0 && n->p < 1))
			return fail(err, "node %s: a share of %g is dropped (0 <= p < 1 expected)", n->name, n->p);
		n->c = a->c, n->h = a->h, n->w = a->w;
		break;
	case OP_ADD: {
		const struct node *b = &net->node[n->in[1]];
		if (a->c != b->c || a->h != b->h || a->w != b->w)
			return fail(err, "node %s: adds %dx%dx%d to %dx%dx%d", n->name, b->c, b->h, b->w, a->c, a->h, a->w);
		n->c = a->c, n->h = a->h, n->w = a->w;
		break;
	}
	case OP_MUL: {
		const struct node *b = &net->node[n->in[1]];
		if (a->c != b->c || b->h != 1 || b->w != 1)
			return fail(err, "node %s: multiplies %dx%dx%d by %dx%dx%d", n->name, a->c, a->h, a->w, b->c, b->h, b->w);
		n->c = a->c, n->h = a->h, n->w = a->w;
		break;
	}
	case OP_CONCAT: {
		const struct node *b = &net->node[n->in[1]];
		if (a->h != b->h || a->w != b->w)
			return fail(err, "node %s: joins %dx%dx%d and %dx%dx%d", n->name, a->c, a->h, a->w, b->c, b->h, b->w);
		n->c = a->c + b->c, n->h = a->h, n->w = a->w;
		break;
	}
	case OP_SELECT:
		if (check_map(n, out, a->c, err) < 0)
			return -1;
		n->c = out, n->h = a->h, n->w = a->w;
		break;
	case OP_ADAPT:
		if (n->k < 1 || n->k > MAX_SIDE)
			return fail(err, "node %s: pools to a side of %d", n->name, n->k);
		n->c = a->c, n->h = n->w = n->k;
		break;
	case OP_GAP:
		n->c = a->c, n->h = n->w = 1;
		break;
	case OP_FLATTEN:
		if ((int64_t)a->c * a->h * a->w > INT32_MAX)
			return fail(err, "node %s: %dx%dx%d is too large", n->name, a->c, a->h, a->w);
		n->c = a->c * a->h * a->w, n->h = n->w = 1;
		break;
	case OP_LINEAR:
		if (a->h != 1 || a->w != 1)
			return fail(err, "node %s: its input is not flat: %dx%dx%d", n->name, a->c, a->h, a->w);
		n->c = out, n->h = n->w = 1;
		break;
	case OP_COUNT:
		break;
	}
	if (n->c < 1 || n->h < 1 || n->w < 1 || n->c > INT32_MAX / 16 || n->h > MAX_SIDE || n->w > MAX_SIDE)
		return fail(err, "node %s: its output would be %dx%dx%d", n->name, n->c, n->h, n->w);
	return 0;
}

int net_add(struct net *n, const struct node *proto, int out_channels, char err[ERRLEN])
{
	struct node node = *proto;

	if (n->nnode >= MAX_NODES)
		return fail(err, "more than %d nodes", MAX_NODES);
	if (node.op < 0 || node.op >= OP_COUNT || node.nin != op_nin[node.op])
		return fail(err, "node %s: wrong number of inputs", node.name);
	if ((node.op == OP_INPUT) != (n->nnode == 0))
		return fail(err, "node %s: the input must be the first node and no other", node.name);
	if ((op_weighs(node.op) || node.op == OP_SELECT) && (out_channels < 1 || out_channels > MAX_CHANNELS_OUT))
		return fail(err, "node %s: %d output channels", node.name, out_channels);
	for (int i = 0; i < node.nin; i++)
		if (node.in[i] < 0 || node.in[i] >= n->nnode)
			return fail(err, "node %s: input %d is not an earlier node", node.name, node.in[i]);
	for (int i = 0; i < n->nnode; i++)
		if (!strcmp(n->node[i].name, node.name))
			return fail(err, "node %s: the name is taken", node.name);
	for (int i = 0; i < P_COUNT; i++)
		node.param[i] = -1;
	if (infer(n, &node, out_channels, err) < 0)
		return -1;
	node.scale = copy_array(proto->scale, node.c, sizeof(float));
	node.shift = copy_array(proto->shift, node.c, sizeof(float));
	node.map = copy_array(proto->map, node.c, sizeof(int));
	n->node = erealloc(n->node, n->nnode + 1, sizeof *n->node);
	n->node[n->nnode] = node;
	return n->nnode++;
}

static void add_param(struct net *n, int i, enum role role, int ndim, const int64_t *shape)
{
	struct node *node = &n->node[i];
	struct param *p;
	size_t *arena = role == P_MEAN || role == P_VAR ? &n->nbuffer : &n->ntheta;

	n->param = erealloc(n->param, n->nparam + 1, sizeof *n->param);
	p = &n->param[n->nparam];
	*p = (struct param){ .role = role, .node = i, .ndim = ndim, .count = 1, .offset = *arena };
	snprintf(p->name, sizeof p->name, "%s.%s", node->name, role_name[role]);
	for (int d = 0; d < ndim; d++) {
		p->shape[d] = shape[d];
		p->count *= shape[d];
	}
	*arena += p->count;
	node->param[role] = n->nparam++;
}

int net_finish(struct net *n, int nclass, char err[ERRLEN])
{
	struct node *last = n->nnode ? &n->node[n->nnode - 1] : NULL;
	char *used = ecalloc(n->nnode + 1, 1);
	double total = 0;

	if (!last || last->op != OP_LINEAR || last->c != nclass) {
		free(used);
		return fail(err, "the graph does not end in a linear of %d classes", nclass);
	}
	for (int i = 0; i < n->nnode; i++)
		for (int j = 0; j < n->node[i].nin; j++)
			used[n->node[i].in[j]] = 1;
	for (int i = 0; i < n->nnode - 1; i++)
		if (!used[i]) {
			fail(err, "node %s: nothing uses its output", n->node[i].name);
			free(used);
			return -1;
		}
	free(used);
	for (int i = 0; i < n->nnode; i++) {
		struct node *v = &n->node[i];
		int64_t c = v->c;
		if (v->op == OP_CONV) {
			int64_t in = n->node[v->in[0]].c / v->groups;
			total += (double)c * in * v->k * v->k;
			if (total > 1e10)
				return fail(err, "node %s: more than 10^10 parameters", v->name);
			add_param(n, i, P_WEIGHT, 4, (int64_t[]){ c, in, v->k, v->k });
			if (v->has_bias)
				add_param(n, i, P_BIAS, 1, &c);
		} else if (v->op == OP_LINEAR) {
			int64_t in = n->node[v->in[0]].c;
			total += (double)c * in;
			if (total > 1e10)
				return fail(err, "node %s: more than 10^10 parameters", v->name);
			add_param(n, i, P_WEIGHT, 2, (int64_t[]){ c, in });
			add_param(n, i, P_BIAS, 1, &c);
		} else if (v->op == OP_BN || v->op == OP_IN) {
			add_param(n, i, P_WEIGHT, 1, &c);
			add_param(n, i, P_BIAS, 1, &c);
			if (v->op == OP_BN) {
				add_param(n, i, P_MEAN, 1, &c);
				add_param(n, i, P_VAR, 1, &c);
			}
		} else if (v->op == OP_AFFINE && (!v->scale || !v->shift))
			return fail(err, "node %s: an affine without constants", v->name);
	}
	n->nclass = nclass;
	return 0;
}

struct net *net_with_affine(const struct net *n, const float *scale, const float *shift)
{
	struct net *m = net_copy(n);
	struct node affine = m->node[0];

	m->node = erealloc(m->node, m->nnode + 1, sizeof *m->node);
	memmove(m->node + 2, m->node + 1, (m->nnode - 1) * sizeof *m->node);
	m->nnode++;
	affine.op = OP_AFFINE;
	affine.in[0] = 0, affine.nin = 1;
	snprintf(affine.name, sizeof affine.name, "normalise");
	affine.scale = copy_array(scale, affine.c, sizeof(float));
	affine.shift = copy_array(shift, affine.c, sizeof(float));
	m->node[1] = affine;
	for (int i = 2; i < m->nnode; i++)
		for (int j = 0; j < m->node[i].nin; j++)
			m->node[i].in[j]++; /* what read the image reads the affine now */
	for (int i = 0; i < m->nparam; i++)
		m->param[i].node++;
	return m;
}

bool net_has(const struct net *n, enum op op)
{
	for (int i = 0; i < n->nnode; i++)
		if (n->node[i].op == op)
			return true;
	return false;
}

/* The nodes whose maps are features, from the last one to the first: what the classifier reads, then where the net pools
 * or, if it never does, adds. at: room for nnode. */
static int feature_nodes(const struct net *n, bool all, int *at)
{
	int k = 0, last = n->node[n->nnode - 1].in[0];
	bool pools = net_has(n, OP_AVGPOOL) || net_has(n, OP_MAXPOOL);
	size_t per = (size_t)n->node[last].c * n->node[last].h * n->node[last].w;

	at[k++] = last;
	for (int i = last; all && i >= 0; i--) {
		const struct node *v = &n->node[i];
		bool pool = v->op == OP_AVGPOOL || v->op == OP_MAXPOOL;

		/* The same values once more, in front of a flatten? */
		if ((pools ? pool : v->op == OP_ADD) && (k > 1 || (size_t)v->c * v->h * v->w != per))
			at[k++] = i;
	}
	return k;
}

int net_width(const struct net *n, bool all)
{
	int *at = emalloc(n->nnode * sizeof *at), width = 0;

	if (n->node[n->nnode - 1].op == OP_LINEAR)
		for (int i = feature_nodes(n, all, at) - 1; i >= 0; i--)
			width += n->node[at[i]].c * n->node[at[i]].h * n->node[at[i]].w;
	free(at);
	return width;
}

static int append(struct net *n, enum op op, int a, int b, int c)
{
	struct node *v;

	n->node = erealloc(n->node, n->nnode + 1, sizeof *n->node);
	v = &n->node[n->nnode];
	*v = (struct node){ .op = op, .in = { a, b }, .nin = 1 + (b >= 0), .c = c, .h = 1, .w = 1 };
	for (int role = 0; role < P_COUNT; role++)
		v->param[role] = -1;
	snprintf(v->name, sizeof v->name, "output.%d", n->nnode); /* torchvision has features.K */
	return n->nnode++;
}

struct net *net_features(const struct net *n, bool all, char err[ERRLEN])
{
	int *at, k, whole = -1;
	struct net *m;

	if (n->node[n->nnode - 1].op != OP_LINEAR) {
		fail(err, "%s has no classifier to leave out", n->arch);
		return NULL;
	}
	at = emalloc(n->nnode * sizeof *at);
	k = feature_nodes(n, all, at);
	m = net_copy(n);
	/* Its parameters come last, so that what is left of the arena is where it was. */
	while (m->nparam && m->param[m->nparam - 1].node == m->nnode - 1)
		m->ntheta = m->param[--m->nparam].offset;
	m->nnode--;
	for (int i = 0; i < k; i++) {
		const struct node *v = &m->node[at[i]];
		int c = v->c * v->h * v->w, flat = v->op == OP_FLATTEN && k == 1 ? at[i] : append(m, OP_FLATTEN, at[i], -1, c);

		whole = i ? append(m, OP_CONCAT, whole, flat, m->node[whole].c + c) : flat;
	}
	m->nclass = m->node[whole].c;
	free(at);
	return m;
}

struct weights weights_new(const struct net *n)
{
	return (struct weights){ ealigned(n->ntheta + 1, sizeof(float)), ealigned(n->nbuffer + 1, sizeof(float)) };
}

void weights_free(struct weights *w)
{
	free(w->theta);
	free(w->buffer);
	*w = (struct weights){ 0 };
}

float *weights_param(const struct net *n, const struct weights *w, int p)
{
	const struct param *q = &n->param[p];

	return (q->role == P_MEAN || q->role == P_VAR ? w->buffer : w->theta) + q->offset;
}

/* One weight or bias of a convolution or linear, as enum init says. */
static void draw(enum init init, const struct node *v, const struct param *weight, int bias, float *x, size_t count,
    struct rng *r)
{
	double fan_in = (double)weight->count / weight->shape[0];
	double fan_out = v->op == OP_CONV ? (double)v->c * v->k * v->k : v->c; /* PyTorch ignores groups here */
	double normal = 0, uniform = 0;

	if (init == INIT_DEFAULT || (v->op == OP_LINEAR && (init == INIT_RESNET || (init == INIT_DENSENET && !bias))))
		uniform = 1 / sqrt(fan_in);
	else if (bias)
		;
	else if (v->op == OP_CONV)
		normal = sqrt(2 / (init == INIT_DENSENET ? fan_in : fan_out));
	else if (init == INIT_VGG)
		normal = 0.01;
	else
		uniform = 1 / sqrt(fan_out);
	for (size_t i = 0; i < count; i++)
		x[i] = normal > 0 ? normal * rng_normal(r) : uniform > 0 ? rng_range(r, -uniform, uniform) : 0;
}

void net_init(const struct net *n, struct weights *w, uint32_t seed, enum purpose_id purpose)
{
	for (int i = 0; i < n->nparam; i++) {
		const struct param *p = &n->param[i];
		const struct node *v = &n->node[p->node];
		float *x = weights_param(n, w, i);
		struct rng r = rng_at(seed, purpose, i, 0, purpose == RNG_STUDENT); /* c = 0 there: augmentation */

		if (op_weighs(v->op))
			draw(n->init, v, &n->param[v->param[P_WEIGHT]], p->role == P_BIAS, x, p->count, &r);
		else
			for (size_t j = 0; j < p->count; j++)
				x[j] = p->role == P_WEIGHT || p->role == P_VAR;
	}
}

int net_matched(const struct net *n, int *at)
{
	static const enum op kind[] = { OP_BN, OP_IN, OP_CONV };
	int k = 0;

	for (size_t i = 0; i < LEN(kind) && !k; i++)
		for (int j = 0; j < n->nnode; j++)
			if (n->node[j].op == kind[i]) {
				if (at)
					at[k] = j;
				k++;
			}
	return k;
}

int64_t node_params(const struct net *n, const struct node *v)
{
	int64_t count = 0;

	for (int r = P_WEIGHT; r <= P_BIAS; r++)
		if (v->param[r] >= 0)
			count += n->param[v->param[r]].count;
	return count;
}

int64_t node_macs(const struct net *n, const struct node *v)
{
	return op_weighs(v->op) ? n->param[v->param[P_WEIGHT]].count * v->h * v->w : 0;
}

int64_t net_params(const struct net *n)
{
	return n->ntheta;
}

int64_t net_macs(const struct net *n)
{
	int64_t macs = 0;

	for (int i = 0; i < n->nnode; i++)
		macs += node_macs(n, &n->node[i]);
	return macs;
}
