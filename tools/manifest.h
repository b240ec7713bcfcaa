/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TOOLS_MANIFEST_H
#define SPINDLE_TOOLS_MANIFEST_H
/*
 * Hash manifests: text, one hash per MiB of the virtual disk.
 *
 *	spindle-manifest 1
 *	size 1073741824
 *	chunk 1048576
 *	sha256 <64 hex digits>			the whole disk
 *	0 <64 hex digits>
 *	1 <64 hex digits>
 *	...
 */
#include "base/err.h"
#include "vhd/ops.h"

#define TOOL_HASH_TEXT 65
void tool_hash_text(const uint8_t hash[static 32], char ret_text[static TOOL_HASH_TEXT]);

/* Under a temporary name first, so that no half manifest stands under @path; "-" is standard output. */
int tool_manifest_write(const char *path, const struct vhd_hash *hash, struct sp_err *err);
/* Free with vhd_hash_fini(). -EBADMSG names the line. */
int tool_manifest_read(const char *path, struct vhd_hash *ret_hash, struct sp_err *err);

#endif
