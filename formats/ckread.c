/* The parameters of a checkpoint, as they arrive. A graph can claim what it likes: memory follows what has come. */
#include "checkpoint.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Parameters in the net's order, the usual one, are written where they belong at once, so that weights are in memory
 * once; what comes too early waits until all that has come is as much as lies before it. */
struct arena {
	float *p;
	size_t total, cap, come; /* floats: by the graph, allocated, read */
};

struct early {
	struct arena *a;
	size_t offset;
	struct tensor t;
};

struct intake {
	struct ts_reader *r;
	const struct net *net;
	int64_t *rows;          /* by parameter: how many have come */
	int next;               /* the parameter that the next frame should hold */
	int open;               /* one of which rows are still to come, -1: none */
	struct arena theta, buffer;
	struct early *early;
	size_t nearly;
};

/* Twice what has come; beyond half of the total all of it, so that old and new together are never more than that. */
static size_t allowed(const struct arena *a)
{
	size_t least = (size_t)1 << 20, n = MAX(2 * a->come, least);

	return n > a->total / 2 ? a->total : n;
}

static void grow(struct arena *a, size_t cap)
{
	size_t room = (cap * sizeof(float) + 127) / 64 * 64; /* a float more at least, and whole vectors: weights_new() */
	float *p = aligned_alloc(64, room);

	if (!p)
		die("out of memory: %zu bytes wanted", room);
	if (a->cap)
		memcpy(p, a->p, a->cap * sizeof *p);
	memset((char *)p + cap * sizeof *p, 0, room - cap * sizeof *p);
	free(a->p);
	a->p = p;
	a->cap = cap;
}

static void complete(struct arena *a)
{
	if (!a->p || a->cap < a->total)
		grow(a, a->total);
}

static int find_param(const struct net *n, const char *name, int guess)
{
	int i;

	if (guess < n->nparam && !strcmp(n->param[guess].name, name))
		return guess;
	for (i = 0; i < n->nparam && strcmp(n->param[i].name, name); i++)
		;
	return i < n->nparam ? i : -1;
}

/* The first row of the part that the frame holds, 0 for a whole; -1 when it does not follow what has come. */
static int64_t first_row(struct intake *in, const struct val *frame, const struct param *p, const struct tensor *t)
{
	const struct val *v = val_get(frame, "row");
	int64_t come = in->rows[p - in->net->param], row = 0;
	char *err = in->r->err;
	const char *name = in->r->name;

	if (come == p->shape[0])
		return fail(err, "%s: parameter %s stands twice", name, p->name);
	if (t->type != DT_F32 || t->ndim != p->ndim || (!v && t->shape[0] != p->shape[0]) ||
	    memcmp(t->shape + 1, p->shape + 1, (p->ndim - 1) * sizeof *t->shape))
		return fail(err, "%s: parameter %s: its shape is not the net's", name, p->name);
	if (v)
		row = v->type == V_INT ? v->i : -1;
	if (row != come)
		return fail(err, "%s: parameter %s: its row %lld comes next, not %lld", name, p->name, (long long)come,
			(long long)row);
	if (t->shape[0] < 1 || t->shape[0] > p->shape[0] - row)
		return fail(err, "%s: parameter %s: %lld rows from %lld on, it has %lld", name, p->name,
			(long long)t->shape[0], (long long)row, (long long)p->shape[0]);
	return row;
}

/* Where the tensor belongs, or among the early ones, which then own its data. */
static void place(struct intake *in, const struct param *p, int64_t row, struct tensor *t)
{
	struct arena *a = p->role == P_MEAN || p->role == P_VAR ? &in->buffer : &in->theta;
	size_t count = tensor_count(t), at = p->offset + row * (p->count / p->shape[0]);

	a->come += count;
	if (at + count > a->cap && at + count <= allowed(a))
		grow(a, allowed(a));
	if (at + count <= a->cap) {
		memcpy(a->p + at, t->data, count * sizeof *a->p);
		return;
	}
	if (!(in->nearly & (in->nearly - 1)))
		in->early = erealloc(in->early, in->nearly ? 2 * in->nearly : 1, sizeof *in->early);
	in->early[in->nearly++] = (struct early){ a, at, *t };
	t->data = NULL;
}

static int take_frame(struct intake *in, struct val *frame)
{
	struct ts_reader *r = in->r;
	const struct param *p;
	struct tensor *t;
	const char *name;
	int64_t row;
	int i;

	if (!frame->map.len || frame->map.item[0]->type != V_TENSOR)
		return fail(r->err, "%s: frame %lld holds no parameter", r->name, (long long)r->nframes - 1);
	name = frame->map.key[0];
	t = &frame->map.item[0]->t;
	if ((i = find_param(in->net, name, in->next)) < 0)
		return fail(r->err, "%s: parameter %.95s: its net has none of this name", r->name, name);
	p = &in->net->param[i];
	if (in->open >= 0 && in->open != i)
		return fail(r->err, "%s: parameter %s: its row %lld comes next, not %s", r->name,
			in->net->param[in->open].name, (long long)in->rows[in->open], name);
	if ((row = first_row(in, frame, p, t)) < 0)
		return -1;
	for (size_t j = 0; j < tensor_count(t); j++)
		if (!isfinite(((const float *)t->data)[j]))
			return fail(r->err, "%s: parameter %s: not a finite number", r->name, name);
	in->rows[i] += t->shape[0];
	in->open = in->rows[i] < p->shape[0] ? i : -1;
	in->next = in->open < 0 ? i + 1 : i;
	place(in, p, row, t);
	return 0;
}

static int check_whole(const struct intake *in)
{
	const struct net *n = in->net;
	int i;

	for (i = 0; i < n->nparam; i++)
		if (!in->rows[i])
			return fail(in->r->err, "%s: parameter %s is missing", in->r->name, n->param[i].name);
		else if (in->rows[i] < n->param[i].shape[0])
			return fail(in->r->err, "%s: parameter %s: its rows from %lld on are missing", in->r->name,
				n->param[i].name, (long long)in->rows[i]);
	return 0;
}

int checkpoint_params(struct ts_reader *r, const struct net *n, struct weights *w)
{
	struct intake in = { .r = r, .net = n, .open = -1, .theta.total = n->ntheta, .buffer.total = n->nbuffer };
	struct val *frame;
	int rc;

	in.rows = ecalloc(n->nparam, sizeof *in.rows);
	while ((rc = ts_next(r, &frame)) > 0) {
		rc = take_frame(&in, frame);
		val_free(frame);
		if (rc < 0)
			break;
	}
	if (!rc)
		rc = check_whole(&in);
	if (!rc) {
		complete(&in.theta);
		complete(&in.buffer);
	}
	for (size_t i = 0; i < in.nearly; i++) {
		struct early *e = &in.early[i];

		if (!rc)
			memcpy(e->a->p + e->offset, e->t.data, tensor_bytes(&e->t));
		tensor_free(&e->t);
	}
	free(in.early);
	free(in.rows);
	*w = (struct weights){ in.theta.p, in.buffer.p };
	if (rc < 0)
		weights_free(w);
	return rc;
}
