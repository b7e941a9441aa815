#include "course.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "loss.h"
#include "times.h"

const char *const course_opt_name[] = { [OPT_SGD] = "sgd", [OPT_ADAM] = "adam", [OPT_ADAMW] = "adamw" };

static enum optim_kind parse_opt(const char *s)
{
	for (size_t i = 0; i < LEN(course_opt_name); i++)
		if (!strcmp(course_opt_name[i], s))
			return i;
	usage("--opt %s: sgd, adam or adamw expected", s);
}

bool course_option(struct course_opts *o, int opt, const char *arg)
{
	struct schedule s;
	char err[ERRLEN];

	switch (opt) {
	case 'b': o->batch = eint("-b", arg, 1, 1 << 20); break;
	case COURSE_OPT: o->opt = parse_opt(arg); break;
	case COURSE_MOMENTUM: o->momentum = ereal("--momentum", arg, 0, 1); break;
	case COURSE_NESTEROV: o->nesterov = true; break;
	case COURSE_WD: o->wd = ereal("--wd", arg, 0, 1e6); break;
	case COURSE_SCHED:
		if (schedule_parse(&s, arg, 1, err) < 0)
			usage("--sched: %s", err);
		o->sched = arg;
		break;
	case COURSE_CROP:
		if (trainaug_crop(&o->aug, arg, err) < 0)
			usage("--crop: %s", err);
		break;
	case COURSE_FLIP: o->aug.flip = ereal("--flip", arg, 0, 1); break;
	case COURSE_DSA:
		if (!(o->aug.dsa = dsa_parse(arg, err)))
			usage("--dsa: %s", err);
		o->dsa = arg;
		break;
	default: return false;
	}
	return true;
}

void course_settle(struct course_opts *o)
{
	if (isnan(o->wd))
		o->wd = o->opt == OPT_SGD ? 1e-4 : o->opt == OPT_ADAM ? 0 : 0.01;
}

double course_peak(enum optim_kind opt)
{
	return opt == OPT_SGD ? 0.1 : 1e-3;
}

static size_t each(const struct dataset *s)
{
	return (size_t)s->chw[0] * s->chw[1] * s->chw[2];
}

void course_plan(struct course *c, int epochs, double lr)
{
	char err[ERRLEN];

	schedule_parse(&c->rate, c->o->sched, lr, err); /* checked on the command line */
	c->rate.warmup *= c->steps;
	c->rate.step_every *= c->steps;
	c->epochs = c->last = epochs;
}

void course_ready(const struct course *c, struct learner *l)
{
	l->opt.momentum = c->o->momentum;
	l->opt.nesterov = c->o->nesterov;
	l->opt.weight_decay = c->o->wd;
}

static void shuffle(struct course *c, int epoch)
{
	struct rng rng = rng_at(c->seed, RNG_SHUFFLE, epoch - 1, 0, c->member);

	rng_permute(&rng, c->order, c->images.n);
}

static void fill_image(struct course *c, int64_t i)
{
	const struct dataset *s = &c->images;
	int64_t image = c->order[c->from + i];
	float *in = c->scratch + i * each(s), *out = c->x[c->slot] + i * each(s);

	s->get(s->set, image, in);
	trainaug_apply(&c->o->aug, c->seed, c->epoch - 1, image, c->member, out, in, s->chw[0], s->chw[1], s->chw[2]);
	c->label[c->slot][i] = s->label[image];
}

/* Whoever has time takes the batch's next image. */
static void fill(struct course *c)
{
	for (int64_t i; (i = atomic_fetch_add(&c->next, 1)) < c->n;)
		fill_image(c, i);
}

