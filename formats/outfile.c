#include "../lib/times.h"
#include "tstream.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Temporary files that stand, for the exit and signal handlers; a forked child must leave its parent's alone. */
static char *volatile standing[32];
static pid_t owner;

static void remove_standing(void)
{
	size_t i;

	if (getpid() != owner)
		return;
	for (i = 0; i < LEN(standing); i++)
		if (standing[i])
			unlink(standing[i]);
}

static void on_signal(int sig)
{
	remove_standing();
	signal(sig, SIG_DFL);
	raise(sig);
}

static int register_tmp(char *tmp, char err[ERRLEN])
{
	static const int sigs[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction sa = { .sa_handler = on_signal }, old;
	size_t i;

	if (owner != getpid()) {
		for (i = 0; i < LEN(standing); i++)
			standing[i] = NULL;
		if (!owner)
			atexit(remove_standing);
		owner = getpid();
		for (i = 0; i < LEN(sigs); i++) /* nohup and a program's own handler keep theirs */
			if (!sigaction(sigs[i], NULL, &old) && old.sa_handler == SIG_DFL)
				sigaction(sigs[i], &sa, NULL);
	}
	for (i = 0; i < LEN(standing); i++)
		if (!standing[i]) {
			standing[i] = tmp;
			return 0;
		}
	return fail(err, "too many output files at once");
}

static void unregister_tmp(const char *tmp)
{
	size_t i;

	for (i = 0; i < LEN(standing); i++)
		if (standing[i] == tmp)
			standing[i] = NULL;
}

static int open_stdout(struct outfile *o, char err[ERRLEN])
{
	if (isatty(STDOUT_FILENO))
		return fail(err, "standard output is a terminal: redirect it, or name a file with -o");
	*o = (struct outfile){ .fp = stdout };
	return 0;
}

/* Where a link leads that leads to nothing yet; else the path itself. The caller's to free. */
static char *through_links(const char *path)
{
	enum { MOST = 40 }; /* as the kernel follows */
	char to[PATH_MAX], *at = estrdup(path);
	ssize_t n;

	for (int i = 0; i < MOST && (n = readlink(at, to, sizeof to - 1)) > 0; i++) {
		char *dir = estrdup(at), *next;

		to[n] = 0;
		next = *to == '/' ? estrdup(to) : eprintf_str("%s/%s", dirname(dir), to);
		free(dir);
		free(at);
		at = next;
	}
	return at;
}

/* A new file beside the path, of a name that nobody has: a killed process of the same number may have left its own. */
static int open_tmp(struct outfile *o, const char *path, char err[ERRLEN])
{
	char *dir = estrdup(o->path), *base = estrdup(o->path), *folder = dirname(dir), *name = basename(base);
	int fd = -1, why = EEXIST;

	for (int i = 0; i < 100 && fd < 0 && why == EEXIST; i++) {
		o->tmp = i ? eprintf_str("%s/.%s.%d.%ld.tmp", folder, name, i, (long)getpid()) :
			eprintf_str("%s/.%s.%ld.tmp", folder, name, (long)getpid());
		if (register_tmp(o->tmp, err) < 0)
			break;
		if ((fd = open(o->tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)) >= 0)
			break;
		why = errno;
		fail(err, "%s:", path);
		unregister_tmp(o->tmp);
		free(o->tmp);
		o->tmp = NULL;
	}
	free(dir);
	free(base);
	return fd;
}

int out_probe(const char *path, char err[ERRLEN])
{
	struct outfile o;
	struct stat st;

	if (!path || !strcmp(path, "-"))
		return (fcntl(STDOUT_FILENO, F_GETFL) & O_ACCMODE) == O_RDONLY ?
			errno = EBADF, fail(err, "standard output:") : 0;
	if (!stat(path, &st) && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		return 0;
	if (out_open(&o, path, err) < 0)
		return -1;
	out_abort(&o);
	return 0;
}

void eout_probe(const char *path)
{
	char err[ERRLEN];

	if (out_probe(path, err) < 0)
		die("%s", err);
}

/* Where an output of this name is to be, in *where, the caller's. 0: there is something that is no plain file, and is
 * written to as it stands. */
static int destination(const char *path, char **where, char err[ERRLEN])
{
	char real[PATH_MAX];
	struct stat st;

	*where = NULL;
	if (!stat(path, &st)) {
		if (S_ISDIR(st.st_mode))
			return errno = EISDIR, fail(err, "%s:", path);
		if (!S_ISREG(st.st_mode))
			return 0;
		if (!realpath(path, real)) /* a link stays one: what it points to is replaced */
			return fail(err, "%s:", path);
		*where = estrdup(real);
	} else if (errno != ENOENT) {
		return fail(err, "%s:", path);
	} else if (!*path || path[strlen(path) - 1] == '/') { /* now, not when all the work is done */
		return errno = *path ? EISDIR : ENOENT, fail(err, "'%s':", path);
	} else {
		*where = through_links(path);
	}
	return 1;
}

int out_open(struct outfile *o, const char *path, char err[ERRLEN])
{
	int fd, rc;

	if (!path || !strcmp(path, "-"))
		return open_stdout(o, err);
	*o = (struct outfile){ .path = NULL };
	if ((rc = destination(path, &o->path, err)) < 0)
		return -1;
	if (!rc) {
		if (!(o->fp = fopen(path, "w")))
			return fail(err, "%s:", path);
		o->path = estrdup(path);
		return 0;
	}
	if ((fd = open_tmp(o, path, err)) < 0) {
		free(o->path);
		free(o->tmp);
		*o = (struct outfile){ .path = NULL };
		return -1;
	}
	if ((o->fp = fdopen(fd, "w")))
		return 0;
	fail(err, "%s:", path);
	close(fd);
	out_abort(o);
	return -1;
}

/* One file can get the other's name: tried, since neither devices nor mounts tell. */
static int try_rename(const char *from, const char *to, char err[ERRLEN])
{
	struct outfile a, b = { .path = NULL };
	int rc = out_open(&a, from, err) < 0 || out_open(&b, to, err) < 0 ? -1 : 0;

	if (!rc && rename(a.tmp, b.tmp) < 0)
		rc = fail(err, "%s cannot get the name %s at the end:", from, to);
	out_abort(&a);
	out_abort(&b);
	return rc;
}

/* The file is this process's alone, and stays. */
static int claim(const struct outfile *o, char err[ERRLEN])
{
	struct stat mine, st;

	if (flock(fileno(o->fp), LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
		return fail(err, "%s: another run is at work on it", o->tmp);
	if (fstat(fileno(o->fp), &mine) < 0 || stat(o->tmp, &st) < 0 || st.st_dev != mine.st_dev || st.st_ino != mine.st_ino)
		return fail(err, "%s: it was renamed just now; another run had been at work on it", o->tmp);
	if (!stat(o->path, &st) && st.st_dev == mine.st_dev && st.st_ino == mine.st_ino)
		return fail(err, "%s: the output, and what is kept of it, cannot be one file", o->tmp);
	if (!fstat(STDIN_FILENO, &st) && st.st_dev == mine.st_dev && st.st_ino == mine.st_ino)
		return fail(err, "%s: the input, and what is kept of the output, cannot be one file", o->tmp);
	return 0;
}

int out_take_up(struct outfile *o, const char *path, const char *kept, char err[ERRLEN])
{
	int to, from, fd;

	*o = (struct outfile){ .kept = true };
	if ((to = destination(path, &o->path, err)) >= 0 && (from = destination(kept, &o->tmp, err)) >= 0) {
		if (!to || !from)
			fail(err, "%s: a regular file is needed", to ? kept : path);
		else if (!try_rename(o->tmp, o->path, err)) {
			fd = open(o->tmp, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
			if (fd < 0 || !(o->fp = fdopen(fd, "r+")))
				fail(err, "%s:", kept);
			else if (!claim(o, err))
				return 0;
			if (fd >= 0 && !o->fp)
				close(fd);
		}
	}
	out_abort(o);
	return -1;
}

static int sync_folder(const char *path)
{
	char *copy = estrdup(path);
	int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;

	/* A folder that may be written but not read, or a file system that cannot sync one, is no failure. */
	if (fd >= 0) {
		if (fsync(fd) < 0 && errno == EIO)
			rc = -1;
		close(fd);
	}
	free(copy);
	return rc;
}

static int finish(struct outfile *o, char err[ERRLEN])
{
	const char *name = o->path ? o->path : "standard output";
	int rc;

	errno = 0;
	if (fflush(o->fp) || ferror(o->fp)) {
		rc = errno ? fail(err, "%s:", name) : fail(err, "%s: write error", name);
		out_abort(o);
		return rc;
	}
	if (!o->path) {
		*o = (struct outfile){ .path = NULL };
		return 0;
	}
	rc = o->tmp && fsync(fileno(o->fp)) < 0 && errno != EINVAL && errno != EROFS ? -1 : 0;
	if (rc < 0) {
		fail(err, "%s:", name);
		out_abort(o);
		return -1;
	}
	rc = fclose(o->fp);
	o->fp = NULL;
	if (rc || (o->tmp && rename(o->tmp, o->path) < 0)) {
		fail(err, "%s:", name);
		out_abort(o);
		return -1;
	}
	if (o->tmp) {
		unregister_tmp(o->tmp);
		rc = sync_folder(o->path) < 0 ? fail(err, "%s: the folder cannot be synced:", name) : 0;
	}
	free(o->tmp);
	free(o->path);
	*o = (struct outfile){ .path = NULL };
	return rc;
}

int out_finish(struct outfile *o, char err[ERRLEN])
{
	double start = now();
	int rc = finish(o, err);

	times_add(TIME_WRITING, now() - start);
	return rc;
}

void out_abort(struct outfile *o)
{
	if (o->fp && o->fp != stdout)
		fclose(o->fp);
	if (o->tmp && !o->kept) {
		unlink(o->tmp);
		unregister_tmp(o->tmp);
	}
	free(o->tmp);
	free(o->path);
	*o = (struct outfile){ .path = NULL };
}
