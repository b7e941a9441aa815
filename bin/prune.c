/* prune(1): a checkpoint -> a pool of structurally pruned ones */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../formats/checkpoint.h"
#include "../lib/prune.h"
#include "../lib/times.h"

static const char help[] =
	"usage: prune [-n MEMBERS] [-r RATIO | --macs TARGET | --params TARGET] [options] <checkpoint >pool\n"
	"  -n N               networks, each with draws of its own (9)\n"
	"  -r RATIO           share of the channels that go (0.19)\n"
	"  --macs TARGET      the largest network of at most so many multiply-adds: 0.66x (of the whole), 1.2G\n"
	"  --params TARGET    the same for parameters\n"
	"  --importance HOW   random, l1, l2 or bn (random)\n"
	"  --global           one ranking for all groups, instead of each by itself\n"
	"  --round-to N       what stays of a group is a multiple of N\n"
	"  --max-ratio R      largest share that goes of any group (1)\n"
	"  --member K         write member K of 0..N-1 alone\n"
	"  --seed N           (0)\n"
	"  --header           write only the header that the output would have\n"
	"  -i FILE            read this instead of standard input\n"
	"  -o FILE            output file\n"
	"  -v                 sizes before and after, widths by group\n"
	"  -h, -V             help, version\n";

struct target { /* TARGET as it was typed, and read */
	enum prune_measure measure;
	const char *text;
	double factor;   /* of the whole network; 0: count says */
	int64_t count;
};

struct options {
	int members, member; /* member -1: all */
	struct prune_how how;
	struct target target;
	enum importance importance;
	uint32_t seed;
	const char *in, *out;
	bool verbose, only_header;
};

/* One member at work. */
struct job {
	const struct options *o;
	const struct checkpoint *base;
	const char *name;   /* of what was read, for messages */
	struct depgraph *g;
	double *score;      /* (units) */
	bool *gone, *before; /* (units) before: of the member before this one */
	bool told;          /* widths of that one were shown */
};

static double ratio(const char *what, const char *s)
{
	double r = ereal(what, s, -HUGE_VAL, HUGE_VAL);

	if (!(r > 0 && r < 1))
		usage("%s %s: a ratio lies between 0 and 1, without these", what, s);
	return r;
}

static double most(const char *what, const char *s)
{
	double r = ereal(what, s, -HUGE_VAL, HUGE_VAL);

	if (!(r > 0 && r <= 1))
		usage("%s %s: a share is above 0 and at most 1", what, s);
	return r;
}

/* "0.66x", "7.72M", "1200000" */
static struct target parse_target(const char *what, const char *s, enum prune_measure m)
{
	static const char units[] = "KMGT";
	struct target t = { .measure = m, .text = s };
	char *number = estrdup(s), *last = number + strlen(number);
	double unit = 1, x;

	if (last > number && last[-1] == 'x') {
		last[-1] = 0;
		t.factor = ratio(what, number);
	} else {
		if (last > number && strchr(units, last[-1])) {
			unit = pow(1000, strchr(units, last[-1]) - units + 1);
			last[-1] = 0;
		}
		x = ereal(what, number, 0, 1e15);
		t.count = x * unit < 1e18 ? llround(x * unit) : INT64_MAX;
	}
	free(number);
	return t;
}

static enum importance parse_importance(const char *s)
{
	for (int i = 0; i < IMP_COUNT; i++)
		if (!strcmp(importance_name[i], s))
			return i;
	usage("--importance %s: random, l1, l2 or bn expected", s);
}

