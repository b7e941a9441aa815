/* Every kernel of every instruction set that this processor has, against plain double references. TAP. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/kernels.h"
#include "../lib/rng.h"
#include "../lib/util.h"
#include "ref.h"
#include "tap.h"

static void report(int good, const char *what, const char *isa, double err)
{
	ok(good, "%s %s (error %.2g)", isa, what, err);
}

static int pad8(int c) { return (c + 7) / 8 * 8; }

static double *random_doubles(struct rng *r, size_t n)
{
	double *x = ecalloc(n, sizeof *x);

	for (size_t i = 0; i < n; i++)
		x[i] = (float)rng_normal(r); /* exact in float, so that both sides see the same */
	return x;
}

/* Planar doubles (C,P) <-> blocked floats (C/8,P,8), zeros in the padding. */
static float *block(const double *x, int c, int64_t p)
{
	float *b = ealigned(pad8(c) * p, 4);

	for (int i = 0; i < c; i++)
		for (int64_t j = 0; j < p; j++)
			b[((i / 8) * p + j) * 8 + i % 8] = x[i * p + j];
	return b;
}

/* Largest difference over the largest value; infinity where the padding is not zero. */
static double differ(const float *b, const double *x, int c, int64_t p)
{
	double worst = 0, top = 1e-30;

	for (int i = 0; i < pad8(c); i++)
		for (int64_t j = 0; j < p; j++) {
			float v = b[((i / 8) * p + j) * 8 + i % 8];
			if (i >= c) {
				if (v != 0)
					return INFINITY;
				continue;
			}
			double d = fabs(v - x[i * p + j]);
			worst = d > worst || isnan(d) ? d : worst;
			top = fmax(top, fabs(x[i * p + j]));
		}
	return worst / top;
}

static void test_winograd(const struct kernels *k, int c, int o, int h, int w, int pad, int n, bool flip)
{
	struct rng r = rng_at(c * 1000 + o, RNG_NOISE, h, w, pad);
	struct wino_shape s = { c, o, h, w, h + 2 * pad - 2, w + 2 * pad - 2, pad };
	int64_t ip = (int64_t)h * w, op = (int64_t)s.oh * s.ow;
	double *wt = random_doubles(&r, (size_t)c * o * 9), *bias = random_doubles(&r, pad8(o)), worst = 0;
	double *turned = ecalloc((size_t)c * o * 9, sizeof *turned), *want = ecalloc(o * op, sizeof *want);
	float *wf = ealigned((size_t)c * o * 9, 4), *bf = block(bias, o, 1), *u = ealigned(wino_filter_floats(c, o), 4);
	float *scratch = ealigned(wino_scratch_floats(c, o), 4);
	float *x = ealigned((size_t)n * pad8(c) * ip, 4), *y = ealigned((size_t)n * pad8(o) * op, 4);
	double **image = ecalloc(n, sizeof *image);
	char what[128];

	for (int i = 0; i < c * o * 9; i++)
		wf[i] = wt[i];
	for (int a = 0; a < o && flip; a++)
		for (int b = 0; b < c; b++)
			for (int t = 0; t < 9; t++)
				turned[(a * c + b) * 9 + t] = wt[(b * o + a) * 9 + 8 - t];
	for (int i = 0; i < n; i++) {
		image[i] = random_doubles(&r, c * ip);
		float *b = block(image[i], c, ip);
		memcpy(x + i * pad8(c) * ip, b, pad8(c) * ip * 4);
		free(b);
	}
	k->wino_filter(u, wf, c, o, flip);
	k->wino_conv(y, x, u, bf, scratch, n, &s);
	for (int i = 0; i < n; i++) {
		ref_conv(want, image[i], flip ? turned : wt, bias, c, h, w, o, s.oh, s.ow, 3, 1, pad);
		worst = fmax(worst, differ(y + i * pad8(o) * op, want, o, op));
	}
	snprintf(what, sizeof what, "winograd %d->%d %dx%d pad %d, %d images%s", c, o, h, w, pad, n, flip ? ", flipped" : "");
	report(worst < 2e-5, what, k->isa, worst);
	for (int i = 0; i < n; i++)
		free(image[i]);
	free(image), free(wt), free(bias), free(turned), free(want), free(wf), free(bf), free(u), free(scratch), free(x), free(y);
}

