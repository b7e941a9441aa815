/* Times the hot workloads of one machine: median seconds of a step of several, after one warm-up.
 *
 * bench [-v] [-t THREADS] [-r REPEATS] [-d FILE] [--device cpu|cuda] WORKLOAD... prints a line of tabs for each: name,
 * median and least seconds; of a step, GFLOP as direct convolutions count them, GFLOP that are done, and GB that must
 * be read and written; MB that the process has taken at most (one workload a process, or it is that of the largest so
 * far), on a device that of the plans' features. "NAME none": this engine, or this processor, has no such arithmetic.
 * The workload "peak" prints what the machine can do, an FMA loop's GFLOP/s and a triad's GB/s. -l lists the usual
 * workloads. -d: the first step's results, f32, of weights and images that peer.py makes by the same formula: logits,
 * then the gradient of the images or of all parameters in the order of their names.
 *
 * On a device that loops by itself a step of synthesis is what one iteration more takes in a call of synth_run(); what
 * the call takes besides, up and down, is synth-step's once a second. A step of training is one of train-ckpt's epochs.
 */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "../../lib/committee.h"
#include "../../lib/course.h"
#include "../../lib/device.h"
#include "../../lib/loss.h"
#include "../../lib/match.h"
#include "../../lib/optim.h"
#include "../../lib/plan.h"
#include "../../lib/prune.h"
#include "../../lib/replay.h"
#include "../../lib/rng.h"
#include "../../lib/synth.h"
#include "peak.h"

/* {synth,train,eval}-ARCH-IMAGESxSIDE, label-ARCH-TEACHERSxIMAGESxSIDE, each with "-bf16" behind in half precision, on
 * a GPU also "-tf32". ARCH may end in "-pruned": a share of 0.19 of its channels is gone, at random. */
static const char *const usual[] = {
	"synth-convnet3-128-100x32", "synth-resnet18-small-50x32", "synth-resnet18-small-100x64",
	"synth-resnet18-small-pruned-50x32", "synth-resnet18-small-pruned-100x64",
	"train-convnet3-128-100x32", "train-convnet3-128-in-100x32", "train-resnet18-small-128x32",
	"label-convnet3-128-8x100x32", "eval-convnet3-128-100x32", "eval-resnet18-small-100x32",
	"synth-convnet3-128-100x32-bf16", "synth-resnet18-small-50x32-bf16",
};

static const char *const usual_gpu[] = {
	"synth-resnet18-100x224-bf16", "synth-resnet18-100x224-tf32", "synth-resnet18-100x224",
	"synth-resnet18-small-100x64-bf16", "synth-resnet18-small-100x64-tf32", "synth-resnet18-small-100x64",
	"train-resnet18-small-256x64-bf16", "train-resnet18-small-256x64-tf32", "train-resnet18-small-256x64",
	"label-resnet18-small-8x100x64-bf16", "label-resnet18-small-8x100x64-tf32", "label-resnet18-small-8x100x64",
};

enum { CLASSES = 10, STEPS = 64 /* of an epoch on a device */ };

struct workload {
	const char *name;
	char arch[64];
	int teachers, batch, side;
	enum purpose purpose;
	bool label, pruned;
	enum precision precision;
};

/* Everything that a step works on. */
struct bench {
	struct workload w;
	struct net *net;
	struct weights *weights;  /* (teachers) */
	struct committee teachers; /* of label rows, which are softlabel's work */
	struct plan *plan;        /* of the others; of labels, the first teacher's */
	struct workspace *ws;
	size_t pixels, nlogits;
	float *x, *dx;            /* (batch,3,side,side) */
	float *logits, *dlogits;  /* (batch,CLASSES) */
	float *dtheta;            /* (ntheta) */
	int64_t *label;           /* (batch) */
	struct layer_stats *stats; /* (taps): what synthesis is to match, zeros */
	struct optim opt;
	/* On a device of its own. */
	struct synth *synth;
	struct teacher_ref teacher;
	struct unit unit;         /* of x */
	int64_t *index;           /* (batch), of a course its labels */
	float *lo, *hi;           /* (batch,3,side,side): so wide that they count for time alone */
	struct trainer trainer;
	struct learner learner;
	struct course_opts course_opts;
	struct course *course;
	uint8_t *u8;              /* (STEPS*batch,3,side,side) */
	int epoch;
	struct replay *replay;
	const float *seen;        /* x on the device, as softlabel leaves it there */
};

