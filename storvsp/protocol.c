/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The conversation before and around the SRBs. The primary channel walks from left to right; only closing it goes back.
 *
 *	BEGIN --begin--> VERSION --version accepted--> PROPERTIES --properties--> END --end--> READY
 *
 *	everywhere	another step than the one due: INVALID_DEVICE_STATE, and nothing changes
 *	VERSION		one we do not speak: REVISION_MISMATCH, the guest proposes its next
 *	END, READY	sub-channels, once (Windows asks before the end, Linux after it)
 *	READY		SRBs and resets, on any channel
 *
 * A sub-channel has no handshake: it carries SRBs and resets as soon as the primary channel is ready.
 */
#include <string.h>

#include "base/seed.h"
#include "storvsp/storvsp_int.h"

#define MAX_TRANSFER_DEFAULT (1u << 20)

static const uint16_t versions[] = { VSTOR_VERSION_WIN10, VSTOR_VERSION_WIN81, VSTOR_VERSION_WIN8 };

void storvsp_protocol_init(struct storvsp_protocol *p, const struct storvsp_opts *opts)
{
	*p = (struct storvsp_protocol){
		.newest = (uint16_t)(opts->newest_version ? opts->newest_version : VSTOR_VERSION_WIN10),
		.max_subchannels = (uint16_t)(opts->kind == STORVSP_SCSI ? opts->max_subchannels : 0),
		.max_transfer = opts->max_transfer ? opts->max_transfer : MAX_TRANSFER_DEFAULT,
	};
}

static void set_state(struct storvsp_protocol *p, enum storvsp_state state)
{
	/* Release: who sees READY sees the version. */
	__atomic_store_n(&p->state, state, __ATOMIC_RELEASE);
}

void storvsp_protocol_restart(struct storvsp_protocol *p)
{
	__atomic_store_n(&p->version, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&p->subchannels, 0, __ATOMIC_RELAXED);
	set_state(p, STORVSP_BEGIN);
}

bool storvsp_protocol_ready(const struct storvsp_protocol *p)
{
	return __atomic_load_n(&p->state, __ATOMIC_ACQUIRE) == STORVSP_READY;
}

uint32_t storvsp_protocol_answer_len(uint32_t len)
{
	/* Windows wants the length of its request back, Linux at least 64 bytes, which is also what it sends; and
	 * Linux's buffer ends at VSTOR_HOST_PACKET_MAX. */
	return len == VSTOR_PACKET_MIN ? VSTOR_PACKET_MIN : (uint32_t)sizeof(struct vstor_packet);
}

static uint32_t query_version(struct storvsp_protocol *p, const struct vstor_packet *packet)
{
	uint16_t version = le16_get(packet->u.version.version);

	for (unsigned i = 0; i < SP_ARRAY_SIZE(versions); i++) {
		if (version != versions[i] || (version > p->newest && !SP_SEED_BUG(VSP_ANY_VERSION)))
			continue;
		__atomic_store_n(&p->version, version, __ATOMIC_RELAXED);
		set_state(p, STORVSP_PROPERTIES);
		return VSTOR_STATUS_SUCCESS;
	}
	return VSTOR_STATUS_REVISION_MISMATCH;
}

static uint32_t query_properties(struct storvsp_protocol *p, struct vstor_packet *answer)
{
	answer->u.properties = (struct vstor_properties){
		.max_subchannels = le16_make(p->max_subchannels),
		.flags = le32_make(p->max_subchannels ? VSTOR_MULTI_CHANNEL : 0),
		.max_transfer_bytes = le32_make(p->max_transfer),
	};
	set_state(p, STORVSP_END);
	return VSTOR_STATUS_SUCCESS;
}

static uint32_t create_subchannels(struct storvsp_protocol *p, const struct vstor_packet *packet)
{
	uint16_t count = le16_get(packet->u.subchannels);

	if (count == 0 || count > p->max_subchannels || p->subchannels)
		return VSTOR_STATUS_INVALID_PARAMETER;
	__atomic_store_n(&p->subchannels, count, __ATOMIC_RELAXED);
	return VSTOR_STATUS_SUCCESS;
}

/* An SRB that comes too early. Linux looks at nothing but the SRB: "becoming ready" makes it try again. */
static void refuse_srb(const struct vstor_packet *packet, struct vstor_packet *answer)
{
	struct vstor_srb *srb = &answer->u.srb;

	*srb = packet->u.srb;
	srb->srb_status = VSTOR_SRB_ERROR | VSTOR_SRB_AUTOSENSE_VALID;
	srb->scsi_status = SCSI_CHECK_CONDITION;
	srb->sense_length = 18;
	srb->transfer_length = le32_make(0);
	memset(srb->cdb, 0, sizeof(srb->cdb));
	srb->cdb[0] = 0x70;
	srb->cdb[2] = 0x02;
	srb->cdb[7] = 0x0a;
	srb->cdb[12] = 0x04;
	srb->cdb[13] = 0x01;
}

