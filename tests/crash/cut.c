/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Every cut of a recorded run: after each event, with subsets of what was not durable, some of it torn. Each state is
 * opened for writing, so a log is replayed, and read; some are first opened read-only, which must show the same and
 * touch nothing; some are recorded while they recover, and cut again.
 *
 * Payload sectors are atomic (512 bytes), as on every disk. VHDX metadata is also torn at any byte: it has checksums
 * and a log. VHD has neither for its BAT, so there too a sector is whole or not at all.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "tests/crash/crash.h"

#define PENDING_MAX 256
#define ALL_SUBSETS 10		/* pending events up to which every subset is made, if the budget allows */

struct kept {
	size_t index;
	bool keep;
	enum log_choice how;
	uint64_t k;
};

struct state {
	struct crash *c;
	uint64_t seq;
	struct kept kept[PENDING_MAX];
	size_t n;
	bool nested;
};

/* ---- telling ------------------------------------------------------------------------------------- */

static void print_state(const struct state *s)
{
	static const char *const kinds[] = { "write", "punch", "zero", "resize", "sync", "create", "rename", "link",
					     "unlink", "sync-dir", "mark" };
	static const char *const hows[] = { "kept", "torn after", "torn, rest after" };

	fprintf(stderr, "  cut at %" PRIu64 "%s, %zu pending:\n", s->seq, s->nested ? " (inside recovery)" : "", s->n);
	for (size_t i = 0; i < s->n && !s->nested; i++) {
		const struct log_event *e = log_event(s->c->log, s->kept[i].index);

		fprintf(stderr, "    file %u %s %#" PRIx64 "+%#" PRIx64 ": %s %" PRIu64 "\n", e->file, kinds[e->kind],
			e->offset, e->len, s->kept[i].keep ? hows[s->kept[i].how] : "lost",
			s->kept[i].keep ? s->kept[i].k : 0);
	}
}

#define state_fail(s, ...)              \
	do {                            \
		print_state(s);         \
		crash_fail((s)->c, __VA_ARGS__); \
	} while (0)

/* ---- judging one state --------------------------------------------------------------------------- */

static int open_state(struct crash *c, struct store_folder *f, bool write, struct vhd_disk **ret, struct sp_err *err)
{
	struct vhd_open_opts o = { .flags = write ? VHD_OPEN_WRITE : 0, .format = c->w->format };

	return vhd_disk_open_in(f, c->w->leaf, &o, ret, err);
}

/* Reads every sector the workload ever touched, in runs, and its neighbours. */
static uint64_t read_all(const struct state *s, struct vhd_disk *d)
{
	const struct oracle *o = &s->c->oracle;
	uint8_t buf[64 * SECTOR];
	uint64_t digest = 0xcbf29ce484222325u;

	for (uint64_t i = 0; i < o->sectors;) {
		uint64_t n = 0;

		while (n < 64 && i + n < o->sectors && o->touched[i + n])
			n++;
		if (n == 0) {
			i++;
			continue;
		}
		if (vhd_disk_read(d, buf, n * SECTOR, i * SECTOR) != 0)
			state_fail(s, "sector %" PRIu64 " cannot be read", i);
		digest = digest * 0x100000001b3u + sp_crc32c(buf, n * SECTOR);
		for (uint64_t k = 0; k < n; k++) {
			char have[64], want[128];

			if (oracle_allows(o, i + k, buf + k * SECTOR))
				continue;
			stamp_describe(buf + k * SECTOR, have, sizeof(have));
			oracle_expectation(o, i + k, want, sizeof(want));
			state_fail(s, "sector %" PRIu64 " holds %s, allowed is %s", i + k, have, want);
		}
		i += n;
	}
	return digest;
}

static bool exists(struct store_folder *f, const char *name)
{
	struct store *s;

	if (store_folder_open(f, name, STORE_NO_LOCK, &s, NULL) < 0)
		return false;
	store_close(s);
	return true;
}

/* Only where it costs little: the checker reads everything. */
static void check_clean(const struct state *s, struct store_folder *f)
{
	struct vhd_report report = { 0 };
	struct store *store;

	if (store_folder_open(f, s->c->w->leaf, STORE_NO_LOCK, &store, NULL) < 0)
		state_fail(s, "the image is gone after it was closed");
	if (vhd_format_by_id(s->c->w->format)->check(store, &report) < 0)
		state_fail(s, "the checker failed");
	for (size_t i = 0; i < report.findings && report.errors; i++) {
		if (report.finding[i].severity == VHD_SEV_ERROR)
			state_fail(s, "check: %s: %s", report.finding[i].structure, report.finding[i].text);
	}
	vhd_report_fini(&report);
	store_close(store);
}

