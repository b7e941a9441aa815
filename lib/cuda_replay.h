/* Recipes replayed on the device: engine.h's replay_new and so on. */
#ifndef CUDA_REPLAY_H
#define CUDA_REPLAY_H

#include "augment.h"
#include "cuda.h"

struct device_replay *cuda_replay_new(const struct dataset *s, int batch, int slots);
void cuda_replay_free(struct device_replay *r);
const float *cuda_replay_run(struct device_replay *r, const struct recipe *recipe, int slot);
const float *cuda_replay_dsa(struct device_replay *r, const int64_t *index, const struct dsa *d, int n, int slot);

#endif
