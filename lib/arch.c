/* Architectures by name, and what they are built with. Node names are torchvision's module paths. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arch.h"

static struct node named(enum op op, const char *fmt, va_list ap)
{
	struct node n = { .op = op, .groups = 1, .nin = op == OP_INPUT ? 0 : 1 };

	vsnprintf(n.name, sizeof n.name, fmt, ap);
	return n;
}

/* Appends n behind the current node. */
static int add(struct builder *b, struct node n, int out)
{
	int i;

	if (b->failed)
		return 0;
	n.in[0] = b->at;
	i = net_add(b->net, &n, out, b->err);
	if (i < 0) {
		b->failed = 1;
		return 0;
	}
	return b->at = i;
}

#define NAMED(n, op, name) do { \
	va_list ap; \
	va_start(ap, name); \
	n = named(op, name, ap); \
	va_end(ap); \
} while (0)

int build_layer(struct builder *b, enum op op, const char *name, ...)
{
	struct node n;

	NAMED(n, op, name);
	if (op == OP_BN || op == OP_IN)
		n.eps = 1e-5f;
	return add(b, n, 0);
}

int build_conv(struct builder *b, struct conv_form c, const char *name, ...)
{
	struct node n;

	NAMED(n, OP_CONV, name);
	n.k = MAX(c.k, 1), n.stride = MAX(c.stride, 1), n.pad = c.pad, n.groups = MAX(c.groups, 1), n.has_bias = c.bias;
	return add(b, n, c.out);
}

int build_pool(struct builder *b, enum op op, int k, int stride, int pad, const char *name, ...)
{
	struct node n;

	NAMED(n, op, name);
	n.k = k, n.stride = stride, n.pad = pad;
	return add(b, n, 0);
}

int build_pool_to(struct builder *b, int k, const char *name)
{
	const struct node *at = &b->net->node[b->at];

	if (b->failed || (at->h == k && at->w == k))
		return b->at;
	return build_pool(b, OP_ADAPT, k, 0, 0, "%s", name);
}

int build_join(struct builder *b, enum op op, int other, const char *name, ...)
{
	struct node n;

	NAMED(n, op, name);
	n.in[1] = other, n.nin = 2;
	return add(b, n, 0);
}

int build_select(struct builder *b, const int *map, int n, const char *name, ...)
{
	struct node v;

	NAMED(v, OP_SELECT, name);
	v.map = (int *)map; /* net_add copies it */
	return add(b, v, n);
}

int build_drop(struct builder *b, enum op op, double p, const char *name, ...)
{
	struct node n;

	NAMED(n, op, name);
	n.p = p;
	return add(b, n, 0);
}

int build_linear(struct builder *b, int out, const char *name, ...)
{
	struct node n;

	NAMED(n, OP_LINEAR, name);
	return add(b, n, out);
}

int build_conv_bn(struct builder *b, struct conv_form c, enum op act, const char *prefix)
{
	c.pad = (MAX(c.k, 1) - 1) / 2;
	build_conv(b, c, "%s.0", prefix);
	build_layer(b, OP_BN, "%s.1", prefix);
	if (act != OP_COUNT)
		build_layer(b, act, "%s.2", prefix);
	return b->at;
}

int build_width(const struct builder *b)
{
	return b->failed ? 1 : b->net->node[b->at].c;
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

static void resnet18(struct builder *b, int nclass)
{
	arch_resnet(b, (int[]){ 2, 2, 2, 2 }, false, nclass);
}

static void resnet34(struct builder *b, int nclass)
{
	arch_resnet(b, (int[]){ 3, 4, 6, 3 }, false, nclass);
}

static void resnet50(struct builder *b, int nclass)
{
	arch_resnet(b, (int[]){ 3, 4, 6, 3 }, true, nclass);
}

static void resnet101(struct builder *b, int nclass)
{
	arch_resnet(b, (int[]){ 3, 4, 23, 3 }, true, nclass);
}

static const struct {
	const char *name;
	void (*build)(struct builder *b, int nclass);
	enum init init;
} zoo[] = {
	{ "resnet18", resnet18, INIT_RESNET },
	{ "resnet34", resnet34, INIT_RESNET },
	{ "resnet50", resnet50, INIT_RESNET },
	{ "resnet101", resnet101, INIT_RESNET },
	{ "densenet121", arch_densenet121, INIT_DENSENET },
	{ "mobilenet_v2", arch_mobilenet_v2, INIT_VGG },
	{ "shufflenet_v2_x1_0", arch_shufflenet_v2_x1_0, INIT_DEFAULT },
	{ "efficientnet_b0", arch_efficientnet_b0, INIT_EFFICIENTNET },
	{ "vgg11_bn", arch_vgg11_bn, INIT_VGG },
	{ "alexnet", arch_alexnet, INIT_DEFAULT },
};

/* "NAME[-small]": its place in the zoo, -1 when it has none. */
static int in_zoo(const char *arch, bool *small)
{
	for (size_t i = 0; i < LEN(zoo); i++) {
		size_t n = strlen(zoo[i].name);
		if (strncmp(arch, zoo[i].name, n) || (arch[n] && strcmp(arch + n, "-small")))
			continue;
		*small = arch[n];
		return i;
	}
	return -1;
}

#define UNKNOWN "unknown architecture '%s' (known: %s)"

const char *earch(const char *arch)
{
	int depth, width;
	enum op norm;
	bool small;

	if (!parse_convnet(arch, &depth, &width, &norm) && in_zoo(arch, &small) < 0)
		usage(UNKNOWN, arch, ARCH_NAMES(" "));
	return arch;
}

/* Builds what arch names; 0 when there is no such name. */
static int build(struct builder *b, const char *arch, int nclass)
{
	int depth, width, at;
	enum op norm;

	build_layer(b, OP_INPUT, "input");
	if (parse_convnet(arch, &depth, &width, &norm)) {
		arch_convnet(b, depth, width, norm, nclass);
		return 1;
	}
	if ((at = in_zoo(arch, &b->small)) < 0)
		return 0;
	b->net->init = zoo[at].init;
	zoo[at].build(b, nclass);
	return 1;
}

struct net *net_arch(const char *arch, const int chw[3], int nclass, char err[ERRLEN])
{
	struct builder b = { .net = net_new(arch, chw), .err = err };

	if (!build(&b, arch, nclass)) {
		fail(err, UNKNOWN, arch, ARCH_NAMES(" "));
		b.failed = 1;
	}
	if (!b.failed && net_finish(b.net, nclass, err) == 0)
		return b.net;
	net_free(b.net);
	return NULL;
}
