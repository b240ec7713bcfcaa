/* SPDX-License-Identifier: BSD-2-Clause */
#include "tools/progress.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static struct sp_job job = SP_JOB_INIT;
static volatile sig_atomic_t caught;
static struct tool_progress shown = { .fd = -1 };
static unsigned last_percent;
static bool bar_drawn;

static void on_signal(int number)
{
	caught = number;
	atomic_store(&job.cancel, true);
}

static void show(void *arg, uint64_t done, uint64_t total)
{
	double part = total ? 100.0 * (double)done / (double)total : 100.0;

	if (shown.bar) {
		fprintf(stderr, "    (%.2f/100%%)\r", part);
		fflush(stderr);
		bar_drawn = true;
	}
	if (shown.fd >= 0 && ((unsigned)part != last_percent || done == total)) {
		dprintf(shown.fd, "%u/100\n", (unsigned)part);	/* nobody listening is no error */
		last_percent = (unsigned)part;
	}
}

static void watch(int number, void (*handler)(int), int flags)
{
	struct sigaction sa = { .sa_handler = handler, .sa_flags = flags };

	sigemptyset(&sa.sa_mask);
	sigaction(number, &sa, NULL);
}

struct sp_job *tool_job_begin(const struct tool_progress *how)
{
	shown = *how;
	shown.bar = how->bar && !how->quiet && isatty(STDERR_FILENO);
	last_percent = UINT32_MAX;
	job.progress = shown.bar || shown.fd >= 0 ? show : NULL;
	watch(SIGINT, on_signal, (int)(SA_RESETHAND | SA_RESTART));
	watch(SIGTERM, on_signal, (int)(SA_RESETHAND | SA_RESTART));
	return &job;
}

int tool_job_end(int status)
{
	if (bar_drawn)
		fputc('\n', stderr);
	watch(SIGINT, SIG_DFL, 0);
	watch(SIGTERM, SIG_DFL, 0);
	return caught ? 128 + caught : status;
}

bool tool_job_interrupted(void)
{
	return caught != 0;
}
