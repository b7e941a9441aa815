/* Synthesis: the objective and its image gradient against double references and finite differences, draws of teachers,
 * and the same bytes however a unit is computed. Prints TAP. */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "synth_ref.h"

static void gradients(const struct pool *p)
{
	static const char *const groups[] = { "color", "crop", "cutout", "flip", "scale", "rotate" };
	char err[ERRLEN];
	struct synth_opts o = plain;

	check_gradient("no augmentation", &o, p, 6, 0);
	o.first = 1, o.alpha = 0.03;
	check_gradient("alpha 0.03, first layer as the others", &o, p, 6, 0);
	o = plain, o.alpha = 0;
	check_gradient("labels alone", &o, p, 6, 0);
	o = plain, o.class_weight = 1, o.mean_bn = true, o.ensemble = ENS_PROBS;
	check_gradient("class-wise, averaged, probabilities", &o, p, 6, 0);
	check_gradient("class-wise, a mixture", &o, p, 4, 0);
	o = plain, o.prior = 2, o.predict = 2, o.mean_bn = true, o.ensemble = ENS_PROBS;
	check_gradient("a pool that is matched, a prior that predicts", &o, p, 8, 0);
	o = plain, o.class_weight = 0.3, o.ensemble = ENS_EACH, o.subset = 2;
	check_gradient("mixed, each teacher's own", &o, p, 6, 0);
	o = plain, o.crop_min = 0.3, o.crop_max = 1, o.flip = 0.5, o.roll_min = -2, o.roll_max = 2, o.class_weight = 1;
	for (long step = 0; step < 4; step++)
		check_gradient("crop, flip, roll", &o, p, 6, step);
	o = plain;
	for (size_t i = 0; i < LEN(groups); i++) {
		o.dsa = dsa_parse(groups[i], err);
		check_gradient(groups[i], &o, p, 3, 1);
	}
	o = plain, o.ce = 0.25;
	check_gradient("a quarter of the cross-entropy", &o, p, 6, 0);
}

static void subsets(const struct pool *p)
{
	enum { DRAWS = 3000 };
	struct synth_opts o = plain;
	struct synth *s = synth_new(&o, p->ref, POOL, 1);
	struct unit u = make_unit(1, 0);
	int pick[POOL], other[POOL], seen[1 << POOL] = { 0 }, good = 1, same = 1, kinds = 0, differ = 0;
	double chi = 0;

	for (int64_t index = 0; index < DRAWS; index++) {
		unsigned mask = 0;
		u.index = &index, u.number = 0;
		good &= synth_subset(s, &u, 0, pick) == 3;
		for (int i = 0; i < 3; i++) {
			good &= pick[i] >= 0 && pick[i] < POOL && (!i || pick[i] > pick[i - 1]);
			mask |= 1u << pick[i];
		}
		seen[mask]++;
		u.number = 1 + index % 7;
		synth_subset(s, &u, index, other);
		same &= !memcmp(pick, other, 3 * sizeof *pick);
	}
	ok(good, "three teachers, ascending, different");
	for (int m = 0; m < 1 << POOL; m++)
		if (__builtin_popcount(m) == 3) {
			kinds++;
			chi += (seen[m] - DRAWS / 84.0) * (seen[m] - DRAWS / 84.0) / (DRAWS / 84.0);
		}
	/* 83 degrees of freedom: mean 83, deviation 12.9 */
	ok(kinds == 84 && chi < 83 + 4 * 12.9, "all 84 subsets are equally likely (chi-square %.1f)", chi);
	ok(same, "one index, one subset: whatever the unit and the iteration");
	synth_free(s);

	for (enum draw d = DRAW_UNIT; d <= DRAW_ITERATION; d++) {
		int64_t index = 0;
		o.draw = d;
		s = synth_new(&o, p->ref, POOL, 1);
		u.index = &index;
		same = 1, differ = 0;
		for (int i = 0; i < 50; i++) {
			u.number = d == DRAW_UNIT ? i : 4;
			synth_subset(s, &u, d == DRAW_UNIT ? 3 : i, pick);
			u.number = d == DRAW_UNIT ? i : 4;
			synth_subset(s, &u, d == DRAW_UNIT ? 9 : i, other);
			same &= !memcmp(pick, other, 3 * sizeof *pick);
			u.number = d == DRAW_UNIT ? i + 1 : 4;
			synth_subset(s, &u, i + 1, other);
			differ += !!memcmp(pick, other, 3 * sizeof *pick);
		}
		ok(same && differ > 40, "a subset for each %s", d == DRAW_UNIT ? "unit" : "iteration");
		synth_free(s);
	}
	o = plain, o.subset = 20;
	s = synth_new(&o, p->ref, POOL, 1);
	int64_t zero = 0;
	u.index = &zero;
	ok(synth_subset(s, &u, 0, pick) == POOL && pick[0] == 0 && pick[POOL - 1] == POOL - 1, "at most the whole pool");
	synth_free(s);
	o = plain, o.prior = 4, o.predict = 2, o.draw = DRAW_ITERATION;
	s = synth_new(&o, p->ref, POOL, 1);
	good = 1, same = 0;
	for (int i = 0; i < 50; i++) {
		good &= synth_subset(s, &u, i, pick) == 5 && synth_matched(&o, POOL) == 3 && pick[2] < 5 && pick[3] >= 5 && pick[4] > pick[3];
		synth_subset(s, &u, i + 1, other);
		same += !memcmp(pick + 3, other + 3, 2 * sizeof *pick);
	}
	ok(good && same < 30, "of the prior, others are drawn, and as often");
	synth_free(s);
	free_unit(&u);
}

