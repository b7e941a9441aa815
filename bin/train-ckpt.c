/* train-ckpt(1): images -> a pool of checkpoints, one training run from scratch */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "../formats/checkpoint.h"
#include "../formats/imageset.h"
#include "../formats/state.h"
#include "../lib/cli.h"
#include "../lib/loss.h"
#include "../lib/train.h"

static const char synopsis[] =
	"train-ckpt -a ARCH -e EPOCHS [options] <images >pool.tar\n"
	"  -a ARCH            convnetD[-W][-in], resnet18, resnet18-small\n"
	"  -e EPOCHS          epochs that the schedule spans\n"
	"  -f FIRST           first epoch that is kept (1)\n"
	"  -k EVERY|A,B,...   every so many from there, or these; the run's last always (1)\n"
	"  -l LAST            stop after this epoch (EPOCHS)\n"
	"  -t VAL             image stream to measure kept epochs with\n"
	"  -b BATCH           images a step (128)\n"
	"  --opt NAME         sgd, adam or adamw (sgd)\n"
	"  --lr R             peak rate (sgd 0.1, else 0.001)\n"
	"  --momentum M       of sgd (0.9); --nesterov\n"
	"  --wd W             weight decay (sgd 1e-4, adam 0, adamw 0.01)\n"
	"  --sched SPEC       const, cosine[:WARMUP], step:EVERY[:GAMMA], smooth[:ZETA], in epochs (cosine)\n"
	"  --crop HOW         rrc:MIN[:MAX], pad:P or none (pad:4)\n"
	"  --flip P           probability (0.5)\n"
	"  --dsa NAMES        one of these an image: color_crop_cutout_flip_scale_rotate\n"
	"  --state FILE       resume from, and save to, this file after every epoch\n"
	"  --seed N, --threads N, --device D, --isa I, --log FILE, -o FILE, -v, -h, -V";

struct options {
	struct cli cli;
	const char *arch, *val, *state, *sched, *dsa, *keep;
	int epochs, first, every, last, batch;
	char *kept;             /* (epochs + 1): which are */
	enum optim_kind opt;
	double lr, momentum, wd;
	bool nesterov;
	struct trainaug aug;
	struct schedule rate;   /* in epochs until the steps are counted */
};

struct exam { /* what -t names */
	struct imageset set;
	struct plan *plan;
	float *x, *logits;      /* (batch,C,H,W), (batch,K) */
	int batch;
};

struct run {
	const struct options *o;
	struct imageset set;
	struct net *net;
	struct workspace *ws;
	struct trainer trainer;
	struct learner learner;
	struct exam *exam;      /* NULL without -t */
	struct val *header;     /* of every checkpoint, without "train" */
	struct pool_writer pool;
	struct state state;     /* only with --state */
	int64_t *order, *label; /* (N), (batch) */
	float *x, *scratch;     /* (batch,C,H,W), an image a thread */
	int64_t steps;          /* an epoch */
};

static const char *const opt_name[] = { [OPT_SGD] = "sgd", [OPT_ADAM] = "adam", [OPT_ADAMW] = "adamw" };

static enum optim_kind parse_opt(const char *s)
{
	for (size_t i = 0; i < LEN(opt_name); i++)
		if (!strcmp(opt_name[i], s))
			return i;
	usage("--opt %s: sgd, adam or adamw expected", s);
}

/* -f, -k and -l into the set of kept epochs. */
static void lay_out(struct options *o)
{
	o->kept = ecalloc(o->epochs + 1, 1);
	o->kept[o->last] = 1;
	if (o->keep && strchr(o->keep, ',')) {
		char *list = estrdup(o->keep), *save, *s = strtok_r(list, ",", &save);

		if (o->first)
			usage("-f has no meaning with a list of epochs");
		for (; s; s = strtok_r(NULL, ",", &save))
			o->kept[eint("-k", s, 1, o->last)] = 1;
		free(list);
		return;
	}
	o->every = o->keep ? eint("-k", o->keep, 1, INT32_MAX) : 1;
	for (int64_t e = o->first ? o->first : 1; e <= o->last; e += o->every)
		o->kept[e] = 1;
}

