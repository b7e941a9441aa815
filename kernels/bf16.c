/* 3x3 convolution of stride 1 by Winograd F(4x4,3x3), products of bfloat16 pairs (VDPBF16PS) summed in float.
 *
 * winograd.c's scheme, V (36, tiles, C), U (36, K/16, C/2, 16, 2), M (36, tiles, K) = V * U, with two channels side by
 * side as the instruction takes them. V and U are rounded to eight bits, and the transforms enlarge what rounding does:
 * at wino.h's points five times as much as in a direct convolution, an error of 1.2 % of the output's root mean square
 * (at 0, +-1, +-2, infinity eleven times, 2.6 %).
 *
 * Twelve tiles meet two panels at a time: 24 vectors of sums, two loads of U, and broadcasts that are operands. amx.h has
 * another way, for sixteen tiles.
 */
#include "bf16.h"
#include "wino.h"
#include "amx.h"

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

enum { HSKEW = 2 * SKEW };

typedef float v16 __attribute__((vector_size(64)));
typedef uint32_t v16u __attribute__((vector_size(64)));

INLINE v16u load16u(const uint16_t *p) { v16u v; memcpy(&v, p, sizeof v); return v; }

INLINE uint32_t pair_of(const uint16_t *p) { uint32_t v; memcpy(&v, p, sizeof v); return v; }

/* acc[l] += odd of x[l] * odd of u[l], then the even ones; a product of two is exact. */
INLINE v16 dot_pairs(v16 acc, uint32_t x, v16u u)
{
#ifdef __AVX512BF16__
	return (v16)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32(x), (__m512bh)u);
#else
	uint32_t even = x << 16, odd = x & 0xffff0000;
	float fe, fo;

	memcpy(&fe, &even, sizeof fe);
	memcpy(&fo, &odd, sizeof fo);
	acc += fo * (v16)(u & 0xffff0000);
	return acc + fe * (v16)(u << 16);
#endif
}

/* To the nearest, halves to even; what is no number stays none. */
INLINE uint16_t round_half(float x)
{
	uint32_t u;

	memcpy(&u, &x, sizeof u);
	return x == x ? (u + 0x7fff + (u >> 16 & 1)) >> 16 : 0x7fc0;
}

INLINE void store_halves(uint16_t *p, v8 v)
{
#ifdef __AVX512BF16__
	__m128bh h = _mm256_cvtneps_pbh((__m256)v);
	memcpy(p, &h, sizeof h);
#else
	for (int i = 0; i < 8; i++)
		p[i] = round_half(v[i]);
#endif
}

void KERNEL(bf16_filter)(uint16_t *u, const float *w, int c, int k, bool flip)
{
	static const double a = A, b = B, na = NA, nb = NB;
	static const double G[SPAN][3] = {
		{ 1 / (a * a * b * b), 0, 0 }, { 1 / na, a / na, a * a / na }, { 1 / na, -a / na, a * a / na },
		{ 1 / nb, b / nb, b * b / nb }, { 1 / nb, -b / nb, b * b / nb }, { 0, 0, 1 },
	};
	int panels = (k + PANEL - 1) / PANEL, cp = pad8(c);

	memset(u, 0, bf16_filter_halves(c, k) * sizeof *u);
	for (int o = 0; o < k; o++)
		for (int i = 0; i < c; i++) {
			const float *g = flip ? w + ((size_t)i * k + o) * 9 : w + ((size_t)o * c + i) * 9;
			double t[SPAN][3] = { 0 };

			for (int r = 0; r < SPAN; r++)
				for (int q = 0; q < 3; q++)
					for (int j = 0; j < 3; j++)
						t[r][q] += G[r][j] * g[flip ? 8 - j * 3 - q : j * 3 + q];
			for (int e = 0; e < POINTS; e++) {
				const double *row = t[e / SPAN], *col = G[e % SPAN];
				u[(((size_t)e * panels + o / PANEL) * cp + i / PAIR * PAIR) * PANEL + o % PANEL * PAIR + i % PAIR] =
				    round_half(row[0] * col[0] + row[1] * col[1] + row[2] * col[2]);
			}
		}
}

/* One tile of eight channels: 36 times eight halves, `plane` halves apart. x is the channel block's map (ih,iw,8). */
static void input_halves(uint16_t *v, size_t plane, const float *x, int ih, int iw, int top, int left)
{
	bool inside = top >= 0 && left >= 0 && top + SPAN <= ih && left + SPAN <= iw;
	v8 t[SPAN][SPAN];

	for (int j = 0; j < SPAN; j++) {
		v8 d[SPAN];
		for (int i = 0; i < SPAN; i++) {
			bool in = inside || (top + i >= 0 && top + i < ih && left + j >= 0 && left + j < iw);
			d[i] = in ? load8(x + ((int64_t)(top + i) * iw + left + j) * 8) : zero8();
		}
		INPUT_TRANSFORM(t[0][j], t[1][j], t[2][j], t[3][j], t[4][j], t[5][j], d[0], d[1], d[2], d[3], d[4], d[5]);
	}
	for (int i = 0; i < SPAN; i++) {
		v8 o[SPAN];
		INPUT_TRANSFORM(o[0], o[1], o[2], o[3], o[4], o[5], t[i][0], t[i][1], t[i][2], t[i][3], t[i][4], t[i][5]);
		for (int j = 0; j < SPAN; j++)
			store_halves(v + (i * SPAN + j) * plane, o[j]);
	}
}

