/* tscut(1): a tensor stream -> the part of it that was asked for */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../formats/header.h"
#include "../formats/tstream.h"
#include "../lib/args.h"
#include "../lib/rng.h"
#include "../lib/times.h"

static const char help[] =
	"usage: tscut [-u UNITS] [-c CLASSES] [-i INDICES] [--frames LIST] [--keep SHARE [--seed N]] [-v] [-o FILE] [FILE]\n"
	"  -u UNITS       frames of these units, as 0-9,12,20-, or 0-:10 for every tenth\n"
	"  -c CLASSES     images of these classes, by name or number, separated by commas\n"
	"  -i INDICES     images by their place in the stream, counted from 0\n"
	"  --frames LIST  frames by their place, counted from 0\n"
	"  --keep SHARE   of every class a random share, LOW:HIGH drawn between these, or one for all; FILE is needed\n"
	"  --seed N       of --keep (0)\n"
	"  --header       write only the header that the output would have\n"
	"  -o FILE        output file\n"
	"  -v             say what was selected\n"
	"  -h, -V         help, version\n";

struct range {
	int64_t lo, hi, step; /* every step-th from lo on; hi: INT64_MAX where the range is open */
};

struct ranges {
	const char *text; /* NULL: everything is in */
	struct range *r;
	int n;
};

struct keep { /* a random share of every class */
	bool on;
	double lo, hi;
	uint32_t seed;
	bool *stays; /* by place in the stream */
};

struct job {
	struct ranges units, indices, frames;
	struct keep keep;
	const char *classes;
	bool *class;        /* by label, NULL: all */
	int64_t seen;       /* images before this frame */
	int64_t nimages, nframes; /* put */
	bool verbose, only_header, *found; /* units asked for one by one, by range */
	struct ts_reader r;
	struct ts_writer w;
};

static void parse_ranges(struct ranges *x, const char *what, const char *s)
{
	char *copy = estrdup(s), *part, *rest = copy, *dash, *colon;

	x->text = s;
	while ((part = strsep(&rest, ","))) {
		struct range r = { .step = 1 };

		dash = strchr(part, '-');
		if (dash)
			*dash++ = '\0';
		if (dash && (colon = strchr(dash, ':'))) {
			*colon++ = '\0';
			r.step = eint(what, colon, 1, INT64_MAX);
		}
		r.lo = r.hi = eint(what, part, 0, INT64_MAX - 1);
		if (dash)
			r.hi = *dash ? eint(what, dash, r.lo, INT64_MAX - 1) : INT64_MAX;
		x->r = erealloc(x->r, x->n + 1, sizeof *x->r);
		x->r[x->n++] = r;
	}
	free(copy);
}

static bool in_ranges(const struct ranges *x, int64_t v)
{
	int i;

	if (!x->text)
		return true;
	for (i = 0; i < x->n; i++)
		if (v >= x->r[i].lo && v <= x->r[i].hi && (v - x->r[i].lo) % x->r[i].step == 0)
			return true;
	return false;
}

/* LOW:HIGH, or one number for both. */
static void parse_keep(struct keep *k, const char *s)
{
	k->on = true;
	ereal_range("--keep", s, 0, 1, &k->lo, &k->hi);
	if (k->hi < k->lo)
		usage("--keep %s: LOW:HIGH expected, LOW first", s);
}

static void parse_classes(struct job *j)
{
	const struct val *h = j->r.header;
	char *copy, *part, *rest;
	int n = header_nclass(h), i;

	if (!j->classes)
		return;
	if (!n)
		die("%s: it has no classes", j->r.name);
	j->class = ecalloc(n, sizeof *j->class);
	copy = rest = estrdup(j->classes);
	while ((part = strsep(&rest, ","))) {
		for (i = 0; i < n && strcmp(part, header_class(h, i)); i++)
			;
		if (i == n && (!*part || part[strspn(part, "0123456789")]))
			die("%s: no class is called '%s'", j->r.name, part);
		if (i == n)
			i = eint("-c", part, 0, n - 1);
		j->class[i] = true;
	}
	free(copy);
}

/* Which images and frames is a matter of content, so it stands in the history; which units is not: the parts of a job
 * that was split must be the bytes of the whole. */
