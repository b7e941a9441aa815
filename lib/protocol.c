#include "protocol.h"

#include <limits.h>
#include <string.h>

#include "augment.h"

const char *const optim_name[] = { [OPT_SGD] = "sgd", [OPT_ADAM] = "adam", [OPT_ADAMW] = "adamw", NULL };
const char *const loss_name[] = { [LOSS_CE] = "ce", [LOSS_KL] = "kl", NULL };

#define DSA_ALL "color_crop_cutout_flip_scale_rotate"

static const struct protocol presets[] = {
	{
		.name = "hard-dsa", .feed = FEED_IMAGES, .loss = LOSS_CE, .temperature = 1, .epochs = 1000, .batch = 256,
		.opt = OPT_SGD, .lr = 0.01, .momentum = 0.9, .wd = 5e-4, .decay_1d = true, .sched = "const", .fresh = true,
		.dsa = (1u << DSA_KINDS) - (1u << DSA_COLOUR), .dsa_names = DSA_ALL
	},
	{
		.name = "soft", .feed = FEED_LABELLED, .loss = LOSS_KL, .temperature = 20,
		.opt = OPT_ADAMW, .lr = 1e-3, .wd = 0.01, .sched = "cosine", .dsa_names = "none"
	},
	{
		.name = "hard", .feed = FEED_RECIPES, .loss = LOSS_CE, .temperature = 1,
		.opt = OPT_ADAMW, .lr = 1e-3, .wd = 0.01, .sched = "cosine", .dsa_names = "none"
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
