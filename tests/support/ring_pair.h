/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_RING_PAIR_H
#define SPINDLE_TESTS_RING_PAIR_H
/*
 * A peer's memory without a machine around it, and a channel with both of its ends in this process.
 */
#include <stdint.h>

#include "vmbus/channel.h"
#include "vmbus/gpadl.h"
#include "vmbus/mem.h"

/* Two stretches of RAM with a hole between them, as in a machine; neighbours in this process and in one memfd. */
#define TEST_MEM_LOW  0x01000000ull
#define TEST_MEM_HIGH 0x100000000ull

struct test_mem {
	struct vmbus_mem mem;		/* for whoever is tested; do not move the struct afterwards */
	int fd;
	uint8_t *base;
	unsigned pages;			/* the first half lies at TEST_MEM_LOW, the rest at TEST_MEM_HIGH */
	unsigned taken;
};

void test_mem_open(struct test_mem *m, unsigned pages);	/* aborts when it cannot be had, as all of these */
void test_mem_close(struct test_mem *m);
uint64_t test_mem_pfn(const struct test_mem *m, unsigned page);	/* of the page-th page; past the end: no RAM */
void *test_mem_at(const struct test_mem *m, uint64_t pfn);
/* Pages nobody has yet, in order, as their numbers (not frame numbers): test_mem_pfn(m, first + i). */
unsigned test_mem_take(struct test_mem *m, unsigned pages);

struct ring_pair {
	struct test_mem *mem;
	struct vmbus_gpadl *gpadl;
	struct vmbus_mapping mapping;
	unsigned first, up_pages, down_pages;
	struct vmbus_channel host, guest;	/* event_fd: not blocking; each end signals the other */
};

/* Rings of @up and @down pages, control page included, over fresh pages of @mem. */
void ring_pair_open(struct ring_pair *p, struct test_mem *mem, unsigned up, unsigned down);
void ring_pair_close(struct ring_pair *p);

#endif
