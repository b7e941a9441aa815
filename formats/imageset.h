/* A whole image stream in memory, and its frames.
 *
 * Frame keys of kind "images": one of "images.u8" (N,C,H,W raw pixels), "images.f32" (N,C,H,W, in the header's
 * normalisation) or "images.encoded" (list of JPEG/PNG bin); "labels" i64 (N); and, where the stream is made of units,
 * "unit" int and "index" i64 (N): each image's index within its class. The imageset owns its arrays.
 */
#ifndef IMAGESET_H
#define IMAGESET_H

#include "../lib/dataset.h"
#include "../lib/spill.h"
#include "header.h"
#include "tstream.h"

struct imageset {
	struct val *header;
	int64_t n;
	int c, h, w, nclass;
	struct norm norm;
	struct spill pixels; /* on disk where they are more than memory holds */
	uint8_t *u8;    /* (N,C,H,W), or NULL */
	float *f32;     /* (N,C,H,W) in norm, or NULL; exactly one of the two, where pixels are */
	int64_t *label; /* (N) in 0..nclass-1 */
};

/* Reads an images stream to its end (encoded ones are decoded). Labels are checked against the classes, pixels for
 * NaN and infinity. An empty set is an error. -1: r->err says why, there is nothing to free. */
int imageset_read(struct ts_reader *r, struct imageset *s);
void imageset_free(struct imageset *s);
/* Image i as floats in normalisation `to` (C,H,W). */
void imageset_get(const struct imageset *s, int64_t i, const struct norm *to, float *out);
/* A string that two sets of other pixels or labels never share. */
struct val *imageset_digest(const struct imageset *s);
/* All of them, in their own normalisation with their own labels, once the set is read. */
struct dataset imageset_dataset(const struct imageset *s);

/* Frame helpers: checked views into a frame's tensors; err names what is wrong ("labels: 3 for 4 images", …). */
struct image_frame {
	int64_t n;
	uint8_t *u8;    /* (N,C,H,W) or NULL */
	float *f32;     /* or NULL */
	struct val *encoded; /* list or NULL */
	int64_t *label;
};
int image_frame_get(const struct val *header, const struct val *frame, struct image_frame *out, char err[ERRLEN]);

/* What imageset_read does, for streams that have other frames too: an empty set of what the header says, and a frame's
 * images behind those that it has. -1 and err; the set is to be freed all the same. */
int imageset_begin(struct imageset *s, const struct val *header, char err[ERRLEN]);
int imageset_append(struct imageset *s, const struct image_frame *f, char err[ERRLEN]);

#endif
