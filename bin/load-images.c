/* load-images(1): folders, tars, IDX and CIFAR files -> images */
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <omp.h>
#include <xxhash.h>

#include "../formats/header.h"
#include "../formats/images.h"
#include "../formats/tstream.h"
#include "../lib/args.h"
#include "../lib/rng.h"
#include "../lib/spill.h"
#include "../lib/times.h"

static const char help[] =
	"usage: load-images [options] PATH... >images\n"
	"  -s SIZE            scale the shorter side to SIZE and crop the centre\n"
	"  -n N               N images a class, picked at random\n"
	"  --classes LIST     class names NAME,NAME,... or @FILE, a name a line: a subset in this order,\n"
	"                     or the names of classes that are only numbers\n"
	"  --gray             one channel\n"
	"  --encoded          pass JPEG and PNG files on as they are\n"
	"  --mean LIST, --std LIST\n"
	"                     per channel, of pixels in 0..1, instead of measured ones\n"
	"  --seed N           for -n (0)\n"
	"  --threads N        (all)\n"
	"  --header           write only the header that the output would have\n"
	"  -o FILE            output file\n"
	"  -v                 say what was loaded\n"
	"  -h, -V             help, version\n";

enum { FRAME_IMAGES = 1000, BATCH = 512 };
#define FRAME_BYTES ((size_t)64 << 20)

struct options {
	long long size, per_class;
	const char *classes, *out;
	bool gray, encoded, verbose, header;
	double mean[3], std[3];
	int nmean, nstd;
	uint32_t seed;
};

struct image {
	int64_t item;      /* in the source */
	int label;         /* in the stream */
	int c;
	size_t at;         /* where its (c,H,W) lie among the pixels; not with --encoded, --header */
	uint64_t hash[2];  /* of the pixels as one channel and as three */
	uint64_t sum[3], squares[3];
};

struct set {
	struct image *im;
	int64_t n;
	int c, h, w;
	struct spill pixels;
	size_t bytes; /* of them so far */
	char **classes;
	int nclass;
};

static int parse_list(const char *what, const char *s, double lo, double *out)
{
	int n = ereals(what, s, lo, 1, out, 3);

	if (n == 2)
		usage("%s %s: one number or three expected", what, s);
	return n;
}

static void parse(struct options *o, int argc, char **argv)
{
	enum { CLASSES = 256, GRAY, ENCODED, MEAN, STD, SEED, THREADS, HEADER };
	static const struct option longs[] = {
		{ "classes", 1, NULL, CLASSES }, { "gray", 0, NULL, GRAY }, { "grey", 0, NULL, GRAY },
		{ "encoded", 0, NULL, ENCODED }, { "mean", 1, NULL, MEAN }, { "std", 1, NULL, STD },
		{ "seed", 1, NULL, SEED }, { "threads", 1, NULL, THREADS }, { "header", 0, NULL, HEADER },
		{ "help", 0, NULL, 'h' }, { "version", 0, NULL, 'V' }, { 0 }
	};
	int c;

	while ((c = getopt_long(argc, argv, "s:n:o:vhV", longs, NULL)) != -1)
		switch (c) {
		case 's': o->size = eint("-s", optarg, 1, 65536); break;
		case 'n': o->per_class = eint("-n", optarg, 1, INT32_MAX); break;
		case CLASSES: o->classes = optarg; break;
		case GRAY: o->gray = true; break;
		case ENCODED: o->encoded = true; break;
		case MEAN: o->nmean = parse_list("--mean", optarg, 0, o->mean); break;
		case STD: o->nstd = parse_list("--std", optarg, 1e-6, o->std); break;
		case SEED: o->seed = (uint32_t)eint("--seed", optarg, 0, UINT32_MAX); break;
		case HEADER: o->header = true; break;
		case THREADS: omp_set_num_threads((int)eint("--threads", optarg, 1, 4096)); break;
		case 'o': o->out = optarg; break;
		case 'v': o->verbose = true; break;
		case 'h': fputs(help, stdout); eflush(); exit(0);
		case 'V': puts("load-images " TEDDY_VERSION); eflush(); exit(0);
		default: exit(2); /* getopt has said why */
		}
	if (optind == argc)
		usage("no PATH given");
	if (o->nmean != o->nstd)
		usage("--mean and --std go together, with as many numbers");
}

