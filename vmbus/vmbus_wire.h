/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMBUS_WIRE_H
#define SPINDLE_VMBUS_WIRE_H
/*
 * VMBus as it stands in memory: rings, packets, control messages. Layout only, no logic. Little-endian throughout.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

#define VMBUS_SIZE(type, size) static_assert(sizeof(type) == (size), #type)
#define VMBUS_AT(type, field, offset) static_assert(offsetof(type, field) == (offset), #type "." #field)

/* ---- ring: the first page of each direction; the data pages follow ---------------------------------- */

#define VMBUS_RING_WRITE_INDEX	  0u	/* u32, producer */
#define VMBUS_RING_READ_INDEX	  4u	/* u32, consumer */
#define VMBUS_RING_INTERRUPT_MASK 8u	/* u32, consumer: 1 = do not signal me */
#define VMBUS_RING_PENDING_SEND	  12u	/* u32, producer: waits for so many free bytes; 0 = does not wait */
#define VMBUS_RING_FEATURES	  64u	/* u32 */
#define VMBUS_RING_FEATURE_PENDING_SEND 1u

/* ---- packets ---------------------------------------------------------------------------------------- */

enum vmbus_packet_type {
	VMBUS_PACKET_INBAND = 6,
	VMBUS_PACKET_TRANSFER_PAGES = 7,
	VMBUS_PACKET_GPA_DIRECT = 9,
	VMBUS_PACKET_COMPLETION = 11,
};
#define VMBUS_PACKET_COMPLETION_WANTED 1u	/* flags */

struct vmbus_packet_wire {
	le16_t type;
	le16_t data_offset8;		/* from the start of the packet, 8-byte units, >= 2 */
	le16_t length8;			/* of the whole packet without trailer, 8-byte units */
	le16_t flags;
	le64_t transaction_id;
};
VMBUS_SIZE(struct vmbus_packet_wire, 16);

#define VMBUS_TRAILER_SIZE 8u		/* u32 zero, u32 ring offset where the packet began */

struct vmbus_gpa_direct_wire {		/* behind vmbus_packet_wire */
	le32_t reserved;
	le32_t range_count;
};
VMBUS_SIZE(struct vmbus_gpa_direct_wire, 8);

struct vmbus_gpa_range_wire {		/* followed by the page frame numbers, 8 bytes each */
	le32_t byte_count;
	le32_t byte_offset;		/* < 4096 */
};
VMBUS_SIZE(struct vmbus_gpa_range_wire, 8);

/* ---- control plane ---------------------------------------------------------------------------------- */

enum vmbus_message_type {
	VMBUS_MSG_OFFERCHANNEL = 1, VMBUS_MSG_RESCIND = 2, VMBUS_MSG_REQUESTOFFERS = 3,
	VMBUS_MSG_ALLOFFERS_DELIVERED = 4, VMBUS_MSG_OPENCHANNEL = 5, VMBUS_MSG_OPEN_RESULT = 6,
	VMBUS_MSG_CLOSECHANNEL = 7, VMBUS_MSG_GPADL_HEADER = 8, VMBUS_MSG_GPADL_BODY = 9,
	VMBUS_MSG_GPADL_CREATED = 10, VMBUS_MSG_GPADL_TEARDOWN = 11, VMBUS_MSG_GPADL_TORNDOWN = 12,
	VMBUS_MSG_RELID_RELEASED = 13, VMBUS_MSG_INITIATE_CONTACT = 14, VMBUS_MSG_VERSION_RESPONSE = 15,
	VMBUS_MSG_UNLOAD = 16, VMBUS_MSG_UNLOAD_RESPONSE = 17, VMBUS_MSG_TL_CONNECT_REQUEST = 21,
	VMBUS_MSG_MODIFYCHANNEL = 22, VMBUS_MSG_TL_CONNECT_RESULT = 23, VMBUS_MSG_MODIFYCHANNEL_RESPONSE = 24,
};

#define VMBUS_VERSION(major, minor) ((uint32_t)(major) << 16 | (minor))
#define VMBUS_MESSAGE_MAX 240u		/* payload of one SynIC message */
#define VMBUS_CHANNELS_MAX 2048u	/* relids 1 .. 2047 */
#define VMBUS_SINT 2u
#define VMBUS_CONNECTION_OLD 1u		/* messages of protocol < 5.0 */
#define VMBUS_CONNECTION_NEW 4u		/* INITIATE_CONTACT of >= 5.0, and then all others */

