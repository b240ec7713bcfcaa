/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char *wanted;		/* the list as given; NULL: silent, the usual case */

static void read_environment(void)
{
	const char *list = getenv("SPINDLE_DEBUG");

	/* A copy: the environment may change under us. Never freed, and outside the engine's fault counting. */
	if (list && *list)
		wanted = strdup(list);
}

bool sp_log_enabled(const char *component)
{
	size_t len;

	pthread_once(&once, read_environment);
	if (!wanted)
		return false;
	len = strlen(component);
	for (const char *word = wanted; *word; word += *word == ',') {
		size_t n = strcspn(word, ",");

		if ((n == len && memcmp(word, component, n) == 0) || (n == 3 && memcmp(word, "all", 3) == 0))
			return true;
		word += n;
	}
	return false;
}

void sp_log_write(const char *component, const char *object, const char *fmt, ...)
{
	char line[1024];
	size_t at, room = sizeof(line) - 1;	/* one byte stays free for the newline */
	va_list ap;

	snprintf(line, room, "%s %s: ", component, object ? object : "-");
	at = strlen(line);
	va_start(ap, fmt);
	vsnprintf(line + at, room - at, fmt, ap);
	va_end(ap);
	at += strlen(line + at);
	line[at++] = '\n';
	fwrite(line, 1, at, stderr);		/* one call per line: threads do not mix theirs */
}
