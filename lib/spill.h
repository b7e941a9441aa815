/* Arrays that may outgrow the memory there is: the pixels of ImageNet are 190 GB. Together they have half of the memory;
 * one that would make them more moves to a file without a name in TMPDIR, or else /var/tmp, mapped: the kernel writes its
 * pages out and reads them in as they are used. For one thread.
 */
#ifndef SPILL_H
#define SPILL_H

#include <stdbool.h>

#include "util.h"

struct spill { /* {0} is empty */
	void *p;     /* moves when it grows */
	size_t size; /* bytes that it has room for */
	bool mapped; /* to a file */
	int fd;
};

/* Room for at least so many bytes; what is in it stays. The disk's room is taken at once, so that no later write fails.
 * -1 and err: the folder, or how much its disk lacks; the array is as it was. */
int spill_grow(struct spill *s, size_t bytes, char err[ERRLEN]);
void spill_free(struct spill *s);
/* Half of the memory: of the machine, of the control groups (version 1 or 2) that the process is in, or by ulimit -d,
 * whichever is least. */
size_t spill_limit(void);
/* What the control groups allow that this file names, a line NUMBER:CONTROLLERS:GROUP each (version 2 has 0::GROUP), or the
 * groups around them; root: where they are mounted. SIZE_MAX: no limit. */
size_t spill_group_limit(const char *self, const char *root);

#endif
