/* Draws and augmentations: known answers, PyTorch's fixtures, adjoints, moments. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../lib/augment.h"
#include "../lib/dataset.h"
#include "tap.h"

#define FIXTURES "tests/fixtures/augment.bin"

static double worst(const float *a, const float *b, size_t n)
{
	double d = 0;

	for (size_t i = 0; i < n; i++) {
		double e = fabs((double)a[i] - b[i]);

		if (!(e <= d)) /* NaN counts */
			d = isnan(e) ? INFINITY : e;
	}
	return d;
}

static double dot(const float *a, const float *b, size_t n)
{
	double s = 0;

	for (size_t i = 0; i < n; i++)
		s += (double)a[i] * b[i];
	return s;
}

static void fill(struct rng *r, float *x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		x[i] = (float)rng_normal(r);
}

static void test_philox(void)
{
	static const uint32_t want[3][4] = {
		{ 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 },
		{ 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd },
		{ 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 }
	};
	struct rng r[3] = {
		{ .left = 0 },
		{ { ~0u, ~0u }, { ~0u, ~0u, ~0u, ~0u }, { 0 }, 0 },
		{ { 0xa4093822, 0x299f31d0 }, { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 }, { 0 }, 0 }
	};

	for (int i = 0; i < 3; i++) {
		int good = 1;

		for (int k = 0; k < 4; k++)
			good &= rng_u32(&r[i]) == want[i][k];
		ok(good, "philox4x32-10: known answer %d", i);
	}

	struct rng a = rng_at(1, RNG_NOISE, 2, 3, 4), b = { { 1, RNG_NOISE }, { 2, 3, 4, 1 }, { 0 }, 0 };

	for (int k = 0; k < 4; k++)
		rng_u32(&a);
	ok(rng_u32(&a) == rng_u32(&b), "rng_at: key is (seed, purpose), counter is (a, b, c, block)");
}

enum draw { D_UNIFORM, D_NORMAL, D_BETA1, D_BETA02, D_BETA_MIXED, D_BETA3, D_DRAWS };

static double draw(struct rng *r, enum draw what)
{
	switch (what) {
	case D_UNIFORM: return rng_range(r, -1, 3);
	case D_NORMAL: return rng_normal(r);
	case D_BETA1: return rng_beta(r, 1, 1);
	case D_BETA02: return rng_beta(r, 0.2, 0.2);
	case D_BETA_MIXED: return rng_beta(r, 2, 0.5);
	default: return rng_beta(r, 3, 5);
	}
}

/* Mean and variance within five standard errors (that of the variance from the sample's fourth moment). */
static void test_moments(void)
{
	static const struct { const char *name; double mean, var; } want[D_DRAWS] = {
		{ "uniform -1..3", 1, 16 / 12.0 }, { "normal", 0, 1 }, { "beta 1,1", 0.5, 1 / 12.0 },
		{ "beta 0.2,0.2", 0.5, 0.25 / 1.4 }, { "beta 2,0.5", 0.8, 1 / (6.25 * 3.5) }, { "beta 3,5", 0.375, 15 / 576.0 }
	};
	enum { N = 100000 };

	for (int k = 0; k < D_DRAWS; k++) {
		struct rng r = rng_at(5, RNG_NOISE, k, 0, 0);
		double mean = 0, var = 0, fourth = 0;

		for (int i = 0; i < N; i++) {
			double d = draw(&r, k) - want[k].mean;

			mean += d / N, var += d * d / N, fourth += d * d * d * d / N;
		}
		ok(fabs(mean) < 5 * sqrt(want[k].var / N), "%s: mean (off by %.2g)", want[k].name, mean);
		ok(fabs(var - want[k].var) < 5 * sqrt((fourth - var * var) / N), "%s: variance (%.5g for %.5g)",
			want[k].name, var, want[k].var);
	}
}

