/* Students: fresh networks of one architecture that are trained under one protocol, small ones side by side.
 *
 * The students own their networks' weights, the workers and the crew; net, protocol and validation images are borrowed.
 */
#ifndef STUDENTS_H
#define STUDENTS_H

#include "cli.h"
#include "crew.h"
#include "protocol.h"
#include "dataset.h"
#include "train.h"

struct batch {
	int n;
	const float *x;           /* (n,C,H,W), the caller's: what train_step() takes */
	int64_t *label, *partner; /* (n) */
	bool mixed;               /* labels are lambda of their own, else the partner's */
	float lambda;
	float *soft;              /* (n,K) logits; NULL: none */
};
struct batch batch_new(int n, int nclass, bool soft);
void batch_free(struct batch *b);

struct student {
	uint32_t seed;
	struct learner learner;
	int64_t *order;        /* the caller's, to free() too: of the epoch */
	double sum;            /* of the epoch's losses so far */
	double train_loss;     /* of the epoch before */
	double seconds;
	double accuracy, loss; /* on the validation images, after this epoch: */
	long epoch;            /* the best of those after which it is measured; 0: not yet */
};

/* Takes a step at a time, of whichever student is furthest behind. */
struct worker {
	struct trainer trainer;
	struct workspace *ws;
};

struct students {
	const struct cli *cli; /* its seed is the first student's; its log */
	const struct protocol *pr;
	const struct net *net;
	struct dataset val;
	int n, nworker;
	struct student *student;
	struct worker *worker;
	unsigned char *decay;  /* (ntheta) or NULL */
	struct schedule sched;
	struct report report;
	long batches, total;   /* steps an epoch; in all */
};
/* batch: images a step at most. Students whose activations take at most 256 MB share the threads out, one worker each
 * while there are threads; others take turns on all threads. -1 and err. */
int students_new(struct students *s, const struct net *net, int n, int batch, char err[ERRLEN]);
void students_free(struct students *s);
long students_epochs(const struct students *s); /* the last one may be cut short by total */
/* Step `step` of student `who`, which is measured behind it when the protocol's report wants so. -1 and err when a loss is not finite. */
int student_step(struct students *s, int worker, int who, const struct batch *b, long step, char err[ERRLEN]);

#endif
