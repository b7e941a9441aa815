/* softlabel(1): recipes -> the same recipes with the mean soft labels of a pool */
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "../formats/recipes.h"
#include "../formats/teachers.h"
#include "../lib/cli.h"
#include "../lib/committee.h"
#include "../lib/replay.h"
#include "../lib/times.h"

static const char synopsis[] =
	"softlabel -p POOL [options] <recipes >recipes\n"
	"  -p POOL            the teachers\n"
	"  --top K            keep the K highest logits of an image, and one value for the rest, which keeps its probability\n"
	"  --u8               8 bits a logit and a range for each image\n"
	"  --mean WHAT        logits, or probs: the log of the mean probabilities (logits)\n"
	"  --relabel          replace labels that are there\n"
	"  --state FILE       the output as far as it is, from which a run that was killed goes on; needs -o\n"
	"  --header           write only the header that the output would have\n"
	"  --threads N, --device cpu|cuda|auto, --isa NAME, --precision fp32|tf32|bf16\n"
	"  -o FILE            output file\n"
	"  -v                 say what was done\n"
	"  -h, -V             help, version";

struct options {
	struct cli cli;
	const char *pool, *state;
	int top;
	bool u8, probs, relabel;
};

struct pool {
	struct teacher *teacher;
	struct committee committee;
};

static void parse(struct options *o, int argc, char **argv)
{
	enum { TOP = 256, U8, MEAN, RELABEL, STATE };
	static const struct option longs[] = {
		CLI_LONG, { "top", 1, NULL, TOP }, { "u8", 0, NULL, U8 }, { "mean", 1, NULL, MEAN },
		{ "relabel", 0, NULL, RELABEL }, { "state", 1, NULL, STATE }, { 0 }
	};
	int c;

	while ((c = getopt_long(argc, argv, CLI_SHORT "p:", longs, NULL)) != -1)
		switch (c) {
		case 'p': o->pool = optarg; break;
		case TOP: o->top = (int)eint("--top", optarg, 1, 1 << 20); break;
		case U8: o->u8 = true; break;
		case MEAN:
			if (strcmp(optarg, "logits") && strcmp(optarg, "probs"))
				usage("--mean %s: logits or probs expected", optarg);
			o->probs = *optarg == 'p';
			break;
		case RELABEL: o->relabel = true; break;
		case STATE: o->state = optarg; break;
		default: cli_option(&o->cli, c, synopsis);
		}
	if (optind < argc)
		usage("%s: no file arguments; recipes come on standard input", argv[optind]);
	if (!o->pool)
		usage("-p POOL is needed");
	if (!strcmp(o->pool, "-"))
		usage("-p -: standard input has the recipes");
	if (o->top && o->u8)
		usage("--top and --u8 do not go together");
	if (o->state && !strcmp(o->state, "-"))
		usage("--state -: a file is needed");
	if (o->state && !o->cli.out && !o->cli.header)
		usage("--state gets the output's name at the end: -o FILE is needed");
}

static const char *name_of(const struct pool *p, int teacher)
{
	return p->teacher[teacher].ck.member ? p->teacher[teacher].ck.member : "-";
}

static struct pool open_pool(const struct options *o, const struct val *images, int batch)
{
	struct pool p;
	char err[ERRLEN];
	int n;

	p.teacher = teachers_read(o->pool, images, &n, err);
	if (!p.teacher)
		die("%s", err);
	p.committee = committee_new(n, header_nclass(images), batch);
	for (int t = 0; t < n; t++)
		if (committee_add(&p.committee, p.teacher[t].net, &p.teacher[t].ck.w, err) < 0)
			die("%s: member %s: %s", o->pool, name_of(&p, t), err);
	if (o->cli.verbose)
		warn("%d teachers, %.1f MB of activations", n, committee_bytes(&p.committee) / 1e6);
	return p;
}

static void close_pool(struct pool *p)
{
	int n = p->committee.n;

	committee_free(&p->committee);
	teachers_free(p->teacher, n);
}

