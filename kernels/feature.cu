/* What happens to feature maps between convolutions: statistics, normalisation, residual, ReLU, pooling, and back.
 *
 * All of it is bound by memory. A block has one image, a tile of at most 16 groups of eight channels and a run of
 * pixels: a thread keeps its group, and with it the coefficients in registers, and goes down the pixels, so that a warp
 * reads whole pixels side by side. Where coefficients are the same for all images, these count as one long image.
 */
#include "gpu.cuh"

enum {
	BLOCK = 256,
	WIDE = 16,    /* groups of eight channels in a tile, at most: 256 bytes of bf16 */
	ENOUGH = 2048 /* blocks that keep the largest card busy to the end */
};

/* How maps are cut up. A unit is a pixel, or a 2x2 window. */
struct tiling {
	int images, units;       /* units in an image */
	int groups, tiles, wide; /* wide: groups in a tile */
	int rows;                /* units that a block does at a time */
	int run, splits;         /* units of one thread; blocks that share an image */
};

static struct tiling cut(int images, int units, int cp, int most, int least)
{
	struct tiling t = { images, units, cp / 8, 0, 0, 0, 0, 0 };

	t.tiles = (t.groups + WIDE - 1) / WIDE;
	t.wide = (t.groups + t.tiles - 1) / t.tiles;
	t.wide += t.tiles > 1 && t.wide % 2; /* a tile ends where 32 bytes end */
	t.rows = BLOCK / t.wide;
	int steps = (units + t.rows - 1) / t.rows;
	for (t.run = most; t.run > least && (int64_t)images * t.tiles * ((steps + t.run - 1) / t.run) < ENOUGH;)
		t.run /= 2;
	t.splits = (steps + t.run - 1) / t.run;
	t.run = (steps + t.splits - 1) / t.splits;
	if (t.run > 4) /* in whole batches */
		t.run = (t.run + 3) / 4 * 4;
	t.splits = (steps + t.run - 1) / t.run;
	return t;
}

static unsigned blocks(struct tiling t)
{
	return (unsigned)t.images * t.splits * t.tiles;
}

/* Where a thread stands. */
struct spot {
	int image, split, group;
	int first, u, end; /* units: the block's first, the thread's first, the block's end; u = end: none */
};

__device__ static inline spot spot_of(const tiling &t)
{
	int b = blockIdx.x, row = threadIdx.x / t.wide;
	spot s;

	s.group = b % t.tiles * t.wide + threadIdx.x % t.wide;
	b /= t.tiles;
	s.split = b % t.splits;
	s.image = b / t.splits;
	s.first = s.split * t.run * t.rows;
	s.end = min(s.first + t.run * t.rows, t.units);
	s.u = row < t.rows && s.group < t.groups ? min(s.first + row, s.end) : s.end;
	return s;
}

__device__ static inline eight coef8(const coef &k, const spot &s)
{
	return load8(k.v + s.image * k.stride + s.group * 8);
}

/* Sums by image and channel.
 *
 * FORWARD: s1 = sum of x - r, s2 = of (x - r)^2, moved to ref in double: with d = r - ref and m values
 *     sum(x - ref) = s1 + m*d,  sum((x - ref)^2) = s2 + 2*d*s1 + m*d^2.
 * r is the block's first pixel: squares of floats far from zero leave nothing of a small deviation. BACK: s1 = sum of
 * x, s2 = of x*(y - ref). PLAIN: s1 = sum of x. A thread's run is float, everything above it double, in one order.
 * Traffic: x once (BACK: and y), 2 or 4 bytes a value; written are 16 bytes a channel and block. */
enum sums_of { FORWARD, BACK, PLAIN };

/* The threads' floats s are added up in double: folded[8*value + channel] has at most 16 columns of sums, each of
 * group column % wide. */
enum { COLUMNS = BLOCK + 16 }; /* so that the halves of a warp meet different banks */
template <int values> __device__ static inline void fold_block(double folded[values * 8][WIDE],
    float part[values * 8][COLUMNS], const eight *s, const tiling &t)
{
	int across = WIDE / t.wide * t.wide, k = threadIdx.x / across, lane = threadIdx.x % across;

	for (int j = 0; j < values * 8; j++)
		part[j][threadIdx.x] = s[j / 8].v[j % 8];
	__syncthreads();
	if (k < values * 8) {
		double sum = 0;
		#pragma unroll 4
		for (int i = lane; i < t.rows * t.wide; i += across)
			sum += part[k][i];
		folded[k][lane] = sum;
	}
	__syncthreads();
}

