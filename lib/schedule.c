#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "optim.h"
#include "util.h"

double schedule_rate(const struct schedule *s, double t, double total)
{
	double done = total > s->warmup ? (t - s->warmup) / (total - s->warmup) : 0;

	if (t < s->warmup)
		return s->base * (s->warmup_from + (1 - s->warmup_from) * t / s->warmup);
	done = fmin(fmax(done, 0), 1);
	switch (s->kind) {
	case SCHED_CONST:
		break;
	case SCHED_COSINE:
		return s->min + (s->base - s->min) * 0.5 * (1 + cos(M_PI * done));
	case SCHED_STEP:
		return s->base * pow(s->gamma, floor(t / s->step_every));
	case SCHED_SMOOTH:
		return s->base * 0.5 * (1 + cos(M_PI * done / s->zeta));
	}
	return s->base;
}

/* The next of up to two numbers after colons; *p moves on. 0 when there is one in [lo, hi], 1 at the end, -1: wrong. */
static int number(const char **p, double lo, double hi, double *out)
{
	char *end;

	if (!**p)
		return 1;
	if (**p != ':' || strchr(" \t\n", (*p)[1]))
		return -1;
	double x = strtod(*p + 1, &end);
	if (end == *p + 1 || !(x >= lo && x <= hi))
		return -1;
	*p = end;
	*out = x;
	return 0;
}

int schedule_parse(struct schedule *s, const char *spec, double base, char *err)
{
	const char *p = strchrnul(spec, ':');
	size_t n = p - spec;
	int bad = 0;

	*s = (struct schedule){ .base = base, .warmup_from = 0.01, .gamma = 0.1, .zeta = 2 };
	if (n == 5 && !strncmp(spec, "const", n))
		s->kind = SCHED_CONST;
	else if (n == 6 && !strncmp(spec, "cosine", n)) {
		s->kind = SCHED_COSINE;
		bad = number(&p, 0, 1e9, &s->warmup) < 0;
	} else if (n == 4 && !strncmp(spec, "step", n)) {
		s->kind = SCHED_STEP;
		bad = number(&p, 1e-9, 1e9, &s->step_every) != 0 || number(&p, 0, 1, &s->gamma) < 0;
	} else if (n == 6 && !strncmp(spec, "smooth", n)) {
		s->kind = SCHED_SMOOTH;
		bad = number(&p, 1, 1e9, &s->zeta) < 0;
	} else
		bad = 1;
	if (bad || *p)
		return fail(err, "schedule '%s' is none of const, cosine[:WARMUP], step:EVERY[:GAMMA], smooth[:ZETA]", spec);
	return 0;
}
