/* Streams, checkpoints and pools: round trips, and everything that can be wrong with their bytes. Prints TAP. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../formats/frame.h"
#include "t_formats.h"

static void test_values(void)
{
	struct val *v = val_map(), *list = val_list(), *u;
	struct buf b = { 0 }, c = { 0 };
	char err[ERRLEN] = "";
	int i;

	val_push(list, val_nil());
	val_push(list, val_bool(true));
	val_push(list, val_int(INT64_MIN));
	val_push(list, val_uint(UINT64_MAX));
	val_push(list, val_f64(-0.0));
	val_push(list, val_str("snow \xe2\x98\x83"));
	val_push(list, val_bin("\0\1", 2));
	val_put(v, "list", list);
	val_put(v, "map", val_map());
	for (i = 0; i < DT_COUNT; i++)
		val_put(v, dtype_name[i], val_tensor(tensor_new(i, i % 4, (int64_t[]){ 2, 3, i == 3 ? 0 : 1 })));
	for (i = 0; i < 20; i++) { /* more than a fixmap holds */
		char key[16];

		snprintf(key, sizeof key, "k%d", i);
		val_put(v, key, val_int(i));
	}
	val_put(v, "k3", val_str("replaced"));
	val_drop(v, "k4");
	val_pack(&b, v);
	u = val_unpack(b.p, b.len, err);
	if (u)
		val_pack(&c, u);
	ok(u && val_equal(u, v) && c.len == b.len && !memcmp(b.p, c.p, b.len), "values survive the way out and in",
		err);
	val_free(u);
	u = val_copy(v);
	ok(val_equal(u, v), "a copy is equal", "");
	ok(!val_get(u, "k4") && !strcmp(val_get_str(u, "k3"), "replaced") && val_get_int(u, "k5", -1) == 5 &&
		val_get_f64(u, "k5", 0) == 5 && val_get_int(u, "k3", -1) == -1 && !val_get_tensor(u, "k3"),
		"keys are replaced, dropped and found", "");
	val_free(u);
	val_free(v);
	buf_free(&b);
	buf_free(&c);
}

static void refuse_value(const char *name, const char *bytes, size_t n, const char *expect)
{
	char err[ERRLEN] = "accepted";
	uint8_t *copy = emalloc(n);
	struct val *v;

	memcpy(copy, bytes, n);
	v = val_unpack(copy, n, err);
	ok(!v && strstr(err, expect), name, err);
	val_free(v);
	free(copy);
}

#define TENSOR(type, shape, data) \
	"\x85\xc4\x02nd\xc3\xc4\x04type\xa3" type "\xc4\x04kind\xc4\x00\xc4\x05shape" shape "\xc4\x04" "data" data
#define REFUSE(name, bytes, expect) refuse_value(name, bytes, sizeof bytes - 1, expect)

