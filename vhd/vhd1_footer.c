/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Footers: checksum, validation, and which of the two to believe. vhd-formats.md 1.2 to 1.5.
 *
 * The end footer is the authority. The copy at offset 0 is used when the end one is lost, which also covers XenServer
 * (it kills the end footer while it writes); it counts only when it describes a sparse image, because offset 0 of a
 * fixed image belongs to the guest. The virtual size is "current size" whatever the creator: other readers guess
 * between it and the CHS product, and a geometry by the algorithm is never larger.
 */
#include "vhd/vhd1_int.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/env.h"

uint32_t vhd1_checksum(const void *bytes, size_t len, size_t skip)
{
	const uint8_t *b = bytes;
	uint32_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum += i - skip < 4 ? 0 : b[i];		/* i < skip wraps to a huge number */
	return ~sum;
}

void vhd1_footer_seal(struct vhd1_footer_disk *f)
{
	f->checksum = be32_make(vhd1_checksum(f, sizeof(*f), offsetof(struct vhd1_footer_disk, checksum)));
}

int vhd1_footer_validate(const struct vhd1_footer_disk *f, struct sp_err *err)
{
	uint32_t sum = vhd1_checksum(f, sizeof(*f), offsetof(struct vhd1_footer_disk, checksum));
	uint32_t type = be32_get(f->type);
	uint64_t size = be64_get(f->current_size);

	if (memcmp(f->cookie, VHD1_COOKIE, sizeof(f->cookie)) != 0)
		return sp_err_set(err, -EBADMSG, "cookie \"conectix\" missing");
	if (sum != be32_get(f->checksum))
		return sp_err_set(err, -EBADMSG, "checksum is %08" PRIx32 ", computed %08" PRIx32,
				  be32_get(f->checksum), sum);
	if (be32_get(f->version) >> 16 != VHD1_VERSION >> 16)
		return sp_err_set(err, -ENOTSUP, "format version is %08" PRIx32 ", expected 1.0", be32_get(f->version));
	if (type < VHD1_TYPE_FIXED || type > VHD1_TYPE_DIFFERENCING)
		return sp_err_set(err, -ENOTSUP, "disk type is %" PRIu32
				  ", expected 2 (fixed), 3 (dynamic) or 4 (differencing)", type);
	if (size == 0 || size % VHD1_SECTOR != 0 || size > INT64_MAX)
		return sp_err_set(err, -EBADMSG, "current size is %" PRIu64 ", expected a positive multiple of 512",
				  size);
	if (type != VHD1_TYPE_FIXED && size / VHD1_SECTOR > UINT32_MAX)
		return sp_err_set(err, -EBADMSG, "current size is %" PRIu64 ", more than a dynamic image can address",
				  size);
	return 0;
}

/* The last 512 or, by old products, 511 bytes. Sets end, end_offset; -EBADMSG when nothing valid is there. */
static int read_end(struct store *s, struct vhd1_footers *f, struct vhd1_footer_disk *ret, struct sp_err *err)
{
	uint64_t n = f->file_size;
	struct vhd1_footer_disk d;
	const uint8_t *b = (const uint8_t *)&d;
	int r, r_short;

	f->end = VHD1_END_BAD;
	f->end_offset = n;
	r = store_read(s, &d, sizeof(d), n - sizeof(d));
	if (r < 0)
		return sp_err_set(err, r, "cannot read it: %s", strerror(-r));
	r = vhd1_footer_validate(&d, err);
	if (r == 0) {
		f->end = VHD1_END_GOOD;
		f->end_offset = n - sizeof(d);
		*ret = d;
		return 0;
	}
	if (memcmp(d.cookie, VHD1_COOKIE_DISABLED, sizeof(d.cookie)) == 0)
		return sp_err_set(err, -ENOTSUP, "cookie is \"v_poison\": XenServer has disabled this image");
	if (b[0] == VHD1_KILLED_BYTE && memcmp(b, b + 1, sizeof(d) - 1) == 0) {
		f->end = VHD1_END_KILLED;
		return sp_err_set(err, -EBADMSG, "overwritten with 0xC7, XenServer did not close the image");
	}
	if (n % VHD1_SECTOR != VHD1_SECTOR - 1)
		return r;

	memmove(&d, b + 1, sizeof(d) - 1);
	d.reserved[sizeof(d.reserved) - 1] = 0;
	r_short = vhd1_footer_validate(&d, NULL);
	if (r_short < 0)
		return r;
	f->end = VHD1_END_SHORT;
	f->end_offset = n - (sizeof(d) - 1);
	*ret = d;
	return 0;
}

