#include "imageview.h"

#include <stdlib.h>
#include <string.h>

int imageview_read(struct imageview *v, const char *path, char err[ERRLEN])
{
	struct ts_reader r;

	*v = (struct imageview){ .label = NULL };
	if (ts_open(&r, path, "images") < 0)
		return fail(err, "%s", r.err);
	if (imageset_read(&r, &v->set) < 0) {
		fail(err, "%s", r.err);
		ts_close(&r);
		return -1;
	}
	ts_close(&r);
	v->norm = v->set.norm;
	v->label = ecalloc(v->set.n, sizeof *v->label);
	memcpy(v->label, v->set.label, v->set.n * sizeof *v->label);
	return 0;
}

void imageview_free(struct imageview *v)
{
	imageset_free(&v->set);
	free(v->label);
	v->label = NULL;
}

/* map: the network's label of each class of the set. */
static int match(const struct imageset *s, const struct val *header, bool whole, int *map, char err[ERRLEN])
{
	int k = header_nclass(header);

	if (whole && k != s->nclass)
		return fail(err, "knows %d classes by name, the images have %d", k, s->nclass);
	return header_map_classes(s->header, header, map, err);
}

int imageview_fit(struct imageview *v, const struct val *header, const int chw[3], bool whole, char err[ERRLEN])
{
	const struct imageset *s = &v->set;
	struct norm norm;
	int *map, rc;

	if (s->c != chw[0] || s->h != chw[1] || s->w != chw[2])
		return fail(err, "images of %dx%dx%d, the network takes %dx%dx%d", s->c, s->h, s->w, chw[0], chw[1], chw[2]);
	if (header_norm(header, &norm) < 0 || norm.channels != chw[0])
		return fail(err, "the network's header has no mean and standard deviation of %d channels", chw[0]);
	map = ecalloc(s->nclass, sizeof *map);
	rc = match(s, header, whole, map, err);
	for (int64_t i = 0; i < s->n && !rc; i++)
		v->label[i] = map[s->label[i]];
	if (!rc)
		v->norm = norm;
	free(map);
	return rc;
}

static void get(const void *view, int64_t i, float *out)
{
	const struct imageview *v = view;

	imageset_get(&v->set, i, &v->norm, out);
}

struct dataset imageview_dataset(const struct imageview *v)
{
	const struct imageset *s = &v->set;

	return (struct dataset){ s->n, { s->c, s->h, s->w }, v->label, get, v, s->u8, NULL, v->norm.mean, v->norm.std };
}