/* label[i] = the stream's label of the source's class i, -1: left out. Sets the set's classes. */
static int *choose_classes(struct set *set, const struct source *src, const char *arg)
{
	int *label = emalloc(src->nclass * sizeof *label), n;
	char **want;

	if (!arg) {
		set->nclass = src->nclass;
		set->classes = ecalloc(src->nclass, sizeof *set->classes);
		for (int i = 0; i < src->nclass; i++) {
			set->classes[i] = estrdup(src->classes[i]);
			label[i] = i;
		}
		return label;
	}
	want = enames("--classes", arg, &n);
	if (!src->named && n < src->nclass)
		die("--classes: %d names for labels up to %d", n, src->nclass - 1);
	for (int i = 0; i < src->nclass; i++)
		label[i] = src->named ? -1 : i;
	for (int j = 0; src->named && j < n; j++) {
		char *folder = class_folder(want[j]); /* T-shirt/top is T-shirt_top where classes are folders */
		int i;

		for (i = 0; i < src->nclass && strcmp(src->classes[i], want[j]) && strcmp(src->classes[i], folder); i++)
			;
		free(folder);
		if (i == src->nclass)
			die("--classes: no class '%s' in these images", want[j]);
		label[i] = j;
	}
	set->classes = want;
	set->nclass = n;
	return label;
}

/* -n: marks with -1 what is not picked. */
static void pick(int *of, const struct source *src, const struct set *set, const struct options *o)
{
	int64_t *member = emalloc((src->count + 1) * sizeof *member), *order = emalloc((src->count + 1) * sizeof *order);

	for (int c = 0; c < set->nclass; c++) {
		struct rng rng = rng_at(o->seed, RNG_SUBSET, (uint32_t)c, 0, 0);
		int64_t n = 0;

		for (int64_t i = 0; i < src->count; i++)
			if (of[i] == c)
				member[n++] = i;
		if (n < o->per_class)
			die("class '%s' has only %lld images, not %lld", set->classes[c], (long long)n,
				(long long)o->per_class);
		rng_permute(&rng, order, n);
		for (int64_t i = o->per_class; i < n; i++)
			of[member[order[i]]] = -1;
	}
	free(member);
	free(order);
}

/* Which images the stream will have. A class by class walk over the source would be quadratic: one pass and a sort by
 * label do it, and only sources that are kept class by class are brought into the order of --classes. */
static void choose(struct set *set, const struct source *src, const struct options *o)
{
	int *label = choose_classes(set, src, o->classes);
	int *of = emalloc(src->count * sizeof *of);
	int64_t *next = ecalloc(set->nclass + 1, sizeof *next);
	bool grouped = true;

	for (int64_t i = 0; i < src->count; i++) {
		of[i] = label[src->label[i]];
		grouped = grouped && (!i || src->label[i - 1] <= src->label[i]);
	}
	if (o->per_class)
		pick(of, src, set, o);
	for (int64_t i = 0; i < src->count; i++)
		if (of[i] >= 0) {
			set->n++;
			next[of[i] + 1]++;
		}
	if (!set->n)
		die("no images of these classes");
	for (int c = 0; c < set->nclass; c++)
		next[c + 1] += next[c];
	set->im = ecalloc(set->n, sizeof *set->im);
	for (int64_t i = 0, j = 0; i < src->count; i++)
		if (of[i] >= 0)
			set->im[grouped ? next[of[i]]++ : j++] = (struct image){ .item = i, .label = of[i] };
	free(label);
	free(of);
	free(next);
}

/* Pixels of one image, as the stream will have them but for grey ones in a colour set; 0 or -1 and err. */
static int decode(struct source_item *it, const struct options *o, char *err)
{
	if (it->encoded && picture_decode(it->data.p, it->data.len, &it->pic, err))
		return -1;
	if (o->size)
		picture_fit(&it->pic, o->gray ? 1 : it->pic.c, o->size, o->size);
	else if (o->gray)
		picture_fit(&it->pic, 1, it->pic.h, it->pic.w);
	return 0;
}

