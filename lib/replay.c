#include <stdlib.h>

#include "engine.h"
#include "replay.h"

struct replay {
	const float *images;
	int chw[3], slots;
	float **slot, *scratch;       /* (batch,C,H,W) each; unless: */
	struct device_replay *device;
};

struct replay *replay_new(const float *images, int64_t n, const int chw[3], int batch, int slots)
{
	struct replay *r = ecalloc(1, sizeof *r);
	const struct backend *be = plan_backend();
	size_t floats = (size_t)batch * chw[0] * chw[1] * chw[2];

	*r = (struct replay){ .images = images, .chw = { chw[0], chw[1], chw[2] }, .slots = slots };
	if (be->replay_new)
		r->device = be->replay_new(images, n, chw, batch, slots);
	if (r->device)
		return r;
	r->slot = ecalloc(slots, sizeof *r->slot);
	for (int i = 0; i < slots; i++)
		r->slot[i] = ealigned(floats, sizeof(float));
	r->scratch = ealigned(floats, sizeof(float));
	return r;
}

void replay_free(struct replay *r)
{
	if (r->device)
		plan_backend()->replay_free(r->device);
	for (int i = 0; r->slot && i < r->slots; i++)
		free(r->slot[i]);
	free(r->slot), free(r->scratch), free(r);
}

const float *replay_run(struct replay *r, const struct recipe *recipe, int slot)
{
	if (r->device)
		return plan_backend()->replay_run(r->device, recipe, slot);
	recipe_replay(recipe, r->images, r->chw[0], r->chw[1], r->chw[2], r->slot[slot], r->scratch);
	return r->slot[slot];
}

const float *replay_dsa(struct replay *r, const int64_t *index, const struct dsa *d, int n, int slot)
{
	size_t chw = (size_t)r->chw[0] * r->chw[1] * r->chw[2];

	if (r->device)
		return plan_backend()->replay_dsa(r->device, index, d, n, slot);
#pragma omp parallel for
	for (int i = 0; i < n; i++)
		dsa_apply(r->slot[slot] + i * chw, r->images + index[i] * chw, r->chw[0], r->chw[1], r->chw[2], &d[i]);
	return r->slot[slot];
}
