/* Checkpoints of any network: every operation's attributes, graphs that are none, parameters in parts, and memory that
 * follows what has come. */
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../formats/checkpoint.h"
#include "../formats/json.h"
#include "tap.h"

enum { PART = 64 }; /* bytes: the parameters of a_net() need several of them */

static int put(struct net *n, struct node v, int out)
{
	char err[ERRLEN];
	int i;

	v.groups = MAX(v.groups, 1);
	if ((i = net_add(n, &v, out, err)) < 0)
		die("%s", err);
	return i;
}

/* One node of every operation, of widths that no architecture has. */
static struct net *a_net(void)
{
	float scale[3] = { 0.5f, 0.1f, 3 }, shift[3] = { 0.1f, -1, 1e-30f };
	int even[4] = { 0, 2, 4, 6 }, odd[3] = { 5, 3, 1 }, i;
	struct net *n = net_new("pruned", (int[]){ 3, 9, 7 });
	char err[ERRLEN];

	put(n, (struct node){ .op = OP_INPUT, .name = "x" }, 0);
	put(n, (struct node){ .op = OP_AFFINE, .name = "norm", .in = { 0 }, .nin = 1, .scale = scale, .shift = shift }, 0);
	put(n, (struct node){ .op = OP_CONV, .name = "c1", .in = { 1 }, .nin = 1, .k = 3, .stride = 1, .pad = 1,
		.has_bias = 1 }, 7);
	put(n, (struct node){ .op = OP_BN, .name = "bn", .in = { 2 }, .nin = 1, .eps = 1e-3f }, 0);
	put(n, (struct node){ .op = OP_SELECT, .name = "even", .in = { 3 }, .nin = 1, .map = even }, 4);
	put(n, (struct node){ .op = OP_SELECT, .name = "odd", .in = { 3 }, .nin = 1, .map = odd }, 3);
	put(n, (struct node){ .op = OP_RELU6, .name = "r6", .in = { 4 }, .nin = 1 }, 0);
	put(n, (struct node){ .op = OP_SILU, .name = "silu", .in = { 5 }, .nin = 1 }, 0);
	put(n, (struct node){ .op = OP_CONCAT, .name = "cat", .in = { 7, 6 }, .nin = 2 }, 0);
	put(n, (struct node){ .op = OP_CONV, .name = "dw", .in = { 8 }, .nin = 1, .k = 3, .stride = 2, .groups = 7 }, 7);
	put(n, (struct node){ .op = OP_IN, .name = "in", .in = { 9 }, .nin = 1, .eps = 1e-5f }, 0);
	put(n, (struct node){ .op = OP_GAP, .name = "gap", .in = { 10 }, .nin = 1 }, 0);
	put(n, (struct node){ .op = OP_SIGMOID, .name = "gate", .in = { 11 }, .nin = 1 }, 0);
	put(n, (struct node){ .op = OP_MUL, .name = "se", .in = { 10, 12 }, .nin = 2 }, 0);
	put(n, (struct node){ .op = OP_DROPPATH, .name = "path", .in = { 13 }, .nin = 1, .p = 0.1f }, 0);
	put(n, (struct node){ .op = OP_ADD, .name = "add", .in = { 14, 10 }, .nin = 2 }, 0);
	put(n, (struct node){ .op = OP_RELU, .name = "relu", .in = { 15 }, .nin = 1 }, 0);
	put(n, (struct node){ .op = OP_MAXPOOL, .name = "max", .in = { 16 }, .nin = 1, .k = 3, .stride = 1, .pad = 1 }, 0);
	put(n, (struct node){ .op = OP_ADAPT, .name = "adapt", .in = { 17 }, .nin = 1, .k = 4 }, 0);
	put(n, (struct node){ .op = OP_AVGPOOL, .name = "avg", .in = { 18 }, .nin = 1, .k = 2, .stride = 2 }, 0);
	put(n, (struct node){ .op = OP_FLATTEN, .name = "flat", .in = { 19 }, .nin = 1 }, 0);
	put(n, (struct node){ .op = OP_DROPOUT, .name = "drop", .in = { 20 }, .nin = 1, .p = 0.3f }, 0);
	i = put(n, (struct node){ .op = OP_LINEAR, .name = "fc", .in = { 21 }, .nin = 1, .has_bias = 1 }, 5);
	if (net_finish(n, n->node[i].c, err) < 0)
		die("%s", err);
	return n;
}

