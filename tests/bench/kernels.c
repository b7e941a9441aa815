/* Every kernel of kernels/gpu.h at the sizes of ResNet-18: bytes that it must move, microseconds, GB/s, and which share
 * that is of what the device copies. One line each.
 *
 * kernels [-r ROUNDS] [-s N,H,W,C]... [-m MB] [--json] [NAME...]: only kernels whose name begins so. -s: other feature
 * maps than 100,112,112,64 and 100,64,64,64; images are 2H x 2W of the first, H x W of others. -m: MB of the copy
 * (1024).
 * Arrays lie in several places that take turns, together larger than the cache: what is measured is memory.
 */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../kernels/gpu.h"
#include "../../lib/augment.h"
#include "../../lib/optim.h"
#include "../gpu_mem.h"

enum { ARRAYS = 12, PLACES = 64, LAYERS = 20, CLASSES = 1000, GROUPS = 10 };

struct place { /* the arrays of one place */
	void *p[ARRAYS];
};

struct job;
struct kernel {
	const char *name;
	const char *arrays; /* a letter each: size_of(); before it '-': scratch, no traffic, '2': read and written */
	void (*run)(cudaStream_t s, const struct job *j, void *const *p);
	enum { MAPS, IMAGES, FLAT } of; /* MAPS: both types */
};

struct job {
	const struct kernel *k;
	struct maps m;
	int filter;    /* of filter x filter filters of 3x3 */
	size_t theta;  /* parameters */
	int narray;
	size_t size[ARRAYS], bytes; /* bytes: that must be moved */
	int nplace;
	struct place place[PLACES];
};

static int half(int side) /* a 3x3 window, stride 2, padding 1 */
{
	return (side - 1) / 2 + 1;
}

static size_t elem_of(struct maps m)
{
	return m.type == ELEM_F32 ? 4 : 2;
}

static size_t size_of(const struct job *j, char letter)
{
	struct maps m = j->m;
	size_t pixels = (size_t)m.n * m.h * m.w, pooled = (size_t)m.n * (m.h / 2) * (m.w / 2);
	size_t wins = (size_t)m.n * half(m.h) * half(m.w), filter = (size_t)j->filter * j->filter * 9;

	switch (letter) {
	case 'M': return pixels * m.cp * elem_of(m);
	case 'H': return pooled * m.cp * elem_of(m);
	case 'W': return wins * m.cp * elem_of(m);
	case 'w': return wins * m.cp;                    /* choices */
	case 'K': return pixels * m.cp / 8;              /* mask */
	case 'G': return (size_t)m.n * m.cp * elem_of(m); /* a value an image and channel */
	case 'F': return (size_t)m.n * m.c * m.h * m.w * 4; /* images */
	case 'U': return (size_t)m.n * m.c * m.h * m.w;
	case 'c': return m.cp * 4;
	case 'n': return (size_t)m.n * m.cp * 4;
	case 'd': return (size_t)m.n * m.c * 8;
	case 'v': return m.c * 8;
	case 'S': return gpu_sums_scratch(m);
	case 'L': return (size_t)m.n * CLASSES * 4;      /* logits */
	case 'l': return m.n * 8;                        /* labels */
	case 'T': return j->theta * 4;
	case 'f': return filter * 4;
	case 'h': return filter * elem_of(m);
	case '0': return 256;                            /* zeros: a flag, a draw, a rate */
	case 'x': return (size_t)LAYERS * m.n * m.cp * 8; /* sums of all layers */
	case 'y': return (size_t)LAYERS * m.n * m.cp * 4;
	case 'k': return (size_t)GROUPS * m.cp * 4;      /* a value a class and channel */
	case 'g': return LAYERS * sizeof(struct gpu_match);
	case 'z': return gpu_match_scratch(LAYERS, m.c, m.n);
	default: die("array '%c'", letter);
	}
}

static struct coef one(const void *v)
{
	return (struct coef){ v, 0 };
}

static struct coef each(const void *v, const struct job *j)
{
	return (struct coef){ v, j->m.cp };
}

