/* What a stream says of itself, in words. All functions borrow what they show. */
#ifndef SHOW_H
#define SHOW_H

#include <stdio.h>

#include "value.h"

/* Such strings may hold anything; a terminal gets no control characters of them. */
void put_text(FILE *out, const char *s);
void put_word(FILE *out, const char *s); /* quoted for the shell where it must be */

/* A number, string or list of them as it would stand in a command; floats as short as they come back. free() it. */
char *scalar_text(const struct val *v);

/* The pipeline that made the stream with this header, then, each in its own line, those of the files that were
 * arguments; every line starts with indent. */
void put_history(FILE *out, const struct val *header, const char *indent);

#endif
