#include "json.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* jansson returns NULL for a value that it cannot hold, and refuses NULL as an item. */
static json_t *from_val(const struct val *v)
{
	json_t *j;
	size_t i;

	switch (v->type) {
	case V_NIL: return json_null();
	case V_BOOL: return json_boolean(v->b);
	case V_INT: return json_integer(v->i);
	case V_F64: return json_real(v->f);
	case V_STR: return memchr(v->s.p, '\0', v->s.len) ? NULL : json_stringn(v->s.p, v->s.len);
	case V_LIST:
		j = json_array();
		for (i = 0; i < v->list.len; i++)
			if (json_array_append_new(j, from_val(v->list.item[i])) < 0) {
				json_decref(j);
				return NULL;
			}
		return j;
	case V_MAP:
		j = json_object();
		for (i = 0; i < v->map.len; i++)
			if (json_object_set_new(j, v->map.key[i], from_val(v->map.item[i])) < 0) {
				json_decref(j);
				return NULL;
			}
		return j;
	default: return NULL;
	}
}

char *val_to_json(const struct val *v, char err[ERRLEN])
{
	json_t *j;
	char *s;
	size_t i;

	if (v->type == V_MAP)
		for (i = 0; i < v->map.len; i++) { /* so that the message names the key */
			j = from_val(v->map.item[i]);
			if (!j) {
				fail(err, "JSON cannot hold its '%.64s'", v->map.key[i]);
				return NULL;
			}
			json_decref(j);
		}
	j = from_val(v);
	s = j ? json_dumps(j, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
	json_decref(j);
	if (!s)
		fail(err, "JSON cannot hold it");
	return s;
}

enum { MAX_KEYS = 4096 }; /* a map is searched from its start */

static struct val *to_val(json_t *j, int depth)
{
	struct val *v, *item;
	const char *key;
	json_t *x;
	size_t i;

	switch (json_typeof(j)) {
	case JSON_NULL: return val_nil();
	case JSON_TRUE: return val_bool(true);
	case JSON_FALSE: return val_bool(false);
	case JSON_INTEGER: return val_int(json_integer_value(j));
	case JSON_REAL: return val_f64(json_real_value(j));
	case JSON_STRING: return val_str(json_string_value(j));
	case JSON_ARRAY:
	case JSON_OBJECT: break;
	}
	if (!depth || json_object_size(j) > MAX_KEYS)
		return NULL;
	if (json_is_array(j)) {
		v = val_list();
		json_array_foreach(j, i, x) {
			if (!(item = to_val(x, depth - 1))) {
				val_free(v);
				return NULL;
			}
			val_push(v, item);
		}
		return v;
	}
	v = val_map();
	json_object_foreach(j, key, x) {
		if (!(item = to_val(x, depth - 1))) {
			val_free(v);
			return NULL;
		}
		val_put(v, key, item);
	}
	return v;
}

struct val *val_from_json(const char *p, size_t n, char err[ERRLEN])
{
	json_error_t e;
	json_t *j = json_loadb(p, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &e);
	struct val *v;

	if (!j) {
		fail(err, "not JSON: %s", e.text);
		return NULL;
	}
	if (!(v = to_val(j, SCAN_MAXDEPTH - 1)))
		fail(err, "JSON that nests too deeply, or has too many keys");
	json_decref(j);
	return v;
}
