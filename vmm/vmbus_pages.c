/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * GPADLs as guests make them: a header message with the first pages, body messages with the rest. The body does not say
 * whose it is, so handles are one namespace. However it goes, the guest gets an answer: it waits for it without end.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/seed.h"
#include "vmm/vmbus_int.h"

struct bus_gpadl *bus_gpadl_find(struct vmm_bus *bus, uint32_t handle)
{
	struct bus_gpadl *g = bus->gpadls;

	while (g && g->handle != handle)
		g = g->next;
	return g;
}

static void account(struct vmm_bus *bus, const struct bus_gpadl *g, bool in)
{
	pthread_mutex_lock(&bus->lock);
	bus->gpadl_count += in ? 1 : -1u;
	bus->partial_count += g->pages ? 0 : in ? 1 : -1u;
	bus->page_count += in ? g->total : -g->total;
	pthread_mutex_unlock(&bus->lock);
}

static void drop(struct vmm_bus *bus, struct bus_gpadl *g)
{
	struct bus_gpadl **at = &bus->gpadls;

	while (*at != g)
		at = &(*at)->next;
	*at = g->next;
	account(bus, g, false);
	vmbus_gpadl_free(g->pages);
	sp_free(g->pfn);
	sp_free(g);
}

void bus_gpadls_drop(struct vmm_bus *bus, uint32_t relid)
{
	for (struct bus_gpadl *g = bus->gpadls, *next; g; g = next) {
		next = g->next;
		if (relid == 0 || g->relid == relid)
			drop(bus, g);
	}
}

static void send_created(struct vmm_bus *bus, uint32_t relid, uint32_t handle, bool ok)
{
	struct vmbus_msg_gpadl_created reply = {
		.header.type = le32_make(VMBUS_MSG_GPADL_CREATED),
		.relid = le32_make(relid),
		.gpadl = le32_make(handle),
		.status = le32_make(ok ? 0 : BUS_STATUS_FAILED),
	};

	bus_send(bus, &reply, sizeof(reply));
}

/* The last page has come. */
static void complete(struct vmm_bus *bus, struct bus_gpadl *g)
{
	struct vmbus_gpadl *pages;
	int r = vmbus_gpadl_new(bus->mem, g->pfn, g->total, &pages);

	if (r < 0) {
		sp_debug("vmbus", "gpadl", "%#x of channel %u: %s", g->handle, g->relid, strerror(-r));
		send_created(bus, g->relid, g->handle, false);
		drop(bus, g);
		return;
	}
	sp_free(g->pfn);
	g->pfn = NULL;
	account(bus, g, false);
	g->pages = pages;
	account(bus, g, true);
	send_created(bus, g->relid, g->handle, true);
}

/* More page frame numbers; what exceeds the number announced is not looked at. */
static void add_pages(struct vmm_bus *bus, struct bus_gpadl *g, const uint8_t *at, unsigned len)
{
	for (; len >= sizeof(le64_t) && g->have < g->total; at += sizeof(le64_t), len -= (unsigned)sizeof(le64_t)) {
		le64_t pfn;

		memcpy(&pfn, at, sizeof(pfn));
		g->pfn[g->have++] = le64_get(pfn);
	}
	if (g->have == g->total)
		complete(bus, g);
}

/* How many pages a header announces; 0: it may not. */
static unsigned announced_pages(struct vmm_bus *bus, const struct vmbus_msg_gpadl_header *m)
{
	unsigned range_length = le16_get(m->range_length), pages = (range_length - 8) / 8;
	const struct bus_channel *c = bus_channel_by_relid(bus, le32_get(m->relid));

	if (!c || c->rescinded || (bus_gpadl_find(bus, le32_get(m->gpadl)) && !SP_SEED_BUG(BUS_GPADL_TWICE)))
		return 0;
	if (le16_get(m->range_count) != 1 || range_length < 16 || range_length % 8 != 0)
		return 0;
	if (le32_get(m->byte_offset) != 0 || le32_get(m->byte_count) != pages * VMBUS_PAGE_SIZE)
		return 0;
	if (bus->gpadl_count >= BUS_GPADLS_MAX || bus->partial_count >= BUS_PARTIAL_MAX)
		return 0;
	return pages <= VMBUS_GPADL_PFNS_MAX && pages <= BUS_PAGES_MAX - bus->page_count ? pages : 0;
}

static struct bus_gpadl *new_partial(struct vmm_bus *bus, const struct vmbus_msg_gpadl_header *m, unsigned pages)
{
	struct bus_gpadl *g = sp_zalloc(sizeof(*g));

	if (!g)
		return NULL;
	g->pfn = sp_calloc(pages, sizeof(g->pfn[0]));
	if (!g->pfn) {
		sp_free(g);
		return NULL;
	}
	g->handle = le32_get(m->gpadl);
	g->relid = le32_get(m->relid);
	g->total = pages;
	g->next = bus->gpadls;
	bus->gpadls = g;
	account(bus, g, true);
	return g;
}

void bus_gpadl_header(struct vmm_bus *bus, const uint8_t *payload, unsigned len)
{
	struct vmbus_msg_gpadl_header m;
	struct bus_gpadl *g;
	unsigned pages;

	memcpy(&m, payload, sizeof(m));
	pages = announced_pages(bus, &m);
	g = pages ? new_partial(bus, &m, pages) : NULL;
	if (g)
		add_pages(bus, g, payload + sizeof(m), len - (unsigned)sizeof(m));
	else
		send_created(bus, le32_get(m.relid), le32_get(m.gpadl), false);
}

void bus_gpadl_body(struct vmm_bus *bus, const uint8_t *payload, unsigned len)
{
	struct vmbus_msg_gpadl_body m;
	struct bus_gpadl *g;

	memcpy(&m, payload, sizeof(m));
	g = bus_gpadl_find(bus, le32_get(m.gpadl));
	if (g && !g->pages)	/* its number counts nothing: Linux sends 0 */
		add_pages(bus, g, payload + sizeof(m), len - (unsigned)sizeof(m));
}

void bus_gpadl_teardown(struct vmm_bus *bus, const uint8_t *payload, unsigned len)
{
	struct vmbus_msg_gpadl_torndown reply = { .header.type = le32_make(VMBUS_MSG_GPADL_TORNDOWN) };
	struct vmbus_msg_gpadl_teardown m;
	struct bus_gpadl *g;

	memcpy(&m, payload, sizeof(m));
	g = bus_gpadl_find(bus, le32_get(m.gpadl));
	if (g && g->relid == le32_get(m.relid)) {
		/* The guest takes the pages back with our answer: nobody may touch them any more. */
		if (g->user && !SP_SEED_BUG(BUS_TORN_WHILE_OPEN))
			bus_channel_close_by_guest(g->user);
		drop(bus, g);
	}
	reply.gpadl = m.gpadl;
	bus_send(bus, &reply, sizeof(reply));
}
