/* train-ckpt(1): images -> a pool of checkpoints: one run from scratch, or every member of a pool fine-tuned */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../formats/checkpoint.h"
#include "../formats/imageview.h"
#include "../formats/training.h"
#include "../lib/args.h"
#include "../lib/cli.h"
#include "../lib/course.h"
#include "../lib/times.h"

static const char synopsis[] =
	"train-ckpt -a ARCH -e EPOCHS [options] <images >pool.tar\n"
	"       train-ckpt -a ARCH -e 0 [-n NETWORKS] [--seed N] <images >pool.tar\n"
	"       train-ckpt -i POOL -e EPOCHS[:MOST] [options] <images >pool.tar\n"
	"  -a ARCH            train this network from scratch: " ARCH_NAMES("\n                     ") "\n"
	"  -e EPOCHS          epochs that the schedule spans; 0: networks as they begin, -n so many (1) of seeds N, N+1, ...\n"
	"  -f FIRST           first epoch that is kept (1)\n"
	"  -k EVERY|A,B,...   every so many from there, or these; the run's last always (1)\n"
	"  -l LAST            stop after this epoch (EPOCHS)\n"
	"  --state FILE       resume from, and save to, this file after every epoch\n"
	"  -i POOL            fine-tune these checkpoints; each draws its epochs and its rate out of -e A:B and --lr A:B\n"
	"  --only K[,K...]    only those at these places, from 0\n"
	"  --no-recalibrate   leave running statistics of members of 0 epochs as they are\n"
	"  --lr R             peak rate (sgd 0.1, else 0.001)\n"
	"  -t VAL             image stream to measure with\n"
	"  --header           write only the header that a checkpoint would have, but for the net and how training went\n"
	COURSE_USAGE
	"  --seed N, --threads N, --device D, --isa I, --precision P, --log FILE, -o FILE, -v, -h, -V";

struct options {
	struct cli cli;
	struct course_opts course;
	const char *arch, *val, *state, *keep, *pool;
	int epochs, most, first, every, last; /* with -i: epochs..most */
	int networks;           /* untrained ones; 0: not given */
	double lr, to;          /* the same when there is no range */
	char *kept;             /* (epochs + 1): which are */
	int nonly, *only;       /* --only; none: all members */
	bool stale;             /* --no-recalibrate */
};

struct run {
	const struct options *o;
	struct imageview train, val; /* val: with -t */
	struct val *args;       /* of the history */
	struct course *course;
	struct workspace *ws;
	struct pool_writer pool;
	/* Of the network in training: */
	struct net *net;
	struct trainer trainer;
	struct learner learner;
	struct val *header;     /* of its checkpoints, without "train" */
	struct training training; /* --state */
	char where[64];         /* epoch or member, for errors */
};

/* -f, -k and -l into the set of kept epochs. */
static void lay_out(struct options *o)
{
	o->kept = ecalloc(o->epochs + 1, 1);
	o->kept[o->last] = 1;
	if (o->keep && strchr(o->keep, ',')) {
		int *epoch, n = eints("-k", o->keep, 1, o->last, &epoch);

		if (o->first)
			usage("-f has no meaning with a list of epochs");
		while (n > 0)
			o->kept[epoch[--n]] = 1;
		free(epoch);
		return;
	}
	o->every = o->keep ? eint("-k", o->keep, 1, INT32_MAX) : 1;
	for (int64_t e = o->first ? o->first : 1; e <= o->last; e += o->every)
		o->kept[e] = 1;
}

static void parse_ranges(struct options *o, const char *epochs, const char *lr)
{
	if (!o->pool && (strchr(epochs, ':') || (lr && strchr(lr, ':'))))
		usage("%s: a range is for the members of a pool (-i)", strchr(epochs, ':') ? epochs : lr);
	eint_range("-e", epochs, 0, 1000000, &o->epochs, &o->most);
	o->lr = o->to = course_peak(o->course.opt);
	if (lr)
		ereal_range("--lr", lr, 0, 1e6, &o->lr, &o->to);
	if (o->lr != o->to && (o->lr <= 0 || o->to <= 0))
		usage("--lr %s: the rates of a range are above 0", lr);
}

