#include "tstream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../lib/times.h"
#include "frame.h"
#include "header.h"

/* A trailer holds one object a frame and a few more. */
#define MAX_FRAMES (SCAN_MAXOBJECTS - 64)

struct ts_wimpl {
	struct outfile out;
	struct buf *mem;     /* instead of out */
	struct buf buf;      /* the object that is being written */
	struct buf hashes;
	struct val *offsets;
	int64_t pos;
	int64_t ahead;       /* of the offsets, those of frames that an earlier run left and that were not come by yet */
	bool uncut;          /* what lies behind pos in an earlier run's file is to go before anything is written */
	bool failed;
};

static int write_bytes(struct ts_writer *w, const void *p, size_t n)
{
	struct ts_wimpl *im = w->impl;
	double start = now();

	if (im->mem) {
		buf_put(im->mem, p, n);
	} else {
		if (im->uncut && (fseeko(im->out.fp, im->pos, SEEK_SET) || ftruncate(fileno(im->out.fp), im->pos))) {
			im->failed = true;
			return fail(w->err, "%s:", w->name);
		}
		im->uncut = false;
		errno = 0;
		if (fwrite(p, 1, n, im->out.fp) != n) {
			im->failed = true;
			return errno ? fail(w->err, "%s:", w->name) : fail(w->err, "%s: write error", w->name);
		}
		times_add(TIME_WRITING, now() - start);
	}
	im->pos += n;
	return 0;
}

/* Bytes of strings and tensors in v, so that nothing is packed only to be refused. */
static size_t bulk(const struct val *v)
{
	size_t n = 0, i;

	switch (v->type) {
	case V_STR:
	case V_BIN:
		return v->s.len;
	case V_TENSOR:
		return tensor_bytes(&v->t);
	case V_LIST:
		for (i = 0; i < v->list.len; i++)
			n += bulk(v->list.item[i]);
		return n;
	case V_MAP:
		for (i = 0; i < v->map.len; i++)
			n += bulk(v->map.item[i]);
		return n;
	default:
		return 0;
	}
}

/* The object's bytes, in im->buf. */
static int seal_object(struct ts_writer *w, const struct val *map, const char *what)
{
	struct ts_wimpl *im = w->impl;

	im->buf.len = 0;
	if (bulk(map) <= TS_FRAME_MAX)
		seal(&im->buf, map);
	if (!im->buf.len || msgpack_scan(im->buf.p, im->buf.len, TS_FRAME_MAX) != (int64_t)im->buf.len) {
		im->failed = true;
		return fail(w->err, "%s: %s is larger than 256 MiB, or nests too deeply", w->name, what);
	}
	return 0;
}

static int put_object(struct ts_writer *w, const struct val *map, const char *what)
{
	return seal_object(w, map, what) < 0 ? -1 : write_bytes(w, w->impl->buf.p, w->impl->buf.len);
}

static int start(struct ts_writer *w, const struct val *header)
{
	struct ts_wimpl *im = w->impl;

	if (header->type != V_MAP || !header->map.len || strcmp(header->map.key[0], "tensorstream")) {
		fail(w->err, "%s: not a tensor stream's header", w->name);
		ts_abort(w);
		return -1;
	}
	if (put_object(w, header, "the header") < 0) {
		ts_abort(w);
		return -1;
	}
	hash_push(&im->hashes, seal_hash(im->buf.p, im->buf.len));
	return 0;
}

static void init(struct ts_writer *w, const char *name)
{
	*w = (struct ts_writer){ .name = estrdup(name), .impl = ecalloc(1, sizeof *w->impl) };
	w->impl->offsets = val_list();
}

int ts_create(struct ts_writer *w, const char *path, const struct val *header)
{
	init(w, path && strcmp(path, "-") ? path : "standard output");
	if (out_open(&w->impl->out, path, w->err) < 0) {
		ts_abort(w);
		return -1;
	}
	return start(w, header);
}

int ts_create_mem(struct ts_writer *w, struct buf *out, const struct val *header)
{
	init(w, "<memory>");
	w->impl->mem = out;
	return start(w, header);
}

static int note_frame(struct ts_writer *w, uint64_t hash, int64_t at)
{
	struct ts_wimpl *im = w->impl;

	if (im->offsets->list.len == MAX_FRAMES)
		return fail(w->err, "%s: more than %d frames", w->name, MAX_FRAMES);
	val_push(im->offsets, val_int(at));
	hash_push(&im->hashes, hash);
	return 0;
}

/* Of the frames that an earlier run left, the next one must be this. */
static int come_by(struct ts_writer *w, uint64_t hash)
{
	struct ts_wimpl *im = w->impl;
	int64_t i = im->offsets->list.len - im->ahead;

	if (hash_at(&im->hashes, 1 + i) != hash) { /* the first is the header's */
		im->failed = true;
		return fail(w->err, "%s: frame %lld is another run's; remove it to start anew", w->name, (long long)i);
	}
	im->ahead--;
	return 0;
}

static int add_frame(struct ts_writer *w, const uint8_t *p, size_t n)
{
	int64_t at = w->impl->pos;

	if (w->impl->ahead)
		return come_by(w, seal_hash(p, n));
	return write_bytes(w, p, n) < 0 ? -1 : note_frame(w, seal_hash(p, n), at);
}

