#include "recipes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "images.h"

enum { MAX_SIDE = 65536 }; /* as headers allow */

const char *const mix_name[] = { [MIX_NONE] = "none", [MIX_CUTMIX] = "cutmix", [MIX_MIXUP] = "mixup", NULL };

static const char *const soft_key[] = {
	"soft.f16", "soft.f32", "soft.u8", "soft.range", "soft.index", "soft.top", "soft.rest"
};

/* A tensor of a frame that must have this type and shape (n,m), or (n) when m is 0. */
static void *need(const struct val *frame, const char *key, enum dtype type, int64_t n, int64_t m, char err[ERRLEN])
{
	const struct tensor *t = val_get_tensor(frame, key);

	if (!t) {
		fail(err, "no %s", key);
		return NULL;
	}
	if (t->type != type) {
		fail(err, "%s: of type %s, not %s", key, dtype_name[t->type], dtype_name[type]);
		return NULL;
	}
	if (t->ndim != (m ? 2 : 1) || t->shape[0] != n || (m && t->shape[1] != m)) {
		fail(err, "%s: its shape does not fit %lld images", key, (long long)n);
		return NULL;
	}
	return t->data;
}

static struct tensor *put(struct val *frame, const char *key, enum dtype type, int64_t n, int64_t m)
{
	struct val *v = val_tensor(tensor_new(type, m ? 2 : 1, (int64_t[]){ n, m }));

	val_put(frame, key, v);
	return &v->t;
}

void recipe_to_frame(struct val *frame, const struct recipe *r)
{
	struct tensor *index = put(frame, "index", DT_I64, r->n, 0);
	struct tensor *box = put(frame, "box", DT_I32, r->n, 4);
	struct tensor *flip = put(frame, "flip", DT_U8, r->n, 0);
	struct tensor *partner = put(frame, "partner", DT_I64, r->n, 0);
	struct val *cut = val_list();

	memcpy(index->data, r->index, r->n * sizeof *r->index);
	memcpy(partner->data, r->partner, r->n * sizeof *r->partner);
	for (int i = 0; i < r->n; i++) {
		const struct view *v = &r->view[i];
		int32_t b[4] = { v->top, v->left, v->height, v->width };

		memcpy((int32_t *)box->data + 4 * i, b, sizeof b);
		((uint8_t *)flip->data)[i] = !!v->flip;
	}
	if (r->swap) {
		uint8_t *swap = put(frame, "swap", DT_U8, r->n, 0)->data;

		for (int i = 0; i < r->n; i++)
			swap[i] = (uint8_t)swap_of(&r->swap[i]);
	}
	val_put(frame, "pad", val_int(r->view[0].zero));
	val_put(frame, "mix", val_str(mix_name[r->mix.kind]));
	val_put(frame, "lambda", val_f64(r->mix.lambda));
	val_push(cut, val_int(r->mix.y0));
	val_push(cut, val_int(r->mix.y1));
	val_push(cut, val_int(r->mix.x0));
	val_push(cut, val_int(r->mix.x1));
	val_put(frame, "cut", cut);
}

static int get_view(struct view *v, const int32_t box[4], int flip, int64_t pad, int h, int w)
{
	int good;

	*v = (struct view){ box[0], box[1], box[2], box[3], .flip = flip, .zero = (int)pad };
	if (pad)
		good = v->height == h && v->width == w && v->top >= -pad && v->top <= pad && v->left >= -pad && v->left <= pad;
	else
		good = v->height >= 1 && v->height <= h && v->width >= 1 && v->width <= w && v->top >= 0 && v->left >= 0
			&& v->top <= h - v->height && v->left <= w - v->width;
	return good && flip <= 1 ? 0 : -1;
}

static int get_mix(const struct val *frame, int h, int w, struct mix *m, char err[ERRLEN])
{
	const char *name = val_get_str(frame, "mix");
	const struct val *cut = val_get(frame, "cut");
	double lambda = val_get_f64(frame, "lambda", NAN);
	int64_t side[4];
	int kind = 0;

	while (mix_name[kind] && (!name || strcmp(mix_name[kind], name)))
		kind++;
	if (!mix_name[kind])
		return fail(err, "mix: none, cutmix or mixup expected");
	if (!(lambda >= 0 && lambda <= 1))
		return fail(err, "lambda: outside 0..1");
	if (!cut || cut->type != V_LIST || cut->list.len != 4)
		return fail(err, "cut: four numbers expected");
	for (int i = 0; i < 4; i++) {
		const struct val *v = cut->list.item[i];

		if (v->type != V_INT || v->i < 0 || v->i > (i < 2 ? h : w))
			return fail(err, "cut: outside the image");
		side[i] = v->i;
	}
	if (side[0] > side[1] || side[2] > side[3])
		return fail(err, "cut: ends before it starts");
	*m = (struct mix){ kind, (float)lambda, (int)side[0], (int)side[1], (int)side[2], (int)side[3] };
	return 0;
}

