#include "outcome.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "json.h"

enum { MAX_FILE = 1 << 30, MAX_COLUMNS = 256 };

const char *const result_column[] = {
	[RESULT_ARCH] = "network", [RESULT_WHO] = "seed", [RESULT_ACCURACY] = "accuracy, %", [RESULT_LOSS] = "loss",
	[RESULT_TRAIN] = "training loss", [RESULT_SECONDS] = "time, s"
};

int file_read(const char *path, struct buf *b, char err[ERRLEN])
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* a named pipe is not waited for */
	uint8_t block[1 << 16];
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0) {
		fail(err, "%s", strerror(errno));
		if (fd >= 0)
			close(fd);
		return -1;
	}
	if (!S_ISREG(st.st_mode) || st.st_size > MAX_FILE) {
		close(fd);
		return fail(err, S_ISREG(st.st_mode) ? "too large for a report" : "not a file");
	}
	while ((n = read(fd, block, sizeof block)) > 0 && b->len <= MAX_FILE)
		buf_put(b, block, n);
	if (n < 0)
		fail(err, "%s", strerror(errno));
	close(fd);
	buf_put(b, "", 1);
	b->len--;
	if (n < 0) {
		buf_free(b);
		return -1;
	}
	return 0;
}

const char *table_cell(const struct table *t, int row, int col)
{
	return row >= 0 && row < t->rows && col >= 0 && col < t->cols ? t->cell[row * t->cols + col] : "";
}

void table_free(struct table *t)
{
	for (int i = 0; i < t->rows * t->cols; i++)
		free(t->cell[i]);
	free(t->cell);
	free(t->name);
	*t = (struct table){ 0 };
}

/* Every line as an array of fields; the widest gives the columns. */
int table_read(struct table *t, const char *path, char err[ERRLEN])
{
	struct buf b = { 0 };
	char *line, *rest, *field, *tail;
	int cols;

	if (file_read(path, &b, err) < 0)
		return -1;
	for (int pass = 0; pass < 2; pass++) { /* the size, then the cells */
		char *text = estrdup((char *)b.p);

		if (pass)
			t->cell = ecalloc((size_t)t->rows * MAX(t->cols, 1), sizeof *t->cell);
		t->rows = 0;
		for (rest = text; (line = strsep(&rest, "\n"));) {
			if (!*line)
				continue;
			for (cols = 0, tail = line; cols < MAX_COLUMNS && (field = strsep(&tail, "\t")); cols++)
				if (pass)
					t->cell[t->rows * t->cols + cols] = estrdup(field);
			if (!pass)
				t->cols = MAX(t->cols, cols);
			t->rows++;
		}
		free(text);
	}
	for (int i = 0; i < t->rows * t->cols; i++)
		if (!t->cell[i])
			t->cell[i] = estrdup("");
	buf_free(&b);
	if (t->rows)
		return 0;
	table_free(t);
	return fail(err, "empty");
}

static bool is_number(const char *s)
{
	char *end;

	strtod(s, &end);
	return end != s && !*end;
}

bool results_match(const struct table *t)
{
	/* One more, where it is not the last epoch's figure: whose it is. */
	return (t->cols == RESULT_COLUMNS || t->cols == RESULT_COLUMNS + 1) && is_number(table_cell(t, 0, RESULT_ACCURACY)) &&
		is_number(table_cell(t, 0, RESULT_SECONDS));
}

static void add_row(struct table *t)
{
	if (!t->cols)
		t->cols = RESULT_COLUMNS;
	t->cell = erealloc(t->cell, (size_t)(t->rows + 1) * t->cols, sizeof *t->cell);
	for (int i = RESULT_COLUMNS; i < t->cols; i++)
		t->cell[(size_t)t->rows * t->cols + i] = estrdup("");
	t->rows++;
}

static char *number_text(double x, const char *format)
{
	char text[64];

	if (!isfinite(x))
		return estrdup("-");
	snprintf(text, sizeof text, *format == '4' ? "%.4f" : *format == '2' ? "%.2f" : *format == '1' ? "%.1f" : "%.4g", x);
	return estrdup(text);
}

