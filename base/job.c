/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/job.h"

#include <errno.h>
#include <sched.h>

#include "base/env.h"
#include "base/seed.h"

#define REPORT_INTERVAL_NS 50000000u	/* 20 a second */

/* The caller holds ->reporting. Reads ->done under it, so that reports never run backwards. */
static void report(struct sp_job *job)
{
	uint64_t total = atomic_load(&job->total), done = atomic_load(&job->done);

	job->progress(job->arg, done < total ? done : total, total);
}

void sp_job_start(struct sp_job *job, uint64_t total)
{
	if (!job)
		return;
	atomic_store(&job->total, total);
	atomic_store(&job->done, 0);
	atomic_store(&job->last_report_ns, sp_env_monotonic_ns());
}

int sp_job_advance(struct sp_job *job, uint64_t amount)
{
	uint64_t now;

	if (!job)
		return 0;
	atomic_fetch_add(&job->done, amount);
	if (!SP_SEED_BUG(JOB_IGNORES_CANCEL) && atomic_load(&job->cancel))
		return -ECANCELED;
	if (!job->progress)
		return 0;
	now = sp_env_monotonic_ns();
	if (now - atomic_load(&job->last_report_ns) < REPORT_INTERVAL_NS || atomic_exchange(&job->reporting, true))
		return 0;
	/* Somebody may have reported between the two tests. */
	if (now - atomic_load(&job->last_report_ns) >= REPORT_INTERVAL_NS) {
		atomic_store(&job->last_report_ns, now);
		report(job);
	}
	atomic_store(&job->reporting, false);
	return 0;
}

void sp_job_finish(struct sp_job *job)
{
	if (!job)
		return;
	atomic_store(&job->done, atomic_load(&job->total));
	if (!job->progress)
		return;
	while (atomic_exchange(&job->reporting, true))
		sched_yield();
	report(job);
	atomic_store(&job->reporting, false);
}
