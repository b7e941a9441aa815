/* Small convolutions of every kind, for t_gpu_dnn.c, which runs them, and tools/cudnn.c, which asks cuDNN for engines. */
#ifndef DNN_SHAPES_H
#define DNN_SHAPES_H

#include "../lib/cuda_dnn.h"

#define SHAPE(n, c, h, w, k, r, stride, pad, groups) { n, c, h, w, k, (h + 2 * pad - r) / stride + 1, \
	(w + 2 * pad - r) / stride + 1, r, stride, pad, groups, (c + 7) / 8 * 8, (k + 7) / 8 * 8 }
static const struct dnn_shape dnn_shapes[] = {
	SHAPE(2, 8, 7, 9, 16, 3, 1, 1, 1),
	SHAPE(1, 16, 9, 7, 8, 3, 2, 1, 1),
	SHAPE(3, 8, 6, 5, 8, 1, 2, 0, 1),
	SHAPE(1, 8, 11, 10, 8, 7, 2, 3, 1),
	SHAPE(1, 8, 1, 1, 8, 3, 1, 1, 1),
	SHAPE(2, 16, 5, 6, 8, 3, 1, 1, 2),
	SHAPE(2, 8, 7, 5, 8, 3, 2, 1, 8),
	SHAPE(1, 3, 8, 7, 5, 3, 1, 1, 1), /* gaps */
	SHAPE(2, 12, 5, 5, 6, 3, 1, 1, 3),
	SHAPE(1, 12, 5, 4, 12, 5, 1, 2, 12),
};

/* Networks do without these, and so may cuDNN: gaps, and groups of some channels. */
static inline bool dnn_shape_is_odd(struct dnn_shape s)
{
	return s.cs != s.c || s.ks != s.k || (s.groups > 1 && s.groups < s.c);
}

#endif
