/* A course of training: how a learner goes through a set of images, epoch by epoch, and how a network is measured.
 *
 * A course owns its buffers and lends them to every learner that takes it; images and options are borrowed.
 */
#ifndef COURSE_H
#define COURSE_H

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>

#include "dataset.h"
#include "train.h"

/* What the command line says about training, with train-ckpt's defaults. */
struct course_opts {
	int batch;
	enum optim_kind opt;
	double momentum, wd;  /* wd NAN: what the optimiser is usually run with */
	bool nesterov;
	const char *sched, *dsa; /* dsa NULL: none */
	struct trainaug aug;
};
#define COURSE_DEFAULTS ((struct course_opts){ .batch = 128, .opt = OPT_SGD, .momentum = 0.9, .wd = NAN, \
	.sched = "cosine", .aug = { .crop = TRAIN_PAD, .pad = 4, .flip = 0.5 } })

enum {
	COURSE_OPT = 0x3000, COURSE_MOMENTUM, COURSE_NESTEROV, COURSE_WD, COURSE_SCHED, COURSE_CROP, COURSE_FLIP, COURSE_DSA
};
#define COURSE_SHORT "b:"
#define COURSE_LONG \
	{ "opt", 1, NULL, COURSE_OPT }, { "momentum", 1, NULL, COURSE_MOMENTUM }, \
	{ "nesterov", 0, NULL, COURSE_NESTEROV }, { "wd", 1, NULL, COURSE_WD }, { "sched", 1, NULL, COURSE_SCHED }, \
	{ "crop", 1, NULL, COURSE_CROP }, { "flip", 1, NULL, COURSE_FLIP }, { "dsa", 1, NULL, COURSE_DSA }
#define COURSE_USAGE \
	"  -b BATCH           images a step (128)\n" \
	"  --opt NAME         sgd, adam or adamw (sgd)\n" \
	"  --momentum M       of sgd (0.9); --nesterov\n" \
	"  --wd W             weight decay (sgd 1e-4, adam 0, adamw 0.01)\n" \
	"  --sched SPEC       const, cosine[:WARMUP], step:EVERY[:GAMMA], smooth[:ZETA], in epochs (cosine)\n" \
	"  --crop HOW         rrc:MIN[:MAX], pad:P or none (pad:4)\n" \
	"  --flip P           probability (0.5)\n" \
	"  --dsa NAMES        one of these an image: color_crop_cutout_flip_scale_rotate\n"

/* false when opt is none of the above; a bad argument is a usage error. */
bool course_option(struct course_opts *o, int opt, const char *arg);
/* What is still open, once all options are known: the weight decay. */
void course_settle(struct course_opts *o);
double course_peak(enum optim_kind opt); /* the rate that --lr has by default */
extern const char *const course_opt_name[]; /* by enum optim_kind */

struct course {
	const struct course_opts *o;
	uint32_t seed, member;  /* member: third word of every draw, 0 for a run of its own (rng(7)) */
	struct dataset images;
	int64_t steps;          /* an epoch */
	int batch;              /* of a step, at most */
	const char *who;        /* named in errors, and what progress counts; NULL: nobody */
	/* For course_epoch: */
	int epochs, last;       /* the schedule spans; the run ends after */
	struct schedule rate;   /* in steps */
	int64_t *order;         /* (N) */
	/* Two batches, of which one is trained on while the other is filled, by a thread of the course's own and, once the
	 * batch is wanted, by all others too. */
	float *x[2], *scratch;  /* (batch,C,H,W) each */
	int64_t *label[2];      /* (batch) */
	int slot, epoch, n;     /* what is filled: order[from..from+n) into x[slot] */
	int64_t from;
	_Atomic int64_t next;   /* the next image of it to be filled */
	pthread_t thread;
	pthread_mutex_t lock;   /* for all below */
	pthread_cond_t change;
	bool asked, busy, quit;
	struct device_course *device; /* the set on a device, for this plan; or NULL */
	const struct plan *device_of;
};
/* Before a trainer that took the course is freed. */
void course_leave(struct course *c);
struct course *course_new(const struct course_opts *o, uint32_t seed, struct dataset images);
void course_free(struct course *c);
/* A schedule over so many epochs with that peak rate. */
void course_plan(struct course *c, int epochs, double lr);
/* The optimiser's figures into a fresh learner. */
void course_ready(const struct course *c, struct learner *l);

/* Epoch from 1. *loss: mean over the epoch's images, each as it was when its turn came. -1 and err when it is not
 * finite: the learner is as it was before that step. */
int course_epoch(struct course *c, struct trainer *t, struct learner *l, int epoch, double *loss, char err[ERRLEN]);

/* Running statistics made anew: the average over the batches of one pass, in the order and under the draws of the first
 * epoch, of what each batch shows in training; nothing else of w changes, and nothing is dropped. */
void course_recalibrate(struct course *c, struct trainer *t, struct weights *w);

/* Share of the images that the network gets right, mean cross-entropy. -1 and err, also where that is not finite. */
int course_measure(const struct dataset *s, const struct net *net, const struct weights *w, struct workspace *ws,
    double *accuracy, double *loss, char err[ERRLEN]);

#endif
