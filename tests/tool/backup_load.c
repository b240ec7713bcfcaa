/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * backup_load SOCKET ROUNDS BYTES SET-FOLDER DISK0 DISK1 COMMAND... - live backups against a model.
 *
 * Four threads, each a channel of its own, write two disks of a running machine (units 0 and 1): every block says who
 * wrote it and when in the order of its thread, and each thread notes when a write was submitted and acknowledged.
 * Meanwhile COMMAND makes one backup after the other, and each point is read back:
 *
 *   - A thread has one write in flight. So of its blocks a point shows the state after its first k writes, byte for
 *     byte, for some k: the highest number found.
 *   - Write k is in: the cut came after it was submitted. Write k+1 is not: the cut came before it was acknowledged.
 *     There is one instant that satisfies all threads on both disks, or the disks were not cut at once.
 *   - That instant lies within the run of the command.
 *
 * From the second one on COMMAND may read no more MiB than were written since the round before began ("bytes-read" of
 * its JSON). Prints the longest and the median time that a write took.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "storvsc/storvsc.h"
#include "vhd/vhd.h"

#define THREADS 4u
#define DISKS	2u
#define BLOCK	4096u
#define MIB	(1u << 20)
#define WINDOW	(3u * MIB)		/* of a disk is written in one round */
#define PER_MIB (MIB / BLOCK)

struct note {
	uint32_t block;
	uint64_t submitted, acknowledged;	/* ns; acknowledged 0: not yet */
};

struct writer {
	struct storvsc_channel *channel;
	unsigned index, disk;
	pthread_t thread;
	pthread_mutex_t lock;			/* of what follows */
	struct note *note;
	size_t notes, room;
	/* the checker's */
	uint32_t *last;				/* number of the last of the first k writes to each block; 0: none */
	size_t k;
};

static struct writer writer[THREADS];
static uint64_t disk_bytes;
static _Atomic unsigned current;
static atomic_bool stop;