static void parse(struct options *o, int argc, char **argv)
{
	enum { MACS = 256, PARAMS, IMPORTANCE, GLOBAL, ROUND_TO, MAX_RATIO, MEMBER, SEED, HEADER };
	static const struct option longs[] = {
		{ "macs", 1, NULL, MACS }, { "params", 1, NULL, PARAMS }, { "importance", 1, NULL, IMPORTANCE },
		{ "global", 0, NULL, GLOBAL }, { "round-to", 1, NULL, ROUND_TO }, { "max-ratio", 1, NULL, MAX_RATIO },
		{ "member", 1, NULL, MEMBER }, { "seed", 1, NULL, SEED }, { "header", 0, NULL, HEADER }, { "help", 0, NULL, 'h' },
		{ "version", 0, NULL, 'V' }, { 0 }
	};
	int c, sizes = 0;

	while ((c = getopt_long(argc, argv, "n:r:i:o:vhV", longs, NULL)) != -1)
		switch (c) {
		case 'n': o->members = eint("-n", optarg, 1, 1 << 20); break;
		case 'r': o->how.ratio = ratio("-r", optarg); sizes++; break;
		case MACS: o->target = parse_target("--macs", optarg, PRUNE_MACS); sizes++; break;
		case PARAMS: o->target = parse_target("--params", optarg, PRUNE_PARAMS); sizes++; break;
		case IMPORTANCE: o->importance = parse_importance(optarg); break;
		case GLOBAL: o->how.global = true; break;
		case ROUND_TO: o->how.round_to = eint("--round-to", optarg, 1, 65536); break;
		case MAX_RATIO: o->how.max_ratio = most("--max-ratio", optarg); break;
		case MEMBER: o->member = eint("--member", optarg, 0, 1 << 20); break;
		case HEADER: o->only_header = true; break;
		case SEED: o->seed = eint("--seed", optarg, 0, UINT32_MAX); break;
		case 'i': o->in = optarg; break;
		case 'o': o->out = optarg; break;
		case 'v': o->verbose = true; break;
		case 'h': fputs(help, stdout); eflush(); exit(0);
		case 'V': puts("prune " TEDDY_VERSION); eflush(); exit(0);
		default: exit(2); /* getopt has said why */
		}
	if (optind < argc)
		usage("%s: no file arguments; the checkpoint comes on standard input, or with -i", argv[optind]);
	if (sizes > 1)
		usage("one of -r, --macs and --params is enough");
	if (o->member >= o->members)
		usage("--member %d: there are %d, counted from 0", o->member, o->members);
}

static void read_base(struct job *j, struct checkpoint *base)
{
	struct checkpoint more;
	struct pool_reader p;
	int rc;

	if (pool_open(&p, j->o->in) < 0 || pool_next(&p, base) < 0)
		die("%s", p.err);
	if ((rc = pool_next(&p, &more)) < 0)
		die("%s", p.err);
	if (rc)
		die("%s: holds more than one network, and one is pruned", p.name);
	j->name = estrdup(p.name);
	pool_close(&p);
}

/* How much of the whole network may stay. */
static int64_t target_count(const struct job *j)
{
	const struct target *t = &j->o->target;
	int64_t whole = prune_measure(j->base->net, t->measure);
	int64_t count = t->factor > 0 ? (int64_t)(whole * t->factor) : t->count;

	if (count >= whole)
		die("%s: nothing is to go for a target of %s: it has %lld %s", j->name, t->text, (long long)whole,
			t->measure == PRUNE_MACS ? "multiply-adds" : "parameters");
	return count;
}

static struct val *arguments(const struct options *o, const struct val *header)
{
	struct val *args = val_map();
	const struct val *before = val_get(header, "prune");

	if (o->target.measure)
		val_put(args, o->target.measure == PRUNE_MACS ? "macs" : "params", val_str(o->target.text));
	else
		val_put(args, "ratio", val_f64(o->how.ratio));
	val_put(args, "importance", val_str(importance_name[o->importance]));
	val_put(args, "global", val_bool(o->how.global));
	if (o->how.round_to > 1)
		val_put(args, "round_to", val_int(o->how.round_to));
	if (o->how.max_ratio < 1)
		val_put(args, "max_ratio", val_f64(o->how.max_ratio));
	val_put(args, "seed", val_int(o->seed));
	if (before) /* else two entries would be equal, which are one */
		val_put(args, "from", val_int(val_get_int(before, "parameters", 0)));
	return args;
}

/* What stays of a group, and the convolutions and linears whose channels these are. */
static void show_group(const struct job *j, const struct group *group)
{
	const struct net *net = j->g->net;
	int stays = 0, others = 0;

	for (int u = group->first; u < group->first + group->n; u++)
		stays += !j->gone[u];
	for (int i = group->root + 1; i < net->nnode; i++)
		if (depgraph_producer(net, i)) {
			int u = j->g->unit[j->g->element[i]];

			others += u >= group->first && u < group->first + group->n;
		}
	fprintf(stderr, "  %-36s %5d -> %5d", net->node[group->root].name, group->n, stays);
	if (others)
		fprintf(stderr, "  and %d more", others);
	fputs(group->fixed ? "  fixed\n" : "\n", stderr);
}

static void show(struct job *j, const char *member, double ratio, const struct net *pruned)
{
	const struct net *net = j->base->net;

	fprintf(stderr, "prune: %s: ratio %.6g, parameters %lld -> %lld (%.2f %%), "
		"multiply-adds %lld -> %lld (%.2f %%)\n", member, ratio,
		(long long)net_params(net), (long long)net_params(pruned),
		100.0 * net_params(pruned) / net_params(net), (long long)net_macs(net), (long long)net_macs(pruned),
		100.0 * net_macs(pruned) / net_macs(net));
	/* Most often all members have the same widths. */
	for (int k = 0; k < j->g->ngroup && j->told; k++) {
		int change = 0;

		for (int u = j->g->group[k].first; u < j->g->group[k].first + j->g->group[k].n; u++)
			change += j->gone[u] - j->before[u];
		j->told = !change;
	}
	for (int k = 0; k < j->g->ngroup && !j->told; k++)
		show_group(j, &j->g->group[k]);
	memcpy(j->before, j->gone, j->g->nunit * sizeof *j->gone);
	j->told = true;
}

