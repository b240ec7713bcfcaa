/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From a log to the folders a power cut may leave. A state keeps each file's bytes apart from its size, because they
 * reach the disk apart; the two meet when the folder is made.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "tests/support/store_log_int.h"
#include "vhd/store_mem_int.h"

struct state_file {
	struct store *bytes;	/* memory store, maybe longer than @size; NULL: nothing arrived yet */
	uint64_t size;
};

struct state_name {
	const char *name;	/* the log's */
	unsigned file;
};

struct log_state {
	const struct store_log *log;
	struct state_file *file;
	struct state_name *name;
	unsigned files, names, name_room;
	uint64_t seq;		/* followed up to here, and */
	size_t first;		/* every event before this one is durable by then */
};

static void need(int r)
{
	if (r < 0)	/* only memory can be short here, and then the test is over */
		abort();
}

bool log_is_name_event(enum log_kind kind)
{
	return kind >= LOG_CREATE && kind <= LOG_UNLINK;
}

size_t log_count(const struct store_log *log)
{
	return log->events;
}

const struct log_event *log_event(const struct store_log *log, size_t index)
{
	return &log->event[index];
}

uint64_t log_seq(const struct store_log *log)
{
	return log->seq;
}

/* ---- the persistence model ------------------------------------------------------------------------ */

static bool changes_something(const struct log_event *e)
{
	return !e->failed && (e->kind <= LOG_RESIZE || log_is_name_event(e->kind));
}

bool log_started(const struct log_event *e, uint64_t seq)
{
	return e->begin <= seq;
}

bool log_durable(const struct log_event *e, uint64_t seq)
{
	return e->durable_at <= seq;
}

size_t log_pending(const struct store_log *log, uint64_t seq, size_t first, size_t *ret_index, size_t room)
{
	size_t n = 0;

	for (size_t i = first; i < log->events && log_started(&log->event[i], seq); i++) {
		if (!changes_something(&log->event[i]) || log_durable(&log->event[i], seq))
			continue;
		if (n < room)
			ret_index[n] = i;
		n++;
	}
	return n;
}

/* ---- states --------------------------------------------------------------------------------------- */

static struct log_state *state_new(const struct store_log *log)
{
	struct log_state *s = log_alloc(NULL, sizeof(*s));

	*s = (struct log_state){ .log = log, .files = log->files };
	/* Each event adds one name at most. */
	s->name_room = log->initial_files + (unsigned)log->name_events;
	s->file = log_alloc(NULL, s->files * sizeof(*s->file));
	s->name = log_alloc(NULL, s->name_room * sizeof(*s->name));
	return s;
}

struct log_state *log_state_initial(const struct store_log *log)
{
	struct log_state *s = state_new(log);

	for (unsigned i = 0; i < s->files; i++) {
		s->file[i] = (struct state_file){ 0 };
		if (i >= log->initial_files)
			continue;
		need(store_mem_clone(log->file[i].initial, &s->file[i].bytes));
		need(store_size(s->file[i].bytes, &s->file[i].size));
		s->name[s->names++] = (struct state_name){ .name = log->file[i].initial_name, .file = i };
	}
	return s;
}

struct log_state *log_state_clone(const struct log_state *s)
{
	struct log_state *c = state_new(s->log);

	c->files = s->files;
	for (unsigned i = 0; i < s->files; i++) {
		c->file[i] = s->file[i];
		if (s->file[i].bytes)
			need(store_mem_clone(s->file[i].bytes, &c->file[i].bytes));
	}
	memcpy(c->name, s->name, s->names * sizeof(*s->name));
	c->names = s->names;
	c->seq = s->seq;
	c->first = s->first;
	return c;
}

void log_state_free(struct log_state *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < s->files; i++)
		store_close(s->file[i].bytes);
	free(s->file);
	free(s->name);
	free(s);
}

static struct store *bytes_of(struct log_state *s, unsigned file)
{
	if (!s->file[file].bytes)
		need(store_mem_new("state", 0, 0, &s->file[file].bytes));
	return s->file[file].bytes;
}

