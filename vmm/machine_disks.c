/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Controllers and what hangs on them. A disk's format is decided when the machine opens it and never again: what the
 * guest writes into a raw disk cannot turn it into something else.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "vhd/disk_int.h"
#include "vhd/ops.h"
#include "vmm/json_text.h"
#include "vmm/machine_int.h"
#include "vmm/machine_snapshot_int.h"

#define REUSE_WAIT_MS 0u		/* the main thread waits for no guest: the operator tries again */

/* ---- identity ----------------------------------------------------------------------------------------- */

/* Sixteen bytes that stay the same for the same words. */
static void derive(struct sp_guid *ret, const struct sp_guid *from, const char *words)
{
	uint8_t digest[EVP_MAX_MD_SIZE] = { 0 };
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();

	if (ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) && EVP_DigestUpdate(ctx, from->b, sizeof(from->b)) &&
	    EVP_DigestUpdate(ctx, words, strlen(words)))
		EVP_DigestFinal_ex(ctx, digest, NULL);
	EVP_MD_CTX_free(ctx);
	memcpy(ret->b, digest, sizeof(ret->b));
	ret->b[7] = (uint8_t)((ret->b[7] & 0x0f) | 0x80);	/* version 8: made by rules of one's own */
	ret->b[8] = (uint8_t)((ret->b[8] & 0x3f) | 0x80);
}

static bool identity_taken(const struct vmm_machine *m, const struct sp_guid *id)
{
	for (const struct machine_disk *d = m->disks; d; d = d->next)
		if (sp_guid_equal(&d->identity, id))
			return true;
	return false;
}

/* What the format keeps of it in the lowest layer, which snapshots and merges leave alone; else the file's name. */
static void find_identity(struct vmm_machine *m, struct machine_disk *d)
{
	json_object *facts = json_object_new_object(), *id = NULL;

	if (facts && d->disk) {
		vhd_disk_layer_describe(d->disk, vhd_disk_layers(d->disk) - 1, facts);
		if (json_object_object_get_ex(facts, "disk_id", &id) ||
		    json_object_object_get_ex(facts, "unique_id", &id))
			sp_guid_parse_le(json_object_get_string(id), &d->identity);
	}
	json_object_put(facts);
	/* Two children of one base are two disks: a guest would take them for two paths to one. */
	if (sp_guid_is_zero(&d->identity) || identity_taken(m, &d->identity))
		derive(&d->identity, &m->config->id, d->config.path ? d->config.path : "drive");
}

/* ---- open --------------------------------------------------------------------------------------------- */

/* By the broker, when there is one: it then opens what lies beside the image as well. */
static int open_chain(struct vmm_machine *m, struct machine_disk *d, const char *path, unsigned flags,
		      struct sp_err *err)
{
	struct vhd_open_opts opts = {
		.flags = flags, .format = d->config.format, .image_root = d->config.image_root,
	};
	int r;

	if (!m->broker)
		return vhd_disk_open(path, &opts, &d->disk, err);
	r = vmm_broker_folder(m->broker, path, d->config.image_root, &d->folder, &d->name, err);
	return r < 0 ? r : vhd_disk_open_in(d->folder, d->name, &opts, &d->disk, err);
}

/* A child of @d->config.path that ends with the machine. It lies beside the image, so that relative names work. */
static int make_scratch(struct vmm_machine *m, struct machine_disk *d, struct sp_err *err)
{
	int r;

	struct vhd_create_opts opts = {
		.format = d->config.format, .parent = d->config.path, .image_root = d->config.image_root,
	};

	d->scratch = sp_asprintf("%s.scratch-%d", d->config.path, (int)getpid());
	if (!d->scratch)
		return sp_err_set(err, -ENOMEM, "out of memory");
	if (opts.format == VHD_FORMAT_AUTO || opts.format == VHD_FORMAT_RAW)
		opts.format = VHD_FORMAT_VHDX;
	if (m->sealed)
		return sp_err_set(err, -ENOTSUP, "a throw-away child can be made only when the machine starts");
	r = vhd_create(d->scratch, &opts, err);
	if (r == 0 && m->broker)
		vmm_broker_remove_at_end(m->broker, d->scratch);
	return r;
}

