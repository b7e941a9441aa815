#include "chart.h"

#include <math.h>
#include <stdbool.h>

#include "html.h"

/* The drawing's units are about a pixel where three charts stand side by side, and on a telephone. */
enum { WIDTH = 420, HEIGHT = 236, TOP = 14, BOTTOM = 38, RIGHT = 14, DIGIT = 7, MANY = 40 };

struct axis {
	double lo, hi, step; /* values at both ends, between ticks */
	int from, to;        /* their places in the drawing */
};

static double place(const struct axis *a, double v)
{
	return a->from + (v - a->lo) / (a->hi - a->lo) * (a->to - a->from);
}

/* 1, 2 or 5 times a power of ten, so that about n of them make up the range. */
static double nice_step(double range, int n)
{
	double step = pow(10, floor(log10(range / n))), more = range / n / step;

	return step * (more < 1.5 ? 1 : more < 3.5 ? 2 : more < 7.5 ? 5 : 10);
}

static void widen(struct axis *a, double v)
{
	if (!isfinite(v))
		return;
	a->lo = isnan(a->lo) ? v : fmin(a->lo, v);
	a->hi = isnan(a->hi) ? v : fmax(a->hi, v);
}

/* whole: ends at the data and counts, rather than at ticks and measures */
static void set_ticks(struct axis *a, int n, bool whole)
{
	double least = whole ? 1 : fmax(1e-6, fabs(a->hi) * 1e-6);

	if (a->hi - a->lo < least) {
		a->lo -= least / 2;
		a->hi += least / 2;
	}
	a->step = nice_step(a->hi - a->lo, n);
	if (whole) {
		a->step = fmax(a->step, 1);
		return;
	}
	/* Zero stands there when it is not far. */
	if (a->lo > 0 && a->lo < 0.4 * a->hi)
		a->lo = 0;
	a->step = nice_step(a->hi - a->lo, n);
	a->lo = floor(a->lo / a->step + 1e-9) * a->step;
	a->hi = ceil(a->hi / a->step - 1e-9) * a->step;
}

static int decimals(double step)
{
	return step >= 1 ? 0 : (int)fmin(9, ceil(-log10(step) - 1e-9));
}

/* How many ticks there are from the first on. They are counted: to a large number a step may add nothing. */
static int ticks(const struct axis *a, double first)
{
	double n = floor((a->hi - first) / a->step + 1e-6);

	return n >= 0 ? (int)n + 1 : 0;
}

static void draw_axes(FILE *fp, const struct axis *x, const struct axis *y, const char *xname)
{
	double first = ceil(x->lo / x->step - 1e-9) * x->step;

	fputs("<g class=\"lines\">", fp);
	for (int i = 0; i < ticks(y, y->lo); i++)
		fprintf(fp, "<path d=\"M%d %.1fH%d\"/>", x->from, place(y, y->lo + i * y->step), x->to);
	fprintf(fp, "<path class=\"axis\" d=\"M%d %dH%d\"/></g>\n<g class=\"ticks\">", x->from, y->from, x->to);
	for (int i = 0; i < ticks(y, y->lo); i++) {
		double v = y->lo + i * y->step;

		fprintf(fp, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.*f</text>", x->from - 7, place(y, v) + 4,
			decimals(y->step), fabs(v) < y->step / 2 ? 0 : v);
	}
	for (int i = 0; i < ticks(x, first); i++)
		fprintf(fp, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.0f</text>", place(x, first + i * x->step),
			y->from + 16, first + i * x->step);
	fprintf(fp, "<text class=\"name\" x=\"%d\" y=\"%d\" text-anchor=\"end\">", x->to, HEIGHT - 5);
	html_text(fp, xname);
	fputs("</text></g>\n", fp);
}

