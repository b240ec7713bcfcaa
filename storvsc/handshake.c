/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>

#include "storvsc/core.h"

static const uint16_t versions[] = { VSTOR_VERSION_WIN10, VSTOR_VERSION_WIN81, VSTOR_VERSION_WIN8 };

static int ask(struct storvsc_core *c, enum vstor_operation operation)
{
	struct vstor_packet p = {
		.operation = le32_make(operation), .flags = le32_make(VSTOR_REQUEST_COMPLETION),
	};

	if (operation == VSTOR_QUERY_PROTOCOL_VERSION)
		p.u.version.version = le16_make(c->version);
	return storvsc_core_control(c, &p);
}

/* The newest one below @limit; 0: none left. */
static uint16_t version_below(uint32_t limit)
{
	for (unsigned i = 0; i < SP_ARRAY_SIZE(versions); i++)
		if (versions[i] < limit)
			return versions[i];
	return 0;
}

static int ask_version(struct storvsc_core *c, enum storvsc_step *step, uint32_t limit)
{
	c->version = version_below(limit);
	*step = STORVSC_VERSION;
	return c->version ? ask(c, VSTOR_QUERY_PROTOCOL_VERSION) : -EPROTONOSUPPORT;
}

/* What follows the answer to the present step. */
static int next(struct storvsc_core *c, enum storvsc_step *step, const struct vstor_packet *answer, uint16_t newest)
{
	bool ok = le32_get(answer->status) == VSTOR_STATUS_SUCCESS;

	if (le32_get(answer->operation) != VSTOR_COMPLETE_IO || (!ok && *step != STORVSC_VERSION))
		return -EPROTO;
	switch (*step) {
	case STORVSC_BEGIN:
		return ask_version(c, step, (uint32_t)newest + 1);
	case STORVSC_VERSION:
		if (!ok)
			return ask_version(c, step, c->version);
		*step = STORVSC_PROPERTIES;
		return ask(c, VSTOR_QUERY_PROPERTIES);
	case STORVSC_PROPERTIES:
		c->properties = answer->u.properties;
		*step = STORVSC_END;
		return ask(c, VSTOR_END_INITIALIZATION);
	case STORVSC_END:
		*step = STORVSC_READY;
		return 0;
	case STORVSC_READY:
		break;
	}
	return -EPROTO;
}

int storvsc_core_handshake(struct storvsc_core *c, enum storvsc_step *step, const struct vstor_packet *answer,
			   uint16_t newest)
{
	if (answer)
		return next(c, step, answer, newest);
	*step = STORVSC_BEGIN;
	return ask(c, VSTOR_BEGIN_INITIALIZATION);
}