static void parse(struct options *o, int argc, char **argv)
{
	enum { LR = 256, STATE, ONLY, STALE };
	static const struct option longs[] = {
		CLI_LONG, CLI_RUN_LONG, COURSE_LONG, { "lr", 1, NULL, LR }, { "state", 1, NULL, STATE }, { "only", 1, NULL, ONLY },
		{ "no-recalibrate", 0, NULL, STALE }, { 0 }
	};
	const char *epochs = NULL, *lr = NULL;
	int c;

	while ((c = getopt_long(argc, argv, CLI_SHORT COURSE_SHORT "a:e:f:i:k:l:n:t:", longs, NULL)) != -1)
		switch (c) {
		case 'a': o->arch = earch(optarg); break;
		case 'e': epochs = optarg; break;
		case 'f': o->first = eint("-f", optarg, 1, 1000000); break;
		case 'i': o->pool = optarg; break;
		case 'k': o->keep = optarg; break;
		case 'n': o->networks = eint("-n", optarg, 1, 1000000); break;
		case 'l': o->last = eint("-l", optarg, 1, 1000000); break;
		case 't': o->val = optarg; break;
		case LR: lr = optarg; break;
		case STATE: o->state = optarg; break;
		case ONLY: o->nonly = eints("--only", optarg, 0, 1000000, &o->only); break;
		case STALE: o->stale = true; break;
		default:
			if (!course_option(&o->course, c, optarg))
				cli_option(&o->cli, c, synopsis);
		}
	if (optind < argc)
		usage("%s: no file arguments; images come on standard input", argv[optind]);
	if (!o->arch == !o->pool || !epochs)
		usage("-e and one of -a and -i are needed");
	if (o->pool && (o->first || o->keep || o->last))
		usage("-i gives one checkpoint a member: -f, -k and -l are for a run from scratch");
	if (!o->pool && (o->nonly || o->stale))
		usage("--only and --no-recalibrate are for the members of a pool (-i)");
	parse_ranges(o, epochs, lr);
	course_settle(&o->course);
	o->last = o->last ? o->last : o->epochs;
	if (o->last > o->epochs || o->first > o->last)
		usage("-f, -l and -e: FIRST <= LAST <= EPOCHS expected");
	if (o->arch && !o->epochs && (o->first || o->keep || o->state || o->val))
		usage("-f, -k, -t and --state are about training, with -e 0 there is none");
	if (o->networks && (o->pool || o->epochs))
		usage("-n is for networks as they begin (-e 0)");
	if (o->arch && o->epochs)
		lay_out(o);
}

static struct val *kept_epochs(const struct options *o)
{
	struct val *v = val_list();

	for (int e = 1; e <= o->last; e++)
		if (o->kept[e])
			val_push(v, val_int(e));
	return v;
}

static struct val *arguments(const struct options *o)
{
	const struct course_opts *c = &o->course;
	struct val *args = val_map(), *file;
	char *crop = trainaug_crop_name(&c->aug), err[ERRLEN];
	bool trains = o->pool || o->epochs;

	if (get_precision() != PRECISION_FP32)
		val_put(args, "precision", val_str(precision_name[get_precision()]));
	if (o->arch)
		val_put(args, "arch", val_str(o->arch));
	val_put(args, "epochs", o->arch ? val_int(o->epochs) : val_ints((int[]){ o->epochs, o->most }, 2));
	if (o->pool)
		val_put(args, "recalibrate", val_bool(!o->stale));
	else
		val_put(args, trains ? "keep" : "networks", trains ? kept_epochs(o) : val_int(MAX(o->networks, 1)));
	if (o->val && history_file(o->val, &file, err) < 0)
		die("%s", err);
	if (o->val)
		val_put(args, "val", file);
	if (trains) {
		val_put(args, "batch", val_int(c->batch));
		val_put(args, "opt", val_str(course_opt_name[c->opt]));
		val_put(args, "lr", o->arch ? val_f64(o->lr) : val_f64s((double[]){ o->lr, o->to }, 2));
	}
	if (trains && c->opt == OPT_SGD) {
		val_put(args, "momentum", val_f64(c->momentum));
		val_put(args, "nesterov", val_bool(c->nesterov));
	}
	if (trains) {
		val_put(args, "wd", val_f64(c->wd));
		val_put(args, "sched", val_str(c->sched));
		val_put(args, "crop", val_str(crop));
		val_put(args, "flip", val_f64(c->aug.flip));
	}
	if (trains && c->dsa)
		val_put(args, "dsa", val_str(c->dsa));
	val_put(args, "seed", val_int(o->cli.seed));
	free(crop);
	return args;
}

/* The images of -t as a network with this header takes them. */
static void fit_val(struct run *r, const struct val *header)
{
	char err[ERRLEN];

	if (r->o->val && imageview_fit(&r->val, header, r->net->chw, false, err) < 0)
		die("%s: %s", r->o->val, err);
}

