#include "teachers.h"

#include <stdlib.h>
#include <string.h>

static void teacher_free(struct teacher *t)
{
	if (t->net != t->ck.net)
		net_free(t->net);
	free(t->layer);
	checkpoint_free(&t->ck);
}

void teachers_free(struct teacher *t, int n)
{
	for (int i = 0; i < n; i++)
		teacher_free(&t[i]);
	free(t);
}

static int check_shape(const struct teacher *t, const struct val *images, char err[ERRLEN])
{
	const int *want = t->ck.net->chw;
	int chw[3];

	if (header_shape(images, chw) < 0)
		return fail(err, "the images' header has no shape");
	if (memcmp(chw, want, sizeof chw))
		return fail(err, "takes images of %dx%dx%d, these are %dx%dx%d", want[0], want[1], want[2], chw[0], chw[1],
			chw[2]);
	return 0;
}

/* out[map[i]] = in[i], for k rows of n floats. */
static void permute_rows(float *rows, int64_t k, size_t n, const int *map)
{
	float *old = emalloc(k * n * sizeof *old);

	memcpy(old, rows, k * n * sizeof *old);
	for (int64_t i = 0; i < k; i++)
		memcpy(rows + map[i] * n, old + i * n, n * sizeof *old);
	free(old);
}

/* Puts the classifier's rows, and the classes in its header, into the images' order. */
static int fit_classes(struct teacher *t, const struct val *images, char err[ERRLEN])
{
	const struct net *net = t->ck.net;
	const struct node *last = &net->node[net->nnode - 1];
	int k = header_nclass(images), *map;

	if (k < 1)
		return fail(err, "the images' header has no classes");
	if (header_nclass(t->ck.header) != k)
		return fail(err, "knows %d classes by name, the images have %d", header_nclass(t->ck.header), k);
	map = ecalloc(k, sizeof *map);
	if (header_map_classes(t->ck.header, images, map, err) < 0) {
		free(map);
		return -1;
	}
	for (int role = P_WEIGHT; role <= P_BIAS; role++)
		if (last->param[role] >= 0) {
			const struct param *p = &net->param[last->param[role]];

			permute_rows(weights_param(net, &t->ck.w, last->param[role]), k, p->count / k, map);
		}
	val_put(t->ck.header, "classes", val_copy(val_get(images, "classes")));
	free(map);
	return 0;
}

static int fit_norm(struct teacher *t, const struct val *images, char err[ERRLEN])
{
	float scale[MAX_CHANNELS], shift[MAX_CHANNELS];
	struct norm have, want;

	if (header_norm(images, &have) < 0 || have.channels != t->ck.net->chw[0])
		return fail(err, "the images' header has no mean and standard deviation of %d channels", t->ck.net->chw[0]);
	if (header_norm(t->ck.header, &want) < 0 || want.channels != t->ck.net->chw[0])
		return fail(err, "its header has no mean and standard deviation of %d channels", t->ck.net->chw[0]);
	if (!memcmp(&have, &want, sizeof have)) {
		t->net = t->ck.net;
		return 0;
	}
	norm_affine(&have, &want, scale, shift);
	t->net = net_with_affine(t->ck.net, scale, shift);
	return 0;
}

static int fit(struct teacher *t, const struct val *images, char err[ERRLEN])
{
	if (check_shape(t, images, err) < 0 || fit_classes(t, images, err) < 0 || fit_norm(t, images, err) < 0)
		return -1;
	t->layer = ecalloc(t->net->nnode, sizeof *t->layer);
	t->nlayer = net_matched(t->net, t->layer);
	return 0;
}

bool teacher_runs(const struct teacher *t, int l)
{
	return t->net->node[t->layer[l]].op == OP_BN;
}

struct teacher *teachers_read(const char *pool, const struct val *images_header, int *n, char err[ERRLEN])
{
	struct teacher *all = NULL;
	struct pool_reader p;
	char why[ERRLEN];
	int rc;

	*n = 0;
	if (pool_open(&p, pool) < 0) {
		fail(err, "%s", p.err);
		return NULL;
	}
	for (;;) {
		struct teacher t = { .nlayer = 0 };

		rc = pool_next(&p, &t.ck);
		if (rc <= 0)
			break;
		all = erealloc(all, *n + 1, sizeof *all);
		all[(*n)++] = t;
		if (fit(&all[*n - 1], images_header, why) < 0) {
			const char *member = t.ck.member;

			fail(p.err, "%s%s%s: %s", p.name, member ? ": member " : "", member ? member : "", why);
			rc = -1;
			break;
		}
	}
	if (rc < 0) {
		fail(err, "%s", p.err);
		teachers_free(all, *n);
		all = NULL;
		*n = 0;
	}
	pool_close(&p);
	return all;
}
