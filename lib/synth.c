#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "synth.h"
#include "targets.h"
#include "times.h"

/* Teachers whose plans are alive, beyond those in flight: a pool of hundreds that take turns would fill memory. */
enum { LIVE = 16 };

struct slot { /* a teacher's plans */
	int teacher;               /* -1: none */
	int64_t used;              /* when last */
	struct net *net;           /* ends in the last features, where these are matched; else NULL */
	struct plan *synth, *real; /* real: where there are fresh images */
};

struct synth {
	const struct backend *be;  /* synthesises itself, */
	struct device_synth *device; /* by this, and all below is empty; or NULL */
	struct synth_opts o;
	const struct teacher_ref *teacher;
	int nteacher, batch, width; /* width of what plans give: classes, or features */
	int flight;                /* teachers at a time */
	int chw[3];
	struct slot *slot;
	int nslot;
	int64_t clock;             /* of uses */
	struct workspace **ws;     /* one a teacher in flight */
	float **out, **dout;       /* (batch,width) each, one a teacher in flight: logits, or features */
	float *aug;                /* (batch,C,H,W) augmented images */
	float *daug, *dpart;       /* their gradient: of all teachers, of one */
	float *dx;
	int *pick;
	struct view *view;         /* one an image */
	struct dsa *dsa;
	/* With fresh images: some of one class, what is seen of them and, one a teacher in flight, what follows. */
	int64_t *real;
	float *plain, *seen, *shown; /* (per_class,C,H,W) twice; (per_class,width) */
	struct workspace *real_ws;
	struct targets **targets;
};

struct synth *synth_new(const struct synth_opts *o, const struct teacher_ref *t, int nteacher, int batch)
{
	struct synth *s = ecalloc(1, sizeof *s);
	const struct net *net = t[0].net;
	size_t image, pixels;

	s->o = *o;
	s->o.subset = synth_matched(o, nteacher);
	s->flight = s->o.subset + MIN(o->predict, o->prior);
	s->teacher = t;
	s->nteacher = nteacher;
	s->batch = batch;
	memcpy(s->chw, net->chw, sizeof s->chw);
	s->be = plan_backend();
	if (s->be->synth_new && (s->device = s->be->synth_new(o, t, nteacher, batch)))
		return s;
	s->width = net->nclass;
	for (int i = 0; i < nteacher && o->features; i++)
		s->width = MAX(s->width, net_width(t[i].net, o->depth));
	image = (size_t)s->chw[0] * s->chw[1] * s->chw[2];
	pixels = batch * image;
	s->nslot = MIN(nteacher, MAX(LIVE, s->flight));
	s->slot = ecalloc(s->nslot, sizeof *s->slot);
	for (int i = 0; i < s->nslot; i++)
		s->slot[i].teacher = -1;
	s->ws = ecalloc(s->flight, sizeof *s->ws);
	s->out = ecalloc(s->flight, sizeof *s->out);
	s->dout = ecalloc(s->flight, sizeof *s->dout);
	s->targets = ecalloc(s->flight, sizeof *s->targets);
	for (int i = 0; i < s->flight; i++) {
		s->ws[i] = ws_new();
		s->out[i] = ealigned((size_t)batch * s->width, sizeof(float));
		s->dout[i] = ealigned((size_t)batch * s->width, sizeof(float));
	}
	s->aug = ealigned(pixels, sizeof(float));
	s->daug = ealigned(pixels, sizeof(float));
	s->dpart = ealigned(pixels, sizeof(float));
	s->dx = ealigned(pixels, sizeof(float));
	s->pick = ecalloc(nteacher, sizeof *s->pick);
	s->view = ecalloc(batch, sizeof *s->view);
	s->dsa = ecalloc(batch, sizeof *s->dsa);
	if (o->fresh) {
		int n = o->fresh->per_class;
		s->real = ecalloc(n, sizeof *s->real);
		s->plain = ealigned(n * image, sizeof(float));
		s->seen = ealigned(n * image, sizeof(float));
		s->shown = ealigned((size_t)n * s->width, sizeof(float));
		s->real_ws = ws_new();
	}
	return s;
}

