/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_VSTOR_GUEST_H
#define SPINDLE_TESTS_VSTOR_GUEST_H
/*
 * A guest's driver, small enough to misbehave on purpose, and the bus below it: channels over rings in this process,
 * raw vstor packets, and answers in the order in which they come. One thread per channel.
 */
#include <stdbool.h>
#include <stdint.h>

#include "storvsp/storvsp.h"
#include "storvsp/vstor_wire.h"
#include "tests/support/ring_pair.h"

#define GUEST_CHANNELS 8u
#define GUEST_WAIT_MS 5000

struct guest {
	struct storvsp *controller;
	struct test_mem mem;
	unsigned up, down;		/* pages of each ring */
	struct ring_pair pair[GUEST_CHANNELS];
	bool open[GUEST_CHANNELS];
	unsigned offered;		/* atomic: sub-channels */
};

struct answer {
	uint16_t type;			/* of the VMBus packet */
	uint64_t transaction_id;
	uint32_t len;
	struct vstor_packet packet;
};

/* A controller of its own with the primary channel open, nothing said on it yet. Aborts when that fails. */
void guest_begin(struct guest *g, const struct storvsp_opts *opts, unsigned up, unsigned down);
void guest_end(struct guest *g);		/* closes the channels and frees the controller */
int guest_open(struct guest *g, unsigned channel);
void guest_close(struct guest *g, unsigned channel);
void guest_handshake(struct guest *g);		/* until SRBs are welcome */

/* Packets. False: no room in the ring. Shown by guest_kick(). */
bool guest_put(struct guest *g, unsigned channel, uint64_t id, uint32_t operation);
bool guest_put_raw(struct guest *g, unsigned channel, const struct vmbus_packet *packet);
void guest_kick(struct guest *g, unsigned channel);
/* The next packet from the provider; false: none came within @ms. */
bool guest_next(struct guest *g, unsigned channel, struct answer *ret_answer, int ms);
/* A control operation and its status. */
uint32_t guest_control(struct guest *g, unsigned channel, struct vstor_packet *packet);

/* SRBs. */
struct guest_io {
	uint8_t path, target, lun;
	uint8_t cdb[16], cdb_len;
	uint8_t data_in;		/* VSTOR_DATA_* */
	unsigned page, pages;		/* of the test memory; 0 pages: in-band, without data */
	uint32_t offset, len;
};
bool guest_put_io(struct guest *g, unsigned channel, uint64_t id, const struct guest_io *io);
/* Puts it, waits for its answer; aborts when there is none or another one. */
void guest_io(struct guest *g, unsigned channel, const struct guest_io *io, struct answer *ret_answer);
/* READ(10) or WRITE(10) of @len bytes at @lba, data at the start of @page. */
struct guest_io guest_rw(uint8_t lun, bool write, uint32_t lba, unsigned page, uint32_t len);
struct guest_io guest_tur(uint8_t lun);
/* Until TEST UNIT READY finds nothing left to tell. */
void guest_settle(struct guest *g, unsigned channel, uint8_t lun);
uint32_t answer_sense(const struct answer *a);	/* key, code, qualifier; 0: no sense, and none marked */

#endif