/* Iterations [u->opt.step, until) of a unit by a synth of this batch and so many threads. */
static void run(const struct synth_opts *o, const struct pool *p, struct unit *u, int batch, int threads, long until)
{
	struct synth *s;
	struct synth_loss loss;
	char err[ERRLEN];

	set_threads(threads);
	s = synth_new(o, p->ref, POOL, batch);
	while (u->opt.step < until)
		if (synth_run(s, u, 1, &loss, err) < 0)
			die("%s", err);
	synth_free(s);
	set_threads(2);
}

static int same_unit(const struct unit *a, const struct unit *b)
{
	size_t bytes = (size_t)a->n * PIX * sizeof(float);

	return !memcmp(a->x, b->x, bytes) && !memcmp(a->opt.m, b->opt.m, bytes) && !memcmp(a->opt.v, b->opt.v, bytes);
}

static void bytes(const struct pool *p)
{
	struct synth_opts o = plain;

	o.crop_min = 0.5, o.crop_max = 1, o.flip = 0.5, o.class_weight = 0.5;
	for (int n = 1; n <= 7; n += 3) {
		struct unit one = make_unit(n, 2), other;
		run(&o, p, &one, n, 1, 6);
		for (int threads = 1; threads <= 3; threads++)
			for (int batch = n; batch <= MAXN; batch += MAXN - n) {
				other = make_unit(n, 2);
				run(&o, p, &other, batch, threads, 6);
				ok(same_unit(&one, &other), "%d images: the same bytes with %d threads in a batch of %d", n, threads, batch);
				free_unit(&other);
			}
		other = make_unit(n, 2);
		run(&o, p, &other, n, 2, 2);
		run(&o, p, &other, MAXN, 3, 6);
		ok(same_unit(&one, &other), "%d images: the same bytes in two goes", n);
		free_unit(&other);
		other = make_unit(n, 3);
		run(&o, p, &other, n, 1, 6);
		ok(!same_unit(&one, &other), "%d images: another number, other bytes", n);
		free_unit(&other);
		free_unit(&one);
	}
}

static void descent(const struct pool *p)
{
	struct synth_opts o = plain;
	struct synth *s = synth_new(&o, p->ref, POOL, MAXN);
	struct unit u = make_unit(MAXN, 0);
	struct synth_loss first, loss;
	char err[ERRLEN];
	size_t size = 0;
	int inside = 1, edge = 0;

	for (int i = 0; i < 40; i++) {
		if (synth_run(s, &u, 1, i ? &loss : &first, err) < 0)
			die("%s", err);
		size = i ? size : synth_bytes(s);
	}
	ok(loss.bn < 0.7 * first.bn, "40 iterations bring the statistics from %.3f to %.3f", first.bn, loss.bn);
	ok(size > 0 && synth_bytes(s) == size, "memory does not grow");
	for (int i = 0; i < MAXN * PIX; i++) {
		inside &= u.x[i] >= low[i] && u.x[i] <= high[i];
		edge += u.x[i] == low[i] || u.x[i] == high[i];
	}
	ok(inside && edge > 0, "pixels are clamped, %d at the edge", edge);
	free_unit(&u);
	synth_free(s);
}

/* What --aug says of rolls is what is drawn, each of them about as often. */
static void rolls(void)
{
	static const struct { const char *spec; int least, most; } of[] = { { "roll:2", -2, 2 }, { "roll:0:4", 0, 4 },
		{ "flip:0,roll:-1:3", -1, 3 }, { "roll:3:3", 3, 3 }, { "roll:0", 0, 0 } };
	struct unit u = make_unit(1, 0);

	for (size_t i = 0; i < LEN(of); i++) {
		struct synth_opts o = plain;
		int seen[2][9] = { 0 }, least = INT_MAX, most = INT_MIN, rarest = INT_MAX;
		struct view v;
		struct dsa d;

		synth_aug(&o, of[i].spec);
		for (int64_t t = 0; t < 500; t++) {
			synth_draw(&o, (const int[]){ 3, S, S }, &u, t, -1, &v, &d);
			least = MIN(least, MIN(v.dy, v.dx)), most = MAX(most, MAX(v.dy, v.dx));
			seen[0][v.dy + 4]++, seen[1][v.dx + 4]++;
		}
		for (int k = of[i].least; k <= of[i].most; k++)
			rarest = MIN(rarest, MIN(seen[0][k + 4], seen[1][k + 4]));
		ok(least == of[i].least && most == of[i].most && rarest > 60, "%s: %d to %d, the rarest %d of 500 times", of[i].spec,
		    least, most, rarest);
	}
	free_unit(&u);
}

static void not_finite(struct pool *p)
{
	struct synth_opts o = plain;
	struct synth *s;
	struct unit u = make_unit(3, 8), before = make_unit(3, 8);
	struct synth_loss loss;
	char err[ERRLEN] = "";
	int rc;

	for (int t = 0; t < POOL; t++)
		for (size_t i = 0; i < p->net->ntheta; i++)
			p->w[t].theta[i] *= 1e20f;
	s = synth_new(&o, p->ref, POOL, 3);
	u.opt.step = before.opt.step = 17;
	rc = synth_run(s, &u, 1, &loss, err);
	ok(rc < 0 && strstr(err, "unit 8, iteration 17") && strstr(err, "not finite"), "a loss that is not finite: %s", err);
	ok(same_unit(&u, &before) && u.opt.step == 17, "and the unit is as it was");
	synth_free(s);
	free_unit(&u);
	free_unit(&before);
}

int main(void)
{
	struct pool *p = make_pool();

	progname = "t_synth";
	set_threads(2);
	gradients(p);
	subsets(p);
	rolls();
	bytes(p);
	descent(p);
	not_finite(p);
	free_pool(p);
	return tap_end();
}
