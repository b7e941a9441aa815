#include "stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tstream.h"

static struct val *floats(const float *x, int ndim, const int64_t *shape)
{
	struct tensor t = tensor_new(DT_F32, ndim, shape);

	memcpy(t.data, x, tensor_bytes(&t));
	return val_tensor(t);
}

struct val *stats_to_frame(const struct layer_stats *s, int teacher, int layer, const char *member, const char *node)
{
	const int64_t all[1] = { s->c }, by_class[2] = { s->nclass, s->c };
	struct val *frame = val_map();

	val_put(frame, "mean", floats(s->mean, 1, all));
	val_put(frame, "var", floats(s->var, 1, all));
	if (s->nclass) {
		val_put(frame, "class_mean", floats(s->cmean, 2, by_class));
		val_put(frame, "class_var", floats(s->cvar, 2, by_class));
	}
	val_put(frame, "teacher", val_int(teacher));
	val_put(frame, "layer", val_int(layer));
	if (member)
		val_put(frame, "member", val_str(member));
	val_put(frame, "node", val_str(node));
	return frame;
}

/* *out: a copy of the frame's tensor (rows,c), rows 0: (c); row i becomes row map[i]. */
static int get_floats(const struct val *frame, const char *key, int rows, int c, const int *map, float **out,
	char err[ERRLEN])
{
	const struct tensor *t = val_get_tensor(frame, key);
	int64_t n = (int64_t)(rows ? rows : 1) * c;
	const float *x;

	if (!t)
		return fail(err, "no %s in it", key);
	if (t->type != DT_F32 || (rows ? t->ndim != 2 || t->shape[0] != rows || t->shape[1] != c
	    : t->ndim != 1 || t->shape[0] != c)) {
		if (rows)
			return fail(err, "%s: no f32 numbers of shape %dx%d", key, rows, c);
		return fail(err, "%s: no f32 numbers of shape %d", key, c);
	}
	x = t->data;
	for (int64_t i = 0; i < n; i++)
		if (!isfinite(x[i]) || (strstr(key, "var") && x[i] < 0))
			return fail(err, "%s: %g at channel %lld", key, x[i], (long long)(i % c));
	*out = ecalloc(n, sizeof **out);
	for (int i = 0; i < MAX(rows, 1); i++)
		memcpy(*out + (size_t)(rows ? map[i] : 0) * c, x + (size_t)i * c, c * sizeof *x);
	return 0;
}

static int same(const char *a, const char *b)
{
	return a && b ? !strcmp(a, b) : a == b;
}

static int take(const struct val *frame, const struct teacher *t, int teacher, int layer, int nclass, const int *map,
	struct layer_stats *s, char err[ERRLEN])
{
	const struct node *node = &t->net->node[t->layer[layer]];
	const char *member = val_get_str(frame, "member"), *name = val_get_str(frame, "node");

	if (val_get_int(frame, "teacher", -1) != teacher || val_get_int(frame, "layer", -1) != layer)
		return fail(err, "not of teacher %d, layer %d, which is next", teacher, layer);
	if (!same(member, t->ck.member))
		return fail(err, "of member %.100s, but the pool's is %.100s", member ? member : "(none)",
			t->ck.member ? t->ck.member : "(none)");
	if (!same(name, node->name))
		return fail(err, "of node %.100s, but the teacher's layer %d is %s", name ? name : "(none)", layer, node->name);
	s->c = node->c;
	if (get_floats(frame, "mean", 0, s->c, NULL, &s->mean, err) < 0 ||
	    get_floats(frame, "var", 0, s->c, NULL, &s->var, err) < 0)
		return -1;
	if (!val_get(frame, "class_mean") && !val_get(frame, "class_var"))
		return 0;
	s->nclass = nclass;
	if (get_floats(frame, "class_mean", nclass, s->c, map, &s->cmean, err) < 0 ||
	    get_floats(frame, "class_var", nclass, s->c, map, &s->cvar, err) < 0)
		return -1;
	return 0;
}