static void test_below(void)
{
	struct rng r = rng_at(9, RNG_PICK, 0, 0, 0);
	enum { N = 70000 };
	int64_t p[50], place[50] = { 0 };
	int count[7] = { 0 }, seen = 0;
	double chi2 = 0, mid = 0;

	for (int i = 0; i < N; i++)
		count[rng_below(&r, 7)]++;
	for (int i = 0; i < 7; i++)
		chi2 += (count[i] - N / 7.0) * (count[i] - N / 7.0) / (N / 7.0);
	ok(chi2 < 22.5, "rng_below: uniform over 7 (chi2 %.1f)", chi2); /* p = 0.001 */

	for (int i = 0; i < N; i++) /* three quarters of 2^32: plain modulo would put two thirds below the middle */
		mid += rng_below(&r, 3u << 30) < 3u << 29;
	ok(fabs(mid / N - 0.5) < 0.01, "rng_below: no bias at 3*2^30 (%.3f)", mid / N);

	rng_permute(&r, p, 50);
	for (int i = 0; i < 50; i++)
		seen += p[i] >= 0 && p[i] < 50 && !place[p[i]]++;
	ok(seen == 50, "rng_permute: a permutation");
	int first[6] = { 0 };
	for (int i = 0; i < 60000; i++) {
		rng_permute(&r, p, 3);
		first[p[0] * 2 + (p[1] > p[2])]++;
	}
	chi2 = 0;
	for (int i = 0; i < 6; i++)
		chi2 += (first[i] - 1e4) * (first[i] - 1e4) / 1e4;
	ok(chi2 < 20.5, "rng_permute: all six orders of three alike (chi2 %.1f)", chi2);
}

/* One augmentation, whichever it is. */
struct what {
	int is_view;
	struct view v;
	struct dsa d;
};

static void apply(float *out, const float *in, int c, int h, int w, const struct what *a)
{
	if (a->is_view)
		view_apply(out, in, c, h, w, &a->v);
	else
		dsa_apply(out, in, c, h, w, &a->d);
}

static void adjoint(float *din, const float *dout, int c, int h, int w, const struct what *a)
{
	if (a->is_view)
		view_adjoint(din, dout, c, h, w, &a->v);
	else
		dsa_adjoint(din, dout, c, h, w, &a->d);
}

static struct what from_record(int kind, const float *p)
{
	struct what a = { .is_view = !kind, .d.kind = kind };

	a.v = (struct view){ (int)p[0], (int)p[1], (int)p[2], (int)p[3], (int)p[4], (int)p[5], (int)p[6], (int)p[7] };
	a.d.bright = p[0], a.d.sat = p[1], a.d.contrast = p[2];
	a.d.dy = a.d.cy = (int)p[0], a.d.dx = a.d.cx = (int)p[1];
	a.d.flip = (int)p[0];
	a.d.sx = p[0], a.d.sy = p[1];
	a.d.angle = p[0];
	return a;
}

static void test_rrc(const float *p, int h, int w)
{
	enum { N = 4000 };
	struct rng r = rng_at(3, RNG_RECIPE, h, w, 0);
	double mean[4] = { 0 }, sq[4] = { 0 };
	static const char *const name[] = { "area", "log ratio", "top", "left" };

	for (int i = 0; i < N; i++) {
		struct view v;

		view_draw_rrc(&r, h, w, p[0], p[1], &v);
		if (v.top < 0 || v.left < 0 || v.height < 1 || v.width < 1 || v.top + v.height > h || v.left + v.width > w)
			mean[0] = NAN;
		double x[] = { (double)v.height * v.width / (h * w), log((double)v.width / v.height),
			(double)v.top / h, (double)v.left / w };

		for (int k = 0; k < 4; k++)
			mean[k] += x[k] / N, sq[k] += x[k] * x[k] / N;
	}
	for (int k = 0; k < 4; k++) {
		double m = p[2 + 2 * k], dev = p[3 + 2 * k], ours = sqrt(sq[k] - mean[k] * mean[k]);

		ok(fabs(mean[k] - m) <= 5 * dev * sqrt(2.0 / N) + 1e-6 && fabs(ours - dev) <= 0.08 * dev + 1e-6,
			"random resized crop %dx%d from %g: %s %.3f (torchvision %.3f) +- %.3f (%.3f)", h, w, p[0], name[k],
			mean[k], m, ours, dev);
	}
}