static void test_bad_values(void)
{
	static const char good[] = TENSOR("<f4", "\x91\x01", "\xc4\x04\0\0\0\0");
	char deep[66];
	struct val *v;
	char err[ERRLEN];

	v = val_unpack(good, sizeof good - 1, err);
	ok(v && v->type == V_TENSOR, "an array as msgpack-numpy writes it", err);
	val_free(v);
	REFUSE("an unknown type", TENSOR(">f4", "\x91\x01", "\xc4\x04\0\0\0\0"), "unknown type '>f4'");
	REFUSE("a shape that is not the data's", TENSOR("<f4", "\x91\x02", "\xc4\x04\0\0\0\0"), "8 bytes by its shape");
	REFUSE("a shape whose product overflows", TENSOR("<f4", "\x92\xcf\x40\0\0\0\0\0\0\0\xcf\x40\0\0\0\0\0\0\0",
		"\xc4\x00"), "overflows");
	REFUSE("the same beside a zero", TENSOR("<f4", "\x93\0\xcf\x40\0\0\0\0\0\0\0\xcf\x40\0\0\0\0\0\0\0",
		"\xc4\x00"),
		"overflows");
	REFUSE("bytes that overflow", TENSOR("<f8", "\x91\xcf\x20\0\0\0\0\0\0\0", "\xc4\x00"), "overflows");
	REFUSE("a negative size", TENSOR("<f4", "\x91\xff", "\xc4\x00"), "shape");
	REFUSE("nine dimensions", TENSOR("|u1", "\x99\1\1\1\1\1\1\1\1\1", "\xc4\x01\0"), "9 dimensions");
	REFUSE("a map with binary keys", "\x81\xc4\x02nd\xc3", "binary keys");
	REFUSE("a key that stands twice", "\x83\xa1" "a\x01\xa1" "b\x02\xa1" "a\x03", "key 'a' stands twice");
	REFUSE("a key that is a number", "\x81\x01\x02", "no string");
	REFUSE("a key that hides a NUL", "\x81\xa2" "a\0\x02", "no string");
	REFUSE("the byte that msgpack never uses", "\xc1", "no valid msgpack");
	REFUSE("an extension", "\xd4\x01\x02", "no valid msgpack");
	REFUSE("a string longer than all there is", "\xdb\xff\xff\xff\xff" "abc", "no valid msgpack");
	REFUSE("a list longer than all there is", "\xdd\xff\xff\xff\xff\x01\x02", "no valid msgpack");
	REFUSE("a map longer than all there is", "\xdf\xff\xff\xff\xff\x01\x02", "no valid msgpack");
	REFUSE("two objects", "\x01\x02", "no valid msgpack");
	refuse_value("nothing", "", 0, "no valid msgpack");
	memset(deep, 0x91, sizeof deep);
	deep[SCAN_MAXDEPTH] = 1;
	v = val_unpack(deep, SCAN_MAXDEPTH + 1, err);
	ok(v != NULL, "nesting 32 deep", err);
	val_free(v);
	deep[SCAN_MAXDEPTH] = (char)0x91;
	deep[SCAN_MAXDEPTH + 1] = 1;
	refuse_value("nesting 33 deep", deep, SCAN_MAXDEPTH + 2, "no valid msgpack");
	memset(deep, 0x81, sizeof deep);
	refuse_value("maps as keys of maps", deep, sizeof deep, "no valid msgpack");
}

/* The scanner gets an object byte by byte and never asks for more than the object has. */
static void test_scanner(void)
{
	struct buf b = a_stream("images", 1);
	int64_t whole = msgpack_scan(b.p, b.len, b.len), rc = 0;
	struct scanner s = { .need = 1 };
	bool good = whole > 0;
	size_t n;

	for (n = 0; n < (size_t)whole && good; n++) {
		rc = scan_more(&s, b.p, n, b.len);
		good = rc == 0 && s.need > n && s.need <= (size_t)whole;
	}
	ok(good && scan_more(&s, b.p, whole, b.len) == whole, "the scanner asks for no byte too many", "");
	ok(msgpack_scan(b.p, b.len, whole - 1) == -1, "an object above the limit", "");
	buf_free(&b);
}

static struct buf sealed(struct val *v)
{
	struct buf b = { 0 };

	seal(&b, v);
	val_free(v);
	return b;
}

