#include "safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define X(id, name, bits) name,
const char *const st_type_name[ST_UNKNOWN] = { ST_TYPES(X) };
#undef X
#define X(id, name, bits) bits,
static const uint8_t st_type_bits[ST_UNKNOWN] = { ST_TYPES(X) };
#undef X

struct st_impl {
	const uint8_t *file;
	size_t size;
	bool mapped;
	const struct st_tensor **by_name;
};

/* Names and JSON's own words may hold anything: a line stays one, and a terminal gets no control characters. */
__attribute__((format(printf, 2, 3)))
static int bad(struct safetensors *s, const char *fmt, ...)
{
	char line[ERRLEN], *p;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	for (p = line; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	return fail(s->err, "%s: %s", s->name, line);
}

static uint64_t get_le64(const uint8_t *p)
{
	uint64_t v = 0;
	int i;

	for (i = 7; i >= 0; i--)
		v = v << 8 | p[i];
	return v;
}

/* A size or offset: a whole number from 0 on. */
static int get_size(const json_t *j, uint64_t *out)
{
	if (!json_is_integer(j) || json_integer_value(j) < 0)
		return -1;
	*out = json_integer_value(j);
	return 0;
}

static int get_shape(struct safetensors *s, const json_t *j, struct st_tensor *t, size_t *elements)
{
	uint64_t d;
	json_t *x;
	size_t i;

	if (!json_is_array(j) || json_array_size(j) > INT32_MAX)
		return bad(s, "tensor %s: no shape", t->name);
	t->ndim = json_array_size(j);
	*elements = 1;
	json_array_foreach(j, i, x) {
		/* Beside a zero the others could be anything; nobody may multiply them later. */
		if (get_size(x, &d) < 0 || mul_size(*elements, MAX(d, 1), elements) < 0)
			return bad(s, "tensor %s: a shape that is none, or overflows", t->name);
		if (i < TENSOR_MAXDIM)
			t->shape[i] = d;
	}
	if (*elements > SIZE_MAX / 64)
		return bad(s, "tensor %s: a shape that is none, or overflows", t->name);
	json_array_foreach(j, i, x)
		if (!json_integer_value(x))
			*elements = 0;
	return 0;
}

static int get_tensor(struct safetensors *s, const char *name, const json_t *j, struct st_tensor *t)
{
	const json_t *dtype = json_object_get(j, "dtype"), *at = json_object_get(j, "data_offsets");
	size_t elements;

	*t = (struct st_tensor){ .name = estrdup(name) };
	if (!json_is_object(j) || json_object_size(j) != 3 || !json_is_string(dtype))
		return bad(s, "tensor %s: it is not described by dtype, shape and data_offsets", name);
	snprintf(t->dtype, sizeof t->dtype, "%s", json_string_value(dtype));
	while (t->type < ST_UNKNOWN && strcmp(json_string_value(dtype), st_type_name[t->type]))
		t->type++;
	if (get_shape(s, json_object_get(j, "shape"), t, &elements) < 0)
		return -1;
	if (!json_is_array(at) || json_array_size(at) != 2 || get_size(json_array_get(at, 0), &t->begin) < 0 ||
	    get_size(json_array_get(at, 1), &t->end) < 0 || t->begin > t->end)
		return bad(s, "tensor %s: no data_offsets", name);
	if (t->type < ST_UNKNOWN && t->end - t->begin != elements * (st_type_bits[t->type] / 8))
		return bad(s, "tensor %s: %zu bytes by its shape, %llu by its offsets", name,
			elements * (st_type_bits[t->type] / 8), (unsigned long long)(t->end - t->begin));
	return 0;
}

static int get_meta(struct safetensors *s, json_t *j)
{
	const char *key;
	json_t *x;

	if (!json_is_object(j))
		return bad(s, "its __metadata__ is no map of strings");
	s->meta = ecalloc(json_object_size(j), sizeof *s->meta);
	json_object_foreach(j, key, x) {
		if (!json_is_string(x))
			return bad(s, "its __metadata__ is no map of strings");
		s->meta[s->nmeta++] = (struct st_meta){ estrdup(key), estrdup(json_string_value(x)) };
	}
	return 0;
}

static int by_place(const void *a, const void *b)
{
	const struct st_tensor *s = a, *t = b;

	if (s->begin != t->begin)
		return s->begin < t->begin ? -1 : 1;
	return s->end < t->end ? -1 : s->end > t->end;
}

static int by_name(const void *a, const void *b)
{
	return strcmp((*(const struct st_tensor *const *)a)->name, (*(const struct st_tensor *const *)b)->name);
}

/* No hole, no overlap, nothing behind: else two readers could see two networks in one file. */
static int check_places(struct safetensors *s, uint64_t ndata)
{
	uint64_t end = 0;
	int i;

	for (i = 0; i < s->ntensor; i++) {
		const struct st_tensor *t = &s->tensor[i];

		if (t->end > ndata)
			return bad(s, "tensor %s: ends at byte %llu of the data, which has %llu: truncated", t->name,
				(unsigned long long)t->end, (unsigned long long)ndata);
		if (t->begin != end)
			return bad(s, "tensor %s: starts at byte %llu of the data, where the one before ends at %llu: %s",
				t->name, (unsigned long long)t->begin, (unsigned long long)end,
				t->begin < end ? "they overlap" : "a hole");
		end = t->end;
	}
	if (end != ndata)
		return bad(s, "%llu bytes behind the last tensor", (unsigned long long)(ndata - end));
	return 0;
}

static int parse(struct safetensors *s)
{
	struct st_impl *im = s->impl;
	uint64_t n = im->size < 8 ? 0 : get_le64(im->file);
	json_error_t e;
	json_t *root, *x;
	const char *key;
	int rc = 0, i;

	if (im->size < 8)
		return bad(s, "no safetensors file: it has %zu bytes", im->size);
	if (n > im->size - 8)
		return bad(s, "a header of %llu bytes in a file of %zu: truncated, or no safetensors file",
			(unsigned long long)n, im->size);
	if (n > ST_HEADER_MAX)
		return bad(s, "a header of %llu bytes, where %d are allowed", (unsigned long long)n, ST_HEADER_MAX);
	if (!n || im->file[8] != '{')
		return bad(s, "no safetensors file: its header is no JSON object");
	root = json_loadb((const char *)im->file + 8, n, JSON_REJECT_DUPLICATES, &e);
	if (!root)
		return bad(s, "header, byte %d: %s", 8 + e.position, e.text);
	s->data = im->file + 8 + n;
	s->tensor = ecalloc(json_object_size(root), sizeof *s->tensor);
	json_object_foreach(root, key, x) {
		if (!strcmp(key, "__metadata__"))
			rc = get_meta(s, x);
		else
			rc = get_tensor(s, key, x, &s->tensor[s->ntensor++]);
		if (rc < 0)
			break;
	}
	json_decref(root);
	if (rc < 0)
		return -1;
	qsort(s->tensor, s->ntensor, sizeof *s->tensor, by_place);
	im->by_name = emalloc(s->ntensor * sizeof *im->by_name);
	for (i = 0; i < s->ntensor; i++)
		im->by_name[i] = &s->tensor[i];
	qsort(im->by_name, s->ntensor, sizeof *im->by_name, by_name);
	return check_places(s, im->size - 8 - n);
}

static int start(struct safetensors *s, const struct st_impl *proto, const char *name)
{
	*s = (struct safetensors){ .name = estrdup(name), .impl = ecalloc(1, sizeof *s->impl) };
	*s->impl = *proto;
	if (!parse(s))
		return 0;
	st_close(s);
	return -1;
}

int st_open_mem(struct safetensors *s, const void *p, size_t n, const char *name)
{
	return start(s, &(struct st_impl){ .file = p, .size = n }, name);
}

int st_open(struct safetensors *s, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *p = NULL;

	*s = (struct safetensors){ .name = NULL };
	if (fd < 0)
		return fail(s->err, "%s:", path);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return fail(s->err, "%s: not a regular file, which it must be to be mapped", path);
	}
	if (st.st_size)
		p = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (p == MAP_FAILED) {
		fail(s->err, "%s:", path);
		close(fd);
		return -1;
	}
	close(fd);
	return start(s, &(struct st_impl){ .file = p, .size = st.st_size, .mapped = p }, path);
}

