/* Recipes and soft labels: into frames and back, and frames that lie. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../formats/recipes.h"
#include "tap.h"

enum { N = 4, IMAGES = 9, H = 8, W = 6, K = 7 };

static struct val *make(enum mix_kind mix, int pad)
{
	struct rng r = rng_at(1, RNG_RECIPE, mix, pad, 0);
	int64_t index[N] = { 8, 0, 3, 3 }, partner[N];
	struct view view[N], swap[N];
	struct recipe rec = { N, index, view, partner, { 0 }, NULL };
	struct val *frame = val_map();

	mix_draw(&r, mix, 1, H, W, &rec.mix);
	rng_permute(&r, partner, N);
	if (mix == MIX_CUTMIX)
		rec.swap = swap;
	for (int i = 0; i < N; i++) {
		if (pad)
			view_draw_pad(&r, H, W, pad, &view[i]);
		else
			view_draw_rrc(&r, H, W, 0.08, 1, &view[i]);
		view[i].flip = i & 1;
		swap[i] = swap_view(i, H, W);
	}
	recipe_to_frame(frame, &rec);
	return frame;
}

/* Through the wire, back into a recipe, and into a frame again: equal. */
static void test_round_trip(void)
{
	char err[ERRLEN] = "";

	for (int pad = 0; pad < 5; pad += 4)
		for (int mix = MIX_NONE; mix <= MIX_MIXUP; mix++) {
			struct val *frame = make(mix, pad), *wire, *again = val_map();
			struct recipe r;
			struct buf b = { 0 };

			val_pack(&b, frame);
			wire = val_unpack(b.p, b.len, err);
			int good = wire && !recipe_from_frame(wire, IMAGES, H, W, &r, err);

			if (good) {
				recipe_to_frame(again, &r);
				good = r.mix.kind == (enum mix_kind)mix && r.view[0].zero == pad && val_equal(frame, again);
				recipe_free(&r);
			}
			ok(good, "round trip, mix %s, pad %d %s", mix_name[mix], pad, err);
			val_free(frame);
			val_free(wire);
			val_free(again);
			buf_free(&b);
		}
}

enum lie {
	L_INDEX, L_INDEX_NEGATIVE, L_PARTNER, L_TOP, L_LEFT, L_HEIGHT_0, L_WIDTH, L_FLIP, L_SWAP, L_SWAP_TYPE, L_PAD, L_MIX,
	L_LAMBDA, L_NAN, L_CUT, L_CUT_ORDER, L_CUT_LONG, L_NO_INDEX, L_NO_BOX, L_NO_PARTNER, L_NO_CUT, L_SHORT_FLIP, L_TYPE, L_EMPTY, L_COUNT
};

static void tell(struct val *f, enum lie lie)
{
	int64_t *index = val_get_tensor(f, "index")->data, *partner = val_get_tensor(f, "partner")->data;
	int32_t *box = val_get_tensor(f, "box")->data;
	uint8_t *flip = val_get_tensor(f, "flip")->data;
	struct val *cut = val_get(f, "cut");

	switch (lie) {
	case L_INDEX: index[2] = IMAGES; break;
	case L_INDEX_NEGATIVE: index[0] = -1; break;
	case L_PARTNER: partner[3] = N; break;
	case L_TOP: box[0] = H; break;
	case L_LEFT: box[4 + 1] = -1; break;
	case L_HEIGHT_0: box[4 + 2] = 0; break;
	case L_WIDTH: box[3] = INT32_MAX; break;
	case L_FLIP: flip[1] = 2; break;
	case L_SWAP: ((uint8_t *)val_get_tensor(f, "swap")->data)[2] = 4; break;
	case L_SWAP_TYPE: val_put(f, "swap", val_int(1)); break;
	case L_PAD: val_put(f, "pad", val_int(2)); break; /* boxes are no longer whole images */
	case L_MIX: val_put(f, "mix", val_str("mix")); break;
	case L_LAMBDA: val_put(f, "lambda", val_f64(1.01)); break;
	case L_NAN: val_put(f, "lambda", val_f64(NAN)); break;
	case L_CUT: cut->list.item[1]->i = H + 1; break;
	case L_CUT_ORDER: cut->list.item[2]->i = W, cut->list.item[3]->i = 0; break;
	case L_CUT_LONG: val_push(cut, val_int(0)); break;
	case L_NO_INDEX: val_drop(f, "index"); break;
	case L_NO_BOX: val_drop(f, "box"); break;
	case L_NO_PARTNER: val_drop(f, "partner"); break;
	case L_NO_CUT: val_drop(f, "cut"); break;
	case L_SHORT_FLIP: val_put(f, "flip", val_tensor(tensor_new(DT_U8, 1, (int64_t[]){ N - 1 }))); break;
	case L_TYPE: val_put(f, "partner", val_tensor(tensor_new(DT_F64, 1, (int64_t[]){ N }))); break;
	default: val_put(f, "index", val_tensor(tensor_new(DT_I64, 1, (int64_t[]){ 0 }))); break;
	}
}

