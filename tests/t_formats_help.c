#include "t_formats.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int ntest, nbad;
char dir[] = "/tmp/t_formats.XXXXXX";

void ok(bool good, const char *name, const char *why)
{
	ntest++;
	nbad += !good;
	printf("%sok %d - %s%s%s\n", good ? "" : "not ", ntest, name, good ? "" : ": ", good ? "" : why);
	fflush(stdout);
}

const char *in_dir(const char *name)
{
	static char path[2][128];
	static int i;

	i = !i;
	snprintf(path[i], sizeof path[i], "%s/%s", dir, name);
	return path[i];
}

const char *as_file(const void *p, size_t n)
{
	static char path[64];
	static int fd = -1;

	if (fd < 0) {
		if ((fd = memfd_create("t_formats", 0)) < 0)
			die("memfd:");
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	}
	if (ftruncate(fd, 0) < 0 || pwrite(fd, p, n, 0) != (ssize_t)n)
		die("memfd:");
	return path;
}

struct val *an_entry(int64_t seed)
{
	struct val *args = val_map();

	val_put(args, "seed", val_int(seed));
	return args;
}

struct val *a_header(const char *kind)
{
	static const char *const classes[] = { "bag", "boot" };
	struct norm n = { 1, { 0.25f }, { 0.3f } };
	struct val *h = header_new(kind);

	header_set_classes(h, classes, 2);
	header_set_norm(h, &n);
	header_set_shape(h, (int[]){ 1, 4, 4 });
	history_add(h, "load-images", an_entry(1));
	return h;
}

struct val *a_frame(int unit)
{
	struct tensor t = tensor_new(DT_U8, 4, (int64_t[]){ 2, 1, 4, 4 });
	struct tensor l = tensor_new(DT_I64, 1, (int64_t[]){ 2 });
	struct val *f = val_map();
	int i;

	for (i = 0; i < 32; i++)
		((uint8_t *)t.data)[i] = 7 * i + unit;
	((int64_t *)l.data)[1] = 1;
	val_put(f, "images.u8", val_tensor(t));
	val_put(f, "labels", val_tensor(l));
	val_put(f, "unit", val_int(unit));
	return f;
}

struct buf a_stream(const char *kind, int nframes)
{
	struct val *h = a_header(kind), *f;
	struct ts_writer w;
	struct buf b = { 0 };
	int i;

	if (ts_create_mem(&w, &b, h) < 0)
		die("%s", w.err);
	for (i = 0; i < nframes; i++) {
		f = a_frame(i);
		if (ts_put(&w, f) < 0)
			die("%s", w.err);
		val_free(f);
	}
	if (ts_finish(&w) < 0)
		die("%s", w.err);
	val_free(h);
	return b;
}

static struct net *a_net(void)
{
	char err[ERRLEN];
	struct net *n = net_new("tiny", (int[]){ 1, 4, 4 });
	float scale[1] = { 0.5f }, shift[1] = { 0.1f };
	struct node v[] = {
		{ .op = OP_INPUT, .name = "x", .groups = 1 },
		{ .op = OP_AFFINE, .name = "norm", .in = { 0 }, .nin = 1, .groups = 1, .scale = scale, .shift = shift },
		{ .op = OP_CONV, .name = "conv", .in = { 1 }, .nin = 1, .k = 3, .stride = 1, .pad = 1, .groups = 1,
			.has_bias = 1 },
		{ .op = OP_BN, .name = "bn", .in = { 2 }, .nin = 1, .groups = 1, .eps = 1e-5f },
		{ .op = OP_RELU, .name = "relu", .in = { 3 }, .nin = 1, .groups = 1 },
		{ .op = OP_ADD, .name = "add", .in = { 2, 4 }, .nin = 2, .groups = 1 },
		{ .op = OP_AVGPOOL, .name = "pool", .in = { 5 }, .nin = 1, .k = 2, .stride = 2, .groups = 1 },
		{ .op = OP_FLATTEN, .name = "flatten", .in = { 6 }, .nin = 1, .groups = 1 },
		{ .op = OP_LINEAR, .name = "fc", .in = { 7 }, .nin = 1, .groups = 1, .has_bias = 1 },
	};
	size_t i;

	for (i = 0; i < LEN(v); i++)
		if (net_add(n, &v[i], v[i].op == OP_LINEAR ? 2 : 3, err) < 0)
			die("%s", err);
	if (net_finish(n, 2, err) < 0)
		die("%s", err);
	return n;
}

struct buf a_checkpoint(uint32_t seed)
{
	struct val *h = a_header("checkpoint");
	struct net *n = a_net();
	struct weights w = weights_new(n);
	struct buf b = { 0 };
	char err[ERRLEN];

	net_init(n, &w, seed, RNG_INIT);
	if (checkpoint_write_mem(&b, h, n, &w, err) < 0)
		die("%s", err);
	weights_free(&w);
	net_free(n);
	val_free(h);
	return b;
}

struct buf a_pool(int members)
{
	const char *path = in_dir("pool");
	struct pool_writer p;
	struct buf c, b;
	char name[32];
	int i;

	if (pool_create(&p, path) < 0)
		die("%s", p.err);
	for (i = 0; i < members; i++) {
		c = a_checkpoint(i);
		snprintf(name, sizeof name, "1/%02d.ts", i);
		if (pool_add(&p, name, c.p, c.len) < 0)
			die("%s", p.err);
		buf_free(&c);
	}
	if (pool_finish(&p) < 0)
		die("%s", p.err);
	b = load(path);
	return b;
}