/* NAN without -t. */
static double accuracy(struct run *r)
{
	struct dataset val = imageview_dataset(&r->val);
	double share, loss;
	char err[ERRLEN];

	if (!r->o->val)
		return NAN;
	if (course_measure(&val, r->net, &r->learner.w, r->ws, &share, &loss, err) < 0)
		die("%s: %s", r->where, err);
	return share;
}

static void put_figure(struct val *train, const char *key, double value)
{
	if (!isnan(value))
		val_put(train, key, val_f64(value));
}

/* train: taken over. */
static void make_checkpoint(struct run *r, struct val *train, struct buf *out)
{
	struct val *h = val_copy(r->header);
	char err[ERRLEN];

	val_put(h, "train", train);
	if (checkpoint_write_mem(out, h, r->net, &r->learner.w, err) < 0)
		die("%s: %s", r->where, err);
	val_free(h);
}

static void add(struct run *r, const char *member, const struct buf *ck)
{
	if (pool_add(&r->pool, member, ck->p, ck->len) < 0)
		die("%s", r->pool.err);
}

/* The member's name; zeros in front, so that names sort as epochs do. */
static char *member_name(const struct options *o, int epoch)
{
	return eprintf_str("%u/%0*d.ts", o->cli.seed, snprintf(NULL, 0, "%d", o->epochs), epoch);
}

/* member: of a pool that is fine-tuned; 0 in a run from scratch */
static void save_state(struct run *r, int member, int epoch)
{
	char err[ERRLEN];

	if (training_save(&r->training, epoch ? &r->learner : NULL, r->net, member, epoch, err) < 0)
		die("%s", err);
}

/* The learner as it was after the epochs that are done; how many those are, of this many at most. */
static int restore(struct run *r, int member, int most)
{
	char err[ERRLEN];
	int epoch = training_restore(&r->training, &r->learner, r->net, member, most, r->course->steps, err);

	if (epoch < 0)
		die("%s", err);
	return epoch;
}

/* output: the header that checkpoints have; pool: as training_resume() has it. Both are taken over. */
static void resume(struct run *r, struct val *output, struct val *pool)
{
	char err[ERRLEN];

	if (training_resume(&r->training, r->o->state, output, imageset_digest(&r->train.set), pool, err) < 0)
		die("%s", err);
}

static void one_epoch(struct run *r, int epoch)
{
	const struct options *o = r->o;
	char *member = member_name(o, epoch), text[32], err[ERRLEN];
	double start = now(), loss, acc = NAN;
	struct buf ck = { 0 };
	struct val *train;

	snprintf(r->where, sizeof r->where, "epoch %d", epoch);
	if (course_epoch(r->course, &r->trainer, &r->learner, epoch, &loss, err) < 0)
		die("%s", err);
	if (o->kept[epoch]) {
		acc = accuracy(r);
		train = val_map();
		val_put(train, "epoch", val_int(epoch));
		val_put(train, "epochs", val_int(o->epochs));
		put_figure(train, "loss", loss);
		put_figure(train, "accuracy", acc);
		make_checkpoint(r, train, &ck);
		training_keep(&r->training, member, &ck);
	}
	save_state(r, 0, epoch);
	if (o->kept[epoch])
		add(r, member, &ck);
	if (o->cli.verbose) {
		progress_done();
		snprintf(text, sizeof text, isnan(acc) ? "" : ", accuracy %.2f %%", 100 * acc);
		warn("epoch %d/%d: loss %.4f%s, %.1f s%s%s", epoch, o->last, loss, text, now() - start,
			o->kept[epoch] ? ", kept as " : "", o->kept[epoch] ? member : "");
	}
	cli_log(&o->cli, "epoch", "epoch", (double)epoch, "loss", loss, "accuracy", acc, "seconds", now() - start, NULL);
	buf_free(&ck);
	free(member);
}

static void emit_kept(struct run *r, int done)
{
	for (int e = 1; e <= done; e++) {
		char *member = member_name(r->o, e);
		const struct buf *ck = training_kept(&r->training, member);

		if (r->o->kept[e] && !ck)
			die("%s: no checkpoint %s in it", r->o->state, member);
		if (r->o->kept[e])
			add(r, member, ck);
		free(member);
	}
}

static void new_trainer(struct run *r)
{
	char err[ERRLEN];

	if (trainer_new(&r->trainer, r->net, r->course->batch, r->ws, err) < 0)
		die("%s", err);
}

/* The network that -a names, for these images, and its checkpoints' header. */
static void new_net(struct run *r)
{
	const struct imageset *s = &r->train.set;
	char err[ERRLEN];

	if (!(r->net = net_arch(r->o->arch, (int[]){ s->c, s->h, s->w }, s->nclass, err)))
		die("%s", err);
	r->header = val_copy(s->header);
	val_put(r->header, "kind", val_str("checkpoint"));
}

