/* bnstats(1): the feature statistics that synthesis matches, of every teacher's batch norm layers */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../formats/images.h"
#include "../formats/imageset.h"
#include "../formats/state.h"
#include "../formats/stats.h"
#include "../lib/cli.h"
#include "../lib/times.h"
#include "../lib/train.h"

static const char synopsis[] =
	"bnstats -p POOL [--recompute | --classwise [--running]] [options] [<images] >stats\n"
	"  -p POOL            the teachers\n"
	"  --recompute        statistics of the images on standard input, not the running ones\n"
	"  --classwise        these, and those of every class by itself\n"
	"  --running          with --classwise: running ones over all classes\n"
	"  -b BATCH           images at a time (100)\n"
	"  --crop HOW         rrc:MIN[:MAX], pad:P or none (none)\n"
	"  --flip P           probability (0)\n"
	"  --state FILE       resume from, and save to, this file\n"
	"  --save-every N     frames of images between saves (as many as take 10 s)\n"
	"  --header           write only the header that the output would have\n"
	"  --dsa NAMES        one of these an image: color_crop_cutout_flip_scale_rotate\n"
	"  --seed N, --threads N, --device D, --isa I, --precision P, --log FILE, -o FILE, -v, -h, -V";

enum { SAVE_SECONDS = 10, SAVE_SHARE = 20 }; /* between saves; and no more than one part in so many of the time */

struct options {
	struct cli cli;
	const char *pool, *dsa, *state;
	bool recompute, classwise, running;
	int batch, every; /* 0: SAVE_SECONDS count */
	struct trainaug aug;
};

struct sums { /* of one layer; rows are classes, or all in one */
	double *sum, *sumsq; /* (rows,C) about the tap's reference */
};

struct place { /* of a run, in its state */
	int64_t frames, seen; /* frames read, images in them */
	uint64_t digest;      /* of these */
};

struct teach { /* one teacher at work */
	struct plan *plan;
	struct sums *layer; /* (nlayer) */
};

struct survey {
	const struct options *o;
	struct teacher *t;
	int n;
	struct teach *at;
	struct workspace *ws;
	int nclass, rows;
	int chw[3];
	struct norm norm;
	int64_t *count;          /* (nclass) images seen */
	int64_t seen;
	float *x, *scratch, *logits; /* (batch,C,H,W) twice, (batch,K) */
	struct val *header;      /* of the output; borrowed */
	double next_save;
};

static void parse(struct options *o, int argc, char **argv)
{
	enum { RECOMPUTE = 256, CLASSWISE, RUNNING, CROP, FLIP, DSA, STATE, SAVE_EVERY };
	static const struct option longs[] = {
		CLI_LONG, CLI_RUN_LONG, { "recompute", 0, NULL, RECOMPUTE }, { "classwise", 0, NULL, CLASSWISE },
		{ "running", 0, NULL, RUNNING }, { "crop", 1, NULL, CROP }, { "flip", 1, NULL, FLIP },
		{ "dsa", 1, NULL, DSA }, { "state", 1, NULL, STATE },
		{ "save-every", 1, NULL, SAVE_EVERY }, { 0 }
	};
	bool augmented = false;
	char err[ERRLEN];
	int c;

	while ((c = getopt_long(argc, argv, CLI_SHORT "p:b:", longs, NULL)) != -1)
		switch (c) {
		case 'p': o->pool = optarg; break;
		case 'b': o->batch = eint("-b", optarg, 1, 1 << 16); break;
		case RECOMPUTE: o->recompute = true; break;
		case CLASSWISE: o->classwise = true; break;
		case RUNNING: o->running = true; break;
		case CROP:
			if (trainaug_crop(&o->aug, optarg, err) < 0)
				usage("--crop: %s", err);
			augmented = true;
			break;
		case FLIP:
			o->aug.flip = ereal("--flip", optarg, 0, 1);
			augmented = true;
			break;
		case DSA:
			o->dsa = optarg;
			if (!(o->aug.dsa = dsa_parse(optarg, err)))
				usage("--dsa: %s", err);
			augmented = true;
			break;
		case STATE: o->state = optarg; break;
		case SAVE_EVERY: o->every = eint("--save-every", optarg, 1, 1 << 30); break;
		default: cli_option(&o->cli, c, synopsis);
		}
	if (optind < argc)
		usage("%s: no file arguments; images come on standard input", argv[optind]);
	if (!o->pool)
		usage("-p is needed");
	if (o->running && (o->recompute || !o->classwise))
		usage("--running goes with --classwise alone");
	if (augmented && !o->recompute && !o->classwise)
		usage("--crop, --flip and --dsa need --recompute or --classwise");
	if (o->every && !o->state)
		usage("--save-every goes with --state");
}

