/* The CPU backend: carries out a plan's calls, chunk by chunk of images, phase by phase.
 *
 * Within a phase each thread takes a chunk of images through all its calls, so that features stay in cache and results
 * do not depend on the number of threads (weight gradients do); between phases the batch-wide reductions of batch norm are
 * finished.
 */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#if defined __SSE2__
#include <xmmintrin.h>
#endif

#include "cpu.h"

/* Per-channel coefficients of image i's instance norm: y = x*scale + shift. */
static void instance_affine(const struct exec *e, const struct node *n, int i, float *scale, float *shift)
{
	double per = (double)e->h * e->w;

	memset(scale, 0, e->cp * sizeof *scale);
	memset(shift, 0, e->cp * sizeof *shift);
	for (int c = 0; c < e->c; c++) {
		double m = e->isum[(size_t)i * e->c + c] / per;
		double v = fmax(e->isumsq[(size_t)i * e->c + c] / per - m * m, 0), g = e->gamma[c] / sqrt(v + n->eps);
		scale[c] = g;
		shift[c] = e->beta[c] - m * g;
	}
}

/* Sums about ref; `near`: taken about the image's own first value and moved to ref in double, since squares of floats far
 * from zero leave nothing of a small deviation. */
static void sums_of(const struct pass *q, const struct stage *s, double *sum, double *sumsq, bool near, int i0, int i1)
{
	const struct exec *e = s->exec;
	const struct cpu *cpu = q->p->be_data;
	double per = (double)e->h * e->w;
	float *first = cpu->coef[q->tid];

	for (int i = i0; i < i1; i++) {
		const float *x = at(q, s->x, i);
		double *s1 = sum + (size_t)i * e->c, *s2 = sumsq + (size_t)i * e->c;

		memset(s1, 0, e->c * sizeof *s1);
		memset(s2, 0, e->c * sizeof *s2);
		for (int c = 0; near && c < e->cp; c++)
			first[c] = x[c / 8 * (int64_t)per * 8 + c % 8];
		cpu->k->sums(s1, s2, x, near ? first : e->ref, e->c, e->h, e->w);
		for (int c = 0; near && c < e->c; c++) {
			double d = (double)first[c] - e->ref[c];
			s2[c] += 2 * d * s1[c] + per * d * d;
			s1[c] += per * d;
		}
	}
}

/* What the backward sums of image i are taken about: with an instance norm the image's mean. */
static const float *center_of(const struct exec *e, int i, float *room)
{
	if (!e->isum)
		return e->center;
	memset(room, 0, e->cp * sizeof *room);
	for (int c = 0; c < e->c; c++)
		room[c] = e->isum[(size_t)i * e->c + c] / ((double)e->h * e->w);
	return room;
}

static void f_head(const struct pass *q, const struct stage *s, int i0, int i1)
{
	const struct exec *e = s->exec;

	if (s->solo >= 0)
		return;
	if (s->head >= 0)
		head_forward(q, s, i0, i1);
	if (s->tap >= 0 && (q->p->opts.taps || q->p->opts.purpose == PLAN_TRAIN))
		sums_of(q, s, q->p->tap[s->tap].sum, q->p->tap[s->tap].sumsq, q->p->opts.purpose == PLAN_TRAIN, i0, i1);
	if (e->isum)
		sums_of(q, s, e->isum, e->isumsq, true, i0, i1);
}

