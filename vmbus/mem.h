/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMBUS_MEM_H
#define SPINDLE_VMBUS_MEM_H
/*
 * The peer's memory: a guest's RAM, a client's memfd. The peer may change any byte of it at any time, so it is read
 * through the functions below and nothing else: each copies once, and only the copy is looked at afterwards.
 *
 * With VMBUS_HOSTILE defined (the guest fuzzer) every load draws fresh bytes from the fuzzer's input, which turns a
 * second fetch of the same field into a crash that can be repeated.
 */
#include <stddef.h>
#include <stdint.h>

#define VMBUS_PAGE_SIZE 4096u
#define VMBUS_PAGE_SHIFT 12

struct iovec;

/* How to reach it. All from any thread; the memory lives at least as long as every channel over it. */
struct vmbus_mem_ops {
	/* Host address of [gpa, gpa + len), len > 0, when all of it is plain RAM, linear in this process; else NULL. */
	void *(*map)(void *ctx, uint64_t gpa, uint64_t len);
	/* The file behind that range, for one more mapping of it: 0, or -ENOENT when there is none. The descriptor
	 * stays the memory's. */
	int (*file)(void *ctx, uint64_t gpa, uint64_t len, int *ret_fd, uint64_t *ret_offset);
	/* All of it as host ranges of at most 1 GiB, to be registered with io_uring: how many there are. Fills @max. */
	unsigned (*regions)(void *ctx, struct iovec *ret_iov, unsigned max);
};

struct vmbus_mem {
	const struct vmbus_mem_ops *ops;
	void *ctx;
};

static inline void *vmbus_mem_map(const struct vmbus_mem *m, uint64_t gpa, uint64_t len)
{
	return m->ops->map(m->ctx, gpa, len);
}

/* NULL unless the page frame exists; pfn << 12 cannot wrap. */
static inline void *vmbus_mem_page(const struct vmbus_mem *m, uint64_t pfn)
{
	return pfn >> (64 - VMBUS_PAGE_SHIFT) ? NULL : m->ops->map(m->ctx, pfn << VMBUS_PAGE_SHIFT, VMBUS_PAGE_SIZE);
}

#ifdef VMBUS_HOSTILE
uint32_t vmbus_load32(const void *shared);
uint32_t vmbus_load32_acquire(const void *shared);
void vmbus_copy_in(void *to, const void *shared, size_t len);
#else
static inline uint32_t vmbus_load32(const void *shared)
{
	return __atomic_load_n((const uint32_t *)shared, __ATOMIC_RELAXED);
}

static inline uint32_t vmbus_load32_acquire(const void *shared)
{
	return __atomic_load_n((const uint32_t *)shared, __ATOMIC_ACQUIRE);
}

/* Copies exactly once, by relaxed loads of 8 aligned bytes where it can. Any alignment, any length. */
void vmbus_copy_in(void *to, const void *shared, size_t len);
#endif

static inline void vmbus_store32(void *shared, uint32_t value)
{
	__atomic_store_n((uint32_t *)shared, value, __ATOMIC_RELAXED);
}

static inline void vmbus_store32_release(void *shared, uint32_t value)
{
	__atomic_store_n((uint32_t *)shared, value, __ATOMIC_RELEASE);
}

/* Between "publish my index" and "look at the peer's": both sides do it, so one of them sees the other's. */
static inline void vmbus_full_barrier(void)
{
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
	/* The sanitizer does not model fences, and the compiler says so. No data race depends on this one: whatever is
	 * shared is atomic. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wtsan"
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
#pragma GCC diagnostic pop
#else
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

void vmbus_copy_out(void *shared, const void *from, size_t len);
void vmbus_zero_out(void *shared, size_t len);

#endif
