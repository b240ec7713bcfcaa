/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "tools/options.h"
#include "tools/output.h"
#include "tools/size.h"
#include "vhd/probe.h"

/* ---- JSON ---------------------------------------------------------------------------------------- */

static json_object *json_filesystem(const struct vhd_filesystem *fs)
{
	json_object *o;

	if (!fs->type[0])
		return NULL;
	o = json_object_new_object();
	tool_json_text(o, "type", fs->type);
	tool_json_text(o, "usage", fs->usage);
	tool_json_text(o, "label", fs->label);
	tool_json_text(o, "uuid", fs->uuid);
	return o;
}

static json_object *json_partition(const struct vhd_partition *p)
{
	json_object *o = json_object_new_object();

	tool_json_u64(o, "number", p->number);
	tool_json_u64(o, "offset", p->offset);
	tool_json_u64(o, "size", p->size);
	tool_json_text(o, "type", p->type);
	tool_json_text(o, "name", p->name);
	tool_json_text(o, "uuid", p->uuid);
	tool_json_bool(o, "extended", p->container);
	json_object_object_add(o, "filesystem", json_filesystem(&p->fs));
	return o;
}

static void print_json(const char *path, uint64_t size, const struct vhd_probe_result *res)
{
	json_object *o = json_object_new_object(), *list = json_object_new_array();

	tool_json_text(o, "filename", path);
	tool_json_u64(o, "virtual-size", size);
	json_object_object_add(o, "table", res->table[0] ? json_object_new_string(res->table) : NULL);
	tool_json_text(o, "table-uuid", res->table_uuid);
	json_object_object_add(o, "filesystem", json_filesystem(&res->fs));
	for (size_t i = 0; i < res->partitions; i++)
		json_object_array_add(list, json_partition(&res->partition[i]));
	json_object_object_add(o, "partitions", list);
	tool_json_bool(o, "incomplete", res->incomplete);
	tool_json_print(o);
}

/* ---- human --------------------------------------------------------------------------------------- */

static void print_filesystem(const struct vhd_filesystem *fs)
{
	printf("%s", fs->type[0] ? fs->type : "nothing known");
	if (fs->label[0])
		printf(" label \"%s\"", fs->label);
	if (fs->uuid[0])
		printf(" uuid %s", fs->uuid);
	putchar('\n');
}

static void print_human(const char *path, uint64_t size, const struct vhd_probe_result *res)
{
	char text[TOOL_SIZE_TEXT];

	printf("disk: %s, %s (%" PRIu64 " bytes)\n", path, tool_size_format(size, text), size);
	if (!res->table[0]) {
		printf("no partition table; on the disk: ");
		print_filesystem(&res->fs);
		return;
	}
	printf("partition table: %s", res->table);
	if (res->table_uuid[0])
		printf(" %s", res->table_uuid);
	putchar('\n');
	for (size_t i = 0; i < res->partitions; i++) {
		const struct vhd_partition *p = &res->partition[i];

		printf("%3u: offset %" PRIu64 ", %s, type %s%s%s%s: ", p->number, p->offset,
		       tool_size_format(p->size, text), p->type, p->name[0] ? ", \"" : "", p->name,
		       p->name[0] ? "\"" : "");
		if (p->container)
			puts("extended partition");
		else
			print_filesystem(&p->fs);
	}
}

int tool_probe(const struct tool_verb *verb, int argc, char **argv)
{
	struct tool_look look = { 0 };
	struct vhd_probe_result res = { 0 };
	struct vhd_open_opts open;
	struct vhd_disk *d;
	struct sp_err err = { 0 };
	bool json = false;
	const struct tool_opt opts[] = { TOOL_OPTS_LOOK(&look), TOOL_OPT_OUTPUT(&json), TOOL_OPTS_END };
	int n, r;

	n = tool_parse(verb, opts, argc, argv, 1, 1);
	if (n < 0)
		return tool_parse_exit(verb, n);
	open = tool_open_opts(&look);
	r = vhd_disk_open(argv[0], &open, &d, &err);
	if (r == 0) {
		r = vhd_probe_disk(d, &res, &err);
		if (r == 0 && json)
			print_json(argv[0], vhd_disk_size(d), &res);
		else if (r == 0)
			print_human(argv[0], vhd_disk_size(d), &res);
		vhd_disk_close(d, NULL);
	}
	if (r < 0) {
		tool_fail(argv[0], &err);
		return 1;
	}
	if (res.incomplete)
		tool_warn(argv[0], "parts of the disk could not be read, so something may be missing here");
	vhd_probe_fini(&res);
	return 0;
}
