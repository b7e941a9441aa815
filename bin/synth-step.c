/* synth-step(1): units -> the same units, some iterations of synthesis further */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../formats/frame.h"
#include "../formats/imageview.h"
#include "../formats/stats.h"
#include "../formats/unit.h"
#include "../lib/args.h"
#include "../lib/cli.h"
#include "../lib/device.h"
#include "../lib/synth.h"
#include "../lib/times.h"

/* Between saves, where the command line does not say: little against the time that one takes. */
enum { SAVE_SECONDS = 10 };

static const char synopsis[] =
    "synth-step -p POOL [-s STATS] [-N TOTAL] [-n NOW] [options] <units >units\n"
    "  -p POOL              teachers: a pool, or one checkpoint\n"
    "  -s STATS             statistics to match (bnstats); default: the teachers' running ones\n"
    "  -N TOTAL             iterations of the whole schedule; may be left out where units are under way\n"
    "  -n NOW               iterations to do now (all that are left)\n"
    "  --teachers T         teachers an iteration (3)\n"
    "  --draw WHAT          index, unit or iteration: what each draw of teachers is for (index)\n"
    "  --match WHAT         global, class, mixed[:W] (class with --real and where STATS has classes, else global),\n"
    "                       or features[:W], maps[:W]\n"
    "  --real TRAIN         match those of some of these images, drawn anew at every iteration\n"
    "  --real-batch B       so many of each class (64)\n"
    "  --prior POOL         teachers that predict, instead of those of -p, which are matched only\n"
    "  --prior-teachers T   of them an iteration (as many as --teachers)\n"
    "  --alpha A            weight of the statistics (1)\n"
    "  --ce W               weight of the cross-entropy (1; with --match features 0, unless there is a --prior)\n"
    "  --first M            multiplier of the first BN layer (10)\n"
    "  --bn-mean            average the statistics over teachers instead of adding them up\n"
    "  --ensemble WHAT      logits, probs or each (logits)\n"
    "  --opt adam|sgd       (adam)\n"
    "  --lr R               rate (0.1)\n"
    "  --betas B1,B2        of adam (0.5,0.9)\n"
    "  --momentum M         of sgd (0.5)\n"
    "  --no-clamp           pixels may leave the range of real ones while they are under way\n"
    "  --wd W               weight decay (0)\n"
    "  --sched WHAT         cosine or const (cosine)\n"
    "  --aug LIST           none, dsa[:GROUPS], or of rrc:MIN[:MAX] or cda:MIN[:MAX], flip[:P], roll:N or\n"
    "                       roll:LEAST:MOST, joined by commas (none)\n"
    "  --aug-each WHAT      unit or class: what each draw is for (unit; class with --real)\n"
    "  --float              keep finished units as f32\n"
    "  --state FILE         resume from, and save to, this file\n"
    "  --save-every N       iterations of a unit between saves (as many as take 10 s)\n"
    "  --header             write only the header that the output would have\n"
    "  --precision fp32|tf32|bf16   of the teachers' operands (fp32)\n"
    "  --seed N --threads N --device cpu|cuda|auto --isa NAME --log FILE -o FILE -v -h -V";

struct pool {
	const char *path;        /* NULL: none */
	struct teacher *t;       /* (n) */
	int n;
};

struct job {
	struct cli cli;
	struct synth_opts opt;
	struct pool pool, prior; /* -p's, --prior's */
	const char *stats, *real;
	struct layer_stats **target; /* (pool.n) */
	const char *aug;
	bool no_clamp;
	int real_batch;
	struct imageview images; /* --real's, and by class */
	struct fresh *fresh;
	long long total, now;    /* 0: not given */
	double class_weight;     /* -1: not given */
	struct unit_form form;
	struct teacher_ref *ref; /* (pool.n + prior.n) */
	int room;                /* images that the synth takes at most */
	const char *state;       /* NULL: none is kept */
	int64_t every;           /* iterations between saves; 0: SAVE_SECONDS count */
	struct state saved;
	int at_once;             /* iterations of a call */
};

