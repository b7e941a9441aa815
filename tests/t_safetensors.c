/* safetensors files: one of the package's own (fixtures/types.safetensors, made by gen_safetensors.py), everything that
 * can be wrong with their bytes, what is written; and JSON that travels in them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../formats/checkpoint.h"
#include "../formats/json.h"
#include "../formats/safetensors.h"
#include "load.h"
#include "tap.h"

static char dir[] = "/tmp/t_safetensors.XXXXXX", file[64]; /* scratch folder, and the file that is made in it */

/* A file with this header and so many bytes of data, each its own number. */
static struct buf make(const char *header, size_t ndata)
{
	struct buf b = { 0 };
	uint64_t n = strlen(header);
	uint8_t byte;
	size_t i;

	buf_put(&b, &n, 8);
	buf_put(&b, header, n);
	for (i = 0; i < ndata; i++) {
		byte = i;
		buf_put(&b, &byte, 1);
	}
	return b;
}

/* Opens a copy that ends where the bytes end, and reads every float in it. 1: some tensor is none or not finite. */
static int read_all(const void *p, size_t n, char err[ERRLEN])
{
	void *copy = emalloc(n);
	struct safetensors s;
	int rc, i;

	memcpy(copy, p, n);
	*err = '\0';
	rc = st_open_mem(&s, copy, n, "mem");
	if (rc < 0)
		fail(err, "%s", s.err);
	for (i = 0; !rc && i < s.ntensor; i++) {
		const struct st_tensor *t = &s.tensor[i];
		size_t count = 1, bytes = t->end - t->begin;
		float *x = emalloc((bytes + 1) * sizeof *x);

		if (t->type < ST_UNKNOWN && t->ndim <= TENSOR_MAXDIM) {
			for (int d = 0; d < t->ndim; d++)
				count *= t->shape[d];
			if (st_find(&s, t->name) != t)
				die("%s is not found", t->name);
			if (st_floats(&s, t, 0, count, x) < 0) {
				rc = 1;
				fail(err, "%s", s.err);
			}
		}
		free(x);
	}
	st_close(&s);
	free(copy);
	return rc;
}

static void refuse(const char *name, const char *header, size_t ndata, const char *expect)
{
	struct buf b = make(header, ndata);
	char err[ERRLEN];
	int rc = read_all(b.p, b.len, err);

	ok(rc < 0 && strstr(err, expect) && !strpbrk(err, "\n\r\033"), "refused: %s (%s)", name, rc ? err : "accepted");
	buf_free(&b);
}

static void accept(const char *name, const char *header, size_t ndata)
{
	struct buf b = make(header, ndata);
	char err[ERRLEN];

	ok(read_all(b.p, b.len, err) == 0, "accepted: %s%s", name, err);
	buf_free(&b);
}

#define F32(name, shape, from, to) \
	"\"" name "\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" #from "," #to "]}"
