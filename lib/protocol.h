/* Evaluation protocols: presets of options that say how a student is trained (protocol(7)). Plain data, nothing owned;
 * strings are static or the command line's.
 */
#ifndef PROTOCOL_H
#define PROTOCOL_H

#include <getopt.h>
#include <stdbool.h>

#include "optim.h"

enum feed { FEED_IMAGES, FEED_RECIPES, FEED_LABELLED }; /* what comes in: images; recipes; recipes with soft labels */
enum student_loss { LOSS_CE, LOSS_KL };

struct protocol {
	const char *name;
	enum feed feed;          /* at least: labelled recipes serve as recipes */
	enum student_loss loss;
	double temperature;      /* KL */
	bool t2;                 /* KL times T^2 */
	long epochs, steps;      /* images only; steps 0: epochs count */
	int batch;               /* images only */
	enum optim_kind opt;
	double lr, momentum, wd;
	bool nesterov;
	bool decay_1d;           /* weight decay of biases and norms too */
	const char *sched;       /* schedule_parse(); its warm-up and EVERY in epochs */
	bool fresh;              /* half-way: a fresh optimiser, rate x 0.1 */
	unsigned dsa;            /* images only: dsa_parse()'s mask, 0: none */
	const char *dsa_names;
};

extern const char *const optim_name[]; /* by enum optim_kind; NULL behind the last */
extern const char *const loss_name[];  /* by enum student_loss */

/* The preset of this name, NULL when there is none; the one that is meant for a feed. */
const struct protocol *protocol_find(const char *name);
const struct protocol *protocol_for(enum feed feed);

enum {
	PROTO_EPOCHS = 0x2000, PROTO_STEPS, PROTO_OPT, PROTO_LR, PROTO_MOMENTUM, PROTO_NESTEROV, PROTO_WD, PROTO_SCHED,
	PROTO_LOSS, PROTO_T2, PROTO_DSA, PROTO_FRESH, PROTO_DECAY_1D
};
#define PROTO_SHORT "b:T:"
#define PROTO_LONG \
	{ "epochs", 1, NULL, PROTO_EPOCHS }, { "steps", 1, NULL, PROTO_STEPS }, { "opt", 1, NULL, PROTO_OPT }, \
	{ "lr", 1, NULL, PROTO_LR }, { "momentum", 1, NULL, PROTO_MOMENTUM }, { "nesterov", 1, NULL, PROTO_NESTEROV }, \
	{ "wd", 1, NULL, PROTO_WD }, { "sched", 1, NULL, PROTO_SCHED }, { "loss", 1, NULL, PROTO_LOSS }, \
	{ "t2", 1, NULL, PROTO_T2 }, { "dsa", 1, NULL, PROTO_DSA }, { "fresh-optimiser", 1, NULL, PROTO_FRESH }, \
	{ "decay-1d", 1, NULL, PROTO_DECAY_1D }

/* One option over the preset: false when opt is none of the above; a bad argument is a usage error. */
bool protocol_option(struct protocol *p, int opt, const char *arg);
/* The option is about what recipes fix themselves: its name, else NULL. */
const char *protocol_images_only(int opt);

#endif