static const struct coef none;
#define RUN(name) static void name(cudaStream_t s, const struct job *j, void *const *p)
#define PER(j) ((int64_t)(j)->m.h * (j)->m.w)

RUN(sums) { gpu_sums(s, p[0], p[1], p[2], p[3], j->m, p[4]); }
RUN(sums_back) { gpu_sums_back(s, p[0], p[1], p[2], p[3], one(p[4]), j->m, p[5]); }
RUN(channel_sums) { gpu_channel_sums(s, p[0], p[1], j->m, p[2]); }
RUN(epilogue) { gpu_epilogue(s, p[0], NULL, p[1], NULL, one(p[2]), one(p[3]), j->m, false, false); }
RUN(epilogue_relu) { gpu_epilogue(s, p[0], p[4], p[1], NULL, one(p[2]), one(p[3]), j->m, true, false); }
RUN(epilogue_add) { gpu_epilogue(s, p[0], p[4], p[1], p[5], one(p[2]), one(p[3]), j->m, true, false); }
RUN(epilogue_pool) { gpu_epilogue(s, p[0], p[4], p[1], NULL, one(p[2]), one(p[3]), j->m, true, true); }

static struct gradients from(const void *a, const void *b)
{
	return (struct gradients){ b ? 2 : 1, { a, b } };
}

RUN(undo) { gpu_undo(s, p[0], NULL, from(p[1], NULL), p[2], false, one(p[3]), none, none, none, NULL, j->m); }
RUN(undo_two) { gpu_undo(s, NULL, p[0], from(p[1], p[3]), p[2], false, none, none, none, none, NULL, j->m); }
RUN(undo_pool) { gpu_undo(s, p[0], NULL, from(p[1], NULL), p[2], true, one(p[3]), none, none, none, NULL, j->m); }
RUN(undo_matched)
{
	gpu_undo(s, p[0], NULL, from(p[1], NULL), p[2], false, one(p[3]), each(p[4], j), each(p[5], j), one(p[6]), p[7], j->m);
}
RUN(undo_train)
{
	gpu_undo(s, p[0], NULL, from(p[1], NULL), NULL, false, one(p[2]), one(p[3]), one(p[4]), one(p[5]), p[6], j->m);
}

RUN(bn_forward)
{
	gpu_bn_forward(s, p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], 1e-5f, j->m.n, PER(j), j->m.c);
}
RUN(bn_backward)
{
	gpu_bn_backward(s, p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], 1e-5f, j->m.n, PER(j), j->m.c);
}
RUN(bn_running) { gpu_bn_running(s, p[0], p[1], p[2], p[3], p[4], p[5], j->m.n * PER(j), j->m.c, p[6]); }
RUN(in_forward) { gpu_in_forward(s, p[0], p[1], p[2], p[3], p[4], p[5], p[6], 1e-5f, j->m.n, PER(j), j->m.c); }
RUN(in_backward)
{
	gpu_in_backward(s, p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10], 1e-5f, NULL, NULL, j->m.n,
	    PER(j), j->m.c);
}
RUN(bn_frozen) { gpu_bn_frozen(s, p[0], p[1], p[2], NULL, p[3], p[4], p[5], p[6], 1e-5f, j->m.c); }

RUN(from_nchw) { gpu_from_nchw(s, p[0], p[1], j->m); }
RUN(to_nchw) { gpu_to_nchw(s, p[0], p[1], j->m); }
RUN(filters) { gpu_filters(s, p[0], j->m.type, p[1], j->filter, j->filter, 9, j->filter, j->filter, 1); }
RUN(filters_back) { gpu_filters_back(s, p[0], p[1], j->filter, j->filter, 9, j->filter, j->filter, 1); }
RUN(flatten) { gpu_flatten(s, p[0], p[1], j->m); }
RUN(flatten_back) { gpu_flatten_back(s, p[0], p[1], j->m); }
RUN(channels) { gpu_channels(s, p[0], p[1], p[2], j->m.c, NULL, 0, j->m); }
RUN(add) { gpu_add(s, p[0], p[1], (size_t)j->m.n * j->m.c * j->m.h * j->m.w); }

