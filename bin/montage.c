/* montage(1): images -> a labelled picture grid (PNG), a row or more per class */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../formats/images.h"
#include "../formats/imageset.h"
#include "../lib/times.h"

static const char help[] =
	"usage: montage [options] <images >png\n"
	"  --cols N            images a row (10)\n"
	"  --rows-per-class N  rows a class (1)\n"
	"  --scale N           each pixel becomes N x N (so many that an image has about 64)\n"
	"  -o FILE             output file\n"
	"  -v                  say where the time went\n"
	"  -h, -V              help, version\n";

/* Printable ASCII, 19 signs a band: 5 x 7 dots, two lines more for what hangs below, a column between signs. */
static const char font[5 * 9][19 * 6 + 1] = {
	"..... ..#.. .#.#. .#.#. ..#.. ##..# .##.. ..#.. ...#. .#... ..... ..... ..... ..... ..... ....# .###. ..#.. .###. ",
	"..... ..#.. .#.#. .#.#. .#### ##..# #..#. ..#.. ..#.. ..#.. ..#.. ..#.. ..... ..... ..... ....# #...# .##.. #...# ",
	"..... ..#.. .#.#. ##### #.#.. ...#. #.#.. ..#.. .#... ...#. #.#.# ..#.. ..... ..... ..... ...#. #..## ..#.. ....# ",
	"..... ..#.. ..... .#.#. .###. ..#.. .#... ..... .#... ...#. .###. ##### ..... ##### ..... ..#.. #.#.# ..#.. ...#. ",
	"..... ..#.. ..... ##### ..#.# .#... #.#.# ..... .#... ...#. #.#.# ..#.. ..... ..... ..... .#... ##..# ..#.. ..#.. ",
	"..... ..... ..... .#.#. ####. #..## #..#. ..... ..#.. ..#.. ..#.. ..#.. .##.. ..... .##.. #.... #...# ..#.. .#... ",
	"..... ..#.. ..... .#.#. ..#.. #..## .##.# ..... ...#. .#... ..... ..... .##.. ..... .##.. #.... .###. .###. ##### ",
	"..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..#.. ..... ..... ..... ..... ..... ..... ",
	"..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... .#... ..... ..... ..... ..... ..... ..... ",

	"##### ...#. ##### ..##. ##### .###. .###. ..... ..... ...#. ..... .#... .###. .###. .###. ####. .###. ###.. ##### ",
	"...#. ..##. #.... .#... ....# #...# #...# .##.. ..... ..#.. ..... ..#.. #...# #...# #...# #...# #...# #..#. #.... ",
	"..#.. .#.#. ####. #.... ...#. #...# #...# .##.. .##.. .#... ##### ...#. ....# #.### #...# #...# #.... #...# #.... ",
	"...#. #..#. ....# ####. ..#.. .###. .#### ..... .##.. #.... ..... ....# ...#. #.#.# ##### ####. #.... #...# ####. ",
	"....# ##### ....# #...# .#... #...# ....# .##.. ..... .#... ##### ...#. ..#.. #.### #...# #...# #.... #...# #.... ",
	"#...# ...#. #...# #...# .#... #...# ...#. .##.. .##.. ..#.. ..... ..#.. ..... #.... #...# #...# #...# #..#. #.... ",
	".###. ...#. .###. .###. .#... .###. .##.. ..... .##.. ...#. ..... .#... ..#.. .###. #...# ####. .###. ###.. ##### ",
	"..... ..... ..... ..... ..... ..... ..... ..... ..#.. ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ",
	"..... ..... ..... ..... ..... ..... ..... ..... .#... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ",

	"##### .###. #...# .###. ..### #...# #.... #...# #...# .###. ####. .###. ####. .#### ##### #...# #...# #...# #...# ",
	"#.... #...# #...# ..#.. ...#. #..#. #.... ##.## ##..# #...# #...# #...# #...# #.... ..#.. #...# #...# #...# #...# ",
	"#.... #.... #...# ..#.. ...#. #.#.. #.... #.#.# #.#.# #...# #...# #...# #...# #.... ..#.. #...# #...# #...# .#.#. ",
	"####. #.### ##### ..#.. ...#. ##... #.... #.#.# #..## #...# ####. #...# ####. .###. ..#.. #...# #...# #.#.# ..#.. ",
	"#.... #...# #...# ..#.. ...#. #.#.. #.... #...# #...# #...# #.... #.#.# #.#.. ....# ..#.. #...# #...# #.#.# .#.#. ",
	"#.... #...# #...# ..#.. #..#. #..#. #.... #...# #...# #...# #.... #..#. #..#. ....# ..#.. #...# .#.#. ##.## #...# ",
	"#.... .#### #...# .###. .##.. #...# ##### #...# #...# .###. #.... .##.# #...# ####. ..#.. .###. ..#.. #...# #...# ",
	"..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ",
	"..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ",

	"#...# ##### .###. #.... .###. ..#.. ..... .#... ..... #.... ..... ....# ..... ..##. ..... #.... ..#.. ...#. #.... ",
	"#...# ....# .#... #.... ...#. .#.#. ..... ..#.. ..... #.... ..... ....# ..... .#..# ..... #.... ..... ..... #.... ",
	".#.#. ...#. .#... .#... ...#. #...# ..... ...#. .###. ####. .###. .#### .###. .#... .#### ####. .##.. ..##. #..#. ",
	"..#.. ..#.. .#... ..#.. ...#. ..... ..... ..... ....# #...# #...# #...# #...# ###.. #...# #...# ..#.. ...#. #.#.. ",
	"..#.. .#... .#... ...#. ...#. ..... ..... ..... .#### #...# #.... #...# ##### .#... #...# #...# ..#.. ...#. ##... ",
	"..#.. #.... .#... ....# ...#. ..... ..... ..... #...# #...# #...# #...# #.... .#... #...# #...# ..#.. ...#. #.#.. ",
	"..#.. ##### .###. ....# .###. ..... ##### ..... .#### ####. .###. .#### .###. .#... .#### #...# .###. ...#. #..#. ",
	"..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ....# ..... ..... #..#. ..... ",
	"..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... .###. ..... ..... .##.. ..... ",

	".##.. ..... ..... ..... ..... ..... ..... ..... .#... ..... ..... ..... ..... ..... ..... ...## ..#.. ##... ..... ",
	"..#.. ..... ..... ..... ..... ..... ..... ..... .#... ..... ..... ..... ..... ..... ..... ..#.. ..#.. ..#.. ..... ",
	"..#.. ##.#. ####. .###. ####. .#### #.##. .#### ###.. #...# #...# #...# #...# #...# ##### ..#.. ..#.. ..#.. .#... ",
	"..#.. #.#.# #...# #...# #...# #...# ##..# #.... .#... #...# #...# #...# .#.#. #...# ...#. .#... ..#.. ...#. #.#.# ",
	"..#.. #.#.# #...# #...# #...# #...# #.... .###. .#... #...# #...# #.#.# ..#.. #...# ..#.. ..#.. ..#.. ..#.. ...#. ",
	"..#.. #.#.# #...# #...# #...# #...# #.... ....# .#..# #..## .#.#. #.#.# .#.#. #...# .#... ..#.. ..#.. ..#.. ..... ",
	".###. #.#.# #...# .###. ####. .#### #.... ####. ..##. .##.# ..#.. .#.#. #...# .#### ##### ...## ..#.. ##... ..... ",
	"..... ..... ..... ..... #.... ....# ..... ..... ..... ..... ..... ..... ..... ....# ..... ..... ..... ..... ..... ",
	"..... ..... ..... ..... #.... ....# ..... ..... ..... ..... ..... ..... ..... .###. ..... ..... ..... ..... ..... ",
};

