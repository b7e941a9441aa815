#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "course.h"
#include "device.h"
#include "loss.h"
#include "students.h"
#include "times.h"

/* Threads of a network this small would mostly wait for each other. */
#define SMALL ((size_t)256 << 20)

struct batch batch_new(int n, int nclass, bool soft)
{
	return (struct batch){ .label = ecalloc(n, sizeof(int64_t)), .partner = ecalloc(n, sizeof(int64_t)),
		.soft = soft ? ealigned((size_t)n * nclass, sizeof(float)) : NULL };
}

void batch_free(struct batch *b)
{
	free(b->label);
	free(b->partner);
	free(b->soft);
}

static void set_optimiser(const struct students *s, struct optim *o)
{
	o->momentum = s->pr->momentum;
	o->nesterov = s->pr->nesterov;
	o->weight_decay = s->pr->wd;
}

/* Flags: weight decay for all parameters but those of one dimension. */
static unsigned char *decay_flags(const struct net *net)
{
	unsigned char *d = emalloc(net->ntheta);

	memset(d, 1, net->ntheta);
	for (int i = 0; i < net->nparam; i++) {
		const struct param *p = &net->param[i];

		if ((p->role == P_WEIGHT || p->role == P_BIAS) && p->ndim < 2)
			memset(d + p->offset, 0, p->count);
	}
	return d;
}

static int add_worker(struct students *s, int batch, char err[ERRLEN])
{
	struct worker *w;

	s->worker = erealloc(s->worker, s->nworker + 1, sizeof *s->worker);
	w = &s->worker[s->nworker];
	*w = (struct worker){ .ws = ws_new() };
	if (trainer_new(&w->trainer, s->net, batch, w->ws, err) < 0) {
		ws_free(w->ws);
		return -1;
	}
	plan_bind(w->trainer.plan, w->ws);
	s->nworker++;
	return 0;
}

static void drop_worker(struct students *s)
{
	struct worker *w = &s->worker[--s->nworker];

	trainer_free(&w->trainer);
	ws_free(w->ws);
}

static int hire(struct students *s, int batch, char err[ERRLEN])
{
	int threads = get_threads(), most = device_is_host() ? MIN(threads, s->n) : 1;

	set_threads(threads / most);
	if (add_worker(s, batch, err) < 0)
		return -1;
	if (ws_bytes(s->worker[0].ws) > SMALL && most > 1) { /* a plan is made for so many threads */
		drop_worker(s);
		set_threads(threads);
		most = 1;
	}
	while (s->nworker < most)
		if (add_worker(s, batch, err) < 0)
			return -1;
	return 0;
}

int students_new(struct students *s, const struct net *net, int n, int batch, char err[ERRLEN])
{
	s->net = net;
	s->n = n;
	if (hire(s, batch, err) < 0)
		return -1;
	schedule_parse(&s->sched, s->pr->sched, s->pr->lr, err); /* both checked on the command line */
	report_parse(&s->report, s->pr->report, err);
	s->sched.warmup *= s->batches;
	s->sched.step_every *= s->batches;
	s->decay = s->pr->decay_1d ? NULL : decay_flags(net);
	s->student = ecalloc(n, sizeof *s->student);
	for (int i = 0; i < n; i++) {
		struct student *t = &s->student[i];

		t->seed = s->cli->seed + (uint32_t)i;
		t->learner = learner_new(net, s->pr->opt, t->seed, RNG_STUDENT);
		t->learner.decay = s->decay;
		learner_average(&t->learner, net, s->pr->ema);
		set_optimiser(s, &t->learner.opt);
	}
	return 0;
}

void students_free(struct students *s)
{
	for (int i = 0; i < s->n; i++) {
		learner_free(&s->student[i].learner);
		free(s->student[i].order);
	}
	times_share(1.0 / MAX(s->nworker, 1)); /* what their plans did, they did side by side */
	while (s->nworker > 0)
		drop_worker(s);
	times_share(1);
	free(s->student);
	free(s->worker);
	free(s->decay);
}

static struct target target_of(const struct protocol *pr, const struct batch *b)
{
	return (struct target){ .kind = pr->loss == LOSS_KL ? TARGET_SOFT : b->mixed ? TARGET_MIXED : TARGET_LABELS,
		.label = b->label, .partner = b->partner, .lambda = b->lambda, .soft = b->soft, .temperature = pr->temperature,
		.t2 = pr->t2 };
}

long students_epochs(const struct students *s)
{
	return (s->total + s->batches - 1) / s->batches;
}

/* Of equally good epochs the first one counts. */
static int measure(struct students *s, struct workspace *ws, int who, long epoch, char err[ERRLEN])
{
	struct student *t = &s->student[who];
	double accuracy, loss;

	learner_settle(&t->learner);
	if (course_measure(&s->val, s->net, learner_result(&t->learner), ws, &accuracy, &loss, err) < 0)
		return fail(err, "student %d (seed %u): %s", who, t->seed, err);
	cli_log(s->cli, "measured", "student", (double)who, "seed", (double)t->seed, "epoch", (double)epoch, "accuracy",
		100 * accuracy, "loss", loss, NULL);
	if (!t->epoch || accuracy > t->accuracy)
		t->accuracy = accuracy, t->loss = loss, t->epoch = epoch;
	return 0;
}

int student_step(struct students *s, int worker, int who, const struct batch *b, long step, char err[ERRLEN])
{
	struct student *t = &s->student[who];
	struct worker *w = &s->worker[worker];
	struct target target = target_of(s->pr, b);
	bool late = s->pr->fresh && s->total > 1 && step >= s->total / 2, last = step + 1 == s->total;
	bool whole = last || (step + 1) % s->batches == 0;
	long epoch = step / s->batches + 1;
	double start = now(), rate = schedule_rate(&s->sched, step, s->total) * (late ? 0.1 : 1), loss;

	if (late && step == s->total / 2) {
		learner_leave(&t->learner);
		optim_free(&t->learner.opt);
		t->learner.opt = optim_new(s->pr->opt, s->net->ntheta);
		set_optimiser(s, &t->learner.opt);
	}
	loss = train_step(&w->trainer, &t->learner, b->n, b->x, &target, rate);
	if (!isfinite(loss))
		return fail(err, "student %d (seed %u), step %ld: the loss is not finite", who, t->seed, step + 1);
	t->sum += loss;
	if (whole) {
		t->train_loss = t->sum / (step % s->batches + 1);
		t->sum = 0;
		cli_log(s->cli, "epoch", "student", (double)who, "seed", (double)t->seed, "step", (double)(step + 1), "rate",
			rate, "loss", t->train_loss, NULL);
	}
	if (whole && report_due(&s->report, epoch, students_epochs(s)) && measure(s, w->ws, who, epoch, err) < 0)
		return -1;
	t->seconds += now() - start;
	if (last)
		cli_log(s->cli, "student", "seed", (double)t->seed, "accuracy", 100 * t->accuracy, "loss", t->loss,
			"train_loss", t->train_loss, "seconds", t->seconds, NULL);
	return 0;
}