/* Stride 2: forward, and both gradients, of n images. */
static void test_polyphase(const struct kernels *k, int c, int o, int h, int w, int pad, int n)
{
	struct rng r = rng_at(c * 1000 + o, RNG_NOISE, h, w, pad);
	int oh = (h + 2 * pad - 3) / 2 + 1, ow = (w + 2 * pad - 3) / 2 + 1;
	struct direct_shape s = { c, o, h, w, oh, ow, 3, 2, pad };
	int64_t ip = (int64_t)h * w, op = (int64_t)oh * ow, xs = pad8(c) * ip, ys = pad8(o) * op;
	size_t nw = (size_t)o * c * 9, nu = poly_filter_floats(&s, false), nb = poly_filter_floats(&s, true);
	double *wt = random_doubles(&r, nw), *bias = random_doubles(&r, pad8(o)), *want = ecalloc(o * op + c * ip, sizeof *want);
	float *wf = ealigned(nw, 4), *bf = block(bias, o, 1), *u = ealigned(nu > nb ? nu : nb, 4);
	float *x = ealigned(n * xs, 4), *y = ealigned(n * ys, 4), *dy = ealigned(n * ys, 4), *dx = ealigned(n * xs, 4);
	float *dw = ealigned((size_t)pad8(o) * c * 9, 4), *want_dw = ealigned((size_t)pad8(o) * c * 9, 4);
	float *scratch = ealigned(poly_scratch_floats(&s), 4);
	double **xd = ecalloc(n, sizeof *xd), **dyd = ecalloc(n, sizeof *dyd), err[3] = { 0 }, top = 0;
	char what[128];

	for (size_t i = 0; i < nw; i++)
		wf[i] = wt[i];
	for (int i = 0; i < n; i++) {
		float *a = block(xd[i] = random_doubles(&r, c * ip), c, ip), *b = block(dyd[i] = random_doubles(&r, o * op), o, op);
		memcpy(x + i * xs, a, xs * 4);
		memcpy(dy + i * ys, b, ys * 4);
		k->conv_wgrad(want_dw, a, b, c, h, w, false, pad8(o) / 8, oh, ow, 3, 2, pad);
		free(a), free(b);
	}
	k->poly_filter(u, wf, &s, false);
	k->poly_conv(y, x, u, bf, scratch, n, &s);
	k->poly_filter(u, wf, &s, true);
	k->poly_dgrad(dx, dy, u, scratch, n, &s);
	k->poly_wgrad(dw, x, dy, scratch, n, &s);
	for (int i = 0; i < n; i++) {
		ref_conv(want, xd[i], wt, bias, c, h, w, o, oh, ow, 3, 2, pad);
		err[0] = fmax(err[0], differ(y + i * ys, want, o, op));
		ref_conv_dgrad(want, dyd[i], wt, c, h, w, o, oh, ow, 3, 2, pad);
		err[1] = fmax(err[1], differ(dx + i * xs, want, c, ip));
		free(xd[i]), free(dyd[i]);
	}
	for (size_t i = 0; i < (size_t)pad8(o) * c * 9; i++)
		err[2] = fmax(err[2], fabs((double)dw[i] - want_dw[i])), top = fmax(top, fabs(want_dw[i]));
	err[2] /= top;
	for (int j = 0; j < 3; j++) {
		snprintf(what, sizeof what, "polyphase %s %d->%d %dx%d pad %d, %d images",
		    (const char *[]){ "forward", "input gradient", "weight gradient" }[j], c, o, h, w, pad, n);
		report(err[j] < 2e-5, what, k->isa, err[j]);
	}
	free(wt), free(bias), free(want), free(wf), free(bf), free(u), free(x), free(y), free(dy), free(dx), free(dw);
	free(want_dw), free(scratch), free(xd), free(dyd);
}

static void test_image_conv(const struct kernels *k, int c, int o, int h, int w, int size, int stride, int pad, bool with_bias)
{
	struct rng r = rng_at(c * 1000 + o, RNG_NOISE, h, w, size);
	int oh = (h + 2 * pad - size) / stride + 1, ow = (w + 2 * pad - size) / stride + 1, taps = size * size;
	double *wt = random_doubles(&r, (size_t)o * c * taps), *x = random_doubles(&r, (size_t)c * h * w), *bias = random_doubles(&r, o);
	double *want = ecalloc((size_t)o * oh * ow, sizeof *want), worst;
	float *prepared = ealigned((size_t)pad8(o) * c * taps, 4), *xf = ealigned(c * h * w, 4), *bf = block(bias, o, 1);
	float *y = ealigned((size_t)pad8(o) * oh * ow, 4);
	char what[128];

	for (int i = 0; i < o * c * taps; i++)
		prepared[((i / c / taps / 8 * taps + i % taps) * c + i / taps % c) * 8 + i / c / taps % 8] = wt[i];
	for (int i = 0; i < c * h * w; i++)
		xf[i] = x[i];
	k->image_conv(y, xf, prepared, with_bias ? bf : NULL, c, h, w, pad8(o) / 8, oh, ow, size, stride, pad);
	ref_conv(want, x, wt, with_bias ? bias : NULL, c, h, w, o, oh, ow, size, stride, pad);
	worst = differ(y, want, o, (int64_t)oh * ow);
	snprintf(what, sizeof what, "image %d->%d %dx%d, %dx%d/%d pad %d", c, o, h, w, size, size, stride, pad);
	report(worst < 1e-5, what, k->isa, worst);
	free(wt), free(x), free(bias), free(want), free(prepared), free(xf), free(bf), free(y);
}