static void test_streams(void)
{
	struct buf b = a_stream("images", 3), x, y;
	struct val *h, *f;
	struct ts_writer w;
	struct ts_reader r;
	const uint8_t *p;
	size_t n;
	char err[ERRLEN] = "";
	int i;

	torture("images", read_images, b, 6000, false);
	torture("images from a file", read_file, b, 1000, false);
	torture("images by seeking", read_seeking, b, 1000, false);
	refused("a stream of another kind", read_checkpoint, b.p, b.len,
		"of kind images, where checkpoint is expected");
	refused("no stream", read_images, "\x89PNG\r\n\x1a\n", 8, "not a tensor stream");
	refused("an empty file", read_images, "", 0, "empty");

	h = a_header("images");
	val_put(h, "tensorstream", val_int(2));
	x = sealed(h);
	refused("another version", read_images, x.p, x.len, "version 2");
	buf_free(&x);

	x = (struct buf){ 0 };
	buf_put(&x, b.p, b.len);
	buf_put(&x, b.p, b.len);
	refused("two streams in a row", read_images, x.p, x.len, "after the trailer");
	refused("two streams in a row, a file", read_file, x.p, x.len, "after the trailer");
	buf_free(&x);

	/* A whole and sealed header, then a frame that claims 4 GiB, the most that msgpack can. */
	x = (struct buf){ 0 };
	buf_put(&x, b.p, msgpack_scan(b.p, b.len, b.len));
	buf_put(&x, "\x81\xa1" "a\xc6\xff\xff\xff\xff", 8);
	refused("claimed gigabytes", read_file, x.p, x.len, "larger than 256 MiB");
	x.len -= 4;
	buf_put(&x, "\x0f\0\0\0", 4);
	refused("claimed megabytes that do not come", read_file, x.p, x.len, "truncated in frame 0");
	buf_free(&x);
	REFUSE("2^40 bytes of tensor", TENSOR("|u1", "\x92\xce\x00\x10\0\0\xce\0\x10\0\0", "\xc4\x01\0"),
		"1099511627776 bytes by its shape");

	/* Passing frames on as bytes gives the stream. */
	y = (struct buf){ 0 };
	if (ts_open_mem(&r, b.p, b.len, "mem", NULL) < 0 || ts_create_mem(&w, &y, r.header) < 0)
		die("%s", r.err);
	while ((i = ts_next_raw(&r, &p, &n)) > 0)
		if (ts_put_raw(&w, p, n) < 0)
			break;
	i = i < 0 ? i : ts_finish(&w);
	ok(!i && y.len == b.len && !memcmp(y.p, b.p, y.len), "raw frames pass through", r.err);
	ok(ts_next_raw(&r, &p, &n) == 0, "the end stays the end", "");
	ts_close(&r);
	buf_free(&y);

	/* Frames in another order, each whole, under the old trailer. */
	y = (struct buf){ 0 };
	if (ts_open_mem(&r, b.p, b.len, "mem", NULL) < 0)
		die("%s", r.err);
	n = msgpack_scan(b.p, b.len, b.len);
	i = msgpack_scan(b.p + n, b.len - n, b.len);
	buf_put(&y, b.p, n);
	buf_put(&y, b.p + n + i, i);
	buf_put(&y, b.p + n, i);
	buf_put(&y, b.p + n + 2 * i, b.len - n - 2 * i);
	ts_close(&r);
	refused("frames that changed places", read_images, y.p, y.len, "trailer does not match");
	refused("frames that changed places, by seeking", read_seeking, y.p, y.len, "trailer does not match");
	buf_free(&y);
	buf_free(&b);

	b = a_stream("images", 0);
	ok(!read_images(b.p, b.len, err, NULL) && !read_seeking(b.p, b.len, err, NULL), "a stream without frames", err);
	buf_free(&b);

	h = a_header("images");
	if (ts_create_mem(&w, &b, h) < 0)
		die("%s", w.err);
	f = val_map();
	val_put(f, "x", val_tensor(tensor_new(DT_U8, 1, (int64_t[]){ TS_FRAME_MAX })));
	ok(ts_put(&w, f) < 0 && strstr(w.err, "256 MiB"), "a frame above the limit is not written", w.err);
	ok(ts_finish(&w) < 0, "nor a trailer after it", "");
	val_free(f);
	val_free(h);
	buf_free(&b);
}

static void test_checkpoints(void)
{
	struct buf b = a_checkpoint(7), again = { 0 };
	struct checkpoint c;
	struct ts_reader r;
	struct val *v, *nodes;
	struct net *n;
	char err[ERRLEN] = "";

	torture("checkpoint", read_checkpoint, b, 6000, false);
	if (ts_open_mem(&r, b.p, b.len, "mem", "checkpoint") < 0 || checkpoint_read(&r, &c) < 0)
		die("%s", r.err);
	ts_close(&r);
	ok(!checkpoint_write_mem(&again, c.header, c.net, &c.w, err) && again.len == b.len && !memcmp(again.p, b.p,
		b.len),
		"a checkpoint read and written is the same", err);

	v = net_to_val(c.net);
	nodes = val_get(v, "nodes");
	val_put(nodes->list.item[2], "out", val_int(65536));
	val_put(nodes->list.item[2], "k", val_int(65535));
	n = net_from_val(v, err);
	ok(!n, "a convolution that does not fit", "accepted");
	val_put(nodes->list.item[2], "k", val_int(3));
	val_put(nodes->list.item[2], "out", val_int(3));
	val_put(nodes->list.item[2], "op", val_str("attention"));
	ok(!net_from_val(v, err) && strstr(err, "attention"), "an unknown operation", err);
	val_put(nodes->list.item[2], "op", val_str("conv"));
	val_get(nodes->list.item[2], "in")->list.item[0]->i = 5;
	ok(!net_from_val(v, err) && strstr(err, "earlier"), "an input that comes later", err);
	val_get(nodes->list.item[2], "in")->list.item[0]->i = 1;
	n = net_from_val(v, err);
	ok(n && n->nparam == c.net->nparam && n->ntheta == c.net->ntheta, "the repaired graph", err);
	net_free(n);

	/* Gigabytes of weights by the graph, none in the frames. */
	val_put(nodes->list.item[2], "out", val_int(65536));
	val_put(nodes->list.item[8], "out", val_int(2));
	again.len = 0;
	val_put(c.header, "net", v);
	{
		struct ts_writer w;
		int rc;

		if (ts_create_mem(&w, &again, c.header) < 0 || ts_finish(&w) < 0)
			die("%s", w.err);
		rc = read_checkpoint(again.p, again.len, err, NULL);
		ok(rc < 0 && strstr(err, "missing"), "parameters that are missing", err);
	}
	checkpoint_free(&c);
	buf_free(&again);
	buf_free(&b);
}

