#include "cuda_features.h"

#include <stdlib.h>
#include <string.h>

/* As in cuda_synth.c. */
#pragma weak synth_matched
#pragma weak synth_pick
#pragma weak fresh_draw

/* Pixels of the real images in a forward pass, unless a class alone has more: 512 images of 64x64. */
enum { TOGETHER = 1 << 21 };

struct pool { /* teachers that are matched, or the prior: networks alike */
	struct net *features;      /* without their classifier; NULL: the networks themselves */
	const struct net *net;     /* either */
	const struct teacher_ref *teacher;
	int n;
	float *theta, *buffer;     /* (n,ntheta), (n,nbuffer) */
};

struct place { /* one teacher in flight */
	const struct pool *pool;
	const int *pick;           /* on the device: whose weights count now, within the pool */
	struct plan *synth, *real; /* with the same weights; real: NULL in the prior */
	struct workspace *ws;
	float *shown, *mean, *deviation; /* (real images of a pass,f), (most,f) twice */
};

struct device_features {
	const struct synth_opts *o;
	struct room room;          /* all arrays but those of a call */
	int chw[3], batch;
	struct pool pool[2];
	int nplace;
	struct place *place;
	int lanes;                 /* place i runs on lane i % lanes: */
	struct workspace **real_ws; /* (lanes) for the real images */
	/* On the device, but where it says otherwise. Of what chance decides: this iteration's, and all of a call's. */
	int *pick, *picks;         /* (nplace), (room,nplace) */
	/* Real images: each of the unit's classes has `per` rows, of which `shown` says how many count. */
	int per, most, classes, together; /* most: classes of a unit at most; together: of a forward pass */
	uint8_t *u8;
	float *pixel_mean, *pixel_std, *plain, *seen, *means;
	int64_t *index, *indices;  /* (most,per), (room,most,per) */
	struct view *view, *views; /* likewise, without DSA */
	struct dsa *dsa, *dsas;    /* likewise, with it */
	struct gpu_group *shown;   /* (most) a class's rows in its pass */
	struct gpu_group *own;     /* (most) a class's images of the unit, in `order` */
	int *order;                /* (batch) */
	int64_t *class;            /* (most) on the host: which classes they are, */
	int *first;                /* and the first image of each */
};

static size_t image(const struct device_features *f)
{
	return (size_t)f->chw[0] * f->chw[1] * f->chw[2];
}

static bool alike(const struct teacher_ref *t, int n)
{
	for (int i = 1; i < n; i++)
		if (!net_alike(t[0].net, t[i].net))
			return false;
	return true;
}

static int open_pool(struct device_features *f, struct pool *p, const struct teacher_ref *t, int n, bool features,
    char err[ERRLEN])
{
	*p = (struct pool){ .teacher = t, .n = n, .net = n ? t[0].net : NULL };
	if (!n)
		return 0;
	if (features && !(p->features = net_features(t[0].net, f->o->depth, err)))
		return -1;
	if (features)
		p->net = p->features;
	p->theta = cuda_room(&f->room, n * p->net->ntheta * sizeof(float));
	p->buffer = cuda_room(&f->room, (n * p->net->nbuffer + 1) * sizeof(float));
	for (int i = 0; i < n; i++) {
		cuda_send(p->theta + i * p->net->ntheta, t[i].w->theta, p->net->ntheta * sizeof(float));
		cuda_send(p->buffer + i * p->net->nbuffer, t[i].w->buffer, p->net->nbuffer * sizeof(float));
	}
	cuda_wait("the networks");
	return 0;
}

static int open_place(struct device_features *f, int i, const struct pool *pool, char err[ERRLEN])
{
	struct place *p = &f->place[i];
	struct plan_opts o = { .purpose = PLAN_SYNTH, .batch = f->batch, .precision = f->o->precision };
	struct plan_opts real = { .purpose = PLAN_EVAL, .batch = f->together * f->per, .precision = f->o->precision };
	size_t width = pool->net->nclass;

	*p = (struct place){ .pool = pool, .pick = f->pick + i };
	p->ws = ws_new();
	if (!(p->synth = plan_new(pool->net, o, err)))
		return -1;
	plan_load(p->synth, pool->teacher[0].w);
	if (!pool->features)
		return 0;
	if (!(p->real = plan_new(pool->net, real, err)))
		return -1;
	plan_load(p->real, pool->teacher[0].w);
	cuda_of(p->real)->theta = cuda_of(p->synth)->theta, cuda_of(p->real)->buffer = cuda_of(p->synth)->buffer;
	p->shown = cuda_room(&f->room, (size_t)f->together * f->per * width * sizeof(float));
	p->mean = cuda_room(&f->room, f->most * width * sizeof(float));
	p->deviation = cuda_room(&f->room, f->most * width * sizeof(float));
	return 0;
}