/* One step of the handshake, on the primary channel and when it is due. */
static uint32_t handshake(struct storvsp_protocol *p, uint32_t operation, const struct vstor_packet *packet,
			  struct vstor_packet *answer)
{
	static const struct { uint32_t operation; enum storvsp_state due; } steps[] = {
		{ VSTOR_BEGIN_INITIALIZATION, STORVSP_BEGIN }, { VSTOR_QUERY_PROTOCOL_VERSION, STORVSP_VERSION },
		{ VSTOR_QUERY_PROPERTIES, STORVSP_PROPERTIES }, { VSTOR_END_INITIALIZATION, STORVSP_END },
	};

	for (unsigned i = 0; i < SP_ARRAY_SIZE(steps); i++)
		if (steps[i].operation == operation && steps[i].due != p->state && !SP_SEED_BUG(VSP_ANY_ORDER))
			return VSTOR_STATUS_INVALID_DEVICE_STATE;
	switch (operation) {
	case VSTOR_BEGIN_INITIALIZATION:
		set_state(p, STORVSP_VERSION);
		return VSTOR_STATUS_SUCCESS;
	case VSTOR_QUERY_PROTOCOL_VERSION:
		return query_version(p, packet);
	case VSTOR_QUERY_PROPERTIES:
		return query_properties(p, answer);
	default:
		set_state(p, STORVSP_READY);
		return VSTOR_STATUS_SUCCESS;
	}
}

static enum storvsp_verdict primary_only(struct storvsp_protocol *p, uint32_t operation,
					 const struct vstor_packet *packet, struct vstor_packet *answer)
{
	enum storvsp_verdict verdict = STORVSP_ANSWER;
	uint32_t status;

	if (operation == VSTOR_CREATE_SUB_CHANNELS) {
		status = p->state < STORVSP_END ? VSTOR_STATUS_INVALID_DEVICE_STATE : create_subchannels(p, packet);
		verdict = status == VSTOR_STATUS_SUCCESS ? STORVSP_ANSWER_OFFER : STORVSP_ANSWER;
	} else {
		status = handshake(p, operation, packet, answer);
		if (operation == VSTOR_END_INITIALIZATION && status == VSTOR_STATUS_SUCCESS)
			verdict = STORVSP_ANSWER_READY;
	}
	answer->status = le32_make(status);
	return verdict;
}

static enum storvsp_verdict refuse(struct vstor_packet *answer, uint32_t status)
{
	answer->status = le32_make(status);
	return STORVSP_ANSWER;
}

enum storvsp_verdict storvsp_protocol_packet(struct storvsp_protocol *p, unsigned subchannel,
					     const struct vstor_packet *packet, uint32_t len,
					     struct vstor_packet *ret_answer)
{
	uint32_t operation = le32_get(packet->operation);

	*ret_answer = (struct vstor_packet){ .operation = le32_make(VSTOR_COMPLETE_IO) };
	if (len < VSTOR_PACKET_MIN)
		return refuse(ret_answer, VSTOR_STATUS_INVALID_PARAMETER);
	switch (operation) {
	case VSTOR_EXECUTE_SRB:
		if (storvsp_protocol_ready(p))
			return STORVSP_EXECUTE;
		refuse_srb(packet, ret_answer);
		return refuse(ret_answer, VSTOR_STATUS_INVALID_DEVICE_STATE);
	case VSTOR_RESET_LUN:
	case VSTOR_RESET_ADAPTER:
	case VSTOR_RESET_BUS:
		if (storvsp_protocol_ready(p))
			return STORVSP_RESET;
		return refuse(ret_answer, VSTOR_STATUS_INVALID_DEVICE_STATE);
	case VSTOR_CREATE_SUB_CHANNELS:
		if (subchannel)
			return refuse(ret_answer, VSTOR_STATUS_INVALID_PARAMETER);
		return primary_only(p, operation, packet, ret_answer);
	case VSTOR_BEGIN_INITIALIZATION:
	case VSTOR_QUERY_PROTOCOL_VERSION:
	case VSTOR_QUERY_PROPERTIES:
	case VSTOR_END_INITIALIZATION:
		if (subchannel)
			return refuse(ret_answer, VSTOR_STATUS_INVALID_DEVICE_STATE);
		return primary_only(p, operation, packet, ret_answer);
	default:
		return refuse(ret_answer, VSTOR_STATUS_INVALID_REQUEST);
	}
}