static void output_floats(float *y, const float *m, size_t plane, v8 bias, int oh, int ow, int top, int left)
{
	v8 t[TILE][SPAN];
	int rows = oh - top < TILE ? oh - top : TILE, cols = ow - left < TILE ? ow - left : TILE;

	for (int j = 0; j < SPAN; j++) {
		v8 d[SPAN];
		for (int i = 0; i < SPAN; i++)
			d[i] = load8(m + (i * SPAN + j) * plane);
		OUTPUT_TRANSFORM(t[0][j], t[1][j], t[2][j], t[3][j], d[0], d[1], d[2], d[3], d[4], d[5]);
	}
	for (int i = 0; i < rows; i++) {
		v8 o[TILE];
		OUTPUT_TRANSFORM(o[0], o[1], o[2], o[3], t[i][0], t[i][1], t[i][2], t[i][3], t[i][4], t[i][5]);
		for (int j = 0; j < cols; j++)
			store8(y + ((int64_t)(top + i) * ow + left + j) * 8, o[j] + bias);
	}
}

/* m (rows, 16*vecs) = v (rows, cp) * u (vecs, cp/2, 16, 2); rows of m are kp apart. */
#define ROWS_OF(rows, vecs) \
static void rows_##rows##_##vecs(float *m, size_t kp, const uint16_t *v, const uint16_t *u, int cp) \
{ \
	v16 acc[rows][vecs] = { 0 }; \
	for (int i = 0; i < cp; i += PAIR) { \
		v16u f[vecs]; \
		UNROLL \
		for (int j = 0; j < vecs; j++) \
			f[j] = load16u(u + ((size_t)j * cp + i) * PANEL); \
		UNROLL \
		for (int r = 0; r < rows; r++) { \
			uint32_t x = pair_of(v + (size_t)r * cp + i); \
			for (int j = 0; j < vecs; j++) \
				acc[r][j] = dot_pairs(acc[r][j], x, f[j]); \
		} \
	} \
	for (int r = 0; r < rows; r++) \
		memcpy(m + r * kp, acc[r], sizeof acc[r]); \
}
ROWS_OF(12, 2) ROWS_OF(4, 2) ROWS_OF(1, 2) ROWS_OF(12, 1) ROWS_OF(4, 1) ROWS_OF(1, 1)

/* m (tiles, kp) = v (tiles, cp) * u (kp/16, cp/2, 16, 2) */
static void product(float *m, const uint16_t *v, const uint16_t *u, int tiles, int cp, int kp)
{
	if (amx_product(m, v, u, tiles, cp, kp))
		return;
	for (int k = 0, t; k < kp; k += 2 * PANEL, u += (size_t)2 * cp * PANEL) {
		bool two = k + PANEL < kp;

#define STEP(n) for (; t + n <= tiles; t += n) \
	(two ? rows_##n##_2 : rows_##n##_1)(m + t * (size_t)kp + k, kp, v + t * (size_t)cp, u, cp)
		t = 0;
		STEP(12);
		STEP(4);
		STEP(1);
#undef STEP
	}
}

void KERNEL(bf16_conv)(float *y, const float *x, const uint16_t *u, const float *bias, float *scratch, int n,
    const struct wino_shape *s)
{
	int cp = pad8(s->c), kp = (s->k + PANEL - 1) / PANEL * PANEL, block = wino_tiles(cp, kp);
	int tw = (s->ow + TILE - 1) / TILE, per = (s->oh + TILE - 1) / TILE * tw;
	int64_t imap = (int64_t)s->ih * s->iw * 8, omap = (int64_t)s->oh * s->ow * 8, total = (int64_t)n * per;
	size_t mplane = (size_t)block * kp + SKEW, vplane = (size_t)block * cp + HSKEW;
	float *m = scratch;
	uint16_t *v = (uint16_t *)(m + POINTS * mplane);

	amx_begin(cp);
	for (int64_t first = 0; first < total; first += block) {
		int tiles = total - first < block ? total - first : block;

		for (int t = 0; t < tiles; t++) {
			int64_t image = (first + t) / per;
			int at = (first + t) % per, top = at / tw * TILE - s->pad, left = at % tw * TILE - s->pad;
			for (int b = 0; b < cp / 8; b++)
				input_halves(v + (size_t)t * cp + b * 8, vplane, x + (image * (cp / 8) + b) * imap, s->ih, s->iw, top,
				    left);
		}
		for (int e = 0; e < POINTS; e++)
			product(m + e * mplane, v + e * vplane, u + (size_t)e * kp * cp, tiles, cp, kp);
		for (int t = 0; t < tiles; t++) {
			int64_t image = (first + t) / per;
			int at = (first + t) % per, blocks = pad8(s->k) / 8;
			for (int b = 0; b < blocks; b++)
				output_floats(y + (image * blocks + b) * omap, m + (size_t)t * kp + b * 8, mplane,
				    bias ? load8(bias + b * 8) : zero8(), s->oh, s->ow, at / tw * TILE, at % tw * TILE);
		}
	}
	amx_end();
}

#define STR_(x) #x
#define STR(x) STR_(x)

const struct bf16_kernels PASTE(bf16, ISA) = { STR(ISA), KERNEL(bf16_filter), KERNEL(bf16_conv) };
