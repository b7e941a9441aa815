/* Differentiable siamese augmentation: draws, application, adjoint. Each of the six is affine in the image. */
#include "augment.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { NARROW = 512, LANES = 8 };

static const char *const dsa_name[DSA_KINDS] = {
	[DSA_NONE] = "none", [DSA_COLOUR] = "color", [DSA_CROP] = "crop", [DSA_CUTOUT] = "cutout",
	[DSA_FLIP] = "flip", [DSA_SCALE] = "scale", [DSA_ROTATE] = "rotate"
};

struct tap4 { /* one output pixel: sum of w[i] * in[at[i]]; neighbours outside have weight 0 and place 0 */
	int at[4];
	float w[4];
};

/* DSA's int(ratio*size + 0.5) */
static int share(double ratio, int size)
{
	return (int)(ratio * size + 0.5);
}

/* In lanes, so that it is quick and the order of additions is still fixed. */
static double mean(const float *x, size_t n)
{
	double lane[LANES] = { 0 }, sum = 0;
	size_t i = 0;

	for (; i + LANES <= n; i += LANES)
#pragma omp simd
		for (int k = 0; k < LANES; k++)
			lane[k] += x[i + k];
	for (; i < n; i++)
		sum += x[i];
	for (int k = 0; k < LANES; k++)
		sum += lane[k];
	return sum / n;
}

/* With b, s, c the factors of the three steps, m a pixel's mean over channels and M the image's mean:
 * out = c*s*x + c*(1-s)*m + (1-c)*M + b. The adjoint is the same without b: dx = c*s*g + c*(1-s)*m(g) + (1-c)*M(g).
 * add: accumulate instead of assigning. */
static void colour(float *out, const float *in, int c, size_t hw, double sat, double contrast, double bright, int add)
{
	float own = (float)(contrast * sat), pixel = (float)(contrast * (1 - sat) / c);
	float all = (float)((1 - contrast) * mean(in, c * hw) + bright);

	for (size_t from = 0; from < hw; from += NARROW) {
		float m[NARROW] = { 0 };
		int n = (int)MIN((size_t)NARROW, hw - from);

		for (int k = 0; k < c; k++) {
			const float *x = in + k * hw + from;

#pragma omp simd
			for (int i = 0; i < n; i++)
				m[i] += x[i];
		}
		for (int k = 0; k < c; k++) {
			const float *x = in + k * hw + from;
			float *o = out + k * hw + from;

			if (add)
#pragma omp simd
				for (int i = 0; i < n; i++)
					o[i] += own * x[i] + pixel * m[i] + all;
			else
#pragma omp simd
				for (int i = 0; i < n; i++)
					o[i] = own * x[i] + pixel * m[i] + all;
		}
	}
}

/* The part of out that a crop's shift fills: rows y0..y1, columns x0..x1. */
static void overlap(const struct dsa *d, int h, int w, int *y0, int *y1, int *x0, int *x1)
{
	*y0 = MAX(0, -d->dy), *y1 = MIN(h, h - d->dy);
	*x0 = MAX(0, -d->dx), *x1 = MIN(w, w - d->dx);
}

static void hole(const struct dsa *d, int h, int w, int *y0, int *y1, int *x0, int *x1)
{
	int sy = share(0.5, h), sx = share(0.5, w);

	*y0 = MAX(0, d->cy - sy / 2), *y1 = MIN(h, d->cy - sy / 2 + sy);
	*x0 = MAX(0, d->cx - sx / 2), *x1 = MIN(w, d->cx - sx / 2 + sx);
}

/* theta of affine_grid, without its translation, which is always 0 */
static void theta_of(const struct dsa *d, double theta[4])
{
	double c = cos(d->angle), s = sin(d->angle);

	if (d->kind == DSA_SCALE)
		theta[0] = d->sx, theta[1] = 0, theta[2] = 0, theta[3] = d->sy;
	else
		theta[0] = c, theta[1] = -s, theta[2] = s, theta[3] = c;
}