/* One group of a pixel on top of a thread's sums s. */
template <enum sums_of what> __device__ static inline void add_to(eight *s, const eight &x, const eight &y,
    const eight &ref)
{
	#pragma unroll
	for (int j = 0; j < 8; j++) {
		float d = what == FORWARD ? x.v[j] - ref.v[j] : x.v[j];
		s[0].v[j] += d;
		if (what != PLAIN)
			s[1].v[j] += d * (what == BACK ? y.v[j] - ref.v[j] : d);
	}
}

template <typename T, enum sums_of what> static __global__ void __launch_bounds__(BLOCK, 3) sums(double *sum,
    double *sumsq, const T *x, const T *y, coef ref, int c, tiling t)
{
	const int values = what == PLAIN ? 1 : 2, batch = (what == BACK ? 4 : 8) / sizeof(T);
	__shared__ float part[values * 8][COLUMNS];
	__shared__ double folded[values * 8][WIDE];
	spot at = spot_of(t);
	size_t base = (size_t)at.image * t.units, step = (size_t)t.rows * t.groups * 8;
	size_t i = ((base + at.u) * t.groups + at.group) * 8;
	eight s[2], r, v[batch], w[batch];
	int u = at.u;

	for (int j = 0; j < 8; j++)
		s[0].v[j] = s[1].v[j] = r.v[j] = w[0].v[j] = 0;
	if (u < at.end && what != PLAIN)
		r = what == BACK ? coef8(ref, at) : load8(x + ((base + at.first) * t.groups + at.group) * 8);
	for (; u + (batch - 1) * t.rows < at.end; u += batch * t.rows, i += batch * step) {
		#pragma unroll
		for (int k = 0; k < batch; k++) {
			v[k] = load8(x + i + k * step);
			w[k] = what == BACK ? load8(y + i + k * step) : w[0];
		}
		#pragma unroll
		for (int k = 0; k < batch; k++)
			add_to<what>(s, v[k], w[k], r);
	}
	#pragma unroll 1
	for (; u < at.end; u += t.rows, i += step)
		add_to<what>(s, load8(x + i), what == BACK ? load8(y + i) : w[0], r);
	fold_block<values>(folded, part, s, t);
	int lane = threadIdx.x / 8, j = threadIdx.x % 8, channel = (blockIdx.x % t.tiles * t.wide + lane) * 8 + j;
	if (lane < t.wide && channel < c) {
		size_t out = ((size_t)at.split * t.images + at.image) * c + channel;
		double s1 = 0, s2 = 0;
		for (int i = lane; i < WIDE / t.wide * t.wide; i += t.wide) {
			s1 += folded[j][i];
			if (what != PLAIN)
				s2 += folded[(values - 1) * 8 + j][i];
		}
		if (what == FORWARD) {
			double d = (double)to_float(x[(base + at.first) * t.groups * 8 + channel]) - ref.v[channel];
			double m = at.end - at.first;
			s2 += 2 * d * s1 + m * d * d;
			s1 += m * d;
		}
		sum[out] = s1;
		if (what != PLAIN)
			sumsq[out] = s2;
	}
}

/* out[y][j] = sum of part[y][i][j] over i < count, for j < width. Traffic: 8 bytes a partial sum. */
enum { FOLD_ROWS = 16 };
template <typename T> static __global__ void __launch_bounds__(32 * FOLD_ROWS) fold_sums(T *out0, T *out1,
    const double *part, int count, size_t width)
{
	__shared__ double room[FOLD_ROWS][32];
	int lane = threadIdx.x % 32, row = threadIdx.x / 32;
	size_t j = (size_t)blockIdx.x * 32 + lane;
	double sum = 0;

	part += blockIdx.y * width * count;
	if (j < width)
		#pragma unroll 4
		for (int i = row; i < count; i += FOLD_ROWS)
			sum += part[i * width + j];
	room[row][lane] = sum;
	__syncthreads();
	if (row == 0 && j < width) {
		for (int i = 1; i < FOLD_ROWS; i++)
			sum += room[i][lane];
		(blockIdx.y ? out1 : out0)[j] = sum;
	}
}

static struct tiling cut_sums(int images, int pixels, int cp)
{
	return cut(images, pixels, cp, 32, 8);
}