static void test_box(const float *p, int h, int w)
{
	struct mix m = { .kind = MIX_CUTMIX };

	mix_box(&m, p[0], (int)p[1], (int)p[2], h, w);
	ok(m.y0 == p[3] && m.y1 == p[4] && m.x0 == p[5] && m.x1 == p[6] && fabsf(m.lambda - p[7]) < 1e-6,
		"CutMix box %dx%d, lambda %g about (%g,%g)", h, w, p[0], p[1], p[2]);
}

static void test_fixtures(void)
{
	FILE *fp = fopen(FIXTURES, "rb");
	int32_t head[8];
	float p[16];
	int nrecord = 0;

	if (!fp) {
		ok(0, "%s opens", FIXTURES);
		return;
	}
	while (fread(head, sizeof head, 1, fp) == 1 && head[0] >= 0) {
		int kind = head[0], c = head[1], h = head[2], w = head[3];
		size_t n = (size_t)c * h * w;

		nrecord++;
		if (fread(p, sizeof p, 1, fp) != 1)
			break;
		if (kind == 100) {
			test_box(p, h, w);
			continue;
		}
		if (kind == 101) {
			test_rrc(p, h, w);
			continue;
		}
		float *t = emalloc(6 * n * sizeof *t); /* 6 x (C,H,W): image, want, cotangent, its gradient, ours twice */
		struct what a = from_record(kind, p);

		if (fread(t, sizeof *t, 4 * n, fp) != 4 * n) {
			free(t);
			break;
		}
		for (size_t i = 0; i < n; i++)
			t[5 * n + i] = 1; /* adjoints accumulate */
		apply(t + 4 * n, t, c, h, w, &a);
		adjoint(t + 5 * n, t + 2 * n, c, h, w, &a);
		for (size_t i = 0; i < n; i++)
			t[3 * n + i] += 1;
		double e = worst(t + 4 * n, t + n, n), eg = worst(t + 5 * n, t + 3 * n, n);
		double tol = kind == 0 || kind > 4 ? 2e-6 : kind == 1 ? 4e-6 : 0; /* else pixels are only moved */

		ok(e <= tol && eg <= 1e-5, "PyTorch's kind %d %dx%dx%d (%g %g %g %g): %.1e, gradient %.1e", kind, c, h, w,
			p[0], p[1], p[2], p[3], e, eg);
		free(t);
	}
	ok(head[0] == -1 && nrecord == 120, "%s read to its end: %d records", FIXTURES, nrecord);
	fclose(fp);
}

/* <J x, y> = <x, J^T y>, J being the linear part; random draws at real sizes, wide ones included. */
static void test_adjoints(void)
{
	static const int size[][3] = { { 3, 32, 32 }, { 1, 28, 28 }, { 3, 224, 224 }, { 2, 3, 600 }, { 1, 1, 1 } };
	static const char *const name[] = { "view", "colour", "crop", "cutout", "flip", "scale", "rotate", "pad" };

	for (size_t s = 0; s < LEN(size); s++) {
		int c = size[s][0], h = size[s][1], w = size[s][2];
		size_t n = (size_t)c * h * w;
		float *x = ecalloc(n, 5 * sizeof *x), *y = x + n, *jx = x + 2 * n, *jy = x + 3 * n, *zero = x + 4 * n;

		for (int kind = 0; kind < 8; kind++) {
			double err = 0;

			for (int t = 0; t < 8; t++) {
				struct rng r = rng_at(11, RNG_SYNTHAUG, kind, t, (uint32_t)s);
				struct what a = { .is_view = kind == 0 || kind == 7 };

				if (kind == 0)
					view_draw_rrc(&r, h, w, 0.08, 1, &a.v);
				else if (kind == 7)
					view_draw_pad(&r, h, w, 4, &a.v);
				else
					dsa_draw(&r, kind, h, w, &a.d);
				a.v.flip = t & 1;
				a.v.dy = t - 3, a.v.dx = 2 * t;
				fill(&r, x, n);
				fill(&r, y, n);
				memset(zero, 0, n * sizeof *zero);
				apply(jy, zero, c, h, w, &a); /* the constant part */
				apply(jx, x, c, h, w, &a);
				for (size_t i = 0; i < n; i++)
					jx[i] -= jy[i];
				double left = dot(jx, y, n), scale = sqrt(dot(jx, jx, n) * dot(y, y, n));

				memset(jy, 0, n * sizeof *jy);
				adjoint(jy, y, c, h, w, &a);
				scale += sqrt(dot(x, x, n) * dot(jy, jy, n));
				err = fmax(err, scale > 0 ? fabs(left - dot(x, jy, n)) / scale : fabs(left));
			}
			ok(err < 1e-6, "adjoint of %s at %dx%dx%d (%.1e)", name[kind], c, h, w, err);
		}
		free(x);
	}
}

