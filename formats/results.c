#include "results.h"

#include <math.h>
#include <stddef.h>

/* Mean and sample standard deviation of one field over all results; NAN for a deviation of one. */
static double mean_of(const struct result *res, int n, size_t field, double *deviation)
{
	double sum = 0, squares = 0;

	for (int i = 0; i < n; i++)
		sum += *(const double *)((const char *)&res[i] + field);
	for (int i = 0; i < n; i++) {
		double d = *(const double *)((const char *)&res[i] + field) - sum / n;

		squares += d * d;
	}
	*deviation = n > 1 ? sqrt(squares / (n - 1)) : NAN;
	return sum / n;
}

void results_print(FILE *fp, const struct result *res, int n)
{
	for (int i = 0; i < n; i++) {
		fprintf(fp, "%s\t%s\t%.2f\t%.4f\t", res[i].arch, res[i].name, res[i].accuracy, res[i].loss);
		if (isnan(res[i].train_loss))
			fputs("-", fp);
		else
			fprintf(fp, "%.4g", res[i].train_loss);
		fprintf(fp, "\t%.1f", res[i].seconds);
		if (res[i].report)
			fprintf(fp, "\t%s: %ld", res[i].report, res[i].epoch);
		putc('\n', fp);
	}
}

void results_print_mean(FILE *fp, const struct result *res, int n)
{
	/* The training loss has no usual size: a KL at a high temperature is small. */
	static const struct { size_t field; const char *format, *deviation; } column[] = {
		{ offsetof(struct result, accuracy), "\t%.2f", " ± %.2f" }, { offsetof(struct result, loss), "\t%.4f", " ± %.4f" },
		{ offsetof(struct result, train_loss), "\t%.4g", " ± %.2g" },
		{ offsetof(struct result, seconds), "\t%.1f", " ± %.1f" }
	};
	double deviation, mean;

	fprintf(fp, "%s\tmean", res[0].arch);
	for (size_t i = 0; i < LEN(column); i++) {
		mean = mean_of(res, n, column[i].field, &deviation);
		fprintf(fp, column[i].format, mean);
		if (n > 1)
			fprintf(fp, column[i].deviation, deviation);
	}
	if (res[0].report)
		fprintf(fp, "\t%s", res[0].report);
	putc('\n', fp);
}

static json_t *json_number(double x)
{
	return isfinite(x) ? json_real(x) : json_null();
}

json_t *json_val(const struct val *v)
{
	json_t *j;

	switch (v->type) {
	case V_BOOL: return json_boolean(v->b);
	case V_INT: return json_integer(v->i);
	case V_F64: return json_number(v->f);
	case V_STR:
		if (!(j = json_stringn(v->s.p, v->s.len)))
			die("header: text that is not UTF-8 has no place in JSON");
		return j;
	case V_LIST:
		j = json_array();
		for (size_t i = 0; i < v->list.len; i++)
			json_array_append_new(j, json_val(v->list.item[i]));
		return j;
	case V_MAP:
		j = json_object();
		for (size_t i = 0; i < v->map.len; i++)
			if (json_object_set_new(j, v->map.key[i], json_val(v->map.item[i])) < 0)
				die("header: a key that is not UTF-8 has no place in JSON");
		return j;
	default: return json_null();
	}
}

json_t *results_json(const struct result *res, int n, const char *list, const char *name)
{
	json_t *all = json_array(), *whole, *one;
	double deviation, mean = mean_of(res, n, offsetof(struct result, accuracy), &deviation);

	for (int i = 0; i < n; i++) {
		one = json_pack("{s:s, s:s, s:o, s:o, s:o, s:o}", "arch", res[i].arch, name,
			res[i].name, "accuracy", json_number(res[i].accuracy), "loss", json_number(res[i].loss),
			"train_loss", json_number(res[i].train_loss), "seconds", json_number(res[i].seconds));
		if (!one)
			die("%s: a name that is not UTF-8 has no place in JSON", res[i].name);
		if (res[i].report)
			json_object_set_new(one, "epoch", json_integer(res[i].epoch));
		json_array_append_new(all, one);
	}
	whole = json_pack("{s:o, s:{s:o, s:o}}", list, all, "accuracy", "mean", json_number(mean), "deviation",
		json_number(deviation));
	if (res[0].report)
		json_object_set_new(whole, "report", json_string(res[0].report));
	return whole;
}
