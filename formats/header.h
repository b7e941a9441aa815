/* What a header says, as accessors over its value tree. All functions borrow the header.
 *
 *   tensorstream  int   format version            kind     str   images | checkpoint | stats | recipes
 *   classes       list  class names, label order  mean,std list  per channel, of pixels in 0..1
 *   shape         list  [C, H, W] of one image    history  list  one map per stage, oldest first
 */
#ifndef HEADER_H
#define HEADER_H

#include "value.h"

#define MAX_CHANNELS 16

struct norm { /* per-channel normalisation: x = (pixel/255 - mean) / std */
	int channels;
	float mean[MAX_CHANNELS], std[MAX_CHANNELS];
};

struct val *header_new(const char *kind);
const char *header_kind(const struct val *h);

int header_nclass(const struct val *h); /* 0 when there are none */
const char *header_class(const struct val *h, int label);
void header_set_classes(struct val *h, const char *const *name, int n);
/* map[i] = the label in `to` of class i of `from`, matched by name, no two the same; -1 and err, which names it, when one is
 * unknown or stands twice on either side. */
int header_map_classes(const struct val *from, const struct val *to, int *map, char err[ERRLEN]);

int header_norm(const struct val *h, struct norm *n); /* -1 when absent or malformed (std > 0, finite) */
void header_set_norm(struct val *h, const struct norm *n);
/* Affine that takes values in normalisation `from` to `to`: y = x*scale + shift, per channel. */
void norm_affine(const struct norm *from, const struct norm *to, float *scale, float *shift);

int header_shape(const struct val *h, int chw[3]); /* -1 when absent or not three positive sizes up to 65536 */
void header_set_shape(struct val *h, const int chw[3]);

/* History (design: program, version, seed and the arguments that change the result). args is a map, taken over; an
 * entry equal to the last one is not repeated. */
void history_add(struct val *h, const char *program, struct val *args);
struct val *history_args(const struct val *h); /* of the last entry; NULL: there is none */
/* The headers' last entries have the same arguments. -1 and err, of the file at path that has was, with the first that
 * differs. */
int history_same(const struct val *mine, const struct val *was, const char *path, char err[ERRLEN]);
/* An input file as an argument: {"xxh3": hex digest of its bytes, "history": its header's}; a pool has its first
 * member's. -1 and err when unreadable. */
int history_file(const char *path, struct val **out, char err[ERRLEN]);

#endif