static void apply_resize(struct log_state *s, const struct log_event *e)
{
	struct store *bytes = bytes_of(s, e->file);
	uint64_t have, keep = sp_min(e->offset, e->len);	/* the smaller of new and old */

	need(store_size(bytes, &have));
	if (have > keep)
		need(store_resize(bytes, keep));
	s->file[e->file].size = e->offset;
}

static void name_remove(struct log_state *s, const char *name)
{
	for (unsigned i = 0; i < s->names; i++) {
		if (strcmp(s->name[i].name, name) == 0)
			s->name[i--] = s->name[--s->names];
	}
}

static void apply_name(struct log_state *s, const struct log_event *e)
{
	if (e->kind != LOG_LINK)
		name_remove(s, e->name);
	if (e->kind == LOG_UNLINK)
		return;
	if (e->to)
		name_remove(s, e->to);
	s->name[s->names++] = (struct state_name){ .name = e->to ? e->to : e->name, .file = e->file };
}

void log_state_apply(struct log_state *s, size_t index, enum log_choice how, uint64_t k)
{
	const struct log_event *e = &s->log->event[index];
	uint64_t from = how == LOG_TORN_REST ? sp_min(k, e->len) : 0;
	uint64_t to = how == LOG_TORN ? sp_min(k, e->len) : e->len;

	if (!changes_something(e))
		return;
	switch (e->kind) {
	case LOG_WRITE:
		need(store_write(bytes_of(s, e->file), e->data + from, to - from, e->offset + from));
		break;
	case LOG_PUNCH:
	case LOG_ZERO:
		need(store_punch(bytes_of(s, e->file), e->offset + from, to - from));
		break;
	case LOG_RESIZE:
		apply_resize(s, e);
		break;
	default:
		apply_name(s, e);
	}
}

size_t log_state_follow(struct log_state *s, uint64_t seq)
{
	bool gap = false;

	for (size_t i = s->first; i < s->log->events && log_started(&s->log->event[i], seq); i++) {
		const struct log_event *e = &s->log->event[i];

		if (changes_something(e) && !log_durable(e, seq)) {
			gap = true;
			continue;
		}
		/* Those durable earlier were applied then. */
		if (changes_something(e) && !log_durable(e, s->seq))
			log_state_apply(s, i, LOG_WHOLE, 0);
		if (!gap)
			s->first = i + 1;
	}
	s->seq = seq;
	return s->first;
}

/* Another name of the same file that is in the folder already. */
static const char *earlier_name(const struct log_state *s, unsigned index)
{
	for (unsigned i = 0; i < index; i++) {
		if (s->name[i].file == s->name[index].file)
			return s->name[i].name;
	}
	return NULL;
}

struct store_folder *log_state_folder(const struct log_state *s)
{
	struct store_folder *f;

	need(store_folder_mem(&f));
	for (unsigned i = 0; i < s->names; i++) {
		const struct state_file *file = &s->file[s->name[i].file];
		const char *twin = earlier_name(s, i);
		struct store *copy;

		if (twin) {
			need(store_folder_mem_put(f, s->name[i].name, store_folder_mem_get(f, twin)));
			continue;
		}
		if (file->bytes)
			need(store_mem_clone(file->bytes, &copy));
		else
			need(store_mem_new("state", 0, 0, &copy));
		need(store_resize(copy, file->size));
		need(store_folder_mem_put(f, s->name[i].name, store_mem_file(copy)));
		store_close(copy);
	}
	return f;
}

struct store_folder *log_crash(const struct store_log *log, uint64_t seq,
			       bool (*choose)(void *arg, size_t index, const struct log_event *e,
					      enum log_choice *ret_how, uint64_t *ret_k), void *arg)
{
	struct log_state *s = log_state_initial(log);
	size_t first = log_state_follow(s, seq);
	struct store_folder *f;

	for (size_t i = first; i < log->events && log_started(&log->event[i], seq); i++) {
		const struct log_event *e = &log->event[i];
		enum log_choice how = LOG_WHOLE;
		uint64_t k = 0;

		if (changes_something(e) && !log_durable(e, seq) && choose && choose(arg, i, e, &how, &k))
			log_state_apply(s, i, how, k);
	}
	f = log_state_folder(s);
	log_state_free(s);
	return f;
}
