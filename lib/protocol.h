/* Evaluation protocols: presets of options that say what a student sees and how it is trained (protocol(7)). Plain
 * data, nothing owned; strings are static or the command line's.
 */
#ifndef PROTOCOL_H
#define PROTOCOL_H

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>

#include "optim.h"
#include "util.h"

enum feed { FEED_IMAGES, FEED_RECIPES, FEED_LABELLED }; /* what comes in: images; recipes; recipes with soft labels */
enum student_loss { LOSS_CE, LOSS_KL };

struct batch_row { int64_t classes, ipc; int batch; }; /* for sets of at most so many classes, of so many images each */

struct protocol {
	const char *name;
	/* What a student sees, when it is images, or else what cutmix(1) makes of them. */
	long epochs, steps;      /* the longer of the two; none: the command line says it */
	int batch;               /* at most; 0: that of the first row which the set fits into */
	const struct batch_row *rows;
	const char *crop, *mix;  /* recipes only, as cutmix's options */
	double flip, alpha;
	double swap;             /* of halves */
	enum feed feed;          /* at least: labelled recipes serve as recipes */
	enum student_loss loss;
	double temperature;      /* KL */
	bool t2;                 /* KL times T^2 */
	enum optim_kind opt;
	double lr, momentum, wd;
	bool nesterov;
	bool decay_1d;           /* weight decay of biases and norms too */
	const char *sched;       /* schedule_parse(); its warm-up and EVERY in epochs */
	bool fresh;              /* half-way: a fresh optimiser, rate x 0.1 */
	unsigned dsa;            /* images only: dsa_parse()'s mask, 0: none */
	const char *dsa_names;
	double ema;              /* of the weights that are measured, 0: those of the last step */
	const char *report;      /* report_parse() */
};

extern const char *const optim_name[]; /* by enum optim_kind; NULL behind the last */
extern const char *const loss_name[];  /* by enum student_loss */

/* The preset of this name, NULL when there is none; the one that is meant for a feed. */
const struct protocol *protocol_find(const char *name);
const struct protocol *protocol_for(enum feed feed);
const struct protocol *eprotocol(const char *name); /* of --protocol: an unknown name is a usage error that lists all */

/* Images a batch, never more than there are; and epochs of so many batches. */
int protocol_batch(const struct protocol *p, int64_t images, int classes);
long protocol_epochs(long epochs, long steps, long batches);

/* After which epochs a student is measured; the best of them is its figure. */
struct report {
	double share; /* of the epochs, the last ones; 0: after the last epoch alone */
	int every;    /* after each so many'th of them; always after the last one */
};
int report_parse(struct report *r, const char *spec, char err[ERRLEN]); /* "last", "best", "best-of:SHARE[:EVERY]" */
bool report_due(const struct report *r, long epoch, long epochs);       /* epoch from 1 */
/* "best of epochs 241 to 300, one in 10"; NULL where it is the last epoch's figure. The caller's to free. */
char *report_text(const struct report *r, long epochs);

enum {
	PROTO_EPOCHS = 0x2000, PROTO_STEPS, PROTO_OPT, PROTO_LR, PROTO_MOMENTUM, PROTO_NESTEROV, PROTO_WD, PROTO_SCHED,
	PROTO_LOSS, PROTO_T2, PROTO_DSA, PROTO_FRESH, PROTO_DECAY_1D, PROTO_EMA, PROTO_REPORT
};
#define PROTO_SHORT "b:T:"
#define PROTO_LONG \
	{ "epochs", 1, NULL, PROTO_EPOCHS }, { "steps", 1, NULL, PROTO_STEPS }, { "opt", 1, NULL, PROTO_OPT }, \
	{ "lr", 1, NULL, PROTO_LR }, { "momentum", 1, NULL, PROTO_MOMENTUM }, { "nesterov", 1, NULL, PROTO_NESTEROV }, \
	{ "wd", 1, NULL, PROTO_WD }, { "sched", 1, NULL, PROTO_SCHED }, { "loss", 1, NULL, PROTO_LOSS }, \
	{ "t2", 1, NULL, PROTO_T2 }, { "dsa", 1, NULL, PROTO_DSA }, { "fresh-optimiser", 1, NULL, PROTO_FRESH }, \
	{ "decay-1d", 1, NULL, PROTO_DECAY_1D }, { "ema", 1, NULL, PROTO_EMA }, { "report", 1, NULL, PROTO_REPORT }

/* One option over the preset: false when opt is none of the above; a bad argument is a usage error. */
bool protocol_option(struct protocol *p, int opt, const char *arg);
/* The option is about what recipes fix themselves: its name, else NULL. */
const char *protocol_images_only(int opt);

#endif