static void f_epilogue(const struct pass *q, const struct stage *s, int i0, int i1)
{
	const struct cpu *cpu = q->p->be_data;
	const struct exec *e = s->exec;
	const float *scale = e->scale, *shift = e->shift;

	if (s->solo >= 0) {
		const struct node *last = &q->p->net->node[q->p->net->nnode - 1];
		solo_forward(q, s, i0, i1);
		for (int i = i0; i < i1 && s->out == q->p->net->nnode - 1; i++) /* net_features: flat ones are the output */
			memcpy(q->logits + (size_t)i * last->c, at(q, s->y, i), last->c * sizeof(float));
		return;
	}
	if (s->y == s->x)
		return;
	for (int i = i0; i < i1; i++) {
		if (e->isum) {
			float *coef = cpu->coef[q->tid];
			instance_affine(e, &q->p->net->node[s->norm], i, coef, coef + e->cp);
			scale = coef, shift = coef + e->cp;
		}
		cpu->k->epilogue(at(q, s->y, i), s->mask >= 0 ? (uint8_t *)at(q, s->mask, i) : NULL, at(q, s->x, i),
		    s->res >= 0 ? value(q, s->res_stage, i) : NULL, scale, shift, e->cp / 8, e->h, e->w, s->relu >= 0, s->pool >= 0);
	}
}

/* Gradient of the stage's output: one consumer's, or its dz where several were added up or an epilogue undone. */
static const float *grad_out(const struct pass *q, const struct stage *s, int i)
{
	if (s->out == q->p->net->nnode - 1)
		return q->dlogits + (size_t)i * q->p->net->nclass;
	return at(q, s->dz >= 0 ? s->dz : s->dy[0], i);
}

static void b_epilogue(const struct pass *q, const struct stage *s, int i0, int i1)
{
	const struct cpu *cpu = q->p->be_data;
	const struct exec *e = s->exec;
	const float *dy[LEN(s->dy)];

	if (s->dz < 0 || e->head.image_raw)
		return;
	for (int i = i0; i < i1; i++) {
		for (int j = 0; j < s->ndy; j++)
			dy[j] = at(q, s->dy[j], i);
		const struct node *o = &q->p->net->node[s->out];
		bool plain = node_layout(q->p->net, s->out) == PLAIN;
		float *dz = at(q, s->dz, i);
		if (plain) {
			for (size_t j = 0; j < cpu_floats(o, PLAIN); j++) {
				dz[j] = dy[0][j];
				for (int d = 1; d < s->ndy; d++)
					dz[j] += dy[d][j];
			}
			continue;
		}
		bool solo = s->solo >= 0;
		cpu->k->gather(dz, dy, s->ndy, s->mask >= 0 && !solo ? (uint8_t *)at(q, s->mask, i) : NULL, pad8(o->c) / 8,
		    solo ? o->h : e->h, solo ? o->w : e->w, s->pool >= 0);
		if (e->sdz) {
			size_t nc = (size_t)i * e->c;
			memset(e->sdz + nc, 0, e->c * sizeof *e->sdz);
			memset(e->sdzx + nc, 0, e->c * sizeof *e->sdzx);
			cpu->k->sums_back(e->sdz + nc, e->sdzx + nc, dz, at(q, s->x, i),
			    center_of(e, i, cpu->coef[q->tid]), e->c, e->h, e->w);
		}
	}
}

/* Coefficients of a normalisation's backward pass over `m` values: with mean mu (about ref), variance v, sums of dz and
 * dz*(x-ref):  dx = g*(dz - mean(dz) - (x-mu)/(v+eps) * mean(dz*(x-mu))), g = gamma/sqrt(v+eps); this as
 * gain*dz + a + b*(x-ref). */
static void norm_back(double m, double mu, double v, double eps, double gamma, double sdz, double sdzx, float *gain,
    float *a, float *b)
{
	double g = gamma / sqrt(v + eps), cov = (sdzx - mu * sdz) / m / (v + eps);

	*gain = g;
	*b = -g * cov;
	*a = g * (-sdz / m + cov * mu);
}

/* What undoes the norm of image i: dx = gain*dz + a + b*(x - center). Arrays may lie in the thread's coef. */
struct undo {
	const float *gain, *a, *b, *center;
};

