/* Convolutions of any stride as matrix products, straight from the definition.
 *
 *     y[o][p] = bias[o] + sum over taps t, channels c of w[o][c][t] * x[c][p's place + t's offset]
 *
 * x is copied with its border of zeros first, so that every tap of every output is a fixed distance from its place and
 * outputs need not lie side by side: six at a time, of whatever rows and images, meet a panel of sixteen channels o
 * (twelve sums in registers). A panel is gone through in parts that stay in L1, sums waiting in y meanwhile.
 *
 * The gradient of x is the same thing, with o and c exchanged: pixels of x that lie alike towards the stride see the
 * same taps. u: (O/16, C/8, taps, 8, 16).
 */
#include "kernels.h"
#include "vec.h"
#include "isa.h"
#include "sizes.h"

enum { PART = 16384 / 4 }; /* floats of a panel that stay in L1 */

#define UNROLL _Pragma("GCC unroll 12")

struct taps { /* that one set of outputs sees */
	int n, all;                /* of how many in u */
	int index[KERNEL_TAPS];    /* in u */
	int64_t offset[KERNEL_TAPS];
};

struct places { /* outputs of one set: floats from the first */
	int n;
	int32_t *from, *to;
};

void KERNEL(direct_filter)(float *u, const float *w, const struct direct_shape *s, bool dgrad)
{
	int kk = s->k * s->k, c = dgrad ? s->o : s->c, o = dgrad ? s->c : s->o;

	memset(u, 0, direct_filter_floats(s, dgrad) * sizeof *u);
	for (int a = 0; a < o; a++)
		for (int b = 0; b < c; b++)
			for (int t = 0; t < kk; t++) {
				float v = dgrad ? w[((size_t)b * o + a) * kk + t] : w[((size_t)a * c + b) * kk + t];
				u[((((size_t)(a / PANEL) * ((c + 7) / 8) + b / 8) * kk + t) * 8 + b % 8) * PANEL + a % PANEL] = v;
			}
}

/* One channel: acc += x * u. */
#define CHANNEL(rows, vecs) do { \
	v8 u0_ = load8(u + l * PANEL), u1_ = vecs > 1 ? load8(u + l * PANEL + 8) : u0_; \
	UNROLL \
	for (int r = 0; r < rows; r++) { \
		v8 b_ = splat8(x[r][at + l]); \
		acc[r][0] += b_ * u0_; \
		if (vecs > 1) \
			acc[r][vecs - 1] += b_ * u1_; \
	} \
} while (0)

/* rows outputs of vecs*8 channels: y = (start or y) + blocks [b0,b1) of eight channels. next: floats to the second eight. */
#define TILE(rows, vecs) \
INLINE void tile_##rows##_##vecs(float *y, const int32_t *to, int64_t next, const float *src, const int32_t *from, \
    const float *panel, const v8 *start, int64_t map, int c, int b0, int b1, const struct taps *taps) \
{ \
	const float *x[rows]; \
	v8 acc[rows][vecs]; \
	for (int r = 0; r < rows; r++) { \
		x[r] = src + from[r]; \
		for (int j = 0; j < vecs; j++) \
			acc[r][j] = start ? start[j] : load8(y + to[r] + j * next); \
	} \
	for (int b = b0; b < b1; b++) \
		for (int t = 0; t < taps->n; t++) { \
			const float *u = panel + ((size_t)b * taps->all + taps->index[t]) * 8 * PANEL; \
			int64_t at = b * map + taps->offset[t]; \
			if (b * 8 + 8 <= c) \
				for (int l = 0; l < 8; l++) \
					CHANNEL(rows, vecs); \
			else \
				for (int l = 0; l < c - b * 8; l++) \
					CHANNEL(rows, vecs); \
		} \
	for (int r = 0; r < rows; r++) \
		for (int j = 0; j < vecs; j++) \
			store8(y + to[r] + j * next, acc[r][j]); \
}
TILE(6, 2) TILE(4, 2) TILE(2, 2) TILE(1, 2) TILE(12, 1) TILE(6, 1) TILE(4, 1) TILE(2, 1) TILE(1, 1)

INLINE void places_part(float *y, int64_t next, const float *src, const struct places *p, const float *panel,
    const v8 *start, int64_t map, int c, int b0, int b1, const struct taps *taps, bool two)
{
	int i = 0;

#define STEP(n, vecs) do { \
	tile_##n##_##vecs(y, p->to + i, next, src, p->from + i, panel, start, map, c, b0, b1, taps); \
	i += n; \
} while (0)
	if (two) {
		while (i + 6 <= p->n)
			STEP(6, 2);
		if (i + 4 <= p->n)
			STEP(4, 2);
		if (i + 2 <= p->n)
			STEP(2, 2);
		if (i < p->n)
			STEP(1, 2);
		return;
	}
	while (i + 12 <= p->n)
		STEP(12, 1);
	while (i + 6 <= p->n)
		STEP(6, 1);
	if (i + 4 <= p->n)
		STEP(4, 1);
	if (i + 2 <= p->n)
		STEP(2, 1);
	if (i < p->n)
		STEP(1, 1);
#undef STEP
}

