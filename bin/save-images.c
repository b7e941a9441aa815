/* save-images(1): images -> a WebDataset tar, or a folder of class folders */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <archive.h>
#include <archive_entry.h>
#include <jansson.h>
#include <omp.h>

#include "../formats/images.h"
#include "../formats/imageset.h"
#include "../lib/times.h"

static const char help[] =
	"usage: save-images [options] <images >tar\n"
	"  --format FORMAT    webdataset (a tar, the default) or folder (needs -o)\n"
	"  --threads N        (all)\n"
	"  -o OUT             output file, or the folder to make\n"
	"  -v                 say where the time went\n"
	"  -h, -V             help, version\n";

/* Where members go: a tar, or a folder under its temporary name. */
struct sink {
	struct archive *tar;
	struct outfile file;
	const char *dir;
	char **class_dir; /* folder: (nclass) */
	int nclass;
};

static char *standing;               /* the temporary folder, for the exit handler */
static volatile sig_atomic_t caught;

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static void remove_standing(void)
{
	if (standing)
		nftw(standing, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* No restart: a read that waits for the pipe ends, and what it fails with is the signal. */
static void on_signal(int sig)
{
	caught = sig;
}

static void end_if_caught(void)
{
	if (!caught)
		return;
	remove_standing();
	signal(caught, SIG_DFL);
	raise(caught);
}

static void catch_signals(void)
{
	struct sigaction sa = { .sa_handler = on_signal }, old;
	static const int sigs[] = { SIGINT, SIGTERM, SIGHUP };

	for (size_t i = 0; i < LEN(sigs); i++) /* nohup keeps its own */
		if (!sigaction(sigs[i], NULL, &old) && old.sa_handler == SIG_DFL)
			sigaction(sigs[i], &sa, NULL);
}

static _Noreturn void tar_failed(struct sink *s)
{
	const char *name = s->file.path ? s->file.path : "standard output";

	errno = archive_errno(s->tar);
	if (errno > 0)
		die("%s:", name);
	die("%s: %s", name, archive_error_string(s->tar));
}

static la_ssize_t write_block(struct archive *a, void *fp, const void *p, size_t n)
{
	double start = now();
	bool whole = fwrite(p, 1, n, fp) == n;

	times_add(TIME_WRITING, now() - start);
	if (whole)
		return n;
	archive_set_error(a, errno, "write error");
	return -1;
}

static void open_tar(struct sink *s, const char *out)
{
	char err[ERRLEN];

	if (out_open(&s->file, out, err))
		die("%s", err);
	s->tar = archive_write_new();
	archive_write_set_format_ustar(s->tar);
	archive_write_set_bytes_per_block(s->tar, 10240);
	archive_write_set_bytes_in_last_block(s->tar, 10240); /* the same bytes into a pipe and into a file */
	if (archive_write_open(s->tar, s->file.fp, NULL, write_block, NULL) != ARCHIVE_OK)
		die("%s", archive_error_string(s->tar));
}

static void open_folder(struct sink *s, const char *out, const struct val *header)
{
	char *path = estrdup(out);
	size_t n = strlen(path);
	mode_t mask = umask(0);
	struct stat st;

	umask(mask);
	while (n > 1 && path[n - 1] == '/')
		path[--n] = '\0';
	if (!lstat(path, &st))
		die("%s: is there already", path);
	s->dir = path;
	s->nclass = header_nclass(header);
	s->class_dir = ecalloc(s->nclass, sizeof *s->class_dir);
	for (int i = 0; i < s->nclass; i++) {
		s->class_dir[i] = class_folder(header_class(header, i));
		for (int j = 0; j < i; j++)
			if (!strcmp(s->class_dir[i], s->class_dir[j]))
				die("classes '%s' and '%s' would share the folder %s", header_class(header, j),
				    header_class(header, i), s->class_dir[i]);
	}
	catch_signals();
	atexit(remove_standing);
	path = eprintf_str("%s.XXXXXX", s->dir);
	if (!mkdtemp(path))
		die("%s:", path);
	standing = path;
	if (chmod(path, 0777 & ~mask))
		die("%s:", path);
}

static void put_member(struct sink *s, const char *name, const void *p, size_t n)
{
	struct archive_entry *e;

	end_if_caught();
	if (!s->tar) {
		char *path = eprintf_str("%s/%s", standing, name);
		FILE *fp = fopen(path, "wbx");

		if (!fp)
			die("%s:", path);
		if (fwrite(p, 1, n, fp) != n || fflush(fp) || fclose(fp))
			die("%s:", path);
		free(path);
		return;
	}
	e = archive_entry_new();
	archive_entry_set_pathname(e, name);
	archive_entry_set_filetype(e, AE_IFREG);
	archive_entry_set_perm(e, 0644);
	archive_entry_set_size(e, n);
	archive_entry_set_mtime(e, 0, 0);
	if (archive_write_header(s->tar, e) != ARCHIVE_OK || archive_write_data(s->tar, p, n) != (ssize_t)n)
		tar_failed(s);
	archive_entry_free(e);
}

static void finish(struct sink *s)
{
	char err[ERRLEN];
	int fd;

	if (s->tar) {
		if (archive_write_close(s->tar) != ARCHIVE_OK)
			tar_failed(s);
		archive_write_free(s->tar);
		if (out_finish(&s->file, err))
			die("%s", err);
		return;
	}
	end_if_caught();
	fd = open(standing, O_RDONLY | O_DIRECTORY);
	if (fd < 0 || syncfs(fd) || close(fd) || rename(standing, s->dir))
		die("%s:", s->dir);
	free(standing);
	standing = NULL;
	for (int i = 0; i < s->nclass; i++)
		free(s->class_dir[i]);
	free(s->class_dir);
	free((char *)s->dir);
}

static json_t *to_json(const struct val *v)
{
	json_t *j = NULL;

	switch (v->type) {
	case V_BOOL: return json_boolean(v->b);
	case V_INT: return json_integer(v->i);
	case V_F64: return json_real(v->f);
	case V_STR:
		if (!(j = json_stringn(v->s.p, v->s.len)))
			die("header: text that is not UTF-8");
		return j;
	case V_LIST:
		j = json_array();
		for (size_t i = 0; i < v->list.len; i++)
			json_array_append_new(j, to_json(v->list.item[i]));
		return j;
	case V_MAP:
		j = json_object();
		for (size_t i = 0; i < v->map.len; i++)
			if (json_object_set_new(j, v->map.key[i], to_json(v->map.item[i])))
				die("header: a key that is not UTF-8");
		return j;
	default:
		return json_null();
	}
}

static void put_json(struct sink *s, const char *name, json_t *j, size_t flags)
{
	char *text = json_dumps(j, flags | JSON_REAL_PRECISION(9)), *line; /* 9 digits tell floats apart */

	if (!text)
		die("%s: cannot be written as JSON", name);
	line = eprintf_str("%s\n", text);
	put_member(s, name, line, strlen(line));
	free(text);
	free(line);
	json_decref(j);
}

static void put_header(struct sink *s, const struct val *header)
{
	static const char *const keys[] = { "classes", "mean", "std", "shape", "history" };
	json_t *j = json_object();
	struct buf names = { 0 };

	for (int i = 0; i < header_nclass(header); i++) {
		const char *name = header_class(header, i);

		if (strchr(name, '\n'))
			die("class %d: a line break in its name", i);
		buf_put(&names, name, strlen(name));
		buf_put(&names, "\n", 1);
	}
	put_member(s, "classes.txt", names.p, names.len);
	buf_free(&names);
	for (size_t i = 0; i < LEN(keys); i++)
		if (val_get(header, keys[i]))
			json_object_set_new(j, keys[i], to_json(val_get(header, keys[i])));
	put_json(s, "dataset.json", j, JSON_INDENT(1));
}

/* Image i of the frame as pixels: floats leave the header's normalisation, are rounded and clamped. */
static int get_picture(const struct image_frame *f, int64_t i, const int chw[3], const struct norm *norm,
		       struct picture *out, char *err)
{
	size_t plane = (size_t)chw[1] * chw[2], each = chw[0] * plane;

	if (f->encoded) {
		const struct val *v = f->encoded->list.item[i];

		if (picture_decode(v->s.p, v->s.len, out, err))
			return -1;
		picture_fit(out, chw[0], chw[1], chw[2]);
		return 0;
	}
	*out = (struct picture){ chw[0], chw[1], chw[2], emalloc(each) };
	if (f->u8) {
		memcpy(out->px, f->u8 + i * each, each);
		return 0;
	}
	for (int k = 0; k < chw[0]; k++)
		for (size_t j = 0; j < plane; j++) {
			double x = (double)f->f32[i * each + k * plane + j] * norm->std[k] + norm->mean[k];

			out->px[k * plane + j] = lrint(255 * MAX(0, MIN(1, x)));
		}
	return 0;
}

static void encode(const struct image_frame *f, const struct val *header, struct buf *png, const char *name)
{
	char err[ERRLEN] = "";
	struct norm norm;
	int64_t bad = f->n;
	int chw[3];

	header_shape(header, chw);
	header_norm(header, &norm);
	#pragma omp parallel for schedule(dynamic, 4)
	for (int64_t i = 0; i < f->n; i++) {
		struct picture pic = { 0 };
		char why[ERRLEN];

		if (get_picture(f, i, chw, &norm, &pic, why) || picture_encode_png(&pic, &png[i], why)) {
			#pragma omp critical
			if (i < bad) {
				bad = i;
				fail(err, "image %lld: %s", (long long)i, why);
			}
		}
		free(pic.px);
	}
	if (bad < f->n)
		die("%s: %s", name, err);
}

static void put_image(struct sink *s, int64_t key, int label, const struct buf *png,
		      json_t *about)
{
	char name[64], digits[16];

	if (!s->tar) {
		char *dir = eprintf_str("%s/%s", standing, s->class_dir[label]), *path;

		if (mkdir(dir, 0777) && errno != EEXIST)
			die("%s:", dir);
		path = eprintf_str("%s/%08lld.png", s->class_dir[label], (long long)key);
		put_member(s, path, png->p, png->len);
		free(path);
		free(dir);
		json_decref(about);
		return;
	}
	snprintf(name, sizeof name, "%08lld.png", (long long)key);
	put_member(s, name, png->p, png->len);
	snprintf(name, sizeof name, "%08lld.cls", (long long)key);
	put_member(s, name, digits, snprintf(digits, sizeof digits, "%d\n", label));
	snprintf(name, sizeof name, "%08lld.json", (long long)key);
	put_json(s, name, about, JSON_COMPACT);
}

static void put_frame(struct sink *s, const struct val *header, const struct val *frame, int64_t *key,
		      const char *name)
{
	const struct tensor *index = val_get_tensor(frame, "index");
	const struct val *unit = val_get(frame, "unit");
	struct image_frame f;
	struct buf *png;
	char err[ERRLEN];

	if (image_frame_get(header, frame, &f, err))
		die("%s: %s", name, err);
	if (index && (index->type != DT_I64 || index->ndim != 1 || index->shape[0] != f.n))
		die("%s: index: not one i64 an image", name);
	png = ecalloc(f.n + 1, sizeof *png);
	encode(&f, header, png, name);
	for (int64_t i = 0; i < f.n; i++) {
		json_t *j = json_object();

		json_object_set_new(j, "class", to_json(val_get(header, "classes")->list.item[f.label[i]]));
		json_object_set_new(j, "label", json_integer(f.label[i]));
		if (unit && unit->type == V_INT)
			json_object_set_new(j, "unit", json_integer(unit->i));
		if (index)
			json_object_set_new(j, "index", json_integer(((int64_t *)index->data)[i]));
		put_image(s, (*key)++, f.label[i], &png[i], j);
		buf_free(&png[i]);
	}
	free(png);
}

static const char *parse(int argc, char **argv, bool *folder, bool *verbose)
{
	enum { FORMAT = 256, THREADS };
	static const struct option longs[] = {
		{ "format", 1, NULL, FORMAT }, { "threads", 1, NULL, THREADS },
		{ "help", 0, NULL, 'h' }, { "version", 0, NULL, 'V' }, { 0 }
	};
	const char *out = NULL;
	int c;

	while ((c = getopt_long(argc, argv, "o:vhV", longs, NULL)) != -1)
		switch (c) {
		case FORMAT:
			*folder = !strcmp(optarg, "folder");
			if (!*folder && strcmp(optarg, "webdataset"))
				usage("--format %s: webdataset or folder expected", optarg);
			break;
		case THREADS: omp_set_num_threads((int)eint("--threads", optarg, 1, 4096)); break;
		case 'o': out = optarg; break;
		case 'v': *verbose = true; break;
		case 'h': fputs(help, stdout); eflush(); exit(0);
		case 'V': puts("save-images " TEDDY_VERSION); eflush(); exit(0);
		default: exit(2); /* getopt has said why */
		}
	if (optind < argc)
		usage("%s: no file arguments; images come on standard input", argv[optind]);
	if (*folder && !out)
		usage("--format folder needs -o DIR");
	return out;
}

static void check_header(const struct ts_reader *r)
{
	struct norm norm;
	int chw[3];

	if (header_shape(r->header, chw))
		die("%s: header: no image shape", r->name);
	if (chw[0] != 1 && chw[0] != 3)
		die("%s: %d channels: PNG has one or three", r->name, chw[0]);
	if (header_norm(r->header, &norm) || norm.channels != chw[0])
		die("%s: header: no mean and standard deviation for %d channels", r->name, chw[0]);
	if (!header_nclass(r->header))
		die("%s: header: no class names", r->name);
}

int main(int argc, char **argv)
{
	struct sink sink = { 0 };
	struct ts_reader r;
	struct val *frame, *header;
	bool folder = false, verbose = false;
	const char *out;
	int64_t key = 0;
	int got;

	progname = "save-images";
	out = parse(argc, argv, &folder, &verbose);
	if (ts_open(&r, NULL, "images") < 0)
		die("%s", r.err);
	check_header(&r);
	header = val_copy(r.header);
	history_add(header, progname, val_map());
	if (folder)
		open_folder(&sink, out, header);
	else
		open_tar(&sink, out);
	put_header(&sink, header);
	while ((got = ts_next(&r, &frame)) > 0) {
		char *name = eprintf_str("%s: frame %lld", r.name, (long long)r.nframes - 1);

		put_frame(&sink, header, frame, &key, name);
		val_free(frame);
		free(name);
	}
	if (got < 0) {
		end_if_caught();
		die("%s", r.err);
	}
	if (!key)
		die("%s: no images in it", r.name);
	finish(&sink);
	val_free(header);
	ts_close(&r);
	if (verbose)
		times_say();
	return 0;
}
