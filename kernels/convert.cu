/* In and out of the backend's layout: planes of channels against eights of channels; channels picked, arrays added. */
#include "divide.cuh"
#include "gpu.cuh"

enum { THREADS = 256, TILE = 2048, LONGEST = 256 };

/* One transposition does it all: planes (C,per) of an image, which are (C,H,W), (I,kk) of a filter or a flattened map,
 * against pixels (per,CP). A block turns a tile of channels x pixels in shared memory, whose rows have one value more,
 * so that eight channels of a pixel lie in eight banks. */
struct turn {
	int c, cp, per;
	int real;            /* images that have planes: pixels of those behind are 0 */
	int64_t stride;      /* values of an image's planes: c*per, or more that are 0 */
	int channels, pixels; /* of a tile: powers of two, and their logarithms */
	int channel_bits, pixel_bits;
	bool wide;           /* the planes can be read and written by eights */
	divisor across, down; /* tiles along the pixels, along the channels */
};

struct tile {
	uint32_t image;
	int c0, p0, channels, pixels; /* from where on; how many there are, without padding */
};

__device__ static tile tile_of_block(const turn &t)
{
	uint32_t p, c, image = divide(divide(blockIdx.x, t.across, &p), t.down, &c);
	tile a = { image, (int)c << t.channel_bits, (int)p << t.pixel_bits, 0, 0 };

	a.pixels = min(t.pixels, t.per - a.p0);
	a.channels = (int)image < t.real ? max(0, min(t.channels, t.c - a.c0)) : 0;
	return a;
}

/* y (n,per,CP) = x (n,C,per). Reads C*per*sizeof(P) and writes CP*per*sizeof(T) bytes an image. */
template <typename P, typename T> __global__ void to_pixels(T *y, const P *x, turn t)
{
	__shared__ float room[TILE + LONGEST];
	tile a = tile_of_block(t);
	int row = t.pixels + 1, bits = t.wide ? t.pixel_bits - 3 : t.pixel_bits, groups = t.channels / 8;

	x += a.image * t.stride + (int64_t)a.c0 * t.per + a.p0;
	for (int k = threadIdx.x; k < t.channels << bits; k += blockDim.x) {
		int c = k >> bits, q = k & ((1 << bits) - 1);
		if (t.wide && c < a.channels && q * 8 < a.pixels) {
			eight e = load8(x + (int64_t)c * t.per + q * 8);
#pragma unroll
			for (int l = 0; l < 8; l++)
				room[c * row + q * 8 + l] = e.v[l];
		} else if (!t.wide && c < a.channels && q < a.pixels)
			room[c * row + q] = to_float(x[(int64_t)c * t.per + q]);
	}
	__syncthreads();
	y += ((int64_t)a.image * t.per + a.p0) * t.cp + a.c0;
	for (int k = threadIdx.x; k < t.pixels * groups; k += blockDim.x) {
		int q = k >> (t.channel_bits - 3), c = (k & (groups - 1)) * 8;
		eight e;

		if (q >= a.pixels || a.c0 + c >= t.cp)
			continue;
#pragma unroll
		for (int l = 0; l < 8; l++)
			e.v[l] = c + l < a.channels ? room[(c + l) * row + q] : 0;
		store8(y + (int64_t)q * t.cp + c, e);
	}
}

/* y (n,C,per), and zeros up to the stride, = x (n,per,CP). Reads CP*per*sizeof(T) and writes C*per*sizeof(P) bytes an
 * image. */
template <typename P, typename T> __global__ void to_planes(P *y, const T *x, turn t)
{
	__shared__ float room[TILE + LONGEST];
	tile a = tile_of_block(t);
	int row = t.pixels + 1, bits = t.wide ? t.pixel_bits - 3 : t.pixel_bits, groups = t.channels / 8;

	x += ((int64_t)a.image * t.per + a.p0) * t.cp + a.c0;
	for (int k = threadIdx.x; k < t.pixels * groups; k += blockDim.x) {
		int q = k >> (t.channel_bits - 3), c = (k & (groups - 1)) * 8;

		if (q >= a.pixels || a.c0 + c >= t.cp)
			continue;
		eight e = load8(x + (int64_t)q * t.cp + c);
#pragma unroll
		for (int l = 0; l < 8; l++)
			room[(c + l) * row + q] = e.v[l];
	}
	__syncthreads();
	y += a.image * t.stride;
	if (a.c0 == 0 && a.p0 == 0)
		for (int64_t k = (int64_t)t.c * t.per + threadIdx.x; k < t.stride; k += blockDim.x)
			y[k] = from_float<P>(0);
	y += (int64_t)a.c0 * t.per + a.p0;
	for (int k = threadIdx.x; k < t.channels << bits; k += blockDim.x) {
		int c = k >> bits, q = k & ((1 << bits) - 1);
		if (t.wide && c < a.channels && q * 8 < a.pixels) {
			eight e;
#pragma unroll
			for (int l = 0; l < 8; l++)
				e.v[l] = room[c * row + q * 8 + l];
			store8(y + (int64_t)c * t.per + q * 8, e);
		} else if (!t.wide && c < a.channels && q < a.pixels)
			y[(int64_t)c * t.per + q] = from_float<P>(room[c * row + q]);
	}
}

