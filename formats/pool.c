#include "../lib/times.h"
#include "checkpoint.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define MANIFEST "MANIFEST"

struct pool_impl {
	FILE *fp;
	struct archive *a;    /* NULL: a plain checkpoint */
	struct buf manifest;  /* what the next manifest must say */
	struct buf member;
	int64_t count;
	bool sealed, done, failed;
	char block[1 << 16];
};

/* "HEX  MEMBER\n" */
static void manifest_line(struct buf *b, const char *member, const void *p, size_t n)
{
	XXH128_canonical_t c;
	char hex[3];
	size_t i;

	XXH128_canonicalFromHash(&c, XXH3_128bits(p, n));
	for (i = 0; i < sizeof c.digest; i++) {
		sprintf(hex, "%02x", c.digest[i]);
		buf_put(b, hex, 2);
	}
	buf_put(b, "  ", 2);
	buf_put(b, member, strlen(member));
	buf_put(b, "\n", 1);
}

static la_ssize_t read_block(struct archive *a, void *data, const void **p)
{
	struct pool_impl *im = data;
	double start = now();
	size_t n = fread(im->block, 1, sizeof im->block, im->fp);

	times_add(TIME_READING, now() - start);
	*p = im->block;
	if (n < sizeof im->block && ferror(im->fp)) {
		archive_set_error(a, errno, "%s", strerror(errno));
		return -1;
	}
	return n;
}

/* Tars that follow one another (cat, tar -A) are one pool. */
static int open_tar(struct pool_reader *p)
{
	struct pool_impl *im = p->impl;

	setlocale(LC_CTYPE, "C.UTF-8"); /* as names are in pax headers, for libarchive */
	if (!(im->a = archive_read_new()))
		die("out of memory");
	archive_read_support_format_tar(im->a);
	archive_read_set_format_option(im->a, "tar", "read_concatenated_archives", "1");
	if (archive_read_open(im->a, im, NULL, read_block, NULL) == ARCHIVE_OK)
		return 0;
	fail(p->err, "%s: %s", p->name, archive_error_string(im->a));
	pool_close(p);
	return -1;
}

int pool_open(struct pool_reader *p, const char *path)
{
	bool std = !path || !strcmp(path, "-");
	FILE *fp = std ? stdin : fopen(path, "rbe");

	*p = (struct pool_reader){ .name = NULL };
	if (!fp)
		return fail(p->err, "%s:", path);
	return pool_open_file(p, fp, std ? "<stdin>" : path);
}

int pool_open_file(struct pool_reader *p, FILE *fp, const char *name)
{
	int c;

	*p = (struct pool_reader){ .name = estrdup(name) };
	p->impl = ecalloc(1, sizeof *p->impl);
	p->impl->fp = fp;
	errno = 0;
	if ((c = getc(fp)) == EOF) {
		if (ferror(fp))
			fail(p->err, "%s:", p->name);
		else
			fail(p->err, "%s: empty, no pool", p->name);
		pool_close(p);
		return -1;
	}
	ungetc(c, fp);
	if (ts_begins(c)) /* a checkpoint by itself */
		return 0;
	return open_tar(p);
}

void pool_close(struct pool_reader *p)
{
	struct pool_impl *im = p->impl;

	if (!im)
		return;
	if (im->a)
		archive_read_free(im->a);
	if (im->fp != stdin)
		fclose(im->fp);
	buf_free(&im->manifest);
	buf_free(&im->member);
	free(im);
	free(p->name);
	p->impl = NULL;
	p->name = NULL;
}

/* The whole member in im->member. By blocks: a hole in a sparse member would cost memory without bytes. */
static int read_member(struct pool_reader *p, struct archive_entry *e)
{
	struct pool_impl *im = p->impl;
	const char *name = archive_entry_pathname(e);
	const void *b;
	size_t n;
	la_int64_t off;
	int rc;

	im->member.len = 0;
	while ((rc = archive_read_data_block(im->a, &b, &n, &off)) == ARCHIVE_OK) {
		if (off != (la_int64_t)im->member.len)
			return fail(p->err, "%s: member %s is a sparse file", p->name, name);
		buf_put(&im->member, b, n);
	}
	if (rc != ARCHIVE_EOF)
		return fail(p->err, "%s: member %s: %s", p->name, name, archive_error_string(im->a));
	if (archive_entry_size(e) != (la_int64_t)im->member.len)
		return fail(p->err, "%s: member %s is cut short", p->name, name);
	return 0;
}

