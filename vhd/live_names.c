/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Names around a disk "vm/disk.vhdx" with a snapshot "monday":
 *
 *	vm/disk.vhdx			   the leaf, always
 *	vm/disk.monday.vhdx		   the snapshot
 *	vm/disk.monday.vhdx.json	   its side-car
 *	vm/.disk.vhdx.<set>-<index>.leaf   the next leaf, until the set is finished
 *	vm/disk.vhdx.live[-prepared]	   the record, if it is the first disk of its set
 *	vm/disk.monday~merge1.vhdx	   a leaf of a moment while "monday" is deleted
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "vhd/live_int.h"

#define REST "~merge"

char *live_name_meta(const char *file)
{
	return sp_asprintf("%s.json", file);
}

char *live_name_record(const char *image, bool committed)
{
	return sp_asprintf("%s.%s", image, committed ? "live" : "live-prepared");
}

static char *child_name(const char *image, const struct sp_guid *set, unsigned index)
{
	SP_AUTO_FREE char *base = sp_asprintf(".%s.%02x%02x%02x%02x%02x%02x-%u.leaf", op_name_base(image), set->b[0],
					      set->b[1], set->b[2], set->b[3], set->b[4], set->b[5], index);

	return base ? op_name_sibling(image, base) : NULL;
}

int live_names_make(struct live_names *n, const char *image, const char *snapshot, const struct sp_guid *set,
		    unsigned index, bool with_meta)
{
	n->image = sp_strdup(image);
	n->file = op_snapshot_file(image, snapshot);
	n->child = child_name(image, set, index);
	n->meta = with_meta && n->file ? live_name_meta(n->file) : NULL;
	return n->image && n->file && n->child && (n->meta || !with_meta) ? 0 : -ENOMEM;
}

void live_names_fini(struct live_names *n)
{
	sp_free(n->image);
	sp_free(n->file);
	sp_free(n->child);
	sp_free(n->meta);
	*n = (struct live_names){ 0 };
}

bool live_name_is_rest(const char *snapshot, const char *name)
{
	size_t n = strlen(name);

	return strncmp(snapshot, name, n) == 0 &&
	       (strcmp(snapshot + n, REST "1") == 0 || strcmp(snapshot + n, REST "2") == 0);
}

bool live_name_reserved(const char *snapshot)
{
	const char *last = NULL;

	for (const char *at = snapshot; (at = strstr(at, REST)); at++)
		last = at;
	return last && (strcmp(last, REST "1") == 0 || strcmp(last, REST "2") == 0);
}