int read_images(const void *p, size_t n, char err[ERRLEN], struct buf *digest)
{
	struct ts_reader r;
	struct val *f;
	int rc;

	if (ts_open_mem(&r, p, n, "mem", "images") < 0)
		return fail(err, "%s", r.err);
	while ((rc = ts_next(&r, &f)) > 0) {
		if (digest)
			val_pack(digest, f);
		val_free(f);
	}
	ts_close(&r);
	return rc < 0 ? fail(err, "%s", r.err) : 0;
}

int read_file(const void *p, size_t n, char err[ERRLEN], struct buf *digest)
{
	FILE *fp = n ? fmemopen((void *)p, n, "rb") : fopen("/dev/null", "rb");
	struct ts_reader r;
	struct val *f;
	int rc = ts_open_file(&r, fp, "file", "images");

	if (!rc) {
		while ((rc = ts_next(&r, &f)) > 0) {
			if (digest)
				val_pack(digest, f);
			val_free(f);
		}
		ts_close(&r);
	}
	fclose(fp);
	return rc < 0 ? fail(err, "%s", r.err) : 0;
}

int read_seeking(const void *p, size_t n, char err[ERRLEN], struct buf *digest)
{
	const char *path = as_file(p, n);
	struct ts_reader r;
	struct val *f;
	int64_t i;
	int rc = 0;

	if (ts_open_seek(&r, path, "images") < 0)
		return fail(err, "%s", r.err);
	for (i = ts_count(&r) - 1; i >= 0 && !rc; i--)
		if (!(rc = ts_read_at(&r, i, &f))) {
			if (digest)
				val_pack(digest, f);
			val_free(f);
		}
	ts_close(&r);
	return rc < 0 ? fail(err, "%s", r.err) : 0;
}

static void pack_checkpoint(struct buf *b, const struct checkpoint *c)
{
	struct val *v = net_to_val(c->net);

	val_pack(b, c->header);
	val_pack(b, v);
	val_free(v);
	buf_put(b, c->w.theta, c->net->ntheta * sizeof(float));
	buf_put(b, c->w.buffer, c->net->nbuffer * sizeof(float));
}

int read_checkpoint(const void *p, size_t n, char err[ERRLEN], struct buf *digest)
{
	struct checkpoint c;
	struct ts_reader r;
	int rc;

	if (ts_open_mem(&r, p, n, "mem", "checkpoint") < 0)
		return fail(err, "%s", r.err);
	if (!(rc = checkpoint_read(&r, &c))) {
		if (digest)
			pack_checkpoint(digest, &c);
		checkpoint_free(&c);
	}
	ts_close(&r);
	return rc < 0 ? fail(err, "%s", r.err) : 0;
}

int read_pool(const void *p, size_t n, char err[ERRLEN], struct buf *digest)
{
	const char *path = as_file(p, n);
	struct checkpoint *all;
	int count, i;

	if (!(all = pool_read_all(path, &count, err)))
		return -1;
	for (i = 0; i < count; i++) {
		if (digest && all[i].member)
			buf_put(digest, all[i].member, strlen(all[i].member));
		if (digest)
			pack_checkpoint(digest, &all[i]);
		checkpoint_free(&all[i]);
	}
	free(all);
	return 0;
}

void torture(const char *what, reader *read, struct buf b, int flips, bool slack)
{
	char err[ERRLEN], name[64], why[128] = "";
	struct buf want = { 0 }, got = { 0 };
	uint32_t s = 12345;
	uint8_t *copy;
	size_t n, at;
	int i, j, bits, bad = 0, silent = 0;

	if (read(b.p, b.len, err, &want) < 0) {
		snprintf(name, sizeof name, "%s: intact", what);
		ok(false, name, err);
		return;
	}
	for (n = 0; n < b.len; n++) {
		copy = emalloc(n); /* of its own, so that reading past its end is seen */
		memcpy(copy, b.p, n);
		*err = '\0';
		got.len = 0;
		if (!read(copy, n, err, &got)) {
			if (!slack || got.len != want.len || memcmp(got.p, want.p, got.len)) {
				bad++;
				snprintf(why, sizeof why, "the first %zu of %zu bytes pass", n, b.len);
			}
		} else {
			silent += !*err;
		}
		free(copy);
	}
	snprintf(name, sizeof name, "%s: every truncation of %zu bytes is refused", what, b.len);
	ok(!bad && !silent, name, bad ? why : "without a message");
	for (i = 0, bad = silent = 0; i < flips; i++) {
		copy = emalloc(b.len);
		memcpy(copy, b.p, b.len);
		s = s * 1664525 + 1013904223;
		bits = s >> 30 ? 1 : 1 + (s >> 20 & 15);
		for (j = 0; j < bits; j++) {
			s = s * 1664525 + 1013904223;
			at = (uint64_t)s * (8 * b.len) >> 32;
			copy[at / 8] ^= 1 << at % 8;
		}
		*err = '\0';
		got.len = 0;
		if (!read(copy, b.len, err, &got)) {
			if (memcmp(copy, b.p, b.len) &&
			    (!slack || got.len != want.len || memcmp(got.p, want.p, got.len))) {
				bad++;
				snprintf(why, sizeof why, "flip %d (%d bits, the last at byte %zu) passes",
					i, bits, at / 8);
			}
		} else {
			silent += !*err;
		}
		free(copy);
	}
	snprintf(name, sizeof name, "%s: %d random flips are refused", what, flips);
	ok(!bad && !silent, name, bad ? why : "without a message");
	buf_free(&want);
	buf_free(&got);
}

void refused(const char *name, reader *read, const void *p, size_t n, const char *expect)
{
	char err[ERRLEN] = "accepted";
	void *copy = emalloc(n);
	int rc;

	memcpy(copy, p, n);
	rc = read(copy, n, err, NULL);
	ok(rc < 0 && strstr(err, expect), name, err);
	free(copy);
}
