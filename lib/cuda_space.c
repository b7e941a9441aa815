#include "cuda_space.h"

#include <stdlib.h>

enum { LANE_ALIGN = 256 };

int space_reserve(struct space *s, size_t bytes, char err[ERRLEN])
{
	void *p;

	if (bytes <= s->bytes)
		return 0;
	bytes = (bytes + LANE_ALIGN - 1) / LANE_ALIGN * LANE_ALIGN;
	if (s->nblock && !s->held)
		cudaFree(s->block[--s->nblock]); /* waits for what uses it */
	s->bytes = 0;
	if (cudaMalloc(&p, bytes * s->lanes) != cudaSuccess)
		return fail(err, "%zu bytes of workspace: %s", bytes * s->lanes, cudaGetErrorString(cudaGetLastError()));
	s->block = erealloc(s->block, s->nblock + 1, sizeof *s->block);
	s->block[s->nblock++] = p;
	s->bytes = bytes;
	s->held = false;
	return 0;
}

int space_lanes(struct space *s, int lanes, char err[ERRLEN])
{
	size_t bytes = s->bytes;

	if (lanes <= s->lanes)
		return 0;
	s->lanes = lanes;
	s->bytes = 0;
	return bytes ? space_reserve(s, bytes, err) : 0;
}

void *space_of(struct space *s, int lane, cudaStream_t stream)
{
	enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;

	if (!s->bytes)
		return NULL;
	cudaStreamIsCapturing(stream, &capture);
	s->held |= capture != cudaStreamCaptureStatusNone;
	return (char *)s->block[s->nblock - 1] + lane * s->bytes;
}

void space_free(struct space *s)
{
	for (int i = 0; i < s->nblock; i++)
		cudaFree(s->block[i]);
	free(s->block);
	*s = (struct space){ 0 };
}