/* Compares the manifest with the members that came before it; the first line that differs names the member. */
static int check_manifest(struct pool_reader *p)
{
	struct pool_impl *im = p->impl;
	const uint8_t *a = im->manifest.p, *b = im->member.p;
	size_t na = im->manifest.len, nb = im->member.len, i = 0, start = 0, end;

	while (i < na && i < nb && a[i] == b[i])
		if (a[i++] == '\n')
			start = i;
	if (i == na && i == nb) {
		im->manifest.len = 0;
		im->sealed = true;
		return 0;
	}
	if (start == na)
		return fail(p->err, "%s: " MANIFEST " names members that are not there", p->name);
	for (end = start; a[end] != '\n'; end++)
		;
	start = MIN(start + 34, end);
	return fail(p->err, "%s: member %.*s is not what " MANIFEST " says", p->name, (int)(end - start), a + start);
}

static int parse_member(struct pool_reader *p, const char *member, struct checkpoint *c)
{
	struct pool_impl *im = p->impl;
	struct ts_reader r;
	char *name = eprintf_str("%s: member %s", p->name, member);
	int rc = ts_open_mem(&r, im->member.p, im->member.len, name, "checkpoint");

	if (!rc) {
		rc = checkpoint_read(&r, c);
		ts_close(&r);
	}
	free(name);
	if (rc < 0)
		return fail(p->err, "%s", r.err);
	c->member = estrdup(member);
	return 1;
}

static int next_plain(struct pool_reader *p, struct checkpoint *c)
{
	struct ts_reader r;
	int rc = ts_open_file(&r, p->impl->fp, p->name, "checkpoint");

	if (!rc) {
		rc = checkpoint_read(&r, c);
		ts_close(&r);
	}
	p->impl->done = true;
	return rc < 0 ? fail(p->err, "%s", r.err) : 1;
}

static int at_end(struct pool_reader *p)
{
	struct pool_impl *im = p->impl;

	im->done = true;
	if (!im->sealed)
		return fail(p->err, "%s: truncated after %lld members: no " MANIFEST " at its end", p->name,
			(long long)im->count);
	if (!im->count)
		return fail(p->err, "%s: a pool without checkpoints", p->name);
	return 0;
}

static int next_member(struct pool_reader *p, struct checkpoint *c)
{
	struct pool_impl *im = p->impl;
	struct archive_entry *e;
	const char *name;
	int rc;

	for (;;) {
		rc = archive_read_next_header(im->a, &e);
		if (rc == ARCHIVE_EOF)
			return at_end(p);
		if (rc != ARCHIVE_OK)
			return fail(p->err, "%s: after %lld members: %s", p->name, (long long)im->count,
				archive_error_string(im->a));
		if (!(name = archive_entry_pathname(e)) || strchr(name, '\n'))
			return fail(p->err, "%s: after %lld members: a member without a proper name", p->name,
				(long long)im->count);
		if (archive_entry_filetype(e) == AE_IFDIR && !archive_entry_size(e))
			continue; /* of a pool that was unpacked and packed again */
		if (archive_entry_filetype(e) != AE_IFREG || archive_entry_hardlink(e))
			return fail(p->err, "%s: member %s is no regular file", p->name, name);
		if (read_member(p, e) < 0)
			return -1;
		if (strcmp(name, MANIFEST))
			break;
		if (check_manifest(p) < 0)
			return -1;
	}
	im->sealed = false;
	im->count++;
	manifest_line(&im->manifest, name, im->member.p, im->member.len);
	return parse_member(p, name, c);
}

int pool_next(struct pool_reader *p, struct checkpoint *c)
{
	struct pool_impl *im = p->impl;
	int rc;

	if (im->failed)
		return -1;
	if (im->done)
		return 0;
	rc = im->a ? next_member(p, c) : next_plain(p, c);
	im->failed = rc < 0;
	return rc;
}

int pool_header(const char *path, struct val **header, char err[ERRLEN])
{
	struct checkpoint c;
	struct pool_reader p;
	struct ts_reader r;
	int rc = 0;

	if (pool_open(&p, path) < 0)
		return fail(err, "%s", p.err);
	if (!p.impl->a && (rc = ts_open_file(&r, p.impl->fp, p.name, "checkpoint")) < 0) {
		fail(err, "%s", r.err);
	} else if (!p.impl->a) { /* no net or parameters are asked for: a header alone has none */
		*header = val_copy(r.header);
		val_drop(*header, "net");
		ts_close(&r);
	} else if ((rc = pool_next(&p, &c)) <= 0) {
		rc = fail(err, "%s", rc ? p.err : "no members in it");
	} else {
		*header = val_copy(c.header);
		checkpoint_free(&c);
	}
	pool_close(&p);
	return MIN(rc, 0);
}

struct checkpoint *pool_read_all(const char *path, int *n, char err[ERRLEN])
{
	struct checkpoint *all = NULL, c;
	struct pool_reader p;
	int rc;

