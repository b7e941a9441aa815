#include <dlfcn.h>
#include <glob.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device.h"

/* A library that is looked for, how many may yet be because one needs the next, and why the last that was there did not
 * open. */
struct wanted {
	const char *name;
	int depth;
	char why[ERRLEN];
};
enum { DEEPEST = 8 };

static const char toolkit[] = "{lib64,lib,../cudnn/lib}"; /* beside a wheels' toolkit lies its cuDNN */
static const char packages[] = "lib/python3*/{site,dist}-packages/{nvidia/*,torch}/lib";

static void *open_object(const char *path, int depth, char err[ERRLEN]);

/* The first that can be opened in FOLDER/WHERE, a pattern of glob(3); it stays open. */
#ifndef GLOB_BRACE
#define GLOB_BRACE 0 /* libraries in one of several places are not found then, as with musl, for which there are none */
#endif

static bool load_from(const char *folder, const char *where, struct wanted *w)
{
	char *path;
	bool found = false;
	glob_t g;

	if (!folder || !*folder)
		return false;
	path = eprintf_str("%s/%s/%s", folder, where, w->name);
	if (glob(path, GLOB_BRACE, NULL, &g) == 0) {
		for (size_t i = 0; i < g.gl_pathc && !found; i++)
			found = access(g.gl_pathv[i], R_OK) == 0 && open_object(g.gl_pathv[i], w->depth, w->why);
		globfree(&g);
	}
	free(path);
	return found;
}

/* The packages of BIN/python3, or of the interpreter that this is a link to. */
static bool load_beside(const char *bin, struct wanted *w)
{
	char *python = eprintf_str("%s/python3", bin), *up = eprintf_str("%s/..", bin), real[PATH_MAX];
	bool found = false;

	if (access(python, X_OK) == 0) {
		found = load_from(up, packages, w);
		if (!found && realpath(python, real)) {
			*strrchr(real, '/') = '\0';
			free(up);
			up = eprintf_str("%s/..", real);
			found = load_from(up, packages, w);
		}
	}
	free(python);
	free(up);
	return found;
}

static bool load_from_python(struct wanted *w)
{
	char *all = estrdup(getenv("PATH") ? getenv("PATH") : ""), *rest = all, *bin;
	bool found = false;

	while (!found && (bin = strsep(&rest, ":")))
		found = *bin == '/' && load_beside(bin, w);
	free(all);
	return found;
}

static bool load(struct wanted *w)
{
	char *home = eprintf_str("%s/.local", getenv("HOME") ? getenv("HOME") : "");
	bool found = load_from(getenv("CUDA_HOME"), toolkit, w) || load_from(getenv("CUDA_PATH"), toolkit, w) ||
		load_from("/usr/local/cuda", toolkit, w) || load_from(getenv("VIRTUAL_ENV"), packages, w) ||
		load_from(getenv("CONDA_PREFIX"), packages, w) || load_from(getenv("CONDA_PREFIX"), "lib", w) ||
		load_from_python(w) || load_from("/usr/local", packages, w) || load_from(home, packages, w) ||
		load_from("/usr/local/cuda-*", "{lib64,lib}", w) || load_from("/opt/cuda", "{lib64,lib}", w);

	free(home);
	return found;
}

/* What dlopen() misses is opened first: an object is known by its name, wherever it came from. */
static void *open_object(const char *path, int depth, char err[ERRLEN])
{
	struct wanted w = {.depth = depth - 1};
	char *last = NULL;
	bool found = true;
	void *object;

	while (!(object = dlopen(path, RTLD_LAZY | RTLD_LOCAL)) && found) {
		const char *said = dlerror(), *end = strstr(said, ": cannot open shared object file");
		char *name = end ? estrndup(said, end - said) : NULL;
		fail(err, "device cuda: %s", said);
		found = false;
		if (name && !strchr(name, '/') && depth && !(last && !strcmp(name, last))) {
			w.name = name;
			w.why[0] = '\0';
			found = load(&w);
			fail(err, w.why[0] ? "%s" : "device cuda: there is no %s: none where LD_LIBRARY_PATH or CUDA_HOME say, in "
				"/usr/local/cuda, or among the packages of a python3", w.why[0] ? w.why : name);
		}
		free(last);
		last = name;
	}
	free(last);
	return object;
}

void *open_cuda_object(const char *path, char err[ERRLEN])
{
	return open_object(path, DEEPEST, err);
}

bool open_cuda_library(const char *name)
{
	struct wanted w = { .name = name, .depth = DEEPEST };

	return dlopen(name, RTLD_LAZY | RTLD_LOCAL) || load(&w);
}
