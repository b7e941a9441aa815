/* evaluate(1): what a network learns from images or recipes, measured on a validation set */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../formats/imageview.h"
#include "../formats/recipes.h"
#include "../formats/results.h"
#include "../formats/teachers.h"
#include "../lib/cli.h"
#include "../lib/course.h"
#include "../lib/replay.h"
#include "../lib/students.h"
#include "../lib/times.h"

static const char synopsis[] =
	"evaluate -a ARCH -t VAL [options] <images or recipes\n"
	"       evaluate -p POOL -t VAL [options]\n"
	"  -a ARCH            the students' network: " ARCH_NAMES("\n                     ") "\n"
	"  -t VAL             images to validate on\n"
	"  -r N               students, of seeds S, S+1, ... (1)\n"
	"  -p POOL            measure these checkpoints instead; standard input is not read\n"
	"  --protocol NAME    a preset of what follows, protocol(7) (that of the recipes; or hard-dsa, soft or hard by what\n"
	"                     comes in)\n"
	"  --epochs N, --steps N, -b BATCH, --dsa NAMES|none     images only\n"
	"  --opt sgd|adam|adamw, --lr R, --momentum M, --nesterov yes|no, --wd W, --decay-1d yes|no\n"
	"  --sched const|cosine[:WARMUP]|step:EVERY[:GAMMA]|smooth[:ZETA], --fresh-optimiser yes|no\n"
	"  --loss ce|kl, -T TEMPERATURE, --t2 yes|no\n"
	"  --ema D            measures a moving average of the weights; --report last|best|best-of:SHARE[:EVERY]\n"
	"  --json             one JSON object instead of lines\n"
	"  --header           only what that object would say of protocol and history; nothing is trained\n"
	"  --seed S (0), --threads N, --device cpu|cuda|auto, --isa NAME, --precision fp32|tf32|bf16\n"
	"  -o FILE, --log FILE, -v, -h, -V";

enum { MAX_OVERRIDES = 64, MAX_SLOTS = 8 };
/* What batches of recipes that wait for their students may take. */
#define SLOTS_BYTES ((size_t)64 << 20)

struct options {
	struct cli cli;
	const char *arch, *val, *pool, *protocol;
	int repeats;
	bool json;
	struct { int opt; const char *arg; } over[MAX_OVERRIDES];
	int nover;
};

struct run {
	const struct options *o;
	struct protocol pr;
	struct val *header;       /* of what comes in; owned. NULL: nothing does (-p) */
	struct val *history;      /* a header with that of the result; with --json */
	struct net *net;
	struct students st;
	struct crew *crew;
	struct imageview val;
	struct replay *replay; /* images into batches: */
	/* Images: the set, a batch a worker. */
	const struct imageset *set;
	struct batch *batch;
	/* Recipes: step s is in slot s mod nslot until all students have taken it. */
	struct batch slot[MAX_SLOTS];
	int nslot;
};

static void parse(struct options *o, int argc, char **argv)
{
	enum { JSON = 256, PROTOCOL };
	static const struct option longs[] = {
		CLI_LONG, CLI_RUN_LONG, PROTO_LONG, { "json", 0, NULL, JSON }, { "protocol", 1, NULL, PROTOCOL }, { 0 }
	};
	struct protocol scratch = *protocol_for(FEED_IMAGES);
	int c;

	while ((c = getopt_long(argc, argv, CLI_SHORT PROTO_SHORT "a:t:r:p:", longs, NULL)) != -1)
		switch (c) {
		case 'a': o->arch = earch(optarg); break;
		case 't': o->val = optarg; break;
		case 'r': o->repeats = (int)eint("-r", optarg, 1, 10000); break;
		case 'p': o->pool = optarg; break;
		case JSON: o->json = true; break;
		case PROTOCOL:
			o->protocol = eprotocol(optarg)->name;
			break;
		default:
			/* The preset may depend on what comes in: options over it are checked here and applied later. */
			if (!protocol_option(&scratch, c, optarg)) {
				cli_option(&o->cli, c, synopsis);
			} else {
				if (o->nover == MAX_OVERRIDES)
					usage("too many options");
				o->over[o->nover].opt = c;
				o->over[o->nover++].arg = optarg;
			}
		}
	o->json |= o->cli.header;
	if (optind < argc)
		usage("%s: no file arguments; images or recipes come on standard input", argv[optind]);
	if (!o->val)
		usage("-t VAL is needed");
	if (!o->arch == !o->pool)
		usage("one of -a ARCH and -p POOL is needed");
	if (o->pool && (o->nover || o->protocol || o->repeats > 1))
		usage("-p measures checkpoints as they are: no protocol, no repeats");
}

