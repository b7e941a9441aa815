#include "outcome.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "checkpoint.h"
#include "json.h"

void outcome_note(struct outcome *o, const char *fmt, ...)
{
	va_list ap;
	char *line;

	va_start(ap, fmt);
	if (vasprintf(&line, fmt, ap) < 0)
		die("out of memory");
	va_end(ap);
	o->note = erealloc(o->note, o->nnote + 1, sizeof *o->note);
	o->note[o->nnote++] = line;
}

static char *in_dir(const char *dir, const char *name)
{
	return eprintf_str("%s/%s", dir, name);
}

bool name_ends(const char *name, const char *end)
{
	size_t n = strlen(name), m = strlen(end);

	return n > m && !strcmp(name + n - m, end);
}

static bool is_dir(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static int64_t size_of(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode) ? st.st_size : -1;
}

bool outcome_has(const struct outcome *o, const char *name)
{
	char *path = in_dir(o->dir, name);
	struct stat st;
	bool is = stat(path, &st) == 0;

	free(path);
	return is;
}

/* Numbers in names are compared as such: seeds, epochs. What begins with a dot is being written. */
static int visible(const struct dirent *d)
{
	return d->d_name[0] != '.';
}

int list_dir(const char *path, struct dirent ***list)
{
	int n = scandir(path, list, visible, versionsort);

	if (n < 0)
		*list = NULL;
	return MAX(n, 0);
}

static struct val *history_of(const struct val *header)
{
	const struct val *h = val_get(header, "history");

	return h && h->type == V_LIST && h->list.len ? val_copy(h) : NULL;
}

static char *plural(int64_t n, const char *one, const char *many)
{
	return eprintf_str("%lld %s", (long long)n, n == 1 ? one : many);
}

static char *join(char *a, char *b)
{
	char *both = eprintf_str("%s, %s", a, b);

	free(a);
	free(b);
	return both;
}

static char *shape_text(const struct val *header)
{
	int chw[3], nclass = header_nclass(header);
	char *text = plural(nclass, "class", "classes");

	if (header_shape(header, chw) < 0)
		return text;
	return join(text, eprintf_str("%d × %d × %d", chw[0], chw[1], chw[2]));
}

/* Images in a frame's labels; 0 for one that has none. */
static int64_t labels_in(const struct val *frame)
{
	const struct tensor *t = val_get_tensor(frame, "labels");

	return t && t->ndim == 1 ? t->shape[0] : 0;
}

static int add_checkpoint(struct artefact *a, struct ts_reader *r)
{
	struct checkpoint c;

	if (checkpoint_read(r, &c) < 0)
		return -1;
	a->what = join(eprintf_str("network %s", c.net->arch),
		eprintf_str("%.3g M parameters", net_params(c.net) / 1e6));
	a->history = history_of(c.header);
	checkpoint_free(&c);
	return 0;
}

/* All frames of a small stream are counted; a large one says how many it has. */
static int add_frames(struct artefact *a, struct ts_reader *r)
{
	enum { SMALL = 256 << 20 };
	const char *kind = header_kind(r->header);
	int64_t images = 0, frames = 0;
	struct val *frame;
	int rc = 0;

	if (a->bytes <= SMALL) {
		while ((rc = ts_next(r, &frame)) > 0) {
			images += labels_in(frame);
			frames++;
			val_free(frame);
		}
		if (rc < 0)
			return -1;
		a->what = images && !strcmp(kind, "images") ? plural(images, "image", "images") :
			join(estrdup(kind), plural(frames, "frame", "frames"));
	} else {
		a->what = estrdup(kind);
	}
	a->what = join(a->what, shape_text(r->header));
	a->history = history_of(r->header);
	return 0;
}

