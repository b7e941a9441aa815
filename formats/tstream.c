#include "tstream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../lib/times.h"
#include "frame.h"

struct ts_impl {
	FILE *fp;              /* NULL: over memory */
	bool own;              /* close fp */
	const uint8_t *mem;
	size_t memlen;
	uint64_t off;          /* byte at which the current object starts */
	struct buf buf;        /* the current object, where it comes from a file */
	const uint8_t *obj;    /* the current object */
	size_t objlen;
	struct buf hashes;     /* of the objects so far, 8 bytes each */
	int64_t *offsets;      /* of the frames so far; by seeking: of all, and the trailer's as one more */
	size_t noffsets;
	int64_t count;         /* -1: sequential */
	bool done, failed;
};

static int broken(struct ts_reader *r, const char *what)
{
	struct ts_impl *im = r->impl;
	unsigned long long off = im->off;

	im->failed = true;
	if (!r->header)
		return fail(r->err, "%s: header: %s", r->name, what);
	return fail(r->err, "%s: frame %lld, byte %llu: %s", r->name, (long long)r->nframes, off, what);
}

static int cut_short(struct ts_reader *r, size_t have)
{
	struct ts_impl *im = r->impl;
	unsigned long long end = im->off + have;

	im->failed = true;
	if (!r->header && !end)
		return fail(r->err, "%s: empty, no tensor stream", r->name);
	if (!r->header)
		return fail(r->err, "%s: truncated in its header at byte %llu", r->name, end);
	if (!have)
		return fail(r->err, "%s: truncated at byte %llu: ends after %lld frames without a trailer", r->name,
			end, (long long)r->nframes);
	return fail(r->err, "%s: truncated in frame %lld at byte %llu", r->name, (long long)r->nframes, end);
}

/* Gets the first need bytes of the current object: 1; 0 at the end of input with *have of them; -1. Memory grows with
 * the bytes that arrive, never with those that are claimed. */
static int fetch(struct ts_reader *r, size_t need, size_t *have)
{
	struct ts_impl *im = r->impl;
	size_t want, got;
	double start;

	if (!im->fp) {
		im->obj = im->mem + im->off;
		*have = MIN(im->memlen - im->off, need);
		return *have == need;
	}
	while (im->buf.len < need) {
		want = MIN(need - im->buf.len, MAX(im->buf.len, (size_t)1 << 16));
		if (im->buf.cap < im->buf.len + want) {
			im->buf.cap = im->buf.len + want;
			im->buf.p = erealloc(im->buf.p, im->buf.cap, 1);
		}
		start = now();
		errno = 0;
		got = fread(im->buf.p + im->buf.len, 1, want, im->fp);
		times_add(TIME_READING, now() - start);
		im->buf.len += got;
		if (got < want) {
			if (ferror(im->fp))
				return broken(r, errno ? strerror(errno) : "read error");
			break;
		}
	}
	im->obj = im->buf.p;
	*have = im->buf.len;
	return *have >= need;
}

/* The next whole object, sealed: 1 with im->obj and objlen; 0 at the end of input; -1. */
static int next_object(struct ts_reader *r)
{
	struct ts_impl *im = r->impl;
	struct scanner scan = { .need = 1 };
	size_t have;
	int64_t n = 0;
	int rc;

	im->off += im->objlen;
	im->objlen = 0;
	im->buf.len = 0;
	while (!n) {
		if ((rc = fetch(r, scan.need, &have)) < 0)
			return -1;
		if (!r->header && !first_key(im->obj, have, "tensorstream")) {
			im->failed = true;
			return fail(r->err, "%s: not a tensor stream", r->name);
		}
		if (!rc)
			return have ? cut_short(r, have) : 0;
		n = scan_more(&scan, im->obj, have, TS_FRAME_MAX);
	}
	if (n < 0)
		return broken(r, "damaged, or larger than 256 MiB");
	if (seal_check(im->obj, n) < 0)
		return broken(r, "damaged: its hash does not match");
	im->objlen = n;
	return 1;
}

