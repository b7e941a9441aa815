/* One network of a fixture, ready to run, and how far results are off what the fixture says (t_net, t_zoo).
 *
 * A problem owns all it points to; frames come from gen_nets.py and gen_zoo.py, whose formulas stand in problem.c too.
 * Functions die when a fixture lacks what they need.
 */
#ifndef PROBLEM_H
#define PROBLEM_H

#include "../formats/tstream.h"
#include "../lib/match.h"
#include "../lib/plan.h"

#define BOUND_LOGITS 1e-4
#define BOUND 1e-3

enum { MAX_TAPS = 128 };

struct problem {
	const char *name;
	struct val *frame, *names;    /* names of the parameters in PyTorch's order */
	struct val *bn;               /* paths of batch norms, as PyTorch registers them */
	int found;                    /* how many of them the net has */
	struct net *net;
	struct weights weights;
	int n, k, ntap;
	int chw[3];
	size_t pixels;                /* of all images */
	const int64_t *label;         /* (n) */
	float *images;                /* (n,C,H,W) */
	float *logits, *dlogits;      /* (n,K) */
	double alpha, first;
	int calm;                     /* another formula for norms, see gen_nets.py */
	double gain;                  /* another for all that has a bias, see gen_zoo.py; 0: no */
	int sampled, stride;          /* what is stored: so many of a parameter, every so many-th of large images */
	struct layer_stats stat[MAX_TAPS]; /* in the order of bn */
};

void problem_new(struct problem *p, struct val *frame); /* takes the frame over */
void problem_free(struct problem *p);

/* The formula of the fixtures' values: element i of tensor j, in [0, 1). */
double uniform(uint32_t i, uint32_t j);
int find_param(const struct net *net, const char *name); /* -1: none */

const double *want(const struct problem *p, const char *key, size_t count);  /* f64 */
const float *want32(const struct problem *p, const char *key, size_t count); /* f32 */

double norm(const float *x, size_t n);
/* Largest difference over largest value. */
double off_max(const float *got, const float *ref, size_t n);
double off_max64(const double *got, const double *ref, size_t n);
/* Relative L2 distance of what the fixture stores of an image tensor, and of its norm. */
double off_images(const struct problem *p, const char *key, const float *got);
/* Largest relative L2 distance of a parameter (its stored part, its norm) from the fixture. One far smaller than the
 * largest, as the gradient of a bias in front of a norm (zero but for rounding), is held against `floor` of that. */
enum pick { TRAINED, RUNNING, ALL };
double off_params(const struct problem *p, const char *key, enum pick pick, const struct weights *w, double floor);

struct plan *make_plan(const struct problem *p, enum purpose purpose, int batch, struct workspace *ws);
/* Whether plans for all purposes can be made, so that one that cannot does not hide the networks after it. */
int plannable(const struct problem *p, char err[ERRLEN]);
/* CE + alpha * matching of every BN layer; the gradient of the images in dimages (n,C,H,W), if any. */
double synthesis(const struct problem *p, struct plan *plan, const float *images, double w, float *dimages);

#endif
