/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_BASE_JOB_H
#define SPINDLE_BASE_JOB_H
/*
 * A long operation as its caller sees it: progress out, cancellation in.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#include <atomic>
#define SP_ATOMIC(type) std::atomic<type>
extern "C" {
#else
#include <stdatomic.h>
#define SP_ATOMIC(type) _Atomic(type)
#endif

struct sp_job {
	/* Called from one thread at a time, at most about 20 times a second; done <= total. May be NULL. */
	void (*progress)(void *arg, uint64_t done, uint64_t total);
	void *arg;
	SP_ATOMIC(bool) cancel;	/* set by any thread or a signal handler; the job answers -ECANCELED */
	/* private */
	SP_ATOMIC(uint64_t) done, total, last_report_ns;
	SP_ATOMIC(bool) reporting;
};

#define SP_JOB_INIT { .progress = NULL }

void sp_job_start(struct sp_job *job, uint64_t total);		/* all three accept a NULL job */
int sp_job_advance(struct sp_job *job, uint64_t amount);	/* 0 or -ECANCELED; any thread */
void sp_job_finish(struct sp_job *job);				/* reports done == total once */

#ifdef __cplusplus
}
#endif
#endif