static void test_lies(void)
{
	for (int lie = 0; lie < L_COUNT; lie++) {
		struct val *frame = make(MIX_CUTMIX, 0);
		char err[ERRLEN] = "";
		struct recipe r;
		int before = recipe_from_frame(frame, IMAGES, H, W, &r, err);

		recipe_free(&r);
		tell(frame, lie);
		int after = recipe_from_frame(frame, IMAGES, H, W, &r, err);

		ok(!before && after < 0 && *err && !r.index, "lie %d: %s", lie, err);
		if (after >= 0)
			recipe_free(&r);
		val_free(frame);
	}
}

static double share(const float *l, int c)
{
	double sum = 0;

	for (int j = 0; j < K; j++)
		sum += exp((double)l[j] - l[c]);
	return 1 / sum;
}

static void test_soft(void)
{
	struct rng r = rng_at(3, RNG_NOISE, 0, 0, 0);
	float logits[N * K], back[N * K];
	struct val *f = val_map();
	char err[ERRLEN] = "";
	double worst = 0;

	for (int i = 0; i < N * K; i++)
		logits[i] = (float)(4 * rng_normal(&r));
	for (int j = 0; j < K; j++)
		logits[K + j] = 2.5f; /* all alike */

	ok(soft_from_frame(f, N, K, back, err) == 0, "no soft labels");
	soft_to_frame(f, logits, N, K, SOFT_F16, 0);
	ok(soft_from_frame(f, N, K, back, err) == 1, "f16 %s", err);
	for (int i = 0; i < N * K; i++)
		worst = fmax(worst, fabs(back[i] - logits[i]) / fabs(logits[i]));
	ok(worst < 1.0 / 2048, "f16: within half a unit of its last place (%.1e)", worst);

	soft_to_frame(f, logits, N, K, SOFT_U8, 0);
	ok(!val_get(f, "soft.f16") && soft_from_frame(f, N, K, back, err) == 1, "u8 in f16's place %s", err);
	worst = 0;
	for (int i = 0; i < N; i++) {
		float lo = INFINITY, hi = -INFINITY;

		for (int j = 0; j < K; j++)
			lo = fminf(lo, logits[i * K + j]), hi = fmaxf(hi, logits[i * K + j]);
		for (int j = 0; j < K; j++)
			worst = fmax(worst, fabs(back[i * K + j] - logits[i * K + j]) - (hi - lo) / 510.0);
	}
	ok(worst < 1e-5, "u8: within half a step (%.1e over it)", worst);

	for (int top = 1; top <= K; top += 3) { /* 1, 4, 7 */
		soft_to_frame(f, logits, N, K, SOFT_TOPK, top);
		int got = soft_from_frame(f, N, K, back, err);
		int32_t *index = val_get_tensor(f, "soft.index")->data;

		worst = 0;
		for (int i = 0; i < N && got == 1; i++)
			for (int t = 0; t < top; t++) {
				int c = index[i * top + t];

				worst = fmax(worst, fabs(share(back + i * K, c) - share(logits + i * K, c)));
			}
		ok(got == 1 && worst < 2e-3, "top %d of %d: their probabilities stay (%.1e)", top, K, worst);
	}

	soft_to_frame(f, logits, N, K, SOFT_TOPK, 2);
	ok(soft_from_frame(f, N, 1, back, err) < 0, "more in the top than classes: %s", err);
	((int32_t *)val_get_tensor(f, "soft.index")->data)[5] = K;
	ok(soft_from_frame(f, N, K, back, err) < 0, "no such class: %s", err);
	soft_to_frame(f, logits, N, K, SOFT_F16, 0);
	ok(soft_from_frame(f, N + 1, K, back, err) < 0, "too few: %s", err);
	((uint16_t *)val_get_tensor(f, "soft.f16")->data)[9] = 0x7e00;
	ok(soft_from_frame(f, N, K, back, err) < 0, "NaN: %s", err);
	val_free(f);
}

