/* Which table runs here. Decided by the processor that runs, never by the one that compiled. */
#include <string.h>

#include "kernels.h"
#include "sizes.h"

struct direct_border direct_border(const struct direct_shape *s, bool dgrad)
{
	struct direct_border b = { s->pad, (s->oh - 1) * s->stride + s->k - s->pad - s->ih,
		(s->ow - 1) * s->stride + s->k - s->pad - s->iw };

	if (dgrad)
		b = (struct direct_border){ (s->k - 1 - s->pad) / s->stride, (s->ih - 1 + s->pad) / s->stride - (s->oh - 1),
			(s->iw - 1 + s->pad) / s->stride - (s->ow - 1) };
	if (b.before < 0)
		b.before = 0;
	if (b.after_h < 0)
		b.after_h = 0;
	if (b.after_w < 0)
		b.after_w = 0;
	return b;
}

size_t direct_filter_floats(const struct direct_shape *s, bool dgrad)
{
	int c = dgrad ? s->o : s->c, o = dgrad ? s->c : s->o;

	return (size_t)((o + PANEL - 1) / PANEL) * pad8(c) * s->k * s->k * PANEL;
}

/* What is read with its border, and two places a pixel. */
size_t direct_scratch_floats(const struct direct_shape *s, int n)
{
	struct direct_border f = direct_border(s, false), g = direct_border(s, true);
	size_t forward = (size_t)pad8(s->c) * (s->ih + f.before + f.after_h) * (s->iw + f.before + f.after_w) +
	    2 * (size_t)s->oh * s->ow;
	size_t back = (size_t)pad8(s->o) * (s->oh + g.before + g.after_h) * (s->ow + g.before + g.after_w) +
	    2 * (size_t)s->ih * s->iw;

	return n * (forward > back ? forward : back);
}

size_t image_back_floats(int c, int o, int ih, int iw, int k, int pad)
{
	size_t band = (size_t)pad8(o) * (IMAGE_BAND + k - 1) * image_band_width(iw, k, pad);
	size_t image = (size_t)c * (ih + 2 * pad) * (iw + 2 * pad) + 8 + (size_t)(iw + 2 * pad) * 16; /* a row of two blocks */

	return band > image ? band : image;
}

bool poly_fits(const struct direct_shape *s)
{
	int64_t tiles = (int64_t)((s->oh + TILE - 1) / TILE) * ((s->ow + TILE - 1) / TILE);

	/* Of 81 products a tile some are for outputs that are not there; transforms cost as well. */
	return s->k == 3 && s->stride == 2 && s->pad <= 2 && (int64_t)s->oh * s->ow * 9 >= tiles * 100;
}

int poly_corner(int pad)
{
	return 2 * (pad > 0 ? (pad - 1) / 2 : -1) + 1 - pad;
}

int64_t poly_products(const struct direct_shape *s, bool dgrad)
{
	int corner = poly_corner(s->pad);
	int64_t forward = (int64_t)((s->oh + TILE - 1) / TILE) * ((s->ow + TILE - 1) / TILE);
	int64_t back = (int64_t)((s->ih - corner + 7) / 8) * ((s->iw - corner + 7) / 8);

	return POLY * POLY * (dgrad ? back : forward);
}

size_t poly_filter_floats(const struct direct_shape *s, bool dgrad)
{
	int c = dgrad ? s->o : s->c, o = dgrad ? s->c : s->o;

	return (size_t)POINTS * ((o + PANEL - 1) / PANEL) * c * PANEL;
}

size_t poly_scratch_floats(const struct direct_shape *s)
{
	size_t t = wino_most(poly_tiles(s->c, s->o));

	size_t parts = (s->c + WGRAD_PART - 1) / WGRAD_PART, panels = (s->o + PANEL - 1) / PANEL;

	return POLY * POLY * t * (parts * WGRAD_PART + panels * PANEL) + 2 * POINTS * SKEW + POINTS * DU_PLANE;
}

size_t wino_filter_floats(int c, int k)
{
	return (size_t)POINTS * ((k + PANEL - 1) / PANEL) * c * PANEL;
}

size_t wino_scratch_floats(int c, int k)
{
	size_t t = wino_most(wino_tiles(pad8(c), pad8(k)));

	return POINTS * (t * pad8(c) + SKEW + t * pad8(k) + SKEW);
}

size_t wino_wgrad_scratch_floats(int c, int k)
{
	size_t t = wino_most(wino_wgrad_tiles(pad8(c), pad8(k)));
	size_t parts = (c + WGRAD_PART - 1) / WGRAD_PART, panels = (k + PANEL - 1) / PANEL;

	return POINTS * (t * (parts * WGRAD_PART + panels * PANEL) + 2 * SKEW + DU_PLANE);
}

const struct kernels *kernels_named(const char *name)
{
#if defined __x86_64__
	if (!strcmp(name, "avx512"))
		return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
		    __builtin_cpu_supports("avx512dq") ? &kernels_avx512 : NULL;
	if (!strcmp(name, "avx2"))
		return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &kernels_avx2 : NULL;
#endif
	return strcmp(name, "plain") ? NULL : &kernels_plain;
}

const struct kernels *kernels_best(void)
{
	const struct kernels *k = kernels_named("avx512");

	if (!k)
		k = kernels_named("avx2");
	return k ? k : &kernels_plain;
}
