/* Pools: a thread takes eight channels of a pixel, of the output forwards, of the input backwards, where it gathers
 * from every window that its pixel lies in. */
#include <math.h>

#include "divide.cuh"
#include "gpu.cuh"
#include "reduce.cuh"

enum { THREADS = 256 };

struct pool {
	int h, w, oh, ow, k, stride, pad;
	float share;            /* of a pixel in the mean */
	uint32_t eights;        /* of what the threads go over: pixels `across` and `down`, groups of eight channels */
	divisor groups, across, down;
	divisor by_stride, by_k, by_h, by_w;
};

struct place {
	uint32_t g;
	int image, y, x;
};

__device__ static place place_of(uint32_t i, const pool &p)
{
	uint32_t x, y;
	place a;

	i = divide(divide(divide(i, p.groups, &a.g), p.across, &x), p.down, &y);
	a.image = i, a.y = y, a.x = x;
	return a;
}

__device__ static void add(eight &sum, const eight &e)
{
#pragma unroll
	for (int l = 0; l < 8; l++)
		sum.v[l] += e.v[l];
}

__device__ static void times(eight &sum, float by)
{
#pragma unroll
	for (int l = 0; l < 8; l++)
		sum.v[l] *= by;
}

/* Where the eight of a map of h x w begins. */
__device__ static size_t eight_at(const place &a, const pool &p, int y, int x, int h, int w)
{
	return ((((size_t)a.image * h + y) * w + x) * p.groups.by + a.g) * 8;
}

static pool pool_of(struct maps m, int k, int stride, int pad, bool back)
{
	pool p;

	p.h = m.h, p.w = m.w, p.k = k, p.stride = stride, p.pad = pad;
	p.oh = (m.h + 2 * pad - k) / stride + 1;
	p.ow = (m.w + 2 * pad - k) / stride + 1;
	p.share = 1.0f / (k * k);
	p.groups = divide_by(m.cp / 8);
	p.across = divide_by(back ? p.w : p.ow);
	p.down = divide_by(back ? p.h : p.oh);
	p.eights = (uint32_t)m.n * p.down.by * p.across.by * p.groups.by;
	p.by_stride = divide_by(stride);
	p.by_k = divide_by(k);
	p.by_h = divide_by(m.h);
	p.by_w = divide_by(m.w);
	return p;
}

static pool adaptive_of(struct maps m, int k, bool back)
{
	pool p = pool_of(m, 1, 1, 0, back);

	p.oh = p.ow = p.k = k;
	p.by_k = divide_by(k);
	if (!back) {
		p.across = p.down = p.by_k;
		p.eights = (uint32_t)m.n * k * k * p.groups.by;
	}
	return p;
}

/* The windows that a row or column lies in: first to last. */
struct windows {
	int first, last;
};

__device__ static windows windows_over(int at, const pool &p, int outputs)
{
	int padded = at + p.pad, before = padded - p.k + p.stride; /* by a stride more, for rounding up */
	windows o;

	o.first = before < 0 ? 0 : (int)quotient(before, p.by_stride);
	o.last = min((int)quotient(padded, p.by_stride), outputs - 1);
	return o;
}

/* y, and choice: which place of its window won. K: the window's side where it is known to the compiler, else 0. Reads
 * every input once, as caches serve windows that overlap, and writes sizeof(T) + 1 bytes an output. */
template <typename T, int K> __global__ void max_pool(T *y, uint8_t *choice, const T *x, pool p)
{
	int k = K ? K : p.k;

	for GRID_STRIDE(i, p.eights) {
		place a = place_of((uint32_t)i, p);
		int top = a.y * p.stride - p.pad, left = a.x * p.stride - p.pad;
		uint64_t won = ~(uint64_t)0;
		bool none = true;
		eight best;

#pragma unroll
		for (int l = 0; l < 8; l++)
			best.v[l] = -INFINITY;
#pragma unroll
		for (int dr = 0; dr < k; dr++)
#pragma unroll
			for (int dc = 0; dc < k; dc++) {
				if ((unsigned)(top + dr) >= (unsigned)p.h || (unsigned)(left + dc) >= (unsigned)p.w)
					continue;
				eight e = load8(x + eight_at(a, p, top + dr, left + dc, p.h, p.w));
#pragma unroll
				for (int l = 0; l < 8; l++)
					if (none || e.v[l] > best.v[l] || e.v[l] != e.v[l]) {
						best.v[l] = e.v[l];
						won = (won & ~((uint64_t)255 << 8 * l)) | (uint64_t)(dr * k + dc) << 8 * l;
					}
				none = false;
			}
		store8(y + i * 8, best);
		if (choice)
			*reinterpret_cast<uint64_t *>(choice + i * 8) = won;
	}
}

