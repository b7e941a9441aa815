#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>
#include <png.h>

#include "images.h"

enum { MAX_SIDE = 65536, MAX_PIXELS = 1 << 28 };

static int check_size(uint64_t w, uint64_t h, char *err)
{
	if (!w || !h || w > MAX_SIDE || h > MAX_SIDE || w * h > MAX_PIXELS)
		return fail(err, "%llux%llu pixels: too large or empty", (unsigned long long)w, (unsigned long long)h);
	return 0;
}

struct jpeg_trap {
	struct jpeg_error_mgr mgr;
	jmp_buf jump;
	char *err;
	bool scanning; /* pixels are being read: what is odd now is odd about them */
};

static void jpeg_fail(j_common_ptr c)
{
	struct jpeg_trap *t = (struct jpeg_trap *)c->err;
	char text[JMSG_LENGTH_MAX];

	c->err->format_message(c, text);
	fail(t->err, "JPEG: %s", text);
	longjmp(t->jump, 1);
}

/* libjpeg warns where it goes on with made-up pixels; nobody wants those in a data set. Odd metadata is harmless, and so
 * are bytes of no meaning before the pixels or behind them, as in some files of ImageNet. */
static void jpeg_message(j_common_ptr c, int level)
{
	if (level >= 0)
		return;
	switch (c->err->msg_code) {
	case JWRN_ADOBE_XFORM:
	case JWRN_JFIF_MAJOR:
	case JWRN_NOT_SEQUENTIAL: /* of a baseline scan, which takes all coefficients whatever it says */
		return;
	case JWRN_EXTRANEOUS_DATA:
		if (!((struct jpeg_trap *)c->err)->scanning)
			return;
	}
	jpeg_fail(c);
}

static void cmyk_to_rgb(uint8_t *px, int n, int inverted)
{
	for (int i = 0; i < n; i++) {
		int k = inverted ? px[4 * i + 3] : 255 - px[4 * i + 3];

		for (int j = 0; j < 3; j++) {
			int ink = inverted ? 255 - px[4 * i + j] : px[4 * i + j];

			px[3 * i + j] = k - (ink * k + 127) / 255;
		}
	}
}

/* One interleaved row (w,c) into row y of the planes. */
static void put_row(struct picture *p, int y, const uint8_t *row)
{
	size_t plane = (size_t)p->h * p->w;

	for (int k = 0; k < p->c; k++)
		for (int x = 0; x < p->w; x++)
			p->px[k * plane + (size_t)y * p->w + x] = row[(size_t)x * p->c + k];
}

/* The same where a pixel is four bytes, red first and the last of no meaning: shifts of whole words are vector code. */
static void put_words(struct picture *p, int y, const uint8_t *row)
{
	size_t plane = (size_t)p->h * p->w;
	uint8_t *restrict r = p->px + (size_t)y * p->w, *restrict g = r + plane, *restrict b = g + plane;

#pragma omp simd
	for (int x = 0; x < p->w; x++) {
		uint32_t v;

		memcpy(&v, row + 4 * (size_t)x, 4);
		r[x] = v;
		g[x] = v >> 8;
		b[x] = v >> 16;
	}
}

enum { ROWS = 16 }; /* as many as libjpeg has ready at a time */

/* Where the library and the machine allow it, four bytes a pixel. */
static bool word_pixels(struct jpeg_decompress_struct *c)
{
#if defined JCS_EXTENSIONS && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	if (c->out_color_space == JCS_RGB)
		c->out_color_space = JCS_EXT_RGBX;
	return c->out_color_space == JCS_EXT_RGBX;
#else
	(void)c;
	return false;
#endif
}

