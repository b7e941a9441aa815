/* Gradient with respect to the image: the input gradient of the first convolution, which has few channels.
 *
 * dx[c][y][x] = sum over k, taps (i,j) with (y + pad - i) and (x + pad - j) multiples of the stride, in range:
 *               w[k][c][i][j] * dy[k][(y+pad-i)/s][(x+pad-j)/s]
 * The lanes are eight output channels k, added up at the end: as many multiplications as the convolution has, none on
 * padding channels.
 */
#include "kernels.h"
#include "vec.h"
#include "isa.h"

INLINE float hsum(v8 v)
{
	return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

/* Pixels x0 .. x0+N-1 of row y, all C channels, for stride 1 where every tap's column is inside dy. */
#define STRIP(C, N) \
INLINE void \
strip_##C##_##N(float *dx, const float *dy, const float *w, int ih, int iw, int kb, int oh, int ow, int k, int pad, \
    int y, int x0) \
{ \
	v8 acc[C][N]; \
	for (int c = 0; c < C; c++) \
		for (int q = 0; q < N; q++) \
			acc[c][q] = zero8(); \
	for (int b = 0; b < kb; b++) \
		for (int i = 0; i < k; i++) { \
			int oy = y + pad - i; \
			if (oy < 0 || oy >= oh) \
				continue; \
			for (int j = 0; j < k; j++) { \
				const float *d = dy + (((int64_t)b * oh + oy) * ow + x0 + pad - j) * 8; \
				const float *f = w + (((int64_t)b * k + i) * k + j) * C * 8; \
				for (int q = 0; q < N; q++) { \
					v8 v = load8(d + q * 8); \
					for (int c = 0; c < C; c++) \
						acc[c][q] += v * load8(f + c * 8); \
				} \
			} \
		} \
	for (int c = 0; c < C; c++) \
		for (int q = 0; q < N; q++) \
			dx[((int64_t)c * ih + y) * iw + x0 + q] = hsum(acc[c][q]); \
}
STRIP(1, 4)
STRIP(3, 4)

static void pixel(float *dx, const float *dy, const float *w, int c, int ih, int iw, int kb, int oh, int ow, int k,
    int stride, int pad,
    int y, int x)
{
	v8 acc[4] = { zero8(), zero8(), zero8(), zero8() };

	for (int i = 0; i < k; i++)
		for (int j = 0; j < k; j++) {
			int sy = y + pad - i, sx = x + pad - j;

			if (sy < 0 || sx < 0 || sy % stride || sx % stride || sy / stride >= oh || sx / stride >= ow)
				continue;
			for (int b = 0; b < kb; b++) {
				v8 v = load8(dy + (((int64_t)b * oh + sy / stride) * ow + sx / stride) * 8);
				const float *f = w + (((int64_t)b * k + i) * k + j) * c * 8;
				for (int q = 0; q < c; q++)
					acc[q] += v * load8(f + q * 8);
			}
		}
	for (int q = 0; q < c; q++)
		dx[((int64_t)q * ih + y) * iw + x] = hsum(acc[q]);
}

void KERNEL(image_dgrad)(float *dx, const float *dy, const float *w, int c, int ih, int iw, int kb, int oh, int ow,
    int k,
    int stride, int pad)
{
	for (int y = 0; y < ih; y++)
		for (int x = 0; x < iw;) {
			/* Every tap inside: columns x+pad-(k-1) .. x+3+pad of dy. */
			bool inside = stride == 1 && x + 4 <= iw && x + pad - k + 1 >= 0 && x + 3 + pad < ow;

			if (inside && c == 3)
				strip_3_4(dx, dy, w, ih, iw, kb, oh, ow, k, pad, y, x), x += 4;
			else if (inside && c == 1)
				strip_1_4(dx, dy, w, ih, iw, kb, oh, ow, k, pad, y, x), x += 4;
			else
				pixel(dx, dy, w, c, ih, iw, kb, oh, ow, k, stride, pad, y, x), x++;
		}
}
