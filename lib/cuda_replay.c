/* Recipes, or DSA, replayed on the device: the set lies there, a batch takes a few hundred bytes to describe. */
#include <stdlib.h>

#include "cuda_replay.h"

struct device_replay {
	struct room room; /* all below */
	int chw[3], slots;
	float *images;   /* (N,C,H,W) */
	float **slot;    /* (batch,C,H,W) each */
	float *views;    /* (batch,C,H,W) before they are mixed, or halves change places in a slot of their own */
	int64_t *index, *partner;
	struct view *view, *swap;
	struct mix *mix;
	struct dsa *dsa;
	float *means;    /* (batch,3): room for DSA's */
};

struct device_replay *cuda_replay_new(const float *images, int64_t n, const int chw[3], int batch, int slots)
{
	size_t each = (size_t)chw[0] * chw[1] * chw[2] * sizeof(float);
	struct device_replay *r;

	if (!cuda_spare((n + (slots + 1) * (size_t)batch) * each))
		return NULL;
	r = ecalloc(1, sizeof *r);
	*r = (struct device_replay){ .chw = { chw[0], chw[1], chw[2] }, .slots = slots };
	r->images = cuda_copy(&r->room, images, n * each);
	cuda_wait("the images");
	r->slot = ecalloc(slots, sizeof *r->slot);
	for (int i = 0; i < slots; i++)
		r->slot[i] = cuda_room(&r->room, batch * each);
	r->views = cuda_room(&r->room, batch * each);
	r->index = cuda_room(&r->room, batch * sizeof *r->index);
	r->partner = cuda_room(&r->room, batch * sizeof *r->partner);
	r->view = cuda_room(&r->room, batch * sizeof *r->view);
	r->swap = cuda_room(&r->room, batch * sizeof *r->swap);
	r->mix = cuda_room(&r->room, sizeof *r->mix);
	r->dsa = cuda_room(&r->room, batch * sizeof *r->dsa);
	r->means = cuda_room(&r->room, batch * 3 * sizeof *r->means);
	return r;
}

void cuda_replay_free(struct device_replay *r)
{
	cuda_empty(&r->room);
	free(r->slot), free(r);
}

const float *cuda_replay_run(struct device_replay *r, const struct recipe *recipe, int slot)
{
	bool mixed = recipe->mix.kind != MIX_NONE;
	int n = recipe->n, c = r->chw[0], h = r->chw[1], w = r->chw[2];
	float *views = mixed ? r->views : r->slot[slot], *swapped = mixed ? r->slot[slot] : r->views;
	const float *images = r->images;
	const int64_t *index = r->index;

	cuda_enter();
	cuda_send(r->index, recipe->index, n * sizeof *r->index);
	cuda_send(r->view, recipe->view, n * sizeof *r->view);
	if (mixed) {
		cuda_send(r->partner, recipe->partner, n * sizeof *r->partner);
		cuda_send(r->mix, &recipe->mix, sizeof *r->mix);
	}
	if (recipe->swap)
		cuda_send(r->swap, recipe->swap, n * sizeof *r->swap);
	cuda_wait("the recipe");
	if (recipe->swap) {
		gpu_view(gpu.stream, swapped, images, index, r->swap, true, n, c, h, w);
		images = swapped, index = NULL;
	}
	gpu_view(gpu.stream, views, images, index, r->view, true, n, c, h, w);
	if (mixed)
		gpu_mix(gpu.stream, r->slot[slot], views, r->partner, r->mix, n, c, h, w);
	cuda_leave();
	return r->slot[slot];
}

const float *cuda_replay_dsa(struct device_replay *r, const int64_t *index, const struct dsa *d, int n, int slot)
{
	cuda_enter();
	cuda_send(r->index, index, n * sizeof *index);
	cuda_send(r->dsa, d, n * sizeof *d);
	cuda_wait("the draws");
	gpu_dsa(gpu.stream, r->slot[slot], r->images, r->index, r->dsa, true, n, r->chw[0], r->chw[1], r->chw[2], r->means);
	cuda_leave();
	return r->slot[slot];
}
