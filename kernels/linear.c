/* The classifier: few rows, so the weights are read once for four images at a time. Each dot product is summed in one
 * order whatever images stand beside it. */
#include "kernels.h"
#include "vec.h"
#include "isa.h"

INLINE float hsum(v8 v)
{
	return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

INLINE void dots(float *y, const float *x, const float *w, float bias, int in, size_t ys, size_t xs, int n)
{
	v8 acc[4][2] = { 0 };
	int j = 0;

	for (; j + 16 <= in; j += 16) {
		v8 w0 = load8(w + j), w1 = load8(w + j + 8);
		for (int i = 0; i < n; i++) {
			acc[i][0] += w0 * load8(x + i * xs + j);
			acc[i][1] += w1 * load8(x + i * xs + j + 8);
		}
	}
	for (int i = 0; i < n; i++) {
		float tail = 0;
		for (int t = j; t < in; t++)
			tail += w[t] * x[i * xs + t];
		y[i * ys] = hsum(acc[i][0] + acc[i][1]) + tail + bias;
	}
}

void KERNEL(linear)(float *y, const float *x, const float *w, const float *bias, int n, int in, int out, size_t ys,
    size_t xs)
{
	int i = 0;

	for (; i + 4 <= n; i += 4)
		for (int o = 0; o < out; o++)
			dots(y + i * ys + o, x + i * xs, w + (size_t)o * in, bias[o], in, ys, xs, 4);
	for (; i < n; i++)
		for (int o = 0; o < out; o++)
			dots(y + i * ys + o, x + i * xs, w + (size_t)o * in, bias[o], in, ys, xs, 1);
}

void KERNEL(linear_dgrad)(float *dx, const float *dy, const float *w, int in, int out)
{
	memset(dx, 0, in * sizeof *dx);
	for (int o = 0; o < out; o++, w += in)
		for (int j = 0; j < in; j++)
			dx[j] += dy[o] * w[j];
}
