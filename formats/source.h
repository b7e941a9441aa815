/* What the readers of folders, tars, IDX and CIFAR files share: a source is a list of items, each somewhere in a store.
 *
 * Everything here belongs to the source_impl and goes with source_close(). Readers append; source_open() then sorts.
 */
#ifndef SOURCE_H
#define SOURCE_H

#include "images.h"

struct store {
	enum { STORE_FOLDER, STORE_FILE, STORE_MEMORY, STORE_PIXELS } kind;
	char *path;     /* the folder, or the file */
	struct buf mem; /* STORE_MEMORY: encoded files; STORE_PIXELS: raw ones */
	int c, h, w;    /* STORE_PIXELS */
};

struct item {
	char *name;      /* CLASS/[…/]FILE below the store, or what messages call it */
	int store, label;
	int class_len;   /* bytes of name that are the class's; 0: the label is the file's own */
	int64_t off, len;
};

enum source_kind { SOURCE_NONE, SOURCE_DIRS, SOURCE_WDS, SOURCE_IDX, SOURCE_CIFAR10, SOURCE_CIFAR100 };

struct names {
	char **p;
	int n;
};

struct source_impl {
	enum source_kind kind;
	struct store *store;
	struct item *item;
	int nstore;
	int64_t nitem, cap;
	struct names folders;  /* class folders seen, full or empty */
	struct names listed;   /* lines of classes.txt or a CIFAR names file */
	int max_label;
	int fd, fd_store;      /* the file opened last, so that a thousand shards need one descriptor */
};

void names_add(struct names *l, const char *s, size_t n);
void names_free(struct names *l);
void names_lines(struct names *l, const char *p, size_t n); /* a line each; blank ones at the end do not count */

/* All paths of a source are of one kind. */
int source_set_kind(struct source *s, enum source_kind kind, const char *path);
int source_add_store(struct source *s, int kind, const char *path);
struct item *source_add(struct source *s, char *name, int store, int64_t off, int64_t len); /* takes name over */
/* The lines of a classes file of `path`; those of several paths must agree. */
int source_set_names(struct source *s, const char *path, const char *p, size_t n);
/* Mean and deviation from the text of a dataset.json. */
int source_set_norm(struct source *s, const char *path, const char *p, size_t n);
bool image_extension(const char *name);

int read_tar(struct source *s, const char *path, bool regular);     /* images_tar.c */
int read_idx(struct source *s, const char *path);                   /* images_raw.c */
int read_cifar(struct source *s, const char *path);
int peek_raw(const char *path, uint8_t first[4], char *err);        /* bytes read, through gzip */

#endif