static void add_history(struct job *j, struct val *h)
{
	struct val *args, *names;
	int i;

	if (!j->classes && !j->indices.text && !j->frames.text && !j->keep.on)
		return;
	args = val_map();
	if (j->classes) {
		names = val_list();
		for (i = 0; i < header_nclass(h); i++)
			if (j->class[i])
				val_push(names, val_str(header_class(h, i)));
		val_put(args, "c", names);
	}
	if (j->indices.text)
		val_put(args, "i", val_str(j->indices.text));
	if (j->frames.text)
		val_put(args, "frames", val_str(j->frames.text));
	if (j->keep.on) {
		val_put(args, "keep", val_f64s((double[]){ j->keep.lo, j->keep.hi }, 2));
		val_put(args, "seed", val_int(j->keep.seed));
	}
	history_add(h, "tscut", args);
}

/* Keeps the images in keep[0..m) of every tensor and list that has an item per image. */
static void slice(struct val *frame, int64_t n, const int64_t *keep, int64_t m)
{
	size_t i, size;
	int64_t k;

	for (i = 0; i < frame->map.len; i++) {
		struct val *v = frame->map.item[i];

		if (v->type == V_TENSOR && v->t.ndim && v->t.shape[0] == n) {
			size = tensor_bytes(&v->t) / n;
			for (k = 0; k < m; k++)
				memmove((char *)v->t.data + k * size, (char *)v->t.data + keep[k] * size, size);
			v->t.shape[0] = m;
		} else if (v->type == V_LIST && v->list.len == (size_t)n) {
			for (k = 0; k < m; k++) {
				struct val *item = v->list.item[k];

				v->list.item[k] = v->list.item[keep[k]];
				v->list.item[keep[k]] = item;
			}
			while (v->list.len > (size_t)m)
				val_free(v->list.item[--v->list.len]);
		}
	}
}

/* The frame's labels, checked: *n of them, one an image. */
static const int64_t *labels_of(const struct job *j, const struct val *frame, int64_t at, int64_t *count)
{
	const struct tensor *labels = val_get_tensor(frame, "labels");
	int nclass = header_nclass(j->r.header);
	const struct val *first = frame->map.len ? frame->map.item[0] : NULL;
	int64_t n, i, label;

	if (!labels || labels->type != DT_I64 || labels->ndim != 1)
		die("%s: frame %lld has no labels", j->r.name, (long long)at);
	n = labels->shape[0];
	if ((first->type == V_TENSOR && (!first->t.ndim || first->t.shape[0] != n)) ||
	    (first->type == V_LIST && first->list.len != (size_t)n))
		die("%s: frame %lld: %lld labels, but %s has another number", j->r.name, (long long)at, (long long)n,
			frame->map.key[0]);
	for (i = 0; i < n; i++) {
		label = ((int64_t *)labels->data)[i];
		if (label < 0 || label >= nclass)
			die("%s: frame %lld: label %lld, with %d classes", j->r.name, (long long)at,
				(long long)label, nclass);
	}
	*count = n;
	return labels->data;
}

static bool image_wanted(const struct job *j, int64_t place, int64_t label)
{
	return (!j->class || j->class[label]) && in_ranges(&j->indices, place) && (!j->keep.on || j->keep.stays[place]);
}

/* Images of the frame that are wanted stay; their number. */
static int64_t cut_frame(struct job *j, struct val *frame, int64_t at)
{
	int64_t n, i, m = 0, *keep;
	const int64_t *label = labels_of(j, frame, at, &n);

	keep = emalloc(n * sizeof *keep);
	for (i = 0; i < n; i++)
		if (image_wanted(j, j->seen + i, label[i]))
			keep[m++] = i;
	j->seen += n;
	if (m && m < n)
		slice(frame, n, keep, m);
	free(keep);
	return m;
}

static bool unit_wanted(struct job *j, const struct val *frame, int64_t at)
{
	int64_t unit = val_get_int(frame, "unit", -1);

	if (j->units.text && unit < 0)
		die("%s: frame %lld has no unit", j->r.name, (long long)at);
	return in_ranges(&j->units, unit);
}

static void note_unit(struct job *j, int64_t unit)
{
	int i;

	for (i = 0; i < j->units.n; i++)
		if (j->units.r[i].lo == unit && j->units.r[i].hi == unit)
			j->found[i] = true;
}

/* Whether images are counted, so that no frame may be passed over. */
static bool by_image(const struct job *j)
{
	return j->indices.text || j->keep.on;
}