static int open_disk(struct vmm_machine *m, struct machine_disk *d, struct sp_err *err)
{
	const struct vmm_disk_config *c = &d->config;
	unsigned flags = c->read_only || c->dvd ? 0 : VHD_OPEN_WRITE;
	int r;

	if (!c->path)
		return 0;
	if (c->snapshot) {
		r = make_scratch(m, d, err);
		if (r < 0)
			return sp_err_prefix(err, r, "%s: throw-away child", c->path);
	}
	r = open_chain(m, d, d->scratch ? d->scratch : c->path, flags, err);
	if (r == 0)
		r = machine_track_begin(d, err);
	return r < 0 ? sp_err_prefix(err, r, "%s", c->path) : 0;
}

static void disk_free(struct machine_disk *d)
{
	struct sp_err err = { 0 };

	if (d->disk && vhd_disk_close(d->disk, &err) < 0)
		fprintf(stderr, "spindle-vm: %s: %s\n", d->config.path, sp_err_text(&err));
	store_folder_close(d->folder);
	sp_free(d->name);
	if (d->scratch)
		unlink(d->scratch);
	sp_free(d->scratch);
	vmm_disk_config_fini(&d->config);
	sp_free(d);
}

/* ---- units -------------------------------------------------------------------------------------------- */

static char *reservations_file(const struct machine_disk *d)
{
	if (!d->config.path || d->config.dvd || d->scratch)
		return NULL;
	return sp_asprintf("%s.reservations", d->folder ? d->name : d->config.path);
}

static int unit_new(struct machine_disk *d, struct scsi_lu **ret, struct sp_err *err)
{
	SP_AUTO_FREE char *reservations = reservations_file(d);
	struct scsi_lu_opts opts = {
		.kind = d->config.dvd ? SCSI_DVD : SCSI_DISK, .read_only = d->config.read_only || d->config.dvd,
		.write_through = d->config.write_through, .identity = d->identity, .serial = d->config.serial,
		.reservations = reservations, .folder = d->folder,
	};
	int r = d->disk ? scsi_backend_disk(d->disk, &opts.backend) : 0;

	if (r < 0)
		return sp_err_set(err, r, "out of memory");
	return scsi_lu_new(&opts, ret, err);
}

static bool lun_taken(const struct vmm_machine *m, unsigned controller, unsigned lun)
{
	for (const struct machine_disk *d = m->disks; d; d = d->next)
		if (d->controller == controller && d->at.lun == lun)
			return true;
	return false;
}

static int choose_address(const struct vmm_machine *m, struct machine_disk *d, struct sp_err *err)
{
	unsigned lun = d->config.lun < 0 ? 0 : (unsigned)d->config.lun;

	d->controller = d->config.controller < 0 ? 0 : (unsigned)d->config.controller;
	if (!m->controller[d->controller].vsp)
		return sp_err_set(err, -ENODEV, "there is no controller %u: give one of its disks at the start",
				  d->controller);
	if (d->config.lun < 0)
		while (lun < VMM_LUNS && lun_taken(m, d->controller, lun))
			lun++;
	if (lun >= VMM_LUNS)
		return sp_err_set(err, -ENOSPC, "all %u units of controller %u are taken", VMM_LUNS, d->controller);
	if (lun_taken(m, d->controller, lun))
		return sp_err_set(err, -EEXIST, "unit %u of controller %u is taken", lun, d->controller);
	d->at.lun = (uint8_t)lun;
	return 0;
}

static int plug(struct vmm_machine *m, struct machine_disk *d, struct sp_err *err)
{
	const struct storvsp_limits limits = {
		.iops = d->config.iops, .bps = d->config.bps, .burst_iops = d->config.burst_iops,
		.burst_bps = d->config.burst_bps, .min_iops = d->config.min_iops,
	};
	struct scsi_lu *lu;
	int r = unit_new(d, &lu, err);

	if (r < 0)
		return r;
	r = storvsp_attach(m->controller[d->controller].vsp, d->at, lu, &limits, REUSE_WAIT_MS, err);
	if (r < 0)
		scsi_lu_free(lu);
	return r;
}