static void tar_field(uint8_t *header, int at, const char *s)
{
	unsigned sum = 0;
	int i;

	strcpy((char *)header + at, s);
	memset(header + 148, ' ', 8);
	for (i = 0; i < 512; i++)
		sum += header[i];
	snprintf((char *)header + 148, 8, "%06o", sum);
}

static void test_pools(void)
{
	struct buf b = a_pool(2), two = { 0 }, c = a_checkpoint(0), plain = a_stream("images", 1);
	struct pool_writer w;
	struct checkpoint *all;
	char err[ERRLEN] = "";
	size_t member = 512 + (c.len + 511) / 512 * 512;
	int n;

	torture("pool", read_pool, b, 5000, true);
	ok(!read_pool(c.p, c.len, err, NULL), "a checkpoint is a pool of one", err);

	buf_put(&two, b.p, b.len);
	buf_put(&two, b.p, b.len);
	all = pool_read_all(as_file(two.p, two.len), &n, err);
	ok(all && n == 4, "two pools in a row are one", err);
	while (all && n)
		checkpoint_free(&all[--n]);
	free(all);
	refused("a pool cut at a member's end", read_pool, b.p, member, "truncated after 1 members: no MANIFEST");
	two.len = 0;
	buf_put(&two, b.p, b.len);
	tar_field(two.p, 0, "1/77.ts");
	refused("a member renamed", read_pool, two.p, two.len, "member 1/77.ts is not what MANIFEST says");
	two.len = 0;
	buf_put(&two, b.p, member);
	buf_put(&two, b.p + 2 * member, b.len - 2 * member);
	refused("a member taken out", read_pool, two.p, two.len, "MANIFEST names members that are not there");
	two.len = 0;
	buf_put(&two, b.p + member, member);
	buf_put(&two, b.p, member);
	buf_put(&two, b.p + 2 * member, b.len - 2 * member);
	refused("members that changed places", read_pool, two.p, two.len, "member 1/01.ts is not what");
	two.len = 0;
	buf_put(&two, b.p, b.len);
	tar_field(two.p, 156, "2");
	refused("a member that is a link", read_pool, two.p, two.len, "1/00.ts");
	two.len = 0;
	buf_put(&two, b.p, b.len);
	two.p[512 + 100] ^= 1;
	refused("a damaged member", read_pool, two.p, two.len, "member 1/00.ts");
	refused("no tar", read_pool, "hello, world\n", 13, "Unrecognized archive");

	if (pool_create(&w, in_dir("new")) < 0)
		die("%s", w.err);
	ok(pool_add(&w, "1/1.ts", plain.p, plain.len) < 0 && strstr(w.err, "kind images"), "only checkpoints go in",
		w.err);
	ok(pool_add(&w, "MANIFEST", c.p, c.len) < 0, "no member is called MANIFEST", "");
	pool_abort(&w);
	ok(access(in_dir("new"), F_OK) < 0, "an abandoned pool leaves nothing", "");
	if (pool_create(&w, in_dir("new")) < 0 || pool_finish(&w) < 0)
		die("%s", w.err);
	ok(!pool_read_all(in_dir("new"), &n, err) && strstr(err, "without checkpoints"), "a pool without members", err);
	buf_free(&b);
	buf_free(&two);
	buf_free(&c);
	buf_free(&plain);
}

