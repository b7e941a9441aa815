/* Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011). A struct rng is a value: copy it, no clean-up.
 *
 * Key: (seed, purpose). Counter: (a, b, c, block): what is drawn for which thing and step; block counts the groups of
 * four 32-bit words drawn so far at that place. However the work is split, the numbers at a place are the same.
 */
#ifndef RNG_H
#define RNG_H

#include <stdint.h>

/* One purpose a use, so that streams never overlap: append only. rng(7) says what (a, b, c) mean for each. */
#define PURPOSES(X) \
	X(RNG_INIT)     /* parameter initialisation: a = parameter */ \
	X(RNG_SHUFFLE)  /* order of training images: a = epoch */ \
	X(RNG_TRAINAUG) /* augmentation of training images: a = epoch, b = image */ \
	X(RNG_PICK)     /* real images that start a unit: a = class */ \
	X(RNG_NOISE)    /* noise that starts an image: a = class, b = index within the class */ \
	X(RNG_TEACHERS) /* teacher subset: a = index | unit | 0, b = iteration or 0, c = 1: of the prior */ \
	X(RNG_SYNTHAUG) /* augmentation in synthesis: a = unit, b = iteration */ \
	X(RNG_RECIPE)   /* cutmix: a = epoch, b = batch */ \
	X(RNG_STUDENT)  /* a student of its own seed: initialisation a = parameter, c = 1; augmentation b = step */ \
	X(RNG_SUBSET)   /* load-images -n: a = class */ \
	X(RNG_DROP)     /* dropout, stochastic depth: a = step, b = image of the batch, c = node */ \
	X(RNG_PRUNE)    /* random importance: a = member, b = root node of the group */ \
	X(RNG_FINETUNE) /* epochs and rate of a fine-tuned member: a = member */ \
	X(RNG_FRESH)    /* real images beside a unit: a = class, b = iteration */ \
	X(RNG_KEEP)     /* tscut --keep, the share and then which images: a = class */

#define X(id) id,
enum purpose_id { PURPOSES(X) RNG_PURPOSES };
#undef X

struct rng {
	uint32_t key[2], ctr[4], word[4];
	int left; /* words of the block not handed out yet */
};

/* The generator at one place; the fourth counter word starts at 0. */
struct rng rng_at(uint32_t seed, enum purpose_id purpose, uint32_t a, uint32_t b, uint32_t c);
uint32_t rng_u32(struct rng *r);
double rng_uniform(struct rng *r);            /* [0, 1), 53 bits (two words) */
double rng_range(struct rng *r, double lo, double hi);
uint32_t rng_below(struct rng *r, uint32_t n); /* unbiased: rejection */
double rng_normal(struct rng *r);             /* Box-Muller, two uniforms a number, the cosine half */
double rng_beta(struct rng *r, double a, double b); /* Jöhnk for a, b <= 1, gamma variates (Marsaglia-Tsang) above */
void rng_permute(struct rng *r, int64_t *p, int64_t n); /* Fisher-Yates of 0..n-1 */

#endif