static void empty(struct slot *t)
{
	plan_free(t->synth);
	plan_free(t->real);
	if (t->net)
		net_free(t->net);
	*t = (struct slot){ .teacher = -1 };
}

void synth_free(struct synth *s)
{
	if (!s)
		return;
	if (s->device) {
		s->be->synth_free(s->device);
		free(s);
		return;
	}
	for (int i = 0; i < s->nslot; i++)
		empty(&s->slot[i]);
	for (int i = 0; i < s->flight; i++) {
		ws_free(s->ws[i]);
		free(s->out[i]);
		free(s->dout[i]);
		targets_free(s->targets[i]);
	}
	ws_free(s->real_ws);
	free(s->real), free(s->plain), free(s->seen), free(s->shown), free(s->targets);
	free(s->slot), free(s->ws), free(s->out), free(s->dout);
	free(s->aug), free(s->daug), free(s->dpart), free(s->dx), free(s->pick), free(s->view), free(s->dsa);
	free(s);
}

size_t synth_bytes(const struct synth *s)
{
	size_t sum = s->device ? s->be->synth_bytes(s->device) : 0;

	for (int i = 0; !s->device && i < s->flight; i++)
		sum += ws_bytes(s->ws[i]);
	return sum;
}

int synth_subset(const struct synth *s, const struct unit *u, int64_t iteration, int *pick)
{
	return synth_pick(&s->o, s->nteacher, u, iteration, pick);
}

static struct plan *plan_of(const struct synth *s, const struct slot *t, enum purpose purpose, char err[ERRLEN])
{
	return plan_new(t->net ? t->net : s->teacher[t->teacher].net, (struct plan_opts){ .purpose = purpose,
		.batch = purpose == PLAN_EVAL ? s->o.fresh->per_class : s->batch, .taps = !s->o.features,
		.precision = s->o.precision }, err);
}

static bool is_matched(const struct synth *s, int teacher)
{
	return teacher < s->nteacher - s->o.prior;
}

/* Plans for teacher i, unless those in the slot are of a network like it that has the same part. */
static int fill(struct synth *s, struct slot *t, int i, char err[ERRLEN])
{
	bool fits = t->teacher >= 0 && is_matched(s, t->teacher) == is_matched(s, i) &&
	    net_alike(s->teacher[t->teacher].net, s->teacher[i].net);

	if (!fits)
		empty(t);
	t->teacher = i;
	if (fits)
		return 0;
	if (s->o.features && is_matched(s, i) && !(t->net = net_features(s->teacher[i].net, s->o.depth, err)))
		return -1;
	if (!(t->synth = plan_of(s, t, PLAN_SYNTH, err)))
		return -1;
	return s->o.fresh && is_matched(s, i) && !(t->real = plan_of(s, t, PLAN_EVAL, err)) ? -1 : 0;
}

/* Teacher i with its plans: in its slot, in an empty one, or in that of whichever was not used for longest. */
static struct slot *take(struct synth *s, int i, char err[ERRLEN])
{
	struct slot *t = s->slot;

	for (int j = 0; j < s->nslot && t->teacher != i; j++)
		if (s->slot[j].teacher == i || s->slot[j].used < t->used)
			t = &s->slot[j];
	if (t->teacher != i) {
		if (fill(s, t, i, err) < 0) {
			empty(t);
			return NULL;
		}
		plan_load(t->synth, s->teacher[i].w);
		if (t->real)
			plan_load(t->real, s->teacher[i].w);
	}
	t->used = ++s->clock;
	return t;
}

static void draw_augmentation(struct synth *s, const struct unit *u)
{
	for (int i = 0; i < u->n; i++)
		synth_draw(&s->o, s->chw, u, u->opt.step, s->o.per_class ? u->label[i] : -1, &s->view[i], &s->dsa[i]);
}

