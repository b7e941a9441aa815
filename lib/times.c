#include "times.h"

#include <pthread.h>
#include <stdio.h>

#include "util.h"

static const char *const kind_name[TIME_KINDS] = {
	"arithmetic", "memory", "augmentation", "decoding", "reading", "writing"
};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static double spent[TIME_KINDS], start;
static _Thread_local double share = 1;

__attribute__((constructor)) static void begin(void)
{
	start = now();
}

void times_share(double s)
{
	share = s;
}

void times_add(enum time_kind kind, double seconds)
{
	pthread_mutex_lock(&lock);
	spent[kind] += share * seconds;
	pthread_mutex_unlock(&lock);
}

void times_say(void)
{
	progress_done();
	flockfile(stderr);
	fprintf(stderr, "{\"time\": {\"total\": %.6f", now() - start);
	for (int i = 0; i < TIME_KINDS; i++)
		fprintf(stderr, ", \"%s\": %.6f", kind_name[i], spent[i]);
	fputs("}}\n", stderr);
	funlockfile(stderr);
}