static void from_scratch(struct run *r)
{
	const struct options *o = r->o;
	int done;

	new_net(r);
	new_trainer(r);
	r->learner = learner_new(r->net, o->course.opt, o->cli.seed, RNG_INIT);
	course_ready(r->course, &r->learner);
	course_plan(r->course, o->epochs, o->lr);
	r->course->last = o->last;
	fit_val(r, r->header);
	history_add(r->header, progname, val_copy(r->args));
	if (o->state)
		resume(r, val_copy(r->header), NULL);
	done = restore(r, 0, o->last);
	emit_kept(r, done);
	for (int e = done + 1; e <= o->last; e++)
		one_epoch(r, e);
	learner_free(&r->learner);
	course_leave(r->course);
	trainer_free(&r->trainer);
	net_free(r->net);
	val_free(r->header);
}

/* Networks as they begin, of seeds that follow each other: what DM matches features in. */
static void untrained(struct run *r)
{
	const struct options *o = r->o;

	new_net(r);
	history_add(r->header, progname, val_copy(r->args));
	r->learner.w = weights_new(r->net);
	for (int i = 0; i < MAX(o->networks, 1); i++) {
		uint32_t seed = o->cli.seed + i;
		char *member = eprintf_str("%u/0.ts", seed);
		struct val *train = val_map();
		struct buf ck = { 0 };

		val_put(train, "epochs", val_int(0));
		val_put(train, "seed", val_int(seed));
		net_init(r->net, &r->learner.w, seed, RNG_INIT);
		make_checkpoint(r, train, &ck);
		add(r, member, &ck);
		buf_free(&ck);
		free(member);
	}
	val_free(r->header);
	weights_free(&r->learner.w);
	net_free(r->net);
}

static bool wanted(const struct options *o, int place)
{
	for (int i = 0; i < o->nonly; i++)
		if (o->only[i] == place)
			return true;
	return !o->nonly;
}

/* The learner through its epochs, or what is left of them, or its statistics made anew. Returns the "train" of its header. */
static struct val *tune(struct run *r, int place)
{
	const struct options *o = r->o;
	struct course *c = r->course;
	struct val *train = val_map();
	struct rng rng = rng_at(o->cli.seed, RNG_FINETUNE, place, 0, 0); /* the member's own epochs and rate */
	int epochs = o->epochs + rng_below(&rng, o->most - o->epochs + 1);
	double lr = o->lr == o->to ? o->lr : exp(rng_range(&rng, log(o->lr), log(o->to)));
	double start = now(), loss = NAN, acc;
	bool anew = !epochs && !o->stale && net_has(r->net, OP_BN);
	char err[ERRLEN], text[32];

	c->member = place + 1;
	course_ready(c, &r->learner);
	course_plan(c, epochs, lr);
	for (int e = restore(r, place, epochs - 1) + 1; e <= epochs; e++) {
		if (course_epoch(c, &r->trainer, &r->learner, e, &loss, err) < 0)
			die("%s", err);
		cli_log(&o->cli, "epoch", "number", (double)place, "epoch", (double)e, "loss", loss, NULL);
		if (e < epochs)
			save_state(r, place, e);
	}
	learner_leave(&r->learner);
	if (anew)
		course_recalibrate(c, &r->trainer, &r->learner.w);
	acc = accuracy(r);
	val_put(train, "epochs", val_int(epochs));
	if (epochs)
		val_put(train, "lr", val_f64(lr));
	put_figure(train, "loss", loss);
	put_figure(train, "accuracy", acc);
	if (o->cli.verbose) {
		progress_done();
		snprintf(text, sizeof text, isnan(acc) ? "" : ", accuracy %.2f %%", 100 * acc);
		if (epochs)
			warn("%s: %d epochs at %.3g, loss %.4f%s, %.1f s", c->who, epochs, lr, loss, text, now() - start);
		else
			warn("%s: %s%s, %.1f s", c->who, anew ? "statistics anew" : "as it was", text, now() - start);
	}
	cli_log(&o->cli, "member", "place", (double)place, "epochs", (double)epochs, "lr", lr, "loss", loss, "accuracy",
		acc, "seconds", now() - start, NULL);
	return train;
}

