/* Where training stands, in a file from which a run that was stopped goes on: the checkpoints that are done, and of the
 * learner in training the arrays that its steps change.
 *
 * Without a path nothing is kept: nothing was done before, and saving does nothing. -1 and err, which names the file, where
 * it cannot be read, is of another run, or has not what it should.
 */
#ifndef TRAINING_H
#define TRAINING_H

#include "../lib/train.h"
#include "state.h"

struct training {
	const char *path; /* borrowed, or NULL */
	struct state state;
};

/* output: the header of what is written; data: which images; pool: what is fine-tuned, or NULL; all taken over. */
int training_resume(struct training *t, const char *path, struct val *output, struct val *data, struct val *pool,
	char err[ERRLEN]);
void training_free(struct training *t);
/* The checkpoint of this name, or NULL; lent. */
const struct buf *training_kept(const struct training *t, const char *name);
void training_keep(struct training *t, const char *name, const struct buf *ck); /* for the next save */
/* Replaces the file: a settled learner, that of this member, after so many epochs; or none in training, l NULL. */
int training_save(struct training *t, struct learner *l, const struct net *net, int member, int epoch, char err[ERRLEN]);
/* Brings l to where this member was saved, after one of last epochs of so many steps. Returns which; 0: it was not. */
int training_restore(const struct training *t, struct learner *l, const struct net *net, int member, int last,
	int64_t steps, char err[ERRLEN]);

#endif
