/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * info also speaks about images that do not open: then it shows what can be known, says why, and answers 1.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "tools/options.h"
#include "tools/output.h"
#include "tools/size.h"
#include "vhd/check.h"

struct info_args {
	struct tool_look look;
	bool chain, json;
};

/* A layer with everything that is printed about it. */
struct layer {
	const char *name;		/* as the operator called it, or the real path of a parent */
	struct vhd_layer_info info;
	uint64_t disk_size;		/* allocated on the host */
	char identity[SP_GUID_TEXT], parent_identity[SP_GUID_TEXT];
	const char *parent_found;	/* real path of the parent in use, NULL: not opened */
	json_object *facts;		/* of the format */
};

static int layer_init(struct layer *l, struct vhd_disk *d, unsigned index, const char *name)
{
	struct vhd_layer_info below;
	struct stat st;
	int r;

	*l = (struct layer){ .name = name };
	r = vhd_disk_layer_info(d, index, &l->info);
	if (r < 0)
		return r;
	if (index > 0)
		l->name = l->info.path;
	l->disk_size = stat(l->info.path, &st) == 0 ? (uint64_t)st.st_blocks * 512 : l->info.file_size;
	if (!sp_guid_is_zero(&l->info.identity))
		tool_guid_text(&l->info.identity, l->info.format, l->identity);
	if (l->info.has_parent)
		tool_guid_text(&l->info.parent_identity, l->info.format, l->parent_identity);
	if (index + 1 < vhd_disk_layers(d) && vhd_disk_layer_info(d, index + 1, &below) == 0)
		l->parent_found = below.path;
	l->facts = json_object_new_object();
	vhd_disk_layer_describe(d, index, l->facts);
	return 0;
}

static void layer_fini(struct layer *l)
{
	json_object_put(l->facts);
}

/* A log was waiting, so what is shown is not yet what the structures in the file say. */
static bool layer_dirty(const struct layer *l)
{
	json_object *log, *replayed;

	return json_object_object_get_ex(l->facts, "log", &log) &&
	       json_object_object_get_ex(log, "replayed_entries", &replayed) && json_object_get_int64(replayed) > 0;
}

/* ---- JSON ---------------------------------------------------------------------------------------- */

static json_object *layer_json(struct layer *l)
{
	json_object *o = json_object_new_object(), *specific = json_object_new_object();
	const struct vhd_layer_info *i = &l->info;

	tool_json_text(o, "filename", l->name);
	tool_json_text(o, "format", vhd_format_name(i->format));
	tool_json_u64(o, "virtual-size", i->size);
	tool_json_u64(o, "actual-size", l->disk_size);
	tool_json_u64(o, "file-size", i->file_size);
	tool_json_bool(o, "dirty-flag", layer_dirty(l));
	if (i->block_size)
		tool_json_u64(o, "cluster-size", i->block_size);
	tool_json_text(o, "subformat", vhd_kind_name(i->kind));
	tool_json_u64(o, "logical-sector-size", i->logical_sector);
	tool_json_u64(o, "physical-sector-size", i->physical_sector);
	tool_json_text(o, "identity", l->identity);
	if (i->has_parent) {
		tool_json_text(o, "backing-filename", i->parent_path);
		tool_json_text(o, "full-backing-filename", l->parent_found);
		tool_json_text(o, "backing-filename-format", vhd_format_name(i->format));
		tool_json_text(o, "parent-identity", l->parent_identity);
	}
	tool_json_text(o, "warning", i->warning);
	tool_json_text(specific, "type", vhd_format_name(i->format));
	json_object_object_add(specific, "data", json_object_get(l->facts));
	json_object_object_add(o, "format-specific", specific);
	return o;
}

static void add_error(json_object *o, const struct sp_err *err)
{
	json_object *e = json_object_new_object();

	json_object_object_add(e, "errno", json_object_new_int(-err->code));
	tool_json_text(e, "text", sp_err_text(err));
	json_object_object_add(o, "error", e);
}

/* ---- human --------------------------------------------------------------------------------------- */

/* "data_write_guid" of the format as an indented line; nested objects and lists as compact JSON. */
static void print_facts(json_object *facts)
{
	if (json_object_object_length(facts) == 0)
		return;
	puts("Format specific information:");
	json_object_object_foreach(facts, key, value) {
		const char *text = json_object_is_type(value, json_type_string) ?
					   json_object_get_string(value) :
					   json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN |
										 JSON_C_TO_STRING_NOSLASHESCAPE);

		printf("    %s: %s\n", key, text);
	}
}

