/* report(1): what a pipeline left in its folder, as one page */
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../formats/chart.h"
#include "../formats/curves.h"
#include "../formats/html.h"
#include "../formats/lineage.h"
#include "../formats/outcome.h"
#include "../formats/tstream.h"

static const char help[] =
	"usage: report [-o FILE] OUTDIR\n"
	"  -o FILE  output file\n"
	"  -h, -V   help, version\n";

/* The page's style sheet, as it stands in its file. */
extern const char style[];
__asm__(".pushsection .rodata\n.global style\nstyle: .incbin \"bin/report.css\"\n.byte 0\n.popsection");

struct page {
	FILE *fp;
	const struct outcome *o;
};

/* "77.65 ± 0.53" -> both numbers; a deviation that is not there is NAN. False where there is no number. */
static bool figures_in(const char *mean, const char *deviation, double *m, double *d)
{
	char *end;

	*m = strtod(mean, &end);
	if (end == mean || *end)
		return false;
	*d = strtod(deviation, &end);
	if (end == deviation || *end)
		*d = NAN;
	return true;
}

static void put_duration(FILE *fp, double seconds)
{
	long s = lround(seconds);

	if (seconds < 100)
		fprintf(fp, "%.1f s", seconds);
	else if (s < 3600)
		fprintf(fp, "%ld min %ld s", s / 60, s % 60);
	else
		fprintf(fp, "%ld h %ld min", s / 3600, s / 60 % 60);
}

static void put_bytes(FILE *fp, double bytes)
{
	if (bytes < 1e6)
		fprintf(fp, "%.0f kB", bytes / 1e3);
	else if (bytes < 1e9)
		fprintf(fp, "%.*f MB", bytes < 1e7, bytes / 1e6);
	else
		fprintf(fp, "%.1f GB", bytes / 1e9);
}

static void open_section(const struct page *p, const char *id, const char *title)
{
	html(p->fp, "\n<section id=\"%s\">\n<h2>%s</h2>\n", id, title);
}

static void close_section(const struct page *p)
{
	fputs("</section>\n", p->fp);
}

/* Accuracies. A column NAME_sd is the deviation of the column NAME before it, and both are accuracies in per cent. */

static bool is_deviation(const struct table *t, int col)
{
	const char *name = table_cell(t, 0, col), *before = table_cell(t, 0, col - 1);
	size_t n = strlen(before);

	return n && !strncmp(name, before, n) && !strcmp(name + n, "_sd");
}

static double greatest(const struct table *t)
{
	double most = 0, m, d;

	for (int c = 1; c + 1 < t->cols; c++)
		for (int r = 1; is_deviation(t, c + 1) && r < t->rows; r++)
			if (figures_in(table_cell(t, r, c), "", &m, &d))
				most = fmax(most, m);
	return most;
}

static void put_value(FILE *fp, const char *mean, const char *deviation, double most)
{
	double m, d;

	html(fp, "<td class=\"value\">%s", mean);
	if (*deviation && strcmp(deviation, "-"))
		html(fp, " <span class=\"sd\">± %s</span>", deviation);
	if (figures_in(mean, deviation, &m, &d))
		chart_bar(fp, m, d, most);
	fputs("</td>", fp);
}

static void put_table(FILE *fp, const struct table *t)
{
	double most = greatest(t);

	html(fp, "<div class=\"box\"><table class=\"%s\">\n<thead><tr>", most > 0 ? "measure" : "plain");
	for (int c = 0; c < t->cols; c++)
		if (!is_deviation(t, c))
			html(fp, is_deviation(t, c + 1) ? "<th>%s, %%</th>" : c ? "<th class=\"n\">%s</th>" : "<th>%s</th>",
				table_cell(t, 0, c));
	fputs("</tr></thead>\n<tbody>\n", fp);
	for (int r = 1; r < t->rows; r++) {
		html(fp, "<tr><th>%s</th>", table_cell(t, r, 0));
		for (int c = 1; c < t->cols; c++)
			if (is_deviation(t, c + 1))
				put_value(fp, table_cell(t, r, c), table_cell(t, r, c + 1), most);
			else if (!is_deviation(t, c))
				html(fp, "<td class=\"n\">%s</td>", table_cell(t, r, c));
		fputs("</tr>\n", fp);
	}
	fputs("</tbody></table></div>\n", fp);
}

