/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Persistent reservations on disk, beside the image: a few lines of text that an operator can read.
 *
 *	spindle reservations 1
 *	unit GUID
 *	reservation TYPE GUID		not without one; the GUID is that of the holder
 *	registration GUID KEY		one per nexus
 *	crc32c SUM			of all above
 *
 * The file is replaced as a whole. One that does not check out is no reason to guess: the cluster that made it believes
 * in its fences, so the unit does not start before somebody has looked.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/crc32c.h"
#include "base/seed.h"
#include "vhd/store.h"
#include "storvsp/scsi_reserve_int.h"

#define FIRST_LINE "spindle reservations 1"
#define FILE_MAX   16384u
#define REMEDY	   "; reservations of this disk are unknown: delete the file to drop them all"

struct scsi_reserve_file {
	struct store_folder *folder;
	bool own_folder;		/* otherwise the caller's */
	char *name, *temporary;		/* within it */
	struct sp_guid unit;
};

/* ---- reading -------------------------------------------------------------------------------------------- */

struct reader {
	const char *path, *at;
	unsigned line;
	struct sp_err *err;
};

/* The next line if it begins with @word, without that and the blank; NULL otherwise. */
static char *line_of(struct reader *r, const char *word, char *ret_rest, size_t size)
{
	size_t len = strcspn(r->at, "\n"), skip = strlen(word);

	if (r->at[len] != '\n' || len <= skip || memcmp(r->at, word, skip) != 0 || r->at[skip] != ' ' ||
	    len - skip - 1 >= size)
		return NULL;
	memcpy(ret_rest, r->at + skip + 1, len - skip - 1);
	ret_rest[len - skip - 1] = '\0';
	r->at += len + 1;
	r->line++;
	return ret_rest;
}

static int bad_line(const struct reader *r, const char *expected)
{
	return sp_err_set(r->err, -EBADMSG, "%s: line %u: expected \"%s\", found \"%.40s\"" REMEDY, r->path,
			  r->line + 1, expected, r->at);
}

/* "GUID" or "GUID rest" */
static bool take_guid(const char *text, struct sp_guid *ret_guid, const char **ret_rest)
{
	char guid[SP_GUID_TEXT];
	size_t len = strcspn(text, " ");

	if (len != SP_GUID_TEXT - 1)
		return false;
	memcpy(guid, text, len);
	guid[len] = '\0';
	*ret_rest = text[len] == ' ' ? text + len + 1 : text + len;
	return sp_guid_parse_le(guid, ret_guid) == 0;
}

static int read_registration(struct reader *r, const char *text, struct scsi_pr *pr)
{
	struct scsi_registration reg;
	const char *rest;
	char *end;

	if (pr->count == SCSI_REGISTRATIONS_MAX || !take_guid(text, &reg.nexus, &rest) || *rest == '\0')
		return -EBADMSG;
	errno = 0;
	reg.key = strtoull(rest, &end, 16);
	if (errno != 0 || *end != '\0' || reg.key == 0 || scsi_pr_find(pr, &reg.nexus))
		return -EBADMSG;
	pr->reg[pr->count++] = reg;
	return 0;
}

static int read_reservation(const char *text, struct scsi_pr *pr)
{
	const char *rest;

	if (text[0] < '0' || text[0] > '9' || text[1] != ' ' || !scsi_pr_type_ok((uint8_t)(text[0] - '0')))
		return -EBADMSG;
	pr->type = (uint8_t)(text[0] - '0');
	return take_guid(text + 2, &pr->holder, &rest) && *rest == '\0' ? 0 : -EBADMSG;
}

/* Everything above the sum is what its writer wrote. */
static int check_sum(struct reader *r, const char *text)
{
	const char *last = strstr(text, "\ncrc32c ");
	uint32_t sum;

	if (!last || strlen(last) != 17 || last[16] != '\n')
		return sp_err_set(r->err, -EBADMSG, "%s: the last line, the checksum, is missing or damaged" REMEDY,
				  r->path);
	sum = sp_crc32c(text, (size_t)(last + 1 - text));
	if (strtoull(last + 8, NULL, 16) != sum && !SP_SEED_BUG(SCSI_PR_NO_CRC))
		return sp_err_set(r->err, -EBADMSG, "%s: CRC-32C does not match, computed %08" PRIx32 REMEDY, r->path,
				  sum);
	return 0;
}