static void print_layer(struct layer *l)
{
	const struct vhd_layer_info *i = &l->info;
	char text[TOOL_SIZE_TEXT];

	printf("image: %s\n", l->name);
	if (i->format == VHD_FORMAT_RAW)
		printf("file format: raw\n");
	else
		printf("file format: %s (%s)\n", vhd_format_name(i->format), vhd_kind_name(i->kind));
	printf("virtual size: %s (%" PRIu64 " bytes)\n", tool_size_format(i->size, text), i->size);
	printf("disk size: %s\n", tool_size_format(l->disk_size, text));
	if (i->block_size)
		printf("cluster_size: %" PRIu32 "\n", i->block_size);
	if (i->format != VHD_FORMAT_RAW)
		printf("sector size: %" PRIu32 " logical, %" PRIu32 " physical\n", i->logical_sector,
		       i->physical_sector);
	if (l->identity[0])
		printf("identity: %s\n", l->identity);
	if (i->has_parent) {
		printf("backing file: %s", i->parent_path ? i->parent_path : "(no path stored)");
		if (l->parent_found)
			printf(" (actual path: %s)", l->parent_found);
		printf("\nexpected parent identity: %s\n", l->parent_identity);
	}
	if (layer_dirty(l))
		printf("log: not empty, replayed in memory for this look; opening for writing replays it\n");
	if (i->warning)
		printf("warning: %s\n", i->warning);
	print_facts(l->facts);
}

/* ---- images that open ---------------------------------------------------------------------------- */

/* @broken: why the chain below does not open, or NULL. */
static int show_disk(const char *path, struct vhd_disk *d, const struct info_args *a, const struct sp_err *broken)
{
	unsigned count = a->chain ? vhd_disk_layers(d) : 1;
	json_object *list = a->chain && a->json ? json_object_new_array() : NULL;

	for (unsigned i = 0; i < count; i++) {
		json_object *o = NULL;
		struct layer l;

		if (layer_init(&l, d, i, path) < 0)
			continue;
		if (a->json)
			o = layer_json(&l);
		if (o && broken)
			add_error(o, broken);
		if (list)
			json_object_array_add(list, o);
		else if (o)
			tool_json_print(o);
		else
			print_layer(&l);
		if (!a->json && i + 1 < count)
			putchar('\n');
		layer_fini(&l);
	}
	if (list)
		tool_json_print(list);
	return broken ? 1 : 0;
}

/* ---- images that do not -------------------------------------------------------------------------- */

static void show_findings(const struct vhd_report *rep)
{
	unsigned shown = 0;

	for (size_t i = 0; i < rep->findings && shown < 10; i++) {
		const struct vhd_finding *f = &rep->finding[i];

		if (f->severity != VHD_SEV_ERROR)
			continue;
		printf("damage: %s: %s%s\n", f->structure, f->text, f->fixable ? " [repairable]" : "");
		shown++;
	}
	if (rep->errors > shown)
		printf("... and %" PRIu64 " more; \"vhd-tool check\" lists them\n", rep->errors - shown);
}

static void show_closed(const char *path, const struct info_args *a, const struct sp_err *err)
{
	const struct vhd_check_opts check = { .format = a->look.format, .no_lock = a->look.no_lock };
	struct vhd_report rep = { 0 };
	enum vhd_format_id format = VHD_FORMAT_AUTO;
	bool checked;
	struct stat st;

	if (stat(path, &st) < 0 || !S_ISREG(st.st_mode))
		return;
	checked = vhd_check_image(path, &check, &format, &rep, NULL) == 0;
	if (a->json) {
		json_object *o = json_object_new_object();

		tool_json_text(o, "filename", path);
		tool_json_text(o, "format", checked ? vhd_format_name(format) : NULL);
		tool_json_u64(o, "actual-size", (uint64_t)st.st_blocks * 512);
		tool_json_u64(o, "file-size", (uint64_t)st.st_size);
		add_error(o, err);
		tool_json_print(o);
	} else {
		printf("image: %s\n", path);
		if (checked)
			printf("file format: %s\n", vhd_format_name(format));
		printf("file size: %" PRIu64 " bytes\n", (uint64_t)st.st_size);
		show_findings(&rep);
	}
	vhd_report_fini(&rep);
}

static int show_broken(const char *path, const struct info_args *a, const struct sp_err *err)
{
	struct vhd_open_opts open = tool_open_opts(&a->look);
	struct vhd_disk *leaf;

	open.flags |= VHD_OPEN_NO_PARENT;
	if (vhd_disk_open(path, &open, &leaf, NULL) == 0) {
		show_disk(path, leaf, a, err);
		vhd_disk_close(leaf, NULL);
	} else {
		show_closed(path, a, err);
	}
	tool_fail(path, err);
	return 1;
}

int tool_info(const struct tool_verb *verb, int argc, char **argv)
{
	struct info_args a = { 0 };
	const struct tool_opt opts[] = {
		TOOL_OPTS_LOOK(&a.look),
		TOOL_OPT_OUTPUT(&a.json),
		{ 0, "chain", NULL, "all images of the chain, the leaf first", TOOL_FLAG, &a.chain },
		{ 0, "backing-chain", NULL, "the same", TOOL_FLAG, &a.chain },
		TOOL_OPTS_END,
	};
	struct vhd_open_opts open;
	struct vhd_disk *d;
	struct sp_err err = { 0 };
	int n, status;

	n = tool_parse(verb, opts, argc, argv, 1, 1);
	if (n < 0)
		return tool_parse_exit(verb, n);
	open = tool_open_opts(&a.look);
	if (vhd_disk_open(argv[0], &open, &d, &err) < 0)
		return show_broken(argv[0], &a, &err);
	status = show_disk(argv[0], d, &a, NULL);
	vhd_disk_close(d, NULL);
	return status;
}
