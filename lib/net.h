/* A net is data: nodes in topological order, parameters in one flat arena. Whoever holds a net frees it (net_free).
 *
 * Everything that walks networks (plans, parameter and MAC counts, listings, checkpoints) walks net->node. Shapes are
 * those of one image; the batch is the plan's business.
 */
#ifndef NET_H
#define NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rng.h"
#include "util.h"

/* id, name in checkpoints, number of inputs. One list: enum, names and arities derive from it. */
#define OPS(X) \
	X(OP_INPUT,    "input",     0) /* the image, C x H x W */ \
	X(OP_AFFINE,   "affine",    1) /* y = x*scale + shift per channel, constants (normalisation) */ \
	X(OP_CONV,     "conv",      1) /* k, stride, pad, groups, out channels; weight (O, I/groups, k, k), bias? */ \
	X(OP_BN,       "bn",        1) /* weight, bias, running_mean, running_var (C); eps, momentum 0.1 */ \
	X(OP_IN,       "in",        1) /* instance norm: GroupNorm(C, C), weight, bias (C); eps */ \
	X(OP_RELU,     "relu",      1) \
	X(OP_RELU6,    "relu6",     1) /* min(max(x, 0), 6) */ \
	X(OP_SILU,     "silu",      1) /* x * sigmoid(x) */ \
	X(OP_SIGMOID,  "sigmoid",   1) \
	X(OP_MAXPOOL,  "maxpool",   1) /* k, stride, pad */ \
	X(OP_AVGPOOL,  "avgpool",   1) /* k, stride; no padding */ \
	X(OP_GAP,      "gap",       1) /* global average pool: C x 1 x 1 */ \
	X(OP_ADAPT,    "adaptpool", 1) /* k: average pool to k x k, as PyTorch's adaptive one */ \
	X(OP_ADD,      "add",       2) \
	X(OP_MUL,      "mul",       2) /* C x H x W times C x 1 x 1: squeeze-and-excitation */ \
	X(OP_CONCAT,   "concat",    2) /* channels of the first, then those of the second; a chain of them for more */ \
	X(OP_SELECT,   "select",    1) /* output channel i is input channel map[i], each at most once: slices, shuffles */ \
	X(OP_DROPOUT,  "dropout",   1) /* p; training only */ \
	X(OP_DROPPATH, "droppath",  1) /* p: stochastic depth, whole images of a batch; training only */ \
	X(OP_FLATTEN,  "flatten",   1) /* C*H*W x 1 x 1, in NCHW order */ \
	X(OP_LINEAR,   "linear",    1) /* weight (out, in), bias (out) */

#define X(id, name, nin) id,
enum op { OPS(X) OP_COUNT };
#undef X
extern const char *const op_name[OP_COUNT];

bool op_weighs(enum op op); /* convolution or linear: what makes channels, and what is counted */

enum { NODE_MAXIN = 2, MAX_NODES = 4096 };

/* What a parameter is to its node; the role also names it: NODE.weight, NODE.bias, … as torchvision does. */
#define ROLES(X) X(P_WEIGHT, "weight") X(P_BIAS, "bias") X(P_MEAN, "running_mean") X(P_VAR, "running_var")
#define X(id, name) id,
enum role { ROLES(X) P_COUNT };
#undef X
extern const char *const role_name[P_COUNT];

struct node {
	enum op op;
	char name[64];          /* torchvision's module path: "layer1.0.conv1" */
	int in[NODE_MAXIN];     /* indices of earlier nodes */
	int nin;
	int c, h, w;            /* output shape of one image (C,H,W) */
	int k, stride, pad, groups, has_bias;
	float eps, p;
	int *map;               /* OP_SELECT: (c) channels of the input, owned; else NULL */
	float *scale, *shift;   /* OP_AFFINE: constants (C), owned; else NULL */
	int param[P_COUNT];     /* index into net->param, -1: none */
};

struct param {
	char name[96];          /* "layer1.0.bn1.running_mean" */
	enum role role;
	int node, ndim;
	int64_t shape[4];
	size_t count, offset;   /* elements; place in the arena of its kind */
};

/* How torchvision draws an architecture's first weights. DEFAULT is PyTorch's own for convolutions and linears: uniform
 * within 1/sqrt(fan-in), bias too. HE_OUT, HE_IN: convolutions normal with variance 2/fan-out, 2/fan-in, their bias 0. */
