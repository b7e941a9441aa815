/* synth-init(1): real images, or noise -> the units that synthesis starts from */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../formats/images.h"
#include "../formats/imageset.h"
#include "../formats/teachers.h"
#include "../lib/cli.h"
#include "../lib/herding.h"
#include "../lib/plan.h"
#include "../lib/rng.h"
#include "../lib/times.h"

static const char synopsis[] =
	"synth-init -i IPC [options] <images >units\n"
	"  -i IPC         images per class\n"
	"  --from WHAT    real: images picked at random; noise: N(0, 1); herding: images that stand for their class (real)\n"
	"  -p POOL        for herding: the network whose features count, a checkpoint or the last of a pool\n"
	"  --unit N       most images a unit (100)\n"
	"  --order ORDER  index: each class's images of one index together; stride: the same, classes far apart\n"
	"                 together; class: one class a unit (index)\n"
	"  --header       write only the header that the output would have\n"
	"  --seed N, --threads N, --device D, --isa I, --precision P, --log FILE, -o FILE, -v, -h, -V";

enum order { ORDER_INDEX, ORDER_STRIDE, ORDER_CLASS, ORDERS };
static const char *const order_name[ORDERS] = { "index", "stride", "class" };

enum from { FROM_REAL, FROM_NOISE, FROM_HERDING, FROMS };
static const char *const from_name[FROMS] = { "real", "noise", "herding" };

struct options {
	struct cli cli;
	int ipc, unit;
	enum from from;
	enum order order;
	const char *pool;
};

/* How classes and indices make units. */
struct layout {
	int nclass, ipc, unit;
	enum order order;
	int per;    /* images of a class in a unit */
	int rounds; /* units that a class takes part in */
	int groups; /* of classes */
};

struct pick {
	double key;
	int64_t number; /* running number in its class: decides between equal keys */
	float *x;       /* (C,H,W) */
};

struct picks { /* of one class, by ascending key */
	struct pick *pick;
	int n;
	int64_t seen;
};

static int parse_name(const char *opt, const char *s, const char *const *name, int n)
{
	for (int i = 0; i < n; i++)
		if (!strcmp(s, name[i]))
			return i;
	usage("%s %s: %s, %s or %s expected", opt, s, name[0], name[1], name[2]);
}

static void parse(struct options *o, int argc, char **argv)
{
	enum { FROM = 256, UNIT, ORDER };
	static const struct option longs[] = {
		CLI_LONG, CLI_RUN_LONG, { "from", 1, NULL, FROM }, { "unit", 1, NULL, UNIT }, { "order", 1, NULL, ORDER }, { 0 }
	};
	int c;

	while ((c = getopt_long(argc, argv, CLI_SHORT "i:p:", longs, NULL)) != -1)
		switch (c) {
		case 'i': o->ipc = (int)eint("-i", optarg, 1, 1 << 20); break;
		case 'p': o->pool = optarg; break;
		case FROM: o->from = parse_name("--from", optarg, from_name, FROMS); break;
		case UNIT: o->unit = (int)eint("--unit", optarg, 1, 1 << 20); break;
		case ORDER: o->order = parse_name("--order", optarg, order_name, ORDERS); break;
		default: cli_option(&o->cli, c, synopsis);
		}
	if (optind < argc)
		usage("%s: no file arguments; images come on standard input", argv[optind]);
	if (!o->ipc)
		usage("-i IPC is needed");
	if ((o->from == FROM_HERDING) != !!o->pool)
		usage(o->pool ? "-p goes with --from herding" : "--from herding: -p POOL is needed");
}

static struct layout lay_out(const struct options *o, int nclass)
{
	struct layout l = { nclass, o->ipc, o->unit, o->order, .groups = nclass };

	if (o->order != ORDER_CLASS)
		l.groups = (nclass + o->unit - 1) / o->unit;
	l.per = MIN(o->ipc, o->order == ORDER_CLASS ? o->unit : MAX(1, o->unit / nclass));
	l.rounds = (o->ipc + l.per - 1) / l.per;
	return l;
}

