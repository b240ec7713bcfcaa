/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Structure-aware mutation: changes records, and most of all puts values that parsers trip over where numbers are.
 */
#include <string.h>

#include "base/bytes.h"
#include "tests/fuzz/fuzz.h"
#include "vhd/store_mem_int.h"

/* libFuzzer's own mutation; a plain build has none and does not mutate. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

static uint64_t state;

static uint64_t next(void)	/* splitmix64 */
{
	uint64_t z = state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static unsigned below(unsigned n)
{
	return n ? (unsigned)(next() % n) : 0;
}

/* ---- values ---------------------------------------------------------------------------------------- */

static uint64_t limit_value(void)
{
	static const uint64_t limits[] = {
		0, 1, 511, 512, 513, 4095, 4096, 4097, 65535, 65536, 65537, SP_MIB(1) - 1, SP_MIB(1), SP_MIB(1) + 1,
		SP_MIB(2), SP_MIB(256), SP_MIB(257), UINT32_MAX, UINT32_MAX - 1, (uint64_t)UINT32_MAX + 1, SP_TIB(2),
		SP_TIB(64), SP_TIB(64) + 1, INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX, UINT64_MAX - 1,
		UINT64_MAX - 511, UINT64_MAX - 4095, UINT64_MAX - SP_MIB(1) + 1, 2047, 2048, 1024, 0x30000,
	};

	return limits[below(SP_ARRAY_SIZE(limits))];
}

static uint64_t some_value(uint64_t old, uint64_t file_size)
{
	uint64_t pow = (uint64_t)1 << below(64), unit = (uint64_t[]){ 1, 512, 4096, SP_MIB(1), 8 }[below(5)];

	switch (below(9)) {
	case 0:
		return pow;
	case 1:
		return pow - 1;
	case 2:
		return pow + 1;
	case 3:
		return old + unit;
	case 4:
		return old - unit;
	case 5:
		return old ^ pow;
	case 6:			/* a place near the end, as bytes, sectors or an entry of a VHDX table */
		return (file_size - unit * below(3)) / (uint64_t[]){ 1, 512, 1 }[below(3)] + (below(2) ? 6 : 0);
	case 7:			/* some MiB of the file with some block state */
		return below((unsigned)(file_size >> 20) + 2) * SP_MIB(1) + below(8);
	default:
		return limit_value();
	}
}

static uint64_t get(const uint8_t *p, unsigned width, bool big_endian)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < width; i++)
		v = v << 8 | p[big_endian ? i : width - 1 - i];
	return v;
}

static void put(uint8_t *p, unsigned width, bool big_endian, uint64_t v)
{
	for (unsigned i = 0; i < width; i++, v >>= 8)
		p[big_endian ? width - 1 - i : i] = (uint8_t)v;
}

/* ---- records --------------------------------------------------------------------------------------- */

static struct {
	uint8_t bytes[FZ_INPUT_MAX];
	size_t used;
} arena;	/* of payloads made by one mutation */

static uint8_t *take(size_t n)
{
	uint8_t *p = arena.bytes + arena.used;

	if (n > sizeof(arena.bytes) - arena.used)
		return NULL;
	arena.used += n;
	return p;
}

static void add_record(struct fz_input *in, struct fz_record rec)
{
	if (in->records < FZ_RECORDS)
		in->record[in->records++] = rec;
	else
		in->record[below(FZ_RECORDS)] = rec;
}

/* A hostile value for a field, mostly in both copies of a doubled structure. */
static void add_field(struct fz_input *in, const struct fz_seed *seed, const struct fz_field *f)
{
	struct mem_file *file = store_folder_mem_get(seed->folder, seed->name[f->file]);
	uint8_t *bytes = take(f->width);
	uint64_t size = 0;
	struct store *s;

	if (!bytes || mem_file_open(file, "seed", false, &s) < 0)
		return;
	memset(bytes, 0, f->width);
	store_read_padded(s, bytes, f->width, f->offset);
	store_size(s, &size);
	store_close(s);
	if (f->width > 8)
		bytes[below(f->width)] ^= (uint8_t)(1u << below(8));
	else
		put(bytes, f->width, f->big_endian, some_value(get(bytes, f->width, f->big_endian), size));
	add_record(in, (struct fz_record){ FZ_PATCH, f->file, f->offset, f->width, bytes });
	if (f->twin && below(4))
		add_record(in, (struct fz_record){ FZ_PATCH, f->file, f->twin, f->width, bytes });
}