static struct val *a_header(const struct net *n)
{
	struct val *h = header_new("checkpoint");

	header_set_shape(h, n->chw);
	return h;
}

/* A tensor of a parameter's rows, of numbers that tell where they belong. */
static struct tensor rows(const struct param *p, int64_t row, int64_t count)
{
	int64_t shape[4];
	struct tensor t;
	size_t i;

	memcpy(shape, p->shape, sizeof shape);
	shape[0] = count;
	t = tensor_new(DT_F32, p->ndim, shape);
	for (i = 0; i < tensor_count(&t); i++)
		((float *)t.data)[i] = p->node * 1000 + p->role * 10000 + row * (p->count / p->shape[0]) + i;
	return t;
}

/* A frame a piece: the parameter's rows [row, row + n); row < 0: whole, without the key. */
struct piece {
	const char *name;
	int row, n;
};

static const struct param *named(const struct net *n, const char *name)
{
	int i;

	for (i = 0; strcmp(n->param[i].name, name); i++)
		;
	return &n->param[i];
}

static void put_piece(struct ts_writer *w, const struct net *n, struct piece x)
{
	const struct param *p = named(n, x.name);
	struct val *f = val_map();

	val_put(f, x.name, val_tensor(x.row < 0 ? rows(p, 0, p->shape[0]) : rows(p, x.row, x.n)));
	if (x.row >= 0)
		val_put(f, "row", val_int(x.row));
	if (ts_put(w, f) < 0)
		die("%s", w->err);
	val_free(f);
}

/* A checkpoint of these frames, and then of all parameters that they do not name, in the net's order or backwards. */
static struct buf pieces(const struct net *n, const struct piece *x, int count, bool backwards)
{
	struct val *plain = a_header(n), *h = checkpoint_header(plain, n);
	struct ts_writer w;
	struct buf b = { 0 };
	int i, j, k;

	if (ts_create_mem(&w, &b, h) < 0)
		die("%s", w.err);
	for (i = 0; i < count; i++)
		put_piece(&w, n, x[i]);
	for (i = 0; i < n->nparam; i++) {
		k = backwards ? n->nparam - 1 - i : i;
		for (j = 0; j < count && strcmp(x[j].name, n->param[k].name); j++)
			;
		if (j == count)
			put_piece(&w, n, (struct piece){ n->param[k].name, -1, 0 });
	}
	if (ts_finish(&w) < 0)
		die("%s", w.err);
	val_free(h);
	val_free(plain);
	return b;
}

static int read_mem(const struct buf *b, struct checkpoint *c, char err[ERRLEN])
{
	struct ts_reader r;
	int rc;

	if (ts_open_mem(&r, b->p, b->len, "mem", "checkpoint") < 0)
		return fail(err, "%s", r.err);
	rc = checkpoint_read(&r, c);
	if (rc < 0)
		fail(err, "%s", r.err);
	ts_close(&r);
	return rc;
}

/* Every parameter has the numbers of rows(). */
static bool as_made(const struct checkpoint *c)
{
	bool same = true;
	int i;

	for (i = 0; i < c->net->nparam; i++) {
		const struct param *p = &c->net->param[i];
		struct tensor t = rows(p, 0, p->shape[0]);

		same = same && !memcmp(t.data, weights_param(c->net, &c->w, i), tensor_bytes(&t));
		tensor_free(&t);
	}
	return same;
}

static void accept(const char *name, const struct net *n, const struct piece *x, int count, bool backwards)
{
	struct buf b = pieces(n, x, count, backwards);
	struct checkpoint c;
	char err[ERRLEN] = "";
	int rc = read_mem(&b, &c, err);

	ok(!rc && as_made(&c), "%s%s", name, err);
	if (!rc)
		checkpoint_free(&c);
	buf_free(&b);
}

