/* Every operation of a net, alone and in the company that it keeps, against a reference in double (ref_net.h): logits,
 * and gradients of images and parameters as slopes of the reference. On every instruction set that runs here. Prints TAP. */
#include "../lib/device.h"
#include "../lib/loss.h"
#include "../lib/plan.h"
#include "ref_net.h"
#include "tap.h"

#define BOUND 1e-4

enum { IMAGES = 3, CLASSES = 5, SEED = 7, STEP = 11 };

/* Nets by hand: put() appends a node behind the last one, or behind a given one. */
static struct net *net;

static int put(struct node v, int out)
{
	char err[ERRLEN];
	int i;

	snprintf(v.name, sizeof v.name, "n%d", net->nnode);
	if (v.op != OP_INPUT && !v.nin)
		v.in[0] = net->nnode - 1;
	v.nin = v.op == OP_INPUT ? 0 : v.nin ? v.nin : 1;
	v.groups = v.groups ? v.groups : 1;
	if ((i = net_add(net, &v, out, err)) < 0)
		die("%s", err);
	return i;
}

static int op(enum op o)
{
	return put((struct node){ .op = o, .eps = 1e-5f, .p = 0.4f, .k = 2, .stride = 2 }, 0);
}

static int pair(enum op o, int a, int b)
{
	return put((struct node){ .op = o, .in = { a, b }, .nin = 2 }, 0);
}

static int conv(int from, int out, int k, int stride, int pad, int groups, bool bias)
{
	return put((struct node){ .op = OP_CONV, .in = { from }, .nin = 1, .k = k, .stride = stride, .pad = pad,
		.groups = groups, .has_bias = bias }, out);
}

static int select_some(int from, const int *map, int n)
{
	return put((struct node){ .op = OP_SELECT, .in = { from }, .nin = 1, .map = (int *)map }, n);
}

static void stem(int h, int w, int channels)
{
	net = net_new("by-hand", (int[]){ 3, h, w });
	op(OP_INPUT);
	conv(0, channels, 3, 1, 1, 1, false);
	op(OP_BN);
}

static struct net *finish(void)
{
	char err[ERRLEN];

	op(OP_FLATTEN);
	put((struct node){ .op = OP_LINEAR }, CLASSES);
	if (net_finish(net, CLASSES, err) < 0)
		die("%s", err);
	return net;
}

static struct net *activations(void)
{
	stem(7, 9, 11);
	put((struct node){ .op = OP_RELU6 }, 0);
	conv(net->nnode - 1, 13, 3, 2, 1, 1, true);
	op(OP_SILU);
	conv(net->nnode - 1, 9, 1, 1, 0, 1, false);
	op(OP_BN);
	op(OP_SIGMOID);
	return finish();
}

static struct net *depthwise(void)
{
	stem(9, 11, 19);
	op(OP_RELU);
	conv(net->nnode - 1, 19, 3, 1, 1, 19, false);
	op(OP_BN);
	put((struct node){ .op = OP_RELU6 }, 0);
	conv(net->nnode - 1, 19, 5, 2, 2, 19, true);
	conv(net->nnode - 1, 19, 3, 2, 1, 19, false);
	op(OP_BN);
	conv(net->nnode - 1, 19, 2, 1, 0, 19, false);
	return finish();
}

static struct net *grouped(void)
{
	stem(6, 6, 12);
	op(OP_SILU);
	conv(net->nnode - 1, 18, 3, 1, 1, 3, true);
	op(OP_BN);
	op(OP_RELU);
	conv(net->nnode - 1, 10, 3, 2, 0, 2, false);
	return finish();
}

static struct net *dense(void)
{
	stem(8, 8, 10);
	int a = op(OP_RELU), b = conv(a, 7, 3, 1, 1, 1, false), ab = pair(OP_CONCAT, a, b);
	op(OP_BN);
	op(OP_RELU);
	int c = conv(net->nnode - 1, 5, 3, 1, 1, 1, false);
	pair(OP_CONCAT, ab, c);
	op(OP_BN);
	op(OP_RELU);
	conv(net->nnode - 1, 6, 1, 1, 0, 1, false);
	put((struct node){ .op = OP_AVGPOOL, .k = 2, .stride = 2 }, 0);
	return finish();
}

static struct net *shuffle(void)
{
	static const int low[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8 }, high[] = { 9, 10, 11, 12, 13, 14, 15, 16, 17 };
	static const int mix[] = { 0, 9, 1, 10, 2, 11, 3, 12, 4, 13, 5, 14, 6, 15, 7, 16, 8, 17 }, few[] = { 17, 2, 11 };

