/* ckpt-info(1): a network layer by layer, of a checkpoint, a pool or an architecture */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../formats/checkpoint.h"
#include "../formats/json.h"
#include "../formats/show.h"
#include "../lib/args.h"

static const char help[] =
	"usage: ckpt-info [-m MEMBER] [--json] [-o FILE] [FILE] <checkpoint or pool\n"
	"       ckpt-info -a ARCH -s CxHxW [-k CLASSES] [--json] [-o FILE]\n"
	"  -m MEMBER   this one of a pool (one line for each)\n"
	"  -a ARCH     no file, but " ARCH_NAMES("\n              ") "\n"
	"  -s CxHxW    its images\n"
	"  -k CLASSES  its classes (1000)\n"
	"  --json      a JSON object a network\n"
	"  -o FILE     output file\n"
	"  -h, -V      help, version\n";

struct options {
	const char *file, *member, *arch, *out;
	int chw[3], classes;
	bool shaped, json;
};

static void parse(struct options *o, int argc, char **argv)
{
	enum { JSON = 256 };
	static const struct option longs[] = {
		{ "json", 0, NULL, JSON }, { "help", 0, NULL, 'h' }, { "version", 0, NULL, 'V' }, { 0 }
	};
	bool sized = false;
	int c;

	while ((c = getopt_long(argc, argv, "m:a:s:k:o:hV", longs, NULL)) != -1)
		switch (c) {
		case 'm': o->member = optarg; break;
		case 'a': o->arch = earch(optarg); break;
		case 's': eshape("-s", optarg, 65536, o->chw); o->shaped = true; break;
		case 'k': o->classes = eint("-k", optarg, 1, 65536); sized = true; break;
		case 'o': o->out = optarg; break;
		case JSON: o->json = true; break;
		case 'h': fputs(help, stdout); eflush(); exit(0);
		case 'V': puts("ckpt-info " TEDDY_VERSION); eflush(); exit(0);
		default: exit(2); /* getopt has said why */
		}
	if (argc - optind > 1)
		usage("%s: one file at most", argv[optind + 1]);
	o->file = argv[optind];
	if (o->arch && (o->file || o->member))
		usage("-a is instead of a file");
	if (o->arch && !o->shaped)
		usage("-a needs -s CxHxW");
	if (!o->arch && (o->shaped || sized))
		usage("-s and -k go with -a");
}

static int64_t output_bytes(const struct net *n) /* of all nodes for one image, the image itself left out */
{
	int64_t sum = 0;

	for (int i = 1; i < n->nnode; i++)
		sum += (int64_t)n->node[i].c * n->node[i].h * n->node[i].w;
	return sum * sizeof(float);
}

static int64_t weight_bytes(const struct net *n)
{
	return (int64_t)(n->ntheta + n->nbuffer) * sizeof(float);
}

static bool is_window(enum op op) /* what has k and a stride */
{
	return op == OP_CONV || op == OP_MAXPOOL || op == OP_AVGPOOL;
}

/* The operation with what tells it from others of its kind: "conv 3x3/2 g32". */
static void operation(const struct node *v, char text[64])
{
	char window[32] = "", more[32] = "";

	if (is_window(v->op) || v->op == OP_ADAPT)
		snprintf(window, sizeof window, " %dx%d", v->k, v->k);
	if (is_window(v->op) && v->stride > 1)
		snprintf(window, sizeof window, " %dx%d/%d", v->k, v->k, v->stride);
	if (v->op == OP_CONV && v->groups > 1)
		snprintf(more, sizeof more, " g%d", v->groups);
	if (v->op == OP_DROPOUT || v->op == OP_DROPPATH)
		snprintf(more, sizeof more, " %.3g", v->p);
	snprintf(text, 64, "%s%s%s", op_name[v->op], window, more);
}

static void put_padded(FILE *out, const char *s, int width)
{
	put_text(out, s);
	fprintf(out, "%*s", MAX(width - (int)strlen(s), 0) + 2, "");
}

static void put_row(FILE *out, const struct net *n, const struct node *v, int width)
{
	int64_t params = node_params(n, v), macs = node_macs(n, v);
	char what[64], shape[64];

	operation(v, what);
	snprintf(shape, sizeof shape, "%dx%dx%d", v->c, v->h, v->w);
	put_padded(out, v->name, width);
	if (macs)
		fprintf(out, "%-18s %-14s %12lld %14lld\n", what, shape, (long long)params, (long long)macs);
	else if (params)
		fprintf(out, "%-18s %-14s %12lld\n", what, shape, (long long)params);
	else
		fprintf(out, "%-18s %s\n", what, shape);
}

static void put_layers(FILE *out, const struct net *n)
{
	int width = 0;

	for (int i = 0; i < n->nnode; i++)
		width = MAX(width, (int)strlen(n->node[i].name));
	put_text(out, n->arch);
	fprintf(out, ", %dx%dx%d -> %d classes\n", n->chw[0], n->chw[1], n->chw[2], n->nclass);
	put_padded(out, "layer", width);
	fprintf(out, "%-18s %-14s %12s %14s\n", "operation", "output", "parameters", "MACs");
	for (int i = 0; i < n->nnode; i++)
		put_row(out, n, &n->node[i], width);
	fprintf(out, "parameters  %lld trained\n", (long long)net_params(n));
	fprintf(out, "buffers     %lld\n", (long long)n->nbuffer);
	fprintf(out, "MACs        %lld (%.4g G)\n", (long long)net_macs(n), net_macs(n) / 1e9);
	fprintf(out, "size        %.1f MB, outputs %.1f MB an image\n", weight_bytes(n) / 1e6, output_bytes(n) / 1e6);
}