static void put_accuracy(const struct page *p)
{
	const struct table *main = outcome_table(p->o, "table.tsv");

	if (!p->o->ntable)
		return;
	open_section(p, "accuracy", "Accuracy");
	fputs("<p class=\"about\">Of students on the test images: mean ± standard deviation of several. Bars begin at 0 "
		"and end at the greatest.</p>\n", p->fp);
	if (main)
		put_table(p->fp, main);
	for (int i = 0; i < p->o->ntable; i++)
		if (&p->o->table[i] != main) {
			html(p->fp, "<h3>%s</h3>\n", p->o->table[i].name);
			put_table(p->fp, &p->o->table[i]);
		}
	close_section(p);
}

/* Students, one table a set; members of pools have names with a slash where students have seeds. */

static bool column_empty(const struct table *t, int col)
{
	for (int r = 0; r < t->rows; r++)
		if (strcmp(table_cell(t, r, col), "-") && *table_cell(t, r, col))
			return false;
	return true;
}

static bool one_network(const struct table *t)
{
	for (int r = 1; r < t->rows; r++)
		if (strcmp(table_cell(t, r, RESULT_ARCH), table_cell(t, 0, RESULT_ARCH)))
			return false;
	return true;
}

static void put_protocol(FILE *fp, const struct results *r)
{
	const char *name = val_get_str(r->protocol, "name"), *epoch = val_get_str(r->protocol, "report");

	if (!name)
		return;
	html(fp, "<p class=\"about\">Protocol %s", name);
	if (epoch && strcmp(epoch, "last"))
		html(fp, "; of each student not the last epoch but the %s", epoch);
	fputs(".</p>\n", fp);
}

/* "69.52 ± 1.65", or without a deviation */
static void put_figure(FILE *fp, const char *cell)
{
	const char *sign = strstr(cell, " ± ");
	char *mean = estrndup(cell, sign ? (size_t)(sign - cell) : strlen(cell));

	html(fp, "<td>%s", mean);
	if (sign)
		html(fp, " <span class=\"sd\">%s</span>", sign + 1);
	fputs("</td>", fp);
	free(mean);
}

static void put_results(FILE *fp, const struct results *r)
{
	const struct table *t = &r->t;
	bool pool = strchr(table_cell(t, 0, RESULT_WHO), '/'), same = one_network(t);

	html(fp, "<div>\n<h3>%s", t->name);
	if (same)
		html(fp, " <small>%s</small>", table_cell(t, 0, RESULT_ARCH));
	fputs("</h3>\n", fp);
	put_protocol(fp, r);
	fputs("<div class=\"box\"><table>\n<thead><tr>", fp);
	for (int c = same; c < t->cols; c++)
		if (!column_empty(t, c))
			html(fp, "<th>%s</th>", c == RESULT_WHO && pool ? "member" : c < RESULT_COLUMNS ? result_column[c] : "figure");
	fputs("</tr></thead>\n<tbody>\n", fp);
	for (int i = 0; i < t->rows; i++) {
		if (!strcmp(table_cell(t, i, RESULT_WHO), "mean"))
			fputs("</tbody><tfoot>\n", fp);
		fputs("<tr>", fp);
		for (int c = same; c < t->cols; c++)
			if (!column_empty(t, c))
				put_figure(fp, table_cell(t, i, c));
		fputs("</tr>\n", fp);
	}
	fputs(strcmp(table_cell(t, t->rows - 1, RESULT_WHO), "mean") ? "</tbody>" : "</tfoot>", fp);
	fputs("</table></div>\n</div>\n", fp);
}

