/* replay(1): recipes -> the augmented batches as images, for any other framework */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../formats/recipes.h"
#include "../lib/times.h"

static const char help[] =
	"usage: replay [-n FRAMES] [--header] [-v] [-o FILE] <recipes >images\n"
	"  -n N     the first N frames only\n"
	"  --header write only the header that the output would have\n"
	"  -o FILE  output file\n"
	"  -v       say where the time went\n"
	"  -h, -V   help, version\n";

/* Pixels in one frame, so that it stays below a frame's limit with its labels. */
enum { FRAME_PIXELS = (128 << 20) / sizeof(float) };

/* Everything of a batch, by image. */
struct batch {
	struct recipe recipe;
	float *image;          /* (n,C,H,W) */
	float *soft;           /* (n,K) logits, or NULL */
	int64_t epoch, number;
};

static struct val *floats(const float *x, int ndim, const int64_t *shape)
{
	struct tensor t = tensor_new(DT_F32, ndim, shape);

	memcpy(t.data, x, tensor_bytes(&t));
	return val_tensor(t);
}

/* Images from..from+n of the batch as one frame. */
static struct val *frame_of(const struct imageset *set, const struct batch *b, int from, int n)
{
	size_t chw = (size_t)set->c * set->h * set->w;
	struct tensor label = tensor_new(DT_I64, 1, (int64_t[]){ n }), partner = tensor_new(DT_I64, 1, (int64_t[]){ n });
	struct val *f = val_map();

	for (int i = 0; i < n; i++) {
		int64_t own = b->recipe.index[from + i], other = b->recipe.index[b->recipe.partner[from + i]];

		((int64_t *)label.data)[i] = set->label[own];
		((int64_t *)partner.data)[i] = set->label[other];
	}
	val_put(f, "images.f32", floats(b->image + from * chw, 4, (int64_t[]){ n, set->c, set->h, set->w }));
	val_put(f, "labels", val_tensor(label));
	val_put(f, "partner_labels", val_tensor(partner));
	val_put(f, "lambda", val_f64(b->recipe.mix.lambda));
	if (b->soft)
		val_put(f, "soft.f32", floats(b->soft + (size_t)from * set->nclass, 2, (int64_t[]){ n, set->nclass }));
	val_put(f, "epoch", val_int(b->epoch));
	val_put(f, "batch", val_int(b->number));
	return f;
}

/* limit: frames that are written, INT64_MAX for all of them. */
static struct val *header_of(const struct val *in, long long limit)
{
	struct val *h = val_copy(in), *args = val_map();

	val_put(h, "kind", val_str("images"));
	val_drop(h, "recipes");
	if (limit < INT64_MAX)
		val_put(args, "frames", val_int(limit));
	history_add(h, progname, args);
	return h;
}

int main(int argc, char **argv)
{
	const char *out = NULL;
	long long limit = INT64_MAX, written = 0;
	struct recipe_stream s;
	struct ts_writer w;
	struct batch b;
	struct val *frame;
	bool verbose = false;
	int c, got, only_header = 0;
	const struct option longs[] = {
		{ "header", 0, &only_header, 1 }, { "help", 0, NULL, 'h' }, { "version", 0, NULL, 'V' }, { 0 }
	};

	progname = "replay";
	while ((c = getopt_long(argc, argv, "n:o:vhV", longs, NULL)) != -1)
		switch (c) {
		case 0: break; /* --header */
		case 'n': limit = eint("-n", optarg, 1, INT64_MAX); break;
		case 'o': out = optarg; break;
		case 'v': verbose = true; break;
		case 'h': fputs(help, stdout); eflush(); return 0;
		case 'V': puts("replay " TEDDY_VERSION); eflush(); return 0;
		default: return 2; /* getopt has said why */
		}
	if (optind < argc)
		usage("%s: no file arguments; recipes come on standard input", argv[optind]);

	if (only_header) {
		if (ts_open(&s.r, NULL, "recipes") < 0)
			die("%s", s.r.err);
		ets_header(out, header_of(s.r.header, limit));
		return 0;
	}
	if (recipe_stream_open(&s, NULL, false) < 0)
		die("%s", s.r.err);
	struct val *header = header_of(s.r.header, limit);
	const struct imageset *set = &s.set;
	size_t chw = (size_t)set->c * set->h * set->w, most = MIN(s.batch, set->n);
	int rows = (int)MAX((size_t)1, MIN(FRAME_PIXELS / chw, most));
	struct dataset images = imageset_dataset(set);
	float *scratch = ealigned(most * chw, sizeof *scratch);
	float *soft = ealigned(most * MAX(set->nclass, 1), sizeof *soft);

	b.image = ealigned(most * chw, sizeof *b.image);
	if (ts_create(&w, out, header) < 0)
		die("%s", w.err);
	/* Behind the last frame wanted, the rest is still read: only a whole input makes a whole output. */
	while ((got = recipe_stream_next(&s, &frame, &b.recipe)) > 0) {
		char err[ERRLEN];
		int labelled = soft_from_frame(frame, b.recipe.n, set->nclass, soft, err);

		if (labelled < 0)
			die("%s: frame %lld: %s", s.r.name, (long long)s.r.nframes - 1, err);
		b.soft = labelled ? soft : NULL;
		b.epoch = val_get_int(frame, "epoch", 0);
		b.number = val_get_int(frame, "batch", 0);
		if (written < limit)
			recipe_replay(&b.recipe, &images, b.image, scratch);
		for (int from = 0; from < b.recipe.n && written < limit; from += rows, written++) {
			struct val *f = frame_of(set, &b, from, MIN(rows, b.recipe.n - from));

			if (ts_put(&w, f) < 0 || ts_flush(&w) < 0)
				die("%s", w.err);
			val_free(f);
		}
		val_free(frame);
		recipe_free(&b.recipe);
	}
	if (got < 0)
		die("%s", s.r.err);
	if (ts_finish(&w) < 0)
		die("%s", w.err);
	free(b.image);
	free(scratch);
	free(soft);
	val_free(header);
	recipe_stream_close(&s);
	if (verbose)
		times_say();
	return 0;
}
