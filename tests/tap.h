/* The results of a test program of one file, as TAP on standard output: they are counted here, main returns tap_end(). */
#ifndef TAP_H
#define TAP_H

#include <stdarg.h>
#include <stdio.h>

#include "../lib/util.h"

static int tap_count, tap_bad;

__attribute__((format(printf, 2, 3)))
static void ok(int good, const char *fmt, ...)
{
	va_list ap;

	tap_bad += !good;
	printf("%sok %d - ", good ? "" : "not ", ++tap_count);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

/* Writes the plan; the exit status of the program. */
static int tap_end(void)
{
	printf("1..%d\n", tap_count);
	eflush();
	return tap_bad > 0;
}

#endif
