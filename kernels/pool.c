/* Pooling over windows and over whole maps, and their gradients: every lane is a channel, sums go in the order of the
 * window, row by row. */
#include <stddef.h>

#include "kernels.h"
#include "vec.h"
#include "isa.h"

typedef uint8_t v8b __attribute__((vector_size(8)));
typedef double v8d __attribute__((vector_size(64)));

/* The taps [*from, *to) of window o that lie on the map. */
INLINE void within(int o, int side, const struct pool_shape *s, int *from, int *to)
{
	int first = o * s->stride - s->pad;

	*from = first < 0 ? -first : 0;
	*to = first + s->k > side ? side - first : s->k;
}

/* NaN is larger than all else, and the last one counts. */
INLINE v8i larger(v8 v, v8 best)
{
	return (v8i)(v > best) | (v8i)(v != v);
}

void KERNEL(max_pool)(float *y, uint8_t *choice, const float *x, const struct pool_shape *s)
{
	for (int b = 0; b < s->cb; b++, x += (size_t)s->h * s->w * 8)
		for (int r = 0; r < s->oh; r++)
			for (int t = 0; t < s->ow; t++, y += 8) {
				int top, bottom, left, right;
				within(r, s->h, s, &top, &bottom);
				within(t, s->w, s, &left, &right);
				const float *at = x + ((ptrdiff_t)(r * s->stride - s->pad) * s->w + t * s->stride - s->pad) * 8;
				int tap = top * s->k + left;
				v8 best = load8(at + ((ptrdiff_t)top * s->w + left) * 8);
				v8i pick = { tap, tap, tap, tap, tap, tap, tap, tap };
				for (int i = top; i < bottom; i++)
					for (int j = left; j < right; j++) {
						v8 v = load8(at + ((ptrdiff_t)i * s->w + j) * 8);
						v8i more = larger(v, best);
						tap = i * s->k + j;
						v8i here = { tap, tap, tap, tap, tap, tap, tap, tap };
						best = (v8)(((v8i)v & more) | ((v8i)best & ~more));
						pick = (here & more) | (pick & ~more);
					}
				store8(y, best);
				if (choice) {
					v8b bytes = __builtin_convertvector(pick, v8b);
					memcpy(choice, &bytes, sizeof bytes);
					choice += 8;
				}
			}
}

void KERNEL(max_pool_back)(float *dx, const float *dy, const uint8_t *choice, const struct pool_shape *s)
{
	ptrdiff_t off[256]; /* of a tap, from the window's corner */

	for (int tap = 0; tap < s->k * s->k; tap++)
		off[tap] = ((ptrdiff_t)(tap / s->k) * s->w + tap % s->k) * 8;
	memset(dx, 0, (size_t)s->cb * s->h * s->w * 8 * sizeof *dx);
	for (int b = 0; b < s->cb; b++, dx += (size_t)s->h * s->w * 8)
		for (int r = 0; r < s->oh; r++)
			for (int t = 0; t < s->ow; t++, dy += 8, choice += 8) {
				float *at = dx + ((ptrdiff_t)(r * s->stride - s->pad) * s->w + t * s->stride - s->pad) * 8;
				for (int l = 0; l < 8; l++)
					at[off[choice[l]] + l] += dy[l];
			}
}

void KERNEL(avg_pool)(float *y, const float *x, const struct pool_shape *s)
{
	for (int b = 0; b < s->cb; b++, x += (size_t)s->h * s->w * 8)
		for (int r = 0; r < s->oh; r++)
			for (int t = 0; t < s->ow; t++, y += 8) {
				const float *at = x + ((size_t)r * s->stride * s->w + t * s->stride) * 8;
				v8 sum = zero8();
				for (int i = 0; i < s->k; i++)
					for (int j = 0; j < s->k; j++)
						sum += load8(at + ((size_t)i * s->w + j) * 8);
				store8(y, sum / (float)(s->k * s->k));
			}
}

void KERNEL(avg_pool_back)(float *dx, const float *dy, const struct pool_shape *s)
{
	memset(dx, 0, (size_t)s->cb * s->h * s->w * 8 * sizeof *dx);
	for (int b = 0; b < s->cb; b++, dx += (size_t)s->h * s->w * 8)
		for (int r = 0; r < s->oh; r++)
			for (int t = 0; t < s->ow; t++, dy += 8) {
				float *at = dx + ((size_t)r * s->stride * s->w + t * s->stride) * 8;
				v8 share = load8(dy) / (float)(s->k * s->k);
				for (int i = 0; i < s->k; i++)
					for (int j = 0; j < s->k; j++) {
						float *p = at + ((size_t)i * s->w + j) * 8;
						store8(p, load8(p) + share);
					}
			}
}

void KERNEL(mean)(float *y, const float *x, int cb, int64_t p)
{
	for (int b = 0; b < cb; b++, y += 8) {
		v8d sum = { 0 };
		for (int64_t i = 0; i < p; i++, x += 8)
			sum += __builtin_convertvector(load8(x), v8d);
		store8(y, __builtin_convertvector(sum / (double)p, v8));
	}
}

void KERNEL(mean_back)(float *dx, const float *dy, int cb, int64_t p)
{
	for (int b = 0; b < cb; b++, dy += 8) {
		v8 share = load8(dy) / (float)p;
		for (int64_t i = 0; i < p; i++, dx += 8)
			store8(dx, share);
	}
}