static void parse(struct options *o, int argc, char **argv)
{
	enum { OPT = 256, LR, MOMENTUM, NESTEROV, WD, SCHED, CROP, FLIP, DSA, STATE };
	static const struct option longs[] = {
		CLI_LONG, { "opt", 1, NULL, OPT }, { "lr", 1, NULL, LR }, { "momentum", 1, NULL, MOMENTUM },
		{ "nesterov", 0, NULL, NESTEROV }, { "wd", 1, NULL, WD }, { "sched", 1, NULL, SCHED },
		{ "crop", 1, NULL, CROP }, { "flip", 1, NULL, FLIP }, { "dsa", 1, NULL, DSA },
		{ "state", 1, NULL, STATE }, { 0 }
	};
	char err[ERRLEN];
	int c;

	while ((c = getopt_long(argc, argv, CLI_SHORT "a:e:f:k:l:t:b:", longs, NULL)) != -1)
		switch (c) {
		case 'a': o->arch = optarg; break;
		case 'e': o->epochs = eint("-e", optarg, 1, 1000000); break;
		case 'f': o->first = eint("-f", optarg, 1, 1000000); break;
		case 'k': o->keep = optarg; break;
		case 'l': o->last = eint("-l", optarg, 1, 1000000); break;
		case 't': o->val = optarg; break;
		case 'b': o->batch = eint("-b", optarg, 1, 1 << 20); break;
		case OPT: o->opt = parse_opt(optarg); break;
		case LR: o->lr = ereal("--lr", optarg, 0, 1e6); break;
		case MOMENTUM: o->momentum = ereal("--momentum", optarg, 0, 1); break;
		case NESTEROV: o->nesterov = true; break;
		case WD: o->wd = ereal("--wd", optarg, 0, 1e6); break;
		case SCHED: o->sched = optarg; break;
		case CROP:
			if (trainaug_crop(&o->aug, optarg, err) < 0)
				usage("--crop: %s", err);
			break;
		case FLIP: o->aug.flip = ereal("--flip", optarg, 0, 1); break;
		case DSA:
			o->dsa = optarg;
			if (!(o->aug.dsa = dsa_parse(optarg, err)))
				usage("--dsa: %s", err);
			break;
		case STATE: o->state = optarg; break;
		default: cli_option(&o->cli, c, synopsis);
		}
	if (optind < argc)
		usage("%s: no file arguments; images come on standard input", argv[optind]);
	if (!o->arch || !o->epochs)
		usage("-a and -e are needed");
	if (!o->last)
		o->last = o->epochs;
	if (o->last > o->epochs || o->first > o->last)
		usage("-f, -l and -e: FIRST <= LAST <= EPOCHS expected");
	if (isnan(o->lr))
		o->lr = o->opt == OPT_SGD ? 0.1 : 1e-3;
	if (isnan(o->wd))
		o->wd = o->opt == OPT_SGD ? 1e-4 : o->opt == OPT_ADAM ? 0 : 0.01;
	if (schedule_parse(&o->rate, o->sched, o->lr, err) < 0)
		usage("--sched: %s", err);
	lay_out(o);
}

static struct val *arguments(const struct options *o)
{
	struct val *args = val_map(), *kept = val_list(), *file;
	char *crop = trainaug_crop_name(&o->aug), err[ERRLEN];

	for (int e = 1; e <= o->last; e++)
		if (o->kept[e])
			val_push(kept, val_int(e));
	val_put(args, "arch", val_str(o->arch));
	val_put(args, "epochs", val_int(o->epochs));
	val_put(args, "keep", kept);
	if (o->val) {
		if (history_file(o->val, &file, err) < 0)
			die("%s", err);
		val_put(args, "val", file);
	}
	val_put(args, "batch", val_int(o->batch));
	val_put(args, "opt", val_str(opt_name[o->opt]));
	val_put(args, "lr", val_f64(o->lr));
	if (o->opt == OPT_SGD) {
		val_put(args, "momentum", val_f64(o->momentum));
		val_put(args, "nesterov", val_bool(o->nesterov));
	}
	val_put(args, "wd", val_f64(o->wd));
	val_put(args, "sched", val_str(o->sched));
	val_put(args, "crop", val_str(crop));
	val_put(args, "flip", val_f64(o->aug.flip));
	if (o->dsa)
		val_put(args, "dsa", val_str(o->dsa));
	val_put(args, "seed", val_int(o->cli.seed));
	free(crop);
	return args;
}

static void read_images(const char *path, struct imageset *set)
{
	struct ts_reader r;

	if (ts_open(&r, path, "images") < 0 || imageset_read(&r, set) < 0)
		die("%s", r.err);
	ts_close(&r);
}

static struct exam *open_exam(struct run *r)
{
	struct exam *e = ecalloc(1, sizeof *e);
	const struct imageset *train = &r->set;
	const char *path = r->o->val;
	char err[ERRLEN];
	struct stat st;
	int *map;