/* The one asked for, else that of the recipes, else by what comes in. */
static const struct protocol *preset(const struct run *u, enum feed feed)
{
	const struct val *recipes = feed == FEED_IMAGES ? NULL : val_get(u->header, "recipes");
	const char *asked = u->o->protocol, *theirs = recipes ? val_get_str(recipes, "protocol") : NULL;

	if (asked && theirs && strcmp(asked, theirs))
		warn("protocol %s, but the recipes are those of %s", asked, theirs);
	if (!asked && theirs && !protocol_find(theirs))
		die("the recipes are those of a protocol that is unknown here, %s; --protocol says which to take", theirs);
	return asked || theirs ? protocol_find(asked ? asked : theirs) : protocol_for(feed);
}

/* The protocol's options, but for those that recipes fix. */
static struct val *protocol_args(const struct protocol *p)
{
	struct val *a = val_map();

	val_put(a, "name", val_str(p->name));
	val_put(a, "loss", val_str(loss_name[p->loss]));
	if (p->loss == LOSS_KL) {
		val_put(a, "temperature", val_f64(p->temperature));
		val_put(a, "t2", val_bool(p->t2));
	}
	val_put(a, "opt", val_str(optim_name[p->opt]));
	val_put(a, "lr", val_f64(p->lr));
	val_put(a, "wd", val_f64(p->wd));
	if (p->opt == OPT_SGD) {
		val_put(a, "momentum", val_f64(p->momentum));
		val_put(a, "nesterov", val_bool(p->nesterov));
	}
	val_put(a, "sched", val_str(p->sched));
	val_put(a, "decay_1d", val_bool(p->decay_1d));
	val_put(a, "fresh_optimiser", val_bool(p->fresh));
	val_put(a, "dsa", val_str(p->dsa_names));
	val_put(a, "ema", val_f64(p->ema));
	val_put(a, "report", val_str(p->report));
	return a;
}

/* The result's history: that of what came in, and all that the figures depend on. */
static void make_history(struct run *u, enum feed feed)
{
	const struct options *o = u->o;
	struct val *args = val_map(), *file;
	char err[ERRLEN];

	if (!o->json)
		return;
	if (o->pool && history_file(o->pool, &file, err) < 0)
		die("%s", err);
	if (o->pool) {
		val_put(args, "pool", file);
	} else {
		val_put(args, "arch", val_str(o->arch));
		val_put(args, "protocol", protocol_args(&u->pr));
		if (feed == FEED_IMAGES) {
			val_put(args, "epochs", val_int(u->pr.epochs));
			val_put(args, "steps", val_int(u->pr.steps));
			val_put(args, "batch", val_int(u->pr.batch));
		}
		val_put(args, "seed", val_int(o->cli.seed));
		val_put(args, "students", val_int(o->repeats));
	}
	if (history_file(o->val, &file, err) < 0)
		die("%s", err);
	val_put(args, "val", file);
	if (get_precision() != PRECISION_FP32)
		val_put(args, "precision", val_str(precision_name[get_precision()]));
	u->history = u->header ? val_copy(u->header) : header_new("result");
	history_add(u->history, progname, args);
}

