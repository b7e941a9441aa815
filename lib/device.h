/* Which device plans run on, and the shared object that a GPU's backend lives in. */
#ifndef DEVICE_H
#define DEVICE_H

#include <stdbool.h>

#include "util.h"

/* Plans made from now on run there: "cpu", "cuda", or "auto": cuda where there is one. -1 and err: unknown, or what is
 * missing. Where nothing was said, TEDDY_DEVICE of the environment counts, or cpu. */
int set_device(const char *name, char err[ERRLEN]);
void device_say(void); /* to standard error: which, where that is not plain; once */
bool device_is_host(void); /* its work is done by this process's own threads */
/* Pins the instruction set of the CPU backend for plans made from now on: "amx", "avx512", "avx2", "plain". */
int set_isa(const char *name, char err[ERRLEN]); /* -1 and err: unknown, or not on this processor; name is borrowed */

/* What teddy-cuda.so offers, under the name teddy_device. What it needs of lib/ is the program's, which is linked with
 * -rdynamic, and structures pass through as they are: both must be of one build, as abi says. */
struct backend;
struct device {
	const char *abi; /* DEVICE_ABI: build/abi.h, a sum over all headers */
	const struct backend *backend;
	int (*open)(char text[ERRLEN]); /* takes hold of the device and says what it is; -1: what is missing */
};

/* dlopen() of that object with what it needs of NVIDIA's, which may lie where ld.so does not look: in the folder of a
 * toolkit, or of Python's packages. NULL and err: which library is missing. */
void *open_cuda_object(const char *path, char err[ERRLEN]);
/* Opens a library of NVIDIA's that others open by name when they need it, from the same places; false: there is none. */
bool open_cuda_library(const char *name);

#endif
