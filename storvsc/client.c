/* SPDX-License-Identifier: BSD-2-Clause */
/* A client as its owner sees it: made, connected by a link, closed. */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "storvsc/storvsc_int.h"

#define ARENA_DEFAULT (16u << 20)
#define RING_PAGES_DEFAULT 32u
#define RING_PAGES_MAX 4096u
#define DEPTH_DEFAULT 256u
#define DEPTH_MAX 65536u
#define TRANSFER_FALLBACK 65536u	/* of a provider that names no limit */

static void fill_defaults(struct storvsc_opts *o)
{
	o->arena_bytes = o->arena_bytes ? o->arena_bytes : ARENA_DEFAULT;
	o->channels = o->channels ? o->channels : 1;
	o->ring_pages = o->ring_pages ? o->ring_pages : RING_PAGES_DEFAULT;
	o->depth = o->depth ? o->depth : DEPTH_DEFAULT;
	o->newest_version = o->newest_version ? o->newest_version : VSTOR_VERSION_WIN10;
}

static int check(const struct storvsc_opts *o, struct sp_err *err)
{
	if (o->arena_bytes % STORVSC_PAGE)
		return sp_err_set(err, -EINVAL, "an arena of %zu bytes: a multiple of %u is needed", o->arena_bytes,
				  STORVSC_PAGE);
	if (o->channels > STORVSC_CHANNELS_MAX)
		return sp_err_set(err, -EINVAL, "%u channels are more than %u", o->channels, STORVSC_CHANNELS_MAX);
	if (o->ring_pages < 2 || o->ring_pages > RING_PAGES_MAX)
		return sp_err_set(err, -EINVAL, "a ring has 2 to %u pages, not %u", RING_PAGES_MAX, o->ring_pages);
	if (o->depth > DEPTH_MAX)
		return sp_err_set(err, -EINVAL, "%u requests in flight are more than %u", o->depth, DEPTH_MAX);
	return 0;
}

int storvsc_new(const struct storvsc_opts *opts, struct storvsc **ret_client, struct sp_err *err)
{
	struct storvsc *c = sp_zalloc(sizeof(*c));
	int r;

	if (!c)
		return sp_err_set(err, -ENOMEM, "no memory for a storage client");
	if (opts)
		c->opts = *opts;
	c->gone_fd = -1;
	fill_defaults(&c->opts);
	r = check(&c->opts, err);
	if (r == 0) {
		r = storvsc_arena_init(&c->arena, 2ull * c->opts.ring_pages * c->opts.channels,
				       c->opts.arena_bytes / STORVSC_PAGE);
		if (r < 0)
			sp_err_set(err, r, "no shared memory of %zu bytes: %s", c->opts.arena_bytes, strerror(-r));
	}
	if (r < 0) {
		sp_free(c);
		return r;
	}
	*ret_client = c;
	return 0;
}

/* ---- conversation -------------------------------------------------------------------------------------- */

static int handshake(struct storvsc_channel *ch, struct sp_err *err)
{
	uint16_t newest = (uint16_t)ch->client->opts.newest_version;
	enum storvsc_step step;
	int r = storvsc_core_handshake(&ch->core, &step, NULL, newest);

	while (r == 0 && step != STORVSC_READY) {
		r = storvsc_channel_answer(ch, STORVSC_PATIENCE_MS);
		if (r == 0)
			r = storvsc_core_handshake(&ch->core, &step, &ch->answer, newest);
	}
	return r < 0 ? sp_err_set(err, r, "handshake with the provider, step %d: %s", (int)step, strerror(-r)) : 0;
}

static int open_channel(struct storvsc *c, unsigned index, struct sp_err *err)
{
	struct storvsc_channel *ch;
	int r = storvsc_channel_new(c, index, &ch);

	if (r < 0)
		return sp_err_set(err, r, "channel %u: %s", index, strerror(-r));
	c->channel[index] = ch;
	r = storvsc_channel_start(ch);
	if (r < 0)
		return sp_err_set(err, r, "channel %u: rings of %u pages do not do", index, c->opts.ring_pages);
	r = c->link->open(c, ch, err);
	if (r < 0)
		return sp_err_prefix(err, r, "channel %u", index);
	ch->open = true;
	return 0;
}

/* As many as wanted, or as the provider has. */
static int open_subchannels(struct storvsc *c, struct sp_err *err)
{
	struct storvsc_channel *primary = c->channel[0];
	const struct vstor_properties *props = &primary->core.properties;
	unsigned wanted = (unsigned)sp_min(c->opts.channels - 1, le16_get(props->max_subchannels));
	struct vstor_packet p = {
		.operation = le32_make(VSTOR_CREATE_SUB_CHANNELS), .flags = le32_make(VSTOR_REQUEST_COMPLETION),
		.u.subchannels = le16_make((uint16_t)wanted),
	};
	int r;

	if (wanted == 0 || !(le32_get(props->flags) & VSTOR_MULTI_CHANNEL))
		return 0;
	r = storvsc_channel_control(primary, &p, STORVSC_PATIENCE_MS);
	if (r == 0 && le32_get(primary->answer.status) != VSTOR_STATUS_SUCCESS)
		r = -EPROTO;
	if (r < 0)
		return sp_err_set(err, r, "the provider makes no %u sub-channels: %s", wanted, strerror(-r));
	r = c->link->offered(c, wanted, err);
	for (unsigned i = 1; i <= wanted && r == 0; i++) {
		r = open_channel(c, i, err);
		if (r == 0)
			c->channels = i + 1;
	}
	return r;
}

int storvsc_start(struct storvsc *c, struct sp_err *err)
{
	int r = open_channel(c, 0, err);
	uint32_t most;

	if (r == 0)
		r = handshake(c->channel[0], err);
	if (r < 0)
		return r;
	c->channels = 1;
	most = le32_get(c->channel[0]->core.properties.max_transfer_bytes);
	most = most ? most : TRANSFER_FALLBACK;
	/* Data may begin inside a page. */
	c->max_transfer = (uint32_t)sp_min(sp_align_down(most, STORVSC_PAGE), (STORVSC_PFNS_MAX - 1) * STORVSC_PAGE);
	return open_subchannels(c, err);
}

/* ---- for everybody ------------------------------------------------------------------------------------- */

void storvsc_close(struct storvsc *c)
{
	if (c->link)
		c->link->close(c);
	for (unsigned i = 0; i < STORVSC_CHANNELS_MAX; i++)
		if (c->channel[i] && c->channel[i]->open)
			storvsc_channel_drop(c->channel[i], -ECANCELED);
	for (unsigned i = 0; i < STORVSC_CHANNELS_MAX; i++)
		if (c->channel[i])
			storvsc_channel_free(c->channel[i]);
	storvsc_arena_fini(&c->arena);
	sp_free(c);
}

unsigned storvsc_channels(const struct storvsc *c)
{
	return c->channels;
}

struct storvsc_channel *storvsc_channel(struct storvsc *c, unsigned index)
{
	return index < c->channels ? c->channel[index] : NULL;
}

void *storvsc_buffer(struct storvsc *c, size_t len)
{
	return storvsc_arena_get(&c->arena, len);
}

void storvsc_buffer_free(struct storvsc *c, void *buf, size_t len)
{
	if (buf)
		storvsc_arena_put(&c->arena, buf, len);
}

void storvsc_on_enumerate(struct storvsc *c, void (*notify)(void *ctx), void *ctx)
{
	c->notify = notify;
	c->notify_ctx = ctx;
}
