#include "crew.h"

#include <omp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "plan.h"
#include "times.h"

struct worker {
	struct crew *crew;
	int id;
	pthread_t thread;
};

struct crew {
	pthread_mutex_t lock; /* for all below */
	pthread_cond_t change;
	crew_fn *fn;
	void *data;
	int nworker, nlearner;
	struct worker *worker;
	long *done;           /* (nlearner) steps taken */
	bool *busy;           /* (nlearner) with a worker */
	long steps, ready, all;
	bool stop, failed;
	char err[ERRLEN];
};

/* The learner that is furthest behind, of those that can go on; -1. */
static int next(const struct crew *c)
{
	int who = -1;

	for (int i = 0; i < c->nlearner; i++)
		if (!c->busy[i] && c->done[i] < MIN(c->ready, c->steps) && (who < 0 || c->done[i] < c->done[who]))
			who = i;
	return who;
}

static long least(const struct crew *c)
{
	long n = c->done[0];

	for (int i = 1; i < c->nlearner; i++)
		n = MIN(n, c->done[i]);
	return n;
}

/* OpenMP's setting is each thread's own, as is its share of the times. */
static void *work(void *arg)
{
	struct worker *w = arg;
	struct crew *c = w->crew;
	char err[ERRLEN];

	omp_set_num_threads(get_threads());
	times_share(1.0 / c->nworker);
	pthread_mutex_lock(&c->lock);
	while (!c->stop && c->all < c->steps * c->nlearner) {
		int who = next(c);

		if (who < 0) {
			pthread_cond_wait(&c->change, &c->lock);
			continue;
		}
		c->busy[who] = true;
		pthread_mutex_unlock(&c->lock);
		int rc = c->fn(c->data, w->id, who, c->done[who], err);
		pthread_mutex_lock(&c->lock);
		c->busy[who] = false;
		c->done[who]++;
		c->all++;
		if (rc < 0 && !c->failed) {
			c->failed = c->stop = true;
			memcpy(c->err, err, sizeof err);
		}
		pthread_cond_broadcast(&c->change);
	}
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

struct crew *crew_start(int nworker, int nlearner, long steps, crew_fn *fn, void *data)
{
	struct crew *c = ecalloc(1, sizeof *c);

	*c = (struct crew){ .fn = fn, .data = data, .nworker = nworker, .nlearner = nlearner, .steps = steps };
	c->worker = ecalloc(nworker, sizeof *c->worker);
	c->done = ecalloc(nlearner, sizeof *c->done);
	c->busy = ecalloc(nlearner, sizeof *c->busy);
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->change, NULL);
	for (int i = 0; i < nworker; i++) {
		c->worker[i] = (struct worker){ .crew = c, .id = i };
		if (pthread_create(&c->worker[i].thread, NULL, work, &c->worker[i]))
			die("no thread could be started");
	}
	return c;
}

void crew_ready(struct crew *c, long step)
{
	pthread_mutex_lock(&c->lock);
	c->ready = step;
	pthread_cond_broadcast(&c->change);
	pthread_mutex_unlock(&c->lock);
}

int crew_wait(struct crew *c, long step)
{
	int rc;

	pthread_mutex_lock(&c->lock);
	while (!c->stop && least(c) < MIN(step, c->steps))
		pthread_cond_wait(&c->change, &c->lock);
	rc = c->stop ? -1 : 0;
	pthread_mutex_unlock(&c->lock);
	return rc;
}

long crew_done(struct crew *c)
{
	long n;

	pthread_mutex_lock(&c->lock);
	n = c->all;
	pthread_mutex_unlock(&c->lock);
	return n;
}

int crew_finish(struct crew *c, bool stop, char err[ERRLEN])
{
	int rc;

	pthread_mutex_lock(&c->lock);
	c->stop |= stop;
	pthread_cond_broadcast(&c->change);
	pthread_mutex_unlock(&c->lock);
	for (int i = 0; i < c->nworker; i++)
		pthread_join(c->worker[i].thread, NULL);
	rc = c->failed ? fail(err, "%s", c->err) : 0;
	pthread_mutex_destroy(&c->lock);
	pthread_cond_destroy(&c->change);
	free(c->worker);
	free(c->done);
	free(c->busy);
	free(c);
	return rc;
}