static int read_layers(struct ts_reader *r, const struct teacher *t, int nteacher, int nclass, const int *map,
	struct layer_stats **out)
{
	int teacher = 0, layer = 0, rc;
	struct val *frame;
	char why[ERRLEN];

	while ((rc = ts_next(r, &frame)) > 0) {
		struct layer_stats *s;

		while (teacher < nteacher && layer == t[teacher].nlayer)
			teacher++, layer = 0;
		if (teacher == nteacher) {
			val_free(frame);
			return fail(r->err, "%s: more layers than the pool has", r->name);
		}
		s = &out[teacher][layer];
		rc = take(frame, &t[teacher], teacher, layer, nclass, map, s, why);
		if (!rc && s->nclass != out[0][0].nclass)
			rc = fail(why, "class-wise statistics in some frames only");
		val_free(frame);
		if (rc < 0)
			return fail(r->err, "%s: frame %lld: %s", r->name, (long long)r->nframes - 1, why);
		layer++;
	}
	while (!rc && teacher < nteacher && layer == t[teacher].nlayer)
		teacher++, layer = 0;
	if (!rc && teacher < nteacher)
		return fail(r->err, "%s: no statistics of teacher %d, layer %d", r->name, teacher, layer);
	return rc;
}

/* map: the images' label of each class of the stream; as many on both sides. */
static int match_classes(struct ts_reader *r, const struct val *images, int k, int *map)
{
	char why[ERRLEN];

	if (header_nclass(r->header) != k || !k)
		return fail(r->err, "%s: statistics of %d classes for images of %d", r->name, header_nclass(r->header), k);
	if (header_map_classes(r->header, images, map, why) < 0)
		return fail(r->err, "%s: %s", r->name, why);
	return 0;
}

struct layer_stats **stats_read(const char *path, const struct teacher *t, int nteacher,
	const struct val *images_header, char err[ERRLEN])
{
	int k = header_nclass(images_header), *map = ecalloc(k + 1, sizeof *map);
	struct layer_stats **out = NULL;
	struct ts_reader r;
	int rc = ts_open(&r, path, "stats");

	if (!rc) {
		out = ecalloc(nteacher + 1, sizeof *out);
		for (int i = 0; i < nteacher; i++)
			out[i] = ecalloc(t[i].nlayer + 1, sizeof **out);
		rc = match_classes(&r, images_header, k, map) < 0 || read_layers(&r, t, nteacher, k, map, out) < 0 ? -1 : 0;
		ts_close(&r);
	}
	free(map);
	if (!rc)
		return out;
	fail(err, "%s", r.err);
	if (out)
		stats_free(out, t, nteacher);
	return NULL;
}

void stats_free(struct layer_stats **s, const struct teacher *t, int nteacher)
{
	for (int i = 0; i < nteacher; i++) {
		for (int l = 0; l < t[i].nlayer; l++)
			layer_stats_free(&s[i][l]);
		free(s[i]);
	}
	free(s);
}

struct layer_stats **stats_running(const struct teacher *t, int n)
{
	struct layer_stats **out = ecalloc(n, sizeof *out);

	for (int i = 0; i < n; i++) {
		out[i] = ecalloc(t[i].nlayer + 1, sizeof **out);
		for (int l = 0; l < t[i].nlayer; l++) {
			const struct node *v = &t[i].net->node[t[i].layer[l]];
			struct layer_stats *s = &out[i][l];
			if (!teacher_runs(&t[i], l))
				continue;
			s->c = v->c;
			s->mean = emalloc(v->c * sizeof *s->mean);
			s->var = emalloc(v->c * sizeof *s->var);
			memcpy(s->mean, weights_param(t[i].net, &t[i].ck.w, v->param[P_MEAN]), v->c * sizeof *s->mean);
			memcpy(s->var, weights_param(t[i].net, &t[i].ck.w, v->param[P_VAR]), v->c * sizeof *s->var);
		}
	}
	return out;
}