/* PAPER is lighter than most images' background and INK not black, so that the images stay what one looks at. */
enum { PAPER = 244, INK = 51, GAP = 4, MARGIN = 16, DOT = 2, MAX_NAME = 40 };

struct page {
	struct picture pic; /* (3,h,w) */
	int cols, rows, scale, left;
	int pitch; /* from one class to the next: its rows, but never less than its name */
	bool verbose;
};

static void fill(struct picture *p, int y, int x, int h, int w, const uint8_t rgb[3])
{
	for (int k = 0; k < 3; k++)
		for (int i = y; i < y + h; i++)
			memset(p->px + ((size_t)k * p->h + i) * p->w + x, rgb[k], w);
}

/* Signs of a name, at most MAX_NAME: one for each UTF-8 character, '?' for those that the font does not have. */
static int signs(const char *name, char out[MAX_NAME + 1])
{
	int n = 0;

	for (const uint8_t *p = (const uint8_t *)name; *p; p++) {
		if ((*p & 0xc0) == 0x80)
			continue;
		if (n == MAX_NAME) {
			memcpy(out + n - 2, "..", 2);
			break;
		}
		out[n++] = *p < ' ' || *p > '~' ? '?' : (char)*p;
	}
	out[n] = '\0';
	return n;
}

static int text_width(const char *name)
{
	char s[MAX_NAME + 1];

	return MAX(0, signs(name, s) * 6 - 1) * DOT;
}

