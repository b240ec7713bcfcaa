/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Inputs to and from bytes, and their changes applied to a copy of the seed image.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/env.h"
#include "tests/fuzz/fuzz.h"
#include "vhd/store_mem_int.h"

void fz_fail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("fuzz: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	abort();
}

/* ---- bytes ---------------------------------------------------------------------------------------- */

void fz_parse(const uint8_t *data, size_t size, struct fz_input *ret)
{
	const uint8_t *end = data + size;

	memset(ret, 0, sizeof(*ret));
	ret->seed = size > 0 ? data[0] : 0;
	ret->flags = size > 1 ? data[1] : 0;
	data += size < FZ_HEADER ? size : FZ_HEADER;
	while (ret->records < FZ_RECORDS && (size_t)(end - data) >= FZ_RECORD_SIZE) {
		struct fz_record *rec = &ret->record[ret->records++];
		le64_t offset;
		le16_t len;

		memcpy(&offset, data + 2, 8);
		memcpy(&len, data + 10, 2);
		rec->kind = data[0] % FZ_KINDS;
		rec->file = data[1];
		rec->offset = le64_get(offset);
		rec->len = le16_get(len);
		data += FZ_RECORD_SIZE;
		if (rec->kind != FZ_PATCH)
			continue;
		rec->len = (uint16_t)sp_min(rec->len, (size_t)(end - data));
		rec->bytes = data;
		data += rec->len;
	}
}

size_t fz_unparse(const struct fz_input *in, uint8_t *buf, size_t room)
{
	size_t at = FZ_HEADER;

	if (room < FZ_HEADER)
		return 0;
	buf[0] = in->seed;
	buf[1] = in->flags;
	for (unsigned i = 0; i < in->records; i++) {
		const struct fz_record *rec = &in->record[i];
		size_t payload = rec->kind == FZ_PATCH ? rec->len : 0;
		le64_t offset = le64_make(rec->offset);
		le16_t len = le16_make(rec->len);

		if (room - at < FZ_RECORD_SIZE + payload)
			continue;
		buf[at] = (uint8_t)rec->kind;
		buf[at + 1] = rec->file;
		memcpy(buf + at + 2, &offset, 8);
		memcpy(buf + at + 10, &len, 2);
		if (payload)
			memcpy(buf + at + FZ_RECORD_SIZE, rec->bytes, payload);
		at += FZ_RECORD_SIZE + payload;
	}
	return at;
}

/* ---- applying ------------------------------------------------------------------------------------- */

struct store *fz_store(struct fz_case *c, unsigned file, bool writable)
{
	struct mem_file *f = file < c->seed->files ? store_folder_mem_get(c->folder, c->seed->name[file]) : NULL;
	struct mem_file *copy;
	struct store *s;

	if (!f)
		return NULL;
	fz_check(mem_file_clone(f, &copy) == 0 && mem_file_open(copy, c->seed->name[file], writable, &s) == 0,
		 "out of memory");
	mem_file_put(copy);
	return s;
}

/* Failures are fine: an offset past every limit, a full file. */
static void apply(struct fz_case *c, const struct fz_record *rec)
{
	unsigned file = rec->file % c->seed->files;
	struct mem_file *f = store_folder_mem_get(c->folder, c->seed->name[file]);
	struct store *s;

	if (rec->kind == FZ_OP || mem_file_open(f, "input", true, &s) < 0)
		return;
	switch (rec->kind) {
	case FZ_PATCH:
		store_write(s, rec->bytes, rec->len, rec->offset);
		break;
	case FZ_SIZE:
		store_resize(s, rec->offset);
		break;
	default:
		store_zero(s, rec->offset, (uint64_t)rec->len << 9);
		break;
	}
	store_close(s);
}

/* Time stands still and GUIDs count, so that an input always does the same. */
static unsigned guids;

static int64_t env_time(void *arg)
{
	return 1700000000;
}

static void env_guid(void *arg, struct sp_guid *ret_guid)
{
	guids++;
	memset(ret_guid, 0x5a, sizeof(*ret_guid));
	memcpy(ret_guid, &guids, sizeof(guids));
}

void fz_run(const struct fz_target *t, const uint8_t *data, size_t size)
{
	static const struct sp_env_hooks hooks = { .time = env_time, .guid = env_guid };
	struct fz_case c = { 0 };

	sp_env_set_hooks(&hooks);
	fz_parse(data, size, &c.in);
	c.seed = fz_seed(t->seed[c.in.seed % t->seeds]);
	guids = 1u << 20;	/* those of the seeds are below */
	fz_check(store_folder_mem_clone(c.seed->folder, &c.folder) == 0, "out of memory");
	for (unsigned i = 0; i < c.in.records; i++)
		apply(&c, &c.in.record[i]);
	for (unsigned file = 0; file < c.seed->files; file++)
		fz_seal(&c, file);
	fz_limits_begin();
	t->run(&c);
	fz_limits_end();
	store_folder_close(c.folder);
}
