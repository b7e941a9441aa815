/* What a pipeline left in its folder, as far as it got: everything that a report shows.
 *
 * An outcome owns everything in it. Whatever cannot be read is a note, not an error: an unfinished run is the rule.
 * Names are those below the folder, and may hold any bytes; so may the cells of tables.
 */
#ifndef OUTCOME_H
#define OUTCOME_H

#include <dirent.h>
#include <stdio.h>

#include "value.h"

struct table { /* text, as it stands in the file */
	char *name;
	int rows, cols;
	char **cell; /* (rows,cols), "" where a line is short */
};

struct artefact { /* a file that a step made */
	char *name, *what;   /* what: in words */
	int64_t bytes;
	struct val *history; /* a list; NULL: it says nothing of its history */
	char *made;          /* then what the step's record says, lines; or NULL */
};

struct image_file {
	char *name;
	struct buf png;
	int width, height;
};

struct results { /* what evaluate measured: a file of lines, or a folder of JSON files, one a student */
	struct table t;       /* the columns of RESULT_COLUMNS; the last row is that of the means where there is one */
	double *figure;       /* (students,RESULT_COLUMNS): cells' numbers with all digits, NAN where there is none; or NULL */
	struct val *protocol; /* a map, or NULL */
	struct val *history;  /* of the first student; NULL: not said */
};
extern const char *const result_column[];
enum { RESULT_ARCH, RESULT_WHO, RESULT_ACCURACY, RESULT_LOSS, RESULT_TRAIN, RESULT_SECONDS, RESULT_COLUMNS };

struct events { /* the lines of one kind in a log */
	char *log, *event;
	int n, cap, nkey;
	char **key;
	double *value; /* (n,nkey), NAN where a line has none */
};

struct stage { /* a step, or several that differ in their number */
	char *name;
	int times;           /* steps that were done */
	double seconds;
	double cpu, peak;    /* processor seconds of its processes; bytes of its largest one; NAN: not recorded */
};

struct outcome {
	char *dir;
	struct artefact *artefact;
	struct image_file *picture;
	struct table *table;   /* with a line of column names */
	struct table *jobs;    /* GNU parallel's logs */
	struct results *results;
	struct events *events;
	struct stage *stage;   /* the longest first */
	char **note;           /* what is missing, half done or damaged, a line each */
	int nartefact, npicture, ntable, njobs, nresults, nevents, nstage, nnote;
};

int outcome_read(struct outcome *o, const char *dir, char err[ERRLEN]); /* -1: no such folder */
void outcome_free(struct outcome *o);
const struct table *outcome_table(const struct outcome *o, const char *name); /* NULL */

/* What the parts below share: a line for the reader; whether the folder has this file; names in a folder (numbers in
 * them compared as such, without those that begin with a dot); room for one more, zeroed, at the end of an array. */
void outcome_note(struct outcome *o, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool outcome_has(const struct outcome *o, const char *name);
int list_dir(const char *path, struct dirent ***list);
bool name_ends(const char *name, const char *end);
#define MORE(array, n) (array = erealloc(array, (n) + 1, sizeof *array), \
	memset(&array[n], 0, sizeof *array), &array[(n)++])

void logs_read(struct outcome *o); /* outcome_log.c: log/ */

/* outcome_text.c: the parts of it that are text. */
int table_read(struct table *t, const char *path, char err[ERRLEN]);
const char *table_cell(const struct table *t, int row, int col); /* "" outside */
void table_free(struct table *t);
bool results_match(const struct table *t); /* whether its lines are evaluate's */
int file_read(const char *path, struct buf *b, char err[ERRLEN]); /* with a 0 behind the bytes */
/* One of evaluate's JSON objects, appended to the results of its folder. */
int results_append(struct results *r, const char *path, char err[ERRLEN]);
void results_mean(struct results *r); /* a last row, of several students */
/* The name without its number, which stands at its end or is all of it: NAME-*.json, *.json; NAN where it has none. */
char *log_family(const char *name, double *number);
/* Lines of JSON, by kind of event, appended to o->events. */
int events_read(struct outcome *o, const char *path, const char *name, char err[ERRLEN]);

#endif
