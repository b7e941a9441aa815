/* Command-line manners shared by every filter: errors, memory, numbers.
 *
 * Functions named e… cannot fail for the caller: they die with one line on standard error and exit status 1.
 * Nothing else in lib/ or formats/ ends the process; a fallible function there returns -1 (or NULL) and leaves one
 * line in the error buffer that it was given.
 */
#ifndef UTIL_H
#define UTIL_H

#include <stddef.h>
#include <stdint.h>

#define TEDDY_VERSION "0.1"
#define LEN(a) (sizeof(a) / sizeof *(a))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* An error line without program name and newline. Callee writes it with fail(). */
#define ERRLEN 512
int fail(char err[ERRLEN], const char *fmt, ...) __attribute__((format(printf, 2, 3))); /* always -1 */

extern const char *progname; /* set by main() before anything else */

/* "progname: message\n" on standard error; a format that ends in ':' gets errno's text appended. */
void warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));   /* exit status 1 */
_Noreturn void usage(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* exit status 2 */

void *emalloc(size_t n);
void *ecalloc(size_t n, size_t size);         /* dies when n*size overflows */
void *erealloc(void *p, size_t n, size_t size);
void *ealigned(size_t n, size_t size);        /* 64-byte aligned, zeroed, release with free() */
char *estrdup(const char *s);
char *estrndup(const char *s, size_t n);
char *eprintf_str(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* asprintf that cannot fail */

/* Checked product of sizes: 0 and *out set, or -1 on overflow. */
int mul_size(size_t a, size_t b, size_t *out);

/* Bounded parsers for option arguments; usage() names `what` when s is not wholly a number in [lo, hi]. */
long long eint(const char *what, const char *s, long long lo, long long hi);
double ereal(const char *what, const char *s, double lo, double hi);

/* Growing byte buffer; buf_free() releases it, {0} is empty. */
struct buf {
	uint8_t *p;
	size_t len, cap;
};
void buf_put(struct buf *b, const void *p, size_t n);
void buf_free(struct buf *b);

/* The last act of a filter that prints text: flushes standard output, dies when that or an earlier write failed. */
void eflush(void);

double now(void); /* seconds, monotonic */

/* Progress line, drawn on a terminal only and at most ten times a second. unit names what is counted ("steps").
 * extra (may be NULL) is appended: loss and the like. progress_done() wipes the line. */
void progress(const char *unit, long done, long total, const char *extra);
void progress_done(void);

#endif