/* The classes of group g: from, and every step-th up to the last. */
static void classes_of(const struct layout *l, int g, int *from, int *end, int *step)
{
	*from = l->order == ORDER_INDEX ? g * l->unit : g;
	*end = l->order == ORDER_INDEX ? MIN(l->nclass, *from + l->unit) : l->order == ORDER_CLASS ? g + 1 : l->nclass;
	*step = l->order == ORDER_STRIDE ? l->groups : 1;
}

/* Image i of the frame, normalised. */
static float *pixels(const struct imageset *like, const struct image_frame *f, int64_t i, char err[ERRLEN])
{
	struct imageset s = *like;
	float *x = ealigned((size_t)s.c * s.h * s.w, sizeof *x);
	struct picture pic = { 0 };

	if (f->encoded) {
		const struct val *file = f->encoded->list.item[i];

		if (picture_decode(file->s.p, file->s.len, &pic, err) < 0) {
			free(x);
			return NULL;
		}
		picture_fit(&pic, s.c, s.h, s.w);
	}
	s.u8 = f->encoded ? pic.px : f->u8;
	s.f32 = f->f32;
	imageset_get(&s, f->encoded ? 0 : i, &s.norm, x);
	free(pic.px);
	return x;
}

/* Offers image i to its class: the ipc smallest keys stay, so that the choice does not depend on when it is made. */
static int offer(const struct options *o, const struct imageset *like, const struct image_frame *f, int64_t i,
	struct picks *p, char err[ERRLEN])
{
	struct rng r = rng_at(o->cli.seed, RNG_PICK, (uint32_t)f->label[i], (uint32_t)p->seen, 0);
	struct pick new = { .key = rng_uniform(&r), .number = p->seen++ };
	int at = p->n;

	while (at > 0 && p->pick[at - 1].key > new.key)
		at--;
	if (at == o->ipc)
		return 0;
	if (!(new.x = pixels(like, f, i, err)))
		return -1;
	if (p->n == o->ipc)
		free(p->pick[--p->n].x);
	else
		p->pick = erealloc(p->pick, p->n + 1, sizeof *p->pick);
	memmove(p->pick + at + 1, p->pick + at, (p->n - at) * sizeof *p->pick);
	p->pick[at] = new;
	p->n++;
	return 0;
}

static void check_class(const struct options *o, const struct ts_reader *r, int c, int64_t n)
{
	if (n < o->ipc)
		die("%s: class '%s': %lld images, %d needed", r->name, header_class(r->header, c), (long long)n, o->ipc);
}

static void pick_images(const struct options *o, struct ts_reader *r, const struct imageset *like, struct picks *p)
{
	struct val *frame;
	char err[ERRLEN];
	int got;

	while ((got = ts_next(r, &frame)) > 0) {
		struct image_frame f;
		int bad = image_frame_get(r->header, frame, &f, err);

		for (int64_t i = 0; !bad && i < f.n; i++)
			if (offer(o, like, &f, i, &p[f.label[i]], err) < 0)
				die("%s: frame %lld: images.encoded: image %lld: %s", r->name, (long long)r->nframes - 1,
					(long long)i, err);
		if (bad)
			die("%s: frame %lld: %s", r->name, (long long)r->nframes - 1, err);
		val_free(frame);
	}
	if (got < 0)
		die("%s", r->err);
	for (int c = 0; c < like->nclass; c++)
		check_class(o, r, c, p[c].n);
}

