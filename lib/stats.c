#include <stdlib.h>

#include "stats.h"

void layer_stats_free(struct layer_stats *s)
{
	free(s->mean);
	free(s->var);
	free(s->cmean);
	free(s->cvar);
	*s = (struct layer_stats){ 0 };
}
