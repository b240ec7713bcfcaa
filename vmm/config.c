/* SPDX-License-Identifier: BSD-2-Clause */
#include "vmm/config.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "vmm/config_int.h"
#include "vmm/serial.h"

#define MEMORY_DEFAULT SP_MIB(512)
#define MEMORY_MIN     SP_MIB(16)
#define MEMORY_MAX     SP_TIB(4)
#define MEMORY_UNIT    SP_MIB(2)

/* ---- whole ------------------------------------------------------------------------------------------- */

void vmm_config_init(struct vmm_config *c)
{
	*c = (struct vmm_config){ .memory = MEMORY_DEFAULT, .cpus = 1 };
}

void vmm_config_fini(struct vmm_config *c)
{
	for (unsigned i = 0; i < c->disks; i++)
		vmm_disk_config_fini(&c->disk[i]);
	sp_free(c->disk);
	sp_free(c->kernel);
	sp_free(c->initrd);
	sp_free(c->append);
	sp_free(c->serial);
	sp_free(c->qmp);
	sp_free(c->attach_from);
	sp_free(c->storvsp_socket);
	vmm_config_init(c);
}

/* ---- a disk ------------------------------------------------------------------------------------------- */

void vmm_disk_config_fini(struct vmm_disk_config *c)
{
	sp_free(c->path);
	sp_free(c->serial);
	sp_free(c->image_root);
	*c = (struct vmm_disk_config){ .controller = -1, .lun = -1 };
}

static int copy_string(const char *from, char **ret)
{
	*ret = from ? sp_strdup(from) : NULL;
	return from && !*ret ? -ENOMEM : 0;
}

int vmm_disk_config_copy(const struct vmm_disk_config *from, struct vmm_disk_config *ret_copy)
{
	struct vmm_disk_config c = *from;
	int r = copy_string(from->path, &c.path);

	c.serial = c.image_root = NULL;
	if (r == 0)
		r = copy_string(from->serial, &c.serial);
	if (r == 0)
		r = copy_string(from->image_root, &c.image_root);
	if (r < 0) {
		vmm_disk_config_fini(&c);
		return r;
	}
	*ret_copy = c;
	return 0;
}

int vmm_config_number(const char *text, uint64_t max, uint64_t *ret)
{
	static const char suffix[] = "kmgt";
	unsigned long long n;
	const char *s;
	char *end;
	unsigned shift = 0;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno)
		return -ERANGE;
	if (*end) {
		s = strchr(suffix, tolower((unsigned char)*end));
		if (!s || end[1])
			return -EINVAL;
		shift = 10 * (unsigned)(s - suffix + 1);
	}
	if (n > max >> shift)
		return -ERANGE;
	*ret = n << shift;
	return 0;
}

/* Where a disk's keys go, and what they may be: one table for options and JSON. */
const struct vmm_config_key vmm_disk_keys[] = {
	{ "lun", CONFIG_INT, offsetof(struct vmm_disk_config, lun), VMM_LUNS - 1 },
	{ "controller", CONFIG_INT, offsetof(struct vmm_disk_config, controller), VMM_CONTROLLERS - 1 },
	{ "format", CONFIG_FORMAT, offsetof(struct vmm_disk_config, format), 0 },
	{ "ro", CONFIG_BOOL, offsetof(struct vmm_disk_config, read_only), 0 },
	{ "snapshot", CONFIG_BOOL, offsetof(struct vmm_disk_config, snapshot), 0 },
	{ "writethrough", CONFIG_BOOL, offsetof(struct vmm_disk_config, write_through), 0 },
	{ "track", CONFIG_BOOL, offsetof(struct vmm_disk_config, track), 0 },
	{ "iops", CONFIG_U64, offsetof(struct vmm_disk_config, iops), UINT64_MAX },
	{ "bps", CONFIG_U64, offsetof(struct vmm_disk_config, bps), UINT64_MAX },
	{ "burst-iops", CONFIG_U64, offsetof(struct vmm_disk_config, burst_iops), UINT64_MAX },
	{ "burst-bps", CONFIG_U64, offsetof(struct vmm_disk_config, burst_bps), UINT64_MAX },
	{ "min-iops", CONFIG_U64, offsetof(struct vmm_disk_config, min_iops), UINT64_MAX },
	{ "serial", CONFIG_STRING, offsetof(struct vmm_disk_config, serial), 0 },
	{ "image-root", CONFIG_STRING, offsetof(struct vmm_disk_config, image_root), 0 },
	{ "file", CONFIG_STRING, offsetof(struct vmm_disk_config, path), 0 },
	{ 0 },
};

int vmm_config_set_string(char **at, const char *text)
{
	char *copy = sp_strdup(text);

	if (!copy)
		return -ENOMEM;
	sp_free(*at);
	*at = copy;
	return 0;
}

static int set_bool(bool *at, const char *value)
{
	*at = !value || strcmp(value, "on") == 0 || strcmp(value, "true") == 0;
	return *at || strcmp(value, "off") == 0 || strcmp(value, "false") == 0 ? 0 : -EINVAL;
}

