/* Feature statistics of one BN layer's input: what synthesis matches. Owner: whoever holds it; layer_stats_free(). */
#ifndef STATS_H
#define STATS_H

struct layer_stats {
	int c, nclass;       /* nclass 0: no class-wise ones */
	float *mean, *var;   /* (C) biased variance */
	float *cmean, *cvar; /* (nclass,C) or NULL */
};
void layer_stats_free(struct layer_stats *s);

#endif