void st_close(struct safetensors *s)
{
	int i;

	if (!s->impl)
		return;
	if (s->impl->mapped)
		munmap((void *)s->impl->file, s->impl->size);
	for (i = 0; i < s->ntensor; i++)
		free(s->tensor[i].name);
	for (i = 0; i < s->nmeta; i++) {
		free(s->meta[i].key);
		free(s->meta[i].value);
	}
	free(s->tensor);
	free(s->meta);
	free(s->impl->by_name);
	free(s->impl);
	free(s->name);
	s->impl = NULL;
}

const struct st_tensor *st_find(const struct safetensors *s, const char *name)
{
	const struct st_tensor want = { .name = (char *)name }, *key = &want, **p;

	p = bsearch(&key, s->impl->by_name, s->ntensor, sizeof key, by_name);
	return p ? *p : NULL;
}

const char *st_meta(const struct safetensors *s, const char *key)
{
	int i;

	for (i = 0; i < s->nmeta; i++)
		if (!strcmp(s->meta[i].key, key))
			return s->meta[i].value;
	return NULL;
}

/* The first element that is infinite or no number, n: none. */
static size_t first_unfit(const float *x, size_t n)
{
	uint32_t u, unfit = 0;
	size_t i;

	for (i = 0; i < n; i++) { /* without a way out, so that it runs in vectors */
		memcpy(&u, x + i, sizeof u);
		unfit |= (u & 0x7f800000) == 0x7f800000;
	}
	for (i = unfit ? 0 : n; i < n; i++) {
		memcpy(&u, x + i, sizeof u);
		if ((u & 0x7f800000) == 0x7f800000)
			break;
	}
	return i;
}