static int bits_of(int x)
{
	int bits = 0;

	while (1 << bits < x)
		bits++;
	return bits;
}

static bool aligned(const void *p)
{
	return (uintptr_t)p % 16 == 0;
}

/* 64 pixels by 32 channels: both sides in runs of 64 bytes and more. Fewer of one, more of the other. */
static turn turn_of(int c, int cp, int per, int real, int64_t stride, const void *planes)
{
	turn t;
	int most = min(bits_of(cp), bits_of(LONGEST));

	t.c = c, t.cp = cp, t.per = per, t.real = real, t.stride = stride;
	t.wide = per % 8 == 0 && stride % 8 == 0 && aligned(planes);
	t.pixel_bits = min(bits_of(per), bits_of(TILE) - min(most, 5));
	t.channel_bits = min(bits_of(TILE) - t.pixel_bits, most);
	t.pixels = 1 << t.pixel_bits;
	t.channels = 1 << t.channel_bits;
	t.across = divide_by((per + t.pixels - 1) / t.pixels);
	t.down = divide_by((cp + t.channels - 1) / t.channels);
	return t;
}

static unsigned turn_blocks(turn t, int n)
{
	return (unsigned)n * t.across.by * t.down.by;
}

void gpu_from_nchw(cudaStream_t s, void *y, const float *x, struct maps m)
{
	int per = m.h * m.w;
	turn t = turn_of(m.c, m.cp, per, m.n, (int64_t)m.c * per, x);

	if (m.type == ELEM_F32)
		LAUNCH((to_pixels<float, float>), turn_blocks(t, m.n), THREADS, s, (float *)y, x, t);
	else
		LAUNCH((to_pixels<float, bf16>), turn_blocks(t, m.n), THREADS, s, (bf16 *)y, x, t);
}

void gpu_to_nchw(cudaStream_t s, float *y, const void *x, struct maps m)
{
	int per = m.h * m.w;
	turn t = turn_of(m.c, m.cp, per, m.n, (int64_t)m.c * per, y);

	if (m.type == ELEM_F32)
		LAUNCH((to_planes<float, float>), turn_blocks(t, m.n), THREADS, s, y, (const float *)x, t);
	else
		LAUNCH((to_planes<float, bf16>), turn_blocks(t, m.n), THREADS, s, y, (const bf16 *)x, t);
}

/* Filters one value at a time, for those of groups, which are few: of (O,I,kk) those of one group's outputs begin at its
 * first input, or at 0 where filters have no others. Both directions. 4 bytes and the element's a value. */
struct grouped {
	int o, i, kk, op, ip;
	int each; /* outputs of a group, 0: none is set apart */
};

static __device__ bool in_group(const grouped &g, int out, int in, int *at)
{
	*at = g.each ? in - out / g.each * g.i : in;
	return out < g.o && *at >= 0 && *at < g.i;
}

template <typename T> static __global__ void spread_filters(T *to, const float *w, grouped g)
{
	size_t count = (size_t)g.op * g.kk * g.ip;

	for GRID_STRIDE(x, count) {
		int in = x % g.ip, t = x / g.ip % g.kk, out = x / g.ip / g.kk, at;
		to[x] = from_float<T>(in_group(g, out, in, &at) ? w[((size_t)out * g.i + at) * g.kk + t] : 0);
	}
}

static __global__ void gather_filters(float *dw, const float *from, grouped g)
{
	size_t count = (size_t)g.o * g.i * g.kk;

	for GRID_STRIDE(x, count) {
		int t = x % g.kk, at = x / g.kk % g.i, out = x / g.kk / g.i, in = g.each ? at + out / g.each * g.i : at;
		dw[x] = from[((size_t)out * g.kk + t) * g.ip + in];
	}
}

static bool as_pixels(int ip, int groups)
{
	return groups == 1 && ip % 8 == 0;
}

static grouped grouped_of(int o, int i, int kk, int op, int ip, int groups)
{
	grouped g = { o, i, kk, op, ip, groups > 1 ? o / groups : 0 };

	return g;
}

void gpu_filters(cudaStream_t s, void *to, enum elem type, const float *w, int o, int i, int kk, int op, int ip, int groups)
{
	turn t = turn_of(i, ip, kk, o, (int64_t)i * kk, w);
	grouped g = grouped_of(o, i, kk, op, ip, groups);
	int blocks = blocks_for((size_t)op * kk * ip, THREADS);

	if (as_pixels(ip, groups) && type == ELEM_F32)
		LAUNCH((to_pixels<float, float>), turn_blocks(t, op), THREADS, s, (float *)to, w, t);
	else if (as_pixels(ip, groups))
		LAUNCH((to_pixels<float, bf16>), turn_blocks(t, op), THREADS, s, (bf16 *)to, w, t);
	else if (type == ELEM_F32)
		LAUNCH((spread_filters<float>), blocks, THREADS, s, (float *)to, w, g);
	else
		LAUNCH((spread_filters<bf16>), blocks, THREADS, s, (bf16 *)to, w, g);
}