static struct workload parse(const char *name)
{
	static const char *const purpose[] = { "eval-", "synth-", "train-", "label-" };
	struct workload w = { .name = name, .teachers = 1 };
	char *s = estrdup(name), *arch = strchr(s, '-'), *tail;
	int is = -1, len = strlen(s);

	for (enum precision p = PRECISION_TF32; p < PRECISIONS; p++) {
		size_t n = strlen(precision_name[p]);
		if ((size_t)len > n + 1 && s[len - n - 1] == '-' && !strcmp(s + len - n, precision_name[p])) {
			w.precision = p;
			s[len - n - 1] = '\0';
			break;
		}
	}
	for (size_t i = 0; i < LEN(purpose); i++)
		if (!strncmp(s, purpose[i], strlen(purpose[i])))
			is = i;
	tail = strrchr(s, '-');
	w.label = is == 3;
	w.purpose = w.label ? PLAN_EVAL : is;
	len = 0;
	if (is < 0 || tail <= arch || tail - arch > 63 || (w.label
			? sscanf(tail, "-%dx%dx%d%n", &w.teachers, &w.batch, &w.side, &len) != 3
			: sscanf(tail, "-%dx%d%n", &w.batch, &w.side, &len) != 2) ||
		tail[len] || w.teachers < 1 || w.batch < 1 || w.side < 1)
		usage("%s: {synth,train,eval}-ARCH-IMAGESxSIDE or label-ARCH-TEACHERSxIMAGESxSIDE expected", name);
	snprintf(w.arch, sizeof w.arch, "%.*s", (int)(tail - arch - 1), arch + 1);
	free(s);
	tail = strstr(w.arch, "-pruned");
	if (tail && !tail[7]) {
		w.pruned = true;
		*tail = '\0';
	}
	return w;
}

static struct net *pruned(struct net *whole, char err[ERRLEN])
{
	struct prune_how how = { .ratio = 0.19, .round_to = 1, .max_ratio = 1 };
	struct depgraph *g = depgraph_new(whole, err);
	struct net *net;

	if (!g)
		return NULL;
	bool *gone = ecalloc(g->nunit, sizeof *gone);
	double *score = ecalloc(g->nunit, sizeof *score);
	prune_scores(g, IMP_RANDOM, NULL, 1, 0, score);
	prune_choose(g, score, &how, gone);
	net = depgraph_prune(g, gone, err);
	depgraph_free(g);
	net_free(whole);
	free(gone), free(score);
	return net;
}

/* The formula of weights and images: element i of the tensor of this name, in [-1, 1). */
static double formula(uint32_t name, uint32_t i)
{
	uint32_t h = i * 2654435761u + name;

	h ^= h >> 16;
	h *= 0x45d9f3bu;
	h ^= h >> 16;
	return h / 2147483648.0 - 1;
}

static uint32_t hash(const char *s) /* FNV-1a */
{
	uint32_t h = 2166136261u;

	for (; *s; s++)
		h = (h ^ (uint8_t)*s) * 16777619u;
	return h;
}

/* Weights as He would have them, norms near 1 and 0; teachers differ. */
static void fill_weights(const struct net *net, struct weights *w, int teacher)
{
	for (int i = 0; i < net->nparam; i++) {
		const struct param *p = &net->param[i];
		bool heavy = op_weighs(net->node[p->node].op) && p->role == P_WEIGHT, one = p->role == P_WEIGHT || p->role == P_VAR;
		double size = heavy ? sqrt(6.0 * p->shape[0] / p->count) : 0.1;
		char *name = teacher ? eprintf_str("%d/%s", teacher, p->name) : estrdup(p->name);
		float *x = weights_param(net, w, i);

		for (size_t j = 0; j < p->count; j++)
			x[j] = (!heavy && one) + size * formula(hash(name), j);
		free(name);
	}
}

