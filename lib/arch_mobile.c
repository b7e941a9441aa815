/* Architectures of depthwise convolutions: MobileNetV2, ShuffleNetV2, EfficientNet. */
#include <stdio.h>

#include "arch.h"

struct stage { /* blocks of one kind: the first takes the stride and changes the width */
	int expand, k, stride, out, blocks;
};

/* MobileNetV2's block: wider by 1x1, depthwise 3x3, narrower by 1x1; added to its input where the shapes agree. */
static void inverted_residual(struct builder *b, int expand, int out, int stride, int index)
{
	int in = b->at, width = build_width(b), hidden = width * expand, module = 0;
	char prefix[48];

	if (expand != 1) {
		snprintf(prefix, sizeof prefix, "features.%d.conv.%d", index, module++);
		build_conv_bn(b, CONV(hidden), OP_RELU6, prefix);
	}
	snprintf(prefix, sizeof prefix, "features.%d.conv.%d", index, module++);
	build_conv_bn(b, CONV(hidden, .k = 3, .stride = stride, .groups = hidden), OP_RELU6, prefix);
	build_conv(b, CONV(out), "features.%d.conv.%d", index, module);
	build_layer(b, OP_BN, "features.%d.conv.%d", index, module + 1);
	if (stride == 1 && width == out)
		build_join(b, OP_ADD, in, "features.%d.add", index);
}

/* Sandler et al. 2018. */
void arch_mobilenet_v2(struct builder *b, int nclass)
{
	static const struct stage stages[] = { { 1, 3, 1, 16, 1 }, { 6, 3, 2, 24, 2 }, { 6, 3, 2, 32, 3 },
		{ 6, 3, 2, 64, 4 }, { 6, 3, 1, 96, 3 }, { 6, 3, 2, 160, 3 }, { 6, 3, 1, 320, 1 } };
	char prefix[48];
	int index = 1;

	build_conv_bn(b, CONV(32, .k = 3, .stride = b->small ? 1 : 2), OP_RELU6, "features.0");
	for (const struct stage *s = stages; s < stages + LEN(stages); s++)
		for (int i = 0; i < s->blocks; i++)
			inverted_residual(b, s->expand, s->out, i ? 1 : s->stride, index++);
	snprintf(prefix, sizeof prefix, "features.%d", index);
	build_conv_bn(b, CONV(1280), OP_RELU6, prefix);
	build_layer(b, OP_GAP, "avgpool");
	build_layer(b, OP_FLATTEN, "flatten");
	build_drop(b, OP_DROPOUT, 0.2, "classifier.0");
	build_linear(b, nclass, "classifier.1");
}

enum { SHUFFLE_WIDEST = 464 };

/* n channels from `first` on. */
static int channels(struct builder *b, int first, int n, const char *prefix, int part)
{
	int map[SHUFFLE_WIDEST];

	for (int i = 0; i < n; i++)
		map[i] = first + i;
	return build_select(b, map, n, "%s.chunk.%d", prefix, part);
}

/* The two halves interleaved, so that the next block's halves hold some of both. */
static void interleave(struct builder *b, int n, const char *prefix)
{
	int map[SHUFFLE_WIDEST];

	for (int i = 0; i < n; i++)
		map[i] = i % 2 * (n / 2) + i / 2;
	build_select(b, map, n, "%s.shuffle", prefix);
}

static int shuffle_branch1(struct builder *b, int in, int half, const char *prefix)
{
	build_conv(b, CONV(in, .k = 3, .stride = 2, .pad = 1, .groups = in), "%s.branch1.0", prefix);
	build_layer(b, OP_BN, "%s.branch1.1", prefix);
	build_conv(b, CONV(half), "%s.branch1.2", prefix);
	build_layer(b, OP_BN, "%s.branch1.3", prefix);
	return build_layer(b, OP_RELU, "%s.branch1.4", prefix);
}

static int shuffle_branch2(struct builder *b, int half, int stride, const char *prefix)
{
	build_conv(b, CONV(half), "%s.branch2.0", prefix);
	build_layer(b, OP_BN, "%s.branch2.1", prefix);
	build_layer(b, OP_RELU, "%s.branch2.2", prefix);
	build_conv(b, CONV(half, .k = 3, .stride = stride, .pad = 1, .groups = half), "%s.branch2.3", prefix);
	build_layer(b, OP_BN, "%s.branch2.4", prefix);
	build_conv(b, CONV(half), "%s.branch2.5", prefix);
	build_layer(b, OP_BN, "%s.branch2.6", prefix);
	return build_layer(b, OP_RELU, "%s.branch2.7", prefix);
}

