/* What reader and writer of tensor streams share: one object's last key, "xxh3", and its bytes. */
#ifndef FRAME_H
#define FRAME_H

#include "value.h"

/* Key (0xa4 "xxh3"), 0xcf, 8 bytes of the XXH3 of all before the key. Before it the trailer has "length" likewise. */
enum { SEAL_BYTES = 14, LENGTH_BYTES = 16 };

void seal(struct buf *b, const struct val *map);       /* appends map, sealed; a stale "xxh3" key is left out */
uint64_t seal_hash(const uint8_t *p, size_t n);        /* as claimed by the sealed object p[0..n) */
int seal_check(const uint8_t *p, size_t n);            /* -1 when there is no seal or the bytes do not match it */
uint64_t hash_of_hashes(const struct buf *hashes);     /* hashes: 8 bytes each, little-endian */
void hash_push(struct buf *hashes, uint64_t hash);
uint64_t hash_at(const struct buf *hashes, size_t i);

/* The first key of the map p[0..n) is this one: 1, 0; -1 when n bytes do not tell. */
int first_key(const uint8_t *p, size_t n, const char *key);

#endif
