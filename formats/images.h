/* Images in and out of the formats people have: JPEG, PNG, folders, tars, WebDataset, IDX, CIFAR batches.
 *
 * A source hands out images by number. Folders and tars of CLASS/FILE are numbered class by class (classes sorted by
 * name as torchvision's ImageFolder does, files sorted within), the other kinds as they are stored. The source owns its
 * files; images handed out are the caller's.
 */
#ifndef IMAGES_H
#define IMAGES_H

#include <stdbool.h>

#include "../lib/util.h"
#include "../lib/tensor.h"

struct picture { /* 8-bit pixels, planar (C,H,W); free() px */
	int c, h, w; /* c: 1 or 3 */
	uint8_t *px;
};

/* JPEG or PNG (told by their first bytes) -> pixels; grey files give c = 1, alpha is dropped, 16 bit becomes 8.
 * Claimed sizes above 65536 a side or 2^28 pixels are refused. */
int picture_decode(const void *p, size_t n, struct picture *out, char err[ERRLEN]);
/* PNG bytes; deterministic, no time stamp. */
int picture_encode_png(const struct picture *pic, struct buf *out, char err[ERRLEN]);
/* To c channels (1: ITU-R 601 luma, 3: replicated) and h x w: shorter side scaled (bilinear with antialiasing as
 * Pillow's), centre cropped. */
void picture_fit(struct picture *pic, int c, int h, int w);

struct source_item {
	int label;
	const char *path, *name; /* which of the paths, and "CLASS/FILE" or "train-images[17]"; the source's until it is closed */
	bool encoded;        /* file bytes in data; else decoded pixels in pic */
	struct buf data;     /* the caller's */
	struct picture pic;  /* the caller's */
};

struct source {
	char **classes;          /* label order */
	int nclass;
	bool named;              /* false: the classes are only numbers, "0", "1", … */
	int channels;            /* of the normalisation that came with the images, 0: none did */
	double mean[3], std[3];
	int64_t count;           /* images in all */
	int *label;              /* (count) in 0..nclass-1 */
	char err[ERRLEN];
	struct source_impl *impl;
};

/* Opens any mixture of paths of one kind: a folder of class folders; a tar (.gz, .zst, .xz too) of CLASS/FILE members;
 * a WebDataset tar (KEY.jpg|png + KEY.cls [+ KEY.json]); an IDX images file (its labels file found beside it by name:
 * images-idx3 -> labels-idx1) plain or .gz; CIFAR-10/100 binary batches (data_batch_*.bin, test_batch.bin, train.bin,
 * test.bin, with batches.meta.txt / fine_label_names.txt beside them where present). Classes: of all paths together.
 * An empty class folder, a tar cut short: an error that names it. What lies in a plain tar or a folder is indexed
 * here and read when it is asked for; the rest is kept in memory. */
int source_open(struct source *s, char *const *paths, int npath);
int source_get(struct source *s, int64_t i, struct source_item *it); /* 0, -1 with err; encoded bytes as they lie */
void source_close(struct source *s);

/* The name of a class as a folder: '/' and a leading '.' become '_'. The caller's to free. */
char *class_folder(const char *name);

#endif
