/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest memory, the fetches from it that are not what they were, and mappings with pages without rights around them: an
 * access outside of what the guest has is a crash.
 */
#include "tests/hostile_guest/fibers.h"

/* Here they are what they are. */
#undef mmap
#undef munmap

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "tests/hostile_guest/guest.h"
#include "vmbus/mem.h"

#define PAGE VMBUS_PAGE_SIZE
#define HALF ((size_t)GUEST_PAGES / 2 * PAGE)

struct hostile_fetch hostile_fetch;

/* ---- mappings ------------------------------------------------------------------------------------------- */

void *guarded_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	uint8_t *base;

	if (addr)		/* into a stretch that has its guards */
		return mmap(addr, len, prot, flags, fd, offset);
	base = mmap(NULL, len + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (base == MAP_FAILED)
		return MAP_FAILED;
	return mmap(base + PAGE, len, prot, flags | MAP_FIXED, fd, offset);
}

int guarded_munmap(void *addr, size_t len)
{
	return munmap((uint8_t *)addr - PAGE, len + 2 * PAGE);
}

/* ---- the guest's RAM --------------------------------------------------------------------------------------- */

uint8_t *memory_at(const struct guest_memory *m, unsigned page)
{
	return m->half[page / (GUEST_PAGES / 2)] + (size_t)(page % (GUEST_PAGES / 2)) * PAGE;
}

static void *mem_map(void *ctx, uint64_t gpa, uint64_t len)
{
	struct guest_memory *m = ctx;

	if (gpa >= GUEST_HIGH && sp_range_ok(gpa - GUEST_HIGH, len, HALF))
		return m->half[1] + (gpa - GUEST_HIGH);
	if (gpa >= GUEST_LOW && sp_range_ok(gpa - GUEST_LOW, len, HALF))
		return m->half[0] + (gpa - GUEST_LOW);
	return NULL;
}

static int mem_file(void *ctx, uint64_t gpa, uint64_t len, int *ret_fd, uint64_t *ret_offset)
{
	struct guest_memory *m = ctx;

	if (!mem_map(ctx, gpa, len))
		return -ENOENT;
	*ret_fd = m->fd;
	*ret_offset = gpa >= GUEST_HIGH ? HALF + gpa - GUEST_HIGH : gpa - GUEST_LOW;
	return 0;
}

static unsigned mem_regions(void *ctx, struct iovec *ret_iov, unsigned max)
{
	struct guest_memory *m = ctx;

	for (unsigned i = 0; i < 2 && i < max; i++)
		ret_iov[i] = (struct iovec){ m->half[i], HALF };
	return 2;
}

static const struct vmbus_mem_ops mem_ops = { .map = mem_map, .file = mem_file, .regions = mem_regions };

void memory_open(struct guest_memory *m)
{
	m->mem = (struct vmbus_mem){ &mem_ops, m };
	m->fd = memfd_create("guest", MFD_CLOEXEC);
	session_check(m->fd >= 0 && ftruncate(m->fd, 2 * HALF) == 0, "no memory for the guest");
	for (unsigned i = 0; i < 2; i++) {
		m->half[i] = guarded_mmap(NULL, HALF, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, (off_t)(i * HALF));
		session_check(m->half[i] != MAP_FAILED, "no memory for the guest");
	}
}

/* ---- fetches ------------------------------------------------------------------------------------------------ */

static bool struck(void)
{
	struct hostile_fetch *h = &hostile_fetch;

	if (h->hostility == 0 || h->left-- > 0)
		return false;
	h->left = input_below(h->in, 2 * h->hostility);
	h->mutations++;
	return true;
}

uint32_t vmbus_load32(const void *shared)
{
	uint32_t value = __atomic_load_n((const uint32_t *)shared, __ATOMIC_RELAXED);

	if (!struck())
		return value;
	switch (input_below(hostile_fetch.in, 4)) {
	case 0:
		return value + 8 * (input_below(hostile_fetch.in, 9) - 4);
	case 1:
		return (uint32_t)input_number(hostile_fetch.in);
	default:		/* an index that may be */
		return input_below(hostile_fetch.in, 4 * PAGE) & ~7u;
	}
}

uint32_t vmbus_load32_acquire(const void *shared)
{
	return vmbus_load32(shared);
}

static void scribble(uint8_t *bytes, size_t len)
{
	struct input *in = hostile_fetch.in;
	unsigned n = 1 + input_below(in, 3);

	while (n-- > 0) {
		unsigned width = 1u << input_below(in, 4);
		uint64_t value = input_chance(in, 4) ? input_u64(in) : input_number(in);
		size_t at = input_below(in, (uint32_t)len) / width * width;

		memcpy(bytes + at, &value, width < len - at ? width : len - at);
	}
}

void vmbus_copy_in(void *to, const void *shared, size_t len)
{
	memcpy(to, shared, len);
	if (len > 0 && struck())
		scribble(to, len);
}
