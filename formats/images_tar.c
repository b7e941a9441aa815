#include <errno.h>
#include <limits.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include <archive.h>
#include <archive_entry.h>

#include "source.h"

enum { MAX_LIST = 1 << 24 };
#define MAX_MEMBER ((int64_t)128 << 20)

/* Decompression and tar are two libarchive readers in a row, so that the tar's bytes pass by here: libarchive
 * takes a tar that stops at a member's end for a whole one, only its two closing blocks of zeros tell. */
struct tap {
	struct archive *raw;
	int64_t total, zeros; /* bytes so far, how many of them are zeros at the end */
	bool failed;
};

struct label {
	char *key;
	int label, used;
};

/* classes.txt or dataset.json; which of them counts is seen when all images are known. */
struct list {
	char *path;
	struct buf text;
};

struct tar {
	struct source *s;
	const char *path;
	struct archive *tar;
	struct tap tap;
	bool plain;             /* members are found again in the file by offset */
	int store;
	int64_t first;          /* the first of this tar's items */
	struct names dirs;
	struct label *label;
	size_t nlabel, caplabel;
	struct list *list;
	size_t nlist, caplist;
};

static ssize_t tap_read(struct archive *a, void *ctx, const void **p)
{
	struct tap *t = ctx;
	size_t n = 0, z = 0;
	int64_t off;
	int r;

	do
		r = archive_read_data_block(t->raw, p, &n, &off);
	while (r == ARCHIVE_OK && !n);
	if (r == ARCHIVE_EOF)
		return 0;
	if (r != ARCHIVE_OK) {
		const char *why = archive_error_string(t->raw);

		t->failed = true;
		archive_set_error(a, archive_errno(t->raw), "%s", why ? why : "cannot be unpacked");
		return -1;
	}
	while (z < n && !((const uint8_t *)*p)[n - 1 - z])
		z++;
	t->zeros = z == n ? t->zeros + (int64_t)n : (int64_t)z;
	t->total += n;
	return n;
}

static int tar_error(struct tar *t, struct archive *a, const char *member)
{
	const char *why = archive_error_string(a);
	const char *gap = member ? ": " : "";

	return fail(t->s->err, "%s: %s%s%s", t->path, member ? member : "", gap, why ? why : "cannot be read");
}

static int tar_open(struct tar *t)
{
	struct archive_entry *e;

	setlocale(LC_CTYPE, "C.UTF-8"); /* as names are in pax headers, for libarchive */
	t->tap.raw = archive_read_new();
	archive_read_support_filter_gzip(t->tap.raw);
	archive_read_support_filter_zstd(t->tap.raw);
	archive_read_support_filter_xz(t->tap.raw);
	archive_read_support_format_raw(t->tap.raw);
	if (archive_read_open_filename(t->tap.raw, t->path, 1 << 16) != ARCHIVE_OK)
		return tar_error(t, t->tap.raw, NULL);
	if (archive_read_next_header(t->tap.raw, &e) != ARCHIVE_OK)
		return tar_error(t, t->tap.raw, NULL);
	t->plain = t->plain && archive_filter_code(t->tap.raw, 0) == ARCHIVE_FILTER_NONE;
	t->tar = archive_read_new();
	archive_read_support_format_tar(t->tar);
	if (archive_read_open(t->tar, &t->tap, NULL, tap_read, NULL) != ARCHIVE_OK)
		return t->tap.failed ? tar_error(t, t->tar, NULL)
				     : fail(t->s->err, "%s: neither a folder nor a tar, IDX or CIFAR file", t->path);
	return 0;
}

/* A member's bytes appended to out: the size that the header claims is not believed. */
static int member_bytes(struct tar *t, const char *name, struct buf *out, int64_t max)
{
	uint8_t chunk[65536];
	ssize_t n;

	while ((n = archive_read_data(t->tar, chunk, sizeof chunk)) > 0) {
		if ((max -= n) < 0)
			return fail(t->s->err, "%s: %s: too large", t->path, name);
		buf_put(out, chunk, n);
	}
	return n ? tar_error(t, t->tar, name) : 0;
}

static int add_image(struct tar *t, struct archive_entry *e, const char *name)
{
	struct source *s = t->s;
	struct buf *mem = &s->impl->store[t->store].mem;
	int64_t off = 0, len = archive_entry_size(e), at;
	const void *p;
	size_t n;

	if (archive_entry_hardlink(e) || archive_entry_sparse_count(e) > 0)
		return fail(s->err, "%s: %s: a link or a file with holes", t->path, name);
	if (!t->plain) {
		off = mem->len;
		if (member_bytes(t, name, mem, MAX_MEMBER))
			return -1;
		len = mem->len - off;
	} else if (len > MAX_MEMBER) {
		return fail(s->err, "%s: %s: too large", t->path, name);
	} else if (len) { /* the first block makes libarchive step over the header */
		if (archive_read_data_block(t->tar, &p, &n, &at) != ARCHIVE_OK)
			return tar_error(t, t->tar, name);
		off = archive_filter_bytes(t->tar, 0);
	}
	source_add(s, estrdup(name), t->store, off, len);
	return 0;
}

