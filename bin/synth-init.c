/* synth-init(1): real images, or noise -> the units that synthesis starts from */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../formats/images.h"
#include "../formats/imageset.h"
#include "../lib/rng.h"
#include "../lib/times.h"

static const char help[] =
	"usage: synth-init -i IPC [options] <images >units\n"
	"  -i IPC         images per class\n"
	"  --from WHAT    real: images picked at random; noise: N(0, 1) (real)\n"
	"  --unit N       most images a unit (100)\n"
	"  --order ORDER  index: each class's images of one index together; stride: the same, classes far apart\n"
	"                 together; class: one class a unit (index)\n"
	"  --seed N       (0)\n"
	"  -o FILE        output file\n"
	"  -v             say what was made\n"
	"  -h, -V         help, version\n";

enum order { ORDER_INDEX, ORDER_STRIDE, ORDER_CLASS, ORDERS };
static const char *const order_name[ORDERS] = { "index", "stride", "class" };

struct options {
	int ipc, unit;
	bool noise, verbose;
	enum order order;
	uint32_t seed;
	const char *out;
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

static enum order parse_order(const char *s)
{
	for (int i = 0; i < ORDERS; i++)
		if (!strcmp(s, order_name[i]))
			return i;
	usage("--order %s: index, stride or class expected", s);
}

static void parse(struct options *o, int argc, char **argv)
{
	enum { FROM = 256, UNIT, ORDER, SEED };
	static const struct option longs[] = {
		{ "from", 1, NULL, FROM }, { "unit", 1, NULL, UNIT }, { "order", 1, NULL, ORDER }, { "seed", 1, NULL, SEED },
		{ "help", 0, NULL, 'h' }, { "version", 0, NULL, 'V' }, { 0 }
	};
	int c;

	while ((c = getopt_long(argc, argv, "i:o:vhV", longs, NULL)) != -1)
		switch (c) {
		case 'i': o->ipc = (int)eint("-i", optarg, 1, 1 << 20); break;
		case FROM:
			if (strcmp(optarg, "real") && strcmp(optarg, "noise"))
				usage("--from %s: real or noise expected", optarg);
			o->noise = *optarg == 'n';
			break;
		case UNIT: o->unit = (int)eint("--unit", optarg, 1, 1 << 20); break;
		case ORDER: o->order = parse_order(optarg); break;
		case SEED: o->seed = (uint32_t)eint("--seed", optarg, 0, UINT32_MAX); break;
		case 'o': o->out = optarg; break;
		case 'v': o->verbose = true; break;
		case 'h': fputs(help, stdout); eflush(); exit(0);
		case 'V': puts("synth-init " TEDDY_VERSION); eflush(); exit(0);
		default: exit(2); /* getopt has said why */
		}
	if (optind < argc)
		usage("%s: no file arguments; images come on standard input", argv[optind]);
	if (!o->ipc)
		usage("-i IPC is needed");
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
	struct rng r = rng_at(o->seed, RNG_PICK, (uint32_t)f->label[i], (uint32_t)p->seen, 0);
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
		if (p[c].n < o->ipc)
			die("%s: class '%s': %d images, %d needed", r->name, header_class(r->header, c), p[c].n, o->ipc);
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
	if (!o->noise) {
		memcpy(x, p[class].pick[index].x, n * sizeof *x);
		return;
	}

	struct rng r = rng_at(o->seed, RNG_NOISE, (uint32_t)class, (uint32_t)index, 0);

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
	struct val *h = val_copy(in), *args = val_map();

	val_put(args, "ipc", val_int(o->ipc));
	val_put(args, "from", val_str(o->noise ? "noise" : "real"));
	val_put(args, "unit", val_int(o->unit));
	val_put(args, "order", val_str(order_name[o->order]));
	val_put(args, "seed", val_int(o->seed));
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
	if (ts_open(&r, NULL, "images") < 0)
		die("%s", r.err);
	like.nclass = header_nclass(r.header);
	if (header_shape(r.header, chw) < 0 || header_norm(r.header, &like.norm) < 0 || like.norm.channels != chw[0] ||
		like.nclass < 1)
		die("%s: header: classes, an image shape and its normalisation expected", r.name);
	like.c = chw[0], like.h = chw[1], like.w = chw[2];

	struct layout l = lay_out(&o, like.nclass);
	int64_t units = (int64_t)l.groups * l.rounds;
	struct picks *p = ecalloc(like.nclass, sizeof *p);

	if (o.noise)
		read_to_end(&r);
	else
		pick_images(&o, &r, &like, p);

	struct val *header = header_of(r.header, &o);

	if (ts_create(&w, o.out, header) < 0)
		die("%s", w.err);
	for (int64_t u = 0; u < units; u++) {
		struct val *f = unit_frame(&o, &l, &like, p, u);

		if (ts_put(&w, f) < 0 || ts_flush(&w) < 0)
			die("%s", w.err);
		val_free(f);
	}
	if (ts_finish(&w) < 0)
		die("%s", w.err);
	if (o.verbose)
		warn("%lld units, %lld images", (long long)units, (long long)o.ipc * like.nclass);
	for (int c = 0; c < like.nclass; c++) {
		for (int i = 0; i < p[c].n; i++)
			free(p[c].pick[i].x);
		free(p[c].pick);
	}
	free(p);
	val_free(header);
	ts_close(&r);
	if (o.verbose)
		times_say();
	return 0;
}
