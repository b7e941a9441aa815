#include "checkpoint.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void checkpoint_free(struct checkpoint *c)
{
	free(c->member);
	val_free(c->header);
	net_free(c->net);
	weights_free(&c->w);
	*c = (struct checkpoint){ .member = NULL };
}

static struct val *node_to_val(const struct node *v)
{
	struct val *m = val_map();

	val_put(m, "op", val_str(op_name[v->op]));
	val_put(m, "name", val_str(v->name));
	val_put(m, "in", val_ints(v->in, v->nin));
	if (op_weighs(v->op))
		val_put(m, "out", val_int(v->c));
	if (v->op == OP_SELECT)
		val_put(m, "map", val_ints(v->map, v->c));
	if (v->op == OP_DROPOUT || v->op == OP_DROPPATH)
		val_put(m, "p", val_f64(v->p));
	if (v->op == OP_ADAPT)
		val_put(m, "k", val_int(v->k));
	if (v->op == OP_CONV || v->op == OP_MAXPOOL || v->op == OP_AVGPOOL) {
		val_put(m, "k", val_int(v->k));
		val_put(m, "stride", val_int(v->stride));
		val_put(m, "pad", val_int(v->pad));
	}
	if (v->op == OP_CONV) {
		val_put(m, "groups", val_int(v->groups));
		val_put(m, "bias", val_bool(v->has_bias));
	}
	if (v->op == OP_BN || v->op == OP_IN)
		val_put(m, "eps", val_f64(v->eps));
	if (v->op == OP_AFFINE) {
		val_put(m, "scale", val_floats(v->scale, v->c));
		val_put(m, "shift", val_floats(v->shift, v->c));
	}
	return m;
}

struct val *net_to_val(const struct net *n)
{
	struct val *v = val_map(), *nodes = val_list();
	int i;

	val_put(v, "arch", val_str(n->arch));
	val_put(v, "input", val_ints(n->chw, 3));
	val_put(v, "classes", val_int(n->nclass));
	for (i = 0; i < n->nnode; i++)
		val_push(nodes, node_to_val(&n->node[i]));
	val_put(v, "nodes", nodes);
	return v;
}

static int get_int(const struct val *m, const char *key, int64_t lo, int64_t hi, int *out, char err[ERRLEN])
{
	int64_t v = val_get_int(m, key, lo - 1);

	if (v < lo || v > hi)
		return fail(err, "net: node %s: no %s in %lld..%lld", val_get_str(m, "name"), key, (long long)lo,
			(long long)hi);
	*out = v;
	return 0;
}

static float *get_constants(const struct val *list, int n)
{
	float *x;
	int i;

	if (!list || list->type != V_LIST || list->list.len != (size_t)n)
		return NULL;
	x = emalloc(n * sizeof *x);
	for (i = 0; i < n; i++) {
		if (list->list.item[i]->type != V_F64 || !isfinite((float)list->list.item[i]->f)) {
			free(x);
			return NULL;
		}
		x[i] = list->list.item[i]->f;
	}
	return x;
}

static int *get_map(const struct val *list, int *n)
{
	int *map;
	size_t i;

	if (!list || list->type != V_LIST || list->list.len < 1 || list->list.len > 65536)
		return NULL;
	map = emalloc(list->list.len * sizeof *map);
	for (i = 0; i < list->list.len; i++) {
		const struct val *v = list->list.item[i];

		map[i] = v->type == V_INT && v->i >= 0 && v->i < INT32_MAX ? v->i : -1; /* net_add refuses -1 */
	}
	*n = list->list.len;
	return map;
}

static int get_inputs(const struct net *n, const struct val *m, struct node *v, char err[ERRLEN])
{
	const struct val *in = val_get(m, "in");
	size_t i;

	if (!in || in->type != V_LIST || in->list.len > NODE_MAXIN)
		return fail(err, "net: node %s: no list of inputs", v->name);
	v->nin = in->list.len;
	for (i = 0; i < in->list.len; i++) {
		if (in->list.item[i]->type != V_INT || in->list.item[i]->i < 0 || in->list.item[i]->i >= n->nnode)
			return fail(err, "net: node %s: an input is no earlier node", v->name);
		v->in[i] = in->list.item[i]->i;
	}
	return 0;
}