static void put_students(const struct page *p)
{
	if (!p->o->nresults)
		return;
	open_section(p, "students", "Every network");
	fputs("<p class=\"about\">Accuracy and cross-entropy on the test images; the training loss is that of the last epoch. "
		"The last line is the mean ± standard deviation.</p>\n<div class=\"grid networks\">\n", p->fp);
	for (int i = 0; i < p->o->nresults; i++)
		put_results(p->fp, &p->o->results[i]);
	fputs("</div>\n", p->fp);
	close_section(p);
}

static void put_picture(FILE *fp, const struct image_file *f, const char *words)
{
	html(fp, "<figure><figcaption><b>%s</b> %s</figcaption>\n<img alt=\"%s: a grid of images\" "
		"width=\"%d\" height=\"%d\" src=\"", words, f->name, words, f->width, f->height);
	html_data(fp, "image/png", f->png.p, f->png.len);
	fputs("\"/>\n</figure>\n", fp);
}

/* First what was there before: real images, that synthesis begins with or is compared with, and noise that it begins with. */
static void put_pictures(const struct page *p)
{
	if (!p->o->npicture)
		return;
	open_section(p, "images", "Images, before and after");
	fputs("<p class=\"about\">Real images picked at random, as many as are distilled, and the noise if synthesis began "
		"with it; and what became of the initial ones.</p>\n<div class=\"pictures\">\n", p->fp);
	for (int pass = 0; pass < 2; pass++)
		for (int i = 0; i < p->o->npicture; i++) {
			bool before = !strncmp(p->o->picture[i].name, "random", 6) || !strncmp(p->o->picture[i].name, "init", 4);

			if (before == !pass)
				put_picture(p->fp, &p->o->picture[i], before ? "Before" : "After");
		}
	fputs("</div>\n", p->fp);
	close_section(p);
}

static bool any_curves(const struct outcome *o)
{
	for (int i = 0; i < o->nevents; i++)
		if (curves_any(&o->events[i]))
			return true;
	return false;
}

static void put_curves(const struct page *p)
{
	if (!any_curves(p->o))
		return;
	open_section(p, "curves", "Curves");
	fputs("<p class=\"about\">From the logs of the run. A long curve is drawn as the means of its parts.</p>\n"
		"<div class=\"grid\">\n", p->fp);
	for (int i = 0; i < p->o->nevents; i++)
		if (curves_any(&p->o->events[i]))
			curves_draw(p->fp, &p->o->events[i]);
	fputs("</div>\n", p->fp);
	close_section(p);
}

static double total(const struct outcome *o)
{
	double sum = 0;

	for (int i = 0; i < o->nstage; i++)
		sum += o->stage[i].seconds;
	return sum;
}

static double peak(const struct outcome *o)
{
	double most = NAN;

	for (int i = 0; i < o->nstage; i++)
		most = fmax(most, o->stage[i].peak);
	return most;
}

static void put_stage(FILE *fp, const struct stage *s, double all, bool cpu, bool memory)
{
	html(fp, "<tr><th>%s</th><td class=\"n\">%.1f</td>", s->name, s->seconds);
	if (cpu) {
		fputs("<td class=\"n\">", fp);
		isnan(s->cpu) ? (void)putc('-', fp) : html(fp, "%.1f", s->cpu);
		fputs("</td>", fp);
	}
	if (memory) {
		fputs("<td class=\"n\">", fp);
		isnan(s->peak) ? (void)putc('-', fp) : put_bytes(fp, s->peak);
		fputs("</td>", fp);
	}
	html(fp, "<td class=\"n\">%.1f %%</td><td class=\"share\">", all > 0 ? 100 * s->seconds / all : 0);
	chart_bar(fp, s->seconds, NAN, all > 0 ? all : 1);
	fputs("</td></tr>\n", fp);
}