struct task { /* one unit's */
	struct val *frame;        /* as it came in */
	struct val *saved;        /* as far as it has come already, or NULL */
	int64_t place;            /* in the input */
	uint64_t input;           /* the hash that came with it */
	int64_t first, until;     /* iterations done when it came in; to be done when it goes out */
	struct val *header;       /* the output's */
};

static const char *const draws[] = { "index", "unit", "iteration" };
static const char *const ensembles[] = { "logits", "probs", "each" };
static const char *const scheds[] = { "const", "cosine" };
static const char *const optims[] = { "sgd", "adam" };
static const char *const each[] = { "unit", "class" };

static void parse(struct job *j, int argc, char **argv)
{
	enum { TEACHERS = 1, DRAW, MATCH, ALPHA, FIRST, BN_MEAN, ENSEMBLE, LR, BETAS, WD, SCHED, AUG, FLOAT, REAL,
		REAL_BATCH, CE, PRIOR, PRIOR_TEACHERS, OPT, MOMENTUM, NO_CLAMP, AUG_EACH, STATE, SAVE_EVERY };
	static const struct option longs[] = {
		{ "teachers", 1, NULL, TEACHERS }, { "draw", 1, NULL, DRAW }, { "match", 1, NULL, MATCH },
		{ "alpha", 1, NULL, ALPHA }, { "first", 1, NULL, FIRST }, { "bn-mean", 0, NULL, BN_MEAN },
		{ "ensemble", 1, NULL, ENSEMBLE }, { "lr", 1, NULL, LR }, { "betas", 1, NULL, BETAS }, { "wd", 1, NULL, WD },
		{ "sched", 1, NULL, SCHED }, { "aug", 1, NULL, AUG }, { "float", 0, NULL, FLOAT },
		{ "real", 1, NULL, REAL }, { "real-batch", 1, NULL, REAL_BATCH }, { "ce", 1, NULL, CE },
		{ "prior", 1, NULL, PRIOR }, { "prior-teachers", 1, NULL, PRIOR_TEACHERS }, { "opt", 1, NULL, OPT },
		{ "momentum", 1, NULL, MOMENTUM }, { "no-clamp", 0, NULL, NO_CLAMP }, { "aug-each", 1, NULL, AUG_EACH },
		{ "state", 1, NULL, STATE }, { "save-every", 1, NULL, SAVE_EVERY },
		CLI_LONG, CLI_RUN_LONG, { 0 }
	};
	struct synth_opts *o = &j->opt;
	const char *rest;
	char *second;
	int c, aug_each = -1;

	*o = (struct synth_opts){ .subset = 3, .ce = -1, .alpha = 1, .first = 10, .opt = OPT_ADAM, .lr = 0.1, .beta1 = 0.5,
		.beta2 = 0.9, .momentum = 0.5, .sched = SCHED_COSINE };
	j->real_batch = 64;
	j->aug = "none";
	j->class_weight = -1;
	while ((c = getopt_long(argc, argv, "p:s:N:n:" CLI_SHORT, longs, NULL)) != -1)
		switch (c) {
		case 'p': j->pool.path = optarg; break;
		case 's': j->stats = optarg; break;
		case 'N': j->total = eint("-N", optarg, 1, INT32_MAX); break;
		case 'n': j->now = eint("-n", optarg, 1, INT32_MAX); break;
		case TEACHERS: o->subset = eint("--teachers", optarg, 1, 1 << 20); break;
		case DRAW: o->draw = echoice("--draw", optarg, draws, LEN(draws)); break;
		case MATCH:
			o->features = o->depth = false;
			o->deviations = 0;
			if (!strcmp(optarg, "global"))
				j->class_weight = 0;
			else if (!strcmp(optarg, "class"))
				j->class_weight = 1;
			else if (eword(optarg, "mixed", &rest))
				j->class_weight = rest ? ereal("--match mixed", rest, 0, 1) : 0.5;
			else if (eword(optarg, "features", &rest) || eword(optarg, "maps", &rest)) {
				o->features = true;
				o->depth = *optarg == 'm';
				o->deviations = rest ? ereal("--match", rest, 0, 1e9) : 0;
			} else
				usage("--match %s: global, class, mixed[:W], features[:W] or maps[:W] expected", optarg);
			break;
		case REAL: j->real = optarg; break;
		case REAL_BATCH: j->real_batch = eint("--real-batch", optarg, 1, 1 << 20); break;
		case CE: o->ce = ereal("--ce", optarg, 0, 1e9); break;
		case PRIOR: j->prior.path = optarg; break;
		case PRIOR_TEACHERS: o->predict = eint("--prior-teachers", optarg, 1, 1 << 20); break;
		case OPT: o->opt = echoice("--opt", optarg, optims, LEN(optims)); break;
		case MOMENTUM: o->momentum = ereal("--momentum", optarg, 0, 1); break;
		case NO_CLAMP: j->no_clamp = true; break;
		case AUG_EACH: aug_each = echoice("--aug-each", optarg, each, LEN(each)); break;
		case ALPHA: o->alpha = ereal("--alpha", optarg, 0, 1e9); break;
		case FIRST: o->first = ereal("--first", optarg, 0, 1e9); break;
		case BN_MEAN: o->mean_bn = true; break;
		case ENSEMBLE: o->ensemble = echoice("--ensemble", optarg, ensembles, LEN(ensembles)); break;
		case LR: o->lr = ereal("--lr", optarg, 0, 1e9); break;
		case BETAS:
			second = strchr(optarg, ',');
			if (!second)
				usage("--betas %s: two numbers expected", optarg);
			*second = '\0';
			o->beta1 = ereal("--betas", optarg, 0, 0.999999);
			o->beta2 = ereal("--betas", second + 1, 0, 0.999999);
			break;
		case WD: o->weight_decay = ereal("--wd", optarg, 0, 1e9); break;
		case SCHED: o->sched = echoice("--sched", optarg, scheds, LEN(scheds)); break;
		case AUG: j->aug = optarg; break;
		case STATE: j->state = optarg; break;
		case SAVE_EVERY: j->every = eint("--save-every", optarg, 1, INT32_MAX); break;
		case FLOAT: j->form.keep_float = true; break;
		default: cli_option(&j->cli, c, synopsis);
		}
	if (optind < argc)
		usage("%s: no file arguments; units come on standard input", argv[optind]);
	if (!j->pool.path)
		usage("-p POOL is needed");
	if (j->every && !j->state)
		usage("--save-every goes with --state");
	if (j->cli.header && !j->total)
		usage("--header: -N TOTAL is needed, units are not read");
	if (o->features && !j->real)
		usage("--match features, maps: real images to match are needed (--real)");
	if (o->features && o->ce > 0 && !j->prior.path)
		usage("--match features, maps: the classifier is left out, --ce 0 it is, or a --prior");
	if (o->predict && !j->prior.path)
		usage("--prior-teachers goes with --prior");
	if (j->real && j->stats)
		usage("-s and --real: statistics come from one of them");
	if (o->ce < 0)
		o->ce = o->features && !j->prior.path ? 0 : 1;
	if (!o->predict)
		o->predict = o->subset;
	synth_aug(o, j->aug);
	o->per_class = aug_each < 0 ? j->real != NULL : aug_each;
	o->seed = j->cli.seed;
	j->form.opt = o->opt;
}

