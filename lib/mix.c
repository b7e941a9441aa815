/* CutMix and MixUp, and the replay of a recipe. */
#include "augment.h"
#include "dataset.h"
#include "times.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int clip(int i, int n)
{
	return MAX(0, MIN(i, n));
}

void mix_box(struct mix *m, double lambda, int cy, int cx, int h, int w)
{
	double side = sqrt(1 - lambda);
	int half_h = (int)(h * side) / 2, half_w = (int)(w * side) / 2;

	m->y0 = clip(cy - half_h, h), m->y1 = clip(cy + half_h, h);
	m->x0 = clip(cx - half_w, w), m->x1 = clip(cx + half_w, w);
	m->lambda = (float)(1 - (double)(m->y1 - m->y0) * (m->x1 - m->x0) / ((double)h * w));
}

void mix_draw(struct rng *r, enum mix_kind kind, double alpha, int h, int w, struct mix *m)
{
	*m = (struct mix){ .kind = kind, .lambda = 1 };
	if (kind == MIX_NONE)
		return;

	double lambda = rng_beta(r, alpha, alpha);

	if (kind == MIX_MIXUP) {
		m->lambda = (float)lambda;
		return;
	}
	int cy = (int)rng_below(r, h), cx = (int)rng_below(r, w);

	mix_box(m, lambda, cy, cx, h, w);
}

void mix_apply(float *out, const float *own, const float *partner, int c, int h, int w, const struct mix *m)
{
	size_t hw = (size_t)h * w, n = c * hw;
	float a = m->lambda, b = 1 - m->lambda;

	if (m->kind == MIX_MIXUP) {
#pragma omp simd
		for (size_t i = 0; i < n; i++)
			out[i] = a * own[i] + b * partner[i];
		return;
	}
	if (out != own)
		memcpy(out, own, n * sizeof *out);
	if (m->kind == MIX_NONE)
		return;
	for (int k = 0; k < c; k++)
		for (int y = m->y0; y < m->y1 && m->x0 < m->x1; y++) {
			size_t at = k * hw + (size_t)y * w + m->x0;

			memcpy(out + at, partner + at, (m->x1 - m->x0) * sizeof *out);
		}
}

void recipe_free(struct recipe *r)
{
	free(r->index);
	free(r->view);
	free(r->partner);
	free(r->swap);
	*r = (struct recipe){ 0 };
}

void recipe_replay(const struct recipe *r, const struct dataset *images, float *out, float *scratch)
{
	int c = images->chw[0], h = images->chw[1], w = images->chw[2];
	size_t chw = (size_t)c * h * w;
	float *views = r->mix.kind == MIX_NONE ? out : scratch, *swapped = views == out ? scratch : out; /* (n,C,H,W) */
	double start = now();

#pragma omp parallel
	{
#pragma omp for schedule(static)
		for (int i = 0; i < r->n; i++) {
			const float *image = dataset_image(images, r->index[i], (r->swap ? views : swapped) + i * chw);

			if (r->swap) {
				view_apply(swapped + i * chw, image, c, h, w, &r->swap[i]);
				image = swapped + i * chw;
			}
			view_apply(views + i * chw, image, c, h, w, &r->view[i]);
		}
		if (views != out)
#pragma omp for schedule(static)
			for (int i = 0; i < r->n; i++)
				mix_apply(out + i * chw, views + i * chw, views + r->partner[i] * chw, c, h, w, &r->mix);
	}
	times_add(TIME_AUGMENTATION, now() - start);
}
