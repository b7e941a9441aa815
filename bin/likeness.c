/* likeness(1): how alike a class's images are to a pool's networks, and how far its answers are from another pool's */
#include <jansson.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../formats/imageset.h"
#include "../formats/teachers.h"
#include "../lib/cli.h"
#include "../lib/plan.h"
#include "../lib/times.h"

static const char synopsis[] =
	"likeness -p POOL [-q TEACHERS] [options] <images >table\n"
	"  -p POOL       networks, a line each: cosine of the last features within and between classes\n"
	"  -q TEACHERS   networks too: KL of their mean answer from each of POOL's\n"
	"  --json        one JSON object instead of lines\n"
	"  --threads N, --device cpu|cuda|auto, --isa NAME, --precision fp32|tf32|bf16\n"
	"  -o FILE, -v, -h, -V";

struct options {
	struct cli cli;
	const char *pool, *teachers;
	bool json;
};

struct likeness { /* of one network; NAN: there is none */
	double within, between, kl;
};

static void parse(struct options *o, int argc, char **argv)
{
	enum { JSON = 256 };
	static const struct option longs[] = { CLI_LONG, { "json", 0, NULL, JSON }, { 0 } };
	int c;

	while ((c = getopt_long(argc, argv, CLI_SHORT "p:q:", longs, NULL)) != -1)
		switch (c) {
		case 'p': o->pool = optarg; break;
		case 'q': o->teachers = optarg; break;
		case JSON: o->json = true; break;
		case CLI_HEADER: usage("--header: no stream is written here");
		default: cli_option(&o->cli, c, synopsis);
		}
	if (optind < argc)
		usage("%s: no file arguments; images come on standard input", argv[optind]);
	if (!o->pool)
		usage("-p POOL is needed");
}

/* What a net says of all images, (N,K). */
static float *outputs(const struct net *net, const struct weights *w, const struct imageset *s, const char *name)
{
	size_t each = (size_t)s->c * s->h * s->w, k = net->nclass;
	int batch = MIN(100, s->n);
	struct workspace *ws = ws_new();
	char err[ERRLEN];
	struct plan *plan = plan_new(net, (struct plan_opts){ .purpose = PLAN_EVAL, .batch = batch,
		.precision = get_precision() }, err);
	float *x = ealigned(batch * each, sizeof *x), *out = ealigned(s->n * k, sizeof *out);

	if (!plan)
		die("%s: %s", name, err);
	plan_bind(plan, ws);
	plan_load(plan, w);
	for (int64_t from = 0; from < s->n; from += batch) {
		int m = MIN(batch, s->n - from);

		for (int i = 0; i < m; i++)
			imageset_get(s, from + i, &s->norm, x + i * each);
		plan_forward(plan, m, x, out + from * k);
	}
	for (size_t i = 0; i < s->n * k; i++)
		if (!isfinite(out[i]))
			die("%s: what it says of image %zu is not finite", name, i / k);
	plan_free(plan);
	ws_free(ws);
	free(x);
	return out;
}

/* Logits (N,K) to probabilities, in place. */
static void softmax(float *x, int64_t n, int k)
{
	for (int64_t i = 0; i < n; i++, x += k) {
		double max = x[0], all = 0;

		for (int j = 1; j < k; j++)
			max = fmax(max, x[j]);
		for (int j = 0; j < k; j++)
			all += exp(x[j] - max);
		for (int j = 0; j < k; j++)
			x[j] = (float)(exp(x[j] - max) / all);
	}
}

/* Cosines of all pairs of one class, and of two, from sums of unit vectors: |sum|^2 is what all pairs add up to. */
static void cosines(const float *feature /* (N,F) */, const struct imageset *s, int width, struct likeness *l)
{
	double *sum = ecalloc((size_t)(s->nclass + 1) * width, sizeof *sum), *all = sum + (size_t)s->nclass * width;
	int64_t *count = ecalloc(s->nclass, sizeof *count);
	double inside = 0, whole = 0, itself = 0, pairs = 0, every = (double)s->n * (s->n - 1);

	for (int64_t i = 0; i < s->n; i++) {
		const float *f = feature + i * width;
		double *c = sum + s->label[i] * width, square = 0;

		for (int j = 0; j < width; j++)
			square += (double)f[j] * f[j];
		for (int j = 0; j < width; j++) {
			double u = square > 0 ? f[j] / sqrt(square) : 0;

			c[j] += u;
			all[j] += u;
		}
		count[s->label[i]]++;
		itself += square > 0; /* the cosine of an image with itself; nothing is like one without features */
	}
	for (int c = 0; c < s->nclass; c++) {
		for (int j = 0; j < width; j++)
			inside += sum[(size_t)c * width + j] * sum[(size_t)c * width + j];
		pairs += (double)count[c] * (count[c] - 1);
	}
	for (int j = 0; j < width; j++)
		whole += all[j] * all[j];
	inside -= itself;
	whole -= itself;
	l->within = pairs > 0 ? inside / pairs : NAN;
	l->between = every > pairs ? (whole - inside) / (every - pairs) : NAN;
	free(sum);
	free(count);
}