RUN(act) { gpu_act(s, p[0], p[1], GPU_SILU, j->m); }
RUN(act_back) { gpu_act_back(s, p[0], p[1], p[2], GPU_SILU, j->m); }
RUN(maxpool) { gpu_maxpool(s, p[0], p[1], p[2], j->m, 3, 2, 1); }
RUN(maxpool_back) { gpu_maxpool_back(s, p[0], p[1], p[2], j->m, 3, 2, 1); }
RUN(avgpool) { gpu_avgpool(s, p[0], p[1], j->m, 2, 2); }
RUN(avgpool_back) { gpu_avgpool_back(s, p[0], p[1], j->m, 2, 2); }
RUN(adaptpool) { gpu_adaptpool(s, p[0], p[1], j->m, 1); }
RUN(adaptpool_back) { gpu_adaptpool_back(s, p[0], p[1], j->m, 1); }
RUN(mul) { gpu_mul(s, p[0], p[1], p[2], j->m); }
RUN(mul_back) { gpu_mul_back(s, p[0], p[1], p[2], p[3], p[4], j->m); }
RUN(drop) { gpu_drop(s, p[0], p[1], p[2], 0.5f, 3, false, j->m); }

RUN(ce) { gpu_ce(s, p[0], p[1], p[2], p[3], p[4], j->m.n, CLASSES); }
RUN(ce_mixed) { gpu_ce_mixed(s, p[0], p[1], p[2], p[3], p[4], p[5], p[6], j->m.n, CLASSES); }
RUN(kl) { gpu_kl(s, p[0], p[1], p[2], p[3], p[4], j->m.n, CLASSES, 20, false); }
RUN(ensemble)
{
	struct gpu_members t = { 2, 1, { p[2], p[3] }, { p[4], p[5] } };

	gpu_ensemble(s, p[0], p[1], t, p[6], j->m.n, CLASSES, 0);
}

/* What the arrays say of the layers is put in their place before (match_arrays). */
RUN(match) { gpu_match_layers(s, p[0], p[1], LAYERS, j->m.c, p[2], p[3], p[4], j->m.n, 0, 1, p[9]); }

RUN(means) { gpu_class_means(s, p[0], p[1], p[2], p[3], GROUPS, j->m.cp); }
RUN(means_match)
{
	gpu_match_means(s, p[0], p[1], p[2], p[3], p[4], p[5], p[6], GROUPS, j->m.cp, 0.5, 1);
}

static void match_arrays(const struct job *j, void *const *p)
{
	struct gpu_match layer[LAYERS];
	size_t all = (size_t)j->m.n * j->m.cp;

	for (int i = 0; i < LAYERS; i++)
		layer[i] = (struct gpu_match){ .sum = (double *)p[5] + i * all, .sumsq = (double *)p[6] + i * all, .ref = p[10],
			.mean = p[10], .var = p[10], .a = (float *)p[7] + i * all, .b = (float *)p[8] + i * all, .c = j->m.c,
			.cp = j->m.cp, .per = PER(j), .multiplier = 1 };
	cuda_ok(cudaMemcpy(p[1], layer, sizeof layer, cudaMemcpyHostToDevice), "cudaMemcpy");
}

static void optimise(cudaStream_t s, const struct job *j, void *const *p, enum optim_kind kind, bool clamp)
{
	gpu_optim_step(s, (struct gpu_optim){ .kind = kind, .momentum = 0.9, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8,
		.n = j->theta, .theta = p[0], .m = p[1], .v = kind == OPT_SGD ? NULL : p[2], .grad = p[3], .step = p[4], .bad = p[5],
		.lo = clamp ? p[6] : NULL, .hi = clamp ? p[7] : NULL });
}

