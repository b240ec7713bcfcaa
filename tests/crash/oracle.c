/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/crash/oracle.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC "SPDL"

struct stamp_head {
	char magic[4];
	uint32_t stamp;
	uint64_t sector;
};

static void *grow(void *p, size_t size)
{
	p = realloc(p, size);
	if (!p)
		abort();
	return p;
}

void stamp_fill(uint8_t buf[static SECTOR], uint64_t sector, uint32_t stamp)
{
	struct stamp_head h = { .stamp = stamp, .sector = sector };
	uint64_t x = sector * 0x9e3779b97f4a7c15u + stamp * 0xd1342543de82ef95u + 1;

	if (stamp == 0) {
		memset(buf, 0, SECTOR);
		return;
	}
	memcpy(h.magic, MAGIC, 4);
	memcpy(buf, &h, sizeof(h));
	for (size_t i = sizeof(h); i < SECTOR; i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(buf + i, &x, 8);
	}
}

bool stamp_is_payload(const uint8_t *buf, size_t len)
{
	return len >= SECTOR && memcmp(buf, MAGIC, 4) == 0;
}

void stamp_describe(const uint8_t *buf, char *text, size_t size)
{
	struct stamp_head h;
	uint8_t want[SECTOR];

	memcpy(&h, buf, sizeof(h));
	if (memcmp(h.magic, MAGIC, 4) != 0) {
		static const uint8_t zero[SECTOR];

		if (memcmp(buf, zero, SECTOR) == 0)
			snprintf(text, size, "zeros");
		else
			snprintf(text, size, "foreign bytes %02x %02x %02x %02x", buf[0], buf[1], buf[2], buf[3]);
		return;
	}
	stamp_fill(want, h.sector, h.stamp);
	snprintf(text, size, "sector %" PRIu64 " stamp %u%s", h.sector, h.stamp,
		 memcmp(want, buf, SECTOR) == 0 ? "" : " (torn)");
}

void oracle_init(struct oracle *o, uint64_t size, uint32_t block)
{
	memset(o, 0, sizeof(*o));
	o->sectors = size / SECTOR;
	o->block = block / SECTOR;
	o->sector = grow(NULL, o->sectors * sizeof(*o->sector));
	o->touched = grow(NULL, o->sectors);
	memset(o->touched, 0, o->sectors);
	for (uint64_t i = 0; i < o->sectors; i++) {
		struct candidates *c = &o->sector[i];

		*c = (struct candidates){ .count = 1, .room = 4 };
		c->stamp = grow(NULL, 4 * sizeof(uint32_t));
		c->at = grow(NULL, 4 * sizeof(uint32_t));
		c->stamp[0] = 0;
		c->at[0] = 0;
	}
}

void oracle_fini(struct oracle *o)
{
	for (uint64_t i = 0; i < o->sectors; i++) {
		free(o->sector[i].stamp);
		free(o->sector[i].at);
	}
	free(o->sector);
	free(o->touched);
	free(o->entry);
}

/* If two blocks were mixed up, a sector would show at its place in the wrong block. */
static void touch(struct oracle *o, uint64_t sector, uint64_t count)
{
	for (uint64_t i = 0; i < count && i < o->block; i++) {
		uint64_t within = (sector + i) % o->block;

		if (o->touched[within])
			continue;
		for (uint64_t at = within; at < o->sectors; at += o->block)
			o->touched[at] = true;
	}
}

uint32_t oracle_note(struct oracle *o, enum history_kind kind, uint64_t sector, uint64_t count, uint32_t stamp,
		     uint32_t covers)
{
	if (o->entries == o->room) {
		o->room = o->room ? 2 * o->room : 256;
		o->entry = grow(o->entry, o->room * sizeof(*o->entry));
	}
	touch(o, sector, count);
	o->entry[o->entries] = (struct history){ kind, sector, count, stamp, covers };
	return o->entries++;
}

static void add(struct candidates *c, uint32_t stamp, uint32_t at)
{
	if (c->count == c->room) {
		c->room *= 2;
		c->stamp = grow(c->stamp, c->room * sizeof(*c->stamp));
		c->at = grow(c->at, c->room * sizeof(*c->at));
	}
	c->stamp[c->count] = stamp;
	c->at[c->count++] = at;
}

/* A discard may or may not have been done, so it never makes what was before impossible. */
static bool is_definite(const struct oracle *o, const struct candidates *c, unsigned i)
{
	return i == 0 || o->entry[c->at[i]].kind != HISTORY_DISCARD;
}

/* What a durable later write has replaced cannot come back. */
static void drop_before(const struct oracle *o, struct candidates *c, uint32_t covers)
{
	unsigned keep = 0;

	for (unsigned i = 1; i < c->count; i++) {
		if (c->at[i] < covers && is_definite(o, c, i))
			keep = i;
	}
	memmove(c->stamp, c->stamp + keep, (c->count - keep) * sizeof(*c->stamp));
	memmove(c->at, c->at + keep, (c->count - keep) * sizeof(*c->at));
	c->count -= keep;
}

void oracle_advance(struct oracle *o, uint32_t index)
{
	for (; o->applied <= index && o->applied < o->entries; o->applied++) {
		const struct history *h = &o->entry[o->applied];

		if (h->kind == HISTORY_FLUSHED) {
			uint64_t end = h->count ? h->sector + h->count : o->sectors;

			for (uint64_t i = h->sector; i < end; i++) {
				if (o->touched[i])
					drop_before(o, &o->sector[i], h->covers);
			}
			continue;
		}
		for (uint64_t i = h->sector; i < h->sector + h->count; i++)
			add(&o->sector[i], h->kind == HISTORY_WRITE ? h->stamp : 0, o->applied);
	}
}

void oracle_settle(struct oracle *o)
{
	oracle_note(o, HISTORY_FLUSHED, 0, 0, 0, o->entries);
	oracle_advance(o, o->entries - 1);
}

bool oracle_allows(const struct oracle *o, uint64_t sector, const uint8_t *bytes)
{
	const struct candidates *c = &o->sector[sector];
	uint8_t want[SECTOR];

	for (unsigned i = c->count; i-- > 0;) {
		stamp_fill(want, sector, c->stamp[i]);
		if (memcmp(want, bytes, SECTOR) == 0)
			return true;
	}
	return false;
}

void oracle_expectation(const struct oracle *o, uint64_t sector, char *text, size_t size)
{
	const struct candidates *c = &o->sector[sector];
	size_t n = (size_t)snprintf(text, size, "stamp");

	for (unsigned i = 0; i < c->count && n < size; i++)
		n += (size_t)snprintf(text + n, size - n, "%s%u", i ? " or " : " ", c->stamp[i]);
}
