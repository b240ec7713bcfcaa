/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * "create" of a machine. Of a running one:
 *
 *	snapshot of all disks, each with a tracking point at the cut
 *	  ► what changed since the newest point's tracking point ► copied from the snapshot ► the point is in the set
 *	  ► snapshot merged away, older tracking points forgotten
 *
 * The snapshot's name and those of the tracking points are the set's own, and the set has one writer: what is found
 * under them was left by a run that was killed, and goes. A failure takes the same way out; the machine is as it was,
 * and the newest point's tracking point still stands.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "tools/spindle_backup_disks.h"
#include "vmm/requester.h"

#define MERGE_TRIES 5
#define AGAIN_MS    20

struct live {
	struct backup_set *set;
	const char *set_name;
	struct backup_create_args *a;
	struct vm_client *client;
	struct backup_setup setup;
	char snapshot[128], point[64];
	json_object *result;		/* of the snapshot */
	int signal;			/* that ended it; 0: none */
	struct backup_disks disks;
};

static json_object *device_arguments(const char *device)
{
	json_object *o = json_object_new_object();

	vm_json_add_text(o, "device", device);
	return o;
}

static void say(const char *text)
{
	fprintf(stderr, "spindle-backup: %s\n", text);
}

/* ---- what is to go ------------------------------------------------------------------------------------- */

static int delete_once(struct live *l, struct sp_err *err)
{
	int r = vm_client_delete_snapshot(l->client, l->snapshot, 0, err);

	return r < 0 ? r : vm_client_wait_deletion(l->client, NULL, NULL, err);
}

static bool has_snapshot(struct live *l, json_object **ret_snapshot)
{
	json_object *list = NULL;
	bool found = false;

	if (vm_client_call(l->client, "spindle-snapshot-list", NULL, &list, NULL) < 0)
		return false;
	for (size_t i = 0; !found && i < json_object_array_length(list); i++) {
		json_object *s = json_object_array_get_idx(list, i);

		found = strcmp(vm_json_text(s, "name"), l->snapshot) == 0;
		if (found && ret_snapshot)
			*ret_snapshot = json_object_get(s);
	}
	json_object_put(list);
	return found;
}

/* A guest may write faster than data goes down for a while. */
static int delete_snapshot(struct live *l, struct sp_err *err)
{
	int r = 0;

	for (unsigned i = 0; i < MERGE_TRIES && has_snapshot(l, NULL); i++) {
		*err = (struct sp_err){ 0 };
		r = delete_once(l, err);
		if (r == 0)
			return 0;
		usleep(AGAIN_MS * 1000 << i);
	}
	return has_snapshot(l, NULL) ? r : 0;
}

static void forget(struct live *l, const char *device, const char *point)
{
	json_object *arguments = device_arguments(device);

	vm_json_add_text(arguments, "point", point);
	vm_client_call(l->client, "spindle-track-forget", arguments, NULL, NULL);
}

/* All of this set's tracking points but what its newest point names. */
static void forget_points(struct live *l, const struct backup_setup_disk *d)
{
	json_object *list = NULL;
	char prefix[32], newest[64];
	unsigned number;

	backup_track_prefix(l->set, prefix);
	backup_disks_newest(l->set, d->name, newest, &number);
	if (vm_client_call(l->client, "spindle-track-points", device_arguments(d->device), &list, NULL) < 0)
		return;
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		const char *name = vm_json_text(json_object_array_get_idx(list, i), "name");

		if (strncmp(name, prefix, strlen(prefix)) == 0 && strcmp(name, newest) != 0)
			forget(l, d->device, name);
	}
	json_object_put(list);
}

/* Before a backup what an earlier one left; after it, good or not, what this one made. */
static int clean(struct live *l, struct sp_err *err)
{
	int r = delete_snapshot(l, err);

	for (unsigned i = 0; i < l->setup.disks; i++)
		forget_points(l, &l->setup.disk[i]);
	return r < 0 ? sp_err_prefix(err, r, "cannot delete snapshot %s of the machine", l->snapshot) : 0;
}

