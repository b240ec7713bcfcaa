/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TOOLS_PROGRESS_H
#define SPINDLE_TOOLS_PROGRESS_H
/*
 * A long operation on the command line: a bar or numbered lines out, SIGINT and SIGTERM in.
 */
#include "base/job.h"
#include "tools/options.h"

/* The one job of this process. SIGINT and SIGTERM cancel it from now on; a second one kills. */
struct sp_job *tool_job_begin(const struct tool_progress *how);
/* Ends the bar; the signals work as usual again. Answers the exit status: 130 or 143 when a signal came, else
 * @status. */
int tool_job_end(int status);
/* A signal has come, and the job was cancelled for it. */
bool tool_job_interrupted(void);

#endif
