/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory, checksums, error stories, time and chance, jobs, the debug log. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/env.h"
#include "base/err.h"
#include "base/job.h"
#include "base/log.h"
#include "base/seed.h"
#include "tests/unit/rows.h"

/* ---- alloc --------------------------------------------------------------------------------------- */

static int fails_at(void *arg)
{
	int *left = arg;

	return (*left)-- == 0;
}

static void *call_alloc(void)
{
	return sp_alloc(5);
}

static void *call_zalloc(void)
{
	return sp_zalloc(5);
}

static void *call_calloc(void)
{
	return sp_calloc(5, 7);
}

static void *call_realloc(void)
{
	return sp_realloc(NULL, 5);
}

static void *call_aligned(void)
{
	return sp_alloc_aligned(4096, 5);
}

static void *call_strdup(void)
{
	return sp_strdup("text");
}

static void *call_asprintf(void)
{
	return sp_asprintf("%s", "text");
}

static const struct fault_case {
	const char *name;
	void *(*call)(void);
} fault_cases[] = {
	{ "fault in sp_alloc", call_alloc },
	{ "fault in sp_zalloc", call_zalloc },
	{ "fault in sp_calloc", call_calloc },
	{ "fault in sp_realloc", call_realloc },
	{ "fault in sp_alloc_aligned", call_aligned },
	{ "fault in sp_strdup", call_strdup },
	{ "fault in sp_asprintf", call_asprintf },
};

/* The second of three calls fails, and only that one. */
static void alloc_fault(void **state)
{
	const struct fault_case *c = *state;
	int left = 1;

	sp_alloc_set_fault(fails_at, &left);
	for (int i = 0; i < 3; i++) {
		void *p = c->call();

		if (i == 1)
			assert_null(p);
		else
			assert_non_null(p);
		sp_free(p);
	}
	sp_alloc_set_fault(NULL, NULL);
	assert_int_equal(left, -2);
}

static void alloc_zeroed(void **state)
{
	uint8_t *p = sp_calloc(1000, 3);

	assert_non_null(p);
	for (size_t i = 0; i < 3000; i++)
		assert_int_equal(p[i], 0);
	sp_free(p);
}

static void alloc_overflow(void **state)
{
	assert_null(sp_calloc(SIZE_MAX / 2, 3));
}

static void alloc_empty(void **state)
{
	void *p = sp_zalloc(0), *q = sp_alloc(3);

	assert_non_null(p);
	q = sp_realloc(q, 0);
	assert_non_null(q);
	sp_free(p);
	sp_free(q);
	sp_free(NULL);
}

static void alloc_aligned(void **state)
{
	for (size_t align = 1; align <= 65536; align *= 2) {
		void *p = sp_alloc_aligned(align, 100);

		assert_non_null(p);
		assert_true(sp_is_aligned((uintptr_t)p, align));
		sp_free(p);
	}
}

static char *scoped(void)
{
	SP_AUTO_FREE char *kept = sp_strdup("kept"), *dropped = sp_strdup("dropped");

	assert_non_null(dropped);
	return sp_take(kept);
}

/* LeakSanitizer notices what is not released, ASan what is released too early. */
static void alloc_scoped(void **state)
{
	char *kept = scoped();

	assert_string_equal(kept, "kept");
	sp_free(kept);
}

/* ---- crc32c -------------------------------------------------------------------------------------- */

static const struct crc_case {
	const char *name;
	const char *text;	/* NULL: @len bytes from @first, each @step more than the one before */
	size_t len;
	uint8_t first, step;
	uint32_t want;
} crc_cases[] = {
	{ "crc32c of nothing", "", 0, 0, 0, 0 },
	{ "crc32c check value", "123456789", 9, 0, 0, 0xE3069283 },
	{ "crc32c of 32 zeros", NULL, 32, 0x00, 0, 0x8A9136AA },
	{ "crc32c of 32 ones", NULL, 32, 0xff, 0, 0x62A8AB43 },
	{ "crc32c of 00 to 1F", NULL, 32, 0x00, 1, 0x46DD794E },
	{ "crc32c of 4096 zeros", NULL, 4096, 0x00, 0, 0x98F94189 },
};