/* p[0..n) is frame number at. */
static void one_frame(struct job *j, int64_t at, const uint8_t *p, size_t n)
{
	bool whole = !j->classes && !by_image(j), wanted;
	char err[ERRLEN];
	struct val *frame;
	int64_t m = 0;
	int rc;

	if (!in_ranges(&j->frames, at) && !by_image(j))
		return;
	if (!(frame = ts_parse(p, n, err)))
		die("%s: frame %lld: %s", j->r.name, (long long)at, err);
	wanted = unit_wanted(j, frame, at) && in_ranges(&j->frames, at);
	if (!whole)
		m = cut_frame(j, frame, at);
	if (wanted && (whole || m)) {
		rc = whole ? ts_put_raw(&j->w, p, n) : ts_put(&j->w, frame);
		if (rc < 0)
			die("%s", j->w.err);
		note_unit(j, val_get_int(frame, "unit", -1));
		j->nimages += m;
		j->nframes++;
	}
	val_free(frame);
}

/* Where only units are asked for, a frame usually stands at its unit's place: trying there spares reading the rest. */
static bool by_place(struct job *j)
{
	int64_t place, n = ts_count(&j->r);
	const uint8_t *p;
	char err[ERRLEN];
	struct val *frame;
	bool there;
	size_t len;

	if (!j->units.text || j->classes || by_image(j) || j->frames.text || j->units.n != 1 ||
	    j->units.r[0].lo != j->units.r[0].hi || (place = j->units.r[0].lo) >= n)
		return false;
	if (ts_read_raw(&j->r, place, &p, &len) < 0)
		die("%s", j->r.err);
	if (!(frame = ts_parse(p, len, err)))
		die("%s: frame %lld: %s", j->r.name, (long long)place, err);
	there = val_get_int(frame, "unit", -1) == place;
	val_free(frame);
	if (there)
		one_frame(j, place, p, len);
	return there;
}

/* The labels of the whole stream, in order; their number. Pixels of one frame at a time are in memory. */
static int64_t all_labels(struct job *j, int **out)
{
	int64_t total = 0, n, at, i;
	const int64_t *label;
	struct val *frame;

	*out = NULL;
	for (at = 0; at < ts_count(&j->r); at++) {
		if (ts_read_at(&j->r, at, &frame) < 0)
			die("%s", j->r.err);
		label = labels_of(j, frame, at, &n);
		*out = erealloc(*out, total + n + 1, sizeof **out);
		for (i = 0; i < n; i++)
			(*out)[total++] = (int)label[i];
		val_free(frame);
	}
	return total;
}

/* Places in the stream by class, each class's in order: those of class c are place[first[c]..first[c + 1]). */
static int64_t *by_class(const int *label, int64_t total, int nclass, int64_t *first /* (nclass + 1), zero */)
{
	int64_t *place = emalloc((total + 1) * sizeof *place), *next = emalloc((nclass + 1) * sizeof *next), i;
	int c;

	for (i = 0; i < total; i++)
		first[label[i] + 1]++;
	for (c = 0; c < nclass; c++)
		first[c + 1] += first[c];
	memcpy(next, first, (nclass + 1) * sizeof *next);
	for (i = 0; i < total; i++)
		place[next[label[i]]++] = i;
	free(next);
	return place;
}

/* How much of a class stays, and which images that are, is drawn by class: other classes do not matter. */
static void draw_kept(struct job *j)
{
	struct keep *k = &j->keep;
	int nclass = header_nclass(j->r.header), c, *label;
	int64_t total = all_labels(j, &label), n, m, i, *first = ecalloc(nclass + 1, sizeof *first);
	int64_t *place = by_class(label, total, nclass, first), *order = emalloc((total + 1) * sizeof *order);

	k->stays = ecalloc(total + 1, sizeof *k->stays);
	for (c = 0; c < nclass; c++) {
		struct rng rng = rng_at(k->seed, RNG_KEEP, (uint32_t)c, 0, 0);
		double share = rng_range(&rng, k->lo, k->hi);

		n = first[c + 1] - first[c];
		m = MIN(n, MAX(1, (int64_t)(share * n + 0.5)));
		rng_permute(&rng, order, n);
		for (i = 0; i < m; i++)
			k->stays[place[first[c] + order[i]]] = true;
		if (j->verbose)
			warn("class '%s': %lld of %lld images stay", header_class(j->r.header, c), (long long)m, (long long)n);
	}
	free(label);
	free(first);
	free(place);
	free(order);
}

