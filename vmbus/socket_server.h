/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMBUS_SOCKET_SERVER_H
#define SPINDLE_VMBUS_SOCKET_SERVER_H
/*
 * Offers devices to clients on this host (socket_wire.h). One thread of its own serves all connections; a device serves
 * one connection at a time. A client that breaks a rule loses its connection and nothing else happens.
 */
#include "base/err.h"
#include "vmbus/channel.h"

struct vmbus_socket_server;

/* Takes over @listen_fd (SOCK_SEQPACKET, listening). Only peers of our own uid, or root, are served. */
int vmbus_socket_server_new(int listen_fd, struct vmbus_socket_server **ret_server, struct sp_err *err);
int vmbus_socket_server_offer(struct vmbus_socket_server *s, const struct vmbus_offer *offer);	/* before start */
int vmbus_socket_server_start(struct vmbus_socket_server *s);
void vmbus_socket_server_free(struct vmbus_socket_server *s);	/* closes all channels first */
/* Creates the socket file (0600), replacing one that nobody listens on. */
int vmbus_socket_listen(const char *path, int *ret_fd, struct sp_err *err);

#endif
