#include "value.h"

#include <string.h>

static uint64_t big_endian(const uint8_t *p, int n)
{
	uint64_t v = 0;

	while (n--)
		v = v << 8 | *p++;
	return v;
}

/* What a type byte says of the object's size: bytes of head (type byte included), of which the last `count` bytes hold
 * a number; the number is bytes that follow (body), or objects that follow (items, times two for maps). */
struct shape {
	int head, count, items;
	uint64_t fixed; /* that number where the type byte itself gives it */
};

static int type_shape(uint8_t b, struct shape *s)
{
	*s = (struct shape){ .head = 1 };
	if (b <= 0x7f || b >= 0xe0 || b == 0xc0 || b == 0xc2 || b == 0xc3)
		return 0;
	if (b <= 0x8f) {
		s->items = 2;
		s->fixed = b & 0x0f;
	} else if (b <= 0x9f) {
		s->items = 1;
		s->fixed = b & 0x0f;
	} else if (b <= 0xbf) {
		s->fixed = b & 0x1f;
	} else if (b >= 0xc4 && b <= 0xc6) { /* bin */
		s->count = 1 << (b - 0xc4);
	} else if (b == 0xca || b == 0xcb) { /* float */
		s->fixed = b == 0xca ? 4 : 8;
	} else if (b >= 0xcc && b <= 0xd3) { /* uint, int */
		s->fixed = 1 << ((b - 0xcc) & 3);
	} else if (b >= 0xd9 && b <= 0xdb) { /* str */
		s->count = 1 << (b - 0xd9);
	} else if (b >= 0xdc) { /* array, map: 16 and 32 bits */
		s->items = b <= 0xdd ? 1 : 2;
		s->count = b & 1 ? 4 : 2;
	} else { /* 0xc1 is never used; extension types have no meaning here */
		return -1;
	}
	s->head += s->count;
	return 0;
}

int64_t scan_more(struct scanner *s, const uint8_t *p, size_t n, size_t limit)
{
	struct shape t;
	uint64_t v;

	if (!s->started) {
		s->started = true;
		s->pending = 1;
	}
	while (s->pending) {
		if (s->pos + s->pending > limit)
			return -1;
		if (s->pos >= n) {
			s->need = s->pos + s->pending;
			return 0;
		}
		if (type_shape(p[s->pos], &t) < 0)
			return -1;
		if (s->pos + t.head > n) {
			s->need = s->pos + t.head + s->pending - 1;
			return s->need > limit ? -1 : 0;
		}
		v = t.count ? big_endian(p + s->pos + 1, t.count) : t.fixed;
		s->pos += t.head;
		s->pending--;
		if (s->depth)
			s->left[s->depth - 1]--;
		if (++s->objects > SCAN_MAXOBJECTS)
			return -1;
		if (!t.items) {
			if (s->pos > limit || v > limit - s->pos)
				return -1;
			s->pos += v;
		} else if (v) {
			v *= t.items;
			if (s->depth == SCAN_MAXDEPTH || v > limit)
				return -1;
			s->left[s->depth++] = v;
			s->pending += v;
		}
		while (s->depth && !s->left[s->depth - 1])
			s->depth--;
	}
	s->need = s->pos;
	return s->pos <= n ? (int64_t)s->pos : 0;
}

int64_t msgpack_scan(const uint8_t *p, size_t n, size_t limit)
{
	struct scanner s = { 0 };

	return scan_more(&s, p, n, limit);
}
