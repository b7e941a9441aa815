/* Where a convolution's window touches its input. */
#ifndef WINDOW_H
#define WINDOW_H

#include "vec.h"

/* First and one past the last output position whose tap lies in 0..size-1. */
INLINE int first_inside(int tap, int stride, int pad)
{
	return tap >= pad ? 0 : (pad - tap + stride - 1) / stride;
}

INLINE int end_inside(int tap, int stride, int pad, int size, int out)
{
	int last = size - 1 + pad - tap;

	if (last < 0)
		return 0;
	return last / stride + 1 < out ? last / stride + 1 : out;
}

#endif
