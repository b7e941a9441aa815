#include "protocol.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "augment.h"

const char *const optim_name[] = { [OPT_SGD] = "sgd", [OPT_ADAM] = "adam", [OPT_ADAMW] = "adamw", NULL };
const char *const loss_name[] = { [LOSS_CE] = "ce", [LOSS_KL] = "kl", NULL };

#define DSA_ALL "color_crop_cutout_flip_scale_rotate"

/* RDED's batches: by images a class, doubled from 100 classes on, and 100 for Tiny-ImageNet's 200. */
static const struct batch_row rded_rows[] = {
	{ 99, 1, 10 }, { 99, 10, 50 }, { 99, INT64_MAX, 100 },
	{ 199, 1, 20 }, { 199, 10, 100 }, { 199, INT64_MAX, 200 },
	{ 200, INT64_MAX, 100 },
	{ INT64_MAX, 1, 20 }, { INT64_MAX, 10, 100 }, { INT64_MAX, INT64_MAX, 200 },
};

/* What the protocols with soft labels have in common; each says below what is its own. */
#define STUDENT_SOFT \
	.feed = FEED_LABELLED, .loss = LOSS_KL, .temperature = 20, .opt = OPT_ADAMW, .lr = 1e-3, .wd = 0.01, \
	.dsa_names = "none"
#define MIXED(scale) .crop = scale, .flip = 0.5, .mix = "cutmix", .alpha = 1

static const struct protocol presets[] = {
	{
		.name = "hard-dsa", .feed = FEED_IMAGES, .loss = LOSS_CE, .temperature = 1, .epochs = 1000, .batch = 256,
		.opt = OPT_SGD, .lr = 0.01, .momentum = 0.9, .wd = 5e-4, .decay_1d = true, .sched = "const", .fresh = true,
		.dsa = (1u << DSA_KINDS) - (1u << DSA_COLOUR), .dsa_names = DSA_ALL, .report = "last"
	},
	{ .name = "soft", STUDENT_SOFT, .sched = "cosine", .batch = 256, MIXED("rrc:0.08"), .report = "last" },
	{
		.name = "hard", .feed = FEED_RECIPES, .loss = LOSS_CE, .temperature = 1, .opt = OPT_ADAMW, .lr = 1e-3,
		.wd = 0.01, .sched = "cosine", .dsa_names = "none", .batch = 256, MIXED("rrc:0.08"), .report = "last"
	},
	{
		.name = "soft-small", STUDENT_SOFT, .sched = "cosine", .epochs = 300, .steps = 3000, .batch = 50,
		MIXED("rrc:0.08"), .report = "last"
	},
	{
		.name = "best", STUDENT_SOFT, .sched = "smooth:2", .epochs = 300, .steps = 3000, .batch = 50,
		MIXED("rrc:0.5"), .ema = 0.99, .report = "last"
	},
	{
		.name = "teddy-tiny", STUDENT_SOFT, .sched = "cosine", .epochs = 100, .batch = 256,
		MIXED("rrc:0.08"), .report = "last"
	},
	{
		.name = "teddy-imagenet", STUDENT_SOFT, .sched = "cosine", .epochs = 300, .batch = 1024,
		MIXED("rrc:0.08"), .report = "last"
	},
	{
		.name = "sre2l-tiny", .feed = FEED_LABELLED, .loss = LOSS_KL, .temperature = 20, .t2 = true, .opt = OPT_SGD,
		.lr = 0.2, .momentum = 0.9, .wd = 1e-4, .decay_1d = true, .sched = "cosine:5", .dsa_names = "none",
		.epochs = 100, .batch = 256, .crop = "rrc:0.08", .flip = 0.5, .mix = "none", .report = "last"
	},
	{
		.name = "rded", STUDENT_SOFT, .sched = "smooth:2", .epochs = 300, .rows = rded_rows, MIXED("rrc:0.5"),
		.swap = 0.5, .report = "best-of:0.2:10"
	},
	{
		.name = "rd3", STUDENT_SOFT, .sched = "smooth:2", .epochs = 400, .batch = 50, MIXED("rrc:0.5"),
		.swap = 0.5, .report = "last"
	},
};

const struct protocol *protocol_find(const char *name)
{
	for (size_t i = 0; i < LEN(presets); i++)
		if (!strcmp(presets[i].name, name))
			return &presets[i];
	return NULL;
}

const struct protocol *protocol_for(enum feed feed)
{
	for (size_t i = 0; i < LEN(presets); i++)
		if (presets[i].feed == feed)
			return &presets[i];
	return NULL;
}

const struct protocol *eprotocol(const char *name)
{
	const struct protocol *p = protocol_find(name);
	struct buf all = { 0 };

	if (p)
		return p;
	for (size_t i = 0; i < LEN(presets); i++) {
		buf_put(&all, i ? ", " : "", i ? 2 : 0);
		buf_put(&all, presets[i].name, strlen(presets[i].name));
	}
	usage("--protocol %s: one of %.*s expected", name, (int)all.len, (const char *)all.p);
}