static void crc(void **state)
{
	const struct crc_case *c = *state;
	uint8_t buf[4096];

	if (c->text)
		memcpy(buf, c->text, c->len);
	else
		for (size_t i = 0; i < c->len; i++)
			buf[i] = (uint8_t)(c->first + i * c->step);
	assert_int_equal(sp_crc32c(buf, c->len), c->want);
}

/* Vectors H1 and H2 of the format notes: a VHDX header checksums itself with its own field taken as zero. */
static const struct header_case {
	const char *name;
	uint8_t sequence;
	uint8_t log_guid;
	uint32_t want;
} header_cases[] = {
	{ "crc32c_skip of header H1", 1, 0x00, 0xCA53AB11 },
	{ "crc32c_skip of header H2", 2, 0x00, 0x48B67979 },
	{ "crc32c_skip of header H3", 2, 0x03, 0xBE138638 },
};

static void crc_header(void **state)
{
	const struct header_case *c = *state;
	uint8_t h[4096] = "head";

	memset(h + 4, 0xee, 4);		/* a stale checksum must not matter */
	h[8] = c->sequence;
	memset(h + 16, 0x01, 16);
	memset(h + 32, 0x02, 16);
	memset(h + 48, c->log_guid, 16);
	h[66] = 1;
	h[70] = 0x10;
	h[74] = 0x10;
	assert_int_equal(sp_crc32c_skip(h, sizeof(h), 4), c->want);
	assert_int_equal(h[4], 0xee);
}

static void crc_skip_edges(void **state)
{
	static const uint8_t buf[8] = { 0, 0, 0, 0, 9, 8, 7, 6 }, four[4] = { 1, 2, 3, 4 };
	static const uint8_t zeros[8], front[8] = { 1, 2, 3, 4, 9, 8, 7, 6 }, back[8] = { 0, 0, 0, 0, 1, 2, 3, 4 };

	assert_int_equal(sp_crc32c_skip(four, 4, 0), sp_crc32c(zeros, 4));
	assert_int_equal(sp_crc32c_skip(front, 8, 0), sp_crc32c(buf, 8));
	assert_int_equal(sp_crc32c_skip(back, 8, 4), sp_crc32c(zeros, 8));
}

/* ---- err ----------------------------------------------------------------------------------------- */

static void err_story(void **state)
{
	struct sp_err err = { 0 };

	assert_string_equal(sp_err_text(&err), "no error");
	assert_string_equal(sp_err_text(NULL), "no error");
	assert_int_equal(sp_err_set(&err, -EBADMSG, "header at %d", 4096), -EBADMSG);
	assert_int_equal(sp_err_prefix(&err, -EBADMSG, "parent of %s", "c.avhdx"), -EBADMSG);
	assert_string_equal(sp_err_text(&err), "parent of c.avhdx: header at 4096");
	assert_int_equal(err.code, -EBADMSG);
	sp_err_set(&err, -EIO, "again: %s", err.text);		/* may quote itself */
	assert_string_equal(sp_err_text(&err), "again: parent of c.avhdx: header at 4096");
	assert_int_equal(err.code, -EIO);
}

static void err_without_story(void **state)
{
	struct sp_err err = { 0 };

	assert_int_equal(sp_err_prefix(&err, -ENOSPC, "a.vhdx"), -ENOSPC);
	assert_string_equal(sp_err_text(&err), "a.vhdx: No space left on device");
	assert_int_equal(sp_err_set(NULL, -EIO, "%s", "nobody listens"), -EIO);
	assert_int_equal(sp_err_prefix(NULL, -EIO, "%s", "nobody listens"), -EIO);
}

static const struct text_case {
	const char *name, *in, *want;
} text_cases[] = {
	{ "err text keeps UTF-8", "Gr\303\266\303\237e \360\237\222\276 \344\270\255", NULL },
	{ "err text is one line", "a\nb\r\tc", "a?b??c" },
	{ "err text cannot drive a terminal", "\033[2J\302\233x\177", "?[2J?x?" },
	{ "err text replaces broken UTF-8", "a\377b\303", "a?b?" },
	{ "err text replaces overlong forms", "\300\257", "??" },
	{ "err text replaces surrogates", "\355\240\200", "?" },
};