int recipe_from_frame(const struct val *frame, int64_t nimages, int h, int w, struct recipe *r, char err[ERRLEN])
{
	const struct tensor *t = val_get_tensor(frame, "index");
	int64_t n = t && t->type == DT_I64 && t->ndim == 1 ? t->shape[0] : 0;
	int64_t pad = val_get_int(frame, "pad", -1), *index, *partner;
	int32_t *box;
	uint8_t *flip, *swap = NULL;

	*r = (struct recipe){ 0 };
	if (n < 1 || n > INT32_MAX)
		return fail(err, "index: a list of images expected");
	index = t->data;
	if (!(box = need(frame, "box", DT_I32, n, 4, err)) || !(flip = need(frame, "flip", DT_U8, n, 0, err))
		|| !(partner = need(frame, "partner", DT_I64, n, 0, err)))
		return -1;
	if (val_get(frame, "swap") && !(swap = need(frame, "swap", DT_U8, n, 0, err)))
		return -1;
	if (pad < 0 || pad > MAX_SIDE)
		return fail(err, "pad: outside 0..%d", MAX_SIDE);
	if (get_mix(frame, h, w, &r->mix, err) < 0)
		return -1;

	r->n = (int)n;
	r->index = emalloc(n * sizeof *r->index);
	r->partner = emalloc(n * sizeof *r->partner);
	r->view = ecalloc(n, sizeof *r->view);
	if (swap)
		r->swap = ecalloc(n, sizeof *r->swap);
	for (int64_t i = 0; i < n; i++) {
		const char *what = NULL;

		if (index[i] < 0 || index[i] >= nimages)
			what = "index";
		else if (partner[i] < 0 || partner[i] >= n)
			what = "partner";
		else if (get_view(&r->view[i], box + 4 * i, flip[i], pad, h, w) < 0)
			what = "box or flip";
		else if (swap && swap[i] > SWAP_BOTH)
			what = "swap";
		if (what) {
			recipe_free(r);
			return fail(err, "%s: image %lld of the batch is out of range", what, (long long)i);
		}
		r->index[i] = index[i];
		r->partner[i] = partner[i];
		if (swap)
			r->swap[i] = swap_view(swap[i], h, w);
	}
	return 0;
}

static uint16_t to_half(double x)
{
	return f32_to_f16((float)MAX(-65504.0, MIN(x, 65504.0)));
}

static void put_f16(struct val *frame, const float *logits, int n, int k)
{
	uint16_t *out = put(frame, "soft.f16", DT_F16, n, k)->data;

	for (size_t i = 0; i < (size_t)n * k; i++)
		out[i] = to_half(logits[i]);
}

static void put_u8(struct val *frame, const float *logits, int n, int k)
{
	uint8_t *q = put(frame, "soft.u8", DT_U8, n, k)->data;
	float *range = put(frame, "soft.range", DT_F32, n, 2)->data;

	for (int i = 0; i < n; i++) {
		const float *l = logits + (size_t)i * k;
		float lo = l[0], hi = l[0];

		for (int j = 1; j < k; j++)
			lo = MIN(lo, l[j]), hi = MAX(hi, l[j]);
		for (int j = 0; j < k; j++)
			q[(size_t)i * k + j] = hi > lo ? (uint8_t)lround(((double)l[j] - lo) / ((double)hi - lo) * 255) : 0;
		range[2 * i] = lo;
		range[2 * i + 1] = hi;
	}
}

/* What each of the classes outside the top gets: log of the mean of exp(logit) over them. */
static double rest_of(const float *l, const uint8_t *taken, int k, int top)
{
	double sum = 0;
	float max = -INFINITY;

	if (top == k)
		return 0;
	for (int j = 0; j < k; j++)
		if (!taken[j])
			max = MAX(max, l[j]);
	for (int j = 0; j < k; j++)
		if (!taken[j])
			sum += exp((double)l[j] - max);
	return max + log(sum / (k - top));
}

