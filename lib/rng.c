#include "rng.h"

#include <math.h>

static void philox(const uint32_t ctr[4], const uint32_t key[2], uint32_t out[4])
{
	uint32_t x0 = ctr[0], x1 = ctr[1], x2 = ctr[2], x3 = ctr[3], k0 = key[0], k1 = key[1];

	for (int round = 0; round < 10; round++) {
		uint64_t p0 = (uint64_t)0xD2511F53u * x0, p1 = (uint64_t)0xCD9E8D57u * x2;

		x0 = (uint32_t)(p1 >> 32) ^ x1 ^ k0;
		x1 = (uint32_t)p1;
		x2 = (uint32_t)(p0 >> 32) ^ x3 ^ k1;
		x3 = (uint32_t)p0;
		k0 += 0x9E3779B9u; /* Weyl sequence: golden ratio, sqrt(3) - 1 */
		k1 += 0xBB67AE85u;
	}
	out[0] = x0, out[1] = x1, out[2] = x2, out[3] = x3;
}

struct rng rng_at(uint32_t seed, enum purpose_id purpose, uint32_t a, uint32_t b, uint32_t c)
{
	return (struct rng){ .key = { seed, purpose }, .ctr = { a, b, c, 0 } };
}

uint32_t rng_u32(struct rng *r)
{
	if (!r->left) {
		philox(r->ctr, r->key, r->word);
		r->ctr[3]++;
		r->left = 4;
	}
	return r->word[4 - r->left--];
}

double rng_uniform(struct rng *r)
{
	uint32_t hi = rng_u32(r) >> 5, lo = rng_u32(r) >> 6;

	return (hi * 67108864.0 + lo) / 9007199254740992.0;
}

double rng_range(struct rng *r, double lo, double hi)
{
	return lo + (hi - lo) * rng_uniform(r);
}

uint32_t rng_below(struct rng *r, uint32_t n)
{
	uint32_t w, reject;

	if (n < 2)
		return 0;
	reject = -n % n; /* 2^32 mod n: so many words at the top would favour small results */
	do
		w = rng_u32(r);
	while (w > UINT32_MAX - reject);
	return w % n;
}

double rng_normal(struct rng *r)
{
	double u = 1 - rng_uniform(r), v = rng_uniform(r); /* u in (0, 1], so that its logarithm is finite */

	return sqrt(-2 * log(u)) * cos(2 * M_PI * v);
}

/* Marsaglia and Tsang 2000, with their boost for shapes below 1. */
static double rng_gamma(struct rng *r, double shape)
{
	if (shape < 1) {
		double u = 1 - rng_uniform(r);

		return rng_gamma(r, shape + 1) * pow(u, 1 / shape);
	}
	double d = shape - 1.0 / 3, c = 1 / sqrt(9 * d);

	for (;;) {
		double x = rng_normal(r), v = 1 + c * x, u = 1 - rng_uniform(r);

		v = v * v * v;
		if (v > 0 && log(u) < 0.5 * x * x + d - d * v + d * log(v))
			return d * v;
	}
}

double rng_beta(struct rng *r, double a, double b)
{
	if (a > 1 || b > 1) {
		double x = rng_gamma(r, a), y = rng_gamma(r, b);

		return x / (x + y);
	}
	for (;;) { /* in logarithms: u^(1/a) underflows for small a */
		double x = log(1 - rng_uniform(r)) / a, y = log(1 - rng_uniform(r)) / b;
		double m = x > y ? x : y, sum = m + log(exp(x - m) + exp(y - m));

		if (sum <= 0)
			return exp(x - sum);
	}
}

void rng_permute(struct rng *r, int64_t *p, int64_t n)
{
	for (int64_t i = 0; i < n; i++)
		p[i] = i;
	for (int64_t i = n - 1; i > 0; i--) {
		int64_t j = rng_below(r, (uint32_t)(i + 1)), t = p[i];

		p[i] = p[j];
		p[j] = t;
	}
}