struct vmbus_msg_header {
	le32_t type, reserved;
};

struct vmbus_msg_offer {
	struct vmbus_msg_header header;
	uint8_t class_guid[16];		/* mixed-endian */
	uint8_t instance_guid[16];
	le64_t reserved0, reserved1;
	le16_t flags;
	le16_t mmio_megabytes;
	uint8_t user[120];
	le16_t subchannel_index;	/* 0: primary */
	le16_t reserved2;
	le32_t relid;
	uint8_t monitor_id;
	uint8_t monitor_allocated;	/* bit 0 */
	le16_t dedicated_interrupt;	/* bit 0 */
	le32_t connection_id;
};
VMBUS_SIZE(struct vmbus_msg_offer, 196);
VMBUS_AT(struct vmbus_msg_offer, flags, 56);
VMBUS_AT(struct vmbus_msg_offer, subchannel_index, 180);
VMBUS_AT(struct vmbus_msg_offer, relid, 184);
VMBUS_AT(struct vmbus_msg_offer, connection_id, 192);

#define VMBUS_OFFER_NAMED_PIPE 0x0010u	/* flags; user[0..3] is the mode */
#define VMBUS_PIPE_MODE_MESSAGE 4u

struct vmbus_msg_relid {		/* RESCIND, CLOSECHANNEL, RELID_RELEASED */
	struct vmbus_msg_header header;
	le32_t relid;
};
VMBUS_SIZE(struct vmbus_msg_relid, 12);

struct vmbus_msg_open {
	struct vmbus_msg_header header;
	le32_t relid, open_id, gpadl, target_vp;
	le32_t downstream_page;		/* first page of the host-to-guest ring */
	uint8_t user[120];
};
VMBUS_SIZE(struct vmbus_msg_open, 148);

struct vmbus_msg_open_result {
	struct vmbus_msg_header header;
	le32_t relid, open_id, status;
};
VMBUS_SIZE(struct vmbus_msg_open_result, 20);

struct vmbus_msg_gpadl_header {		/* followed by up to 26 page frame numbers */
	struct vmbus_msg_header header;
	le32_t relid, gpadl;
	le16_t range_length, range_count;
	le32_t byte_count, byte_offset;
};
VMBUS_SIZE(struct vmbus_msg_gpadl_header, 28);
#define VMBUS_GPADL_HEADER_PFNS 26u

struct vmbus_msg_gpadl_body {		/* followed by up to 28 page frame numbers */
	struct vmbus_msg_header header;
	le32_t number, gpadl;
};
VMBUS_SIZE(struct vmbus_msg_gpadl_body, 16);
#define VMBUS_GPADL_BODY_PFNS 28u
#define VMBUS_GPADL_PFNS_MAX 8190u

struct vmbus_msg_gpadl_created {
	struct vmbus_msg_header header;
	le32_t relid, gpadl, status;
};
VMBUS_SIZE(struct vmbus_msg_gpadl_created, 20);

struct vmbus_msg_gpadl_teardown {
	struct vmbus_msg_header header;
	le32_t relid, gpadl;
};
VMBUS_SIZE(struct vmbus_msg_gpadl_teardown, 16);

struct vmbus_msg_gpadl_torndown {
	struct vmbus_msg_header header;
	le32_t gpadl;
};
VMBUS_SIZE(struct vmbus_msg_gpadl_torndown, 12);

struct vmbus_msg_initiate_contact {
	struct vmbus_msg_header header;
	le32_t version, target_vp;
	union {
		le64_t interrupt_page;			/* < 5.0 */
		struct { uint8_t sint, vtl, reserved[2]; le32_t features; } v5;
	} u;
	le64_t monitor_in, monitor_out;
};
VMBUS_SIZE(struct vmbus_msg_initiate_contact, 40);

struct vmbus_msg_version_response {
	struct vmbus_msg_header header;
	uint8_t supported, state;
	le16_t reserved;
	le32_t connection_id;
};
VMBUS_SIZE(struct vmbus_msg_version_response, 16);

struct vmbus_msg_modify {
	struct vmbus_msg_header header;
	le32_t relid, target_vp;
};
VMBUS_SIZE(struct vmbus_msg_modify, 16);

struct vmbus_msg_modify_response {
	struct vmbus_msg_header header;
	le32_t relid, status;
};
VMBUS_SIZE(struct vmbus_msg_modify_response, 16);

#endif
