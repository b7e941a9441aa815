#include "value.h"

#include <math.h>
#include <msgpack.h>
#include <stdlib.h>
#include <string.h>

static struct val *val_new(enum vtype type)
{
	struct val *v = ecalloc(1, sizeof *v);

	v->type = type;
	return v;
}

struct val *val_nil(void)
{
	return val_new(V_NIL);
}

struct val *val_bool(bool b)
{
	struct val *v = val_new(V_BOOL);

	v->b = b;
	return v;
}

struct val *val_int(int64_t i)
{
	struct val *v = val_new(V_INT);

	v->i = i;
	return v;
}

struct val *val_uint(uint64_t u)
{
	struct val *v = val_new(u > INT64_MAX ? V_UINT : V_INT);

	if (v->type == V_UINT)
		v->u = u;
	else
		v->i = u;
	return v;
}

struct val *val_f64(double f)
{
	struct val *v = val_new(V_F64);

	v->f = f;
	return v;
}

static struct val *bytes_new(enum vtype type, const void *p, size_t len)
{
	struct val *v = val_new(type);

	v->s.p = emalloc(len + 1);
	v->s.len = len;
	if (len)
		memcpy(v->s.p, p, len);
	v->s.p[len] = '\0';
	return v;
}

struct val *val_str(const char *s)
{
	return bytes_new(V_STR, s, strlen(s));
}

struct val *val_bin(const void *p, size_t len)
{
	return bytes_new(V_BIN, p, len);
}

struct val *val_list(void)
{
	return val_new(V_LIST);
}

struct val *val_ints(const int *x, int n)
{
	struct val *v = val_list();

	for (int i = 0; i < n; i++)
		val_push(v, val_int(x[i]));
	return v;
}

struct val *val_floats(const float *x, int n)
{
	struct val *v = val_list();

	for (int i = 0; i < n; i++)
		val_push(v, val_f64(x[i]));
	return v;
}

struct val *val_f64s(const double *x, int n)
{
	struct val *v = val_list();

	for (int i = 0; i < n; i++)
		val_push(v, val_f64(x[i]));
	return v;
}

struct val *val_map(void)
{
	return val_new(V_MAP);
}

struct val *val_tensor(struct tensor t)
{
	struct val *v = val_new(V_TENSOR);

	v->t = t;
	return v;
}

struct val *val_copy(const struct val *v)
{
	struct val *c;
	size_t i;

	switch (v->type) {
	case V_STR:
	case V_BIN:
		return bytes_new(v->type, v->s.p, v->s.len);
	case V_LIST:
		c = val_list();
		for (i = 0; i < v->list.len; i++)
			val_push(c, val_copy(v->list.item[i]));
		return c;
	case V_MAP:
		c = val_map();
		for (i = 0; i < v->map.len; i++)
			val_put(c, v->map.key[i], val_copy(v->map.item[i]));
		return c;
	case V_TENSOR:
		return val_tensor(tensor_copy(&v->t));
	default:
		c = val_new(v->type);
		*c = *v;
		return c;
	}
}

void val_free(struct val *v)
{
	size_t i;

	if (!v)
		return;
	switch (v->type) {
	case V_STR:
	case V_BIN:
		free(v->s.p);
		break;
	case V_LIST:
		for (i = 0; i < v->list.len; i++)
			val_free(v->list.item[i]);
		free(v->list.item);
		break;
	case V_MAP:
		for (i = 0; i < v->map.len; i++) {
			free(v->map.key[i]);
			val_free(v->map.item[i]);
		}
		free(v->map.key);
		free(v->map.item);
		break;
	case V_TENSOR:
		tensor_free(&v->t);
		break;
	default:
		break;
	}
	free(v);
}

static bool tensor_equal(const struct tensor *a, const struct tensor *b)
{
	return a->type == b->type && a->ndim == b->ndim &&
		!memcmp(a->shape, b->shape, a->ndim * sizeof *a->shape) && !memcmp(a->data, b->data, tensor_bytes(a));
}

