/* cutmix(1): images -> the same images and the recipes of augmented epochs */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../formats/recipes.h"
#include "../lib/protocol.h"
#include "../lib/times.h"

static const char help[] =
	"usage: cutmix -e EPOCHS [-b BATCH] [options] <images >recipes\n"
	"       cutmix --protocol NAME [options] <images >recipes\n"
	"  --protocol NAME    a preset of what follows (protocol(7)), which evaluate takes too\n"
	"  -e N, --steps N    epochs; steps, rounded up to whole epochs; of both the longer one\n"
	"  -b N               images a batch (256, or all images where there are fewer)\n"
	"  --crop HOW         rrc:MIN[:MAX] area kept by a resized crop (rrc:0.08), pad:P, or none\n"
	"  --flip P           probability of a horizontal flip (0.5)\n"
	"  --swap P           probability that the left and right half of an image change places before the crop, and\n"
	"                     that its upper and lower half do (0)\n"
	"  --mix HOW          cutmix, mixup or none (cutmix)\n"
	"  --alpha A          lambda is drawn from Beta(A, A) (1)\n"
	"  --drop-last        leave out an epoch's last batch when it is not full\n"
	"  --seed N           (0)\n"
	"  --header           write only the header that the output would have, but for the numbers of batches and epochs\n"
	"  -o FILE            output file\n"
	"  -v                 say where the time went\n"
	"  -h, -V             help, version\n";

enum crop { CROP_UNSAID, CROP_NONE, CROP_RRC, CROP_PAD };

struct plan {
	const struct protocol *protocol; /* what the command line leaves unsaid */
	bool named;                      /* it was asked for */
	long epochs, steps;              /* at least */
	int64_t most;                    /* images a batch, as was asked; 0: as the protocol has it */
	long length;                     /* epochs, of so many batches of so many images: what comes of it */
	int64_t batches, batch;
	enum crop crop;
	double min, max;         /* CROP_RRC */
	int pad;                 /* CROP_PAD */
	double flip, swap, alpha;
	int mix;                 /* enum mix_kind; -1: unsaid */
	int drop_last;
	uint32_t seed;
	int h, w;
	bool verbose, only_header;
};

/* The images part of the stream, to be written as it came. */
struct images {
	struct buf *frame;
	size_t nframe;
	int64_t n;
};

static void parse_crop(struct plan *p, const char *s)
{
	if (!strcmp(s, "none")) {
		p->crop = CROP_NONE;
	} else if (!strncmp(s, "pad:", 4)) {
		p->crop = CROP_PAD;
		p->pad = (int)eint("--crop pad", s + 4, 1, 65535);
	} else if (!strncmp(s, "rrc:", 4)) {
		char *min = estrdup(s + 4), *max = strchr(min, ':');

		if (max)
			*max++ = 0;
		p->crop = CROP_RRC;
		p->min = ereal("--crop rrc", min, 1e-6, 1);
		p->max = max ? ereal("--crop rrc", max, p->min, 1) : 1;
		free(min);
	} else {
		usage("--crop %s: rrc:MIN[:MAX], pad:P or none expected", s);
	}
}

static enum mix_kind parse_mix(const char *s)
{
	for (int k = 0; mix_name[k]; k++)
		if (!strcmp(mix_name[k], s))
			return k;
	usage("--mix %s: cutmix, mixup or none expected", s);
}

/* What was not said is the protocol's; -e or --steps replaces both of its. */
static void settle(struct plan *p)
{
	const struct protocol *pr = p->protocol;

	if (pr->feed == FEED_IMAGES)
		usage("protocol %s is for images: evaluate takes them as they are", pr->name);
	if (!p->epochs && !p->steps)
		p->epochs = pr->epochs, p->steps = pr->steps;
	if (!p->epochs && !p->steps)
		usage("-e or --steps is needed, or a protocol that says how long");
	if (p->crop == CROP_UNSAID)
		parse_crop(p, pr->crop);
	if (p->flip < 0)
		p->flip = pr->flip;
	if (p->swap < 0)
		p->swap = pr->swap;
	if (p->mix < 0)
		p->mix = parse_mix(pr->mix);
	if (!p->alpha)
		p->alpha = pr->alpha ? pr->alpha : 1;
}

