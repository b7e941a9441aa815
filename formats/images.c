#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "source.h"

enum { MAX_DEPTH = 32 };
#define MAX_ENCODED ((int64_t)128 << 20)

void names_add(struct names *l, const char *s, size_t n)
{
	if (!(l->n & (l->n - 1)))
		l->p = erealloc(l->p, l->n ? 2 * (size_t)l->n : 1, sizeof *l->p);
	l->p[l->n++] = estrndup(s, n);
}

void names_free(struct names *l)
{
	for (int i = 0; i < l->n; i++)
		free(l->p[i]);
	free(l->p);
	*l = (struct names){ 0 };
}

void names_lines(struct names *l, const char *p, size_t n)
{
	const char *end = p + n;

	while (end > p && (end[-1] == '\n' || end[-1] == '\r'))
		end--;
	while (p < end) {
		const char *nl = memchr(p, '\n', end - p), *stop = nl ? nl : end;

		names_add(l, p, stop - p - (stop > p && stop[-1] == '\r'));
		p = stop + 1;
	}
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void names_sort(struct names *l)
{
	int n = 0;

	if (l->n)
		qsort(l->p, l->n, sizeof *l->p, by_name);
	for (int i = 0; i < l->n; i++)
		if (n && !strcmp(l->p[n - 1], l->p[i]))
			free(l->p[i]);
		else
			l->p[n++] = l->p[i];
	l->n = n;
}

char *class_folder(const char *name)
{
	char *s = estrdup(*name ? name : "_");

	for (char *p = s; *p; p++)
		if (*p == '/')
			*p = '_';
	if (*s == '.')
		*s = '_';
	return s;
}

bool image_extension(const char *name)
{
	static const char *const ext[] = { "jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp" };
	const char *dot = strrchr(name, '.');

	for (size_t i = 0; dot && i < LEN(ext); i++)
		if (!strcasecmp(dot + 1, ext[i]))
			return true;
	return false;
}

int source_set_kind(struct source *s, enum source_kind kind, const char *path)
{
	static const char *const what[] = { "", "folders and tars of CLASS/FILE", "WebDataset tars", "IDX files",
					    "CIFAR-10 batches", "CIFAR-100 batches" };

	if (s->impl->kind != SOURCE_NONE && s->impl->kind != kind)
		return fail(s->err, "%s: does not go together with %s", path, what[s->impl->kind]);
	s->impl->kind = kind;
	return 0;
}

int source_add_store(struct source *s, int kind, const char *path)
{
	struct source_impl *m = s->impl;

	m->store = erealloc(m->store, m->nstore + 1, sizeof *m->store);
	m->store[m->nstore] = (struct store){ .kind = kind, .path = estrdup(path) };
	return m->nstore++;
}

struct item *source_add(struct source *s, char *name, int store, int64_t off, int64_t len)
{
	struct source_impl *m = s->impl;

	if (m->nitem == m->cap) {
		m->cap = m->cap ? 2 * m->cap : 256;
		m->item = erealloc(m->item, m->cap, sizeof *m->item);
	}
	m->item[m->nitem] = (struct item){ .name = name, .store = store, .off = off, .len = len };
	return &m->item[m->nitem++];
}

int source_set_names(struct source *s, const char *path, const char *p, size_t n)
{
	struct names *had = &s->impl->listed, l = { 0 };
	int bad = 0;

	if (memchr(p, 0, n))
		return fail(s->err, "%s: no list of class names", path);
	names_lines(&l, p, n);
	if (!had->n) {
		*had = l;
		return 0;
	}
	bad = had->n != l.n;
	for (int i = 0; i < l.n && !bad; i++)
		bad = strcmp(had->p[i], l.p[i]);
	names_free(&l);
	return bad ? fail(s->err, "%s: other class names than before", path) : 0;
}

static int json_channels(const json_t *list, double *out)
{
	int n = json_array_size(list);

	if (n != 1 && n != 3)
		return 0;
	for (int i = 0; i < n; i++) {
		if (!json_is_number(json_array_get(list, i)))
			return 0;
		out[i] = json_number_value(json_array_get(list, i));
	}
	return n;
}

/* A dataset.json of somebody else's, without the two lists, says nothing. */
int source_set_norm(struct source *s, const char *path, const char *p, size_t n)
{
	json_error_t e;
	json_t *j = json_loadb(p, n, 0, &e);
	double mean[3], std[3];
	int c, bad = 0;

	if (!j)
		return fail(s->err, "%s: %s at byte %d", path, e.text, e.position);
	c = json_channels(json_object_get(j, "mean"), mean);
	if (c && json_channels(json_object_get(j, "std"), std) == c) {
		for (int i = 0; i < c; i++)
			bad |= !(std[i] > 0) || (s->channels && (s->channels != c || s->mean[i] != mean[i] ||
								 s->std[i] != std[i]));
		s->channels = c;
		memcpy(s->mean, mean, sizeof mean);
		memcpy(s->std, std, sizeof std);
	}
	json_decref(j);
	return bad ? fail(s->err, "%s: no normalisation, or another one than before", path) : 0;
}

/* A whole file of at most max bytes. */
static int slurp(const char *path, int64_t max, struct buf *out, char *err)
{
	uint8_t chunk[65536];
	FILE *fp = fopen(path, "r");
	size_t n;
	int bad;

	if (!fp)
		return fail(err, "%s: %s", path, strerror(errno));
	while ((n = fread(chunk, 1, sizeof chunk, fp)) > 0 && (int64_t)out->len <= max)
		buf_put(out, chunk, n);
	bad = ferror(fp) ? errno : 0;
	fclose(fp);
	if (bad)
		return fail(err, "%s: %s", path, strerror(bad));
	return (int64_t)out->len > max ? fail(err, "%s: too large", path) : 0;
}

/* Files of one class, folders within it too; rel is CLASS[/…]. */
static int walk(struct source *s, int store, const char *rel, int class_len, int depth)
{
	char *root = s->impl->store[store].path, *path = eprintf_str("%s/%s", root, rel);
	DIR *d = opendir(path);
	struct dirent *e;
	int bad = 0;

	if (!d)
		bad = fail(s->err, "%s: %s", path, strerror(errno));
	while (!bad && (errno = 0, e = readdir(d))) {
		char *name, *full;
		struct stat st;

		if (e->d_name[0] == '.')
			continue;
		name = eprintf_str("%s/%s", rel, e->d_name);
		full = eprintf_str("%s/%s", root, name);
		if (stat(full, &st))
			bad = fail(s->err, "%s: %s", full, strerror(errno));
		else if (S_ISDIR(st.st_mode))
			bad = depth ? walk(s, store, name, class_len, depth - 1)
				    : fail(s->err, "%s: folders too deep", full);
		else if (image_extension(name)) {
			source_add(s, name, store, 0, -1)->class_len = class_len;
			name = NULL;
		}
		free(name);
		free(full);
	}
	if (!bad && errno)
		bad = fail(s->err, "%s: %s", path, strerror(errno));
	if (d)
		closedir(d);
	free(path);
	return bad;
}

static int read_folder(struct source *s, const char *path)
{
	int store = source_add_store(s, STORE_FOLDER, path), bad = source_set_kind(s, SOURCE_DIRS, path), nclass = 0;
	DIR *d = bad ? NULL : opendir(path);
	struct dirent *e;

	if (!bad && !d)
		bad = fail(s->err, "%s: %s", path, strerror(errno));
	while (!bad && (errno = 0, e = readdir(d))) {
		char *full = eprintf_str("%s/%s", path, e->d_name);
		struct buf b = { 0 };
		struct stat st;

		if (e->d_name[0] == '.' || stat(full, &st))
			; /* hidden, or a dangling link beside the classes */
		else if (S_ISDIR(st.st_mode)) {
			nclass++;
			names_add(&s->impl->folders, e->d_name, strlen(e->d_name));
			bad = walk(s, store, e->d_name, strlen(e->d_name), MAX_DEPTH);
		} else if (!strcmp(e->d_name, "classes.txt"))
			bad = slurp(full, 1 << 24, &b, s->err) || source_set_names(s, full, (char *)b.p, b.len);
		else if (!strcmp(e->d_name, "dataset.json"))
			bad = slurp(full, 1 << 24, &b, s->err) || source_set_norm(s, full, (char *)b.p, b.len);
		buf_free(&b);
		free(full);
	}
	if (!bad && errno)
		bad = fail(s->err, "%s: %s", path, strerror(errno));
	if (d)
		closedir(d);
	if (!bad && !nclass)
		bad = fail(s->err, "%s: no class folders in it", path);
	return bad ? -1 : 0;
}

static int read_path(struct source *s, const char *path)
{
	struct stat st;
	uint8_t first[4];
	size_t n = strlen(path);
	int got;

	if (stat(path, &st))
		return fail(s->err, "%s: %s", path, strerror(errno));
	if (S_ISDIR(st.st_mode))
		return read_folder(s, path);
	if (!S_ISREG(st.st_mode))
		return read_tar(s, path, false);
	if ((got = peek_raw(path, first, s->err)) < 0)
		return -1;
	if (!got)
		return fail(s->err, "%s: empty file", path);
	if (got == 4 && !memcmp(first, "\0\0\10\3", 4))
		return read_idx(s, path);
	if (got == 4 && !memcmp(first, "\0\0\10\1", 4))
		return fail(s->err, "%s: labels; name the images file, the labels are found beside it", path);
	if ((n > 4 && !strcmp(path + n - 4, ".bin")) || (n > 7 && !strcmp(path + n - 7, ".bin.gz")))
		return read_cifar(s, path);
	return read_tar(s, path, true);
}

/* Class, folder within it, file: as ImageFolder sorts; the same name twice stays in the order of the paths. */
static int by_place(const void *pa, const void *pb)
{
	const struct item *a = pa, *b = pb;
	const char *fa = strrchr(a->name, '/'), *fb = strrchr(b->name, '/');
	int la = fa - a->name, lb = fb - b->name, d;

	if (a->label != b->label)
		return a->label < b->label ? -1 : 1;
	d = memcmp(a->name, b->name, MIN(la, lb));
	if (!d)
		d = la - lb;
	if (!d)
		d = strcmp(fa, fb);
	if (!d)
		d = a->store - b->store;
	return d ? d : (a->off > b->off) - (a->off < b->off);
}

static int find_name(struct names *l, const char *name, int len)
{
	int lo = 0, hi = l->n;

	while (lo < hi) {
		int mid = (lo + hi) / 2, d = strncmp(l->p[mid], name, len);

		if (!d && l->p[mid][len])
			d = 1;
		if (!d)
			return mid;
		if (d < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return -1;
}

/* Label of each class folder (sorted): its own place or that of the line of classes.txt that made it, when every
 * folder has a line there. *listed tells which. */
static int *label_order(struct source_impl *m, bool *listed)
{
	int *to = emalloc((m->folders.n + 1) * sizeof *to), used = 0;

	for (int i = 0; i < m->folders.n; i++)
		to[i] = -1;
	for (int i = 0; i < m->listed.n; i++) {
		char *f = class_folder(m->listed.p[i]);
		int at = find_name(&m->folders, f, strlen(f));

		if (at >= 0 && to[at] < 0) {
			to[at] = i;
			used++;
		}
		free(f);
	}
	*listed = used && used == m->folders.n;
	for (int i = 0; i < m->folders.n && !*listed; i++)
		to[i] = i;
	return to;
}

static int order_folders(struct source *s)
{
	struct source_impl *m = s->impl;
	struct names t;
	bool listed;
	int *to, *seen, bad = 0;

	names_sort(&m->folders);
	to = label_order(m, &listed);
	seen = ecalloc(m->folders.n + 1, sizeof *seen);
	for (int64_t i = 0; i < m->nitem; i++) {
		int at = find_name(&m->folders, m->item[i].name, m->item[i].class_len);

		seen[at]++;
		m->item[i].label = to[at];
	}
	for (int i = 0; i < m->folders.n && !bad; i++)
		if (!seen[i])
			bad = fail(s->err, "%s: class folder without an image", m->folders.p[i]);
	if (!bad && m->nitem)
		qsort(m->item, m->nitem, sizeof *m->item, by_place);
	if (!listed) {
		t = m->listed;
		m->listed = m->folders;
		m->folders = t;
	}
	free(to);
	free(seen);
	return bad;
}

static int set_classes(struct source *s)
{
	struct source_impl *m = s->impl;
	struct names l = { 0 };

	if (m->kind == SOURCE_DIRS && order_folders(s))
		return -1;
	if (!m->nitem)
		return fail(s->err, "no images");
	s->named = m->listed.n > 0;
	if (m->kind == SOURCE_CIFAR10 || m->kind == SOURCE_CIFAR100)
		m->max_label = m->kind == SOURCE_CIFAR10 ? 9 : 99;
	if (s->named && m->kind != SOURCE_DIRS && m->max_label >= m->listed.n)
		return fail(s->err, "label %d, but only %d class names", m->max_label, m->listed.n);
	for (int i = 0; !s->named && i <= m->max_label; i++) {
		char *digits = eprintf_str("%d", i);

		names_add(&l, digits, strlen(digits));
		free(digits);
	}
	if (s->named) {
		l = m->listed;
		m->listed = (struct names){ 0 };
	}
	s->classes = l.p;
	s->nclass = l.n;
	s->count = m->nitem;
	s->label = emalloc(m->nitem * sizeof *s->label);
	for (int64_t i = 0; i < m->nitem; i++)
		s->label[i] = m->item[i].label;
	return 0;
}

int source_open(struct source *s, char *const *paths, int npath)
{
	*s = (struct source){ .impl = ecalloc(1, sizeof *s->impl) };
	s->impl->fd = s->impl->fd_store = s->impl->max_label = -1;
	for (int i = 0; i < npath; i++)
		if (read_path(s, paths[i])) {
			source_close(s);
			return -1;
		}
	if (set_classes(s)) {
		source_close(s);
		return -1;
	}
	return 0;
}

static int read_part(struct source *s, const struct item *t, struct buf *out)
{
	struct source_impl *m = s->impl;
	struct store *st = &m->store[t->store];

	if (m->fd_store != t->store) {
		if (m->fd >= 0)
			close(m->fd);
		m->fd_store = t->store;
		m->fd = open(st->path, O_RDONLY | O_CLOEXEC);
		if (m->fd < 0) {
			m->fd_store = -1;
			return fail(s->err, "%s: %s", st->path, strerror(errno));
		}
	}
	out->p = emalloc(t->len + 1);
	out->cap = t->len + 1;
	while ((int64_t)out->len < t->len) {
		ssize_t n = pread(m->fd, out->p + out->len, t->len - out->len, t->off + out->len);

		if (n <= 0)
			return fail(s->err, "%s: %s: %s", st->path, t->name, n ? strerror(errno) : "cut short");
		out->len += n;
	}
	return 0;
}

int source_get(struct source *s, int64_t i, struct source_item *it)
{
	const struct item *t = &s->impl->item[i];
	struct store *st = &s->impl->store[t->store];
	int bad = 0;

	*it = (struct source_item){ .label = t->label, .path = st->path, .name = t->name,
		.encoded = st->kind != STORE_PIXELS };
	if (st->kind == STORE_FOLDER) {
		char *full = eprintf_str("%s/%s", st->path, t->name);

		bad = slurp(full, MAX_ENCODED, &it->data, s->err);
		free(full);
	} else if (st->kind == STORE_FILE) {
		bad = read_part(s, t, &it->data);
	} else if (st->kind == STORE_MEMORY) {
		buf_put(&it->data, st->mem.p + t->off, t->len);
	} else {
		it->pic = (struct picture){ st->c, st->h, st->w, emalloc(t->len) };
		memcpy(it->pic.px, st->mem.p + t->off, t->len);
	}
	if (bad)
		buf_free(&it->data);
	return bad;
}

void source_close(struct source *s)
{
	struct source_impl *m = s->impl;

	for (int i = 0; i < s->nclass; i++)
		free(s->classes[i]);
	free(s->classes);
	free(s->label);
	for (int64_t i = 0; i < m->nitem; i++)
		free(m->item[i].name);
	for (int i = 0; i < m->nstore; i++) {
		free(m->store[i].path);
		buf_free(&m->store[i].mem);
	}
	if (m->fd >= 0)
		close(m->fd);
	names_free(&m->folders);
	names_free(&m->listed);
	free(m->item);
	free(m->store);
	free(m);
	s->impl = NULL;
	s->classes = NULL;
	s->label = NULL;
	s->nclass = 0;
	s->count = 0;
}