/* Mean of the pool over images x (n,C,H,W) -> out (n,K). */
static void label(struct pool *p, const float *x, int n, bool probs, float *out)
{
	char err[ERRLEN];
	int who;

	if (committee_label(&p->committee, x, n, probs, out, &who, err) < 0)
		die("teacher %d (%s): %s", who, name_of(p, who), err);
}

static struct val *header_of(const struct val *in, const struct options *o)
{
	struct val *h = val_copy(in), *args = val_map(), *file;
	char err[ERRLEN];

	if (history_file(o->pool, &file, err) < 0)
		die("%s", err);
	val_put(args, "pool", file);
	if (get_precision() != PRECISION_FP32)
		val_put(args, "precision", val_str(precision_name[get_precision()]));
	val_put(args, "mean", val_str(o->probs ? "probs" : "logits"));
	if (o->top)
		val_put(args, "top", val_int(o->top));
	if (o->u8)
		val_put(args, "u8", val_bool(true));
	history_add(h, progname, args);
	return h;
}

static void open_output(struct ts_writer *w, const struct options *o, const struct val *header)
{
	if ((o->state ? ts_take_up(w, o->cli.out, o->state, header) : ts_create(w, o->cli.out, header)) < 0)
		die("%s", w->err);
}

static void put(struct ts_writer *w, const struct val *frame)
{
	if (ts_put(w, frame) < 0 || ts_flush(w) < 0)
		die("%s", w->err);
}

int main(int argc, char **argv)
{
	struct options o = { .top = 0 };
	struct recipe_stream s;
	struct ts_writer w;
	struct recipe recipe;
	struct val *frame;
	char err[ERRLEN];
	int got;

	progname = "softlabel";
	parse(&o, argc, argv);
	omp_set_num_threads(get_threads());
	if (o.cli.header) {
		if (ts_open(&s.r, NULL, "recipes") < 0)
			die("%s", s.r.err);
		ets_header(o.cli.out, header_of(s.r.header, &o));
		return 0;
	}
	if (recipe_stream_open(&s, NULL, true) < 0)
		die("%s", s.r.err);

	const struct imageset *set = &s.set;
	struct pool pool = open_pool(&o, s.r.header, (int)s.batch);
	int nclass = pool.committee.nclass;
	struct val *header = header_of(s.r.header, &o);
	struct replay *replay = replay_new(imageset_dataset(set), (int)s.batch, 1);
	float *soft = ealigned((size_t)s.batch * nclass, sizeof *soft);
	enum soft_form form = o.top ? SOFT_TOPK : o.u8 ? SOFT_U8 : SOFT_F16;
	long total = (long)s.epochs * s.batches;

	if (o.top > nclass)
		die("--top %d: there are %d classes", o.top, nclass);
	open_output(&w, &o, header);
	for (int64_t i = 0; i < s.nimage_frames; i++)
		put(&w, s.image_frames[i]);
	if (ts_ahead(&w) && o.cli.verbose)
		warn("%lld of %ld batches are there", (long long)ts_ahead(&w), total);
	while ((got = recipe_stream_next(&s, &frame, &recipe)) > 0) {
		int had = soft_from_frame(frame, recipe.n, nclass, soft, err);

		if (had < 0 && !o.relabel)
			die("%s: frame %lld: %s", s.r.name, (long long)s.r.nframes - 1, err);
		if (had > 0 && !o.relabel)
			die("%s: frame %lld: labelled already (--relabel replaces)", s.r.name, (long long)s.r.nframes - 1);
		if (ts_ahead(&w)) {
			ts_pass(&w);
		} else {
			label(&pool, replay_run(replay, &recipe, 0), recipe.n, o.probs, soft);
			soft_to_frame(frame, soft, recipe.n, nclass, form, o.top);
			put(&w, frame);
		}
		val_free(frame);
		recipe_free(&recipe);
		progress("batches", s.done, total, NULL);
	}
	progress_done();
	if (got < 0)
		die("%s", s.r.err);
	if (ts_finish(&w) < 0)
		die("%s", w.err);
	close_pool(&pool);
	replay_free(replay);
	free(soft);
	val_free(header);
	recipe_stream_close(&s);
	if (o.cli.verbose)
		times_say();
	return 0;
}