struct val *ts_parse(const uint8_t *p, size_t n, char err[ERRLEN])
{
	struct val *v = val_unpack(p, n, err);

	if (!v)
		return NULL;
	if (v->type != V_MAP || strcmp(v->map.key[v->map.len - 1], "xxh3")) {
		fail(err, "no map that ends in its hash");
		val_free(v);
		return NULL;
	}
	val_drop(v, "xxh3");
	return v;
}

static int read_header(struct ts_reader *r, const char *want)
{
	struct ts_impl *im = r->impl;
	char why[ERRLEN];
	const char *kind;
	struct val *h;
	int rc = next_object(r);
	int64_t version;

	if (rc <= 0)
		return rc < 0 ? -1 : cut_short(r, 0);
	if (!(h = ts_parse(im->obj, im->objlen, why)))
		return broken(r, why);
	r->header = h;
	version = val_get_int(h, "tensorstream", -1);
	if (version != TS_VERSION)
		return fail(r->err, "%s: tensor stream of version %lld, this program knows version %d", r->name,
			(long long)version, TS_VERSION);
	if (!(kind = val_get_str(h, "kind")))
		return fail(r->err, "%s: header: no kind of stream", r->name);
	if (want && strcmp(kind, want))
		return fail(r->err, "%s: a stream of kind %.32s, where %s is expected", r->name, kind, want);
	hash_push(&im->hashes, seal_hash(im->obj, im->objlen));
	return 0;
}

static int start(struct ts_reader *r, const struct ts_impl *proto, const char *name, const char *want)
{
	*r = (struct ts_reader){ .name = estrdup(name), .impl = ecalloc(1, sizeof *r->impl) };
	*r->impl = *proto;
	r->impl->count = -1;
	if (!read_header(r, want))
		return 0;
	ts_close(r);
	return -1;
}

static FILE *open_path(struct ts_reader *r, const char *path)
{
	FILE *fp = fopen(path, "rbe");

	if (!fp) {
		*r = (struct ts_reader){ .name = NULL };
		fail(r->err, "%s:", path);
	}
	return fp;
}

int ts_open(struct ts_reader *r, const char *path, const char *want)
{
	FILE *fp;

	if (!path || !strcmp(path, "-"))
		return ts_open_file(r, stdin, "<stdin>", want);
	if (!(fp = open_path(r, path)))
		return -1;
	return start(r, &(struct ts_impl){ .fp = fp, .own = true }, path, want);
}

bool ts_begins(int c)
{
	return (c >= 0x80 && c <= 0x8f) || c == 0xde || c == 0xdf;
}

int ts_open_file(struct ts_reader *r, FILE *fp, const char *name, const char *want)
{
	return start(r, &(struct ts_impl){ .fp = fp }, name, want);
}

int ts_open_mem(struct ts_reader *r, const void *p, size_t n, const char *name, const char *want)
{
	return start(r, &(struct ts_impl){ .mem = p, .memlen = n }, name, want);
}

/* im->obj is the trailer; offsets and hashes are those of the frames that were read. */
static int check_trailer(struct ts_reader *r)
{
	struct ts_impl *im = r->impl;
	struct val *t, *list, *hash;
	char why[ERRLEN];
	uint64_t want = hash_of_hashes(&im->hashes), claimed;
	size_t i = 0;
	bool ok;

	if (!(t = ts_parse(im->obj, im->objlen, why)))
		return broken(r, why);
	list = val_get(t, "offsets");
	hash = val_get(t, "hash");
	claimed = !hash ? 0 : hash->type == V_UINT ? hash->u : hash->type == V_INT ? (uint64_t)hash->i : 0;
	ok = val_get_int(t, "frames", -1) == (int64_t)im->noffsets && hash && claimed == want &&
		val_get_int(t, "length", -1) == (int64_t)im->off && list && list->type == V_LIST &&
		list->list.len == im->noffsets;
	for (; ok && i < im->noffsets; i++)
		ok = list->list.item[i]->type == V_INT && list->list.item[i]->i == im->offsets[i];
	val_free(t);
	return ok ? 0 : broken(r, "the trailer does not match the frames before it");
}

