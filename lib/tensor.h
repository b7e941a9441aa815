/* A dense tensor in C order. Owner: whoever holds the struct; tensor_free() releases data. */
#ifndef TENSOR_H
#define TENSOR_H

#include <stddef.h>
#include <stdint.h>

#define TENSOR_MAXDIM 8

/* name as numpy spells it (little-endian), bytes an element. bf16 has no numpy name: it travels as u16. */
#define DTYPES(X) \
	X(DT_U8, "|u1", 1) X(DT_I32, "<i4", 4) X(DT_I64, "<i8", 8) X(DT_U16, "<u2", 2) X(DT_F16, "<f2", 2) \
	X(DT_F32, "<f4", 4) X(DT_F64, "<f8", 8) X(DT_BOOL, "|b1", 1)

#define X(id, name, size) id,
enum dtype { DTYPES(X) DT_COUNT };
#undef X

struct tensor {
	enum dtype type;
	int ndim;
	int64_t shape[TENSOR_MAXDIM];
	void *data;
};

extern const char *const dtype_name[DT_COUNT];
extern const uint8_t dtype_size[DT_COUNT];

/* Elements, bytes: shapes are trusted here (whoever read them from outside has checked their product). */
size_t tensor_count(const struct tensor *t);
size_t tensor_bytes(const struct tensor *t);
struct tensor tensor_new(enum dtype type, int ndim, const int64_t *shape); /* zeroed, 64-byte aligned */
struct tensor tensor_copy(const struct tensor *t);
void tensor_free(struct tensor *t);

/* IEEE half, round to nearest even. */
uint16_t f32_to_f16(float x);
float f16_to_f32(uint16_t h);

#endif