/* Takes @c over, whatever happens. */
static int disk_add(struct vmm_machine *m, struct vmm_disk_config *c, struct machine_disk **ret, struct sp_err *err)
{
	struct machine_disk *d = sp_zalloc(sizeof(*d)), **end = &m->disks;
	int r;

	if (!d) {
		vmm_disk_config_fini(c);
		return sp_err_set(err, -ENOMEM, "out of memory");
	}
	d->config = *c;
	r = choose_address(m, d, err);
	if (r == 0)
		r = open_disk(m, d, err);
	if (r == 0) {
		find_identity(m, d);
		r = plug(m, d, err);
	}
	if (r < 0) {
		disk_free(d);
		return r;
	}
	while (*end)
		end = &(*end)->next;
	*end = d;
	*ret = d;
	return 0;
}

/* ---- controllers -------------------------------------------------------------------------------------- */

/* A guest and a client on the host that wrote one disk would destroy it: a controller has one user, and its disks can
 * be detached here and attached there. */
static int serve(struct vmm_machine *m, const struct vmbus_offer *offer, struct sp_err *err)
{
	int fd, r = vmbus_socket_listen(m->config->storvsp_socket, &fd, err);

	if (r == 0)
		r = vmbus_socket_server_new(fd, &m->server, err);
	if (r < 0)
		return r;
	r = vmbus_socket_server_offer(m->server, offer);
	if (r == 0)
		r = vmbus_socket_server_start(m->server);
	return r < 0 ? sp_err_set(err, r, "%s: %s", m->config->storvsp_socket, strerror(-r)) : 0;
}

static bool is_served(const struct vmm_machine *m, unsigned controller)
{
	return m->config->storvsp_socket && controller == VMM_SERVED;
}

static int controller_new(struct vmm_machine *m, unsigned index, struct sp_err *err)
{
	struct machine_controller *c = &m->controller[index];
	struct storvsp_opts opts = {
		.kind = STORVSP_SCSI, .name = c->name, .max_subchannels = m->config->cpus - 1,
		.poll_us = m->config->poll_us,
	};
	int r;

	snprintf(c->name, sizeof(c->name), "scsi%u", index);
	derive(&opts.instance, &m->config->id, c->name);
	r = storvsp_new(&opts, &c->vsp, err);
	if (r < 0)
		return r;
	return is_served(m, index) ? serve(m, storvsp_offer(c->vsp), err) :
	       vmm_bus_offer(m->bus, storvsp_offer(c->vsp), &c->offer);
}

/* The first is always there; those between are, as a guest counts without gaps. */
static bool is_wanted(const struct vmm_machine *m, unsigned controller)
{
	const struct vmm_config *c = m->config;
	bool wanted = controller == 0 || is_served(m, controller);

	for (unsigned i = 0; i < c->disks && !wanted; i++)
		wanted = c->disk[i].controller >= (int)controller && !is_served(m, (unsigned)c->disk[i].controller);
	return wanted;
}

int machine_disks_new(struct vmm_machine *m, struct sp_err *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < VMM_CONTROLLERS; i++)
		if (is_wanted(m, i))
			r = controller_new(m, i, err);
	for (unsigned i = 0; r == 0 && i < m->config->disks; i++) {
		struct vmm_disk_config copy;
		struct machine_disk *d;

		r = vmm_disk_config_copy(&m->config->disk[i], &copy);
		r = r == 0 ? disk_add(m, &copy, &d, err) : sp_err_set(err, r, "out of memory");
	}
	return r;
}

void machine_disks_free(struct vmm_machine *m)
{
	if (m->server && !m->broker)
		unlink(m->config->storvsp_socket);
	vmbus_socket_server_free(m->server);
	for (unsigned i = 0; i < VMM_CONTROLLERS; i++)
		if (m->controller[i].vsp)
			storvsp_free(m->controller[i].vsp);
	while (m->disks) {
		struct machine_disk *d = m->disks;

		m->disks = d->next;
		disk_free(d);
	}
}

/* ---- changes while it runs ---------------------------------------------------------------------------- */

struct machine_disk *machine_disk_find(struct vmm_machine *m, const char *at)
{
	unsigned controller = 0, lun;
	int end = -1;

	if (sscanf(at, "scsi%u:%u%n", &controller, &lun, &end) != 2 || at[end])
		if (sscanf(at, "%u:%u%n", &controller, &lun, &end) != 2 || at[end]) {
			controller = 0;
			if (sscanf(at, "%u%n", &lun, &end) != 1 || at[end])
				return NULL;
		}
	for (struct machine_disk *d = m->disks; d; d = d->next)
		if (d->controller == controller && d->at.lun == lun)
			return d;
	return NULL;
}