int vmm_config_set(void *object, const struct vmm_config_key *key, const char *value, struct sp_err *err)
{
	void *at = (char *)object + key->offset;
	uint64_t number = 0;
	int r = 0;

	if (!value && key->type != CONFIG_BOOL)
		return sp_err_set(err, -EINVAL, "%s needs a value: %s=...", key->name, key->name);
	switch (key->type) {
	case CONFIG_BOOL:
		r = set_bool(at, value);
		break;
	case CONFIG_INT:
		r = vmm_config_number(value, key->max, &number);
		*(int *)at = r == 0 ? (int)number : *(int *)at;
		break;
	case CONFIG_U64:
		r = vmm_config_number(value, key->max, at);
		break;
	case CONFIG_FORMAT:
		r = vhd_format_from_name(value, at);
		break;
	case CONFIG_STRING:
		r = vmm_config_set_string(at, value);
		break;
	}
	if (r == -ENOMEM)
		return sp_err_set(err, r, "out of memory");
	if (r == -ERANGE)
		return sp_err_set(err, r, "%s=%s: %" PRIu64 " is the highest", key->name, value, key->max);
	return r < 0 ? sp_err_set(err, r, "%s=%s is not understood", key->name, value) : 0;
}

const struct vmm_config_key *vmm_config_find(const struct vmm_config_key *keys, const char *name)
{
	for (; keys->name; keys++)
		if (strcmp(keys->name, name) == 0)
			return keys;
	return NULL;
}

/* The next piece of "a,b,c"; ",," is a comma within. Modifies @at. */
static char *next_piece(char **at)
{
	char *piece = *at, *from = *at, *to = *at;

	if (!piece)
		return NULL;
	for (; *from && (*from != ',' || from[1] == ','); from++) {
		if (*from == ',')
			from++;
		*to++ = *from;
	}
	*at = *from ? from + 1 : NULL;
	*to = '\0';
	return piece;
}

static int set_piece(struct vmm_disk_config *c, char *piece, bool first, struct sp_err *err)
{
	char *equals = strchr(piece, '=');
	const struct vmm_config_key *key;

	if (equals)
		*equals++ = '\0';
	key = vmm_config_find(vmm_disk_keys, piece);
	if (first && c->dvd && !equals && strcmp(piece, "none") == 0)
		return 0;
	if (first && !(key && equals)) {
		if (equals)
			equals[-1] = '=';
		return vmm_config_set_string(&c->path, piece);
	}
	if (!key)
		return sp_err_set(err, -EINVAL, "\"%s\" is no key of a disk; keys are file, lun, controller, "
				  "format, ro, snapshot, writethrough, track, iops, bps, burst-iops, "
				  "burst-bps, min-iops, serial, image-root", piece);
	return vmm_config_set(c, key, equals, err);
}

int vmm_disk_config_check(struct vmm_disk_config *c, struct sp_err *err)
{
	if (c->path && !*c->path)
		return sp_err_set(err, -EINVAL, "the name of the file is empty");
	if (!c->path && !c->dvd)
		return sp_err_set(err, -EINVAL, "a disk needs a file");
	if (c->snapshot && (c->dvd || c->read_only))
		return sp_err_set(err, -EINVAL, "snapshot and %s exclude each other", c->dvd ? "a DVD" : "ro");
	if (c->track && (c->snapshot || c->dvd || c->read_only))
		return sp_err_set(err, -EINVAL, "track and %s exclude each other",
				  c->snapshot ? "snapshot" : c->dvd ? "a DVD" : "ro");
	if (c->dvd && c->format == VHD_FORMAT_AUTO)
		c->format = VHD_FORMAT_RAW;
	return 0;
}

int vmm_disk_config_parse(struct vmm_disk_config *ret_disk, const char *spec, bool dvd, struct sp_err *err)
{
	struct vmm_disk_config c = { .dvd = dvd, .controller = -1, .lun = -1 };
	SP_AUTO_FREE char *copy = sp_strdup(spec);
	char *at = copy, *piece;
	bool first = true;
	int r = copy ? 0 : -ENOMEM;

	while (r == 0 && (piece = next_piece(&at))) {
		r = set_piece(&c, piece, first, err);
		first = false;
	}
	if (r == 0)
		r = vmm_disk_config_check(&c, err);
	if (r < 0) {
		vmm_disk_config_fini(&c);
		return sp_err_prefix(err, r, "%s \"%s\"", dvd ? "dvd" : "disk", spec);
	}
	*ret_disk = c;
	return 0;
}

int vmm_config_append_disk(struct vmm_config *c, struct vmm_disk_config *disk, struct sp_err *err)
{
	struct vmm_disk_config *grown = sp_realloc(c->disk, (c->disks + 1) * sizeof(*grown));

	if (!grown) {
		vmm_disk_config_fini(disk);
		return sp_err_set(err, -ENOMEM, "out of memory");
	}
	c->disk = grown;
	c->disk[c->disks++] = *disk;
	return 0;
}

int vmm_config_add_disk(struct vmm_config *c, const char *spec, bool dvd, struct sp_err *err)
{
	struct vmm_disk_config disk;
	int r = vmm_disk_config_parse(&disk, spec, dvd, err);

	return r < 0 ? r : vmm_config_append_disk(c, &disk, err);
}