static struct val *arguments(const struct options *o)
{
	struct val *args = val_map(), *file;
	char err[ERRLEN], *crop;

	if (history_file(o->pool, &file, err) < 0)
		die("%s", err);
	val_put(args, "pool", file);
	if (get_precision() != PRECISION_FP32)
		val_put(args, "precision", val_str(precision_name[get_precision()]));
	val_put(args, "global", val_str(o->running || !(o->recompute || o->classwise) ? "running" : "recomputed"));
	val_put(args, "classwise", val_bool(o->classwise));
	if (o->recompute || o->classwise) {
		crop = trainaug_crop_name(&o->aug);
		val_put(args, "crop", val_str(crop));
		val_put(args, "flip", val_f64(o->aug.flip));
		if (o->dsa)
			val_put(args, "dsa", val_str(o->dsa));
		if (o->dsa || o->aug.flip > 0 || strcmp(crop, "none")) /* else nothing is drawn */
			val_put(args, "seed", val_int(o->cli.seed));
		free(crop);
	}
	return args;
}

static const char *member_of(const struct survey *s, int t)
{
	return s->t[t].ck.member ? s->t[t].ck.member : s->o->pool;
}

static void read_teachers(struct survey *s, const struct val *images_header)
{
	char err[ERRLEN];

	if (!(s->t = teachers_read(s->o->pool, images_header, &s->n, err)))
		die("%s", err);
	for (int i = 0; i < s->n; i++)
		if (!s->t[i].nlayer || (!teacher_runs(&s->t[i], 0) && (s->o->running || !(s->o->recompute || s->o->classwise))))
			die("%s: %s has no batch norm, so no running statistics (--recompute takes those of images)", s->o->pool,
				member_of(s, i));
}

/* The sets of classes and sizes are the pool's own, as its first member has them. */
static struct val *header_of_pool(const char *path)
{
	struct pool_reader p;
	struct checkpoint ck;
	struct val *h;

	if (pool_open(&p, path) < 0 || pool_next(&p, &ck) < 0)
		die("%s", p.err);
	pool_close(&p);
	h = val_copy(ck.header);
	val_drop(h, "train");
	val_drop(h, "history"); /* that of the pool is in this filter's arguments */
	header_set_shape(h, ck.net->chw);
	checkpoint_free(&ck);
	return h;
}

static void start_survey(struct survey *s)
{
	size_t each = (size_t)s->chw[0] * s->chw[1] * s->chw[2];
	struct plan_opts opts = { .purpose = PLAN_EVAL, .batch = s->o->batch, .taps = true,
		.precision = get_precision() };
	char err[ERRLEN];

	s->ws = ws_new();
	s->at = ecalloc(s->n, sizeof *s->at);
	s->count = ecalloc(s->nclass, sizeof *s->count);
	s->x = ealigned(opts.batch * each, sizeof *s->x);
	s->scratch = ealigned(opts.batch * each, sizeof *s->scratch);
	s->logits = ealigned((size_t)opts.batch * s->nclass, sizeof *s->logits);
	for (int i = 0; i < s->n; i++) {
		struct teach *a = &s->at[i];

		if (!(a->plan = plan_new(s->t[i].net, opts, err)))
			die("%s: %s: %s", s->o->pool, member_of(s, i), err);
		plan_bind(a->plan, s->ws);
		plan_load(a->plan, &s->t[i].ck.w);
		a->layer = ecalloc(s->t[i].nlayer, sizeof *a->layer);
		for (int l = 0; l < s->t[i].nlayer; l++) {
			size_t cells = (size_t)s->rows * plan_tap(a->plan, l)->c;

			a->layer[l].sum = ecalloc(cells, sizeof(double));
			a->layer[l].sumsq = ecalloc(cells, sizeof(double));
		}
	}
}