/* ---- the snapshot -------------------------------------------------------------------------------------- */

/* Whether the set failed because no better level was to be had: not for time, disks or somebody's wish. */
static bool level_failed(json_object *result)
{
	static const char *const other[] = {
		"none", "hold-overrun", "thaw-failed", "snapshot-failed", "prepare-timeout", "aborted",
	};
	const char *reason = vm_json_text(result, "reason");

	for (unsigned i = 0; i < sizeof(other) / sizeof(*other); i++)
		if (strcmp(reason, other[i]) == 0)
			return false;
	return *reason != '\0';
}

static int take_snapshot(struct live *l, struct sp_err *err)
{
	struct vm_set_opts o = {
		.snapshot = l->snapshot, .require = l->a->require, .no_quiesce = l->a->no_quiesce, .pre = l->a->pre,
		.post = l->a->post, .writer = l->a->writer, .writers = l->a->writers, .say = say,
		.more = json_object_new_object(), .ret_signal = &l->signal,
	};
	struct vm_set_machine m = { .name = l->a->machine, .client = l->client };
	int r;

	vm_json_add_text(o.more, "track-point", l->point);
	r = vm_set_create(&o, &m, 1, err);
	json_object_put(o.more);
	l->result = m.result;
	if (r < 0 && m.result)
		sp_err_set(err, r, "no snapshot: %s%s%s", vm_json_text(m.result, "reason"),
			   *vm_json_text(m.result, "error") ? ": " : "", vm_json_text(m.result, "error"));
	return r;
}

static bool has_point(struct live *l, const char *device)
{
	json_object *list;

	if (!json_object_object_get_ex(l->result, "tracked", &list))
		return false;
	for (size_t i = 0; i < json_object_array_length(list); i++)
		if (strcmp(json_object_get_string(json_object_array_get_idx(list, i)), device) == 0)
			return true;
	return false;
}

/* ---- what has changed ---------------------------------------------------------------------------------- */

static int take_page(struct live *l, unsigned i, json_object *page, struct sp_err *err)
{
	json_object *ranges;
	int r = 0;

	if (!json_object_object_get_ex(page, "ranges", &ranges))
		return sp_err_set(err, -EBADMSG, "the machine's answer has no ranges");
	for (size_t n = 0; r == 0 && n < json_object_array_length(ranges); n++) {
		json_object *range = json_object_array_get_idx(ranges, n);

		r = backup_disks_range(&l->disks, i, json_object_get_uint64(json_object_array_get_idx(range, 0)),
				       json_object_get_uint64(json_object_array_get_idx(range, 1)), err);
	}
	return r;
}

/* One page; *ret_next: where the next one begins, 0: that was all. 1: everything may have changed. */
static int ask_page(struct live *l, unsigned i, const char *since, uint64_t *next, struct sp_err *err)
{
	json_object *arguments = device_arguments(l->setup.disk[i].device), *page = NULL, *more = NULL, *exact;
	int r;

	vm_json_add_text(arguments, "since", since);
	vm_json_add_text(arguments, "until", l->point);
	json_object_object_add(arguments, "offset", json_object_new_uint64(*next));
	r = vm_client_call(l->client, "spindle-track-changes", arguments, &page, err);
	if (r < 0)
		return r;
	if (!json_object_object_get_ex(page, "exact", &exact) || !json_object_get_boolean(exact))
		r = 1;
	else
		r = take_page(l, i, page, err);
	*next = json_object_object_get_ex(page, "next", &more) ?
		json_object_get_uint64(more) : 0;
	json_object_put(page);
	return r;
}

static int ask_changes(struct live *l, unsigned i, struct sp_err *err)
{
	uint64_t next = 0;
	unsigned number;
	char since[64];
	int r = 0;

	backup_disks_newest(l->set, l->setup.disk[i].name, since, &number);
	if (!has_point(l, l->setup.disk[i].device))
		return 0;
	r = backup_disks_set_track(&l->disks, i, l->point, err);
	if (r < 0 || !*since)
		return r;
	do
		r = ask_page(l, i, since, &next, err);
	while (r == 0 && next);
	if (r == 0)
		backup_disks_known(&l->disks, i, number);
	return r < 0 ? r : 0;
}

