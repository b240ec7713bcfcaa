/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_BARE_HOST_H
#define SPINDLE_TESTS_BARE_HOST_H
/*
 * A machine for bare guests: partition, surface, a console that is kept, and a way off. Nothing else.
 */
#include <pthread.h>
#include <stdbool.h>

#include "vmm/partition.h"

#define BARE_SKIP 77

struct bare_host_ops {
	uint16_t (*post_message)(void *ctx, uint32_t connection_id, const void *payload, unsigned len);
	void (*signal_event)(void *ctx, uint32_t connection_id);
};

struct bare_host {
	const struct bare_host_ops *ops;
	void *ctx;
	struct vmm_memory *memory;
	struct vmm_pio *pio;
	struct vmm_partition *partition;
	struct vmm_hv *hv;
	void *image;
	size_t image_len;
	pthread_mutex_t lock;
	char output[16384];		/* under lock */
	size_t output_len;
};

/* Ends the program: with BARE_SKIP where there is no usable /dev/kvm, else with 1. */
void bare_host_open(struct bare_host *h, const char *elf, unsigned cpus, const struct bare_host_ops *ops, void *ctx);
void bare_host_close(struct bare_host *h);
/* Memory, surface and partition as after power on; starts the guest. May be called again after bare_host_wait(). */
void bare_host_run(struct bare_host *h);
/* Until the guest is off, or -1: not within @ms; the guest is stopped then. @ret_text: what the error was. */
int bare_host_wait(struct bare_host *h, unsigned ms, struct sp_err *err);
bool bare_host_printed(struct bare_host *h, const char *text);

#endif