static void add_tap(struct sums *to, const struct tap *tap, int n, const int64_t *label, bool classwise)
{
	for (int i = 0; i < n; i++) {
		size_t row = classwise ? label[i] * tap->c : 0;

		for (int c = 0; c < tap->c; c++) {
			to->sum[row + c] += tap->sum[(size_t)i * tap->c + c];
			to->sumsq[row + c] += tap->sumsq[(size_t)i * tap->c + c];
		}
	}
}

/* Images from..from+n of a frame, through every teacher. */
static void add_batch(struct survey *s, const struct imageset *frame, int64_t from, int n)
{
	const struct options *o = s->o;
	size_t each = (size_t)s->chw[0] * s->chw[1] * s->chw[2];

	#pragma omp parallel for num_threads(get_threads())
	for (int i = 0; i < n; i++) {
		imageset_get(frame, from + i, &s->norm, s->scratch + i * each);
		trainaug_apply(&o->aug, o->cli.seed, 0, s->seen + i, 0, s->x + i * each, s->scratch + i * each, s->chw[0],
			s->chw[1], s->chw[2]);
	}
	for (int t = 0; t < s->n; t++) {
		struct teach *a = &s->at[t];

		plan_bind(a->plan, s->ws);
		plan_forward(a->plan, n, s->x, s->logits);
		for (int l = 0; l < s->t[t].nlayer; l++)
			add_tap(&a->layer[l], plan_tap(a->plan, l), n, frame->label + from, s->o->classwise);
	}
	for (int i = 0; i < n; i++)
		s->count[frame->label[from + i]]++;
	s->seen += n;
	progress("images", s->seen, 0, NULL);
	cli_log(&o->cli, "batch", "images", (double)s->seen, NULL);
}

/* The sums so far, into the state where save is set, else out of it; -1: it has not these. */
static int exchange(struct survey *s, struct state *st, bool save)
{
	int missing = 0;

	for (int t = 0; t < s->n; t++)
		for (int l = 0; l < s->t[t].nlayer; l++) {
			const struct sums *x = &s->at[t].layer[l];
			size_t bytes = (size_t)s->rows * plan_tap(s->at[t].plan, l)->c * sizeof(double);

			for (int squared = 0; squared < 2; squared++) {
				char *name = eprintf_str("%d.%d.%s", t, l, squared ? "sumsq" : "sum");
				double *p = squared ? x->sumsq : x->sum;
				const void *was = save ? NULL : state_get(st, name, bytes);

				if (save)
					state_set(st, name, p, bytes);
				else if (was)
					memcpy(p, was, bytes);
				missing += !save && !was;
				free(name);
			}
		}
	return missing ? -1 : 0;
}

/* Behind a whole frame, when it is time. */
static void save_state(struct survey *s, const struct ts_reader *r)
{
	struct place at = { .frames = r->nframes, .seen = s->seen, .digest = ts_digest(r) };
	struct state st;
	double start = now();
	char err[ERRLEN];

	if (!s->o->state || (s->o->every ? r->nframes % s->o->every : start < s->next_save))
		return;
	st = state_new();
	val_put(st.header, "output", val_copy(s->header));
	state_set(&st, "place", &at, sizeof at);
	state_set(&st, "count", s->count, s->nclass * sizeof *s->count);
	exchange(s, &st, true);
	if (state_write(&st, s->o->state, err) < 0)
		die("%s", err);
	state_free(&st);
	cli_log(&s->o->cli, "saved", "images", (double)s->seen, NULL);
	s->next_save = now() + MAX(SAVE_SECONDS, SAVE_SHARE * (now() - start));
}

/* Up to where an earlier run saved, frames are passed by; they must be the same ones. */
static void pass(struct survey *s, struct ts_reader *r, const struct place *at)
{
	const uint8_t *p;
	size_t n;
	int got = 1;

	while (r->nframes < at->frames && (got = ts_next_raw(r, &p, &n)) > 0)
		;
	if (got < 0)
		die("%s", r->err);
	if (r->nframes != at->frames || ts_digest(r) != at->digest)
		die("%s: of a run on other images; remove it to start anew", s->o->state);
	s->seen = at->seen;
	if (s->o->cli.verbose)
		warn("%s: %lld images are there", s->o->state, (long long)s->seen);
}

