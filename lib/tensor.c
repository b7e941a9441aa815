#include "tensor.h"

#include <stdlib.h>
#include <string.h>

#include "util.h"

#define X(id, name, size) name,
const char *const dtype_name[DT_COUNT] = { DTYPES(X) };
#undef X
#define X(id, name, size) size,
const uint8_t dtype_size[DT_COUNT] = { DTYPES(X) };
#undef X

size_t tensor_count(const struct tensor *t)
{
	size_t n = 1;
	int i;

	for (i = 0; i < t->ndim; i++)
		n *= t->shape[i];
	return n;
}

size_t tensor_bytes(const struct tensor *t)
{
	return tensor_count(t) * dtype_size[t->type];
}

struct tensor tensor_new(enum dtype type, int ndim, const int64_t *shape)
{
	struct tensor t = { .type = type, .ndim = ndim };
	size_t n = 1;
	int i;

	for (i = 0; i < ndim; i++) {
		if (shape[i] < 0 || mul_size(n, shape[i], &n) < 0)
			die("out of memory: a tensor's size overflows");
		t.shape[i] = shape[i];
	}
	t.data = ealigned(n, dtype_size[type]);
	return t;
}

struct tensor tensor_copy(const struct tensor *t)
{
	struct tensor c = tensor_new(t->type, t->ndim, t->shape);

	memcpy(c.data, t->data, tensor_bytes(t));
	return c;
}

void tensor_free(struct tensor *t)
{
	free(t->data);
	t->data = NULL;
}

uint16_t f32_to_f16(float x)
{
	uint32_t u, sign, mant, half, rest, mid;
	int exp, shift;

	memcpy(&u, &x, 4);
	sign = u >> 16 & 0x8000;
	exp = (int)(u >> 23 & 0xff) - 127 + 15;
	mant = u & 0x7fffff;
	if ((u >> 23 & 0xff) == 0xff) /* a NaN must not turn into an infinity */
		return sign | 0x7c00 | (mant ? 0x200 | mant >> 13 : 0);
	if (exp >= 31)
		return sign | 0x7c00;
	shift = 13;
	if (exp <= 0) { /* subnormal: the implicit bit becomes explicit and moves down */
		if (exp < -10)
			return sign;
		mant |= 0x800000;
		shift += 1 - exp;
		exp = 0;
	}
	half = (uint32_t)exp << 10 | mant >> shift;
	rest = mant & ((1u << shift) - 1);
	mid = 1u << (shift - 1);
	/* A carry runs over into the exponent, which is what rounding up means there, up to infinity. */
	if (rest > mid || (rest == mid && (half & 1)))
		half++;
	return sign | half;
}

float f16_to_f32(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000) << 16, mant = h & 0x3ff, u;
	int exp = h >> 10 & 0x1f;
	float x;

	if (exp == 31) {
		u = sign | 0x7f800000 | mant << 13;
	} else if (exp) {
		u = sign | (uint32_t)(exp - 15 + 127) << 23 | mant << 13;
	} else if (!mant) {
		u = sign;
	} else {
		for (exp = 127 - 15 + 1; !(mant & 0x400); exp--)
			mant <<= 1;
		u = sign | (uint32_t)exp << 23 | (mant & 0x3ff) << 13;
	}
	memcpy(&x, &u, 4);
	return x;
}