static int get_attributes(const struct net *n, const struct val *m, struct node *v, int *out, char err[ERRLEN])
{
	const struct val *bias = val_get(m, "bias");
	int c = v->nin ? n->node[v->in[0]].c : 0;

	if (op_weighs(v->op) && get_int(m, "out", 1, 65536, out, err) < 0)
		return -1;
	if (v->op == OP_ADAPT && get_int(m, "k", 1, 65536, &v->k, err) < 0)
		return -1;
	if (v->op == OP_SELECT && !(v->map = get_map(val_get(m, "map"), out)))
		return fail(err, "net: node %s: no map of channels", v->name);
	if (v->op == OP_DROPOUT || v->op == OP_DROPPATH) {
		v->p = val_get_f64(m, "p", NAN);
		if (!(v->p >= 0 && v->p < 1))
			return fail(err, "net: node %s: no p in 0..1", v->name);
	}
	if ((v->op == OP_CONV || v->op == OP_MAXPOOL || v->op == OP_AVGPOOL) &&
	    (get_int(m, "k", 1, 65536, &v->k, err) < 0 || get_int(m, "stride", 1, 65536, &v->stride, err) < 0 ||
	    get_int(m, "pad", 0, 65536, &v->pad, err) < 0))
		return -1;
	v->groups = 1;
	if (v->op == OP_CONV) {
		if (get_int(m, "groups", 1, 65536, &v->groups, err) < 0)
			return -1;
		if (!bias || bias->type != V_BOOL)
			return fail(err, "net: node %s: no bias", v->name);
		v->has_bias = bias->b;
	}
	if (v->op == OP_BN || v->op == OP_IN) {
		v->eps = val_get_f64(m, "eps", NAN);
		if (!(v->eps > 0 && v->eps < 1))
			return fail(err, "net: node %s: no eps in 0..1", v->name);
	}
	if (v->op == OP_AFFINE) {
		v->scale = get_constants(val_get(m, "scale"), c);
		v->shift = get_constants(val_get(m, "shift"), c);
		if (!v->scale || !v->shift)
			return fail(err, "net: node %s: scale and shift are not %d numbers each", v->name, c);
	}
	return 0;
}

static int add_node(struct net *n, const struct val *m, char err[ERRLEN])
{
	const char *op = val_get_str(m, "op"), *name = val_get_str(m, "name");
	struct node v = { .op = OP_INPUT };
	char why[ERRLEN];
	int out = 0, rc;

	if (!op || !name || !*name || strlen(name) >= sizeof v.name)
		return fail(err, "net: node %d: no operation, or no name", n->nnode);
	strcpy(v.name, name);
	while (v.op < OP_COUNT && strcmp(op, op_name[v.op]))
		v.op++;
	if (v.op == OP_COUNT)
		return fail(err, "net: node %s: unknown operation '%.32s'", name, op);
	rc = get_inputs(n, m, &v, err) < 0 || get_attributes(n, m, &v, &out, err) < 0 ? -1 : 0;
	if (!rc && net_add(n, &v, out, why) < 0)
		rc = fail(err, "net: %s", why);
	free(v.scale);
	free(v.shift);
	free(v.map);
	return rc;
}

struct net *net_from_val(const struct val *v, char err[ERRLEN])
{
	const struct val *nodes = val_get(v, "nodes"), *input = val_get(v, "input");
	const char *arch = val_get_str(v, "arch");
	int64_t nclass = val_get_int(v, "classes", 0);
	char why[ERRLEN];
	struct net *n;
	int chw[3];
	size_t i;