static void by_seeking(struct job *j)
{
	const uint8_t *p;
	int64_t i;
	size_t n;

	if (by_place(j))
		return;
	for (i = 0; i < ts_count(&j->r); i++) {
		if (!in_ranges(&j->frames, i) && !by_image(j))
			continue;
		if (ts_read_raw(&j->r, i, &p, &n) < 0)
			die("%s", j->r.err);
		one_frame(j, i, p, n);
	}
}

static void by_reading(struct job *j)
{
	const uint8_t *p;
	size_t n;
	int rc;

	while ((rc = ts_next_raw(&j->r, &p, &n)) > 0)
		one_frame(j, j->r.nframes - 1, p, n);
	if (rc < 0)
		die("%s", j->r.err);
}

static void check_found(const struct job *j)
{
	int i;

	for (i = 0; i < j->units.n; i++)
		if (j->units.r[i].lo == j->units.r[i].hi && !j->found[i])
			die("%s: no unit %lld, or nothing of it was selected", j->r.name, (long long)j->units.r[i].lo);
	if (!j->nframes)
		die("%s: nothing was selected", j->r.name);
}

static void parse(struct job *j, const char **out, const char **file, int argc, char **argv)
{
	enum { FRAMES = 256, KEEP, SEED, HEADER };
	static const struct option longs[] = {
		{ "frames", 1, NULL, FRAMES }, { "keep", 1, NULL, KEEP }, { "seed", 1, NULL, SEED },
		{ "header", 0, NULL, HEADER },
		{ "help", 0, NULL, 'h' }, { "version", 0, NULL, 'V' }, { 0 }
	};
	bool seeded = false;
	int c;

	while ((c = getopt_long(argc, argv, "u:c:i:o:vhV", longs, NULL)) != -1)
		switch (c) {
		case 'u': parse_ranges(&j->units, "-u", optarg); break;
		case 'c': j->classes = optarg; break;
		case 'i': parse_ranges(&j->indices, "-i", optarg); break;
		case KEEP: parse_keep(&j->keep, optarg); break;
		case SEED:
			j->keep.seed = (uint32_t)eint("--seed", optarg, 0, UINT32_MAX);
			seeded = true;
			break;
		case HEADER: j->only_header = true; break;
		case FRAMES: parse_ranges(&j->frames, "--frames", optarg); break;
		case 'o': *out = optarg; break;
		case 'v': j->verbose = true; break;
		case 'h': fputs(help, stdout); eflush(); exit(0);
		case 'V': puts("tscut " TEDDY_VERSION); eflush(); exit(0);
		default: exit(2); /* getopt has said why */
		}
	if (argc - optind > 1)
		usage("%s: one file at most", argv[optind + 1]);
	if (!j->units.text && !j->classes && !j->indices.text && !j->frames.text && !j->keep.on)
		usage("nothing is asked for: -u, -c, -i, --frames or --keep is needed");
	if (seeded && !j->keep.on)
		usage("--seed goes with --keep");
	*file = argv[optind];
}

int main(int argc, char **argv)
{
	struct job j = { .nframes = 0 };
	const char *out = NULL, *file = NULL, *want;
	struct val *header;
	bool seek;

	progname = "tscut";
	parse(&j, &out, &file, argc, argv);
	want = j.classes || by_image(&j) ? "images" : NULL;
	seek = ts_seekable(file);
	if ((seek ? ts_open_seek(&j.r, file, want) : ts_open(&j.r, file, want)) < 0)
		die("%s", j.r.err);
	parse_classes(&j);
	j.found = ecalloc(j.units.n, sizeof *j.found);
	header = val_copy(j.r.header);
	add_history(&j, header);
	if (j.only_header) {
		ets_header(out, header);
		return 0;
	}
	if (j.keep.on && !seek)
		die("%s: --keep reads it twice, so that it must be a regular file, named by FILE", j.r.name);
	if (j.keep.on)
		draw_kept(&j);
	if (ts_create(&j.w, out, header) < 0)
		die("%s", j.w.err);
	if (seek)
		by_seeking(&j);
	else
		by_reading(&j);
	check_found(&j);
	if (ts_finish(&j.w) < 0)
		die("%s", j.w.err);
	if (j.verbose && want)
		warn("%lld images in %lld frames", (long long)j.nimages, (long long)j.nframes);
	else if (j.verbose)
		warn("%lld frames", (long long)j.nframes);
	if (j.verbose)
		times_say();
	return 0;
}