/* Frames of an earlier run, as far as they are whole. */
static int find_frames(struct ts_writer *w, const struct val *header)
{
	struct ts_wimpl *im = w->impl;
	struct ts_reader r;
	const uint8_t *p;
	size_t n;
	int rc = 0;

	if (ts_open_file(&r, im->out.fp, w->name, NULL) < 0)
		return fail(w->err, "%s", r.err);
	if (!val_equal(r.header, header))
		rc = history_same(header, r.header, w->name, w->err) < 0 ? -1 :
			fail(w->err, "%s: of another run; remove it to start anew", w->name);
	while (!rc && ts_next_raw(&r, &p, &n) > 0) { /* until the trailer, or a frame that is not whole */
		rc = note_frame(w, seal_hash(p, n), im->pos);
		im->pos += n;
	}
	if (!rc && ferror(im->out.fp))
		rc = fail(w->err, "%s", r.err);
	im->ahead = im->offsets->list.len;
	ts_close(&r);
	return rc;
}

/* The header of a new file, which is there for good before any frame, or what is behind that of an old one. What a run
 * leaves that ends while it writes the header is a part of it, or zeros. The header is in im->buf. */
static int go_on(struct ts_writer *w, const struct val *header)
{
	struct ts_wimpl *im = w->impl;
	FILE *fp = im->out.fp;
	uint8_t *old = emalloc(im->buf.len);
	size_t have = fread(old, 1, im->buf.len, fp);
	bool none = have < im->buf.len && !memcmp(old, im->buf.p, have);

	if (have && !*old && !memcmp(old, old + 1, have - 1))
		none = true;
	free(old);
	if (ferror(fp))
		return fail(w->err, "%s:", w->name);
	rewind(fp);
	hash_push(&im->hashes, seal_hash(im->buf.p, im->buf.len));
	im->uncut = true;
	if (none)
		return write_bytes(w, im->buf.p, im->buf.len) < 0 ? -1 :
			fflush(fp) || fsync(fileno(fp)) ? fail(w->err, "%s:", w->name) : 0;
	im->pos = im->buf.len;
	return find_frames(w, header);
}

int ts_take_up(struct ts_writer *w, const char *path, const char *kept, const struct val *header)
{
	init(w, kept);
	if (out_take_up(&w->impl->out, path, kept, w->err) < 0 || seal_object(w, header, "the header") < 0 ||
	    go_on(w, header) < 0) {
		ts_abort(w);
		return -1;
	}
	return 0;
}

int64_t ts_ahead(const struct ts_writer *w)
{
	return w->impl->ahead;
}

void ts_pass(struct ts_writer *w)
{
	w->impl->ahead--;
}

int ts_put(struct ts_writer *w, const struct val *frame)
{
	struct ts_wimpl *im = w->impl;

	if (im->failed)
		return -1;
	if (frame->type != V_MAP || (frame->map.len &&
	    (!strcmp(frame->map.key[0], "trailer") || !strcmp(frame->map.key[0], "tensorstream")))) {
		im->failed = true;
		return fail(w->err, "%s: not a frame", w->name);
	}
	return seal_object(w, frame, "a frame") < 0 ? -1 : add_frame(w, im->buf.p, im->buf.len);
}

int ts_put_raw(struct ts_writer *w, const void *p, size_t n)
{
	if (w->impl->failed)
		return -1;
	if (n <= SEAL_BYTES || n > TS_FRAME_MAX) {
		w->impl->failed = true;
		return fail(w->err, "%s: not a frame", w->name);
	}
	return add_frame(w, p, n);
}

int ts_flush(struct ts_writer *w)
{
	struct ts_wimpl *im = w->impl;
	double start = now();

	if (im->failed)
		return -1;
	errno = 0;
	if (!im->mem && fflush(im->out.fp)) {
		im->failed = true;
		return errno ? fail(w->err, "%s:", w->name) : fail(w->err, "%s: write error", w->name);
	}
	times_add(TIME_WRITING, now() - start);
	return 0;
}

static void release(struct ts_writer *w)
{
	struct ts_wimpl *im = w->impl;

	buf_free(&im->buf);
	buf_free(&im->hashes);
	val_free(im->offsets);
	free(im);
	free(w->name);
	w->impl = NULL;
	w->name = NULL;
}

int ts_finish(struct ts_writer *w)
{
	struct ts_wimpl *im = w->impl;
	struct val *t;
	int rc;

	if (!im->failed && im->ahead) {
		im->failed = true;
		fail(w->err, "%s: of a run of more frames; remove it to start anew", w->name);
	}
	if (im->failed) {
		ts_abort(w);
		return -1;
	}
	t = val_map();
	val_put(t, "trailer", val_bool(true));
	val_put(t, "frames", val_int(im->offsets->list.len));
	val_put(t, "offsets", im->offsets);
	im->offsets = NULL;
	val_put(t, "hash", val_uint(hash_of_hashes(&im->hashes)));
	val_put(t, "length", val_int(im->pos));
	rc = put_object(w, t, "the trailer");
	val_free(t);
	if (rc < 0) {
		ts_abort(w);
		return -1;
	}
	rc = im->mem ? 0 : out_finish(&im->out, w->err);
	release(w);
	return rc;
}

void ts_abort(struct ts_writer *w)
{
	if (!w->impl)
		return;
	if (!w->impl->mem)
		out_abort(&w->impl->out);
	release(w);
}

void ets_header(const char *path, const struct val *header)
{
	struct ts_writer w;

	if (ts_create(&w, path, header) < 0 || ts_finish(&w) < 0)
		die("%s", w.err);
}