	if (!arch || strlen(arch) >= sizeof n->arch || nclass < 1 || nclass > 65536 || !nodes ||
	    nodes->type != V_LIST || !input || input->type != V_LIST || input->list.len != 3) {
		fail(err, "net: no graph with arch, input, classes and nodes");
		return NULL;
	}
	for (i = 0; i < 3; i++) {
		const struct val *d = input->list.item[i];

		if (d->type != V_INT || d->i < 1 || d->i > 65536) {
			fail(err, "net: its input is not three sizes in 1..65536");
			return NULL;
		}
		chw[i] = d->i;
	}
	n = net_new(arch, chw);
	for (i = 0; i < nodes->list.len; i++)
		if (add_node(n, nodes->list.item[i], err) < 0) {
			net_free(n);
			return NULL;
		}
	if (net_finish(n, nclass, why) < 0) {
		fail(err, "net: %s", why);
		net_free(n);
		return NULL;
	}
	return n;
}

int64_t checkpoint_rows(const struct param *p, size_t part)
{
	size_t row = p->count / p->shape[0] * sizeof(float);

	return MIN(p->shape[0], (int64_t)MAX(part / row, 1));
}

int checkpoint_put(struct ts_writer *w, const struct param *p, int64_t row, int64_t rows, const float *x)
{
	struct tensor t = { .type = DT_F32, .ndim = p->ndim, .data = (void *)x };
	struct val *frame, *v;
	int rc;

	memcpy(t.shape, p->shape, p->ndim * sizeof *t.shape);
	t.shape[0] = rows;
	for (size_t i = 0; i < tensor_count(&t); i++) /* no reader would take it */
		if (!isfinite(x[i]))
			return fail(w->err, "parameter %s: not a finite number", p->name);
	frame = val_map();
	v = val_tensor(t);
	val_put(frame, p->name, v);
	if (rows < p->shape[0])
		val_put(frame, "row", val_int(row));
	rc = ts_put(w, frame);
	v->t.data = NULL; /* the caller's */
	val_free(frame);
	return rc;
}

int checkpoint_put_param(struct ts_writer *w, const struct param *p, const float *x, size_t part)
{
	int64_t step = checkpoint_rows(p, part), row, rows;
	size_t width = p->count / p->shape[0];

	for (row = 0; row < p->shape[0]; row += rows) {
		rows = MIN(step, p->shape[0] - row);
		if (checkpoint_put(w, p, row, rows, x + row * width) < 0)
			return -1;
	}
	return 0;
}

static int put_params(struct ts_writer *w, const struct net *n, const struct weights *wt)
{
	int i;

	for (i = 0; i < n->nparam; i++)
		if (checkpoint_put_param(w, &n->param[i], weights_param(n, wt, i), CHECKPOINT_PART) < 0) {
			ts_abort(w);
			return -1;
		}
	return ts_finish(w);
}

struct val *checkpoint_header(const struct val *header, const struct net *n)
{
	struct val *h = val_copy(header);

	val_put(h, "net", net_to_val(n));
	return h;
}

int checkpoint_write(struct ts_writer *w, const char *path, struct val *header, const struct net *n,
	const struct weights *wt)
{
	struct val *h = checkpoint_header(header, n);
	int rc = ts_create(w, path, h);

	val_free(h);
	return rc < 0 ? -1 : put_params(w, n, wt);
}

int checkpoint_write_mem(struct buf *out, struct val *header, const struct net *n, const struct weights *wt,
	char err[ERRLEN])
{
	struct val *h = checkpoint_header(header, n);
	struct ts_writer w;
	int rc = ts_create_mem(&w, out, h);

	val_free(h);
	if (rc < 0 || put_params(&w, n, wt) < 0)
		return fail(err, "%s", w.err);
	return 0;
}

int checkpoint_read(struct ts_reader *r, struct checkpoint *c)
{
	int nclass = header_nclass(r->header);
	char why[ERRLEN];

	*c = (struct checkpoint){ .member = NULL };
	if (!(c->net = net_from_val(val_get(r->header, "net"), why)))
		return fail(r->err, "%s: %s", r->name, why);
	if (nclass && nclass != c->net->nclass) {
		fail(r->err, "%s: %d classes, but its net has %d outputs", r->name, nclass, c->net->nclass);
		checkpoint_free(c);
		return -1;
	}
	if (checkpoint_params(r, c->net, &c->w) < 0) {
		checkpoint_free(c);
		return -1;
	}
	c->header = val_copy(r->header);
	val_drop(c->header, "net");
	return 0;
}