enum init {
	INIT_DEFAULT,
	INIT_RESNET,       /* HE_OUT; linears default */
	INIT_DENSENET,     /* HE_IN; linears default, bias 0 */
	INIT_VGG,          /* HE_OUT; linears normal, deviation 0.01, bias 0: VGG and MobileNetV2 */
	INIT_EFFICIENTNET, /* HE_OUT; linears uniform within 1/sqrt(fan-out), bias 0 */
};

/* Trained parameters (weight, bias) lie in one arena, buffers (running statistics) in another, so that an optimiser is
 * one loop over ntheta floats. The arenas themselves belong to whoever trains or loads: see struct weights. */
struct net {
	char arch[64];          /* "convnet3-128", "resnet18", … */
	int chw[3];             /* input shape */
	int nclass;
	enum init init;
	int nnode, nparam;
	struct node *node;
	struct param *param;
	size_t ntheta, nbuffer; /* floats */
};

struct weights { /* one instance of a net's parameters */
	float *theta;           /* (ntheta) */
	float *buffer;          /* (nbuffer) */
};

/* Building: append a node, its output shape is inferred; -1 and err when it does not fit. Returns the node's index.
 * out_channels counts for convolutions, linears and OP_SELECT (the length of proto->map); map, scale and shift are copied. */
struct net *net_new(const char *arch, const int chw[3]);
int net_add(struct net *n, const struct node *proto, int out_channels, char err[ERRLEN]);
/* Lays the arenas out and checks the whole: ends in a linear of nclass outputs, every node used. */
int net_finish(struct net *n, int nclass, char err[ERRLEN]);
void net_free(struct net *n);
struct net *net_copy(const struct net *n);
/* The same graph, shapes and constants, whatever nodes are called: a plan of one takes the weights of the other. */
bool net_alike(const struct net *a, const struct net *b);

/* An architecture by name for images of shape chw: convnetD[-W], with "-in" appended for instance norm; torchvision's,
 * with "-small" appended for small images. NULL and err (with the list of names) otherwise. */
struct net *net_arch(const char *arch, const int chw[3], int nclass, char err[ERRLEN]);
const char *earch(const char *arch); /* arch, or the end of the program (2) where there is none of this name */
/* All of them in words, for a usage text: sep stands where lines may end. */
#define ARCH_NAMES(sep) "convnetD[-W][-in]," sep \
	"resnet18, resnet34, resnet50, resnet101, densenet121, mobilenet_v2," sep \
	"shufflenet_v2_x1_0, efficientnet_b0, vgg11_bn, alexnet;" sep "all but convnets also with -small behind"

/* A copy whose images pass y = x*scale + shift per channel first (a network that was trained with another
 * normalisation); its parameters are those of n. */
struct net *net_with_affine(const struct net *n, const float *scale, const float *shift);

/* A copy that ends in front of its classifier: what a plan of it calls logits are the last features (n,F), F = nclass of
 * the copy; with all, behind them those of every other pooling (and, in a net without any, of every addition), from the
 * last one to the first. Weights of n are weights of it too. NULL and err where the graph does not end in a linear. */
struct net *net_features(const struct net *n, bool all, char err[ERRLEN]);
int net_width(const struct net *n, bool all); /* F; 0 where there is no classifier */

/* The architecture's own initialisation (enum init) from seed; running stats 0 and 1.
 * purpose: RNG_INIT, or RNG_STUDENT, so that a student never starts where the teacher of its seed did. */
void net_init(const struct net *n, struct weights *w, uint32_t seed, enum purpose_id purpose);
struct weights weights_new(const struct net *n);
void weights_free(struct weights *w);
/* Where param p of instance w lies: (count) floats. */
float *weights_param(const struct net *n, const struct weights *w, int p);

/* The nodes whose statistics synthesis matches, in order: every batch norm (its input); in a net without any, every
 * instance norm (its input); without those either, every convolution (its output). Returns how many; at: room for nnode. */
int net_matched(const struct net *n, int *at);

bool net_has(const struct net *n, enum op op); /* a node of it */
int64_t net_params(const struct net *n); /* trained parameters, as everybody counts them */
int64_t net_macs(const struct net *n);   /* multiply-adds of convolutions and linears, one image */
int64_t node_params(const struct net *n, const struct node *v); /* the same of one node */
int64_t node_macs(const struct net *n, const struct node *v);

#endif
