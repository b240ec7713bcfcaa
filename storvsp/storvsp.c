/* SPDX-License-Identifier: BSD-2-Clause */
/* A controller as its owner sees it: made, offered, held, freed. */
#include "storvsp/storvsp.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "storvsp/storvsp_int.h"

#define MAX_TRANSFER_MAX (8u << 20)
#define DEPTH_MAX 8192u
#define SUBCHANNELS_MAX 255u
#define IDE_FLAG_DEVICE 2u

static int check(const struct storvsp_opts *o, struct sp_err *err)
{
	if (!o->name || !*o->name || strlen(o->name) >= STORVSP_NAME_MAX)
		return sp_err_set(err, -EINVAL, "a controller's name has 1 to %u characters", STORVSP_NAME_MAX - 1);
	if (o->max_transfer % VMBUS_PAGE_SIZE || o->max_transfer > MAX_TRANSFER_MAX)
		return sp_err_set(err, -EINVAL, "%s: the largest transfer is %" PRIu32 " bytes; a multiple of %u up "
				  "to %u is possible", o->name, o->max_transfer, VMBUS_PAGE_SIZE, MAX_TRANSFER_MAX);
	if (o->queue_depth > DEPTH_MAX)
		return sp_err_set(err, -EINVAL, "%s: queue depth %u is more than %u", o->name, o->queue_depth,
				  DEPTH_MAX);
	if (o->max_subchannels > SUBCHANNELS_MAX)
		return sp_err_set(err, -EINVAL, "%s: %u sub-channels are more than %u", o->name, o->max_subchannels,
				  SUBCHANNELS_MAX);
	if (o->kind == STORVSP_IDE && (o->ide_channel > 1 || o->ide_device > 1))
		return sp_err_set(err, -EINVAL, "%s: there is no IDE device %u:%u, both are 0 or 1", o->name,
				  o->ide_channel, o->ide_device);
	return 0;
}

/* Linux takes the target from the second group of the instance, older Windows both numbers from the user block. */
static int ide_identity(struct storvsp *c)
{
	unsigned channel = c->opts.ide_channel, device = c->opts.ide_device;
	char text[SP_GUID_TEXT];

	snprintf(text, sizeof(text), "%08x-%04x-8899-0000-000000000000", channel & 1, device & 1);
	c->offer.user[2] = (uint8_t)channel;
	c->offer.user[3] = (uint8_t)device;
	c->offer.user[8] = IDE_FLAG_DEVICE;
	return sp_guid_parse_le(text, &c->opts.instance);
}

static int make_offer(struct storvsp *c)
{
	bool ide = c->opts.kind == STORVSP_IDE;
	int r = sp_guid_parse_le(ide ? VSTOR_IDE_CLASS : VSTOR_SCSI_CLASS, &c->offer.class_guid);

	if (r == 0 && ide)
		r = ide_identity(c);
	c->offer.instance_guid = c->opts.instance;
	c->offer.max_subchannels = c->protocol.max_subchannels;
	c->offer.ops = &storvsp_device_ops;
	c->offer.device = c;
	c->offer.name = c->name;
	return r;
}

static void make_locks(struct storvsp *c)
{
	pthread_condattr_t monotonic;

	pthread_mutex_init(&c->manage, NULL);
	pthread_mutex_init(&c->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&c->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

int storvsp_new(const struct storvsp_opts *opts, struct storvsp **ret_controller, struct sp_err *err)
{
	struct storvsp *c;
	int r = check(opts, err);

	if (r < 0)
		return r;
	c = sp_zalloc(sizeof(*c));
	if (!c)
		return sp_err_set(err, -ENOMEM, "%s: no memory for a controller", opts->name);
	c->opts = *opts;
	snprintf(c->name, sizeof(c->name), "%s", opts->name);
	c->opts.name = c->name;
	storvsp_protocol_init(&c->protocol, opts);
	c->worker = sp_calloc(1u + c->protocol.max_subchannels, sizeof(*c->worker));
	r = c->worker ? make_offer(c) : -ENOMEM;
	if (r < 0) {
		sp_free(c->worker);
		sp_free(c);
		return sp_err_set(err, r, "%s: no memory for a controller", opts->name);
	}
	make_locks(c);
	*ret_controller = c;
	return 0;
}

void storvsp_free(struct storvsp *c)
{
	for (unsigned i = 0; i < STORVSP_UNITS; i++)
		if (c->unit[i])
			storvsp_detach(c, storvsp_index_address(i), NULL);
	pthread_cond_destroy(&c->changed);
	pthread_mutex_destroy(&c->lock);
	pthread_mutex_destroy(&c->manage);
	sp_free(c->worker);
	sp_free(c);
}

const struct vmbus_offer *storvsp_offer(const struct storvsp *c)
{
	return &c->offer;
}

unsigned storvsp_version(struct storvsp *c)
{
	return __atomic_load_n(&c->protocol.version, __ATOMIC_RELAXED);
}

void storvsp_notify(struct storvsp *c)
{
	pthread_mutex_lock(&c->lock);
	__atomic_store_n(&c->enumerate, true, __ATOMIC_SEQ_CST);
	if (c->worker[0])
		storvsp_worker_ring(c->worker[0]);
	pthread_mutex_unlock(&c->lock);
}

void storvsp_power_on(struct storvsp *c)
{
	pthread_mutex_lock(&c->manage);
	for (unsigned i = 0; i < STORVSP_UNITS; i++)
		if (c->unit[i])
			scsi_lu_power_on(c->unit[i]->lu, &c->unit[i]->nexus);
	pthread_mutex_unlock(&c->manage);
}

int storvsp_hold(struct storvsp *c, unsigned timeout_ms)
{
	struct timespec until;
	int r = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	storvsp_add_ms(&until, timeout_ms);
	pthread_mutex_lock(&c->manage);
	pthread_mutex_lock(&c->lock);
	storvsp_hold_locked(c);
	while (!storvsp_all_quiet_locked(c) && r == 0)
		r = -pthread_cond_timedwait(&c->changed, &c->lock, &until);
	if (r < 0 && storvsp_all_quiet_locked(c))
		r = 0;
	if (r < 0)
		storvsp_release_locked(c);
	pthread_mutex_unlock(&c->lock);
	pthread_mutex_unlock(&c->manage);
	return r;
}

void storvsp_release(struct storvsp *c)
{
	pthread_mutex_lock(&c->lock);
	storvsp_release_locked(c);
	pthread_mutex_unlock(&c->lock);
}

unsigned storvsp_channel_stats(struct storvsp *c, struct storvsp_channel_stats *ret_stats, unsigned room)
{
	unsigned n = 0;

	pthread_mutex_lock(&c->lock);
	for (unsigned i = 0; i < 1u + c->protocol.max_subchannels && n < room; i++)
		if (c->worker[i])
			storvsp_worker_stats(c->worker[i], &ret_stats[n++]);
	pthread_mutex_unlock(&c->lock);
	return n;
}