bool val_equal(const struct val *a, const struct val *b)
{
	size_t i;

	if (!a || !b)
		return a == b;
	if (a->type != b->type)
		return false;
	switch (a->type) {
	case V_NIL:
		return true;
	case V_BOOL:
		return a->b == b->b;
	case V_INT:
		return a->i == b->i;
	case V_UINT:
		return a->u == b->u;
	case V_F64: /* by bits: a NaN is itself */
		return !memcmp(&a->f, &b->f, sizeof a->f);
	case V_STR:
	case V_BIN:
		return a->s.len == b->s.len && !memcmp(a->s.p, b->s.p, a->s.len);
	case V_LIST:
		if (a->list.len != b->list.len)
			return false;
		for (i = 0; i < a->list.len; i++)
			if (!val_equal(a->list.item[i], b->list.item[i]))
				return false;
		return true;
	case V_MAP: /* order matters: equal values have equal bytes */
		if (a->map.len != b->map.len)
			return false;
		for (i = 0; i < a->map.len; i++)
			if (strcmp(a->map.key[i], b->map.key[i]) || !val_equal(a->map.item[i], b->map.item[i]))
				return false;
		return true;
	case V_TENSOR:
		return tensor_equal(&a->t, &b->t);
	}
	return false;
}

/* Room for one more where the lengths are powers of two. */
static void *room(void *p, size_t len, size_t size)
{
	return len & (len - 1) ? p : erealloc(p, len ? 2 * len : 1, size);
}

void val_push(struct val *list, struct val *item)
{
	list->list.item = room(list->list.item, list->list.len, sizeof *list->list.item);
	list->list.item[list->list.len++] = item;
}

static void append(struct val *map, char *key, struct val *item)
{
	map->map.key = room(map->map.key, map->map.len, sizeof *map->map.key);
	map->map.item = room(map->map.item, map->map.len, sizeof *map->map.item);
	map->map.key[map->map.len] = key;
	map->map.item[map->map.len++] = item;
}

static size_t find(const struct val *map, const char *key)
{
	size_t i;

	for (i = 0; i < map->map.len; i++)
		if (!strcmp(map->map.key[i], key))
			break;
	return i;
}

void val_put(struct val *map, const char *key, struct val *item)
{
	size_t i = find(map, key);

	if (i == map->map.len) {
		append(map, estrdup(key), item);
		return;
	}
	val_free(map->map.item[i]);
	map->map.item[i] = item;
}

/* Capacity follows from the length alone, so a shrunk map must not leave arrays smaller than room() believes: they
 * only ever stay larger, and growing reallocates down to what it needs. */
void val_drop(struct val *map, const char *key)
{
	size_t i = find(map, key), n = map->map.len;

	if (i == n)
		return;
	free(map->map.key[i]);
	val_free(map->map.item[i]);
	memmove(map->map.key + i, map->map.key + i + 1, (n - i - 1) * sizeof *map->map.key);
	memmove(map->map.item + i, map->map.item + i + 1, (n - i - 1) * sizeof *map->map.item);
	map->map.len--;
}

struct val *val_get(const struct val *map, const char *key)
{
	size_t i;

	if (!map || map->type != V_MAP)
		return NULL;
	i = find(map, key);
	return i < map->map.len ? map->map.item[i] : NULL;
}

int64_t val_get_int(const struct val *map, const char *key, int64_t dflt)
{
	const struct val *v = val_get(map, key);

	return v && v->type == V_INT ? v->i : dflt;
}

double val_get_f64(const struct val *map, const char *key, double dflt)
{
	const struct val *v = val_get(map, key);

	if (v && v->type == V_INT)
		return v->i;
	return v && v->type == V_F64 ? v->f : dflt;
}

const char *val_get_str(const struct val *map, const char *key)
{
	const struct val *v = val_get(map, key);

	/* A string that hides a NUL would compare equal to what it is not. */
	return v && v->type == V_STR && strlen(v->s.p) == v->s.len ? v->s.p : NULL;
}

struct tensor *val_get_tensor(const struct val *map, const char *key)
{
	struct val *v = val_get(map, key);

	return v && v->type == V_TENSOR ? &v->t : NULL;
}

static int put_bytes(void *b, const char *p, size_t n)
{
	buf_put(b, p, n);
	return 0;
}

static void pack_bin(msgpack_packer *pk, const void *p, size_t n)
{
	msgpack_pack_bin(pk, n);
	msgpack_pack_bin_body(pk, p, n);
}

static void pack_str(msgpack_packer *pk, const char *p, size_t n)
{
	msgpack_pack_str(pk, n);
	msgpack_pack_str_body(pk, p, n);
}