/* ck's network, weights and header pass to the run while it is tuned. */
static void make_member(struct run *r, struct checkpoint *ck, int place, struct buf *out)
{
	const struct options *o = r->o;
	char err[ERRLEN];

	if (imageview_fit(&r->train, ck->header, ck->net->chw, true, err) < 0)
		die("%s: member %s: %s", o->pool, r->course->who, err);
	r->net = ck->net;
	r->header = ck->header;
	fit_val(r, ck->header);
	new_trainer(r);
	r->learner = learner_from(ck->w, r->net, o->course.opt, o->cli.seed, place);
	history_add(r->header, progname, val_copy(r->args));
	make_checkpoint(r, tune(r, place), out);
	learner_leave(&r->learner);
	ck->w = r->learner.w;
	optim_free(&r->learner.opt);
	course_leave(r->course);
	trainer_free(&r->trainer);
}

static void one_member(struct run *r, struct checkpoint *ck, int place)
{
	char *member = ck->member ? estrdup(ck->member) : member_name(r->o, r->o->epochs), *name = eprintf_str("%d", place);
	const struct buf *done = training_kept(&r->training, name);
	struct buf made = { 0 };

	r->course->who = member;
	snprintf(r->where, sizeof r->where, "%s", member);
	if (!done) {
		make_member(r, ck, place, &made);
		training_keep(&r->training, name, &made);
		save_state(r, place, 0);
	}
	add(r, member, done ? done : &made);
	buf_free(&made);
	free(member);
	free(name);
}

/* The images that tuned a pool: their history tells; their digest, where they have none. */
static void note_images(struct run *r, const struct val *header)
{
	struct val *images = val_map(), *history = val_get(header, "history");

	if (history)
		val_put(images, "history", val_copy(history));
	else if (r->o->cli.header)
		die("--header: the images on standard input have no history, and a digest is of images");
	else
		val_put(images, "xxh3", imageset_digest(&r->train.set));
	val_put(r->args, "images", images);
}

static void fine_tune(struct run *r)
{
	const struct options *o = r->o;
	struct val *output, *pool;
	struct pool_reader in;
	struct checkpoint ck;
	int place, got;
	char err[ERRLEN];

	note_images(r, r->train.set.header);
	if (o->state) {
		if (history_file(o->pool, &pool, err) < 0)
			die("%s", err);
		history_add(output = val_map(), progname, val_copy(r->args));
		resume(r, output, pool);
	}
	if (pool_open(&in, o->pool) < 0)
		die("%s", in.err);
	for (place = 0; (got = pool_next(&in, &ck)) > 0; place++) {
		if (wanted(o, place))
			one_member(r, &ck, place);
		checkpoint_free(&ck);
	}
	if (got < 0)
		die("%s", in.err);
	for (int i = 0; i < o->nonly; i++)
		if (o->only[i] >= place)
			die("%s: no member at place %d, the last is at %d", o->pool, o->only[i], place - 1);
	pool_close(&in);
}

/* What the headers of all members have in common; tuned ones keep that of the pool's first. */
static void put_header(struct run *r)
{
	const struct options *o = r->o;
	struct ts_reader in;
	struct val *h;
	char err[ERRLEN];

	if (ts_open(&in, NULL, "images") < 0)
		die("%s", in.err);
	if (o->pool && pool_header(o->pool, &h, err) < 0)
		die("%s", err);
	if (o->pool)
		note_images(r, in.header);
	else
		h = val_copy(in.header);
	val_put(h, "kind", val_str("checkpoint"));
	val_drop(h, "train");
	history_add(h, progname, r->args);
	ets_header(o->cli.out, h);
}

int main(int argc, char **argv)
{
	struct options o = { .course = COURSE_DEFAULTS };
	struct run r = { .o = &o, .where = "untrained" };
	char err[ERRLEN];

	progname = "train-ckpt";
	parse(&o, argc, argv);
	r.args = arguments(&o);
	if (o.cli.header) {
		put_header(&r);
		return 0;
	}
	if (pool_create(&r.pool, o.cli.out) < 0)
		die("%s", r.pool.err);
	if (imageview_read(&r.train, NULL, err) < 0 || (o.val && imageview_read(&r.val, o.val, err) < 0))
		die("%s", err);
	r.ws = ws_new();
	r.course = course_new(&o.course, o.cli.seed, imageview_dataset(&r.train));
	if (o.pool)
		fine_tune(&r);
	else if (o.epochs)
		from_scratch(&r);
	else
		untrained(&r);
	progress_done();
	if (pool_finish(&r.pool) < 0)
		die("%s", r.pool.err);
	training_free(&r.training);
	val_free(r.args);
	imageview_free(&r.train);
	imageview_free(&r.val);
	course_free(r.course);
	ws_free(r.ws);
	free(o.kept);
	free(o.only);
	if (o.cli.verbose)
		times_say();
	return 0;
}
