/* kernels/step.cu: what a graph reads and writes at its own count. Prints TAP. */
#include <math.h>
#include <string.h>

#include "../kernels/gpu.h"
#include "gpu_mem.h"
#include "tap.h"

/* Records of `words` words, the one that *at says. */
static void test_take(int words)
{
	enum { RECORDS = 3 };
	size_t bytes = words * sizeof(uint32_t);
	uint32_t *from = emalloc(RECORDS * bytes), *got = emalloc(bytes);

	for (int i = 0; i < RECORDS * words; i++)
		from[i] = 7 + 3 * (uint32_t)i;
	uint32_t *records = on_device(from, RECORDS * bytes), *to = on_device(NULL, bytes);
	for (int at = RECORDS - 1; at >= 0; at--) {
		int *where = on_device(&at, sizeof at);
		gpu_take(0, to, records, bytes, where);
		from_device(got, to, bytes);
		ok(!memcmp(got, from + (size_t)at * words, bytes), "record %d of %d words", at, words);
		cudaFree(where);
	}
	cudaFree(records), cudaFree(to);
	free(from), free(got);
}

/* Parts that are told apart by their sum: each counts once. */
static void test_note(int parts)
{
	double *part = ecalloc(parts + 1, sizeof *part), want = 0, ce = 1.5, got[6] = { 0 };
	int zero = 0, one = 1, at;

	for (int i = 0; i < parts; i++)
		want += part[i] = 1 + 0.25 * i;
	double *parts_at = on_device(part, (parts + 1) * sizeof *part), *loss = on_device(got, sizeof got);
	double *ce_at = on_device(&ce, sizeof ce);
	int *count = on_device(&zero, sizeof zero), *good = on_device(&zero, sizeof zero), *bad = on_device(&one, sizeof one);
	gpu_forget_launches();
	gpu_note(0, loss, count, ce_at, parts_at, parts, 0.5, good);
	gpu_note(0, loss, count, ce_at, parts_at, parts, 2, bad);
	gpu_note(0, loss, count, ce_at, parts_at, parts, 4, bad);
	from_device(got, loss, sizeof got);
	from_device(&at, count, sizeof at);
	ok(got[0] == ce && fabs(got[1] - 0.5 * want) <= 1e-12 * want, "%d parts: %g, %g", parts, got[0], got[1]);
	ok(at == 1 && got[2] == ce && fabs(got[3] - 2 * want) <= 1e-12 * want, "%d parts: where it first was bad it stays", parts);
	ok(got[4] == 0 && got[5] == 0, "%d parts: nothing beyond", parts);
	ok(gpu_launches("note") == 3 && gpu_launches(NULL) == 3, "%d parts: what was launched", parts);
	void *all[] = { parts_at, loss, ce_at, count, good, bad };
	for (size_t i = 0; i < LEN(all); i++)
		cudaFree(all[i]);
	free(part);
}

int main(void)
{
	static const int words[] = { 1, 77, 100003 }, parts[] = { 0, 1, 20, 128, 1000 };

	progname = "t_gpu_step";
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (size_t i = 0; i < LEN(words); i++)
		test_take(words[i]);
	for (size_t i = 0; i < LEN(parts); i++)
		test_note(parts[i]);
	return tap_end();
}
