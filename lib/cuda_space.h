/* The libraries' workspace: one block, of which each lane has its part. Shared by lib/cuda_dnn.c and its emulation. */
#ifndef CUDA_SPACE_H
#define CUDA_SPACE_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>

#include "util.h"

struct space {
	int lanes;    /* how many, at least 1 */
	size_t bytes; /* of each lane */
	void **block; /* the last one in use, and older ones that captured graphs hold */
	int nblock;
	bool held;    /* so is the last one */
	size_t lacked; /* bytes that were not to be had */
};

/* At least so much for each lane, or so many lanes: cudaSuccess, or CUDA's error and err. */
cudaError_t space_reserve(struct space *s, size_t bytes, char err[ERRLEN]);
cudaError_t space_lanes(struct space *s, int lanes, char err[ERRLEN]);
/* For work on the stream, which may be a capture. NULL: nothing was reserved. */
void *space_of(struct space *s, int lane, cudaStream_t stream);
void space_free(struct space *s);

#endif