static void ask_qemu(const struct state *s, struct store_folder *f)
{
	static uint8_t buf[1 << 20];
	char command[256];
	struct store *store;
	uint64_t size, at = 0;
	int fd;

	if (store_folder_open(f, s->c->w->leaf, STORE_NO_LOCK, &store, NULL) < 0 || store_size(store, &size) < 0)
		state_fail(s, "the image is gone");
	fd = open(s->c->qemu_file, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
		crash_fail(s->c, "cannot write %s", s->c->qemu_file);
	while (store_seek_data(store, at, &at) == 0 && at < size) {
		uint64_t n = sp_min(sizeof(buf), size - at);

		if (store_read(store, buf, n, at) < 0 || pwrite(fd, buf, n, (off_t)at) != (ssize_t)n)
			crash_fail(s->c, "cannot write %s", s->c->qemu_file);
		at += n;
	}
	close(fd);
	store_close(store);
	snprintf(command, sizeof(command), "qemu-img check -q -f vhdx %s >/dev/null 2>&1", s->c->qemu_file);
	if (system(command) != 0)
		state_fail(s, "qemu-img check is not content with the recovered image (%s)", s->c->qemu_file);
	s->c->qemu++;
}

static void judge_folder(struct state *s, struct store_folder *f);

/* Recovery itself is recorded and cut at a few places. Takes over @f. */
static void judge_recovery(struct state *s, struct store_folder *f)
{
	struct crash *c = s->c;
	struct store_folder *rec;
	struct store_log *log;
	struct sp_err err = { 0 };
	struct vhd_disk *d;
	uint64_t end;

	if (store_folder_log_new(f, &rec) < 0)
		abort();
	log = store_folder_log(rec);
	if (c->w->recover && c->w->recover(c, rec, &err) < 0)
		state_fail(s, "cannot be recovered: %s", sp_err_text(&err));
	if (open_state(c, rec, true, &d, &err) < 0)
		state_fail(s, "does not open: %s", sp_err_text(&err));
	if (vhd_disk_close(d, &err) < 0)
		state_fail(s, "does not close: %s", sp_err_text(&err));
	end = log_seq(log);
	for (unsigned i = 0; i < 4 && end > 0; i++) {
		struct state inner = { .c = c, .seq = s->seq, .nested = true };
		uint64_t seq = rng_below(&c->rng, end + 1);
		struct log_state *st = log_state_initial(log);
		size_t pending[PENDING_MAX], first = log_state_follow(st, seq);
		size_t n = log_pending(log, seq, first, pending, PENDING_MAX);

		for (size_t k = 0; k < n; k++) {
			if (rng_chance(&c->rng, 1, 2))
				log_state_apply(st, pending[k], LOG_WHOLE, 0);
		}
		struct store_folder *again = log_state_folder(st);

		log_state_free(st);
		judge_folder(&inner, again);
		c->nested++;
	}
	store_folder_close(rec);
}

/* Takes over @f. */
static void judge_folder(struct state *s, struct store_folder *f)
{
	struct crash *c = s->c;
	uint64_t before = 0, after, nth = c->states + c->nested;
	struct sp_err err = { 0 };
	struct vhd_disk *d;

	if (c->w->may_be_absent && !exists(f, c->w->leaf)) {
		store_folder_close(f);
		return;
	}
	if (!s->nested && nth % 16 == 1) {
		judge_recovery(s, f);
		return;
	}
	if (c->w->recover && c->w->recover(c, f, &err) < 0)
		state_fail(s, "cannot be recovered: %s", sp_err_text(&err));
	if (nth % 4 == 0) {
		if (open_state(c, f, false, &d, &err) < 0)
			state_fail(s, "does not open read-only: %s", sp_err_text(&err));
		before = read_all(s, d);
		vhd_disk_close(d, NULL);
		c->opened_again++;
	}
	if (open_state(c, f, true, &d, &err) < 0)
		state_fail(s, "does not open: %s", sp_err_text(&err));
	after = read_all(s, d);
	if (nth % 4 == 0 && before != after)
		state_fail(s, "reads differently read-only and after recovery");
	if (vhd_disk_close(d, &err) < 0)
		state_fail(s, "does not close: %s", sp_err_text(&err));
	if (c->w->finish && nth % 8 == 2) {
		if (c->w->finish(c, f, &err) < 0)
			state_fail(s, "the interrupted operation cannot be finished: %s", sp_err_text(&err));
		if (open_state(c, f, false, &d, &err) < 0)
			state_fail(s, "does not open after the operation was finished: %s", sp_err_text(&err));
		read_all(s, d);
		vhd_disk_close(d, NULL);
	}
	if (nth % 8 == 3)
		check_clean(s, f);
	if (c->w->qemu && !s->nested && c->qemu < c->qemu_wanted && nth % 10 == 5)
		ask_qemu(s, f);
	store_folder_close(f);
}

/* ---- making states ------------------------------------------------------------------------------- */

static void maybe_tear(struct state *s, struct kept *k)
{
	const struct log_event *e = log_event(s->c->log, k->index);
	bool any_byte;
	uint64_t units;

	k->how = LOG_WHOLE;
	k->k = 0;
	if (e->kind != LOG_WRITE || e->len <= 1 || !rng_chance(&s->c->rng, 1, 6))
		return;
	any_byte = s->c->w->format == VHD_FORMAT_VHDX && !stamp_is_payload(e->data, e->len) &&
		   rng_chance(&s->c->rng, 1, 2);
	units = any_byte ? e->len - 1 : (e->len - 1) / SECTOR;
	if (units == 0)
		return;
	k->how = rng_chance(&s->c->rng, 1, 2) ? LOG_TORN : LOG_TORN_REST;
	k->k = rng_between(&s->c->rng, 1, units) * (any_byte ? 1 : SECTOR);
}

static void make_state(struct state *s, const struct log_state *durable, uint64_t mask, bool random)
{
	struct log_state *st = log_state_clone(durable);
	unsigned num = (unsigned)rng_between(&s->c->rng, 1, 7);
	struct store_folder *f;

	for (size_t i = 0; i < s->n; i++) {
		struct kept *k = &s->kept[i];

		k->keep = random ? rng_chance(&s->c->rng, num, 8) : mask >> i & 1;
		if (!k->keep)
			continue;
		maybe_tear(s, k);
		log_state_apply(st, k->index, k->how, k->k);
	}
	f = log_state_folder(st);
	log_state_free(st);
	judge_folder(s, f);
	s->c->states++;
}

static void judge_cut(struct crash *c, struct log_state *durable, uint64_t seq, uint64_t budget)
{
	size_t pending[PENDING_MAX], first = log_state_follow(durable, seq);
	struct state s = { .c = c, .seq = seq };


	s.n = log_pending(c->log, seq, first, pending, PENDING_MAX);
	if (s.n > PENDING_MAX)
		s.n = PENDING_MAX;
	for (size_t i = 0; i < s.n; i++)
		s.kept[i].index = pending[i];
	if (s.n == 0)
		budget = 1;
	if (s.n <= ALL_SUBSETS && 1u << s.n <= budget) {
		for (uint64_t mask = 0; mask < 1u << s.n; mask++)
			make_state(&s, durable, mask, false);
		budget = sp_min(budget, 2u << s.n);	/* as many again, with other tears */
		for (uint64_t i = 1u << s.n; i < budget; i++)
			make_state(&s, durable, 0, true);
		return;
	}
	make_state(&s, durable, 0, false);		/* nothing more arrived */
	make_state(&s, durable, UINT64_MAX, s.n > 63);	/* all of it did */
	for (uint64_t i = 2; i < budget; i++)
		make_state(&s, durable, 0, true);
}

/* What the marks up to @seq say has begun or been acknowledged. */
static void advance_oracle(struct crash *c, size_t *event, uint64_t seq)
{
	for (; *event < log_count(c->log) && log_event(c->log, *event)->begin <= seq; (*event)++) {
		const struct log_event *e = log_event(c->log, *event);

		if (e->kind == LOG_MARK)
			oracle_advance(&c->oracle, (uint32_t)e->value);
	}
}

void crash_judge(struct crash *c)
{
	size_t events = log_count(c->log), marks = 0, cuts = 0;
	struct log_state *durable = log_state_initial(c->log);
	uint64_t each;

	for (size_t i = 0; i < events; i++)
		cuts += log_event(c->log, i)->kind != LOG_MARK;
	each = sp_max(2, c->states_wanted / (cuts ? cuts : 1));
	for (size_t i = 0; i < events; i++) {
		const struct log_event *e = log_event(c->log, i);
		uint64_t seq = e->kind == LOG_SYNC || e->kind == LOG_SYNC_DIR ? e->end : e->begin;

		/* The budget that cheap cuts leave over goes to the rich ones after them. */
		uint64_t left = c->states_wanted > c->states ? c->states_wanted - c->states : 0;

		if (e->kind == LOG_MARK)
			continue;
		advance_oracle(c, &marks, seq);
		judge_cut(c, durable, seq, sp_max(each, left / cuts));
		cuts -= cuts > 1;
	}
	/* After the last event everything is acknowledged. */
	advance_oracle(c, &marks, LOG_NEVER - 1);
	judge_cut(c, durable, log_seq(c->log), 16);
	log_state_free(durable);
}
