/* ckpt-import(1): a safetensors file -> a checkpoint */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../formats/checkpoint.h"
#include "../formats/json.h"
#include "../formats/safetensors.h"
#include "../lib/args.h"
#include "../lib/times.h"

static const char help[] =
	"usage: ckpt-import [-a ARCH] [options] MODEL.safetensors >ckpt.ts\n"
	"  -a ARCH        architecture; without it the file must have the graph, as ckpt-export writes it\n"
	"  -s CxHxW       image shape (3x224x224)\n"
	"  --classes LIST class names NAME,NAME,... or @FILE, a name a line (0,1,...)\n"
	"  --mean LIST, --std LIST\n"
	"                 normalisation that it was trained with (ImageNet's)\n"
	"  --header       write only the header that the output would have\n"
	"  -o FILE        output file\n"
	"  -v             say what was read\n"
	"  -h, -V         help, version\n";

struct options {
	const char *arch, *shape, *out, *file;
	char **classes;
	int nclass;             /* 0: no names given */
	int chw[3];
	double mean[MAX_CHANNELS], std[MAX_CHANNELS];
	int nmean, nstd;
	bool verbose, only_header;
};

struct misfit { /* of a kind: the first, and how many there are */
	char *first;
	int n;
};

static void parse(struct options *o, int argc, char **argv)
{
	enum { CLASSES = 256, MEAN, STD, HEADER };
	static const struct option longs[] = {
		{ "classes", 1, NULL, CLASSES }, { "mean", 1, NULL, MEAN }, { "std", 1, NULL, STD }, { "header", 0, NULL, HEADER },
		{ "help", 0, NULL, 'h' }, { "version", 0, NULL, 'V' }, { 0 }
	};
	int c;

	while ((c = getopt_long(argc, argv, "a:s:o:vhV", longs, NULL)) != -1)
		switch (c) {
		case 'a': o->arch = earch(optarg); break;
		case 's': o->shape = optarg; break;
		case HEADER: o->only_header = true; break;
		case CLASSES: o->classes = enames("--classes", optarg, &o->nclass); break;
		case MEAN: o->nmean = ereals("--mean", optarg, 0, 1, o->mean, MAX_CHANNELS); break;
		case STD: o->nstd = ereals("--std", optarg, 1e-6, 1, o->std, MAX_CHANNELS); break;
		case 'o': o->out = optarg; break;
		case 'v': o->verbose = true; break;
		case 'h': fputs(help, stdout); eflush(); exit(0);
		case 'V': puts("ckpt-import " TEDDY_VERSION); eflush(); exit(0);
		default: exit(2); /* getopt has said why */
		}
	if (argc - optind != 1)
		usage(argc == optind ? "no MODEL given" : "%s: one MODEL only", argv[optind + 1]);
	o->file = argv[optind];
	if (o->nmean != o->nstd)
		usage("--mean and --std go together, with as many numbers");
	if (o->shape && !o->arch)
		usage("-s is of use with -a only");
	eshape("-s", o->shape ? o->shape : "3x224x224", MAX_CHANNELS, o->chw);
	if (o->arch && !o->nmean && o->chw[0] != 3)
		usage("%d channels: --mean and --std are needed", o->chw[0]);
}

/* The classifier, which has a row a class, is the last node, whatever the number of classes. */
static int infer_classes(const struct options *o, const struct safetensors *s)
{
	const struct st_tensor *t;
	char err[ERRLEN];
	struct net *n = net_arch(o->arch, o->chw, 1, err);
	int nclass = 1;

	if (!n)
		die("%s", err);
	t = st_find(s, n->param[n->node[n->nnode - 1].param[P_WEIGHT]].name);
	if (t && t->ndim == 2) {
		if (t->shape[0] < 1 || t->shape[0] > 65536)
			die("%s: %s: a classifier of %lld classes", s->name, t->name, (long long)t->shape[0]);
		nclass = t->shape[0];
	}
	net_free(n);
	return nclass;
}