static int decode_jpeg(const void *data, size_t n, struct picture *out, char *err)
{
	struct jpeg_decompress_struct c;
	struct jpeg_trap trap = { .err = err };
	uint8_t *volatile block = NULL; /* ROWS rows, 4 bytes a pixel */
	JSAMPROW rows[ROWS];
	size_t stride;
	bool words;

	memset(&c, 0, sizeof c);
	c.err = jpeg_std_error(&trap.mgr);
	trap.mgr.error_exit = jpeg_fail;
	trap.mgr.emit_message = jpeg_message;
	if (setjmp(trap.jump)) {
		jpeg_destroy_decompress(&c);
		free(block);
		free(out->px);
		*out = (struct picture){ 0 };
		return -1;
	}
	jpeg_create_decompress(&c);
	jpeg_mem_src(&c, data, n);
	jpeg_read_header(&c, TRUE);
	/* A block of 64 pixels takes a bit at least, so more pixels than this a byte are a lie about the size. */
	if (check_size(c.image_width, c.image_height, err) ||
	    ((uint64_t)c.image_width * c.image_height > 1 << 20 && (uint64_t)c.image_width * c.image_height / 2048 > n &&
	     fail(err, "JPEG: %zu bytes cannot hold %ux%u pixels", n, c.image_width, c.image_height)))
		longjmp(trap.jump, 1);
	c.out_color_space = c.num_components == 1 ? JCS_GRAYSCALE : c.num_components == 4 ? JCS_CMYK : JCS_RGB;
	words = word_pixels(&c);
	trap.scanning = true;
	jpeg_start_decompress(&c);
	*out = (struct picture){ c.num_components == 1 ? 1 : 3, c.output_height, c.output_width, NULL };
	/* Rows lie off 32 bytes: to aligned ones libjpeg-turbo stores past the cache, from which they are read at once. */
	stride = ((size_t)out->w * 4 + 31) / 32 * 32;
	block = ealigned(stride * ROWS + 16, 1);
	out->px = emalloc((size_t)out->c * out->h * out->w);
	for (int i = 0; i < ROWS; i++)
		rows[i] = block + 16 + i * stride;
	for (int y = 0; y < out->h;) {
		int got = jpeg_read_scanlines(&c, rows, MIN(ROWS, out->h - y));

		for (int i = 0; i < got; i++, y++) {
			if (c.num_components == 4)
				cmyk_to_rgb(rows[i], out->w, c.saw_Adobe_marker);
			(words ? put_words : put_row)(out, y, rows[i]);
		}
	}
	trap.scanning = false;
	jpeg_finish_decompress(&c);
	jpeg_destroy_decompress(&c);
	free(block);
	return 0;
}

struct png_source {
	const uint8_t *p;
	size_t left;
	char *err;
};

static void png_failed(png_structp png, png_const_charp text)
{
	fail(((struct png_source *)png_get_error_ptr(png))->err, "PNG: %s", text);
	png_longjmp(png, 1);
}

/* What libpng merely warns of is metadata: a missing or spoilt pixel is an error to it. */
static void png_silent(png_structp png, png_const_charp text)
{
	(void)png, (void)text;
}

static void png_take(png_structp png, png_bytep to, size_t n)
{
	struct png_source *s = png_get_io_ptr(png);

	if (n > s->left)
		png_error(png, "cut short");
	memcpy(to, s->p, n);
	s->p += n;
	s->left -= n;
}