static struct machine_disk *find(struct vmm_machine *m, const char *at, struct sp_err *err)
{
	struct machine_disk *d = machine_disk_find(m, at);

	if (!d)
		sp_err_set(err, -ENOENT, "no disk at \"%s\"; disks are called scsi0:0, scsi0:1, ...", at);
	return d;
}

/* Its files are being rearranged. */
static int refuse_while_rearranged(struct vmm_machine *m, struct sp_err *err)
{
	return machine_snapshot_runs(m) ? sp_err_set(err, -EBUSY, "a snapshot is being made or deleted") : 0;
}

static struct storvsp *vsp_of(struct vmm_machine *m, const struct machine_disk *d)
{
	return m->controller[d->controller].vsp;
}

/* A name as its user meant it; the caller's. NULL: no memory. */
static char *in_folder(const char *path, const char *folder)
{
	return *path == '/' || !folder ? sp_strdup(path) : sp_asprintf("%s/%s", folder, path);
}

static int put_in_folder(char **path, const char *folder)
{
	char *full = *path ? in_folder(*path, folder) : NULL;

	if (*path && !full)
		return -ENOMEM;
	sp_free(*path);
	*path = full;
	return 0;
}

int vmm_machine_attach(struct vmm_machine *m, const char *spec, bool dvd, const char *folder, char ret_at[16],
		       struct sp_err *err)
{
	struct vmm_disk_config c;
	struct machine_disk *d;
	int r = vmm_disk_config_parse(&c, spec, dvd, err);

	if (r < 0)
		return r;
	if (put_in_folder(&c.path, folder) < 0 || put_in_folder(&c.image_root, folder) < 0) {
		vmm_disk_config_fini(&c);
		return sp_err_set(err, -ENOMEM, "out of memory");
	}
	r = disk_add(m, &c, &d, err);
	if (r < 0)
		return r;
	snprintf(ret_at, 16, "scsi%u:%u", d->controller, d->at.lun);
	return 0;
}

static void unlink_disk(struct vmm_machine *m, struct machine_disk *gone)
{
	struct machine_disk **at = &m->disks;

	while (*at != gone)
		at = &(*at)->next;
	*at = gone->next;
}

int vmm_machine_detach(struct vmm_machine *m, const char *at, struct sp_err *err)
{
	struct machine_disk *d = find(m, at, err);
	char name[16];
	json_object *data;
	int r;

	if (!d)
		return -ENOENT;
	r = refuse_while_rearranged(m, err);
	if (r == 0)
		r = storvsp_detach(vsp_of(m, d), d->at, err);
	if (r < 0)
		return r;
	unlink_disk(m, d);
	snprintf(name, sizeof(name), "scsi%u:%u", d->controller, d->at.lun);
	disk_free(d);
	data = json_object_new_object();
	if (data)
		vm_json_add_text(data, "device", name);
	machine_event(m, "DEVICE_DELETED", data);
	return 0;
}

int vmm_machine_resize(struct vmm_machine *m, const char *at, uint64_t bytes, struct sp_err *err)
{
	struct machine_disk *d = find(m, at, err);
	int r;

	if (!d)
		return -ENOENT;
	if (!d->disk || d->config.dvd)
		return sp_err_set(err, -EINVAL, "%s is no disk", at);
	r = refuse_while_rearranged(m, err);
	if (r == 0)
		r = vhd_disk_grow(d->disk, bytes, err);
	if (r < 0)
		return sp_err_prefix(err, r, "%s", d->config.path);
	scsi_lu_resized(storvsp_lu(vsp_of(m, d), d->at));
	storvsp_notify(vsp_of(m, d));
	return 0;
}

int vmm_machine_set_read_only(struct vmm_machine *m, const char *at, bool read_only, struct sp_err *err)
{
	struct machine_disk *d = find(m, at, err);

	if (!d)
		return -ENOENT;
	if (!read_only && (!d->disk || !vhd_disk_writable(d->disk)))
		return sp_err_set(err, -EROFS, "%s has been opened read-only", at);
	scsi_lu_set_read_only(storvsp_lu(vsp_of(m, d), d->at), read_only);
	d->config.read_only = read_only;
	storvsp_notify(vsp_of(m, d));
	return 0;
}