static void test_image_dgrad(const struct kernels *k, int c, int o, int h, int w, int size, int stride, int pad)
{
	struct rng r = rng_at(c * 1000 + o, RNG_NOISE, h, w, size);
	int oh = (h + 2 * pad - size) / stride + 1, ow = (w + 2 * pad - size) / stride + 1;
	double *wt = random_doubles(&r, (size_t)o * c * size * size), *dy = random_doubles(&r, (size_t)o * oh * ow), worst = 0, top = 0;
	double *want = ecalloc((size_t)c * h * w, sizeof *want);
	float *prepared = ealigned((size_t)pad8(o) * c * size * size, 4), *b = block(dy, o, (int64_t)oh * ow), *dx = ealigned(c * h * w, 4);
	char what[128];

	for (int i = 0; i < o; i++)
		for (int j = 0; j < c; j++)
			for (int t = 0; t < size * size; t++)
				prepared[(((i / 8) * size * size + t) * c + j) * 8 + i % 8] = wt[(i * c + j) * size * size + t];
	k->image_dgrad(dx, b, prepared, c, h, w, pad8(o) / 8, oh, ow, size, stride, pad);
	ref_conv_dgrad(want, dy, wt, c, h, w, o, oh, ow, size, stride, pad);
	for (int i = 0; i < c * h * w; i++) {
		worst = fmax(worst, fabs(dx[i] - want[i]));
		top = fmax(top, fabs(want[i]));
	}
	snprintf(what, sizeof what, "image gradient %d<-%d %dx%d, %dx%d/%d pad %d", c, o, h, w, size, size, stride, pad);
	report(worst / top < 1e-5, what, k->isa, worst / top);
	free(wt), free(dy), free(want), free(prepared), free(b), free(dx);
}

static void test_wgrad(const struct kernels *k, int c, int o, int h, int w, int size, int stride, int pad, bool plain)
{
	struct rng r = rng_at(c * 1000 + o, RNG_NOISE, h, w, size);
	int oh = (h + 2 * pad - size) / stride + 1, ow = (w + 2 * pad - size) / stride + 1;
	double *x = random_doubles(&r, (size_t)c * h * w), *dy = random_doubles(&r, (size_t)o * oh * ow), worst = 0, top = 0;
	float *dw = ealigned((size_t)pad8(o) * c * size * size, 4), *fy = block(dy, o, (int64_t)oh * ow), *fx;
	char what[128];

	fx = plain ? ealigned(c * h * w, 4) : block(x, c, (int64_t)h * w);
	for (int i = 0; plain && i < c * h * w; i++)
		fx[i] = x[i];
	k->conv_wgrad(dw, fx, fy, c, h, w, plain, pad8(o) / 8, oh, ow, size, stride, pad);
	for (int a = 0; a < o; a++)
		for (int i = 0; i < c; i++)
			for (int t = 0; t < size * size; t++) {
				double s = 0;
				for (int p = 0; p < oh; p++)
					for (int q = 0; q < ow; q++) {
						int yy = p * stride + t / size - pad, xx = q * stride + t % size - pad;
						if (yy >= 0 && xx >= 0 && yy < h && xx < w)
							s += dy[(a * oh + p) * ow + q] * x[(i * h + yy) * w + xx];
					}
				worst = fmax(worst, fabs(s - dw[(((a / 8) * c + i) * size * size + t) * 8 + a % 8]));
				top = fmax(top, fabs(s));
			}
	snprintf(what, sizeof what, "weight gradient %d->%d %dx%d, %dx%d/%d pad %d%s", c, o, h, w, size, size, stride, pad,
	    plain ? ", of an image" : "");
	report(worst / top < 1e-5, what, k->isa, worst / top);
	free(x), free(dy), free(dw), free(fy), free(fx);
}

