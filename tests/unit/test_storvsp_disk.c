/* SPDX-License-Identifier: BSD-2-Clause */
/* Guest memory to disk and back through all of it: ring, SCSI, engine, with and without io_uring. */
#include "tests/unit/chain_fixture.h"
#include "tests/unit/storvsp_fixture.h"

#define SIZE SP_MIB(32)
#define IO 16384u
#define BLOCKS 256u			/* of IO bytes, in use */
#define DEPTH 16u
#define ROUNDS 1500u

static const struct engine_case {
	const char *name;
	bool host;
	unsigned flags;
	enum vhd_format_id format;
} engine_cases[] = {
	{ "raw file", true, 0, VHD_FORMAT_RAW },
	{ "raw file without io_uring", true, VHD_OPEN_NO_URING, VHD_FORMAT_RAW },
	{ "VHDX file", true, 0, VHD_FORMAT_VHDX },
	{ "VHD in memory", false, 0, VHD_FORMAT_VHD },
};

struct world {
	struct guest g;
	char path[64];
	struct store_folder *folder;
	struct vhd_disk *disk;
	unsigned page;			/* DEPTH buffers */
	uint8_t wanted[BLOCKS];		/* what each block is full of; 0: never written */
	struct { bool busy, write; unsigned block; uint8_t value; } slot[DEPTH];
	bool busy[BLOCKS];
};

static void open_disk(struct world *w, const struct engine_case *c)
{
	struct vhd_open_opts o = { .flags = VHD_OPEN_WRITE | c->flags, .format = c->format };
	struct sp_err err = { 0 };

	if (!c->host) {
		w->folder = folder_new();
	} else {
		snprintf(w->path, sizeof(w->path), "/tmp/spindle-storvsp-XXXXXX");
		assert_non_null(mkdtemp(w->path));
		must(store_folder_host(w->path, &w->folder, &err), &err);
	}
	make_base(w->folder, "disk", c->format, SIZE, 0, 512);
	must(vhd_disk_open_in(w->folder, "disk", &o, &w->disk, &err), &err);
}

static void close_disk(struct world *w)
{
	struct sp_err err = { 0 };

	must(vhd_disk_close(w->disk, &err), &err);
	assert_int_equal(store_folder_unlink(w->folder, "disk"), 0);
	store_folder_close(w->folder);
	if (w->path[0])
		assert_int_equal(rmdir(w->path), 0);
}

static uint8_t *buffer(struct world *w, unsigned slot)
{
	return w->g.mem.base + (size_t)(w->page + slot * (IO / VMBUS_PAGE_SIZE)) * VMBUS_PAGE_SIZE;
}

static void start(struct world *w, unsigned slot, unsigned block, unsigned round)
{
	bool write = round % 3 != 0;
	struct guest_io io = guest_rw(0, write, block * (IO / 512), w->page + slot * (IO / VMBUS_PAGE_SIZE), IO);

	w->busy[block] = true;
	w->slot[slot].busy = true;
	w->slot[slot].write = write;
	w->slot[slot].block = block;
	w->slot[slot].value = (uint8_t)(round | 1);
	memset(buffer(w, slot), write ? w->slot[slot].value : 0xee, IO);
	assert_true(guest_put_io(&w->g, 0, slot + 1, &io));
}

static void end(struct world *w, const struct answer *a)
{
	unsigned slot = (unsigned)a->transaction_id - 1, block;
	uint8_t *p;

	assert_in_range(slot, 0, DEPTH - 1);
	assert_true(w->slot[slot].busy);
	expect_good(a, IO);
	block = w->slot[slot].block;
	p = buffer(w, slot);
	if (w->slot[slot].write)
		w->wanted[block] = w->slot[slot].value;
	else
		assert_true(p[0] == w->wanted[block] && memcmp(p, p + 1, IO - 1) == 0);
	w->slot[slot].busy = w->busy[block] = false;
}

static void run_load(struct world *w)
{
	unsigned started = 0, ended = 0, random = 1;
	struct answer a;

	while (ended < ROUNDS) {
		for (unsigned slot = 0; slot < DEPTH && started < ROUNDS; slot++) {
			random = random * 1103515245 + 12345;
			if (w->slot[slot].busy || w->busy[random / 65536 % BLOCKS])
				continue;
			start(w, slot, random / 65536 % BLOCKS, started++);
		}
		guest_kick(&w->g, 0);
		if (started == ended)
			continue;
		assert_true(guest_next(&w->g, 0, &a, GUEST_WAIT_MS));
		end(w, &a);
		ended++;
	}
}

static void flush(struct world *w)
{
	struct guest_io io = { .cdb = { 0x35 }, .cdb_len = 10, .data_in = VSTOR_DATA_NONE };
	struct answer a;

	guest_io(&w->g, 0, &io, &a);
	expect_good(&a, 0);
}

static void engine(void **state)
{
	const struct engine_case *c = *state;
	static struct world w;
	static uint8_t found[IO];
	struct scsi_backend *backend;

	memset(&w, 0, sizeof(w));
	open_disk(&w, c);
	guest_begin(&w.g, NULL, RING, RING);
	assert_int_equal(scsi_backend_disk(w.disk, &backend), 0);
	assert_int_equal(attach_lu(&w.g, 0, disk_over(backend, 0), NULL), 0);
	guest_handshake(&w.g);
	guest_settle(&w.g, 0, 0);
	w.page = test_mem_take(&w.g.mem, DEPTH * (IO / VMBUS_PAGE_SIZE));
	run_load(&w);
	flush(&w);
	assert_int_equal(detach(&w.g, 0), 0);
	for (unsigned i = 0; i < BLOCKS; i++) {
		assert_int_equal(vhd_disk_read(w.disk, found, IO, (uint64_t)i * IO), 0);
		assert_true(found[0] == w.wanted[i] && memcmp(found, found + 1, IO - 1) == 0);
	}
	guest_end(&w.g);
	close_disk(&w);
}

int main(void)
{
	return ROWS_RUN(engine_cases, engine);
}