	stem(6, 5, 18);
	int x = op(OP_RELU), a = select_some(x, low, 9), b = select_some(x, high, 9);
	b = conv(b, 9, 3, 1, 1, 9, false);
	b = op(OP_BN);
	b = conv(b, 9, 1, 1, 0, 1, false);
	b = op(OP_RELU);
	x = pair(OP_CONCAT, a, b);
	x = select_some(x, mix, 18);
	select_some(x, few, 3);
	return finish();
}

static struct net *excite(void)
{
	stem(6, 6, 14);
	int x = op(OP_SILU);
	op(OP_GAP);
	conv(net->nnode - 1, 3, 1, 1, 0, 1, true);
	op(OP_SILU);
	conv(net->nnode - 1, 14, 1, 1, 0, 1, true);
	int s = op(OP_SIGMOID), y = pair(OP_MUL, x, s);
	conv(y, 14, 1, 1, 0, 1, false);
	y = op(OP_BN);
	y = op(OP_DROPPATH);
	pair(OP_ADD, y, x);
	return finish();
}

static struct net *classifier(void)
{
	stem(11, 10, 8);
	op(OP_RELU);
	put((struct node){ .op = OP_MAXPOOL, .k = 3, .stride = 2 }, 0);
	put((struct node){ .op = OP_ADAPT, .k = 3 }, 0);
	op(OP_FLATTEN);
	op(OP_DROPOUT);
	put((struct node){ .op = OP_LINEAR }, 21);
	op(OP_RELU);
	op(OP_DROPOUT);
	put((struct node){ .op = OP_LINEAR }, 13);
	op(OP_BN);
	op(OP_RELU);
	return finish();
}

static struct net *enlarge(void) /* adaptive pooling to more than there is; average pooling of another kind */
{
	stem(7, 7, 6);
	put((struct node){ .op = OP_AVGPOOL, .k = 3, .stride = 2 }, 0);
	put((struct node){ .op = OP_ADAPT, .k = 5 }, 0);
	conv(net->nnode - 1, 9, 3, 1, 1, 1, false);
	op(OP_IN);
	op(OP_RELU);
	return finish();
}

static struct net *without_norms(void) /* what is matched then are convolutions */
{
	net = net_new("by-hand", (int[]){ 3, 9, 9 });
	op(OP_INPUT);
	conv(0, 12, 3, 1, 1, 1, true);
	op(OP_RELU);
	int x = conv(2, 9, 3, 1, 1, 1, true);
	put((struct node){ .op = OP_MAXPOOL, .k = 2, .stride = 2 }, 0);
	int a = conv(net->nnode - 1, 9, 3, 1, 1, 1, false), b = conv(x + 1, 9, 1, 1, 0, 1, true);
	pair(OP_ADD, b, a);
	op(OP_RELU);
	return finish();
}

static struct net *instance_norms(void)
{
	net = net_new("by-hand", (int[]){ 3, 8, 8 });
	op(OP_INPUT);
	conv(0, 12, 3, 1, 1, 1, true);
	op(OP_IN);
	op(OP_RELU);
	put((struct node){ .op = OP_AVGPOOL, .k = 2, .stride = 2 }, 0);
	int x = net->nnode - 1;
	conv(x, 12, 3, 1, 1, 1, true);
	op(OP_IN);
	pair(OP_ADD, net->nnode - 1, x);
	op(OP_RELU);
	return finish();
}

/* Images far from zero: batch norms whose mean is a hundred deviations away from the running one. */
static struct net *far_away(void)
{
	net = net_new("by-hand", (int[]){ 3, 9, 9 });
	op(OP_INPUT);
	conv(0, 12, 3, 1, 0, 1, false);
	op(OP_BN);
	op(OP_RELU);
	conv(net->nnode - 1, 9, 3, 1, 1, 1, true);
	op(OP_BN);
	op(OP_SILU);
	return finish();
}

static double *doubles(const float *x, size_t n)
{
	double *y = ecalloc(n + 1, sizeof *y);

	for (size_t i = 0; i < n; i++)
		y[i] = x[i];
	return y;
}

struct problem {
	const char *name;
	const struct net *net;
	struct weights w;
	double *theta, *buffer, *images; /* the same in double */
	float *x;
	size_t pixels;
	int64_t label[IMAGES];
	struct plan *plan;               /* that is compared with */
};

/* What statistics are weighed with: coefficient a (which = 0) or b of image i, channel c of tap t. */
static double weigh(int which, int t, int i, int c)
{
	return 1e-3 * sin(1 + which * 0.7 + t * 1.1 + i * 2.3 + c * 0.37);
}