/* out (n,C,H,W): in as the draws have it; step 0: the first for all, 1: each by its own. */
static void augment(const struct synth *s, float *out, const float *in, int n, const struct view *v, const struct dsa *d,
    int step)
{
	int c = s->chw[0], h = s->chw[1], w = s->chw[2];
	size_t per = (size_t)c * h * w;
	double start = now();

	#pragma omp parallel for num_threads(get_threads())
	for (int i = 0; i < n; i++) {
		if (s->o.dsa)
			dsa_apply(out + i * per, in + i * per, c, h, w, &d[i * step]);
		else
			view_apply(out + i * per, in + i * per, c, h, w, &v[i * step]);
	}
	times_add(TIME_AUGMENTATION, now() - start);
}

static void augment_back(struct synth *s, const struct unit *u, float *dx)
{
	int c = s->chw[0], h = s->chw[1], w = s->chw[2];
	size_t per = (size_t)c * h * w;
	double start = now();

	#pragma omp parallel for num_threads(get_threads())
	for (int i = 0; i < u->n; i++) {
		memset(dx + i * per, 0, per * sizeof *dx);
		if (s->o.dsa)
			dsa_adjoint(dx + i * per, s->daug + i * per, c, h, w, &s->dsa[i]);
		else
			view_adjoint(dx + i * per, s->daug + i * per, c, h, w, &s->view[i]);
	}
	times_add(TIME_AUGMENTATION, now() - start);
}

/* The class's images of this iteration, drawn and augmented as the unit's of this class are: s->seen. Their number. */
static int see_real(struct synth *s, const struct unit *u, int i)
{
	const struct dataset *from = &s->o.fresh->images;
	int n = fresh_draw(s->o.fresh, s->o.seed, u->label[i], u->opt.step, s->real);
	size_t per = (size_t)s->chw[0] * s->chw[1] * s->chw[2];

	#pragma omp parallel for num_threads(get_threads())
	for (int j = 0; j < n; j++)
		from->get(from->set, s->real[j], s->plain + j * per);
	augment(s, s->seen, s->plain, n, &s->view[i], &s->dsa[i], 0);
	return n;
}

/* What the teachers in flight see in fresh images of the unit's classes. */
static int look(struct synth *s, const struct unit *u, struct slot *const *t, int n, char err[ERRLEN])
{
	char *seen = ecalloc(s->o.fresh->nclass, 1);
	int rc = 0;

	for (int i = 0; i < n; i++) {
		if (!s->targets[i])
			s->targets[i] = targets_new(s->o.fresh->nclass);
		targets_begin(s->targets[i]);
	}
	for (int j = 0; j < u->n && rc == 0; j++) {
		int64_t class = u->label[j];
		if (seen[class]++)
			continue;
		int m = see_real(s, u, j);
		if (!m)
			rc = fail(err, "unit %lld: no real image of class %lld", (long long)u->number, (long long)class);
		for (int i = 0; i < n && m; i++) {
			plan_bind(t[i]->real, s->real_ws);
			plan_forward(t[i]->real, m, s->seen, s->shown);
			targets_add(s->targets[i], class, m, t[i]->real, s->o.features ? s->shown : NULL,
			    t[i]->net ? t[i]->net->nclass : 0);
		}
	}
	for (int i = 0; i < n; i++)
		targets_end(s->targets[i]);
	free(seen);
	return rc;
}

/* One teacher's statistics or features against what they should be; its plan's taps or its dout get the gradient. */
static double match(struct synth *s, const struct unit *u, const struct slot *t, int i, double scale)
{
	const struct layer_stats *want = s->o.fresh ? s->targets[i]->layer : s->teacher[t->teacher].stats;
	double loss = 0;

	if (s->o.features)
		return match_features(s->out[i], u->n, t->net->nclass, u->label, s->targets[i]->feature, s->targets[i]->deviation,
		    s->o.deviations, scale, s->dout[i]);
	for (int l = 0; s->o.alpha > 0 && l < plan_ntaps(t->synth); l++)
		loss += match_layer(plan_tap(t->synth, l), &want[l], u->label, u->n, s->o.class_weight, l ? 1 : s->o.first, scale);
	return loss;
}