static int read_stream(struct artefact *a, const char *path, char err[ERRLEN])
{
	struct ts_reader r;
	int rc;

	if (ts_open(&r, path, NULL) < 0)
		return fail(err, "%s", r.err);
	rc = strcmp(header_kind(r.header), "checkpoint") ? add_frames(a, &r) : add_checkpoint(a, &r);
	if (rc < 0)
		fail(err, "%s", r.err);
	ts_close(&r);
	return rc;
}

static int read_pool(struct artefact *a, const char *path, char err[ERRLEN])
{
	struct pool_reader p;
	struct checkpoint c;
	int64_t n = 0, params = 0;
	char *arch = NULL;
	int rc;

	if (pool_open(&p, path) < 0)
		return fail(err, "%s", p.err);
	while ((rc = pool_next(&p, &c)) > 0) {
		if (!n++) {
			arch = estrdup(c.net->arch);
			a->history = history_of(c.header);
		}
		params = MAX(params, net_params(c.net));
		checkpoint_free(&c);
	}
	if (rc < 0)
		fail(err, "%s", p.err);
	pool_close(&p);
	if (rc == 0)
		a->what = join(join(plural(n, "network", "networks"), estrdup(arch ? arch : "?")),
			eprintf_str("%.3g M parameters%s", params / 1e6, n > 1 ? " each" : ""));
	free(arch);
	return rc;
}

/* What save-images says of the whole set. */
static void read_about(struct artefact *a, struct archive *tar, int64_t size)
{
	char err[ERRLEN], *text;
	struct val *v;

	if (size <= 0 || size > 16 << 20)
		return;
	text = emalloc(size);
	if (archive_read_data(tar, text, size) == size && (v = val_from_json(text, size, err))) {
		a->history = history_of(v);
		val_free(v);
	}
	free(text);
}

/* A tar ends in two blocks of zeros; to libarchive one that was cut where a member ends is whole. */
static bool has_end(const char *path)
{
	enum { END = 1024 };
	static const char zeros[END];
	char end[END];
	FILE *fp = fopen(path, "r");
	bool has = fp && fseek(fp, -END, SEEK_END) == 0 && fread(end, END, 1, fp) == 1 && !memcmp(end, zeros, END);

	if (fp)
		fclose(fp);
	return has;
}

/* A pool, or else images: what the first member's name says. */
static int read_tar_file(struct artefact *a, const char *path, char err[ERRLEN])
{
	struct archive *tar = archive_read_new();
	struct archive_entry *e;
	bool pool = false;
	int64_t images = 0;
	int rc, n = 0;

	archive_read_support_format_tar(tar);
	rc = archive_read_open_filename(tar, path, 1 << 16);
	while (rc == ARCHIVE_OK && !pool && (rc = archive_read_next_header(tar, &e)) == ARCHIVE_OK) {
		const char *name = archive_entry_pathname(e);

		pool = !n++ && name && (name_ends(name, ".ts") || !strcmp(name, "MANIFEST"));
		images += name && (name_ends(name, ".png") || name_ends(name, ".jpg") || name_ends(name, ".jpeg"));
		if (name && !strcmp(name, "dataset.json") && !a->history)
			read_about(a, tar, archive_entry_size(e));
	}
	if (!pool && rc != ARCHIVE_EOF)
		fail(err, "%s", archive_error_string(tar) ? archive_error_string(tar) : "damaged");
	archive_read_free(tar);
	if (pool)
		return read_pool(a, path, err);
	if (rc != ARCHIVE_EOF)
		return -1;
	if (!has_end(path))
		return fail(err, "cut short");
	a->what = join(estrdup("archive"), plural(images, "image", "images"));
	return 0;
}

/* How a step was called, for files that cannot say it themselves. */
static char *record_of(const struct outcome *o, const char *name)
{
	enum { MUCH = 4096 };
	char *path = eprintf_str("%s/log/%s.made", o->dir, name), err[ERRLEN], *text = NULL;
	struct buf b = { 0 };

	if (file_read(path, &b, err) == 0 && b.len)
		text = estrndup((char *)b.p, MIN(b.len, MUCH));
	buf_free(&b);
	free(path);
	return text;
}

