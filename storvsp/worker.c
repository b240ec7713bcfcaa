/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The thread of a channel. A round takes packets out of the ring, starts what may start, lets every SCSI queue run once
 * and sends what has ended; both rings are published once at its end, with one signal at most. Rounds follow each other
 * while there is work and a little longer; then the thread sleeps until the guest signals, a queue has completions, the
 * bell rings, or a limit lets the next one go.
 *
 * No packet is taken without a free slot, and a reply that finds the ring full keeps its slot. So a guest that does not
 * read its replies stops itself, and closing depends on nothing it does.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/env.h"
#include "base/log.h"
#include "base/seed.h"
#include "storvsp/storvsp_int.h"

#define DEPTH_DEFAULT 512u
#define SLOTS_PER_DEPTH 4u		/* requests of slow units wait in slots, not in the ring before others */
#define BATCH 128u
#define POLLS_PER_YIELD 256u
#define SPIN_MAX_NS 50000u
#define SPIN_MIN_NS 1000u
#define RETRY_NS 1000000u		/* a queue that runs has nothing to be waited for: look again */
#define PACKET_SPARE 4096u

void storvsp_worker_count(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

void storvsp_worker_ring(struct storvsp_worker *w)
{
	uint64_t one = 1;
	ssize_t n;

	/* Full means that it rings already. */
	do {
		n = write(w->bell, &one, sizeof(one));
	} while (n < 0 && errno == EINTR);
}

/* ---- replies --------------------------------------------------------------------------------------------- */

static int send_reply(struct storvsp_worker *w, const struct storvsp_request *r)
{
	struct vmbus_packet p = {
		.type = VMBUS_PACKET_COMPLETION,
		.transaction_id = r->transaction_id,
		.payload = (const uint8_t *)&r->packet,
		.payload_len = r->payload_len,
	};

	return vmbus_channel_send(w->ch, &p);
}

static void free_slot(struct storvsp_worker *w, struct storvsp_request *r)
{
	r->next = w->free;
	w->free = r;
	w->free_slots++;
}

void storvsp_worker_reply(struct storvsp_worker *w, struct storvsp_request *r)
{
	if (!w->unsent && (send_reply(w, r) != -EAGAIN || SP_SEED_BUG(VSP_REPLY_DROPPED))) {
		/* A broken ring is the guest's own loss. */
		free_slot(w, r);
		return;
	}
	if (!w->unsent) {
		storvsp_worker_count(&w->stats.ring_full, 1);
		w->unsent_last = &w->unsent;
	}
	if (SP_SEED_BUG(VSP_SLOT_EARLY))
		free_slot(w, r);
	r->next = NULL;
	*w->unsent_last = r;
	w->unsent_last = &r->next;
}

static unsigned send_unsent(struct storvsp_worker *w)
{
	unsigned n = 0;

	while (w->unsent && send_reply(w, w->unsent) != -EAGAIN) {
		struct storvsp_request *r = w->unsent;

		w->unsent = r->next;
		free_slot(w, r);
		n++;
	}
	return n;
}

/* "Look at your bus again": several causes, one packet. */
static void send_enumerate(struct storvsp_worker *w)
{
	struct storvsp *c = w->controller;
	struct vstor_packet packet = { .operation = le32_make(VSTOR_ENUMERATE_BUS) };
	struct vmbus_packet p = {
		.type = VMBUS_PACKET_INBAND,
		.payload = (const uint8_t *)&packet,
		.payload_len = sizeof(packet),
	};

	if (w->subchannel || w->unsent || !__atomic_load_n(&c->enumerate, __ATOMIC_RELAXED) ||
	    !storvsp_protocol_ready(&c->protocol))
		return;
	/* Before sending: a cause that comes now gets a packet of its own. */
	__atomic_store_n(&c->enumerate, false, __ATOMIC_SEQ_CST);
	if (vmbus_channel_send(w->ch, &p) == -EAGAIN)
		__atomic_store_n(&c->enumerate, true, __ATOMIC_RELAXED);
}

/* ---- a round --------------------------------------------------------------------------------------------- */

static bool door_works(const struct storvsp_door *d)
{
	/* Its backend may also be busy with what the guest has its answer for: a flush that it did not wait for. */
	return d->running || (d->queue && scsi_queue_busy(d->queue));
}

static bool anything_runs(const struct storvsp_worker *w)
{
	if (w->running)
		return true;
	for (unsigned i = 0; i < w->useds; i++)
		if (door_works(w->used[i]))
			return true;
	return false;
}

static void look_at_controller(struct storvsp_worker *w)
{
	struct storvsp *c = w->controller;

	if (__atomic_load_n(&c->table_version, __ATOMIC_ACQUIRE) != w->table_version)
		storvsp_doors_sync(w);
	w->held = __atomic_load_n(&c->holds, __ATOMIC_ACQUIRE) > 0;
	if (w->held && (!anything_runs(w) || SP_SEED_BUG(VSP_HOLD_NO_WAIT)))
		storvsp_quiet(w);
	if (w->reset && storvsp_reset_end(w)) {
		struct storvsp_request *r = w->reset;

		w->reset = NULL;
		r->packet = (struct vstor_packet){ .operation = le32_make(VSTOR_COMPLETE_IO) };
		storvsp_worker_reply(w, r);
	}
	if (w->leaving)
		storvsp_doors_reap(w);
	send_enumerate(w);
}

static bool takes_packets(const struct storvsp_worker *w)
{
	return !w->held && !w->reset && !w->broken && w->free;
}

static unsigned receive(struct storvsp_worker *w)
{
	unsigned n = 0;

	while (n < BATCH && takes_packets(w)) {
		struct vmbus_packet p;
		int r = vmbus_channel_receive(w->ch, w->buffer, w->buffer_len, &p);

		if (r == 0)
			break;
		if (r < 0) {
			sp_debug("storvsp", w->controller->name, "channel %u: the guest broke the ring", w->subchannel);
			storvsp_worker_count(&w->stats.bad_packets, 1);
			w->broken = true;
			break;
		}
		storvsp_request_packet(w, &p);
		n++;
	}
	if (n)
		storvsp_worker_count(&w->stats.batches, 1);
	return n;
}

static unsigned start_waiting(struct storvsp_worker *w, uint64_t *ret_wake_ns)
{
	struct storvsp_entry *e;
	unsigned n = 0;

	*ret_wake_ns = UINT64_MAX;
	while (!w->held && !w->reset && (e = storvsp_schedule_next(&w->schedule, w->now, ret_wake_ns))) {
		storvsp_request_start(storvsp_request_of(e));
		n++;
	}
	return n;
}

static unsigned poll_queues(struct storvsp_worker *w)
{
	unsigned n = 0;

	for (unsigned i = 0; i < w->useds; i++) {
		struct storvsp_door *d = w->used[i];
		bool works = door_works(d);
		int r = d->started || works ? scsi_queue_poll(d->queue) : 0;

		d->started = false;
		n += r > 0 ? (unsigned)r : works && !door_works(d);	/* somebody may wait for it to be at rest */
	}
	return n;
}

static unsigned work_round(struct storvsp_worker *w, uint64_t *ret_wake_ns)
{
	unsigned n;

	w->now = sp_env_monotonic_ns();
	look_at_controller(w);
	n = receive(w);
	n += start_waiting(w, ret_wake_ns);
	n += poll_queues(w);
	n += send_unsent(w);
	vmbus_channel_flush(w->ch);
	if (w->offer && !w->unsent) {
		/* The guest has its answer, or will find it before the offers. */
		w->bus_ops->offer_subchannels(w->bus, w->offer);
		w->offer = 0;
	}
	__atomic_store_n(&w->stats.inflight, w->running, __ATOMIC_RELAXED);
	return n;
}

/* ---- sleep ----------------------------------------------------------------------------------------------- */

/* There was work: more may follow soon. */
static void stay_awake(struct storvsp_worker *w)
{
	uint32_t us = w->controller->opts.poll_us;

	w->spin_until = w->now + (us ? us * 1000ull : w->spin_ns);
}

static bool is_awake(const struct storvsp_worker *w)
{
	if (w->controller->opts.poll_us == UINT32_MAX)
		return !w->held && !w->broken;
	return w->now < w->spin_until;
}

/* Who slept so shortly had better stayed awake; who slept long looked around for nothing. */
static void adapt(struct storvsp_worker *w, uint64_t slept_ns)
{
	if (slept_ns < SPIN_MAX_NS)
		w->spin_ns = w->spin_ns < SPIN_MIN_NS ? SPIN_MIN_NS : w->spin_ns * 2;
	else
		w->spin_ns = w->spin_ns < 2 * SPIN_MIN_NS ? 0 : w->spin_ns / 2;
	if (w->spin_ns > SPIN_MAX_NS)
		w->spin_ns = SPIN_MAX_NS;
}

/* Everything that may give work: how many descriptors. */
static nfds_t collect_fds(struct storvsp_worker *w, bool *ret_blind)
{
	nfds_t n = 2;

	*ret_blind = false;
	w->fds[0] = (struct pollfd){ .fd = w->bell, .events = POLLIN };
	/* Nothing of interest comes from a broken ring, but storms of signals. */
	w->fds[1] = (struct pollfd){ .fd = w->broken ? -1 : w->ch->event_fd, .events = POLLIN };
	for (unsigned i = 0; i < w->useds; i++) {
		struct storvsp_door *d = w->used[i];

		if (!door_works(d))
			continue;
		w->fds[n] = (struct pollfd){ .fd = scsi_queue_fd(d->queue), .events = POLLIN };
		*ret_blind |= w->fds[n++].fd < 0;
	}
	return n;
}

static void wait_events(struct storvsp_worker *w, uint64_t wake_ns)
{
	uint64_t now = sp_env_monotonic_ns(), rings, left;
	struct timespec timeout;
	bool blind;
	nfds_t n = collect_fds(w, &blind);
	int r;

	left = wake_ns > now ? wake_ns - now : 0;
	if (blind && left > RETRY_NS)
		left = RETRY_NS;
	timeout = (struct timespec){ (time_t)(left / 1000000000u), (long)(left % 1000000000u) };
	storvsp_worker_count(&w->stats.sleeps, 1);
	r = ppoll(w->fds, n, wake_ns == UINT64_MAX && !blind ? NULL : &timeout, NULL);
	if (r > 0 && w->fds[0].revents)
		r = read(w->bell, &rings, sizeof(rings)) == (ssize_t)sizeof(rings);
	if (r > 0 && w->fds[1].revents)
		vmbus_channel_wake(w->ch);
	else
		vmbus_ring_in_mask(&w->ch->in);
	adapt(w, sp_env_monotonic_ns() - now);
}

static void idle(struct storvsp_worker *w, uint64_t wake_ns)
{
	if (is_awake(w)) {
		storvsp_worker_count(&w->stats.polls, 1);
		if (w->stats.polls % POLLS_PER_YIELD == 0)
			sched_yield();		/* the guest may be waiting for this very processor */
		return;
	}
	/* Whoever takes no packets leaves signals off: they come for room in the other ring only. */
	if (takes_packets(w) && !vmbus_channel_sleep(w->ch))
		return;
	wait_events(w, wake_ns);
}

static void finish(struct storvsp_worker *w)
{
	struct storvsp *c = w->controller;

	storvsp_doors_close(w);
	send_unsent(w);
	vmbus_channel_flush(w->ch);
	pthread_mutex_lock(&c->lock);
	if (w->resetting)
		storvsp_release_locked(c);
	w->resetting = false;
	pthread_mutex_unlock(&c->lock);
}

static void *run(void *arg)
{
	struct storvsp_worker *w = arg;

	/* Doors first: a unit that was attached before the channel was opened is there from the first packet on. */
	storvsp_doors_sync(w);
	vmbus_ring_in_mask(&w->ch->in);
	while (!__atomic_load_n(&w->stop, __ATOMIC_ACQUIRE)) {
		uint64_t wake_ns;

		if (work_round(w, &wake_ns))
			stay_awake(w);
		else
			idle(w, wake_ns);
	}
	finish(w);
	return NULL;
}

/* ---- life ------------------------------------------------------------------------------------------------ */

static int make_slots(struct storvsp_worker *w)
{
	w->request = sp_calloc(w->slots, sizeof(*w->request));
	/* Untouched until used: a guest whose pages are neighbours needs one entry of each row. */
	w->iov = sp_calloc(w->slots, (size_t)w->iov_room * sizeof(*w->iov));
	w->buffer = sp_alloc(w->buffer_len);
	if (!w->request || !w->iov || !w->buffer)
		return -ENOMEM;
	for (unsigned i = w->slots; i-- > 0; ) {
		storvsp_request_init(&w->request[i], w, &w->iov[(size_t)i * (size_t)w->iov_room]);
		free_slot(w, &w->request[i]);
	}
	return 0;
}

static void find_regions(struct storvsp_worker *w)
{
	const struct vmbus_mem *mem = w->ch->mem;
	unsigned n = mem->ops->regions ? mem->ops->regions(mem->ctx, w->region, STORVSP_REGIONS) : 0;

	w->regions = n < STORVSP_REGIONS ? n : STORVSP_REGIONS;
}

int storvsp_worker_new(struct storvsp *c, struct vmbus_channel *ch, const struct vmbus_open *open,
		       struct storvsp_worker **ret_worker)
{
	unsigned depth = c->opts.queue_depth ? c->opts.queue_depth : DEPTH_DEFAULT;
	struct storvsp_worker *w = sp_zalloc(sizeof(*w));
	int r = -ENOMEM;

	if (!w)
		return -ENOMEM;
	w->controller = c;
	w->ch = ch;
	w->subchannel = w->stats.subchannel = open->subchannel;
	w->bus_ops = open->bus_ops;
	w->bus = open->bus;
	w->slots = depth * SLOTS_PER_DEPTH;
	w->iov_room = (int)(c->protocol.max_transfer / VMBUS_PAGE_SIZE) + 2;
	/* Each page may be a range of its own: 16 bytes. */
	w->buffer_len = (size_t)w->iov_room * 16 + PACKET_SPARE;
	w->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w->bell < 0)
		r = -errno;
	else if (storvsp_schedule_init(&w->schedule, depth, STORVSP_UNITS) == 0)
		r = make_slots(w);
	if (r < 0) {
		storvsp_worker_free(w);
		return r;
	}
	find_regions(w);
	*ret_worker = w;
	return 0;
}