static void pack_tensor(msgpack_packer *pk, const struct tensor *t)
{
	int i;

	msgpack_pack_map(pk, 5);
	pack_bin(pk, "nd", 2);
	msgpack_pack_true(pk);
	pack_bin(pk, "type", 4);
	pack_str(pk, dtype_name[t->type], 3);
	pack_bin(pk, "kind", 4);
	pack_bin(pk, "", 0);
	pack_bin(pk, "shape", 5);
	msgpack_pack_array(pk, t->ndim);
	for (i = 0; i < t->ndim; i++)
		msgpack_pack_int64(pk, t->shape[i]);
	pack_bin(pk, "data", 4);
	pack_bin(pk, t->data, tensor_bytes(t));
}

static void pack(msgpack_packer *pk, const struct val *v)
{
	size_t i;

	switch (v->type) {
	case V_NIL:
		msgpack_pack_nil(pk);
		break;
	case V_BOOL:
		v->b ? msgpack_pack_true(pk) : msgpack_pack_false(pk);
		break;
	case V_INT:
		msgpack_pack_int64(pk, v->i);
		break;
	case V_UINT:
		msgpack_pack_uint64(pk, v->u);
		break;
	case V_F64:
		msgpack_pack_double(pk, v->f);
		break;
	case V_STR:
		pack_str(pk, v->s.p, v->s.len);
		break;
	case V_BIN:
		pack_bin(pk, v->s.p, v->s.len);
		break;
	case V_LIST:
		msgpack_pack_array(pk, v->list.len);
		for (i = 0; i < v->list.len; i++)
			pack(pk, v->list.item[i]);
		break;
	case V_MAP:
		msgpack_pack_map(pk, v->map.len);
		for (i = 0; i < v->map.len; i++) {
			pack_str(pk, v->map.key[i], strlen(v->map.key[i]));
			pack(pk, v->map.item[i]);
		}
		break;
	case V_TENSOR:
		pack_tensor(pk, &v->t);
		break;
	}
}

void val_pack(struct buf *b, const struct val *v)
{
	msgpack_packer pk;

	msgpack_packer_init(&pk, b, put_bytes);
	pack(&pk, v);
}

static bool is_bin(const msgpack_object *o, const char *s)
{
	return o->type == MSGPACK_OBJECT_BIN && o->via.bin.size == strlen(s) && !memcmp(o->via.bin.ptr, s, strlen(s));
}

/* The map of a msgpack-numpy array; its size and the data's are checked against each other before the copy. */
static struct val *unpack_tensor(const msgpack_object_map *m, char err[ERRLEN])
{
	static const char *const want[] = { "nd", "type", "kind", "shape", "data" };
	const msgpack_object *f[LEN(want)] = { 0 };
	struct tensor t = { 0 };
	size_t i, j, n = 1;
	int64_t d;

	for (i = 0; i < m->size; i++)
		for (j = 0; j < LEN(want); j++)
			if (is_bin(&m->ptr[i].key, want[j]))
				f[j] = &m->ptr[i].val;
	for (j = 0; j < LEN(want); j++)
		if (!f[j] || m->size != LEN(want)) {
			fail(err, "a map with binary keys that is no msgpack-numpy array");
			return NULL;
		}
	if (f[0]->type != MSGPACK_OBJECT_BOOLEAN || !f[0]->via.boolean || f[1]->type != MSGPACK_OBJECT_STR ||
	    !is_bin(f[2], "") || f[3]->type != MSGPACK_OBJECT_ARRAY || f[4]->type != MSGPACK_OBJECT_BIN) {
		fail(err, "a malformed msgpack-numpy array");
		return NULL;
	}
	for (t.type = 0; t.type < DT_COUNT; t.type++)
		if (f[1]->via.str.size == 3 && !memcmp(f[1]->via.str.ptr, dtype_name[t.type], 3))
			break;
	if (t.type == DT_COUNT) {
		fail(err, "tensor of unknown type '%.*s'", (int)MIN(f[1]->via.str.size, 16), f[1]->via.str.ptr);
		return NULL;
	}
	if (f[3]->via.array.size > TENSOR_MAXDIM) {
		fail(err, "tensor of %u dimensions (at most %d)", f[3]->via.array.size, TENSOR_MAXDIM);
		return NULL;
	}
	t.ndim = f[3]->via.array.size;
	for (i = 0; i < (size_t)t.ndim; i++) {
		const msgpack_object *o = &f[3]->via.array.ptr[i];

		if (o->type != MSGPACK_OBJECT_POSITIVE_INTEGER || o->via.u64 > INT64_MAX) {
			fail(err, "tensor with a shape that is none");
			return NULL;
		}
		d = t.shape[i] = o->via.u64;
		/* Beside a zero the others could be anything; nobody may multiply them later. */
		if (mul_size(n, MAX(d, 1), &n) < 0) {
			fail(err, "tensor whose size overflows");
			return NULL;
		}
	}
	if (n > SIZE_MAX / 16) {
		fail(err, "tensor whose size overflows");
		return NULL;
	}
	n = tensor_bytes(&t);
	if (n != f[4]->via.bin.size) {
		fail(err, "tensor of %zu bytes by its shape, of %u by its data", n, f[4]->via.bin.size);
		return NULL;
	}
	t = tensor_new(t.type, t.ndim, t.shape);
	if (n)
		memcpy(t.data, f[4]->via.bin.ptr, n);
	return val_tensor(t);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int check_unique(const struct val *map, char err[ERRLEN])
{
	size_t i, n = map->map.len;
	char **key;

	if (n < 2)
		return 0;
	key = emalloc(n * sizeof *key);
	memcpy(key, map->map.key, n * sizeof *key);
	qsort(key, n, sizeof *key, by_name);
	for (i = 1; i < n && strcmp(key[i - 1], key[i]); i++)
		;
	if (i < n)
		fail(err, "key '%.64s' stands twice in a map", key[i]);
	free(key);
	return i < n ? -1 : 0;
}

static struct val *unpack(const msgpack_object *o, char err[ERRLEN]);

static struct val *unpack_map(const msgpack_object_map *m, char err[ERRLEN])
{
	struct val *v, *item;
	size_t i;

