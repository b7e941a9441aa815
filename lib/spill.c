#include "spill.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

enum { STEP = 16 << 20 }; /* of a file's size */

static size_t held; /* bytes of all arrays in memory */

/* What the file of a group says; "max" and no such file: no limit. */
static size_t limit_of(const char *hierarchy, const char *group, const char *file)
{
	char *name = eprintf_str("%s%s/%s", hierarchy, group, file);
	FILE *fp = fopen(name, "re");
	unsigned long long max = SIZE_MAX;

	free(name);
	if (fp) {
		if (fscanf(fp, "%llu", &max) != 1)
			max = SIZE_MAX;
		fclose(fp);
	}
	return max;
}

/* The least of a group and those around it, up to the root. */
static size_t least_of(const char *hierarchy, const char *group, const char *file)
{
	char *path = estrdup(group), *end = path + strlen(path);
	size_t max = SIZE_MAX;

	for (; end; end = strrchr(path, '/')) {
		*end = '\0';
		size_t one = limit_of(hierarchy, path, file);
		max = MIN(max, one);
	}
	free(path);
	return max;
}

size_t spill_group_limit(const char *self, const char *root)
{
	char *line = NULL, *version1 = eprintf_str("%s/memory", root);
	FILE *fp = fopen(self, "re");
	size_t cap = 0, max = SIZE_MAX;

	while (fp && getline(&line, &cap, fp) > 0) {
		char *group = line, *number = strsep(&group, ":"), *controllers = strsep(&group, ":");
		size_t one = SIZE_MAX;

		if (!controllers || !group)
			continue;
		group[strcspn(group, "\n")] = '\0';
		if (!strcmp(number, "0") && !*controllers)
			one = least_of(root, group, "memory.max");
		else if (!strcmp(controllers, "memory"))
			one = least_of(version1, group, "memory.limit_in_bytes");
		max = MIN(max, one);
	}
	free(line);
	free(version1);
	if (fp)
		fclose(fp);
	return max;
}

size_t spill_limit(void)
{
	size_t memory = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
	size_t group = spill_group_limit("/proc/self/cgroup", "/sys/fs/cgroup");
	struct rlimit data;

	memory = MIN(memory, group);
	if (!getrlimit(RLIMIT_DATA, &data) && data.rlim_cur != RLIM_INFINITY)
		memory = MIN(memory, data.rlim_cur);
	return memory / 2;
}

/* A file of this size that ends with the process, however that ends. */
static int nameless(const char *folder, size_t bytes, char err[ERRLEN])
{
	char *name = eprintf_str("%s/teddy.XXXXXX", folder);
	int fd = mkostemp(name, O_CLOEXEC);

	if (fd >= 0)
		unlink(name);
	free(name);
	if (fd < 0)
		return fail(err, "%s: no file for what is larger than memory:", folder);
	if ((errno = posix_fallocate(fd, 0, (off_t)bytes))) {
		fail(err, "%s: %zu bytes, for what is larger than memory:", folder, bytes);
		close(fd);
		return -1;
	}
	return fd;
}

static int to_file(struct spill *s, size_t bytes, char err[ERRLEN])
{
	const char *folder = getenv("TMPDIR");
	int fd = nameless(folder && *folder ? folder : "/var/tmp", bytes, err);
	void *p;

	if (fd < 0)
		return -1;
	if ((p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED) {
		fail(err, "%zu bytes mapped:", bytes);
		close(fd);
		return -1;
	}
	if (s->size)
		memcpy(p, s->p, s->size);
	free(s->p);
	held -= s->size;
	*s = (struct spill){ p, bytes, true, fd };
	return 0;
}

static int grow_file(struct spill *s, size_t bytes, char err[ERRLEN])
{
	void *p;

	if ((errno = posix_fallocate(s->fd, (off_t)s->size, (off_t)(bytes - s->size))))
		return fail(err, "%zu bytes, for what is larger than memory:", bytes);
	if ((p = mremap(s->p, s->size, bytes, MREMAP_MAYMOVE)) == MAP_FAILED)
		return fail(err, "%zu bytes mapped:", bytes);
	s->p = p;
	s->size = bytes;
	return 0;
}

int spill_grow(struct spill *s, size_t bytes, char err[ERRLEN])
{
	size_t room, others;

	if (bytes <= s->size)
		return 0;
	room = spill_limit();
	others = held - (s->mapped ? 0 : s->size);
	room = room > others ? room - others : 0;
	if (!s->mapped && bytes <= room) {
		size_t size = MIN(MAX(bytes, s->size + s->size / 2), room);

		s->p = erealloc(s->p, size, 1);
		s->size = size;
		held = others + size;
		return 0;
	}
	bytes = (bytes + STEP - 1) / STEP * STEP;
	return s->mapped ? grow_file(s, bytes, err) : to_file(s, bytes, err);
}

void spill_free(struct spill *s)
{
	if (s->mapped) {
		munmap(s->p, s->size);
		close(s->fd);
	} else {
		held -= s->size;
		free(s->p);
	}
	*s = (struct spill){ 0 };
}
