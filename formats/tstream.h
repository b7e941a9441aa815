/* Tensor streams: one header, any number of frames, one trailer (tensorstream(5)).
 *
 * A reader or writer owns its file and buffers; frames handed out belong to the caller (val_free). Every function that
 * can fail returns -1 and leaves one line in err: file, frame number, byte offset, what was wrong.
 */
#ifndef TSTREAM_H
#define TSTREAM_H

#include <stdio.h>

#include "value.h"

#define TS_VERSION 1
#define TS_FRAME_MAX ((size_t)256 << 20)

struct ts_reader {
	char *name;         /* file name for messages, "<stdin>" */
	struct val *header; /* owned by the reader; see header.h for its keys */
	int64_t nframes;    /* frames handed out so far */
	char err[ERRLEN];
	struct ts_impl *impl;
};

/* Opens a file (NULL or "-": standard input), reads and checks the header. want is the expected kind ("images",
 * "checkpoint", "stats", "recipes"; NULL: any). -1: err says why, reader needs no close. */
int ts_open(struct ts_reader *r, const char *path, const char *want);
/* A stream may begin with this byte: a msgpack map does, the name of a tar's first member not. */
bool ts_begins(int c);
/* The same over a FILE or over memory; name is for messages. The reader does not close fp. */
int ts_open_file(struct ts_reader *r, FILE *fp, const char *name, const char *want);
int ts_open_mem(struct ts_reader *r, const void *p, size_t n, const char *name, const char *want);

/* Next frame: 1 and *frame; 0 at a whole stream's end (trailer verified, nothing behind it); -1 with r->err. */
int ts_next(struct ts_reader *r, struct val **frame);
/* The same without parsing: the frame's verified bytes, valid until the next call (what tscat and tscut pass on). */
int ts_next_raw(struct ts_reader *r, const uint8_t **p, size_t *n);
uint64_t ts_digest(const struct ts_reader *r); /* of the header and all frames handed out so far, in order */
void ts_close(struct ts_reader *r);

/* Random access on a regular file: opens by the trailer's offsets, frame i (0-based) by seeking. Every frame's hash is
 * checked against the trailer's at once, its bytes when it is read. ts_seekable: path is such a file. */
bool ts_seekable(const char *path);
int ts_open_seek(struct ts_reader *r, const char *path, const char *want);
int64_t ts_count(const struct ts_reader *r);
int ts_read_at(struct ts_reader *r, int64_t i, struct val **frame);
int ts_read_raw(struct ts_reader *r, int64_t i, const uint8_t **p, size_t *n); /* as ts_next_raw */
/* A frame's bytes as those two give them -> value tree. */
struct val *ts_parse(const uint8_t *p, size_t n, char err[ERRLEN]);

struct ts_writer {
	char *name;
	char err[ERRLEN];
	struct ts_wimpl *impl;
};

/* Starts a stream with this header (borrowed). path NULL or "-": standard output, refused when it is a terminal. A
 * named file is written as a temporary file beside it and only renamed (after fsync of file, then of folder) by
 * ts_finish; what exists and is no regular file (/dev/null, a named pipe) is written directly. An abandoned writer
 * (ts_abort, exit, or a signal that ends the process) leaves nothing behind. */
int ts_create(struct ts_writer *w, const char *path, const struct val *header);
int ts_create_mem(struct ts_writer *w, struct buf *out, const struct val *header);
/* The same for a named file, which grows as the file kept, stays there when the process ends early, and gets its name by
 * ts_finish; both on one file system. What an earlier run left of this stream is gone on with: of its whole frames
 * ts_ahead are still to be come by, each by being put again, and refused if it is another, or by ts_pass. What is refused
 * stays as it is: a file of another header, or that another process has open in this way. */
int ts_take_up(struct ts_writer *w, const char *path, const char *kept, const struct val *header);
int64_t ts_ahead(const struct ts_writer *w);
void ts_pass(struct ts_writer *w);
int ts_put(struct ts_writer *w, const struct val *frame); /* frame borrowed; a stale "xxh3" key in it is replaced */
int ts_put_raw(struct ts_writer *w, const void *p, size_t n); /* bytes as ts_next_raw gave them */
int ts_flush(struct ts_writer *w); /* hands what was written so far to the reader of the pipe */
int ts_finish(struct ts_writer *w); /* trailer, flush, check, rename */
void ts_abort(struct ts_writer *w);
/* What a filter's --header writes: a whole stream of this header and no frames. Dies when it cannot. */
void ets_header(const char *path, const struct val *header);

/* Atomic output of any other file through the same manners: out_open, write to fp, out_finish or out_abort. */
struct outfile {
	FILE *fp;
	char *path, *tmp; /* NULL: standard output */
	bool kept;        /* tmp is the caller's, and stays unless all ends well */
};
/* -1 and err where out_open would fail: known before the work. NULL and what is no plain file are not tried. */
int out_probe(const char *path, char err[ERRLEN]);
void eout_probe(const char *path); /* dies of it */
int out_open(struct outfile *o, const char *path, char err[ERRLEN]);
/* The same with the file kept as the temporary one, opened to be read and written, with what is in it. */
int out_take_up(struct outfile *o, const char *path, const char *kept, char err[ERRLEN]);
int out_finish(struct outfile *o, char err[ERRLEN]);
void out_abort(struct outfile *o);

#endif
