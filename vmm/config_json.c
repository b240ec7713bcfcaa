/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The same configuration from a JSON file:
 *
 *	{ "name": "web", "mem": "2G", "cpus": 4, "kernel": "disk0:/boot/vmlinuz",
 *	  "disks": [ { "file": "web.vhdx", "iops": 5000 } ], "dvds": [ { "file": "tools.iso" } ] }
 */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "vmm/config_int.h"

#define FILE_MAX SP_MIB(1)

const struct vmm_config_key vmm_machine_keys[] = {
	{ "cpus", CONFIG_INT, offsetof(struct vmm_config, cpus), VMM_CPUS_MAX },
	{ "kernel", CONFIG_STRING, offsetof(struct vmm_config, kernel), 0 },
	{ "initrd", CONFIG_STRING, offsetof(struct vmm_config, initrd), 0 },
	{ "append", CONFIG_STRING, offsetof(struct vmm_config, append), 0 },
	{ "serial", CONFIG_STRING, offsetof(struct vmm_config, serial), 0 },
	{ "qmp", CONFIG_STRING, offsetof(struct vmm_config, qmp), 0 },
	{ "attach-from", CONFIG_STRING, offsetof(struct vmm_config, attach_from), 0 },
	{ "storvsp-socket", CONFIG_STRING, offsetof(struct vmm_config, storvsp_socket), 0 },
	{ "paused", CONFIG_BOOL, offsetof(struct vmm_config, paused), 0 },
	{ "no-reboot", CONFIG_BOOL, offsetof(struct vmm_config, no_reboot), 0 },
	{ "no-jail", CONFIG_BOOL, offsetof(struct vmm_config, no_jail), 0 },
	{ "poll-us", CONFIG_INT, offsetof(struct vmm_config, poll_us), 1000000 },
	{ 0 },
};

/* Strings, numbers and booleans all read as their text, which for a file's name ends at no zero within. */
static const char *plain_text(const char *name, json_object *value, struct sp_err *err)
{
	const char *text;

	if (json_object_is_type(value, json_type_object) || json_object_is_type(value, json_type_array) || !value) {
		sp_err_set(err, -EINVAL, "\"%s\" is no plain value", name);
		return NULL;
	}
	text = json_object_get_string(value);
	if (json_object_is_type(value, json_type_string) && strlen(text) != (size_t)json_object_get_string_len(value)) {
		sp_err_set(err, -EINVAL, "\"%s\" has a zero character", name);
		return NULL;
	}
	return text;
}

static int set_key(void *object, const struct vmm_config_key *keys, const char *name, json_object *value,
		   struct sp_err *err)
{
	const struct vmm_config_key *key = vmm_config_find(keys, name);

	if (!key)
		return sp_err_set(err, -EINVAL, "unknown key \"%s\"", name);
	return plain_text(name, value, err) ? vmm_config_set(object, key, json_object_get_string(value), err) : -EINVAL;
}

static int set_name(struct vmm_config *c, json_object *value, struct sp_err *err)
{
	const char *name = plain_text("name", value, err);

	if (!name)
		return -EINVAL;
	if (!*name || strlen(name) > VMM_NAME_MAX)
		return sp_err_set(err, -EINVAL, "\"name\": 1 to %u characters are possible", VMM_NAME_MAX);
	strcpy(c->name, name);
	return 0;
}

static int set_memory(struct vmm_config *c, json_object *value, struct sp_err *err)
{
	const char *text = plain_text("mem", value, err);

	if (!text)
		return -EINVAL;
	return vmm_config_memory(c, text) < 0 ? sp_err_set(err, -EINVAL, "mem=%s is not understood", text) : 0;
}

static int set_id(struct vmm_config *c, json_object *value, struct sp_err *err)
{
	const char *text = json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;

	if (!text || sp_guid_parse_le(text, &c->id) < 0)
		return sp_err_set(err, -EINVAL, "\"id\" is no GUID");
	return 0;
}