static void resume(struct survey *s, struct ts_reader *r)
{
	struct val *mine = val_map();
	const struct place *at;
	const void *count;
	struct state st;
	char err[ERRLEN];
	int rc;

	s->next_save = now() + SAVE_SECONDS;
	val_put(mine, "output", val_copy(s->header));
	if ((rc = state_resume(&st, s->o->state, mine, err)) < 0)
		die("%s", err);
	if (rc) {
		at = state_get(&st, "place", sizeof *at);
		count = state_get(&st, "count", s->nclass * sizeof *s->count);
		if (!at || !count || exchange(s, &st, false) < 0)
			die("%s: no sums of these networks in it", s->o->state);
		memcpy(s->count, count, s->nclass * sizeof *s->count);
		pass(s, r, at);
	}
	state_free(&st);
}

/* Encoded images are decoded a frame at a time. */
static uint8_t *decode(const struct survey *s, const struct ts_reader *r, const struct image_frame *f)
{
	size_t each = (size_t)s->chw[0] * s->chw[1] * s->chw[2];
	uint8_t *px = ecalloc(f->n, each);

	for (int64_t i = 0; i < f->n; i++) {
		const struct val *v = f->encoded->list.item[i];
		struct picture pic;
		char err[ERRLEN];

		if (picture_decode(v->s.p, v->s.len, &pic, err) < 0)
			die("%s: frame %lld: images.encoded: image %lld: %s", r->name, (long long)r->nframes - 1, (long long)i, err);
		picture_fit(&pic, s->chw[0], s->chw[1], s->chw[2]);
		memcpy(px + i * each, pic.px, each);
		free(pic.px);
	}
	return px;
}

static void survey_images(struct survey *s, struct ts_reader *r)
{
	struct val *frame;
	char err[ERRLEN];
	int got;

	start_survey(s);
	if (s->o->state)
		resume(s, r);
	while ((got = ts_next(r, &frame)) > 0) {
		struct image_frame f;
		uint8_t *px = NULL;

		if (image_frame_get(r->header, frame, &f, err) < 0)
			die("%s: frame %lld: %s", r->name, (long long)r->nframes - 1, err);
		if (f.encoded)
			px = decode(s, r, &f);

		struct imageset set = {
			.n = f.n, .c = s->chw[0], .h = s->chw[1], .w = s->chw[2], .nclass = s->nclass, .norm = s->norm,
			.u8 = px ? px : f.u8, .f32 = f.f32, .label = f.label
		};

		for (int64_t from = 0; from < f.n; from += s->o->batch)
			add_batch(s, &set, from, MIN(s->o->batch, f.n - from));
		free(px);
		val_free(frame);
		save_state(s, r);
	}
	progress_done();
	if (got < 0)
		die("%s", r->err);
	if (!s->seen)
		die("%s: no images in it", r->name);
	for (int k = 0; s->o->classwise && k < s->nclass; k++)
		if (!s->count[k])
			die("%s: class '%s' has no image", r->name, header_class(r->header, k));
}

/* Mean and variance of `count` images' sums about ref. */
static void moments(const struct survey *s, int t, int l, double sum, double sumsq, int64_t count, int c, float *mean,
	float *var)
{
	const struct tap *tap = plan_tap(s->at[t].plan, l);
	double n = (double)count * tap->per, m = sum / n;

	*mean = tap->ref[c] + m;
	*var = fmax(sumsq / n - m * m, 0);
	if (!isfinite(*mean) || !isfinite(*var) || !isfinite(sumsq))
		die("%s: %s: %s: features are not finite", s->o->pool, member_of(s, t), s->t[t].net->node[tap->node].name);
}

