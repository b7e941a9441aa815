/* Pools fitted to images, streams of statistics and states: what is accepted, how it is put in order, what is refused.
 * Prints TAP. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../formats/state.h"
#include "../formats/stats.h"
#include "t_formats.h"

enum { MEMBERS = 2, CHANNELS = 3 };

static struct val *images; /* header that the readers below fit to */
static char *pool;         /* file */

static struct val *turned(void)
{
	static const char *const names[] = { "boot", "bag" };
	struct val *h = a_header("images");

	header_set_classes(h, names, 2);
	return h;
}

/* Parameter `name` of teacher t. */
static const float *param(const struct teacher *t, const char *name)
{
	for (int i = 0; i < t->net->nparam; i++)
		if (!strcmp(t->net->param[i].name, name))
			return weights_param(t->net, &t->ck.w, i);
	die("no parameter %s", name);
}

static void test_fit(void)
{
	struct val *back = turned(), *bright = a_header("images");
	struct norm norm = { 1, { 0.5f }, { 0.6f } };
	char err[ERRLEN] = "";
	int n, per = 12; /* inputs of the classifier */
	struct teacher *a = teachers_read(pool, images, &n, err), *b, *c;

	ok(a && n == MEMBERS && a[0].nlayer == 1 && a[0].net == a[0].ck.net && !strcmp(a[1].ck.member, "1/01.ts"),
		"a pool for its own images", err);
	b = teachers_read(pool, back, &n, err);
	ok(b && !memcmp(param(&a[0], "fc.weight"), param(&b[0], "fc.weight") + per, per * sizeof(float)) &&
		!memcmp(param(&a[0], "fc.weight") + per, param(&b[0], "fc.weight"), per * sizeof(float)) &&
		param(&a[0], "fc.bias")[0] == param(&b[0], "fc.bias")[1] &&
		!strcmp(header_class(b[0].ck.header, 0), "boot"), "classifier rows in the images' order", err);
	header_set_norm(bright, &norm);
	c = teachers_read(pool, bright, &n, err);
	ok(c && c[1].net != c[1].ck.net && c[1].net->node[1].op == OP_AFFINE && c[1].net->node[c[1].layer[0]].op == OP_BN,
		"an affine in front for another normalisation", err);
	/* What was 0.25 + 0.3*x as a pixel is 0.5 + 0.6*y. */
	ok(c && fabsf(c[1].net->node[1].scale[0] - 2) < 1e-6f && fabsf(c[1].net->node[1].shift[0] - 0.25f / 0.3f) < 1e-6f,
		"and its figures", "");
	teachers_free(a, n);
	teachers_free(b, n);
	teachers_free(c, n);
	val_free(back);
	val_free(bright);
}

static int read_teachers(const void *p, size_t n, char err[ERRLEN], struct buf *digest)
{
	struct teacher *t;
	int count;

	if (!(t = teachers_read(as_file(p, n), images, &count, err)))
		return -1;
	for (int i = 0; digest && i < count; i++) {
		val_pack(digest, t[i].ck.header);
		buf_put(digest, t[i].ck.w.theta, t[i].net->ntheta * sizeof(float));
		buf_put(digest, t[i].ck.w.buffer, t[i].net->nbuffer * sizeof(float));
	}
	teachers_free(t, count);
	return 0;
}

static void test_misfits(struct buf b)
{
	static const char *const three[] = { "bag", "boot", "hat" }, *const other[] = { "bag", "hat" },
		*const twice[] = { "bag", "bag" };
	struct norm colour = { 3, { 0.5f, 0.5f, 0.5f }, { 1, 1, 1 } };
	struct val *h = images;

	images = a_header("images");
	header_set_shape(images, (int[]){ 1, 5, 4 });
	refused("other size", read_teachers, b.p, b.len, "member 1/00.ts: takes images of 1x4x4, these are 1x5x4");
	header_set_shape(images, (int[]){ 1, 4, 4 });
	header_set_classes(images, three, 3);
	refused("more classes", read_teachers, b.p, b.len, "2 classes");
	header_set_classes(images, other, 2);
	refused("another class", read_teachers, b.p, b.len, "'boot'");
	header_set_classes(images, twice, 2);
	refused("a class twice", read_teachers, b.p, b.len, "class 'bag' stands twice");
	val_drop(images, "classes");
	refused("no classes", read_teachers, b.p, b.len, "no classes");
	val_free(images);
	images = a_header("images");
	header_set_norm(images, &colour);
	refused("normalisation of other channels", read_teachers, b.p, b.len, "standard deviation of 1 channels");
	val_free(images);
	images = a_header("images");
	val_drop(images, "shape");
	refused("no shape", read_teachers, b.p, b.len, "no shape");
	val_free(images);
	images = h;
}

