/* SPDX-License-Identifier: BSD-2-Clause */
/* Ranges of GPA-direct packets. Memory: pages 0x1000 .. 0x1007 and 0x100000 .. 0x100007, neighbours in this process. */
#include <errno.h>

#include "base/bytes.h"
#include "tests/support/ring_pair.h"
#include "tests/unit/rows.h"
#include "vmbus/vmbus_wire.h"

#define PAGES 16u
#define PIECES 4

struct range {
	uint32_t bytes, offset;
	uint64_t pfn[4];
	unsigned pfns;
};

struct piece {
	unsigned page;
	uint32_t offset, len;
};

static const struct gpa_case {
	const char *name;
	struct range range[3];
	unsigned ranges;		/* in the packet */
	uint32_t claim;			/* what the packet says; 0: as many as there are */
	int want;			/* pieces */
	struct piece piece[PIECES];
	uint32_t cut;			/* bytes missing at the end */
} cases[] = {
	{ "part of a page", { { 36, 0x800, { 0x1002 }, 1 } }, 1, 0, 1, { { 2, 0x800, 36 } } },
	{ "a whole page", { { 4096, 0, { 0x1002 }, 1 } }, 1, 0, 1, { { 2, 0, 4096 } } },
	{ "to the end of the page", { { 1, 4095, { 0x1002 }, 1 } }, 1, 0, 1, { { 2, 4095, 1 } } },
	{ "neighbours are joined", { { 8192, 0, { 0x1002, 0x1003 }, 2 } }, 1, 0, 1, { { 2, 0, 8192 } } },
	{ "neighbours across the hole", { { 8192, 0, { 0x1007, 0x100000 }, 2 } }, 1, 0, 1, { { 7, 0, 8192 } } },
	{ "late begin, early end", { { 4096, 0x200, { 0x1002, 0x1005 }, 2 } }, 1, 0, 2,
	  { { 2, 0x200, 0xe00 }, { 5, 0, 0x200 } } },
	{ "backwards", { { 8192, 0, { 0x1003, 0x1002 }, 2 } }, 1, 0, 2, { { 3, 0, 4096 }, { 2, 0, 4096 } } },
	{ "three ranges", { { 10, 5, { 0x1001 }, 1 }, { 4097, 4095, { 0x1004, 0x1006 }, 2 }, { 1, 0, { 0x1000 }, 1 } },
	  3, 0, 4, { { 1, 5, 10 }, { 4, 4095, 1 }, { 6, 0, 4096 }, { 0, 0, 1 } } },
	{ "ranges that touch", { { 10, 5, { 0x1001 }, 1 }, { 7, 15, { 0x1001 }, 1 } }, 2, 0, 1, { { 1, 5, 17 } } },
	{ "more pages than needed", { { 10, 0, { 0x1001, 0x1002 }, 2 } }, 1, 0, 1, { { 1, 0, 10 } } },
	{ "fewer ranges than there are", { { 10, 0, { 0x1001 }, 1 }, { 9, 0, { 0x1003 }, 1 } }, 2, 1, 1,
	  { { 1, 0, 10 } } },
	{ "more pieces than room", { { 20480 - 8192, 0, { 0x1001, 0x1003, 0x1005 }, 3 },
				     { 8192, 0, { 0x1001, 0x1003 }, 2 } }, 2, 0, -E2BIG },
	{ "no ranges", { { 0 } }, 0, 0, -EBADMSG },
	{ "nothing in the range", { { 0, 0, { 0x1001 }, 1 } }, 1, 0, -EBADMSG },
	{ "offset of a page", { { 10, 4096, { 0x1001, 0x1002 }, 2 } }, 1, 0, -EBADMSG },
	{ "offset far out", { { 10, 0xfffffff8, { 0x1001 }, 1 } }, 1, 0, -EBADMSG },
	{ "one page too few", { { 4096, 1, { 0x1001 }, 1 } }, 1, 0, -EBADMSG },
	{ "one byte too few", { { 10, 0, { 0x1001 }, 1 } }, 1, 0, -EBADMSG, { { 0 } }, 1 },
	{ "no page at all", { { 10, 0, { 0 }, 0 } }, 1, 0, -EBADMSG },
	{ "cut inside the head of the packet", { { 0 } }, 0, 1, -EBADMSG, { { 0 } }, 4 },
	{ "more ranges than there are", { { 10, 0, { 0x1001 }, 1 } }, 1, 2, -EBADMSG },
	{ "four thousand million ranges", { { 10, 0, { 0x1001 }, 1 } }, 1, UINT32_MAX, -EBADMSG },
	{ "more bytes than allowed", { { VMBUS_GPA_BYTES_MAX + 1, 0, { 0x1001 }, 1 } }, 1, 0, -E2BIG },
	{ "a sum that wraps", { { 4096, 0, { 0x1001 }, 1 }, { UINT32_MAX - 4095, 0, { 0x1002 }, 1 } }, 2, 0, -E2BIG },
	{ "not RAM", { { 10, 0, { 0x1008 }, 1 } }, 1, 0, -EFAULT },
	{ "second page not RAM", { { 8192, 0, { 0x1001, 0x2000 }, 2 } }, 1, 0, -EFAULT },
	{ "an address that wraps", { { 10, 0, { (1ull << 52) + 0x1001 }, 1 } }, 1, 0, -EFAULT },
};