static void draw_text(struct picture *p, int y, int x, const char *name)
{
	char s[MAX_NAME + 1];
	int n = signs(name, s);

	for (int i = 0; i < n; i++)
		for (int row = 0; row < 9; row++)
			for (int col = 0; col < 5; col++) {
				int sign = s[i] - ' ';

				if (font[sign / 19 * 9 + row][sign % 19 * 6 + col] == '#')
					fill(p, y + row * DOT, x + (i * 6 + col) * DOT, DOT, DOT,
					     (uint8_t[3]){ INK, INK, INK });
			}
}

static void draw_image(struct page *g, int y, int x, const struct imageset *s, int64_t i)
{
	size_t plane = (size_t)s->h * s->w, each = s->c * plane;

	for (int a = 0; a < s->h; a++)
		for (int b = 0; b < s->w; b++) {
			uint8_t rgb[3];

			for (int k = 0; k < 3; k++) {
				int c = s->c == 3 ? k : 0;
				size_t at = i * each + c * plane + (size_t)a * s->w + b;
				double v = s->u8 ? s->u8[at] : 255.0 * ((double)s->f32[at] * s->norm.std[c] + s->norm.mean[c]);

				rgb[k] = lrint(MAX(0, MIN(255, v)));
			}
			fill(&g->pic, y + a * g->scale, x + b * g->scale, g->scale, g->scale, rgb);
		}
}

/* Classes that have images, each with a block of `rows` rows. */
static void lay_out(struct page *g, const struct imageset *s, const int64_t *count)
{
	int64_t shown = 0, most = 0, text = 0, h, w;

	if (!g->scale)
		g->scale = MAX(1, (64 + MAX(s->h, s->w) / 2) / MAX(s->h, s->w));
	for (int c = 0; c < s->nclass; c++) {
		if (!count[c])
			continue;
		shown++;
		most = MAX(most, count[c]);
		text = MAX(text, text_width(header_class(s->header, c)));
	}
	g->cols = MIN(g->cols, most);
	g->rows = MIN(g->rows, (most + g->cols - 1) / g->cols);
	g->left = MARGIN + text + (text ? 12 : 0);
	w = g->left + g->cols * ((int64_t)s->w * g->scale + GAP) - GAP + MARGIN;
	h = g->rows * ((int64_t)s->h * g->scale + GAP) + (g->rows > 1 ? 2 * GAP : 0);
	g->pitch = MAX(9 * DOT + GAP, MIN(h, 65536));
	h = 2 * MARGIN + (shown - 1) * g->pitch + MAX(h, g->pitch) - GAP - (g->rows > 1 ? 2 * GAP : 0);
	if (w > 65536 || h > 65536 || w * h > 1 << 28)
		die("a picture of %lldx%lld pixels is too large (see --cols, --scale)", (long long)w, (long long)h);
	g->pic = (struct picture){ 3, h, w, emalloc(3 * h * w) };
	memset(g->pic.px, PAPER, 3 * h * w);
}