	if (m->size && m->ptr[0].key.type == MSGPACK_OBJECT_BIN)
		return unpack_tensor(m, err);
	v = val_map();
	for (i = 0; i < m->size; i++) {
		const msgpack_object *k = &m->ptr[i].key;

		if (k->type != MSGPACK_OBJECT_STR || memchr(k->via.str.ptr, '\0', k->via.str.size)) {
			fail(err, "a map's key is no string");
			break;
		}
		if (!(item = unpack(&m->ptr[i].val, err)))
			break;
		append(v, estrndup(k->via.str.ptr, k->via.str.size), item);
	}
	if (i == m->size && !check_unique(v, err))
		return v;
	val_free(v);
	return NULL;
}

static struct val *unpack_list(const msgpack_object_array *a, char err[ERRLEN])
{
	struct val *v = val_list(), *item;
	size_t i;

	for (i = 0; i < a->size; i++) {
		if (!(item = unpack(&a->ptr[i], err))) {
			val_free(v);
			return NULL;
		}
		val_push(v, item);
	}
	return v;
}

static struct val *unpack(const msgpack_object *o, char err[ERRLEN])
{
	switch (o->type) {
	case MSGPACK_OBJECT_NIL:
		return val_nil();
	case MSGPACK_OBJECT_BOOLEAN:
		return val_bool(o->via.boolean);
	case MSGPACK_OBJECT_POSITIVE_INTEGER:
		return val_uint(o->via.u64);
	case MSGPACK_OBJECT_NEGATIVE_INTEGER:
		return val_int(o->via.i64);
	case MSGPACK_OBJECT_FLOAT32:
	case MSGPACK_OBJECT_FLOAT64:
		return val_f64(o->via.f64);
	case MSGPACK_OBJECT_STR:
		return bytes_new(V_STR, o->via.str.ptr, o->via.str.size);
	case MSGPACK_OBJECT_BIN:
		return bytes_new(V_BIN, o->via.bin.ptr, o->via.bin.size);
	case MSGPACK_OBJECT_ARRAY:
		return unpack_list(&o->via.array, err);
	case MSGPACK_OBJECT_MAP:
		return unpack_map(&o->via.map, err);
	default:
		fail(err, "a msgpack extension type");
		return NULL;
	}
}

struct val *val_unpack(const void *p, size_t n, char err[ERRLEN])
{
	struct val *v = NULL;
	msgpack_object o;
	msgpack_zone zone;
	size_t off = 0;

	if (!n || msgpack_scan(p, n, n) != (int64_t)n) {
		fail(err, "no valid msgpack object of %zu bytes", n);
		return NULL;
	}
	if (!msgpack_zone_init(&zone, 8192))
		die("out of memory");
	if (msgpack_unpack(p, n, &off, &zone, &o) == MSGPACK_UNPACK_SUCCESS && off == n)
		v = unpack(&o, err);
	else
		fail(err, "no valid msgpack object");
	msgpack_zone_destroy(&zone);
	return v;
}