/* Fewer images may be cut into more pieces altogether, so each number up to m.n is asked. */
size_t gpu_sums_scratch(struct maps m)
{
	size_t most = 0;

	for (int n = 1; n <= m.n; n++) {
		struct tiling each = cut_sums(n, m.h * m.w, m.cp), all = cut_sums(1, n * m.h * m.w, m.cp);
		size_t a = each.splits > 1 ? (size_t)each.splits * n * 2 : 0, b = all.splits;

		most = a > most ? a : most;
		most = b > most ? b : most;
	}
	return most * m.c * sizeof(double);
}

template <typename T, enum sums_of what> static void sums_by_image(cudaStream_t s, double *sum, double *sumsq,
    const T *x, const T *y, struct coef ref, struct maps m, double *scratch)
{
	struct tiling t = cut_sums(m.n, m.h * m.w, m.cp);
	size_t width = (size_t)m.n * m.c, count = width * t.splits;

	if (t.splits == 1) {
		LAUNCH((sums<T, what>), blocks(t), BLOCK, s, sum, sumsq, x, y, ref, m.c, t);
		return;
	}
	LAUNCH((sums<T, what>), blocks(t), BLOCK, s, scratch, scratch + count, x, y, ref, m.c, t);
	LAUNCH((fold_sums<double>), dim3((width + 31) / 32, 2), 32 * FOLD_ROWS, s, sum, sumsq, scratch, t.splits, width);
}

void gpu_sums(cudaStream_t s, double *sum, double *sumsq, const void *x, const float *ref, struct maps m, void *scratch)
{
	struct coef about = { ref, 0 };

	if (m.type == ELEM_F32)
		sums_by_image<float, FORWARD>(s, sum, sumsq, (const float *)x, NULL, about, m, (double *)scratch);
	else
		sums_by_image<bf16, FORWARD>(s, sum, sumsq, (const bf16 *)x, NULL, about, m, (double *)scratch);
}

void gpu_sums_back(cudaStream_t s, double *sdz, double *sdzx, const void *dz, const void *x, struct coef center,
    struct maps m, void *scratch)
{
	if (m.type == ELEM_F32)
		sums_by_image<float, BACK>(s, sdz, sdzx, (const float *)dz, (const float *)x, center, m, (double *)scratch);
	else
		sums_by_image<bf16, BACK>(s, sdz, sdzx, (const bf16 *)dz, (const bf16 *)x, center, m, (double *)scratch);
}

template <typename T> static void channel_sums(cudaStream_t s, float *out, const T *x, struct maps m, double *scratch)
{
	struct tiling t = cut_sums(1, m.n * m.h * m.w, m.cp);
	struct coef none = { NULL, 0 };

	LAUNCH((sums<T, PLAIN>), blocks(t), BLOCK, s, scratch, nullptr, x, nullptr, none, m.c, t);
	LAUNCH((fold_sums<float>), (m.c + 31) / 32, 32 * FOLD_ROWS, s, out, nullptr, scratch, t.splits, (size_t)m.c);
}

void gpu_channel_sums(cudaStream_t s, float *out, const void *x, struct maps m, void *scratch)
{
	if (m.type == ELEM_F32)
		channel_sums(s, out, (const float *)x, m, (double *)scratch);
	else
		channel_sums(s, out, (const bf16 *)x, m, (double *)scratch);
}

__device__ static inline eight plus(eight x, const eight &y)
{
	#pragma unroll
	for (int j = 0; j < 8; j++)
		x.v[j] += y.v[j];
	return x;
}

__device__ static inline eight times(eight x, float y)
{
	#pragma unroll
	for (int j = 0; j < 8; j++)
		x.v[j] *= y;
	return x;
}

/* v = x*scale + shift + res, max(v, 0) with relu, where a NaN stays one so that a diverged run is seen. Returns the
 * bits of v > 0. */
template <bool has_res> __device__ static inline uint8_t activate(eight *v, const eight &scale, const eight &shift,
    const eight &res, bool relu)
{
	unsigned bits = 0;

	#pragma unroll
	for (int j = 0; j < 8; j++) {
		float f = v->v[j] * scale.v[j] + shift.v[j];
		if (has_res)
			f += res.v[j];
		bits |= (unsigned)(f > 0) << j;
		v->v[j] = relu && f <= 0 ? 0 : f;
	}
	return bits;
}