static void draw(struct page *g, const struct imageset *s)
{
	int64_t *count = ecalloc(s->nclass, sizeof *count);
	int *top = emalloc(s->nclass * sizeof *top);
	int ch, cw, y = MARGIN;

	for (int64_t i = 0; i < s->n; i++)
		count[s->label[i]]++;
	lay_out(g, s, count);
	ch = s->h * g->scale + GAP;
	cw = s->w * g->scale + GAP;
	for (int c = 0; c < s->nclass; c++) {
		const char *name = header_class(s->header, c);

		if (!count[c])
			continue;
		top[c] = y;
		/* beside the first row, its middle */
		draw_text(&g->pic, MAX(0, MIN(g->pic.h - 9 * DOT, y + (ch - GAP - 7 * DOT) / 2)),
			  g->left - 12 - text_width(name), name);
		y += g->pitch;
		count[c] = 0;
	}
	for (int64_t i = 0; i < s->n; i++) {
		int c = s->label[i];
		int64_t at = count[c]++;

		if (at < (int64_t)g->rows * g->cols)
			draw_image(g, top[c] + at / g->cols * ch, g->left + at % g->cols * cw, s, i);
	}
	free(count);
	free(top);
}

static const char *parse(struct page *g, int argc, char **argv)
{
	enum { COLS = 256, ROWS, SCALE };
	static const struct option longs[] = {
		{ "cols", 1, NULL, COLS }, { "rows-per-class", 1, NULL, ROWS }, { "scale", 1, NULL, SCALE },
		{ "help", 0, NULL, 'h' }, { "version", 0, NULL, 'V' }, { 0 }
	};
	const char *out = NULL;
	int c;

	while ((c = getopt_long(argc, argv, "o:vhV", longs, NULL)) != -1)
		switch (c) {
		case COLS: g->cols = eint("--cols", optarg, 1, 65536); break;
		case ROWS: g->rows = eint("--rows-per-class", optarg, 1, 65536); break;
		case SCALE: g->scale = eint("--scale", optarg, 1, 1024); break;
		case 'o': out = optarg; break;
		case 'v': g->verbose = true; break;
		case 'h': fputs(help, stdout); eflush(); exit(0);
		case 'V': puts("montage " TEDDY_VERSION); eflush(); exit(0);
		default: exit(2); /* getopt has said why */
		}
	if (optind < argc)
		usage("%s: no file arguments; images come on standard input", argv[optind]);
	return out;
}

int main(int argc, char **argv)
{
	struct page g = { .cols = 10, .rows = 1 };
	struct ts_reader r;
	struct imageset set;
	struct outfile file;
	struct buf png = { 0 };
	char err[ERRLEN];
	const char *out;

	progname = "montage";
	out = parse(&g, argc, argv);
	if (ts_open(&r, NULL, "images") < 0 || imageset_read(&r, &set) < 0)
		die("%s", r.err);
	if (set.c != 1 && set.c != 3)
		die("%s: %d channels: a picture has one or three", r.name, set.c);
	draw(&g, &set);
	if (picture_encode_png(&g.pic, &png, err) || out_open(&file, out, err))
		die("%s", err);
	double start = now();
	if (fwrite(png.p, 1, png.len, file.fp) != png.len)
		die("%s:", out ? out : "<stdout>");
	times_add(TIME_WRITING, now() - start);
	if (out_finish(&file, err))
		die("%s", err);
	buf_free(&png);
	free(g.pic.px);
	imageset_free(&set);
	ts_close(&r);
	if (g.verbose)
		times_say();
	return 0;
}