static struct undo undo_of(const struct pass *q, const struct stage *s, int i)
{
	const struct plan *p = q->p;
	const struct cpu *cpu = p->be_data;
	const struct exec *e = s->exec;
	int64_t per = (int64_t)e->h * e->w;
	float *coef = cpu->coef[q->tid], *gain = e->gain, *a = e->a, *b = e->b;
	const float *center = e->center;
	const struct tap *t = s->tap >= 0 && p->opts.purpose == PLAN_SYNTH ? &p->tap[s->tap] : NULL;

	if (e->isum) {
		gain = coef, a = coef + e->cp, b = coef + 2 * e->cp;
		memset(coef, 0, 3 * e->cp * sizeof *coef);
		center = center_of(e, i, coef + 3 * e->cp);
		for (int c = 0; c < e->c; c++) {
			size_t nc = (size_t)i * e->c + c;
			double m = e->isum[nc] / per, v = fmax(e->isumsq[nc] / per - m * m, 0);
			norm_back(per, m - center[c], v, p->net->node[s->norm].eps, e->gamma[c], e->sdz[nc], e->sdzx[nc], gain + c,
			    a + c, b + c);
			if (t)
				a[c] += t->a[nc] + t->b[nc] * (double)center[c], b[c] += t->b[nc]; /* the tap's ref is 0 */
		}
	} else if (t) {
		a = coef, b = coef + e->cp;
		memset(coef, 0, 2 * e->cp * sizeof *coef);
		memcpy(a, t->a + (size_t)i * e->c, e->c * sizeof *a);
		memcpy(b, t->b + (size_t)i * e->c, e->c * sizeof *b);
	}
	return (struct undo){ gain, a, b, center };
}

/* dz -> dx: gradient in front of the norm. */
static void undo_norm(const struct pass *q, const struct stage *s, int i)
{
	const struct cpu *cpu = q->p->be_data;
	const struct exec *e = s->exec;

	if (s->norm < 0 && s->tap < 0)
		return;
	struct undo u = undo_of(q, s, i);
	cpu->k->affine_back(at(q, s->dx, i), at(q, s->dz, i), at(q, s->x, i), u.gain, u.a, u.b, u.center, e->cp / 8,
	    (int64_t)e->h * e->w);
}

struct feature_grad describe_grad(const struct pass *q, const struct stage *s, int i, bool whole, const float **dy)
{
	const struct exec *e = s->exec;
	bool norm = s->norm >= 0 || s->tap >= 0, raw = whole || s->dz < 0;
	struct undo u = undo_of(q, s, i);

	for (int j = 0; j < s->ndy; j++)
		dy[j] = at(q, s->dy[j], i);
	if (!raw)
		dy[0] = at(q, s->dz, i);
	return (struct feature_grad){ .dy = dy, .ndy = raw ? s->ndy : 1, .pool = raw && s->pool >= 0, .kb = e->cp / 8,
		.mask = raw && s->mask >= 0 ? (uint8_t *)at(q, s->mask, i) : NULL, .gain = u.gain, .a = u.a, .b = u.b,
		.ref = u.center, .x = norm ? at(q, s->x, i) : NULL, .h = e->h, .w = e->w };
}

static void b_head(const struct pass *q, const struct stage *s, int i0, int i1)
{
	const struct plan *p = q->p;
	const struct exec *e = s->exec;
	bool to_image = s->in_stage == 0 && p->opts.purpose == PLAN_SYNTH && q->dimages;

	for (int i = i0; i < i1; i++) {
		float *image = to_image ? q->dimages + (size_t)i * cpu_floats(&p->net->node[0], PLAIN) : NULL;
		float *gin = s->gin >= 0 ? at(q, s->gin, i) : image;

		if (s->solo >= 0) {
			if (gin || s->gres >= 0)
				solo_backward(q, s, grad_out(q, s, i), gin, s->gres >= 0 ? at(q, s->gres, i) : NULL, i);
			continue;
		}
		if (!e->head.image_back && !e->head.image_wgrad)
			undo_norm(q, s, i);
		if (s->head >= 0 && gin)
			head_dgrad(q, s, i, gin);
	}
	if (s->head >= 0 && s->gin >= 0)
		head_dgrad_all(q, s, i0, i1);
}