/* A file among the arguments: its digest and its history; nothing where it is not given. */
static void put_file(struct val *a, const char *key, const char *path)
{
	struct val *v;
	char err[ERRLEN];

	if (!path)
		return;
	if (history_file(path, &v, err) < 0)
		die("%s", err);
	val_put(a, key, v);
}

/* Everything that changes the result, and nothing else: -n does not, the run may be split as one likes. */
static struct val *arguments(const struct job *j)
{
	const struct synth_opts *o = &j->opt;
	struct val *a = val_map();

	val_put(a, "N", val_int(j->total));
	put_file(a, "pool", j->pool.path);
	put_file(a, "stats", j->stats);
	val_put(a, "teachers", val_int(o->subset));
	val_put(a, "draw", val_str(draws[o->draw]));
	put_file(a, "real", j->real);
	if (j->real)
		val_put(a, "real_batch", val_int(j->real_batch));
	if (o->features)
		val_put(a, "match", val_str(o->depth ? "maps" : "features"));
	if (o->deviations > 0)
		val_put(a, "deviations", val_f64(o->deviations));
	if (!o->features)
		val_put(a, "class_weight", val_f64(o->class_weight));
	put_file(a, "prior", j->prior.path);
	if (j->prior.path)
		val_put(a, "prior_teachers", val_int(o->predict));
	if (o->ce != 1)
		val_put(a, "ce", val_f64(o->ce));
	val_put(a, "alpha", val_f64(o->alpha));
	if (!o->features)
		val_put(a, "first", val_f64(o->first));
	val_put(a, "bn_mean", val_bool(o->mean_bn));
	val_put(a, "ensemble", val_str(ensembles[o->ensemble]));
	val_put(a, "lr", val_f64(o->lr));
	if (o->opt == OPT_SGD) {
		val_put(a, "opt", val_str("sgd"));
		val_put(a, "momentum", val_f64(o->momentum));
	} else {
		val_put(a, "beta1", val_f64(o->beta1));
		val_put(a, "beta2", val_f64(o->beta2));
	}
	if (j->no_clamp)
		val_put(a, "clamp", val_bool(false));
	val_put(a, "wd", val_f64(o->weight_decay));
	val_put(a, "sched", val_str(scheds[o->sched]));
	val_put(a, "aug", val_str(j->aug));
	if (o->per_class)
		val_put(a, "aug_each", val_str("class"));
	if (o->precision != PRECISION_FP32)
		val_put(a, "precision", val_str(precision_name[o->precision]));
	val_put(a, "float", val_bool(j->form.keep_float));
	val_put(a, "seed", val_int(o->seed));
	return a;
}

