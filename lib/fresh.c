#include "fresh.h"

#include <stdlib.h>
#include <string.h>

#include "rng.h"
#include "util.h"

struct fresh *fresh_new(struct dataset images, int nclass, int per_class)
{
	struct fresh *f = ecalloc(1, sizeof *f);
	int64_t most = 1;

	*f = (struct fresh){ .images = images, .nclass = nclass };
	f->n = ecalloc(nclass, sizeof *f->n);
	f->of = ecalloc(nclass, sizeof *f->of);
	for (int64_t i = 0; i < images.n; i++)
		f->n[images.label[i]]++;
	for (int k = 0; k < nclass; k++) {
		f->of[k] = ecalloc(f->n[k] + 1, sizeof **f->of);
		most = MAX(most, f->n[k]);
		f->n[k] = 0;
	}
	f->per_class = (int)MIN(per_class, most);
	for (int64_t i = 0; i < images.n; i++) {
		int64_t k = images.label[i];
		f->of[k][f->n[k]++] = i;
	}
	return f;
}

void fresh_free(struct fresh *f)
{
	if (!f)
		return;
	for (int k = 0; k < f->nclass; k++)
		free(f->of[k]);
	free(f->of);
	free(f->n);
	free(f);
}

int fresh_draw(const struct fresh *f, uint32_t seed, int64_t class, int64_t iteration, int64_t *pick)
{
	struct rng r = rng_at(seed, RNG_FRESH, class, iteration, 0);
	int n = MIN(f->n[class], f->per_class);
	int64_t *left = emalloc((f->n[class] + 1) * sizeof *left);

	/* The beginning of a Fisher-Yates shuffle. */
	memcpy(left, f->of[class], f->n[class] * sizeof *left);
	for (int i = 0; i < n; i++) {
		int64_t j = i + rng_below(&r, f->n[class] - i);
		pick[i] = left[j];
		left[j] = left[i];
	}
	free(left);
	return n;
}
