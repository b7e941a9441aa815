/* Option arguments that are lists. As eint() and ereal(), these end the program with one line when there is none. */
#ifndef ARGS_H
#define ARGS_H

#include <stdbool.h>

/* Is s WORD, or WORD:REST? Then *rest is behind the colon, or NULL. */
bool eword(const char *s, const char *word, const char **rest);
/* One of n names: which. */
int echoice(const char *what, const char *s, const char *const *name, int n);

/* Names between commas, or @FILE: a name a line, which may have commas in it. At least one, none empty, none twice. */
char **enames(const char *what, const char *arg, int *n);

/* One to max numbers in [lo, hi] between commas; how many. */
int ereals(const char *what, const char *arg, double lo, double hi, double *out, int max);

/* Whole numbers in [lo, hi] between commas, at least one (a lone comma more makes one a list); *out: the caller's to free. */
int eints(const char *what, const char *arg, long long lo, long long hi, int **out);

/* "CxHxW": each at least 1, H and W at most 65536, C at most `channels`. */
void eshape(const char *what, const char *arg, int channels, int chw[3]);

/* "A", which is A:A, or "A:B" with B at least A, whole numbers; "A:B" in any order, real ones. */
void eint_range(const char *what, const char *arg, long long lo, long long hi, int *a, int *b);
void ereal_range(const char *what, const char *arg, double lo, double hi, double *a, double *b);

#endif