/* Mean over images of sum p log(p/q). */
static double divergence(const float *p, const float *q, int64_t n, int k)
{
	double sum = 0;

	for (int64_t i = 0; i < n * k; i++)
		if (p[i] > 0)
			sum += p[i] * (log(p[i]) - log(fmax(q[i], 1e-37)));
	return sum / n;
}

static struct teacher *open_pool(const char *path, const struct imageset *s, int *n)
{
	char err[ERRLEN];
	struct teacher *t = teachers_read(path, s->header, n, err);

	if (!t)
		die("%s", err);
	return t;
}

/* The mean probabilities of a pool, (N,K). */
static float *answer(const char *path, const struct imageset *s)
{
	size_t count = s->n * s->nclass;
	float *mean = ealigned(count, sizeof *mean);
	int n;
	struct teacher *t = open_pool(path, s, &n);

	memset(mean, 0, count * sizeof *mean);
	for (int i = 0; i < n; i++) {
		float *p = outputs(t[i].net, &t[i].ck.w, s, path);

		softmax(p, s->n, s->nclass);
		for (size_t j = 0; j < count; j++)
			mean[j] += p[j] / n;
		free(p);
	}
	teachers_free(t, n);
	return mean;
}

static struct likeness measure(const char *pool, const struct teacher *t, const struct imageset *s, const float *want)
{
	struct likeness l = { .kl = NAN };
	char err[ERRLEN];
	struct net *head = net_features(t->net, false, err);
	float *x;

	if (!head)
		die("%s: %s", pool, err);
	x = outputs(head, &t->ck.w, s, pool);
	cosines(x, s, head->nclass, &l);
	free(x);
	net_free(head);
	if (want) {
		x = outputs(t->net, &t->ck.w, s, pool);
		softmax(x, s->n, s->nclass);
		l.kl = divergence(want, x, s->n, s->nclass);
		free(x);
	}
	return l;
}

static json_t *number(double x)
{
	return isfinite(x) ? json_real(x) : json_null();
}

static void print_json(FILE *fp, const struct teacher *t, const struct likeness *l, int n, const struct likeness *mean)
{
	json_t *all = json_array(), *j;

	for (int i = 0; i < n; i++)
		if (json_array_append_new(all, json_pack("{s:s, s:o, s:o, s:o}", "member", t[i].ck.member ? t[i].ck.member : "-",
			"within", number(l[i].within), "between", number(l[i].between), "kl", number(l[i].kl))) < 0)
			die("%s: a name that is not UTF-8 has no place in JSON", t[i].ck.member);
	j = json_pack("{s:o, s:o, s:o, s:o}", "members", all, "within", number(mean->within), "between",
		number(mean->between), "kl", number(mean->kl));
	json_dumpf(j, fp, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	putc('\n', fp);
	json_decref(j);
}

static void print_line(FILE *fp, const char *name, const struct likeness *l)
{
	const double x[] = { l->within, l->between, l->kl };

	fputs(name, fp);
	for (size_t i = 0; i < LEN(x); i++)
		if (isnan(x[i]))
			fputs("\t-", fp);
		else
			fprintf(fp, "\t%.4f", x[i]);
	putc('\n', fp);
}

static void print(const struct options *o, const struct teacher *t, const struct likeness *l, int n)
{
	struct likeness mean = { 0 };
	struct outfile out = { .fp = stdout };
	char err[ERRLEN];

	for (int i = 0; i < n; i++) {
		mean.within += l[i].within / n;
		mean.between += l[i].between / n;
		mean.kl += l[i].kl / n;
	}
	if (o->cli.out && out_open(&out, o->cli.out, err) < 0)
		die("%s", err);
	for (int i = 0; i < n && !o->json; i++)
		print_line(out.fp, t[i].ck.member ? t[i].ck.member : "-", &l[i]);
	if (o->json)
		print_json(out.fp, t, l, n, &mean);
	else
		print_line(out.fp, "mean", &mean);
	if (o->cli.out && out_finish(&out, err) < 0)
		die("%s", err);
	eflush();
}

int main(int argc, char **argv)
{
	struct options o = { .pool = NULL };
	struct ts_reader r;
	struct imageset s;
	struct teacher *t;
	struct likeness *l;
	float *want;
	int n;

	progname = "likeness";
	parse(&o, argc, argv);
	eout_probe(o.cli.out);
	omp_set_num_threads(get_threads());
	if (ts_open(&r, NULL, "images") < 0 || imageset_read(&r, &s) < 0)
		die("%s", r.err);
	t = open_pool(o.pool, &s, &n);
	want = o.teachers ? answer(o.teachers, &s) : NULL;
	l = ecalloc(n, sizeof *l);
	for (int i = 0; i < n; i++) {
		l[i] = measure(o.pool, &t[i], &s, want);
		progress("networks", i + 1, n, NULL);
	}
	progress_done();
	print(&o, t, l, n);
	free(want);
	free(l);
	teachers_free(t, n);
	imageset_free(&s);
	ts_close(&r);
	if (o.cli.verbose)
		times_say();
	return 0;
}