#define ONE(dtype, shape, offsets) \
	"{\"a\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static void test_headers(void)
{
	accept("no tensor", "{}", 0);
	accept("spaces behind the header", "{}   \n ", 0);
	accept("a scalar", ONE("F32", "[]", "[0,4]"), 4);
	accept("nothing in a tensor", "{" F32("a", "[0]", 0, 0) "," F32("b", "[1]", 0, 4) "," F32("c", "[3,0]", 4, 4) "}",
		4);
	accept("tensors in another order than their data", "{" F32("a", "[1]", 4, 8) "," F32("b", "[1]", 0, 4) "}", 8);
	accept("a type of tomorrow, not used", ONE("F4_XYZ", "[3]", "[0,2]"), 2);
	accept("nine dimensions, not used", ONE("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4);
	refuse("a header that is a list", "[1]", 0, "no JSON object");
	refuse("no header", "", 0, "no JSON object");
	refuse("a space before it", " {}", 0, "no JSON object");
	refuse("no JSON", "{\"a\":", 0, "header, byte");
	refuse("text behind it", "{}{}", 0, "header, byte");
	refuse("no UTF-8", "{\"\xff\":1}", 0, "header, byte");
	refuse("a NUL in a name", "{\"a\\u0000b\":1}", 0, "header, byte");
	refuse("a name that stands twice", "{" F32("a", "[1]", 0, 4) "," F32("a", "[1]", 4, 8) "}", 8, "duplicate");
	refuse("a key that stands twice", "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[]}}", 0, "duplicate");
	refuse("no map", "{\"a\":1}", 0, "tensor a: it is not described");
	refuse("no type", "{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "tensor a: it is not described");
	refuse("one key more", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4,
		"tensor a: it is not described");
	refuse("no shape", "{\"a\":{\"dtype\":\"F32\",\"form\":[1],\"data_offsets\":[0,4]}}", 4, "no shape");
	refuse("a negative size", ONE("F32", "[-1]", "[0,4]"), 4, "a shape that is none");
	refuse("a size that is no whole number", ONE("F32", "[1.0]", "[0,4]"), 4, "a shape that is none");
	refuse("a shape that overflows", ONE("F32", "[4294967296,4294967296]", "[0,4]"), 4, "overflows");
	refuse("the same beside a zero", ONE("F32", "[0,4294967296,4294967296]", "[0,0]"), 0, "overflows");
	refuse("bytes that overflow", ONE("F64", "[4611686018427387904]", "[0,4]"), 4, "overflows");
	refuse("a number that overflows", ONE("F32", "[99999999999999999999]", "[0,4]"), 4, "header, byte");
	refuse("a size that is not the data's", ONE("F32", "[2]", "[0,4]"), 4, "8 bytes by its shape, 4 by its offsets");
	refuse("the same of integers", ONE("U8", "[2]", "[0,4]"), 4, "2 bytes by its shape, 4 by its offsets");
	refuse("offsets the wrong way round", ONE("F32", "[1]", "[4,0]"), 4, "no data_offsets");
	refuse("a negative offset", ONE("F32", "[1]", "[-4,0]"), 4, "no data_offsets");
	refuse("three offsets", ONE("F32", "[1]", "[0,4,8]"), 4, "no data_offsets");
	refuse("data beyond the file", ONE("F32", "[2]", "[0,8]"), 7, "ends at byte 8 of the data, which has 7");
	refuse("data far beyond it", ONE("F32", "[1]", "[9223372036854775803,9223372036854775807]"), 4, "tensor a");
	refuse("data that overlaps", "{" F32("a", "[2]", 0, 8) "," F32("b", "[1]", 4, 8) "}", 8,
		"tensor b: starts at byte 4 of the data, where the one before ends at 8: they overlap");
	refuse("the same data twice", "{" F32("a", "[1]", 0, 4) "," F32("b", "[1]", 0, 4) "}", 4, "they overlap");
	refuse("a hole", "{" F32("a", "[1]", 0, 4) "," F32("b", "[1]", 8, 12) "}", 12, "a hole");
	refuse("a hole at the start", ONE("F32", "[1]", "[4,8]"), 8, "a hole");
	refuse("bytes behind the data", ONE("F32", "[1]", "[0,4]"), 5, "1 bytes behind the last tensor");
	refuse("metadata that is a list", "{\"__metadata__\":[]}", 0, "no map of strings");
	refuse("metadata that is no string", "{\"__metadata__\":{\"a\":1}}", 0, "no map of strings");
	refuse("a name that moves the cursor", "{\"a\\u001b[2J\\n\":1}", 0, "tensor a?[2J?:");
}

static void test_sizes(void)
{
	static const uint64_t claim[] = { 3, 1 << 20, ST_HEADER_MAX + 1ull, INT64_MAX, UINT64_MAX - 7, UINT64_MAX };
	static const size_t room = ST_HEADER_MAX + 4096ull;
	struct buf b = make("{}", 0);
	struct safetensors s;
	char err[ERRLEN];
	uint8_t *big;
	size_t i;

	for (i = 0; i < LEN(claim); i++) {
		memcpy(b.p, &claim[i], 8);
		ok(read_all(b.p, b.len, err) < 0 && strstr(err, "in a file of 10: truncated"),
			"refused: a header of %llu bytes in a file of 10", (unsigned long long)claim[i]);
	}
	big = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (big == MAP_FAILED)
		die("mmap:");
	memcpy(big, &claim[2], 8);
	big[8] = '{';
	i = st_open_mem(&s, big, room, "mem") < 0 && strstr(s.err, "where 100000000 are allowed");
	ok(i, "refused: a header of more than the format allows");
	munmap(big, room);
	ok(st_open(&s, "/dev/null") < 0 && strstr(s.err, "not a regular file"), "refused: a device");
	ok(st_open(&s, "/nothing/here") < 0 && strstr(s.err, "No such file"), "refused: no file");
	buf_free(&b);
}

/* Every truncation; every bit of the header; some bits of the data. What is read then may be another network, since the
 * format has no checksum, but never anything outside the file, and a refusal is one line. */
static void test_damage(struct buf b)
{
	size_t header = 8 + b.p[0] + 256 * b.p[1], n, at, silent = 0, cut = 0, passed = 0, step;
	char err[ERRLEN];
	int bit, rc;

	for (n = 0; n < b.len; n++)
		cut += read_all(b.p, n, err) >= 0 || strncmp(err, "mem: ", 5) != 0;
	ok(!cut, "every truncation of %zu bytes is refused", b.len);
	for (at = 0; at < b.len; at += step) {
		for (bit = 0; bit < 8; bit++) {
			b.p[at] ^= 1 << bit;
			rc = read_all(b.p, b.len, err);
			passed += rc >= 0 && at < 8;
			silent += rc != 0 && (strncmp(err, "mem: ", 5) || strpbrk(err, "\n\r\033"));
			b.p[at] ^= 1 << bit;
		}
		step = at < header ? 1 : 7;
	}
	ok(!passed, "every flip in the header's length is refused");
	ok(!silent, "every flip is refused in one line, or read");
	n = 0;
	for (at = 8; at < header; at++) {
		b.p[at] ^= 0x80;
		n += read_all(b.p, b.len, err) >= 0;
		b.p[at] ^= 0x80;
	}
	ok(!n, "every flip of a high bit in the header is refused");
}

static void test_fixture(const char *path)
{
	static const char *const name[] = { "features.0.weight", "features.0.bias", "features.1.weight", "features.1.bias",
		"features.1.running_mean", "features.1.running_var", "classifier.weight", "classifier.bias" };
	static const size_t count[] = { 27, 3, 3, 3, 3, 3, 24, 2 };
	enum st_type type[] = { ST_F16, ST_BF16, ST_F64, ST_F32, ST_F32, ST_BF16, ST_F64, ST_F16 };
	const struct st_tensor *t;
	struct safetensors s;
	float x[27], two[2];
	size_t i, j, wrong;

	if (st_open(&s, path) < 0)
		die("%s", s.err);
	ok(s.ntensor == 9 && s.nmeta == 2 && !strcmp(st_meta(&s, "note"), "made for a test") && !st_meta(&s, "not"),
		"%s: tensors and metadata", path);
	for (j = 0; j < LEN(name); j++) {
		t = st_find(&s, name[j]);
		wrong = !t || t->type != type[j] || st_floats(&s, t, 0, count[j], x) < 0;
		for (i = 0; !wrong && i < count[j]; i++)
			wrong += x[i] != ((int)(7 * i + 3 * j) % 33 - 16) / 16.0f;
		ok(!wrong, "%s of type %s", name[j], st_type_name[type[j]]);
	}
	t = st_find(&s, "classifier.weight");
	ok(t && t->ndim == 2 && t->shape[0] == 2 && t->shape[1] == 12 && !st_floats(&s, t, 12, 2, two) &&
		two[0] == ((7 * 12 + 18) % 33 - 16) / 16.0f, "a part of a tensor");
	t = st_find(&s, "features.1.num_batches_tracked");
	ok(t && t->type == ST_I64 && t->ndim == 0 && st_floats(&s, t, 0, 1, x) < 0 && strstr(s.err, "of type I64"),
		"an integer is no float");
	ok(!st_find(&s, "features.1") && !st_find(&s, ""), "names that are not there");
	st_close(&s);
}

/* One number of a type, by its bytes; at an odd place in the file. */
static void number(const char *type, const void *p, size_t n, float want)
{
	char header[256], err[ERRLEN] = "", *more;
	struct buf b = { 0 };
	struct safetensors s;
	uint64_t len;
	float x = NAN;

	snprintf(header, sizeof header, "{\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"n.weight\":"
		"{\"dtype\":\"%s\",\"shape\":[1],\"data_offsets\":[1,%zu]}}", type, 1 + n);
	len = strlen(header);
	buf_put(&b, &len, 8);
	buf_put(&b, header, len + 1);
	buf_put(&b, p, n);
	if (st_open_mem(&s, b.p, b.len, "mem") < 0)
		die("%s", s.err);
	if (st_floats(&s, st_find(&s, "n.weight"), 0, 1, &x) < 0)
		fail(err, "%s", s.err);
	more = eprintf_str("%s: %g", type, want);
	if (isfinite(want))
		ok(x == want && !*err, "%s", more);
	else
		ok(strstr(err, "tensor n.weight: element 0 is no finite number") != NULL, "%s is refused", more);
	free(more);
	st_close(&s);
	buf_free(&b);
}

static void test_numbers(void)
{
	static const struct { double d; float want; } f64[] = { { 0.1, 0.1f }, { 1e-300, 0 }, { 3e38, 3e38f },
		{ 1e39, INFINITY }, { NAN, NAN }, { -INFINITY, -INFINITY } };
	static const struct { uint16_t h; float want; } f16[] = { { 0x3c00, 1 }, { 0x0001, 0x1p-24f }, { 0xfbff, -65504 },
		{ 0x7c00, INFINITY }, { 0xfc00, -INFINITY }, { 0x7c01, NAN }, { 0xfe00, NAN } };
	static const struct { uint16_t h; float want; } bf16[] = { { 0x3f80, 1 }, { 0x0001, 0x1p-133f },
		{ 0xff7f, -0x1.fep127f }, { 0x7f80, INFINITY }, { 0xff80, -INFINITY }, { 0x7f81, NAN } };
	static const float f32[] = { 1.5f, -0x1p-149f, INFINITY, NAN, -NAN };
	size_t i;

	for (i = 0; i < LEN(f64); i++)
		number("F64", &f64[i].d, 8, f64[i].want);
	for (i = 0; i < LEN(f16); i++)
		number("F16", &f16[i].h, 2, f16[i].want);
	for (i = 0; i < LEN(bf16); i++)
		number("BF16", &bf16[i].h, 2, bf16[i].want);
	for (i = 0; i < LEN(f32); i++)
		number("F32", &f32[i], 4, f32[i]);
}

/* What is written reads back: 5000 numbers of one type between two short tensors. */
static void test_writer(enum st_type type, float share)
{
	const struct st_tensor t[] = { { .name = "a.weight", .ndim = 2, .shape = { 2, 1 } },
		{ .name = "gr\xc3\xbc\xc3\x9f e", .ndim = 3, .shape = { 50, 10, 10 } }, { .name = "c", .ndim = 0 } };
	const struct st_meta meta[] = { { "format", "pt" }, { "say", "\"hello\"\n" } };
	static float x[5000], y[5000];
	struct safetensors s;
	struct st_writer w;
	size_t i, wrong = 0;

	for (i = 0; i < LEN(x); i++)
		x[i] = (i % 2 ? -1 : 1) * ldexpf(1 + (float)(i * 2654435761u % 8388608) / 8388608, (int)(i % 24) - 12);
	if (st_create(&w, file, type, t, 3, meta, 2) < 0 || st_put(&w, "a", x, 2) < 0 || st_put(&w, "b", x, 5000) < 0 ||
	    st_put(&w, "c", x + 7, 1) < 0 || st_finish(&w) < 0)
		die("%s", w.err);
	if (st_open(&s, file) < 0)
		die("%s", s.err);
	ok(s.ntensor == 3 && !strcmp(st_meta(&s, "say"), meta[1].value) && st_find(&s, t[1].name)->shape[0] == 50 &&
		(uintptr_t)s.data % 8 == 0, "%s: names, shapes, metadata, alignment", st_type_name[type]);
	if (st_floats(&s, st_find(&s, t[1].name), 0, 5000, y) < 0)
		die("%s", s.err);
	for (i = 0; i < LEN(x); i++)
		wrong += !(fabsf(y[i] - x[i]) <= share * fabsf(x[i]));
	ok(!wrong && !st_floats(&s, st_find(&s, "c"), 0, 1, y) && fabsf(y[0] - x[7]) <= share * fabsf(x[7]),
		"%s: %zu numbers within half a unit", st_type_name[type], LEN(x));
	st_close(&s);
	unlink(file);
}

static void refuse_number(enum st_type type, float x, const char *expect)
{
	const struct st_tensor t = { .name = "a.weight", .ndim = 1, .shape = { 1 } };
	struct st_writer w;
	bool said;

	if (st_create(&w, file, type, &t, 1, NULL, 0) < 0)
		die("%s", w.err);
	said = st_put(&w, "a.weight", &x, 1) < 0 && strstr(w.err, expect);
	st_abort(&w);
	ok(said && access(file, F_OK) < 0, "%s: %g is not written, nor a file", st_type_name[type], x);
}

static void test_full_disk(void)
{
	const struct st_tensor t = { .name = "a", .ndim = 1, .shape = { 1 << 16 } };
	float *x = ecalloc(1 << 16, sizeof *x);
	struct st_writer w;

	if (st_create(&w, "/dev/full", ST_F32, &t, 1, NULL, 0) < 0)
		die("%s", w.err);
	ok((st_put(&w, "a", x, 1 << 16) < 0 || st_finish(&w) < 0) && strstr(w.err, "No space left"), "a full disk");
	st_abort(&w);
	free(x);
}

static void refuse_json(const char *name, struct val *v)
{
	struct val *map = val_map();
	char err[ERRLEN] = "", *text;

	val_put(map, "fine", val_int(1));
	val_put(map, "name", v);
	text = val_to_json(map, err);
	ok(!text && strstr(err, "its 'name'"), "JSON has no %s", name);
	free(text);
	val_free(map);
}

static void test_json(void)
{
	static const double numbers[] = { 0, -0.0, 1, 0.1, 1e300, 5e-324, 0x1.fffffep127, 1.0 / 3 };
	struct val *v = val_map(), *list = val_list(), *deep = val_list(), *back;
	char err[ERRLEN] = "", *text, nest[80];
	size_t i;

	for (i = 0; i < LEN(numbers); i++)
		val_push(list, val_f64(numbers[i]));
	val_push(list, val_int(INT64_MIN));
	val_push(list, val_int(INT64_MAX));
	val_push(list, val_nil());
	val_push(list, val_bool(true));
	val_push(list, val_bool(false));
	val_push(list, val_str("snow \xe2\x98\x83 \"quoted\"\n\t\x01"));
	val_put(v, "list", list);
	val_put(v, "z", val_map());
	val_put(v, "a", val_list());
	text = val_to_json(v, err);
	back = text ? val_from_json(text, strlen(text), err) : NULL;
	ok(back && val_equal(back, v) && !strcmp(back->map.key[1], "z"), "values survive JSON%s", err);
	val_free(back);
	free(text);
	val_free(v);
	refuse_json("NaN", val_f64(NAN));
	refuse_json("infinity", val_f64(-INFINITY));
	refuse_json("bytes", val_bin("x", 1));
	refuse_json("numbers beyond its integers", val_uint(UINT64_MAX));
	refuse_json("other encodings", val_str("\xff"));
	v = val_str("a b");
	v->s.p[1] = '\0';
	refuse_json("NUL", v);
	val_push(deep, val_f64(NAN));
	refuse_json("NaN further down", deep);
	memset(nest, '[', sizeof nest);
	memset(nest + 31, ']', 31);
	v = val_from_json(nest, 62, err);
	ok(v != NULL, "nesting as deep as a stream may");
	val_free(v);
	memset(nest, '[', 33);
	memset(nest + 33, ']', 33);
	ok(!val_from_json(nest, 66, err) && strstr(err, "too deeply"), "nesting deeper");
	ok(!val_from_json("{\"a\":1,\"a\":1}", 13, err) && strstr(err, "duplicate"), "a key twice");
	ok(!val_from_json("{", 1, err), "half an object");
}

int main(int argc, char **argv)
{
	const char *fixture = argc > 1 ? argv[1] : "tests/fixtures/types.safetensors";
	struct buf b = load(fixture);

	progname = "t_safetensors";
	if (!mkdtemp(dir))
		die("%s:", dir);
	snprintf(file, sizeof file, "%s/model", dir);
	test_headers();
	test_sizes();
	test_fixture(fixture);
	test_numbers();
	test_damage(b);
	test_writer(ST_F32, 0);
	test_writer(ST_F16, 0x1p-11f);
	test_writer(ST_BF16, 0x1p-8f);
	refuse_number(ST_F16, 65520, "a.weight: 65520 is too large for F16");
	refuse_number(ST_BF16, 0x1.ffp127f, "is too large for BF16");
	refuse_number(ST_F32, NAN, "a.weight: element 0 is no finite number");
	test_full_disk();
	test_json();
	ok(!rmdir(dir), "no temporary file is left");
	buf_free(&b);
	return tap_end();
}
