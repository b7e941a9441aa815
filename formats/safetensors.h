/* safetensors: named arrays behind a JSON header, the format in which most trained networks are passed on.
 *
 * A reader maps its file and owns everything in it; tensors point into the map. A writer owns its output; it writes one
 * float type. Whatever can fail returns -1 and leaves one line in err.
 */
#ifndef SAFETENSORS_H
#define SAFETENSORS_H

#include "../lib/tensor.h"
#include "tstream.h"

/* name in the header, bits an element; floats are what st_floats() reads and a writer may have. */
#define ST_TYPES(X) \
	X(ST_F64, "F64", 64) X(ST_F32, "F32", 32) X(ST_F16, "F16", 16) X(ST_BF16, "BF16", 16) \
	X(ST_I64, "I64", 64) X(ST_I32, "I32", 32) X(ST_I16, "I16", 16) X(ST_I8, "I8", 8) \
	X(ST_U64, "U64", 64) X(ST_U32, "U32", 32) X(ST_U16, "U16", 16) X(ST_U8, "U8", 8) X(ST_BOOL, "BOOL", 8)
#define X(id, name, bits) id,
enum st_type { ST_TYPES(X) ST_UNKNOWN };
#undef X
extern const char *const st_type_name[ST_UNKNOWN];

enum { ST_HEADER_MAX = 100000000 }; /* the format's own limit */

struct st_tensor {
	char *name;
	char dtype[16];        /* as the header says; type is ST_UNKNOWN where that is none of the above */
	enum st_type type;
	int ndim;              /* shape has the first TENSOR_MAXDIM */
	int64_t shape[TENSOR_MAXDIM];
	uint64_t begin, end;   /* bytes of the data */
};

struct safetensors {
	char *name;
	char err[ERRLEN];
	int ntensor, nmeta;
	struct st_tensor *tensor; /* in the order of their data */
	struct st_meta { char *key, *value; } *meta;
	const uint8_t *data;
	struct st_impl *impl;
};

/* Maps a regular file and checks it: header within the file, no name twice, data of each tensor as long as its type and
 * shape say, one behind the other to the file's end. A tensor of an unknown type is no error until it is used. */
int st_open(struct safetensors *s, const char *path);
int st_open_mem(struct safetensors *s, const void *p, size_t n, const char *name);
void st_close(struct safetensors *s);
const struct st_tensor *st_find(const struct safetensors *s, const char *name);
const char *st_meta(const struct safetensors *s, const char *key); /* NULL: none */
/* Elements [first, first + count) of a tensor of floats; -1 where one is none that is finite in 32 bits. */
int st_floats(struct safetensors *s, const struct st_tensor *t, size_t first, size_t count, float *out);

struct st_writer {
	char *name;
	char err[ERRLEN];
	enum st_type type;
	struct outfile out;
};

/* path and manners as ts_create's. tensor: names and shapes, in the order in which st_put() will bring them; all have
 * the writer's type. */
int st_create(struct st_writer *w, const char *path, enum st_type type, const struct st_tensor *tensor, int n,
	const struct st_meta *meta, int nmeta);
int st_put(struct st_writer *w, const char *name, const float *x, size_t count); /* -1 where the type cannot hold one */
int st_finish(struct st_writer *w);
void st_abort(struct st_writer *w);

#endif