static void *aside(void *course)
{
	struct course *c = course;

	omp_set_num_threads(1);
	pthread_mutex_lock(&c->lock);
	for (;;) {
		while (!c->asked && !c->quit)
			pthread_cond_wait(&c->change, &c->lock);
		if (c->quit)
			break;
		c->asked = false;
		pthread_mutex_unlock(&c->lock);
		double start = now();
		fill(c);
		times_add(TIME_AUGMENTATION, now() - start);
		pthread_mutex_lock(&c->lock);
		c->busy = false;
		pthread_cond_broadcast(&c->change);
	}
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

/* Asks for images order[from...) of the epoch, under its draws: they are made on the side, in the slot not in use. */
static void ask(struct course *c, int epoch, int64_t from)
{
	pthread_mutex_lock(&c->lock);
	c->epoch = epoch;
	c->from = from;
	c->n = MIN(c->batch, c->images.n - from);
	c->slot = !c->slot;
	atomic_store(&c->next, 0);
	c->asked = c->busy = true;
	pthread_cond_broadcast(&c->change);
	pthread_mutex_unlock(&c->lock);
}

/* The batch asked for: what is not done yet is done by all threads. Returns its images. */
static int take(struct course *c)
{
	double start = now();

	if (atomic_load(&c->next) < c->n) {
		#pragma omp parallel num_threads(get_threads())
		fill(c);
	}
	pthread_mutex_lock(&c->lock);
	while (c->busy)
		pthread_cond_wait(&c->change, &c->lock);
	pthread_mutex_unlock(&c->lock);
	times_add(TIME_AUGMENTATION, now() - start);
	return c->n;
}

struct course *course_new(const struct course_opts *o, uint32_t seed, struct dataset images)
{
	struct course *c = ecalloc(1, sizeof *c);

	*c = (struct course){ .o = o, .seed = seed, .images = images, .batch = MIN(o->batch, images.n) };
	c->steps = (images.n + c->batch - 1) / c->batch;
	c->order = ecalloc(images.n, sizeof *c->order);
	for (int i = 0; i < 2; i++) {
		c->label[i] = ecalloc(c->batch, sizeof *c->label[i]);
		c->x[i] = ealigned(c->batch * each(&images), sizeof *c->x[i]);
	}
	c->scratch = ealigned(c->batch * each(&images), sizeof *c->scratch);
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->change, NULL);
	if (pthread_create(&c->thread, NULL, aside, c))
		die("no thread could be started");
	return c;
}

void course_leave(struct course *c)
{
	if (c->device)
		plan_backend()->course_free(c->device);
	c->device = NULL;
	c->device_of = NULL;
}

void course_free(struct course *c)
{
	course_leave(c);
	pthread_mutex_lock(&c->lock);
	c->quit = true;
	pthread_cond_broadcast(&c->change);
	pthread_mutex_unlock(&c->lock);
	pthread_join(c->thread, NULL);
	pthread_mutex_destroy(&c->lock);
	pthread_cond_destroy(&c->change);
	for (int i = 0; i < 2; i++) {
		free(c->label[i]);
		free(c->x[i]);
	}
	free(c->order);
	free(c->scratch);
	free(c);
}

/* The draws of steps [from, from+k) of an epoch, for a device that takes them itself. */
struct block {
	struct course_step *step;
	int64_t *label;
	struct view *view;
	struct dsa *dsa;
};

static struct block block_new(const struct course *c, int k)
{
	size_t n = (size_t)k * c->batch;

	return (struct block){ ecalloc(k, sizeof(struct course_step)), ecalloc(n, sizeof(int64_t)), ecalloc(n, sizeof(struct view)),
		ecalloc(n, sizeof(struct dsa)) };
}

static void block_free(struct block *b)
{
	free(b->step), free(b->label), free(b->view), free(b->dsa);
}

static void draw_block(struct course *c, const struct learner *l, int epoch, int64_t from, int k, struct block *b)
{
	const struct dataset *s = &c->images;
	int64_t first = from * c->batch, end = MIN((from + k) * c->batch, s->n), total = c->steps * c->epochs;
	double start = now();

	#pragma omp parallel for num_threads(get_threads())
	for (int64_t i = first; i < end; i++) {
		int64_t image = c->order[i];
		b->label[i - first] = s->label[image];
		trainaug_draw(&c->o->aug, c->seed, epoch - 1, image, c->member, s->chw[1], s->chw[2], &b->view[i - first],
		    &b->dsa[i - first]);
	}
	for (int i = 0; i < k; i++) {
		int64_t at = first + (int64_t)i * c->batch, off = at - first;
		b->step[i] = (struct course_step){ MIN(c->batch, s->n - at), c->order + at, b->label + off, b->view + off,
			c->o->aug.dsa ? b->dsa + off : NULL, schedule_rate(&c->rate, (epoch - 1) * c->steps + from + i, total), l->draws,
			l->steps + i };
	}
	times_add(TIME_AUGMENTATION, now() - start);
}

static int bad_step(const struct course *c, int epoch, int64_t step, char err[ERRLEN])
{
	return fail(err, "%s%sepoch %d, step %lld: loss is not finite", c->who ? c->who : "", c->who ? ": " : "", epoch,
	    (long long)step + 1);
}

static void show(const struct course *c, int epoch, int64_t step, double loss)
{
	char text[128];

	snprintf(text, sizeof text, "%s%sepoch %d, loss %.4f", c->who ? c->who : "", c->who ? ", " : "", epoch, loss);
	progress("steps", (epoch - 1) * c->steps + step + 1, c->steps * c->last, text);
}