/* Real images as the units' header has them. */
static void read_real(struct job *j, const struct val *header)
{
	char err[ERRLEN];

	if (imageview_read(&j->images, j->real, err) < 0)
		die("%s", err);
	if (imageview_fit(&j->images, header, j->form.chw, false, err) < 0)
		die("%s: %s", j->real, err);
	j->fresh = fresh_new(imageview_dataset(&j->images), header_nclass(header), j->real_batch);
	j->opt.fresh = j->fresh;
}

/* A unit out of its frame, or as far as its saved one says. dies with the frame's number. */
static void load_unit(const struct job *j, const struct ts_reader *r, const struct val *frame, struct unit *u)
{
	struct unit_data d;
	char err[ERRLEN];

	if (unit_get(&j->form, r->header, frame, &d, err) < 0)
		die("%s: frame %lld: %s", r->name, (long long)r->nframes - 1, err);
	if (d.steps && d.steps != j->total)
		die("%s: unit %lld: iteration %lld of %lld, but -N is %lld", r->name, (long long)d.number, (long long)d.step,
		    (long long)d.steps, j->total);
	if (d.steps && d.step == d.steps)
		die("%s: unit %lld is finished: it has had its %lld iterations", r->name, (long long)d.number, (long long)d.steps);

	size_t count = (size_t)d.n * j->form.chw[0] * j->form.chw[1] * j->form.chw[2];

	*u = (struct unit){ .n = d.n, .number = d.number, .label = d.label, .index = d.index, .x = d.x, .total = j->total,
		.opt = optim_new(j->form.opt, count) };
	u->opt.step = d.step;
	if (d.m)
		memcpy(u->opt.m, d.m, count * sizeof *d.m);
	if (d.v)
		memcpy(u->opt.v, d.v, count * sizeof *d.v);
}

