/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/support/sheet.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC "SHEE"

struct head {
	char magic[4];
	uint32_t stamp;
	uint64_t sector;
};

static const uint8_t zeros[SHEET_SECTOR];

/* ---- stamps --------------------------------------------------------------------------------------- */

static void fill_one(uint8_t *buf, uint64_t sector, uint32_t stamp)
{
	struct head h = { .stamp = stamp, .sector = sector };
	uint64_t x = sector * 0x9e3779b97f4a7c15u + stamp * 0xd1342543de82ef95u + 1;

	memcpy(h.magic, MAGIC, 4);
	memcpy(buf, &h, sizeof(h));
	for (size_t i = sizeof(h); i < SHEET_SECTOR; i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(buf + i, &x, 8);
	}
}

void sheet_fill(uint8_t *buf, uint64_t sector, uint64_t count, uint32_t stamp)
{
	if (stamp == 0)
		memset(buf, 0, count * SHEET_SECTOR);
	for (uint64_t i = 0; stamp != 0 && i < count; i++)
		fill_one(buf + i * SHEET_SECTOR, sector + i, stamp);
}

int64_t sheet_stamp(const uint8_t *buf, uint64_t sector)
{
	uint8_t want[SHEET_SECTOR];
	struct head h;

	if (memcmp(buf, zeros, SHEET_SECTOR) == 0)
		return 0;
	memcpy(&h, buf, sizeof(h));
	if (memcmp(h.magic, MAGIC, 4) != 0 || h.sector != sector || h.stamp == 0)
		return -1;
	fill_one(want, sector, h.stamp);
	return memcmp(want, buf, SHEET_SECTOR) == 0 ? (int64_t)h.stamp : -1;
}

void sheet_describe(const uint8_t *buf, char *text, size_t size)
{
	struct head h;

	memcpy(&h, buf, sizeof(h));
	if (memcmp(buf, zeros, SHEET_SECTOR) == 0)
		snprintf(text, size, "zeros");
	else if (memcmp(h.magic, MAGIC, 4) == 0)
		snprintf(text, size, "sector %" PRIu64 " stamp %" PRIu32 "%s", h.sector, h.stamp,
			 sheet_stamp(buf, h.sector) > 0 ? "" : " (torn)");
	else
		snprintf(text, size, "foreign bytes %02x %02x %02x %02x", buf[0], buf[1], buf[2], buf[3]);
}

/* ---- the sheet ------------------------------------------------------------------------------------ */

static void *room(size_t count, size_t size)
{
	void *p = calloc(count, size);

	if (!p)
		abort();
	return p;
}

void sheet_init(struct sheet *s, uint64_t size)
{
	s->sectors = size / SHEET_SECTOR;
	s->live = room(s->sectors, sizeof(*s->live));
	s->durable = room(s->sectors, sizeof(*s->durable));
	s->touched = room(s->sectors, sizeof(*s->touched));
	s->last = 0;
	for (uint64_t i = 0; i < s->sectors; i++)
		s->live[i].count = s->durable[i].count = 1;
}

void sheet_copy(struct sheet *s, const struct sheet *from)
{
	if (s->sectors != from->sectors)
		sheet_init(s, from->sectors * SHEET_SECTOR);
	memcpy(s->live, from->live, s->sectors * sizeof(*s->live));
	memcpy(s->durable, from->durable, s->sectors * sizeof(*s->durable));
	memcpy(s->touched, from->touched, s->sectors * sizeof(*s->touched));
	s->last = from->last;
}

void sheet_fini(struct sheet *s)
{
	free(s->live);
	free(s->durable);
	free(s->touched);
}

static void add(struct sheet_cell *c, uint16_t stamp)
{
	for (unsigned i = 0; i < c->count; i++) {
		if (c->stamp[i] == stamp)
			return;
	}
	if (c->count == SHEET_CHOICES)
		abort();	/* the workload goes on for too long without a flush */
	c->stamp[c->count++] = stamp;
}

void sheet_wrote(struct sheet *s, uint64_t sector, uint64_t count, uint16_t stamp, bool ok)
{
	for (uint64_t i = sector; i < sector + count; i++) {
		if (ok)
			s->live[i].count = 0;
		add(&s->live[i], stamp);
		add(&s->durable[i], stamp);
		s->touched[i] = true;
	}
}

void sheet_discarded(struct sheet *s, uint64_t sector, uint64_t count)
{
	sheet_wrote(s, sector, count, 0, false);
}

void sheet_flushed(struct sheet *s)
{
	memcpy(s->durable, s->live, s->sectors * sizeof(*s->live));
}

/* The beginning of one choice and the end of another. */
static bool is_mixed(const struct sheet_cell *c, const uint8_t *buf, uint64_t sector)
{
	size_t front = 0, back = 0;
	uint8_t want[SHEET_SECTOR];

	for (unsigned i = 0; i < c->count; i++) {
		size_t f = 0, b = 0;

		sheet_fill(want, sector, 1, c->stamp[i]);
		while (f < SHEET_SECTOR && want[f] == buf[f])
			f++;
		while (b < SHEET_SECTOR && want[SHEET_SECTOR - 1 - b] == buf[SHEET_SECTOR - 1 - b])
			b++;
		front = f > front ? f : front;
		back = b > back ? b : back;
	}
	return front + back >= SHEET_SECTOR;
}

bool sheet_allows(const struct sheet_cell *c, const uint8_t *buf, uint64_t sector, bool torn)
{
	int64_t stamp = sheet_stamp(buf, sector);

	for (unsigned i = 0; i < c->count; i++) {
		if (c->stamp[i] == stamp)
			return true;
	}
	return torn && is_mixed(c, buf, sector);
}

void sheet_expected(const struct sheet_cell *c, char *text, size_t size)
{
	size_t n = (size_t)snprintf(text, size, "stamp");

	for (unsigned i = 0; i < c->count && n < size; i++)
		n += (size_t)snprintf(text + n, size - n, "%s%u", i ? " or " : " ", c->stamp[i]);
}
