/* SPDX-License-Identifier: BSD-2-Clause */
#include "tools/options.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "tools/output.h"
#include "tools/size.h"
#include "vhd/check.h"

#define OPTS_MAX 32
#define LONG_BASE 256		/* getopt answers this plus the row for long forms */
#define HELP_COLUMN 30

/* ---- one value ----------------------------------------------------------------------------------- */

static int number_parse(const char *value, unsigned long max, unsigned long *ret)
{
	char *end;

	errno = 0;
	*ret = strtoul(value, &end, 10);
	return errno || *end || end == value || *value == '-' || *ret > max ? -EINVAL : 0;
}

static int size_value(const char *value, uint64_t *ret, struct sp_err *err)
{
	int r = tool_size_parse(value, ret);

	if (r == -ERANGE)
		return sp_err_set(err, r, "\"%s\" is too large, 2^63 - 1 bytes are possible", value);
	if (r < 0)
		return sp_err_set(err, r, "\"%s\" is not a size (a number and K, M, G, T, P or E; whole bytes)", value);
	return 0;
}

static int orphan_value(const char *value, enum vhd_orphan *ret, struct sp_err *err)
{
	if (strcmp(value, "eio") == 0)
		*ret = VHD_ORPHAN_EIO;
	else if (strcmp(value, "zero") == 0)
		*ret = VHD_ORPHAN_ZERO;
	else
		return sp_err_set(err, -EINVAL, "\"%s\" is neither eio nor zero", value);
	return 0;
}

static int output_value(const char *value, bool *ret_json, struct sp_err *err)
{
	if (strcmp(value, "human") != 0 && strcmp(value, "json") != 0)
		return sp_err_set(err, -EINVAL, "\"%s\" is neither human nor json", value);
	*ret_json = strcmp(value, "json") == 0;
	return 0;
}

static int take_value(const struct tool_opt *o, const char *value, struct sp_err *err)
{
	unsigned long number;

	switch (o->kind) {
	case TOOL_FLAG:
		*(bool *)o->target = true;
		return 0;
	case TOOL_TEXT:
		*(const char **)o->target = value;
		return 0;
	case TOOL_SIZE:
		return size_value(value, o->target, err);
	case TOOL_NUMBER:
		if (number_parse(value, 1u << 20, &number) < 0 || number == 0)
			return sp_err_set(err, -EINVAL, "\"%s\" is not a number from 1 to %u", value, 1u << 20);
		*(unsigned *)o->target = (unsigned)number;
		return 0;
	case TOOL_FD:
		if (number_parse(value, 1u << 20, &number) < 0 || fcntl((int)number, F_GETFD) < 0)
			return sp_err_set(err, -EINVAL, "\"%s\" is not an open descriptor", value);
		*(int *)o->target = (int)number;
		return 0;
	case TOOL_FORMAT:
		if (vhd_format_from_name(value, o->target) < 0)
			return sp_err_set(err, -EINVAL, "\"%s\" is not a format (raw, vhd, vpc, vhdx)", value);
		return 0;
	case TOOL_ORPHAN:
		return orphan_value(value, o->target, err);
	case TOOL_OUTPUT:
		return output_value(value, o->target, err);
	case TOOL_CALL:
		return o->call(o->target, value, err);
	}
	return -EINVAL;
}

/* ---- help ---------------------------------------------------------------------------------------- */

static void help_row(char key, const char *name, const char *arg, const char *help)
{
	char left[80], short_form[5] = "    ";

	if (key)
		snprintf(short_form, sizeof(short_form), "-%c%s", key, name ? ", " : "  ");
	snprintf(left, sizeof(left), "  %s%s%s%s%s", short_form, name ? "--" : "", name ? name : "",
		 arg ? (name ? "=" : " ") : "", arg ? arg : "");
	if (strlen(left) >= HELP_COLUMN - 1)
		printf("%s\n%*s%s\n", left, HELP_COLUMN, "", help);
	else
		printf("%-*s%s\n", HELP_COLUMN, left, help);
}

static void print_help(const struct tool_verb *verb, const struct tool_opt *opts)
{
	printf("usage: %s [OPTION...] %s\n%s\n\n", tool_command(), verb->args, verb->help);
	for (const struct tool_opt *o = opts; o->key || o->name; o++)
		help_row(o->key, o->name, o->arg, o->help);
	help_row('h', "help", NULL, "print this text");
}

/* ---- the table ----------------------------------------------------------------------------------- */

struct parser {
	struct option longs[OPTS_MAX + 2];
	char shorts[2 * OPTS_MAX + 4];
};

static void parser_build(struct parser *p, const struct tool_opt *opts)
{
	char *s = p->shorts;
	size_t n = 0;

	memset(p, 0, sizeof(*p));
	*s++ = ':';		/* tell a missing value from an unknown option */
	*s++ = 'h';
	for (int i = 0; i < OPTS_MAX && (opts[i].key || opts[i].name); i++) {
		if (opts[i].key) {
			*s++ = opts[i].key;
			if (opts[i].arg)
				*s++ = ':';
		}
		if (opts[i].name)
			p->longs[n++] = (struct option){ opts[i].name, opts[i].arg ? required_argument : no_argument,
							 NULL, LONG_BASE + i };
	}
	p->longs[n] = (struct option){ "help", no_argument, NULL, 'h' };
}

static const struct tool_opt *find_row(const struct tool_opt *opts, int c)
{
	if (c >= LONG_BASE)
		return &opts[c - LONG_BASE];
	for (; opts->key || opts->name; opts++)
		if (opts->key == c)
			return opts;
	return NULL;
}

