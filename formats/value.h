/* A tree of msgpack values: what headers and frames are in memory.
 *
 * A value is owned by the list or map that holds it; val_free() releases a whole tree. Tensors are msgpack-numpy maps
 * on the wire and one V_TENSOR here. Numbers keep the width class they came in (V_INT, V_F64), so unknown keys pass
 * through a filter with their meaning untouched.
 */
#ifndef VALUE_H
#define VALUE_H

#include <stdbool.h>
#include <stdint.h>

#include "../lib/tensor.h"
#include "../lib/util.h"

enum vtype { V_NIL, V_BOOL, V_INT, V_UINT, V_F64, V_STR, V_BIN, V_LIST, V_MAP, V_TENSOR };

struct val {
	enum vtype type;
	union {
		bool b;
		int64_t i;
		uint64_t u; /* only for values above INT64_MAX */
		double f;
		struct { char *p; size_t len; } s; /* V_STR (NUL-terminated too), V_BIN */
		struct { struct val **item; size_t len; } list;
		struct { char **key; struct val **item; size_t len; } map; /* insertion order, unique strings */
		struct tensor t;
	};
};

struct val *val_nil(void);
struct val *val_bool(bool b);
struct val *val_int(int64_t i);
struct val *val_uint(uint64_t u); /* a V_INT where it fits */
struct val *val_f64(double f);
struct val *val_str(const char *s);
struct val *val_bin(const void *p, size_t len);
struct val *val_list(void);
struct val *val_ints(const int *x, int n);     /* lists of these */
struct val *val_floats(const float *x, int n); /* as the doubles of their value, so that they come back exactly */
struct val *val_f64s(const double *x, int n);
struct val *val_map(void);
struct val *val_tensor(struct tensor t); /* takes t.data over */
struct val *val_copy(const struct val *v);
void val_free(struct val *v); /* NULL is fine */
bool val_equal(const struct val *a, const struct val *b);

void val_push(struct val *list, struct val *item);                /* takes item over */
void val_put(struct val *map, const char *key, struct val *item); /* takes item over; replaces in place or appends */
void val_drop(struct val *map, const char *key);
struct val *val_get(const struct val *map, const char *key);           /* NULL when absent or not a map */

/* Typed reads with a default for "absent or of another type". */
int64_t val_get_int(const struct val *map, const char *key, int64_t dflt);
double val_get_f64(const struct val *map, const char *key, double dflt); /* V_INT counts too */
const char *val_get_str(const struct val *map, const char *key);         /* NULL */
struct tensor *val_get_tensor(const struct val *map, const char *key);   /* NULL */

/* msgpack bytes of v, appended to b. */
void val_pack(struct buf *b, const struct val *v);

/* One value out of exactly n bytes. The bounded scanner has checked nesting (at most 32), lengths and claimed sizes
 * against n before anything is allocated; tensors: known type, shape product checked against the data's length.
 * NULL and err on anything else. */
struct val *val_unpack(const void *p, size_t n, char err[ERRLEN]);

/* Bounded scanner (scan.c). An object may nest at most so deep, and hold so many objects, since each takes memory. */
enum { SCAN_MAXDEPTH = 32, SCAN_MAXOBJECTS = 1 << 22 };

/* Bytes of the first msgpack object in p[0..n): > 0; 0 when it goes on beyond n (read more); -1 when it is no valid
 * object, nests too deeply, or would be larger than limit. */
int64_t msgpack_scan(const uint8_t *p, size_t n, size_t limit);

/* The same while bytes arrive: call again with more of the same object. need: bytes that it has at least, so reading up
 * to there never reads beyond it. */
struct scanner {
	size_t need;
	bool started;
	size_t pos, objects;
	int depth;
	uint64_t pending, left[SCAN_MAXDEPTH]; /* objects still to come: in all, by level */
};
int64_t scan_more(struct scanner *s, const uint8_t *p, size_t n, size_t limit);

#endif
