/* The options that every filter with an engine in it takes, and its log. A struct cli is plain data; log is closed at exit.
 *
 * A filter puts CLI_LONG into its getopt_long table and CLI_SHORT into its short options, and gives every option that it
 * does not know itself to cli_option(). CLI_RUN_LONG is for filters that draw by chance and have steps to log.
 */
#ifndef CLI_H
#define CLI_H

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "util.h"

struct cli {
	uint32_t seed;         /* --seed, default 0 */
	const char *out;       /* -o, NULL: standard output */
	bool verbose;          /* -v */
	bool header;           /* --header: the output's header is all that is wanted */
	FILE *log;             /* --log, one JSON object a line; NULL: none */
	const char *log_name;
};

enum { CLI_SEED = 0x1000, CLI_THREADS, CLI_DEVICE, CLI_ISA, CLI_LOG, CLI_PRECISION, CLI_HEADER };
#define CLI_SHORT "ho:vV"
#define CLI_LONG \
	{ "threads", required_argument, NULL, CLI_THREADS }, { "device", required_argument, NULL, CLI_DEVICE }, \
	{ "isa", required_argument, NULL, CLI_ISA }, { "precision", required_argument, NULL, CLI_PRECISION }, \
	{ "header", no_argument, NULL, CLI_HEADER }, \
	{ "help", no_argument, NULL, 'h' }, { "version", no_argument, NULL, 'V' }
#define CLI_RUN_LONG \
	{ "seed", required_argument, NULL, CLI_SEED }, { "log", required_argument, NULL, CLI_LOG }

/* Handles one of the above (-h prints synopsis and exits 0); anything else is a usage error (exit 2). */
void cli_option(struct cli *c, int opt, const char *synopsis);

/* One line of the log: {"event": event, KEY: VALUE, …}; numbers only, so that no quoting is needed. keys: NULL-ended
 * pairs of (const char *, double). Does nothing without --log. */
void cli_log(const struct cli *c, const char *event, ...);

#endif