static int by_name(const void *a, const void *b)
{
	return strcmp((*(const struct param *const *)a)->name, (*(const struct param *const *)b)->name);
}

static void get_nothing(const void *set, int64_t i, float *out)
{
	(void)set, (void)i, (void)out;
	die("the device has no room for the images");
}

/* A set of bytes for a course that takes them as they are. */
static struct course *make_course(struct bench *b)
{
	static const float mean[3] = { 0.5, 0.5, 0.5 }, std[3] = { 0.25, 0.25, 0.25 };
	static const struct course_opts o = { .opt = OPT_SGD, .momentum = 0.9, .sched = "const" };
	struct dataset s = { .n = (int64_t)b->w.batch * STEPS, .chw = { 3, b->w.side, b->w.side }, .get = get_nothing,
		.mean = mean, .std = std };
	int64_t *label = ecalloc(s.n, sizeof *label);
	uint8_t *pixel = emalloc(STEPS * b->pixels);

	for (int64_t i = 0; i < s.n; i++)
		label[i] = i % CLASSES;
	for (size_t i = 0; i < STEPS * b->pixels; i++)
		pixel[i] = 127.5 + 127 * formula(hash("images"), i);
	s.label = b->index = label, s.u8 = b->u8 = pixel;
	b->course_opts = o;
	b->course_opts.batch = b->w.batch;
	struct course *c = course_new(&b->course_opts, 0, s);
	course_plan(c, 1 << 20, 1e-3);
	return c;
}

/* The images as a recipe of one batch that does nothing to them. */
static void make_replay(struct bench *b)
{
	int n = b->w.batch, side = b->w.side;
	struct recipe r = { .n = n, .index = ecalloc(n, sizeof *r.index), .view = ecalloc(n, sizeof *r.view),
		.partner = ecalloc(n, sizeof *r.partner), .mix = { .kind = MIX_NONE, .lambda = 1 } };

	for (int i = 0; i < n; i++)
		r.index[i] = r.partner[i] = i, r.view[i] = VIEW_IDENTITY(side, side);
	b->replay = replay_new((struct dataset){ .n = n, .chw = { 3, side, side }, .f32 = b->x }, n, 1);
	b->seen = replay_run(b->replay, &r, 0);
	recipe_free(&r);
}

/* What the filters use on a device that keeps images or a learner to itself. */
static void setup_device(struct bench *b)
{
	struct synth_opts o = { .subset = 1, .ce = 1, .alpha = 1, .first = 10, .opt = OPT_ADAM, .lr = 1e-3, .beta1 = 0.5, .beta2 = 0.9,
		.precision = b->w.precision };
	char err[ERRLEN];

	if (b->w.purpose == PLAN_SYNTH) {
		b->lo = emalloc(b->pixels * sizeof *b->lo), b->hi = emalloc(b->pixels * sizeof *b->hi);
		for (size_t i = 0; i < b->pixels; i++)
			b->lo[i] = -4, b->hi[i] = 4;
		b->index = ecalloc(b->w.batch, sizeof *b->index);
		b->teacher = (struct teacher_ref){ b->net, &b->weights[0], b->stats };
		b->unit = (struct unit){ .n = b->w.batch, .label = b->label, .index = b->index, .x = b->x,
			.opt = optim_new(OPT_ADAM, b->pixels), .total = INT32_MAX, .lo = b->lo, .hi = b->hi };
		b->synth = synth_new(&o, &b->teacher, 1, b->w.batch);
	} else if (b->w.purpose == PLAN_TRAIN) {
		if (trainer_new(&b->trainer, b->net, b->w.batch, b->ws, err) < 0)
			die("%s: %s", b->w.name, err);
		b->learner = learner_new(b->net, OPT_SGD, 0, RNG_INIT);
		b->course = make_course(b);
		course_ready(b->course, &b->learner);
	} else if (b->w.label) {
		make_replay(b);
	}
}