static void choose_protocol(struct run *u, enum feed feed)
{
	const struct options *o = u->o;
	static const char *const what[] = { "images", "recipes", "labelled recipes" };

	u->pr = *preset(u, feed);
	for (int i = 0; i < o->nover; i++) {
		const char *name = protocol_images_only(o->over[i].opt);

		if (name && feed != FEED_IMAGES)
			die("%s: recipes fix this themselves", name);
		protocol_option(&u->pr, o->over[i].opt, o->over[i].arg);
	}
	if ((u->pr.feed == FEED_IMAGES) != (feed == FEED_IMAGES))
		die("protocol %s is for %s, %s came in", u->pr.name, what[u->pr.feed], what[feed]);
	if (u->pr.loss == LOSS_KL && feed != FEED_LABELLED)
		die("%s came in, but protocol %s's kl loss needs recipes with soft labels (softlabel; or --loss ce)", what[feed],
			u->pr.name);
	make_history(u, feed);
}

/* The validation set, as a network for images with this header takes it; NULL: for its own. */
static void read_validation(struct imageview *v, const char *path, const struct val *header)
{
	char err[ERRLEN];
	int chw[3];

	if (imageview_read(v, path, err) < 0)
		die("%s", err);
	if (!header)
		return;
	if (header_shape(header, chw) < 0)
		die("the training images have no shape");
	if (imageview_fit(v, header, chw, false, err) < 0)
		die("%s: %s", path, err);
}

/* batch: images a step at most; batches: steps an epoch. */
static void prepare(struct run *u, int batch, long batches, long total)
{
	const struct options *o = u->o;
	struct students *st = &u->st;
	char err[ERRLEN];
	int chw[3];

	header_shape(u->header, chw); /* checked with the validation set */
	u->net = net_arch(o->arch, chw, header_nclass(u->header), err);
	if (!u->net)
		die("%s", err);
	*st = (struct students){
		.cli = &o->cli, .pr = &u->pr, .val = imageview_dataset(&u->val), .batches = batches, .total = total
	};
	if (students_new(st, u->net, o->repeats, batch, err) < 0)
		die("%s: %s", o->arch, err);
	if (o->cli.verbose) {
		warn("protocol %s: %s, %ld steps of up to %d images", u->pr.name, optim_name[u->pr.opt], total, batch);
		warn("%s: %lld parameters, %.1f MB of activations", o->arch, (long long)net_params(u->net),
			ws_bytes(st->worker[0].ws) / 1e6);
	}
}

static void show_progress(struct run *u)
{
	progress(u->o->repeats > 1 ? "steps of all students" : "steps", crew_done(u->crew), u->st.total * u->o->repeats, NULL);
}

/* Every learner's steps are taken, or one has failed. */
static void end_training(struct run *u, bool stop)
{
	char err[ERRLEN];
	int rc = crew_finish(u->crew, stop, err);

	progress_done();
	if (rc < 0)
		die("%s", err);
}

/* The worker's batch <- those in order[0..n), each with its own parameters of the one DSA group of this step. */
static void augmented(const struct run *u, uint32_t seed, long step, const int64_t *order, int worker)
{
	struct rng r = rng_at(seed, RNG_STUDENT, 0, (uint32_t)step, 0);
	const struct imageset *set = u->set;
	struct batch *b = &u->batch[worker];
	struct dsa *d = ecalloc(b->n, sizeof *d); /* DSA_NONE */
	double start = now();

	if (u->pr.dsa) {
		enum dsa_kind kind = dsa_draw_kind(&r, u->pr.dsa);

		for (int i = 0; i < b->n; i++)
			dsa_draw(&r, kind, set->h, set->w, &d[i]);
	}
	b->x = replay_dsa(u->replay, order, d, b->n, worker);
	for (int i = 0; i < b->n; i++)
		b->label[i] = set->label[order[i]];
	free(d);
	times_add(TIME_AUGMENTATION, now() - start);
}

