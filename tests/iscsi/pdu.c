/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * PDUs on a socket: 48 bytes of header, then data padded to four bytes.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/iscsi/target.h"

void pdu_put16(uint8_t *at, uint16_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

void pdu_put32(uint8_t *at, uint32_t value)
{
	pdu_put16(at, (uint16_t)(value >> 16));
	pdu_put16(at + 2, (uint16_t)value);
}

uint32_t pdu_get32(const uint8_t *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static int receive_all(int fd, void *to, size_t len)
{
	ssize_t n = len > 0 ? recv(fd, to, len, MSG_WAITALL) : 0;

	if (n < 0)
		return -errno;
	return (size_t)n == len ? 0 : -ENOTCONN;
}

int pdu_receive(struct session *s, struct pdu *ret_pdu)
{
	uint8_t *h = ret_pdu->header;
	int r = receive_all(s->fd, h, PDU_HEADER);

	if (r < 0)
		return r;
	ret_pdu->data = s->in;
	ret_pdu->len = pdu_get32(h + 4) & 0xffffff;
	if (h[4] != 0 || ret_pdu->len > SEGMENT_MAX)	/* additional headers, or more than we said we take */
		return -EPROTO;
	return receive_all(s->fd, s->in, (ret_pdu->len + 3) & ~3u);
}

int pdu_send(struct session *s, const uint8_t header[PDU_HEADER], const void *data, uint32_t len)
{
	static const uint8_t padding[4];
	uint8_t h[PDU_HEADER];
	struct iovec iov[3] = {
		{ h, PDU_HEADER },
		{ (void *)(uintptr_t)data, len },
		{ (void *)(uintptr_t)padding, -len & 3 },
	};
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 3 };
	size_t left = PDU_HEADER + len + (-len & 3);

	memcpy(h, header, PDU_HEADER);
	pdu_put32(h + 4, len);
	while (left > 0) {
		ssize_t n = sendmsg(s->fd, &msg, MSG_NOSIGNAL);

		if (n < 0)
			return -errno;
		left -= (size_t)n;
		for (; n > 0 && (size_t)n >= msg.msg_iov->iov_len; msg.msg_iov++, msg.msg_iovlen--)
			n -= (ssize_t)msg.msg_iov->iov_len;
		if (n > 0) {
			msg.msg_iov->iov_base = (uint8_t *)msg.msg_iov->iov_base + n;
			msg.msg_iov->iov_len -= (size_t)n;
		}
	}
	return 0;
}

void pdu_reply(struct session *s, uint8_t header[PDU_HEADER], uint8_t opcode, uint32_t tag, bool status)
{
	memset(header, 0, PDU_HEADER);
	header[0] = opcode;
	header[1] = 0x80;
	pdu_put32(header + 16, tag);
	pdu_put32(header + 24, status ? s->stat_sn++ : s->stat_sn);
	pdu_put32(header + 28, s->exp_cmd_sn);
	pdu_put32(header + 32, s->exp_cmd_sn + COMMAND_WINDOW - 1);
}