/* In short runs, whose sums fit 32 bits. */
static void add_up(uint64_t *sum, uint64_t *squares, const uint8_t *px, size_t n)
{
	for (size_t from = 0; from < n; from += 4096) {
		const uint8_t *p = px + from;
		uint32_t s = 0, q = 0;
		int m = MIN(n - from, 4096);

#pragma omp simd reduction(+ : s, q)
		for (int i = 0; i < m; i++) {
			s += p[i];
			q += p[i] * p[i];
		}
		*sum += s;
		*squares += q;
	}
}

static void measure(struct image *im, const struct picture *pic)
{
	size_t plane = (size_t)pic->h * pic->w;

	for (int k = 0; k < pic->c; k++)
		add_up(&im->sum[k], &im->squares[k], pic->px + k * plane, plane);
	im->c = pic->c;
	im->hash[1] = im->hash[0] = XXH3_64bits(pic->px, pic->c * plane);
	if (pic->c == 1) { /* should another image turn out to have colours */
		uint8_t *rgb = emalloc(3 * plane);

		for (int k = 0; k < 3; k++) {
			memcpy(rgb + k * plane, pic->px, plane);
			im->sum[k] = im->sum[0];
			im->squares[k] = im->squares[0];
		}
		im->hash[1] = XXH3_64bits(rgb, 3 * plane);
		free(rgb);
	}
}

static void check_size(struct set *set, const struct source_item *it, const char *first)
{
	if (!set->h) {
		set->h = it->pic.h;
		set->w = it->pic.w;
	} else if (it->pic.h != set->h || it->pic.w != set->w) {
		die("%s: %s: %dx%d pixels, but %s has %dx%d (-s SIZE makes them one size)", it->path, it->name, it->pic.w,
		    it->pic.h, first, set->w, set->h);
	}
}

/* Images that pass through the first pass together. */
struct batch {
	struct source_item it[BATCH];
	char err[BATCH][ERRLEN];
	int n;
	bool bad; /* one could not be read: src->err */
};

static void read_batch(struct batch *b, const struct set *set, struct source *src, int64_t at)
{
	double start = now();

	b->n = MAX(MIN(BATCH, set->n - at), 0);
	for (int i = 0; i < b->n && !b->bad; i++)
		b->bad = source_get(src, set->im[at + i].item, &b->it[i]) < 0;
	times_add(TIME_READING, now() - start);
}

static void keep(struct set *set, struct image *im, const struct picture *pic)
{
	size_t bytes = (size_t)pic->c * pic->h * pic->w;
	char err[ERRLEN];

	if (spill_grow(&set->pixels, set->bytes + bytes, err) < 0)
		die("%s", err);
	im->at = set->bytes;
	memcpy((uint8_t *)set->pixels.p + im->at, pic->px, bytes);
	set->bytes += bytes;
}

/* What the decoded batch tells about the set, in order. */
static void take_batch(struct batch *b, struct set *set, const struct options *o, int64_t at, const char **first)
{
	for (int i = 0; i < b->n; i++) {
		struct source_item *it = &b->it[i];

		if (b->err[i][0])
			die("%s: %s: %s", it->path, it->name, b->err[i]);
		if (!*first)
			*first = it->name;
		check_size(set, it, *first);
		set->c = MAX(set->c, it->pic.c);
		buf_free(&it->data);
		if (!o->encoded && !o->header)
			keep(set, &set->im[at + i], &it->pic);
		free(it->pic.px);
	}
}

/* First pass: every image is read and decoded, so that the header can say what comes and no bad file is met later. One
 * thread reads the next batch before it helps with this one. */
static void load(struct set *set, struct source *src, const struct options *o)
{
	struct batch *b = ecalloc(2, sizeof *b), *next = b + 1, *this = b, *t;
	const char *first = NULL;

	read_batch(this, set, src, 0);
	for (int64_t at = 0; at < set->n; at += BATCH) {
		double start = now();

		if (this->bad)
			die("%s", src->err);
		#pragma omp parallel
		{
			#pragma omp single nowait
			read_batch(next, set, src, at + BATCH);
			#pragma omp for schedule(dynamic, 4)
			for (int i = 0; i < this->n; i++) {
				this->err[i][0] = '\0';
				if (!decode(&this->it[i], o, this->err[i]))
					measure(&set->im[at + i], &this->it[i].pic);
			}
		}
		times_add(TIME_DECODING, now() - start);
		take_batch(this, set, o, at, &first);
		progress("images", at + this->n, set->n, NULL);
		t = this, this = next, next = t;
	}
	progress_done();
	free(b);
}