/* KEY.cls: the label in digits. */
static int add_label(struct tar *t, const char *name)
{
	struct buf b = { 0 };
	char *end;
	long v;
	int bad = member_bytes(t, name, &b, 64);

	if (bad) {
		buf_free(&b);
		return -1;
	}
	buf_put(&b, "", 1);
	errno = 0;
	v = strtol((char *)b.p, &end, 10);
	if (end == (char *)b.p || strspn(end, " \r\n\t") != strlen(end) || errno || v < 0 || v >= 1 << 20)
		bad = fail(t->s->err, "%s: %s: no label", t->path, name);
	buf_free(&b);
	if (t->nlabel == t->caplabel) {
		t->caplabel = t->caplabel ? 2 * t->caplabel : 256;
		t->label = erealloc(t->label, t->caplabel, sizeof *t->label);
	}
	t->label[t->nlabel++] = (struct label){ estrndup(name, strlen(name) - 4), v, 0 };
	return bad;
}

/* A member that was written again, as tar -u does, replaces the one before it. */
static int add_list(struct tar *t, const char *path)
{
	struct list *l = t->list, *end = t->list + t->nlist;

	while (l < end && strcmp(l->path, path))
		l++;
	if (l == end) {
		if (t->nlist == t->caplist) {
			t->caplist = t->caplist ? 2 * t->caplist : 4;
			t->list = erealloc(t->list, t->caplist, sizeof *t->list);
		}
		l = &t->list[t->nlist++];
		*l = (struct list){ .path = estrdup(path) };
	}
	l->text.len = 0;
	return member_bytes(t, path, &l->text, MAX_LIST);
}

/* Of a path's parts one begins with a dot and is more than that. */
static bool hidden(const char *name, size_t n)
{
	const char *end = name + n;

	for (const char *p = name; p < end; p = (p = memchr(p, '/', end - p)) ? p + 1 : end)
		if (*p == '.' && p + 1 < end && p[1] != '/')
			return true;
	return false;
}

static int add_member(struct tar *t, struct archive_entry *e)
{
	const char *name = archive_entry_pathname_utf8(e), *base, *slash;
	size_t n;

	if (!name)
		name = archive_entry_pathname(e);
	if (!name)
		return fail(t->s->err, "%s: a member without a name", t->path);
	while (!strncmp(name, "./", 2))
		name += 2;
	n = strlen(name);
	while (n && name[n - 1] == '/')
		n--;
	base = memrchr(name, '/', n);
	base = base ? base + 1 : name;
	if (!n || hidden(name, n))
		return 0;
	if (archive_entry_filetype(e) == AE_IFDIR) {
		names_add(&t->dirs, name, n);
		return 0;
	}
	if (archive_entry_filetype(e) != AE_IFREG && !archive_entry_hardlink(e))
		return image_extension(name) ? fail(t->s->err, "%s: %s: not a regular file", t->path, name) : 0;
	if (image_extension(name))
		return add_image(t, e, name);
	if (n > 4 && !strcmp(name + n - 4, ".cls"))
		return add_label(t, name);
	/* At the top, or in the one folder that holds all: deeper ones do not count. */
	slash = strchr(name, '/');
	if ((!strcmp(base, "classes.txt") || !strcmp(base, "dataset.json")) && (!slash || slash + 1 == base))
		return add_list(t, name);
	return 0;
}

/* To the end of the file: what follows the last member must be zeros, two blocks of them at least. */
static int check_end(struct tar *t)
{
	int64_t end = archive_read_header_position(t->tar);
	const void *p;
	ssize_t n;

	while ((n = tap_read(t->tar, &t->tap, &p)) > 0)
		;
	if (n < 0)
		return tar_error(t, t->tar, NULL);
	if (t->tap.total - end < 1024)
		return fail(t->s->err, "%s: cut short at byte %lld: no end of archive", t->path,
			    (long long)t->tap.total);
	if (t->tap.zeros < t->tap.total - end)
		return fail(t->s->err, "%s: something follows the end of the archive", t->path);
	return 0;
}

static int by_key(const void *a, const void *b)
{
	return strcmp(((const struct label *)a)->key, ((const struct label *)b)->key);
}

/* WebDataset: images and labels of the same key, which ends at the first dot of the file's name. */
static int join_labels(struct tar *t)
{
	struct source *s = t->s;

	qsort(t->label, t->nlabel, sizeof *t->label, by_key);
	for (int64_t i = t->first; i < s->impl->nitem; i++) {
		struct item *m = &s->impl->item[i];
		char *base = strrchr(m->name, '/'), *dot = strchr(base ? base : m->name, '.');
		struct label want = { estrndup(m->name, dot - m->name), 0, 0 }, *l;

		l = bsearch(&want, t->label, t->nlabel, sizeof *t->label, by_key);
		free(want.key);
		if (!l)
			return fail(s->err, "%s: %s: no label (.cls) for this image", t->path, m->name);
		if (l->used++)
			return fail(s->err, "%s: %s: two images or two labels of one key", t->path, m->name);
		m->label = l->label;
		s->impl->max_label = MAX(s->impl->max_label, l->label);
	}
	for (size_t i = 0; i < t->nlabel; i++)
		if (!t->label[i].used)
			return fail(s->err, "%s: %s.cls: a label without an image", t->path, t->label[i].key);
	return 0;
}