RUN(sgd) { optimise(s, j, p, OPT_SGD, false); }
RUN(adam_clamp) { optimise(s, j, p, OPT_ADAM, true); }
RUN(adamw) { optimise(s, j, p, OPT_ADAMW, false); }
RUN(average) { gpu_average(s, p[0], p[1], j->theta, 0.99, p[2]); }
RUN(check) { gpu_check(s, p[1], 2, p[0], j->theta, NULL, 0); }
RUN(take) { (void)j, gpu_take(s, p[0], p[1], 32, p[2]); }
RUN(note) { (void)j, gpu_note(s, p[0], p[1], p[2], p[3], 20, 1, p[4]); }

#define SIZES(j) (j)->m.n, (j)->m.c, (j)->m.h, (j)->m.w
RUN(view) { gpu_view(s, p[0], p[1], NULL, p[2], false, SIZES(j)); }
RUN(view_back) { gpu_view_back(s, p[0], p[1], p[2], false, SIZES(j)); }
RUN(dsa) { gpu_dsa(s, p[0], p[1], NULL, p[2], false, SIZES(j), p[3]); }
RUN(dsa_back) { gpu_dsa_back(s, p[0], p[1], p[2], false, SIZES(j), p[3]); }
RUN(mix) { gpu_mix(s, p[0], p[1], p[2], p[3], SIZES(j)); }
RUN(pixels) { gpu_pixels(s, p[0], p[1], p[2], p[3], p[4], SIZES(j)); }

static const struct kernel kernels[] = {
	{ "sums", "ddMc-S", sums, MAPS }, { "sums_back", "ddMMc-S", sums_back, MAPS },
	{ "channel_sums", "cM-S", channel_sums, MAPS },
	{ "epilogue", "MMcc", epilogue, MAPS }, { "epilogue relu", "MMccK", epilogue_relu, MAPS },
	{ "epilogue add relu", "MMccKM", epilogue_add, MAPS }, { "epilogue relu pool", "HMccK", epilogue_pool, MAPS },
	{ "undo relu", "MMKc", undo, MAPS }, { "undo two relu", "MMKM", undo_two, MAPS },
	{ "undo relu pool", "MHKc", undo_pool, MAPS }, { "undo matched", "MMKcnncM", undo_matched, MAPS },
	{ "undo train", "MMccccM", undo_train, MAPS },
	{ "from_nchw", "MF", from_nchw, MAPS }, { "to_nchw", "FM", to_nchw, MAPS },
	{ "flatten", "MM", flatten, MAPS }, { "flatten_back", "MM", flatten_back, MAPS },
	{ "channels", "McM", channels, MAPS },
	{ "act silu", "MM", act, MAPS }, { "act_back silu", "MMM", act_back, MAPS },
	{ "maxpool", "WwM", maxpool, MAPS }, { "maxpool_back", "MWw", maxpool_back, MAPS },
	{ "avgpool", "HM", avgpool, MAPS }, { "avgpool_back", "MH", avgpool_back, MAPS },
	{ "adaptpool", "GM", adaptpool, MAPS }, { "adaptpool_back", "MG", adaptpool_back, MAPS },
	{ "mul", "MMG", mul, MAPS }, { "mul_back", "MGMMG", mul_back, MAPS }, { "drop", "MM0", drop, MAPS },
	{ "filters", "hf", filters, FLAT }, { "filters_back", "ff", filters_back, FLAT },
	{ "optim sgd", "2T2T-cT-0-0", sgd, FLAT }, { "optim adam clamp", "2T2T2TT-0-0TT", adam_clamp, FLAT },
	{ "optim adamw", "2T2T2TT-0-0", adamw, FLAT }, { "average", "2TT0", average, FLAT },
	{ "check", "T0", check, FLAT },
	{ "view", "FF0", view, IMAGES }, { "view_back", "FF0", view_back, IMAGES },
	{ "dsa rotate", "FF0-n", dsa, IMAGES }, { "dsa_back rotate", "FF0-n", dsa_back, IMAGES },
	{ "dsa colour", "FF0-n", dsa, IMAGES }, { "dsa_back colour", "FF0-n", dsa_back, IMAGES },
	{ "mix", "FFl0", mix, IMAGES }, { "pixels", "FUlcc", pixels, IMAGES }, { "add", "2FF", add, IMAGES },
	/* Small: a launch's time is what counts. */
	{ "bn_forward", "vvcccddccc", bn_forward, FLAT }, { "bn_backward", "cccccddvc", bn_backward, FLAT },
	{ "bn_running", "2c2cvvc00", bn_running, FLAT }, { "bn_frozen", "ccccccc", bn_frozen, FLAT },
	{ "in_forward", "nnnddcc", in_forward, FLAT }, { "in_backward", "nnnccddddnc", in_backward, FLAT },
	{ "ce", "0lLLl", ce, FLAT }, { "ce_mixed", "0lLLll0", ce_mixed, FLAT }, { "kl", "0lLLL", kl, FLAT },
	{ "ensemble of 2", "0lLLLLl", ensemble, FLAT }, { "match of 20", "0glllxxyy-zc", match, FLAT },
	{ "class_means", "kkn0", means, FLAT }, { "class_means match", "dnn0lkk", means_match, FLAT },
	{ "take", "000", take, FLAT }, { "note", "020000", note, FLAT },
};