/* Data need not be aligned in the file. */
static void convert(float *out, const uint8_t *p, enum st_type type, size_t count)
{
	uint32_t u;
	uint16_t h;
	double d;
	size_t i;

	if (type == ST_F32)
		memcpy(out, p, count * sizeof *out);
	for (i = 0; i < count && type == ST_F64; i++) {
		memcpy(&d, p + 8 * i, sizeof d);
		out[i] = d;
	}
	for (i = 0; i < count && type == ST_F16; i++) {
		memcpy(&h, p + 2 * i, sizeof h);
		out[i] = f16_to_f32(h);
	}
	for (i = 0; i < count && type == ST_BF16; i++) {
		memcpy(&h, p + 2 * i, sizeof h);
		u = (uint32_t)h << 16;
		memcpy(out + i, &u, sizeof u);
	}
}

int st_floats(struct safetensors *s, const struct st_tensor *t, size_t first, size_t count, float *out)
{
	size_t i;

	if (t->type > ST_BF16)
		return bad(s, "tensor %s: of type %s, which is no float that this program reads", t->name, t->dtype);
	convert(out, s->data + t->begin + first * (st_type_bits[t->type] / 8), t->type, count);
	if ((i = first_unfit(out, count)) < count)
		return bad(s, "tensor %s: element %zu is no finite number of 32 bits", t->name, first + i);
	return 0;
}

