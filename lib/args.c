#include "args.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"

bool eword(const char *s, const char *word, const char **rest)
{
	size_t n = strlen(word);

	if (strncmp(s, word, n) || (s[n] && s[n] != ':'))
		return false;
	*rest = s[n] ? s + n + 1 : NULL;
	return true;
}

int echoice(const char *what, const char *s, const char *const *name, int n)
{
	struct buf all = { 0 };

	for (int i = 0; i < n; i++)
		if (!strcmp(s, name[i]))
			return i;
	for (int i = 0; i < n; i++) {
		buf_put(&all, i ? ", " : "", i ? 2 : 0);
		buf_put(&all, name[i], strlen(name[i]));
	}
	usage("%s %s: one of %.*s expected", what, s, (int)all.len, (const char *)all.p);
}

static void add_name(const char *what, char ***names, int *n, const char *s)
{
	if (!*s)
		usage("%s: an empty name", what);
	for (int i = 0; i < *n; i++)
		if (!strcmp((*names)[i], s))
			usage("%s: %s stands there twice", what, s);
	*names = erealloc(*names, *n + 1, sizeof **names);
	(*names)[(*n)++] = estrdup(s);
}

char **enames(const char *what, const char *arg, int *n)
{
	char **names = NULL, *line = NULL;
	size_t cap = 0;

	*n = 0;
	if (*arg == '@') {
		FILE *fp = fopen(arg + 1, "r");

		if (!fp)
			die("%s:", arg + 1);
		while (errno = 0, getline(&line, &cap, fp) > 0) {
			line[strcspn(line, "\r\n")] = '\0';
			add_name(what, &names, n, line);
		}
		if (ferror(fp))
			die("%s:", arg + 1);
		fclose(fp);
		free(line);
		if (!*n)
			die("%s: no names in it", arg + 1);
	} else {
		char *list = estrdup(arg), *p = list, *t;

		while ((t = strsep(&p, ",")))
			add_name(what, &names, n, t);
		free(list);
	}
	return names;
}

int ereals(const char *what, const char *arg, double lo, double hi, double *out, int max)
{
	char *list = estrdup(arg), *p = list, *t;
	int n = 0;

	while ((t = strsep(&p, ","))) {
		if (n == max)
			usage("%s %s: more than %d numbers", what, arg, max);
		out[n++] = ereal(what, t, lo, hi);
	}
	free(list);
	return n;
}

int eints(const char *what, const char *arg, long long lo, long long hi, int **out)
{
	char *list = estrdup(arg), *p = list, *t;
	int n = 0;

	*out = NULL;
	while ((t = strsep(&p, ","))) {
		if (!*t)
			continue;
		*out = erealloc(*out, n + 1, sizeof **out);
		(*out)[n++] = (int)eint(what, t, lo, hi);
	}
	if (!n)
		usage("%s %s: numbers expected", what, arg);
	free(list);
	return n;
}

/* The two ends of "A:B", or twice A; *a is to be freed. */
static void ends(const char *arg, char **a, char **b)
{
	char *colon;

	*a = *b = estrdup(arg);
	if ((colon = strchr(*a, ':'))) {
		*colon = '\0';
		*b = colon + 1;
	}
}

void eint_range(const char *what, const char *arg, long long lo, long long hi, int *a, int *b)
{
	char *s, *t;

	ends(arg, &s, &t);
	*a = (int)eint(what, s, lo, hi);
	*b = (int)eint(what, t, *a, hi);
	free(s);
}

void ereal_range(const char *what, const char *arg, double lo, double hi, double *a, double *b)
{
	char *s, *t;

	ends(arg, &s, &t);
	*a = ereal(what, s, lo, hi);
	*b = ereal(what, t, lo, hi);
	free(s);
}

void eshape(const char *what, const char *arg, int channels, int chw[3])
{
	char *copy = estrdup(arg), *p = copy, *t;
	int n = 0;

	for (; (t = strsep(&p, "x")) && n < 3; n++)
		chw[n] = (int)eint(what, t, 1, n ? 65536 : channels);
	if (n < 3 || t)
		usage("%s %s: CxHxW expected", what, arg);
	free(copy);
}