static size_t padded(size_t n)
{
	return (n + 255) / 256 * 256;
}

/* Labels, partners and flags are 0, masks and choices valid, values small and not 0. */
static int filling(char letter)
{
	return strchr("0l", letter) ? 0 : letter == 'w' ? 4 : letter == 'K' ? 0x55 : 0x3c;
}

/* What is no plain value. */
static void put_special(const struct job *j, void *const *p)
{
	struct maps m = j->m;
	const char *name = j->k->name;
	struct view v = { m.h / 16, m.w / 8, m.h - m.h / 8, m.w - m.w / 8, 1, 2, 3, 0 };
	struct dsa d = { .kind = strstr(name, "colour") ? DSA_COLOUR : DSA_ROTATE, .bright = 0.3f, .sat = 0.6f,
		.contrast = 0.4f, .angle = 0.2f };
	struct mix x = { MIX_CUTMIX, 0.7f, 1, m.h / 2, 1, m.w / 2 };
	struct gpu_drop drop_draws = { 1, 2, 1 };
	struct gpu_step step = { 1e-3, 0.5, 0.5, 0 };
	const void *data = NULL;
	size_t size = 0, at = 2;
	int *which = NULL, bad = 1;
	struct gpu_group group[GROUPS]; /* of rows that stand one by one */

	if (!strncmp(name, "view", 4))
		data = &v, size = sizeof v;
	else if (!strncmp(name, "dsa", 3))
		data = &d, size = sizeof d;
	else if (!strcmp(name, "mix"))
		data = &x, size = sizeof x, at = 3;
	else if (!strcmp(name, "drop"))
		data = &drop_draws, size = sizeof drop_draws;
	else if (!strncmp(name, "optim", 5))
		data = &step, size = sizeof step, at = 4;
	else if (!strcmp(name, "note")) /* it would count on, beyond the array */
		data = &bad, size = sizeof bad, at = 4;
	else if (!strncmp(name, "class_means", 11)) {
		data = group, size = sizeof group, at = 3;
		for (int k = 0; k < GROUPS; k++)
			group[k] = (struct gpu_group){ k * m.n / GROUPS, (k + 1) * m.n / GROUPS - k * m.n / GROUPS };
		if (strcmp(name, "class_means")) {
			which = emalloc(m.n * sizeof *which);
			for (int i = 0; i < m.n; i++)
				which[i] = i;
			cuda_ok(cudaMemcpy(p[4], which, m.n * sizeof *which, cudaMemcpyHostToDevice), "cudaMemcpy");
		}
	} else if (!strcmp(name, "channels")) {
		data = which = emalloc(m.cp * sizeof *which), size = m.cp * sizeof *which, at = 1;
		for (int c = 0; c < m.cp; c++)
			which[c] = c < m.c ? m.c - 1 - c : -1;
	}
	if (data)
		cuda_ok(cudaMemcpy(p[at], data, size, cudaMemcpyHostToDevice), "cudaMemcpy");
	if (!strncmp(name, "match", 5))
		match_arrays(j, p);
	free(which);
}