	/* Read twice: for its images, and for the digest in the history. */
	if (!stat(path, &st) && !S_ISREG(st.st_mode))
		die("%s: -t takes a regular file", path);
	read_images(path, &e->set);
	if (e->set.c != train->c || e->set.h != train->h || e->set.w != train->w)
		die("%s: images of %dx%dx%d, but training has %dx%dx%d", path, e->set.c, e->set.h, e->set.w, train->c, train->h,
			train->w);
	map = ecalloc(e->set.nclass, sizeof *map);
	if (header_map_classes(e->set.header, train->header, map, err) < 0)
		die("%s: %s", path, err);
	for (int64_t i = 0; i < e->set.n; i++)
		e->set.label[i] = map[e->set.label[i]];
	free(map);
	e->batch = MIN(100, e->set.n);
	if (!(e->plan = plan_new(r->net, (struct plan_opts){ .purpose = PLAN_EVAL, .batch = e->batch }, err)))
		die("%s", err);
	e->x = ealigned((size_t)e->batch * train->c * train->h * train->w, sizeof *e->x);
	e->logits = ealigned((size_t)e->batch * r->net->nclass, sizeof *e->logits);
	return e;
}

static void close_exam(struct exam *e)
{
	if (!e)
		return;
	imageset_free(&e->set);
	plan_free(e->plan);
	free(e->x);
	free(e->logits);
	free(e);
}

/* Share of the images that the learner, as it is, gets right; in the normalisation of its own training. */
static double accuracy(struct run *r)
{
	struct exam *e = r->exam;
	size_t each = (size_t)e->set.c * e->set.h * e->set.w;
	int64_t right = 0;

	plan_bind(e->plan, r->ws);
	plan_load(e->plan, &r->learner.w);
	for (int64_t from = 0; from < e->set.n; from += e->batch) {
		int n = MIN(e->batch, e->set.n - from);

		#pragma omp parallel for num_threads(get_threads())
		for (int i = 0; i < n; i++)
			imageset_get(&e->set, from + i, &r->set.norm, e->x + i * each);
		plan_forward(e->plan, n, e->x, e->logits);
		right += count_correct(e->logits, e->set.label + from, n, r->net->nclass);
	}
	return (double)right / e->set.n;
}

/* Images order[from..from+n) under this epoch's draws, and their labels. */
static void fill_batch(struct run *r, int epoch, int64_t from, int n)
{
	const struct imageset *s = &r->set;
	size_t each = (size_t)s->c * s->h * s->w;

	#pragma omp parallel for num_threads(get_threads())
	for (int i = 0; i < n; i++) {
		int64_t image = r->order[from + i];
		float *in = r->scratch + i * each;

		imageset_get(s, image, &s->norm, in);
		trainaug_apply(&r->o->aug, r->o->cli.seed, epoch - 1, image, r->x + i * each, in, s->c, s->h, s->w);
		r->label[i] = s->label[image];
	}
}

/* Returns the mean loss over the epoch's images, each as it was when its turn came. */
static double train_epoch(struct run *r, int epoch)
{
	struct rng rng = rng_at(r->o->cli.seed, RNG_SHUFFLE, epoch - 1, 0, 0);
	int64_t total = r->steps * r->o->epochs;
	double sum = 0;

	rng_permute(&rng, r->order, r->set.n);
	for (int64_t s = 0; s < r->steps; s++) {
		int64_t from = s * r->trainer.batch, t = (epoch - 1) * r->steps + s;
		int n = MIN(r->trainer.batch, r->set.n - from);
		double loss, rate = schedule_rate(&r->o->rate, t, total);
		char text[64];

		fill_batch(r, epoch, from, n);
		loss = train_step(&r->trainer, &r->learner, n, r->x, train_ce, r->label, rate);
		if (!isfinite(loss))
			die("epoch %d, step %lld: loss is not finite", epoch, (long long)s + 1);
		sum += loss * n;
		snprintf(text, sizeof text, "epoch %d, loss %.4f", epoch, loss);
		progress("steps", t + 1, r->steps * r->o->last, text);
	}
	return sum / r->set.n;
}

/* The member's name; zeros in front, so that names sort as epochs do. */
static char *member_name(const struct options *o, int epoch)
{
	return eprintf_str("%u/%0*d.ts", o->cli.seed, snprintf(NULL, 0, "%d", o->epochs), epoch);
}