/* `batch` groups from group i on: all are read before any is written. */
template <typename T, bool has_res, int batch> __device__ static inline void activate_at(T *y, uint8_t *mask,
    const T *x, const T *res, const eight &scale, const eight &shift, bool relu, size_t i, size_t step)
{
	eight v[batch], r[batch];

	#pragma unroll
	for (int k = 0; k < batch; k++) {
		v[k] = load8(x + (i + k * step) * 8);
		if (has_res)
			r[k] = load8(res + (i + k * step) * 8);
	}
	#pragma unroll
	for (int k = 0; k < batch; k++) {
		uint8_t bits = activate<has_res>(&v[k], scale, shift, r[k], relu);
		store8(y + (i + k * step) * 8, v[k]);
		if (mask)
			mask[i + k * step] = bits;
	}
}

/* y = activate(x). Traffic: x, res and y, 2 or 4 bytes a value each, and the mask's bit. */
template <typename T, bool has_res> static __global__ void __launch_bounds__(BLOCK) epilogue(T *y, uint8_t *mask,
    const T *x, const T *res, coef scale, coef shift, bool relu, tiling t)
{
	const int batch = 8 / sizeof(T);
	spot at = spot_of(t);

	if (at.u >= at.end)
		return;
	eight a = coef8(scale, at), b = coef8(shift, at);
	size_t i = ((size_t)at.image * t.units + at.u) * t.groups + at.group, step = (size_t)t.rows * t.groups;
	int u = at.u;
	for (; u + (batch - 1) * t.rows < at.end; u += batch * t.rows, i += batch * step)
		activate_at<T, has_res, batch>(y, mask, x, res, a, b, relu, i, step);
	#pragma unroll 1
	for (; u < at.end; u += t.rows, i += step)
		activate_at<T, has_res, 1>(y, mask, x, res, a, b, relu, i, step);
}

/* A 2x2 window of a map, cut off at its edges. Places are counted in groups. */
struct window {
	size_t first, right, down;
	bool whole, has_right, has_down;
	size_t out; /* in the pooled map, if whole */

	__device__ size_t in(int k) const { return first + k % 2 * right + k / 2 * down; }
	__device__ bool inside(int k) const { return (k % 2 == 0 || has_right) && (k / 2 == 0 || has_down); }
};

__device__ static inline window window_of(const spot &at, int u, int h, int w, int groups)
{
	int across = (w + 1) / 2, r = u / across, q = u % across;
	window p;

	p.first = (((size_t)at.image * h + 2 * r) * w + 2 * q) * groups + at.group;
	p.right = groups;
	p.down = (size_t)w * groups;
	p.has_right = 2 * q + 1 < w;
	p.has_down = 2 * r + 1 < h;
	p.whole = p.has_right && p.has_down;
	p.out = (((size_t)at.image * (h / 2) + r) * (w / 2) + q) * groups + at.group;
	return p;
}

/* y = the mean over each 2x2 of activate(x). Traffic: x and res, a quarter of that for y, and the mask's bit. */
template <typename T, bool has_res> static __global__ void __launch_bounds__(BLOCK, has_res ? 2 : 3) epilogue_pool(
    T *y, uint8_t *mask, const T *x, const T *res, coef scale, coef shift, bool relu, tiling t, int h, int w)
{
	spot at = spot_of(t);

	if (at.u >= at.end)
		return;
	eight a = coef8(scale, at), b = coef8(shift, at);
	for (int u = at.u; u < at.end; u += t.rows) {
		window p = window_of(at, u, h, w, t.groups);
		eight v[2], r[2], row[2];

		if (!p.whole) {
			for (int k = 0; k < 3; k++)
				if (mask && p.inside(k))
					mask[p.in(k)] = 0;
			continue;
		}
		#pragma unroll
		for (int y0 = 0; y0 < 2; y0++) { /* a row at a time: registers */
			#pragma unroll
			for (int k = 0; k < 2; k++) {
				v[k] = load8(x + p.in(2 * y0 + k) * 8);
				if (has_res)
					r[k] = load8(res + p.in(2 * y0 + k) * 8);
			}
			#pragma unroll
			for (int k = 0; k < 2; k++) {
				uint8_t bits = activate<has_res>(&v[k], a, b, r[k], relu);
				if (mask)
					mask[p.in(2 * y0 + k)] = bits;
			}
			row[y0] = plus(v[0], v[1]);
		}
		store8(y + p.out * 8, times(plus(row[0], row[1]), 0.25f));
	}
}

/* Units for a kernel that goes over maps: pixels, of one image where all have the same coefficients; or windows. */
static struct tiling cut_maps(struct maps m, bool alike, bool pool)
{
	if (pool)
		return cut(m.n, ((m.h + 1) / 2) * ((m.w + 1) / 2), m.cp, 8, 1);
	return alike ? cut(1, m.n * m.h * m.w, m.cp, 16, 4) : cut(m.n, m.h * m.w, m.cp, 16, 4);
}