static int misuse(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int misuse(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "%s: ", tool_command());
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\nTry: %s --help\n", tool_command());
	return TOOL_MISUSED;
}

static int take_option(const struct tool_verb *verb, const struct tool_opt *opts, int c, char **argv)
{
	const struct tool_opt *o;
	struct sp_err err = { 0 };

	if (c == 'h') {
		print_help(verb, opts);
		return TOOL_HELPED;
	}
	if (c == '?' && optopt && optopt < LONG_BASE)
		return misuse("there is no option -%c", optopt);
	if (c == '?')
		return misuse("there is no option %s, or it takes no value", argv[optind - 1]);
	if (c == ':')
		return misuse("%s needs a value", argv[optind - 1]);
	o = find_row(opts, c);
	if (take_value(o, optarg, &err) < 0)
		return o->name ? misuse("--%s: %s", o->name, sp_err_text(&err)) :
				 misuse("-%c: %s", o->key, sp_err_text(&err));
	tool_note_option(o->name);
	return 0;
}

int tool_parse(const struct tool_verb *verb, const struct tool_opt *opts, int argc, char **argv, int least, int most)
{
	struct parser p;
	int c, n, r;

	parser_build(&p, opts);
	for (const struct tool_opt *o = opts; o->key || o->name; o++)
		tool_offer_option(o->name);
	opterr = 0;
	optind = 0;		/* GNU: start over, also after an earlier scan */
	while ((c = getopt_long(argc, argv, p.shorts, p.longs, NULL)) != -1) {
		r = take_option(verb, opts, c, argv);
		if (r < 0)
			return r;
	}
	n = argc - optind;
	if (n < least)
		return misuse("arguments are missing: %s", verb->args);
	if (n > most)
		return misuse("one argument too many: %s", argv[optind + most]);
	memmove(argv, argv + optind, (size_t)n * sizeof(*argv));
	return n;
}

int tool_parse_exit(const struct tool_verb *verb, int n)
{
	return n == TOOL_HELPED ? 0 : verb->usage_exit;
}

struct vhd_open_opts tool_open_opts(const struct tool_look *look)
{
	return (struct vhd_open_opts){
		.flags = look->no_lock ? VHD_OPEN_NO_LOCK : 0,
		.format = look->format, .image_root = look->image_root, .orphan = look->orphan,
	};
}

/* ---- -o ------------------------------------------------------------------------------------------ */

static int format_opt_size(uint32_t *target, const char *name, const char *value, struct sp_err *err)
{
	uint64_t bytes;
	int r = size_value(value, &bytes, err);

	if (r == 0 && bytes > UINT32_MAX)
		r = sp_err_set(err, -ERANGE, "%s is too large", value);
	if (r < 0)
		return sp_err_prefix(err, r, "%s", name);
	*target = (uint32_t)bytes;
	return 0;
}

static int format_opt(struct tool_format_opts *o, const char *name, const char *value, struct sp_err *err)
{
	const struct { const char *name; uint32_t *target; } sizes[] = {
		{ "block_size", &o->block_size }, { "log_size", &o->log_size },
		{ "logical_sector_size", &o->logical_sector }, { "physical_sector_size", &o->physical_sector },
	};

	for (size_t i = 0; i < SP_ARRAY_SIZE(sizes); i++)
		if (strcmp(name, sizes[i].name) == 0)
			return format_opt_size(sizes[i].target, name, value, err);
	if (strcmp(name, "subformat") == 0) {
		o->kind_given = true;
		o->kind = strcmp(value, "fixed") == 0 ? VHD_KIND_FIXED : VHD_KIND_DYNAMIC;
		if (o->kind == VHD_KIND_DYNAMIC && strcmp(value, "dynamic") != 0)
			return sp_err_set(err, -EINVAL, "subformat: \"%s\" is neither fixed nor dynamic", value);
		return 0;
	}
	if (strcmp(name, "preallocation") == 0) {
		o->preallocate = strcmp(value, "falloc") == 0 || strcmp(value, "full") == 0;
		if (!o->preallocate && strcmp(value, "off") != 0)
			return sp_err_set(err, -EINVAL, "preallocation: \"%s\" is not off, falloc or full", value);
		return 0;
	}
	return sp_err_set(err, -EINVAL, "there is no \"%s\"", name);
}

int tool_format_opts_parse(void *opts, const char *value, struct sp_err *err)
{
	SP_AUTO_FREE char *copy = sp_strdup(value);
	char *rest = copy, *item;

	if (!copy)
		return sp_err_set(err, -ENOMEM, "out of memory");
	while ((item = strsep(&rest, ","))) {
		char *equals = strchr(item, '=');
		int r;

		if (!equals)
			return sp_err_set(err, -EINVAL, "\"%s\" is not of the form name=value", item);
		*equals = '\0';
		r = format_opt(opts, item, equals + 1, err);
		if (r < 0)
			return r;
	}
	return 0;
}

enum vhd_format_id tool_format_by_ending(const char *path)
{
	static const struct { const char *ending; enum vhd_format_id id; } endings[] = {
		{ ".vhdx", VHD_FORMAT_VHDX }, { ".avhdx", VHD_FORMAT_VHDX },
		{ ".vhd", VHD_FORMAT_VHD },   { ".avhd", VHD_FORMAT_VHD },
	};
	const char *dot = strrchr(path, '.');

	for (size_t i = 0; dot && i < SP_ARRAY_SIZE(endings); i++)
		if (strcasecmp(dot, endings[i].ending) == 0)
			return endings[i].id;
	return VHD_FORMAT_RAW;
}
