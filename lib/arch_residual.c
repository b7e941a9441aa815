/* ResNets and DenseNet: what a block computes is added to, or put beside, what it got. */
#include <stdio.h>

#include "arch.h"

/* The end of both blocks: adds the block's input, through a convolution where its shape changes. */
static void add_input(struct builder *b, int in, int width, int stride, const char *prefix, int relu)
{
	int main_path = b->at, skip = in;

	if (b->failed)
		return;
	if (stride != 1 || b->net->node[in].c != width) {
		b->at = in;
		build_conv(b, CONV(width, .stride = stride), "%s.downsample.0", prefix);
		skip = build_layer(b, OP_BN, "%s.downsample.1", prefix);
	}
	b->at = main_path;
	build_join(b, OP_ADD, skip, "%s.add", prefix);
	build_layer(b, OP_RELU, "%s.relu%d", prefix, relu);
}

/* One convolution of a block with its norm, and ReLU unless it is the last. */
static void block_layer(struct builder *b, struct conv_form conv, const char *prefix, int i, bool last)
{
	conv.pad = conv.k / 2;
	build_conv(b, conv, "%s.conv%d", prefix, i);
	build_layer(b, OP_BN, "%s.bn%d", prefix, i);
	if (!last)
		build_layer(b, OP_RELU, "%s.relu%d", prefix, i);
}

static void basic_block(struct builder *b, int width, int stride, const char *prefix)
{
	int in = b->at;

	block_layer(b, CONV(width, .k = 3, .stride = stride), prefix, 1, false);
	block_layer(b, CONV(width, .k = 3), prefix, 2, true);
	add_input(b, in, width, stride, prefix, 2);
}

/* torchvision strides at the 3x3 convolution. */
static void bottleneck_block(struct builder *b, int width, int stride, const char *prefix)
{
	int in = b->at;

	block_layer(b, CONV(width, .k = 1), prefix, 1, false);
	block_layer(b, CONV(width, .k = 3, .stride = stride), prefix, 2, false);
	block_layer(b, CONV(4 * width, .k = 1), prefix, 3, true);
	add_input(b, in, 4 * width, stride, prefix, 3);
}

/* He et al. 2016. Small images: the field's form, first convolution 3x3 at stride 1, no max-pool. */
void arch_resnet(struct builder *b, const int blocks[4], bool bottleneck, int nclass)
{
	struct conv_form large = CONV(64, .k = 7, .stride = 2, .pad = 3), small = CONV(64, .k = 3, .pad = 1);

	build_conv(b, b->small ? small : large, "conv1");
	build_layer(b, OP_BN, "bn1");
	build_layer(b, OP_RELU, "relu");
	if (!b->small)
		build_pool(b, OP_MAXPOOL, 3, 2, 1, "maxpool");
	for (int stage = 0; stage < 4; stage++)
		for (int i = 0; i < blocks[stage]; i++) {
			char prefix[48];
			snprintf(prefix, sizeof prefix, "layer%d.%d", stage + 1, i);
			(bottleneck ? bottleneck_block : basic_block)(b, 64 << stage, stage > 0 && i == 0 ? 2 : 1, prefix);
		}
	build_layer(b, OP_GAP, "avgpool");
	build_layer(b, OP_FLATTEN, "flatten");
	build_linear(b, nclass, "fc");
}

enum { GROWTH = 32, BOTTLENECK = 4 };

/* 32 new channels behind all those before them. */
static void dense_layer(struct builder *b, int block, int layer)
{
	char prefix[48];
	int features = b->at, grown;

	snprintf(prefix, sizeof prefix, "features.denseblock%d.denselayer%d", block, layer);
	build_layer(b, OP_BN, "%s.norm1", prefix);
	build_layer(b, OP_RELU, "%s.relu1", prefix);
	build_conv(b, CONV(BOTTLENECK * GROWTH), "%s.conv1", prefix);
	build_layer(b, OP_BN, "%s.norm2", prefix);
	build_layer(b, OP_RELU, "%s.relu2", prefix);
	grown = build_conv(b, CONV(GROWTH, .k = 3, .pad = 1), "%s.conv2", prefix);
	b->at = features;
	build_join(b, OP_CONCAT, grown, "%s.concat", prefix);
}

/* Huang et al. 2017, DenseNet-BC. */
void arch_densenet121(struct builder *b, int nclass)
{
	static const int layers[] = { 6, 12, 24, 16 };

	build_conv(b, CONV(64, .k = 7, .stride = b->small ? 1 : 2, .pad = 3), "features.conv0");
	build_layer(b, OP_BN, "features.norm0");
	build_layer(b, OP_RELU, "features.relu0");
	if (!b->small)
		build_pool(b, OP_MAXPOOL, 3, 2, 1, "features.pool0");
	for (int block = 1; block <= 4; block++) {
		for (int i = 1; i <= layers[block - 1]; i++)
			dense_layer(b, block, i);
		if (block == 4)
			break;
		build_layer(b, OP_BN, "features.transition%d.norm", block);
		build_layer(b, OP_RELU, "features.transition%d.relu", block);
		build_conv(b, CONV(build_width(b) / 2), "features.transition%d.conv", block);
		build_pool(b, OP_AVGPOOL, 2, 2, 0, "features.transition%d.pool", block);
	}
	build_layer(b, OP_BN, "features.norm5");
	build_layer(b, OP_RELU, "relu");
	build_layer(b, OP_GAP, "avgpool");
	build_layer(b, OP_FLATTEN, "flatten");
	build_linear(b, nclass, "classifier");
}