static void add_recorded(struct outcome *o, const char *name, const char *what)
{
	char *made = record_of(o, name);

	if (made)
		*MORE(o->artefact, o->nartefact) = (struct artefact){ estrdup(name), estrdup(what), 0, NULL, made };
}

static void add_artefact(struct outcome *o, const char *name, const char *path)
{
	struct artefact *a = MORE(o->artefact, o->nartefact);
	size_t n = strlen(path);
	char err[ERRLEN];

	a->bytes = size_of(path);
	if ((name_ends(name, ".tar") ? read_tar_file : read_stream)(a, path, err) == 0) {
		a->name = estrdup(name);
		if (!a->history)
			a->made = record_of(o, name);
		return;
	}
	/* The message begins with the whole path. */
	outcome_note(o, "%s is damaged: %s", name, strncmp(err, path, n) ? err : err + n + strspn(err + n, ": "));
	val_free(a->history);
	free(a->what);
	o->nartefact--;
}

static void add_picture(struct outcome *o, const char *name, const char *path)
{
	static const uint8_t magic[] = { 0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n' };
	struct image_file p = { 0 };
	char err[ERRLEN];

	if (file_read(path, &p.png, err) < 0) {
		outcome_note(o, "%s: %s", name, err);
		return;
	}
	if (p.png.len < 45 || memcmp(p.png.p, magic, sizeof magic) || memcmp(p.png.p + p.png.len - 8, "IEND", 4)) {
		outcome_note(o, "%s is damaged: no whole PNG file", name);
		buf_free(&p.png);
		return;
	}
	p.width = p.png.p[18] << 8 | p.png.p[19];
	p.height = p.png.p[22] << 8 | p.png.p[23];
	p.name = estrdup(name);
	*MORE(o->picture, o->npicture) = p;
	add_recorded(o, name, "picture");
}

static void add_table(struct outcome *o, const char *name, const char *path)
{
	struct table t = { 0 };
	char err[ERRLEN];

	if (table_read(&t, path, err) < 0) {
		outcome_note(o, "%s: %s", name, err);
		return;
	}
	t.name = estrdup(name);
	add_recorded(o, name, "table");
	if (results_match(&t))
		MORE(o->results, o->nresults)->t = t;
	else
		*MORE(o->table, o->ntable) = t;
}

/* The results of this name from the given one on; new if need be. */
static struct results *results_of(struct outcome *o, int from, const char *name)
{
	for (int i = from; i < o->nresults; i++)
		if (!strcmp(o->results[i].t.name, name))
			return &o->results[i];
	MORE(o->results, o->nresults)->t.name = estrdup(name);
	return &o->results[o->nresults - 1];
}

/* A folder of results, one a file. Those of students that differ in their number, NUMBER.json or NAME-NUMBER.json, are
 * one. */
static void add_results(struct outcome *o, const char *folder, const char *path)
{
	struct dirent **list;
	int n = list_dir(path, &list), from = o->nresults;
	char err[ERRLEN];
	double number;

	for (int i = 0; i < n; i++) {
		char *file = in_dir(path, list[i]->d_name), *family, *name;

		if (name_ends(list[i]->d_name, ".json")) {
			family = log_family(list[i]->d_name, &number);
			name = strcmp(family, "*.json") ? eprintf_str("%s/%s", folder, family) : estrdup(folder);
			if (results_append(results_of(o, from, name), file, err) < 0)
				outcome_note(o, "%s/%s: %s", folder, list[i]->d_name, err);
			free(family);
			free(name);
		}
		free(file);
		free(list[i]);
	}
	free(list);
	for (int i = o->nresults - 1; i >= from; i--) {
		results_mean(&o->results[i]);
		if (o->results[i].t.rows)
			continue;
		table_free(&o->results[i].t); /* none of them could be read */
		memmove(&o->results[i], &o->results[i + 1], (--o->nresults - i) * sizeof *o->results);
	}
}

static void add_json(struct outcome *o, const char *name, const char *path)
{
	struct results r = { .t.name = estrdup(name) };
	char err[ERRLEN];

	if (results_append(&r, path, err) < 0) {
		outcome_note(o, "%s: %s", name, err);
		free(r.t.name);
		return;
	}
	results_mean(&r);
	*MORE(o->results, o->nresults) = r;
}

static void add_file(struct outcome *o, const char *name)
{
	char *path = in_dir(o->dir, name);

	if (is_dir(path)) {
		if (strcmp(name, "log") && strcmp(name, "partial"))
			add_results(o, name, path);
	} else if (size_of(path) < 0) {
		outcome_note(o, "%s: not a file", name); /* a named pipe would be waited for */
	} else if (name_ends(name, ".ts") || name_ends(name, ".tar")) {
		add_artefact(o, name, path);
	} else if (name_ends(name, ".png")) {
		add_picture(o, name, path);
	} else if (name_ends(name, ".tsv")) {
		add_table(o, name, path);
	} else if (name_ends(name, ".json")) {
		add_json(o, name, path);
	}
	free(path);
}

/* What a finished run has. Only a run that distils has pictures. */
static void look_for_gaps(struct outcome *o)
{
	if (!outcome_table(o, "table.tsv"))
		outcome_note(o, "table.tsv: no table of accuracies yet");
	if (!o->npicture && !outcome_table(o, "table.tsv"))
		outcome_note(o, "no picture of images yet");
	if (!o->nresults)
		outcome_note(o, "no student has been measured yet");
}

int outcome_read(struct outcome *o, const char *dir, char err[ERRLEN])
{
	struct dirent **list;
	int n;

	*o = (struct outcome){ .dir = estrdup(dir) };
	n = scandir(dir, &list, visible, versionsort);
	if (n < 0)
		return fail(err, "%s: %s", dir, strerror(errno));
	for (int i = 0; i < n; i++) {
		add_file(o, list[i]->d_name);
		free(list[i]);
	}
	free(list);
	logs_read(o);
	look_for_gaps(o);
	return 0;
}

const struct table *outcome_table(const struct outcome *o, const char *name)
{
	for (int i = 0; i < o->ntable; i++)
		if (!strcmp(o->table[i].name, name))
			return &o->table[i];
	return NULL;
}

void outcome_free(struct outcome *o)
{
	while (o->nartefact--) {
		free(o->artefact[o->nartefact].name);
		free(o->artefact[o->nartefact].what);
		val_free(o->artefact[o->nartefact].history);
		free(o->artefact[o->nartefact].made);
	}
	while (o->npicture--) {
		free(o->picture[o->npicture].name);
		buf_free(&o->picture[o->npicture].png);
	}
	while (o->ntable--)
		table_free(&o->table[o->ntable]);
	while (o->njobs--)
		table_free(&o->jobs[o->njobs]);
	while (o->nresults--) {
		table_free(&o->results[o->nresults].t);
		val_free(o->results[o->nresults].protocol);
		val_free(o->results[o->nresults].history);
		free(o->results[o->nresults].figure);
	}
	while (o->nevents--) {
		struct events *e = &o->events[o->nevents];

		while (e->nkey)
			free(e->key[--e->nkey]);
		free(e->key);
		free(e->log);
		free(e->event);
		free(e->value);
	}
	while (o->nstage--)
		free(o->stage[o->nstage].name);
	while (o->nnote--)
		free(o->note[o->nnote]);
	free(o->artefact);
	free(o->picture);
	free(o->table);
	free(o->jobs);
	free(o->results);
	free(o->events);
	free(o->stage);
	free(o->note);
	free(o->dir);
	*o = (struct outcome){ 0 };
}