static void put_stages(const struct page *p)
{
	double all = total(p->o);
	bool memory = !isnan(peak(p->o)), cpu = false;

	for (int i = 0; i < p->o->nstage; i++)
		cpu = cpu || !isnan(p->o->stage[i].cpu);
	fputs("<div class=\"box\"><table class=\"stages\">\n<thead><tr><th>step</th><th class=\"n\">time, s</th>", p->fp);
	fputs(cpu ? "<th class=\"n\">processors, s</th>" : "", p->fp);
	fputs(memory ? "<th class=\"n\">memory</th>" : "", p->fp);
	fputs("<th class=\"n\">share</th><th></th></tr></thead>\n<tbody>\n", p->fp);
	for (int i = 0; i < p->o->nstage; i++)
		put_stage(p->fp, &p->o->stage[i], all, cpu, memory);
	html(p->fp, "</tbody><tfoot><tr><th>together</th><td class=\"n\">%.1f</td><td colspan=\"%d\"></td></tr></tfoot>"
		"</table></div>\n", all, 2 + cpu + memory);
}

static void put_jobs(FILE *fp, const struct table *t)
{
	int runtime = -1, exit = -1, command = -1, host = -1;

	for (int c = 0; c < t->cols; c++) {
		runtime = strcmp(table_cell(t, 0, c), "JobRuntime") ? runtime : c;
		exit = strcmp(table_cell(t, 0, c), "Exitval") ? exit : c;
		command = strcmp(table_cell(t, 0, c), "Command") ? command : c;
		host = strcmp(table_cell(t, 0, c), "Host") ? host : c;
	}
	html(fp, "<h3>log/%s <small>%d %s of GNU parallel</small></h3>\n<div class=\"box\"><table class=\"long\">\n<thead><tr>"
		"<th class=\"n\">time, s</th><th class=\"n\">status</th><th>host</th><th>job</th></tr></thead>\n<tbody>\n", t->name,
		t->rows - 1, t->rows == 2 ? "job" : "jobs");
	for (int r = 1; r < t->rows; r++)
		html(fp, "<tr><td class=\"n\">%s</td><td class=\"n\">%s</td><td>%s</td><td>%s</td></tr>\n",
			table_cell(t, r, runtime), table_cell(t, r, exit),
			strcmp(table_cell(t, r, host), ":") ? table_cell(t, r, host) : "here", table_cell(t, r, command));
	fputs("</tbody></table></div>\n", fp);
}

static void put_times(const struct page *p)
{
	if (!p->o->nstage && !p->o->njobs)
		return;
	open_section(p, "time", "Time and memory");
	if (p->o->nstage) {
		fputs("<p class=\"about\">Of every step, the longest first", p->fp);
		fputs(isnan(peak(p->o)) ? ". The memory of this run was not recorded.</p>\n" :
			"; the memory is that of its largest process.</p>\n", p->fp);
		put_stages(p);
	}
	for (int i = 0; i < p->o->njobs; i++)
		put_jobs(p->fp, &p->o->jobs[i]);
	close_section(p);
}

static void put_history(const struct page *p)
{
	if (!p->o->nartefact)
		return;
	open_section(p, "history", "Where it comes from");
	fputs("<p class=\"about\">Every file as the pipeline that made it, in its own words; of pictures and tables, the "
		"step's. Files among the arguments are links to their pipelines.</p>\n", p->fp);
	lineage_put(p->fp, p->o);
	close_section(p);
}

static void put_gaps(const struct page *p)
{
	if (!p->o->nnote)
		return;
	fputs("<div class=\"gaps\">\n<p>Missing here</p>\n<ul>\n", p->fp);
	for (int i = 0; i < p->o->nnote; i++)
		html(p->fp, "<li>%s</li>\n", p->o->note[i]);
	fputs("</ul>\n</div>\n", p->fp);
}

static void put_contents(const struct page *p)
{
	const struct { bool there; const char *id, *name; } part[] = {
		{ p->o->ntable, "accuracy", "Accuracy" }, { p->o->npicture, "images", "Images" },
		{ any_curves(p->o), "curves", "Curves" }, { p->o->nresults, "students", "Every network" },
		{ p->o->nstage || p->o->njobs, "time", "Time and memory" }, { p->o->nartefact, "history", "Where it comes from" }
	};

	fputs("<nav>", p->fp);
	for (size_t i = 0; i < LEN(part); i++)
		if (part[i].there)
			html(p->fp, "<a href=\"#%s\">%s</a>\n", part[i].id, part[i].name);
	fputs("</nav>\n", p->fp);
}

