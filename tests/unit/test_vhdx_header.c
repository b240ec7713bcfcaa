/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/unit/rows.h"
#include "tests/unit/vhdx_image.h"

/* ---- vectors of vhd-formats 6.6 ------------------------------------------------------------------ */

static void crc_vectors(void **state)
{
	uint8_t buf[4096];

	assert_int_equal(sp_crc32c("123456789", 9), 0xe3069283);
	memset(buf, 0, sizeof(buf));
	assert_int_equal(sp_crc32c(buf, 32), 0x8a9136aa);
	assert_int_equal(sp_crc32c(buf, 4096), 0x98f94189);
	memset(buf, 0xff, 32);
	assert_int_equal(sp_crc32c(buf, 32), 0x62a8ab43);
	for (int i = 0; i < 32; i++)
		buf[i] = (uint8_t)i;
	assert_int_equal(sp_crc32c(buf, 32), 0x46dd794e);
}

static const struct vector { const char *name; uint64_t sequence; uint8_t log_guid; uint32_t crc; } vectors[] = {
	{ "H1", 1, 0, 0xca53ab11 },
	{ "H2", 2, 0, 0x48b67979 },
	{ "H3", 2, 3, 0xbe138638 },
};

static void encode_vector(void **state)
{
	const struct vector *v = *state;
	struct vhdx_header h = {
		.sequence_number = v->sequence, .version = 1, .log_length = 1 << 20, .log_offset = 1 << 20,
	};
	uint8_t by_hand[4096], encoded[4096];
	struct vhdx_header back;

	memset(&h.file_write_guid, 1, 16);
	memset(&h.data_write_guid, 2, 16);
	memset(&h.log_guid, v->log_guid, 16);
	vhdx_header_encode(&h, encoded);
	make_header(by_hand, v->sequence, v->log_guid);
	assert_int_equal(get32(encoded + 4), v->crc);
	assert_memory_equal(encoded, by_hand, 4096);
	must(vhdx_header_decode(encoded, M1_SIZE, &back, NULL));
	assert_memory_equal(&back.data_write_guid, &h.data_write_guid, 16);
	assert_memory_equal(&back.log_guid, &h.log_guid, 16);
	assert_int_equal(back.sequence_number, v->sequence);
	assert_int_equal(back.log_offset, 1 << 20);
	assert_int_equal(back.log_length, 1 << 20);
}

/* ---- one copy ------------------------------------------------------------------------------------ */

static const struct field {
	const char *name;
	size_t at;
	unsigned bytes;
	uint64_t value;
	bool stale;
	uint8_t log_guid;
	int want;
} fields[] = {
	{ "as written", 80, 1, 0, false, 0, 0 },
	{ "reserved bytes are ignored", 4000, 8, 0x1234, false, 0, 0 },
	{ "signature", 0, 1, 'H', false, 0, -EBADMSG },
	{ "stale CRC", 40, 1, 0x80, true, 0, -EBADMSG },
	{ "stale CRC at the end", 4095, 1, 1, true, 0, -EBADMSG },
	{ "version 2", 66, 2, 2, false, 0, -ENOTSUP },
	{ "version 0", 66, 2, 0, false, 0, -ENOTSUP },
	{ "log version 1, log empty", 64, 2, 1, false, 0, 0 },
	{ "log version 1, log in use", 64, 2, 1, false, 3, -ENOTSUP },
	{ "log length 0, log empty", 68, 4, 0, false, 0, 0 },
	{ "log length 0, log in use", 68, 4, 0, false, 3, -EBADMSG },
	{ "log length not in MiB", 68, 4, 0x101000, false, 0, -EBADMSG },
	{ "log length past the end", 68, 4, 4 << 20, false, 0, -EBADMSG },
	{ "log length over 1 GiB", 68, 4, 0x40100000, false, 0, -EBADMSG },
	{ "log offset 0", 72, 8, 0, false, 0, -EBADMSG },
	{ "log offset not in MiB", 72, 8, 0x100200, false, 0, -EBADMSG },
	{ "log offset at the end", 72, 8, 4 << 20, false, 0, -EBADMSG },
	{ "log offset that would wrap", 72, 8, 0xfffffffffff00000, false, 0, -EBADMSG },
};