/* Sum over taps, images, channels of a * sum(x - ref) + b/2 * sum((x - ref)^2). */
static double statistics_loss(const struct problem *p, const struct ref *r)
{
	int *at = ecalloc(p->net->nnode, sizeof *at), n = net_matched(p->net, at);
	double loss = 0;

	for (int t = 0; t < n; t++) {
		const struct node *v = &p->net->node[at[t]];
		const double *x = r->y[v->op == OP_CONV ? at[t] : v->in[0]];
		for (int i = 0; i < r->n; i++)
			for (int c = 0; c < v->c; c++) {
				double ref = v->op == OP_BN ? ref_param(r, v, P_MEAN, c) : plan_tap(p->plan, t)->ref[c];
				const struct node *of = v->op == OP_CONV ? v : &p->net->node[v->in[0]];
				for (int j = 0; j < of->h * of->w; j++) {
					double d = x[((size_t)i * v->c + c) * of->h * of->w + j] - ref;
					loss += weigh(0, t, i, c) * d + weigh(1, t, i, c) * d * d / 2;
				}
			}
	}
	free(at);
	return loss;
}

/* The reference's loss with images and parameters moved by `by` along two directions, either may be NULL. */
static double loss_at(const struct problem *p, bool train, bool drops, double by, const float *image_way,
    const float *theta_way)
{
	double *images = ecalloc(p->pixels, sizeof *images), *theta = ecalloc(p->net->ntheta, sizeof *theta), loss = 0;
	struct ref r = { p->net, theta, p->buffer, IMAGES, train, drops, SEED, STEP, NULL };
	const double *logits;

	for (size_t i = 0; i < p->pixels; i++)
		images[i] = p->images[i] + (image_way ? by * image_way[i] : 0);
	for (size_t i = 0; i < p->net->ntheta; i++)
		theta[i] = p->theta[i] + (theta_way ? by * theta_way[i] : 0);
	logits = ref_forward(&r, images);
	loss = train ? 0 : statistics_loss(p, &r);
	for (int i = 0; i < IMAGES; i++) {
		double sum = 0;
		for (int k = 0; k < CLASSES; k++)
			sum += exp(logits[i * CLASSES + k]);
		loss += (log(sum) - logits[i * CLASSES + p->label[i]]) / IMAGES;
	}
	ref_free(&r);
	free(images);
	free(theta);
	return loss;
}

/* A gradient's claim: along any direction the loss rises by <gradient, direction>. Largest error over three ways, as a share
 * of the gradient's length times the direction's. */
static double slope_error(const struct problem *p, bool train, bool drops, const float *grad, size_t n, bool of_images)
{
	const double h = 1e-6;
	float *way = ecalloc(n, sizeof *way);
	double worst = 0;

	for (int trial = 0; trial < 3; trial++) {
		struct rng r = rng_at(SEED, RNG_NOISE, trial, of_images, 0);
		double want, got = 0, gg = 0, ww = 0;
		for (size_t i = 0; i < n; i++) {
			way[i] = trial == 2 ? grad[i] : rng_normal(&r);
			got += (double)grad[i] * way[i];
			gg += (double)grad[i] * grad[i];
			ww += (double)way[i] * way[i];
		}
		want = (loss_at(p, train, drops, h, of_images ? way : NULL, of_images ? NULL : way) -
		    loss_at(p, train, drops, -h, of_images ? way : NULL, of_images ? NULL : way)) / (2 * h);
		worst = fmax(worst, fabs(want - got) / sqrt(gg * ww));
	}
	free(way);
	return worst;
}

static double logits_error(const struct problem *p, const float *logits, bool train, bool drops)
{
	struct ref r = { p->net, p->theta, p->buffer, IMAGES, train, drops, SEED, STEP, NULL };
	const double *want = ref_forward(&r, p->images);
	double worst = 0, size = 0;

	for (int i = 0; i < IMAGES * CLASSES; i++) {
		worst = fmax(worst, fabs(want[i] - logits[i]));
		size = fmax(size, fabs(want[i]));
	}
	ref_free(&r);
	return worst / size;
}

