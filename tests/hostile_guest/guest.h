/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_HOSTILE_GUEST_H
#define SPINDLE_TESTS_HOSTILE_GUEST_H
/*
 * A guest that does what the input says: a session from contact to the end of the machine, against the VMBus server and
 * a controller, all in one thread (fibers.h).
 *
 * There are two kinds of session. In a hostile one memory changes under every fetch, packets and messages are mutated,
 * ring headers scribbled over: nothing is expected but that the host keeps to its own memory, ends what it began and
 * does not end itself. In a calm one the guest keeps the rules, while disks fail, channels close, units come and go:
 * then every request ends once or goes with its channel, every byte of an answer has been written, and memory belongs
 * to the guest again when the host said so.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "storvsp/storvsp.h"
#include "storvsp/vstor_wire.h"
#include "tests/support/rng.h"
#include "vmbus/gpadl.h"
#include "vmm/vmbus_server.h"

/* ---- input --------------------------------------------------------------------------------------------- */

struct input {
	const uint8_t *data;		/* NULL: chance */
	size_t size, at;
	struct rng rng;			/* also what follows when the data has ended */
};

uint32_t input_below(struct input *in, uint32_t n);	/* 0 .. n-1; n > 0 */
bool input_chance(struct input *in, uint32_t one_in);
uint64_t input_u64(struct input *in);
uint64_t input_number(struct input *in);		/* rather one at an edge than any */
bool input_ended(const struct input *in);

/* ---- memory (memory.c): two stretches with a hole, pages without rights around each ------------------------ */

#define GUEST_PAGES 320u
#define GUEST_LOW   0x01000000ull
#define GUEST_HIGH  0x100000000ull

struct guest_memory {
	struct vmbus_mem mem;
	int fd;
	uint8_t *half[2];
};

void memory_open(struct guest_memory *m);	/* once for all sessions */
static inline uint64_t memory_pfn(unsigned page)
{
	if (page < GUEST_PAGES / 2)
		return (GUEST_LOW >> VMBUS_PAGE_SHIFT) + page;
	return (GUEST_HIGH >> VMBUS_PAGE_SHIFT) + page - GUEST_PAGES / 2;
}

uint8_t *memory_at(const struct guest_memory *m, unsigned page);

/* What the host fetches while @hostility is not 0 is something else once in so many times. */
extern struct hostile_fetch {
	struct input *in;
	uint32_t hostility, left;
	uint64_t mutations;
} hostile_fetch;

/* ---- disk (disk.c): requests end when, and as, the test says ------------------------------------------------- */

struct disk;

#define DISK_BYTES (256u << 10)

struct disk *disk_new(void);		/* its backend belongs to the unit that takes it */
struct scsi_backend *disk_backend(struct disk *d);
unsigned disk_held(const struct disk *d);
unsigned disk_busy(const struct disk *d);	/* of these, others than flushes */
/* The @k-th that is held ends with @error (0, -errno). */
void disk_complete(struct disk *d, unsigned k, int error);
void disk_resize(struct disk *d, uint64_t size);
void disk_hold(struct disk *d, bool hold);	/* false: everything ends as soon as it is polled */

/* ---- session ------------------------------------------------------------------------------------------------- */

struct session_count {
	uint64_t sessions, actions, packets, mutations, answers, channels_opened, broken;
};
extern struct session_count session_count;
extern struct guest_memory guest_memory;

void session_run(struct input *in);	/* aborts at a finding */
/* The same for processors (exits.c), integration services (services.c) and writers on the host (requester.c), and how
 * much all sessions so far have done. */
void exits_run(struct input *in);
void services_run(struct input *in);
void requester_run(struct input *in);
extern uint64_t exits_count, services_messages, requester_messages;
void session_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
#define session_check(cond, ...)                   \
	do {                                       \
		if (!(cond))                       \
			session_fail(__VA_ARGS__); \
	} while (0)

#endif