/* ---- the copy ------------------------------------------------------------------------------------------ */

/* Where a disk's snapshot lies: beside the disk, by the name the machine gave it. */
static char *snapshot_path(json_object *snapshot, const struct backup_setup_disk *d)
{
	const char *slash = strrchr(d->file, '/');
	json_object *disks;

	if (!json_object_object_get_ex(snapshot, "disks", &disks))
		return NULL;
	for (size_t i = 0; i < json_object_array_length(disks); i++) {
		json_object *o = json_object_array_get_idx(disks, i);

		if (strcmp(vm_json_text(o, "device"), d->device) == 0)
			return d->root ? sp_asprintf("%s/%s", d->root, vm_json_text(o, "file")) :
			       sp_asprintf("%.*s/%s", (int)(slash - d->file), d->file, vm_json_text(o, "file"));
	}
	return NULL;
}

static int open_snapshot(struct live *l, struct sp_err *err)
{
	json_object *snapshot = NULL;
	int r = has_snapshot(l, &snapshot) ? 0 : sp_err_set(err, -ENOENT, "the snapshot has gone");

	for (unsigned i = 0; r == 0 && i < l->setup.disks; i++) {
		const struct backup_setup_disk *d = &l->setup.disk[i];
		const struct vhd_open_opts o = { .format = d->format, .image_root = d->root };
		SP_AUTO_FREE char *path = snapshot_path(snapshot, d);

		if (!path)
			r = sp_err_set(err, -ENOENT, "%s: not part of the snapshot", d->file);
		if (r == 0)
			r = backup_disks_add(&l->disks, d->name, path, &o, err);
		if (r == 0)
			r = ask_changes(l, i, err);
	}
	json_object_put(snapshot);
	return r;
}

static void take_result(struct live *l, char reasons[static 256])
{
	const char *reason = vm_json_text(l->result, "reason");
	struct backup_create_opts *o = &l->a->opts;
	json_object *time_at;

	backup_level_from_name(vm_json_text(l->result, "level"), &o->level);
	snprintf(reasons, 256, "%s", strcmp(reason, "none") ? reason : "");
	o->reasons = reasons;
	o->machine = l->setup.text;
	if (json_object_object_get_ex(l->result, "time", &time_at))
		o->guest_time = json_object_get_int64(time_at);
}

static int copy(struct live *l, struct sp_job *job, struct sp_err *err)
{
	struct backup_create_result result = { 0 };
	char reasons[256];
	int r = open_snapshot(l, err);

	take_result(l, reasons);
	if (r == 0)
		r = backup_create(l->set, l->disks.source, l->disks.count, &l->a->opts, job, &result, err);
	backup_disks_close(&l->disks);
	return r < 0 ? r : backup_create_tell(l->set_name, l->a, &result, l->result);
}

/* ---- all of it ----------------------------------------------------------------------------------------- */

static int query_setup(struct live *l, struct sp_err *err)
{
	json_object *config = NULL;
	int r = vm_client_call(l->client, "spindle-query-config", NULL, &config, err);

	if (r == 0)
		r = backup_setup_take(config, &l->setup, err);
	json_object_put(config);
	return r;
}

static int run(struct live *l, struct sp_job *job, struct sp_err *err)
{
	struct sp_err after = { 0 };
	int r = query_setup(l, err);

	if (r == 0)
		r = clean(l, err);
	if (r == 0)
		r = take_snapshot(l, err);
	if (r < 0)
		return r;
	r = copy(l, job, err);
	if (clean(l, &after) < 0)
		say(sp_err_text(&after));	/* the next run tries again; the point is good */
	return r;
}

