/* SPDX-License-Identifier: BSD-2-Clause */
/* The bus for a provider in this process: it gets the other ends of the rings, and eventfds crossed over. */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "storvsc/storvsc_int.h"

struct local_end {
	struct vmbus_channel ch;
	bool open;
};

struct local {
	const struct vmbus_offer *offer;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned offered;		/* lock */
	struct local_end end[STORVSC_CHANNELS_MAX];
};

static void offer_subchannels(void *bus, unsigned count)
{
	struct local *l = bus;

	pthread_mutex_lock(&l->lock);
	l->offered = count;
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
}

static const struct vmbus_bus_ops bus_ops = { .offer_subchannels = offer_subchannels };
static const struct vmbus_channel_ops end_ops = { .signal = storvsc_ring_fd };

static int local_open(struct storvsc *c, struct storvsc_channel *ch, struct sp_err *err)
{
	struct local *l = c->link_data;
	struct local_end *e = &l->end[ch->index];
	struct vmbus_open open = { .subchannel = ch->index, .target_vp = UINT32_MAX, .bus_ops = &bus_ops, .bus = l };
	int r;

	e->ch = (struct vmbus_channel){ .mem = &c->arena.memory.mem, .ops = &end_ops, .ctx = &ch->event_fd,
					.event_fd = ch->peer_fd };
	r = vmbus_channel_init(&e->ch, &ch->mapping, c->opts.ring_pages, true);
	if (r == 0)
		r = l->offer->ops->open(l->offer->device, &e->ch, &open);
	if (r < 0)
		return sp_err_set(err, r, "%s does not open: %s", l->offer->name, strerror(-r));
	e->open = true;
	return 0;
}

static int local_offered(struct storvsc *c, unsigned count, struct sp_err *err)
{
	struct local *l = c->link_data;
	struct timespec end;
	bool there;
	int r = 0;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += STORVSC_PATIENCE_MS / 1000;
	pthread_mutex_lock(&l->lock);
	while (l->offered < count && r == 0)
		r = pthread_cond_timedwait(&l->changed, &l->lock, &end);
	there = l->offered >= count;
	pthread_mutex_unlock(&l->lock);
	return there ? 0 : sp_err_set(err, -ETIMEDOUT, "%s offers no sub-channels", l->offer->name);
}

static void local_close(struct storvsc *c)
{
	struct local *l = c->link_data;

	/* Sub-channels first, as every bus does. */
	for (unsigned i = STORVSC_CHANNELS_MAX; i-- > 0; )
		if (l->end[i].open)
			l->offer->ops->close(l->offer->device, &l->end[i].ch);
	pthread_cond_destroy(&l->changed);
	pthread_mutex_destroy(&l->lock);
	sp_free(l);
}

static const struct storvsc_link_ops local_ops = {
	.open = local_open, .offered = local_offered, .close = local_close,
};

static struct local *local_new(const struct vmbus_offer *offer)
{
	struct local *l = sp_zalloc(sizeof(*l));
	pthread_condattr_t monotonic;

	if (!l)
		return NULL;
	l->offer = offer;
	pthread_mutex_init(&l->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&l->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	return l;
}

/**
 * storvsc_open_device - a client of a provider in this process
 * @offer: not on any other bus; must outlive the client
 * Returns 0, -EINVAL (options), -EBUSY (the provider has a client), -ENOMEM, -EPROTO...
 */
int storvsc_open_device(const struct vmbus_offer *offer, const struct storvsc_opts *opts, struct storvsc **ret_client,
			struct sp_err *err)
{
	struct storvsc *c;
	int r = storvsc_new(opts, &c, err);

	if (r < 0)
		return r;
	c->link_data = local_new(offer);
	if (c->link_data)
		c->link = &local_ops;
	r = c->link ? storvsc_start(c, err) : sp_err_set(err, -ENOMEM, "no memory for a bus");
	if (r < 0) {
		storvsc_close(c);
		return r;
	}
	*ret_client = c;
	return 0;
}
