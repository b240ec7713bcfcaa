/* SPDX-License-Identifier: BSD-2-Clause */
/* What other programs read. */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "vss/vss.h"

static const char *const levels[] = { "crash", "file-system", "application" };
static const char *const states[] = {
	"idle", "checking", "preparing", "freezing", "committing", "thawing", "finishing", "done", "failed",
};
static const char *const reasons[VSS_REASONS] = {
	[VSS_REASON_NONE] = "none",
	[VSS_REASON_NOT_ASKED] = "not-asked",
	[VSS_REASON_NO_CHANNEL] = "no-channel",
	[VSS_REASON_NEGOTIATION] = "negotiation-failed",
	[VSS_REASON_NO_DAEMON] = "daemon-absent",
	[VSS_REASON_CHECK_TIMEOUT] = "check-timeout",
	[VSS_REASON_BUSY] = "busy",
	[VSS_REASON_PAUSED] = "paused",
	[VSS_REASON_FREEZE_ERROR] = "freeze-error",
	[VSS_REASON_FREEZE_TIMEOUT] = "freeze-timeout",
	[VSS_REASON_HOLD_OVERRUN] = "hold-overrun",
	[VSS_REASON_THAW] = "thaw-failed",
	[VSS_REASON_SNAPSHOT] = "snapshot-failed",
	[VSS_REASON_PREPARE_TIMEOUT] = "prepare-timeout",
	[VSS_REASON_GONE] = "writer-gone",
	[VSS_REASON_ABORTED] = "aborted",
	[VSS_REASON_UNREACHABLE] = "unreachable",
	[VSS_REASON_REFUSED] = "refused",
	[VSS_REASON_EARLY] = "thawed-early",
};

const char *vss_level_name(enum vss_level level)
{
	return levels[level];
}

const char *vss_reason_name(enum vss_reason reason)
{
	return reasons[reason];
}

const char *vss_state_name(enum vss_state state)
{
	return states[state];
}

static int find(const char *const *names, unsigned count, const char *name)
{
	for (unsigned i = 0; i < count; i++)
		if (strcmp(name, names[i]) == 0)
			return (int)i;
	return -EINVAL;
}

int vss_level_from_name(const char *name, enum vss_level *ret_level)
{
	int i = find(levels, SP_ARRAY_SIZE(levels), name);

	if (i >= 0)
		*ret_level = (enum vss_level)i;
	return i < 0 ? i : 0;
}

int vss_reason_from_name(const char *name, enum vss_reason *ret_reason)
{
	int i = find(reasons, SP_ARRAY_SIZE(reasons), name);

	if (i >= 0)
		*ret_reason = (enum vss_reason)i;
	return i < 0 ? i : 0;
}