static int open_all(char **argv, struct live *l, struct sp_err *err)
{
	char id[SP_GUID_TEXT];
	int r = vm_client_open(l->a->machine, &l->client, err);

	if (r == 0)
		r = backup_set_open(argv[0], argv[1], BACKUP_WRITE | BACKUP_CREATE, &l->set, err);
	if (r < 0)
		return r;
	sp_guid_format_le(backup_set_id(l->set), id);
	snprintf(l->snapshot, sizeof(l->snapshot), "backup-%s-%.8s", argv[1], id);
	backup_track_new(l->set, l->point);
	return 0;
}

int backup_create_live(char **argv, struct backup_create_args *a)
{
	struct live l = { .a = a, .set_name = argv[1] };
	struct sp_err err = { 0 };
	bool level = false;
	int r;

	if (vm_set_recover(say, &err) < 0)
		say(sp_err_text(&err));
	err = (struct sp_err){ 0 };
	r = open_all(argv, &l, &err);
	if (r == 0)
		r = run(&l, tool_job_begin(&a->progress), &err);
	if (r < 0) {
		level = l.result && !*vm_json_text(l.result, "level") && level_failed(l.result);
		tool_fail(a->machine, &err);
	}
	backup_set_close(l.set);
	vm_client_close(l.client);
	backup_setup_free(&l.setup);
	json_object_put(l.result);
	return tool_job_end(l.signal ? 128 + l.signal : level ? BACKUP_EXIT_LEVEL : r < 0);
}

/* ---- a machine that does not run ----------------------------------------------------------------------- */

/* A snapshot that was interrupted decides at the machine's next start which file is the disk. */
static int refuse_unfinished(const struct backup_setup *s, struct sp_err *err)
{
	for (unsigned i = 0; i < s->disks; i++) {
		SP_AUTO_FREE char *record = sp_asprintf("%s.live", s->disk[i].file);

		if (record && access(record, F_OK) == 0)
			return sp_err_set(err, -EBUSY,
					  "%s: a snapshot was interrupted; start the machine once, it puts that "
					  "in order", s->disk[i].file);
	}
	return 0;
}

static int refuse_running(const struct backup_setup *s, struct sp_err *err)
{
	struct vm_client *c;

	if (!*s->machine || vm_client_open(s->machine, &c, NULL) < 0)
		return 0;
	vm_client_close(c);
	return sp_err_set(err, -EBUSY, "machine %s runs: use --machine %s", s->machine, s->machine);
}

static int make_stopped(char **argv, struct backup_create_args *a, struct backup_setup *s, struct sp_err *err)
{
	struct backup_create_result result = { 0 };
	struct vhd_open_opts o[BACKUP_DISKS_MAX];
	struct backup_disks disks = { 0 };
	struct backup_set *set;
	int r = backup_set_open(argv[0], argv[1], BACKUP_WRITE | BACKUP_CREATE, &set, err);

	if (r < 0)
		return r;
	for (unsigned i = 0; r == 0 && i < s->disks; i++) {
		o[i] = (struct vhd_open_opts){ .format = s->disk[i].format, .image_root = s->disk[i].root };
		r = backup_track_file(set, &disks, s->disk[i].name, s->disk[i].file, &o[i], err);
	}
	a->opts.machine = s->text;
	if (r == 0)
		r = backup_create(set, disks.source, disks.count, &a->opts, tool_job_begin(&a->progress), &result, err);
	backup_track_settle(set, &disks, o);
	backup_disks_close(&disks);
	backup_set_close(set);
	return r < 0 ? r : backup_create_tell(argv[1], a, &result, NULL);
}

int backup_create_stopped(char **argv, struct backup_create_args *a)
{
	struct backup_setup s = { 0 };
	struct sp_err err = { 0 };
	int r = backup_setup_read(a->config, &s, &err);

	if (r == 0)
		r = refuse_running(&s, &err);
	if (r == 0)
		r = refuse_unfinished(&s, &err);
	if (r == 0)
		r = make_stopped(argv, a, &s, &err);
	if (r < 0)
		tool_fail(a->config, &err);
	backup_setup_free(&s);
	return tool_job_end(r < 0);
}
