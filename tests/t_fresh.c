/* Synthesis with fresh real images beside the unit: statistics and class means of the last features against double
 * references, the same augmentation on both sides, draws. Prints TAP. */
#include <string.h>

#include "synth_ref.h"

static int64_t real_label[REAL];

static void get_real(const void *set, int64_t i, float *out)
{
	(void)set;
	memcpy(out, real_image[i], PIX * sizeof *out);
}

static struct fresh *make_fresh(int per_class)
{
	struct rng r = rng_at(11, RNG_NOISE, 0, 0, 0);

	for (int i = 0; i < REAL; i++) {
		real_label[i] = i % K;
		for (int j = 0; j < PIX; j++)
			real_image[i][j] = rng_normal(&r);
	}
	return fresh_new((struct dataset){ .n = REAL, .chw = { C, S, S }, .label = real_label, .get = get_real }, K, per_class);
}

/* As many real images as there are, so that what is drawn is known: all of the class. */
static void fresh_gradients(const struct pool *p)
{
	struct fresh *all = make_fresh(REAL);
	struct synth_opts o = plain;
	char err[ERRLEN];

	o.fresh = all;
	for (o.class_weight = 0; o.class_weight <= 1; o.class_weight += 0.5)
		check_gradient("fresh images, their statistics", &o, p, 8, 0);
	o.features = true, o.ce = 0, o.alpha = 0.5;
	check_gradient("fresh images, class means of features", &o, p, 7, 0);
	o.deviations = 0.7;
	check_gradient("fresh images, their features' deviations too", &o, p, 8, 0);
	o.depth = true;
	check_gradient("fresh images, all maps and their deviations", &o, p, 8, 0);
	o.deviations = 0;
	check_gradient("fresh images, all maps", &o, p, 7, 0);
	o.depth = false;
	o.prior = 4, o.predict = 2, o.ce = 3;
	check_gradient("fresh images, features, and others that predict", &o, p, 8, 0);
	o.prior = o.ce = 0;
	o.dsa = dsa_parse("crop_scale_rotate", err), o.mean_bn = true;
	for (long step = 0; step < 3; step++)
		check_gradient("class means of features, one augmentation", &o, p, 6, step);
	fresh_free(all);
}

/* A unit of the real images themselves matches them whatever the augmentation, if it is the same on both sides. */
static void siamese(const struct pool *p)
{
	struct fresh *few = make_fresh(2), *all = make_fresh(REAL);
	struct synth_opts o = plain;
	struct synth_loss loss, other;
	struct unit u = make_unit(MAXN, 4);
	int64_t pick[2], again[2];
	char err[ERRLEN];
	int good = 1, same = 0, inside = 1;

	for (int i = 0; i < MAXN; i++)
		memcpy(u.x + i * PIX, real_image[i], PIX * sizeof *u.x);
	u.n = 8, u.label = real_label; /* two of each class; all->n is more */
	o.fresh = all, o.ce = 0, o.per_class = true, o.dsa = (1u << DSA_KINDS) - (1u << DSA_COLOUR), o.draw = DRAW_ITERATION;
	for (int features = 0; features < 2; features++) {
		struct fresh own = *all;
		int64_t two[K] = { 2, 2, 2, 2 };
		struct synth *s;

		own.n = two; /* the first two of each: those of the unit */
		o.fresh = &own, o.features = features, o.class_weight = 1;
		s = synth_new(&o, p->ref, POOL, MAXN);
		good = 1;
		for (u.opt.step = 0; u.opt.step < 12; u.opt.step++) {
			float dx[MAXN * PIX];
			if (synth_gradient(s, &u, dx, &loss, err) < 0)
				die("%s", err);
			good &= loss.bn < 1e-4;
		}
		ok(good, "%s: nothing to match between images and themselves", features ? "features" : "statistics");
		synth_free(s);
	}
	o.fresh = few, o.features = true;
	struct synth *s = synth_new(&o, p->ref, POOL, MAXN);
	float dx[MAXN * PIX];
	for (u.opt.step = 0; u.opt.step < 8; u.opt.step++) {
		if (synth_gradient(s, &u, dx, &loss, err) < 0 || synth_gradient(s, &u, dx, &other, err) < 0)
			die("%s", err);
		good &= loss.bn == other.bn;
	}
	ok(good && loss.bn > 1e-3, "two of each class: the same two at the same iteration");
	for (int i = 0; i < 40; i++) {
		int n = fresh_draw(few, 1, 1, i, pick), m = fresh_draw(few, 1, 1, i + 1, again);
		inside &= n == 2 && m == 2 && pick[0] != pick[1] && pick[0] % K == 1 && pick[1] % K == 1;
		same += !memcmp(pick, again, sizeof pick);
	}
	ok(inside && same < 20, "no image twice, other ones at another iteration");
	synth_free(s);
	u.label = by_class;
	free_unit(&u);
	fresh_free(few);
	fresh_free(all);
}