/* TRAIN, at the start of the phase behind a BN's sums: batch statistics and the affine that follows from them. */
static void finish_forward(struct plan *p, const struct stage *s, int n)
{
	const struct tap *t = &p->tap[s->tap];
	struct exec *e = s->exec;
	double m = (double)n * t->per, eps = p->net->node[s->norm].eps;

	for (int c = 0; c < e->c; c++) {
		double sum = 0, sumsq = 0;
		for (int i = 0; i < n; i++)
			sum += t->sum[(size_t)i * e->c + c], sumsq += t->sumsq[(size_t)i * e->c + c];
		double mu = sum / m, v = fmax(sumsq / m - mu * mu, 0), g = e->gamma[c] / sqrt(v + eps);
		e->mean[c] = mu; /* about ref */
		e->center[c] = mu + e->ref[c];
		e->var[c] = v;
		e->scale[c] = g;
		e->shift[c] = e->beta[c] - (mu + e->ref[c]) * g;
	}
}

/* TRAIN: sums of gradients over the batch -> coefficients of dx, gradients of gamma and beta. */
static void finish_backward(struct plan *p, const struct stage *s, int n, float *dtheta)
{
	struct exec *e = s->exec;
	const struct node *v = &p->net->node[s->norm];
	double m = (double)n * e->h * e->w;

	for (int c = 0; c < e->c; c++) {
		double sdz = 0, sdzx = 0, dgamma = 0;
		for (int i = 0; i < n; i++) {
			size_t nc = (size_t)i * e->c + c;
			sdz += e->sdz[nc], sdzx += e->sdzx[nc];
			if (e->isum) {
				double per = (double)e->h * e->w, mu = e->isum[nc] / per, var = fmax(e->isumsq[nc] / per - mu * mu, 0);
				dgamma += (e->sdzx[nc] - (mu - (float)mu) * e->sdz[nc]) / sqrt(var + v->eps);
			}
		}
		if (!e->isum) {
			double mu = e->mean[c] + e->ref[c] - e->center[c]; /* what a float could not hold */
			norm_back(m, mu, e->var[c], v->eps, e->gamma[c], sdz, sdzx, e->gain + c, e->a + c, e->b + c);
			dgamma = (sdzx - mu * sdz) / sqrt(e->var[c] + v->eps);
		}
		if (dtheta) {
			dtheta[p->net->param[v->param[P_WEIGHT]].offset + c] = dgamma;
			dtheta[p->net->param[v->param[P_BIAS]].offset + c] = sdz;
		}
	}
}

static void run_call(const struct pass *q, const struct call *c, int i0, int i1)
{
	static void (*const what[])(const struct pass *, const struct stage *, int, int) = {
		[F_HEAD] = f_head, [F_EPILOGUE] = f_epilogue, [B_EPILOGUE] = b_epilogue, [B_HEAD] = b_head,
	};

	struct exec *e = q->p->stage[c->stage].exec;
	double start = q->tid ? 0 : now();

	what[c->what](q, &q->p->stage[c->stage], i0, i1);
	if (q->tid == 0)
		e->spent[c->what] += now() - start;
}

/* A chunk through calls [c0, c1) of one phase; a stage's two halves go together, a few images at a time. */
static void run_chunk(const struct pass *q, int c0, int c1, int i1)
{
	for (int c = c0; c < c1; c++) {
		const struct call *call = &q->p->call[c];
		const struct exec *e = q->p->stage[call->stage].exec;
		bool pair = c + 1 < c1 && call[1].stage == call->stage, wgrad = q->p->opts.purpose == PLAN_TRAIN;
		int step = e->step > 0 ? e->step : q->p->chunk;

		for (int i = q->first; i < i1; i += step) {
			int to = MIN(i + step, i1);
			run_call(q, call, i, to);
			if (pair)
				run_call(q, call + 1, i, to);
		}
		const struct call *last = pair ? call + 1 : call;
		const struct stage *s = &q->p->stage[call->stage];
		if (wgrad && last->what == B_HEAD && s->head >= 0) {
			double start = now();
			head_wgrad(q, s, q->first, i1);
			if (q->tid == 0)
				((struct exec *)s->exec)->wgrad_spent += now() - start;
		}
		c += pair;
	}
}