/* A frame of statistics of those teachers, distinct numbers in each. */
static struct val *stats_frame(int teacher, bool classwise)
{
	float mean[CHANNELS], var[CHANNELS], cmean[2 * CHANNELS], cvar[2 * CHANNELS];
	struct layer_stats s = { CHANNELS, classwise ? 2 : 0, mean, var, cmean, cvar };

	for (int c = 0; c < CHANNELS; c++) {
		mean[c] = teacher + 0.1f * c;
		var[c] = 1 + mean[c];
		for (int k = 0; k < 2; k++) {
			cmean[k * CHANNELS + c] = 10 * (k + 1) + mean[c];
			cvar[k * CHANNELS + c] = 20 * (k + 1) + mean[c];
		}
	}
	return stats_to_frame(&s, teacher, 0, teacher ? "1/01.ts" : "1/00.ts", "bn");
}

static struct buf stats_stream(struct val *const *frame, int n)
{
	struct val *h = a_header("stats");
	struct buf b = { 0 };
	struct ts_writer w;

	if (ts_create_mem(&w, &b, h) < 0)
		die("%s", w.err);
	for (int i = 0; i < n; i++)
		if (ts_put(&w, frame[i]) < 0)
			die("%s", w.err);
	if (ts_finish(&w) < 0)
		die("%s", w.err);
	val_free(h);
	return b;
}

static int read_stats(const void *p, size_t n, char err[ERRLEN], struct buf *digest)
{
	struct layer_stats **s;
	struct teacher *t;
	char why[ERRLEN];
	int count;

	if (!(t = teachers_read(pool, images, &count, why)))
		die("%s", why);
	if ((s = stats_read(as_file(p, n), t, count, images, err))) {
		for (int i = 0; digest && i < count; i++) {
			buf_put(digest, s[i][0].mean, CHANNELS * sizeof(float));
			buf_put(digest, s[i][0].var, CHANNELS * sizeof(float));
			if (s[i][0].cmean)
				buf_put(digest, s[i][0].cmean, s[i][0].nclass * CHANNELS * sizeof(float));
			if (s[i][0].cvar)
				buf_put(digest, s[i][0].cvar, s[i][0].nclass * CHANNELS * sizeof(float));
		}
		stats_free(s, t, count);
	}
	teachers_free(t, count);
	return s ? 0 : -1;
}

static float *numbers(struct val *frame, const char *key)
{
	return val_get_tensor(frame, key)->data;
}

/* The two frames with one of them spoilt. */
static void spoilt(const char *name, struct val *a, struct val *b, const char *expect)
{
	struct buf s = stats_stream((struct val *[]){ a, b }, b ? 2 : 1);

	refused(name, read_stats, s.p, s.len, expect);
	buf_free(&s);
	val_free(a);
	val_free(b);
}

static struct val *with(struct val *frame, const char *key, struct val *v)
{
	if (v)
		val_put(frame, key, v);
	else
		val_drop(frame, key);
	return frame;
}