/* A whole stream of two images frames and two epochs of two batches; skip and swap spoil it, batch is the header's. */
static struct buf stream(int skip, int swap, int more, int batch)
{
	static const char *const classes[] = { "a", "b" };
	struct val *h = header_new("recipes"), *plan = val_map();
	struct norm norm = { 1, { 0.5f }, { 0.25f } };
	struct ts_writer w;
	struct buf b = { 0 };

	val_put(plan, "epochs", val_int(2));
	val_put(plan, "batches", val_int(2));
	val_put(plan, "batch", val_int(batch));
	val_put(h, "recipes", plan);
	header_set_classes(h, classes, 2);
	header_set_norm(h, &norm);
	header_set_shape(h, (int[]){ 1, H, W });
	if (ts_create_mem(&w, &b, h) < 0)
		die("%s", w.err);
	for (int i = 0; i < 2; i++) {
		struct val *f = val_map();

		val_put(f, "images.u8", val_tensor(tensor_new(DT_U8, 4, (int64_t[]){ i ? 4 : 5, 1, H, W })));
		val_put(f, "labels", val_tensor(tensor_new(DT_I64, 1, (int64_t[]){ i ? 4 : 5 })));
		if (ts_put(&w, f) < 0)
			die("%s", w.err);
		val_free(f);
	}
	for (int i = 0; i < 4 + more; i++) {
		struct val *f = make(MIX_CUTMIX, 0);
		int at = swap && (i == 1 || i == 2) ? 3 - i : i;

		val_put(f, "epoch", val_int(at / 2));
		val_put(f, "batch", val_int(at % 2));
		if (i != skip && ts_put(&w, f) < 0)
			die("%s", w.err);
		val_free(f);
	}
	if (ts_finish(&w) < 0)
		die("%s", w.err);
	val_free(h);
	return b;
}

/* Batches read when all is well, -1 with err otherwise. */
static int read_all(int fd, const void *p, size_t n, char err[ERRLEN])
{
	char path[64];
	struct recipe_stream s;
	struct recipe r;
	struct val *frame;
	int got, count = 0;

	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	if (ftruncate(fd, n) < 0 || pwrite(fd, p, n, 0) != (ssize_t)n)
		die("%s:", path);
	if (recipe_stream_open(&s, path, true) < 0) {
		snprintf(err, ERRLEN, "%s", s.r.err);
		return -1;
	}
	while ((got = recipe_stream_next(&s, &frame, &r)) > 0) {
		count++;
		val_free(frame);
		recipe_free(&r);
	}
	snprintf(err, ERRLEN, "%s", s.r.err);
	if (s.set.n != IMAGES || s.nimage_frames != 2)
		got = -1;
	recipe_stream_close(&s);
	return got < 0 ? -1 : count;
}

static void test_stream(void)
{
	int fd = memfd_create("recipes", MFD_CLOEXEC); /* thousands of files: not on a disk */
	char err[ERRLEN] = "";
	struct buf b = stream(-1, 0, 0, N);
	size_t whole = 0, flipped = 0;

	if (fd < 0)
		die("memfd_create:");

	ok(read_all(fd, b.p, b.len, err) == 4, "a whole stream has 4 batches %s", err);
	for (size_t n = 0; n < b.len; n++)
		whole += read_all(fd, b.p, n, err) >= 0;
	ok(!whole && b.len > 2000, "cut at each of %zu bytes it is refused", b.len);
	for (size_t i = 0; i < b.len; i++) {
		b.p[i] ^= 1 << i % 8;
		flipped += read_all(fd, b.p, b.len, err) >= 0;
		b.p[i] ^= 1 << i % 8;
	}
	ok(!flipped, "with a bit flipped in any byte it is refused");
	buf_free(&b);

	static const struct { const char *what; int skip, swap, more, batch; } bad[] = {
		{ "last batch missing", 3, 0, 0, N }, { "a batch missing", 1, 0, 0, N }, { "out of order", -1, 1, 0, N },
		{ "one too many", -1, 0, 1, N }, { "larger than a batch", -1, 0, 0, N - 1 },
		{ "batches larger than the set", -1, 0, 0, IMAGES + 1 }
	};

	for (size_t i = 0; i < LEN(bad); i++) {
		b = stream(bad[i].skip, bad[i].swap, bad[i].more, bad[i].batch);
		*err = 0;
		ok(read_all(fd, b.p, b.len, err) < 0 && *err, "%s: %s", bad[i].what, err);
		buf_free(&b);
	}
	close(fd);
}

int main(void)
{
	progname = "t_recipes";
	test_round_trip();
	test_lies();
	test_soft();
	test_stream();
	return tap_end();
}
