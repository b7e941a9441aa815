#include "frame.h"

#include <string.h>
#include <xxhash.h>

static const uint8_t tail[] = { 0xa4, 'x', 'x', 'h', '3', 0xcf };

static void put_be(struct buf *b, uint64_t v, int n)
{
	uint8_t byte;

	while (n--) {
		byte = v >> 8 * n;
		buf_put(b, &byte, 1);
	}
}

static void put_map_head(struct buf *b, size_t n)
{
	if (n < 16) {
		put_be(b, 0x80 | n, 1);
	} else if (n < 65536) {
		put_be(b, 0xde, 1);
		put_be(b, n, 2);
	} else {
		put_be(b, 0xdf, 1);
		put_be(b, n, 4);
	}
}

void seal(struct buf *b, const struct val *map)
{
	size_t start = b->len, i;
	struct val key;

	put_map_head(b, map->map.len + (val_get(map, "xxh3") ? 0 : 1));
	for (i = 0; i < map->map.len; i++) {
		if (!strcmp(map->map.key[i], "xxh3"))
			continue;
		key = (struct val){ .type = V_STR, .s = { map->map.key[i], strlen(map->map.key[i]) } };
		val_pack(b, &key);
		/* The trailer's "length" has a fixed width, so that it is found from the file's end. */
		if (!strcmp(map->map.key[0], "trailer") && !strcmp(map->map.key[i], "length")) {
			put_be(b, 0xcf, 1);
			put_be(b, map->map.item[i]->i, 8);
		} else {
			val_pack(b, map->map.item[i]);
		}
	}
	i = b->len;
	buf_put(b, tail, sizeof tail);
	put_be(b, XXH3_64bits(b->p + start, i - start), 8);
}

uint64_t seal_hash(const uint8_t *p, size_t n)
{
	uint64_t v = 0;
	int i;

	for (i = 0; i < 8; i++)
		v = v << 8 | p[n - 8 + i];
	return v;
}

int seal_check(const uint8_t *p, size_t n)
{
	if (n <= SEAL_BYTES || memcmp(p + n - SEAL_BYTES, tail, sizeof tail))
		return -1;
	return XXH3_64bits(p, n - SEAL_BYTES) == seal_hash(p, n) ? 0 : -1;
}

uint64_t hash_of_hashes(const struct buf *hashes)
{
	return XXH3_64bits(hashes->p, hashes->len);
}

void hash_push(struct buf *hashes, uint64_t hash)
{
	uint8_t b[8];
	int i;

	for (i = 0; i < 8; i++)
		b[i] = hash >> 8 * i;
	buf_put(hashes, b, sizeof b);
}

uint64_t hash_at(const struct buf *hashes, size_t i)
{
	uint64_t v = 0;

	for (int k = 8; k--;)
		v = v << 8 | hashes->p[8 * i + k];
	return v;
}

int first_key(const uint8_t *p, size_t n, const char *key)
{
	size_t head, len = strlen(key), i;

	if (!n)
		return -1;
	if (p[0] > 0x80 && p[0] <= 0x8f)
		head = 1;
	else if (p[0] == 0xde || p[0] == 0xdf)
		head = p[0] == 0xde ? 3 : 5;
	else
		return 0;
	for (i = 0; i <= len; i++) {
		if (head + i >= n)
			return -1;
		if (p[head + i] != (i ? (uint8_t)key[i - 1] : (0xa0 | len)))
			return 0;
	}
	return 1;
}
