/* How a convolution lies on the device. */
#include "cuda.h"

/* Groups whose channels cannot be padded each by itself run as one dense convolution. */
struct dnn_shape cuda_conv_shape(const struct node *n, const struct node *src)
{
	int cs = round8(src->c), ks = round8(n->c);
	bool depthwise = n->groups > 1 && n->groups == n->c && n->groups == src->c;
	bool apart = depthwise || (n->c / n->groups % 8 == 0 && src->c / n->groups % 8 == 0);

	return (struct dnn_shape){ .c = cs, .h = src->h, .w = src->w, .k = ks, .oh = n->h, .ow = n->w, .r = n->k,
		.stride = n->stride, .pad = n->pad, .groups = depthwise ? ks : apart ? n->groups : 1, .cs = cs, .ks = ks };
}
