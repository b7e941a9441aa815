/* evaluate(1): what a network learns from images or recipes, measured on a validation set */
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "../formats/imageview.h"
#include "../formats/recipes.h"
#include "../formats/results.h"
#include "../formats/teachers.h"
#include "../lib/cli.h"
#include "../lib/course.h"
#include "../lib/loss.h"
#include "../lib/plan.h"
#include "../lib/protocol.h"

static const char synopsis[] =
	"evaluate -a ARCH -t VAL [options] <images or recipes\n"
	"       evaluate -p POOL -t VAL [options]\n"
	"  -a ARCH            the students' network: " ARCH_NAMES("\n                     ") "\n"
	"  -t VAL             images to validate on\n"
	"  -r N               students, of seeds S, S+1, ... (1)\n"
	"  -p POOL            measure these checkpoints instead; standard input is not read\n"
	"  --protocol NAME    hard-dsa, soft or hard: presets of what follows (by what comes in)\n"
	"  --epochs N, --steps N, -b BATCH, --dsa NAMES|none     images only\n"
	"  --opt sgd|adam|adamw, --lr R, --momentum M, --nesterov yes|no, --wd W, --decay-1d yes|no\n"
	"  --sched const|cosine[:WARMUP]|step:EVERY[:GAMMA]|smooth[:ZETA], --fresh-optimiser yes|no\n"
	"  --loss ce|kl, -T TEMPERATURE, --t2 yes|no\n"
	"  --json             one JSON object instead of lines\n"
	"  --seed S (0), --threads N, --device cpu|auto, --isa NAME\n"
	"  -o FILE, --log FILE, -v, -h, -V";

enum { MAX_OVERRIDES = 64 };

struct options {
	struct cli cli;
	const char *arch, *val, *pool, *protocol;
	int repeats;
	bool json;
	struct { int opt; const char *arg; } over[MAX_OVERRIDES];
	int nover;
};

struct student {
	uint32_t seed;
	struct learner learner;
	double sum;            /* of the epoch's losses so far */
	struct result res;
};

/* What all students share. */
struct run {
	const struct options *o;
	struct protocol pr;
	struct schedule sched;
	struct val *header;       /* of what comes in; owned */
	struct net *net;
	struct trainer trainer;   /* lent to each student in turn */
	struct workspace *ws;
	unsigned char *decay;     /* (ntheta) or NULL */
	long batches, total;      /* steps an epoch; in all */
	struct student *student;
	struct imageview val;
};

struct batch {
	int n;
	const float *x;           /* (n,C,H,W) */
	int64_t *label, *partner; /* (n); partner NULL: not mixed */
	float lambda;
	const float *soft;        /* (n,K) logits, or NULL */
};

