/* What evaluate measured, as lines or JSON. Everything is borrowed; JSON values handed out are the caller's. */
#ifndef RESULTS_H
#define RESULTS_H

#include <jansson.h>
#include <stdio.h>

#include "value.h"

struct result {
	const char *arch, *name; /* network; the student's seed, or the checkpoint's member name */
	double accuracy, loss;   /* on the validation set: per cent, mean cross-entropy */
	double train_loss;       /* mean of the last epoch; NAN: not trained here */
	double seconds;
	const char *report;      /* report_text(): not the last epoch's figure but the best one's, NULL: the last; */
	long epoch;              /* which it was */
};

/* Tab-separated lines: arch, name, accuracy, loss, training loss ("-": none), seconds; and, of the best, what
 * it is the best of and the epoch. */
void results_print(FILE *fp, const struct result *res, int n);
/* One more: the means, and "± " the sample standard deviation behind each where there are several. */
void results_print_mean(FILE *fp, const struct result *res, int n);

/* {LIST: [{arch, NAME, accuracy, loss, train_loss, seconds}…], accuracy: {mean, deviation}}; what is not finite is
 * null. With res->report: that, of each its epoch too. */
json_t *results_json(const struct result *res, int n, const char *list, const char *name);
/* A value tree (tensors and bytes: null), as headers have them. Both die of text that is not UTF-8. */
json_t *json_val(const struct val *v);

#endif
