/* Architectures without branches: the field's ConvNet, VGG, AlexNet. */
#include "arch.h"

/* ConvNet-D-W of dataset condensation (DC, Zhao et al. 2021): blocks of conv 3x3, norm, ReLU, average pooling 2x2, in
 * an nn.Sequential called features. 28x28 images are padded to 32x32 by the first convolution. */
void arch_convnet(struct builder *b, int depth, int width, enum op norm, int nclass)
{
	bool grey28 = b->net->chw[1] == 28 && b->net->chw[2] == 28;

	for (int i = 0; i < depth; i++) {
		struct conv_form conv = CONV(width, .k = 3, .pad = i == 0 && grey28 ? 3 : 1, .bias = 1);
		build_conv(b, conv, "features.%d", 4 * i);
		build_layer(b, norm, "features.%d", 4 * i + 1);
		build_layer(b, OP_RELU, "features.%d", 4 * i + 2);
		build_pool(b, OP_AVGPOOL, 2, 2, 0, "features.%d", 4 * i + 3);
	}
	build_layer(b, OP_FLATTEN, "flatten");
	build_linear(b, nclass, "classifier");
}

/* VGG-11 with batch norm (Simonyan and Zisserman 2015). Small images leave a map of 2x2 or 4x4, so they pool to 1x1:
 * 7x7 would copy its values, and spend three quarters of the parameters on the copies. */
void arch_vgg11_bn(struct builder *b, int nclass)
{
	static const int width[] = { 64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0 }; /* 0: max-pool */
	int module = 0;

	for (size_t i = 0; i < LEN(width); i++) {
		if (width[i]) {
			build_conv(b, CONV(width[i], .k = 3, .pad = 1, .bias = 1), "features.%d", module);
			build_layer(b, OP_BN, "features.%d", module + 1);
			build_layer(b, OP_RELU, "features.%d", module + 2);
		} else if (!b->small || i > 1) {
			build_pool(b, OP_MAXPOOL, 2, 2, 0, "features.%d", module);
		}
		module += width[i] ? 3 : 1;
	}
	build_pool_to(b, b->small ? 1 : 7, "avgpool");
	build_layer(b, OP_FLATTEN, "flatten");
	for (int i = 0; i < 2; i++) {
		build_linear(b, 4096, "classifier.%d", 3 * i);
		build_layer(b, OP_RELU, "classifier.%d", 3 * i + 1);
		build_drop(b, OP_DROPOUT, 0.5, "classifier.%d", 3 * i + 2);
	}
	build_linear(b, nclass, "classifier.6");
}

/* AlexNet in the form of Krizhevsky 2014; small images as with VGG. */
void arch_alexnet(struct builder *b, int nclass)
{
	static const struct { int out, k; bool pooled; } layer[] = {
		{ 64, 11, true }, { 192, 5, true }, { 384, 3, false }, { 256, 3, false }, { 256, 3, true }
	};
	int module = 0;

	for (size_t i = 0; i < LEN(layer); i++) {
		struct conv_form conv = CONV(layer[i].out, .k = layer[i].k, .pad = layer[i].k / 2, .bias = 1);
		if (i == 0)
			conv.stride = b->small ? 1 : 4, conv.pad = 2;
		build_conv(b, conv, "features.%d", module++);
		build_layer(b, OP_RELU, "features.%d", module++);
		if (layer[i].pooled && (!b->small || i > 0))
			build_pool(b, OP_MAXPOOL, 3, 2, 0, "features.%d", module);
		module += layer[i].pooled;
	}
	build_pool_to(b, b->small ? 1 : 6, "avgpool");
	build_layer(b, OP_FLATTEN, "flatten");
	for (int i = 0; i < 2; i++) {
		build_drop(b, OP_DROPOUT, 0.5, "classifier.%d", 3 * i);
		build_linear(b, 4096, "classifier.%d", 3 * i + 1);
		build_layer(b, OP_RELU, "classifier.%d", 3 * i + 2);
	}
	build_linear(b, nclass, "classifier.6");
}