static void make_checkpoint(struct run *r, int epoch, double loss, double acc, struct buf *out)
{
	struct val *h = val_copy(r->header), *train = val_map();
	char err[ERRLEN];

	val_put(train, "epoch", val_int(epoch));
	val_put(train, "epochs", val_int(r->o->epochs));
	val_put(train, "loss", val_f64(loss));
	if (r->exam)
		val_put(train, "accuracy", val_f64(acc));
	val_put(h, "train", train);
	if (checkpoint_write_mem(out, h, r->net, &r->learner.w, err) < 0)
		die("%s", err);
	val_free(h);
}

/* The four arrays of a learner; NULL: it has none of this. */
static const char *const part_name[] = { "theta", "buffer", "m", "v" };

static float *part(struct run *r, int i, size_t *bytes)
{
	float *const p[] = { r->learner.w.theta, r->learner.w.buffer, r->learner.opt.m, r->learner.opt.v };

	*bytes = (i == 1 ? r->net->nbuffer : r->net->ntheta) * sizeof(float);
	return *bytes ? p[i] : NULL;
}

static void save_state(struct run *r, int epoch)
{
	char err[ERRLEN];
	size_t bytes;

	val_put(r->state.header, "epoch", val_int(epoch));
	val_put(r->state.header, "step", val_int(r->learner.opt.step));
	for (size_t i = 0; i < LEN(part_name); i++) {
		float *p = part(r, i, &bytes);

		if (p)
			state_set(&r->state, part_name[i], p, bytes);
	}
	if (state_write(&r->state, r->o->state, err) < 0)
		die("%s", err);
}

static void one_epoch(struct run *r, int epoch)
{
	const struct options *o = r->o;
	double start = now(), loss = train_epoch(r, epoch), acc = NAN;
	char *member = member_name(o, epoch), *text;
	struct buf ck = { 0 };

	if (o->kept[epoch]) {
		if (r->exam)
			acc = accuracy(r);
		make_checkpoint(r, epoch, loss, acc, &ck);
		if (o->state)
			state_set(&r->state, member, ck.p, ck.len);
	}
	if (o->state)
		save_state(r, epoch);
	if (o->kept[epoch] && pool_add(&r->pool, member, ck.p, ck.len) < 0)
		die("%s", r->pool.err);
	if (o->cli.verbose) {
		progress_done();
		text = isnan(acc) ? estrdup("") : eprintf_str(", accuracy %.2f %%", 100 * acc);
		warn("epoch %d/%d: loss %.4f%s, %.1f s%s%s", epoch, o->last, loss, text, now() - start,
			o->kept[epoch] ? ", kept as " : "", o->kept[epoch] ? member : "");
		free(text);
	}
	cli_log(&o->cli, "epoch", "epoch", (double)epoch, "loss", loss, "accuracy", acc, "seconds", now() - start, NULL);
	buf_free(&ck);
	free(member);
}

/* What is trained on: two sets of other pixels or labels never have one digest. */
static struct val *digest(const struct imageset *s)
{
	size_t count = (size_t)s->n * s->c * s->h * s->w;
	XXH64_hash_t pixels = s->u8 ? XXH3_64bits(s->u8, count) : XXH3_64bits(s->f32, count * sizeof *s->f32);
	XXH64_hash_t labels = XXH3_64bits_withSeed(s->label, s->n * sizeof *s->label, pixels);
	char *hex = eprintf_str("%016llx%016llx", (unsigned long long)pixels, (unsigned long long)labels);
	struct val *v = val_str(hex);

	free(hex);
	return v;
}

/* The arguments of a header's last history entry. */
static const struct val *last_args(const struct val *header)
{
	const struct val *list = val_get(header, "history");

	return list && list->type == V_LIST && list->list.len ? val_get(list->list.item[list->list.len - 1], "args") : NULL;
}

static void check_state(struct run *r, const struct val *was)
{
	const struct val *a = last_args(r->header), *b = last_args(val_get(was, "checkpoint")), *p, *q;
	const char *file = r->o->state;

	for (size_t i = 0; a && i < a->map.len; i++) {
		p = a->map.item[i];
		q = val_get(b, a->map.key[i]);
		if (!q || !val_equal(p, q))
			die("%s: of a run with another %s; remove it to start anew", file, a->map.key[i]);
	}
	p = val_get(was, "checkpoint");
	q = val_get(was, "data");
	if (!p || !q || !val_equal(p, r->header) || !val_equal(q, val_get(r->state.header, "data")))
		die("%s: of a run on other images; remove it to start anew", file);
}