static int one_disk(struct vmm_config *c, json_object *o, bool dvd, struct sp_err *err)
{
	struct vmm_disk_config disk = { .dvd = dvd, .controller = -1, .lun = -1 };
	int r = 0;

	if (!json_object_is_type(o, json_type_object))
		return sp_err_set(err, -EINVAL, "is no object");
	json_object_object_foreach(o, name, value) {
		r = r == 0 ? set_key(&disk, vmm_disk_keys, name, value, err) : r;
	}
	if (r == 0)
		r = vmm_disk_config_check(&disk, err);
	if (r < 0) {
		vmm_disk_config_fini(&disk);
		return r;
	}
	return vmm_config_append_disk(c, &disk, err);
}

static int all_disks(struct vmm_config *c, const char *key, json_object *list, bool dvd, struct sp_err *err)
{
	if (!json_object_is_type(list, json_type_array))
		return sp_err_set(err, -EINVAL, "\"%s\" is no list", key);
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		int r = one_disk(c, json_object_array_get_idx(list, i), dvd, err);

		if (r < 0)
			return sp_err_prefix(err, r, "\"%s\", entry %zu", key, i);
	}
	return 0;
}

static int set_any(struct vmm_config *c, const char *name, json_object *value, struct sp_err *err)
{
	if (strcmp(name, "name") == 0)
		return set_name(c, value, err);
	if (strcmp(name, "mem") == 0)
		return set_memory(c, value, err);
	if (strcmp(name, "id") == 0)
		return set_id(c, value, err);
	if (strcmp(name, "disks") == 0)
		return all_disks(c, name, value, false, err);
	if (strcmp(name, "dvds") == 0)
		return all_disks(c, name, value, true, err);
	return set_key(c, vmm_machine_keys, name, value, err);
}

static int read_file(const char *path, char **ret_text, size_t *ret_len, struct sp_err *err)
{
	char *text = sp_zalloc(FILE_MAX + 1);
	int fd = text ? open(path, O_RDONLY | O_CLOEXEC) : -1, r = text && fd < 0 ? -errno : text ? 0 : -ENOMEM;
	ssize_t n = 1;
	size_t len = 0;

	while (r == 0 && n != 0) {	/* it may be a pipe */
		n = read(fd, text + len, FILE_MAX + 1 - len);
		if (n < 0 && errno != EINTR)
			r = -errno;
		len += n > 0 ? (size_t)n : 0;
		if (len > FILE_MAX)
			r = -EFBIG;
	}
	if (fd >= 0)
		close(fd);
	if (r < 0) {
		sp_free(text);
		return sp_err_set(err, r, "%s", strerror(-r));
	}
	*ret_text = text;
	*ret_len = len;
	return 0;
}

static int parse(const char *text, size_t len, json_object **ret, struct sp_err *err)
{
	json_tokener *t = json_tokener_new_ex(8);
	json_object *o;
	int r = 0;

	if (t)
		json_tokener_set_flags(t, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
	/* With the zero behind the text: then nothing can be missing. */
	o = t ? json_tokener_parse_ex(t, text, (int)len + 1) : NULL;
	if (!o || !json_object_is_type(o, json_type_object) || strlen(text) != len)
		r = sp_err_set(err, -EINVAL, "no JSON object: %s at byte %zu",
			       t ? json_tokener_error_desc(json_tokener_get_error(t)) : "out of memory",
			       t ? json_tokener_get_parse_end(t) : 0);
	if (t)
		json_tokener_free(t);
	if (r < 0)
		json_object_put(o);
	else
		*ret = o;
	return r;
}

int vmm_config_json(struct vmm_config *c, const char *path, struct sp_err *err)
{
	SP_AUTO_FREE char *text = NULL;
	json_object *o = NULL;
	size_t len = 0;
	int r = read_file(path, &text, &len, err);

	if (r == 0)
		r = parse(text, len, &o, err);
	if (r == 0) {
		json_object_object_foreach(o, name, value) {
			r = r == 0 ? set_any(c, name, value, err) : r;
		}
	}
	json_object_put(o);
	return r < 0 ? sp_err_prefix(err, r, "%s", path) : 0;
}
