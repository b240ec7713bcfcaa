/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/alloc.h"
#include "tests/unit/rows.h"
#include "tests/unit/vhdx_image.h"

static const struct sp_guid parent_id = { { 4, 3, 2, 1, 6, 5, 8, 7, 9, 10, 11, 12, 13, 14, 15, 16 } };

static struct vhd_image *create_and_open(const struct vhd_format_create *c)
{
	struct sp_err err = { 0 };
	struct vhd_image *img;
	struct store *s;

	must(store_mem_new("new", 0, 0, &s));
	if (vhdx_create(s, c, &err) != 0)
		fail_msg("%s", err.text);
	must(vhd_image_open(s, "new", &vhd_format_vhdx, 0, &img, NULL));
	assert_null(img->warning);
	return img;
}

static void expect_clean(struct store *s)
{
	struct vhd_report rep = { 0 };

	must(vhdx_check(s, &rep));
	if (rep.findings)
		print_message("%s: %s\n", rep.finding[0].structure, rep.finding[0].text);
	assert_int_equal(rep.errors + rep.leaks + rep.warnings, 0);
	vhd_report_fini(&rep);
}

/* ---- what comes out ------------------------------------------------------------------------------ */

static const struct made {
	const char *name;
	struct vhd_format_create c;
	uint64_t file_mib, bat_mib, block_mib;
} mades[] = {
	{ "1 MiB", { .size = SP_MIB(1) }, 4, 1, 2 },
	{ "one sector", { .size = 512 }, 4, 1, 2 },
	{ "64 GiB", { .size = SP_GIB(64) }, 4, 1, 2 },
	{ "64 GiB and a sector", { .size = SP_GIB(64) + 512 }, 4, 1, 32 },
	{ "1 TiB, 1 MiB blocks", { .size = SP_TIB(1), .block_size = 1 << 20 }, 12, 9, 1 },
	{ "1 TiB, 2 MiB blocks", { .size = SP_TIB(1), .block_size = 2 << 20 }, 8, 5, 2 },
	{ "64 TiB", { .size = SP_TIB(64) }, 20, 17, 32 },
	{ "64 TiB, 1 MiB blocks", { .size = SP_TIB(64), .block_size = 1 << 20 }, 516, 513, 1 },
	{ "64 TiB, 256 MiB blocks", { .size = SP_TIB(64), .block_size = 256 << 20 }, 6, 3, 256 },
	{ "4096-byte sectors", { .size = SP_GIB(1), .logical_sector = 4096 }, 4, 1, 2 },
	{ "512 native", { .size = SP_GIB(1), .physical_sector = 512 }, 4, 1, 2 },
	{ "log of 4 MiB", { .size = SP_GIB(1), .log_size = 4 << 20 }, 7, 1, 2 },
	{ "fixed, whole blocks", { .size = SP_MIB(8), .kind = VHD_KIND_FIXED }, 12, 1, 2 },
	{ "fixed, part of a block", { .size = SP_MIB(8) + 512, .kind = VHD_KIND_FIXED }, 14, 1, 2 },
	{ "fixed, over a chunk", { .size = SP_GIB(4) + SP_MIB(1), .kind = VHD_KIND_FIXED }, 4102, 1, 2 },
	{ "child of 100 GiB", { .size = SP_GIB(100), .kind = VHD_KIND_DIFFERENCING, .parent_identity = { { 1 } },
				.parent_relative = "p.vhdx" }, 4, 1, 2 },
};

static void made(void **state)
{
	const struct made *m = *state;
	struct vhd_image *img = create_and_open(&m->c);
	struct vhdx *x = vhdx_of(img);
	uint64_t size;

	must(store_size(img->store, &size));
	assert_int_equal(size, SP_MIB(m->file_mib));
	assert_int_equal(img->size, m->c.size);
	assert_int_equal(img->kind, m->c.kind);
	assert_int_equal(img->block_size, SP_MIB(m->block_mib));
	assert_int_equal(img->logical_sector, m->c.logical_sector ? m->c.logical_sector : 512);
	assert_int_equal(img->physical_sector, m->c.physical_sector ? m->c.physical_sector : 4096);
	assert_int_equal(x->regions.entry[x->regions.bat].length, SP_MIB(m->bat_mib));
	assert_int_equal(x->header.log_length, m->c.log_size ? m->c.log_size : 1 << 20);
	assert_false(sp_guid_is_zero(&img->identity));
	expect_clean(img->store);
	must(vhd_image_close(img, false));
}

