#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "device.h"
#include "plan.h"

static enum precision precision_of(const char *name)
{
	int i = 0;

	while (i < PRECISIONS && strcmp(name, precision_name[i]))
		i++;
	if (i == PRECISIONS)
		usage("--precision %s: fp32, tf32 or bf16", name);
	return i;
}

void cli_option(struct cli *c, int opt, const char *synopsis)
{
	char err[ERRLEN];

	switch (opt) {
	case 'h':
		printf("usage: %s\n", synopsis);
		if (fflush(stdout) != 0)
			die("standard output:");
		exit(0);
	case 'V':
		printf("%s (teddy) %s\n", progname, TEDDY_VERSION);
		if (fflush(stdout) != 0)
			die("standard output:");
		exit(0);
	case 'o':
		c->out = strcmp(optarg, "-") ? optarg : NULL;
		break;
	case 'v':
		c->verbose = true;
		plan_verbose(true);
		break;
	case CLI_HEADER:
		c->header = true;
		break;
	case CLI_SEED:
		c->seed = eint("--seed", optarg, 0, UINT32_MAX);
		break;
	case CLI_THREADS:
		set_threads(eint("--threads", optarg, 1, 1024));
		break;
	case CLI_DEVICE:
		if (strcmp(optarg, "cpu") && strcmp(optarg, "cuda") && strcmp(optarg, "auto"))
			usage("--device %s: cpu, cuda or auto", optarg);
		if (set_device(optarg, err) < 0)
			die("%s", err);
		break;
	case CLI_ISA:
		if (set_isa(optarg, err) < 0)
			usage("%s", err);
		break;
	case CLI_PRECISION:
		set_precision(precision_of(optarg));
		break;
	case CLI_LOG:
		c->log_name = optarg;
		c->log = fopen(optarg, "a");
		if (!c->log)
			die("%s:", optarg);
		setvbuf(c->log, NULL, _IOLBF, 0);
		break;
	default:
		exit(2); /* getopt has said why */
	}
}

void cli_log(const struct cli *c, const char *event, ...)
{
	va_list ap;
	const char *key;

	if (!c->log)
		return;
	flockfile(c->log); /* a line is one thread's */
	fprintf(c->log, "{\"event\": \"%s\"", event);
	va_start(ap, event);
	while ((key = va_arg(ap, const char *))) {
		double v = va_arg(ap, double);
		if (isfinite(v))
			fprintf(c->log, ", \"%s\": %.9g", key, v);
		else
			fprintf(c->log, ", \"%s\": null", key); /* JSON has no NaN */
	}
	va_end(ap);
	if (fprintf(c->log, "}\n") < 0)
		die("%s:", c->log_name);
	funlockfile(c->log);
}
