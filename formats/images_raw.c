#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <zlib.h>

#include "source.h"

#define MAX_RAW ((size_t)16 << 30)

int peek_raw(const char *path, uint8_t first[4], char *err)
{
	gzFile f = gzopen(path, "r");
	int n;

	if (!f)
		return fail(err, "%s: %s", path, strerror(errno ? errno : ENOMEM));
	n = gzread(f, first, 4);
	gzclose(f);
	return MAX(n, 0) ? n : n < 0 ? 1 : 0; /* a spoilt gzip: something is there, whoever reads it will say what */
}

/* A whole file, through gzip when it is that. */
static int read_all(const char *path, struct buf *out, char *err)
{
	enum { CHUNK = 1 << 20 };
	gzFile f = gzopen(path, "r");
	uint8_t *chunk;
	int n, e = Z_OK, bad = 0;

	if (!f)
		return fail(err, "%s: %s", path, strerror(errno ? errno : ENOMEM));
	chunk = emalloc(CHUNK);
	while ((n = gzread(f, chunk, CHUNK)) > 0 && out->len <= MAX_RAW)
		buf_put(out, chunk, n);
	if (n < 0)
		bad = fail(err, "%s: %s", path, gzerror(f, &e));
	free(chunk);
	if (gzclose(f) == Z_BUF_ERROR && !bad)
		bad = fail(err, "%s: gzip data cut short", path);
	if (!bad && out->len > MAX_RAW)
		bad = fail(err, "%s: too large", path);
	return bad;
}

static uint32_t big32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
}

/* Swaps `from` in the file's name for `to`; NULL when it is not there. */
static char *beside(const char *path, const char *from, const char *to)
{
	const char *slash = strrchr(path, '/'), *at = strstr(slash ? slash : path, from);

	return at ? eprintf_str("%.*s%s%s", (int)(at - path), path, to, at + strlen(from)) : NULL;
}

/* The labels of an images file: the same name with labels for images, packed or not. */
static char *labels_path(const char *path)
{
	char *p = beside(path, "images-idx3", "labels-idx1"), *other;
	size_t n;

	if (!p)
		p = beside(path, "images.idx3", "labels.idx1");
	if (!p || !access(p, R_OK))
		return p;
	n = strlen(p);
	other = n > 3 && !strcmp(p + n - 3, ".gz") ? estrndup(p, n - 3) : eprintf_str("%s.gz", p);
	if (access(other, R_OK)) {
		free(other);
		return p;
	}
	free(p);
	return other;
}

static int read_idx_labels(struct source *s, const char *images, uint32_t n, struct buf *out)
{
	char *path = labels_path(images);
	int bad = 0;

	if (!path)
		return fail(s->err, "%s: cannot tell the name of its labels file: no images-idx3 in it", images);
	if (read_all(path, out, s->err))
		bad = -1;
	else if (out->len < 8 || big32(out->p) != 0x801)
		bad = fail(s->err, "%s: no IDX labels file", path);
	else if (out->len - 8 != big32(out->p + 4))
		bad = fail(s->err, "%s: %zu bytes for %u labels", path, out->len, big32(out->p + 4));
	else if (out->len - 8 != n)
		bad = fail(s->err, "%s: %zu labels for %u images", path, out->len - 8, n);
	free(path);
	return bad;
}

/* One image of a raw file; its name for messages is the file's name up to the first dot. */
static void add_raw(struct source *s, const char *path, int store, int64_t i, int64_t off, int64_t len, int label)
{
	const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
	char *name = eprintf_str("%.*s[%lld]", (int)strcspn(base, "."), base, (long long)i);

	source_add(s, name, store, off, len)->label = label;
	s->impl->max_label = MAX(s->impl->max_label, label);
}

int read_idx(struct source *s, const char *path)
{
	int store = source_add_store(s, STORE_PIXELS, path);
	struct buf labels = { 0 }, *b = &s->impl->store[store].mem;
	uint64_t n, h, w;

	if (source_set_kind(s, SOURCE_IDX, path) || read_all(path, b, s->err))
		return -1;
	if (b->len < 16)
		return fail(s->err, "%s: cut short in the header", path);
	n = big32(b->p + 4), h = big32(b->p + 8), w = big32(b->p + 12);
	if (!h || !w || h > 65536 || w > 65536)
		return fail(s->err, "%s: images of %llux%llu pixels", path, (long long)w, (long long)h);
	if ((b->len - 16) / (h * w) != n || (b->len - 16) % (h * w))
		return fail(s->err, "%s: %zu bytes for %llu images of %llux%llu pixels", path, b->len,
			    (long long)n, (long long)w, (long long)h);
	if (read_idx_labels(s, path, n, &labels)) {
		buf_free(&labels);
		return -1;
	}
	s->impl->store[store].c = 1;
	s->impl->store[store].h = h;
	s->impl->store[store].w = w;
	for (uint64_t i = 0; i < n; i++)
		add_raw(s, path, store, i, 16 + i * h * w, h * w, labels.p[8 + i]);
	buf_free(&labels);
	return n ? 0 : fail(s->err, "%s: no images in it", path);
}

/* Class names beside a batch, where they are. */
static int read_names(struct source *s, const char *path, const char *file)
{
	const char *slash = strrchr(path, '/');
	char *p = eprintf_str("%.*s%s", slash ? (int)(slash - path + 1) : 0, path, file);
	struct buf b = { 0 };
	int bad = 0;

	if (!access(p, F_OK))
		bad = read_all(p, &b, s->err) || (b.len && source_set_names(s, p, (char *)b.p, b.len));
	buf_free(&b);
	free(p);
	return bad ? -1 : 0;
}

/* Records of label and 3 x 32 x 32 pixels; CIFAR-100 has a coarse label before the fine one. */
int read_cifar(struct source *s, const char *path)
{
	enum { PIXELS = 3072 };
	int store = source_add_store(s, STORE_PIXELS, path);
	struct buf *b = &s->impl->store[store].mem;
	const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
	int ten, hundred, head, classes;

	if (read_all(path, b, s->err))
		return -1;
	ten = b->len && b->len % (PIXELS + 1) == 0;
	hundred = b->len && b->len % (PIXELS + 2) == 0;
	if (!ten && !hundred)
		return fail(s->err, "%s: %zu bytes are no whole number of CIFAR records (3073 or 3074 bytes)", path,
			    b->len);
	if (ten && hundred) /* rare enough for the name to decide */
		ten = strncmp(base, "train.", 6) && strncmp(base, "test.", 5);
	head = ten ? 1 : 2;
	classes = ten ? 10 : 100;
	if (source_set_kind(s, ten ? SOURCE_CIFAR10 : SOURCE_CIFAR100, path))
		return -1;
	s->impl->store[store].c = 3;
	s->impl->store[store].h = s->impl->store[store].w = 32;
	for (size_t i = 0; i < b->len / (PIXELS + head); i++) {
		size_t at = i * (PIXELS + head);

		if (b->p[at + head - 1] >= classes)
			return fail(s->err, "%s: record %zu: label %d in a set of %d classes", path, i,
				    b->p[at + head - 1], classes);
		add_raw(s, path, store, i, at + head, PIXELS, b->p[at + head - 1]);
	}
	return read_names(s, path, ten ? "batches.meta.txt" : "fine_label_names.txt");
}