int vhd1_footer_locate(struct store *s, struct vhd1_footers *ret, struct sp_err *err)
{
	struct vhd1_footer_disk copy;
	struct sp_err why = { 0 };
	int r, r_end;

	memset(ret, 0, sizeof(*ret));
	r = store_size(s, &ret->file_size);
	if (r < 0)
		return sp_err_set(err, r, "cannot learn the file size: %s", strerror(-r));
	if (ret->file_size < VHD1_SECTOR)
		return sp_err_set(err, -EBADMSG, "%" PRIu64 " bytes are too short for a VHD footer", ret->file_size);
	r_end = read_end(s, ret, &ret->footer, &why);
	if (r_end < 0 && r_end != -EBADMSG)
		return sp_err_set(err, r_end, "footer at %" PRIu64 ": %s", ret->file_size - VHD1_SECTOR, why.text);
	r = store_read(s, &copy, sizeof(copy), 0);
	if (r < 0)
		return sp_err_set(err, r, "cannot read the footer copy at 0: %s", strerror(-r));
	if (r_end < 0 && memcmp(copy.cookie, VHD1_COOKIE_DISABLED, sizeof(copy.cookie)) == 0)
		return sp_err_set(err, -ENOTSUP,
				  "footer copy at 0: cookie is \"v_poison\": XenServer has disabled this image");

	ret->copy_good = vhd1_footer_validate(&copy, NULL) == 0 && vhd1_is_sparse(&copy) &&
			 (r_end < 0 || vhd1_is_sparse(&ret->footer));
	if (r_end < 0 && !ret->copy_good)
		return sp_err_set(err, -EBADMSG, "footer at %" PRIu64 ": %s; no valid copy at 0 either (if parts .v01, "
				  ".v02 ... lie beside it, join them first)", ret->file_size - VHD1_SECTOR, why.text);
	if (r_end < 0)
		ret->footer = copy;
	ret->copy_same = ret->copy_good && memcmp(&copy, &ret->footer, sizeof(copy)) == 0;
	return 0;
}

void vhd1_footer_set_size(struct vhd1_footer_disk *f, uint64_t size)
{
	struct vhd1_chs chs = vhd1_chs_from_sectors(size / VHD1_SECTOR);

	f->current_size = be64_make(size);
	f->cylinders = be16_make(chs.cylinders);
	f->heads = chs.heads;
	f->sectors_per_track = chs.sectors;
}

/*
 * Creator "win " because readers decide by it how large the disk is: every version of QEMU and everything by
 * Microsoft takes the exact size for it, while programs of the Virtual PC age find a correct geometry.
 */
void vhd1_footer_make(struct vhd1_footer_disk *f, uint32_t type, uint64_t size)
{
	memset(f, 0, sizeof(*f));
	memcpy(f->cookie, VHD1_COOKIE, sizeof(f->cookie));
	f->features = be32_make(VHD1_FEATURE_RESERVED);
	f->version = be32_make(VHD1_VERSION);
	f->data_offset = be64_make(type == VHD1_TYPE_FIXED ? VHD1_NOWHERE : sizeof(*f));
	f->timestamp = be32_make(vhd1_time_from_unix(sp_env_time()));
	memcpy(f->creator, "win ", sizeof(f->creator));
	f->creator_version = be32_make(0x000a0000);
	memcpy(f->host_os, "Wi2k", sizeof(f->host_os));
	f->original_size = be64_make(size);
	vhd1_footer_set_size(f, size);
	f->type = be32_make(type);
	sp_env_guid(&f->unique_id);
	vhd1_footer_seal(f);
}

/* VHDX has its signature in front, where a fixed VHD has guest data; its size is a multiple of 1 MiB. */
static bool looks_like_vhdx(const struct vhd_probe *p)
{
	return p->head_len >= 8 && memcmp(p->head, "vhdxfile", 8) == 0 && p->file_size % SP_MIB(1) == 0;
}

int vhd1_probe(const struct vhd_probe *p)
{
	struct vhd1_footer_disk d = { 0 };

	if (p->tail_len >= sizeof(d)) {
		memcpy(&d, p->tail, sizeof(d));
		if (vhd1_footer_validate(&d, NULL) == 0)
			return looks_like_vhdx(p) ? 10 : 100;
	}
	if (p->head_len >= sizeof(d)) {
		memcpy(&d, p->head, sizeof(d));
		if (vhd1_footer_validate(&d, NULL) == 0 && vhd1_is_sparse(&d))
			return 95;
		if (memcmp(d.cookie, VHD1_COOKIE, 8) == 0 || memcmp(d.cookie, VHD1_COOKIE_DISABLED, 8) == 0)
			return 50;
	}
	if (p->tail_len >= sizeof(d)) {
		memcpy(&d, p->tail, sizeof(d));
		if (memcmp(d.cookie, VHD1_COOKIE, 8) == 0 || memcmp(d.cookie, VHD1_COOKIE_DISABLED, 8) == 0 ||
		    memcmp(p->tail + 1, VHD1_COOKIE, 8) == 0)
			return looks_like_vhdx(p) ? 5 : 50;
	}
	return 0;
}