static void parse(struct plan *p, const char **out, int argc, char **argv)
{
	enum { STEPS = 256, CROP, FLIP, SWAP, MIX, ALPHA, DROP_LAST, SEED, PROTOCOL, HEADER };
	static const struct option longs[] = {
		{ "steps", 1, NULL, STEPS }, { "crop", 1, NULL, CROP }, { "flip", 1, NULL, FLIP },
		{ "swap", 1, NULL, SWAP }, { "mix", 1, NULL, MIX }, { "alpha", 1, NULL, ALPHA },
		{ "drop-last", 0, NULL, DROP_LAST }, { "seed", 1, NULL, SEED }, { "protocol", 1, NULL, PROTOCOL },
		{ "header", 0, NULL, HEADER }, { "help", 0, NULL, 'h' }, { "version", 0, NULL, 'V' }, { 0 }
	};
	int c;

	while ((c = getopt_long(argc, argv, "e:b:o:vhV", longs, NULL)) != -1)
		switch (c) {
		case 'e': p->epochs = eint("-e", optarg, 1, INT32_MAX); break;
		case STEPS: p->steps = eint("--steps", optarg, 1, INT32_MAX); break;
		case 'b': p->most = eint("-b", optarg, 1, INT32_MAX); break;
		case CROP: parse_crop(p, optarg); break;
		case FLIP: p->flip = ereal("--flip", optarg, 0, 1); break;
		case SWAP: p->swap = ereal("--swap", optarg, 0, 1); break;
		case MIX: p->mix = parse_mix(optarg); break;
		case ALPHA: p->alpha = ereal("--alpha", optarg, 1e-3, 1e6); break;
		case DROP_LAST: p->drop_last = 1; break;
		case SEED: p->seed = (uint32_t)eint("--seed", optarg, 0, UINT32_MAX); break;
		case HEADER: p->only_header = true; break;
		case PROTOCOL: p->protocol = eprotocol(optarg), p->named = true; break;
		case 'o': *out = optarg; break;
		case 'v': p->verbose = true; break;
		case 'h': fputs(help, stdout); eflush(); exit(0);
		case 'V': puts("cutmix " TEDDY_VERSION); eflush(); exit(0);
		default: exit(2); /* getopt has said why */
		}
	if (optind < argc)
		usage("%s: no file arguments; images come on standard input", argv[optind]);
	settle(p);
}

static struct images read_images(struct ts_reader *r)
{
	struct images im = { 0 };
	const uint8_t *bytes;
	char err[ERRLEN];
	size_t len;
	int got;

	while ((got = ts_next_raw(r, &bytes, &len)) > 0) {
		struct val *frame = ts_parse(bytes, len, err);
		struct image_frame f;

		if (!frame || image_frame_get(r->header, frame, &f, err) < 0)
			die("%s: frame %zu: %s", r->name, im.nframe, err);
		im.n += f.n;
		im.frame = erealloc(im.frame, im.nframe + 1, sizeof *im.frame);
		im.frame[im.nframe] = (struct buf){ 0 };
		buf_put(&im.frame[im.nframe++], bytes, len);
		val_free(frame);
	}
	if (got < 0)
		die("%s", r->err);
	if (!im.n)
		die("%s: no images in it", r->name);
	return im;
}

static void lay_out(struct plan *p, int64_t n, int classes)
{
	p->batch = p->most ? MIN(p->most, n) : protocol_batch(p->protocol, n, classes);
	p->batches = p->drop_last ? n / p->batch : (n + p->batch - 1) / p->batch;
	p->length = protocol_epochs(p->epochs, p->steps, p->batches);
}

/* The history has what was asked for; what comes of it follows from that and the images, of which a header tells not how
 * many there are. */
static struct val *header_of(const struct val *in, const struct plan *p)
{
	struct val *h = val_copy(in), *args = val_map(), *recipes = val_map();
	char *crop = p->crop == CROP_PAD ? eprintf_str("pad:%d", p->pad)
		: p->crop == CROP_RRC ? eprintf_str("rrc:%g:%g", p->min, p->max) : estrdup("none");

	val_put(h, "kind", val_str("recipes"));
	if (p->length) {
		val_put(recipes, "epochs", val_int(p->length));
		val_put(recipes, "batches", val_int(p->batches));
		val_put(recipes, "batch", val_int(p->batch));
	}
	if (p->named)
		val_put(recipes, "protocol", val_str(p->protocol->name));
	val_put(h, "recipes", recipes);

