/* Which kernels were started, how often. */
#include <pthread.h>
#include <string.h>

#include "gpu.h"

enum { KERNELS = 256 };
static struct {
	const char *name; /* of the call, so that pointers mostly tell; equal names at two places count as one */
	long count;
} seen[KERNELS];
static int nseen;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* students and those that prepare their batches both launch */

/* Its place, or nseen. */
static int place_of(const char *kernel)
{
	for (int i = 0; i < nseen; i++)
		if (seen[i].name == kernel)
			return i;
	for (int i = 0; i < nseen; i++)
		if (!strcmp(seen[i].name, kernel))
			return i;
	return nseen;
}

void gpu_count_launch(const char *kernel)
{
	int i;

	pthread_mutex_lock(&lock);
	i = place_of(kernel);
	if (i == nseen && i < KERNELS) {
		seen[nseen].name = kernel;
		seen[nseen++].count = 0; /* that of a launch since forgotten, else */
	}
	if (i < KERNELS)
		seen[i].count++;
	pthread_mutex_unlock(&lock);
}

/* "(scale<float>)" counts as scale. */
static int is(const char *seen, const char *kernel)
{
	size_t len = strlen(kernel);

	seen += *seen == '(';
	return !strncmp(seen, kernel, len) && (seen[len] == '\0' || seen[len] == '<' || seen[len] == ')');
}

long gpu_launches(const char *kernel)
{
	long sum = 0;

	for (int i = 0; i < nseen; i++)
		if (!kernel || is(seen[i].name, kernel))
			sum += seen[i].count;
	return sum;
}

void gpu_forget_launches(void)
{
	nseen = 0;
}