template <typename T, bool has_res> static void start_epilogue(cudaStream_t s, T *y, uint8_t *mask, const T *x,
    const T *res, struct coef scale, struct coef shift, struct maps m, bool relu, bool pool)
{
	struct tiling t = cut_maps(m, !scale.stride && !shift.stride, pool);

	if (pool)
		LAUNCH((epilogue_pool<T, has_res>), blocks(t), BLOCK, s, y, mask, x, res, scale, shift, relu, t, m.h, m.w);
	else
		LAUNCH((epilogue<T, has_res>), blocks(t), BLOCK, s, y, mask, x, res, scale, shift, relu, t);
}

template <typename T> static void epilogue_of(cudaStream_t s, void *y, uint8_t *mask, const void *x, const void *res,
    struct coef scale, struct coef shift, struct maps m, bool relu, bool pool)
{
	if (res)
		start_epilogue<T, true>(s, (T *)y, mask, (const T *)x, (const T *)res, scale, shift, m, relu, pool);
	else
		start_epilogue<T, false>(s, (T *)y, mask, (const T *)x, NULL, scale, shift, m, relu, pool);
}

void gpu_epilogue(cudaStream_t s, void *y, uint8_t *mask, const void *x, const void *res, struct coef scale,
    struct coef shift, struct maps m, bool relu, bool pool)
{
	if (m.type == ELEM_F32)
		epilogue_of<float>(s, y, mask, x, res, scale, shift, m, relu, pool);
	else
		epilogue_of<bf16>(s, y, mask, x, res, scale, shift, m, relu, pool);
}

/* What turns dz into dx. */
struct affine {
	coef gain, a, b, ref;
};

struct affine8 {
	eight gain, a, b, ref;
};

template <bool norm> __device__ static inline affine8 affine_of(const affine &f, const spot &at)
{
	affine8 k;

	if (f.gain.v)
		k.gain = coef8(f.gain, at);
	else
		for (int j = 0; j < 8; j++)
			k.gain.v[j] = 1;
	if (norm)
		k.a = coef8(f.a, at), k.b = coef8(f.b, at), k.ref = coef8(f.ref, at);
	return k;
}

/* Writes group i: z where `bits` has it, and dx. x: of the forward pass. */
template <typename T, bool norm> __device__ static inline void put_back(T *dx, T *dz, size_t i, eight z, unsigned bits,
    const affine8 &k, const eight &x)
{
	#pragma unroll
	for (int j = 0; j < 8; j++)
		z.v[j] = bits >> j & 1 ? z.v[j] : 0;
	if (dz)
		store8(dz + i * 8, z);
	if (!dx)
		return;
	#pragma unroll
	for (int j = 0; j < 8; j++)
		z.v[j] = norm ? k.gain.v[j] * z.v[j] + k.a.v[j] + k.b.v[j] * (x.v[j] - k.ref.v[j]) : k.gain.v[j] * z.v[j];
	store8(dx + i * 8, z);
}

/* `batch` groups from group i on: all are read before any is written. */
template <typename T, bool norm, int batch> __device__ static inline void undo_at(T *dx, T *dz, const gradients &g,
    const uint8_t *mask, const affine8 &coefs, const T *x, size_t i, size_t step)
{
	eight z[batch], v[batch];
	unsigned bits[batch];

	#pragma unroll
	for (int k = 0; k < batch; k++) {
		z[k] = load8((const T *)g.dy[0] + (i + k * step) * 8);
		bits[k] = mask ? mask[i + k * step] : 255;
		if (norm)
			v[k] = load8(x + (i + k * step) * 8);
	}
	#pragma unroll
	for (int d = 1; d < GPU_GRADIENTS; d++)
		if (d < g.n)
			#pragma unroll
			for (int k = 0; k < batch; k++)
				z[k] = plus(z[k], load8((const T *)g.dy[d] + (i + k * step) * 8));
	#pragma unroll
	for (int k = 0; k < batch; k++)
		put_back<T, norm>(dx, dz, i + k * step, z[k], bits[k], coefs, v[k]);
}

/* dz = mask * sum of dy's; dx = gain*dz + a + b*(x - ref). Traffic: every dy, x, dz, dx once, 2 or 4 bytes a value, and
 * the mask's bit. */
