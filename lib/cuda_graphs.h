/* Synthesis on the device: its graphs, one of an iteration of so many images by one set of teachers. */
#ifndef CUDA_GRAPHS_H
#define CUDA_GRAPHS_H

#include "../kernels/gpu.h"
#include "cuda.h"

enum { GRAPHS = 256 }; /* four of ten teachers, the paper's most, are 210 sets */

struct recorded {
	int n, classes, npick, pick[GPU_TEACHERS]; /* classes: 0 where teachers have their own statistics */
	cudaGraphExec_t graph; /* NULL: seen once */
};

struct graphs { /* {0} has none */
	struct recorded of[GRAPHS];
	int n;
	bool full; /* no room for another one */
};

struct recorded *graphs_find(struct graphs *g, const int *pick, int npick, int n, int classes);
/* Room for what was not seen before; none is made where so many take turns that it would not be seen again soon. */
void graphs_remember(struct graphs *g, const int *pick, int npick, int n, int classes);
void graphs_forget(struct graphs *g);

#endif