/* Numbers too small for a normalised float count as 0 while plans run: gradients that fade away would otherwise take a
 * hundred cycles an operation on some processors. Returns what was in force before. */
static unsigned flush_denormals(void)
{
#if defined __SSE2__
	unsigned before = _mm_getcsr();

	_mm_setcsr(before | _MM_FLUSH_ZERO_ON | 0x40 /* inputs, too */);
	return before;
#else
	return 0;
#endif
}

static void restore_denormals(unsigned before)
{
#if defined __SSE2__
	_mm_setcsr(before);
#else
	(void)before;
#endif
}

static void run(struct plan *p, struct pass proto, int c0, int c1, int n, float *dtheta)
{
	int chunks = (n + p->chunk - 1) / p->chunk, team = get_threads(); /* before OpenMP is told of one */
	int library = omp_get_max_threads();

	cpu_threads(p, plan_threads(p));
	omp_set_dynamic(0); /* a smaller team would leave some thread's gradients as they were */
	omp_set_num_threads(1); /* oneDNN must not start threads of its own, not even where we run just one */
	while (c0 < c1) {
		int end = c0;
		while (end < c1 && p->call[end].phase == p->call[c0].phase)
			end++;
		for (int c = c0; c < end; c++) { /* reductions that this phase starts from */
			const struct stage *s = &p->stage[p->call[c].stage];
			bool norm = s->norm >= 0 && p->opts.purpose == PLAN_TRAIN;
			if (norm && p->call[c].what == F_EPILOGUE && s->tap >= 0)
				finish_forward(p, s, n);
			if (norm && p->call[c].what == B_HEAD && s->tap >= 0)
				finish_backward(p, s, n, dtheta);
		}
		/* Thread t has chunks t, t + threads, …: weight gradients add up in one order at one number of threads. Those
		 * without a chunk are in the team all the same: OpenMP would end them, and start new ones for what has all. */
		#pragma omp parallel num_threads(team)
		{
			struct pass q = proto;
			unsigned floats = flush_denormals();
			q.p = p;
			q.tid = omp_get_thread_num();
			for (int k = q.tid; k < chunks; k += omp_get_num_threads()) {
				q.first = k * p->chunk;
				q.fresh = k == q.tid;
				run_chunk(&q, c0, end, MIN(q.first + p->chunk, n));
			}
			restore_denormals(floats);
		}
		c0 = end;
	}
	omp_set_num_threads(library);
	for (int c = 0; dtheta && c < p->nstage; c++) { /* instance norms reduce without a barrier of their own */
		const struct stage *s = &p->stage[c];
		if (s->norm >= 0 && s->tap < 0)
			finish_backward(p, s, n, dtheta);
	}
}

static void cpu_forward(struct plan *p, int n, const float *images, float *logits)
{
	run(p, (struct pass){ .images = images, .logits = logits }, 0, p->nforward, n, NULL);
	p->last_images = images;
}

