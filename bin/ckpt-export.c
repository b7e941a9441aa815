/* ckpt-export(1): a checkpoint -> a safetensors file */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../formats/checkpoint.h"
#include "../formats/json.h"
#include "../formats/safetensors.h"
#include "../lib/times.h"

static const char help[] =
	"usage: ckpt-export [--type TYPE] [-v] [-o MODEL.safetensors] [FILE] <ckpt.ts\n"
	"  --type TYPE  f32, f16 or bf16 (f32)\n"
	"  -o FILE      output file\n"
	"  -v           say what was written\n"
	"  -h, -V       help, version\n";

struct options {
	enum st_type type;
	const char *type_name, *out, *file;
	bool verbose;
};

static void parse(struct options *o, int argc, char **argv)
{
	enum { TYPE = 256 };
	static const struct option longs[] = {
		{ "type", 1, NULL, TYPE }, { "help", 0, NULL, 'h' }, { "version", 0, NULL, 'V' }, { 0 }
	};
	static const struct { const char *name; enum st_type type; } types[] = {
		{ "f32", ST_F32 }, { "f16", ST_F16 }, { "bf16", ST_BF16 }
	};
	size_t i;
	int c;

	while ((c = getopt_long(argc, argv, "o:vhV", longs, NULL)) != -1)
		switch (c) {
		case TYPE: o->type_name = optarg; break;
		case 'o': o->out = optarg; break;
		case 'v': o->verbose = true; break;
		case 'h': fputs(help, stdout); eflush(); exit(0);
		case 'V': puts("ckpt-export " TEDDY_VERSION); eflush(); exit(0);
		default: exit(2); /* getopt has said why */
		}
	if (argc - optind > 1)
		usage("%s: one file at most", argv[optind + 1]);
	o->file = argv[optind];
	for (i = 0; i < LEN(types) && strcmp(o->type_name, types[i].name); i++)
		;
	if (i == LEN(types))
		usage("--type %s: f32, f16 or bf16 expected", o->type_name);
	o->type = types[i].type;
}

static void read_checkpoint(const struct options *o, struct checkpoint *c)
{
	struct ts_reader r;

	if (ts_open(&r, o->file, "checkpoint") < 0 || checkpoint_read(&r, c) < 0)
		die("%s", r.err);
	ts_close(&r);
}

/* The header travels whole, so that the file comes back as the checkpoint that it was. Rounding is a change. */
static char *header_text(const struct options *o, const struct checkpoint *c)
{
	struct val *h = checkpoint_header(c->header, c->net), *args;
	char err[ERRLEN], *text;

	if (o->type != ST_F32) {
		args = val_map();
		val_put(args, "type", val_str(o->type_name));
		history_add(h, "ckpt-export", args);
	}
	if (!(text = val_to_json(h, err)))
		die("the checkpoint's header: %s", err);
	val_free(h);
	return text;
}

static void write_model(const struct options *o, const struct checkpoint *c)
{
	const struct net *n = c->net;
	struct st_tensor *t = ecalloc(n->nparam, sizeof *t);
	char *text = header_text(o, c);
	/* Other programs look for the framework that the names and shapes are of. */
	const struct st_meta meta[] = { { "format", "pt" }, { "teddy", text } };
	struct st_writer w;
	int i;

	for (i = 0; i < n->nparam; i++) {
		t[i].name = (char *)n->param[i].name;
		t[i].ndim = n->param[i].ndim;
		memcpy(t[i].shape, n->param[i].shape, t[i].ndim * sizeof *t[i].shape);
	}
	if (st_create(&w, o->out, o->type, t, n->nparam, meta, LEN(meta)) < 0)
		die("%s", w.err);
	for (i = 0; i < n->nparam; i++)
		if (st_put(&w, t[i].name, weights_param(n, &c->w, i), n->param[i].count) < 0)
			die("%s", w.err);
	if (st_finish(&w) < 0)
		die("%s", w.err);
	free(t);
	free(text);
}

int main(int argc, char **argv)
{
	struct options o = { .type_name = "f32" };
	struct checkpoint c;

	progname = "ckpt-export";
	parse(&o, argc, argv);
	read_checkpoint(&o, &c);
	write_model(&o, &c);
	if (o.verbose)
		warn("%s, %d tensors of %s, %lld parameters", c.net->arch, c.net->nparam, o.type_name,
			(long long)net_params(c.net));
	checkpoint_free(&c);
	if (o.verbose)
		times_say();
	return 0;
}