	*n = 0;
	if (pool_open(&p, path) < 0) {
		fail(err, "%s", p.err);
		return NULL;
	}
	while ((rc = pool_next(&p, &c)) > 0) {
		all = erealloc(all, *n + 1, sizeof *all);
		all[(*n)++] = c;
	}
	pool_close(&p);
	if (!rc)
		return all;
	fail(err, "%s", p.err);
	while (*n)
		checkpoint_free(&all[--*n]);
	free(all);
	return NULL;
}

struct pool_wimpl {
	struct archive *a;
	struct outfile out;
	struct buf manifest;
	char *name;
	bool failed, dropping;
};

static la_ssize_t write_block(struct archive *a, void *data, const void *p, size_t n)
{
	struct pool_wimpl *im = data;
	double start = now();
	bool whole;

	errno = 0;
	whole = im->dropping || fwrite(p, 1, n, im->out.fp) == n;
	times_add(TIME_WRITING, now() - start);
	if (whole)
		return n;
	archive_set_error(a, errno, "%s", errno ? strerror(errno) : "write error");
	return -1;
}

static void release(struct pool_writer *p)
{
	buf_free(&p->impl->manifest);
	free(p->impl->name);
	free(p->impl);
	p->impl = NULL;
}

int pool_create(struct pool_writer *p, const char *path)
{
	struct pool_wimpl *im = ecalloc(1, sizeof *im);

	*p = (struct pool_writer){ .impl = im };
	im->name = estrdup(path && strcmp(path, "-") ? path : "standard output");
	if (out_open(&im->out, path, p->err) < 0) {
		release(p);
		return -1;
	}
	if (!(im->a = archive_write_new()))
		die("out of memory");
	archive_write_set_format_pax_restricted(im->a);
	archive_write_set_bytes_per_block(im->a, 0); /* a member is there for the pipe's reader once it is added */
	if (archive_write_open(im->a, im, NULL, write_block, NULL) == ARCHIVE_OK)
		return 0;
	fail(p->err, "%s: %s", im->name, archive_error_string(im->a));
	pool_abort(p);
	return -1;
}

static int write_failed(struct pool_writer *p)
{
	p->impl->failed = true;
	return fail(p->err, "%s: %s", p->impl->name, archive_error_string(p->impl->a));
}

/* Nothing of where and when it was made goes into the archive. */
static int write_member(struct pool_writer *p, const char *member, const void *bytes, size_t n)
{
	struct pool_wimpl *im = p->impl;
	struct archive_entry *e = archive_entry_new();
	double start;
	int rc;

	if (!e)
		die("out of memory");
	archive_entry_set_pathname(e, member);
	archive_entry_set_size(e, n);
	archive_entry_set_filetype(e, AE_IFREG);
	archive_entry_set_perm(e, 0644);
	archive_entry_set_mtime(e, 0, 0);
	rc = archive_write_header(im->a, e);
	archive_entry_free(e);
	if (rc != ARCHIVE_OK || archive_write_data(im->a, bytes, n) != (la_ssize_t)n ||
	    archive_write_finish_entry(im->a) != ARCHIVE_OK)
		return write_failed(p);
	start = now();
	errno = 0;
	if (fflush(im->out.fp)) {
		im->failed = true;
		return fail(p->err, "%s:", im->name);
	}
	times_add(TIME_WRITING, now() - start);
	return 0;
}

int pool_add(struct pool_writer *p, const char *member, const void *bytes, size_t n)
{
	struct ts_reader r;

	if (p->impl->failed)
		return -1;
	if (!*member || *member == '/' || strchr(member, '\n') || !strcmp(member, MANIFEST))
		return fail(p->err, "'%s' is no name for a member", member);
	if (ts_open_mem(&r, bytes, n, member, "checkpoint") < 0)
		return fail(p->err, "%s", r.err);
	ts_close(&r);
	if (write_member(p, member, bytes, n) < 0)
		return -1;
	manifest_line(&p->impl->manifest, member, bytes, n);
	return 0;
}

int pool_finish(struct pool_writer *p)
{
	struct pool_wimpl *im = p->impl;
	int rc;

	if (im->failed || write_member(p, MANIFEST, im->manifest.p, im->manifest.len) < 0) {
		pool_abort(p);
		return -1;
	}
	if (archive_write_close(im->a) != ARCHIVE_OK) {
		write_failed(p);
		pool_abort(p);
		return -1;
	}
	archive_write_free(im->a);
	rc = out_finish(&im->out, p->err);
	release(p);
	return rc;
}

void pool_abort(struct pool_writer *p)
{
	if (!p->impl)
		return;
	if (p->impl->a) {
		p->impl->dropping = true; /* freeing it writes the archive's end */
		archive_write_free(p->impl->a);
	}
	out_abort(&p->impl->out);
	release(p);
}
