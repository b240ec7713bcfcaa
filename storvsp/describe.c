/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * All that can be counted, as JSON. Totals are since the unit was attached; what says per_sec or average is over the
 * time since the last description, as performance counters are read.
 */
#include <json-c/json.h>
#include <stdio.h>

#include "base/env.h"
#include "storvsp/storvsp_int.h"

#define CHANNELS_MAX 256u

static void add_count(struct json_object *o, const char *key, uint64_t value)
{
	json_object_object_add(o, key, json_object_new_uint64(value));
}

static void add_ratio(struct json_object *o, const char *key, double value, double per)
{
	json_object_object_add(o, key, json_object_new_double(per > 0 ? value / per : 0));
}

static struct json_object *describe_address(struct storvsp_address at)
{
	struct json_object *o = json_object_new_object();

	add_count(o, "path", at.path);
	add_count(o, "target", at.target);
	add_count(o, "lun", at.lun);
	return o;
}

/* Smallest latency that @percent of the requests do not exceed, in microseconds; 0: there were none. */
static uint64_t percentile(const struct scsi_stats *s, unsigned percent)
{
	uint64_t all = 0, seen = 0;

	for (unsigned i = 0; i < SCSI_LATENCY_BUCKETS; i++)
		all += s->latency[i];
	for (unsigned i = 0; i < SCSI_LATENCY_BUCKETS && all; i++) {
		seen += s->latency[i];
		if (seen * 100 >= all * percent)
			return 1ull << i;
	}
	return 0;
}

static void add_totals(struct json_object *o, const struct scsi_stats *s)
{
	add_count(o, "reads", s->reads);
	add_count(o, "writes", s->writes);
	add_count(o, "flushes", s->flushes);
	add_count(o, "unmaps", s->unmaps);
	add_count(o, "other_commands", s->others);
	add_count(o, "read_bytes", s->read_bytes);
	add_count(o, "write_bytes", s->write_bytes);
	add_count(o, "unmap_bytes", s->unmap_bytes);
	add_count(o, "errors", s->errors);
	add_count(o, "reservation_conflicts", s->reservation_conflicts);
	add_count(o, "current_queue_length", s->inflight);
	add_count(o, "max_queue_length", s->inflight_max);
	add_count(o, "latency_us_50", percentile(s, 50));
	add_count(o, "latency_us_99", percentile(s, 99));
}

static void add_rates(struct json_object *o, const struct scsi_stats *now, const struct scsi_stats *then, double ns)
{
	double s = ns / 1e9, reads = (double)(now->reads - then->reads), writes = (double)(now->writes - then->writes);

	add_ratio(o, "reads_per_sec", reads, s);
	add_ratio(o, "writes_per_sec", writes, s);
	add_ratio(o, "transfers_per_sec", reads + writes, s);
	add_ratio(o, "read_bytes_per_sec", (double)(now->read_bytes - then->read_bytes), s);
	add_ratio(o, "write_bytes_per_sec", (double)(now->write_bytes - then->write_bytes), s);
	add_ratio(o, "flushes_per_sec", (double)(now->flushes - then->flushes), s);
	add_ratio(o, "average_sec_per_read", (double)(now->read_ns - then->read_ns) / 1e9, reads);
	add_ratio(o, "average_sec_per_write", (double)(now->write_ns - then->write_ns) / 1e9, writes);
	add_ratio(o, "average_queue_length", (double)(now->queue_ns - then->queue_ns), ns);
}

static struct json_object *describe_limits(const struct storvsp_unit *u)
{
	struct json_object *o = json_object_new_object();

	add_count(o, "iops", u->limits.iops);
	add_count(o, "bps", u->limits.bps);
	add_count(o, "min_iops", u->limits.min_iops);
	add_count(o, "queued", __atomic_load_n(&u->limiter.queued, __ATOMIC_RELAXED));
	add_count(o, "throttled", __atomic_load_n(&u->limiter.throttled, __ATOMIC_RELAXED));
	add_count(o, "throttled_ns", __atomic_load_n(&u->limiter.throttled_ns, __ATOMIC_RELAXED));
	return o;
}

static struct json_object *describe_unit(struct storvsp_unit *u)
{
	struct json_object *o = describe_address(storvsp_index_address(u->index));
	uint64_t now_ns = sp_env_monotonic_ns();
	struct scsi_geometry g;
	struct scsi_stats now;

	scsi_lu_stats(u->lu, &now);
	scsi_lu_geometry(u->lu, &g);
	json_object_object_add(o, "type", json_object_new_string(scsi_lu_kind(u->lu) == SCSI_DVD ? "dvd" : "disk"));
	add_count(o, "size", g.size);
	json_object_object_add(o, "read_only", json_object_new_boolean(g.read_only));
	add_totals(o, &now);
	add_rates(o, &now, &u->described, (double)(now_ns - u->described_ns));
	json_object_object_add(o, "limits", describe_limits(u));
	u->described = now;
	u->described_ns = now_ns;
	return o;
}

static struct json_object *describe_channel(const struct storvsp_channel_stats *s)
{
	struct json_object *o = json_object_new_object();

	add_count(o, "subchannel", s->subchannel);
	add_count(o, "requests", s->requests);
	add_count(o, "batches", s->batches);
	add_ratio(o, "requests_per_batch", (double)s->requests, (double)s->batches);
	add_count(o, "signals_sent", s->signals_sent);
	add_count(o, "signals_received", s->signals_received);
	add_count(o, "ring_full", s->ring_full);
	add_count(o, "polls", s->polls);
	add_count(o, "sleeps", s->sleeps);
	add_count(o, "bad_packets", s->bad_packets);
	add_count(o, "inflight", s->inflight);
	return o;
}

void *storvsp_describe(struct storvsp *c)
{
	struct json_object *o = json_object_new_object(), *units = json_object_new_array(),
			   *channels = json_object_new_array();
	struct storvsp_channel_stats stats[CHANNELS_MAX];
	unsigned n = storvsp_channel_stats(c, stats, CHANNELS_MAX), version = storvsp_version(c);
	char guid[SP_GUID_TEXT], text[16];

	sp_guid_format_le(&c->opts.instance, guid);
	snprintf(text, sizeof(text), "%u.%u", version >> 8, version & 0xff);
	json_object_object_add(o, "name", json_object_new_string(c->name));
	json_object_object_add(o, "kind", json_object_new_string(c->opts.kind == STORVSP_IDE ? "ide" : "scsi"));
	json_object_object_add(o, "instance", json_object_new_string(guid));
	json_object_object_add(o, "protocol", version ? json_object_new_string(text) : NULL);
	for (unsigned i = 0; i < n; i++)
		json_object_array_add(channels, describe_channel(&stats[i]));
	json_object_object_add(o, "channels", channels);
	pthread_mutex_lock(&c->manage);
	for (unsigned i = 0; i < STORVSP_UNITS; i++)
		if (c->unit[i])
			json_object_array_add(units, describe_unit(c->unit[i]));
	pthread_mutex_unlock(&c->manage);
	json_object_object_add(o, "units", units);
	return o;
}
