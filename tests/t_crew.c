/* A crew: every learner takes its steps once and in order, none before it may, and an error ends the work of all. */
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "../lib/crew.h"
#include "tap.h"

enum { LEARNERS = 5, STEPS = 40 };

struct record {
	_Atomic long ready;             /* what crew_ready() allows */
	_Atomic int early, meet;        /* steps before they may; a learner with two workers */
	_Atomic int with[LEARNERS];
	long next[LEARNERS];
	int wrong, bad_learner, bad_step;
	_Atomic int apart;              /* steps taken before all others had taken those before */
};

static int step(void *data, int worker, int who, long step, char err[ERRLEN])
{
	struct record *r = data;

	(void)worker;
	if (step >= r->ready)
		r->early++;
	if (r->with[who]++)
		r->meet++;
	if (r->next[who]++ != step)
		r->wrong++;
	for (int i = 0; i < LEARNERS; i++)
		if (r->next[i] < step)
			r->apart++;
	usleep(50 * (who + 1));
	r->with[who]--;
	if (who == r->bad_learner && step == r->bad_step)
		return fail(err, "learner %d fails", who);
	return 0;
}

static void check_order(int workers)
{
	struct record r = { .bad_learner = -1 };
	struct crew *c = crew_start(workers, LEARNERS, STEPS, step, &r);
	char err[ERRLEN];
	int good = 1, waits = 1;

	for (long s = 0; s < STEPS; s++) { /* two steps ahead of the last learner, as a stream allows them */
		waits &= crew_wait(c, s - 1) == 0;
		for (int i = 0; i < LEARNERS; i++)
			waits &= r.next[i] >= s - 1;
		r.ready = s + 1;
		crew_ready(c, s + 1);
	}
	good &= crew_finish(c, false, err) == 0;
	for (int i = 0; i < LEARNERS; i++)
		good &= r.next[i] == STEPS;
	ok(good, "%d workers: all learners took all their steps", workers);
	ok(!r.wrong && !r.meet, "%d workers: in order, one worker at a time", workers);
	ok(!r.early && waits, "%d workers: none before it may, and waiting waits for the last", workers);
}

/* All steps allowed at once: the one furthest behind goes next, so nobody is left alone at the end. With one worker
 * that is an order; several are as the system has them run. */
static void check_balance(void)
{
	struct record r = { .bad_learner = -1, .ready = STEPS };
	struct crew *c = crew_start(1, LEARNERS, STEPS, step, &r);
	char err[ERRLEN];

	crew_ready(c, STEPS);
	ok(crew_wait(c, STEPS) == 0 && crew_done(c) == LEARNERS * STEPS, "waiting for the last step waits for all");
	ok(crew_finish(c, false, err) == 0 && !r.apart, "one worker goes round");
}

static void check_error(int workers)
{
	struct record r = { .bad_learner = 3, .bad_step = 7, .ready = STEPS };
	struct crew *c = crew_start(workers, LEARNERS, STEPS, step, &r);
	char err[ERRLEN] = "";
	int rc;

	crew_ready(c, STEPS);
	ok(crew_wait(c, STEPS) < 0, "%d workers: a wait ends when a step fails", workers);
	rc = crew_finish(c, false, err);
	ok(rc < 0 && !strcmp(err, "learner 3 fails"), "its words are handed on");
	ok(r.next[3] == 8, "it takes no further step");
	if (workers == 1)
		ok(r.next[2] == 8 && r.next[4] == 7, "nor do the others");
}

static void check_stop(void)
{
	struct record r = { .bad_learner = -1, .ready = STEPS };
	struct crew *c = crew_start(3, LEARNERS, STEPS, step, &r);
	char err[ERRLEN];

	crew_ready(c, 3);
	crew_wait(c, 3);
	ok(crew_finish(c, true, err) == 0 && r.next[0] == 3, "a crew that waits for work can be sent home");
}

int main(void)
{
	progname = "t_crew";
	check_order(1);
	check_order(2);
	check_order(3);
	check_order(7);
	check_balance();
	check_error(1);
	check_error(3);
	check_stop();
	return tap_end();
}
