/* Convolutions of any shape, straight from the definition: for what oneDNN has no fast code for.
 *
 * Lanes are eight channels of what is written; the channels that are summed over are broadcast one by one, four sums at
 * a time so that additions overlap.
 */
#include "kernels.h"
#include "vec.h"
#include "isa.h"

/* acc[0..3] += sum over n channels of x * w: x at a stride of one float within a block of eight, blocks `block` floats
 * apart (plain: channels `block` apart); w (n,8). */
INLINE void channels(v8 *acc, const float *x, int64_t block, bool plain, const float *w, int n)
{
	int c = 0;

	for (; c + 4 <= n; c += 4, w += 32) {
		const float *p = plain ? x + c * block : x + c / 8 * block + c % 8;
		for (int t = 0; t < 4; t++)
			acc[t] += splat8(p[plain ? t * block : t]) * load8(w + t * 8);
	}
	for (; c < n; c++, w += 8)
		acc[0] += splat8(plain ? x[c * block] : x[c / 8 * block + c % 8]) * load8(w);
}

INLINE void conv(float *y, const float *x, const float *w, const float *bias, int c, int ih, int iw, bool plain, int kb,
    int oh, int ow, int k, int stride, int pad)
{
	int64_t map = (int64_t)ih * iw;

	for (int b = 0; b < kb; b++, w += (int64_t)k * k * c * 8)
		for (int r = 0; r < oh; r++)
			for (int q = 0; q < ow; q++, y += 8) {
				v8 acc[4] = { bias ? load8(bias + b * 8) : zero8() };
				for (int i = 0; i < k; i++)
					for (int j = 0; j < k; j++) {
						int yy = r * stride + i - pad, xx = q * stride + j - pad;
						int64_t at = (int64_t)yy * iw + xx;
						if (yy >= 0 && xx >= 0 && yy < ih && xx < iw)
							channels(acc, x + (plain ? at : at * 8), plain ? map : map * 8, plain,
							    w + (int64_t)(i * k + j) * c * 8, c);
					}
				store8(y, (acc[0] + acc[1]) + (acc[2] + acc[3]));
			}
}

void KERNEL(conv)(float *y, const float *x, const float *w, const float *bias, int c, int ih, int iw, bool plain, int kb,
    int oh, int ow, int k, int stride, int pad)
{
	if (plain)
		conv(y, x, w, bias, c, ih, iw, true, kb, oh, ow, k, stride, pad);
	else
		conv(y, x, w, bias, c, ih, iw, false, kb, oh, ow, k, stride, pad);
}

void KERNEL(conv_dgrad)(float *dx, const float *dy, const float *w, int cb, int ih, int iw, int o, int oh, int ow, int k,
    int stride, int pad)
{
	for (int b = 0; b < cb; b++, w += (int64_t)k * k * o * 8)
		for (int y = 0; y < ih; y++)
			for (int x = 0; x < iw; x++, dx += 8) {
				v8 acc[4] = { zero8() };
				for (int i = 0; i < k; i++)
					for (int j = 0; j < k; j++) {
						int r = y + pad - i, q = x + pad - j;
						if (r >= 0 && q >= 0 && r % stride == 0 && q % stride == 0 && r / stride < oh && q / stride < ow)
							channels(acc, dy + ((int64_t)(r / stride) * ow + q / stride) * 8, (int64_t)oh * ow * 8, false,
							    w + (int64_t)(i * k + j) * o * 8, o);
					}
				store8(dx, (acc[0] + acc[1]) + (acc[2] + acc[3]));
			}
}