	if (p->named)
		val_put(args, "protocol", val_str(p->protocol->name));
	if (p->epochs)
		val_put(args, "epochs", val_int(p->epochs));
	if (p->steps)
		val_put(args, "steps", val_int(p->steps));
	if (p->most || p->protocol->batch)
		val_put(args, "batch", val_int(p->most ? p->most : p->protocol->batch));
	val_put(args, "crop", val_str(crop));
	val_put(args, "flip", val_f64(p->flip));
	if (p->swap > 0)
		val_put(args, "swap", val_f64(p->swap));
	val_put(args, "mix", val_str(mix_name[p->mix]));
	if (p->mix != MIX_NONE)
		val_put(args, "alpha", val_f64(p->alpha));
	val_put(args, "drop_last", val_bool(p->drop_last));
	val_put(args, "seed", val_int(p->seed));
	history_add(h, progname, args);
	free(crop);
	return h;
}

static void draw_batch(const struct plan *p, int64_t epoch, int64_t batch, struct recipe *r)
{
	struct rng rng = rng_at(p->seed, RNG_RECIPE, (uint32_t)epoch, (uint32_t)batch, 0);

	mix_draw(&rng, p->mix, p->alpha, p->h, p->w, &r->mix);
	rng_permute(&rng, r->partner, r->n);
	for (int i = 0; i < r->n; i++) {
		struct view *v = &r->view[i];

		if (p->crop == CROP_RRC)
			view_draw_rrc(&rng, p->h, p->w, p->min, p->max, v);
		else if (p->crop == CROP_PAD)
			view_draw_pad(&rng, p->h, p->w, p->pad, v);
		else
			*v = VIEW_IDENTITY(p->h, p->w);
		v->flip = rng_uniform(&rng) < p->flip;
		if (r->swap) {
			int across = rng_uniform(&rng) < p->swap ? SWAP_ACROSS : 0;

			r->swap[i] = swap_view(across | (rng_uniform(&rng) < p->swap ? SWAP_DOWN : 0), p->h, p->w);
		}
	}
}

static void write_epoch(struct ts_writer *w, const struct plan *p, int64_t epoch, int64_t n, int64_t *order)
{
	struct rng rng = rng_at(p->seed, RNG_SHUFFLE, (uint32_t)epoch, 0, 0);
	struct recipe r = {
		.view = ecalloc(p->batch, sizeof *r.view), .partner = ecalloc(p->batch, sizeof *r.partner),
		.swap = p->swap > 0 ? ecalloc(p->batch, sizeof *r.swap) : NULL
	};

	rng_permute(&rng, order, n);
	for (int64_t b = 0; b < p->batches; b++) {
		struct val *frame = val_map();

		r.n = (int)MIN(p->batch, n - b * p->batch);
		r.index = order + b * p->batch;
		draw_batch(p, epoch, b, &r);
		recipe_to_frame(frame, &r);
		val_put(frame, "epoch", val_int(epoch));
		val_put(frame, "batch", val_int(b));
		if (ts_put(w, frame) < 0 || ts_flush(w) < 0)
			die("%s", w->err);
		val_free(frame);
	}
	free(r.view);
	free(r.partner);
	free(r.swap);
}

int main(int argc, char **argv)
{
	struct plan p = {
		.protocol = protocol_for(FEED_LABELLED), .flip = -1, .swap = -1, .mix = -1
	};
	const char *out = NULL;
	struct ts_reader r;
	struct ts_writer w;
	struct norm norm;
	int chw[3];

	progname = "cutmix";
	parse(&p, &out, argc, argv);
	if (ts_open(&r, NULL, "images") < 0)
		die("%s", r.err);
	if (header_shape(r.header, chw) < 0 || header_norm(r.header, &norm) < 0 || norm.channels != chw[0])
		die("%s: header: no image shape or normalisation that fits it", r.name);
	p.h = chw[1], p.w = chw[2];

	if (p.only_header) {
		ets_header(out, header_of(r.header, &p));
		return 0;
	}

	struct images im = read_images(&r);
	int64_t *order = ecalloc(im.n, sizeof *order);

	lay_out(&p, im.n, header_nclass(r.header));
	struct val *header = header_of(r.header, &p);

	if (ts_create(&w, out, header) < 0)
		die("%s", w.err);
	for (size_t i = 0; i < im.nframe; i++) {
		if (ts_put_raw(&w, im.frame[i].p, im.frame[i].len) < 0 || ts_flush(&w) < 0)
			die("%s", w.err);
		buf_free(&im.frame[i]);
	}
	for (int64_t e = 0; e < p.length; e++)
		write_epoch(&w, &p, e, im.n, order);
	if (ts_finish(&w) < 0)
		die("%s", w.err);
	free(im.frame);
	free(order);
	val_free(header);
	ts_close(&r);
	if (p.verbose)
		times_say();
	return 0;
}