static int read_unit(struct reader *r, const struct sp_guid *unit)
{
	char rest[128], guid[SP_GUID_TEXT];
	struct sp_guid found;
	const char *end;

	if (!line_of(r, "spindle", rest, sizeof(rest)) || strcmp(rest, FIRST_LINE + 8) != 0)
		return bad_line(r, FIRST_LINE);
	if (!line_of(r, "unit", rest, sizeof(rest)) || !take_guid(rest, &found, &end) || *end != '\0')
		return bad_line(r, "unit GUID");
	if (sp_guid_equal(&found, unit))
		return 0;
	sp_guid_format_le(unit, guid);
	return sp_err_set(r->err, -ESTALE, "%s: reservations of unit %s, but this is %s" REMEDY, r->path, rest, guid);
}

static int parse(struct reader *r, const char *text, const struct sp_guid *unit, struct scsi_pr *pr)
{
	char rest[128];
	int ret = read_unit(r, unit);

	if (ret < 0)
		return ret;
	ret = check_sum(r, text);
	if (ret < 0)
		return ret;
	pr->aptpl = true;
	if (line_of(r, "reservation", rest, sizeof(rest)) && read_reservation(rest, pr) < 0)
		return bad_line(r, "reservation TYPE GUID");
	while (line_of(r, "registration", rest, sizeof(rest)))
		if (read_registration(r, rest, pr) < 0)
			return bad_line(r, "registration GUID KEY");
	if (!line_of(r, "crc32c", rest, sizeof(rest)) || *r->at != '\0')
		return bad_line(r, "crc32c SUM");
	if (pr->type != SCSI_PR_NONE && !scsi_pr_find(pr, &pr->holder))
		return sp_err_set(r->err, -EBADMSG, "%s: who holds the reservation is not registered" REMEDY, r->path);
	return 0;
}

static int read_text(struct store *s, char *text, uint64_t *ret_len)
{
	int r = store_size(s, ret_len);

	return r == 0 && *ret_len > 0 && *ret_len < FILE_MAX ? store_read(s, text, *ret_len, 0) : r;
}

/* 0: there is none. */
static int slurp(const struct scsi_reserve_file *f, char *text, const char *path, struct sp_err *err)
{
	struct store *s;
	uint64_t len;
	int r = store_folder_open(f->folder, f->name, STORE_NO_LOCK | STORE_REGULAR, &s, err);

	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	r = read_text(s, text, &len);
	store_close(s);
	if (r < 0)
		return sp_err_set(err, r, "%s: %s", path, strerror(-r));
	if (len == 0 || len >= FILE_MAX || memchr(text, '\0', len))
		return sp_err_set(err, -EBADMSG, "%s: not a file of reservations, it %s" REMEDY, path,
				  len == 0 ? "is empty" : len >= FILE_MAX ? "is too long" : "holds NUL bytes");
	text[len] = '\0';
	return (int)len;
}

/* ---- writing -------------------------------------------------------------------------------------------- */

struct text {
	char *data;
	size_t len;
};