static void given(struct norm *n, const char *what, const double *mean, const double *std, int channels)
{
	if (channels != n->channels && channels != 1)
		die("%s: %d numbers for images of %d channels", what, channels, n->channels);
	for (int k = 0; k < n->channels; k++) {
		n->mean[k] = mean[channels == 1 ? 0 : k];
		n->std[k] = std[channels == 1 ? 0 : k];
	}
}

/* The sums are whole numbers, so they do not depend on the order in which they were made. */
static void measured(struct norm *n, const struct set *set)
{
	double pixels = (double)set->n * set->h * set->w;

	for (int k = 0; k < n->channels; k++) {
		uint64_t sum = 0, squares = 0;
		double mean, var;

		for (int64_t i = 0; i < set->n; i++) {
			sum += set->im[i].sum[k];
			squares += set->im[i].squares[k];
		}
		mean = sum / pixels / 255;
		var = squares / pixels / 255 / 255 - mean * mean;
		n->mean[k] = mean;
		n->std[k] = var > 1e-12 ? sqrt(var) : 1; /* all pixels alike */
	}
}

static struct val *digest_of(struct buf *b)
{
	char *hex = eprintf_str("%016llx", (unsigned long long)XXH3_64bits(b->p, b->len));
	struct val *v = val_str(hex);

	free(hex);
	buf_free(b);
	return v;
}

static struct val *data_digest(const struct set *set)
{
	struct buf b = { 0 };

	for (int64_t i = 0; i < set->n; i++) {
		uint64_t pair[2] = { set->im[i].label, set->im[i].hash[set->c == 3] };

		buf_put(&b, pair, sizeof pair);
	}
	return digest_of(&b);
}

static struct val *names_digest(const struct set *set)
{
	struct buf b = { 0 };

	for (int i = 0; i < set->nclass; i++)
		buf_put(&b, set->classes[i], strlen(set->classes[i]) + 1);
	return digest_of(&b);
}

/* Labels are told apart by them: in other filters, and in JSON, which has UTF-8 alone. */
static void check_names(const struct set *set)
{
	for (int i = 0; i < set->nclass; i++) {
		json_t *text = json_string(set->classes[i]);

		if (!text)
			die("class '%s': a name that is not UTF-8", set->classes[i]);
		json_decref(text);
		for (int j = 0; j < i; j++)
			if (!strcmp(set->classes[i], set->classes[j]))
				die("class '%s' stands twice", set->classes[i]);
	}
}

static struct val *make_header(const struct set *set, const struct source *src, const struct options *o)
{
	struct val *h = header_new("images"), *args = val_map();
	struct norm norm = { .channels = set->c };

	if (o->nmean)
		given(&norm, "--mean, --std", o->mean, o->std, o->nmean);
	else if (src->channels == set->c)
		given(&norm, "dataset.json", src->mean, src->std, src->channels);
	else
		measured(&norm, set);
	header_set_classes(h, (const char *const *)set->classes, set->nclass);
	header_set_norm(h, &norm);
	header_set_shape(h, (int[3]){ set->c, set->h, set->w });
	if (o->size)
		val_put(args, "size", val_int(o->size));
	if (o->per_class) {
		val_put(args, "per_class", val_int(o->per_class));
		val_put(args, "seed", val_int(o->seed));
	}
	if (o->gray)
		val_put(args, "gray", val_bool(true));
	if (o->encoded)
		val_put(args, "encoded", val_bool(true));
	val_put(args, "images", val_int(set->n));
	val_put(args, "data", data_digest(set));
	val_put(args, "classes", names_digest(set));
	if (o->nmean || src->channels == set->c) { /* else it follows from the pixels */
		val_put(args, "mean", val_copy(val_get(h, "mean")));
		val_put(args, "std", val_copy(val_get(h, "std")));
	}
	history_add(h, progname, args);
	return h;
}

