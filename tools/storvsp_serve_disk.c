/* SPDX-License-Identifier: BSD-2-Clause */
#include "tools/storvsp_serve.h"

#include <errno.h>
#include <json-c/json.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "tools/size.h"

/* ---- the option ---------------------------------------------------------------------------------- */

static int lun_value(struct serve_disk *d, const char *value, struct sp_err *err)
{
	char *end;
	unsigned long lun = strtoul(value, &end, 10);

	if (end == value || *end || *value == '-' || lun >= STORVSP_LUNS)
		return sp_err_set(err, -EINVAL, "lun: \"%s\" is not a number from 0 to %u", value, STORVSP_LUNS - 1);
	d->lun = (int)lun;
	return 0;
}

static int limit_value(uint64_t *limit, const char *name, const char *value, struct sp_err *err)
{
	if (tool_size_parse(value, limit) < 0)
		return sp_err_set(err, -EINVAL, "%s: \"%s\" is not a number (K, M and G may follow)", name, value);
	return 0;
}

static int take_key(struct serve_disk *d, const char *key, const char *value, struct sp_err *err)
{
	if (strcmp(key, "ro") == 0 && !value) {
		d->read_only = true;
		return 0;
	}
	if (!value)
		return sp_err_set(err, -EINVAL, "\"%s\" is not ro, lun=, format=, iops= or bps=", key);
	if (strcmp(key, "lun") == 0)
		return lun_value(d, value, err);
	if (strcmp(key, "iops") == 0)
		return limit_value(&d->limits.iops, key, value, err);
	if (strcmp(key, "bps") == 0)
		return limit_value(&d->limits.bps, key, value, err);
	if (strcmp(key, "format") == 0 && vhd_format_from_name(value, &d->format) < 0)
		return sp_err_set(err, -EINVAL, "format: \"%s\" is not raw, vhd, vpc or vhdx", value);
	if (strcmp(key, "format") == 0)
		return 0;
	return sp_err_set(err, -EINVAL, "\"%s\" is not ro, lun=, format=, iops= or bps=", key);
}

int serve_disk_parse(struct serve_disk *ret_disk, const char *spec, struct sp_err *err)
{
	struct serve_disk d = { .path = sp_strdup(spec), .lun = -1 };
	char *rest = d.path, *item;
	int r = 0;

	if (!d.path)
		return sp_err_set(err, -ENOMEM, "out of memory");
	if (!*strsep(&rest, ","))
		r = sp_err_set(err, -EINVAL, "the name of the image is missing");
	while (r == 0 && (item = strsep(&rest, ","))) {
		char *value = strchr(item, '=');

		if (value)
			*value++ = '\0';
		r = take_key(&d, item, value, err);
	}
	if (r < 0)
		sp_free(d.path);
	else
		*ret_disk = d;
	return r;
}

/* ---- the disk ------------------------------------------------------------------------------------ */

/* What the format keeps of it in the lowest layer, which snapshots and merges leave alone; else the file's name. */
static void find_identity(const struct serve_disk *d, struct sp_guid *ret)
{
	json_object *facts = json_object_new_object(), *id = NULL;
	uint8_t digest[EVP_MAX_MD_SIZE] = { 0 };
	char *name = d->path ? realpath(d->path, NULL) : NULL;
	const char *words = name ? name : "null";

	*ret = (struct sp_guid){ { 0 } };
	if (facts && d->disk) {
		vhd_disk_layer_describe(d->disk, vhd_disk_layers(d->disk) - 1, facts);
		if (json_object_object_get_ex(facts, "disk_id", &id) ||
		    json_object_object_get_ex(facts, "unique_id", &id))
			sp_guid_parse_le(json_object_get_string(id), ret);
	}
	json_object_put(facts);
	if (sp_guid_is_zero(ret) && EVP_Digest(words, strlen(words), digest, NULL, EVP_sha256(), NULL))
		memcpy(ret->b, digest, sizeof(ret->b));
	free(name);
}

static int open_backend(struct serve_disk *d, struct scsi_backend **ret, struct sp_err *err)
{
	struct vhd_open_opts o = { .flags = d->read_only ? 0 : VHD_OPEN_WRITE, .format = d->format };
	int r;

	if (!d->path) {
		r = scsi_backend_null(d->null_size, 512, ret);
		return r < 0 ? sp_err_set(err, r, "--null: a size is a multiple of 512 bytes") : 0;
	}
	r = vhd_disk_open(d->path, &o, &d->disk, err);
	if (r < 0)
		return sp_err_prefix(err, r, "%s", d->path);
	d->reservations = d->read_only ? NULL : sp_asprintf("%s.reservations", d->path);
	r = scsi_backend_disk(d->disk, ret);
	return r < 0 ? sp_err_set(err, r, "%s: out of memory", d->path) : 0;
}

int serve_disk_open(struct serve_disk *d, struct storvsp *controller, struct sp_err *err)
{
	struct storvsp_address at = { .lun = (uint8_t)d->lun };
	struct scsi_lu_opts o = { .kind = SCSI_DISK, .read_only = d->read_only };
	struct scsi_lu *lu;
	int r = open_backend(d, &o.backend, err);

	if (r < 0)
		return r;
	find_identity(d, &o.identity);
	o.reservations = d->reservations;
	r = scsi_lu_new(&o, &lu, err);
	if (r < 0)
		return sp_err_prefix(err, r, "%s", d->path ? d->path : "--null");
	r = storvsp_attach(controller, at, lu, &d->limits, 0, err);
	if (r < 0) {
		scsi_lu_free(lu);
		return sp_err_prefix(err, r, "%s", d->path ? d->path : "--null");
	}
	return 0;
}

int serve_disk_close(struct serve_disk *d, struct sp_err *err)
{
	int r = d->disk ? vhd_disk_close(d->disk, err) : 0;

	if (r < 0)
		sp_err_prefix(err, r, "%s", d->path);
	sp_free(d->path);
	sp_free(d->reservations);
	return r;
}