static int step_on_images(void *data, int worker, int who, long step, char err[ERRLEN])
{
	struct run *u = data;
	struct student *s = &u->st.student[who];
	struct batch *b = &u->batch[worker];
	int batch = u->st.worker[worker].trainer.batch;
	long at = step % u->st.batches * batch;

	if (!at) {
		struct rng rng = rng_at(s->seed, RNG_SHUFFLE, (uint32_t)(step / u->st.batches), 0, 0);

		rng_permute(&rng, s->order, u->set->n);
	}
	b->n = (int)MIN((int64_t)batch, u->set->n - at);
	augmented(u, s->seed, step, s->order + at, worker);
	return student_step(&u->st, worker, who, b, step, err);
}

static void train_on_images(struct run *u, struct ts_reader *in)
{
	struct imageset set;

	choose_protocol(u, FEED_IMAGES);
	if (imageset_read(in, &set) < 0)
		die("%s", in->err);
	read_validation(&u->val, u->o->val, u->header);

	int batch = (int)MIN((int64_t)u->pr.batch, set.n);
	long batches = (set.n + batch - 1) / batch;

	u->set = &set;
	prepare(u, batch, batches, u->pr.steps ? u->pr.steps : u->pr.epochs * batches);
	struct students *st = &u->st;

	u->batch = ecalloc(st->nworker, sizeof *u->batch);
	for (int i = 0; i < st->nworker; i++)
		u->batch[i] = batch_new(batch, set.nclass, false);
	u->replay = replay_new(imageset_dataset(&set), batch, st->nworker);
	for (int i = 0; i < st->n; i++)
		st->student[i].order = ecalloc(set.n, sizeof(int64_t));
	u->crew = crew_start(st->nworker, st->n, st->total, step_on_images, u);
	crew_ready(u->crew, st->total);
	for (long step = 1; step <= st->total && !crew_wait(u->crew, step); step++)
		show_progress(u);
	end_training(u, false);
	for (int i = 0; i < st->nworker; i++)
		batch_free(&u->batch[i]);
	free(u->batch);
	replay_free(u->replay);
	imageset_free(&set);
}

static int step_on_recipe(void *data, int worker, int who, long step, char err[ERRLEN])
{
	struct run *u = data;

	return student_step(&u->st, worker, who, &u->slot[step % u->nslot], step, err);
}

/* The first batch shows whether there are labels; the protocol follows from it. */
static void begin_recipes(struct run *u, const struct recipe_stream *s, bool labelled)
{
	size_t bytes = sizeof(float) * s->batch * s->set.c * s->set.h * s->set.w;

	choose_protocol(u, labelled ? FEED_LABELLED : FEED_RECIPES);
	read_validation(&u->val, u->o->val, u->header);
	prepare(u, (int)s->batch, s->batches, s->epochs * s->batches);
	u->nslot = (int)MAX(2, MIN(MAX_SLOTS, SLOTS_BYTES / bytes));
	for (int i = 0; i < u->nslot; i++)
		u->slot[i] = batch_new((int)s->batch, s->set.nclass, labelled);
	u->replay = replay_new(imageset_dataset(&s->set), (int)s->batch, u->nslot);
	u->crew = crew_start(u->st.nworker, u->st.n, u->st.total, step_on_recipe, u);
}

/* What went wrong with what came in; the students rest before the process ends. */
static _Noreturn void bad_recipes(struct run *u, const char *what)
{
	char err[ERRLEN];

	if (u->crew)
		crew_finish(u->crew, true, err);
	die("%s", what);
}

