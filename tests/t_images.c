/* Decoders and sources against spoilt input: whatever the bytes, a result or one line of error, and nothing leaks.
 * usage: t_images [FLIPS] (TAP on standard output) */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <archive.h>
#include <archive_entry.h>
#include <jpeglib.h>

#include "../formats/images.h"
#include "../lib/rng.h"
#include "tap.h"

/* (3,h,w) with something in every place */
static struct picture pattern(int c, int h, int w)
{
	struct picture p = { c, h, w, emalloc((size_t)c * h * w) };

	for (int i = 0; i < c * h * w; i++)
		p.px[i] = (i * 7 + i / w * 13 + i / (h * w) * 90) % 251;
	return p;
}

static struct buf make_jpeg(const struct picture *p, int quality, int progressive)
{
	struct jpeg_compress_struct c;
	struct jpeg_error_mgr mgr;
	unsigned char *mem = NULL;
	unsigned long len = 0;
	struct buf out = { 0 };
	uint8_t row[3 * 64];

	c.err = jpeg_std_error(&mgr);
	jpeg_create_compress(&c);
	jpeg_mem_dest(&c, &mem, &len);
	c.image_width = p->w;
	c.image_height = p->h;
	c.input_components = p->c;
	c.in_color_space = p->c == 1 ? JCS_GRAYSCALE : JCS_RGB;
	jpeg_set_defaults(&c);
	jpeg_set_quality(&c, quality, TRUE);
	if (progressive)
		jpeg_simple_progression(&c);
	jpeg_start_compress(&c, TRUE);
	for (int y = 0; y < p->h; y++) {
		JSAMPROW rows[1] = { row };

		for (int i = 0; i < p->w * p->c; i++)
			row[i] = p->px[(i % p->c * p->h + y) * p->w + i / p->c];
		jpeg_write_scanlines(&c, rows, 1);
	}
	jpeg_finish_compress(&c);
	jpeg_destroy_compress(&c);
	buf_put(&out, mem, len);
	free(mem);
	return out;
}

static struct buf make_png(const struct picture *p)
{
	struct buf out = { 0 };
	char err[ERRLEN];

	if (picture_encode_png(p, &out, err))
		die("%s", err);
	return out;
}

/* 1: decoded, 0: refused with a message, -1: refused without one */
static int try_picture(const uint8_t *p, size_t n)
{
	uint8_t *exact = emalloc(n + !n); /* its end is the allocation's, where the sanitizer watches */
	char err[ERRLEN] = "";
	struct picture pic;
	int r;

	memcpy(exact, p, n);
	r = picture_decode(exact, n, &pic, err);
	free(exact);
	if (!r)
		free(pic.px);
	return !r ? 1 : err[0] ? 0 : -1;
}

static void spoil_picture(const char *name, struct buf b, int flips, uint32_t place)
{
	struct rng rng = rng_at(1, RNG_SUBSET, place, 0, 0);
	int through = 0, silent = 0;

	ok(try_picture(b.p, b.len) == 1, "%s: whole", name);
	for (size_t n = 0; n < b.len; n++) {
		int r = try_picture(b.p, n);

		through += r == 1;
		silent += r < 0;
	}
	ok(!through && !silent, "%s: refused when cut at any of %zu bytes", name, b.len);
	for (int i = 0; i < flips; i++) {
		uint32_t bit = rng_below(&rng, b.len * 8);

		b.p[bit / 8] ^= 1 << bit % 8;
		silent += try_picture(b.p, b.len) < 0;
		b.p[bit / 8] ^= 1 << bit % 8;
	}
	ok(!silent, "%s: %d flipped bits, each decoded or refused in words", name, flips);
	buf_free(&b);
}

static void write_file(const char *path, const void *p, size_t n)
{
	FILE *fp = fopen(path, "w");

	if (!fp || fwrite(p, 1, n, fp) != n || fclose(fp))
		die("%s:", path);
}