static struct bench setup(struct workload w)
{
	char err[ERRLEN];
	int chw[3] = { 3, w.side, w.side };
	struct bench b = { .w = w, .ws = ws_new() };

	set_precision(w.precision);
	b.net = net_arch(w.arch, chw, CLASSES, err);
	if (b.net && w.pruned)
		b.net = pruned(b.net, err);
	if (!b.net)
		die("%s: %s", w.name, err);
	b.pixels = 3 * (size_t)w.side * w.side * w.batch;
	b.nlogits = (size_t)w.batch * CLASSES;
	b.weights = ecalloc(w.teachers, sizeof *b.weights);
	for (int t = 0; t < w.teachers; t++) {
		b.weights[t] = weights_new(b.net);
		fill_weights(b.net, &b.weights[t], t);
	}
	if (w.label) {
		b.teachers = committee_new(w.teachers, CLASSES, w.batch);
		for (int t = 0; t < w.teachers; t++)
			if (committee_add(&b.teachers, b.net, &b.weights[t], err) < 0)
				die("%s: %s", w.name, err);
		b.plan = b.teachers.plan[0];
	} else {
		b.plan = plan_new(b.net, (struct plan_opts){ .purpose = w.purpose, .batch = w.batch, .precision = w.precision },
			err);
		if (!b.plan)
			die("%s: %s", w.name, err);
		plan_bind(b.plan, b.ws);
		plan_load(b.plan, &b.weights[0]);
	}
	b.x = ealigned(b.pixels, sizeof *b.x), b.dx = ealigned(b.pixels, sizeof *b.dx);
	b.logits = ealigned(b.nlogits, sizeof *b.logits), b.dlogits = ealigned(b.nlogits, sizeof *b.dlogits);
	b.dtheta = ealigned(b.net->ntheta, sizeof *b.dtheta);
	b.label = ecalloc(w.batch, sizeof *b.label);
	for (size_t i = 0; i < b.pixels; i++)
		b.x[i] = 1.7 * formula(hash("images"), i);
	for (int i = 0; i < w.batch; i++)
		b.label[i] = i % CLASSES;
	b.opt = w.purpose == PLAN_TRAIN ? optim_new(OPT_SGD, b.net->ntheta) : optim_new(OPT_ADAM, b.pixels);
	b.opt.momentum = 0.9;
	b.stats = ecalloc(plan_ntaps(b.plan) + 1, sizeof *b.stats);
	for (int l = 0; l < plan_ntaps(b.plan); l++) {
		b.stats[l].c = plan_tap(b.plan, l)->c;
		b.stats[l].mean = ealigned(b.stats[l].c, 4);
		b.stats[l].var = ealigned(b.stats[l].c, 4);
	}
	if (!device_is_host())
		setup_device(&b);
	return b;
}

static void teardown(struct bench *b)
{
	synth_free(b->synth);
	if (b->replay)
		replay_free(b->replay);
	if (b->unit.x)
		optim_free(&b->unit.opt);
	if (b->course)
		course_free(b->course), learner_free(&b->learner), trainer_free(&b->trainer);
	free(b->index), free(b->u8), free(b->lo), free(b->hi);
	if (b->w.label)
		committee_free(&b->teachers);
	else
		plan_free(b->plan);
	for (int t = 0; t < b->w.teachers; t++)
		weights_free(&b->weights[t]);
	for (int l = 0; b->stats[l].c; l++)
		free(b->stats[l].mean), free(b->stats[l].var);
	optim_free(&b->opt);
	ws_free(b->ws);
	net_free(b->net);
	free(b->weights), free(b->stats);
	free(b->x), free(b->dx), free(b->logits), free(b->dlogits), free(b->dtheta), free(b->label);
}