/* Reads sizeof(T) + 1 bytes an output, writes the input's size. */
template <typename T> __global__ void max_pool_back(void *dxv, const void *dyv, const uint8_t *choice, pool p)
{
	T *dx = (T *)dxv;
	const T *dy = (const T *)dyv;

	for GRID_STRIDE(i, p.eights) {
		place a = place_of((uint32_t)i, p);
		windows down = windows_over(a.y, p, p.oh), across = windows_over(a.x, p, p.ow);
		eight sum = no_eight();

		for (int r = down.first; r <= down.last; r++)
			for (int t = across.first; t <= across.last; t++) {
				unsigned me = (a.y + p.pad - r * p.stride) * p.k + a.x + p.pad - t * p.stride;
				size_t at = eight_at(a, p, r, t, p.oh, p.ow);
				uint64_t won = *reinterpret_cast<const uint64_t *>(choice + at);
				eight e = load8(dy + at);
#pragma unroll
				for (int l = 0; l < 8; l++)
					sum.v[l] += (unsigned)(won >> 8 * l & 255) == me ? e.v[l] : 0;
			}
		store8(dx + i * 8, sum);
	}
}

/* Reads every input and writes every output once. */
template <typename T, int K> __global__ void avg_pool(T *y, const T *x, pool p)
{
	int k = K ? K : p.k;

	for GRID_STRIDE(i, p.eights) {
		place a = place_of((uint32_t)i, p);
		eight sum = no_eight();

#pragma unroll
		for (int dr = 0; dr < k; dr++)
#pragma unroll
			for (int dc = 0; dc < k; dc++)
				add(sum, load8(x + eight_at(a, p, a.y * p.stride + dr, a.x * p.stride + dc, p.h, p.w)));
		times(sum, p.share);
		store8(y + i * 8, sum);
	}
}

template <typename T> __global__ void avg_pool_back(void *dxv, const void *dyv, pool p)
{
	T *dx = (T *)dxv;
	const T *dy = (const T *)dyv;

	for GRID_STRIDE(i, p.eights) {
		place a = place_of((uint32_t)i, p);
		windows down = windows_over(a.y, p, p.oh), across = windows_over(a.x, p, p.ow);
		eight sum = no_eight();

		for (int r = down.first; r <= down.last; r++)
			for (int t = across.first; t <= across.last; t++)
				add(sum, load8(dy + eight_at(a, p, r, t, p.oh, p.ow)));
		times(sum, p.share);
		store8(dx + i * 8, sum);
	}
}

__device__ static int adapt_begin(int o, int side, const pool &p)
{
	return (int)quotient((uint32_t)o * side, p.by_k);
}

__device__ static int adapt_end(int o, int side, const pool &p)
{
	return (int)quotient((uint32_t)(o + 1) * side + p.k - 1, p.by_k);
}

/* More than one window. Reads every input, some twice, and writes every output once. */
template <typename T> __global__ void adapt_pool(void *yv, const void *xv, pool p)
{
	T *y = (T *)yv;
	const T *x = (const T *)xv;

	for GRID_STRIDE(i, p.eights) {
		place a = place_of((uint32_t)i, p);
		int y0 = adapt_begin(a.y, p.h, p), y1 = adapt_end(a.y, p.h, p);
		int x0 = adapt_begin(a.x, p.w, p), x1 = adapt_end(a.x, p.w, p);
		float share = 1.0f / ((y1 - y0) * (x1 - x0));
		eight sum = no_eight();

		for (int yy = y0; yy < y1; yy++)
			for (int xx = x0; xx < x1; xx++)
				add(sum, load8(x + eight_at(a, p, yy, xx, p.h, p.w)));
		times(sum, share);
		store8(y + i * 8, sum);
	}
}

/* Pixel y lies in windows [y*k/side, ((y+1)*k - 1)/side]. Reads every output, some again from the cache, and writes
 * every input once. */
template <typename T> __global__ void adapt_pool_back(void *dxv, const void *dyv, pool p)
{
	T *dx = (T *)dxv;
	const T *dy = (const T *)dyv;

	for GRID_STRIDE(i, p.eights) {
		place a = place_of((uint32_t)i, p);
		int r1 = quotient((uint32_t)(a.y + 1) * p.k - 1, p.by_h), t0 = quotient((uint32_t)a.x * p.k, p.by_w);
		int t1 = quotient((uint32_t)(a.x + 1) * p.k - 1, p.by_w);
		eight sum = no_eight();

		for (int r = quotient((uint32_t)a.y * p.k, p.by_h); r <= r1; r++)
			for (int t = t0; t <= t1; t++) {
				int down = adapt_end(r, p.h, p) - adapt_begin(r, p.h, p);
				int across = adapt_end(t, p.w, p) - adapt_begin(t, p.w, p);
				float share = 1.0f / (down * across);
				eight e = load8(dy + eight_at(a, p, r, t, p.k, p.k));
#pragma unroll
				for (int l = 0; l < 8; l++)
					sum.v[l] += e.v[l] * share;
			}
		store8(dx + i * 8, sum);
	}
}