static void lay_out(struct job *j, size_t cache)
{
	const char *a = j->k->arrays;
	char letter[ARRAYS];
	size_t all = 0;

	for (int times = 1; *a; a++) {
		if (*a == '-' || *a == '2') {
			times = *a == '2' ? 2 : 0;
			continue;
		}
		letter[j->narray] = *a;
		j->size[j->narray] = size_of(j, *a);
		all += padded(j->size[j->narray]);
		j->bytes += times * j->size[j->narray++];
		times = 1;
	}
	j->nplace = MAX(2, MIN(PLACES, (int)(4 * cache / all) + 1));
	for (int i = 0; i < j->nplace; i++) {
		for (int k = 0; k < j->narray; k++) {
			void *p = j->place[i].p[k] = on_device(NULL, MAX(j->size[k], 1));
			cuda_ok(cudaMemset(p, filling(letter[k]), j->size[k]), "cudaMemset");
		}
		put_special(j, j->place[i].p);
	}
}

static void release(struct job *j)
{
	for (int i = 0; i < j->nplace; i++)
		for (int k = 0; k < j->narray; k++)
			cuda_ok(cudaFree(j->place[i].p[k]), "cudaFree");
}

struct timer {
	cudaStream_t stream;
	cudaEvent_t from, to;
	int rounds;
};

