/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/crc32c.h"

#include <isa-l/crc.h>

#include "base/seed.h"

/* ISA-L leaves both inversions to its caller, takes an int length and forgot the const. */
static uint32_t crc_update(uint32_t state, const uint8_t *p, size_t len)
{
	while (len > 0) {
		int step = len > 1u << 30 ? 1 << 30 : (int)len;

		state = crc32_iscsi((unsigned char *)(uintptr_t)p, step, state);
		p += step;
		len -= (size_t)step;
	}
	return state;
}

uint32_t sp_crc32c(const void *buf, size_t len)
{
	return ~crc_update(UINT32_MAX, buf, len);
}

uint32_t sp_crc32c_skip(const void *buf, size_t len, size_t skip)
{
	static const uint8_t zeros[4];
	const uint8_t *p = buf;
	uint32_t state = crc_update(UINT32_MAX, p, skip);

	state = crc_update(state, SP_SEED_BUG(CRC_COVERS_ITSELF) ? p + skip : zeros, sizeof(zeros));
	return ~crc_update(state, p + skip + sizeof(zeros), len - skip - sizeof(zeros));
}
