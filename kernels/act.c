/* Activations other than ReLU, and their gradients. */
#include "kernels.h"
#include "vec.h"
#include "isa.h"

INLINE v8 choose8(v8i mask, v8 yes, v8 no)
{
	return (v8)(((v8i)yes & mask) | ((v8i)no & ~mask));
}

/* e^x, relative error below 2e-7; x beyond +-87 counts as +-87, NaN stays. x = n*ln 2 + r, |r| <= ln(2)/2: 2^n times
 * the series of e^r to its seventh power. */
INLINE v8 exp8(v8 x)
{
	const v8 round = splat8(12582912.0f); /* 1.5 * 2^23: a float this large has no fraction left */

	x = choose8(x > 87, splat8(87), x);
	x = choose8(x < -87, splat8(-87), x);
	v8 shifted = x * 1.44269504f + round, n = shifted - round;
	v8 r = x - n * 0.693359375f + n * 2.12194440e-4f; /* ln 2 in two parts, so that n * the first is exact */
	v8 e = splat8(1.0f / 5040);

	e = e * r + 1.0f / 720;
	e = e * r + 1.0f / 120;
	e = e * r + 1.0f / 24;
	e = e * r + 1.0f / 6;
	e = e * r + 0.5f;
	e = e * r + 1.0f;
	e = e * r + 1.0f;
	v8i power = ((v8i)shifted - (v8i)round) << 23;
	return (v8)((v8i)e + power);
}

INLINE v8 sigmoid8(v8 x)
{
	return 1.0f / (1.0f + exp8(-x));
}

void KERNEL(act)(float *y, const float *x, enum act what, int64_t n8)
{
	switch (what) {
	case ACT_RELU6:
		for (int64_t i = 0; i < n8; i++) {
			v8 v = relu8(load8(x + i * 8));
			store8(y + i * 8, choose8(v > 6, splat8(6), v));
		}
		break;
	case ACT_SILU:
		for (int64_t i = 0; i < n8; i++) {
			v8 v = load8(x + i * 8);
			store8(y + i * 8, v * sigmoid8(v));
		}
		break;
	case ACT_SIGMOID:
		for (int64_t i = 0; i < n8; i++)
			store8(y + i * 8, sigmoid8(load8(x + i * 8)));
		break;
	}
}

void KERNEL(act_back)(float *dx, const float *dy, const float *v, enum act what, int64_t n8)
{
	switch (what) {
	case ACT_RELU6:
		for (int64_t i = 0; i < n8; i++) {
			v8 y = load8(v + i * 8);
			store8(dx + i * 8, (v8)((v8i)load8(dy + i * 8) & (v8i)(y > 0) & (v8i)(y < 6)));
		}
		break;
	case ACT_SILU:
		for (int64_t i = 0; i < n8; i++) {
			v8 x = load8(v + i * 8), s = sigmoid8(x);
			store8(dx + i * 8, load8(dy + i * 8) * s * (1.0f + x * (1.0f - s)));
		}
		break;
	case ACT_SIGMOID:
		for (int64_t i = 0; i < n8; i++) {
			v8 y = load8(v + i * 8);
			store8(dx + i * 8, load8(dy + i * 8) * y * (1.0f - y));
		}
		break;
	}
}