static void open_images(struct device_features *f)
{
	const struct dataset *from = &f->o->fresh->images;
	size_t rows = (size_t)f->most * f->per, each = image(f) * sizeof(float);

	f->u8 = cuda_copy(&f->room, from->u8, from->n * image(f));
	f->pixel_mean = cuda_copy(&f->room, from->mean, f->chw[0] * sizeof(float));
	f->pixel_std = cuda_copy(&f->room, from->std, f->chw[0] * sizeof(float));
	cuda_wait("the images");
	f->plain = cuda_room(&f->room, (size_t)f->together * f->per * each);
	f->seen = cuda_room(&f->room, rows * each);
	f->means = cuda_room(&f->room, rows * 3 * sizeof(float));
	f->index = cuda_room(&f->room, rows * sizeof *f->index);
	if (f->o->dsa)
		f->dsa = cuda_room(&f->room, rows * sizeof *f->dsa);
	else
		f->view = cuda_room(&f->room, rows * sizeof *f->view);
	f->shown = cuda_room(&f->room, f->most * sizeof *f->shown);
	f->own = cuda_room(&f->room, f->most * sizeof *f->own);
	f->order = cuda_room(&f->room, f->batch * sizeof *f->order);
	f->class = ecalloc(f->most, sizeof *f->class);
	f->first = ecalloc(f->most, sizeof *f->first);
}

/* What images, networks and features take, without activations. */
static size_t least(const struct device_features *f, const struct teacher_ref *t, int nteacher)
{
	size_t bytes = f->o->fresh->images.n * image(f) + (size_t)(f->most + f->together) * f->per * image(f) * sizeof(float);

	for (int i = 0; i < nteacher; i++)
		bytes += (t[i].net->ntheta + t[i].net->nbuffer) * sizeof(float);
	bytes += (size_t)f->nplace * (f->together * f->per + 2 * f->most) * net_width(t[0].net, f->o->depth) * sizeof(float);
	return bytes;
}

static struct device_features *with_sizes(const struct synth_opts *o, const struct teacher_ref *t, int nteacher, int batch,
    int lanes)
{
	struct device_features *f = ecalloc(1, sizeof *f);
	const struct fresh *from = o->fresh;

	*f = (struct device_features){ .o = o, .batch = batch, .lanes = lanes,
		.per = from->per_class, .most = MIN(batch, from->nclass) };
	memcpy(f->chw, t[0].net->chw, sizeof f->chw);
	f->nplace = synth_matched(o, nteacher) + MIN(o->predict, o->prior);
	f->together = MIN(MAX(1, TOGETHER / (f->chw[1] * f->chw[2]) / f->per), f->most);
	return f;
}

struct device_features *cuda_features_new(const struct synth_opts *o, const struct teacher_ref *t, int nteacher, int batch,
    int lanes, char err[ERRLEN])
{
	struct device_features *f;
	int matched = nteacher - o->prior, rc;

	*err = '\0';
	if (!o->fresh->images.u8 || !alike(t, matched) || !alike(t + matched, o->prior))
		return NULL;
	f = with_sizes(o, t, nteacher, batch, lanes);
	if (!cuda_spare(least(f, t, nteacher))) {
		free(f);
		return NULL;
	}
	f->place = ecalloc(f->nplace, sizeof *f->place);
	f->real_ws = ecalloc(lanes, sizeof *f->real_ws);
	for (int i = 0; i < lanes; i++)
		f->real_ws[i] = ws_new();
	f->pick = cuda_room(&f->room, f->nplace * sizeof *f->pick);
	open_images(f);
	rc = open_pool(f, &f->pool[0], t, matched, true, err) < 0 ||
	    open_pool(f, &f->pool[1], t + matched, o->prior, false, err) < 0 ? -1 : 0;
	for (int i = 0; i < f->nplace && rc == 0; i++)
		rc = open_place(f, i, &f->pool[i >= synth_matched(o, nteacher)], err);
	if (rc < 0) {
		cuda_features_free(f);
		return NULL;
	}
	return f;
}