static int decode_png(const void *data, size_t n, struct picture *out, char *err)
{
	struct png_source src = { data, n, err };
	png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &src, png_failed, png_silent);
	png_infop info = png ? png_create_info_struct(png) : NULL;
	uint8_t *volatile all = NULL;
	png_bytep *volatile rows = NULL;

	if (!info) {
		png_destroy_read_struct(&png, NULL, NULL);
		return fail(err, "PNG: out of memory");
	}
	if (setjmp(png_jmpbuf(png))) {
		png_destroy_read_struct(&png, &info, NULL);
		free(all);
		free(rows);
		free(out->px);
		*out = (struct picture){ 0 };
		return -1;
	}
	png_set_read_fn(png, &src, png_take);
	png_set_user_limits(png, MAX_SIDE, MAX_SIDE);
	png_read_info(png, info);
	uint64_t w = png_get_image_width(png, info), h = png_get_image_height(png, info);

	/* deflate shrinks by 1032 at most */
	if (check_size(w, h, err) || ((uint64_t)png_get_rowbytes(png, info) * h / 1032 > n &&
				      fail(err, "PNG: %zu bytes cannot hold %dx%d pixels", n, (int)w, (int)h)))
		png_longjmp(png, 1);
	if (png_get_color_type(png, info) == PNG_COLOR_TYPE_PALETTE)
		png_set_palette_to_rgb(png);
	else if (png_get_bit_depth(png, info) < 8)
		png_set_expand_gray_1_2_4_to_8(png);
	png_set_strip_16(png);
	png_set_strip_alpha(png);
	png_set_interlace_handling(png);
	png_read_update_info(png, info);
	*out = (struct picture){ png_get_channels(png, info), h, w, NULL };
	if (png_get_rowbytes(png, info) != (size_t)out->c * w)
		png_error(png, "unexpected row size");
	all = emalloc(h * out->c * w);
	rows = ecalloc(h, sizeof *rows);
	for (uint64_t y = 0; y < h; y++)
		rows[y] = all + y * out->c * w;
	png_read_image(png, rows);
	png_read_end(png, NULL);
	out->px = emalloc(h * out->c * w);
	for (uint64_t y = 0; y < h; y++)
		put_row(out, y, rows[y]);
	png_destroy_read_struct(&png, &info, NULL);
	free(all);
	free(rows);
	return 0;
}

int picture_decode(const void *p, size_t n, struct picture *out, char err[ERRLEN])
{
	*out = (struct picture){ 0 };
	if (n >= 3 && !memcmp(p, "\xff\xd8\xff", 3))
		return decode_jpeg(p, n, out, err);
	if (n >= 8 && !memcmp(p, "\x89PNG\r\n\x1a\n", 8))
		return decode_png(p, n, out, err);
	return fail(err, n ? "neither a JPEG nor a PNG file" : "empty file");
}

static void png_give(png_structp png, png_bytep p, size_t n)
{
	buf_put(png_get_io_ptr(png), p, n);
}

int picture_encode_png(const struct picture *pic, struct buf *out, char err[ERRLEN])
{
	struct png_source src = { .err = err };
	png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &src, png_failed, png_silent);
	png_infop info = png ? png_create_info_struct(png) : NULL;
	uint8_t *volatile row = NULL;
	size_t plane = (size_t)pic->h * pic->w;

	if (!info) {
		png_destroy_write_struct(&png, NULL);
		return fail(err, "PNG: out of memory");
	}
	if (setjmp(png_jmpbuf(png))) {
		png_destroy_write_struct(&png, &info);
		free(row);
		return -1;
	}
	png_set_write_fn(png, out, png_give, NULL);
	png_set_IHDR(png, info, pic->w, pic->h, 8, pic->c == 1 ? PNG_COLOR_TYPE_GRAY : PNG_COLOR_TYPE_RGB,
		     PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
	png_write_info(png, info);
	row = emalloc((size_t)pic->w * pic->c);
	for (int y = 0; y < pic->h; y++) {
		for (int k = 0; k < pic->c; k++)
			for (int x = 0; x < pic->w; x++)
				row[(size_t)x * pic->c + k] = pic->px[k * plane + (size_t)y * pic->w + x];
		png_write_row(png, row);
	}
	png_write_end(png, NULL);
	png_destroy_write_struct(&png, &info);
	free(row);
	return 0;
}

static void to_channels(struct picture *pic, int c)
{
	size_t plane = (size_t)pic->h * pic->w;
	uint8_t *out;

	if (pic->c == c)
		return;
	out = emalloc(plane * c);
	if (c == 1) {
		const uint8_t *r = pic->px, *g = r + plane, *b = g + plane;

		for (size_t i = 0; i < plane; i++) /* 0.299, 0.587, 0.114 in 16 bits */
			out[i] = (19595 * r[i] + 38470 * g[i] + 7471 * b[i] + 32768) >> 16;
	} else {
		for (int k = 0; k < c; k++)
			memcpy(out + k * plane, pic->px, plane);
	}
	free(pic->px);
	pic->px = out;
	pic->c = c;
}

/* Triangle filter of an axis from n to m samples, widened when it shrinks; weights are fixed-point with 22 bits and
 * each pass rounds to 8 bits, which is what Pillow does, so that both give the same pixels. */
