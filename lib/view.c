/* Geometric views: crop and resample, flip, roll; and their adjoints. Flip and roll are folded into the tables that say
 * where an output column or row comes from, so each image is read and written once. */
#include "augment.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { NARROW = 512 }; /* images up to this wide keep their tables on the stack */

struct tap { /* one output place: in[a] + w * (in[b] - in[a]) */
	int a, b;
	float w;
};

static int wrap(int i, int n)
{
	i %= n;
	return i < 0 ? i + n : i;
}

/* Where place i of n lies among len source places: half-pixel centres, edges repeated. */
static struct tap tap_at(int i, int n, int len)
{
	double s = MAX((i + 0.5) * len / n - 0.5, 0);
	int a = (int)s;

	return (struct tap){ a, MIN(a + 1, len - 1), (float)(s - a) };
}

/* The column of the view, before flip and roll, that lands in column x of the output. */
static int unroll_column(const struct view *v, int x, int w)
{
	x = wrap(x - v->dx, w);
	return v->flip ? w - 1 - x : x;
}

static int resamples(const struct view *v, int h, int w)
{
	return !v->zero && (v->height != h || v->width != w);
}

static void column_taps(struct tap *t, const struct view *v, int w)
{
	for (int x = 0; x < w; x++) {
		t[x] = tap_at(unroll_column(v, x, w), w, v->width);
		t[x].a += v->left;
		t[x].b += v->left;
	}
}

/* A shift copies whole pixels: column x comes from t[x].a, or from outside when that is -1. */
static void column_sources(struct tap *t, const struct view *v, int w)
{
	for (int x = 0; x < w; x++) {
		int s = unroll_column(v, x, w) + v->left;

		t[x].a = s < 0 || s >= w ? -1 : s;
	}
}

static void shift_plane(float *out, const float *in, int h, int w, const struct view *v, const struct tap *t)
{
	for (int y = 0; y < h; y++) {
		float *o = out + (size_t)wrap(y + v->dy, h) * w;
		int s = y + v->top, inside = s >= 0 && s < h;
		const float *row = in + (inside ? (size_t)s * w : 0);

		for (int x = 0; x < w; x++)
			o[x] = !inside || t[x].a < 0 ? 0 : row[t[x].a];
	}
}

static void shift_plane_adjoint(float *din, const float *dout, int h, int w, const struct view *v, const struct tap *t)
{
	for (int y = 0; y < h; y++) {
		const float *g = dout + (size_t)wrap(y + v->dy, h) * w;
		int s = y + v->top;

		for (int x = 0; x < w && s >= 0 && s < h; x++)
			if (t[x].a >= 0)
				din[(size_t)s * w + t[x].a] += g[x];
	}
}

/* Source rows are stretched once each: two neighbours are live at a time, row i in buffer i & 1. */
static void resample_plane(float *out, const float *in, int h, int w, const struct view *v,
	const struct tap *t, float *buf)
{
	int have[2] = { -1, -1 };

	for (int y = 0; y < h; y++) {
		struct tap ty = tap_at(y, h, v->height);
		float *o = out + (size_t)wrap(y + v->dy, h) * w;
		const float *a = buf + (ty.a & 1) * w, *b = buf + (ty.b & 1) * w;

		for (int i = ty.a; i <= ty.b; i++) {
			const float *row = in + (size_t)(v->top + i) * w;
			float *stretched = buf + (i & 1) * w;

			if (have[i & 1] == i)
				continue;
			have[i & 1] = i;
			for (int x = 0; x < w; x++)
				stretched[x] = row[t[x].a] + t[x].w * (row[t[x].b] - row[t[x].a]);
		}
#pragma omp simd
		for (int x = 0; x < w; x++)
			o[x] = a[x] + ty.w * (b[x] - a[x]);
	}
}

/* Gathers a stretched row's gradient into its source row, and empties it for the next. */
static void squeeze_row(float *drow, float *g, int w, const struct tap *t)
{
	for (int x = 0; x < w; x++) {
		drow[t[x].a] += g[x] - t[x].w * g[x];
		drow[t[x].b] += t[x].w * g[x];
		g[x] = 0;
	}
}

