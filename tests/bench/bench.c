/* Times the hot workloads of one machine: seconds a step, median of several, after one warm-up.
 * bench [-v] [-t THREADS] [-r REPEATS] [-d FILE] [WORKLOAD…] prints tab-separated lines: name, seconds, GFLOP/s (as a
 * direct convolution counts them), megabytes of features. The workload "peak" prints what the machine can do: an FMA loop,
 * and a triad's GB/s. -d: the first step's results, f32, of weights and images that peer.py makes by the same formula:
 * logits, then the gradient of the images or of all parameters in the order of their names. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../lib/loss.h"
#include "../../lib/match.h"
#include "../../lib/optim.h"
#include "../../lib/plan.h"
#include "../../lib/prune.h"
#include "../../lib/rng.h"

/* PURPOSE-ARCH-IMAGESxSIDE. ARCH may end in "-pruned": a share of 0.19 of its channels is gone, at random. */
static const char *const usual[] = {
	"synth-convnet3-128-100x32", "synth-resnet18-small-50x32", "synth-resnet18-small-pruned-50x32",
	"train-convnet3-128-100x32", "train-convnet3-128-in-100x32", "train-resnet18-small-128x32",
	"eval-convnet3-128-100x32", "eval-resnet18-small-100x32",
};

struct workload {
	const char *name;
	char arch[64];
	int batch, side;
	enum purpose purpose;
	bool pruned;
};

static struct workload parse(const char *name)
{
	static const char *const purpose[] = { "eval-", "synth-", "train-" };
	struct workload w = { .name = name };
	const char *arch = strchr(name, '-'), *size = strrchr(name, '-');