static double stop(struct timer *t)
{
	float ms;

	cuda_ok(cudaEventRecord(t->to, t->stream), "cudaEventRecord");
	cuda_ok(cudaEventSynchronize(t->to), "cudaEventSynchronize");
	cuda_ok(cudaEventElapsedTime(&ms, t->from, t->to), "cudaEventElapsedTime");
	return 1e-3 * ms;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Seconds of a launch, the median of rounds of some milliseconds each. */
static double measure(struct timer *t, const struct job *j)
{
	enum { LEAST = 4, MOST = 200 };
	double seconds[64];
	int count = 1, next = 0;

	for (int i = -2; i < t->rounds; i++) { /* two to warm up */
		cuda_ok(cudaEventRecord(t->from, t->stream), "cudaEventRecord");
		for (int k = 0; k < count; k++)
			j->k->run(t->stream, j, j->place[next++ % j->nplace].p);
		double took = stop(t) / count;
		cuda_ok(cudaGetLastError(), j->k->name);
		if (i >= 0)
			seconds[i] = took;
		else if (t->rounds > 1)
			count = MAX(LEAST, MIN(MOST, (int)(3e-3 / fmax(took, 1e-9))));
	}
	qsort(seconds, t->rounds, sizeof *seconds, by_value);
	return seconds[t->rounds / 2];
}

/* GB/s of a plain copy, what is read and what is written. */
static double copy_rate(struct timer *t, size_t size)
{
	void *a = on_device(NULL, size), *b = on_device(NULL, size);
	double best = INFINITY;

	for (int i = 0; i < t->rounds + 1; i++) {
		cuda_ok(cudaEventRecord(t->from, t->stream), "cudaEventRecord");
		cuda_ok(cudaMemcpyAsync(a, b, size, cudaMemcpyDeviceToDevice, t->stream), "cudaMemcpyAsync");
		double took = stop(t);
		best = i ? fmin(best, took) : best;
	}
	cuda_ok(cudaFree(a), "cudaFree"), cuda_ok(cudaFree(b), "cudaFree");
	return 2e-9 * size / best;
}

static void show(const struct job *j, double seconds, double copy, bool json)
{
	static const char *const type[] = { "f32", "bf16" };
	double rate = 1e-9 * j->bytes / seconds;
	char shape[64];

	snprintf(shape, sizeof shape, "%dx%dx%dx%d", j->m.n, j->m.h, j->m.w, j->m.c);
	if (json)
		printf("{\"kernel\":\"%s\",\"shape\":\"%s\",\"type\":\"%s\",\"bytes\":%zu,\"microseconds\":%.2f,\"gb_s\":%.1f,"
		    "\"of_copy\":%.3f}\n", j->k->name, shape, type[j->m.type], j->bytes, 1e6 * seconds, rate, rate / copy);
	else
		printf("%-20s %-16s %-4s %9.2f MB %9.1f us %8.1f GB/s %5.0f %%\n", j->k->name, shape, type[j->m.type],
		    1e-6 * j->bytes, 1e6 * seconds, rate, 100 * rate / copy);
	fflush(stdout);
}

static bool wanted(const char *name, char *const *words)
{
	for (char *const *w = words; *w; w++)
		if (!strncmp(name, *w, strlen(*w)))
			return true;
	return !*words;
}

/* shape: of feature maps; those of images and small things follow. first: also what does not depend on it. */
static void run_shape(struct timer *t, struct maps shape, bool first, double copy, size_t cache, char *const *words,
    bool json)
{
	int filter = MIN(512, 8 * shape.c);
	size_t theta = MIN((size_t)11689512, (size_t)shape.n * shape.h * shape.w * shape.c); /* ResNet-18's */

	for (size_t i = 0; i < LEN(kernels); i++)
		for (enum elem type = ELEM_F32; type <= ELEM_BF16; type++) {
			const struct kernel *k = &kernels[i];
			struct job j = { .k = k, .m = shape, .filter = filter, .theta = theta };
			if (!wanted(k->name, words) || (k->of != MAPS && type != ELEM_F32) || (k->of == FLAT && !first))
				continue;
			j.m.type = type;
			if (k->of == IMAGES || strstr(k->name, "nchw")) /* the ends of a network: images */
				j.m = (struct maps){ shape.n, shape.h * (first + 1), shape.w * (first + 1), 3, 8, type };
			else if (k->of == FLAT)
				j.m.c = j.m.cp = 8 * shape.c;
			lay_out(&j, cache);
			show(&j, measure(t, &j), copy, json);
			release(&j);
		}
}

static struct maps parse_shape(const char *s)
{
	struct maps m = { 0 };
	int len = 0, got = sscanf(s, "%d,%d,%d,%d%n", &m.n, &m.h, &m.w, &m.c, &len);

	if (got != 4 || s[len] || m.n < 1 || m.h < 2 || m.w < 2 || m.c < 1)
		usage("-s %s: N,H,W,C expected", s);
	m.cp = (m.c + 7) / 8 * 8;
	return m;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = { { "json", no_argument, NULL, 'J' }, { 0 } };
	struct maps shape[16] = { { 100, 112, 112, 64, 64, ELEM_F32 }, { 100, 64, 64, 64, 64, ELEM_F32 } };
	struct timer t = { .rounds = 5 };
	struct cudaDeviceProp prop;
	size_t mb = 1024;
	int nshape = 0, c;
	bool json = false;

	progname = "kernels";
	while ((c = getopt_long(argc, argv, "r:s:m:", longs, NULL)) != -1)
		switch (c) {
		case 'r': t.rounds = eint("-r", optarg, 1, 64); break;
		case 'm': mb = eint("-m", optarg, 1, 65536); break;
		case 's':
			if (nshape == LEN(shape))
				usage("-s: %d shapes at most", (int)LEN(shape));
			shape[nshape++] = parse_shape(optarg);
			break;
		case 'J': json = true; break;
		default: usage("usage: kernels [-r ROUNDS] [-s N,H,W,C]... [-m MB] [--json] [NAME...]");
		}
	cuda_ok(cudaGetDeviceProperties(&prop, 0), "the device");
	cuda_ok(cudaStreamCreate(&t.stream), "cudaStreamCreate");
	cuda_ok(cudaEventCreate(&t.from), "cudaEventCreate");
	cuda_ok(cudaEventCreate(&t.to), "cudaEventCreate");
	double copy = copy_rate(&t, mb << 20);
	printf(json ? "{\"device\":\"%s\",\"copy_gb_s\":%.1f}\n" : "%s: a copy moves %.1f GB/s\n", prop.name, copy);
	for (int i = 0; i < (nshape ? nshape : 2); i++)
		run_shape(&t, shape[i], i == 0, copy, prop.l2CacheSize, argv + optind, json);
	eflush();
	return 0;
}
