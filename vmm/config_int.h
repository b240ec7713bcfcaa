/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_CONFIG_INT_H
#define SPINDLE_VMM_CONFIG_INT_H
/* Keys of a configuration: options and JSON fill the same table. */
#include <stddef.h>

#include "vmm/config.h"

struct vmm_config_key {
	const char *name;
	enum { CONFIG_BOOL, CONFIG_INT, CONFIG_U64, CONFIG_FORMAT, CONFIG_STRING } type;
	size_t offset;
	uint64_t max;
};

extern const struct vmm_config_key vmm_disk_keys[], vmm_machine_keys[];	/* end with a key without name */
const struct vmm_config_key *vmm_config_find(const struct vmm_config_key *keys, const char *name);
/* @value NULL: the key stands alone. */
int vmm_config_set(void *object, const struct vmm_config_key *key, const char *value, struct sp_err *err);
int vmm_config_set_string(char **at, const char *text);
/* Digits and one of k, m, g, t (1024). -EINVAL, -ERANGE. */
int vmm_config_number(const char *text, uint64_t max, uint64_t *ret);
/* Of the machine: without a suffix MiB. */
int vmm_config_memory(struct vmm_config *c, const char *text);
int vmm_disk_config_check(struct vmm_disk_config *c, struct sp_err *err);
/* Takes @disk over. */
int vmm_config_append_disk(struct vmm_config *c, struct vmm_disk_config *disk, struct sp_err *err);

#endif
