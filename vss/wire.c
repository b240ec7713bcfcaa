/* SPDX-License-Identifier: BSD-2-Clause */
#include "vss/wire.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void vss_wire_make(struct vss_wire *ret, enum vss_wire_type type, uint32_t serial, uint32_t value, const char *text)
{
	*ret = (struct vss_wire){
		.magic = le32_make(VSS_WIRE_MAGIC), .version = le16_make(VSS_WIRE_VERSION), .type = le16_make(type),
		.serial = le32_make(serial), .value = le32_make(value),
	};
	if (text)
		snprintf(ret->text, sizeof(ret->text), "%s", text);
}

int vss_wire_check(const struct vss_wire *m, size_t len)
{
	unsigned type = len == sizeof(*m) ? le16_get(m->type) : 0;

	if (len != sizeof(*m) || le32_get(m->magic) != VSS_WIRE_MAGIC || le16_get(m->version) != VSS_WIRE_VERSION)
		return -EBADMSG;
	if (type < VSS_WIRE_HELLO || type > VSS_WIRE_COMPLETE || !memchr(m->text, 0, sizeof(m->text)))
		return -EBADMSG;
	return 0;
}

bool vss_wire_name_ok(const char *name)
{
	size_t len = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

	return len >= 1 && len <= VSS_WIRE_NAME && !name[len];
}