static void put_topk(struct val *frame, const float *logits, int n, int k, int top)
{
	int32_t *index = put(frame, "soft.index", DT_I32, n, top)->data;
	uint16_t *value = put(frame, "soft.top", DT_F16, n, top)->data;
	uint16_t *rest = put(frame, "soft.rest", DT_F16, n, 0)->data;
	uint8_t *taken = emalloc(k);

	for (int i = 0; i < n; i++) {
		const float *l = logits + (size_t)i * k;

		memset(taken, 0, k);
		for (int t = 0; t < top; t++) {
			int best = -1;

			for (int j = 0; j < k; j++)
				if (!taken[j] && (best < 0 || l[j] > l[best])) /* the lower class first when equal */
					best = j;
			taken[best] = 1;
			index[(size_t)i * top + t] = best;
			value[(size_t)i * top + t] = to_half(l[best]);
		}
		rest[i] = to_half(rest_of(l, taken, k, top));
	}
	free(taken);
}

void soft_drop(struct val *frame)
{
	for (size_t i = 0; i < LEN(soft_key); i++)
		val_drop(frame, soft_key[i]);
}

void soft_to_frame(struct val *frame, const float *logits, int n, int k, enum soft_form form, int top)
{
	soft_drop(frame);
	if (form == SOFT_F16)
		put_f16(frame, logits, n, k);
	else if (form == SOFT_U8)
		put_u8(frame, logits, n, k);
	else
		put_topk(frame, logits, n, k, MAX(1, MIN(top, k)));
}

static int get_u8(const struct val *frame, int n, int k, float *logits, char err[ERRLEN])
{
	const uint8_t *q = need(frame, "soft.u8", DT_U8, n, k, err);
	const float *range = q ? need(frame, "soft.range", DT_F32, n, 2, err) : NULL;

	if (!range)
		return -1;
	for (int i = 0; i < n; i++) {
		double lo = range[2 * i], span = (double)range[2 * i + 1] - lo;

		for (int j = 0; j < k; j++)
			logits[(size_t)i * k + j] = (float)(lo + span * q[(size_t)i * k + j] / 255);
	}
	return 0;
}

static int get_topk(const struct val *frame, int n, int k, float *logits, char err[ERRLEN])
{
	const struct tensor *t = val_get_tensor(frame, "soft.index");
	int64_t top = t && t->ndim == 2 ? t->shape[1] : 0;
	const int32_t *index;
	const uint16_t *value, *rest;

	if (top < 1 || top > k)
		return fail(err, "soft.index: 1 to %d classes an image expected", k);
	if (!(index = need(frame, "soft.index", DT_I32, n, top, err))
		|| !(value = need(frame, "soft.top", DT_F16, n, top, err))
		|| !(rest = need(frame, "soft.rest", DT_F16, n, 0, err)))
		return -1;
	for (int i = 0; i < n; i++) {
		float *l = logits + (size_t)i * k, other = f16_to_f32(rest[i]);

		for (int j = 0; j < k; j++)
			l[j] = other;
		for (int t = 0; t < top; t++) {
			int32_t c = index[i * top + t];

			if (c < 0 || c >= k)
				return fail(err, "soft.index: class %d of %d", c, k);
			l[c] = f16_to_f32(value[i * top + t]);
		}
	}
	return 0;
}

int soft_from_frame(const struct val *frame, int n, int k, float *logits, char err[ERRLEN])
{
	size_t count = (size_t)n * k;

	if (val_get(frame, "soft.f16")) {
		const uint16_t *half = need(frame, "soft.f16", DT_F16, n, k, err);

		if (!half)
			return -1;
		for (size_t i = 0; i < count; i++)
			logits[i] = f16_to_f32(half[i]);
	} else if (val_get(frame, "soft.f32")) {
		const float *f = need(frame, "soft.f32", DT_F32, n, k, err);

		if (!f)
			return -1;
		memcpy(logits, f, count * sizeof *logits);
	} else if (val_get(frame, "soft.u8")) {
		if (get_u8(frame, n, k, logits, err) < 0)
			return -1;
	} else if (val_get(frame, "soft.index")) {
		if (get_topk(frame, n, k, logits, err) < 0)
			return -1;
	} else {
		return 0;
	}
	for (size_t i = 0; i < count; i++)
		if (!isfinite(logits[i]))
			return fail(err, "soft label %zu: not finite", i / k);
	return 1;
}

static int is_images(const struct val *frame)
{
	return val_get(frame, "images.u8") || val_get(frame, "images.f32") || val_get(frame, "images.encoded");
}

