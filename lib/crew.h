/* A crew: several learners go through the same number of steps, side by side on a few workers.
 *
 * Workers are threads, each with what it needs for a step; learners are handed from one to the other between steps, so
 * that all cores stay busy to the end and what a learner becomes does not depend on who took its steps. The crew owns
 * its threads; data is the caller's.
 */
#ifndef CREW_H
#define CREW_H

#include <stdbool.h>

#include "util.h"

/* Step `step` of learner `who`, by that worker; 0, or -1 and err, which ends the work of all. */
typedef int crew_fn(void *data, int worker, int who, long step, char err[ERRLEN]);

struct crew;
/* Each learner has `steps` to take. None is taken before crew_ready() allows it. */
struct crew *crew_start(int nworker, int nlearner, long steps, crew_fn *fn, void *data);
/* Steps before `step` may be taken from now on. */
void crew_ready(struct crew *c, long step);
/* Waits until every learner has taken `step` steps; -1 when one failed. */
int crew_wait(struct crew *c, long step);
/* Steps taken, of all learners together. */
long crew_done(struct crew *c);
/* Ends: once all steps are taken or, with `stop`, those that are under way. 0, or -1 and what the failed step said. */
int crew_finish(struct crew *c, bool stop, char err[ERRLEN]);

#endif