static void row_taps(struct tap4 *t, int y, int h, int w, const double theta[4])
{
	double ny = (2 * y + 1.0) / h - 1;

	for (int x = 0; x < w; x++) {
		double nx = (2 * x + 1.0) / w - 1;
		double sx = ((theta[0] * nx + theta[1] * ny + 1) * w - 1) / 2;
		double sy = ((theta[2] * nx + theta[3] * ny + 1) * h - 1) / 2;
		int x0 = (int)floor(sx), y0 = (int)floor(sy);
		double fx = sx - x0, fy = sy - y0;

		for (int i = 0; i < 4; i++) {
			int px = x0 + (i & 1), py = y0 + (i >> 1);
			int inside = px >= 0 && px < w && py >= 0 && py < h;

			t[x].at[i] = inside ? py * w + px : 0;
			t[x].w[i] = inside ? (float)((i & 1 ? fx : 1 - fx) * (i >> 1 ? fy : 1 - fy)) : 0;
		}
	}
}

/* A row of out (W) from a plane in (H,W). */
static void gather_row(float *out, const float *in, int w, const struct tap4 *taps)
{
	for (int x = 0; x < w; x++) {
		const struct tap4 *t = taps + x;

		out[x] = t->w[0] * in[t->at[0]] + t->w[1] * in[t->at[1]] + t->w[2] * in[t->at[2]] + t->w[3] * in[t->at[3]];
	}
}

/* Adds a row of dout (W) to the plane din (H,W). */
static void scatter_row(float *din, const float *dout, int w, const struct tap4 *taps)
{
	for (int x = 0; x < w; x++)
		for (int i = 0; i < 4; i++)
			din[taps[x].at[i]] += taps[x].w[i] * dout[x];
}

/* (C,H,W): out of in, or its adjoint, which adds dout to din. */
static void warp(float *to, const float *from, int c, int h, int w, const struct dsa *d, bool adjoint)
{
	struct tap4 narrow[NARROW], *taps = w <= NARROW ? narrow : emalloc(w * sizeof *taps);
	double theta[4];

	theta_of(d, theta);
	for (int y = 0; y < h; y++) {
		row_taps(taps, y, h, w, theta);
		for (int k = 0; k < c; k++) {
			size_t plane = (size_t)k * h * w, row = plane + (size_t)y * w;

			if (adjoint)
				scatter_row(to + plane, from + row, w, taps);
			else
				gather_row(to + row, from + plane, w, taps);
		}
	}
	if (taps != narrow)
		free(taps);
}

enum dsa_kind dsa_draw_kind(struct rng *r, unsigned mask)
{
	uint32_t nth;

	mask &= (1u << DSA_KINDS) - (1u << DSA_COLOUR);
	if (!mask)
		return DSA_NONE;
	nth = rng_below(r, __builtin_popcount(mask));
	for (int k = DSA_COLOUR; ; k++)
		if (mask >> k & 1 && !nth--)
			return k;
}

void dsa_draw(struct rng *r, enum dsa_kind kind, int h, int w, struct dsa *d)
{
	int sy, sx;

	*d = (struct dsa){ .kind = kind };
	switch (kind) {
	case DSA_COLOUR:
		d->bright = (float)rng_uniform(r);
		d->sat = (float)rng_uniform(r);
		d->contrast = (float)rng_uniform(r);
		break;
	case DSA_CROP:
		sy = share(0.125, h), sx = share(0.125, w);
		d->dy = (int)rng_below(r, 2 * sy + 1) - sy;
		d->dx = (int)rng_below(r, 2 * sx + 1) - sx;
		break;
	case DSA_CUTOUT: /* a square of even side has one more place to be */
		d->cy = (int)rng_below(r, h + 1 - share(0.5, h) % 2);
		d->cx = (int)rng_below(r, w + 1 - share(0.5, w) % 2);
		break;
	case DSA_FLIP:
		d->flip = rng_uniform(r) < 0.5;
		break;
	case DSA_SCALE:
		d->sx = (float)rng_range(r, 1 / 1.2, 1.2);
		d->sy = (float)rng_range(r, 1 / 1.2, 1.2);
		break;
	case DSA_ROTATE:
		d->angle = (float)(rng_range(r, -15, 15) / 180 * M_PI);
		break;
	default:
		break;
	}
}

