/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_BASE_JOB_H
#define SPINDLE_BASE_JOB_H
/*
 * A long operation as its caller sees it: progress out, cancellation in.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct sp_job {
	/* Called from one thread at a time, at most about 20 times a second; done <= total. May be NULL. */
	void (*progress)(void *arg, uint64_t done, uint64_t total);
	void *arg;
	atomic_bool cancel;		/* set by any thread or a signal handler; the job answers -ECANCELED */
	/* private */
	_Atomic uint64_t done, total, last_report_ns;
	atomic_flag reporting;
};

#define SP_JOB_INIT { .progress = NULL, .reporting = ATOMIC_FLAG_INIT }

void sp_job_start(struct sp_job *job, uint64_t total);		/* all three accept a NULL job */
int sp_job_advance(struct sp_job *job, uint64_t amount);	/* 0 or -ECANCELED; any thread */
void sp_job_finish(struct sp_job *job);				/* reports done == total once */

#endif