static void __attribute__((format(printf, 1, 2), noreturn)) fail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("FAILED: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	_exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* What write @number of a thread puts there; 0: zeros. */
static void fill(uint8_t *buf, unsigned thread, uint32_t block, uint32_t number)
{
	uint32_t *words = (uint32_t *)buf;

	memset(buf, 0, BLOCK);
	for (unsigned i = 0; number && i < BLOCK / 4; i += 4) {
		words[i] = number;
		words[i + 1] = thread + 1;
		words[i + 2] = block;
		words[i + 3] = number * 2654435761u ^ i;
	}
}

/* ---- writing ------------------------------------------------------------------------------------------- */

static struct note *note_new(struct writer *w, uint32_t block)
{
	if (w->notes == w->room) {
		w->room = w->room ? 2 * w->room : 4096;
		w->note = realloc(w->note, w->room * sizeof(*w->note));
		if (!w->note)
			fail("out of memory");
	}
	w->note[w->notes] = (struct note){ .block = block, .submitted = now_ns() };
	return &w->note[w->notes++];
}

/* Blocks of a disk belong to its threads in turn. */
static uint32_t choose_block(const struct writer *w, uint32_t *seed)
{
	uint32_t mib = (uint32_t)(disk_bytes / MIB), first = atomic_load(&current) * 7 % (mib - WINDOW / MIB + 1);
	uint32_t slots = WINDOW / BLOCK / (THREADS / DISKS);

	*seed = *seed * 1664525 + 1013904223;
	return first * PER_MIB + (*seed >> 8) % slots * (THREADS / DISKS) + w->index / DISKS;
}

static void *work(void *arg)
{
	const struct timespec nap = { .tv_nsec = 300000 };
	struct writer *w = arg;
	uint32_t seed = w->index + 1;
	uint8_t buf[BLOCK];

	while (!atomic_load(&stop)) {
		uint32_t block = choose_block(w, &seed);
		size_t at;
		int r;

		pthread_mutex_lock(&w->lock);
		note_new(w, block);
		at = w->notes;
		pthread_mutex_unlock(&w->lock);
		fill(buf, w->index, block, (uint32_t)at);
		r = storvsc_write(w->channel, (uint8_t)w->disk, buf, BLOCK, (uint64_t)block * BLOCK, at % 16 == 0);
		if (r == 0 && at % 32 == 0)
			r = storvsc_flush(w->channel, (uint8_t)w->disk);
		if (r < 0)
			fail("thread %u: write %zu: %s", w->index, at, strerror(-r));
		pthread_mutex_lock(&w->lock);
		w->note[at - 1].acknowledged = now_ns();
		pthread_mutex_unlock(&w->lock);
		nanosleep(&nap, NULL);
	}
	return NULL;
}

/* ---- checking ------------------------------------------------------------------------------------------ */

static uint8_t *read_disk(const char *path)
{
	uint8_t *content = malloc(disk_bytes);
	struct sp_err err = { 0 };
	struct vhd_disk *d;
	int r;

	if (!content)
		fail("out of memory");
	if (vhd_disk_open(path, NULL, &d, &err) < 0)
		fail("%s: %s", path, sp_err_text(&err));
	r = vhd_disk_read(d, content, disk_bytes, 0);
	if (r < 0)
		fail("%s: read: %s", path, strerror(-r));
	vhd_disk_close(d, NULL);
	return content;
}

static bool is_mine(const struct writer *w, uint32_t block)
{
	return block % (THREADS / DISKS) == w->index / DISKS;
}

/* The highest number on the disk is k; then every block has to be as the first k writes left it. */
static void check_writer(struct writer *w, unsigned point, const uint8_t *content)
{
	uint32_t blocks = (uint32_t)(disk_bytes / BLOCK), k = 0, number;
	uint8_t want[BLOCK];

	for (uint32_t b = 0; b < blocks; b++) {
		memcpy(&number, content + (size_t)b * BLOCK, 4);
		if (is_mine(w, b) && number > k)
			k = number;
	}
	pthread_mutex_lock(&w->lock);
	if (k > w->notes || k < w->k)
		fail("point %u, thread %u: write %u of %zu; the point before had %zu", point, w->index, k, w->notes,
		     w->k);
	for (; w->k < k; w->k++)
		w->last[w->note[w->k].block] = (uint32_t)w->k + 1;
	pthread_mutex_unlock(&w->lock);
	for (uint32_t b = 0; b < blocks; b++) {
		if (!is_mine(w, b))
			continue;
		fill(want, w->index, b, w->last[b]);
		memcpy(&number, content + (size_t)b * BLOCK, 4);
		if (memcmp(content + (size_t)b * BLOCK, want, BLOCK) != 0)
			fail("point %u, disk %u, block %u: write %u of thread %u where %u belongs, of %u in all", point,
			     w->disk, b, number, w->index, w->last[b], k);
	}
}

/* One instant for all: after every write that is in was submitted, before any that is not was acknowledged. */
static void check_instant(unsigned point, uint64_t begun, uint64_t ended)
{
	uint64_t after = 0, before = UINT64_MAX;

	for (unsigned i = 0; i < THREADS; i++) {
		struct writer *w = &writer[i];

		pthread_mutex_lock(&w->lock);
		if (w->k && w->note[w->k - 1].submitted > after)
			after = w->note[w->k - 1].submitted;
		if (w->k < w->notes && w->note[w->k].acknowledged && w->note[w->k].acknowledged < before)
			before = w->note[w->k].acknowledged;
		pthread_mutex_unlock(&w->lock);
	}
	if (after > before)
		fail("point %u: disks are %" PRIu64 " us apart", point, (after - before) / 1000);
	if (before < begun)
		fail("point %u: a write is missing that was acknowledged %" PRIu64 " us before", point,
		     (begun - before) / 1000);
	if (after > ended)
		fail("point %u: a write is in that was submitted %" PRIu64 " us after", point, (after - ended) / 1000);
}

/* ---- backups ------------------------------------------------------------------------------------------- */

static uint64_t bytes_read_of(FILE *out)
{
	char text[65536];
	size_t n = fread(text, 1, sizeof(text) - 1, out);
	const char *at;

	text[n] = '\0';
	at = strstr(text, "\"bytes-read\"");
	return at ? strtoull(at + strcspn(at, "0123456789"), NULL, 10) : UINT64_MAX;
}

static uint64_t make_backup(const char *command)
{
	FILE *out = popen(command, "re");
	uint64_t bytes = out ? bytes_read_of(out) : 0;

	if (!out || pclose(out) != 0)
		fail("%s", command);
	return bytes;
}

/* MiB of both disks that may have been written since the thread's note @from. */
static unsigned touched_since(const size_t *from)
{
	static bool touched[DISKS][65536];
	unsigned count = 0;

	memset(touched, 0, sizeof(touched));
	for (unsigned i = 0; i < THREADS; i++) {
		struct writer *w = &writer[i];

		pthread_mutex_lock(&w->lock);
		for (size_t n = from[i]; n < w->notes; n++) {
			bool *t = &touched[w->disk][w->note[n].block / PER_MIB];

			count += !*t;
			*t = true;
		}
		pthread_mutex_unlock(&w->lock);
	}
	return count;
}

static void notes_now(size_t *ret)
{
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_mutex_lock(&writer[i].lock);
		ret[i] = writer[i].notes ? writer[i].notes - 1 : 0;
		pthread_mutex_unlock(&writer[i].lock);
	}
}