static void running_of(const struct survey *s, int t, int l, struct layer_stats *out)
{
	const struct teacher *te = &s->t[t];
	const struct node *bn = &te->net->node[te->layer[l]];
	const float *mean = weights_param(te->net, &te->ck.w, bn->param[P_MEAN]);
	const float *var = weights_param(te->net, &te->ck.w, bn->param[P_VAR]);

	for (int c = 0; c < bn->c; c++)
		if (!isfinite(mean[c]) || !isfinite(var[c]) || var[c] < 0)
			die("%s: %s: %s: running statistics are no mean and variance", s->o->pool, member_of(s, t), bn->name);
	memcpy(out->mean, mean, bn->c * sizeof *mean);
	memcpy(out->var, var, bn->c * sizeof *var);
}

static struct layer_stats statistics(const struct survey *s, int t, int l)
{
	int channels = s->t[t].net->node[s->t[t].layer[l]].c;
	struct layer_stats out = { .c = channels, .nclass = s->o->classwise ? s->nclass : 0 };
	const struct sums *x = s->at ? &s->at[t].layer[l] : NULL;

	out.mean = ecalloc(channels, sizeof *out.mean);
	out.var = ecalloc(channels, sizeof *out.var);
	if (!x || s->o->running)
		running_of(s, t, l, &out);
	if (x && s->o->classwise) {
		out.cmean = ecalloc((size_t)s->nclass * channels, sizeof *out.cmean);
		out.cvar = ecalloc((size_t)s->nclass * channels, sizeof *out.cvar);
	}
	for (int c = 0; x && c < channels; c++) {
		double sum = 0, sumsq = 0;

		for (int k = 0; k < s->rows; k++) {
			size_t cell = (size_t)k * channels + c;

			sum += x->sum[cell];
			sumsq += x->sumsq[cell];
			if (s->o->classwise)
				moments(s, t, l, x->sum[cell], x->sumsq[cell], s->count[k], c, &out.cmean[cell], &out.cvar[cell]);
		}
		if (!s->o->running)
			moments(s, t, l, sum, sumsq, s->seen, c, &out.mean[c], &out.var[c]);
	}
	return out;
}

static void write_stats(const struct survey *s, struct ts_writer *w)
{
	for (int t = 0; t < s->n; t++)
		for (int l = 0; l < s->t[t].nlayer; l++) {
			struct layer_stats st = statistics(s, t, l);
			struct val *f = stats_to_frame(&st, t, l, s->t[t].ck.member, s->t[t].net->node[s->t[t].layer[l]].name);

			if (ts_put(w, f) < 0)
				die("%s", w->err);
			val_free(f);
			layer_stats_free(&st);
		}
	if (ts_finish(w) < 0)
		die("%s", w->err);
}

static void release(struct survey *s)
{
	for (int i = 0; s->at && i < s->n; i++) {
		for (int l = 0; l < s->t[i].nlayer; l++) {
			free(s->at[i].layer[l].sum);
			free(s->at[i].layer[l].sumsq);
		}
		free(s->at[i].layer);
		plan_free(s->at[i].plan);
	}
	free(s->at);
	free(s->count);
	free(s->x);
	free(s->scratch);
	free(s->logits);
	if (s->ws)
		ws_free(s->ws);
	teachers_free(s->t, s->n);
}

int main(int argc, char **argv)
{
	struct options o = { .batch = 100 };
	struct survey s = { .o = &o };
	struct val *header, *args;
	struct ts_reader r;
	struct ts_writer w;
	bool survey;

	progname = "bnstats";
	parse(&o, argc, argv);
	survey = o.recompute || o.classwise;
	args = arguments(&o);
	if (survey && ts_open(&r, NULL, "images") < 0)
		die("%s", r.err);
	header = survey ? val_copy(r.header) : header_of_pool(o.pool);
	val_put(header, "kind", val_str("stats"));
	history_add(header, progname, args);
	if (o.cli.header) {
		ets_header(o.cli.out, header);
		return 0;
	}
	s.header = header;
	read_teachers(&s, header); /* checks the header's classes, shape and normalisation, too */
	header_shape(header, s.chw);
	header_norm(header, &s.norm);
	s.nclass = header_nclass(header);
	s.rows = o.classwise ? s.nclass : 1;
	if (ts_create(&w, o.cli.out, header) < 0)
		die("%s", w.err);
	if (survey) {
		survey_images(&s, &r);
		ts_close(&r);
	}
	write_stats(&s, &w);
	release(&s);
	val_free(header);
	if (o.cli.verbose)
		times_say();
	return 0;
}