/* What those from `first` on predict together, and its gradient; the logits of those before do not count. */
static double predict(struct synth *s, const struct unit *u, int first, int n)
{
	int k = s->teacher[0].net->nclass;
	double ce = loss_ensemble(s->out + first, n - first, u->label, u->n, k, s->o.ensemble, s->dout + first);

	for (int i = 0; i < n; i++)
		for (size_t j = 0; j < (size_t)u->n * k; j++)
			if (i < first)
				s->dout[i][j] = 0;
			else if (s->o.ce != 1)
				s->dout[i][j] *= s->o.ce;
	return ce;
}

int synth_gradient(struct synth *s, const struct unit *u, float *dx, struct synth_loss *loss, char err[ERRLEN])
{
	size_t pixels = (size_t)u->n * s->chw[0] * s->chw[1] * s->chw[2];
	int n = synth_subset(s, u, u->opt.step, s->pick), matched = s->o.subset;
	double share = 1.0 / (s->o.mean_bn ? matched : 1), norm = 0;
	struct slot *t[n];

	*loss = (struct synth_loss){ 0 };
	draw_augmentation(s, u);
	augment(s, s->aug, u->x, u->n, s->view, s->dsa, 1);
	for (int i = 0; i < n; i++) {
		if (!(t[i] = take(s, s->pick[i], err)))
			return -1;
		plan_bind(t[i]->synth, s->ws[i]);
		plan_forward(t[i]->synth, u->n, s->aug, s->out[i]);
	}
	if (s->o.fresh && look(s, u, t, matched, err) < 0)
		return -1;
	if (s->o.prior || !s->o.features)
		loss->ce = predict(s, u, s->o.prior ? matched : 0, n);
	for (int i = 0; i < n; i++) {
		if (i < matched)
			loss->bn += match(s, u, t[i], i, s->o.alpha * share) * share;
		plan_backward(t[i]->synth, u->n, s->dout[i], i ? s->dpart : s->daug, NULL);
		for (size_t j = 0; i && j < pixels; j++)
			s->daug[j] += s->dpart[j];
	}
	augment_back(s, u, dx);
	for (size_t j = 0; j < pixels; j++)
		norm += (double)dx[j] * dx[j];
	if (!isfinite(loss->ce) || !isfinite(loss->bn))
		return fail(err, "unit %lld, iteration %lld: the loss is not finite (cross-entropy %g, statistics %g)",
		    (long long)u->number, (long long)u->opt.step, loss->ce, loss->bn);
	if (!isfinite(norm))
		return fail(err, "unit %lld, iteration %lld: the gradient is not finite", (long long)u->number,
		    (long long)u->opt.step);
	return 0;
}

static int synth_step(struct synth *s, struct unit *u, struct synth_loss *loss, char err[ERRLEN])
{
	struct schedule rate = { .kind = s->o.sched, .base = s->o.lr };

	if (synth_gradient(s, u, s->dx, loss, err) < 0)
		return -1;
	u->opt.beta1 = s->o.beta1, u->opt.beta2 = s->o.beta2, u->opt.momentum = s->o.momentum;
	u->opt.weight_decay = s->o.weight_decay;
	optim_step(&u->opt, u->x, s->dx, schedule_rate(&rate, u->opt.step, u->total), NULL, u->lo, u->hi);
	return 0;
}

int synth_run(struct synth *s, struct unit *u, int k, struct synth_loss *loss, char err[ERRLEN])
{
	if (s->device)
		return s->be->synth_run(s->device, u, k, loss, err);
	for (int i = 0; i < k; i++)
		if (synth_step(s, u, &loss[i], err) < 0)
			return -1;
	return 0;
}
