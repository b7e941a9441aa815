/* An array that outgrows its memory: in memory up to the limit, in a file from there, the same bytes all the way. */
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "../lib/spill.h"
#include "tap.h"

enum { MB = 1 << 20 };

static void fill(struct spill *s, size_t from, size_t to)
{
	for (size_t i = from; i < to; i++)
		((uint8_t *)s->p)[i] = (uint8_t)(i * 2654435761u >> 24);
}

static size_t wrong(const struct spill *s, size_t n)
{
	size_t bad = 0;

	for (size_t i = 0; i < n; i++)
		bad += ((uint8_t *)s->p)[i] != (uint8_t)(i * 2654435761u >> 24);
	return bad;
}

static void limit(int what, rlim_t soft)
{
	struct rlimit l;

	getrlimit(what, &l);
	l.rlim_cur = MIN(soft, l.rlim_max);
	setrlimit(what, &l);
}

static void test_limit(void)
{
	size_t all = spill_limit();

	limit(RLIMIT_DATA, 32 * MB);
	ok(spill_limit() == 16 * MB, "half of what ulimit -d allows");
	ok(all > 16 * MB, "without it, more");
}

static void put(const char *folder, const char *name, const char *text)
{
	char *path = eprintf_str("%s/%s", folder, name);
	FILE *fp = fopen(path, "w");

	if (!fp || fputs(text, fp) < 0 || fclose(fp))
		die("%s:", path);
	free(path);
}

static size_t of_groups(const char *folder, const char *lines)
{
	char *self = eprintf_str("%s/self", folder);

	put(folder, "self", lines);
	size_t limit = spill_group_limit(self, folder);
	free(self);
	return limit;
}

static void test_groups(void)
{
	const char *tmp = getenv("TMPDIR");
	char *dir = eprintf_str("%s/t_spill.XXXXXX", tmp && *tmp ? tmp : "/tmp"), *clear;

	if (!mkdtemp(dir))
		die("%s:", dir);
	for (const char *const *sub = (const char *const[]){ "job", "job/step", "memory", "memory/job", "memory/job/step", NULL };
	     *sub; sub++) {
		char *path = eprintf_str("%s/%s", dir, *sub);

		if (mkdir(path, 0700))
			die("%s:", path);
		free(path);
	}
	put(dir, "job/step/memory.max", "max\n");
	put(dir, "job/memory.max", "3000\n");
	put(dir, "memory/memory.limit_in_bytes", "9223372036854771712\n");
	put(dir, "memory/job/memory.limit_in_bytes", "2000\n");
	put(dir, "memory/job/step/memory.limit_in_bytes", "9223372036854771712\n");
	ok(of_groups(dir, "0::/job/step\n") == 3000, "version 2: the group around the one that the process is in");
	ok(of_groups(dir, "0::/\n") == SIZE_MAX && of_groups(dir, "0::/other\n") == SIZE_MAX, "no limit, no such group");
	ok(of_groups(dir, "4:memory:/job/step\n3:cpu:/job\n") == 2000, "version 1, likewise");
	ok(of_groups(dir, "4:memory:/job/step\n0::/job/step\n") == 2000 && of_groups(dir, "0::/job\n4:memory:/\n") == 3000,
	    "both: the lesser");
	ok(of_groups(dir, "4:cpu:/job\nmemory\n:\n") == SIZE_MAX, "other controllers, and lines of no meaning");
	put(dir, "job/step/memory.max", "1000\n");
	ok(of_groups(dir, "0::/job/step\n") == 1000, "the group's own");
	clear = eprintf_str("rm -r '%s'", dir);
	if (system(clear))
		die("%s", clear);
	free(clear);
	free(dir);
}

static void test_growth(void)
{
	struct spill s = { 0 };
	char err[ERRLEN] = "";
	void *before;

	ok(!spill_grow(&s, 1000, err) && !s.mapped && s.size >= 1000, "little: in memory");
	fill(&s, 0, 1000);
	ok(!spill_grow(&s, 10 * MB, err) && !s.mapped, "below the limit: in memory");
	fill(&s, 1000, 10 * MB);
	before = s.p;
	ok(!spill_grow(&s, 9 * MB, err) && s.p == before, "less than there is: nothing moves");
	ok(!spill_grow(&s, 17 * MB, err) && s.mapped && s.size >= 17 * MB, "above it: in a file");
	ok(!wrong(&s, 10 * MB), "what was in memory is in it");
	fill(&s, 10 * MB, 17 * MB);
	ok(!spill_grow(&s, 80 * MB, err) && s.size >= 80 * MB, "five times the limit: the file grows");
	fill(&s, 17 * MB, 80 * MB);
	ok(!wrong(&s, 80 * MB), "all is there");
	limit(RLIMIT_FSIZE, 100 * MB);
	ok(spill_grow(&s, 160 * MB, err) < 0 && !strcmp(err, "167772160 bytes, for what is larger than memory: File too large"),
	    "no room: an error (%s)", err);
	ok(!wrong(&s, 80 * MB), "and all is there still");
	limit(RLIMIT_FSIZE, RLIM_INFINITY);
	spill_free(&s);
	ok(!s.p && !s.size && !s.mapped, "freed, it is empty");
	ok(!spill_grow(&s, 40 * MB, err) && s.mapped, "a file from the start");
	spill_free(&s);
}

static void test_two(void)
{
	struct spill s = { 0 }, t = { 0 };
	char err[ERRLEN] = "";

	ok(!spill_grow(&s, 10 * MB, err) && !spill_grow(&t, 5 * MB, err) && !s.mapped && !t.mapped, "two below the limit");
	fill(&t, 0, 5 * MB);
	ok(!spill_grow(&t, 7 * MB, err) && t.mapped && !s.mapped && !wrong(&t, 5 * MB), "together above it: the one that grows");
	ok(!spill_grow(&s, 15 * MB, err) && !s.mapped, "which leaves its room to the other");
	spill_free(&s);
	spill_free(&t);
	ok(!spill_grow(&s, 15 * MB, err) && !s.mapped, "freed, it leaves its own");
	spill_free(&s);
}

static void test_folder(void)
{
	struct spill s = { 0 };
	char err[ERRLEN] = "";

	setenv("TMPDIR", "/nowhere", 1);
	ok(!spill_grow(&s, MB, err), "memory needs no folder");
	fill(&s, 0, MB);
	ok(spill_grow(&s, 40 * MB, err) < 0 && !strcmp(err, "/nowhere: no file for what is larger than memory: "
		"No such file or directory"), "no folder: an error (%s)", err);
	ok(!s.mapped && !wrong(&s, MB), "the array is as it was");
	spill_free(&s);
}

int main(void)
{
	progname = "t_spill";
	test_groups();
	test_limit();
	test_growth();
	test_two();
	test_folder();
	return tap_end();
}
