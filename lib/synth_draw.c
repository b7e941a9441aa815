/* Everything that chance decides in synthesis, on the host, whatever computes the rest. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "synth.h"

int synth_matched(const struct synth_opts *o, int nteacher)
{
	return MIN(o->subset, nteacher - o->prior);
}

/* So many of n teachers, ascending. what: 0 those that are matched, 1 the prior. */
static void draw_subset(const struct synth_opts *o, const struct unit *u, int64_t iteration, int what, int n, int want, int *pick)
{
	uint32_t where = u->number, when = 0;
	int64_t lowest = u->index[0];
	struct rng r;

	/* A unit that holds several indices of its classes counts as the lowest: one unit, one subset at a time. */
	for (int i = 1; i < u->n; i++)
		lowest = MIN(lowest, u->index[i]);
	if (o->draw == DRAW_INDEX)
		where = lowest;
	if (o->draw == DRAW_ITERATION)
		when = iteration + 1;
	r = rng_at(o->seed, RNG_TEACHERS, where, when, what);
	/* Selection sampling: each teacher in turn with probability (wanted left) / (teachers left). */
	for (int i = 0; i < n && want > 0; i++)
		if (rng_below(&r, n - i) < (uint32_t)want) {
			*pick++ = i;
			want--;
		}
}

int synth_pick(const struct synth_opts *o, int nteacher, const struct unit *u, int64_t iteration, int *pick)
{
	int matched = synth_matched(o, nteacher), predict = MIN(o->predict, o->prior);

	draw_subset(o, u, iteration, 0, nteacher - o->prior, matched, pick);
	draw_subset(o, u, iteration, 1, o->prior, predict, pick + matched);
	for (int i = 0; i < predict; i++)
		pick[matched + i] += nteacher - o->prior;
	return matched + predict;
}

/* CDA: from whole images to smaller and smaller parts of them. */
static double least_area(const struct synth_opts *o, int64_t iteration, int64_t total)
{
	double done = total > 1 ? (double)iteration / (total - 1) : 1;

	return o->curriculum ? o->crop_min + (o->crop_max - o->crop_min) * 0.5 * (1 + cos(M_PI * done)) : o->crop_min;
}

void synth_draw(const struct synth_opts *o, const int chw[3], const struct unit *u, int64_t iteration, int64_t class,
    struct view *v, struct dsa *d)
{
	struct rng r = rng_at(o->seed, RNG_SYNTHAUG, u->number, iteration, class + 1);
	int h = chw[1], w = chw[2];

	if (o->dsa) {
		dsa_draw(&r, dsa_draw_kind(&r, o->dsa), h, w, d);
		return;
	}
	*v = VIEW_IDENTITY(h, w);
	if (o->crop_max > 0)
		view_draw_rrc(&r, h, w, least_area(o, iteration, u->total), o->crop_max, v);
	v->flip = rng_uniform(&r) < o->flip;
	if (o->roll_min || o->roll_max) {
		v->dy = (int)rng_below(&r, o->roll_max - o->roll_min + 1) + o->roll_min;
		v->dx = (int)rng_below(&r, o->roll_max - o->roll_min + 1) + o->roll_min;
	}
}

/* "N", either way, or "LEAST:MOST". */
static void parse_roll(struct synth_opts *o, const char *spec)
{
	char *least = estrdup(spec), *most = strchr(least, ':');

	if (most)
		*most++ = '\0';
	o->roll_max = eint("--aug roll", most ? most : least, most ? -65535 : 0, 65535);
	o->roll_min = most ? eint("--aug roll", least, -65535, o->roll_max) : -o->roll_max;
	free(least);
}

void synth_aug(struct synth_opts *o, const char *spec)
{
	char *copy = estrdup(spec), *save = NULL, err[ERRLEN];
	const char *rest;

	o->dsa = 0, o->crop_min = o->crop_max = o->flip = 0, o->roll_min = o->roll_max = 0;
	if (eword(spec, "dsa", &rest)) {
		o->dsa = dsa_parse(rest ? rest : "color_crop_cutout_flip_scale_rotate", err);
		if (!o->dsa)
			usage("--aug %s: %s", spec, err);
	} else if (strcmp(spec, "none"))
		for (char *part = strtok_r(copy, ",", &save); part; part = strtok_r(NULL, ",", &save)) {
			if ((eword(part, "rrc", &rest) || eword(part, "cda", &rest)) && rest) {
				char *min = estrdup(rest), *max = strchr(min, ':');
				if (max)
					*max++ = '\0';
				o->crop_min = ereal("--aug", min, 1e-6, 1);
				o->crop_max = max ? ereal("--aug", max, o->crop_min, 1) : 1;
				o->curriculum = *part == 'c';
				free(min);
			} else if (eword(part, "flip", &rest))
				o->flip = rest ? ereal("--aug flip", rest, 0, 1) : 0.5;
			else if (eword(part, "roll", &rest) && rest)
				parse_roll(o, rest);
			else
				usage("--aug %s: unknown part '%s'", spec, part);
		}
	free(copy);
}