/* The error of the frame handed out last, in s->r.err. */
static int broken(struct recipe_stream *s, const char *what)
{
	return fail(s->r.err, "%s: frame %lld: %s", s->r.name, (long long)s->r.nframes - 1, what);
}

static int get_plan(struct recipe_stream *s)
{
	const struct val *m = val_get(s->r.header, "recipes");
	int64_t epochs = val_get_int(m, "epochs", 0);
	char err[ERRLEN];

	s->batches = val_get_int(m, "batches", 0);
	s->batch = val_get_int(m, "batch", 0);
	if (epochs < 1 || epochs > INT32_MAX || s->batches < 1 || s->batches > INT32_MAX || s->batch < 1
		|| s->batch > INT32_MAX)
		return fail(s->r.err, "%s: header: recipes: epochs, batches and batch expected", s->r.name);
	s->epochs = (int)epochs;
	if (imageset_begin(&s->set, s->r.header, err) < 0)
		return fail(s->r.err, "%s: header: %s", s->r.name, err);
	return 0;
}

/* Appends one images frame to the set. */
static int add_images(struct recipe_stream *s, const struct val *frame, char err[ERRLEN])
{
	struct image_frame f;

	return image_frame_get(s->r.header, frame, &f, err) < 0 || imageset_append(&s->set, &f, err) < 0 ? -1 : 0;
}

static int read_images(struct recipe_stream *s, bool keep)
{
	struct val *frame;
	char err[ERRLEN];
	int got;

	while ((got = ts_next(&s->r, &frame)) > 0) {
		int bad;

		if (!is_images(frame)) {
			s->pending = frame;
			break;
		}
		bad = add_images(s, frame, err);
		if (keep) {
			s->image_frames = erealloc(s->image_frames, s->nimage_frames + 1, sizeof *s->image_frames);
			s->image_frames[s->nimage_frames++] = frame;
		} else {
			val_free(frame);
		}
		if (bad)
			return broken(s, err);
	}
	if (got < 0)
		return -1;
	if (!got)
		return fail(s->r.err, "%s: no recipes in it", s->r.name);
	if (!s->set.n)
		return broken(s, "a recipe before any image");
	if (s->batch > s->set.n)
		return fail(s->r.err, "%s: header: recipes: batches of %lld, but there are %lld images", s->r.name,
			(long long)s->batch, (long long)s->set.n);
	return 0;
}

int recipe_stream_open(struct recipe_stream *s, const char *path, bool keep)
{
	struct ts_reader r;

	if (ts_open(&r, path, "recipes") < 0) {
		memcpy(s->r.err, r.err, sizeof s->r.err);
		return -1;
	}
	return recipe_stream_begin(s, &r, keep);
}

int recipe_stream_begin(struct recipe_stream *s, const struct ts_reader *r, bool keep)
{
	*s = (struct recipe_stream){ .r = *r };
	if (get_plan(s) < 0 || read_images(s, keep) < 0) {
		recipe_stream_close(s);
		return -1;
	}
	return 0;
}

int recipe_stream_next(struct recipe_stream *s, struct val **frame, struct recipe *out)
{
	long long total = (long long)s->epochs * s->batches, epoch = s->done / s->batches, batch = s->done % s->batches;
	char err[ERRLEN];
	int got = 1;

	*frame = s->pending;
	s->pending = NULL;
	if (!*frame && (got = ts_next(&s->r, frame)) < 0)
		return -1;
	if (!got && s->done != total)
		return fail(s->r.err, "%s: %lld batches, %lld expected", s->r.name, (long long)s->done, total);
	if (!got)
		return 0;
	if (s->done == total)
		fail(err, "more than the %lld batches expected", total);
	else if (val_get_int(*frame, "epoch", -1) != epoch || val_get_int(*frame, "batch", -1) != batch)
		fail(err, "epoch %lld, batch %lld expected", epoch, batch);
	else if (!recipe_from_frame(*frame, s->set.n, s->set.h, s->set.w, out, err)) {
		if (out->n <= s->batch) {
			s->done++;
			return 1;
		}
		fail(err, "%d images in a batch of %lld", out->n, (long long)s->batch);
		recipe_free(out);
	}
	val_free(*frame);
	*frame = NULL;
	return broken(s, err);
}

void recipe_stream_close(struct recipe_stream *s)
{
	for (int64_t i = 0; i < s->nimage_frames; i++)
		val_free(s->image_frames[i]);
	free(s->image_frames);
	val_free(s->pending);
	imageset_free(&s->set);
	ts_close(&s->r);
}