static void draw_series(FILE *fp, const struct series *s, int which, const struct axis *x, const struct axis *y)
{
	bool pen = false;

	fprintf(fp, "<g class=\"s%d\">", which);
	if (s->lo) {
		fputs("<path class=\"band\" d=\"", fp);
		for (int i = 0; i < s->n; i++)
			fprintf(fp, "%c%.1f %.1f", i ? 'L' : 'M', place(x, s->x[i]), place(y, s->hi[i]));
		for (int i = s->n - 1; i >= 0; i--)
			fprintf(fp, "L%.1f %.1f", place(x, s->x[i]), place(y, s->lo[i]));
		fputs("Z\"/>", fp);
	}
	fputs("<path class=\"line\" d=\"", fp);
	for (int i = 0; i < s->n; i++) {
		if (isfinite(s->y[i]))
			fprintf(fp, "%c%.1f %.1f", pen ? 'L' : 'M', place(x, s->x[i]), place(y, s->y[i]));
		pen = isfinite(s->y[i]);
	}
	fputs("\"/>", fp);
	for (int i = 0; s->n <= MANY && i < s->n; i++)
		if (isfinite(s->y[i]))
			fprintf(fp, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.6\"><title>%.0f: %.5g</title></circle>",
				place(x, s->x[i]), place(y, s->y[i]), s->x[i], s->y[i]);
	fputs("</g>\n", fp);
}

static void draw_legend(FILE *fp, const struct chart *c)
{
	fputs("<p class=\"legend\">", fp);
	for (int i = 0; i < c->n; i++) {
		fprintf(fp, "<span><svg class=\"key\" viewBox=\"0 0 28 8\" aria-hidden=\"true\"><g class=\"s%d\">"
			"<path class=\"line\" d=\"M0 4H28\"/></g></svg> ", i);
		html_text(fp, c->series[i].name);
		fputs("</span> ", fp);
	}
	fputs("</p>\n", fp);
}

void chart_draw(FILE *fp, const struct chart *c)
{
	struct axis x = { NAN, NAN, 1, 0, WIDTH - RIGHT }, y = { NAN, NAN, 1, HEIGHT - BOTTOM, TOP };
	char text[64];

	for (int k = 0; k < c->n; k++)
		for (int i = 0; i < c->series[k].n; i++) {
			const struct series *s = &c->series[k];

			if (!isfinite(s->y[i]))
				continue;
			widen(&x, s->x[i]);
			widen(&y, s->y[i]);
			if (s->lo) {
				widen(&y, s->lo[i]);
				widen(&y, s->hi[i]);
			}
		}
	if (isnan(y.lo))
		return;
	set_ticks(&y, 4, false);
	set_ticks(&x, 6, true);
	x.from = 12;
	for (int i = 0; i < ticks(&y, y.lo); i++)
		x.from = MAX(x.from, 12 + DIGIT * snprintf(text, sizeof text, "%.*f", decimals(y.step), y.lo + i * y.step));
	html(fp, "<figure class=\"chart\"><figcaption><b>%s</b> %s</figcaption>\n<svg viewBox=\"0 0 %d %d\" role=\"img\" "
		"aria-label=\"%s against %s\">\n", c->title, c->from, WIDTH, HEIGHT, c->title, c->x);
	draw_axes(fp, &x, &y, c->x);
	for (int k = 0; k < c->n; k++)
		draw_series(fp, &c->series[k], k, &x, &y);
	fputs("</svg>\n", fp);
	if (c->n > 1)
		draw_legend(fp, c);
	fputs("</figure>\n", fp);
}

void chart_bar(FILE *fp, double value, double deviation, double most)
{
	double at = most > 0 && value > 0 ? fmin(1, value / most) * 100 : 0, d;

	fprintf(fp, "<svg class=\"bar\" viewBox=\"0 0 100 5\" preserveAspectRatio=\"none\" aria-hidden=\"true\">"
		"<rect class=\"rail\" width=\"100\" height=\"5\"/><rect class=\"fill\" width=\"%.2f\" height=\"5\"/>", at);
	if (isfinite(deviation) && most > 0) {
		d = deviation / most * 100;
		fprintf(fp, "<rect class=\"spread\" x=\"%.2f\" width=\"%.2f\" height=\"5\"/>", fmax(0, at - d),
			fmin(100, at + d) - fmax(0, at - d));
	}
	fputs("</svg>", fp);
}