void gpu_filters_back(cudaStream_t s, float *dw, const float *from, int o, int i, int kk, int op, int ip, int groups)
{
	turn t = turn_of(i, ip, kk, o, (int64_t)i * kk, dw);

	if (as_pixels(ip, groups)) /* the filters beyond O are not read */
		LAUNCH((to_planes<float, float>), turn_blocks(t, o), THREADS, s, dw, from, t);
	else
		LAUNCH(gather_filters, blocks_for((size_t)o * i * kk, THREADS), THREADS, s, dw, from,
		    grouped_of(o, i, kk, op, ip, groups));
}

static turn turn_flat(struct maps m, const void *flat)
{
	int64_t values = (int64_t)m.c * m.h * m.w;

	return turn_of(m.c, m.cp, m.h * m.w, m.n, (values + 7) / 8 * 8, flat);
}

void gpu_flatten(cudaStream_t s, void *y, const void *x, struct maps m)
{
	turn t = turn_flat(m, y);

	if (m.type == ELEM_F32)
		LAUNCH((to_planes<float, float>), turn_blocks(t, m.n), THREADS, s, (float *)y, (const float *)x, t);
	else
		LAUNCH((to_planes<bf16, bf16>), turn_blocks(t, m.n), THREADS, s, (bf16 *)y, (const bf16 *)x, t);
}

void gpu_flatten_back(cudaStream_t s, void *dx, const void *dy, struct maps m)
{
	turn t = turn_flat(m, dy);

	if (m.type == ELEM_F32)
		LAUNCH((to_pixels<float, float>), turn_blocks(t, m.n), THREADS, s, (float *)dx, (const float *)dy, t);
	else
		LAUNCH((to_pixels<bf16, bf16>), turn_blocks(t, m.n), THREADS, s, (bf16 *)dx, (const bf16 *)dy, t);
}

/* Eight channels of a pixel a thread, by one read where they lie side by side in their source, else by eight that the
 * cache serves. Reads what is picked, by sectors of 32 bytes, and writes CP values a pixel. */
template <typename T>
__global__ void move_channels(void *yv, const int *which, const void *av, int ca, const void *bv, int cb, size_t eights,
    divisor groups)
{
	T *y = (T *)yv;
	const T *a = (const T *)av, *b = (const T *)bv;
	int cap = (ca + 7) / 8 * 8, cbp = (cb + 7) / 8 * 8;

	for GRID_STRIDE(i, eights) {
		uint32_t g, pixel = divide((uint32_t)i, groups, &g);
		int4 lo = reinterpret_cast<const int4 *>(which)[2 * g], hi = reinterpret_cast<const int4 *>(which)[2 * g + 1];
		int w[8] = { lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w };
		const T *pa = a + (int64_t)pixel * cap, *pb = b + (int64_t)pixel * cbp;
		const T *first = w[0] < ca ? pa + w[0] : pb + (w[0] - ca);
		bool whole = w[0] >= 0 && (w[0] < ca ? w[0] % 8 == 0 && w[7] < ca : (w[0] - ca) % 8 == 0);
		eight e;

#pragma unroll
		for (int l = 1; l < 8; l++)
			whole = whole && w[l] == w[0] + l;
		if (whole)
			e = load8(first);
		else {
#pragma unroll
			for (int l = 0; l < 8; l++)
				e.v[l] = w[l] < 0 ? 0 : to_float(w[l] < ca ? pa[w[l]] : pb[w[l] - ca]);
		}
		store8(y + i * 8, e);
	}
}

void gpu_channels(cudaStream_t s, void *y, const int *which, const void *a, int ca, const void *b, int cb,
    struct maps m)
{
	size_t eights = (size_t)m.n * m.h * m.w * (m.cp / 8);

	LAUNCH_AS(m.type, move_channels, blocks_for(eights, THREADS), THREADS, s, y, which, a, ca, b, cb, eights,
	    divide_by(m.cp / 8));
}

/* y (count) += x. Reads 8 and writes 4 bytes a value; by words of 16 where both are aligned. */
__global__ void add_floats(float *y, const float *x, size_t count, bool wide)
{
	size_t words = wide ? count / 4 : 0;

	for GRID_STRIDE(i, words) {
		float4 a = reinterpret_cast<const float4 *>(y)[i], b = reinterpret_cast<const float4 *>(x)[i];
		reinterpret_cast<float4 *>(y)[i] = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
	}
	for GRID_STRIDE(i, count - 4 * words)
		y[4 * words + i] += x[4 * words + i];
}

void gpu_add(cudaStream_t s, float *y, const float *x, size_t count)
{
	bool wide = aligned(y) && aligned(x);

	LAUNCH(add_floats, blocks_for(wide ? count / 4 + 1 : count, THREADS), THREADS, s, y, x, count, wide);
}

cudaError_t gpu_kernels_fit(void)
{
	struct cudaFuncAttributes any;

	return cudaFuncGetAttributes(&any, add_floats);
}
