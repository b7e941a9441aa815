/* Images as a network takes them: in its normalisation, with its labels. Plain data; everything is borrowed. */
#ifndef SOURCE_H
#define SOURCE_H

#include <stdint.h>

struct source {
	int64_t n;
	int chw[3];
	const int64_t *label; /* (n) */
	void (*get)(const void *set, int64_t i, float *out /* (C,H,W) */); /* from any thread */
	const void *set;
};

#endif