static void err_text(void **state)
{
	const struct text_case *c = *state;
	struct sp_err err = { 0 };

	sp_err_set(&err, -EIO, "%s", c->in);
	assert_string_equal(sp_err_text(&err), c->want ? c->want : c->in);
}

static void err_cut(void **state)
{
	struct sp_err err = { 0 };
	char text[SP_ERR_TEXT_MAX * 3];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	sp_err_set(&err, -EIO, "%s", text);
	assert_int_equal(strlen(err.text), SP_ERR_TEXT_MAX - 1);
	sp_err_prefix(&err, -EIO, "in front");
	assert_int_equal(strlen(err.text), SP_ERR_TEXT_MAX - 1);
	assert_memory_equal(err.text, "in front: xxx", 13);
	sp_err_prefix(&err, -EIO, "%s", text);
	assert_int_equal(strlen(err.text), SP_ERR_TEXT_MAX - 1);
}

/* The cut never halves a character, at whatever distance from the end it starts. */
static void err_cut_character(void **state)
{
	for (size_t lead = SP_ERR_TEXT_MAX - 8; lead <= SP_ERR_TEXT_MAX; lead++) {
		char text[SP_ERR_TEXT_MAX + 16];
		struct sp_err err = { 0 };
		size_t kept = lead + 4 < SP_ERR_TEXT_MAX ? lead + 4 : sp_min(lead, SP_ERR_TEXT_MAX - 1);

		memset(text, 'x', lead);
		strcpy(text + lead, "\360\237\222\276");
		sp_err_set(&err, -EIO, "%s", text);
		assert_int_equal(strlen(err.text), kept);
		assert_memory_equal(err.text, text, kept);
	}
}

/* ---- env ----------------------------------------------------------------------------------------- */

static int64_t fixed_time(void *arg)
{
	return *(int64_t *)arg;
}

static void fixed_guid(void *arg, struct sp_guid *ret_guid)
{
	memset(ret_guid->b, 0x5a, sizeof(ret_guid->b));
}

static void env_hooks(void **state)
{
	int64_t at = 946684800;
	struct sp_guid g;

	sp_env_set_hooks(&(struct sp_env_hooks){ .time = fixed_time, .guid = fixed_guid, .arg = &at });
	sp_env_guid(&g);
	assert_int_equal(sp_env_time(), 946684800);
	assert_int_equal(g.b[0], 0x5a);
	sp_env_set_hooks(NULL);
	assert_true(sp_env_time() > 1600000000);
}

static void env_guid(void **state)
{
	char le[SP_GUID_TEXT], be[SP_GUID_TEXT];
	struct sp_guid a, b;

	sp_env_guid(&a);
	sp_env_guid(&b);
	assert_false(sp_guid_equal(&a, &b));
	sp_guid_format_le(&a, le);
	sp_guid_format_be(&a, be);
	assert_int_equal(le[14], '4');
	assert_int_equal(be[14], '4');
	assert_non_null(strchr("89ab", le[19]));
}

static void env_monotonic(void **state)
{
	uint64_t a = sp_env_monotonic_ns(), b = sp_env_monotonic_ns();

	assert_true(a > 0 && b >= a);
}

/* ---- job ----------------------------------------------------------------------------------------- */

#define JOB_THREADS 4
#define JOB_STEPS 20000

struct watch {
	uint64_t last, total;
	unsigned calls;
	bool backwards, inside;		/* plain on purpose: TSan sees two reports at once */
};

static void watch_progress(void *arg, uint64_t done, uint64_t total)
{
	struct watch *w = arg;

	w->backwards |= w->inside || done < w->last || done > total;
	w->inside = true;
	w->last = done;
	w->total = total;
	w->calls++;
	w->inside = false;
}

static void *advance_many(void *arg)
{
	for (int i = 0; i < JOB_STEPS; i++)
		sp_job_advance(arg, 1);
	return NULL;
}

static void job_threads(void **state)
{
	struct sp_job job = SP_JOB_INIT;
	struct watch w = { 0 };
	pthread_t threads[JOB_THREADS];

	job.progress = watch_progress;
	job.arg = &w;
	sp_job_start(&job, JOB_THREADS * JOB_STEPS);
	for (int i = 0; i < JOB_THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, advance_many, &job), 0);
	for (int i = 0; i < JOB_THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(atomic_load(&job.done), JOB_THREADS * JOB_STEPS);
	sp_job_finish(&job);
	assert_false(w.backwards);
	assert_int_equal(w.last, JOB_THREADS * JOB_STEPS);
	assert_int_equal(w.total, JOB_THREADS * JOB_STEPS);
}