static void decode_field(void **state)
{
	const struct field *f = *state;
	struct vhdx_header h;
	uint8_t buf[4096];

	make_header(buf, 1, f->log_guid);
	for (unsigned i = 0; i < f->bytes; i++)
		buf[f->at + i] = (uint8_t)(f->value >> 8 * i);
	if (!f->stale)
		seal(buf, 4096);
	assert_int_equal(vhdx_header_decode(buf, M1_SIZE, &h, NULL), f->want);
}

/* ---- choice -------------------------------------------------------------------------------------- */

/* Sequence 0: copy destroyed. @log_guid makes the copies differ beyond the sequence number. */
static const struct choice {
	const char *name;
	uint64_t sequence[2];
	uint8_t log_guid[2];
	int want;
	unsigned slot;
} choices[] = {
	{ "header 2 is newer", { 1, 2 }, { 0, 0 }, 0, 1 },
	{ "header 1 is newer", { 9, 8 }, { 3, 0 }, 0, 0 },
	{ "newer beyond 32 bits", { UINT64_C(1) << 32, 7 }, { 0, 0 }, 0, 0 },
	{ "only header 1", { 1, 0 }, { 0, 0 }, 0, 0 },
	{ "only header 2", { 0, 1 }, { 0, 0 }, 0, 1 },
	{ "none", { 0, 0 }, { 0, 0 }, -EBADMSG, 0 },
	{ "same number, identical", { 5, 5 }, { 0, 0 }, 0, 0 },
	{ "same number, different", { 5, 5 }, { 0, 3 }, -EBADMSG, 0 },
};

static void choose_current(void **state)
{
	const struct choice *c = *state;
	struct store *s = make_m1(M1_SIZE);
	struct vhdx_header h;
	struct sp_err err = { 0 };
	unsigned slot = 9;
	uint8_t buf[4096];

	for (unsigned i = 0; i < 2; i++) {
		make_header(buf, c->sequence[i], c->log_guid[i]);
		buf[100] ^= c->sequence[i] == 0;
		must(store_write(s, buf, 4096, VHDX_HEADER_OFFSET(i)));
	}
	assert_int_equal(vhdx_header_read_current(s, M1_SIZE, &h, &slot, &err), c->want);
	if (c->want == 0) {
		assert_int_equal(slot, c->slot);
		assert_int_equal(h.sequence_number, c->sequence[slot]);
		assert_int_equal(h.log_guid.b[0], c->log_guid[slot]);
	} else {
		assert_int_equal(err.code, c->want);
	}
	store_close(s);
}

/* A newer header that is intact but strange must not make the older one current. */
static void no_fall_back(void **state)
{
	struct store *s = make_m1(M1_SIZE);
	struct vhdx_header h;
	uint8_t buf[4096];
	unsigned slot;

	make_header(buf, 3, 0);
	put16(buf + 66, 2);
	seal(buf, 4096);
	must(store_write(s, buf, 4096, 0x10000));
	assert_int_equal(vhdx_header_read_current(s, M1_SIZE, &h, &slot, NULL), -ENOTSUP);
	store_close(s);
}

static void identifier(void **state)
{
	must(vhdx_check_identifier((const uint8_t *)"vhdxfile", 8, NULL));
	assert_int_equal(vhdx_check_identifier((const uint8_t *)"vhdxfile", 7, NULL), -EBADMSG);
	assert_int_equal(vhdx_check_identifier((const uint8_t *)"conectix", 8, NULL), -EBADMSG);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(crc_vectors), cmocka_unit_test(no_fall_back), cmocka_unit_test(identifier),
	};
	int failed = cmocka_run_group_tests_name("header", tests, NULL, NULL);

	failed += ROWS_RUN(vectors, encode_vector);
	failed += ROWS_RUN(fields, decode_field);
	failed += ROWS_RUN(choices, choose_current);
	return failed != 0;
}