/* Steps of SGD against its formula, with momentum and weight decay, from the gradients where they were. */
static void descent(const struct pool *p)
{
	struct fresh *few = make_fresh(2);
	struct synth_opts o = plain;
	struct unit u = make_unit(8, 5), by_hand = make_unit(8, 5);
	struct synth *s;
	struct synth_loss loss;
	double m[8 * PIX] = { 0 }, off = 0, way = 0;
	float dx[8 * PIX];
	char err[ERRLEN];

	o.fresh = few, o.features = true, o.ce = 0, o.draw = DRAW_ITERATION, o.sched = SCHED_CONST;
	o.opt = OPT_SGD, o.lr = 0.2, o.momentum = 0.7, o.weight_decay = 0.01;
	optim_free(&u.opt);
	u.opt = optim_new(OPT_SGD, 8 * PIX);
	s = synth_new(&o, p->ref, POOL, 8);
	for (by_hand.opt.step = 0; by_hand.opt.step < 4; by_hand.opt.step++) {
		if (synth_gradient(s, &by_hand, dx, &loss, err) < 0 || synth_run(s, &u, 1, &loss, err) < 0)
			die("%s", err);
		for (int i = 0; i < 8 * PIX; i++) {
			m[i] = 0.7 * m[i] + dx[i] + 0.01 * by_hand.x[i];
			double x = by_hand.x[i] - 0.2 * m[i];
			way = fmax(way, fabs(x - by_hand.x[i]));
			by_hand.x[i] = x < low[i] ? low[i] : x > high[i] ? high[i] : x;
			off = fmax(off, fabs(u.x[i] - by_hand.x[i]));
		}
	}
	ok(off < 1e-5 * way && u.opt.step == 4, "SGD with momentum: %.2g off on a way of %.2g", off, way);
	synth_free(s);
	free_unit(&u);
	free_unit(&by_hand);
	fresh_free(few);
}

/* More networks than have plans of their own at a time, of two kinds by turns: each counts as it does by itself. */
static void turns(const struct pool *p)
{
	enum { MANY = 40 };
	struct fresh *few = make_fresh(2);
	struct synth_opts o = plain;
	struct unit u = make_unit(8, 5);
	struct teacher_ref ref[MANY];
	struct weights w[MANY];
	struct net *other;
	struct synth *all;
	float dx[8 * PIX], alone[8 * PIX];
	int pick[MANY], same = 0, kinds[2] = { 0 };
	char err[ERRLEN];

	if (!(other = net_arch("convnet2-16", chw, K, err)))
		die("%s", err);
	ok(net_alike(p->net, p->net) && !net_alike(p->net, other), "networks of another width are told apart");
	for (int i = 0; i < MANY; i++) {
		const struct net *net = i % 3 ? p->net : other;
		w[i] = weights_new(net);
		net_init(net, &w[i], i, RNG_INIT);
		ref[i] = (struct teacher_ref){ .net = net, .w = &w[i] };
	}
	o.fresh = few, o.features = true, o.ce = 0, o.draw = DRAW_ITERATION, o.subset = 1;
	all = synth_new(&o, ref, MANY, 8);
	for (u.opt.step = 0; u.opt.step < 2 * MANY; u.opt.step++) {
		struct synth_loss loss, by_itself;
		struct synth *one = synth_new(&o, ref, MANY, 8);
		if (synth_gradient(all, &u, dx, &loss, err) < 0 || synth_gradient(one, &u, alone, &by_itself, err) < 0)
			die("%s", err);
		same += loss.bn == by_itself.bn && !memcmp(dx, alone, sizeof dx);
		synth_subset(all, &u, u.opt.step, pick);
		kinds[pick[0] % 3 == 0]++;
		synth_free(one);
	}
	ok(same == 2 * MANY && kinds[0] > 16 && kinds[1] > 16, "%d of %d networks in turn as if there were no others", same, 2 * MANY);
	synth_free(all);
	for (int i = 0; i < MANY; i++)
		weights_free(&w[i]);
	net_free(other);
	free_unit(&u);
	fresh_free(few);
}

int main(void)
{
	struct pool *p = make_pool();

	progname = "t_fresh";
	set_threads(2);
	fresh_gradients(p);
	siamese(p);
	descent(p);
	turns(p);
	free_pool(p);
	return tap_end();
}