/* The last features of the whole set, (N,F), as the pool's last network sees it. */
static float *features(const struct options *o, const struct imageset *s, int *width)
{
	size_t each = (size_t)s->c * s->h * s->w;
	int batch = MIN(250, s->n), n;
	struct teacher *t;
	struct plan *plan;
	struct net *net;
	struct workspace *ws = ws_new();
	char err[ERRLEN];
	float *x = ealigned(batch * each, sizeof *x), *out;

	if (!(t = teachers_read(o->pool, s->header, &n, err)))
		die("%s", err);
	if (!(net = net_features(t[n - 1].net, false, err)) || !(plan = plan_new(net, (struct plan_opts){ .purpose = PLAN_EVAL,
		.batch = batch, .precision = get_precision() }, err)))
		die("%s: %s", o->pool, err);
	*width = net->nclass;
	out = ealigned((size_t)s->n * *width, sizeof *out);
	plan_bind(plan, ws);
	plan_load(plan, &t[n - 1].ck.w);
	for (int64_t from = 0; from < s->n; from += batch) {
		int m = MIN(batch, s->n - from);

		#pragma omp parallel for num_threads(get_threads())
		for (int i = 0; i < m; i++)
			imageset_get(s, from + i, &s->norm, x + i * each);
		plan_forward(plan, m, x, out + from * *width);
		progress("images", from + m, s->n, NULL);
		cli_log(&o->cli, "batch", "images", (double)(from + m), NULL);
	}
	progress_done();
	for (size_t i = 0; i < (size_t)s->n * *width; i++)
		if (!isfinite(out[i]))
			die("%s: features are not finite", o->pool);
	plan_free(plan);
	ws_free(ws);
	net_free(net);
	teachers_free(t, n);
	free(x);
	return out;
}

/* Those of class c whose features' mean stays nearest to that of the whole class. */
static void herd_class(const struct options *o, const struct ts_reader *r, const struct imageset *s,
	const float *feature /* (N,width) */, int width, int c, struct picks *p)
{
	size_t each = (size_t)s->c * s->h * s->w;
	int64_t *place = emalloc(s->n * sizeof *place), *chosen = emalloc(o->ipc * sizeof *chosen), n = 0;
	float *x;

	for (int64_t i = 0; i < s->n; i++)
		if (s->label[i] == c)
			place[n++] = i;
	check_class(o, r, c, n);
	x = ealigned((size_t)n * width, sizeof *x);
	for (int64_t i = 0; i < n; i++)
		memcpy(x + i * width, feature + place[i] * width, width * sizeof *x);
	herding(chosen, x, n, width, o->ipc);
	p->pick = ecalloc(o->ipc, sizeof *p->pick);
	for (p->n = 0; p->n < o->ipc; p->n++) {
		struct pick *new = &p->pick[p->n];

		new->x = ealigned(each, sizeof *new->x);
		imageset_get(s, place[chosen[p->n]], &s->norm, new->x);
	}
	free(place);
	free(chosen);
	free(x);
}

static void herd(const struct options *o, struct ts_reader *r, struct picks *p)
{
	struct imageset s;
	float *feature;
	int width;

	if (imageset_read(r, &s) < 0)
		die("%s", r->err);
	feature = features(o, &s, &width);
	for (int c = 0; c < s.nclass; c++)
		herd_class(o, r, &s, feature, width, c, &p[c]);
	free(feature);
	imageset_free(&s);
}

/* Noise needs the header alone, but a truncated input is refused all the same. */
static void read_to_end(struct ts_reader *r)
{
	const uint8_t *p;
	size_t n;
	int got;

	while ((got = ts_next_raw(r, &p, &n)) > 0)
		;
	if (got < 0)
		die("%s", r->err);
}

static void fill(const struct options *o, const struct picks *p, int class, int index, float *x, size_t n)
{
	if (o->from != FROM_NOISE) {
		memcpy(x, p[class].pick[index].x, n * sizeof *x);
		return;
	}

	struct rng r = rng_at(o->cli.seed, RNG_NOISE, (uint32_t)class, (uint32_t)index, 0);

	for (size_t i = 0; i < n; i++)
		x[i] = (float)rng_normal(&r);
}