/* ---- defaults and checks ------------------------------------------------------------------------------ */

static bool name_ok(const char *name)
{
	static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";

	return *name && *name != '.' && strspn(name, good) == strlen(name);
}

/* "images/My Disk.vhdx" makes "My-Disk". */
static void name_from_disk(struct vmm_config *c)
{
	const char *path = c->disks && c->disk[0].path ? c->disk[0].path : "machine", *base = strrchr(path, '/');
	size_t len;

	base = base ? base + 1 : path;
	len = strcspn(base, ".");
	len = len < VMM_NAME_MAX ? len : VMM_NAME_MAX;
	memcpy(c->name, base, len);
	c->name[len] = '\0';
	for (char *p = c->name; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("._-", *p))
			*p = '-';
	if (!name_ok(c->name))
		strcpy(c->name, "machine");
}

/* The same name makes the same machine: a guest keeps its devices over restarts. */
static void id_from_name(struct vmm_config *c)
{
	uint8_t digest[SHA256_DIGEST_LENGTH];

	SHA256((const uint8_t *)c->name, strlen(c->name), digest);
	memcpy(c->id.b, digest, sizeof(c->id.b));
}

static int fill_in(struct vmm_config *c, struct sp_err *err)
{
	if (!c->name[0])
		name_from_disk(c);
	if (!name_ok(c->name))
		return sp_err_set(err, -EINVAL, "name \"%s\": letters, digits, '.', '_' and '-' only", c->name);
	if (sp_guid_is_zero(&c->id))
		id_from_name(c);
	if (!c->serial && vmm_config_set_string(&c->serial, "stdio") < 0)
		return sp_err_set(err, -ENOMEM, "out of memory");
	if (!c->append && vmm_config_set_string(&c->append, "console=ttyS0 panic=-1") < 0)
		return sp_err_set(err, -ENOMEM, "out of memory");
	return 0;
}

static const char *word_for(const struct vmm_disk_config *d)
{
	return d->path ? d->path : "a DVD drive";
}

static int place_named(struct vmm_disk_config *d, const struct vmm_disk_config *at[][VMM_LUNS], struct sp_err *err)
{
	const struct vmm_disk_config **place = &at[d->controller][d->lun];

	if (*place)
		return sp_err_set(err, -EINVAL, "%s and %s: both are to be unit %d of controller %d",
				  word_for(*place), word_for(d), d->lun, d->controller);
	*place = d;
	return 0;
}

static int place_free(struct vmm_disk_config *d, const struct vmm_disk_config *at[][VMM_LUNS], struct sp_err *err)
{
	for (d->lun = 0; d->lun < (int)VMM_LUNS; d->lun++)
		if (!at[d->controller][d->lun])
			return place_named(d, at, err);
	return sp_err_set(err, -EINVAL, "%s: all %u units of controller %d are taken", word_for(d), VMM_LUNS,
			  d->controller);
}

/* Those with a place get it; then the others take what is free, in their order. */
static int place_disks(struct vmm_config *c, struct sp_err *err)
{
	const struct vmm_disk_config *at[VMM_CONTROLLERS][VMM_LUNS] = { 0 };
	int r = 0;

	for (unsigned i = 0; i < c->disks; i++)
		c->disk[i].controller = c->disk[i].controller < 0 ? 0 : c->disk[i].controller;
	for (unsigned i = 0; r == 0 && i < c->disks; i++)
		if (c->disk[i].lun >= 0)
			r = place_named(&c->disk[i], at, err);
	for (unsigned i = 0; r == 0 && i < c->disks; i++)
		if (c->disk[i].lun < 0)
			r = place_free(&c->disk[i], at, err);
	return r;
}

int vmm_config_memory(struct vmm_config *c, const char *text)
{
	bool plain = text[strspn(text, "0123456789")] == '\0';
	uint64_t n;
	int r = vmm_config_number(text, plain ? UINT64_MAX >> 20 : UINT64_MAX, &n);

	if (r == 0)
		c->memory = plain ? n << 20 : n;
	return r;
}

int vmm_config_check(struct vmm_config *c, struct sp_err *err)
{
	int r = fill_in(c, err);

	if (r < 0)
		return r;
	if (!c->kernel)
		return sp_err_set(err, -EINVAL, "no kernel: give --kernel FILE, or --kernel disk0:/boot/vmlinuz for "
				  "one inside the guest's own disk");
	if (c->cpus < 1 || c->cpus > VMM_CPUS_MAX)
		return sp_err_set(err, -EINVAL, "%u processors: 1 to %u are possible", c->cpus, VMM_CPUS_MAX);
	c->memory = sp_align_down(c->memory, MEMORY_UNIT);
	if (c->memory < MEMORY_MIN || c->memory > MEMORY_MAX)
		return sp_err_set(err, -EINVAL, "memory: 16 MiB to 4 TiB are possible");
	r = vmm_serial_spec_check(c->serial, err);
	return r < 0 ? r : place_disks(c, err);
}
