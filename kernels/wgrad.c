/* Weight gradient of a convolution where oneDNN has no fast one (few input channels, maps smaller than a vector).
 *
 * dw[o][c][i][j] += sum over output pixels (r,q) of dy[o][r][q] * x[c][r*s+i-pad][q*s+j-pad].
 * Lanes are eight output channels; four input channels share each load of dy.
 */
#include "kernels.h"
#include "vec.h"
#include "window.h"
#include "isa.h"

INLINE void taps(v8 *acc, const float *x, const float *dy, int n, int64_t channel, int64_t pixel, int iw, int ow,
    int i, int j,
    int r0, int r1, int q0, int q1, int stride, int pad)
{
	for (int r = r0; r < r1; r++) {
		const float *d = dy + ((int64_t)r * ow + q0) * 8;
		const float *p = x + ((int64_t)(r * stride + i - pad) * iw + q0 * stride + j - pad) * pixel;
		for (int q = q0; q < q1; q++, d += 8, p += stride * pixel) {
			v8 v = load8(d);
			for (int c = 0; c < n; c++)
				acc[c] += v * splat8(p[c * channel]);
		}
	}
}

void KERNEL(conv_wgrad)(float *dw, const float *x, const float *dy, int c, int ih, int iw, bool plain, int kb, int oh,
    int ow,
    int k, int stride, int pad)
{
	int64_t map = (int64_t)ih * iw;

	for (int b = 0; b < kb; b++)
		for (int ch = 0; ch < c; ch += 4)
			for (int i = 0; i < k; i++)
				for (int j = 0; j < k; j++) {
					int r0 = first_inside(i, stride, pad), r1 = end_inside(i, stride, pad, ih, oh);
					int q0 = first_inside(j, stride, pad), q1 = end_inside(j, stride, pad, iw, ow);
					const float *p = plain ? x + ch * map : x + (ch / 8) * map * 8 + ch % 8;
					const float *d = dy + (int64_t)b * oh * ow * 8;
					int n = c - ch < 4 ? c - ch : 4;
					v8 acc[4] = { 0 };

					if (n == 4)
						taps(acc, p, d, 4, plain ? map : 1, plain ? 1 : 8, iw, ow, i, j, r0, r1, q0, q1, stride, pad);
					else
						for (int t = 0; t < n; t++)
							taps(acc + t, p + t * (plain ? map : 1), d, 1, 0, plain ? 1 : 8, iw, ow, i, j, r0, r1, q0, q1,
							    stride, pad);
					for (int t = 0; t < n; t++) {
						float *o = dw + ((((int64_t)b * c + ch + t) * k + i) * k + j) * 8;
						store8(o, load8(o) + acc[t]);
					}
				}
}