static void refuse(const char *name, const struct net *n, const struct piece *x, int count, const char *expect)
{
	struct buf b = pieces(n, x, count, false);
	struct checkpoint c;
	char err[ERRLEN] = "accepted";

	ok(read_mem(&b, &c, err) < 0 && strstr(err, expect), "refused: %s (%s)", name, err);
	buf_free(&b);
}

#define ACCEPT(name, ...) accept(name, n, (struct piece[]){ __VA_ARGS__ }, \
	sizeof (struct piece[]){ __VA_ARGS__ } / sizeof(struct piece), false)
#define REFUSE(name, expect, ...) refuse(name, n, (struct piece[]){ __VA_ARGS__ }, \
	sizeof (struct piece[]){ __VA_ARGS__ } / sizeof(struct piece), expect)

static void test_parts(void)
{
	struct net *n = a_net();

	accept("parameters in order", n, NULL, 0, false);
	accept("parameters backwards", n, NULL, 0, true);
	ACCEPT("two parts", { "c1.weight", 0, 3 }, { "c1.weight", 3, 4 });
	ACCEPT("a part a row", { "fc.weight", 0, 1 }, { "fc.weight", 1, 1 }, { "fc.weight", 2, 1 }, { "fc.weight", 3, 1 },
		{ "fc.weight", 4, 1 });
	ACCEPT("parts of a bias and of running statistics", { "bn.running_var", 0, 6 }, { "bn.running_var", 6, 1 },
		{ "c1.bias", 0, 1 }, { "c1.bias", 1, 6 });
	REFUSE("a gap", "c1.weight: its row 3 comes next, not 4", { "c1.weight", 0, 3 }, { "c1.weight", 4, 3 });
	REFUSE("an overlap", "c1.weight: its row 3 comes next, not 2", { "c1.weight", 0, 3 }, { "c1.weight", 2, 5 });
	REFUSE("a part twice", "c1.weight: its row 3 comes next, not 0", { "c1.weight", 0, 3 }, { "c1.weight", 0, 3 });
	REFUSE("a start in the middle", "c1.weight: its row 0 comes next, not 3", { "c1.weight", 3, 4 });
	REFUSE("too many rows", "c1.weight: 5 rows from 3 on, it has 7", { "c1.weight", 0, 3 }, { "c1.weight", 3, 5 });
	REFUSE("a row that is none", "c1.weight: its row 0 comes next", { "c1.weight", 1000, 1 });
	REFUSE("another parameter between the parts", "c1.weight: its row 3 comes next, not fc.bias", { "c1.weight", 0, 3 },
		{ "fc.bias", -1, 0 }, { "c1.weight", 3, 4 });
	REFUSE("an end that is missing", "fc.weight: its rows from 2 on are missing", { "c1.weight", -1, 0 },
		{ "c1.bias", -1, 0 }, { "bn.weight", -1, 0 }, { "bn.bias", -1, 0 }, { "bn.running_mean", -1, 0 },
		{ "bn.running_var", -1, 0 }, { "dw.weight", -1, 0 }, { "in.weight", -1, 0 }, { "in.bias", -1, 0 },
		{ "fc.bias", -1, 0 }, { "fc.weight", 0, 2 });
	REFUSE("a part behind the whole", "c1.bias stands twice", { "c1.bias", -1, 0 }, { "c1.bias", 0, 3 });
	REFUSE("the whole behind a part", "c1.bias: its row 3 comes next, not 0", { "c1.bias", 0, 3 },
		{ "c1.bias", -1, 0 });
	net_free(n);
}