static void test_output(void)
{
	struct val *h = a_header("images"), *f = a_frame(0);
	const char *path = in_dir("out");
	struct ts_writer w;
	struct stat st;
	int i, rc = 0;

	if (ts_create(&w, path, h) < 0)
		die("%s", w.err);
	ok(access(path, F_OK) < 0, "an unfinished file does not have its name", "");
	ok(!ts_put(&w, f) && !ts_finish(&w) && !access(path, F_OK), "a finished one has", w.err);
	if (ts_create(&w, path, h) < 0)
		die("%s", w.err);
	ts_abort(&w);
	ok(!stat(path, &st) && st.st_size > 0, "an abandoned one leaves the old", "");
	ok(ts_create(&w, dir, h) < 0 && strstr(w.err, "directory"), "a folder is no file", w.err);
	ok(ts_create(&w, in_dir("no/file"), h) < 0 && strstr(w.err, "No such file"), "a folder that is not there",
		w.err);
	if (ts_create(&w, "/dev/full", h) < 0)
		die("%s", w.err);
	for (i = 0; i < 1000 && !rc; i++)
		rc = ts_put(&w, f);
	ok(rc < 0 && strstr(w.err, "/dev/full: No space left"), "a full disk while writing", w.err);
	ok(ts_finish(&w) < 0 && strstr(w.err, "No space left"), "and at the end", w.err);
	if (ts_create(&w, "/dev/full", h) < 0)
		die("%s", w.err);
	ok(ts_finish(&w) < 0 && strstr(w.err, "No space left"), "a full disk at the end alone", w.err);
	ok(!stat("/dev/full", &st) && S_ISCHR(st.st_mode), "a device stays one", "");
	val_free(h);
	val_free(f);
}

static void set_file(const char *path, const void *p, size_t n)
{
	FILE *fp = fopen(path, "w");

	if (!fp || fwrite(p, 1, n, fp) != n || fclose(fp))
		die("%s:", path);
}

static bool has(const char *path, const void *p, size_t n)
{
	FILE *fp = fopen(path, "r");
	uint8_t *q = emalloc(n + 1);
	bool same = fp && fread(q, 1, n + 1, fp) == n && !memcmp(p, q, n);

	if (fp)
		fclose(fp);
	free(q);
	return same;
}

/* Takes up what is at "kept", and puts so many frames behind those that it has, or all where again is set. */
static int go_on(struct ts_writer *w, const struct val *h, int nframes, bool again)
{
	if (ts_take_up(w, in_dir("taken"), in_dir("kept"), h) < 0)
		return -1;
	for (int i = 0; i < nframes; i++) {
		struct val *f = a_frame(i);
		int rc = 0;

		if (!again && ts_ahead(w))
			ts_pass(w);
		else
			rc = ts_put(w, f);
		val_free(f);
		if (rc < 0) {
			ts_abort(w);
			return -1;
		}
	}
	return ts_finish(w);
}

