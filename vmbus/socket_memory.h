/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMBUS_SOCKET_MEMORY_H
#define SPINDLE_VMBUS_SOCKET_MEMORY_H
/*
 * A client's memory: one memfd, mapped once, which begins at page 0. It cannot shrink, so no byte of the mapping can
 * turn into a SIGBUS.
 */
#include <stdint.h>

#include "vmbus/mem.h"

struct vmbus_socket_memory {
	struct vmbus_mem mem;		/* do not move the struct while it is in use */
	int fd;
	uint8_t *base;
	uint64_t bytes;
};

/* The client's side: zeroed, sealed. @bytes: multiple of 4096. 0 or -errno. */
int vmbus_socket_memory_new(struct vmbus_socket_memory *m, uint64_t bytes);
/**
 * vmbus_socket_memory_adopt - the server's side: check and map what a client sent
 * @fd: taken over when this succeeds
 * @bytes: what the client says it has; @most: what it may have
 * Returns 0, -EINVAL (no memfd, not sealed against shrinking, another size), -E2BIG, or what mmap(2) said.
 */
int vmbus_socket_memory_adopt(struct vmbus_socket_memory *m, int fd, uint64_t bytes, uint64_t most);
void vmbus_socket_memory_fini(struct vmbus_socket_memory *m);

#endif
