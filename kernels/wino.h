/* Sizes that winograd.c and direct.c work with and their callers allocate by. */
#ifndef WINO_H
#define WINO_H

enum { TILE = 4, SPAN = 6, POINTS = 36, ROWS = 6, PANEL = 16, SKEW = 16 };

static inline int pad8(int c)
{
	return (c + 7) / 8 * 8;
}

/* Tiles in one block: as many as keep V and M near 4 MB each, whole sixes. */
static inline int wino_tiles(int cp, int kp)
{
	int t = (1 << 20) / (POINTS * (cp > kp ? cp : kp));

	t = t > 96 ? 96 : t < ROWS ? ROWS : t;
	return t / ROWS * ROWS;
}

#endif
