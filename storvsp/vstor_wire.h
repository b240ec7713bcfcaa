/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_STORVSP_VSTOR_WIRE_H
#define SPINDLE_STORVSP_VSTOR_WIRE_H
/*
 * vstor packets: what storvsp and storvsc say to each other inside VMBus packets. Layout only. Little-endian; SCSI
 * buffers and CDBs are big-endian.
 */
#include "vmbus/vmbus_wire.h"

#define VSTOR_SCSI_CLASS   "ba6163d9-04a1-4d29-b605-72e2ffb1dc7f"
#define VSTOR_IDE_CLASS	   "32412632-86cb-44a2-9b5c-50d1417354f5"

enum vstor_operation {
	VSTOR_COMPLETE_IO = 1, VSTOR_REMOVE_DEVICE = 2, VSTOR_EXECUTE_SRB = 3, VSTOR_RESET_LUN = 4,
	VSTOR_RESET_ADAPTER = 5, VSTOR_RESET_BUS = 6, VSTOR_BEGIN_INITIALIZATION = 7, VSTOR_END_INITIALIZATION = 8,
	VSTOR_QUERY_PROTOCOL_VERSION = 9, VSTOR_QUERY_PROPERTIES = 10, VSTOR_ENUMERATE_BUS = 11,
	VSTOR_FCHBA_DATA = 12, VSTOR_CREATE_SUB_CHANNELS = 13, VSTOR_EVENT_NOTIFICATION = 14,
};

#define VSTOR_REQUEST_COMPLETION 1u	/* flags */

#define VSTOR_STATUS_SUCCESS		   0x00000000u
#define VSTOR_STATUS_BUFFER_OVERFLOW	   0x80000005u
#define VSTOR_STATUS_DEVICE_BUSY	   0x80000011u
#define VSTOR_STATUS_INVALID_PARAMETER	   0xC000000Du
#define VSTOR_STATUS_INVALID_REQUEST	   0xC0000010u
#define VSTOR_STATUS_REVISION_MISMATCH	   0xC0000059u
#define VSTOR_STATUS_NO_SUCH_DEVICE	   0xC00000C0u
#define VSTOR_STATUS_CANCELLED		   0xC0000120u
#define VSTOR_STATUS_INVALID_DEVICE_STATE  0xC0000184u
#define VSTOR_STATUS_IO_DEVICE_ERROR	   0xC0000185u

#define VSTOR_VERSION_WIN8  0x0501u
#define VSTOR_VERSION_WIN81 0x0600u
#define VSTOR_VERSION_WIN10 0x0602u

#define VSTOR_MULTI_CHANNEL 1u		/* properties.flags */

struct vstor_properties {
	le32_t reserved0;
	le16_t max_subchannels, reserved1;
	le32_t flags, max_transfer_bytes;
	le64_t reserved2;
};
VMBUS_SIZE(struct vstor_properties, 24);

#define VSTOR_DATA_OUT	0u		/* srb.data_in: to the device */
#define VSTOR_DATA_IN	1u
#define VSTOR_DATA_NONE 2u
#define VSTOR_SENSE_MAX 20u

struct vstor_srb {			/* vmscsi_request */
	le16_t length;			/* 52 */
	uint8_t srb_status, scsi_status, port, path, target, lun;
	uint8_t cdb_length, sense_length, data_in, reserved;
	le32_t transfer_length;
	uint8_t cdb[20];		/* sense on the way back */
	le16_t reserve;
	uint8_t queue_tag, queue_action;
	le32_t flags, timeout_s, queue_sort_key;
};
VMBUS_SIZE(struct vstor_srb, 52);
VMBUS_AT(struct vstor_srb, cdb, 16);
VMBUS_AT(struct vstor_srb, flags, 40);

#define VSTOR_SRB_SUCCESS	 0x01u	/* srb_status */
#define VSTOR_SRB_ABORTED	 0x02u
#define VSTOR_SRB_ERROR		 0x04u
#define VSTOR_SRB_INVALID_REQUEST 0x06u
#define VSTOR_SRB_DATA_OVERRUN	 0x12u
#define VSTOR_SRB_INVALID_LUN	 0x20u
#define VSTOR_SRB_AUTOSENSE_VALID 0x80u

struct vstor_packet {
	le32_t operation, flags, status;
	union {
		struct vstor_srb srb;
		struct vstor_properties properties;
		struct { le16_t version, revision; } version;
		le16_t subchannels;
		uint8_t bytes[52];
	} u;
};
VMBUS_SIZE(struct vstor_packet, 64);

#define VSTOR_PACKET_MIN 48u		/* protocol 2.0 and 4.2: SRB of 36 bytes */
/* Longest packet a guest may get, descriptor included: Linux cuts what is longer. */
#define VSTOR_HOST_PACKET_MAX 80u

#endif
