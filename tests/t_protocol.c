/* Protocols: what the presets say of a set, when students are measured, and the average of their weights against one in
 * double. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../lib/protocol.h"
#include "../lib/train.h"
#include "tap.h"

static void test_presets(void)
{
	static const char *const names[] = { "hard-dsa", "soft", "hard", "soft-small", "best", "teddy-tiny", "teddy-imagenet",
		"sre2l-tiny", "rded", "rd3" };
	char err[ERRLEN];

	for (size_t i = 0; i < LEN(names); i++) {
		const struct protocol *p = protocol_find(names[i]);
		struct schedule s;
		struct report r;

		ok(p && !strcmp(p->name, names[i]), "%s: it is there", names[i]);
		if (!p)
			continue;
		ok(schedule_parse(&s, p->sched, p->lr, err) == 0 && report_parse(&r, p->report, err) == 0 && p->dsa_names,
		    "%s: its schedule and its report are understood", names[i]);
		ok(p->feed == FEED_IMAGES || (p->crop && p->mix), "%s: recipes have a crop and a mix", names[i]);
		ok(protocol_batch(p, 7, 3) == 7, "%s: never more images a batch than there are", names[i]);
	}
	ok(!protocol_find("none"), "no protocol of another name");
	ok(!strcmp(protocol_for(FEED_IMAGES)->name, "hard-dsa") && !strcmp(protocol_for(FEED_RECIPES)->name, "hard") &&
	    !strcmp(protocol_for(FEED_LABELLED)->name, "soft"), "what comes in has its protocol");
}

static void test_sizes(void)
{
	static const struct { const char *name; int classes, ipc, batch; } want[] = {
		{ "rded", 10, 1, 10 }, { "rded", 10, 2, 20 }, { "rded", 10, 10, 50 }, { "rded", 10, 50, 100 },
		{ "rded", 20, 1, 10 }, { "rded", 99, 10, 50 }, { "rded", 20, 50, 100 }, { "rded", 150, 50, 200 },
		{ "rded", 100, 1, 20 }, { "rded", 100, 10, 100 }, { "rded", 100, 50, 200 },
		{ "rded", 200, 1, 100 }, { "rded", 200, 10, 100 }, { "rded", 200, 50, 100 },
		{ "rded", 1000, 1, 20 }, { "rded", 1000, 10, 100 }, { "rded", 1000, 50, 200 },
		{ "soft-small", 10, 1, 10 }, { "soft-small", 10, 10, 50 }, { "best", 10, 50, 50 },
		{ "teddy-imagenet", 1000, 10, 1024 }, { "teddy-tiny", 200, 50, 256 }, { "hard-dsa", 10, 50, 256 },
	};

	for (size_t i = 0; i < LEN(want); i++) {
		int got = protocol_batch(protocol_find(want[i].name), (int64_t)want[i].classes * want[i].ipc, want[i].classes);

		ok(got == want[i].batch, "%s, %d classes of %d images: batches of %d", want[i].name, want[i].classes, want[i].ipc,
		    got);
	}
	/* 300 epochs or 3000 steps, in batches of 50 at most: of 10, 100 and 1000 images. */
	ok(protocol_epochs(300, 3000, 1) == 3000 && protocol_epochs(300, 3000, 2) == 1500 &&
	    protocol_epochs(300, 3000, 20) == 300, "of epochs and steps the longer one counts");
	ok(protocol_epochs(7, 0, 3) == 7 && protocol_epochs(0, 7, 3) == 3, "one of them alone, steps rounded up to epochs");
}

/* Which of these epochs are measured, as text. */
static void due(const char *spec, long epochs, const char *want, const char *words)
{
	struct report r;
	char err[ERRLEN], got[256] = "", *text;
	size_t at = 0;
	int good = report_parse(&r, spec, err);

	for (long e = 1; e <= epochs && !good; e++)
		if (report_due(&r, e, epochs))
			at += snprintf(got + at, sizeof got - at, " %ld", e);
	text = report_text(&r, epochs);
	ok(!good && !strcmp(got, want), "%s of %ld epochs: after%s", spec, epochs, got);
	ok(words ? text && !strcmp(text, words) : !text, "%s of %ld epochs: %s", spec, epochs, text ? text : "-");
	free(text);
}