/* One line of a pool's table; the first has the heads above it. */
static void put_member(FILE *out, const char *member, const struct net *n, int index)
{
	char input[64];

	if (!index)
		fprintf(out, "%-14s  %-22s  %-11s %7s %12s %14s %9s\n", "member", "network", "input", "classes", "parameters",
			"MACs", "size/MB");
	snprintf(input, sizeof input, "%dx%dx%d", n->chw[0], n->chw[1], n->chw[2]);
	put_padded(out, member, 14);
	put_padded(out, n->arch, 22);
	fprintf(out, "%-11s %7d %12lld %14lld %9.1f\n", input, n->nclass, (long long)net_params(n), (long long)net_macs(n),
		weight_bytes(n) / 1e6);
}

static struct val *layer_val(const struct net *n, const struct node *v)
{
	struct val *m = val_map(), *in = val_list();

	for (int i = 0; i < v->nin; i++)
		val_push(in, val_str(n->node[v->in[i]].name));
	val_put(m, "name", val_str(v->name));
	val_put(m, "op", val_str(op_name[v->op]));
	val_put(m, "in", in);
	if (is_window(v->op) || v->op == OP_ADAPT)
		val_put(m, "k", val_int(v->k));
	if (is_window(v->op)) {
		val_put(m, "stride", val_int(v->stride));
		val_put(m, "pad", val_int(v->pad));
	}
	if (v->op == OP_CONV)
		val_put(m, "groups", val_int(v->groups));
	if (v->op == OP_DROPOUT || v->op == OP_DROPPATH)
		val_put(m, "p", val_f64(v->p));
	val_put(m, "output", val_ints((int[]){ v->c, v->h, v->w }, 3));
	val_put(m, "parameters", val_int(node_params(n, v)));
	val_put(m, "macs", val_int(node_macs(n, v)));
	return m;
}

static void put_json(FILE *out, const char *member, const struct net *n, bool layers)
{
	struct val *m = val_map(), *list;
	char err[ERRLEN], *text;

	if (member)
		val_put(m, "member", val_str(member));
	val_put(m, "arch", val_str(n->arch));
	val_put(m, "input", val_ints(n->chw, 3));
	val_put(m, "classes", val_int(n->nclass));
	val_put(m, "parameters", val_int(net_params(n)));
	val_put(m, "buffers", val_int(n->nbuffer));
	val_put(m, "macs", val_int(net_macs(n)));
	val_put(m, "bytes", val_int(weight_bytes(n)));
	val_put(m, "output_bytes", val_int(output_bytes(n)));
	if (layers) {
		list = val_list();
		for (int i = 0; i < n->nnode; i++)
			val_push(list, layer_val(n, &n->node[i]));
		val_put(m, "layers", list);
	}
	text = val_to_json(m, err);
	if (!text)
		die("%s: %s", member ? member : n->arch, err);
	fprintf(out, "%s\n", text);
	free(text);
	val_free(m);
}

static void put_net(const struct options *o, FILE *out, const char *member, const struct net *n)
{
	if (o->json)
		put_json(out, member, n, true);
	else
		put_layers(out, n);
}

static void show_arch(const struct options *o, FILE *out)
{
	char err[ERRLEN];
	struct net *n = net_arch(o->arch, o->chw, o->classes, err);

	if (!n)
		die("%s", err);
	put_net(o, out, NULL, n);
	net_free(n);
}

static void show_file(const struct options *o, FILE *out)
{
	struct pool_reader p;
	struct checkpoint ck;
	bool found = !o->member;
	int got;

	if (pool_open(&p, o->file) < 0)
		die("%s", p.err);
	for (int i = 0; (got = pool_next(&p, &ck)) > 0; i++) {
		if (o->member ? ck.member && !strcmp(ck.member, o->member) : !ck.member) {
			put_net(o, out, ck.member, ck.net);
			found = true;
		} else if (!o->member && o->json) {
			put_json(out, ck.member, ck.net, false);
		} else if (!o->member) {
			put_member(out, ck.member, ck.net, i);
		}
		checkpoint_free(&ck);
	}
	if (got < 0)
		die("%s", p.err);
	if (!found)
		die("%s: no member '%s'", p.name, o->member);
	pool_close(&p);
}

int main(int argc, char **argv)
{
	struct options o = { .classes = 1000 };
	struct outfile f = { .fp = NULL };
	char err[ERRLEN];

	progname = "ckpt-info";
	parse(&o, argc, argv);
	if (o.out && strcmp(o.out, "-") && out_open(&f, o.out, err) < 0)
		die("%s", err);
	(o.arch ? show_arch : show_file)(&o, f.fp ? f.fp : stdout);
	if (f.fp && out_finish(&f, err) < 0)
		die("%s", err);
	eflush();
	return 0;
}
