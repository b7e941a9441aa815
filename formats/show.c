#include "show.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

void put_text(FILE *out, const char *s)
{
	for (; *s; s++)
		putc((unsigned char)*s < 0x20 || *s == 0x7f ? '?' : *s, out);
}

void put_word(FILE *out, const char *s)
{
	bool plain = *s;
	const char *p;

	for (p = s; *p; p++)
		plain = plain && (isalnum((unsigned char)*p) || strchr("._-+:/,@%=", *p) || *p & 0x80);
	if (plain) {
		put_text(out, s);
		return;
	}
	putc('\'', out);
	for (p = s; *p; p++)
		if (*p == '\'')
			fputs("'\\''", out);
		else
			putc((unsigned char)*p < 0x20 || *p == 0x7f ? '?' : *p, out);
	putc('\'', out);
}

char *scalar_text(const struct val *v)
{
	char *s = NULL, *t;
	size_t i;
	int digits;

	switch (v->type) {
	case V_BOOL:
		return estrdup(v->b ? "true" : "false");
	case V_INT:
		return eprintf_str("%lld", (long long)v->i);
	case V_UINT:
		return eprintf_str("%llu", (unsigned long long)v->u);
	case V_F64:
		for (digits = 6; digits < 17; digits++) {
			s = eprintf_str("%.*g", digits, v->f);
			if (strtod(s, NULL) == v->f || (digits < 9 && (float)strtod(s, NULL) == (float)v->f))
				return s;
			free(s);
		}
		return eprintf_str("%.17g", v->f);
	case V_STR:
		return estrdup(v->s.p);
	case V_LIST:
		s = estrdup("");
		for (i = 0; i < v->list.len; i++) {
			char *item = scalar_text(v->list.item[i]);

			t = eprintf_str("%s%s%s", s, i ? "," : "", item);
			free(s);
			free(item);
			s = t;
		}
		return s;
	default:
		return estrdup("...");
	}
}

static bool is_file(const struct val *v)
{
	return v->type == V_MAP && val_get_str(v, "xxh3");
}

static void put_argument(FILE *out, const char *key, const struct val *v)
{
	char *s;

	if (v->type == V_NIL || (v->type == V_BOOL && !v->b))
		return;
	if (v->type == V_LIST && v->list.len && is_file(v->list.item[0])) { /* several files */
		size_t i;

		for (i = 0; i < v->list.len; i++)
			put_argument(out, key, v->list.item[i]);
		return;
	}
	fputs(key[0] && key[1] ? " --" : " -", out);
	put_text(out, key);
	if (v->type == V_BOOL)
		return;
	putc(' ', out);
	if (is_file(v)) {
		fprintf(out, "FILE:%.8s", val_get_str(v, "xxh3"));
		return;
	}
	s = scalar_text(v);
	put_word(out, s);
	free(s);
}

static void put_pipeline(FILE *out, const struct val *history)
{
	size_t i, j;

	for (i = 0; i < history->list.len; i++) {
		const struct val *e = history->list.item[i], *args = val_get(e, "args");
		const char *program = val_get_str(e, "program");

		fputs(i ? " | " : "", out);
		put_word(out, program ? program : "?");
		for (j = 0; args && args->type == V_MAP && j < args->map.len; j++)
			put_argument(out, args->map.key[j], args->map.item[j]);
	}
	putc('\n', out);
}

/* The files that were arguments, each with its own pipeline; once each. */
static void put_files(FILE *out, const struct val *v, const char *indent, struct val *seen)
{
	const struct val *h;
	size_t i;

	if (v->type == V_LIST)
		for (i = 0; i < v->list.len; i++)
			put_files(out, v->list.item[i], indent, seen);
	if (v->type != V_MAP)
		return;
	if (is_file(v) && !val_get(seen, val_get_str(v, "xxh3"))) {
		val_put(seen, val_get_str(v, "xxh3"), val_nil());
		fprintf(out, "%sFILE:%.8s = ", indent, val_get_str(v, "xxh3"));
		h = val_get(v, "history");
		if (h && h->type == V_LIST && h->list.len)
			put_pipeline(out, h);
		else
			fputs("(no history)\n", out);
	}
	for (i = 0; i < v->map.len; i++)
		put_files(out, v->map.item[i], indent, seen);
}

void put_history(FILE *out, const struct val *header, const char *indent)
{
	const struct val *h = val_get(header, "history");
	struct val *seen;

	fputs(indent, out);
	if (!h || h->type != V_LIST || !h->list.len) {
		fputs("(no history)\n", out);
		return;
	}
	put_pipeline(out, h);
	seen = val_map();
	put_files(out, h, indent, seen);
	val_free(seen);
}