static int check_end(struct ts_reader *r)
{
	struct ts_impl *im = r->impl;
	double start = now();
	bool more = im->fp ? getc(im->fp) != EOF : im->off + im->objlen < im->memlen;

	times_add(TIME_READING, now() - start);
	if (more) {
		im->off += im->objlen;
		return broken(r, "data after the trailer");
	}
	if (im->fp && ferror(im->fp))
		return broken(r, "read error at the end");
	im->done = true;
	return 0;
}

int ts_next_raw(struct ts_reader *r, const uint8_t **p, size_t *n)
{
	struct ts_impl *im = r->impl;
	int rc;

	if (im->failed)
		return -1;
	if (im->done)
		return 0;
	if ((rc = next_object(r)) <= 0)
		return rc < 0 ? -1 : cut_short(r, 0);
	if (first_key(im->obj, im->objlen, "trailer") > 0)
		return check_trailer(r) < 0 || check_end(r) < 0 ? -1 : 0;
	if (!(im->noffsets & (im->noffsets - 1)))
		im->offsets = erealloc(im->offsets, im->noffsets ? 2 * im->noffsets : 1, sizeof *im->offsets);
	im->offsets[im->noffsets++] = im->off;
	hash_push(&im->hashes, seal_hash(im->obj, im->objlen));
	*p = im->obj;
	*n = im->objlen;
	r->nframes++;
	return 1;
}

int ts_next(struct ts_reader *r, struct val **frame)
{
	char why[ERRLEN];
	const uint8_t *p;
	size_t n;
	int rc = ts_next_raw(r, &p, &n);

	if (rc <= 0)
		return rc;
	if ((*frame = ts_parse(p, n, why)))
		return 1;
	r->nframes--;
	return broken(r, why);
}

uint64_t ts_digest(const struct ts_reader *r)
{
	return hash_of_hashes(&r->impl->hashes);
}

void ts_close(struct ts_reader *r)
{
	struct ts_impl *im = r->impl;

	if (!im)
		return;
	if (im->own)
		fclose(im->fp);
	buf_free(&im->buf);
	buf_free(&im->hashes);
	free(im->offsets);
	free(im);
	val_free(r->header);
	free(r->name);
	r->name = NULL;
	r->header = NULL;
	r->impl = NULL;
}

bool ts_seekable(const char *path)
{
	struct stat st;

	return path && strcmp(path, "-") && !stat(path, &st) && S_ISREG(st.st_mode);
}

static int read_span(struct ts_reader *r, uint64_t from, size_t n)
{
	struct ts_impl *im = r->impl;
	size_t have;
	int rc;

	im->off = from;
	im->buf.len = im->objlen = 0;
	if (fseeko(im->fp, from, SEEK_SET) < 0)
		return broken(r, strerror(errno));
	if ((rc = fetch(r, n, &have)) <= 0)
		return rc < 0 ? -1 : cut_short(r, have);
	if (msgpack_scan(im->obj, n, n) != (int64_t)n || seal_check(im->obj, n) < 0)
		return broken(r, "damaged: its hash does not match");
	im->objlen = n;
	return 0;
}

