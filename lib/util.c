#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { HUGE_PAGE = 2 << 20 };

const char *progname = "teddy";

static int drawn; /* a progress line stands on the terminal */

/* What is opened while a standard stream is closed would take its number: messages or a log would get into a file of
 * results. What stands there instead cannot be read or written either. And what cannot be written is reported like any
 * other failure, and clears up: a closed pipe, be it that of messages only, and a limit on the size of files would end the
 * process at once. */
__attribute__((constructor)) static void keep_standard_streams(void)
{
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	for (int fd = 0; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", fd ? O_RDONLY : O_WRONLY) != fd)
			_exit(1);
}

/* One line, whatever names out of a file are in it, and no control characters for a terminal. */
static void vwarn(const char *fmt, va_list ap)
{
	int saved = errno;
	size_t n = strlen(fmt);
	char *line;

	progress_done();
	if (vasprintf(&line, fmt, ap) < 0)
		line = NULL;
	for (char *c = line; c && *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
	flockfile(stderr);
	fprintf(stderr, "%s: %s", progname, line ? line : fmt);
	free(line);
	if (n && fmt[n - 1] == ':')
		fprintf(stderr, " %s", strerror(saved));
	putc('\n', stderr);
	funlockfile(stderr);
}

void warn(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vwarn(fmt, ap);
	va_end(ap);
}

void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vwarn(fmt, ap);
	va_end(ap);
	exit(1);
}

void usage(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vwarn(fmt, ap);
	va_end(ap);
	exit(2);
}

int fail(char err[ERRLEN], const char *fmt, ...)
{
	char line[ERRLEN]; /* err may be among the arguments */
	int saved = errno;
	size_t n = strlen(fmt), len;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	len = strlen(line);
	if (n && fmt[n - 1] == ':')
		snprintf(line + len, sizeof line - len, " %s", strerror(saved));
	memcpy(err, line, strlen(line) + 1);
	return -1;
}

void *emalloc(size_t n)
{
	void *p = malloc(n ? n : 1);

	if (!p)
		die("out of memory: %zu bytes wanted", n);
	return p;
}

void *ecalloc(size_t n, size_t size)
{
	void *p = calloc(n ? n : 1, size ? size : 1);

	if (!p)
		die("out of memory: %zu times %zu bytes wanted", n, size);
	return p;
}

void *erealloc(void *p, size_t n, size_t size)
{
	size_t bytes;

	if (mul_size(n, size, &bytes) < 0 || !(p = realloc(p, bytes ? bytes : 1)))
		die("out of memory: %zu times %zu bytes wanted", n, size);
	return p;
}

void *ealigned(size_t n, size_t size)
{
	size_t bytes, room;
	void *p;

	if (mul_size(n, size, &bytes) < 0 || bytes > SIZE_MAX - 64)
		die("out of memory: %zu times %zu bytes wanted", n, size);
	room = (MAX(bytes, 1) + 63) / 64 * 64; /* whole vectors may be read at the end */
	/* Large arrays start on a huge page and ask for more of them: what is read in many places at once (Winograd's 36
	 * planes) otherwise spends its time on page tables. */
	bool large = room >= HUGE_PAGE;
	if (posix_memalign(&p, large ? HUGE_PAGE : 64, room))
		die("out of memory: %zu bytes wanted", bytes);
	if (large)
		madvise(p, room, MADV_HUGEPAGE); /* a wish: without it the array is as good, but slower */
	return memset(p, 0, room);
}

char *estrdup(const char *s)
{
	return estrndup(s, strlen(s));
}

char *estrndup(const char *s, size_t n)
{
	char *p;

	n = strnlen(s, n);
	p = emalloc(n + 1);
	memcpy(p, s, n);
	p[n] = '\0';
	return p;
}

char *eprintf_str(const char *fmt, ...)
{
	va_list ap;
	char *s;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		die("out of memory");
	va_end(ap);
	return s;
}

int mul_size(size_t a, size_t b, size_t *out)
{
	return __builtin_mul_overflow(a, b, out) ? -1 : 0;
}

long long eint(const char *what, const char *s, long long lo, long long hi)
{
	char *end;
	long long v;

	errno = 0;
	v = strtoll(s, &end, 10);
	if (end == s || *end || errno)
		usage("%s: '%s' is not a whole number", what, s);
	if (v < lo || v > hi)
		usage("%s: %s is not in %lld..%lld", what, s, lo, hi);
	return v;
}

double ereal(const char *what, const char *s, double lo, double hi)
{
	char *end;
	double v;

	v = strtod(s, &end);
	if (end == s || *end || !isfinite(v))
		usage("%s: '%s' is not a number", what, s);
	if (v < lo || v > hi)
		usage("%s: %s is not in %g..%g", what, s, lo, hi);
	return v;
}

void buf_put(struct buf *b, const void *p, size_t n)
{
	if (!n)
		return;
	if (n > SIZE_MAX / 2 - b->len)
		die("out of memory: a buffer of %zu bytes", b->len);
	if (b->len + n > b->cap) {
		b->cap = MAX(b->len + n, b->cap + b->cap / 2);
		b->p = erealloc(b->p, b->cap, 1);
	}
	memcpy(b->p + b->len, p, n);
	b->len += n;
}

void buf_free(struct buf *b)
{
	free(b->p);
	*b = (struct buf){ 0 };
}

void eflush(void)
{
	/* A write that failed earlier may have left no errno to speak of. */
	errno = 0;
	if (fflush(stdout) || ferror(stdout)) {
		if (errno)
			die("standard output:");
		die("standard output: write error");
	}
}

double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + 1e-9 * t.tv_nsec;
}

void progress(const char *unit, long done, long total, const char *extra)
{
	static double start, last;
	static long first;
	double t = now(), rate;
	long left;

	if (!isatty(STDERR_FILENO))
		return;
	if (!start) {
		start = t;
		first = done;
	}
	if (t - last < 0.1)
		return;
	last = t;
	rate = t > start ? (done - first) / (t - start) : 0;
	fprintf(stderr, "\r\033[K%s: %ld", progname, done);
	if (total > 0)
		fprintf(stderr, "/%ld", total);
	fprintf(stderr, " %s", unit);
	if (rate > 0)
		fprintf(stderr, "  %.3g/s", rate);
	if (rate > 0 && total > done) {
		left = (total - done) / rate;
		fprintf(stderr, "  %ld:%02ld:%02ld left", left / 3600, left / 60 % 60, left % 60);
	}
	if (extra)
		fprintf(stderr, "  %s", extra);
	fflush(stderr);
	drawn = 1;
}

void progress_done(void)
{
	if (!drawn)
		return;
	drawn = 0;
	fputs("\r\033[K", stderr);
	fflush(stderr);
}