static void test_stats(void)
{
	struct val *f[] = { stats_frame(0, true), stats_frame(1, true), stats_frame(1, true) };
	struct val *own = images, *back = turned();
	struct buf b = stats_stream(f, 2), more = stats_stream(f, 3), straight = { 0 }, swapped = { 0 };
	const size_t row = CHANNELS * sizeof(float), teacher = 6 * row;
	char err[ERRLEN] = "";

	ok(!read_stats(b.p, b.len, err, &straight) && straight.len == 2 * teacher &&
		!memcmp(straight.p + teacher, numbers(f[1], "mean"), row) &&
		!memcmp(straight.p + 2 * row, numbers(f[0], "class_mean"), 2 * row), "statistics of a pool", err);
	images = back;
	ok(!read_stats(b.p, b.len, err, &swapped) && !memcmp(swapped.p, straight.p, 2 * row) &&
		!memcmp(swapped.p + 2 * row, straight.p + 3 * row, row) &&
		!memcmp(swapped.p + 3 * row, straight.p + 2 * row, row), "rows in the images' order", err);
	images = own;
	torture("statistics", read_stats, b, 1000, false);
	refused("a frame too many", read_stats, more.p, more.len, "more layers");
	for (int i = 0; i < 3; i++)
		val_free(f[i]);
	spoilt("a frame too few", stats_frame(0, true), NULL, "no statistics of teacher 1, layer 0");
	spoilt("out of order", stats_frame(1, true), stats_frame(0, true), "not of teacher 0");
	spoilt("another member", with(stats_frame(0, true), "member", val_str("2/00.ts")), stats_frame(1, true), "2/00.ts");
	spoilt("another node", stats_frame(0, true), with(stats_frame(1, true), "node", val_str("bn2")), "bn2");
	spoilt("no variance", stats_frame(0, true), with(stats_frame(1, true), "var", NULL), "no var");
	spoilt("class means alone", stats_frame(0, true), with(stats_frame(1, true), "class_var", NULL), "no class_var");
	spoilt("classes in one frame only", stats_frame(0, true), stats_frame(1, false), "some frames only");
	f[0] = stats_frame(0, false);
	numbers(f[0], "mean")[1] = NAN;
	spoilt("not a number", f[0], stats_frame(1, false), "frame 0: mean: nan at channel 1");
	f[0] = stats_frame(1, true);
	numbers(f[0], "class_var")[5] = -1;
	spoilt("a negative variance", stats_frame(0, true), f[0], "frame 1: class_var: -1 at channel 2");
	f[0] = stats_frame(0, true);
	val_get_tensor(f[0], "mean")->shape[0] = 2;
	spoilt("fewer channels", f[0], stats_frame(1, true), "shape 3");
	val_free(back);
	buf_free(&b);
	buf_free(&more);
	buf_free(&straight);
	buf_free(&swapped);
}

static int read_state(const void *p, size_t n, char err[ERRLEN], struct buf *digest)
{
	struct state s;

	if (state_read(&s, as_file(p, n), err) < 0)
		return -1;
	for (int i = 0; digest && i < s.n; i++)
		buf_put(digest, s.array[i].p, s.array[i].len);
	state_free(&s);
	return 0;
}

static void test_state(void)
{
	struct state s = state_new(), t;
	const char *path = in_dir("state");
	char err[ERRLEN] = "";
	struct buf b;

	val_put(s.header, "epoch", val_int(3));
	state_set(&s, "theta", "abcdefgh", 8);
	state_set(&s, "m", "1234", 4);
	state_set(&s, "theta", "ABCD", 4);
	ok(!state_write(&s, path, err) && !state_read(&t, path, err), "a state is written and read", err);
	ok(t.n == 2 && val_get_int(t.header, "epoch", 0) == 3 && !memcmp(state_get(&t, "theta", 4), "ABCD", 4) &&
		!memcmp(state_get(&t, "m", 4), "1234", 4), "and holds what was set last", "");
	ok(!state_get(&t, "theta", 8) && !state_get(&t, "v", 4), "arrays of another size or name are not there", "");
	b = load(path);
	torture("state", read_state, b, 1000, false);
	buf_free(&b);
	b = a_stream("state", 1);
	refused("frames without names", read_state, b.p, b.len, "no named bytes");
	buf_free(&b);
	state_free(&s);
	state_free(&t);
}

int main(void)
{
	struct buf b;

	progname = "t_teachers";
	if (!mkdtemp(dir))
		die("%s:", dir);
	images = a_header("images");
	b = a_pool(MEMBERS);
	pool = estrdup(in_dir("pool"));
	test_fit();
	test_misfits(b);
	test_stats();
	test_state();
	unlink(pool);
	unlink(in_dir("state"));
	ok(!rmdir(dir), "no temporary file is left", strerror(errno));
	free(pool);
	buf_free(&b);
	val_free(images);
	printf("1..%d\n", ntest);
	return nbad != 0;
}
