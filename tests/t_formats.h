/* What the tests of streams, checkpoints and pools share: small ones of each, readers, and ways to spoil them. */
#ifndef T_FORMATS_H
#define T_FORMATS_H

#include "../formats/checkpoint.h"
#include "load.h"

extern int ntest, nbad;
extern char dir[]; /* scratch folder, made by main */

void ok(bool good, const char *name, const char *why); /* one line of TAP */
const char *in_dir(const char *name);                  /* good for two more calls */
const char *as_file(const void *p, size_t n);          /* a regular file in memory with these bytes */

struct val *an_entry(int64_t seed); /* arguments of a stage */
struct val *a_header(const char *kind);
struct val *a_frame(int unit);
struct buf a_stream(const char *kind, int nframes);
struct buf a_checkpoint(uint32_t seed);
struct buf a_pool(int members);     /* stays as "pool" in dir */

/* 0 when accepted, -1 and err. digest (may be NULL): what was read, to be compared where it was accepted. */
typedef int reader(const void *p, size_t n, char err[ERRLEN], struct buf *digest);
reader read_images, read_file, read_seeking, read_checkpoint, read_pool;

/* Feeds every truncation and `flips` random flips. In a tar some bytes mean nothing (padding, times): there (slack) a
 * changed file may pass when what it holds is the same. */
void torture(const char *what, reader *read, struct buf b, int flips, bool slack);
void refused(const char *name, reader *read, const void *p, size_t n, const char *expect); /* err has expect in it */

#endif
