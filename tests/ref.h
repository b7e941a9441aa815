/* Plain references of kernels.h: a few lines each, accumulating in double, on planar (C,H,W) doubles. */
#ifndef REF_H
#define REF_H

#include <stdint.h>

/* y (K,oh,ow) = w (K,C,k,k) * x (C,ih,iw) + bias (K) */
static inline void ref_conv(double *y, const double *x, const double *w, const double *bias, int c, int ih, int iw,
    int k, int oh, int ow,
    int size, int stride, int pad)
{
	for (int o = 0; o < k; o++)
		for (int r = 0; r < oh; r++)
			for (int q = 0; q < ow; q++) {
				double s = bias ? bias[o] : 0;
				for (int i = 0; i < c; i++)
					for (int a = 0; a < size; a++)
						for (int b = 0; b < size; b++) {
							int yy = r * stride + a - pad, xx = q * stride + b - pad;
							if (yy >= 0 && xx >= 0 && yy < ih && xx < iw)
								s += w[((o * c + i) * size + a) * size + b] * x[(i * ih + yy) * iw + xx];
						}
				y[(o * oh + r) * ow + q] = s;
			}
}

/* dx (C,ih,iw), the adjoint of the above for dy (K,oh,ow) */
static inline void ref_conv_dgrad(double *dx, const double *dy, const double *w, int c, int ih, int iw, int k, int oh,
    int ow, int size,
    int stride, int pad)
{
	for (int i = 0; i < c * ih * iw; i++)
		dx[i] = 0;
	for (int o = 0; o < k; o++)
		for (int r = 0; r < oh; r++)
			for (int q = 0; q < ow; q++)
				for (int i = 0; i < c; i++)
					for (int a = 0; a < size; a++)
						for (int b = 0; b < size; b++) {
							int yy = r * stride + a - pad, xx = q * stride + b - pad;
							if (yy >= 0 && xx >= 0 && yy < ih && xx < iw)
								dx[(i * ih + yy) * iw + xx] +=
								    w[((o * c + i) * size + a) * size + b] * dy[(o * oh + r) * ow + q];
						}
}

/* sums[c] = sum of x - ref, sums of (x - ref)^2, over p values of each channel */
static inline void ref_sums(double *sum, double *sumsq, const double *x, const double *ref, int c, int64_t p)
{
	for (int i = 0; i < c; i++) {
		sum[i] = sumsq[i] = 0;
		for (int64_t j = 0; j < p; j++) {
			double d = x[i * p + j] - ref[i];
			sum[i] += d;
			sumsq[i] += d * d;
		}
	}
}

/* v = x*scale + shift + res (or NULL); positive[i] = v > 0; y = max(v, 0) where relu, averaged over 2x2 where pool */
static inline void ref_epilogue(double *y, unsigned char *positive, const double *x, const double *res,
    const double *scale,
    const double *shift, int c, int h, int w, int relu, int pool)
{
	int oh = pool ? h / 2 : h, ow = pool ? w / 2 : w;

	for (int i = 0; i < c * oh * ow; i++)
		y[i] = 0;
	for (int i = 0; i < c; i++)
		for (int r = 0; r < h; r++)
			for (int q = 0; q < w; q++) {
				int at = (i * h + r) * w + q;
				double v = x[at] * scale[i] + shift[i] + (res ? res[at] : 0);
				positive[at] = v > 0;
				if (relu && v < 0)
					v = 0;
				if (!pool)
					y[at] = v;
				else if (r / 2 < oh && q / 2 < ow)
					y[(i * oh + r / 2) * ow + q / 2] += v / 4;
			}
}

#endif
