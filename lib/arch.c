/* Architectures: each is a function that builds a net. Node names are the module paths that torchvision gives (ResNet)
 * or that the field's ConvNet has as an nn.Sequential called features. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"

struct builder { /* the first error sticks, so that architectures read as lists of layers */
	struct net *net;
	int at;        /* node that the next layer follows */
	int failed;
	char *err;
};

static int add(struct builder *b, struct node node, int out)
{
	if (b->failed)
		return 0;
	if (node.op != OP_INPUT) {
		node.in[0] = b->at;
		node.nin = node.op == OP_ADD ? 2 : 1;
	}
	int i = net_add(b->net, &node, out, b->err);
	if (i < 0) {
		b->failed = 1;
		return 0;
	}
	return b->at = i;
}

static struct node named(enum op op, const char *prefix, const char *leaf)
{
	struct node n = { .op = op, .groups = 1 };

	snprintf(n.name, sizeof n.name, "%s%s", prefix, leaf);
	return n;
}

static int conv(struct builder *b, const char *prefix, const char *leaf, int out, int k, int stride, int pad, int bias)
{
	struct node n = named(OP_CONV, prefix, leaf);

	n.k = k, n.stride = stride, n.pad = pad, n.has_bias = bias;
	return add(b, n, out);
}

static int layer(struct builder *b, enum op op, const char *prefix, const char *leaf)
{
	struct node n = named(op, prefix, leaf);

	if (op == OP_BN || op == OP_IN)
		n.eps = 1e-5f;
	return add(b, n, 0);
}

static int pool(struct builder *b, enum op op, const char *leaf, int k, int stride, int pad)
{
	struct node n = named(op, "", leaf);

	n.k = k, n.stride = stride, n.pad = pad;
	return add(b, n, 0);
}

static void classifier(struct builder *b, const char *leaf, int nclass)
{
	layer(b, OP_FLATTEN, "", "flatten");
	add(b, named(OP_LINEAR, "", leaf), nclass);
}

/* ConvNet-D-W of dataset condensation (DC, Zhao et al. 2021): blocks of conv 3x3, norm, ReLU, average pooling 2x2.
 * 28x28 images are padded to 32x32 by the first convolution. */
static void convnet(struct builder *b, int depth, int width, enum op norm, int nclass)
{
	layer(b, OP_INPUT, "", "input");
	for (int i = 0; i < depth; i++) {
		char leaf[32];
		int pad = i == 0 && b->net->chw[1] == 28 && b->net->chw[2] == 28 ? 3 : 1;

		snprintf(leaf, sizeof leaf, "%d", 4 * i);
		conv(b, "features.", leaf, width, 3, 1, pad, 1);
		snprintf(leaf, sizeof leaf, "%d", 4 * i + 1);
		layer(b, norm, "features.", leaf);
		snprintf(leaf, sizeof leaf, "%d", 4 * i + 2);
		layer(b, OP_RELU, "features.", leaf);
		snprintf(leaf, sizeof leaf, "features.%d", 4 * i + 3);
		pool(b, OP_AVGPOOL, leaf, 2, 2, 0);
	}
	classifier(b, "classifier", nclass);
}

/* ResNet's basic block (He et al. 2016), as torchvision names its parts. */
static void basic_block(struct builder *b, const char *prefix, int width, int stride)
{
	int in = b->at, in_width = b->net->node[in].c, skip;

	conv(b, prefix, "conv1", width, 3, stride, 1, 0);
	layer(b, OP_BN, prefix, "bn1");
	layer(b, OP_RELU, prefix, "relu1");
	conv(b, prefix, "conv2", width, 3, 1, 1, 0);
	int main_path = layer(b, OP_BN, prefix, "bn2");
	skip = in;
	if (stride != 1 || in_width != width) {
		b->at = in;
		conv(b, prefix, "downsample.0", width, 1, stride, 0, 0);
		skip = layer(b, OP_BN, prefix, "downsample.1");
	}
	b->at = main_path;
	struct node sum = named(OP_ADD, prefix, "add");
	sum.in[1] = skip;
	add(b, sum, 0);
	layer(b, OP_RELU, prefix, "relu2");
}

static void resnet18(struct builder *b, int small, int nclass)
{
	b->net->init = INIT_RESNET;
	layer(b, OP_INPUT, "", "input");
	conv(b, "", "conv1", 64, small ? 3 : 7, small ? 1 : 2, small ? 1 : 3, 0);
	layer(b, OP_BN, "", "bn1");
	layer(b, OP_RELU, "", "relu");
	if (!small)
		pool(b, OP_MAXPOOL, "maxpool", 3, 2, 1);
	for (int stage = 0; stage < 4 && !b->failed; stage++)
		for (int block = 0; block < 2 && !b->failed; block++) {
			char prefix[32];
			snprintf(prefix, sizeof prefix, "layer%d.%d.", stage + 1, block);
			basic_block(b, prefix, 64 << stage, stage > 0 && block == 0 ? 2 : 1);
		}
	layer(b, OP_GAP, "", "avgpool");
	classifier(b, "fc", nclass);
}

/* "convnetD[-W][-in]": 1 when arch has this form. */
static int parse_convnet(const char *arch, int *depth, int *width, enum op *norm)
{
	char *end;
	long d, w = 128;

	if (strncmp(arch, "convnet", 7))
		return 0;
	d = strtol(arch + 7, &end, 10);
	if (end == arch + 7 || d < 1 || d > 8)
		return 0;
	if (*end == '-' && end[1] >= '0' && end[1] <= '9')
		w = strtol(end + 1, &end, 10);
	*norm = strcmp(end, "-in") ? OP_BN : OP_IN;
	if (*end && strcmp(end, "-in"))
		return 0;
	*depth = d, *width = w;
	return w >= 1 && w <= 65536;
}

const char arch_names[] = "convnetD[-W][-in], resnet18, resnet18-small";

struct net *net_arch(const char *arch, const int chw[3], int nclass, char err[ERRLEN])
{
	struct builder b = { .net = net_new(arch, chw), .err = err };
	int depth, width;
	enum op norm;

	if (parse_convnet(arch, &depth, &width, &norm))
		convnet(&b, depth, width, norm, nclass);
	else if (!strcmp(arch, "resnet18"))
		resnet18(&b, 0, nclass);
	else if (!strcmp(arch, "resnet18-small"))
		resnet18(&b, 1, nclass);
	else {
		fail(err, "unknown architecture '%s' (known: %s)", arch, arch_names);
		b.failed = 1;
	}
	if (!b.failed && net_finish(b.net, nclass, err) == 0)
		return b.net;
	net_free(b.net);
	return NULL;
}