/* The name of the first image, "" where there is none. */
static const char *first_image(const struct tar *t)
{
	const struct source_impl *m = t->s->impl;

	return t->first < m->nitem ? m->item[t->first].name : "";
}

/* How many bytes at the start of all images' names are one folder's. */
static size_t common_folder(const struct tar *t)
{
	const struct source_impl *m = t->s->impl;
	const char *first = first_image(t), *slash = strchr(first, '/');
	size_t n = slash ? slash - first + 1 : 0;

	for (int64_t i = t->first; n && i < m->nitem; i++)
		if (strncmp(m->item[i].name, first, n))
			return 0;
	return n;
}

/* How many bytes at the start of all names are the tar's own top folder (tar c train/): all images lie two folders
 * deep, below the same one. */
static size_t top_folder(const struct tar *t)
{
	const struct source_impl *m = t->s->impl;
	const char *first = first_image(t);
	size_t n = common_folder(t);

	for (int64_t i = t->first; n && i < m->nitem; i++)
		if (!strchr(m->item[i].name + n, '/'))
			return 0;
	for (int i = 0; n && i < t->dirs.n; i++)
		if (strncmp(t->dirs.p[i], first, n - 1) || (t->dirs.p[i][n - 1] && t->dirs.p[i][n - 1] != '/'))
			return 0;
	return n;
}

static int set_folders(struct tar *t)
{
	struct source_impl *m = t->s->impl;
	struct names *folders = &m->folders;
	size_t skip = top_folder(t);

	for (int64_t i = t->first; i < m->nitem; i++) {
		char *name = m->item[i].name, *slash;

		memmove(name, name + skip, strlen(name + skip) + 1);
		slash = strchr(name, '/');
		if (!slash)
			return fail(t->s->err, "%s: %s: an image in no class folder", t->path, name);
		m->item[i].class_len = slash - name;
		if (i == t->first || strncmp(name, m->item[i - 1].name, slash - name + 1))
			names_add(folders, name, slash - name);
	}
	for (int i = 0; i < t->dirs.n; i++)
		if (strlen(t->dirs.p[i]) > skip)
			names_add(folders, t->dirs.p[i] + skip, strcspn(t->dirs.p[i] + skip, "/"));
	return 0;
}

/* The list of this name at the top: in the folder that holds all, whose name has top bytes, or else beside it. */
static const struct buf *list_at_top(const struct tar *t, const char *name, size_t top)
{
	const struct buf *found = NULL;
	size_t deepest = 0;

	for (size_t i = 0; i < t->nlist; i++) {
		const struct list *l = &t->list[i];
		size_t n = strlen(l->path) - strlen(name);

		if (strcmp(strrchr(l->path, '/') ? strrchr(l->path, '/') + 1 : l->path, name))
			continue;
		if ((n && (n != top || strncmp(l->path, first_image(t), n))) || n < deepest)
			continue;
		found = &l->text, deepest = n;
	}
	return found && found->len ? found : NULL;
}

static int read_members(struct tar *t)
{
	const struct buf *classes, *dataset;
	struct archive_entry *e;
	size_t top;
	int r;

	while ((r = archive_read_next_header(t->tar, &e)) == ARCHIVE_OK || r == ARCHIVE_WARN)
		if (add_member(t, e))
			return -1;
	if (r != ARCHIVE_EOF)
		return tar_error(t, t->tar, NULL);
	if (check_end(t))
		return -1;
	if (t->s->impl->nitem == t->first && !t->dirs.n)
		return fail(t->s->err, "%s: no images in it", t->path);
	top = t->nlabel ? common_folder(t) : top_folder(t);
	classes = list_at_top(t, "classes.txt", top);
	dataset = list_at_top(t, "dataset.json", top);
	if (classes && source_set_names(t->s, t->path, (char *)classes->p, classes->len))
		return -1;
	if (dataset && source_set_norm(t->s, t->path, (char *)dataset->p, dataset->len))
		return -1;
	if (t->nlabel)
		return source_set_kind(t->s, SOURCE_WDS, t->path) ? -1 : join_labels(t);
	return source_set_kind(t->s, SOURCE_DIRS, t->path) ? -1 : set_folders(t);
}

int read_tar(struct source *s, const char *path, bool regular)
{
	struct tar t = { .s = s, .path = path, .plain = regular, .first = s->impl->nitem };
	int bad = tar_open(&t);

	if (!bad) {
		t.store = source_add_store(s, t.plain ? STORE_FILE : STORE_MEMORY, path);
		bad = read_members(&t);
	}
	archive_read_free(t.tar);
	archive_read_free(t.tap.raw);
	names_free(&t.dirs);
	for (size_t i = 0; i < t.nlabel; i++)
		free(t.label[i].key);
	free(t.label);
	for (size_t i = 0; i < t.nlist; i++) {
		free(t.list[i].path);
		buf_free(&t.list[i].text);
	}
	free(t.list);
	return bad;
}