static void run(struct problem *p, const char *isa, enum purpose purpose, bool drops)
{
	static const char *const word[] = { "evaluation", "synthesis", "training" };
	float logits[IMAGES * CLASSES], dlogits[IMAGES * CLASSES], *dx = ecalloc(p->pixels, sizeof *dx);
	float *dtheta = ecalloc(p->net->ntheta, sizeof *dtheta);
	bool train = purpose == PLAN_TRAIN;
	struct workspace *ws = ws_new();
	char err[ERRLEN];
	struct plan *plan = plan_new(p->net, (struct plan_opts){ .purpose = purpose, .batch = IMAGES }, err);
	double e;

	if (!plan)
		die("%s: %s", p->name, err);
	p->plan = plan;
	plan_bind(plan, ws);
	plan_load(plan, &p->w);
	if (drops)
		plan_draws(plan, SEED, STEP);
	plan_forward(plan, IMAGES, p->x, logits);
	e = logits_error(p, logits, train, drops);
	ok(e < BOUND, "%s, %s, %s%s: logits off by %.1e", p->name, isa, word[purpose], drops ? " with drops" : "", e);
	if (purpose != PLAN_EVAL) {
		loss_ce(logits, p->label, IMAGES, CLASSES, dlogits);
		for (int t = 0; !train && t < plan_ntaps(plan); t++)
			for (int j = 0; j < IMAGES * plan_tap(plan, t)->c; j++) {
				plan_tap(plan, t)->a[j] = weigh(0, t, j / plan_tap(plan, t)->c, j % plan_tap(plan, t)->c);
				plan_tap(plan, t)->b[j] = weigh(1, t, j / plan_tap(plan, t)->c, j % plan_tap(plan, t)->c);
			}
		plan_backward(plan, IMAGES, dlogits, train ? NULL : dx, train ? dtheta : NULL);
		e = slope_error(p, train, drops, train ? dtheta : dx, train ? p->net->ntheta : p->pixels, !train);
		ok(e < BOUND, "%s, %s, %s%s: gradients off by %.1e", p->name, isa, word[purpose], drops ? " with drops" : "", e);
	}
	plan_free(plan);
	ws_free(ws);
	free(dx);
	free(dtheta);
}

static void examine(const char *name, struct net *n, double offset)
{
	static const char *const isas[] = { "avx512", "avx2", "plain" }; /* oneDNN keeps the first */
	struct problem p = { .name = name, .net = n, .w = weights_new(n) };
	struct rng r = rng_at(SEED, RNG_NOISE, 100, 0, 0);
	bool drops = false;
	char err[ERRLEN];

	for (int i = 0; i < n->nnode; i++)
		drops = drops || n->node[i].op == OP_DROPOUT || n->node[i].op == OP_DROPPATH;
	net_init(n, &p.w, SEED, RNG_INIT);
	for (size_t i = 0; i < n->ntheta; i++)
		p.w.theta[i] += 0.2 * rng_normal(&r);
	for (size_t i = 0; i < n->nbuffer; i++)
		p.w.buffer[i] += 0.5 * rng_uniform(&r);
	p.pixels = (size_t)IMAGES * n->chw[0] * n->chw[1] * n->chw[2];
	p.x = ecalloc(p.pixels, sizeof *p.x);
	for (size_t i = 0; i < p.pixels; i++)
		p.x[i] = offset + rng_normal(&r);
	for (int i = 0; i < IMAGES; i++)
		p.label[i] = rng_below(&r, CLASSES);
	p.theta = doubles(p.w.theta, n->ntheta);
	p.buffer = doubles(p.w.buffer, n->nbuffer);
	p.images = doubles(p.x, p.pixels);
	for (size_t i = 0; i < LEN(isas); i++) {
		if (i > 0 && !device_is_host())
			break; /* a processor's instruction sets are nothing to it, or whether this one has them */
		if (device_is_host() && set_isa(isas[i], err) < 0) {
			printf("# %s\n", err);
			continue;
		}
		run(&p, isas[i], PLAN_EVAL, false);
		run(&p, isas[i], PLAN_SYNTH, false);
		run(&p, isas[i], PLAN_TRAIN, false);
		if (drops)
			run(&p, isas[i], PLAN_TRAIN, true);
	}
	free(p.theta), free(p.buffer), free(p.images), free(p.x);
	weights_free(&p.w);
	net_free(n);
}

int main(void)
{
	set_threads(2);
	examine("activations", activations(), 0);
	examine("depthwise", depthwise(), 0);
	examine("grouped", grouped(), 0);
	examine("concat", dense(), 0);
	examine("shuffle", shuffle(), 0);
	examine("squeeze and excite", excite(), 0);
	examine("classifier", classifier(), 0);
	examine("enlarge", enlarge(), 0);
	examine("without norms", without_norms(), 0);
	examine("instance norms", instance_norms(), 0);
	examine("far away", far_away(), 300);
	return tap_end();
}