/* The unit's frame as it is now: under way with the optimiser's moments; finished, the product. */
static struct val *store_unit(const struct job *j, const struct val *frame, const struct unit *u)
{
	struct unit_data d = { u->n, u->number, u->opt.step, u->total, u->label, u->index, u->x, u->opt.m, u->opt.v };

	return unit_put(&j->form, frame, &d);
}

/* The range that pixels are held in, that of real ones or none; one array of two halves, the caller's to free. */
static float *set_range(const struct job *j, struct unit *u)
{
	size_t plane = (size_t)j->form.chw[1] * j->form.chw[2], pixels = u->n * plane * j->form.chw[0];
	float *lo = emalloc(2 * pixels * sizeof *lo), *hi = lo + pixels;

	for (size_t i = 0; i < pixels; i++) {
		int c = i / plane % j->form.chw[0];

		lo[i] = j->no_clamp ? -INFINITY : (0 - j->form.norm.mean[c]) / j->form.norm.std[c];
		hi[i] = j->no_clamp ? INFINITY : (1 - j->form.norm.mean[c]) / j->form.norm.std[c];
	}
	u->lo = lo, u->hi = hi;
	return lo;
}

/* The loss has run away, or the device is lost. The output is not made; with -o, what was done to this unit stays behind
 * beside it, to be taken up again, with other options perhaps. */
static _Noreturn void give_up(const struct job *j, const struct task *t, const struct unit *u, const char *why)
{
	struct ts_writer w;
	struct val *good;
	char *path;

	if (!j->cli.out || u->opt.step == t->first)
		die("%s", why);
	path = eprintf_str("%s.good", j->cli.out);
	good = store_unit(j, t->frame, u);
	if (ts_create(&w, path, t->header) < 0 || ts_put(&w, good) < 0 || ts_finish(&w) < 0)
		die("%s; its last good state could not be kept: %s", why, w.err);
	die("%s; its last good state is in %s", why, path);
}

/* now_frame: the unit's, as far as it is */
static void save(struct job *j, const struct task *t, const struct val *now_frame, const struct unit *u)
{
	char err[ERRLEN];

	if (!j->state)
		return;
	units_note(&j->saved, t->place, t->input, now_frame);
	if (state_write(&j->saved, j->state, err) < 0)
		die("%s", err);
	cli_log(&j->cli, "saved", "unit", (double)u->number, "step", (double)u->opt.step, NULL);
}

/* Iterations that the unit may do until it is to be saved. */
static int64_t until_save(const struct job *j, const struct unit *u)
{
	return j->state && j->every ? j->every - u->opt.step % j->every : INT64_MAX;
}

static bool save_due(const struct job *j, const struct unit *u, double last)
{
	return j->state && (j->every ? u->opt.step % j->every == 0 : now() - last >= SAVE_SECONDS);
}

/* A device that works by itself is asked for as many iterations as take about a second, which the units before have told;
 * the processor, for one. */