static void check_point(unsigned point, const char *folder, char **disk, uint64_t begun, uint64_t ended)
{
	for (unsigned d = 0; d < DISKS; d++) {
		char path[4096];
		uint8_t *content;

		snprintf(path, sizeof(path), "%s/%06u-%s.vhdx", folder, point, disk[d]);
		content = read_disk(path);
		for (unsigned i = 0; i < THREADS; i++)
			if (writer[i].disk == d)
				check_writer(&writer[i], point, content);
		free(content);
	}
	check_instant(point, begun, ended);
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void print_times(void)
{
	size_t total = 0, n = 0;
	uint64_t *all;

	for (unsigned i = 0; i < THREADS; i++)
		total += writer[i].notes;
	all = calloc(total + 1, sizeof(*all));
	for (unsigned i = 0; all && i < THREADS; i++)
		for (size_t k = 0; k < writer[i].notes; k++)
			all[n++] = writer[i].note[k].acknowledged - writer[i].note[k].submitted;
	if (!all || n == 0)
		fail("nothing was written");
	qsort(all, n, sizeof(*all), by_size);
	printf("%zu writes; median %.2f ms, longest %.1f ms\n", n, (double)all[n / 2] / 1e6, (double)all[n - 1] / 1e6);
	free(all);
}

static void start_writers(struct storvsc *c)
{
	if (storvsc_channels(c) < THREADS)
		fail("%u channels, %u are needed: give the machine as many processors", storvsc_channels(c), THREADS);
	for (unsigned i = 0; i < THREADS; i++) {
		struct writer *w = &writer[i];

		w->index = i;
		w->disk = i % DISKS;
		w->channel = storvsc_channel(c, i);
		w->last = calloc(disk_bytes / BLOCK, sizeof(*w->last));
		pthread_mutex_init(&w->lock, NULL);
		if (!w->last || pthread_create(&w->thread, NULL, work, w) != 0)
			fail("out of memory or threads");
	}
}

static void stop_writers(void)
{
	atomic_store(&stop, true);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(writer[i].thread, NULL);
	print_times();
	for (unsigned i = 0; i < THREADS; i++) {
		free(writer[i].note);
		free(writer[i].last);
	}
}

int main(int argc, char **argv)
{
	const struct storvsc_opts opts = { .channels = THREADS };
	size_t since[THREADS] = { 0 }, next[THREADS] = { 0 };
	struct sp_err err = { 0 };
	struct storvsc *c;
	unsigned rounds;

	if (argc != 8)
		return 2;
	rounds = (unsigned)strtoul(argv[2], NULL, 10);
	disk_bytes = strtoull(argv[3], NULL, 10);
	if (storvsc_connect(argv[1], NULL, &opts, &c, &err) < 0)
		fail("%s", sp_err_text(&err));
	start_writers(c);
	for (unsigned i = 1; i <= rounds; i++) {
		uint64_t begun, bytes;

		atomic_store(&current, i);
		usleep(30000);
		notes_now(next);
		begun = now_ns();
		bytes = make_backup(argv[7]);
		check_point(i, argv[4], &argv[5], begun, now_ns());
		if (i > 1 && bytes > (uint64_t)touched_since(since) * MIB)
			fail("point %u: %" PRIu64 " bytes read, of %u MiB written", i, bytes, touched_since(since));
		memcpy(since, next, sizeof(since));
	}
	stop_writers();
	storvsc_close(c);
	return 0;
}
