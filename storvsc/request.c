/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A channel: one thread's way to the provider. Submitting writes a packet into the ring, polling takes answers out of
 * the other one; no locks, no memory, no system call but the signal that an idle provider asks for.
 *
 * The provider may die. Then nobody answers, which looks like a slow disk: so sleeping also waits for the end of the
 * provider, and polling looks for it now and then while nothing comes. What is in flight then ends with -EPIPE.
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/env.h"
#include "base/seed.h"
#include "storvsc/storvsc_int.h"

#define POLLS_PER_LOOK 1024u
#define SRB_QUEUE_ACTION_ENABLE 0x02u
#define SRB_DATA_IN 0x40u
#define SRB_DATA_OUT 0x80u
#define SRB_STATUS_BITS 0x3fu
#define CHECK_CONDITION 0x02u
#define SRB_TIMEOUT_S 60u

/* ---- life ---------------------------------------------------------------------------------------------- */

void storvsc_ring_fd(void *ctx)
{
	uint64_t one = 1;
	ssize_t n;

	/* Full means that it rings already. */
	do {
		n = write(*(int *)ctx, &one, sizeof(one));
	} while (n < 0 && errno == EINTR);
}

static const struct vmbus_channel_ops channel_ops = { .signal = storvsc_ring_fd };

static int watch(struct storvsc_channel *ch, int fd, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.fd = fd };

	return epoll_ctl(ch->wait_fd, EPOLL_CTL_ADD, fd, &e) < 0 ? -errno : 0;
}

static int make_fds(struct storvsc_channel *ch)
{
	int r;

	ch->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ch->peer_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ch->wait_fd = epoll_create1(EPOLL_CLOEXEC);
	if (ch->event_fd < 0 || ch->peer_fd < 0 || ch->wait_fd < 0)
		return -errno;
	r = watch(ch, ch->event_fd, EPOLLIN);
	if (r == 0 && ch->client->gone_fd >= 0)
		r = watch(ch, ch->client->gone_fd, EPOLLRDHUP);
	return r;
}

int storvsc_channel_new(struct storvsc *c, unsigned index, struct storvsc_channel **ret_channel)
{
	struct storvsc_channel *ch = sp_alloc_aligned(64, sp_align_up(sizeof(*ch), 64));
	size_t len = 2ul * c->opts.ring_pages * STORVSC_PAGE;
	int r = -ENOMEM;

	if (!ch)
		return r;
	memset(ch, 0, sizeof(*ch));
	ch->client = c;
	ch->index = index;
	ch->event_fd = ch->peer_fd = ch->wait_fd = -1;
	ch->mapping = (struct vmbus_mapping){ .base = c->arena.memory.base + index * len, .len = len };
	ch->slot = sp_calloc(c->opts.depth, sizeof(*ch->slot));
	if (ch->slot)
		r = make_fds(ch);
	if (r < 0) {
		storvsc_channel_free(ch);
		return r;
	}
	ch->end.mem = &c->arena.memory.mem;
	ch->end.ops = &channel_ops;
	ch->end.ctx = &ch->peer_fd;
	ch->end.event_fd = ch->event_fd;
	*ret_channel = ch;
	return 0;
}