/* "seed" is a number, "member" a name. */
static char *who_text(const struct val *student)
{
	const char *member = val_get_str(student, "member"), *seed = val_get_str(student, "seed");

	if (member || seed)
		return estrdup(member ? member : seed);
	return eprintf_str("%lld", (long long)val_get_int(student, "seed", 0));
}

static void add_result(struct results *r, const struct val *student)
{
	static const struct { int col; const char *key, *format; } numbers[] = {
		{ RESULT_ACCURACY, "accuracy", "2" }, { RESULT_LOSS, "loss", "4" }, { RESULT_TRAIN, "train_loss", "g" },
		{ RESULT_SECONDS, "seconds", "1" }
	};
	const char *arch = val_get_str(student, "arch");
	double *figure;
	char **row;

	add_row(&r->t);
	row = r->t.cell + (size_t)(r->t.rows - 1) * r->t.cols;
	row[RESULT_ARCH] = estrdup(arch ? arch : "?");
	row[RESULT_WHO] = who_text(student);
	r->figure = erealloc(r->figure, (size_t)r->t.rows * RESULT_COLUMNS, sizeof *r->figure);
	figure = r->figure + (size_t)(r->t.rows - 1) * RESULT_COLUMNS;
	for (size_t i = 0; i < LEN(numbers); i++) {
		figure[numbers[i].col] = val_get_f64(student, numbers[i].key, NAN);
		row[numbers[i].col] = number_text(figure[numbers[i].col], numbers[i].format);
	}
}

/* A map or list of the object, as a copy; NULL where it has none. */
static struct val *part(const struct val *v, const char *key, enum vtype type)
{
	const struct val *p = val_get(v, key);

	return p && p->type == type ? val_copy(p) : NULL;
}

int results_append(struct results *r, const char *path, char err[ERRLEN])
{
	struct buf b = { 0 };
	struct val *v, *list;

	if (file_read(path, &b, err) < 0)
		return -1;
	v = val_from_json((char *)b.p, b.len, err);
	buf_free(&b);
	if (!v)
		return -1;
	list = val_get(v, "students");
	list = list ? list : val_get(v, "checkpoints");
	if (!list || list->type != V_LIST || !list->list.len) {
		val_free(v);
		return fail(err, "no result of evaluate");
	}
	for (size_t i = 0; i < list->list.len; i++)
		add_result(r, list->list.item[i]);
	if (!r->history)
		r->history = part(v, "history", V_LIST);
	if (!r->protocol)
		r->protocol = part(v, "protocol", V_MAP);
	val_free(v);
	return 0;
}

/* "MEAN ± DEVIATION" of one column's numbers */
static char *mean_text(const struct results *r, int col, int digits)
{
	double sum = 0, squares = 0;
	int n = r->t.rows;

	for (int i = 0; i < n; i++)
		sum += r->figure[i * RESULT_COLUMNS + col];
	for (int i = 0; i < n; i++) {
		double d = r->figure[i * RESULT_COLUMNS + col] - sum / n;

		squares += d * d;
	}
	if (!isfinite(squares))
		return estrdup("-");
	if (digits < 0)
		return eprintf_str("%.4g ± %.2g", sum / n, sqrt(squares / (n - 1)));
	return eprintf_str("%.*f ± %.*f", digits, sum / n, digits, sqrt(squares / (n - 1)));
}

void results_mean(struct results *r)
{
	struct table *t = &r->t;
	char *mean[RESULT_COLUMNS];

	if (t->rows < 2)
		return;
	mean[RESULT_ARCH] = estrdup(table_cell(t, 0, RESULT_ARCH));
	mean[RESULT_WHO] = estrdup("mean");
	mean[RESULT_ACCURACY] = mean_text(r, RESULT_ACCURACY, 2);
	mean[RESULT_LOSS] = mean_text(r, RESULT_LOSS, 4);
	mean[RESULT_TRAIN] = mean_text(r, RESULT_TRAIN, -1);
	mean[RESULT_SECONDS] = mean_text(r, RESULT_SECONDS, 1);
	add_row(t);
	memcpy(t->cell + (size_t)(t->rows - 1) * t->cols, mean, sizeof mean);
}

