/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * File type identifier and the two headers: decode, encode, choose the current one. [MS-VHDX] 2.2.1, 2.2.2.
 *
 * A header is valid when signature and checksum are good. What a valid header says (version, place of the log) is
 * judged only after the choice: falling back to the older copy because the newer one says something strange would
 * resurrect a LogGuid or DataWriteGuid of the past.
 */
#include "vhd/vhdx_int.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/seed.h"
#include "vhd/vhdx_layout.h"

int vhdx_check_identifier(const uint8_t *buf, size_t len, struct sp_err *err)
{
	if (len < 8 || memcmp(buf, VHDX_IDENTIFIER_SIGNATURE, 8) != 0)
		return sp_err_set(err, -EBADMSG, "file type identifier at 0 is not \"vhdxfile\": this is no VHDX file");
	return 0;
}

/* Signature and checksum only. */
static int header_parse(const uint8_t buf[static VHDX_HEADER_SIZE], struct vhdx_header *ret_hdr, struct sp_err *err)
{
	struct vhdx_header_disk d;
	uint32_t crc;

	memcpy(&d, buf, sizeof(d));
	if (memcmp(d.signature, VHDX_HEADER_SIGNATURE, 4) != 0)
		return sp_err_set(err, -EBADMSG, "signature is not \"head\"");
	crc = sp_crc32c_skip(buf, VHDX_HEADER_SIZE, offsetof(struct vhdx_header_disk, checksum));
	if (crc != le32_get(d.checksum) && !SP_SEED_BUG(VHDX_HEADER_NO_CRC))
		return sp_err_set(err, -EBADMSG, "checksum is %08" PRIx32 ", computed %08" PRIx32,
				  le32_get(d.checksum), crc);
	*ret_hdr = (struct vhdx_header){
		.sequence_number = le64_get(d.sequence_number),
		.file_write_guid = d.file_write_guid,
		.data_write_guid = d.data_write_guid,
		.log_guid = d.log_guid,
		.log_version = le16_get(d.log_version),
		.version = le16_get(d.version),
		.log_length = le32_get(d.log_length),
		.log_offset = le64_get(d.log_offset),
	};
	return 0;
}

static int log_place_check(const struct vhdx_header *h, uint64_t file_size, struct sp_err *err)
{
	if (h->log_length == 0) {
		if (!sp_guid_is_zero(&h->log_guid))
			return sp_err_set(err, -EBADMSG, "LogGuid is set but the log has length 0");
		return 0;
	}
	if (!sp_is_aligned(h->log_offset, VHDX_MIB) || h->log_offset < VHDX_HEADER_SECTION_SIZE)
		return sp_err_set(err, -EBADMSG, "log offset %#" PRIx64 " is not a multiple of 1 MiB from 1 MiB up",
				  h->log_offset);
	if (!sp_is_aligned(h->log_length, VHDX_MIB) || h->log_length > VHDX_LOG_LENGTH_MAX)
		return sp_err_set(err, -EBADMSG, "log length %#" PRIx32 " is not a multiple of 1 MiB up to 1 GiB",
				  h->log_length);
	if (!sp_range_ok(h->log_offset, h->log_length, file_size))
		return sp_err_set(err, -EBADMSG, "log at %#" PRIx64 " + %#" PRIx32 " reaches past the end of the file"
				  " (%#" PRIx64 ")", h->log_offset, h->log_length, file_size);
	return 0;
}

static int header_validate(const struct vhdx_header *h, uint64_t file_size, struct sp_err *err)
{
	if (h->version != VHDX_VERSION)
		return sp_err_set(err, -ENOTSUP, "version is %u, only 1 is known", h->version);
	if (h->log_version != VHDX_LOG_VERSION && !sp_guid_is_zero(&h->log_guid))
		return sp_err_set(err, -ENOTSUP, "the log is not empty and has version %u, only 0 is known",
				  h->log_version);
	return log_place_check(h, file_size, err);
}

/**
 * vhdx_header_decode - one header copy, all checks (X2 to X4)
 *
 * Returns 0, -EBADMSG (damaged, or the log lies where it cannot) or -ENOTSUP (another version). [MS-VHDX] 2.2.2.
 */
int vhdx_header_decode(const uint8_t buf[static VHDX_HEADER_SIZE], uint64_t file_size, struct vhdx_header *ret_hdr,
		       struct sp_err *err)
{
	struct vhdx_header h;
	int r = header_parse(buf, &h, err);

