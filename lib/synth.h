/* Synthesis: Teddy's eq. 7 minimised over the images of one unit.
 *
 *   L(S) = ce * ensemble CE of a subset of teachers on aug(S)
 *        + alpha * sum (or mean) over them of sum_l m_l * (statistics)
 *
 * Statistics are matched with those that every teacher_ref brings along or, where there is a fresh source of real images,
 * with those of some of every class, drawn anew at every iteration and seen through the augmentation of the unit's own
 * images (Zhao & Bilen 2021: siamese). Instead of statistics, class means of the last features may be matched (DM, Zhao &
 * Bilen 2023, eq. 5), with fresh real images only:  alpha * sum over the unit's classes of || mean f(aug(S)) - mean f(aug(R)) ||^2
 * The ensemble that predicts may be another pool than the one that is matched: the prior, whose teachers know the classes,
 * beside networks that need not.
 *
 * A synth owns plans, workspaces and scratch; nets, weights and statistics are borrowed. A unit's arrays are its
 * caller's. Every draw is a function of (seed, unit, iteration), so a unit comes out the same wherever it is computed.
 */
#ifndef SYNTH_H
#define SYNTH_H

#include "augment.h"
#include "fresh.h"
#include "loss.h"
#include "match.h"
#include "optim.h"

enum draw { DRAW_INDEX /* one subset for each index within the classes */, DRAW_UNIT, DRAW_ITERATION };

struct synth_opts {
	uint32_t seed;
	int subset;             /* teachers a time, at most the pool */
	int prior;              /* the last so many teachers predict and are not matched, and only they do; 0: all do both */
	int predict;            /* of them a time, at most the prior */
	enum draw draw;
	double ce;              /* weight of the cross-entropy */
	double alpha;           /* weight of the statistics; 0: not matched at all */
	bool features;          /* means of the last features, class by class, instead; without a prior ce is 0 then */
	bool depth;             /* those of the maps before them, too (net_features) */
	double deviations;      /* weight of their deviations */
	double class_weight;    /* 0 global, 1 class-wise, between: mixed (EDC: 0.5) */
	double first;           /* multiplier of the first BN layer (SRe2L: 10) */
	bool mean_bn;           /* statistics averaged over teachers instead of summed */
	enum ensemble ensemble;
	enum optim_kind opt;    /* OPT_ADAM, OPT_SGD */
	double lr, beta1, beta2, momentum, weight_decay;
	enum sched_kind sched;  /* cosine, or constant */
	enum precision precision; /* of the teachers' */
	/* Augmentation, drawn at each iteration once for the whole unit, or once for each class in it: a DSA group, or crop,
	 * flip and roll. */
	bool per_class;
	unsigned dsa;           /* mask; 0: the others */
	double crop_min, crop_max; /* area kept by a resized crop; crop_max 0: none */
	bool curriculum;        /* crop_min comes down to what it is from crop_max, by a cosine (CDA, Yin & Shen 2023) */
	double flip;            /* probability */
	int roll_min, roll_max; /* by so many pixels, on each axis; 0, 0: none */
	const struct fresh *fresh; /* real images that statistics come from, borrowed; NULL: they are the teachers' */
};

struct teacher_ref { /* what synthesis needs of one teacher */
	const struct net *net;
	const struct weights *w;
	const struct layer_stats *stats; /* one a BN layer, in node order; NULL where fresh images or alpha 0 make them idle */
};

struct unit {
	int n;                  /* images */
	int64_t number;         /* of the unit */
	const int64_t *label, *index; /* (n) */
	float *x;               /* (n,C,H,W) */
	struct optim opt;       /* moments over x; opt.step = iterations done */
	int64_t total;          /* iterations in all */
	const float *lo, *hi;   /* (n*C*H*W) clamp: the range of real pixels, or infinite */
	uint64_t there;         /* the device's copy of all this, where it has one: 0 as soon as something is changed here */
};

struct synth_loss {
	double ce, bn; /* bn: before alpha */
};

struct synth;
struct synth *synth_new(const struct synth_opts *o, const struct teacher_ref *t, int nteacher, int batch);
void synth_free(struct synth *s);
/* k iterations: u->x and u->opt move on; loss (k). 0; -1 and err when a loss is not finite (u is then as it was before that
 * iteration, which u->opt.step counts) or memory's arithmetic overflows. */
int synth_run(struct synth *s, struct unit *u, int k, struct synth_loss *loss, char err[ERRLEN]);
/* Loss and gradient at u->x with the draws of iteration u->opt.step; dx (n,C,H,W) is written. On the host alone. */
int synth_gradient(struct synth *s, const struct unit *u, float *dx, struct synth_loss *loss, char err[ERRLEN]);
/* The subset that a unit uses at an iteration: indices into the pool, those to be matched, ascending, and then those of the
 * prior, likewise; returns their number, synth_matched() that of the first. */
int synth_subset(const struct synth *s, const struct unit *u, int64_t iteration, int *pick);
/* synth_draw.c: the same without a synth; and the augmentation of an iteration: *d where o->dsa, else *v. class: whose, or
 * -1: the whole unit's. */
int synth_matched(const struct synth_opts *o, int nteacher);
int synth_pick(const struct synth_opts *o, int nteacher, const struct unit *u, int64_t iteration, int *pick);
void synth_draw(const struct synth_opts *o, const int chw[3], const struct unit *u, int64_t iteration, int64_t class,
    struct view *v, struct dsa *d);
/* The augmentation of o by its name, as --aug of synth-step(1) has it; ends the program with one line where it is none. */
void synth_aug(struct synth_opts *o, const char *spec);
size_t synth_bytes(const struct synth *s); /* of workspaces, as planned */

#endif
