/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMBUS_GPADL_H
#define SPINDLE_VMBUS_GPADL_H
/*
 * Guest physical address descriptor list: a list of the peer's pages, copied and frozen when it is made; and walking
 * the ranges of a GPA-direct packet.
 */
#include <stdint.h>
#include <sys/uio.h>

#include "vmbus/mem.h"
#include "vmbus/ring.h"

struct vmbus_gpadl;

/* @pfn is copied. Every page must be RAM now. 0, -EINVAL (no pages, or too many), -EFAULT (not RAM), -ENOMEM. */
int vmbus_gpadl_new(const struct vmbus_mem *mem, const uint64_t *pfn, unsigned count, struct vmbus_gpadl **ret_gpadl);
/* No mapping of it may be left. */
void vmbus_gpadl_free(struct vmbus_gpadl *g);
unsigned vmbus_gpadl_pages(const struct vmbus_gpadl *g);

/* A stretch of its pages, linear in this process: in RAM when they lie there in order, otherwise mapped again. */
struct vmbus_mapping {
	uint8_t *base;
	size_t len;
	bool mapped_again;
};
int vmbus_gpadl_map(const struct vmbus_gpadl *g, unsigned first, unsigned count, struct vmbus_mapping *ret_mapping);
void vmbus_mapping_release(struct vmbus_mapping *m);

/*
 * The ranges of a GPA-direct packet (packet->extra of a type 9 packet, already copied) as host memory. Ranges follow
 * each other; pages that are neighbours in this process are joined.
 */
#define VMBUS_GPA_BYTES_MAX (64u << 20)
/**
 * vmbus_gpa_iovec - translate all ranges, or nothing
 * Returns how many iovecs, -EBADMSG (malformed), -EFAULT (a page is not RAM), -E2BIG (more than @room iovecs or
 * VMBUS_GPA_BYTES_MAX). A packet of another type has no ranges: 0.
 */
int vmbus_gpa_iovec(const struct vmbus_mem *mem, const struct vmbus_packet *packet, struct iovec *ret_iov, int room,
		    uint32_t *ret_bytes);

#endif