/* Enlarging steps through the source one row at a time or stays, so two rows of gradients are enough here too. */
static void resample_plane_adjoint(float *din, const float *dout, int h, int w, const struct view *v,
	const struct tap *t, float *buf)
{
	float *d = din + (size_t)v->top * w;
	int live = 0;

	memset(buf, 0, 2 * (size_t)w * sizeof *buf);
	for (int y = 0; y < h; y++) {
		struct tap ty = tap_at(y, h, v->height);
		const float *g = dout + (size_t)wrap(y + v->dy, h) * w;
		float *a = buf + (ty.a & 1) * w, *b = buf + (ty.b & 1) * w;

		for (; live < ty.a; live++)
			squeeze_row(d + (size_t)live * w, buf + (live & 1) * w, w, t);
		if (a == b) { /* the last row, repeated below the edge */
			for (int x = 0; x < w; x++)
				a[x] += g[x];
			continue;
		}
#pragma omp simd
		for (int x = 0; x < w; x++) {
			float gb = ty.w * g[x];

			a[x] += g[x] - gb;
			b[x] += gb;
		}
	}
	for (; live < v->height; live++)
		squeeze_row(d + (size_t)live * w, buf + (live & 1) * w, w, t);
}

void view_draw_rrc(struct rng *r, int h, int w, double smin, double smax, struct view *v)
{
	double area = (double)h * w, ratio = (double)w / h;

	*v = VIEW_IDENTITY(h, w);
	for (int try = 0; try < 10; try++) {
		double target = area * rng_range(r, smin, smax);
		double aspect = exp(rng_range(r, log(3.0 / 4), log(4.0 / 3)));
		double cw = rint(sqrt(target * aspect)), ch = rint(sqrt(target / aspect)); /* half to even, as Python rounds */

		if (cw < 1 || ch < 1 || cw > w || ch > h)
			continue;
		v->height = (int)ch;
		v->width = (int)cw;
		v->top = (int)rng_below(r, h - v->height + 1);
		v->left = (int)rng_below(r, w - v->width + 1);
		return;
	}
	if (ratio < 3.0 / 4)
		v->height = MIN((int)rint(w / (3.0 / 4)), h);
	else if (ratio > 4.0 / 3)
		v->width = MIN((int)rint(h * (4.0 / 3)), w);
	v->top = (h - v->height) / 2;
	v->left = (w - v->width) / 2;
}

void view_draw_pad(struct rng *r, int h, int w, int pad, struct view *v)
{
	*v = VIEW_IDENTITY(h, w);
	v->zero = pad;
	v->top = (int)rng_below(r, 2 * pad + 1) - pad;
	v->left = (int)rng_below(r, 2 * pad + 1) - pad;
}

struct view swap_view(int swap, int h, int w)
{
	struct view v = VIEW_IDENTITY(h, w);

	v.dx = swap & SWAP_ACROSS ? -(w / 2) : 0;
	v.dy = swap & SWAP_DOWN ? -(h / 2) : 0;
	return v;
}

int swap_of(const struct view *v)
{
	return (v->dx ? SWAP_ACROSS : 0) | (v->dy ? SWAP_DOWN : 0);
}

/* (C,H,W): view_apply, or its adjoint, plane by plane. */
static void through(float *to, const float *from, int c, int h, int w, const struct view *v, bool adjoint)
{
	struct tap tap_narrow[NARROW], *t = w <= NARROW ? tap_narrow : emalloc(w * sizeof *t);
	float buf_narrow[2 * NARROW], *buf = w <= NARROW ? buf_narrow : emalloc(2 * (size_t)w * sizeof *buf);
	bool stretch = resamples(v, h, w);

	if (stretch)
		column_taps(t, v, w);
	else
		column_sources(t, v, w);
	for (int k = 0; k < c; k++) {
		size_t at = (size_t)k * h * w;

		if (stretch)
			(adjoint ? resample_plane_adjoint : resample_plane)(to + at, from + at, h, w, v, t, buf);
		else
			(adjoint ? shift_plane_adjoint : shift_plane)(to + at, from + at, h, w, v, t);
	}
	if (w > NARROW) {
		free(t);
		free(buf);
	}
}

void view_apply(float *out, const float *in, int c, int h, int w, const struct view *v)
{
	through(out, in, c, h, w, v, false);
}

void view_adjoint(float *din, const float *dout, int c, int h, int w, const struct view *v)
{
	through(din, dout, c, h, w, v, true);
}