static struct net *by_arch(const struct options *o, const struct safetensors *s, struct val **header)
{
	static const struct norm imagenet = { 3, { 0.485f, 0.456f, 0.406f }, { 0.229f, 0.224f, 0.225f } };
	int nclass = infer_classes(o, s), i;
	struct val *names = val_list();
	char err[ERRLEN], name[16];
	struct net *n = net_arch(o->arch, o->chw, nclass, err);

	if (!n)
		die("%s", err);
	*header = header_new("checkpoint");
	for (i = 0; i < nclass; i++) {
		snprintf(name, sizeof name, "%d", i);
		val_push(names, val_str(name));
	}
	val_put(*header, "classes", names);
	if (!o->nmean)
		header_set_norm(*header, &imagenet);
	header_set_shape(*header, o->chw);
	return n;
}

/* What ckpt-export wrote beside the weights: the checkpoint's header, the graph in it. */
static struct net *by_metadata(const struct safetensors *s, struct val **header)
{
	const char *text = st_meta(s, "teddy");
	char err[ERRLEN];
	struct net *n;
	int nclass;

	if (!text)
		die("%s: it does not carry its graph: name the architecture with -a", s->name);
	if (!(*header = val_from_json(text, strlen(text), err)))
		die("%s: metadata: %s", s->name, err);
	if (val_get_int(*header, "tensorstream", -1) != TS_VERSION || strcmp(header_kind(*header), "checkpoint"))
		die("%s: metadata: no header of a checkpoint", s->name);
	if (!(n = net_from_val(val_get(*header, "net"), err)))
		die("%s: metadata: %s", s->name, err);
	nclass = header_nclass(*header);
	if (nclass && nclass != n->nclass)
		die("%s: metadata: %d classes, but its net has %d outputs", s->name, nclass, n->nclass);
	return n;
}

/* Options that change the header, and the entry that says so; a file that ckpt-export wrote comes back as it was. */
static void apply(const struct options *o, const struct net *n, struct val *header)
{
	struct norm norm = { .channels = o->nmean };
	struct val *args = val_map(), *model;
	char err[ERRLEN];
	int i;

	if (o->nclass && o->nclass != n->nclass)
		die("--classes: %d names, but the net has %d outputs", o->nclass, n->nclass);
	if (o->nmean && o->nmean != n->chw[0])
		die("--mean, --std: %d numbers, but the net's images have %d channels", o->nmean, n->chw[0]);
	for (i = 0; i < o->nmean; i++) {
		norm.mean[i] = o->mean[i];
		norm.std[i] = o->std[i];
	}
	if (o->arch) {
		val_put(args, "a", val_str(o->arch));
		if (history_file(o->file, &model, err) < 0)
			die("%s", err);
		val_put(args, "model", model);
		if (o->shape)
			val_put(args, "s", val_str(o->shape));
	}
	if (o->nclass) {
		header_set_classes(header, (const char *const *)o->classes, o->nclass);
		val_put(args, "classes", val_copy(val_get(header, "classes")));
	}
	if (o->nmean) {
		header_set_norm(header, &norm);
		val_put(args, "mean", val_f64s(o->mean, o->nmean));
		val_put(args, "std", val_f64s(o->std, o->nstd));
	}
	if (args->map.len)
		history_add(header, "ckpt-import", args);
	else
		val_free(args);
}

static char *shape_text(int ndim, const int64_t *shape)
{
	char *s = estrdup("("), *next;

	for (int d = 0; d < MIN(ndim, TENSOR_MAXDIM); d++) {
		next = eprintf_str("%s%s%lld", s, d ? "," : "", (long long)shape[d]);
		free(s);
		s = next;
	}
	next = eprintf_str("%s%s)", s, ndim > TENSOR_MAXDIM ? ",..." : "");
	free(s);
	return next;
}

static void note(struct misfit *m, char *what) /* what is taken over */
{
	if (m->n++)
		free(what);
	else
		m->first = what;
}

static char *shapes_differ(const struct st_tensor *t, const struct param *p)
{
	char *a = shape_text(t->ndim, t->shape), *b = shape_text(p->ndim, p->shape);
	char *what = eprintf_str("%s is %s, not %s", p->name, a, b);

	free(a);
	free(b);
	return what;
}