/* Reads and replays what the students will need next, while they train. */
static void train_on_recipes(struct run *u, struct ts_reader *in)
{
	struct recipe_stream s;
	struct recipe rec;
	struct val *frame;
	char err[ERRLEN], why[ERRLEN];
	int got, labelled;

	if (recipe_stream_begin(&s, in, false) < 0)
		die("%s", s.r.err);
	const struct imageset *set = &s.set;
	float *soft = ealigned((size_t)s.batch * set->nclass, sizeof *soft);

	for (long step = 0; (got = recipe_stream_next(&s, &frame, &rec)) > 0; step++) {
		labelled = soft_from_frame(frame, rec.n, set->nclass, soft, err);
		if (labelled < 0) {
			fail(why, "%s: frame %lld: %s", s.r.name, (long long)s.r.nframes - 1, err);
			bad_recipes(u, why);
		}
		if (!step)
			begin_recipes(u, &s, labelled);
		if (!labelled && u->pr.loss == LOSS_KL) {
			fail(why, "%s: frame %lld: no soft labels, unlike the frames before", s.r.name,
				(long long)s.r.nframes - 1);
			bad_recipes(u, why);
		}
		if (crew_wait(u->crew, step + 1 - u->nslot) < 0)
			end_training(u, true);
		struct batch *b = &u->slot[step % u->nslot];

		b->x = replay_run(u->replay, &rec, (int)(step % u->nslot));
		for (int i = 0; i < rec.n; i++) {
			b->label[i] = set->label[rec.index[i]];
			b->partner[i] = set->label[rec.index[rec.partner[i]]];
		}
		if (labelled && b->soft)
			memcpy(b->soft, soft, (size_t)rec.n * set->nclass * sizeof *soft);
		b->n = rec.n;
		b->mixed = rec.mix.kind != MIX_NONE;
		b->lambda = rec.mix.lambda;
		crew_ready(u->crew, step + 1);
		show_progress(u);
		val_free(frame);
		recipe_free(&rec);
	}
	if (got < 0)
		bad_recipes(u, s.r.err);
	end_training(u, false);
	for (int i = 0; i < u->nslot; i++)
		batch_free(&u->slot[i]);
	if (u->replay)
		replay_free(u->replay);
	free(soft);
	recipe_stream_close(&s);
}

/* What the result says beside its figures. */
static void describe(json_t *j, const struct run *u)
{
	if (u->header) {
		json_object_set_new(j, "protocol", json_val(val_get(history_args(u->history), "protocol")));
		if (u->st.total)
			json_object_set_new(json_object_get(j, "protocol"), "steps", json_integer(u->st.total));
	}
	json_object_set_new(j, "history", json_val(val_get(u->history, "history")));
}

