#include "state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "header.h"

enum { PIECE = 64 << 20 };

struct state state_new(void)
{
	return (struct state){ .header = header_new("state") };
}

void state_free(struct state *s)
{
	for (int i = 0; i < s->n; i++) {
		free(s->name[i]);
		buf_free(&s->array[i]);
	}
	free(s->name);
	free(s->array);
	val_free(s->header);
	*s = (struct state){ .header = NULL };
}

static struct buf *find(const struct state *s, const char *name)
{
	for (int i = 0; i < s->n; i++)
		if (!strcmp(s->name[i], name))
			return &s->array[i];
	return NULL;
}

static struct buf *array(struct state *s, const char *name)
{
	struct buf *b = find(s, name);

	if (b)
		return b;
	s->name = erealloc(s->name, s->n + 1, sizeof *s->name);
	s->array = erealloc(s->array, s->n + 1, sizeof *s->array);
	s->name[s->n] = estrdup(name);
	s->array[s->n] = (struct buf){ 0 };
	return &s->array[s->n++];
}

void state_set(struct state *s, const char *name, const void *p, size_t n)
{
	struct buf *b = array(s, name);

	b->len = 0;
	buf_put(b, p, n);
}

const void *state_get(const struct state *s, const char *name, size_t n)
{
	const struct buf *b = find(s, name);

	return b && b->len == n ? b->p : NULL;
}

const struct buf *state_array(const struct state *s, const char *name)
{
	return find(s, name);
}

static int put_array(struct ts_writer *w, const char *name, const struct buf *b)
{
	for (size_t at = 0; at < b->len; at += PIECE) {
		int64_t n = MIN(b->len - at, PIECE);
		struct tensor t = tensor_new(DT_U8, 1, &n);
		struct val *frame = val_map();
		int rc;

		memcpy(t.data, b->p + at, n);
		val_put(frame, "data", val_tensor(t));
		val_put(frame, "name", val_str(name));
		rc = ts_put(w, frame);
		val_free(frame);
		if (rc < 0)
			return -1;
	}
	return 0;
}

int state_write(const struct state *s, const char *path, char err[ERRLEN])
{
	struct ts_writer w;

	if (ts_create(&w, path, s->header) < 0)
		return fail(err, "%s", w.err);
	for (int i = 0; i < s->n; i++)
		if (put_array(&w, s->name[i], &s->array[i]) < 0) {
			fail(err, "%s", w.err);
			ts_abort(&w);
			return -1;
		}
	if (ts_finish(&w) < 0)
		return fail(err, "%s", w.err);
	return 0;
}

int state_read(struct state *s, const char *path, char err[ERRLEN])
{
	struct ts_reader r;
	struct val *frame;
	int rc;

	*s = (struct state){ .header = NULL };
	if (ts_open(&r, path, "state") < 0)
		return fail(err, "%s", r.err);
	s->header = val_copy(r.header);
	while ((rc = ts_next(&r, &frame)) > 0) {
		const struct tensor *t = val_get_tensor(frame, "data");
		const char *name = val_get_str(frame, "name");

		if (!t || t->type != DT_U8 || !name) {
			rc = fail(r.err, "%s: frame %lld: no named bytes in it", r.name, (long long)r.nframes - 1);
			val_free(frame);
			break;
		}
		buf_put(array(s, name), t->data, tensor_bytes(t));
		val_free(frame);
	}
	ts_close(&r);
	if (rc < 0) {
		fail(err, "%s", r.err);
		state_free(s);
	}
	return rc;
}

static int check_same(const struct val *was, const struct val *mine, const char *path, char err[ERRLEN])
{
	if (history_same(val_get(mine, "output"), val_get(was, "output"), path, err) < 0)
		return -1;
	for (size_t i = 0; i < mine->map.len; i++) {
		const struct val *p = val_get(was, mine->map.key[i]);

		if (!p || !val_equal(mine->map.item[i], p))
			return fail(err, "%s: of a run %s; remove it to start anew", path,
				!strcmp(mine->map.key[i], "pool") ? "over another pool" : "on other images");
	}
	return 0;
}

int state_resume(struct state *s, const char *path, struct val *mine, char err[ERRLEN])
{
	int rc = 1;

	if (!strcmp(path, "-"))
		rc = fail(err, "-: a state is a file, which is replaced");
	else if (access(path, F_OK) < 0 && errno == ENOENT) {
		if (!(rc = out_probe(path, err)))
			*s = state_new();
		for (size_t i = 0; !rc && i < mine->map.len; i++)
			val_put(s->header, mine->map.key[i], val_copy(mine->map.item[i]));
	} else if (state_read(s, path, err) < 0)
		rc = -1;
	else if (check_same(s->header, mine, path, err) < 0) {
		state_free(s);
		rc = -1;
	}
	val_free(mine);
	return rc;
}