static void step(struct bench *b)
{
	struct plan *p = b->plan;
	int n = b->w.batch;

	plan_forward(p, n, b->x, b->logits);
	if (b->w.purpose != PLAN_EVAL)
		loss_ce(b->logits, b->label, n, CLASSES, b->dlogits);
	if (b->w.purpose == PLAN_SYNTH) {
		for (int l = 0; l < plan_ntaps(p); l++)
			match_layer(plan_tap(p, l), &b->stats[l], b->label, n, 0, l ? 1 : 10, 1);
		plan_backward(p, n, b->dlogits, b->dx, NULL);
		optim_step(&b->opt, b->x, b->dx, 1e-3, NULL, NULL, NULL);
	} else if (b->w.purpose == PLAN_TRAIN) {
		plan_backward(p, n, b->dlogits, NULL, b->dtheta);
		plan_update_running(p, n, &b->weights[0], BN_MOMENTUM);
		optim_step(&b->opt, b->weights[0].theta, b->dtheta, 1e-3, NULL, NULL, NULL);
		plan_load(p, &b->weights[0]);
	}
}

static void label(struct bench *b)
{
	char err[ERRLEN];
	int who;

	if (committee_label(&b->teachers, b->seen ? b->seen : b->x, b->w.batch, false, b->logits, &who, err) < 0)
		die("%s: teacher %d: %s", b->w.name, who, err);
}

static void dump(const char *path, const struct bench *b)
{
	const struct param **by = ecalloc(b->net->nparam + 1, sizeof *by);
	FILE *f = fopen(path, "wb");

	if (!f)
		die("%s:", path);
	fwrite(b->logits, sizeof *b->logits, b->nlogits, f);
	if (b->w.purpose == PLAN_SYNTH)
		fwrite(b->dx, sizeof *b->dx, b->pixels, f);
	for (int i = 0; i < b->net->nparam; i++)
		by[i] = &b->net->param[i];
	qsort(by, b->net->nparam, sizeof *by, by_name);
	for (int i = 0; b->w.purpose == PLAN_TRAIN && i < b->net->nparam; i++)
		if (by[i]->role == P_WEIGHT || by[i]->role == P_BIAS)
			fwrite(b->dtheta + by[i]->offset, sizeof *b->dtheta, by[i]->count, f);
	if (fclose(f))
		die("%s:", path);
	free(by);
}

/* What one plan does in a step, as it says itself: multiply-adds, bytes that must be read and written. */
static struct cost cost_of(const struct plan *p, int stages)
{
	struct cost sum = { 0 };

	for (int i = 0; i < stages; i++)
		for (enum part part = 0; part < PARTS; part++) {
			struct cost c = plan_cost(p, i, part);
			sum.madds += c.madds;
			sum.bytes += c.bytes;
		}
	return sum;
}

/* Seconds of one iteration, of those that k more take. */
static double iteration(struct bench *b, int k)
{
	struct synth_loss *loss = ecalloc(3 * k, sizeof *loss);
	double at[3];
	char err[ERRLEN];

	for (int i = 0; i < 3; i++) {
		at[i] = now();
		if (i < 2 && synth_run(b->synth, &b->unit, i ? 3 * k : k, loss, err) < 0)
			die("%s: %s", b->w.name, err);
	}
	free(loss);
	return (at[2] - 2 * at[1] + at[0]) / (2 * k);
}

/* As many iterations a call as take a quarter of a second. */
static int calibrate(struct bench *b)
{
	double seconds;
	int k = 1;

	iteration(b, 1); /* makes plans, records the graph */
	while ((seconds = iteration(b, k) * k) < 0.03 && k < 256)
		k *= 4;
	k = seconds <= 0 ? k : MAX(1, MIN(1024, (int)(0.25 / seconds * k)));
	iteration(b, k); /* makes room for so many */
	return k;
}

/* Seconds of a step, of an epoch of them: from bytes on the device to its learner. */
static double train(struct bench *b)
{
	char err[ERRLEN];
	double start = now(), loss;

	if (course_epoch(b->course, &b->trainer, &b->learner, ++b->epoch, &loss, err) < 0)
		die("%s: %s", b->w.name, err);
	return (now() - start) / STEPS;
}