/* Frames that are no rows: by hand. */
static void refuse_frame(const char *name, struct val *tensor, struct val *row, const char *expect)
{
	struct net *n = a_net();
	struct val *plain = a_header(n), *h = checkpoint_header(plain, n), *f = val_map();
	struct checkpoint c;
	struct ts_writer w;
	struct buf b = { 0 };
	char err[ERRLEN] = "accepted";

	val_put(f, "c1.weight", tensor);
	val_put(f, "row", row);
	if (ts_create_mem(&w, &b, h) < 0 || ts_put(&w, f) < 0 || ts_finish(&w) < 0)
		die("%s", w.err);
	ok(read_mem(&b, &c, err) < 0 && strstr(err, expect), "refused: %s (%s)", name, err);
	val_free(f);
	val_free(h);
	val_free(plain);
	net_free(n);
	buf_free(&b);
}

static struct val *shaped(enum dtype type, int ndim, int a, int b, int c, int d)
{
	return val_tensor(tensor_new(type, ndim, (int64_t[]){ a, b, c, d }));
}

static void test_bad_parts(void)
{
	refuse_frame("a row that is a string", shaped(DT_F32, 4, 1, 3, 3, 3), val_str("0"), "row 0 comes next");
	refuse_frame("a row that is a float", shaped(DT_F32, 4, 1, 3, 3, 3), val_f64(0), "row 0 comes next");
	refuse_frame("a negative row", shaped(DT_F32, 4, 1, 3, 3, 3), val_int(-1), "row 0 comes next");
	refuse_frame("no rows", shaped(DT_F32, 4, 0, 3, 3, 3), val_int(0), "0 rows from 0 on");
	refuse_frame("rows of another shape", shaped(DT_F32, 4, 1, 3, 3, 2), val_int(0), "shape is not the net's");
	refuse_frame("rows of fewer dimensions", shaped(DT_F32, 3, 1, 3, 3, 0), val_int(0), "shape is not the net's");
	refuse_frame("no dimension", shaped(DT_F32, 0, 0, 0, 0, 0), val_int(0), "shape is not the net's");
	refuse_frame("rows of another type", shaped(DT_F64, 4, 1, 3, 3, 3), val_int(0), "shape is not the net's");
}

/* What checkpoint_put_param() splits at a small limit, a reader puts together; at the usual one nothing is split. */
static void test_writer(void)
{
	struct net *n = a_net();
	struct val *plain = a_header(n), *h = checkpoint_header(plain, n), *f;
	struct buf b = { 0 }, whole = { 0 };
	struct checkpoint c;
	struct ts_writer w;
	struct ts_reader r;
	char err[ERRLEN] = "";
	int i, frames = 0, split = 0, large = 0;

	if (ts_create_mem(&w, &b, h) < 0)
		die("%s", w.err);
	for (i = 0; i < n->nparam; i++) {
		struct tensor t = rows(&n->param[i], 0, n->param[i].shape[0]);

		if (checkpoint_put_param(&w, &n->param[i], t.data, PART) < 0)
			die("%s", w.err);
		tensor_free(&t);
	}
	if (ts_finish(&w) < 0 || ts_open_mem(&r, b.p, b.len, "mem", "checkpoint") < 0)
		die("%s", w.err);
	while (ts_next(&r, &f) > 0) {
		const struct tensor *t = &f->map.item[0]->t;

		frames++;
		split += val_get(f, "row") != NULL;
		large += tensor_bytes(t) > PART && t->shape[0] > 1;
		val_free(f);
	}
	ts_close(&r);
	/* A row of c1 or fc is more than a part has: 7 + 5 frames; dw's 36 bytes each are: 7. The others are whole. */
	ok(frames == n->nparam - 3 + 7 + 5 + 7 && split == 7 + 5 + 7 && !large,
		"%d parameters in %d frames of at most %d bytes", n->nparam, frames, PART);
	i = read_mem(&b, &c, err);
	ok(!i && as_made(&c), "a reader puts them together%s", err);
	if (i < 0 || checkpoint_write_mem(&whole, c.header, c.net, &c.w, err) < 0 || ts_open_mem(&r, whole.p, whole.len,
		"mem", "checkpoint") < 0)
		die("%s", err);
	for (frames = split = 0; ts_next(&r, &f) > 0; frames++) {
		split += val_get(f, "row") != NULL;
		val_free(f);
	}
	ts_close(&r);
	ok(frames == n->nparam && !split, "small parameters are not split");
	ok(checkpoint_rows(&(struct param){ .ndim = 2, .shape = { 4096, 25088 }, .count = 4096 * 25088 },
		CHECKPOINT_PART) == 668, "VGG's first linear takes 668 rows a frame");
	checkpoint_free(&c);
	buf_free(&b);
	buf_free(&whole);
	val_free(h);
	val_free(plain);
	net_free(n);
}

