/* A whole file in memory; dies where there is none. The bytes are the caller's, buf_free(). */
#ifndef LOAD_H
#define LOAD_H

#include <stdio.h>

#include "../lib/util.h"

static inline struct buf load(const char *path)
{
	struct buf b = { 0 };
	FILE *fp = fopen(path, "rb");
	char block[4096];
	size_t n;

	if (!fp)
		die("%s:", path);
	while ((n = fread(block, 1, sizeof block, fp)) > 0)
		buf_put(&b, block, n);
	fclose(fp);
	return b;
}

#endif