int protocol_batch(const struct protocol *p, int64_t images, int classes)
{
	int batch = p->batch;

	classes = MAX(classes, 1);
	for (const struct batch_row *r = p->rows; !batch; r++)
		if (classes <= r->classes && images <= r->ipc * (double)classes)
			batch = r->batch;
	return (int)MIN(batch, images);
}

long protocol_epochs(long epochs, long steps, long batches)
{
	return MAX(epochs, (steps + batches - 1) / batches);
}

int report_parse(struct report *r, const char *spec, char err[ERRLEN])
{
	char *end;

	*r = (struct report){ .share = !strcmp(spec, "best"), .every = 1 };
	if (r->share || !strcmp(spec, "last"))
		return 0;
	if (!strncmp(spec, "best-of:", 8)) {
		r->share = strtod(spec + 8, &end);
		long every = end != spec + 8 && *end == ':' ? strtol(end + 1, &end, 10) : 1;

		r->every = (int)every;
		if (end != spec + 8 && !*end && end[-1] != ':' && r->share > 0 && r->share <= 1 && every > 0 && every <= INT_MAX)
			return 0;
	}
	return fail(err, "'%s' is none of last, best, best-of:SHARE[:EVERY]", spec);
}

bool report_due(const struct report *r, long epoch, long epochs)
{
	return epoch == epochs || (epoch % r->every == 0 && epoch > epochs * (1 - r->share) + 1e-9);
}

char *report_text(const struct report *r, long epochs)
{
	long first = 1;

	if (!r->share)
		return NULL;
	while (!report_due(r, first, epochs))
		first++;
	if (r->every == 1)
		return eprintf_str("best of epochs %ld to %ld", first, epochs);
	return eprintf_str("best of epochs %ld to %ld, one in %d", first, epochs, r->every);
}

static int one_of(const char *what, const char *arg, const char *const *name)
{
	for (int i = 0; name[i]; i++)
		if (!strcmp(name[i], arg))
			return i;
	usage("%s %s: no such choice", what, arg);
}

static bool yes(const char *what, const char *arg)
{
	if (strcmp(arg, "yes") && strcmp(arg, "no"))
		usage("%s %s: yes or no expected", what, arg);
	return *arg == 'y';
}

static void set_dsa(struct protocol *p, const char *arg)
{
	char err[ERRLEN];

	p->dsa_names = arg;
	p->dsa = 0;
	if (strcmp(arg, "none") && !(p->dsa = dsa_parse(arg, err)))
		usage("--dsa: %s", err);
}

bool protocol_option(struct protocol *p, int opt, const char *arg)
{
	struct schedule s;
	struct report r;
	char err[ERRLEN];

	switch (opt) {
	case PROTO_EPOCHS: p->epochs = (long)eint("--epochs", arg, 1, INT_MAX), p->steps = 0; break;
	case PROTO_STEPS: p->steps = (long)eint("--steps", arg, 1, INT_MAX); break;
	case PROTO_OPT: p->opt = one_of("--opt", arg, optim_name); break;
	case PROTO_LR: p->lr = ereal("--lr", arg, 0, 1e6); break;
	case PROTO_MOMENTUM: p->momentum = ereal("--momentum", arg, 0, 1); break;
	case PROTO_NESTEROV: p->nesterov = yes("--nesterov", arg); break;
	case PROTO_WD: p->wd = ereal("--wd", arg, 0, 1e6); break;
	case PROTO_SCHED:
		if (schedule_parse(&s, arg, 1, err) < 0)
			usage("--sched: %s", err);
		p->sched = arg;
		break;
	case PROTO_LOSS: p->loss = one_of("--loss", arg, loss_name); break;
	case PROTO_T2: p->t2 = yes("--t2", arg); break;
	case PROTO_DSA: set_dsa(p, arg); break;
	case PROTO_FRESH: p->fresh = yes("--fresh-optimiser", arg); break;
	case PROTO_DECAY_1D: p->decay_1d = yes("--decay-1d", arg); break;
	case PROTO_EMA:
		p->ema = ereal("--ema", arg, 0, 1);
		if (p->ema == 1)
			usage("--ema 1: the average would stay what the weights begin with");
		break;
	case PROTO_REPORT:
		if (report_parse(&r, arg, err) < 0)
			usage("--report: %s", err);
		p->report = arg;
		break;
	case 'b': p->batch = (int)eint("-b", arg, 1, INT_MAX); break;
	case 'T': p->temperature = ereal("-T", arg, 1e-3, 1e6); break;
	default: return false;
	}
	return true;
}

const char *protocol_images_only(int opt)
{
	switch (opt) {
	case PROTO_EPOCHS: return "--epochs";
	case PROTO_STEPS: return "--steps";
	case PROTO_DSA: return "--dsa";
	case 'b': return "-b";
	}
	return NULL;
}