static void free_draws(struct device_features *f)
{
	cuda_free(f->picks), cuda_free(f->indices), cuda_free(f->views), cuda_free(f->dsas);
}

void cuda_features_free(struct device_features *f)
{
	if (!f)
		return;
	for (int i = 0; i < f->nplace; i++) {
		plan_free(f->place[i].synth), plan_free(f->place[i].real);
		ws_free(f->place[i].ws);
	}
	for (int i = 0; i < f->lanes; i++)
		ws_free(f->real_ws[i]);
	for (int i = 0; i < 2; i++)
		if (f->pool[i].features)
			net_free(f->pool[i].features);
	cuda_empty(&f->room);
	free_draws(f);
	free(f->place), free(f->real_ws), free(f->class), free(f->first), free(f);
}

size_t cuda_features_bytes(const struct device_features *f)
{
	size_t sum = 0;

	for (int i = 0; i < f->nplace; i++)
		sum += ws_bytes(f->place[i].ws);
	for (int i = 0; i < f->lanes; i++)
		sum += ws_bytes(f->real_ws[i]);
	return sum;
}

int cuda_features_width(const struct device_features *f)
{
	return MAX(f->pool[0].net->nclass, f->pool[0].teacher[0].net->nclass);
}

int cuda_features_values(const struct device_features *f)
{
	return gpu_match_means_values(f->most, f->pool[0].net->nclass);
}

/* ---- a call */

int cuda_features_unit(struct device_features *f, const struct unit *u)
{
	struct gpu_group *own = ecalloc(f->most, sizeof *own), *shown = ecalloc(f->most, sizeof *shown);
	int *order = emalloc(u->n * sizeof *order), n = 0;

	f->classes = 0;
	for (int i = 0; i < u->n; i++) {
		int k = 0, from = n;
		while (k < f->classes && f->class[k] != u->label[i])
			k++;
		if (k < f->classes)
			continue;
		for (int j = i; j < u->n; j++)
			if (u->label[j] == u->label[i])
				order[n++] = j;
		f->class[k] = u->label[i], f->first[k] = i;
		own[k] = (struct gpu_group){ from, n - from };
		shown[k] = (struct gpu_group){ k % f->together * f->per, MIN(f->per, (int)f->o->fresh->n[u->label[i]]) };
		f->classes++;
	}
	cuda_send(f->own, own, f->classes * sizeof *own);
	cuda_send(f->shown, shown, f->classes * sizeof *shown);
	cuda_send(f->order, order, u->n * sizeof *order);
	cuda_wait("the unit");
	free(own), free(shown), free(order);
	return f->classes;
}

void cuda_features_room(struct device_features *f, int k)
{
	size_t rows = (size_t)k * f->most * f->per;

	free_draws(f);
	f->picks = cuda_alloc((size_t)k * f->nplace * sizeof *f->picks);
	f->indices = cuda_alloc(rows * sizeof *f->indices);
	if (f->o->dsa)
		f->dsas = cuda_alloc(rows * sizeof *f->dsas);
	else
		f->views = cuda_alloc(rows * sizeof *f->views);
}

int cuda_features_draws(struct device_features *f, const struct unit *u, int k, const struct view *view,
    const struct dsa *dsa, int draws, char err[ERRLEN])
{
	size_t each = (size_t)f->most * f->per, rows = k * each;
	int nteacher = f->pool[0].n + f->pool[1].n, *pick = emalloc(nteacher * sizeof *pick);
	int *picks = ecalloc((size_t)k * f->nplace, sizeof *picks);
	int64_t *index = ecalloc(rows, sizeof *index);
	struct view *v = f->o->dsa ? NULL : ecalloc(rows, sizeof *v);
	struct dsa *d = f->o->dsa ? ecalloc(rows, sizeof *d) : NULL;
	int rc = 0;

	for (int i = 0; i < k && rc == 0; i++) {
		int n = synth_pick(f->o, nteacher, u, u->opt.step + i, pick);
		for (int j = 0; j < n; j++)
			picks[i * f->nplace + j] = pick[j] - (f->place[j].pool == &f->pool[1] ? f->pool[0].n : 0);
		for (int c = 0; c < f->classes && rc == 0; c++) {
			size_t row = i * each + (size_t)c * f->per, draw = (size_t)i * draws + (draws > 1 ? f->first[c] : 0);
			int m = fresh_draw(f->o->fresh, f->o->seed, f->class[c], u->opt.step + i, index + row);
			if (!m)
				rc = fail(err, "unit %lld: no real image of class %lld", (long long)u->number, (long long)f->class[c]);
			for (int j = 0; j < f->per; j++) {
				if (j >= m) /* a row that does not count */
					index[row + j] = index[row];
				if (d)
					d[row + j] = dsa[draw];
				else
					v[row + j] = view[draw];
			}
		}
	}
	cuda_send(f->picks, picks, (size_t)k * f->nplace * sizeof *picks);
	cuda_send(f->indices, index, rows * sizeof *index);
	if (d)
		cuda_send(f->dsas, d, rows * sizeof *d);
	else
		cuda_send(f->views, v, rows * sizeof *v);
	cuda_wait("draws");
	free(pick), free(picks), free(index), free(v), free(d);
	return rc;
}