/* Seconds of one step, of many where the device makes them by itself. */
static double timed(struct bench *b, int k)
{
	double start = now();

	if (b->synth)
		return iteration(b, k);
	if (b->course)
		return train(b);
	if (b->w.label)
		label(b);
	else
		step(b);
	return now() - start;
}

static double megabytes(const struct bench *b)
{
	struct rusage used;

	if (!device_is_host())
		return 1e-6 * (b->synth ? synth_bytes(b->synth) : b->w.label ? committee_bytes(&b->teachers) : ws_bytes(b->ws));
	getrusage(RUSAGE_SELF, &used);
	return used.ru_maxrss * 1.024e-3;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void measure(struct workload w, int repeats, bool verbose, const char *results)
{
	struct bench b = setup(w);
	double *t = ecalloc(repeats, sizeof *t);
	int passes = w.purpose == PLAN_TRAIN ? 3 : w.purpose == PLAN_SYNTH ? 2 : w.teachers, k = 1;
	struct cost cost = cost_of(b.plan, b.net->nnode); /* past its last stage nothing costs anything */

	if (w.label)
		label(&b);
	else
		step(&b);
	if (results)
		dump(results, &b);
	if (b.synth)
		k = calibrate(&b);
	if (b.course)
		train(&b);
	for (int i = 0; i < repeats; i++)
		t[i] = timed(&b, k);
	if (verbose)
		plan_describe(b.plan);
	qsort(t, repeats, sizeof *t, by_value);
	printf("%s\t%.6f\t%.6f\t%.4f\t%.4f\t%.4f\t%.1f\n", w.name, t[repeats / 2], t[0],
		2e-9 * passes * net_macs(b.net) * w.batch, 2e-9 * w.teachers * cost.madds, 1e-9 * w.teachers * cost.bytes,
		megabytes(&b));
	free(t);
	teardown(&b);
}

/* The CPU knows no tf32, and bf16 in fewer places. */
static bool offered(struct workload w)
{
	if (!device_is_host() || w.precision == PRECISION_FP32)
		return true;
	return w.precision == PRECISION_BF16 && w.purpose != PLAN_TRAIN && !w.label && plan_fast_bf16();
}

static void list(void)
{
	bool host = device_is_host();

	for (size_t i = 0; i < (host ? LEN(usual) : LEN(usual_gpu)); i++)
		puts(host ? usual[i] : usual_gpu[i]);
}

int main(int argc, char **argv)
{
	static const struct option longs[] = { { "device", required_argument, NULL, 'D' }, { 0 } };
	int c, repeats = 5;
	bool verbose = false, lists = false;
	const char *results = NULL;
	char err[ERRLEN];

	progname = "bench";
	while ((c = getopt_long(argc, argv, "t:r:d:lv", longs, NULL)) != -1)
		switch (c) {
		case 't': set_threads(eint("-t", optarg, 1, MAX_THREADS)); break;
		case 'r': repeats = eint("-r", optarg, 1, 1000); break;
		case 'd': results = optarg; break;
		case 'D':
			if (set_device(optarg, err) < 0)
				die("%s", err);
			break;
		case 'l': lists = true; break;
		case 'v': verbose = true; break;
		default: usage("usage: bench [-lv] [-t THREADS] [-r REPEATS] [-d FILE] [--device cpu|cuda] WORKLOAD...");
		}
	if (lists)
		list();
	for (; optind < argc; optind++) {
		if (!strcmp(argv[optind], "peak")) {
			printf("peak\t%.2f\t%.2f\n", peak_fma(repeats), peak_triad(repeats));
		} else {
			struct workload w = parse(argv[optind]);

			if (offered(w))
				measure(w, repeats, verbose, results);
			else
				printf("%s\tnone\n", w.name);
		}
		fflush(stdout);
	}
	eflush();
	return 0;
}