static void test_take_up(void)
{
	enum { FRAMES = 4 };
	struct buf b = a_stream("images", FRAMES);
	struct val *h = a_header("images"), *other = a_header("stats"), *f = a_frame(1);
	struct ts_writer w;
	struct buf header = { 0 };
	size_t bad = 0, refused = 0;

	for (size_t n = 0; n <= b.len; n += n < 8 ? 1 : 5) {
		set_file(in_dir("kept"), b.p, n);
		bad += go_on(&w, h, FRAMES, n % 2) < 0 || !has(in_dir("taken"), b.p, b.len) || !access(in_dir("kept"), F_OK);
	}
	ok(!bad, "a stream that ends anywhere is gone on with", w.err);
	seal(&header, h);
	bad = 0;
	for (size_t n = 0; n < b.len; n += 13) {
		bool done, left;

		b.p[n] ^= 4;
		set_file(in_dir("kept"), b.p, b.len);
		done = !go_on(&w, h, FRAMES, true);
		left = has(in_dir("kept"), b.p, b.len);
		b.p[n] ^= 4;
		bad += done ? !has(in_dir("taken"), b.p, b.len) : n >= header.len || !left;
		refused += !done;
	}
	ok(!bad && refused, "so is one with a damaged frame; one with a damaged header is left alone", w.err);
	set_file(in_dir("kept"), b.p, b.len);
	ok(ts_take_up(&w, in_dir("taken"), in_dir("kept"), other) < 0 && strstr(w.err, "another run") &&
		has(in_dir("kept"), b.p, b.len), "another header", w.err);
	ok(go_on(&w, h, FRAMES - 1, true) < 0 && strstr(w.err, "more frames"), "fewer frames than it has", w.err);
	set_file(in_dir("kept"), b.p, b.len);
	if (ts_take_up(&w, in_dir("taken"), in_dir("kept"), h) < 0)
		die("%s", w.err);
	ok(ts_ahead(&w) == FRAMES && ts_put(&w, f) < 0 && strstr(w.err, "frame 0"), "another frame", w.err);
	ts_abort(&w);
	ok(!access(in_dir("kept"), F_OK), "what is given up stays", "");
	unlink(in_dir("kept"));
	unlink(in_dir("taken"));
	val_free(f);
	buf_free(&header);
	val_free(h);
	val_free(other);
	buf_free(&b);
}

static void test_headers(void)
{
	static const char *const other[] = { "coat", "boot", "bag" }, *const unknown[] = { "boot" };
	struct val *h = a_header("images"), *g = header_new("images"), *file;
	struct norm a = { 1, { 0.5f }, { 0.25f } }, b, c = { 1, { 0.25f }, { 0.5f } };
	struct buf pool = a_pool(1);
	float scale, shift;
	int map[2], chw[3];
	char err[ERRLEN] = "";

	header_set_classes(g, other, 3);
	ok(!header_map_classes(h, g, map, err) && map[0] == 2 && map[1] == 1, "classes match by name", err);
	header_set_classes(g, unknown, 1);
	ok(header_map_classes(h, g, map, err) < 0 && strstr(err, "bag"), "an unknown class is named", err);
	ok(header_norm(g, &b) < 0 && header_shape(g, chw) < 0, "no normalisation, no shape", "");
	header_set_norm(g, &a);
	ok(!header_norm(g, &b) && b.channels == 1 && b.mean[0] == a.mean[0] && b.std[0] == a.std[0],
		"normalisation", "");
	norm_affine(&a, &c, &scale, &shift); /* pixel value 0.75 is 1 in a and 1 in c */
	ok(scale == 0.5f && shift == 0.5f, "from one normalisation to another", "");
	a.std[0] = 0;
	header_set_norm(g, &a);
	ok(header_norm(g, &b) < 0, "a deviation of 0", "");
	ok(!header_shape(h, chw) && chw[0] == 1 && chw[1] == 4 && chw[2] == 4, "shape", "");
	history_add(h, "load-images", an_entry(1));
	ok(val_get(h, "history")->list.len == 1, "an entry is not repeated", "");
	history_add(h, "load-images", an_entry(2));
	ok(val_get(h, "history")->list.len == 2, "another one is", "");
	file = NULL;
	ok(!history_file(in_dir("pool"), &file, err) && strlen(val_get_str(file, "xxh3")) == 32 &&
		val_get(file, "history") && val_get(file, "history")->list.len == 1, "a pool's digest and history",
		err);
	val_free(file);
	ok(history_file(in_dir("nothing"), &file, err) < 0 && strstr(err, "No such file"), "a file that is not there",
		err);
	val_free(h);
	val_free(g);
	buf_free(&pool);
}

int main(void)
{
	static const char *const files[] = { "pool", "new", "out" };
	size_t i;

	progname = "t_formats";
	if (!mkdtemp(dir))
		die("%s:", dir);
	test_values();
	test_bad_values();
	test_scanner();
	test_streams();
	test_checkpoints();
	test_headers();
	test_pools();
	test_output();
	test_take_up();
	for (i = 0; i < LEN(files); i++)
		unlink(in_dir(files[i]));
	ok(!rmdir(dir), "no temporary file is left", strerror(errno));
	printf("1..%d\n", ntest);
	return nbad != 0;
}
