#include "header.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "tstream.h"

struct val *header_new(const char *kind)
{
	struct val *h = val_map();

	val_put(h, "tensorstream", val_int(TS_VERSION));
	val_put(h, "kind", val_str(kind));
	return h;
}

const char *header_kind(const struct val *h)
{
	const char *kind = val_get_str(h, "kind");

	return kind ? kind : "";
}

int header_nclass(const struct val *h)
{
	const struct val *list = val_get(h, "classes");
	size_t i;

	if (!list || list->type != V_LIST || list->list.len > 1 << 20)
		return 0;
	for (i = 0; i < list->list.len; i++)
		if (list->list.item[i]->type != V_STR)
			return 0;
	return list->list.len;
}

const char *header_class(const struct val *h, int label)
{
	const struct val *list = val_get(h, "classes");

	if (!list || list->type != V_LIST || label < 0 || (size_t)label >= list->list.len ||
	    list->list.item[label]->type != V_STR)
		return NULL;
	return list->list.item[label]->s.p;
}

void header_set_classes(struct val *h, const char *const *name, int n)
{
	struct val *list = val_list();
	int i;

	for (i = 0; i < n; i++)
		val_push(list, val_str(name[i]));
	val_put(h, "classes", list);
}

/* The label of this name, at or behind a place; how many classes there are when it has none. */
static int label_of(const struct val *h, const char *name, int at)
{
	int n = header_nclass(h);

	while (at < n && strcmp(header_class(h, at), name))
		at++;
	return at;
}

int header_map_classes(const struct val *from, const struct val *to, int *map, char err[ERRLEN])
{
	int nfrom = header_nclass(from), nto = header_nclass(to);

	for (int i = 0; i < nfrom; i++) {
		const char *name = header_class(from, i);

		map[i] = label_of(to, name, 0);
		if (map[i] == nto)
			return fail(err, "unknown class '%.200s'", name);
		if (label_of(to, name, map[i] + 1) < nto || label_of(from, name, i + 1) < nfrom)
			return fail(err, "class '%.200s' stands twice", name);
	}
	return 0;
}

static int get_floats(const struct val *list, float *out)
{
	size_t i;

	if (!list || list->type != V_LIST || !list->list.len || list->list.len > MAX_CHANNELS)
		return -1;
	for (i = 0; i < list->list.len; i++) {
		const struct val *v = list->list.item[i];

		out[i] = v->type == V_F64 ? v->f : v->type == V_INT ? (double)v->i : NAN;
		if (!isfinite(out[i]))
			return -1;
	}
	return i;
}

int header_norm(const struct val *h, struct norm *n)
{
	int i, std;

	*n = (struct norm){ .channels = 0 };
	n->channels = get_floats(val_get(h, "mean"), n->mean);
	std = get_floats(val_get(h, "std"), n->std);
	if (n->channels < 1 || std != n->channels)
		return -1;
	for (i = 0; i < std; i++)
		if (!(n->std[i] > 0))
			return -1;
	return 0;
}

void header_set_norm(struct val *h, const struct norm *n)
{
	val_put(h, "mean", val_floats(n->mean, n->channels));
	val_put(h, "std", val_floats(n->std, n->channels));
}

/* pixel/255 = v = x*s1 + m1, and y = (v - m2) / s2. */
void norm_affine(const struct norm *from, const struct norm *to, float *scale, float *shift)
{
	int c;

	for (c = 0; c < from->channels; c++) {
		scale[c] = (double)from->std[c] / to->std[c];
		shift[c] = ((double)from->mean[c] - to->mean[c]) / to->std[c];
	}
}

int header_shape(const struct val *h, int chw[3])
{
	const struct val *list = val_get(h, "shape");
	int i;

	if (!list || list->type != V_LIST || list->list.len != 3)
		return -1;
	for (i = 0; i < 3; i++) {
		const struct val *v = list->list.item[i];

		if (v->type != V_INT || v->i < 1 || v->i > 65536)
			return -1;
		chw[i] = v->i;
	}
	return 0;
}

void header_set_shape(struct val *h, const int chw[3])
{
	val_put(h, "shape", val_ints(chw, 3));
}