static void dump_json(FILE *fp, json_t *j)
{
	json_dumpf(j, fp, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
	putc('\n', fp);
	json_decref(j);
}

static void print_json(FILE *fp, const struct run *u, const struct result *res, int n)
{
	json_t *j = !res ? json_object() : u->header ? results_json(res, n, "students", "seed") :
		results_json(res, n, "checkpoints", "member");

	for (int r = 0; u->header && r < n; r++) /* numbers, not their names */
		json_object_set_new(json_array_get(json_object_get(j, "students"), r), "seed",
			json_integer(u->st.student[r].seed));
	describe(j, u);
	dump_json(fp, j);
}

/* res NULL: only what it would be a result of. */
static void report(const struct run *u, const struct result *res, int n)
{
	const char *path = u->o->cli.out;
	struct outfile out = { .fp = stdout };
	char err[ERRLEN];

	progress_done();
	if (path && out_open(&out, path, err) < 0)
		die("%s", err);
	if (u->o->json)
		print_json(out.fp, u, res, n);
	else
		results_print(out.fp, res, n);
	if (u->header && !u->o->json)
		results_print_mean(out.fp, res, n);
	if (path && out_finish(&out, err) < 0)
		die("%s", err);
	eflush();
}

static void report_students(struct run *u)
{
	int n = u->st.n;
	struct result *res = ecalloc(n, sizeof *res);
	char *text = report_text(&u->st.report, students_epochs(&u->st));

	for (int r = 0; r < n; r++) {
		const struct student *s = &u->st.student[r];

		res[r] = (struct result){ u->net->arch, eprintf_str("%u", s->seed), 100 * s->accuracy, s->loss, s->train_loss,
			s->seconds, text, s->epoch };
	}
	report(u, res, n);
	for (int r = 0; r < n; r++)
		free((char *)res[r].name);
	free(res);
	free(text);
	students_free(&u->st);
	net_free(u->net);
	val_free(u->header);
}

/* Whether recipes have labels shows in their frames; a header tells by who made it. */
static enum feed expected_feed(const struct val *header)
{
	const struct val *list = val_get(header, "history");

	if (!strcmp(header_kind(header), "images"))
		return FEED_IMAGES;
	for (size_t i = 0; list && list->type == V_LIST && i < list->list.len; i++) {
		const char *program = val_get_str(list->list.item[i], "program");

		if (program && !strcmp(program, "softlabel"))
			return FEED_LABELLED;
	}
	return FEED_RECIPES;
}

static void report_header(struct run *u)
{
	if (u->header)
		choose_protocol(u, expected_feed(u->header));
	else
		make_history(u, FEED_IMAGES);
	report(u, NULL, 0);
}

static void measure_pool(struct run *u)
{
	struct teacher *t;
	struct val *pool, *header;
	char err[ERRLEN];
	int n, chw[3];

	make_history(u, FEED_IMAGES);
	read_validation(&u->val, u->o->val, NULL);
	if (pool_header(u->o->pool, &pool, err) < 0)
		die("%s", err);
	/* The images as they are, but in the pool's classes, of which there may be more. */
	header = val_copy(u->val.set.header);
	val_put(header, "classes", val_copy(val_get(pool, "classes")));
	if (!(t = teachers_read(u->o->pool, header, &n, err)))
		die("%s", err);
	if (header_shape(header, chw) < 0 || imageview_fit(&u->val, header, chw, false, err) < 0)
		die("%s: %s", u->o->val, err);
	val_free(header);
	val_free(pool);
	struct result *res = ecalloc(n, sizeof *res);
	struct workspace *ws = ws_new();
	struct dataset val = imageview_dataset(&u->val);

	for (int i = 0; i < n; i++) {
		const char *member = t[i].ck.member ? t[i].ck.member : "-";
		double start = now(), share;

		res[i] = (struct result){ .arch = t[i].ck.net->arch, .name = member, .train_loss = NAN };
		if (course_measure(&val, t[i].net, &t[i].ck.w, ws, &share, &res[i].loss, err) < 0)
			die("%s: %s", member, err);
		res[i].accuracy = 100 * share;
		res[i].seconds = now() - start;
		progress("checkpoints", i + 1, n, NULL);
	}
	report(u, res, n);
	free(res);
	ws_free(ws);
	teachers_free(t, n);
}

int main(int argc, char **argv)
{
	struct options o = { .repeats = 1 };
	struct run u = { .o = &o };
	struct ts_reader in;

	progname = "evaluate";
	parse(&o, argc, argv);
	eout_probe(o.cli.out);
	if (o.pool && o.cli.header) {
		report_header(&u);
	} else if (o.pool) {
		measure_pool(&u);
	} else {
		if (ts_open(&in, NULL, NULL) < 0)
			die("%s", in.err);
		u.header = val_copy(in.header);
		if (strcmp(header_kind(in.header), "images") && strcmp(header_kind(in.header), "recipes"))
			die("%s: a stream of kind %s; images or recipes expected", in.name, header_kind(in.header));
		if (o.cli.header) {
			report_header(&u);
			return 0;
		}
		if (!strcmp(header_kind(in.header), "images")) {
			train_on_images(&u, &in);
			ts_close(&in);
		} else {
			train_on_recipes(&u, &in);
		}
		report_students(&u);
	}
	imageview_free(&u.val);
	if (o.cli.verbose)
		times_say();
	return 0;
}
