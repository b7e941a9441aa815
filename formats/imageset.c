#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "imageset.h"
#include "images.h"

static int frame_pixels(const struct tensor *t, enum dtype type, const char *key, const int chw[3], int64_t *n,
			char *err)
{
	if (t->type != type)
		return fail(err, "%s: numbers of type %s", key, dtype_name[t->type]);
	if (t->ndim != 4 || t->shape[1] != chw[0] || t->shape[2] != chw[1] || t->shape[3] != chw[2])
		return fail(err, "%s: images are not %dx%dx%d as the header says", key, chw[0], chw[1], chw[2]);
	*n = t->shape[0];
	return 0;
}

static int check_labels(const struct val *header, const struct tensor *t, int64_t n, char *err)
{
	const int64_t *label = t->data;
	int nclass = header_nclass(header);

	if (t->type != DT_I64 || t->ndim != 1)
		return fail(err, "labels: not a row of i64");
	if (t->shape[0] != n)
		return fail(err, "labels: %lld for %lld images", (long long)t->shape[0], (long long)n);
	for (int64_t i = 0; i < n; i++)
		if (label[i] < 0 || label[i] >= nclass)
			return fail(err, "labels: image %lld: %lld in a set of %d classes", (long long)i,
				    (long long)label[i], nclass);
	return 0;
}

int image_frame_get(const struct val *header, const struct val *frame, struct image_frame *out, char err[ERRLEN])
{
	struct tensor *u8 = val_get_tensor(frame, "images.u8"), *f32 = val_get_tensor(frame, "images.f32");
	struct tensor *label = val_get_tensor(frame, "labels");
	struct val *enc = val_get(frame, "images.encoded");
	int chw[3];

	*out = (struct image_frame){ 0 };
	if (header_shape(header, chw) < 0)
		return fail(err, "header: no image shape");
	if (!!u8 + !!f32 + !!enc != 1)
		return fail(err, "%s", u8 || f32 || enc ? "images in two forms" : "no images in it");
	if (!label)
		return fail(err, "no labels in it");
	if ((u8 && frame_pixels(u8, DT_U8, "images.u8", chw, &out->n, err)) ||
	    (f32 && frame_pixels(f32, DT_F32, "images.f32", chw, &out->n, err)))
		return -1;
	if (enc && enc->type != V_LIST)
		return fail(err, "images.encoded: not a list");
	for (size_t i = 0; enc && i < enc->list.len; i++)
		if (enc->list.item[i]->type != V_BIN)
			return fail(err, "images.encoded: image %zu: not bytes", i);
	if (enc)
		out->n = enc->list.len;
	if (check_labels(header, label, out->n, err))
		return -1;
	if (f32)
		for (size_t i = 0, n = tensor_count(f32); i < n; i++)
			if (!isfinite(((float *)f32->data)[i]))
				return fail(err, "images.f32: image %zu: not a finite number",
					    i / ((size_t)chw[0] * chw[1] * chw[2]));
	out->u8 = u8 ? u8->data : NULL;
	out->f32 = f32 ? f32->data : NULL;
	out->encoded = enc;
	out->label = label->data;
	return 0;
}

/* A frame's files -> out (n,C,H,W), cropped and scaled as load-images does without --encoded. The first bad one in
 * order is the one that is named, however many threads there are. */
static int decode(const struct image_frame *f, const int chw[3], uint8_t *out, char *err)
{
	size_t each = (size_t)chw[0] * chw[1] * chw[2];
	int64_t bad = f->n;

	#pragma omp parallel for schedule(dynamic, 4)
	for (int64_t i = 0; i < f->n; i++) {
		const struct val *v = f->encoded->list.item[i];
		struct picture pic;
		char why[ERRLEN];

		if (picture_decode(v->s.p, v->s.len, &pic, why)) {
			#pragma omp critical
			if (i < bad) {
				bad = i;
				fail(err, "images.encoded: image %lld: %s", (long long)i, why);
			}
			continue;
		}
		picture_fit(&pic, chw[0], chw[1], chw[2]);
		memcpy(out + i * each, pic.px, each);
		free(pic.px);
	}
	return bad < f->n ? -1 : 0;
}

