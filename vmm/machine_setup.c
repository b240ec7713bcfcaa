/* SPDX-License-Identifier: BSD-2-Clause */
/* The configuration backwards: from the machine as it is now to JSON that would make the same one. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "vmm/config_int.h"
#include "vmm/json_text.h"
#include "vmm/machine_int.h"
#include "vmm/machine_track.h"

/* Names of files, which count from where the machine was started. */
static bool is_path(const char *key)
{
	static const char *const paths[] = { "kernel", "initrd", "qmp", "attach-from", "storvsp-socket", "file",
					     "image-root" };

	for (unsigned i = 0; i < SP_ARRAY_SIZE(paths); i++)
		if (strcmp(key, paths[i]) == 0)
			return true;
	return false;
}

/* "disk0:/boot/vmlinuz" lies inside a disk. */
static bool is_inside(const char *path)
{
	return strncmp(path, "disk", 4) == 0 && path[4 + strspn(path + 4, "0123456789")] == ':';
}

static void add_string(const struct vmm_machine *m, json_object *o, const char *key, const char *text)
{
	SP_AUTO_FREE char *full = NULL;

	if (is_path(key) && *text != '/' && !is_inside(text) && m->here)
		full = sp_asprintf("%s/%s", m->here, text);
	vm_json_add_text(o, key, full ? full : text);
}

/* What is as it would be without the key has none. */
static void add_key(const struct vmm_machine *m, json_object *o, const struct vmm_config_key *k, const void *object)
{
	const void *at = (const char *)object + k->offset;

	switch (k->type) {
	case CONFIG_BOOL:
		if (*(const bool *)at)
			json_object_object_add(o, k->name, json_object_new_boolean(true));
		break;
	case CONFIG_INT:
		if (*(const int *)at > 0)
			json_object_object_add(o, k->name, json_object_new_int(*(const int *)at));
		break;
	case CONFIG_U64:
		if (*(const uint64_t *)at)
			json_object_object_add(o, k->name, json_object_new_uint64(*(const uint64_t *)at));
		break;
	case CONFIG_FORMAT:
		if (*(const enum vhd_format_id *)at != VHD_FORMAT_AUTO)
			vm_json_add_text(o, k->name, vhd_format_name(*(const enum vhd_format_id *)at));
		break;
	case CONFIG_STRING:
		if (*(char *const *)at)
			add_string(m, o, k->name, *(char *const *)at);
		break;
	}
}

static json_object *describe_disk(const struct vmm_machine *m, const struct machine_disk *d)
{
	json_object *o = json_object_new_object();

	for (const struct vmm_config_key *k = vmm_disk_keys; k->name; k++)
		add_key(m, o, k, &d->config);
	json_object_object_add(o, "controller", json_object_new_int((int)d->controller));
	json_object_object_add(o, "lun", json_object_new_int(d->at.lun));
	return o;
}

int vmm_machine_setup(struct vmm_machine *m, json_object **ret, struct sp_err *err)
{
	json_object *o = json_object_new_object(), *disks = json_object_new_array(), *dvds = json_object_new_array();
	char text[64];

	vm_json_add_text(o, "name", m->config->name);
	sp_guid_format_le(&m->config->id, text);
	vm_json_add_text(o, "id", text);
	snprintf(text, sizeof(text), "%" PRIu64 "M", m->config->memory >> 20);
	vm_json_add_text(o, "mem", text);
	for (const struct vmm_config_key *k = vmm_machine_keys; k->name; k++)
		add_key(m, o, k, m->config);
	for (const struct machine_disk *d = m->disks; d; d = d->next)
		json_object_array_add(d->config.dvd ? dvds : disks, describe_disk(m, d));
	json_object_object_add(o, "disks", disks);
	json_object_object_add(o, "dvds", dvds);
	*ret = o;
	return 0;
}