/* The same gradient as conv_wgrad's, which has its own test, by Winograd. */
static void test_wino_wgrad(const struct kernels *k, int c, int o, int h, int w, int pad, int n)
{
	struct rng r = rng_at(c * 1000 + o, RNG_NOISE, h, w, 3);
	struct wino_shape s = { c, o, h, w, h + 2 * pad - 2, w + 2 * pad - 2, pad };
	int64_t ip = (int64_t)h * w, op = (int64_t)s.oh * s.ow;
	float *x = ealigned(n * pad8(c) * ip, 4), *dy = ealigned(n * pad8(o) * op, 4), *want = ealigned((size_t)pad8(o) * c * 9, 4);
	float *dw = ealigned((size_t)pad8(o) * c * 9, 4), *scratch = ealigned(wino_wgrad_scratch_floats(c, o), 4);
	double worst = 0, top = 0;
	char what[128];

	for (int i = 0; i < n; i++) {
		double *a = random_doubles(&r, c * ip), *b = random_doubles(&r, o * op);
		float *fa = block(a, c, ip), *fb = block(b, o, op);
		memcpy(x + i * pad8(c) * ip, fa, pad8(c) * ip * 4);
		memcpy(dy + i * pad8(o) * op, fb, pad8(o) * op * 4);
		k->conv_wgrad(want, fa, fb, c, h, w, false, pad8(o) / 8, s.oh, s.ow, 3, 1, pad);
		free(a), free(b), free(fa), free(fb);
	}
	dw[0] = 5; /* what is there is added to */
	k->wino_wgrad(dw, x, dy, scratch, n, &s);
	dw[0] -= 5;
	for (int i = 0; i < pad8(o) * c * 9; i++) {
		worst = fmax(worst, fabs((double)dw[i] - want[i]));
		top = fmax(top, fabs(want[i]));
	}
	snprintf(what, sizeof what, "winograd weight gradient %d->%d %dx%d pad %d, %d images", c, o, h, w, pad, n);
	report(worst / top < 2e-5, what, k->isa, worst / top);
	free(x), free(dy), free(dw), free(want), free(scratch);
}

/* Backward through a whole first layer at once: as its parts one by one, which have tests of their own. */
static void test_image_back(const struct kernels *k, int c, int o, int h, int w, int size, int pad, bool pool, bool with_x)
{
	struct rng r = rng_at(c * 1000 + o, RNG_NOISE, h, w, size);
	int oh = h + 2 * pad - size + 1, ow = w + 2 * pad - size + 1, ob = pad8(o) / 8;
	int64_t p = (int64_t)oh * ow, q = pool ? (int64_t)(oh / 2) * (ow / 2) : p;
	float *dy = ealigned(ob * 8 * q, 4), *more = ealigned(ob * 8 * q, 4), *x = ealigned(ob * 8 * p, 4), *wt, *coef[4];
	float *dz = ealigned(ob * 8 * p, 4), *image = ealigned(c * h * w, 4), *dx = ealigned(c * h * w, 4);
	float *want = ealigned(c * h * w, 4), *scratch = ealigned(image_back_floats(c, o, h, w, size, pad), 4);
	float *dw = ealigned((size_t)ob * 8 * c * 9, 4), *want_dw = ealigned((size_t)ob * 8 * c * 9, 4), *db = ealigned(ob * 8, 4);
	uint8_t *mask = ecalloc(ob * p, 1);
	const float *both[] = { dy, more };
	double err = 0, top = 0, sum[2] = { 0 };
	char what[128];

	wt = ealigned((size_t)ob * 8 * c * size * size, 4);
	for (int i = 0; i < ob * 8 * q; i++)
		dy[i] = rng_normal(&r), more[i] = rng_normal(&r);
	for (int i = 0; i < ob * 8 * p; i++)
		x[i] = rng_normal(&r);
	for (int i = 0; i < ob * p; i++)
		mask[i] = rng_below(&r, 256);
	for (int i = 0; i < ob * 8 * c * size * size; i++)
		wt[i] = rng_normal(&r);
	for (int i = 0; i < c * h * w; i++)
		image[i] = rng_normal(&r);
	for (int j = 0; j < 4; j++) {
		coef[j] = ealigned(ob * 8, 4);
		for (int i = 0; i < o; i++)
			coef[j][i] = rng_normal(&r);
	}
	struct feature_grad f = { both, 2, mask, pool, coef[0], coef[1], coef[2], coef[3], with_x ? x : NULL, ob, oh, ow };
	k->gather(dz, both, 2, mask, ob, oh, ow, pool);
	k->affine_back(dz, dz, f.x, coef[0], coef[1], coef[2], coef[3], ob, p);
	k->image_dgrad(want, dz, wt, c, h, w, ob, oh, ow, size, 1, pad);
	k->image_back(dx, &f, wt, scratch, c, h, w, size, pad);
	for (int i = 0; i < c * h * w; i++)
		err = fmax(err, fabs((double)dx[i] - want[i])), top = fmax(top, fabs(want[i]));
	snprintf(what, sizeof what, "first layer %d->%d %dx%d, %dx%d pad %d%s%s", c, o, h, w, size, size, pad, pool ? ", pooled" : "",
	    with_x ? ", statistics" : "");
	report(err / top < 1e-5, what, k->isa, err / top);
	if (size == 3) {
		dw[0] = want_dw[0] = 5; /* what is there is added to */
		k->conv_wgrad(want_dw, image, dz, c, h, w, true, ob, oh, ow, 3, 1, pad);
		k->image_wgrad(dw, db, &f, image, scratch, c, h, w, pad);
		err = top = 0;
		for (int i = 0; i < ob * 8 * c * 9; i++)
			err = fmax(err, fabs((double)dw[i] - want_dw[i])), top = fmax(top, fabs(want_dw[i]));
		for (int i = 0; i < p; i++)
			sum[0] += dz[i * 8 + 1], sum[1] += fabs(dz[i * 8 + 1]);
		report(err / top < 1e-5 && fabs(db[1] - sum[0]) < 1e-6 * sum[1], "its weights' and bias's", k->isa, err / top);
	}
	for (int j = 0; j < 4; j++)
		free(coef[j]);
	free(dy), free(more), free(x), free(wt), free(dz), free(image), free(dx), free(want), free(scratch), free(dw), free(want_dw);
	free(db), free(mask);
}