static void run_unit(struct job *j, struct synth *s, const struct task *t, struct unit *u)
{
	enum { MOST = 4096 };
	struct synth_loss loss[MOST] = { 0 }, last = { 0 };
	char err[ERRLEN], text[96];
	double start = now(), saved = start;
	int64_t resumed = u->opt.step;
	int rc = 0;

	while (u->opt.step < t->until && rc == 0) {
		int64_t before = u->opt.step;
		double began = now();
		int k = MAX(j->at_once, 1), n = MIN(k, MIN(t->until - before, until_save(j, u)));

		rc = synth_run(s, u, n, loss, err);
		if (j->cli.verbose && before == resumed)
			warn("unit %lld: %.1f MB of workspace", (long long)u->number, synth_bytes(s) / 1e6);
		for (int64_t i = before; i < u->opt.step; i++) {
			last = loss[i - before];
			cli_log(&j->cli, "step", "unit", (double)u->number, "step", i + 1.0, "ce", last.ce, "bn", last.bn, NULL);
		}
		snprintf(text, sizeof text, "unit %lld  ce %.3f  bn %.3f", (long long)u->number, last.ce, last.bn);
		progress("iterations", u->opt.step, t->until, text);
		if (!device_is_host() && n == k)
			j->at_once = MAX(1, MIN(MOST, MIN(4 * k, (int)(k / (now() - began)))));
		if (rc == 0 && u->opt.step < t->until && save_due(j, u, saved)) {
			struct val *so_far = store_unit(j, t->frame, u);

			save(j, t, so_far, u);
			val_free(so_far);
			saved = now();
		}
	}
	if (rc < 0)
		give_up(j, t, u, err);
	progress_done();
	if (j->cli.verbose)
		warn("unit %lld: iteration %lld of %lld, cross-entropy %.4f, statistics %.4f, %.1f s", (long long)u->number,
		    (long long)u->opt.step, (long long)u->total, last.ce, last.bn, now() - start);
}

static bool next_unit(struct ts_reader *r, struct task *t)
{
	const uint8_t *p;
	char err[ERRLEN];
	size_t n;
	int got = ts_next_raw(r, &p, &n);

	if (got < 0)
		die("%s", r->err);
	if (!got)
		return false;
	*t = (struct task){ .place = r->nframes - 1, .input = seal_hash(p, n), .header = t->header };
	if (!(t->frame = ts_parse(p, n, err)))
		die("%s: frame %lld: %s", r->name, (long long)t->place, err);
	t->first = val_get_int(t->frame, "step", 0);
	return true;
}

/* How far the unit is to come; t->saved is what the state has of it. */
static void begin(const struct job *j, struct task *t)
{
	char err[ERRLEN];

	if (j->now && t->first + j->now > j->total)
		die("unit %lld: %lld more iterations would pass its %lld", (long long)val_get_int(t->frame, "unit", -1), j->now,
		    j->total);
	t->until = j->now ? t->first + j->now : j->total;
	if (j->state && units_find(&j->saved, t->place, t->input, &t->saved, err) < 0)
		die("%s: %s", j->state, err);
}

/* From where it is to where it is to come; *s: made anew where it has no room. Returns the unit's frame. */
static struct val *one_unit(struct job *j, const struct ts_reader *r, const struct task *t, struct synth **s)
{
	struct unit u;
	struct val *out;
	float *range;

	load_unit(j, r, t->saved ? t->saved : t->frame, &u);
	if (t->saved && j->cli.verbose)
		warn("unit %lld: from iteration %lld", (long long)u.number, (long long)u.opt.step);
	range = set_range(j, &u);
	if (u.n > j->room) {
		synth_free(*s);
		*s = synth_new(&j->opt, j->ref, j->pool.n + j->prior.n, j->room = u.n);
	}
	run_unit(j, *s, t, &u);
	out = store_unit(j, t->frame, &u);
	save(j, t, out, &u);
	free(u.x);
	free(range);
	optim_free(&u.opt);
	return out;
}