/* Reports come while the job runs, but not with every step. */
static void job_rate(void **state)
{
	struct sp_job job = SP_JOB_INIT;
	struct watch w = { 0 };
	uint64_t begin = sp_env_monotonic_ns(), took;

	job.progress = watch_progress;
	job.arg = &w;
	sp_job_start(&job, 1000);
	do {
		assert_int_equal(sp_job_advance(&job, 3), 0);
		usleep(500);
		took = sp_env_monotonic_ns() - begin;
	} while (took < 200000000 || w.calls == 0);
	assert_true(w.calls >= 1);
	assert_true(w.calls <= took / 50000000);
	assert_true(w.last <= 1000);
	sp_job_finish(&job);
	assert_int_equal(w.last, 1000);
}

static void job_cancel(void **state)
{
	struct sp_job job = SP_JOB_INIT;

	sp_job_start(&job, 10);
	assert_int_equal(sp_job_advance(&job, 1), 0);
	atomic_store(&job.cancel, true);
	assert_int_equal(sp_job_advance(&job, 1), -ECANCELED);
	sp_job_finish(&job);
}

static void job_none(void **state)
{
	sp_job_start(NULL, 10);
	assert_int_equal(sp_job_advance(NULL, 1), 0);
	sp_job_finish(NULL);
}

/* ---- log, seeded defects ------------------------------------------------------------------------- */

/* The list is read once per process; main() sets it before the first look. */
static void log_components(void **state)
{
	assert_true(sp_log_enabled("vhdx"));
	assert_true(sp_log_enabled("chain"));
	assert_false(sp_log_enabled("vhd"));
	assert_false(sp_log_enabled("vhdx2"));
	assert_false(sp_log_enabled(""));
}

static void log_line(void **state)
{
	char got[64] = "";
	FILE *to = tmpfile();
	int saved = dup(STDERR_FILENO);

	assert_non_null(to);
	dup2(fileno(to), STDERR_FILENO);
	sp_debug("vhdx", "c.avhdx", "replayed %d log entries", 3);
	sp_debug("disk", "c.avhdx", "not asked for");
	dup2(saved, STDERR_FILENO);
	close(saved);
	rewind(to);
	got[fread(got, 1, sizeof(got) - 1, to)] = '\0';
	fclose(to);
	assert_string_equal(got, "vhdx c.avhdx: replayed 3 log entries\n");
}

#define SEED_BUG_COMPILED_IN 1

static void seed_switch(void **state)
{
#ifndef SEED_BUG_RUNTIME	/* there the environment decides */
	assert_int_equal(SP_SEED_BUG(COMPILED_IN), 1);
#endif
	assert_int_equal(SP_SEED_BUG(NOT_COMPILED_IN), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(alloc_zeroed), cmocka_unit_test(alloc_overflow), cmocka_unit_test(alloc_empty),
		cmocka_unit_test(alloc_aligned), cmocka_unit_test(alloc_scoped),
		cmocka_unit_test(crc_skip_edges),
		cmocka_unit_test(err_story), cmocka_unit_test(err_without_story), cmocka_unit_test(err_cut),
		cmocka_unit_test(err_cut_character),
		cmocka_unit_test(env_hooks), cmocka_unit_test(env_guid), cmocka_unit_test(env_monotonic),
		cmocka_unit_test(job_threads), cmocka_unit_test(job_rate), cmocka_unit_test(job_cancel),
		cmocka_unit_test(job_none),
		cmocka_unit_test(log_components), cmocka_unit_test(log_line), cmocka_unit_test(seed_switch),
	};
	int failed = 0;

	setenv("SPINDLE_DEBUG", "chain,vhdx", 1);
	failed += cmocka_run_group_tests_name("base", tests, NULL, NULL);
	failed += ROWS_RUN(fault_cases, alloc_fault);
	failed += ROWS_RUN(crc_cases, crc);
	failed += ROWS_RUN(header_cases, crc_header);
	failed += ROWS_RUN(text_cases, err_text);
	return failed != 0;
}
