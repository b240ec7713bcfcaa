/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_STORE_LOG_INT_H
#define SPINDLE_TESTS_STORE_LOG_INT_H
/* The log as its recorder (store_log.c) and its reader (log_state.c) see it. */
#include <pthread.h>

#include "tests/support/store_log.h"

struct log_file {
	struct store_id id;
	struct store *initial;		/* clone of the content at the start; NULL: created later */
	char *initial_name;
	uint64_t size;			/* now */
	size_t first_pending;		/* no event of this file before this index waits for a sync */
};

struct store_log {
	pthread_mutex_t lock;		/* everything; held over each operation except a sync's wait */
	struct log_event *event;
	size_t events, event_room;
	struct log_file *file;
	unsigned files, file_room, initial_files;
	size_t first_pending_name;
	size_t name_events;
	uint64_t seq;
};

/* As malloc() and friends, but never NULL: a test that runs out of memory is over. */
void *log_alloc(void *old, size_t size);
char *log_strdup(const char *s);
bool log_is_name_event(enum log_kind kind);

#endif
