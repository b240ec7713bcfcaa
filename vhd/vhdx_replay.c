/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Log replay. [MS-VHDX] 2.3.3; vhd-formats 2.5.5.
 *
 *	LogGuid set --header update: new FileWriteGuid, LogGuid kept--> announced
 *	announced   --write extents, extend, sync--------------------> applied
 *	applied     --header update: LogGuid = 0---------------------> clean
 *
 * Power may fail anywhere: until the last step the next open finds the same log and does the same again. DataWriteGuid
 * stays: replay restores what was written under it, and children know their parent by it.
 */
#include "vhd/vhdx_int.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/env.h"
#include "base/log.h"
#include "base/seed.h"

static int apply(struct store *s, const struct vhdx_plan *plan, uint64_t file_size)
{
	int r = 0;

	if (plan->file_size > file_size)
		r = store_resize(s, plan->file_size);
	for (size_t i = 0; i < plan->count && r == 0; i++) {
		const struct vhdx_extent *x = &plan->extent[i];

		if (x->data)
			r = store_write(s, x->data, x->len, x->offset);
		else if (x->offset < file_size)		/* what the resize added is zero already */
			r = store_zero(s, x->offset, sp_min(x->len, file_size - x->offset));
	}
	return r;
}

static int replay_in_place(struct vhdx *x, const struct vhdx_plan *plan)
{
	struct store *s = x->img->store;
	int r;

	sp_env_guid(&x->header.file_write_guid);
	r = vhdx_header_update(x);
	if (r < 0)
		return r;
	x->file_guid_changed = true;
	r = apply(s, plan, x->file_size);
	if (r == 0 && !SP_SEED_BUG(VHDX_REPLAY_NO_SYNC))
		r = store_sync(s);
	if (r < 0)
		return r;
	x->file_size = sp_max(x->file_size, plan->file_size);
	x->header.log_guid = (struct sp_guid){ { 0 } };
	return vhdx_header_update(x);
}

static int replay_in_memory(struct vhdx *x, struct vhdx_plan *plan)
{
	uint64_t size = plan->file_size;
	struct store *overlay;
	int r = vhdx_overlay_new(x->img->store, true, plan, &overlay);

	if (r < 0)
		return r;
	x->img->store = overlay;
	x->file_size = size;
	return 0;
}

/**
 * vhdx_replay - make the image show what its log says; nothing to do when LogGuid is zero
 * @x: img, header, header_slot and file_size are set; file_size follows
 *
 * A writable image is replayed in place; otherwise img->store becomes an overlay and the file stays as it is.
 * Returns 0, -EBADMSG (the log cannot be replayed: refuse the image), -ENOMEM, -ENOSPC, -EIO.
 */
int vhdx_replay(struct vhdx *x, struct sp_err *err)
{
	struct vhdx_plan plan;
	uint64_t entries;
	int r;

	if (sp_guid_is_zero(&x->header.log_guid))
		return 0;
	r = vhdx_plan_make(x->img->store, &x->header, x->file_size, &plan, err);
	if (r < 0)
		return r;
	entries = plan.entries;
	if (x->img->flags & VHD_IMG_WRITABLE)
		r = replay_in_place(x, &plan);
	else
		r = replay_in_memory(x, &plan);
	vhdx_plan_fini(&plan);
	if (r < 0)
		return sp_err_set(err, r, "log replay failed: %s", strerror(-r));
	x->replayed_entries = entries;
	sp_debug("vhdx", x->img->name, "replayed %" PRIu64 " log entries", entries);
	return 0;
}