static int device_epoch(struct course *c, struct device_course *d, struct trainer *t, struct learner *l, int epoch,
    double *sum, char err[ERRLEN])
{
	enum { AT_ONCE = 64 };
	struct block b = block_new(c, AT_ONCE);
	double loss[AT_ONCE];
	int rc = 0;

	for (int64_t from = 0; from < c->steps && rc == 0;) {
		int k = MIN(AT_ONCE, c->steps - from);
		draw_block(c, l, epoch, from, k, &b);
		int done = t->plan->be->course_run(d, learner_device(t, l), &l->opt, b.step, k, BN_MOMENTUM, loss);
		for (int i = 0; i < done; i++)
			*sum += loss[i] * b.step[i].n;
		l->steps += done;
		from += done;
		if (done < k)
			rc = bad_step(c, epoch, from, err);
		else
			show(c, epoch, from - 1, loss[done - 1]);
	}
	block_free(&b);
	return rc;
}

/* The set on the device, for this trainer's plan; NULL: there is no device, or it cannot hold it. */
static struct device_course *on_device(struct course *c, struct trainer *t)
{
	const struct backend *be = t->plan->be;

	if (be->course_new && c->device_of != t->plan) {
		course_leave(c);
		plan_bind(t->plan, t->ws);
		c->device = be->course_new(t->plan, &c->images);
		c->device_of = t->plan;
	}
	return c->device;
}

int course_epoch(struct course *c, struct trainer *t, struct learner *l, int epoch, double *loss, char err[ERRLEN])
{
	int64_t total = c->steps * c->epochs;

	shuffle(c, epoch);
	*loss = 0;
	struct device_course *d = on_device(c, t);
	if (d && device_epoch(c, d, t, l, epoch, loss, err) < 0)
		return -1;
	if (!d)
		ask(c, epoch, 0);
	for (int64_t s = 0; s < c->steps && !d; s++) {
		int64_t at = (epoch - 1) * c->steps + s;
		int n = take(c), slot = c->slot;

		if (s + 1 < c->steps)
			ask(c, epoch, (s + 1) * c->batch);
		double now = train_step(t, l, n, c->x[slot], &(struct target){ .label = c->label[slot] },
		    schedule_rate(&c->rate, at, total));

		if (!isfinite(now)) {
			take(c);
			return bad_step(c, epoch, s, err);
		}
		*loss += now * n;
		show(c, epoch, s, now);
	}
	*loss /= c->images.n;
	learner_settle(l);
	return 0;
}

/* What torch.optim.swa_utils.update_bn does. */
void course_recalibrate(struct course *c, struct trainer *t, struct weights *w)
{
	const struct net *net = t->net;

	for (int i = 0; i < net->nparam; i++) {
		const struct param *p = &net->param[i];
		float *v = weights_param(net, w, i);

		for (size_t j = 0; (p->role == P_MEAN || p->role == P_VAR) && j < p->count; j++)
			v[j] = p->role == P_VAR;
	}
	shuffle(c, 1);
	plan_bind(t->plan, t->ws);
	plan_load(t->plan, w);
	ask(c, 1, 0);
	for (int64_t s = 0; s < c->steps; s++) {
		int n = take(c), slot = c->slot;

		if (s + 1 < c->steps)
			ask(c, 1, (s + 1) * c->batch);
		plan_forward(t->plan, n, c->x[slot], t->logits);
		plan_update_running(t->plan, n, w, 1.0 / (s + 1));
		progress("batches", s + 1, c->steps, c->who);
	}
}

int course_measure(const struct dataset *s, const struct net *net, const struct weights *w, struct workspace *ws,
    double *accuracy, double *loss, char err[ERRLEN])
{
	int batch = MIN(250, s->n);
	struct plan *p = plan_new(net, (struct plan_opts){ .purpose = PLAN_EVAL, .batch = batch,
		.precision = get_precision() }, err);
	int64_t right = 0;
	float *x, *logits;

	if (!p)
		return -1;
	x = ealigned(batch * each(s), sizeof *x);
	logits = ealigned((size_t)batch * net->nclass, sizeof *logits);
	plan_bind(p, ws);
	plan_load(p, w);
	*loss = 0;
	for (int64_t from = 0; from < s->n; from += batch) {
		int n = MIN(batch, s->n - from);

		#pragma omp parallel for num_threads(get_threads())
		for (int i = 0; i < n; i++)
			s->get(s->set, from + i, x + i * each(s));
		plan_forward(p, n, x, logits);
		*loss += loss_ce(logits, s->label + from, n, net->nclass, NULL) * n;
		right += count_correct(logits, s->label + from, n, net->nclass);
	}
	*loss /= s->n;
	*accuracy = (double)right / s->n;
	plan_free(p);
	free(x);
	free(logits);
	return isfinite(*loss) ? 0 : fail(err, "the validation loss is not finite");
}