/* The graph in a stream, and as text. */
static void test_graph(void)
{
	struct net *n = a_net(), *m, *k;
	struct val *v = net_to_val(n), *again, *read;
	char err[ERRLEN] = "", *text;
	unsigned ops = 0;
	int i;

	m = net_from_val(v, err);
	ok(m != NULL, "a graph is read%s", err);
	again = net_to_val(m);
	text = val_to_json(v, err);
	read = val_from_json(text, strlen(text), err);
	k = net_from_val(read, err);
	for (i = 0; i < n->nnode; i++)
		ops |= 1u << n->node[i].op;
	ok(ops == (1u << OP_COUNT) - 1 && val_equal(v, again) && n->ntheta == m->ntheta && n->nbuffer == m->nbuffer,
		"and is the same, with every operation");
	ok(k && val_equal(v, read), "as JSON too");
	val_free(v);
	val_free(again);
	val_free(read);
	free(text);
	net_free(n);
	net_free(m);
	net_free(k);
}

static void refuse_graph(const char *name, int node, const char *key, struct val *value, const char *expect)
{
	struct net *n = a_net(), *m;
	struct val *v = net_to_val(n), *x = val_get(v, "nodes")->list.item[node];
	char err[ERRLEN] = "accepted";

	if (value)
		val_put(x, key, value);
	else
		val_drop(x, key);
	m = net_from_val(v, err);
	ok(!m && strstr(err, expect), "refused: %s (%s)", name, err);
	net_free(m);
	net_free(n);
	val_free(v);
}

static struct val *ints(int n, int64_t a, int64_t b)
{
	struct val *v = val_list();

	if (n > 0)
		val_push(v, val_int(a));
	if (n > 1)
		val_push(v, val_int(b));
	return v;
}

static void test_bad_graphs(void)
{
	struct val *mixed = ints(1, 2, 0);

	refuse_graph("a node that is its own input", 6, "in", ints(1, 6, 0), "r6: an input is no earlier node");
	refuse_graph("a cycle", 6, "in", ints(1, 8, 0), "r6: an input is no earlier node");
	refuse_graph("a second input that comes later", 15, "in", ints(2, 14, 16), "add: an input is no earlier node");
	refuse_graph("a negative input", 6, "in", ints(1, -1, 0), "r6: an input is no earlier node");
	refuse_graph("an input that is no node", 6, "in", ints(1, INT64_MAX, 0), "r6: an input is no earlier node");
	val_free(mixed->list.item[0]);
	mixed->list.item[0] = val_f64(4);
	refuse_graph("an input that is a float", 6, "in", mixed, "r6: an input is no earlier node");
	refuse_graph("no inputs", 6, "in", NULL, "r6: no list of inputs");
	refuse_graph("too few inputs", 15, "in", ints(1, 14, 0), "add: wrong number of inputs");
	refuse_graph("too many", 6, "in", ints(2, 4, 4), "r6: wrong number of inputs");
	refuse_graph("a second input node", 6, "op", val_str("input"), "r6: wrong number of inputs");
	refuse_graph("an unknown operation", 6, "op", val_str("attention"), "r6: unknown operation 'attention'");
	refuse_graph("no operation", 6, "op", NULL, "no operation, or no name");
	refuse_graph("a name that is taken", 6, "name", val_str("c1"), "c1: the name is taken");
	refuse_graph("an output that nothing uses", 13, "in", ints(2, 10, 11), "gate: nothing uses its output");
	refuse_graph("a map beyond the channels", 4, "map", ints(2, 0, 7), "even: selects a channel");
	refuse_graph("a negative map", 4, "map", ints(2, 0, -1), "even: selects a channel");
	refuse_graph("an empty map", 4, "map", ints(0, 0, 0), "even: no map");
	refuse_graph("no map", 4, "map", NULL, "even: no map");
	refuse_graph("a share above 1", 21, "p", val_f64(1), "drop: no p");
	refuse_graph("no share", 14, "p", NULL, "path: no p");
	refuse_graph("a factor of another width", 13, "in", ints(2, 10, 2), "se: multiplies");
	refuse_graph("groups that do not divide", 9, "groups", val_int(2), "dw: 2 groups");
	refuse_graph("a pool to nothing", 18, "k", val_int(0), "adapt: no k");
}