/* The source at path, every image of it: their number, 0: refused with a message, -1: refused without one */
static int try_source(char *path)
{
	struct source s;
	int n = 0;

	if (source_open(&s, &path, 1))
		return s.err[0] ? 0 : -1;
	for (int64_t i = 0; i < s.count; i++) {
		struct source_item it;
		struct picture pic;
		char err[ERRLEN] = "";
		int bad = source_get(&s, i, &it);

		if (bad || it.label < 0 || it.label >= s.nclass) {
			n = bad && s.err[0] ? 0 : -1;
			source_close(&s);
			return n;
		}
		if (it.encoded && !picture_decode(it.data.p, it.data.len, &pic, err))
			free(pic.px);
		buf_free(&it.data);
		free(it.pic.px);
		n++;
		if (err[0]) {
			source_close(&s);
			return 0;
		}
	}
	source_close(&s);
	return n;
}

static void spoil_source(const char *name, char *path, struct buf b, int images, int flips, uint32_t place)
{
	struct rng rng = rng_at(1, RNG_SUBSET, place, 1, 0);
	int through = 0, silent = 0;

	write_file(path, b.p, b.len);
	ok(try_source(path) == images, "%s: whole, %d images", name, images);
	for (size_t n = 0; n < b.len; n++) {
		int r;

		if (n > 3000 && n % 512 && n % 512 != 511 && n % 61) /* a tar is mostly zeros */
			continue;
		write_file(path, b.p, n);
		r = try_source(path);
		through += r > 0;
		silent += r < 0;
	}
	ok(!through && !silent, "%s: refused when cut", name);
	for (int i = 0; i < flips; i++) {
		uint32_t bit = rng_below(&rng, b.len * 8);

		b.p[bit / 8] ^= 1 << bit % 8;
		write_file(path, b.p, b.len);
		silent += try_source(path) < 0;
		b.p[bit / 8] ^= 1 << bit % 8;
	}
	ok(!silent, "%s: %d flipped bits, each read or refused in words", name, flips);
	unlink(path);
	buf_free(&b);
}

static void add(struct archive *a, const char *name, const void *p, size_t n)
{
	struct archive_entry *e = archive_entry_new();

	archive_entry_set_pathname(e, name);
	archive_entry_set_filetype(e, AE_IFREG);
	archive_entry_set_perm(e, 0644);
	archive_entry_set_size(e, n);
	if (archive_write_header(a, e) != ARCHIVE_OK || archive_write_data(a, p, n) != (ssize_t)n)
		die("%s", archive_error_string(a));
	archive_entry_free(e);
}

/* Three images as CLASS/FILE, out of order, or as a WebDataset; filter may be NULL. */
static struct buf make_tar(int webdataset, const char *filter)
{
	struct archive *a = archive_write_new();
	size_t cap = 1 << 20, used = 0;
	struct buf out = { 0 }, png;
	struct picture p = pattern(3, 8, 8);
	uint8_t *mem = emalloc(cap);

	png = make_png(&p);
	archive_write_set_format_ustar(a);
	if (filter && archive_write_add_filter_by_name(a, filter) != ARCHIVE_OK)
		die("%s", archive_error_string(a));
	archive_write_set_bytes_per_block(a, 512);
	archive_write_open_memory(a, mem, cap, &used);
	if (webdataset)
		add(a, "classes.txt", "cat\ndog\n", 8);
	for (int i = 0; i < 3; i++) {
		static const char *const name[2][3] = { { "dog/b.png", "cat/a.png", "dog/a.png" },
							{ "00.png", "01.png", "02.png" } };
		static const char *const label[] = { "00.cls", "01.cls", "02.cls" };

		add(a, name[webdataset][i], png.p, png.len);
		if (webdataset)
			add(a, label[i], i == 1 ? "0" : "1", 1);
	}
	if (archive_write_close(a) != ARCHIVE_OK)
		die("%s", archive_error_string(a));
	archive_write_free(a);
	buf_put(&out, mem, used);
	free(mem);
	free(p.px);
	buf_free(&png);
	return out;
}