int storvsc_channel_start(struct storvsc_channel *ch)
{
	struct storvsc *c = ch->client;
	int r = vmbus_channel_init(&ch->end, &ch->mapping, c->opts.ring_pages, false);

	if (r < 0)
		return r;
	vmbus_ring_in_mask(&ch->end.in);
	storvsc_core_init(&ch->core, &ch->end.in, &ch->end.out, ch->slot, c->opts.depth);
	return 0;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

void storvsc_channel_free(struct storvsc_channel *ch)
{
	if (ch->bounce)
		storvsc_arena_put(&ch->client->arena, ch->bounce, ch->bounce_len);
	close_fd(ch->event_fd);
	close_fd(ch->peer_fd);
	close_fd(ch->wait_fd);
	sp_free(ch->slot);
	sp_free(ch);
}

/* ---- submit -------------------------------------------------------------------------------------------- */

static bool data_ok(const struct storvsc_channel *ch, const struct storvsc_request *r)
{
	if (r->data_len == 0)
		return true;
	return r->data && r->data_len <= ch->client->max_transfer &&
	       storvsc_arena_holds(&ch->client->arena, r->data, r->data_len);
}

static void fill_srb(const struct storvsc_request *r, struct vstor_srb *srb)
{
	uint32_t flags = SRB_QUEUE_ACTION_ENABLE;

	if (r->data_len)
		flags |= r->to_device ? SRB_DATA_OUT : SRB_DATA_IN;
	*srb = (struct vstor_srb){
		.length = le16_make(sizeof(*srb)), .path = r->path, .target = r->target, .lun = r->lun,
		.cdb_length = r->cdb_len, .sense_length = VSTOR_SENSE_MAX,
		.data_in = r->data_len == 0 ? VSTOR_DATA_NONE : r->to_device ? VSTOR_DATA_OUT : VSTOR_DATA_IN,
		.transfer_length = le32_make(r->data_len),
		.flags = le32_make(flags), .timeout_s = le32_make(SRB_TIMEOUT_S),
	};
	memcpy(srb->cdb, r->cdb, sizeof(r->cdb));
}

/* Fills ch->pfn; answers where in the first page the data begins. */
static uint32_t find_pages(struct storvsc_channel *ch, struct storvsc_request *r)
{
	uint64_t at = (uint64_t)((uint8_t *)r->data - ch->client->arena.memory.base);
	uint32_t first = (uint32_t)(at % STORVSC_PAGE);

	r->pfn0 = at / STORVSC_PAGE;
	for (uint32_t i = 0; i * STORVSC_PAGE < first + r->data_len; i++)
		ch->pfn[i] = r->pfn0 + i;
	return first;
}

/**
 * storvsc_submit - put one command into the ring
 * @r: in fields set; belongs to the channel until r->done(r)
 *
 * Not shown to the provider before storvsc_kick() or storvsc_poll().
 * Returns 0, -EAGAIN (slots or ring full: poll first), -EINVAL (data outside the arena or longer than the provider's
 * largest transfer, CDB length), -EPIPE (provider gone). Without 0, done() will not be called.
 */
int storvsc_submit(struct storvsc_channel *ch, struct storvsc_request *r)
{
	struct vstor_srb srb;
	uint32_t first = 0;
	int res;

	if (ch->gone)
		return -EPIPE;
	if (r->cdb_len == 0 || r->cdb_len > sizeof(r->cdb) || !data_ok(ch, r))
		return -EINVAL;
	fill_srb(r, &srb);
	if (r->data_len)
		first = find_pages(ch, r);
	res = storvsc_core_put(&ch->core, &srb, ch->pfn, first, r->data_len, r);
	return res == -EBADMSG ? -EPIPE : res;
}

void storvsc_kick(struct storvsc_channel *ch)
{
	if (!ch->gone)
		vmbus_channel_flush(&ch->end);
}

/* ---- answers ------------------------------------------------------------------------------------------- */

/* The unit's answer, or the provider's in its place. */
static int verdict(const struct vstor_packet *p)
{
	const struct vstor_srb *srb = &p->u.srb;
	uint8_t status = srb->srb_status & SRB_STATUS_BITS;

	if (le32_get(p->status) == VSTOR_STATUS_CANCELLED)
		return -ECANCELED;
	if (le32_get(p->status) == VSTOR_STATUS_NO_SUCH_DEVICE || status == VSTOR_SRB_INVALID_LUN)
		return -ENXIO;
	if (status == VSTOR_SRB_SUCCESS)
		return le32_get(p->status) == VSTOR_STATUS_SUCCESS ? 0 : -EIO;
	if (status == VSTOR_SRB_ABORTED)
		return -ECANCELED;
	return srb->scsi_status ? 0 : -EIO;
}

static void finish(struct storvsc_request *r, const struct vstor_packet *p)
{
	const struct vstor_srb *srb = &p->u.srb;
	uint32_t moved = le32_get(srb->transfer_length);

	r->result = verdict(p);
	r->status = srb->scsi_status;
	r->srb_status = srb->srb_status;
	r->transferred = moved < r->data_len ? moved : r->data_len;
	r->sense_len = 0;
	if (srb->scsi_status == CHECK_CONDITION && srb->srb_status & VSTOR_SRB_AUTOSENSE_VALID) {
		r->sense_len = (uint8_t)sp_min(srb->sense_length, sizeof(r->sense));
		memcpy(r->sense, srb->cdb, r->sense_len);
	}
	r->done(r);
}

static void fail(struct storvsc_request *r, int result)
{
	r->result = result;
	r->status = r->srb_status = r->sense_len = 0;
	r->transferred = 0;
	r->done(r);
}

void storvsc_channel_drop(struct storvsc_channel *ch, int result)
{
	ch->gone = true;		/* done() submits in vain */
	for (uint32_t i = 0; i < ch->core.slots; i++) {
		struct storvsc_request *r = ch->slot[i].request;

		if (!r)
			continue;
		ch->slot[i].request = NULL;
		ch->core.inflight--;
		fail(r, result);
	}
}

/* Looks at descriptors. False: the provider is gone. */
static bool look(struct storvsc_channel *ch, int timeout_ms)
{
	struct epoll_event e[2];
	int n = epoll_wait(ch->wait_fd, e, 2, timeout_ms);

	for (int i = 0; i < n; i++)
		if (e[i].data.fd != ch->event_fd && !SP_SEED_BUG(STORVSC_DEATH_UNSEEN))
			return false;
	return true;
}

static int give_up(struct storvsc_channel *ch)
{
	if (!ch->gone)
		storvsc_channel_drop(ch, -EPIPE);
	return -EPIPE;
}

/* Events of one kind or another: how many, or -EBADMSG. */
static int take_events(struct storvsc_channel *ch, unsigned *ret_done)
{
	struct storvsc_event e;
	unsigned n = 0;
	int r = 0;

	*ret_done = 0;
	/* No more than could be in flight at once: done() may submit, and somebody else wants his turn. */
	while (n < ch->core.slots && (r = storvsc_core_next(&ch->core, &e)) > 0) {
		n++;
		switch (e.kind) {
		case STORVSC_EVENT_COMPLETION:
			finish(e.request, &e.packet);
			++*ret_done;
			break;
		case STORVSC_EVENT_CONTROL:
			ch->answer = e.packet;
			ch->answered = true;
			break;
		case STORVSC_EVENT_ENUMERATE:
			if (ch->client->notify)
				ch->client->notify(ch->client->notify_ctx);
			break;
		}
	}
	return r < 0 ? r : (int)n;
}

/* After sleep signals go off again. False: the provider is gone, which without signals is looked for now and then. */
static bool still_there(struct storvsc_channel *ch)
{
	if (ch->armed) {
		ch->armed = false;
		vmbus_channel_wake(&ch->end);
		return look(ch, 0);
	}
	if (++ch->idle_polls % POLLS_PER_LOOK != 0)
		return true;
	sched_yield();			/* the provider may be waiting for this very processor */
	return look(ch, 0);
}

/**
 * storvsc_poll - show what was submitted, take answers, call done()
 * Returns how many done() were called, or -EPIPE once the provider is gone; everything in flight has ended then.
 * Channel's thread. Never blocks.
 */
int storvsc_poll(struct storvsc_channel *ch)
{
	unsigned done;
	bool there;
	int events;

	if (ch->gone)
		return -EPIPE;
	vmbus_channel_flush(&ch->end);
	there = still_there(ch);
	events = take_events(ch, &done);
	if (events < 0 || ch->end.out.broken)
		return give_up(ch);
	/* Its last words have been read before its end is noticed. */
	if (!there && events == 0)
		return give_up(ch);
	if (events) {
		ch->idle_polls = 0;
		vmbus_channel_flush(&ch->end);
	}
	return (int)done;
}

bool storvsc_arm(struct storvsc_channel *ch)
{
	if (ch->gone)
		return false;
	ch->armed = vmbus_channel_sleep(&ch->end);
	return ch->armed;
}

int storvsc_fd(struct storvsc_channel *ch)
{
	return ch->wait_fd;
}

/* ---- wait ---------------------------------------------------------------------------------------------- */

static uint64_t deadline(int timeout_ms)
{
	return timeout_ms < 0 ? UINT64_MAX : sp_env_monotonic_ns() + (uint64_t)timeout_ms * 1000000u;
}

/* Until there is something to poll for. False: it is too late. */
static bool sleep_until(struct storvsc_channel *ch, uint64_t end_ns)
{
	struct pollfd p = { .fd = ch->wait_fd, .events = POLLIN };
	uint64_t now;
	int ms = -1;

	if (end_ns != UINT64_MAX) {
		now = sp_env_monotonic_ns();
		if (now >= end_ns)
			return false;
		ms = (int)sp_min((end_ns - now + 999999u) / 1000000u, INT32_MAX);
	}
	if (storvsc_arm(ch))
		poll(&p, 1, ms);
	return true;
}

/**
 * storvsc_wait - poll until @count done() have been called or nothing is in flight any more
 * @timeout_ms: -1: no limit
 * Returns how many were called, less than @count after the timeout, or -EPIPE.
 */
int storvsc_wait(struct storvsc_channel *ch, unsigned count, int timeout_ms)
{
	uint64_t end_ns = deadline(timeout_ms);
	unsigned done = 0;

	for (;;) {
		int r = storvsc_poll(ch);

		if (r < 0)
			return r;
		done += (unsigned)r;
		if (done >= count || ch->core.inflight == 0)
			return (int)done;
		if (r == 0 && !sleep_until(ch, end_ns))
			return (int)done;
	}
}

int storvsc_channel_answer(struct storvsc_channel *ch, int timeout_ms)
{
	uint64_t end_ns = deadline(timeout_ms);

	ch->answered = false;
	for (;;) {
		int r = storvsc_poll(ch);

		if (r < 0)
			return r;
		if (ch->answered)
			return 0;
		if (r == 0 && !sleep_until(ch, end_ns))
			return -ETIMEDOUT;
	}
}

int storvsc_channel_control(struct storvsc_channel *ch, const struct vstor_packet *packet, int timeout_ms)
{
	int r;

	if (ch->gone)
		return -EPIPE;
	while ((r = storvsc_core_control(&ch->core, packet)) == -EAGAIN) {
		/* The ring is full of our own requests; their answers show that there is room again. */
		r = storvsc_wait(ch, 1, timeout_ms);
		if (r <= 0)
			return r < 0 ? r : -ETIMEDOUT;
	}
	return r < 0 ? -EPIPE : storvsc_channel_answer(ch, timeout_ms);
}

/**
 * storvsc_reset - RESET_BUS
 *
 * What waits is cancelled, what runs is finished; the answer comes behind all of theirs, so on return each done() of
 * this channel's requests has been called. Returns 0, -EPIPE, -EIO (refused).
 */
int storvsc_reset(struct storvsc_channel *ch)
{
	struct vstor_packet p = {
		.operation = le32_make(VSTOR_RESET_BUS), .flags = le32_make(VSTOR_REQUEST_COMPLETION),
	};
	int r = storvsc_channel_control(ch, &p, -1);

	if (r < 0)
		return r;
	return le32_get(ch->answer.status) == VSTOR_STATUS_SUCCESS ? 0 : -EIO;
}