/* Adds the threads' weight gradients up and puts them into torchvision's layout. */
static void collect_gradients(struct plan *p, int used, float *dtheta)
{
	enum { BLOCK = 1 << 15 }; /* floats: one layer may have nearly all weights, which no thread should add up alone */
	#pragma omp parallel num_threads(get_threads())
	for (int i = 0; i < p->nstage; i++) {
		const struct exec *e = p->stage[i].exec;
		if (p->stage[i].head < 0)
			continue;
		const struct head *h = &e->head;
		size_t blocks = (h->ndw + BLOCK - 1) / BLOCK;
		#pragma omp for schedule(static) nowait
		for (size_t b = 0; b < blocks; b++)
			for (int t = 1; t < used; t++)
				add_floats(h->dw[0] + b * BLOCK, h->dw[t] + b * BLOCK, MIN(BLOCK, h->ndw - b * BLOCK));
	}
	#pragma omp parallel for schedule(dynamic, 1) num_threads(get_threads())
	for (int i = 0; i < p->nstage; i++) {
		struct stage *s = &p->stage[i];
		struct exec *e = s->exec;
		if (s->head < 0)
			continue;
		const struct node *n = &p->net->node[s->head];
		float *dw = dtheta + p->net->param[n->param[P_WEIGHT]].offset;
		for (int t = 1; t < used; t++)
			add_floats(e->head.db[0], e->head.db[t], n->c);
		put_weight_gradient(&e->head, n, dw, p->net->param[n->param[P_WEIGHT]].count);
		if (n->param[P_BIAS] >= 0)
			memcpy(dtheta + p->net->param[n->param[P_BIAS]].offset, e->head.db[0], n->c * sizeof *dw);
	}
}

static void cpu_backward(struct plan *p, int n, const float *dlogits, float *dimages, float *dtheta)
{
	int chunks = (n + p->chunk - 1) / p->chunk;

	run(p, (struct pass){ .images = p->last_images, .dlogits = dlogits, .dimages = dimages }, p->nforward, p->ncall, n, dtheta);
	if (dtheta)
		collect_gradients(p, MIN(get_threads(), chunks), dtheta);
}

static void cpu_update_running(struct plan *p, int n, struct weights *w, double momentum)
{
	for (int i = 0; i < p->nstage; i++) {
		struct stage *s = &p->stage[i];
		const struct exec *e = s->exec;
		if (s->tap < 0)
			continue;
		const struct node *v = &p->net->node[s->norm];
		float *mean = weights_param(p->net, w, v->param[P_MEAN]), *var = weights_param(p->net, w, v->param[P_VAR]);
		double m = (double)n * e->h * e->w;
		if (m < 2) /* one value has no variance, and says nothing of the mean that others have */
			continue;
		for (int c = 0; c < e->c; c++) {
			mean[c] += momentum * (e->mean[c] + e->ref[c] - mean[c]);
			var[c] += momentum * (e->var[c] * (m / (m - 1)) - var[c]);
		}
	}
}

/* A solo runs where others have their epilogue. */
static void cpu_times(const struct plan *p, int i, double ms[PARTS])
{
	const struct exec *e = p->stage[i].exec;
	bool solo = p->stage[i].solo >= 0;

	ms[PART_FORWARD] = 1e3 * e->spent[solo ? F_EPILOGUE : F_HEAD];
	ms[PART_EPILOGUE] = solo ? 0 : 1e3 * e->spent[F_EPILOGUE];
	ms[PART_UNDO] = 1e3 * e->spent[B_EPILOGUE];
	ms[PART_DGRAD] = 1e3 * e->spent[B_HEAD];
	ms[PART_WGRAD] = 1e3 * e->wgrad_spent;
}

static void *cpu_alloc(size_t bytes)
{
	return ealigned(bytes, 1);
}

static size_t cpu_room(const struct plan *p, const struct node *n, enum layout l)
{
	(void)p;
	return cpu_floats(n, l);
}

const struct backend backend_cpu = {
	.name = "cpu",
	.host = true,
	.alloc = cpu_alloc,
	.dealloc = free,
	.floats = cpu_room,
	.fast_bf16 = cpu_fast_bf16,
	.chunk = cpu_chunk,
	.compile = cpu_compile,
	.release = cpu_release,
	.load = cpu_load,
	.forward = cpu_forward,
	.backward = cpu_backward,
	.update_running = cpu_update_running,
	.isa = cpu_isa,
	.impl = cpu_impl,
	.work = cpu_work,
	.times = cpu_times,
};
