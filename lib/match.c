#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "match.h"

/* Channel by channel over one group of images; released with free(off). */
struct scratch {
	double *off;          /* (C) mean of x - ref */
	double *dmean, *dvar; /* (C) what is missing to the target */
	double *mu, *var;     /* (C) target */
};

static struct scratch scratch_new(int c)
{
	double *p = ecalloc(5 * (size_t)c, sizeof *p);

	return (struct scratch){ p, p + c, p + 2 * c, p + 3 * c, p + 4 * c };
}

/* Images that belong to a group: those of class k, or all when k < 0. */
static int in_group(const int64_t *label, int i, int64_t k)
{
	return k < 0 || label[i] == k;
}

static int count(const int64_t *label, int n, int64_t k)
{
	int m = 0;

	for (int i = 0; i < n; i++)
		m += in_group(label, i, k);
	return m;
}

static double norm(const double *x, int n)
{
	double sum = 0;

	for (int i = 0; i < n; i++)
		sum += x[i] * x[i];
	return sqrt(sum);
}

/* Unweighted distance of the group's statistics from s->mu, s->var; adds weight times its gradient to a and b. */
static double match_group(struct tap *t, const int64_t *label, int n, int64_t k, struct scratch *s, double weight)
{
	int c = t->c;
	double m = (double)count(label, n, k) * t->per;

	memset(s->off, 0, c * sizeof *s->off);
	memset(s->dvar, 0, c * sizeof *s->dvar);
	for (int i = 0; i < n; i++) {
		if (!in_group(label, i, k))
			continue;
		const double *sum = t->sum + (size_t)i * c, *sumsq = t->sumsq + (size_t)i * c; /* (C) */
		for (int j = 0; j < c; j++) {
			s->off[j] += sum[j];
			s->dvar[j] += sumsq[j];
		}
	}
	for (int j = 0; j < c; j++) {
		s->off[j] /= m;
		double var = s->dvar[j] / m - s->off[j] * s->off[j];
		s->dmean[j] = t->ref[j] + s->off[j] - s->mu[j];
		s->dvar[j] = (var < 0 ? 0 : var) - s->var[j]; /* not fmax: it would hide a NaN */
	}
	double nmean = norm(s->dmean, c), nvar = norm(s->dvar, c), loss = nmean + nvar;
	for (int j = 0; j < c; j++) { /* from here on: slopes per value of x */
		double u = nmean > 0 ? s->dmean[j] / nmean / m : 0;
		double v = nvar > 0 ? 2 * s->dvar[j] / nvar / m : 0;
		s->dmean[j] = weight * (u - v * s->off[j]);
		s->dvar[j] = weight * v;
	}
	for (int i = 0; i < n; i++) {
		if (!in_group(label, i, k))
			continue;
		float *a = t->a + (size_t)i * c, *b = t->b + (size_t)i * c; /* (C) */
		for (int j = 0; j < c; j++) {
			a[j] += s->dmean[j];
			b[j] += s->dvar[j];
		}
	}
	return loss;
}

static void target(struct scratch *s, const float *mean, const float *var, int c)
{
	for (int j = 0; j < c; j++) {
		s->mu[j] = mean[j];
		s->var[j] = var[j];
	}
}

/* What n images with these labels should have together: the variance within classes plus that of the class means. */
static void target_mixture(struct scratch *s, const struct layer_stats *l, const int64_t *label, int n)
{
	int c = l->c;

	memset(s->mu, 0, c * sizeof *s->mu);
	memset(s->var, 0, c * sizeof *s->var);
	for (int i = 0; i < n; i++)
		for (int j = 0; j < c; j++)
			s->mu[j] += l->cmean[label[i] * c + j] / (double)n;
	for (int i = 0; i < n; i++)
		for (int j = 0; j < c; j++) {
			double d = l->cmean[label[i] * c + j] - s->mu[j];
			s->var[j] += (l->cvar[label[i] * c + j] + d * d) / n;
		}
}

/* Is image i the first of its class? */
static int first_of_class(const int64_t *label, int i)
{
	for (int j = 0; j < i; j++)
		if (label[j] == label[i])
			return 0;
	return 1;
}

static int count_classes(const int64_t *label, int n)
{
	int m = 0;

	for (int i = 0; i < n; i++)
		m += first_of_class(label, i);
	return m;
}

double match_layer(struct tap *t, const struct layer_stats *l, const int64_t *label, int n, double w, double multiplier,
    double scale)
{
	struct scratch s = scratch_new(t->c);
	double loss = 0, total = scale * multiplier;
	int classes = w > 0 ? count_classes(label, n) : 0;

	memset(t->a, 0, (size_t)n * t->c * sizeof *t->a);
	memset(t->b, 0, (size_t)n * t->c * sizeof *t->b);
	if (w < 1) {
		target(&s, l->mean, l->var, t->c);
		loss += (1 - w) * match_group(t, label, n, -1, &s, total * (1 - w));
	}
	if (w > 0 && classes == n) {
		target_mixture(&s, l, label, n);
		loss += w * match_group(t, label, n, -1, &s, total * w);
	} else if (w > 0)
		for (int i = 0; i < n; i++) {
			if (!first_of_class(label, i))
				continue;
			target(&s, l->cmean + label[i] * t->c, l->cvar + label[i] * t->c, t->c);
			loss += w / classes * match_group(t, label, n, label[i], &s, total * w / classes);
		}
	free(s.off);
	return multiplier * loss;
}