static void change_bytes(struct fz_record *rec)
{
	uint8_t *copy;
	unsigned width = 1u << below(4), at;

	if (rec->kind != FZ_PATCH || rec->len == 0)
		return;
	copy = take(rec->len);
	if (!copy)
		return;
	memcpy(copy, rec->bytes, rec->len);
	width = (unsigned)sp_min(width, rec->len);
	at = below(rec->len - width + 1);
	put(copy + at, width, below(2), some_value(get(copy + at, width, below(2)), SP_MIB(8)));
	rec->bytes = copy;
}

static void change_record(struct fz_record *rec, const struct fz_seed *seed)
{
	switch (below(4)) {
	case 0:
		rec->offset = some_value(rec->offset, seed->size);
		break;
	case 1:
		if (rec->kind != FZ_PATCH)
			rec->len = (uint16_t)some_value(rec->len, 65536);
		break;
	case 2:
		rec->file = (uint8_t)next();
		break;
	default:
		change_bytes(rec);
		break;
	}
}

static void move_record(struct fz_input *in)
{
	unsigned a = below(in->records), b = below(in->records);
	struct fz_record t = in->record[a];

	in->record[a] = in->record[b];
	in->record[b] = t;
}

static void drop_record(struct fz_input *in)
{
	unsigned at = below(in->records);

	in->records--;
	memmove(&in->record[at], &in->record[at + 1], (in->records - at) * sizeof(in->record[0]));
}

static void add_op(struct fz_input *in, const struct fz_seed *seed)
{
	uint64_t offset = next() % (seed->size + 1);

	if (below(2))
		offset &= ~(uint64_t)511;
	if (below(2))
		offset %= SP_MIB(4);
	add_record(in, (struct fz_record){ FZ_OP, (uint8_t)next(), offset, (uint16_t)(next() >> below(16)), NULL });
}

static void add_size(struct fz_input *in)
{
	uint64_t size = some_value(SP_MIB(below(64)), SP_MIB(8));

	add_record(in, (struct fz_record){ FZ_SIZE, (uint8_t)next(), size, 0, NULL });
}

static void step(struct fz_input *in, const struct fz_target *t)
{
	const struct fz_seed *seed = fz_seed(t->seed[in->seed % t->seeds]);
	unsigned choice = below(16);

	if (t->ops && below(3) == 0)
		add_op(in, seed);
	else if (choice < 7 || in->records == 0)
		add_field(in, seed, &seed->field[below(seed->fields)]);
	else if (choice < 11)
		change_record(&in->record[below(in->records)], seed);
	else if (choice == 11)
		drop_record(in);
	else if (choice == 12)
		move_record(in);
	else if (choice == 13)
		add_size(in);
	else if (choice == 14)
		add_record(in, in->record[below(in->records)]);
	else
		in->seed = (uint8_t)below(t->seeds);
}

size_t fz_mutate(const struct fz_target *t, uint8_t *data, size_t size, size_t max_size, unsigned random)
{
	static uint8_t before[FZ_INPUT_MAX];
	struct fz_input in;

	state = random;
	arena.used = 0;
	size = sp_min(size, sizeof(before));
	if (below(8) == 0)
		return LLVMFuzzerMutate(data, size, max_size);
	memcpy(before, data, size);
	fz_parse(before, size, &in);
	for (unsigned n = 1 + below(3); n > 0; n--)
		step(&in, t);
	in.flags = (uint8_t)((below(4) ? in.flags : (uint8_t)next()) & ~(FZ_SEAL | FZ_LOG_SYNC | FZ_FOOTER));
	in.flags |= (below(8) ? FZ_SEAL : 0) | (below(4) ? FZ_LOG_SYNC : 0) | (below(4) ? FZ_FOOTER : 0);
	return fz_unparse(&in, data, max_size);
}