static void test_epilogue(const struct kernels *k, int c, int h, int w, bool with_res, bool relu, bool pool)
{
	struct rng r = rng_at(c, RNG_NOISE, h, w, with_res);
	int64_t p = (int64_t)h * w, q = pool ? (int64_t)(h / 2) * (w / 2) : p;
	double *x = random_doubles(&r, c * p), *res = with_res ? random_doubles(&r, c * p) : NULL;
	double *scale = random_doubles(&r, c), *shift = random_doubles(&r, c), *want = ecalloc(c * p, sizeof *want);
	double *g = random_doubles(&r, c * q), *h2 = random_doubles(&r, c * q), *dz = ecalloc(c * p, sizeof *dz);
	unsigned char *positive = ecalloc(c * p, 1);
	float *fx = block(x, c, p), *fr = res ? block(res, c, p) : NULL, *fs = block(scale, c, 1), *ft = block(shift, c, 1);
	float *y = ealigned(pad8(c) * p, 4), *fg = block(g, c, q), *fh = block(h2, c, q), *fz = ealigned(pad8(c) * p, 4);
	uint8_t *mask = ecalloc(pad8(c) / 8 * p, 1);
	const float *dy[] = { fg, fh };
	char what[128];
	double err;

	k->epilogue(y, relu ? mask : NULL, fx, fr, fs, ft, pad8(c) / 8, h, w, relu, pool);
	ref_epilogue(want, positive, x, res, scale, shift, c, h, w, relu, pool);
	err = differ(y, want, c, q);
	snprintf(what, sizeof what, "epilogue %dx%dx%d%s%s%s", c, h, w, with_res ? " +res" : "", relu ? " relu" : "", pool ? " pool" : "");
	report(err < 1e-6, what, k->isa, err);

	k->gather(fz, dy, 2, relu ? mask : NULL, pad8(c) / 8, h, w, pool);
	for (int i = 0; i < c; i++)
		for (int a = 0; a < h; a++)
			for (int b = 0; b < w; b++) {
				int64_t at = i * p + (int64_t)a * w + b, from = i * q + (int64_t)(a / 2) * (w / 2) + b / 2;
				bool inside = !pool || (a / 2 < h / 2 && b / 2 < w / 2);
				dz[at] = !inside || (relu && !positive[at]) ? 0 : pool ? (g[from] + h2[from]) / 4 : g[at] + h2[at];
			}
	err = differ(fz, dz, c, p);
	snprintf(what, sizeof what, "gather %dx%dx%d%s%s", c, h, w, relu ? " relu" : "", pool ? " pool" : "");
	report(err < 1e-6, what, k->isa, err);
	free(x), free(res), free(scale), free(shift), free(want), free(g), free(h2), free(dz), free(positive);
	free(fx), free(fr), free(fs), free(ft), free(y), free(fg), free(fh), free(fz), free(mask);
}

