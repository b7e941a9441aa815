/* Value trees as JSON text and back: what travels as a string in another format's metadata. The caller owns results. */
#ifndef JSON_H
#define JSON_H

#include "value.h"

/* Maps, lists, strings, numbers, booleans and nil; integers and floats stay what they are, bit for bit. NULL and err
 * for what JSON has not: infinities and NaN, bytes, tensors, strings that are no UTF-8 or have a NUL. free() it. */
char *val_to_json(const struct val *v, char err[ERRLEN]);

/* JSON text of n bytes, nesting at most as deep as a stream may, no key twice in an object. NULL and err. */
struct val *val_from_json(const char *p, size_t n, char err[ERRLEN]);

#endif