static int by_string(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Tensors that the net has no parameter for; PyTorch counts batches, which nothing here depends on. */
static void find_unexpected(const struct safetensors *s, const struct net *n, struct misfit *m)
{
	const char **name = emalloc(n->nparam * sizeof *name), *dot;

	for (int i = 0; i < n->nparam; i++)
		name[i] = n->param[i].name;
	qsort(name, n->nparam, sizeof *name, by_string);
	for (int i = 0; i < s->ntensor; i++) {
		const char *have = s->tensor[i].name;

		dot = strrchr(have, '.');
		if ((!dot || strcmp(dot, ".num_batches_tracked")) &&
		    !bsearch(&have, name, n->nparam, sizeof *name, by_string))
			note(m, eprintf_str("unexpected %s", have));
	}
	free(name);
}

/* Every parameter of the net stands in the file with its shape, and nothing else does; else the first that differ. */
static void check_fit(const struct safetensors *s, const struct net *n)
{
	struct misfit kind[3] = { 0 };
	char *line = eprintf_str("%s: does not fit %s: ", s->name, n->arch), *next;
	bool any = false;

	for (int i = 0; i < n->nparam; i++) {
		const struct param *p = &n->param[i];
		const struct st_tensor *t = st_find(s, p->name);

		if (!t)
			note(&kind[0], eprintf_str("missing %s", p->name));
		else if (t->ndim != p->ndim || memcmp(t->shape, p->shape, p->ndim * sizeof *p->shape))
			note(&kind[2], shapes_differ(t, p));
	}
	find_unexpected(s, n, &kind[1]);
	for (int k = 0; k < 3; k++) {
		if (!kind[k].n)
			continue;
		next = eprintf_str(kind[k].n > 1 ? "%s%s%s (and %d more)" : "%s%s%s", line, any ? "; " : "", kind[k].first,
			kind[k].n - 1);
		free(line);
		free(kind[k].first);
		line = next;
		any = true;
	}
	for (char *c = line; *c; c++)
		if ((unsigned char)*c < ' ') /* a name in the file may hold anything; this stays one line */
			*c = '?';
	if (any)
		die("%s", line);
	free(line);
}

/* Part by part from the map into the stream. */
static void convert(struct ts_writer *w, struct safetensors *s, const struct net *n)
{
	float *x = NULL;
	size_t cap = 0;

	for (int i = 0; i < n->nparam; i++) {
		const struct param *p = &n->param[i];
		const struct st_tensor *t = st_find(s, p->name);
		size_t width = p->count / p->shape[0];
		int64_t step = checkpoint_rows(p, CHECKPOINT_PART), rows;

		if (step * width > cap) {
			cap = step * width;
			x = erealloc(x, cap, sizeof *x);
		}
		for (int64_t row = 0; row < p->shape[0]; row += rows) {
			rows = MIN(step, p->shape[0] - row);
			if (st_floats(s, t, row * width, rows * width, x) < 0)
				die("%s", s->err);
			if (checkpoint_put(w, p, row, rows, x) < 0)
				die("%s", w->err);
		}
	}
	free(x);
}

int main(int argc, char **argv)
{
	struct options o = { .arch = NULL };
	struct safetensors s;
	struct ts_writer w;
	struct val *header, *h;
	struct net *n;

	progname = "ckpt-import";
	parse(&o, argc, argv);
	if (st_open(&s, o.file) < 0)
		die("%s", s.err);
	n = o.arch ? by_arch(&o, &s, &header) : by_metadata(&s, &header);
	check_fit(&s, n);
	apply(&o, n, header);
	h = checkpoint_header(header, n);
	if (o.only_header) {
		ets_header(o.out, h);
		return 0;
	}
	if (ts_create(&w, o.out, h) < 0)
		die("%s", w.err);
	convert(&w, &s, n);
	if (ts_finish(&w) < 0)
		die("%s", w.err);
	if (o.verbose)
		warn("%s, %dx%dx%d -> %d, %lld parameters", n->arch, n->chw[0], n->chw[1], n->chw[2], n->nclass,
			(long long)net_params(n));
	val_free(h);
	val_free(header);
	net_free(n);
	st_close(&s);
	if (o.verbose)
		times_say();
	return 0;
}