unsigned dsa_parse(const char *names, char err[ERRLEN])
{
	unsigned mask = 0;

	for (const char *p = names; ; p++) {
		size_t n = strcspn(p, "_");
		int k = DSA_COLOUR;

		while (k < DSA_KINDS && (strlen(dsa_name[k]) != n || strncmp(dsa_name[k], p, n)))
			k++;
		if (k == DSA_KINDS) {
			fail(err, "%.*s: no DSA augmentation; there are color, crop, cutout, flip, scale, rotate, joined by _",
				(int)MIN(n, (size_t)100), p);
			return 0;
		}
		mask |= 1u << k;
		p += n;
		if (!*p)
			return mask;
	}
}

void dsa_apply(float *out, const float *in, int c, int h, int w, const struct dsa *d)
{
	size_t hw = (size_t)h * w;
	int y0, y1, x0, x1;

	switch (d->kind) {
	case DSA_COLOUR:
		colour(out, in, c, hw, d->sat * 2.0, d->contrast + 0.5, d->bright - 0.5, 0);
		return;
	case DSA_CROP:
		overlap(d, h, w, &y0, &y1, &x0, &x1);
		memset(out, 0, c * hw * sizeof *out);
		for (int k = 0; k < c; k++)
			for (int y = y0; y < y1 && x0 < x1; y++)
				memcpy(out + k * hw + (size_t)y * w + x0, in + k * hw + (size_t)(y + d->dy) * w + x0 + d->dx,
					(x1 - x0) * sizeof *out);
		return;
	case DSA_CUTOUT:
		hole(d, h, w, &y0, &y1, &x0, &x1);
		memcpy(out, in, c * hw * sizeof *out);
		for (int k = 0; k < c; k++)
			for (int y = y0; y < y1 && x0 < x1; y++)
				memset(out + k * hw + (size_t)y * w + x0, 0, (x1 - x0) * sizeof *out);
		return;
	case DSA_FLIP:
		if (!d->flip)
			break;
		for (size_t y = 0; y < (size_t)c * h; y++)
			for (int x = 0; x < w; x++)
				out[y * w + x] = in[y * w + w - 1 - x];
		return;
	case DSA_SCALE:
	case DSA_ROTATE:
		warp(out, in, c, h, w, d, false);
		return;
	default:
		break;
	}
	memcpy(out, in, c * hw * sizeof *out);
}

void dsa_adjoint(float *din, const float *dout, int c, int h, int w, const struct dsa *d)
{
	size_t hw = (size_t)h * w;
	int y0, y1, x0, x1;

	switch (d->kind) {
	case DSA_COLOUR:
		colour(din, dout, c, hw, d->sat * 2.0, d->contrast + 0.5, 0, 1);
		return;
	case DSA_CROP:
		overlap(d, h, w, &y0, &y1, &x0, &x1);
		for (int k = 0; k < c; k++)
			for (int y = y0; y < y1; y++)
				for (int x = x0; x < x1; x++)
					din[k * hw + (size_t)(y + d->dy) * w + x + d->dx] += dout[k * hw + (size_t)y * w + x];
		return;
	case DSA_CUTOUT:
		hole(d, h, w, &y0, &y1, &x0, &x1);
		for (int k = 0; k < c; k++)
			for (int y = 0; y < h; y++)
				for (int x = 0; x < w; x++)
					if (y < y0 || y >= y1 || x < x0 || x >= x1)
						din[k * hw + (size_t)y * w + x] += dout[k * hw + (size_t)y * w + x];
		return;
	case DSA_FLIP:
		if (!d->flip)
			break;
		for (size_t y = 0; y < (size_t)c * h; y++)
			for (int x = 0; x < w; x++)
				din[y * w + w - 1 - x] += dout[y * w + x];
		return;
	case DSA_SCALE:
	case DSA_ROTATE:
		warp(din, dout, c, h, w, d, true);
		return;
	default:
		break;
	}
	for (size_t i = 0; i < c * hw; i++)
		din[i] += dout[i];
}
