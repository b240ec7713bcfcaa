/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Flush. Whoever asks first leads and flushes for everybody who had asked by then; the rest wait for the leader:
 *
 *   ask -> (nobody leads?) -> lead: snapshot of dirty metadata under meta
 *				     -> barriers and writes without it -> result under meta -> wake all
 *	 -> (somebody leads)  -> wait -> covered by that flush? done : ask again
 *
 * A flush that began before a request came does not count for it: its snapshot may be older than the writes the
 * request is about.
 *
 * The first failed sync poisons the disk: the kernel may have dropped the dirty pages it could not write, so no later
 * sync can prove anything. Every flush and write after it returns the same error.
 *
 * Space freed by a discard goes through three gates: the flush that makes it durable (the format's tag), then a grace
 * period in which every I/O that could still reach the old place ends (epoch), then release() to the format.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "base/seed.h"
#include "vhd/disk_priv.h"

int disk_sync_result(struct vhd_disk *d, int r)
{
	int none = 0;

	if (r < 0 && !SP_SEED_BUG(FLUSH_FORGETS_POISON))
		atomic_compare_exchange_strong(&d->poison, &none, r);
	return r < 0 ? r : atomic_load(&d->poison);
}

bool disk_sync_is_enough(struct vhd_disk *d)
{
	const struct vhd_format *f = d->leaf->format;
	bool enough;

	pthread_mutex_lock(&d->commit.lock);
	pthread_mutex_lock(&d->meta);
	enough = !f->dirty(d->leaf) && f->freed_tag(d->leaf) == 0;
	if (d->commit.running && !SP_SEED_BUG(FLUSH_OVERTAKES))
		enough = false;
	pthread_mutex_unlock(&d->meta);
	pthread_mutex_unlock(&d->commit.lock);
	return enough;
}

void disk_reclaim_locked(struct vhd_disk *d)
{
	uint64_t tag;

	if (d->grace_tag != 0) {
		if (!epoch_grace_over(&d->epoch))
			return;
		d->leaf->format->release(d->leaf, d->grace_tag);
		d->grace_tag = 0;
	}
	tag = d->leaf->format->freed_tag(d->leaf);
	if (tag != 0 && epoch_grace_begin(&d->epoch))
		d->grace_tag = tag;
}

static int flush_once(struct vhd_disk *d)
{
	const struct vhd_format *f = d->leaf->format;
	struct vhd_flush *batch = NULL;
	int r;

	/* Before the snapshot: a write that completes from here on asks for a sync of its own. */
	bool unsynced = atomic_exchange(&d->unsynced, false);

	pthread_mutex_lock(&d->meta);
	r = f->flush_begin(d->leaf, &batch);
	pthread_mutex_unlock(&d->meta);
	if (r < 0) {
		atomic_store(&d->unsynced, true); /* out of memory: nothing has been tried, a later flush may do it */
		return r;
	}
	if (batch)
		r = f->flush_write(d->leaf, batch);
	else if (unsynced)
		r = store_sync(d->leaf->store);
	r = disk_sync_result(d, r);

	pthread_mutex_lock(&d->meta);
	if (batch)
		f->flush_end(d->leaf, batch, r);
	if (r == 0) {
		disk_reclaim_locked(d);		/* starts the grace period... */
		disk_reclaim_locked(d);		/* ...and ends it where nobody is inside */
	}
	pthread_mutex_unlock(&d->meta);
	return r;
}

int disk_flush(struct vhd_disk *d)
{
	struct vhd_commit *c = &d->commit;
	uint64_t mine;
	int r;

	pthread_mutex_lock(&c->lock);
	mine = ++c->asked;
	while (c->done < mine) {
		uint64_t covers;

		if (c->running) {
			pthread_cond_wait(&c->done_cond, &c->lock);
			continue;
		}
		c->running = true;
		covers = c->asked;
		pthread_mutex_unlock(&c->lock);
		r = atomic_load(&d->poison);
		if (r == 0)
			r = flush_once(d);
		pthread_mutex_lock(&c->lock);
		c->running = false;
		c->done = covers;
		c->result = r;
		pthread_cond_broadcast(&c->done_cond);
	}
	r = c->result;	/* of the flush that covers us, or of a later one, which then covers us too */
	pthread_mutex_unlock(&c->lock);
	if (r == 0)
		disk_track_flushed(d);
	return r;
}

int vhd_disk_flush(struct vhd_disk *d)
{
	return d->writable ? disk_flush(d) : 0;
}

int vhd_disk_poisoned(const struct vhd_disk *d)
{
	return atomic_load(&d->poison);
}

/* ---- the committer thread ---- */

static void *committer(void *arg)
{
	struct vhd_disk *d = arg;
	struct vhd_commit *c = &d->commit;

	pthread_mutex_lock(&c->lock);
	for (;;) {
		struct vhd_work *w = c->work;

		if (w) {
			c->work = w->next;
			if (!c->work)
				c->work_tail = &c->work;
			pthread_mutex_unlock(&c->lock);
			w->run(w);	/* @w may be gone now */
			pthread_mutex_lock(&c->lock);
		} else if (c->thread_stop) {
			break;
		} else {
			pthread_cond_wait(&c->work_cond, &c->lock);
		}
	}
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

/* Signals stay with the threads of the program. Caller holds commit.lock. */
static int committer_start_locked(struct vhd_disk *d)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&d->commit.thread, NULL, committer, d);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	d->commit.thread_started = r == 0;
	return -r;
}

int disk_work_post(struct vhd_disk *d, struct vhd_work *w)
{
	struct vhd_commit *c = &d->commit;
	int r = 0;

	pthread_mutex_lock(&c->lock);
	if (!c->thread_started)
		r = committer_start_locked(d);
	if (r == 0) {
		w->next = NULL;
		*c->work_tail = w;
		c->work_tail = &w->next;
		pthread_cond_signal(&c->work_cond);
	}
	pthread_mutex_unlock(&c->lock);
	return r;
}

int disk_commit_init(struct vhd_disk *d)
{
	struct vhd_commit *c = &d->commit;

	memset(c, 0, sizeof(*c));
	c->work_tail = &c->work;
	if (pthread_mutex_init(&c->lock, NULL) != 0 || pthread_cond_init(&c->done_cond, NULL) != 0 ||
	    pthread_cond_init(&c->work_cond, NULL) != 0)
		return -ENOMEM;
	return 0;
}

void disk_commit_fini(struct vhd_disk *d)
{
	struct vhd_commit *c = &d->commit;

	if (c->thread_started) {
		pthread_mutex_lock(&c->lock);
		c->thread_stop = true;
		pthread_cond_signal(&c->work_cond);
		pthread_mutex_unlock(&c->lock);
		pthread_join(c->thread, NULL);
	}
	pthread_cond_destroy(&c->work_cond);
	pthread_cond_destroy(&c->done_cond);
	pthread_mutex_destroy(&c->lock);
}
