/* Checkpoints and pools: trained networks as tensor streams, and tars of them (checkpoint(5), pool(5)).
 *
 * A checkpoint's header carries the graph (key "net"), classes, normalisation and history, and how it was trained
 * (key "train", a map of epoch, accuracy, …); one parameter or buffer a frame, under torchvision's name; a large one
 * is split by rows over several.
 */
#ifndef CHECKPOINT_H
#define CHECKPOINT_H

#include "../lib/net.h"
#include "header.h"
#include "tstream.h"

struct checkpoint { /* owns everything in it */
	char *member;       /* its name in the pool: "SEED/EPOCH.ts"; NULL outside a pool */
	struct val *header;
	struct net *net;
	struct weights w;
};
void checkpoint_free(struct checkpoint *c);

/* The graph as a value tree and back; the latter checks everything (order, known operations, shapes). */
struct val *net_to_val(const struct net *n);
struct net *net_from_val(const struct val *v, char err[ERRLEN]);

/* header: kind checkpoint, borrowed; "net" is the writer's business and not in the header that was read. */
int checkpoint_write(struct ts_writer *w, const char *path, struct val *header, const struct net *n,
	const struct weights *wt);
int checkpoint_write_mem(struct buf *out, struct val *header, const struct net *n, const struct weights *wt,
	char err[ERRLEN]);
int checkpoint_read(struct ts_reader *r, struct checkpoint *c); /* an open reader of kind checkpoint; err in r->err */

/* Writing by the parameter, for weights that are not in memory: a stream with this header (the caller's), then each
 * parameter (rows,…), whole or by rows: its first dimension, in order; then ts_finish. */
#define CHECKPOINT_PART ((size_t)64 << 20) /* bytes of a parameter that one frame takes, unless a row has more */
struct val *checkpoint_header(const struct val *header, const struct net *n); /* with the graph in it */
int64_t checkpoint_rows(const struct param *p, size_t part); /* rows that so many bytes are, 1 at least */
int checkpoint_put(struct ts_writer *w, const struct param *p, int64_t row, int64_t rows, const float *x);
int checkpoint_put_param(struct ts_writer *w, const struct param *p, const float *x, size_t part); /* all its rows */
/* ckread.c: all frames of an open reader into *w, each parameter once and whole; err in r->err. */
int checkpoint_params(struct ts_reader *r, const struct net *n, struct weights *w);

/* Pool reader: members in the tar's order; the manifests are verified on the way. pool_next: 1, 0 at a whole pool's
 * end, -1 with err. A tar whose last member is no MANIFEST is truncated. A plain checkpoint file is a pool of one. */
struct pool_reader {
	char *name;
	char err[ERRLEN];
	struct pool_impl *impl;
};
int pool_open(struct pool_reader *p, const char *path); /* NULL or "-": standard input */
int pool_open_file(struct pool_reader *p, FILE *fp, const char *name); /* closes fp with the pool, or at once on -1 */
int pool_next(struct pool_reader *p, struct checkpoint *c);
void pool_close(struct pool_reader *p);

/* A copy of the header of a pool's first checkpoint; no more is read than that takes. -1 and err. */
int pool_header(const char *path, struct val **header, char err[ERRLEN]);

/* The whole pool at once: array of *n checkpoints, in member order. NULL and err. */
struct checkpoint *pool_read_all(const char *path, int *n, char err[ERRLEN]);

/* Pool writer: standard output or a named file (atomic); members appear in it as they are added, MANIFEST last. */
struct pool_writer {
	char err[ERRLEN];
	struct pool_wimpl *impl;
};
int pool_create(struct pool_writer *p, const char *path);
int pool_add(struct pool_writer *p, const char *member, const void *bytes, size_t n); /* a whole checkpoint stream */
int pool_finish(struct pool_writer *p);
void pool_abort(struct pool_writer *p);

#endif
