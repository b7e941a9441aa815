/* tsinfo(1): what a tensor stream or a pool is, in words or as JSON */
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../formats/checkpoint.h"
#include "../formats/show.h"
#include "../lib/times.h"

static const char help[] =
	"usage: tsinfo [-v] [--history] [--json] [-o FILE] [FILE...]\n"
	"  -v          name every class\n"
	"  --history   only the pipeline that made it\n"
	"  --json      one JSON object a stream; with --history: its history, a list; of a pool one for each\n"
	"              member that has another than the one before\n"
	"  -o FILE     output file\n"
	"  -h, -V      help, version\n";

struct field { /* a tensor or other value, over all frames */
	char *name, *what;  /* "f32 (100,3,32,32)", of the first frame */
	int64_t frames;
	bool varies;
};

struct info {
	const char *name, *member; /* member of a pool, or NULL */
	const struct val *header;
	const struct net *net;     /* of a checkpoint, or NULL */
	int64_t frames, images;
	struct field *field;
	int nfield;
};

struct job {
	bool verbose, history, json;
	FILE *out;
	struct val *said; /* the history that was printed last of this pool */
};

static char *tensor_text(const struct tensor *t)
{
	char *s = eprintf_str("%s (", dtype_name[t->type] + (*dtype_name[t->type] == '|')), *next;
	int i;

	for (i = 0; i < t->ndim; i++) {
		next = eprintf_str("%s%s%lld", s, i ? "," : "", (long long)t->shape[i]);
		free(s);
		s = next;
	}
	next = eprintf_str("%s)", s);
	free(s);
	return next;
}

static char *value_text(const struct val *v)
{
	static const char *const name[] = { [V_NIL] = "nil", [V_BOOL] = "bool", [V_INT] = "int", [V_UINT] = "int",
		[V_F64] = "float", [V_STR] = "str", [V_BIN] = "bin", [V_MAP] = "map" };

	if (v->type == V_TENSOR)
		return tensor_text(&v->t);
	if (v->type == V_LIST)
		return eprintf_str("list of %zu", v->list.len);
	return estrdup(name[v->type]);
}

static void add_field(struct info *in, const char *name, const struct val *v)
{
	char *what = value_text(v);
	int i;

	for (i = 0; i < in->nfield && strcmp(in->field[i].name, name); i++)
		;
	if (i == in->nfield) {
		in->field = erealloc(in->field, in->nfield + 1, sizeof *in->field);
		in->field[in->nfield++] = (struct field){ estrdup(name), what, 1, false };
		return;
	}
	in->field[i].frames++;
	in->field[i].varies = in->field[i].varies || strcmp(in->field[i].what, what);
	free(what);
}

static void add_frame(struct info *in, const struct val *frame)
{
	const struct tensor *labels = val_get_tensor(frame, "labels");
	size_t i;

	in->frames++;
	if (labels && labels->ndim == 1)
		in->images += labels->shape[0];
	for (i = 0; i < frame->map.len; i++)
		add_field(in, frame->map.key[i], frame->map.item[i]);
}

static void put_classes(const struct job *j, const struct val *h)
{
	int n = header_nclass(h), shown = j->verbose ? n : MIN(n, 10), i;

	if (!n)
		return;
	fprintf(j->out, "\tclasses  %d:", n);
	for (i = 0; i < shown; i++) {
		putc(' ', j->out);
		put_word(j->out, header_class(h, i));
	}
	fputs(shown < n ? " ...\n" : "\n", j->out);
}

static void put_pair(const struct job *j, const struct val *h, const char *key)
{
	const struct val *v = val_get(h, key);
	size_t i;
	char *s;

	if (!v)
		return;
	fprintf(j->out, "\t%-8s ", key);
	if (v->type == V_MAP) {
		for (i = 0; i < v->map.len; i++) {
			s = scalar_text(v->map.item[i]);
			fputs(i ? ", " : "", j->out);
			put_text(j->out, v->map.key[i]);
			putc(' ', j->out);
			put_text(j->out, s);
			free(s);
		}
	} else {
		s = scalar_text(v);
		put_text(j->out, s);
		free(s);
	}
	putc('\n', j->out);
}

