/* SPDX-License-Identifier: BSD-2-Clause */
#include "vmm/pio.h"

#include <errno.h>

#include "base/alloc.h"
#include "base/bytes.h"

#define RANGES 32u

struct range {
	uint16_t first, count;
	const struct vmm_pio_ops *ops;
	void *device;
};

struct vmm_pio {
	struct range range[RANGES];
	unsigned ranges;
};

int vmm_pio_new(struct vmm_pio **ret_pio)
{
	*ret_pio = sp_zalloc(sizeof(**ret_pio));
	return *ret_pio ? 0 : -ENOMEM;
}

void vmm_pio_free(struct vmm_pio *pio)
{
	sp_free(pio);
}

int vmm_pio_claim(struct vmm_pio *pio, uint16_t first, uint16_t count, const struct vmm_pio_ops *ops, void *device)
{
	if (count == 0 || !sp_range_ok(first, count, 0x10000))
		return -EINVAL;
	for (unsigned i = 0; i < pio->ranges; i++)
		if (sp_ranges_overlap(first, count, pio->range[i].first, pio->range[i].count))
			return -EEXIST;
	if (pio->ranges == RANGES)
		return -ENOSPC;
	pio->range[pio->ranges++] = (struct range){ first, count, ops, device };
	return 0;
}

static const struct range *find(const struct vmm_pio *pio, uint32_t port, unsigned size)
{
	for (unsigned i = 0; i < pio->ranges; i++) {
		const struct range *r = &pio->range[i];

		if (port >= r->first && port + size <= (uint32_t)r->first + r->count)
			return r;
	}
	return NULL;
}

uint32_t vmm_pio_read(struct vmm_pio *pio, uint16_t port, unsigned size)
{
	const struct range *r = find(pio, port, size);
	uint32_t value = 0;

	if (r)
		return r->ops->read(r->device, (uint16_t)(port - r->first), size);
	if (size == 1)
		return 0xff;
	for (unsigned i = 0; i < size; i++)
		value |= (vmm_pio_read(pio, (uint16_t)(port + i), 1) & 0xff) << (8 * i);
	return value;
}

void vmm_pio_write(struct vmm_pio *pio, uint16_t port, unsigned size, uint32_t value)
{
	const struct range *r = find(pio, port, size);

	if (r)
		r->ops->write(r->device, (uint16_t)(port - r->first), size, value);
	else if (size > 1)
		for (unsigned i = 0; i < size; i++)
			vmm_pio_write(pio, (uint16_t)(port + i), 1, value >> (8 * i) & 0xff);
}