int imageset_append(struct imageset *s, const struct image_frame *f, char err[ERRLEN])
{
	const int chw[3] = { s->c, s->h, s->w };
	size_t each = (size_t)s->c * s->h * s->w, bytes, old = s->n * each;

	if (!f->n)
		return 0;
	if (s->n && !f->f32 != !s->f32)
		return fail(err, "images change between pixels and floats");
	if (mul_size(s->n + f->n, each * (f->f32 ? sizeof *s->f32 : 1), &bytes) < 0)
		return fail(err, "too many images");
	if (spill_grow(&s->pixels, bytes, err) < 0)
		return -1;
	s->label = erealloc(s->label, s->n + f->n, sizeof *s->label);
	memcpy(s->label + s->n, f->label, f->n * sizeof *s->label);
	if (f->f32) {
		s->f32 = s->pixels.p;
		memcpy(s->f32 + old, f->f32, f->n * each * sizeof *s->f32);
	} else {
		s->u8 = s->pixels.p;
		if (f->u8)
			memcpy(s->u8 + old, f->u8, f->n * each);
		else if (decode(f, chw, s->u8 + old, err))
			return -1;
	}
	s->n += f->n;
	return 0;
}

int imageset_begin(struct imageset *s, const struct val *h, char err[ERRLEN])
{
	int chw[3];

	*s = (struct imageset){ 0 };
	if (header_shape(h, chw) < 0)
		return fail(err, "no image shape");
	s->c = chw[0], s->h = chw[1], s->w = chw[2];
	if (header_norm(h, &s->norm) < 0)
		return fail(err, "no mean and standard deviation");
	if (s->norm.channels != s->c)
		return fail(err, "%d channels, but a normalisation of %d", s->c, s->norm.channels);
	if ((s->nclass = header_nclass(h)) < 1)
		return fail(err, "no class names");
	s->header = val_copy(h);
	return 0;
}

int imageset_read(struct ts_reader *r, struct imageset *s)
{
	struct val *frame;
	char err[ERRLEN];
	int got;

	if (imageset_begin(s, r->header, err))
		return fail(r->err, "%s: header: %s", r->name, err);
	while ((got = ts_next(r, &frame)) > 0) {
		struct image_frame f;
		int bad = image_frame_get(s->header, frame, &f, err) || imageset_append(s, &f, err);

		val_free(frame);
		if (bad) {
			imageset_free(s);
			return fail(r->err, "%s: frame %lld: %s", r->name, (long long)r->nframes - 1, err);
		}
	}
	if (got < 0)
		imageset_free(s);
	else if (!s->n) {
		imageset_free(s);
		return fail(r->err, "%s: no images in it", r->name);
	}
	return got;
}

void imageset_free(struct imageset *s)
{
	val_free(s->header);
	spill_free(&s->pixels);
	free(s->label);
	*s = (struct imageset){ 0 };
}

/* By two divisions, as everywhere: a product would round otherwise. */
static void take_bytes(float *restrict out, const uint8_t *restrict in, size_t n, float mean, float std)
{
#pragma omp simd
	for (size_t i = 0; i < n; i++)
		out[i] = (in[i] / 255.0f - mean) / std;
}

void imageset_get(const struct imageset *s, int64_t i, const struct norm *to, float *out)
{
	size_t plane = (size_t)s->h * s->w, each = s->c * plane;
	float scale[MAX_CHANNELS], shift[MAX_CHANNELS];

	if (s->f32 && s->norm.channels == to->channels &&
	    !memcmp(s->norm.mean, to->mean, s->c * sizeof *to->mean) &&
	    !memcmp(s->norm.std, to->std, s->c * sizeof *to->std)) {
		memcpy(out, s->f32 + i * each, each * sizeof *out);
		return;
	}
	norm_affine(&s->norm, to, scale, shift);
	for (int k = 0; k < s->c; k++) {
		if (s->u8)
			take_bytes(out + k * plane, s->u8 + i * each + k * plane, plane, to->mean[k], to->std[k]);
		else
			for (size_t j = 0; j < plane; j++)
				out[k * plane + j] = s->f32[i * each + k * plane + j] * scale[k] + shift[k];
	}
}

static void get(const void *set, int64_t i, float *out)
{
	const struct imageset *s = set;

	imageset_get(s, i, &s->norm, out);
}

struct dataset imageset_dataset(const struct imageset *s)
{
	return (struct dataset){ s->n, { s->c, s->h, s->w }, s->label, get, s, s->u8, s->f32, s->norm.mean, s->norm.std };
}

struct val *imageset_digest(const struct imageset *s)
{
	size_t count = (size_t)s->n * s->c * s->h * s->w;
	XXH64_hash_t pixels = s->u8 ? XXH3_64bits(s->u8, count) : XXH3_64bits(s->f32, count * sizeof *s->f32);
	XXH64_hash_t labels = XXH3_64bits_withSeed(s->label, s->n * sizeof *s->label, pixels);
	char *hex = eprintf_str("%016llx%016llx", (unsigned long long)pixels, (unsigned long long)labels);
	struct val *v = val_str(hex);

	free(hex);
	return v;
}