	if (r == 0)
		r = header_validate(&h, file_size, err);
	if (r == 0)
		*ret_hdr = h;
	return r;
}

void vhdx_header_encode(const struct vhdx_header *hdr, uint8_t ret_buf[static VHDX_HEADER_SIZE])
{
	struct vhdx_header_disk d = {
		.signature = { 'h', 'e', 'a', 'd' },
		.sequence_number = le64_make(hdr->sequence_number),
		.file_write_guid = hdr->file_write_guid,
		.data_write_guid = hdr->data_write_guid,
		.log_guid = hdr->log_guid,
		.log_version = le16_make(hdr->log_version),
		.version = le16_make(hdr->version),
		.log_length = le32_make(hdr->log_length),
		.log_offset = le64_make(hdr->log_offset),
	};

	memset(ret_buf, 0, VHDX_HEADER_SIZE);
	memcpy(ret_buf, &d, sizeof(d));
	d.checksum = le32_make(sp_crc32c(ret_buf, VHDX_HEADER_SIZE));
	memcpy(ret_buf, &d, sizeof(d));
}

struct header_copy {
	uint8_t bytes[VHDX_HEADER_SIZE];
	struct vhdx_header hdr;
	bool valid;
	struct sp_err err;
};

/* A copy in an unreadable sector is as good as a damaged one: that is what the second copy is for. */
static int copy_read(struct store *s, unsigned slot, struct header_copy *ret_copy)
{
	int r = store_read(s, ret_copy->bytes, VHDX_HEADER_SIZE, VHDX_HEADER_OFFSET(slot));

	if (r == 0)
		r = header_parse(ret_copy->bytes, &ret_copy->hdr, &ret_copy->err);
	else
		sp_err_set(&ret_copy->err, r, "cannot be read: %s", strerror(-r));
	ret_copy->valid = r == 0;
	return r == -EBADMSG || r == -EIO || r == -ENODATA ? 0 : r;
}

static int choose(const struct header_copy c[2], unsigned *ret_slot, struct sp_err *err)
{
	if (!c[0].valid && !c[1].valid)
		return sp_err_set(err, -EBADMSG, "no valid header: header 1 at 0x10000: %s; header 2 at 0x20000: %s",
				  sp_err_text(&c[0].err), sp_err_text(&c[1].err));
	if (c[0].valid != c[1].valid) {
		*ret_slot = c[0].valid ? 0 : 1;
		return 0;
	}
	if (c[0].hdr.sequence_number != c[1].hdr.sequence_number) {
		*ret_slot = c[0].hdr.sequence_number > c[1].hdr.sequence_number ? 0 : 1;
		return 0;
	}
	/* Disk2vhd and MakeVHDX write the same header twice, which harms nobody. */
	if (memcmp(c[0].bytes, c[1].bytes, VHDX_HEADER_SIZE) != 0)
		return sp_err_set(err, -EBADMSG, "header 1 and header 2 differ but have the same sequence number "
				  "%" PRIu64 ": no current header", c[0].hdr.sequence_number);
	*ret_slot = 0;
	return 0;
}

/**
 * vhdx_header_read_current - both copies from @s, choice, and all checks on the chosen one
 * @ret_slot: 0 for header 1, 1 for header 2
 *
 * Returns 0, -EBADMSG, -ENOTSUP or what reading failed with (other than -EIO on one of the copies).
 */
int vhdx_header_read_current(struct store *s, uint64_t file_size, struct vhdx_header *ret_hdr, unsigned *ret_slot,
			     struct sp_err *err)
{
	struct header_copy *c = sp_calloc(2, sizeof(*c));
	unsigned slot = 0;
	int r = 0;

	if (!c)
		return sp_err_set(err, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < 2 && r == 0; i++) {
		r = copy_read(s, i, &c[i]);
		if (r < 0)
			sp_err_set(err, r, "header %u at %#x %s", i + 1, VHDX_HEADER_OFFSET(i), sp_err_text(&c[i].err));
	}
	if (r == 0)
		r = choose(c, &slot, err);
	if (r == 0) {
		r = header_validate(&c[slot].hdr, file_size, err);
		if (r < 0)
			sp_err_prefix(err, r, "header %u at %#x", slot + 1, VHDX_HEADER_OFFSET(slot));
	}
	if (r == 0) {
		*ret_hdr = c[slot].hdr;
		*ret_slot = slot;
	}
	sp_free(c);
	return r;
}