/* Every block of a fixed image has its own place, in order, and no bitmap slot is touched. */
static void fixed_places(void **state)
{
	struct vhd_format_create c = { .size = SP_GIB(4) + SP_MIB(1), .kind = VHD_KIND_FIXED, .block_size = 2 << 20 };
	struct vhd_image *img = create_and_open(&c);
	struct vhd_place p;
	uint64_t entry;

	must(vhdx_bat_get(vhdx_of(img), 2048, &entry));
	assert_int_equal(entry, 0);
	must(vhdx_bat_get(vhdx_of(img), 2049, &entry));
	assert_int_equal(entry, (SP_MIB(4) + 2048 * SP_MIB(2)) | 6);
	must(img->format->map(img, SP_GIB(4), SP_MIB(1), &p));
	assert_int_equal(p.where, VHD_WHERE_DATA);
	assert_int_equal(p.file_offset, SP_MIB(4) + SP_GIB(4));
	must(vhd_image_close(img, false));
}

static void child(void **state)
{
	const struct sp_guid disk_id = { { 0xd1 } };
	struct vhd_format_create c = {
		.size = SP_GIB(1),
		.kind = VHD_KIND_DIFFERENCING,
		.parent_identity = parent_id,
		.parent_relative = "../base.vhdx",
		.parent_absolute = "/vm/base.vhdx",
		.disk_id = &disk_id,
	};
	struct vhd_image *img = create_and_open(&c);
	const struct vhdx_metadata *md = &vhdx_of(img)->metadata;

	assert_true(img->has_parent);
	assert_true(sp_guid_equal(&img->parent.identity[0], &parent_id));
	assert_int_equal(img->parent.identities, 1);
	assert_string_equal(img->parent.path[0].text, "..\\base.vhdx");
	assert_string_equal(img->parent.path[1].text, "\\vm\\base.vhdx");
	assert_int_equal(md->disk_id.b[0], 0xd1);
	assert_false(md->leave_blocks_allocated);
	/* alone in its pages, so that set_parent can log them */
	assert_int_equal(md->item[md->locator_item].offset % 4096, 0);
	for (unsigned i = 0; i < md->count; i++) {
		if ((int)i != md->locator_item)
			assert_true(md->item[i].offset < md->item[md->locator_item].offset);
	}
	must(vhd_image_close(img, false));
}

/* ---- what is refused ----------------------------------------------------------------------------- */

static const struct refused { const char *name; struct vhd_format_create c; } refuseds[] = {
	{ "no size", { .size = 0 } },
	{ "half a sector", { .size = 1000 } },
	{ "512-byte multiple with 4096-byte sectors", { .size = 4096 + 512, .logical_sector = 4096 } },
	{ "over 64 TiB", { .size = SP_TIB(64) + 512 } },
	{ "blocks of 3 MiB", { .size = SP_MIB(8), .block_size = 3 << 20 } },
	{ "blocks of 512 KiB", { .size = SP_MIB(8), .block_size = 512 << 10 } },
	{ "blocks of 512 MiB", { .size = SP_MIB(8), .block_size = 512 << 20 } },
	{ "sectors of 1024", { .size = SP_MIB(8), .logical_sector = 1024 } },
	{ "physical sectors of 8192", { .size = SP_MIB(8), .physical_sector = 8192 } },
	{ "log of 1.5 MiB", { .size = SP_MIB(8), .log_size = 3 << 19 } },
	{ "log of 2 GiB", { .size = SP_MIB(8), .log_size = 2u << 30 } },
	{ "child without identity", { .size = SP_MIB(8), .kind = VHD_KIND_DIFFERENCING, .parent_relative = "p" } },
	{ "child without path", { .size = SP_MIB(8), .kind = VHD_KIND_DIFFERENCING, .parent_identity = { { 1 } } } },
	{ "child of a broken name", { .size = SP_MIB(8), .kind = VHD_KIND_DIFFERENCING, .parent_identity = { { 1 } },
				      .parent_relative = "\xff" } },
};

static void refused(void **state)
{
	const struct refused *c = *state;
	struct sp_err err = { 0 };
	struct store *s;

	must(store_mem_new("new", 0, 0, &s));
	assert_int_equal(vhdx_create(s, &c->c, &err), -EINVAL);
	assert_int_equal(err.code, -EINVAL);
	assert_true(strlen(err.text) > 10);
	store_close(s);
}

static void disk_full(void **state)
{
	struct vhd_format_create c = { .size = SP_GIB(1) };
	struct sp_err err = { 0 };
	struct store *s;

	must(store_mem_new("new", 0, 8192, &s));
	assert_int_equal(vhdx_create(s, &c, &err), -ENOSPC);
	assert_int_equal(err.code, -ENOSPC);
	store_close(s);
}

