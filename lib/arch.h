/* What the architectures are built with: a builder follows one path through a net, layer by layer.
 *
 * The first error sticks, so that architectures read as lists of layers; functions return the index of the new node,
 * 0 once something failed. Names are formats, and become torchvision's module paths. The net is net_arch's.
 */
#ifndef ARCH_H
#define ARCH_H

#include "net.h"

struct builder {
	struct net *net;
	int at;        /* node that the next layer follows */
	bool small;    /* for small images: first convolution at stride 1, no max-pool behind it */
	int failed;
	char *err;
};

struct conv_form { /* 0 means 1 for k, stride and groups */
	int out, k, stride, pad, groups, bias;
};
#define CONV(channels, ...) ((struct conv_form){ .out = channels, __VA_ARGS__ })

#define BUILDS(fmt, args) __attribute__((format(printf, fmt, args)))
int build_layer(struct builder *b, enum op op, const char *name, ...) BUILDS(3, 4); /* what has no attributes */
int build_conv(struct builder *b, struct conv_form c, const char *name, ...) BUILDS(3, 4);
int build_pool(struct builder *b, enum op op, int k, int stride, int pad, const char *name, ...) BUILDS(6, 7);
int build_pool_to(struct builder *b, int k, const char *name); /* k x k; nothing when it is that already */
int build_join(struct builder *b, enum op op, int other, const char *name, ...) BUILDS(4, 5); /* add, mul, concat */
int build_select(struct builder *b, const int *map, int n, const char *name, ...) BUILDS(4, 5);
int build_drop(struct builder *b, enum op op, double p, const char *name, ...) BUILDS(4, 5);
int build_linear(struct builder *b, int out, const char *name, ...) BUILDS(3, 4);
#undef BUILDS

/* Convolution that keeps the size (but for its stride), batch norm and activation: prefix.0, prefix.1, prefix.2. Act
 * OP_COUNT: none. */
int build_conv_bn(struct builder *b, struct conv_form c, enum op act, const char *prefix);
int build_width(const struct builder *b); /* channels at hand; 1 once something failed */

/* The families. */
void arch_convnet(struct builder *b, int depth, int width, enum op norm, int nclass); /* arch_plain.c */
void arch_vgg11_bn(struct builder *b, int nclass);
void arch_alexnet(struct builder *b, int nclass);
void arch_resnet(struct builder *b, const int blocks[4], bool bottleneck, int nclass); /* arch_residual.c */
void arch_densenet121(struct builder *b, int nclass);
void arch_mobilenet_v2(struct builder *b, int nclass);                                /* arch_mobile.c */
void arch_shufflenet_v2_x1_0(struct builder *b, int nclass);
void arch_efficientnet_b0(struct builder *b, int nclass);

#endif