static void add(struct text *text, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(struct text *text, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	text->len += (size_t)vsnprintf(text->data + text->len, FILE_MAX - text->len, fmt, ap);
	va_end(ap);
}

/* All registrants hold theirs; the file names the first. At most 64 lines of 70 bytes: FILE_MAX suffices. */
static void format(struct text *text, const struct sp_guid *unit, const struct scsi_pr *pr)
{
	char guid[SP_GUID_TEXT];

	sp_guid_format_le(unit, guid);
	add(text, FIRST_LINE "\nunit %s\n", guid);
	if (pr->type != SCSI_PR_NONE) {
		sp_guid_format_le(scsi_pr_all_registrants(pr->type) ? &pr->reg[0].nexus : &pr->holder, guid);
		add(text, "reservation %u %s\n", pr->type, guid);
	}
	for (unsigned i = 0; i < pr->count; i++) {
		sp_guid_format_le(&pr->reg[i].nexus, guid);
		add(text, "registration %s %016" PRIx64 "\n", guid, pr->reg[i].key);
	}
	add(text, "crc32c %08" PRIx32 "\n", sp_crc32c(text->data, text->len));
}

static int write_temporary(const struct scsi_reserve_file *f, const struct text *text)
{
	struct store *s;
	int r = store_folder_unlink(f->folder, f->temporary);	/* of a crash */

	if (r < 0 && r != -ENOENT)
		return r;
	r = store_folder_open(f->folder, f->temporary, STORE_RDWR | STORE_CREATE | STORE_NO_LOCK, &s, NULL);
	if (r < 0)
		return r;
	r = store_write(s, text->data, text->len, 0);
	if (r == 0)
		r = store_sync(s);
	store_close(s);
	return r;
}

static int replace(const struct scsi_reserve_file *f, const struct text *text)
{
	int r = write_temporary(f, text);

	if (r == 0)
		r = store_folder_rename(f->folder, f->temporary, f->name, true);
	if (r < 0) {
		store_folder_unlink(f->folder, f->temporary);
		return r;
	}
	return store_folder_sync(f->folder, f->name);
}

static int delete(const struct scsi_reserve_file *f)
{
	int r = store_folder_unlink(f->folder, f->name);

	return r < 0 && r != -ENOENT ? r : store_folder_sync(f->folder, f->name);
}

int scsi_reserve_file_save(struct scsi_reserve_file *f, const struct scsi_pr *pr)
{
	struct text text = { .data = sp_alloc(FILE_MAX) };
	int r;

	if (!text.data)
		return -ENOMEM;
	if (pr->aptpl && pr->count > 0) {
		format(&text, &f->unit, pr);
		r = replace(f, &text);
	} else {
		r = delete(f);
	}
	sp_free(text.data);
	return r;
}

/* ---- life ----------------------------------------------------------------------------------------------- */

static int find_folder(struct scsi_reserve_file *f, struct store_folder *folder, const char *path, struct sp_err *err)
{
	const char *slash = folder ? NULL : strrchr(path, '/');
	SP_AUTO_FREE char *parent = slash ? sp_asprintf("%.*s", (int)(slash - path + 1), path) : sp_strdup(".");

	f->name = sp_strdup(slash ? slash + 1 : path);
	f->temporary = sp_asprintf("%s.new", slash ? slash + 1 : path);
	if (!parent || !f->name || !f->temporary)
		return -ENOMEM;
	f->folder = folder;
	f->own_folder = !folder;
	return folder ? 0 : store_folder_host(parent, &f->folder, err);
}

int scsi_reserve_file_open(struct store_folder *folder, const char *path, const struct sp_guid *unit,
			   struct scsi_pr *ret_pr, struct scsi_reserve_file **ret_file, struct sp_err *err)
{
	struct scsi_reserve_file *f = sp_zalloc(sizeof(*f));
	SP_AUTO_FREE char *text = sp_alloc(FILE_MAX + 1);
	struct reader reader = { .path = path, .at = text, .err = err };
	struct scsi_pr pr = { 0 };
	int r = f && text ? 0 : -ENOMEM;

	if (r == 0) {
		f->unit = *unit;
		r = find_folder(f, folder, path, err);
	}
	if (r == 0)
		r = slurp(f, text, path, err);
	if (r > 0)
		r = parse(&reader, text, unit, &pr);
	if (r < 0) {
		scsi_reserve_file_close(f);
		return r == -ENOMEM ? sp_err_set(err, r, "no memory for reservations") : r;
	}
	*ret_pr = pr;
	*ret_file = f;
	return 0;
}

void scsi_reserve_file_close(struct scsi_reserve_file *f)
{
	if (!f)
		return;
	if (f->own_folder)
		store_folder_close(f->folder);
	sp_free(f->name);
	sp_free(f->temporary);
	sp_free(f);
}