static void test_sums(const struct kernels *k, int c, int h, int w)
{
	struct rng r = rng_at(c, RNG_NOISE, h, w, 7);
	int64_t p = (int64_t)h * w;
	double *x = random_doubles(&r, c * p), *dz = random_doubles(&r, c * p), *ref = random_doubles(&r, c);
	double *a = random_doubles(&r, c), *b = random_doubles(&r, c), *g = random_doubles(&r, c);
	double *s1 = ecalloc(c, sizeof *s1), *s2 = ecalloc(c, sizeof *s2), *w1 = ecalloc(c, sizeof *w1), *w2 = ecalloc(c, sizeof *w2);
	double *want = ecalloc(c * p, sizeof *want), err = 0, top = sqrt((double)p);
	float *fx = block(x, c, p), *fz = block(dz, c, p), *fr = block(ref, c, 1), *out = ealigned(pad8(c) * p, 4);
	float *fa = block(a, c, 1), *fb = block(b, c, 1), *fg = block(g, c, 1);
	char what[128];

	k->sums(s1, s2, fx, fr, c, h, w);
	ref_sums(w1, w2, x, ref, c, p);
	for (int i = 0; i < c; i++)
		err = fmax(err, fmax(fabs(s1[i] - w1[i]) / (top + fabs(w1[i])), fabs(s2[i] - w2[i]) / w2[i]));
	snprintf(what, sizeof what, "sums %dx%dx%d", c, h, w);
	report(err < 1e-6, what, k->isa, err);

	memset(s1, 0, c * sizeof *s1), memset(s2, 0, c * sizeof *s2);
	k->sums_back(s1, s2, fz, fx, fr, c, h, w);
	err = 0;
	for (int i = 0; i < c; i++) {
		w1[i] = w2[i] = 0;
		for (int64_t j = 0; j < p; j++) {
			w1[i] += dz[i * p + j];
			w2[i] += dz[i * p + j] * (x[i * p + j] - ref[i]);
		}
		err = fmax(err, fmax(fabs(s1[i] - w1[i]), fabs(s2[i] - w2[i])) / top);
	}
	snprintf(what, sizeof what, "sums of gradients %dx%dx%d", c, h, w);
	report(err < 1e-5, what, k->isa, err);

	k->affine_back(out, fz, fx, fg, fa, fb, fr, pad8(c) / 8, p);
	for (int i = 0; i < c; i++)
		for (int64_t j = 0; j < p; j++)
			want[i * p + j] = g[i] * dz[i * p + j] + a[i] + b[i] * (x[i * p + j] - ref[i]);
	err = differ(out, want, c, p);
	snprintf(what, sizeof what, "norm's gradient %dx%dx%d", c, h, w);
	report(err < 1e-6, what, k->isa, err);
	free(x), free(dz), free(ref), free(a), free(b), free(g), free(s1), free(s2), free(w1), free(w2), free(want);
	free(fx), free(fz), free(fr), free(out), free(fa), free(fb), free(fg);
}

static void test_linear(const struct kernels *k, int n, int in, int out)
{
	struct rng r = rng_at(n, RNG_NOISE, in, out, 1);
	double *x = random_doubles(&r, n * in), *w = random_doubles(&r, in * out), *bias = random_doubles(&r, out), err = 0;
	float *fx = ealigned(n * in, 4), *fw = ealigned(in * out, 4), *fb = ealigned(out, 4), *y = ealigned(n * out, 4);
	float *alone = ealigned(out, 4), *dx = ealigned(n * in, 4), *dw = ealigned(in * out, 4), *dx1 = ealigned(in, 4);
	char what[128];
	int same = 1;

	for (int i = 0; i < n * in; i++)
		fx[i] = x[i];
	for (int i = 0; i < in * out; i++)
		fw[i] = w[i];
	for (int i = 0; i < out; i++)
		fb[i] = bias[i];
	k->linear(y, fx, fw, fb, n, in, out, out, in);
	for (int i = 0; i < n; i++) {
		for (int o = 0; o < out; o++) {
			double s = bias[o];
			for (int j = 0; j < in; j++)
				s += x[i * in + j] * w[o * in + j];
			err = fmax(err, fabs(s - y[i * out + o]) / sqrt(in));
		}
		k->linear(alone, fx + i * in, fw, fb, 1, in, out, out, in);
		same &= !memcmp(alone, y + i * out, out * sizeof *y);
	}
	snprintf(what, sizeof what, "linear %d x %d->%d, alone or together alike", n, in, out);
	report(err < 1e-5 && same, what, k->isa, err);
	k->linear_dgrad(dx, y, fw, n, in, out, in, out);
	err = 0, same = 1;
	for (int i = 0; i < n; i++) {
		for (int j = 0; j < in; j++) {
			double s = 0, size = 0;
			for (int o = 0; o < out; o++)
				s += y[i * out + o] * w[o * in + j], size += fabs(y[i * out + o] * w[o * in + j]);
			err = fmax(err, fabs(s - dx[i * in + j]) / size);
		}
		k->linear_dgrad(dx1, y + i * out, fw, 1, in, out, in, out);
		same &= !memcmp(dx1, dx + i * in, in * sizeof *dx);
	}
	report(err < 1e-6 && same, "linear's gradient, alone or together alike", k->isa, err);
	memcpy(dw, fw, (size_t)in * out * sizeof *dw);
	k->linear_wgrad(dw, y, fx, n, in, out, out, in);
	err = 0;
	for (int o = 0; o < out; o++)
		for (int j = 0; j < in; j++) {
			double s = w[o * in + j], size = fabs(s);
			for (int i = 0; i < n; i++)
				s += (double)y[i * out + o] * fx[i * in + j], size += fabs(y[i * out + o] * fx[i * in + j]);
			err = fmax(err, fabs(s - dw[o * in + j]) / size);
		}
	report(err < 1e-6, "linear's weight gradient", k->isa, err);
	free(dw), free(dx1);
	free(x), free(w), free(bias), free(fx), free(fw), free(fb), free(y), free(alone), free(dx);
}