/* Networks and what they match, whatever is said of both. */
static void read_networks(struct job *j, const struct val *header)
{
	struct pool *p = &j->pool, *prior = &j->prior;
	char err[ERRLEN];
	bool classes;

	if (!(p->t = teachers_read(p->path, header, &p->n, err)) ||
	    (prior->path && !(prior->t = teachers_read(prior->path, header, &prior->n, err))))
		die("%s", err);
	j->opt.subset = MIN(j->opt.subset, p->n);
	j->opt.prior = prior->n;
	j->opt.predict = MIN(j->opt.predict, prior->n);
	j->target = j->stats ? stats_read(j->stats, p->t, p->n, header, err) : stats_running(p->t, p->n);
	if (!j->target)
		die("%s", err);
	classes = j->real || (p->t[0].nlayer && j->target[0][0].cmean);
	if (j->class_weight < 0)
		j->class_weight = classes;
	if (j->class_weight > 0 && !classes)
		die("%s: has no class-wise statistics (bnstats --classwise makes them)", j->stats ? j->stats : p->path);
	j->opt.class_weight = j->class_weight;
	j->ref = ecalloc(p->n + prior->n, sizeof *j->ref);
	for (int i = 0; i < p->n; i++) {
		if (j->opt.alpha > 0 && !j->real && (!p->t[i].nlayer || !j->target[i][0].mean))
			die("%s: member %s has no batch norm, so no statistics of its own: -s gives some (bnstats --recompute), or "
			    "--alpha 0 uses its labels alone", p->path, p->t[i].ck.member ? p->t[i].ck.member : "(the only one)");
		j->ref[i] = (struct teacher_ref){ p->t[i].net, &p->t[i].ck.w, j->target[i] };
	}
	for (int i = 0; i < prior->n; i++)
		j->ref[p->n + i] = (struct teacher_ref){ .net = prior->t[i].net, .w = &prior->t[i].ck.w };
}

static void free_networks(struct job *j)
{
	stats_free(j->target, j->pool.t, j->pool.n);
	teachers_free(j->pool.t, j->pool.n);
	if (j->prior.t)
		teachers_free(j->prior.t, j->prior.n);
	free(j->ref);
}

/* The output's header, which says all that the result depends on. */
static struct val *header_of(const struct job *j, const struct val *in)
{
	struct val *h = val_copy(in);

	history_add(h, progname, arguments(j));
	return h;
}

static void put(struct ts_writer *w, const struct val *frame)
{
	if (ts_put(w, frame) < 0 || ts_flush(w) < 0)
		die("%s", w->err);
}

int main(int argc, char **argv)
{
	struct job j = { 0 };
	struct ts_reader r;
	struct ts_writer w;
	struct synth *s = NULL;
	struct task task = { 0 };
	char err[ERRLEN];
	bool more;

	progname = "synth-step";
	parse(&j, argc, argv);
	j.opt.precision = get_precision();
	if (j.opt.precision == PRECISION_BF16 && !j.cli.header && !plan_fast_bf16())
		warn("--precision bf16: this device has no instructions for it, fp32 is faster");
	if (ts_open(&r, NULL, "images") < 0)
		die("%s", r.err);
	if (header_norm(r.header, &j.form.norm) < 0 || header_shape(r.header, j.form.chw) < 0)
		die("%s: the header lacks mean, std or shape", r.name);
	read_networks(&j, r.header);
	if (j.cli.header) {
		ets_header(j.cli.out, header_of(&j, r.header));
		return 0;
	}
	if (j.real)
		read_real(&j, r.header);
	/* The first unit says how long the schedule is where -N does not. */
	if (!(more = next_unit(&r, &task)))
		die("%s: no units in it", r.name);
	if (!j.total && (j.total = val_get_int(task.frame, "steps", 0)) <= 0)
		usage("-N TOTAL is needed: the units are not under way");
	task.header = header_of(&j, r.header);
	if (j.state && units_resume(&j.saved, j.state, task.header, j.now, err) < 0)
		die("%s", err);
	if (ts_create(&w, j.cli.out, task.header) < 0)
		die("%s", w.err);
	for (; more; more = next_unit(&r, &task)) {
		begin(&j, &task);
		if (task.saved && val_get_int(task.saved, "step", 0) == task.until) {
			put(&w, task.saved);
		} else {
			struct val *out = one_unit(&j, &r, &task, &s);

			put(&w, out);
			val_free(out);
		}
		val_free(task.frame);
		val_free(task.saved);
	}
	if (ts_finish(&w) < 0)
		die("%s", w.err);
	state_free(&j.saved);
	synth_free(s);
	fresh_free(j.fresh);
	if (j.real)
		imageview_free(&j.images);
	free_networks(&j);
	val_free(task.header);
	ts_close(&r);
	if (j.cli.verbose)
		times_say();
	return 0;
}