static struct val *unit_frame(const struct options *o, const struct layout *l, const struct imageset *like,
	const struct picks *p, int64_t unit)
{
	/* A class's own units follow each other; groups of classes take turns, so that the first units are a whole set. */
	int group = (int)(l->order == ORDER_CLASS ? unit / l->rounds : unit % l->groups);
	int round = (int)(l->order == ORDER_CLASS ? unit % l->rounds : unit / l->groups);
	int first = round * l->per, last = MIN(o->ipc, first + l->per), from, end, step;
	size_t each = (size_t)like->c * like->h * like->w;
	struct val *f = val_map();

	classes_of(l, group, &from, &end, &step);
	int64_t n = (int64_t)(last - first) * ((end - from + step - 1) / step), at = 0;
	struct tensor x = tensor_new(DT_F32, 4, (int64_t[]){ n, like->c, like->h, like->w });
	struct tensor label = tensor_new(DT_I64, 1, &n), index = tensor_new(DT_I64, 1, &n);

	for (int i = first; i < last; i++)
		for (int c = from; c < end; c += step, at++) {
			fill(o, p, c, i, (float *)x.data + at * each, each);
			((int64_t *)label.data)[at] = c;
			((int64_t *)index.data)[at] = i;
		}
	val_put(f, "images.f32", val_tensor(x));
	val_put(f, "labels", val_tensor(label));
	val_put(f, "index", val_tensor(index));
	val_put(f, "unit", val_int(unit));
	return f;
}

static struct val *header_of(const struct val *in, const struct options *o)
{
	struct val *h = val_copy(in), *args = val_map(), *file;
	char err[ERRLEN];

	val_put(args, "ipc", val_int(o->ipc));
	val_put(args, "from", val_str(from_name[o->from]));
	val_put(args, "unit", val_int(o->unit));
	val_put(args, "order", val_str(order_name[o->order]));
	if (o->from != FROM_HERDING) {
		val_put(args, "seed", val_int(o->cli.seed));
	} else {
		if (history_file(o->pool, &file, err) < 0)
			die("%s", err);
		val_put(args, "pool", file);
		if (get_precision() != PRECISION_FP32)
			val_put(args, "precision", val_str(precision_name[get_precision()]));
	}
	history_add(h, progname, args);
	return h;
}

int main(int argc, char **argv)
{
	struct options o = { .unit = 100 };
	struct ts_reader r;
	struct ts_writer w;
	struct imageset like = { 0 };
	int chw[3];

	progname = "synth-init";
	parse(&o, argc, argv);
	eout_probe(o.cli.out);
	if (ts_open(&r, NULL, "images") < 0)
		die("%s", r.err);
	like.nclass = header_nclass(r.header);
	if (header_shape(r.header, chw) < 0 || header_norm(r.header, &like.norm) < 0 || like.norm.channels != chw[0] ||
		like.nclass < 1)
		die("%s: header: classes, an image shape and its normalisation expected", r.name);
	like.c = chw[0], like.h = chw[1], like.w = chw[2];

	struct layout l = lay_out(&o, like.nclass);
	int64_t units = (int64_t)l.groups * l.rounds;
	struct val *header = header_of(r.header, &o);

	if (o.cli.header) {
		ets_header(o.cli.out, header);
		return 0;
	}

	struct picks *p = ecalloc(like.nclass, sizeof *p);

	if (o.from == FROM_NOISE)
		read_to_end(&r);
	else if (o.from == FROM_HERDING)
		herd(&o, &r, p);
	else
		pick_images(&o, &r, &like, p);

	if (ts_create(&w, o.cli.out, header) < 0)
		die("%s", w.err);
	for (int64_t u = 0; u < units; u++) {
		struct val *f = unit_frame(&o, &l, &like, p, u);

		if (ts_put(&w, f) < 0 || ts_flush(&w) < 0)
			die("%s", w.err);
		val_free(f);
	}
	if (ts_finish(&w) < 0)
		die("%s", w.err);
	if (o.cli.verbose)
		warn("%lld units, %lld images", (long long)units, (long long)o.ipc * like.nclass);
	for (int c = 0; c < like.nclass; c++) {
		for (int i = 0; i < p[c].n; i++)
			free(p[c].pick[i].x);
		free(p[c].pick);
	}
	free(p);
	val_free(header);
	ts_close(&r);
	if (o.cli.verbose)
		times_say();
	return 0;
}
