/* Recipes, or DSA, replayed on the device: the set lies there, a batch takes a few hundred bytes to describe. */
#include <stdlib.h>

#include "cuda_replay.h"
#include "dataset.h"

struct device_replay {
	struct room room; /* all below */
	int chw[3], slots;
	uint8_t *u8;        /* (N,C,H,W): the set, as bytes or as floats; */
	float *f32;
	float *mean, *std;  /* (C), of the bytes, */
	float *plain;       /* and a batch of them as floats */
	float **slot;       /* (batch,C,H,W) each */
	float *views;       /* (batch,C,H,W) before they are mixed, or halves change places in a slot of their own */
	int64_t *index, *partner;
	struct view *view, *swap;
	struct mix *mix;
	struct dsa *dsa;
	float *means;       /* (batch,3): room for DSA's */
};

static void take_set(struct device_replay *r, const struct dataset *s, size_t pixels, int batch)
{
	if (s->u8) {
		r->u8 = cuda_copy(&r->room, s->u8, s->n * pixels);
		r->mean = cuda_copy(&r->room, s->mean, s->chw[0] * sizeof *r->mean);
		r->std = cuda_copy(&r->room, s->std, s->chw[0] * sizeof *r->std);
		r->plain = cuda_room(&r->room, batch * pixels * sizeof *r->plain);
	} else
		r->f32 = cuda_copy(&r->room, s->f32, s->n * pixels * sizeof *r->f32);
	cuda_wait("the images");
}

struct device_replay *cuda_replay_new(const struct dataset *s, int batch, int slots)
{
	size_t pixels = (size_t)s->chw[0] * s->chw[1] * s->chw[2], each = pixels * sizeof(float);
	struct device_replay *r;

	if ((!s->u8 && !s->f32) || !cuda_spare(s->n * (s->u8 ? pixels : each) + (slots + 2) * (size_t)batch * each))
		return NULL;
	r = ecalloc(1, sizeof *r);
	*r = (struct device_replay){ .chw = { s->chw[0], s->chw[1], s->chw[2] }, .slots = slots };
	take_set(r, s, pixels, batch);
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

/* Images r->index (n) as floats: *index of what is given back, NULL: each in its place. */
static const float *floats(struct device_replay *r, int n, const int64_t **index)
{
	*index = r->u8 ? NULL : r->index;
	if (r->u8)
		gpu_pixels(gpu.stream, r->plain, r->u8, r->index, r->mean, r->std, n, r->chw[0], r->chw[1], r->chw[2]);
	return r->u8 ? r->plain : r->f32;
}

const float *cuda_replay_run(struct device_replay *r, const struct recipe *recipe, int slot)
{
	bool mixed = recipe->mix.kind != MIX_NONE;
	int n = recipe->n, c = r->chw[0], h = r->chw[1], w = r->chw[2];
	float *views = mixed ? r->views : r->slot[slot], *swapped = mixed ? r->slot[slot] : r->views;
	const float *images;
	const int64_t *index;

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
	images = floats(r, n, &index);
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
	const float *images;
	const int64_t *at;

	cuda_enter();
	cuda_send(r->index, index, n * sizeof *index);
	cuda_send(r->dsa, d, n * sizeof *d);
	cuda_wait("the draws");
	images = floats(r, n, &at);
	gpu_dsa(gpu.stream, r->slot[slot], images, at, r->dsa, true, n, r->chw[0], r->chw[1], r->chw[2], r->means);
	cuda_leave();
	return r->slot[slot];
}
