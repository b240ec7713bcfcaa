/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/bytes.h"
#include "tools/options.h"
#include "tools/output.h"

struct printer {
	struct vhd_disk *disk;
	bool json, first;
};

static void print_json(struct printer *p, const struct vhd_range *r)
{
	json_object *o = json_object_new_object();
	bool data = r->kind == VHD_RANGE_DATA, zero = r->kind == VHD_RANGE_ZERO;

	tool_json_u64(o, "start", r->offset);
	tool_json_u64(o, "length", r->len);
	tool_json_u64(o, "depth", r->layer);
	tool_json_bool(o, "present", data || (zero && !r->unallocated));
	tool_json_bool(o, "zero", zero);
	tool_json_bool(o, "data", data);
	if (data)
		tool_json_u64(o, "offset", r->file_offset);
	if (r->kind == VHD_RANGE_UNKNOWN)
		tool_json_bool(o, "unknown", true);
	/* One range per line and nothing kept: a map may have millions of them. */
	printf("%s%s", p->first ? "[" : ",\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_SPACED));
	json_object_put(o);
}

static void print_human(struct printer *p, const struct vhd_range *r)
{
	struct vhd_layer_info info;

	if (p->first)
		printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
	if (r->kind == VHD_RANGE_ZERO)
		return;		/* as qemu-img: only what has data */
	printf("%#-16" PRIx64 "%#-16" PRIx64, r->offset, r->len);
	if (r->kind == VHD_RANGE_DATA && vhd_disk_layer_info(p->disk, r->layer, &info) == 0)
		printf("%#-16" PRIx64 "%s\n", r->file_offset, info.path);
	else
		printf("%-16s%s\n", "unknown", "(missing parent)");
}

static void print_range(struct printer *p, const struct vhd_range *r)
{
	if (p->json)
		print_json(p, r);
	else
		print_human(p, r);
	p->first = false;
}

/* The same state goes on, and for data the file offset too. */
static bool continues(const struct vhd_range *a, const struct vhd_range *b)
{
	if (a->kind != b->kind || a->layer != b->layer || a->unallocated != b->unallocated)
		return false;
	return a->kind != VHD_RANGE_DATA || a->file_offset + a->len == b->file_offset;
}

static int map_disk(struct printer *p, uint64_t offset, uint64_t len, struct sp_err *err)
{
	struct vhd_range held = { 0 }, next;

	while (len > 0) {
		int r = vhd_disk_map(p->disk, offset, len, &next);

		if (r < 0)
			return sp_err_set(err, r, "cannot tell where the bytes from offset %#" PRIx64 " are", offset);
		if (held.len && continues(&held, &next)) {
			held.len += next.len;
		} else {
			if (held.len)
				print_range(p, &held);
			held = next;
		}
		offset += next.len;
		len -= next.len;
	}
	if (held.len)
		print_range(p, &held);
	if (p->json)
		puts(p->first ? "[]" : "]");
	return 0;
}

int tool_map(const struct tool_verb *verb, int argc, char **argv)
{
	struct tool_look look = { 0 };
	struct printer p = { .first = true };
	uint64_t start = 0, max = UINT64_MAX, size;
	const struct tool_opt opts[] = {
		TOOL_OPTS_LOOK(&look),
		TOOL_OPT_OUTPUT(&p.json),
		{ 's', "start-offset", "SIZE", "begin at this byte of the disk", TOOL_SIZE, &start },
		{ 'l', "max-length", "SIZE", "look at so many bytes at most", TOOL_SIZE, &max },
		TOOL_OPTS_END,
	};
	struct vhd_open_opts open;
	struct sp_err err = { 0 };
	int n, r;

	n = tool_parse(verb, opts, argc, argv, 1, 1);
	if (n < 0)
		return tool_parse_exit(verb, n);
	open = tool_open_opts(&look);
	r = vhd_disk_open(argv[0], &open, &p.disk, &err);
	if (r == 0) {
		size = vhd_disk_size(p.disk);
		if (start > size)
			r = sp_err_set(&err, -ERANGE, "start offset %" PRIu64 " is past the end of the disk at "
				       "%" PRIu64, start, size);
		else
			r = map_disk(&p, start, sp_min(max, size - start), &err);
		vhd_disk_close(p.disk, NULL);
	}
	if (r < 0)
		tool_fail(argv[0], &err);
	return r < 0;
}