/* On the heap, to the byte: what reads past the end is found. */
static uint8_t *encode(const struct gpa_case *row, uint32_t *ret_len)
{
	uint8_t whole[256], *at = whole, *exact;
	struct vmbus_gpa_direct_wire head = { .reserved = le32_make(0xdeadbeef),
					      .range_count = le32_make(row->claim ? row->claim : row->ranges) };

	memcpy(at, &head, sizeof(head));
	at += sizeof(head);
	for (unsigned i = 0; i < row->ranges; i++) {
		const struct range *r = &row->range[i];
		struct vmbus_gpa_range_wire wire = { le32_make(r->bytes), le32_make(r->offset) };

		memcpy(at, &wire, sizeof(wire));
		at += sizeof(wire);
		for (unsigned n = 0; n < r->pfns; n++, at += 8) {
			le64_t pfn = le64_make(r->pfn[n]);

			memcpy(at, &pfn, sizeof(pfn));
		}
	}
	*ret_len = (uint32_t)(at - whole) - row->cut;
	exact = malloc(*ret_len);
	assert_non_null(exact);
	memcpy(exact, whole, *ret_len);
	return exact;
}

static void translate(void **state)
{
	const struct gpa_case *row = *state;
	struct vmbus_packet p = { .type = VMBUS_PACKET_GPA_DIRECT };
	struct iovec iov[PIECES + 1];
	uint32_t bytes = 77, sum = 0;
	struct test_mem mem;
	uint8_t *extra;

	test_mem_open(&mem, PAGES);
	extra = encode(row, &p.extra_len);
	p.extra = extra;
	iov[PIECES].iov_base = extra;
	assert_int_equal(vmbus_gpa_iovec(&mem.mem, &p, iov, PIECES, &bytes), row->want);
	for (int i = 0; i < row->want; i++) {
		const struct piece *want = &row->piece[i];

		assert_ptr_equal(iov[i].iov_base, mem.base + want->page * VMBUS_PAGE_SIZE + want->offset);
		assert_int_equal(iov[i].iov_len, want->len);
		sum += want->len;
	}
	assert_int_equal(bytes, row->want < 0 ? 77 : sum);
	assert_ptr_equal(iov[PIECES].iov_base, extra);
	/* The same in a packet that has no ranges. */
	p.type = VMBUS_PACKET_INBAND;
	assert_int_equal(vmbus_gpa_iovec(&mem.mem, &p, iov, PIECES, &bytes), 0);
	assert_int_equal(bytes, 0);
	free(extra);
	test_mem_close(&mem);
}

int main(void)
{
	return ROWS_RUN(cases, translate);
}