static void test_draws(void)
{
	struct rng r = rng_at(2, RNG_STUDENT, 0, 0, 0);
	char err[ERRLEN] = "";
	unsigned all = dsa_parse("color_crop_cutout_flip_scale_rotate", err), two = dsa_parse("flip_scale", err);
	int count[DSA_KINDS] = { 0 }, pad[9][9] = { { 0 } }, hit = 0, good = 1;

	ok(all == 0x7e && two == (1u << DSA_FLIP | 1u << DSA_SCALE), "dsa_parse: masks");
	ok(!dsa_parse("flip_rotat", err) && strstr(err, "rotat"), "dsa_parse: unknown name: %s", err);
	ok(!dsa_parse("", err) && !dsa_parse("flip_", err), "dsa_parse: empty names");
	for (int i = 0; i < 60000; i++)
		count[dsa_draw_kind(&r, all)]++;
	for (int k = DSA_COLOUR; k < DSA_KINDS; k++)
		good &= abs(count[k] - 10000) < 500;
	ok(good && !count[DSA_NONE], "dsa_draw_kind: all six alike");
	good = 1;
	for (int i = 0; i < 1000; i++) {
		int k = dsa_draw_kind(&r, two);

		good &= k == DSA_FLIP || k == DSA_SCALE;
	}
	ok(good && dsa_draw_kind(&r, 0) == DSA_NONE, "dsa_draw_kind: within the mask");

	good = 1;
	for (int i = 0; i < 20000; i++) {
		struct dsa d;

		dsa_draw(&r, DSA_COLOUR + i % 6, 32, 9, &d);
		good &= abs(d.dy) <= 4 && abs(d.dx) <= 1 && d.cy >= 0 && d.cy <= 32 && d.cx >= 0 && d.cx < 9;
		good &= d.kind != DSA_SCALE || (d.sx >= 0.83333f && d.sx <= 1.2f && d.sy >= 0.83333f && d.sy <= 1.2f);
		good &= fabsf(d.angle) <= 0.2618f && d.bright >= 0 && d.bright <= 1 && d.sat >= 0 && d.contrast >= 0;
		hit |= (d.dy == 4) | (d.dy == -4) << 1 | (d.cy == 32) << 2 | (d.cx == 8) << 3 | (d.flip) << 4;
		hit |= (d.angle > 0.25f) << 5 | (d.angle < -0.25f) << 6 | (d.sx > 1.19f) << 7 | (d.dx == -1) << 8;
	}
	ok(good && hit == 0x1ff, "dsa_draw: ranges, and both their ends (%x)", hit);

	hit = 0;
	good = 1;
	for (int i = 0; i < 8100; i++) {
		struct view v;

		view_draw_pad(&r, 32, 32, 4, &v);
		good &= v.zero == 4 && v.height == 32 && v.width == 32 && abs(v.top) <= 4 && abs(v.left) <= 4;
		if (good)
			pad[v.top + 4][v.left + 4]++;
	}
	for (int i = 0; i < 81; i++)
		hit += pad[i / 9][i % 9] > 50 && pad[i / 9][i % 9] < 160;
	ok(good && hit == 81, "view_draw_pad: all places alike");

	double own = 0, lambda = 0;
	good = 1;
	for (int i = 0; i < 4000; i++) {
		struct mix m;

		mix_draw(&r, MIX_CUTMIX, 1, 512, 384, &m);
		good &= m.y0 >= 0 && m.y0 <= m.y1 && m.y1 <= 512 && m.x0 >= 0 && m.x0 <= m.x1 && m.x1 <= 384;
		own += m.lambda / 4000;
		mix_draw(&r, MIX_MIXUP, 1, 32, 24, &m);
		lambda += m.lambda / 4000;
	}
	/* E[lambda] with clipping at random centres: the box of sides s keeps (1 - s/4)^2 s^2 of the image on average,
	 * s^2 uniform: 1 - (1/2 - 1/5 + 1/48). */
	ok(good && fabs(own - 0.679) < 0.02, "mix_draw: CutMix keeps %.3f of the image", own);
	ok(fabs(lambda - 0.5) < 0.025, "mix_draw: MixUp's lambda %.3f", lambda);
}