static struct val *header_of(const struct job *j, int member, double ratio, const struct net *pruned)
{
	struct val *h = val_copy(j->base->header), *p = val_map();

	val_put(p, "seed", val_int(j->o->seed));
	val_put(p, "member", val_int(member));
	val_put(p, "ratio", val_f64(ratio));
	val_put(p, "parameters", val_int(net_params(pruned)));
	val_put(p, "parameters_before", val_int(net_params(j->base->net)));
	val_put(p, "macs", val_int(net_macs(pruned)));
	val_put(p, "macs_before", val_int(net_macs(j->base->net)));
	val_drop(h, "train"); /* the accuracy in it is the whole network's */
	val_put(h, "prune", p);
	history_add(h, progname, arguments(j->o, j->base->header));
	return h;
}

/* What the headers of all members have in common. */
static void put_header(const struct options *o)
{
	struct val *h;
	char err[ERRLEN];

	if (pool_header(o->in, &h, err) < 0)
		die("%s", err);
	val_drop(h, "train");
	history_add(h, progname, arguments(o, h));
	ets_header(o->out, h);
}

/* "SEED/K.ts", K as wide as the last one's, so that names sort. */
static char *member_name(const struct options *o, int member)
{
	char last[16];

	return eprintf_str("%u/%0*d.ts", o->seed, snprintf(last, sizeof last, "%d", o->members - 1), member);
}

static void choose(struct job *j, int member, struct prune_how *how)
{
	const struct options *o = j->o;
	char err[ERRLEN];
	int going = 0;

	prune_scores(j->g, o->importance, &j->base->w, o->seed, member, j->score);
	if (!o->target.measure)
		prune_choose(j->g, j->score, how, j->gone);
	else if (prune_to_target(j->g, j->score, how, o->target.measure, target_count(j), j->gone, err) < 0)
		die("%s: %s", j->name, err);
	for (int u = 0; u < j->g->nunit; u++)
		going += j->gone[u];
	if (!going)
		die("%s: no channel can go this way%s", j->name,
			o->importance == IMP_BN ? "; it may have no batch norm" : "");
}

static void add_member(struct job *j, int member, struct pool_writer *pool)
{
	struct prune_how how = j->o->how;
	char *name = member_name(j->o, member), err[ERRLEN];
	struct buf bytes = { 0 };
	struct weights w;
	struct val *h;
	struct net *net;

	choose(j, member, &how);
	if (!(net = depgraph_prune(j->g, j->gone, err)))
		die("%s: %s", j->name, err);
	w = weights_new(net);
	depgraph_weights(j->g, j->gone, &j->base->w, net, &w);
	h = header_of(j, member, how.ratio, net);
	if (checkpoint_write_mem(&bytes, h, net, &w, err) < 0)
		die("%s: %s", name, err);
	if (pool_add(pool, name, bytes.p, bytes.len) < 0)
		die("%s", pool->err);
	if (j->o->verbose)
		show(j, name, how.ratio, net);
	buf_free(&bytes);
	val_free(h);
	weights_free(&w);
	net_free(net);
	free(name);
}

int main(int argc, char **argv)
{
	struct options o = { .members = 9, .member = -1, .how = { .ratio = 0.19, .round_to = 1, .max_ratio = 1 } };
	struct checkpoint base;
	struct job j = { .o = &o, .base = &base };
	struct pool_writer pool;
	char err[ERRLEN];

	progname = "prune";
	parse(&o, argc, argv);
	if (o.only_header) {
		put_header(&o);
		return 0;
	}
	read_base(&j, &base);
	if (!(j.g = depgraph_new(base.net, err)))
		die("%s: %s", j.name, err);
	j.score = ecalloc(j.g->nunit, sizeof *j.score);
	j.gone = ecalloc(j.g->nunit, sizeof *j.gone);
	j.before = ecalloc(j.g->nunit, sizeof *j.before);
	if (pool_create(&pool, o.out) < 0)
		die("%s", pool.err);
	for (int k = 0; k < o.members; k++)
		if (o.member < 0 || o.member == k)
			add_member(&j, k, &pool);
	if (pool_finish(&pool) < 0)
		die("%s", pool.err);
	free((char *)j.name);
	depgraph_free(j.g);
	free(j.score);
	free(j.gone);
	free(j.before);
	checkpoint_free(&base);
	if (o.verbose)
		times_say();
	return 0;
}