/* Epochs that are done, with everything as it was after them. */
static int resume(struct run *r)
{
	struct state was;
	char err[ERRLEN];
	size_t bytes;
	int epoch;

	r->state = state_new();
	val_put(r->state.header, "checkpoint", val_copy(r->header));
	val_put(r->state.header, "data", digest(&r->set));
	if (access(r->o->state, F_OK) < 0 && errno == ENOENT)
		return 0;
	if (state_read(&was, r->o->state, err) < 0)
		die("%s", err);
	check_state(r, was.header);
	epoch = val_get_int(was.header, "epoch", -1);
	r->learner.opt.step = val_get_int(was.header, "step", -1);
	if (epoch < 1 || epoch > r->o->last || r->learner.opt.step != epoch * r->steps)
		die("%s: its header has no epoch that the run can have reached", r->o->state);
	for (size_t i = 0; i < LEN(part_name); i++) {
		float *p = part(r, i, &bytes);
		const void *q = p ? state_get(&was, part_name[i], bytes) : NULL;

		if (p && !q)
			die("%s: no %s of this network in it", r->o->state, part_name[i]);
		if (p)
			memcpy(p, q, bytes);
	}
	state_free(&r->state);
	r->state = was;
	return epoch;
}

static void emit_kept(struct run *r, int done)
{
	for (int e = 1; e <= done; e++)
		if (r->o->kept[e]) {
			char *member = member_name(r->o, e);
			int i;

			for (i = 0; i < r->state.n && strcmp(r->state.name[i], member); i++)
				;
			if (i == r->state.n)
				die("%s: no checkpoint %s in it", r->o->state, member);
			if (pool_add(&r->pool, member, r->state.array[i].p, r->state.array[i].len) < 0)
				die("%s", r->pool.err);
			free(member);
		}
}

static void prepare(struct run *r)
{
	struct options *o = (struct options *)r->o;
	const struct imageset *s = &r->set;
	const int chw[3] = { s->c, s->h, s->w };
	size_t each = (size_t)s->c * s->h * s->w;
	int batch = MIN(o->batch, s->n);
	char err[ERRLEN];

	if (!(r->net = net_arch(o->arch, chw, s->nclass, err)))
		die("%s", err);
	r->ws = ws_new();
	if (trainer_new(&r->trainer, r->net, batch, r->ws, err) < 0)
		die("%s", err);
	r->learner = learner_new(r->net, o->opt, o->cli.seed, RNG_INIT);
	r->learner.opt.momentum = o->momentum;
	r->learner.opt.nesterov = o->nesterov;
	r->learner.opt.weight_decay = o->wd;
	r->steps = (s->n + batch - 1) / batch;
	r->order = ecalloc(s->n, sizeof *r->order);
	r->label = ecalloc(batch, sizeof *r->label);
	r->x = ealigned(batch * each, sizeof *r->x);
	r->scratch = ealigned(batch * each, sizeof *r->scratch);
	if (o->val)
		r->exam = open_exam(r);
	if (o->cli.verbose)
		plan_describe(r->trainer.plan);
}

static void make_header(struct run *r)
{
	r->header = val_copy(r->set.header);
	val_put(r->header, "kind", val_str("checkpoint"));
	history_add(r->header, progname, arguments(r->o));
}

static void release(struct run *r)
{
	state_free(&r->state);
	close_exam(r->exam);
	trainer_free(&r->trainer);
	learner_free(&r->learner);
	ws_free(r->ws);
	net_free(r->net);
	imageset_free(&r->set);
	val_free(r->header);
	free(r->order);
	free(r->label);
	free(r->x);
	free(r->scratch);
}

int main(int argc, char **argv)
{
	struct options o = {
		.opt = OPT_SGD, .batch = 128, .lr = NAN, .wd = NAN, .momentum = 0.9, .sched = "cosine",
		.aug = { .crop = TRAIN_PAD, .pad = 4, .flip = 0.5 }
	};
	struct run r = { .o = &o };
	int done = 0;

	progname = "train-ckpt";
	parse(&o, argc, argv);
	if (pool_create(&r.pool, o.cli.out) < 0)
		die("%s", r.pool.err);
	read_images(NULL, &r.set);
	prepare(&r);
	make_header(&r);
	o.rate.warmup *= r.steps;
	o.rate.step_every *= r.steps;
	if (o.state)
		done = resume(&r);
	emit_kept(&r, done);
	for (int e = done + 1; e <= o.last; e++)
		one_epoch(&r, e);
	progress_done();
	if (pool_finish(&r.pool) < 0)
		die("%s", r.pool.err);
	release(&r);
	free(o.kept);
	return 0;
}