/* To the last bit: a maximum rounds nothing, and sums go in one order. In some windows two are the largest; with a NaN. */
static void test_pool(const struct kernels *k, int c, int h, int w, int size, int stride, int pad)
{
	int cb = pad8(c) / 8, oh = (h + 2 * pad - size) / stride + 1, ow = (w + 2 * pad - size) / stride + 1, bad = 0, bad_back = 0;
	struct pool_shape s = { cb, h, w, oh, ow, size, stride, pad };
	size_t in = (size_t)cb * h * w * 8, out = (size_t)cb * oh * ow * 8;
	float *x = ealigned(in, 4), *dy = ealigned(out, 4), *y = ealigned(out, 4), *mean = ealigned(out, 4);
	float *dx = ealigned(in, 4), *want = ealigned(in, 4), *want_mean = ealigned(in, 4);
	uint8_t *choice = ealigned(out, 1);
	struct rng r = rng_at(5, RNG_NOISE, h, size, pad);

	for (size_t i = 0; i < in; i++)
		x[i] = (int)rng_below(&r, 7) - 3;
	x[in / 2] = NAN;
	for (size_t i = 0; i < out; i++)
		dy[i] = rng_normal(&r);
	k->max_pool(y, choice, x, &s);
	if (!pad)
		k->avg_pool(mean, x, &s);
	for (size_t o = 0; o < out; o++) {
		int l = o % 8, q = o / 8 % ow, p = o / 8 / ow % oh, b = o / 8 / ow / oh, pick = -1;
		float best = 0, sum = 0;

		for (int t = 0; t < size * size; t++) {
			int yy = p * stride + t / size - pad, xx = q * stride + t % size - pad;
			if (yy < 0 || xx < 0 || yy >= h || xx >= w)
				continue;
			float v = x[(((size_t)b * h + yy) * w + xx) * 8 + l];
			sum += v;
			if (pick < 0 || v > best || v != v)
				best = v, pick = t;
			if (!pad)
				want_mean[(((size_t)b * h + yy) * w + xx) * 8 + l] += dy[o] / (size * size);
		}
		want[(((size_t)b * h + p * stride + pick / size - pad) * w + q * stride + pick % size - pad) * 8 + l] += dy[o];
		sum /= size * size;
		bad += memcmp(&best, &y[o], sizeof best) != 0 || pick != choice[o] ||
		    (!pad && !(sum == mean[o] || (sum != sum && mean[o] != mean[o])));
	}
	k->max_pool_back(dx, dy, choice, &s);
	bad_back += memcmp(dx, want, in * sizeof *dx) != 0;
	if (!pad) {
		k->avg_pool_back(dx, dy, &s);
		bad_back += memcmp(dx, want_mean, in * sizeof *dx) != 0;
	}
	ok(!bad && !bad_back, "%s: pooling of %d channels of %dx%d by %d, stride %d, pad %d", k->isa, c, h, w, size, stride, pad);
	free(x), free(dy), free(y), free(mean), free(dx), free(want), free(want_mean), free(choice);
}

static void test_mean(const struct kernels *k, int c, int64_t p)
{
	int cb = pad8(c) / 8, bad = 0;
	float *x = ealigned(cb * p * 8, 4), *dx = ealigned(cb * p * 8, 4), *y = ealigned(cb * 8, 4);
	struct rng r = rng_at(6, RNG_NOISE, c, p, 0);

	for (int64_t i = 0; i < cb * p * 8; i++)
		x[i] = rng_normal(&r) + 100;
	k->mean(y, x, cb, p);
	k->mean_back(dx, y, cb, p);
	for (int i = 0; i < cb * 8; i++) {
		double sum = 0;
		for (int64_t j = 0; j < p; j++) {
			sum += x[(i / 8 * p + j) * 8 + i % 8];
			bad += dx[(i / 8 * p + j) * 8 + i % 8] != y[i] / p;
		}
		bad += y[i] != (float)(sum / p);
	}
	ok(!bad, "%s: means of %d channels of %lld", k->isa, c, (long long)p);
	free(x), free(dx), free(y);
}