static void put_frame(struct ts_writer *w, const char *key, struct val *images, const struct set *set, int64_t at,
		      int64_t n)
{
	struct tensor label = tensor_new(DT_I64, 1, &n);
	struct val *frame = val_map();

	for (int64_t i = 0; i < n; i++)
		((int64_t *)label.data)[i] = set->im[at + i].label;
	val_put(frame, key, images);
	val_put(frame, "labels", val_tensor(label));
	if (ts_put(w, frame) < 0)
		die("%s", w->err);
	val_free(frame);
}

static void write_pixels(struct ts_writer *w, const struct set *set)
{
	size_t plane = (size_t)set->h * set->w, each = set->c * plane;
	int64_t most = MAX(1, MIN(FRAME_IMAGES, FRAME_BYTES / each));

	for (int64_t at = 0; at < set->n; at += most) {
		int64_t n = MIN(most, set->n - at);
		struct tensor t = tensor_new(DT_U8, 4, (int64_t[4]){ n, set->c, set->h, set->w });

		for (int64_t i = 0; i < n; i++) {
			const struct image *im = &set->im[at + i];
			const uint8_t *px = (uint8_t *)set->pixels.p + im->at;
			uint8_t *to = (uint8_t *)t.data + i * each;

			for (int k = 0; k < set->c; k++)
				memcpy(to + k * plane, px + (im->c == 1 ? 0 : k * plane), plane);
		}
		put_frame(w, "images.u8", val_tensor(t), set, at, n);
	}
}

/* Second pass of --encoded: the files again. Raw pixels become PNG. */
static void write_encoded(struct ts_writer *w, const struct set *set, struct source *src)
{
	struct val *list = val_list();
	size_t bytes = 0;
	int64_t at = 0, n = 0;

	for (int64_t i = 0; i < set->n; i++) {
		struct source_item it;
		char err[ERRLEN];

		if (source_get(src, set->im[i].item, &it))
			die("%s", src->err);
		if (!it.encoded && picture_encode_png(&it.pic, &it.data, err))
			die("%s: %s: %s", it.path, it.name, err);
		free(it.pic.px);
		if (n && (n == FRAME_IMAGES || bytes + it.data.len > FRAME_BYTES)) {
			put_frame(w, "images.encoded", list, set, at, n);
			list = val_list();
			at = i;
			bytes = n = 0;
		}
		val_push(list, val_bin(it.data.p, it.data.len));
		bytes += it.data.len;
		n++;
		buf_free(&it.data);
	}
	put_frame(w, "images.encoded", list, set, at, n);
}

static void report(const struct set *set, const struct val *h)
{
	struct norm n;

	header_norm(h, &n);
	fprintf(stderr, "%s: %lld images of %d classes, %dx%dx%d, mean", progname, (long long)set->n, set->nclass, set->c,
		set->h, set->w);
	for (int k = 0; k < n.channels; k++)
		fprintf(stderr, " %.4f", n.mean[k]);
	fprintf(stderr, ", std");
	for (int k = 0; k < n.channels; k++)
		fprintf(stderr, " %.4f", n.std[k]);
	fprintf(stderr, "\n");
}

int main(int argc, char **argv)
{
	struct options o = { 0 };
	struct set set = { 0 };
	struct source src;
	struct ts_writer w;
	struct val *header;

	progname = "load-images";
	parse(&o, argc, argv);
	eout_probe(o.out);
	double start = now();
	if (source_open(&src, argv + optind, argc - optind) < 0)
		die("%s", src.err);
	times_add(TIME_READING, now() - start);
	choose(&set, &src, &o);
	check_names(&set);
	load(&set, &src, &o);
	header = make_header(&set, &src, &o);
	if (o.verbose)
		report(&set, header);
	if (o.header) {
		ets_header(o.out, header);
		return 0;
	}
	if (ts_create(&w, o.out, header) < 0)
		die("%s", w.err);
	if (o.encoded)
		write_encoded(&w, &set, &src);
	else
		write_pixels(&w, &set);
	if (ts_finish(&w) < 0)
		die("%s", w.err);
	source_close(&src);
	for (int i = 0; i < set.nclass; i++)
		free(set.classes[i]);
	free(set.classes);
	free(set.im);
	spill_free(&set.pixels);
	val_free(header);
	if (o.verbose)
		times_say();
	return 0;
}