int vmm_machine_set_limits(struct vmm_machine *m, const char *at, const struct vmm_disk_config *c, struct sp_err *err)
{
	struct machine_disk *d = find(m, at, err);
	const struct storvsp_limits limits = {
		.iops = c->iops, .bps = c->bps, .burst_iops = c->burst_iops, .burst_bps = c->burst_bps,
		.min_iops = c->min_iops,
	};

	int r;

	if (!d)
		return -ENOENT;
	r = storvsp_set_limits(vsp_of(m, d), d->at, &limits);
	if (r < 0)
		return sp_err_set(err, r, "%s: limits: %s", at, strerror(-r));
	d->config.iops = c->iops;
	d->config.bps = c->bps;
	d->config.burst_iops = c->burst_iops;
	d->config.burst_bps = c->burst_bps;
	d->config.min_iops = c->min_iops;
	return 0;
}

/* ---- media -------------------------------------------------------------------------------------------- */

/* The medium and all that belongs to it goes; the drive stays. */
static void forget_medium(struct machine_disk *d)
{
	struct sp_err err = { 0 };

	if (d->disk && vhd_disk_close(sp_take(d->disk), &err) < 0)
		fprintf(stderr, "spindle-vm: %s: %s\n", d->config.path, sp_err_text(&err));
	store_folder_close(sp_take(d->folder));
	sp_free(sp_take(d->name));
	sp_free(sp_take(d->config.path));
}

static int take_out(struct machine_disk *d, struct scsi_lu *lu, bool force, struct sp_err *err)
{
	int r = d->stuck ? -ETIMEDOUT : scsi_lu_eject(lu, force);

	if (r == 0 || r == -ENOMEDIUM)
		return 0;
	if (r == -EBUSY)
		return sp_err_set(err, r, "the guest has locked the tray; eject it there, or use force");
	d->stuck = r == -ETIMEDOUT;
	return sp_err_set(err, r, "cannot eject: %s", d->stuck ? "requests to the medium do not end" : strerror(-r));
}

/* Opened before the old one leaves. */
static int open_medium(struct vmm_machine *m, const struct machine_disk *d, const char *path, struct machine_disk *next,
		       struct scsi_backend **ret_backend, struct sp_err *err)
{
	int r;

	*next = (struct machine_disk){ .config = d->config };
	next->config.path = sp_strdup(path);
	if (!next->config.path)
		return sp_err_set(err, -ENOMEM, "out of memory");
	r = open_chain(m, next, path, 0, err);
	if (r == 0)
		r = scsi_backend_disk(next->disk, ret_backend);
	if (r < 0) {
		forget_medium(next);
		return sp_err_prefix(err, r, "%s", path);
	}
	return 0;
}

int vmm_machine_medium(struct vmm_machine *m, const char *at, const char *path, const char *folder, bool force,
		       struct sp_err *err)
{
	struct machine_disk *d = find(m, at, err), next = { 0 };
	SP_AUTO_FREE char *full = NULL;
	struct scsi_backend *backend = NULL;
	int r = 0;

	if (!d)
		return -ENOENT;
	if (!d->config.dvd)
		return sp_err_set(err, -EINVAL, "%s is no DVD drive", at);
	if (path) {
		full = in_folder(path, folder);
		r = full ? open_medium(m, d, full, &next, &backend, err) : sp_err_set(err, -ENOMEM, "out of memory");
	}
	if (r < 0)
		return r;
	r = take_out(d, storvsp_lu(vsp_of(m, d), d->at), force, err);
	if (r < 0) {
		if (backend)
			backend->ops->free(backend);
		forget_medium(&next);
		return r;
	}
	forget_medium(d);
	if (!path)
		return 0;
	d->disk = next.disk;
	d->folder = next.folder;
	d->name = next.name;
	d->config.path = next.config.path;
	r = scsi_lu_insert(storvsp_lu(vsp_of(m, d), d->at), backend);
	return r < 0 ? sp_err_set(err, r, "cannot insert %s: %s", path, strerror(-r)) : 0;
}