/* All channels of the places: y's maps are `next` floats each, x's `map`; c channels of x, o of y. */
static void product(float *y, int64_t next, int o, const float *src, int64_t map, int c, const float *u, const float *bias,
    const struct places *p, const struct taps *taps)
{
	int blocks = (c + 7) / 8, part = PART / (taps->n * 8 * PANEL);

	part = part < 1 ? 1 : part;
	for (int k = 0; k < o; k += PANEL, u += (size_t)blocks * taps->all * 8 * PANEL) {
		bool two = k + 8 < o;
		v8 start[2] = { zero8(), zero8() };
		if (bias) {
			start[0] = load8(bias + k);
			start[1] = two ? load8(bias + k + 8) : zero8();
		}
		for (int b = 0; b < blocks; b += part)
			places_part(y + k / 8 * next, next, src, p, u, b ? NULL : start, map, c, b,
			    b + part < blocks ? b + part : blocks, taps, two);
	}
}

/* x (n,CB,h,w,8) into (n,CB,h+top+bottom,w+left+right,8). */
static void add_border(float *to, const float *x, int maps, int h, int w, int top, int bottom, int left, int right)
{
	int wide = w + left + right;

	memset(to, 0, (size_t)maps * (h + top + bottom) * wide * 8 * sizeof *to);
	for (int m = 0; m < maps; m++)
		for (int r = 0; r < h; r++)
			memcpy(to + (((size_t)m * (h + top + bottom) + top + r) * wide + left) * 8, x + ((size_t)m * h + r) * w * 8,
			    (size_t)w * 8 * sizeof *to);
}

void KERNEL(direct_conv)(float *y, const float *x, const float *u, const float *bias, float *scratch, int n,
    const struct direct_shape *s)
{
	struct direct_border b = direct_border(s, false);
	int ph = s->ih + b.before + b.after_h, pw = s->iw + b.before + b.after_w, cb = (s->c + 7) / 8, kb = (s->o + 7) / 8;
	size_t bordered = (size_t)n * cb * ph * pw * 8;
	struct places p = { 0, (int32_t *)(scratch + bordered), (int32_t *)(scratch + bordered) + (size_t)n * s->oh * s->ow };
	struct taps taps = { s->k * s->k, s->k * s->k, { 0 }, { 0 } };

	add_border(scratch, x, n * cb, s->ih, s->iw, b.before, b.after_h, b.before, b.after_w);
	for (int i = 0; i < s->k; i++)
		for (int j = 0; j < s->k; j++) {
			taps.index[i * s->k + j] = i * s->k + j;
			taps.offset[i * s->k + j] = ((int64_t)(i + b.before - s->pad) * pw + j + b.before - s->pad) * 8;
		}
	for (int m = 0; m < n; m++)
		for (int r = 0; r < s->oh; r++)
			for (int q = 0; q < s->ow; q++, p.n++) {
				p.from[p.n] = (m * cb * ph * pw + r * s->stride * pw + q * s->stride) * 8;
				p.to[p.n] = (m * kb * s->oh * s->ow + r * s->ow + q) * 8;
			}
	product(y, (int64_t)s->oh * s->ow * 8, s->o, scratch, (int64_t)ph * pw * 8, s->c, u, bias, &p, &taps);
}

/* The pixels (y,x) of dx with y = a, x = b modulo the stride. */
static void dgrad_set(float *dx, const float *dy, const float *u, int n, const struct direct_shape *s,
    const struct direct_border *e, int a, int b, struct places *p)
{
	int ph = s->oh + e->before + e->after_h, pw = s->ow + e->before + e->after_w, ob = (s->o + 7) / 8, cb = (s->c + 7) / 8;
	struct taps taps = { 0, s->k * s->k, { 0 }, { 0 } };

	for (int i = 0; i < s->k; i++)
		for (int j = 0; j < s->k; j++) {
			int r = a + s->pad - i, q = b + s->pad - j; /* of output times stride, for the set's first pixel */
			if (r % s->stride || q % s->stride)
				continue;
			taps.index[taps.n] = i * s->k + j;
			taps.offset[taps.n++] = ((int64_t)(r / s->stride + e->before) * pw + q / s->stride + e->before) * 8;
		}
	p->n = 0;
	for (int m = 0; m < n; m++)
		for (int y = a; y < s->ih; y += s->stride)
			for (int x = b; x < s->iw; x += s->stride, p->n++) {
				p->from[p->n] = (m * ob * ph * pw + y / s->stride * pw + x / s->stride) * 8;
				p->to[p->n] = (m * cb * s->ih * s->iw + y * s->iw + x) * 8;
			}
	if (taps.n) {
		product(dx, (int64_t)s->ih * s->iw * 8, s->c, dy, (int64_t)ph * pw * 8, s->o, u, NULL, p, &taps);
		return;
	}
	for (int i = 0; i < p->n; i++) /* seen by no output */
		for (int k = 0; k < cb; k++)
			store8(dx + p->to[i] + (int64_t)k * s->ih * s->iw * 8, zero8());
}

void KERNEL(direct_dgrad)(float *dx, const float *dy, const float *u, float *scratch, int n, const struct direct_shape *s)
{
	struct direct_border e = direct_border(s, true);
	int ph = s->oh + e.before + e.after_h, pw = s->ow + e.before + e.after_w, ob = (s->o + 7) / 8;
	size_t bordered = (size_t)n * ob * ph * pw * 8;
	struct places p = { 0, (int32_t *)(scratch + bordered), (int32_t *)(scratch + bordered) + (size_t)n * s->ih * s->iw };

	add_border(scratch, dy, n * ob, s->oh, s->ow, e.before, e.after_h, e.before, e.after_w);
	for (int a = 0; a < s->stride && a < s->ih; a++)
		for (int b = 0; b < s->stride && b < s->iw; b++)
			dgrad_set(dx, scratch, u, n, s, &e, a, b, &p);
}