static struct net *a_wide_net(int a, int b)
{
	struct net *n = net_new("wide", (int[]){ 1, 1, 1 });
	char err[ERRLEN];

	put(n, (struct node){ .op = OP_INPUT, .name = "x" }, 0);
	put(n, (struct node){ .op = OP_CONV, .name = "c1", .in = { 0 }, .nin = 1, .k = 1, .stride = 1 }, a);
	put(n, (struct node){ .op = OP_CONV, .name = "c2", .in = { 1 }, .nin = 1, .k = 1, .stride = 1 }, b);
	put(n, (struct node){ .op = OP_FLATTEN, .name = "flat", .in = { 2 }, .nin = 1 }, 0);
	put(n, (struct node){ .op = OP_LINEAR, .name = "fc", .in = { 3 }, .nin = 1, .has_bias = 1 }, 2);
	if (net_finish(n, 2, err) < 0)
		die("%s", err);
	return n;
}

/* Large enough that a reader does not allocate all at once, and what comes too early has to wait. */
static void test_early(void)
{
	struct net *n = a_wide_net(2048, 1200);

	accept("megabytes in order", n, NULL, 0, false);
	accept("megabytes backwards", n, NULL, 0, true);
	ACCEPT("megabytes in parts, the end first", { "fc.bias", 0, 1 }, { "fc.bias", 1, 1 }, { "c2.weight", 0, 700 },
		{ "c2.weight", 700, 500 });
	net_free(n);
}

/* 16 GiB of weights by the graph. A few kilobytes come, the last parameter of all among them, whose place is far out;
 * the process may have no more than a part of what is claimed. */
static void test_claims(void)
{
	struct net *n = a_wide_net(65536, 65536);
	const struct rlimit limit = { (rlim_t)2 << 30, (rlim_t)2 << 30 };
	struct val *plain, *h;
	struct ts_writer w;
	struct buf b = { 0 };
	struct checkpoint c;
	char err[ERRLEN];
	int status;
	pid_t pid;

	plain = a_header(n);
	h = checkpoint_header(plain, n);
	if (ts_create_mem(&w, &b, h) < 0)
		die("%s", w.err);
	put_piece(&w, n, (struct piece){ "c1.weight", -1, 0 });
	put_piece(&w, n, (struct piece){ "fc.bias", -1, 0 });
	if (ts_finish(&w) < 0)
		die("%s", w.err);
	fflush(stdout);
	if ((pid = fork()) == 0) {
#ifndef __SANITIZE_ADDRESS__
		setrlimit(RLIMIT_AS, &limit);
#endif
		_exit(read_mem(&b, &c, err) < 0 && strstr(err, "c2.weight is missing") ? 0 : 3);
	}
	ok(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0, "gigabytes that are only claimed take no memory");
	(void)limit;
	val_free(h);
	val_free(plain);
	net_free(n);
	buf_free(&b);
}

int main(void)
{
	progname = "t_checkpoint";
	test_graph();
	test_bad_graphs();
	test_parts();
	test_bad_parts();
	test_writer();
	test_early();
	test_claims();
	return tap_end();
}