void history_add(struct val *h, const char *program, struct val *args)
{
	struct val *list = val_get(h, "history"), *entry = val_map();

	if (!list || list->type != V_LIST) {
		list = val_list();
		val_put(h, "history", list);
	}
	val_put(entry, "program", val_str(program));
	val_put(entry, "version", val_str(TEDDY_VERSION));
	val_put(entry, "args", args);
	if (list->list.len && val_equal(list->list.item[list->list.len - 1], entry))
		val_free(entry);
	else
		val_push(list, entry);
}

static const struct val *last_entry(const struct val *h)
{
	const struct val *list = val_get(h, "history");

	return list && list->type == V_LIST && list->list.len ? list->list.item[list->list.len - 1] : NULL;
}

struct val *history_args(const struct val *h)
{
	return val_get(last_entry(h), "args");
}

static int digest(FILE *fp, char hex[33])
{
	XXH3_state_t *st = XXH3_createState();
	static const size_t size = 1 << 16;
	uint8_t *b = emalloc(size);
	XXH128_canonical_t c;
	size_t n, i;

	if (!st)
		die("out of memory");
	XXH3_128bits_reset(st);
	while ((n = fread(b, 1, size, fp)) > 0)
		XXH3_128bits_update(st, b, n);
	XXH128_canonicalFromHash(&c, XXH3_128bits_digest(st));
	for (i = 0; i < sizeof c.digest; i++)
		sprintf(hex + 2 * i, "%02x", c.digest[i]);
	XXH3_freeState(st);
	free(b);
	return ferror(fp) ? -1 : 0;
}

/* A tar begins with the blocks of its first member: extended headers are passed over. Leaves fp at the member's bytes;
 * 0 when this is no tar. Here by hand, so that only what reads pools needs libarchive. */
static int enter_tar(FILE *fp)
{
	uint8_t block[512];
	long size;
	int skipped = 0;

	while (fread(block, 1, sizeof block, fp) == sizeof block && !memcmp(block + 257, "ustar", 5)) {
		if (block[156] == '0' || !block[156])
			return 1;
		block[136] = '\0';
		size = strtol((char *)block + 124, NULL, 8);
		if (++skipped > 16 || size < 0 || fseek(fp, (size + 511) / 512 * 512, SEEK_CUR) < 0)
			break;
	}
	return 0;
}

int history_same(const struct val *mine, const struct val *was, const char *path, char err[ERRLEN])
{
	const struct val *a = history_args(mine), *b = history_args(was), *p;
	const char *program = val_get_str(last_entry(mine), "program"), *other = val_get_str(last_entry(was), "program");

	if (!other || strcmp(program ? program : "", other))
		return fail(err, "%s: no state of this program", path);
	for (size_t i = 0; a && i < a->map.len; i++) {
		p = val_get(b, a->map.key[i]);
		if (!p || !val_equal(a->map.item[i], p))
			return fail(err, "%s: of a run with another %s; remove it to start anew", path, a->map.key[i]);
	}
	for (size_t i = 0; a && b && i < b->map.len; i++)
		if (!val_get(a, b->map.key[i]))
			return fail(err, "%s: of a run with %s; remove it to start anew", path, b->map.key[i]);
	return 0;
}

int history_file(const char *path, struct val **out, char err[ERRLEN])
{
	FILE *fp = fopen(path, "rbe");
	struct ts_reader r;
	struct val *list;
	struct stat st;
	char hex[33];
	int first;

	if (!fp)
		return fail(err, "%s:", path);
	if (fstat(fileno(fp), &st) < 0 || !S_ISREG(st.st_mode)) {
		fclose(fp);
		return fail(err, "%s: not a regular file; it is read twice, for its contents and for its digest", path);
	}
	errno = 0;
	if (digest(fp, hex) < 0) {
		fail(err, "%s:", path);
		fclose(fp);
		return -1;
	}
	*out = val_map();
	val_put(*out, "xxh3", val_str(hex));
	rewind(fp);
	first = getc(fp);
	rewind(fp);
	/* Anything else that serves as an argument has a digest, but no history. */
	if (first != EOF && (ts_begins(first) || enter_tar(fp)) && !ts_open_file(&r, fp, path, NULL)) {
		if ((list = val_get(r.header, "history")))
			val_put(*out, "history", val_copy(list));
		ts_close(&r);
	}
	fclose(fp);
	return 0;
}