static void put_info(const struct job *j, const struct info *in)
{
	int i;

	put_text(j->out, in->name);
	if (in->member) {
		putc(' ', j->out);
		put_text(j->out, in->member);
	}
	fputs(": ", j->out);
	put_text(j->out, header_kind(in->header));
	if (!in->net)
		fprintf(j->out, ", %lld frames", (long long)in->frames);
	if (in->images)
		fprintf(j->out, ", %lld images", (long long)in->images);
	putc('\n', j->out);
	if (in->net) {
		fputs("\tnet      ", j->out);
		put_text(j->out, in->net->arch);
		fprintf(j->out, ", %dx%dx%d -> %d, %lld parameters, %.4g GMACs\n", in->net->chw[0], in->net->chw[1],
			in->net->chw[2], in->net->nclass, (long long)net_params(in->net), net_macs(in->net) / 1e9);
	}
	put_pair(j, in->header, "shape");
	put_pair(j, in->header, "mean");
	put_pair(j, in->header, "std");
	put_classes(j, in->header);
	put_pair(j, in->header, "train");
	put_pair(j, in->header, "recipes");
	for (i = 0; i < in->nfield; i++) {
		const struct field *f = &in->field[i];

		fputs("\tframe    ", j->out);
		put_text(j->out, f->name);
		fprintf(j->out, "  %s%s", f->varies ? "e.g. " : "", f->what);
		if (f->frames != in->frames)
			fprintf(j->out, ", in %lld frames", (long long)f->frames);
		putc('\n', j->out);
	}
	put_history(j->out, in->header, "\thistory  ");
}

/* Strings that are no UTF-8 have no place in JSON. */
static json_t *json_text(const char *s)
{
	json_t *t = json_string(s);
	char *copy, *p;

	if (t)
		return t;
	copy = estrdup(s);
	for (p = copy; *p; p++)
		if (*p & 0x80)
			*p = '?';
	t = json_string(copy);
	free(copy);
	return t;
}

static json_t *to_json(const struct val *v)
{
	json_t *t;
	size_t i;

	switch (v->type) {
	case V_BOOL:
		return json_boolean(v->b);
	case V_INT:
		return json_integer(v->i);
	case V_UINT:
		return json_real(v->u);
	case V_F64: /* infinities and NaN: null */
		return (t = json_real(v->f)) ? t : json_null();
	case V_STR:
		return json_text(v->s.p);
	case V_LIST:
		t = json_array();
		for (i = 0; i < v->list.len; i++)
			json_array_append_new(t, to_json(v->list.item[i]));
		return t;
	case V_MAP:
		t = json_object();
		for (i = 0; i < v->map.len; i++)
			json_object_set_new(t, v->map.key[i], to_json(v->map.item[i]));
		return t;
	default:
		return json_null();
	}
}

static json_t *net_json(const struct net *n)
{
	json_t *t = json_object();

	json_object_set_new(t, "arch", json_text(n->arch));
	json_object_set_new(t, "input", json_pack("[iii]", n->chw[0], n->chw[1], n->chw[2]));
	json_object_set_new(t, "classes", json_integer(n->nclass));
	json_object_set_new(t, "parameters", json_integer(net_params(n)));
	json_object_set_new(t, "macs", json_integer(net_macs(n)));
	return t;
}

static void put_line(const struct job *j, json_t *t)
{
	json_dumpf(t, j->out, JSON_COMPACT);
	putc('\n', j->out);
	json_decref(t);
}

static void put_json(const struct job *j, const struct info *in)
{
	json_t *t = json_object(), *fields = json_array(), *f;
	struct val *header = val_copy(in->header);
	int i;

	val_drop(header, "net");
	json_object_set_new(t, "file", json_text(in->name));
	if (in->member)
		json_object_set_new(t, "member", json_text(in->member));
	json_object_set_new(t, "frames", json_integer(in->frames));
	if (in->images)
		json_object_set_new(t, "images", json_integer(in->images));
	json_object_set_new(t, "header", to_json(header));
	for (i = 0; i < in->nfield; i++) {
		f = json_pack("{s:I s:b}", "frames", (json_int_t)in->field[i].frames, "varies", in->field[i].varies);
		json_object_set_new(f, "name", json_text(in->field[i].name));
		json_object_set_new(f, "type", json_text(in->field[i].what));
		json_array_append_new(fields, f);
	}
	json_object_set_new(t, "fields", fields);
	if (in->net)
		json_object_set_new(t, "net", net_json(in->net));
	put_line(j, t); /* a write error shows when standard output is flushed */
	val_free(header);
}

/* A line of JSON, unless the pool's member before said the same. */
static void put_history_json(struct job *j, const struct val *header)
{
	const struct val *history = val_get(header, "history");
	struct val *mine = history ? val_copy(history) : val_list();

	if (!j->said || !val_equal(j->said, mine))
		put_line(j, to_json(mine));
	val_free(j->said);
	j->said = mine;
}

static void show(struct job *j, const struct info *in)
{
	if (j->json && j->history)
		put_history_json(j, in->header);
	else if (j->json)
		put_json(j, in);
	else if (j->history)
		put_history(j->out, in->header, "");
	else
		put_info(j, in);
}