static struct buf make_idx(void)
{
	static const uint8_t head[16] = { 0, 0, 8, 3, 0, 0, 0, 5, 0, 0, 0, 4, 0, 0, 0, 6 };
	struct picture p = pattern(5, 4, 6);
	struct buf b = { 0 };

	buf_put(&b, head, sizeof head);
	buf_put(&b, p.px, 5 * 4 * 6);
	free(p.px);
	return b;
}

/* Cut at a record's end a CIFAR file is a smaller CIFAR file, so that one record shows all. */
static struct buf make_cifar(void)
{
	struct picture p = pattern(3, 32, 32);
	struct buf b = { 0 };

	buf_put(&b, "\3", 1);
	buf_put(&b, p.px, 3072);
	free(p.px);
	return b;
}

/* A PNG of one size that claims another: the chunk's sum is right, only the bytes to fill it are not there. */
static void check_claims(void)
{
	static const uint8_t png[] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x80\0\0\0\x20\0\x08\2\0\0\0";
	struct picture p = pattern(1, 16, 16);
	struct buf b = make_jpeg(&p, 90, 0);

	for (size_t i = 0; i + 9 < b.len; i++)
		if (b.p[i] == 0xff && b.p[i + 1] == 0xc0) {
			b.p[i + 5] = b.p[i + 7] = 0x3f;
			break;
		}
	ok(try_picture(b.p, b.len) == 0, "a small JPEG that claims 16000 pixels a side is refused");
	ok(try_picture(png, sizeof png - 1) == 0, "a PNG header alone is refused");
	buf_free(&b);
	free(p.px);
}

static void check_lossless(void)
{
	int same = 1;

	for (int c = 1; c <= 3; c += 2)
		for (int w = 1; w < 20; w += 3) {
			struct picture p = pattern(c, 9, w), q;
			struct buf b = make_png(&p);
			char err[ERRLEN];

			if (picture_decode(b.p, b.len, &q, err))
				die("%s", err);
			same &= q.c == c && q.h == 9 && q.w == w && !memcmp(p.px, q.px, (size_t)c * 9 * w);
			buf_free(&b);
			free(p.px);
			free(q.px);
		}
	ok(same, "PNG gives the same pixels back, grey and colour");
}

int main(int argc, char **argv)
{
	int flips = argc > 1 ? (int)eint("FLIPS", argv[1], 1, 1000000) : 3000;
	struct picture rgb = pattern(3, 19, 23), grey = pattern(1, 16, 16);
	char dir[] = "/tmp/t_images.XXXXXX";

	progname = "t_images";
	spoil_picture("JPEG", make_jpeg(&rgb, 80, 0), flips, 0);
	spoil_picture("progressive JPEG", make_jpeg(&rgb, 80, 1), flips, 1);
	spoil_picture("grey JPEG", make_jpeg(&grey, 95, 0), flips, 2);
	spoil_picture("PNG", make_png(&rgb), flips, 3);
	spoil_picture("grey PNG", make_png(&grey), flips, 4);
	check_claims();
	check_lossless();
	if (!mkdtemp(dir) || chdir(dir))
		die("%s:", dir);
	write_file("labels-idx1-ubyte", "\0\0\10\1\0\0\0\5\0\1\2\3\4", 13);
	spoil_source("IDX", "images-idx3-ubyte", make_idx(), 5, flips, 5);
	unlink("labels-idx1-ubyte");
	spoil_source("CIFAR", "data_batch_1.bin", make_cifar(), 1, flips, 6);
	spoil_source("tar", "a.tar", make_tar(0, NULL), 3, flips, 7);
	spoil_source("tar.gz", "a.tar.gz", make_tar(0, "gzip"), 3, flips, 8);
	spoil_source("tar.zst", "a.tar.zst", make_tar(0, "zstd"), 3, flips, 9);
	spoil_source("WebDataset", "w.tar", make_tar(1, NULL), 3, flips, 10);
	if (chdir("/") || rmdir(dir))
		die("%s:", dir);
	free(rgb.px);
	free(grey.px);
	return tap_end();
}