static void parse(struct options *o, int argc, char **argv)
{
	enum { JSON = 256, PROTOCOL };
	static const struct option longs[] = {
		CLI_LONG, PROTO_LONG, { "json", 0, NULL, JSON }, { "protocol", 1, NULL, PROTOCOL }, { 0 }
	};
	struct protocol scratch = *protocol_for(FEED_IMAGES);
	int c;

	while ((c = getopt_long(argc, argv, CLI_SHORT PROTO_SHORT "a:t:r:p:", longs, NULL)) != -1)
		switch (c) {
		case 'a': o->arch = optarg; break;
		case 't': o->val = optarg; break;
		case 'r': o->repeats = (int)eint("-r", optarg, 1, 10000); break;
		case 'p': o->pool = optarg; break;
		case JSON: o->json = true; break;
		case PROTOCOL:
			if (!protocol_find(optarg))
				usage("--protocol %s: hard-dsa, soft or hard expected", optarg);
			o->protocol = optarg;
			break;
		case '?': exit(2); /* getopt has said why */
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
	if (optind < argc)
		usage("%s: no file arguments; images or recipes come on standard input", argv[optind]);
	if (!o->val)
		usage("-t VAL is needed");
	if (!o->arch == !o->pool)
		usage("one of -a ARCH and -p POOL is needed");
	if (o->pool && (o->nover || o->protocol || o->repeats > 1))
		usage("-p measures checkpoints as they are: no protocol, no repeats");
}

static void choose_protocol(struct run *u, enum feed feed)
{
	const struct options *o = u->o;
	static const char *const what[] = { "images", "recipes", "labelled recipes" };

	u->pr = *(o->protocol ? protocol_find(o->protocol) : protocol_for(feed));
	for (int i = 0; i < o->nover; i++) {
		const char *name = protocol_images_only(o->over[i].opt);

		if (name && feed != FEED_IMAGES)
			die("%s: recipes fix this themselves", name);
		protocol_option(&u->pr, o->over[i].opt, o->over[i].arg);
	}
	if ((u->pr.feed == FEED_IMAGES) != (feed == FEED_IMAGES))
		die("protocol %s is for %s, %s came in", u->pr.name, what[u->pr.feed], what[feed]);
	if (u->pr.loss == LOSS_KL && feed != FEED_LABELLED)
		die("%s came in, but the kl loss needs recipes with soft labels (softlabel)", what[feed]);
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

static void validate(const struct imageview *v, const struct net *net, const struct weights *w, struct workspace *ws,
	const char *who, struct result *res)
{
	struct source images = imageview_source(v);
	double share;
	char err[ERRLEN];

	if (course_measure(&images, net, w, ws, &share, &res->loss, err) < 0)
		die("%s: %s", who, err);
	res->accuracy = 100.0 * share;
}

static void set_optimiser(const struct run *u, struct optim *o)
{
	o->momentum = u->pr.momentum;
	o->nesterov = u->pr.nesterov;
	o->weight_decay = u->pr.wd;
}

/* Flags: weight decay for all parameters but those of one dimension. */
static unsigned char *decay_flags(const struct net *net)
{
	unsigned char *d = emalloc(net->ntheta);

	memset(d, 1, net->ntheta);
	for (int i = 0; i < net->nparam; i++) {
		const struct param *p = &net->param[i];

		if ((p->role == P_WEIGHT || p->role == P_BIAS) && p->ndim < 2)
			memset(d + p->offset, 0, p->count);
	}
	return d;
}

/* batch: images a step at most; batches: steps an epoch. */
static void prepare(struct run *u, int batch, long batches, long total)
{
	const struct options *o = u->o;
	char err[ERRLEN];
	int chw[3];

	u->batches = batches;
	u->total = total;
	schedule_parse(&u->sched, u->pr.sched, u->pr.lr, err); /* checked on the command line */
	u->sched.warmup *= batches;
	u->sched.step_every *= batches;
	header_shape(u->header, chw); /* checked with the validation set */
	u->net = net_arch(o->arch, chw, header_nclass(u->header), err);
	if (!u->net)
		die("%s", err);
	u->ws = ws_new();
	if (trainer_new(&u->trainer, u->net, batch, u->ws, err) < 0)
		die("%s: %s", o->arch, err);
	u->decay = u->pr.decay_1d ? NULL : decay_flags(u->net);
	u->student = ecalloc(o->repeats, sizeof *u->student);
	for (int r = 0; r < o->repeats; r++) {
		struct student *s = &u->student[r];

		s->seed = o->cli.seed + (uint32_t)r;
		s->res.arch = u->net->arch;
		s->res.name = eprintf_str("%u", s->seed);
		s->learner = learner_new(u->net, u->pr.opt, s->seed, RNG_STUDENT);
		s->learner.decay = u->decay;
		set_optimiser(u, &s->learner.opt);
	}
	if (o->cli.verbose) {
		warn("protocol %s: %s, %ld steps of up to %d images", u->pr.name, optim_name[u->pr.opt], total, batch);
		warn("%s: %lld parameters, %.1f MB of activations", o->arch, (long long)net_params(u->net),
			ws_bytes(u->ws) / 1e6);
		plan_bind(u->trainer.plan, u->ws);
		plan_describe(u->trainer.plan);
	}
}

struct target {
	const struct protocol *pr;
	const struct batch *b;
};

static double batch_loss(const void *data, const float *logits, int n, int k, float *dlogits)
{
	const struct protocol *pr = ((const struct target *)data)->pr;
	const struct batch *b = ((const struct target *)data)->b;

	if (pr->loss == LOSS_KL)
		return loss_kl(logits, b->soft, n, k, pr->temperature, pr->t2, dlogits);
	if (b->partner)
		return loss_ce_mixed(logits, b->label, b->partner, b->lambda, n, k, dlogits);
	return loss_ce(logits, b->label, n, k, dlogits);
}

static void student_step(struct run *u, int r, const struct batch *b, long step)
{
	struct student *s = &u->student[r];
	struct target target = { &u->pr, b };
	bool late = u->pr.fresh && u->total > 1 && step >= u->total / 2;
	double start = now(), rate = schedule_rate(&u->sched, step, u->total) * (late ? 0.1 : 1), loss;

	if (late && step == u->total / 2) {
		optim_free(&s->learner.opt);
		s->learner.opt = optim_new(u->pr.opt, u->net->ntheta);
		set_optimiser(u, &s->learner.opt);
	}
	loss = train_step(&u->trainer, &s->learner, b->n, b->x, batch_loss, &target, rate);
	if (!isfinite(loss))
		die("student %d (seed %u), step %ld: the loss is not finite", r, s->seed, step + 1);
	s->sum += loss;
	s->res.seconds += now() - start;
	if ((step + 1) % u->batches == 0 || step + 1 == u->total) {
		s->res.train_loss = s->sum / (step % u->batches + 1);
		s->sum = 0;
		cli_log(&u->o->cli, "epoch", "student", (double)r, "seed", (double)s->seed, "step", (double)(step + 1),
			"rate", rate, "loss", s->res.train_loss, NULL);
	}
}

static void show_progress(const struct run *u, long done, long total, const struct student *s)
{
	char extra[64];

	snprintf(extra, sizeof extra, "loss %.4f", s->res.train_loss);
	progress(u->o->repeats > 1 ? "steps of all students" : "steps", done, total, extra);
}

static void finish(struct run *u, int r)
{
	struct student *s = &u->student[r];
	char *who = eprintf_str("student %d (seed %u)", r, s->seed);
	double start = now();

	validate(&u->val, u->net, &s->learner.w, u->ws, who, &s->res);
	s->res.seconds += now() - start;
	cli_log(&u->o->cli, "student", "seed", (double)s->seed, "accuracy", s->res.accuracy, "loss", s->res.loss,
		"train_loss", s->res.train_loss, "seconds", s->res.seconds, NULL);
	free(who);
}

/* Images x (n,C,H,W) <- those in order[0..n), each with its own parameters of the one DSA group of this step. */
static void augmented(const struct run *u, uint32_t seed, long step, const struct imageset *set, const float *images,
	const int64_t *order, int n, float *x)
{
	struct rng r = rng_at(seed, RNG_STUDENT, 0, (uint32_t)step, 0);
	size_t chw = (size_t)set->c * set->h * set->w;
	struct dsa *d = ecalloc(n, sizeof *d);

	if (u->pr.dsa) {
		enum dsa_kind kind = dsa_draw_kind(&r, u->pr.dsa);

		for (int i = 0; i < n; i++)
			dsa_draw(&r, kind, set->h, set->w, &d[i]);
	}
#pragma omp parallel for
	for (int i = 0; i < n; i++)
		if (u->pr.dsa)
			dsa_apply(x + i * chw, images + order[i] * chw, set->c, set->h, set->w, &d[i]);
		else
			memcpy(x + i * chw, images + order[i] * chw, chw * sizeof *x);
	free(d);
}

static void train_on_images(struct run *u, struct ts_reader *in)
{
	struct imageset set;

	choose_protocol(u, FEED_IMAGES);
	if (imageset_read(in, &set) < 0)
		die("%s", in->err);
	read_validation(&u->val, u->o->val, u->header);

	int batch = (int)MIN((int64_t)u->pr.batch, set.n), repeats = u->o->repeats;
	long batches = (set.n + batch - 1) / batch;

	prepare(u, batch, batches, u->pr.steps ? u->pr.steps : u->pr.epochs * batches);
	float *images = imageset_all(&set), *x = ealigned((size_t)batch * set.c * set.h * set.w, sizeof *x);
	int64_t *order = ecalloc(set.n, sizeof *order), *label = ecalloc(batch, sizeof *label);

	for (int r = 0; r < repeats; r++) {
		for (long step = 0; step < u->total; step++) {
			long at = step % batches * batch;
			struct batch b = { .n = (int)MIN((int64_t)batch, set.n - at), .x = x, .label = label };

			if (!at) {
				struct rng rng = rng_at(u->student[r].seed, RNG_SHUFFLE, (uint32_t)(step / batches), 0, 0);

				rng_permute(&rng, order, set.n);
			}
			augmented(u, u->student[r].seed, step, &set, images, order + at, b.n, x);
			for (int i = 0; i < b.n; i++)
				label[i] = set.label[order[at + i]];
			student_step(u, r, &b, step);
			show_progress(u, r * u->total + step + 1, repeats * u->total, &u->student[r]);
		}
		finish(u, r);
	}
	free(images);
	free(x);
	free(order);
	free(label);
	imageset_free(&set);
}

static void train_on_recipes(struct run *u, struct ts_reader *in)
{
	struct recipe_stream s;
	struct recipe rec;
	struct val *frame;
	char err[ERRLEN];
	int got, labelled;

	if (recipe_stream_begin(&s, in) < 0)
		die("%s", s.r.err);
	const struct imageset *set = &s.set;
	size_t chw = (size_t)set->c * set->h * set->w;
	float *x = ealigned(s.batch * chw, sizeof *x), *scratch = ealigned(s.batch * chw, sizeof *scratch);
	float *images = imageset_all(set), *soft = ealigned((size_t)s.batch * set->nclass, sizeof *soft);
	int64_t *label = ecalloc(s.batch, sizeof *label), *partner = ecalloc(s.batch, sizeof *partner);

	/* The first batch shows whether there are labels; the protocol follows from it. */
	for (long step = 0; (got = recipe_stream_next(&s, &frame, &rec)) > 0; step++) {
		labelled = soft_from_frame(frame, rec.n, set->nclass, soft, err);
		if (labelled < 0)
			die("%s: frame %lld: %s", s.r.name, (long long)s.r.nframes - 1, err);
		if (!step) {
			choose_protocol(u, labelled ? FEED_LABELLED : FEED_RECIPES);
			read_validation(&u->val, u->o->val, u->header);
			prepare(u, (int)s.batch, s.batches, s.epochs * s.batches);
		}
		if (!labelled && u->pr.loss == LOSS_KL)
			die("%s: frame %lld: no soft labels, unlike the frames before", s.r.name, (long long)s.r.nframes - 1);
		recipe_replay(&rec, images, set->c, set->h, set->w, x, scratch);
		for (int i = 0; i < rec.n; i++) {
			label[i] = set->label[rec.index[i]];
			partner[i] = set->label[rec.index[rec.partner[i]]];
		}
		struct batch b = {
			rec.n, x, label, rec.mix.kind == MIX_NONE ? NULL : partner, rec.mix.lambda, soft
		};

		for (int r = 0; r < u->o->repeats; r++)
			student_step(u, r, &b, step);
		show_progress(u, (step + 1) * u->o->repeats, u->total * u->o->repeats, &u->student[0]);
		val_free(frame);
		recipe_free(&rec);
	}
	progress_done();
	if (got < 0)
		die("%s", s.r.err);
	for (int r = 0; r < u->o->repeats; r++)
		finish(u, r);
	free(x);
	free(scratch);
	free(images);
	free(soft);
	free(label);
	free(partner);
	recipe_stream_close(&s);
}

static json_t *json_protocol(const struct run *u)
{
	const struct protocol *p = &u->pr;
	json_t *j = json_pack("{s:s, s:s, s:s, s:f, s:f, s:s, s:b, s:b, s:s, s:i}", "name", p->name, "loss",
		loss_name[p->loss], "opt", optim_name[p->opt], "lr", p->lr, "wd", p->wd, "sched", p->sched, "decay_1d",
		p->decay_1d, "fresh_optimiser", p->fresh, "dsa", p->dsa_names, "steps", (int)u->total);

	if (p->loss == LOSS_KL)
		json_object_update_new(j, json_pack("{s:f, s:b}", "temperature", p->temperature, "t2", p->t2));
	if (p->opt == OPT_SGD)
		json_object_update_new(j, json_pack("{s:f, s:b}", "momentum", p->momentum, "nesterov", p->nesterov));
	return j;
}

static void print_json(FILE *fp, const struct run *u, const struct result *res, int n)
{
	const struct val *history = u->header ? val_get(u->header, "history") : NULL;
	json_t *j = results_json(res, n, u->header ? "students" : "checkpoints", u->header ? "seed" : "member");

	if (u->header) {
		json_object_set_new(j, "protocol", json_protocol(u));
		for (int r = 0; r < n; r++) /* numbers, not their names */
			json_object_set_new(json_array_get(json_object_get(j, "students"), r), "seed",
				json_integer(u->student[r].seed));
	}
	if (history)
		json_object_set_new(j, "history", json_val(history));
	json_dumpf(j, fp, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
	putc('\n', fp);
	json_decref(j);
}

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
	int n = u->o->repeats;
	struct result *res = ecalloc(n, sizeof *res);

	for (int r = 0; r < n; r++)
		res[r] = u->student[r].res;
	report(u, res, n);
	for (int r = 0; r < n; r++) {
		free((char *)res[r].name);
		learner_free(&u->student[r].learner);
	}
	free(res);
	trainer_free(&u->trainer);
	net_free(u->net);
	free(u->student);
	free(u->decay);
	val_free(u->header);
}

static void measure_pool(struct run *u)
{
	struct teacher *t;
	char err[ERRLEN];
	int n;

	read_validation(&u->val, u->o->val, NULL);
	if (!(t = teachers_read(u->o->pool, u->val.set.header, &n, err)))
		die("%s", err);
	struct result *res = ecalloc(n, sizeof *res);

	u->ws = ws_new();
	for (int i = 0; i < n; i++) {
		const char *member = t[i].ck.member ? t[i].ck.member : "-";
		double start = now();

		res[i] = (struct result){ .arch = t[i].ck.net->arch, .name = member, .train_loss = NAN };
		validate(&u->val, t[i].net, &t[i].ck.w, u->ws, member, &res[i]);
		res[i].seconds = now() - start;
		progress("checkpoints", i + 1, n, NULL);
	}
	report(u, res, n);
	free(res);
	teachers_free(t, n);
}

int main(int argc, char **argv)
{
	struct options o = { .repeats = 1 };
	struct run u = { .o = &o };
	struct ts_reader in;

	progname = "evaluate";
	signal(SIGPIPE, SIG_IGN); /* a closed pipe is reported like any other failed write */
	parse(&o, argc, argv);
		if (o.pool) {
		measure_pool(&u);
	} else {
		if (ts_open(&in, NULL, NULL) < 0)
			die("%s", in.err);
		u.header = val_copy(in.header);
		if (!strcmp(header_kind(in.header), "images")) {
			train_on_images(&u, &in);
			ts_close(&in);
		} else if (!strcmp(header_kind(in.header), "recipes")) {
			train_on_recipes(&u, &in);
		} else {
			die("%s: a stream of kind %s; images or recipes expected", in.name, header_kind(in.header));
		}
		report_students(&u);
	}
	imageview_free(&u.val);
	ws_free(u.ws);
	return 0;
}