template <typename T, bool norm> static __global__ void __launch_bounds__(BLOCK, norm && sizeof(T) == 4 ? 2 : 3) undo(
    T *dx, T *dz, const gradients g, const uint8_t *mask, affine f, const T *x, tiling t)
{
	const int batch = (norm ? 4 : 8) / sizeof(T);
	spot at = spot_of(t);

	if (at.u >= at.end)
		return;
	affine8 coefs = affine_of<norm>(f, at);
	size_t i = ((size_t)at.image * t.units + at.u) * t.groups + at.group, step = (size_t)t.rows * t.groups;
	int u = at.u;
	for (; u + (batch - 1) * t.rows < at.end; u += batch * t.rows, i += batch * step)
		undo_at<T, norm, batch>(dx, dz, g, mask, coefs, x, i, step);
	#pragma unroll 1
	for (; u < at.end; u += t.rows, i += step)
		undo_at<T, norm, 1>(dx, dz, g, mask, coefs, x, i, step);
}

/* The same behind a 2x2 pool: dz = mask * sum of dy's / 4 in the four places of a window. Traffic: every dy once, four
 * times that for each of x, dz, dx, and the mask's bit. */
template <typename T, bool norm> static __global__ void __launch_bounds__(BLOCK, norm || sizeof(T) == 4 ? 2 : 3)
    undo_pool(T *dx, T *dz, const gradients g, const uint8_t *mask, affine f, const T *x, tiling t, int h, int w)
{
	spot at = spot_of(t);

	if (at.u >= at.end)
		return;
	affine8 coefs = affine_of<norm>(f, at);
	for (int u = at.u; u < at.end; u += t.rows) {
		window p = window_of(at, u, h, w, t.groups);
		eight z = { { 0 } }, v[2];
		unsigned bits[4];

		if (!p.whole) {
			#pragma unroll 1
			for (int k = 0; k < 3; k++)
				if (p.inside(k))
					put_back<T, norm>(dx, dz, p.in(k), z, 0, coefs, norm ? load8(x + p.in(k) * 8) : z);
			continue;
		}
		#pragma unroll
		for (int k = 0; k < 4; k++)
			bits[k] = mask ? mask[p.in(k)] : 255;
		#pragma unroll
		for (int d = 0; d < GPU_GRADIENTS; d++)
			if (d < g.n)
				z = plus(z, load8((const T *)g.dy[d] + p.out * 8));
		z = times(z, 0.25f);
		#pragma unroll
		for (int y0 = 0; y0 < 4; y0 += 2) { /* a row at a time: registers */
			#pragma unroll
			for (int k = 0; k < 2; k++)
				if (norm)
					v[k] = load8(x + p.in(y0 + k) * 8);
			#pragma unroll
			for (int k = 0; k < 2; k++)
				put_back<T, norm>(dx, dz, p.in(y0 + k), z, bits[y0 + k], coefs, v[k]);
		}
	}
}

template <typename T, bool norm> static void start_undo(cudaStream_t s, T *dx, T *dz, struct gradients g,
    const uint8_t *mask, bool pool, struct affine f, const T *x, struct maps m)
{
	struct tiling t = cut_maps(m, !f.gain.stride && (!norm || (!f.a.stride && !f.b.stride && !f.ref.stride)), pool);

	if (pool)
		LAUNCH((undo_pool<T, norm>), blocks(t), BLOCK, s, dx, dz, g, mask, f, x, t, m.h, m.w);
	else
		LAUNCH((undo<T, norm>), blocks(t), BLOCK, s, dx, dz, g, mask, f, x, t);
}

template <typename T> static void undo_of(cudaStream_t s, void *dx, void *dz, struct gradients g, const uint8_t *mask,
    bool pool, struct affine f, const void *x, struct maps m)
{
	if (dz == dx)
		dz = NULL; /* it would not last */
	if (f.a.v)
		start_undo<T, true>(s, (T *)dx, (T *)dz, g, mask, pool, f, (const T *)x, m);
	else
		start_undo<T, false>(s, (T *)dx, (T *)dz, g, mask, pool, f, NULL, m);
}

void gpu_undo(cudaStream_t s, void *dx, void *dz, struct gradients g, const uint8_t *mask, bool pool, struct coef gain,
    struct coef a, struct coef b, struct coef ref, const void *x, struct maps m)
{
	struct affine f = { gain, a, b, ref };

	if (m.type == ELEM_F32)
		undo_of<float>(s, dx, dz, g, mask, pool, f, x, m);
	else
		undo_of<bf16>(s, dx, dz, g, mask, pool, f, x, m);
}