/* The first block of a stage halves the map and has two branches; in the others half of the channels pass by. */
static void shuffle_block(struct builder *b, int stage, int i, int out)
{
	int in = b->at, width = build_width(b), half = out / 2, left, right;
	char prefix[48];

	snprintf(prefix, sizeof prefix, "stage%d.%d", stage, i);
	left = i ? channels(b, 0, half, prefix, 0) : shuffle_branch1(b, width, half, prefix);
	b->at = in;
	if (i)
		channels(b, half, half, prefix, 1);
	right = shuffle_branch2(b, half, i ? 1 : 2, prefix);
	b->at = left;
	build_join(b, OP_CONCAT, right, "%s.concat", prefix);
	interleave(b, out, prefix);
}

/* Ma et al. 2018. */
void arch_shufflenet_v2_x1_0(struct builder *b, int nclass)
{
	static const struct { int out, blocks; } stages[] = { { 116, 4 }, { 232, 8 }, { SHUFFLE_WIDEST, 4 } };

	build_conv_bn(b, CONV(24, .k = 3, .stride = b->small ? 1 : 2), OP_RELU, "conv1");
	if (!b->small)
		build_pool(b, OP_MAXPOOL, 3, 2, 1, "maxpool");
	for (int s = 0; s < (int)LEN(stages); s++)
		for (int i = 0; i < stages[s].blocks; i++)
			shuffle_block(b, s + 2, i, stages[s].out);
	build_conv_bn(b, CONV(1024), OP_RELU, "conv5");
	build_layer(b, OP_GAP, "avgpool");
	build_layer(b, OP_FLATTEN, "flatten");
	build_linear(b, nclass, "fc");
}

/* Squeeze-and-excitation: every channel times a number in 0..1 that all channels' means have a say in. */
static void squeeze_excite(struct builder *b, int squeezed, const char *prefix)
{
	int in = b->at, width = build_width(b), scale;

	build_layer(b, OP_GAP, "%s.avgpool", prefix);
	build_conv(b, CONV(squeezed, .bias = 1), "%s.fc1", prefix);
	build_layer(b, OP_SILU, "%s.activation", prefix);
	build_conv(b, CONV(width, .bias = 1), "%s.fc2", prefix);
	scale = build_layer(b, OP_SIGMOID, "%s.scale_activation", prefix);
	b->at = in;
	build_join(b, OP_MUL, scale, "%s.mul", prefix);
}

/* EfficientNet's block: MobileNetV2's with squeeze-and-excitation, left out of a share p of the images in training. */
static void mbconv(struct builder *b, const struct stage *s, int stride, double p, const char *prefix)
{
	int in = b->at, width = build_width(b), hidden = width * s->expand, module = 0;
	char part[72];

	if (s->expand != 1) {
		snprintf(part, sizeof part, "%s.block.%d", prefix, module++);
		build_conv_bn(b, CONV(hidden), OP_SILU, part);
	}
	snprintf(part, sizeof part, "%s.block.%d", prefix, module++);
	build_conv_bn(b, CONV(hidden, .k = s->k, .stride = stride, .groups = hidden), OP_SILU, part);
	snprintf(part, sizeof part, "%s.block.%d", prefix, module++);
	squeeze_excite(b, MAX(width / 4, 1), part);
	snprintf(part, sizeof part, "%s.block.%d", prefix, module);
	build_conv_bn(b, CONV(s->out), OP_COUNT, part);
	if (stride == 1 && width == s->out) {
		build_drop(b, OP_DROPPATH, p, "%s.stochastic_depth", prefix);
		build_join(b, OP_ADD, in, "%s.add", prefix);
	}
}

/* Tan and Le 2019; the share of images that skip a block climbs to 0.2 with depth, as torchvision counts it. */
void arch_efficientnet_b0(struct builder *b, int nclass)
{
	static const struct stage stages[] = { { 1, 3, 1, 16, 1 }, { 6, 3, 2, 24, 2 }, { 6, 5, 2, 40, 2 },
		{ 6, 3, 2, 80, 3 }, { 6, 5, 1, 112, 3 }, { 6, 5, 2, 192, 4 }, { 6, 3, 1, 320, 1 } };
	int done = 0, total = 0;
	char prefix[48];

	for (size_t s = 0; s < LEN(stages); s++)
		total += stages[s].blocks;
	build_conv_bn(b, CONV(32, .k = 3, .stride = b->small ? 1 : 2), OP_SILU, "features.0");
	for (int s = 0; s < (int)LEN(stages); s++)
		for (int i = 0; i < stages[s].blocks; i++) {
			snprintf(prefix, sizeof prefix, "features.%d.%d", s + 1, i);
			mbconv(b, &stages[s], i ? 1 : stages[s].stride, 0.2 * done++ / total, prefix);
		}
	build_conv_bn(b, CONV(1280), OP_SILU, "features.8");
	build_layer(b, OP_GAP, "avgpool");
	build_layer(b, OP_FLATTEN, "flatten");
	build_drop(b, OP_DROPOUT, 0.2, "classifier.0");
	build_linear(b, nclass, "classifier.1");
}