/* t_kernels [ISA]: of one instruction set alone */
int main(int argc, char **argv)
{
	static const char *const isa[] = { "plain", "avx2", "avx512" };

	progname = "t_kernels";
	for (size_t i = 0; i < LEN(isa); i++) {
		const struct kernels *k = kernels_named(isa[i]);
		if (argc > 1 && strcmp(argv[1], isa[i]))
			continue;
		if (!k) {
			printf("# %s: not on this processor\n", isa[i]);
			continue;
		}
		test_winograd(k, 8, 16, 8, 8, 1, 1, false);
		test_winograd(k, 64, 64, 9, 7, 1, 3, false);
		test_winograd(k, 51, 103, 4, 4, 1, 9, false);
		test_winograd(k, 24, 20, 5, 6, 1, 2, true);
		test_winograd(k, 13, 3, 10, 10, 2, 2, true);
		test_winograd(k, 300, 7, 3, 3, 0, 1, false);
		test_winograd(k, 16, 32, 1, 1, 1, 5, false);
		test_polyphase(k, 16, 32, 32, 32, 1, 2);
		test_polyphase(k, 51, 103, 8, 8, 1, 9);
		test_polyphase(k, 13, 7, 15, 11, 1, 3);
		test_polyphase(k, 24, 16, 9, 14, 0, 2);
		test_polyphase(k, 8, 40, 10, 7, 2, 1);
		test_image_dgrad(k, 3, 64, 32, 32, 3, 1, 1);
		test_image_dgrad(k, 1, 20, 28, 28, 3, 1, 3);
		test_image_dgrad(k, 3, 64, 33, 37, 7, 2, 3);
		test_image_dgrad(k, 3, 10, 5, 3, 3, 1, 1);
		test_image_dgrad(k, 2, 9, 6, 6, 3, 1, 1);
		test_image_conv(k, 3, 128, 32, 32, 3, 1, 1, true);
		test_image_conv(k, 1, 32, 28, 28, 3, 1, 3, true);
		test_image_conv(k, 4, 72, 5, 11, 5, 1, 4, false);
		test_image_conv(k, 3, 64, 2, 1, 3, 1, 1, true);
		test_image_conv(k, 2, 40, 9, 14, 1, 1, 0, true);
		test_image_conv(k, 3, 51, 8, 16, 3, 1, 1, true);
		test_image_conv(k, 3, 16, 8, 16, 3, 1, 1, true);
		test_image_conv(k, 3, 32, 12, 9, 7, 2, 3, false);
		test_image_back(k, 3, 128, 32, 32, 3, 1, true, true);
		test_image_back(k, 1, 32, 28, 28, 3, 3, true, true);
		test_image_back(k, 1, 20, 9, 7, 3, 1, false, false);
		test_image_back(k, 2, 9, 5, 6, 3, 2, true, false);
		test_image_back(k, 4, 16, 13, 11, 5, 2, true, true);
		test_image_back(k, 3, 64, 6, 3, 3, 0, false, true);
		test_image_back(k, 3, 24, 2, 2, 1, 0, false, true);
		test_wgrad(k, 1, 16, 28, 28, 3, 1, 3, true);
		test_wgrad(k, 3, 20, 9, 7, 7, 2, 3, true);
		test_wgrad(k, 13, 11, 6, 5, 3, 2, 1, false);
		test_wgrad(k, 32, 40, 2, 2, 3, 1, 1, false);
		test_wgrad(k, 12, 8, 4, 4, 1, 2, 0, false);
		test_wino_wgrad(k, 16, 24, 8, 8, 1, 3);
		test_wino_wgrad(k, 51, 103, 5, 6, 1, 4);
		test_wino_wgrad(k, 64, 64, 32, 32, 1, 2);
		test_wino_wgrad(k, 9, 7, 4, 4, 0, 1);
		for (int f = 0; f < 8; f++) {
			test_epilogue(k, 16, 8, 8, f & 1, f & 2, f & 4);
			test_epilogue(k, 13, 7, 5, f & 1, f & 2, f & 4);
		}
		test_sums(k, 128, 16, 16);
		test_sums(k, 11, 5, 9);
		test_sums(k, 3, 1, 1);
		test_pool(k, 64, 16, 16, 3, 2, 1);
		test_pool(k, 13, 7, 9, 3, 2, 1);
		test_pool(k, 8, 5, 6, 2, 2, 0);
		test_pool(k, 9, 13, 11, 3, 2, 0);
		test_pool(k, 3, 15, 17, 15, 1, 7);
		test_pool(k, 24, 2, 2, 2, 2, 0);
		test_mean(k, 51, 49);
		test_mean(k, 8, 1);
		test_linear(k, 9, 2048, 10);
		test_linear(k, 3, 37, 13);
	}
	return tap_end();
}