/* ---- order: nothing but a sync stands between the body and the headers --------------------------- */

static struct store_ops real;
static char trace[4096];

static int tracing_writev(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	bool headers = strchr(trace, '1') || strchr(trace, '2');

	trace_note(trace, offset == 0x10000 ? '1' : offset == 0x20000 ? '2' : headers ? '?' : 'b');
	return real.writev(s, iov, iovcnt, offset);
}

static int tracing_sync(struct store *s)
{
	trace_note(trace, 's');
	return real.sync(s);
}

static void headers_last(void **state)
{
	struct vhd_format_create c = { .size = SP_MIB(8), .kind = VHD_KIND_FIXED };
	struct store_ops ops;
	struct store *s;

	must(store_mem_new("new", 0, 0, &s));
	real = ops = *s->ops;
	ops.writev = tracing_writev;
	ops.sync = tracing_sync;
	s->ops = &ops;
	trace[0] = 0;
	must(vhdx_create(s, &c, NULL));
	assert_string_equal(trace + strspn(trace, "b"), "s21s");
	store_close(s);
}

static int fails_when_zero(void *arg)
{
	return (*(int *)arg)-- == 0;
}

static void every_allocation_may_fail(void **state)
{
	struct vhd_format_create c = {
		.size = SP_MIB(8),
		.kind = VHD_KIND_DIFFERENCING,
		.parent_identity = parent_id,
		.parent_relative = "p.vhdx",
	};
	int r = -ENOMEM;

	for (int k = 0; r == -ENOMEM; k++) {
		struct store *s;
		int left = k;

		must(store_mem_new("new", 0, 0, &s));
		sp_alloc_set_fault(fails_when_zero, &left);
		r = vhdx_create(s, &c, NULL);
		sp_alloc_set_fault(NULL, NULL);
		store_close(s);
		assert_in_range(k, 0, 1000);
	}
	assert_int_equal(r, 0);
}

/* ---- other programs' opinion --------------------------------------------------------------------- */

static int tool(const char *format, const char *path)
{
	char command[512];

	snprintf(command, sizeof(command), format, path);
	return system(command);
}

static void peers_accept(void **state)
{
	static const struct vhd_format_create made_for_peers[] = {
		{ .size = SP_GIB(1) },
		{ .size = SP_TIB(2), .block_size = 1 << 20 },
		{ .size = SP_MIB(9), .kind = VHD_KIND_FIXED },
		{ .size = SP_MIB(9), .kind = VHD_KIND_FIXED, .preallocate = true },
		{ .size = SP_GIB(5), .kind = VHD_KIND_FIXED, .block_size = 256 << 20 },
		{ .size = SP_MIB(64), .physical_sector = 512, .log_size = 2 << 20 },
	};
	char dir[] = "/tmp/spindle-create-XXXXXX", path[64];
	bool qemu = system("qemu-img --version >/dev/null 2>&1") == 0;
	bool libvhdi = system("vhdiinfo -V >/dev/null 2>&1") == 0;

	if (!qemu && !libvhdi)
		skip();
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/peer.vhdx", dir);
	for (size_t i = 0; i < SP_ARRAY_SIZE(made_for_peers); i++) {
		const struct vhd_format_create *c = &made_for_peers[i];
		char size[200];
		struct store *s;

		must(store_file_open(path, STORE_RDWR | STORE_CREATE, &s, NULL));
		must(vhdx_create(s, c, NULL));
		if (c->preallocate) {
			struct stat st;

			must(stat(path, &st));
			assert_true((uint64_t)st.st_blocks * 512 >= c->size);
		}
		store_close(s);
		if (qemu) {
			must(tool("qemu-img check -f vhdx %s >/dev/null 2>&1", path));
			snprintf(size, sizeof(size), "qemu-img info -f vhdx %%s | grep -q '(%llu bytes)'",
				 (unsigned long long)c->size);
			must(tool(size, path));
		}
		if (libvhdi) {
			snprintf(size, sizeof(size), "vhdiinfo %%s 2>&1 | grep -q '%llu bytes'",
				 (unsigned long long)c->size);
			must(tool(size, path));
		}
		must(unlink(path));
	}
	must(rmdir(dir));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(fixed_places),
		cmocka_unit_test(child),
		cmocka_unit_test(disk_full),
		cmocka_unit_test(headers_last),
		cmocka_unit_test(every_allocation_may_fail),
		cmocka_unit_test(peers_accept),
	};
	int failed = cmocka_run_group_tests_name("create", tests, NULL, NULL);

	failed += ROWS_RUN(mades, made);
	failed += ROWS_RUN(refuseds, refused);
	return failed != 0;
}
