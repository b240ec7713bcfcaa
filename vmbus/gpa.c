/* SPDX-License-Identifier: BSD-2-Clause */
/* The ranges of a GPA-direct packet: from the peer's page frame numbers to host memory, all of them or none. */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/seed.h"
#include "vmbus/gpadl.h"
#include "vmbus/vmbus_wire.h"

/* The list as it grows. */
struct walk {
	const struct vmbus_mem *mem;
	struct iovec *iov;
	int room, used;
};

static int add_piece(struct walk *w, uint8_t *at, uint32_t len)
{
	struct iovec *last = w->used > 0 ? &w->iov[w->used - 1] : NULL;

	if (last && (uint8_t *)last->iov_base + last->iov_len == at) {
		last->iov_len += len;
		return 0;
	}
	if (w->used == w->room)
		return -E2BIG;
	w->iov[w->used++] = (struct iovec){ at, len };
	return 0;
}

/* Only the first page may begin late, only the last may end early. @pfn: 8 bytes for each page touched. */
static int add_range(struct walk *w, uint32_t offset, uint32_t left, const uint8_t *pfn)
{
	for (; left > 0; pfn += sizeof(le64_t)) {
		uint32_t len = VMBUS_PAGE_SIZE - offset < left ? VMBUS_PAGE_SIZE - offset : left;
		uint8_t *page;
		le64_t number;
		int r;

		memcpy(&number, pfn, sizeof(number));
		page = vmbus_mem_page(w->mem, le64_get(number));
		if (!page)
			return -EFAULT;
		r = add_piece(w, page + offset, len);
		if (r < 0)
			return r;
		offset = 0;
		left -= len;
	}
	return 0;
}

/* @room: bytes behind the head of the range. @bytes: of all ranges before it, and then with it. */
static int check_range(const struct vmbus_gpa_range_wire *wire, uint32_t room, uint32_t *bytes, uint32_t *ret_pages)
{
	uint32_t count = le32_get(wire->byte_count), offset = le32_get(wire->byte_offset);
	uint64_t pages = ((uint64_t)offset + count + VMBUS_PAGE_SIZE - 1) / VMBUS_PAGE_SIZE;

	if (count == 0 || (offset >= VMBUS_PAGE_SIZE && !SP_SEED_BUG(GPA_OFFSET_NOT_CHECKED)))
		return -EBADMSG;
	if (count > VMBUS_GPA_BYTES_MAX - *bytes)
		return -E2BIG;
	if (pages * sizeof(le64_t) > room && !SP_SEED_BUG(GPA_PAGES_NOT_COUNTED))
		return -EBADMSG;
	*bytes += count;
	*ret_pages = (uint32_t)pages;
	return 0;
}

static int walk_ranges(struct walk *w, const uint8_t *at, uint32_t left, uint32_t *ret_bytes)
{
	struct vmbus_gpa_direct_wire head;
	uint32_t bytes = 0;

	if (left < sizeof(head))
		return -EBADMSG;
	memcpy(&head, at, sizeof(head));
	at += sizeof(head);
	left -= (uint32_t)sizeof(head);
	if (le32_get(head.range_count) == 0)
		return -EBADMSG;
	/* Each takes 16 bytes at least, so a wrong count ends soon. */
	for (uint32_t i = 0; i < le32_get(head.range_count); i++) {
		struct vmbus_gpa_range_wire range;
		uint32_t pages;
		int r;

		if (left < sizeof(range))
			return -EBADMSG;
		memcpy(&range, at, sizeof(range));
		at += sizeof(range);
		left -= (uint32_t)sizeof(range);
		r = check_range(&range, left, &bytes, &pages);
		if (r == 0)
			r = add_range(w, le32_get(range.byte_offset), le32_get(range.byte_count), at);
		if (r < 0)
			return r;
		at += pages * sizeof(le64_t);
		left -= pages * (uint32_t)sizeof(le64_t);
	}
	*ret_bytes = bytes;
	return 0;
}

int vmbus_gpa_iovec(const struct vmbus_mem *mem, const struct vmbus_packet *packet, struct iovec *ret_iov, int room,
		    uint32_t *ret_bytes)
{
	struct walk w = { .mem = mem, .iov = ret_iov, .room = room };
	uint32_t bytes = 0;
	int r = 0;

	if (packet->type == VMBUS_PACKET_GPA_DIRECT)
		r = walk_ranges(&w, packet->extra, packet->extra_len, &bytes);
	if (r < 0)
		return r;
	*ret_bytes = bytes;
	return w.used;
}