/* The first row's figures, and what the run took. */
static void put_figures(const struct page *p)
{
	const struct table *t = outcome_table(p->o, "table.tsv");
	FILE *fp = p->fp;
	double m, d;

	fputs("<dl class=\"figures\">\n", fp);
	for (int c = 1; t && c < t->cols; c++) {
		bool accuracy = is_deviation(t, c + 1);

		if (is_deviation(t, c) || !figures_in(table_cell(t, 1, c), table_cell(t, 1, c + 1), &m, &d))
			continue;
		html(fp, "<div><dt>%s, %s</dt><dd>%s", table_cell(t, 1, 0), table_cell(t, 0, c), table_cell(t, 1, c));
		if (accuracy && !isnan(d))
			html(fp, " <small>± %s</small>", table_cell(t, 1, c + 1));
		fputs(accuracy ? " %</dd></div>\n" : "</dd></div>\n", fp);
	}
	if (p->o->nstage) {
		fputs("<div><dt>time of all steps</dt><dd>", fp);
		put_duration(fp, total(p->o));
		fputs("</dd></div>\n", fp);
	}
	if (!isnan(peak(p->o))) {
		fputs("<div><dt>most memory of a process</dt><dd>", fp);
		put_bytes(fp, peak(p->o));
		fputs("</dd></div>\n", fp);
	}
	fputs("</dl>\n", fp);
}

static const char *title_of(const char *dir, char **owned)
{
	char *slash;

	*owned = realpath(dir, NULL);
	slash = *owned ? strrchr(*owned, '/') : NULL;
	return slash && slash[1] ? slash + 1 : dir;
}

/* Well-formed as XML too, so that a strict parser reads it. */
static void put_page(const struct page *p)
{
	char *path;
	const char *title = title_of(p->o->dir, &path);

	html(p->fp, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
		"<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>%s</title>\n<style>\n", title);
	fputs(style, p->fp);
	html(p->fp, "</style>\n</head>\n<body>\n<header>\n<p class=\"kicker\">Distilled data</p>\n<h1>%s</h1>\n", title);
	put_figures(p);
	put_gaps(p);
	put_contents(p);
	fputs("</header>\n<main>\n", p->fp);
	put_accuracy(p);
	put_pictures(p);
	put_curves(p);
	put_students(p);
	put_times(p);
	put_history(p);
	html(p->fp, "</main>\n<footer>report (teddy) %s</footer>\n</body>\n</html>\n", TEDDY_VERSION);
	free(path);
}

static const char *parse(const char **out, int argc, char **argv)
{
	static const struct option longs[] = { { "help", 0, NULL, 'h' }, { "version", 0, NULL, 'V' }, { 0 } };
	int c;

	while ((c = getopt_long(argc, argv, "o:hV", longs, NULL)) != -1)
		switch (c) {
		case 'o': *out = optarg; break;
		case 'h': fputs(help, stdout); eflush(); exit(0);
		case 'V': puts("report " TEDDY_VERSION); eflush(); exit(0);
		default: exit(2); /* getopt has said why */
		}
	if (argc - optind != 1)
		usage("one argument expected: OUTDIR, what a pipeline left");
	return argv[optind];
}

int main(int argc, char **argv)
{
	struct outcome o;
	struct outfile file;
	char err[ERRLEN];
	const char *out = NULL, *dir;

	progname = "report";
	dir = parse(&out, argc, argv);
	if (outcome_read(&o, dir, err) < 0)
		die("%s", err);
	if (!outcome_has(&o, "log") && !(o.nartefact || o.npicture || o.ntable || o.nresults))
		die("%s: nothing that a pipeline leaves is in it", dir);
	if (out_open(&file, out, err) < 0)
		die("%s", err);
	put_page(&(struct page){ file.fp, &o });
	if (out_finish(&file, err) < 0)
		die("%s", err);
	outcome_free(&o);
	return 0;
}