static void test_reports(void)
{
	static const char *const wrong[] = { "", "first", "best-of", "best-of:", "best-of:0", "best-of:1.5", "best-of:0.5:",
		"best-of:0.5:0", "best-of:0.5:-2", "best-of:0.5:3x", "best-of:nan" };
	struct report r;
	char err[ERRLEN];

	due("last", 5, " 5", NULL);
	due("best", 4, " 1 2 3 4", "best of epochs 1 to 4");
	due("best-of:0.2", 10, " 9 10", "best of epochs 9 to 10");
	due("best-of:0.2:10", 300, " 250 260 270 280 290 300", "best of epochs 250 to 300, one in 10");
	due("best-of:0.2:10", 25, " 25", "best of epochs 25 to 25, one in 10"); /* the last one always */
	due("best-of:1:3", 7, " 3 6 7", "best of epochs 3 to 7, one in 3");
	for (size_t i = 0; i < LEN(wrong); i++)
		ok(report_parse(&r, wrong[i], err) < 0, "report '%s' is refused", wrong[i]);
}

enum { N = 8, CLASSES = 4, STEPS = 7, PIXELS = 3 * 8 * 8 };

struct means { double *theta, *buffer; }; /* what the average must be */

static void fold(double *mean, const float *x, size_t n, double keep)
{
	for (size_t i = 0; i < n; i++)
		mean[i] = keep * mean[i] + (1 - keep) * x[i];
}

static double apart(const double *want, const float *got, size_t n)
{
	double worst = 0;

	for (size_t i = 0; i < n; i++)
		worst = fmax(worst, fabs(want[i] - got[i]) / (fabs(want[i]) + 1e-3));
	return worst;
}

/* Steps of a learner with and of one without an average, in turns; half-way both leave the device, as students do whose
 * optimiser starts anew. */
static void test_average(double keep)
{
	struct net *net;
	struct trainer t;
	char err[ERRLEN];
	float x[N * PIXELS];
	int64_t label[N];
	struct rng r = rng_at(3, RNG_NOISE, 0, 0, 0);
	struct workspace *ws = ws_new();

	if (!(net = net_arch("convnet2-8", (const int[]){ 3, 8, 8 }, CLASSES, err)) || trainer_new(&t, net, N, ws, err) < 0)
		die("%s", err);
	struct learner a = learner_new(net, OPT_ADAMW, 5, RNG_STUDENT), b = learner_new(net, OPT_ADAMW, 5, RNG_STUDENT);
	struct means m = { ecalloc(net->ntheta, sizeof(double)), ecalloc(net->nbuffer, sizeof(double)) };
	double worst = 0, buffers = 0;

	learner_average(&a, net, keep);
	fold(m.theta, a.w.theta, net->ntheta, 0);
	fold(m.buffer, a.w.buffer, net->nbuffer, 0);
	for (int s = 0; s < STEPS; s++) {
		for (int i = 0; i < N * PIXELS; i++)
			x[i] = rng_normal(&r);
		for (int i = 0; i < N; i++)
			label[i] = (i + s) % CLASSES;
		if (s == STEPS / 2)
			learner_leave(&a), learner_leave(&b);
		train_step(&t, &a, N, x, &(struct target){ .label = label }, 0.01);
		train_step(&t, &b, N, x, &(struct target){ .label = label }, 0.01);
		learner_settle(&a);
		fold(m.theta, a.w.theta, net->ntheta, keep);
		fold(m.buffer, a.w.buffer, net->nbuffer, keep);
		worst = fmax(worst, apart(m.theta, learner_result(&a)->theta, net->ntheta));
		buffers = fmax(buffers, apart(m.buffer, learner_result(&a)->buffer, net->nbuffer));
	}
	learner_settle(&b);
	ok(worst < 1e-5 && buffers < 1e-5, "average %g: that in double, within %g and %g", keep, worst, buffers);
	ok(apart(m.theta, a.w.theta, net->ntheta) > 1e-2 && apart(m.buffer, a.w.buffer, net->nbuffer) > 1e-2,
	    "average %g: not the weights and statistics themselves", keep);
	ok(!memcmp(a.w.theta, b.w.theta, net->ntheta * sizeof(float)) && learner_result(&b) == &b.w,
	    "average %g: learning goes on as without", keep);
	learner_free(&a);
	learner_free(&b);
	free(m.theta);
	free(m.buffer);
	trainer_free(&t);
	ws_free(ws);
	net_free(net);
}

int main(void)
{
	progname = "t_protocol";
	test_presets();
	test_sizes();
	test_reports();
	test_average(0.9);
	test_average(0.5);
	return tap_end();
}
