/* Images as a network takes them: in its normalisation, with its labels. Plain data; everything is borrowed. */
#ifndef DATASET_H
#define DATASET_H

#include <stdint.h>

struct dataset {
	int64_t n;
	int chw[3];
	const int64_t *label; /* (n) */
	void (*get)(const void *set, int64_t i, float *out /* (C,H,W) */); /* from any thread */
	const void *set;
	/* Where the set is whole in memory, (N,C,H,W), one of: bytes, of which get makes (byte/255 - mean[c])/std[c]; what get
	 * gives as it is. */
	const uint8_t *u8;
	const float *f32;
	const float *mean, *std; /* (C) */
};

/* Image i: where it lies, or in room (C,H,W). */
static inline const float *dataset_image(const struct dataset *s, int64_t i, float *room)
{
	if (s->f32)
		return s->f32 + i * s->chw[0] * s->chw[1] * s->chw[2];
	s->get(s->set, i, room);
	return room;
}

#endif