/* y (n,CP) = the mean over pixels. Reads sizeof(T) bytes a value. */
template <typename T> __global__ void mean_pool(void *yv, const void *xv, reduction r)
{
	__shared__ float room[8 * LANES];
	T *y = (T *)yv;
	const T *x = (const T *)xv;
	lane a = lane_of_thread(r);
	eight sum = no_eight();

#pragma unroll 4
	for (int p = a.pixel; a.some && p < r.per; p += a.step)
		add(sum, load8(x + a.first + (int64_t)p * r.groups * 8));
	sum = fold(room, sum, r.chunk);
	if (a.some && a.pixel == 0) {
#pragma unroll
		for (int l = 0; l < 8; l++)
			sum.v[l] /= r.per;
		store8(y + a.out, sum);
	}
}

template <typename T> static void max_forward(cudaStream_t s, void *yv, uint8_t *choice, const void *xv, pool p)
{
	T *y = (T *)yv;
	const T *x = (const T *)xv;
	int blocks = blocks_for(p.eights, THREADS);

	if (p.k == 3)
		LAUNCH((max_pool<T, 3>), blocks, THREADS, s, y, choice, x, p);
	else if (p.k == 2)
		LAUNCH((max_pool<T, 2>), blocks, THREADS, s, y, choice, x, p);
	else
		LAUNCH((max_pool<T, 0>), blocks, THREADS, s, y, choice, x, p);
}

template <typename T> static void avg_forward(cudaStream_t s, void *yv, const void *xv, pool p)
{
	T *y = (T *)yv;
	const T *x = (const T *)xv;
	int blocks = blocks_for(p.eights, THREADS);

	if (p.k == 2)
		LAUNCH((avg_pool<T, 2>), blocks, THREADS, s, y, x, p);
	else
		LAUNCH((avg_pool<T, 0>), blocks, THREADS, s, y, x, p);
}

void gpu_maxpool(cudaStream_t s, void *y, uint8_t *choice, const void *x, struct maps m, int k, int stride, int pad)
{
	pool p = pool_of(m, k, stride, pad, false);

	if (m.type == ELEM_F32)
		max_forward<float>(s, y, choice, x, p);
	else
		max_forward<bf16>(s, y, choice, x, p);
}

void gpu_maxpool_back(cudaStream_t s, void *dx, const void *dy, const uint8_t *choice, struct maps m, int k, int stride,
    int pad)
{
	pool p = pool_of(m, k, stride, pad, true);

	LAUNCH_AS(m.type, max_pool_back, blocks_for(p.eights, THREADS), THREADS, s, dx, dy, choice, p);
}

void gpu_avgpool(cudaStream_t s, void *y, const void *x, struct maps m, int k, int stride)
{
	pool p = pool_of(m, k, stride, 0, false);

	if (m.type == ELEM_F32)
		avg_forward<float>(s, y, x, p);
	else
		avg_forward<bf16>(s, y, x, p);
}

void gpu_avgpool_back(cudaStream_t s, void *dx, const void *dy, struct maps m, int k, int stride)
{
	pool p = pool_of(m, k, stride, 0, true);

	LAUNCH_AS(m.type, avg_pool_back, blocks_for(p.eights, THREADS), THREADS, s, dx, dy, p);
}

void gpu_adaptpool(cudaStream_t s, void *y, const void *x, struct maps m, int k)
{
	pool p = adaptive_of(m, k, false);
	reduction r = reduction_of(m);

	if (k == 1)
		LAUNCH_AS(m.type, mean_pool, m.n * r.parts.by, LANES, s, y, x, r);
	else
		LAUNCH_AS(m.type, adapt_pool, blocks_for(p.eights, THREADS), THREADS, s, y, x, p);
}

void gpu_adaptpool_back(cudaStream_t s, void *dx, const void *dy, struct maps m, int k)
{
	pool p = adaptive_of(m, k, true);

	LAUNCH_AS(m.type, adapt_pool_back, blocks_for(p.eights, THREADS), THREADS, s, dx, dy, p);
}