void storvsp_worker_free(struct storvsp_worker *w)
{
	if (w->bell >= 0)
		close(w->bell);
	storvsp_schedule_fini(&w->schedule);
	sp_free(w->request);
	sp_free(w->iov);
	sp_free(w->buffer);
	sp_free(w);
}

int storvsp_worker_start(struct storvsp_worker *w)
{
	char name[16];
	sigset_t all, before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);	/* signals are for the program's own threads */
	r = -pthread_create(&w->thread, NULL, run, w);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r == 0) {
		snprintf(name, sizeof(name), "%.10s/%u", w->controller->name, w->subchannel % 1000);
		pthread_setname_np(w->thread, name);
	}
	return r;
}

void storvsp_worker_stats(struct storvsp_worker *w, struct storvsp_channel_stats *ret_stats)
{
	const struct storvsp_channel_stats *s = &w->stats;

	*ret_stats = (struct storvsp_channel_stats){
		.subchannel = w->subchannel,
		.requests = __atomic_load_n(&s->requests, __ATOMIC_RELAXED),
		.batches = __atomic_load_n(&s->batches, __ATOMIC_RELAXED),
		.signals_sent = __atomic_load_n(&w->ch->signals_sent, __ATOMIC_RELAXED),
		.signals_received = __atomic_load_n(&w->ch->signals_received, __ATOMIC_RELAXED),
		.ring_full = __atomic_load_n(&s->ring_full, __ATOMIC_RELAXED),
		.polls = __atomic_load_n(&s->polls, __ATOMIC_RELAXED),
		.sleeps = __atomic_load_n(&s->sleeps, __ATOMIC_RELAXED),
		.bad_packets = __atomic_load_n(&s->bad_packets, __ATOMIC_RELAXED),
		.inflight = __atomic_load_n(&s->inflight, __ATOMIC_RELAXED),
	};
}

void storvsp_worker_stop(struct storvsp_worker *w)
{
	__atomic_store_n(&w->stop, true, __ATOMIC_RELEASE);
	storvsp_worker_ring(w);
	pthread_join(w->thread, NULL);
}
