#include <stdlib.h>

#include "engine.h"
#include "replay.h"

struct replay {
	struct dataset images;
	int slots;
	float **slot, *scratch;       /* (batch,C,H,W) each; unless: */
	struct device_replay *device;
};

struct replay *replay_new(struct dataset images, int batch, int slots)
{
	struct replay *r = ecalloc(1, sizeof *r);
	const struct backend *be = plan_backend();
	size_t floats = (size_t)batch * images.chw[0] * images.chw[1] * images.chw[2];

	*r = (struct replay){ .images = images, .slots = slots };
	if (be->replay_new)
		r->device = be->replay_new(&images, batch, slots);
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
	recipe_replay(recipe, &r->images, r->slot[slot], r->scratch);
	return r->slot[slot];
}

const float *replay_dsa(struct replay *r, const int64_t *index, const struct dsa *d, int n, int slot)
{
	const int *chw = r->images.chw;
	size_t each = (size_t)chw[0] * chw[1] * chw[2];

	if (r->device)
		return plan_backend()->replay_dsa(r->device, index, d, n, slot);
#pragma omp parallel
	{
		float *room = ealigned(each, sizeof *room);
#pragma omp for
		for (int i = 0; i < n; i++)
			dsa_apply(r->slot[slot] + i * each, dataset_image(&r->images, index[i], room), chw[0], chw[1], chw[2], &d[i]);
		free(room);
	}
	return r->slot[slot];
}