static void one_checkpoint(struct job *j, const char *name, struct checkpoint *c)
{
	struct info in = { .name = name, .member = c->member, .header = c->header, .net = c->net };

	in.frames = c->net->nparam;
	show(j, &in);
	checkpoint_free(c);
}

static void one_pool(struct job *j, FILE *fp, const char *name)
{
	struct pool_reader p;
	struct checkpoint c;
	int rc;

	if (pool_open_file(&p, fp, name) < 0)
		die("%s", p.err);
	while ((rc = pool_next(&p, &c)) > 0)
		one_checkpoint(j, p.name, &c);
	if (rc < 0)
		die("%s", p.err);
	pool_close(&p);
}

/* Its frames are verified, not looked at: those of a checkpoint may be none, where it is a header alone. */
static void only_history(struct job *j, struct ts_reader *r)
{
	struct info in = { .header = r->header };
	const uint8_t *p;
	size_t n;
	int rc;

	while ((rc = ts_next_raw(r, &p, &n)) > 0)
		;
	if (rc < 0)
		die("%s", r->err);
	show(j, &in);
	ts_close(r);
}

/* What evaluate --json wrote. */
static void one_result(struct job *j, FILE *fp, const char *name)
{
	json_error_t e;
	json_t *result = json_loadf(fp, 0, &e), *history;

	if (!result)
		die("%s: line %d: %s", name, e.line, e.text);
	if (!(history = json_object_get(result, "history")))
		die("%s: JSON without a history", name);
	put_line(j, json_incref(history));
	json_decref(result);
}

static void one_stream(struct job *j, FILE *fp, const char *name)
{
	struct info in = { .name = name };
	struct checkpoint c;
	struct ts_reader r;
	struct val *frame;
	int rc;

	if (ts_open_file(&r, fp, name, NULL) < 0)
		die("%s", r.err);
	if (j->history) {
		only_history(j, &r);
		return;
	}
	if (!strcmp(header_kind(r.header), "checkpoint")) {
		if (checkpoint_read(&r, &c) < 0)
			die("%s", r.err);
		one_checkpoint(j, name, &c);
		ts_close(&r);
		return;
	}
	while ((rc = ts_next(&r, &frame)) > 0) {
		add_frame(&in, frame);
		val_free(frame);
	}
	if (rc < 0)
		die("%s", r.err);
	in.header = r.header;
	show(j, &in);
	while (in.nfield) {
		free(in.field[--in.nfield].name);
		free(in.field[in.nfield].what);
	}
	free(in.field);
	ts_close(&r);
}

static void one_file(struct job *j, const char *path)
{
	bool std = !strcmp(path, "-");
	FILE *fp = std ? stdin : fopen(path, "rbe");
	int c;

	if (!fp)
		die("%s:", path);
	c = getc(fp);
	ungetc(c, fp);
	val_free(j->said);
	j->said = NULL;
	if (c == '{' && j->history && j->json) {
		one_result(j, fp, std ? "<stdin>" : path);
	} else if (c == EOF || ts_begins(c)) {
		one_stream(j, fp, std ? "<stdin>" : path);
	} else {
		one_pool(j, fp, std ? "<stdin>" : path);
		return;
	}
	if (!std)
		fclose(fp);
}

static void parse(struct job *j, const char **out, int argc, char **argv)
{
	enum { HISTORY = 256, JSON };
	static const struct option longs[] = {
		{ "history", 0, NULL, HISTORY }, { "json", 0, NULL, JSON }, { "help", 0, NULL, 'h' },
		{ "version", 0, NULL, 'V' }, { 0 }
	};
	int c;

	while ((c = getopt_long(argc, argv, "vo:hV", longs, NULL)) != -1)
		switch (c) {
		case HISTORY: j->history = true; break;
		case JSON: j->json = true; break;
		case 'v': j->verbose = true; break;
		case 'o': *out = optarg; break;
		case 'h': fputs(help, stdout); eflush(); exit(0);
		case 'V': puts("tsinfo " TEDDY_VERSION); eflush(); exit(0);
		default: exit(2); /* getopt has said why */
		}
}

int main(int argc, char **argv)
{
	struct job j = { .out = stdout };
	struct outfile o = { .fp = NULL };
	const char *out = NULL;
	char err[ERRLEN];

	progname = "tsinfo";
	parse(&j, &out, argc, argv);
	if (out && strcmp(out, "-")) {
		if (out_open(&o, out, err) < 0)
			die("%s", err);
		j.out = o.fp;
	}
	if (optind == argc)
		one_file(&j, "-");
	for (; optind < argc; optind++)
		one_file(&j, argv[optind]);
	if (o.fp && out_finish(&o, err) < 0)
		die("%s", err);
	eflush();
	if (j.verbose)
		times_say();
	return 0;
}