/* The numbers of an event have places in its key's order; a key that the first line lacked widens all lines. */
static int key_of(struct events *e, const char *key)
{
	double *wider;

	for (int i = 0; i < e->nkey; i++)
		if (!strcmp(e->key[i], key))
			return i;
	wider = ecalloc((size_t)e->cap * (e->nkey + 1), sizeof *wider);
	for (int r = 0; r < e->n; r++) {
		memcpy(wider + (size_t)r * (e->nkey + 1), e->value + (size_t)r * e->nkey, e->nkey * sizeof *wider);
		wider[(size_t)r * (e->nkey + 1) + e->nkey] = NAN;
	}
	free(e->value);
	e->value = wider;
	e->key = erealloc(e->key, e->nkey + 1, sizeof *e->key);
	e->key[e->nkey] = estrdup(key);
	return e->nkey++;
}

static struct events *kind_of(struct outcome *o, const char *log, const char *event)
{
	for (int i = 0; i < o->nevents; i++)
		if (!strcmp(o->events[i].log, log) && !strcmp(o->events[i].event, event))
			return &o->events[i];
	o->events = erealloc(o->events, o->nevents + 1, sizeof *o->events);
	o->events[o->nevents] = (struct events){ .log = estrdup(log), .event = estrdup(event), .cap = 64 };
	return &o->events[o->nevents++];
}

char *log_family(const char *name, double *number)
{
	size_t n = strlen(name) - strlen(".json"), m = n;

	while (m && name[m - 1] >= '0' && name[m - 1] <= '9')
		m--;
	*number = NAN;
	if (!m && n) { /* a number alone */
		*number = strtod(name, NULL);
		return estrdup("*.json");
	}
	if (m == n || m < 2 || (name[m - 1] != '-' && name[m - 1] != '.'))
		return estrdup(name);
	*number = strtod(name + m, NULL);
	return eprintf_str("%.*s*.json", (int)m, name);
}

/* The logs of processes side by side are one, whose lines have the number. */
static void add_event(struct outcome *o, const char *log, double number, const struct val *line)
{
	const char *event = val_get_str(line, "event");
	struct events *e;

	if (line->type != V_MAP || !event || line->map.len > MAX_COLUMNS)
		return;
	e = kind_of(o, log, event);
	if (e->n == e->cap) {
		e->cap *= 2;
		e->value = erealloc(e->value, (size_t)e->cap * MAX(e->nkey, 1), sizeof *e->value);
	}
	for (size_t i = 0; i < line->map.len; i++)
		if (line->map.item[i]->type == V_INT || line->map.item[i]->type == V_F64)
			key_of(e, line->map.key[i]);
	if (!isnan(number))
		key_of(e, "number");
	for (int k = 0; k < e->nkey; k++)
		e->value[(size_t)e->n * e->nkey + k] = strcmp(e->key[k], "number") ? val_get_f64(line, e->key[k], NAN) : number;
	e->n++;
}

int events_read(struct outcome *o, const char *path, const char *name, char err[ERRLEN])
{
	struct buf b = { 0 };
	char *rest, *line, *family;
	struct val *v;
	double number;
	int bad = 0;

	if (file_read(path, &b, err) < 0)
		return -1;
	family = log_family(name, &number);
	for (rest = (char *)b.p; (line = strsep(&rest, "\n"));) {
		if (!*line)
			continue;
		if ((v = val_from_json(line, strlen(line), err)))
			add_event(o, family, number, v);
		bad += !v;
		val_free(v);
	}
	buf_free(&b);
	free(family);
	/* A process that was killed leaves half a line; whoever goes on starts behind it. */
	return bad ? fail(err, "%d of its lines cannot be read", bad) : 0;
}
