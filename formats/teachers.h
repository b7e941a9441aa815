/* A pool's networks made ready for a given data set: one normalisation, one label order. */
#ifndef TEACHERS_H
#define TEACHERS_H

#include "checkpoint.h"

struct teacher { /* owns everything in it */
	struct checkpoint ck;
	struct net *net;  /* ck.net, behind an affine where the data's normalisation is another one */
	int nlayer;       /* layers that synthesis matches */
	int *layer;       /* their nodes, as net_matched() has them */
};

/* Reads the pool and fits it to images with this header: channels, size and the set of classes must agree (classifier
 * rows are put into the images' label order), else err says which member does not fit and why. *n teachers; NULL: err. */
struct teacher *teachers_read(const char *pool, const struct val *images_header, int *n, char err[ERRLEN]);
/* Whether layer l has running statistics of its own. */
bool teacher_runs(const struct teacher *t, int l);
void teachers_free(struct teacher *t, int n);

#endif
