/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VSS_WIRE_H
#define SPINDLE_VSS_WIRE_H
/*
 * Between a requester and an application on the host that can hold still: one message of one size per packet of a UNIX
 * socket (SOCK_SEQPACKET). docs/vss-protocol.md is the contract.
 */
#include "base/bytes.h"

#define VSS_WIRE_MAGIC	 0x57565053u	/* "SPVW" */
#define VSS_WIRE_VERSION 1u
#define VSS_WIRE_TEXT	 112u
#define VSS_WIRE_NAME	 48u		/* longest name of a writer */

enum vss_wire_type {
	VSS_WIRE_HELLO = 1,		/* writer, first; value: enum vss_level it grants; text: its name */
	VSS_WIRE_CHECK = 2,		/* requester; text: the snapshot */
	VSS_WIRE_READY = 3,		/* writer, to CHECK */
	VSS_WIRE_FREEZE = 4,		/* requester; value: milliseconds until it thaws by itself */
	VSS_WIRE_FROZEN = 5,		/* writer, to FREEZE */
	VSS_WIRE_REFUSED = 6,		/* writer, to CHECK or FREEZE; text: why, for people */
	VSS_WIRE_THAW = 7,		/* requester */
	VSS_WIRE_THAWED = 8,		/* writer, to THAW, or serial 0: by itself; value 1: it had done so by itself */
	VSS_WIRE_COMPLETE = 9,		/* requester, not answered; value 1: the snapshot is good */
};

struct vss_wire {
	le32_t magic;
	le16_t version, type;
	le32_t serial;			/* of the requester's choice; an answer repeats it */
	le32_t value;
	char text[VSS_WIRE_TEXT];	/* UTF-8, ends with a zero byte */
};
_Static_assert(sizeof(struct vss_wire) == 128, "one size");

/* @text NULL: none; cut to what fits. */
void vss_wire_make(struct vss_wire *ret, enum vss_wire_type type, uint32_t serial, uint32_t value, const char *text);
/* What came is a message of this version: 0, or -EBADMSG. @len: of the packet. */
int vss_wire_check(const struct vss_wire *m, size_t len);
/* [A-Za-z0-9._-], 1 to VSS_WIRE_NAME bytes. */
bool vss_wire_name_ok(const char *name);

#endif
