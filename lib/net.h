/* A net is data: nodes in topological order, parameters in one flat arena. Whoever holds a net frees it (net_free).
 *
 * Everything that walks networks (plans, parameter and MAC counts, listings, checkpoints) walks net->node. Shapes are
 * those of one image; the batch is the plan's business.
 */
#ifndef NET_H
#define NET_H

#include <stddef.h>
#include <stdint.h>

#include "rng.h"
#include "util.h"

/* id, name in checkpoints, number of inputs (0: any number from 2 on). One list: enum, names and the plan's table of
 * implementations derive from it, so that a missing implementation does not compile. */
#define OPS(X) \
	X(OP_INPUT,    "input",    -1) /* the image, C x H x W */ \
	X(OP_AFFINE,   "affine",    1) /* y = x*scale + shift per channel, constants (normalisation) */ \
	X(OP_CONV,     "conv",      1) /* k, stride, pad, groups, out channels; weight (O, I/groups, k, k), bias? */ \
	X(OP_BN,       "bn",        1) /* weight, bias, running_mean, running_var (C); eps, momentum 0.1 */ \
	X(OP_IN,       "in",        1) /* instance norm: GroupNorm(C, C), weight, bias (C); eps */ \
	X(OP_RELU,     "relu",      1) \
	X(OP_MAXPOOL,  "maxpool",   1) /* k, stride, pad */ \
	X(OP_AVGPOOL,  "avgpool",   1) /* k, stride; no padding */ \
	X(OP_GAP,      "gap",       1) /* global average pool: C x 1 x 1 */ \
	X(OP_ADD,      "add",       2) \
	X(OP_FLATTEN,  "flatten",   1) /* C*H*W x 1 x 1, in NCHW order */ \
	X(OP_LINEAR,   "linear",    1) /* weight (out, in), bias (out) */

#define X(id, name, nin) id,
enum op { OPS(X) OP_COUNT };
#undef X
extern const char *const op_name[OP_COUNT];

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
	float eps;
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

/* Trained parameters (weight, bias) lie in one arena, buffers (running statistics) in another, so that an optimiser is
 * one loop over ntheta floats. The arenas themselves belong to whoever trains or loads: see struct weights. */
struct net {
	char arch[64];          /* "convnet3-128", "resnet18", … */
	int chw[3];             /* input shape */
	int nclass;
	int nnode, nparam;
	struct node *node;
	struct param *param;
	size_t ntheta, nbuffer; /* floats */
};

struct weights { /* one instance of a net's parameters */
	float *theta;           /* (ntheta) */
	float *buffer;          /* (nbuffer) */
};

/* Building: append a node, its output shape is inferred; -1 and err when it does not fit. Returns the node's index. */
struct net *net_new(const char *arch, const int chw[3]);
int net_add(struct net *n, const struct node *proto, int out_channels, char err[ERRLEN]);
/* Lays the arenas out and checks the whole: ends in a linear of nclass outputs, every node used. */
int net_finish(struct net *n, int nclass, char err[ERRLEN]);
void net_free(struct net *n);
struct net *net_copy(const struct net *n);

/* An architecture by name for images of shape chw: convnetD[-W], with "-in" appended for instance norm, resnet18,
 * resnet18-small. NULL and err (with the list of names) otherwise. */
struct net *net_arch(const char *arch, const int chw[3], int nclass, char err[ERRLEN]);

/* A copy whose images pass y = x*scale + shift per channel first (a network that was trained with another
 * normalisation); its parameters are those of n. */
struct net *net_with_affine(const struct net *n, const float *scale, const float *shift);

/* PyTorch's default initialisation of that architecture (ResNet: torchvision's), from seed; running stats 0 and 1.
 * purpose: RNG_INIT, or RNG_STUDENT, so that a student never starts where the teacher of its seed did. */
void net_init(const struct net *n, struct weights *w, uint32_t seed, enum purpose_id purpose);
struct weights weights_new(const struct net *n);
void weights_free(struct weights *w);
/* Where param p of instance w lies: (count) floats. */
float *weights_param(const struct net *n, const struct weights *w, int p);

int64_t net_params(const struct net *n); /* trained parameters, as everybody counts them */
int64_t net_macs(const struct net *n);   /* multiply-adds of convolutions and linears, one image */

#endif