/* Binds it and prepares what n images need; true where the workspace has grown. */
static bool fit(struct plan *p, struct workspace *ws, int n)
{
	size_t before = ws_bytes(ws);

	plan_bind(p, ws);
	cuda_size(p, n);
	return ws_bytes(ws) != before;
}

static int pass(const struct device_features *f, int class)
{
	return MIN(f->together, f->classes - class) * f->per;
}

bool cuda_features_ready(struct device_features *f, int n)
{
	bool moved = false;

	for (int i = 0; i < f->nplace; i++) {
		struct place *p = &f->place[i];
		moved |= fit(p->synth, p->ws, n);
		for (int c = 0; p->real && c < f->classes; c += f->together)
			moved |= fit(p->real, f->real_ws[i % f->lanes], pass(f, c));
	}
	return moved;
}

/* ---- an iteration */

void cuda_features_see(struct device_features *f, const int *at)
{
	size_t rows = (size_t)f->most * f->per;
	int c = f->chw[0], h = f->chw[1], w = f->chw[2];
	cudaStream_t s = gpu.stream;

	gpu_take(s, f->pick, f->picks, f->nplace * sizeof *f->pick, at);
	gpu_take(s, f->index, f->indices, rows * sizeof *f->index, at);
	if (f->o->dsa)
		gpu_take(s, f->dsa, f->dsas, rows * sizeof *f->dsa, at);
	else
		gpu_take(s, f->view, f->views, rows * sizeof *f->view, at);
	for (int k = 0; k < f->classes; k += f->together) {
		size_t row = (size_t)k * f->per;
		float *seen = f->seen + row * image(f);
		gpu_pixels(s, f->plain, f->u8, f->index + row, f->pixel_mean, f->pixel_std, pass(f, k), c, h, w);
		if (f->o->dsa)
			gpu_dsa(s, seen, f->plain, NULL, f->dsa + row, true, pass(f, k), c, h, w, f->means);
		else
			gpu_view(s, seen, f->plain, NULL, f->view + row, true, pass(f, k), c, h, w);
	}
}

static void prepare_on(struct plan *p, cudaStream_t stream)
{
	cuda_of(p)->stream = stream;
	cuda_prepare(p);
}

struct plan *cuda_features_take(struct device_features *f, int place, cudaStream_t stream)
{
	struct place *p = &f->place[place];
	const struct pool *pool = p->pool;
	struct cuda *cu = cuda_of(p->synth);

	gpu_take(stream, cu->theta, pool->theta, pool->net->ntheta * sizeof(float), p->pick);
	if (pool->net->nbuffer)
		gpu_take(stream, cu->buffer, pool->buffer, pool->net->nbuffer * sizeof(float), p->pick);
	prepare_on(p->synth, stream);
	if (p->real)
		prepare_on(p->real, stream);
	return p->synth;
}

void cuda_features_match(struct device_features *f, int place, const float *out, float *dout, double *value, double scale)
{
	struct place *p = &f->place[place];
	cudaStream_t s = cuda_of(p->synth)->stream;
	int width = p->pool->net->nclass;
	bool spread = f->o->deviations > 0;

	for (int k = 0; k < f->classes; k += f->together) {
		size_t row = (size_t)k * width;
		cuda_run_forward(p->real, pass(f, k), f->seen + (size_t)k * f->per * image(f), p->shown);
		gpu_class_means(s, p->mean + row, spread ? p->deviation + row : NULL, p->shown, f->shown + k,
		    MIN(f->together, f->classes - k), width);
	}
	cuda_of(p->real)->stream = gpu.stream;
	gpu_match_means(s, value, dout, out, f->own, f->order, p->mean, spread ? p->deviation : NULL, f->classes, width,
	    f->o->deviations, scale);
}
