/* Whole steps of training on the device: engine.h's course_new and so on. */
#ifndef CUDA_COURSE_H
#define CUDA_COURSE_H

#include "cuda.h"
#include "optim.h"
#include "dataset.h"

struct device_course *cuda_course_new(struct plan *p, const struct dataset *s);
void cuda_course_free(struct device_course *c);
int cuda_course_run(struct device_course *c, struct device_learner *d, struct optim *o, const struct course_step *step,
    int steps, double momentum, double *loss);

#endif