/* From the trailer at byte at: offsets of all frames, checked to follow one another from the header's end on. */
static int take_offsets(struct ts_reader *r, uint64_t first, uint64_t at)
{
	struct ts_impl *im = r->impl;
	struct val *t, *list;
	char why[ERRLEN];
	int64_t last = 0;
	size_t i, n;
	bool ok;

	if (!(t = ts_parse(im->obj, im->objlen, why)))
		return broken(r, why);
	list = val_get(t, "offsets");
	ok = list && list->type == V_LIST;
	n = ok ? list->list.len : 0;
	im->offsets = emalloc((n + 1) * sizeof *im->offsets);
	im->offsets[n] = at;
	im->noffsets = n;
	for (i = 0; ok && i < n; i++) {
		im->offsets[i] = list->list.item[i]->type == V_INT ? list->list.item[i]->i : -1;
		ok = i ? im->offsets[i] - last > SEAL_BYTES && im->offsets[i] - last <= (int64_t)TS_FRAME_MAX :
			im->offsets[i] == (int64_t)first;
		last = im->offsets[i];
	}
	val_free(t);
	if (!ok || (n ? (int64_t)at - last <= SEAL_BYTES || at - last > TS_FRAME_MAX : at != first))
		return broken(r, "the trailer does not match the frames before it");
	return 0;
}

static int open_by_trailer(struct ts_reader *r)
{
	struct ts_impl *im = r->impl;
	static const uint8_t key[] = { 0xa6, 'l', 'e', 'n', 'g', 't', 'h', 0xcf };
	uint8_t tail[LENGTH_BYTES + SEAL_BYTES], h[8];
	uint64_t first = im->objlen, at = 0;
	struct stat st;
	size_t i;
	int fd = fileno(im->fp);

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return broken(r, "not a regular file");
	if (st.st_size < (off_t)(first + sizeof tail) ||
	    pread(fd, tail, sizeof tail, st.st_size - sizeof tail) != sizeof tail || memcmp(tail, key, sizeof key)) {
		im->off = st.st_size;
		return broken(r, "truncated: it does not end in a trailer");
	}
	for (i = 0; i < 8; i++)
		at = at << 8 | tail[sizeof key + i];
	if (at < first || at > st.st_size - sizeof tail || st.st_size - at > TS_FRAME_MAX)
		return broken(r, "truncated, or its trailer is damaged");
	if (read_span(r, at, st.st_size - at) < 0 || take_offsets(r, first, at) < 0)
		return -1;
	/* The frames' hashes stand at their ends: with these the trailer is checked before any frame is read. */
	for (i = 0; i < im->noffsets; i++) {
		if (pread(fd, h, 8, im->offsets[i + 1] - 8) != 8)
			return broken(r, "read error");
		hash_push(&im->hashes, seal_hash(h, 8));
	}
	if (check_trailer(r) < 0)
		return -1;
	im->count = im->noffsets;
	return 0;
}

int ts_open_seek(struct ts_reader *r, const char *path, const char *want)
{
	FILE *fp = open_path(r, path);

	if (!fp || start(r, &(struct ts_impl){ .fp = fp, .own = true }, path, want) < 0)
		return -1;
	if (!open_by_trailer(r))
		return 0;
	ts_close(r);
	return -1;
}

int64_t ts_count(const struct ts_reader *r)
{
	return r->impl->count;
}

int ts_read_raw(struct ts_reader *r, int64_t i, const uint8_t **p, size_t *n)
{
	struct ts_impl *im = r->impl;
	struct buf hash = { 0 };
	size_t len;
	bool same;

	if (i < 0 || i >= im->count)
		return fail(r->err, "%s: no frame %lld, it has %lld", r->name, (long long)i, (long long)im->count);
	r->nframes = i;
	len = im->offsets[i + 1] - im->offsets[i];
	if (read_span(r, im->offsets[i], len) < 0)
		return -1;
	hash_push(&hash, seal_hash(im->obj, len));
	same = !memcmp(hash.p, im->hashes.p + 8 * (i + 1), 8); /* the header's comes first */
	buf_free(&hash);
	if (!same)
		return broken(r, "changed while it was read");
	*p = im->obj;
	*n = len;
	return 0;
}

int ts_read_at(struct ts_reader *r, int64_t i, struct val **frame)
{
	char why[ERRLEN];
	const uint8_t *p;
	size_t n;

	if (ts_read_raw(r, i, &p, &n) < 0)
		return -1;
	if (!(*frame = ts_parse(p, n, why)))
		return broken(r, why);
	return 0;
}
