/* SPDX-License-Identifier: BSD-2-Clause */
#include "tools/manifest.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"

#define SIZE_MAX_BYTES SP_TIB(64)	/* no format holds more; bounds the memory for hashes */

void tool_hash_text(const uint8_t hash[static 32], char ret_text[static TOOL_HASH_TEXT])
{
	for (int i = 0; i < 32; i++)
		snprintf(ret_text + 2 * i, 3, "%02x", hash[i]);
}

/* ---- writing ------------------------------------------------------------------------------------- */

static int write_lines(FILE *f, const struct vhd_hash *hash)
{
	char text[TOOL_HASH_TEXT];

	tool_hash_text(hash->disk, text);
	fprintf(f, "spindle-manifest 1\nsize %" PRIu64 "\nchunk %u\nsha256 %s\n", hash->size, VHD_HASH_CHUNK, text);
	for (uint64_t i = 0; i < hash->chunks; i++) {
		tool_hash_text(hash->chunk[i], text);
		fprintf(f, "%" PRIu64 " %s\n", i, text);
	}
	return fflush(f) == 0 && !ferror(f) ? 0 : -EIO;
}

int tool_manifest_write(const char *path, const struct vhd_hash *hash, struct sp_err *err)
{
	SP_AUTO_FREE char *temp = NULL;
	FILE *f;
	int r = 0;

	if (strcmp(path, "-") == 0)
		return write_lines(stdout, hash) < 0 ? sp_err_set(err, -EIO, "cannot write the manifest") : 0;
	temp = sp_asprintf("%s.part", path);
	if (!temp)
		return sp_err_set(err, -ENOMEM, "out of memory");
	f = fopen(temp, "wxe");
	if (!f)
		return sp_err_set(err, -errno, "cannot write %s: %s", temp, strerror(errno));
	if (write_lines(f, hash) < 0 || fsync(fileno(f)) < 0)
		r = -EIO;
	if (fclose(f) != 0 || (r == 0 && rename(temp, path) < 0))
		r = -EIO;
	if (r < 0) {
		unlink(temp);
		return sp_err_set(err, r, "cannot write the manifest %s", path);
	}
	return 0;
}

/* ---- reading ------------------------------------------------------------------------------------- */

struct reader {
	FILE *f;
	char line[128];
	uint64_t number;	/* of the line, from 1 */
};

static int bad_line(const struct reader *r, const char *expected, struct sp_err *err)
{
	return sp_err_set(err, -EBADMSG, "line %" PRIu64 " of the manifest: %s expected", r->number, expected);
}

static bool next_line(struct reader *r)
{
	size_t n;

	r->number++;
	if (!fgets(r->line, sizeof(r->line), r->f))
		return false;
	n = strlen(r->line);
	if (n == 0 || r->line[n - 1] != '\n')
		return false;
	r->line[n - 1] = '\0';
	return true;
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool parse_hash(const char *text, uint8_t ret[static 32])
{
	for (int i = 0; i < 32; i++) {
		int high = hex_digit(text[2 * i]), low = high < 0 ? -1 : hex_digit(text[2 * i + 1]);

		if (low < 0)
			return false;
		ret[i] = (uint8_t)(high << 4 | low);
	}
	return text[64] == '\0';
}

/* "KEY VALUE" with a decimal value. */
static bool parse_number(const char *line, const char *key, uint64_t *ret)
{
	size_t n = strlen(key);
	char *end;

	if (strncmp(line, key, n) != 0 || line[n] != ' ' || line[n + 1] < '0' || line[n + 1] > '9')
		return false;
	errno = 0;
	*ret = strtoull(line + n + 1, &end, 10);
	return errno == 0 && *end == '\0';
}

static int read_head(struct reader *r, struct vhd_hash *h, struct sp_err *err)
{
	uint64_t chunk;

	if (!next_line(r) || strcmp(r->line, "spindle-manifest 1") != 0)
		return bad_line(r, "\"spindle-manifest 1\"", err);
	if (!next_line(r) || !parse_number(r->line, "size", &h->size) || h->size > SIZE_MAX_BYTES)
		return bad_line(r, "\"size BYTES\"", err);
	if (!next_line(r) || !parse_number(r->line, "chunk", &chunk) || chunk != VHD_HASH_CHUNK)
		return bad_line(r, "\"chunk 1048576\"", err);
	if (!next_line(r) || strncmp(r->line, "sha256 ", 7) != 0 || !parse_hash(r->line + 7, h->disk))
		return bad_line(r, "\"sha256 HASH\"", err);
	return 0;
}

/* Grows with what the file really holds: a size of 64 TiB in line 2 allocates nothing yet. */
static int read_chunks(struct reader *r, struct vhd_hash *h, struct sp_err *err)
{
	uint64_t want = sp_div_ceil(h->size, VHD_HASH_CHUNK), room = 0;
	char prefix[24];

	for (; h->chunks < want; h->chunks++) {
		int n = snprintf(prefix, sizeof(prefix), "%" PRIu64 " ", h->chunks);

		if (h->chunks == room) {
			void *grown = sp_realloc(h->chunk, (size_t)(room = room ? 2 * room : 1024) * 32);

			if (!grown)
				return sp_err_set(err, -ENOMEM, "out of memory");
			h->chunk = grown;
		}
		if (!next_line(r) || strncmp(r->line, prefix, (size_t)n) != 0 ||
		    !parse_hash(r->line + n, h->chunk[h->chunks]))
			return bad_line(r, "\"INDEX HASH\"", err);
	}
	return next_line(r) ? bad_line(r, "end of file", err) : 0;
}

int tool_manifest_read(const char *path, struct vhd_hash *ret_hash, struct sp_err *err)
{
	struct reader r = { .f = fopen(path, "re") };
	struct vhd_hash h = { 0 };
	int ret;

	if (!r.f)
		return sp_err_set(err, -errno, "%s", strerror(errno));
	ret = read_head(&r, &h, err);
	if (ret == 0)
		ret = read_chunks(&r, &h, err);
	fclose(r.f);
	if (ret < 0) {
		vhd_hash_fini(&h);
		return ret;
	}
	*ret_hash = h;
	return 0;
}