/* {"__metadata__": {...}, NAME: {"dtype", "shape", "data_offsets"}, ...} */
static json_t *describe(enum st_type type, const struct st_tensor *tensor, int n, const struct st_meta *meta, int nmeta)
{
	json_t *root = json_object(), *words = json_object(), *shape;
	uint64_t at = 0, bytes;
	int i, d, rc = 0;

	for (i = 0; i < nmeta; i++)
		rc |= json_object_set_new(words, meta[i].key, json_string(meta[i].value));
	rc |= json_object_set_new(root, "__metadata__", words);
	for (i = 0; i < n; i++) {
		shape = json_array();
		bytes = st_type_bits[type] / 8;
		for (d = 0; d < tensor[i].ndim; d++) {
			json_array_append_new(shape, json_integer(tensor[i].shape[d]));
			bytes *= tensor[i].shape[d];
		}
		rc |= json_object_set_new(root, tensor[i].name, json_pack("{s:s, s:o, s:[I, I]}", "dtype", st_type_name[type],
			"shape", shape, "data_offsets", (json_int_t)at, (json_int_t)(at + bytes)));
		at += bytes;
	}
	if (!rc)
		return root;
	json_decref(root);
	return NULL;
}

static int put_bytes(struct st_writer *w, const void *p, size_t n)
{
	errno = 0;
	if (fwrite(p, 1, n, w->out.fp) == n)
		return 0;
	return errno ? fail(w->err, "%s:", w->name) : fail(w->err, "%s: write error", w->name);
}

static int put_header(struct st_writer *w, const char *text)
{
	size_t n = strlen(text), room = (n + 7) / 8 * 8;
	uint8_t length[8];
	int i;

	if (room > ST_HEADER_MAX)
		return fail(w->err, "%s: a header of %zu bytes, where %d are allowed", w->name, room, ST_HEADER_MAX);
	for (i = 0; i < 8; i++)
		length[i] = room >> 8 * i;
	if (put_bytes(w, length, 8) < 0 || put_bytes(w, text, n) < 0)
		return -1;
	return put_bytes(w, "       ", room - n); /* so that the data is aligned in a map */
}

int st_create(struct st_writer *w, const char *path, enum st_type type, const struct st_tensor *tensor, int n,
	const struct st_meta *meta, int nmeta)
{
	json_t *root = describe(type, tensor, n, meta, nmeta);
	char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
	int rc;

	json_decref(root);
	*w = (struct st_writer){ .type = type };
	w->name = estrdup(path && strcmp(path, "-") ? path : "standard output");
	if (!text)
		rc = fail(w->err, "%s: a name in it is no UTF-8", w->name);
	else if ((rc = out_open(&w->out, path, w->err)) == 0)
		rc = put_header(w, text);
	free(text);
	if (rc < 0)
		st_abort(w);
	return rc;
}

/* Round to nearest even; what is too large becomes infinite, as in f32_to_f16(). */
static uint16_t f32_to_bf16(float x)
{
	uint32_t u;

	memcpy(&u, &x, sizeof u);
	return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

int st_put(struct st_writer *w, const char *name, const float *x, size_t count)
{
	uint16_t block[4096], top = w->type == ST_F16 ? 0x7c00 : 0x7f80; /* exponent of what is not finite */
	size_t i, j, n;

	if ((i = first_unfit(x, count)) < count)
		return fail(w->err, "%s: %s: element %zu is no finite number", w->name, name, i);
	if (w->type == ST_F32)
		return put_bytes(w, x, count * sizeof *x);
	for (i = 0; i < count; i += n) {
		n = MIN(count - i, LEN(block));
		for (j = 0; j < n; j++) {
			block[j] = w->type == ST_F16 ? f32_to_f16(x[i + j]) : f32_to_bf16(x[i + j]);
			if ((block[j] & top) == top)
				return fail(w->err, "%s: %s: %g is too large for %s", w->name, name, x[i + j],
					st_type_name[w->type]);
		}
		if (put_bytes(w, block, n * sizeof *block) < 0)
			return -1;
	}
	return 0;
}

static void release(struct st_writer *w)
{
	free(w->name);
	w->name = NULL;
}

int st_finish(struct st_writer *w)
{
	int rc = out_finish(&w->out, w->err);

	release(w);
	return rc;
}

void st_abort(struct st_writer *w)
{
	out_abort(&w->out);
	release(w);
}
