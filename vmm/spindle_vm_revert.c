/* SPDX-License-Identifier: BSD-2-Clause */
/* "snapshot revert": the disks of a machine that does not run go back to a snapshot. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "vhd/ops.h"
#include "vmm/config_int.h"
#include "vmm/spindle_vm.h"

static const char synopsis[] = "revert [--dry-run] [--config=FILE] SNAPSHOT [DISK...]";

static const struct option options[] = {
	{ "config", required_argument, NULL, 'c' },
	{ "dry-run", no_argument, NULL, 'n' },
	{ 0 },
};

static bool takes_part(const struct vmm_disk_config *d)
{
	return d->path && !d->dvd && !d->read_only && !d->snapshot;
}

static int revert_one(const struct vmm_disk_config *d, const char *snapshot, bool dry_run, bool show)
{
	struct sp_err err = { 0 };

	if (vhd_snapshot_revert(d->path, snapshot, d->image_root, dry_run, &err) < 0)
		return vm_fail(EXIT_FAILED, "%s: %s", d->path, sp_err_text(&err));
	if (show)
		printf("%s: %s\n", d->path, dry_run ? err.text : "reverted");
	return EXIT_DONE;
}

/* First all are asked whether they can, so that none is alone in having gone back. */
static int revert_all(const struct vmm_config *c, const char *snapshot, bool dry_run)
{
	int status = EXIT_DONE;

	for (unsigned pass = 0; pass < (dry_run ? 1u : 2u); pass++)
		for (unsigned i = 0; status == EXIT_DONE && i < c->disks; i++)
			if (takes_part(&c->disk[i]))
				status = revert_one(&c->disk[i], snapshot, pass == 0, dry_run || pass);
	return status;
}

static int gather(struct vmm_config *c, int argc, char **argv, bool *ret_dry_run, struct sp_err *err)
{
	int option, r = 0;

	while (r == 0 && (option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'n')
			*ret_dry_run = true;
		else
			r = option == 'c' ? vmm_config_json(c, optarg, err) : -EINVAL;
	}
	for (int i = optind + 1; r == 0 && i < argc; i++)
		r = vmm_config_add_disk(c, argv[i], false, err);
	return r < 0 || (optind < argc && c->disks) ? r : -EINVAL;
}

int vm_snapshot_revert(int argc, char **argv)
{
	struct sp_err err = { 0 };
	struct vmm_config c;
	bool dry_run = false;
	int status, r;

	vmm_config_init(&c);
	r = gather(&c, argc, argv, &dry_run, &err);
	if (r == 0)
		status = revert_all(&c, argv[optind], dry_run);
	else if (err.code)
		status = vm_fail(r == -EINVAL ? EXIT_USAGE : EXIT_FAILED, "%s", sp_err_text(&err));
	else
		status = vm_usage("snapshot", synopsis);
	vmm_config_fini(&c);
	return status;
}
