/* Depthwise convolutions: every channel with a filter of its own, so that a lane is a channel throughout. */
#include "kernels.h"
#include "vec.h"
#include "window.h"
#include "isa.h"

/* One output at input position (y0,x0), window rows and columns [i0,i1) x [j0,j1). */
INLINE v8 window(const float *x, const float *w, v8 acc, int iw, int y0, int x0, int k, int i0, int i1, int j0, int j1)
{
	for (int i = i0; i < i1; i++)
		for (int j = j0; j < j1; j++)
			acc += load8(x + ((int64_t)(y0 + i) * iw + x0 + j) * 8) * load8(w + (i * k + j) * 8);
	return acc;
}

INLINE int most(int a, int b)
{
	return a > b ? a : b;
}

INLINE int least(int a, int b)
{
	return a < b ? a : b;
}

/* k is a constant in every caller, so that whole windows unroll. */
INLINE void rows(float *y, const float *x, const float *w, v8 bias, int ih, int iw, int oh, int ow, int k, int stride,
    int pad)
{
	int q0 = first_inside(0, stride, pad), q1 = end_inside(k - 1, stride, pad, iw, ow);

	for (int r = 0; r < oh; r++) {
		int y0 = r * stride - pad, i0 = most(0, -y0), i1 = least(k, ih - y0);

		for (int q = 0; q < ow; q++, y += 8) {
			int x0 = q * stride - pad;
			if (i0 == 0 && i1 == k && q >= q0 && q < q1)
				store8(y, window(x, w, bias, iw, y0, x0, k, 0, k, 0, k));
			else
				store8(y, window(x, w, bias, iw, y0, x0, k, i0, i1, most(0, -x0), least(k, iw - x0)));
		}
	}
}

void KERNEL(dw_conv)(float *y, const float *x, const float *w, const float *bias, int cb, int ih, int iw, int oh, int ow,
    int k, int stride, int pad)
{
	for (int b = 0; b < cb; b++) {
		const float *xb = x + (int64_t)b * ih * iw * 8, *wb = w + (int64_t)b * k * k * 8;
		float *yb = y + (int64_t)b * oh * ow * 8;
		v8 start = bias ? load8(bias + b * 8) : zero8();

		if (k == 3)
			rows(yb, xb, wb, start, ih, iw, oh, ow, 3, stride, pad);
		else if (k == 5)
			rows(yb, xb, wb, start, ih, iw, oh, ow, 5, stride, pad);
		else
			rows(yb, xb, wb, start, ih, iw, oh, ow, k, stride, pad);
	}
}

void KERNEL(dw_dgrad)(float *dx, const float *dy, const float *w, int cb, int ih, int iw, int oh, int ow, int k, int stride,
    int pad)
{
	memset(dx, 0, (size_t)cb * ih * iw * 8 * sizeof *dx);
	for (int b = 0; b < cb; b++, dx += (int64_t)ih * iw * 8, dy += (int64_t)oh * ow * 8, w += k * k * 8)
		for (int r = 0; r < oh; r++)
			for (int q = 0; q < ow; q++) {
				int y0 = r * stride - pad, x0 = q * stride - pad;
				v8 d = load8(dy + ((int64_t)r * ow + q) * 8);

				for (int i = most(0, -y0); i < least(k, ih - y0); i++)
					for (int j = most(0, -x0); j < least(k, iw - x0); j++) {
						float *p = dx + ((int64_t)(y0 + i) * iw + x0 + j) * 8;
						store8(p, load8(p) + d * load8(w + (i * k + j) * 8));
					}
			}
}

void KERNEL(dw_wgrad)(float *dw, const float *x, const float *dy, int cb, int ih, int iw, int oh, int ow, int k, int stride,
    int pad)
{
	for (int b = 0; b < cb; b++, x += (int64_t)ih * iw * 8, dy += (int64_t)oh * ow * 8)
		for (int i = 0; i < k; i++)
			for (int j = 0; j < k; j++, dw += 8) {
				int r0 = first_inside(i, stride, pad), r1 = end_inside(i, stride, pad, ih, oh);
				int q0 = first_inside(j, stride, pad), q1 = end_inside(j, stride, pad, iw, ow);
				v8 acc = zero8();

				for (int r = r0; r < r1; r++)
					for (int q = q0; q < q1; q++)
						acc += load8(dy + ((int64_t)r * ow + q) * 8) *
						    load8(x + ((int64_t)(r * stride + i - pad) * iw + q * stride + j - pad) * 8);
				store8(dw, load8(dw) + acc);
			}
}