	for (size_t i = 0; i < LEN(purpose); i++)
		if (!strncmp(name, purpose[i], strlen(purpose[i])))
			w.purpose = i, w.batch = -1;
	if (w.batch == 0 || size <= arch || size - arch > 63 || sscanf(size, "-%dx%d", &w.batch, &w.side) != 2 ||
	    w.batch < 1 || w.side < 1)
		usage("%s: {synth,train,eval}-ARCH-IMAGESxSIDE expected", name);
	snprintf(w.arch, sizeof w.arch, "%.*s", (int)(size - arch - 1), arch + 1);
	char *tail = strstr(w.arch, "-pruned");
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

/* Weights as He would have them, norms near 1 and 0. */
static void fill_weights(const struct net *net, struct weights *w)
{
	for (int i = 0; i < net->nparam; i++) {
		const struct param *p = &net->param[i];
		bool heavy = op_weighs(net->node[p->node].op) && p->role == P_WEIGHT, one = p->role == P_WEIGHT || p->role == P_VAR;
		double size = heavy ? sqrt(6.0 * p->shape[0] / p->count) : 0.1;
		float *x = weights_param(net, w, i);

		for (size_t j = 0; j < p->count; j++)
			x[j] = (!heavy && one) + size * formula(hash(p->name), j);
	}
}

static int by_name(const void *a, const void *b)
{
	return strcmp((*(const struct param *const *)a)->name, (*(const struct param *const *)b)->name);
}

/* Results of the first step. */
static void dump(const char *path, const struct net *net, const float *logits, size_t nlogits, const float *dx, size_t pixels,
    const float *dtheta)
{
	const struct param **by = ecalloc(net->nparam + 1, sizeof *by);
	FILE *f = fopen(path, "wb");

	if (!f)
		die("%s:", path);
	fwrite(logits, sizeof *logits, nlogits, f);
	if (dx)
		fwrite(dx, sizeof *dx, pixels, f);
	for (int i = 0; i < net->nparam; i++)
		by[i] = &net->param[i];
	qsort(by, net->nparam, sizeof *by, by_name);
	for (int i = 0; dtheta && i < net->nparam; i++)
		if (by[i]->role == P_WEIGHT || by[i]->role == P_BIAS)
			fwrite(dtheta + by[i]->offset, sizeof *dtheta, by[i]->count, f);
	if (fclose(f))
		die("%s:", path);
	free(by);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void measure(struct workload w, int repeats, int verbose, const char *results)
{
	char err[ERRLEN];
	int chw[3] = { 3, w.side, w.side };
	size_t per = 3 * (size_t)w.side * w.side, pixels = per * w.batch;
	struct net *net = net_arch(w.arch, chw, 10, err);
	if (net && w.pruned)
		net = pruned(net, err);
	struct plan *p = net ? plan_new(net, (struct plan_opts){ .purpose = w.purpose, .batch = w.batch }, err) : NULL;
	struct workspace *ws = ws_new();
	struct weights wt;
	float *x = ealigned(pixels, 4), *dx = ealigned(pixels, 4), *logits = ealigned(w.batch * 10, 4);
	float *dlogits = ealigned(w.batch * 10, 4), *dtheta;
	int64_t *label = ecalloc(w.batch, sizeof *label);
	double *t = ecalloc(repeats, sizeof *t);
	int passes = w.purpose == PLAN_EVAL ? 1 : w.purpose == PLAN_SYNTH ? 2 : 3;

	if (!p)
		die("%s: %s", w.name, err);
	wt = weights_new(net);
	fill_weights(net, &wt);
	dtheta = ealigned(net->ntheta, 4);
	for (size_t i = 0; i < pixels; i++)
		x[i] = 1.7 * formula(hash("images"), i);
	for (int i = 0; i < w.batch; i++)
		label[i] = i % 10;
	plan_bind(p, ws);
	plan_load(p, &wt);
	struct optim o = w.purpose == PLAN_TRAIN ? optim_new(OPT_SGD, net->ntheta) : optim_new(OPT_ADAM, pixels);
	o.momentum = 0.9;
	struct layer_stats *ls = ecalloc(plan_ntaps(p) + 1, sizeof *ls);
	for (int l = 0; l < plan_ntaps(p); l++) {
		ls[l].c = plan_tap(p, l)->c;
		ls[l].mean = ealigned(ls[l].c, 4);
		ls[l].var = ealigned(ls[l].c, 4);
	}
	for (int i = -1; i < repeats; i++) {
		double start = now();
		plan_forward(p, w.batch, x, logits);
		if (w.purpose != PLAN_EVAL)
			loss_ce(logits, label, w.batch, 10, dlogits);
		if (w.purpose == PLAN_SYNTH) {
			for (int l = 0; l < plan_ntaps(p); l++)
				match_layer(plan_tap(p, l), &ls[l], label, w.batch, 0, l ? 1 : 10, 1);
			plan_backward(p, w.batch, dlogits, dx, NULL);
			optim_step(&o, x, dx, 1e-3, NULL, NULL, NULL);
		} else if (w.purpose == PLAN_TRAIN) {
			plan_backward(p, w.batch, dlogits, NULL, dtheta);
			plan_update_running(p, w.batch, &wt, BN_MOMENTUM);
			optim_step(&o, wt.theta, dtheta, 1e-3, NULL, NULL, NULL);
			plan_load(p, &wt);
		}
		if (i >= 0)
			t[i] = now() - start;
		else if (results)
			dump(results, net, logits, w.batch * 10, w.purpose == PLAN_SYNTH ? dx : NULL, pixels,
			    w.purpose == PLAN_TRAIN ? dtheta : NULL);
	}
	if (verbose)
		plan_describe(p);
	qsort(t, repeats, sizeof *t, by_value);
	printf("%s\t%.4f\t%.1f\t%.1f\n", w.name, t[repeats / 2], 2e-9 * passes * net_macs(net) * w.batch / t[repeats / 2],
	    ws_bytes(ws) / 1e6);
	fflush(stdout);
	plan_free(p);
	ws_free(ws);
	weights_free(&wt);
	net_free(net);
	free(x), free(dx), free(logits), free(dlogits), free(dtheta), free(label), free(t);
	for (int l = 0; ls[l].c; l++)
		free(ls[l].mean), free(ls[l].var);
	free(ls);
	optim_free(&o);
}

#if defined __x86_64__
/* Twelve chains of multiply-adds on eight floats each, enough to hide their latency: 192 operations a round. */
__attribute__((target("avx2,fma"))) static float fma_loop(int64_t rounds)
{
	typedef float v8 __attribute__((vector_size(32)));
	v8 a[12], x = { 0.999999f, 0.999999f, 0.999999f, 0.999999f, 0.999999f, 0.999999f, 0.999999f, 0.999999f }, y = x * 1e-6f;
	float sum = 0;

	for (int i = 0; i < 12; i++)
		a[i] = x * (float)i;
	for (int64_t r = 0; r < rounds; r++) {
		_Pragma("GCC unroll 12")
		for (int i = 0; i < 12; i++)
			a[i] = a[i] * x + y;
	}
	for (int i = 0; i < 12; i++)
		sum += a[i][0];
	return sum;
}
#else
static float fma_loop(int64_t rounds)
{
	float a[12] = { 0 }, sum = 0;

	for (int64_t r = 0; r < rounds * 8; r++)
		for (int i = 0; i < 12; i++)
			a[i] = a[i] * 0.999999f + 1e-6f;
	for (int i = 0; i < 12; i++)
		sum += a[i];
	return sum;
}
#endif

/* The best of several: what the processor can do, not what it did while others used it. */
static void peak(int repeats)
{
	enum { ROUNDS = 20000000, FLOATS = 1 << 24 };
	float *a = ealigned(FLOATS, 4), *b = ealigned(FLOATS, 4), *c = ealigned(FLOATS, 4);
	double fma = 1e9, triad = 1e9;
	volatile float sink;

	for (int i = 0; i < repeats + 1; i++) {
		double start = now(), sum = 0;
		#pragma omp parallel num_threads(get_threads()) reduction(+ : sum)
		sum += fma_loop(ROUNDS);
		fma = fmin(fma, now() - start);
		sink = sum;
		start = now();
		#pragma omp parallel for num_threads(get_threads())
		for (int j = 0; j < FLOATS; j++)
			a[j] = b[j] + 3 * c[j];
		triad = fmin(triad, now() - start);
		sink = a[i];
	}
	(void)sink;
	printf("peak-fma\t%.4f\t%.1f\t0\n", fma, 192e-9 * ROUNDS * get_threads() / fma);
	printf("peak-triad\t%.4f\t%.1f\t%.1f\n", triad, 12e-9 * FLOATS / triad, 12e-6 * FLOATS);
	free(a), free(b), free(c);
}

int main(int argc, char **argv)
{
	int c, repeats = 5, verbose = 0;
	const char *results = NULL;

	progname = "bench";
	while ((c = getopt(argc, argv, "t:r:d:v")) != -1)
		switch (c) {
		case 't': set_threads(eint("-t", optarg, 1, 1024)); break;
		case 'r': repeats = eint("-r", optarg, 1, 1000); break;
		case 'd': results = optarg; break;
		case 'v': verbose = 1; break;
		default: usage("usage: bench [-v] [-t THREADS] [-r REPEATS] [-d FILE] [WORKLOAD...]");
		}
	for (size_t i = 0; optind == argc && i < LEN(usual); i++)
		measure(parse(usual[i]), repeats, verbose, NULL);
	for (; optind < argc; optind++)
		if (!strcmp(argv[optind], "peak"))
			peak(repeats);
		else
			measure(parse(argv[optind]), repeats, verbose, results);
	return 0;
}
