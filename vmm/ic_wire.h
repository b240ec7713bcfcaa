/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_IC_WIRE_H
#define SPINDLE_VMM_IC_WIRE_H
/*
 * Messages of the integration services. Layout only. Little-endian.
 */
#include "vmbus/vmbus_wire.h"

#define IC_PIPE_DATA 1u

enum ic_message_type {
	IC_NEGOTIATE = 0, IC_HEARTBEAT = 1, IC_KVP = 2, IC_SHUTDOWN = 3, IC_TIMESYNC = 4, IC_VSS = 5,
};
#define IC_TRANSACTION 1u		/* flags */
#define IC_REQUEST     2u
#define IC_RESPONSE    4u

#define IC_STATUS_OK		0u
#define IC_STATUS_NO_MORE_ITEMS 0x80070103u

struct ic_version {
	le16_t major, minor;
};

struct ic_header {
	le32_t pipe_type, pipe_size;	/* of what follows these two */
	struct ic_version framework;
	le16_t type;
	struct ic_version message;
	le16_t body_size;
	le32_t status;
	uint8_t transaction, flags;
	le16_t reserved;
};
VMBUS_SIZE(struct ic_header, 28);
#define IC_PIPE_HEADER 8u

struct ic_negotiate {			/* followed by the versions: frameworks, then messages */
	le16_t frameworks, messages;
	le32_t reserved;
};
VMBUS_SIZE(struct ic_negotiate, 8);

struct ic_shutdown {
	le32_t reason, timeout_s, flags;
	uint8_t text[2048];		/* UTF-16 */
};
VMBUS_SIZE(struct ic_shutdown, 2060);
#define IC_SHUTDOWN_PLANNED 0x80000000u	/* reason */
#define IC_SHUTDOWN_FORCE   1u		/* flags */
#define IC_SHUTDOWN_RESTART 2u

struct ic_heartbeat {
	le64_t sequence;
	le32_t application;		/* 0: unknown */
	uint8_t reserved[28];
};
VMBUS_SIZE(struct ic_heartbeat, 40);

struct ic_timesync_old {		/* messages below 4.0 */
	le64_t host_time, guest_time, round_trip;
	uint8_t flags, pad[3];
};
VMBUS_SIZE(struct ic_timesync_old, 28);

struct ic_timesync {
	le64_t host_time;		/* 100 ns since 1601-01-01 */
	le64_t reference;		/* the partition's reference counter at that moment */
	uint8_t flags, leap, stratum, pad[5];
};
VMBUS_SIZE(struct ic_timesync, 24);
#define IC_TIMESYNC_SYNC   1u
#define IC_TIMESYNC_SAMPLE 2u

struct ic_kvp {
	uint8_t operation, pool;
	le16_t pad;
	le32_t index;			/* enumerate */
	le32_t value_type, key_size, value_size;	/* sizes in bytes, terminator included */
	uint8_t key[512], value[2048];	/* UTF-16 */
	uint8_t rest[4852];		/* as long as the longest operation: replies are as long as requests */
};
VMBUS_SIZE(struct ic_kvp, 7432);
#define IC_KVP_ENUMERATE 3u
#define IC_KVP_POOL_AUTO 2u

struct ic_vss {
	uint8_t operation, reserved[7];
	le32_t flags;
	uint8_t rest[24];
};
VMBUS_SIZE(struct ic_vss, 36);

#endif
