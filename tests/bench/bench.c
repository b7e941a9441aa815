/* Times the hot workloads of one machine: seconds a step, median of several, after one warm-up.
 * bench [-v] [-t THREADS] [-r REPEATS] [WORKLOAD…]; prints tab-separated lines: name, seconds, megabytes. */
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

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void measure(struct workload w, int repeats, int verbose)
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
	struct rng r = rng_at(1, RNG_NOISE, 0, 0, 0);

	if (!p)
		die("%s: %s", w.name, err);
	wt = weights_new(net);
	net_init(net, &wt, 1, RNG_INIT);
	dtheta = ealigned(net->ntheta, 4);
	for (size_t i = 0; i < pixels; i++)
		x[i] = rng_normal(&r);
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
	}
	if (verbose)
		plan_describe(p);
	qsort(t, repeats, sizeof *t, by_value);
	printf("%s\t%.4f\t%.1f\n", w.name, t[repeats / 2], ws_bytes(ws) / 1e6);
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

int main(int argc, char **argv)
{
	int c, repeats = 5, verbose = 0;

	progname = "bench";
	while ((c = getopt(argc, argv, "t:r:v")) != -1)
		switch (c) {
		case 't': set_threads(eint("-t", optarg, 1, 1024)); break;
		case 'r': repeats = eint("-r", optarg, 1, 1000); break;
		case 'v': verbose = 1; break;
		default: usage("usage: bench [-v] [-t THREADS] [-r REPEATS] [WORKLOAD...]");
		}
	for (size_t i = 0; optind == argc && i < LEN(usual); i++)
		measure(parse(usual[i]), repeats, verbose);
	for (; optind < argc; optind++)
		measure(parse(argv[optind]), repeats, verbose);
	return 0;
}