/* Where place (y,x) of a plane comes from after halves changed places: of W, the first W/2 have gone to the end. */
static int64_t swapped(int64_t plane, int h, int w, int y, int x, int swap)
{
	if (swap & 1)
		x = x < w - w / 2 ? x + w / 2 : x - (w - w / 2);
	if (swap & 2)
		y = y < h - h / 2 ? y + h / 2 : y - (h - h / 2);
	return (plane * h + y) * w + x;
}

/* A set of bytes for test_replay(), and as floats. */
static uint8_t byte[300];

static void get_byte(const void *set, int64_t i, float *out)
{
	const struct dataset *s = set;
	size_t plane = s->chw[1] * s->chw[2], each = s->chw[0] * plane;

	for (size_t j = 0; j < each; j++)
		out[j] = (s->u8[i * each + j] / 255.0f - s->mean[j / plane]) / s->std[j / plane];
}

/* Replay by its definition, pixel by pixel; of floats as they lie, and of bytes. */
static void test_replay(void)
{
	enum { N = 5, n = 4, C = 2, H = 6, W = 5, CHW = C * H * W };
	static float image[N * CHW], out[n * CHW], scratch[n * CHW];
	int64_t index[n] = { 3, 0, 4, 4 }, partner[n] = { 1, 1, 0, 2 };
	struct view view[n], swap[n];
	struct recipe r = { n, index, view, partner, { MIX_NONE, 0.25f, 1, 4, 2, 5 }, NULL };
	struct rng rng = rng_at(1, RNG_RECIPE, 0, 0, 0);

	static const float mean[C] = { 0.25f, 0.5f }, std[C] = { 0.5f, 0.125f };
	struct dataset set = { .n = N, .chw = { C, H, W }, .get = get_byte, .set = &set, .u8 = byte, .mean = mean, .std = std };

	for (int i = 0; i < N * CHW; i++)
		byte[i] = rng_below(&rng, 256);
	for (int i = 0; i < N; i++)
		get_byte(&set, i, image + i * CHW);
	for (int i = 0; i < n; i++) {
		view[i] = VIEW_IDENTITY(H, W);
		view[i].flip = i & 1;
		swap[i] = swap_view(i, H, W);
	}
	for (int t = 0; t < 12; t++) {
		enum mix_kind kind = t / 4;
		double e = 0;

		r.mix.kind = kind;
		r.swap = t & 1 ? swap : NULL;
		set.f32 = t & 2 ? image : NULL;
		recipe_replay(&r, &set, out, scratch);
		for (int i = 0; i < n * CHW; i++) {
			int b = i / CHW, k = i % CHW / (H * W), y = i % (H * W) / W, x = i % W, q = (int)partner[b];
			float own = image[swapped(index[b] * C + k, H, W, y, b & 1 ? W - 1 - x : x, r.swap ? b : 0)];
			float other = image[swapped(index[q] * C + k, H, W, y, q & 1 ? W - 1 - x : x, r.swap ? q : 0)];
			int cut = y >= 1 && y < 4 && x >= 2;
			float want = kind == MIX_NONE ? own : kind == MIX_MIXUP ? 0.25f * own + 0.75f * other : cut ? other : own;

			e = fmax(e, fabsf(out[i] - want));
		}
		ok(e < 1e-6, "recipe_replay: %s, mix %d, halves %s (%.1e)", set.f32 ? "floats" : "bytes", kind,
		    r.swap ? "change places" : "stay", e);
	}
}

int main(void)
{
	progname = "t_augment";
	test_philox();
	test_moments();
	test_below();
	test_fixtures();
	test_adjoints();
	test_draws();
	test_replay();
	return tap_end();
}
