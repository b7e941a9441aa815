#include "cuda_space.h"

#include <stdlib.h>

enum { LANE_ALIGN = 256 };

cudaError_t space_reserve(struct space *s, size_t bytes, char err[ERRLEN])
{
	cudaError_t e = cudaSuccess;
	void *p;

	if (bytes <= s->bytes)
		return e;
	bytes = (bytes + LANE_ALIGN - 1) / LANE_ALIGN * LANE_ALIGN;
	if (s->nblock && !s->held && !(e = cudaDeviceSynchronize())) /* lanes may use it */
		e = cudaFree(s->block[--s->nblock]);
	s->bytes = 0;
	if (e || (e = cudaMalloc(&p, bytes * s->lanes))) {
		cudaGetLastError();
		s->lacked = bytes * s->lanes;
		fail(err, "%zu bytes of workspace: %s", bytes * s->lanes, cudaGetErrorString(e));
		return e;
	}
	s->block = erealloc(s->block, s->nblock + 1, sizeof *s->block);
	s->block[s->nblock++] = p;
	s->bytes = bytes;
	s->held = false;
	return e;
}

cudaError_t space_lanes(struct space *s, int lanes, char err[ERRLEN])
{
	size_t bytes = s->bytes;

	if (lanes <= s->lanes)
		return cudaSuccess;
	s->lanes = lanes;
	s->bytes = 0;
	return bytes ? space_reserve(s, bytes, err) : cudaSuccess;
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