enum { WEIGHT_BITS = 22 };

struct taps {
	int first, n;
	int32_t *weight;
};

static struct taps *make_taps(int n, int m)
{
	double scale = (double)n / m, reach = scale > 1 ? scale : 1;
	int most = (int)ceil(reach) * 2 + 1;
	struct taps *t = emalloc(m * sizeof *t);
	int32_t *weight = ecalloc((size_t)m * most, sizeof *weight);
	double *f = emalloc(most * sizeof *f);

	for (int i = 0; i < m; i++) {
		double centre = (i + 0.5) * scale, sum = 0;
		int lo = MAX(0, (int)(centre - reach + 0.5)), hi = MIN(n, (int)(centre + reach + 0.5));

		for (int j = lo; j < hi; j++) {
			double d = fabs((j - centre + 0.5) * (1 / reach));

			f[j - lo] = d < 1 ? 1 - d : 0;
			sum += f[j - lo];
		}
		t[i] = (struct taps){ lo, hi - lo, weight + (size_t)i * most };
		for (int j = 0; j < hi - lo; j++)
			t[i].weight[j] = (int32_t)(0.5 + f[j] * (1 / sum) * (1 << WEIGHT_BITS));
	}
	free(f);
	return t;
}

static void free_taps(struct taps *t)
{
	free(t[0].weight);
	free(t);
}

/* Output sample i of an axis whose samples lie step apart. */
static uint8_t filter(const uint8_t *in, size_t step, const struct taps *t)
{
	int64_t sum = 1 << (WEIGHT_BITS - 1);

	for (int j = 0; j < t->n; j++)
		sum += (int64_t)in[(t->first + j) * step] * t->weight[j];
	sum >>= WEIGHT_BITS;
	return sum > 255 ? 255 : sum;
}

static void resize(struct picture *pic, int h, int w)
{
	if (w != pic->w) {
		struct taps *t = make_taps(pic->w, w);
		size_t rows = (size_t)pic->c * pic->h;
		uint8_t *out = emalloc(rows * w);

		for (size_t y = 0; y < rows; y++)
			for (int x = 0; x < w; x++)
				out[y * w + x] = filter(pic->px + y * pic->w, 1, t + x);
		free_taps(t);
		free(pic->px);
		pic->px = out;
		pic->w = w;
	}
	if (h != pic->h) {
		struct taps *t = make_taps(pic->h, h);
		uint8_t *out = emalloc((size_t)pic->c * h * w);

		for (int k = 0; k < pic->c; k++)
			for (int y = 0; y < h; y++)
				for (int x = 0; x < w; x++)
					out[((size_t)k * h + y) * w + x] =
						filter(pic->px + (size_t)k * pic->h * w + x, w, t + y);
		free_taps(t);
		free(pic->px);
		pic->px = out;
		pic->h = h;
	}
}

static void crop(struct picture *pic, int top, int left, int h, int w)
{
	uint8_t *out = emalloc((size_t)pic->c * h * w);

	for (int k = 0; k < pic->c; k++)
		for (int y = 0; y < h; y++)
			memcpy(out + ((size_t)k * h + y) * w,
			       pic->px + ((size_t)k * pic->h + top + y) * pic->w + left, w);
	free(pic->px);
	*pic = (struct picture){ pic->c, h, w, out };
}

void picture_fit(struct picture *pic, int c, int h, int w)
{
	if (c == 1)
		to_channels(pic, 1);
	if ((int64_t)h * pic->w >= (int64_t)w * pic->h) /* the height decides, the width is left over */
		resize(pic, h, MAX(w, (int)((int64_t)h * pic->w / pic->h)));
	else
		resize(pic, MAX(h, (int)((int64_t)w * pic->h / pic->w)), w);
	if (pic->h != h || pic->w != w) /* rint: halves to even, as torchvision's CenterCrop has them from Python */
		crop(pic, (int)rint((pic->h - h) / 2.0), (int)rint((pic->w - w) / 2.0), h, w);
	to_channels(pic, c);
}