/* One class: images of it in at (m). off, dev: scratch (F). */
static double match_class(const float *x, const int *at, int m, int f, const float *mu, const float *sigma, double w,
    double scale, double *off, double *dev, float *dx)
{
	double loss = 0;

	memset(off, 0, f * sizeof *off);
	memset(dev, 0, f * sizeof *dev);
	for (int i = 0; i < m; i++)
		for (int j = 0; j < f; j++)
			off[j] += x[(size_t)at[i] * f + j];
	for (int j = 0; j < f; j++) /* not term by term: features that are all alike have no deviation then */
		off[j] /= m;
	for (int i = 0; i < m && w > 0; i++)
		for (int j = 0; j < f; j++) {
			double d = x[(size_t)at[i] * f + j] - off[j];
			dev[j] += d * d / m;
		}
	for (int i = 0; i < m; i++) /* with the mean still in off */
		for (int j = 0; j < f; j++) {
			double s = sqrt(dev[j]), slope = off[j] - mu[j];
			if (w > 0 && s > 0)
				slope += w * (s - sigma[j]) / s * (x[(size_t)at[i] * f + j] - off[j]);
			dx[(size_t)at[i] * f + j] = scale * 2 * slope / m;
		}
	for (int j = 0; j < f; j++) {
		double s = w > 0 ? sqrt(dev[j]) - sigma[j] : 0;
		loss += (off[j] - mu[j]) * (off[j] - mu[j]) + w * s * s;
	}
	return loss;
}

double match_features(const float *x, int n, int f, const int64_t *label, const float *mu, const float *sigma, double w,
    double scale, float *dx)
{
	double *scratch = emalloc(2 * (size_t)f * sizeof *scratch), loss = 0;
	int *at = emalloc(n * sizeof *at);

	for (int i = 0; i < n; i++) {
		int64_t k = label[i];
		int m = 0;
		if (!first_of_class(label, i))
			continue;
		for (int a = i; a < n; a++)
			if (label[a] == k)
				at[m++] = a;
		loss += match_class(x, at, m, f, mu + k * f, w > 0 ? sigma + k * f : NULL, w, scale, scratch, scratch + f, dx);
	}
	free(at);
	free(scratch);
	return loss;
}

/* Reference, one group: two passes over the values for the statistics, a third for the derivative of each. */
static double group_ref(const double *x, int n, int c, int64_t per, const double *mu, const double *sigma2,
    const int64_t *label,
    int64_t k, double weight, double *dx)
{
	double *mean = ecalloc(2 * (size_t)c, sizeof *mean), *var = mean + c;
	double m = (double)count(label, n, k) * per, nmean = 0, nvar = 0;

	for (int i = 0; i < n; i++)
		for (int j = 0; j < c; j++)
			for (int64_t p = 0; p < per && in_group(label, i, k); p++)
				mean[j] += x[((size_t)i * c + j) * per + p] / m;
	for (int i = 0; i < n; i++)
		for (int j = 0; j < c; j++)
			for (int64_t p = 0; p < per && in_group(label, i, k); p++) {
				double d = x[((size_t)i * c + j) * per + p] - mean[j];
				var[j] += d * d / m;
			}
	for (int j = 0; j < c; j++) {
		nmean += (mean[j] - mu[j]) * (mean[j] - mu[j]);
		nvar += (var[j] - sigma2[j]) * (var[j] - sigma2[j]);
	}
	nmean = sqrt(nmean), nvar = sqrt(nvar);
	for (int i = 0; i < n; i++)
		for (int j = 0; j < c; j++)
			for (int64_t p = 0; p < per && in_group(label, i, k); p++) {
				size_t at = ((size_t)i * c + j) * per + p;
				if (nmean > 0)
					dx[at] += weight * (mean[j] - mu[j]) / nmean / m;
				if (nvar > 0)
					dx[at] += weight * (var[j] - sigma2[j]) / nvar * 2 * (x[at] - mean[j]) / m;
			}
	free(mean);
	return nmean + nvar;
}

double match_layer_ref(const double *x, int n, int c, int64_t per, const struct layer_stats *l, const int64_t *label,
    double w, double multiplier, double scale, double *dx)
{
	double *mu = ecalloc(2 * (size_t)c, sizeof *mu), *var = mu + c, total = scale * multiplier, loss = 0;
	int classes = w > 0 ? count_classes(label, n) : 0;

	for (int j = 0; j < c; j++)
		mu[j] = l->mean[j], var[j] = l->var[j];
	if (w < 1)
		loss += (1 - w) * group_ref(x, n, c, per, mu, var, label, -1, total * (1 - w), dx);
	if (w > 0 && classes == n) {
		for (int j = 0; j < c; j++) {
			double first = 0, second = 0; /* moments of the mixture */
			for (int i = 0; i < n; i++) {
				double cm = l->cmean[label[i] * c + j];
				first += cm / n;
				second += (l->cvar[label[i] * c + j] + cm * cm) / n;
			}
			mu[j] = first, var[j] = second - first * first;
		}
		loss += w * group_ref(x, n, c, per, mu, var, label, -1, total * w, dx);
	} else if (w > 0)
		for (int i = 0; i < n; i++) {
			if (!first_of_class(label, i))
				continue;
			for (int j = 0; j < c; j++)
				mu[j] = l->cmean[label[i] * c + j], var[j] = l->cvar[label[i] * c + j];
			loss += w / classes * group_ref(x, n, c, per, mu, var, label, label[i], total * w / classes, dx);
		}
	free(mu);
	return multiplier * loss;
}
