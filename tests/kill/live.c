/* SPDX-License-Identifier: BSD-2-Clause */
/*
 *   kill-live [--kills N] [--seed S] FOLDER...
 *
 * kill -9 of a process that takes snapshots of a disk and merges them away again while a queue writes to it. What is
 * found is recovered as at the start of a machine, opened, and compared with what had been acknowledged; the next
 * process goes on with it, rests of snapshots and merges included. In the end all of them are merged away.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "tests/support/fail.h"
#include "tests/support/load.h"
#include "tests/support/rng.h"
#include "vhd/live.h"
#include "vhd/ops.h"

#define SNAPSHOTS_MAX 4u

struct place {
	char dir[256], path[300];
	enum vhd_format_id format;
	struct rng rng;
	struct load *load;
	uint64_t kills, dropped, completed, snapshots, rests;
};

static char dirs[4][256];		/* to be removed whatever happens */

static void clean_up(void)
{
	char command[300];

	for (size_t i = 0; i < SP_ARRAY_SIZE(dirs) && dirs[i][0]; i++) {
		snprintf(command, sizeof(command), "rm -rf '%.255s'", dirs[i]);
		if (system(command) != 0)
			fprintf(stderr, "cannot remove %s\n", dirs[i]);
	}
}

/* ---- the process that dies ------------------------------------------------------------------------ */

struct worker {
	struct place *p;
	struct vhd_disk *d;
	atomic_bool stop;
	uint64_t seed;
};

static void *write_on(void *arg)
{
	struct worker *w = arg;

	if (load_run(w->p->load, w->d, w->seed, &w->stop) < 0)
		_exit(2);
	return NULL;
}

static int take(struct worker *w, struct rng *rng)
{
	char name[32];
	struct vhd_live_opts o = { .name = name };
	struct vhd_live_set *set;
	struct sp_err err = { 0 };
	int r;

	snprintf(name, sizeof(name), "s%08x", (unsigned)rng_u64(rng));
	r = vhd_live_prepare(&w->d, 1, &o, &set, &err);
	if (r == 0 && rng_chance(rng, 1, 6)) {
		vhd_live_abort(set);
		return 0;
	}
	if (r == 0)
		r = vhd_live_commit(set, false, NULL, &err);
	if (r == 0)
		r = vhd_live_finish(set, "crash", &err);
	if (r < 0)
		fprintf(stderr, "snapshot: %s\n", sp_err_text(&err));
	return r;
}

/* A rest of a merge is merged on by the name of its snapshot. */
static int merge(struct vhd_disk *d, const struct vhd_live_snapshot *s)
{
	struct vhd_live_merge_opts o = { .small = 256 << 10 };
	struct sp_err err = { 0 };
	char name[256];
	int r;

	snprintf(name, sizeof(name), "%s", s->name);
	if (s->merging)
		*strstr(name, "~merge") = '\0';
	r = vhd_live_merge(d, name, &o, NULL, NULL, &err);
	if (r < 0 && r != -EAGAIN)
		fprintf(stderr, "merge of %s: %s\n", name, sp_err_text(&err));
	return r == -EAGAIN ? 0 : r;
}

/* VHD: the newest one; VHDX: any. */
static int merge_one(struct vhd_disk *d, enum vhd_format_id format, struct rng *rng)
{
	struct vhd_live_snapshot *list;
	size_t count, at;
	int r = vhd_live_list(d, &list, &count, NULL);

	if (r < 0)
		return r;
	at = format == VHD_FORMAT_VHDX && count > 0 ? rng_below(rng, count) : 0;
	r = count > 0 ? merge(d, &list[at]) : 0;
	vhd_live_list_free(list);
	return r;
}

static struct vhd_disk *open_disk(struct place *p)
{
	struct vhd_open_opts o = { .flags = VHD_OPEN_WRITE };
	struct sp_err err = { 0 };
	struct vhd_disk *d;

	if (vhd_disk_open(p->path, &o, &d, &err) < 0)
		fail("%s: %s", p->path, sp_err_text(&err));
	return d;
}

/* Until killed. */
__attribute__((noreturn)) static void live(struct place *p, uint64_t seed)
{
	struct worker w = { .p = p, .d = open_disk(p), .seed = seed };
	pthread_t thread;
	struct rng rng;
	int r = 0;

	rng_init(&rng, seed + 1);
	if (pthread_create(&thread, NULL, write_on, &w) != 0)
		_exit(2);
	while (r == 0) {
		if (vhd_disk_layers(w.d) <= 1 || (vhd_disk_layers(w.d) <= SNAPSHOTS_MAX && rng_chance(&rng, 3, 5)))
			r = take(&w, &rng);
		else
			r = merge_one(w.d, p->format, &rng);
	}
	_exit(3);
}

/* ---- what it leaves ------------------------------------------------------------------------------- */

static void recover(struct place *p)
{
	enum vhd_live_outcome outcome;
	struct vhd_live_place at = { .image = strrchr(p->path, '/') + 1 };
	struct sp_err err = { 0 };

	if (store_folder_host(p->dir, &at.folder, &err) < 0 || vhd_live_recover(&at, 1, &outcome, &err) < 0)
		fail("%s: cannot be recovered: %s", p->path, sp_err_text(&err));
	store_folder_close(at.folder);
	p->dropped += outcome == VHD_LIVE_DROPPED;
	p->completed += outcome == VHD_LIVE_COMPLETED;
}

static void verify(struct place *p)
{
	char text[512];

	if (load_verify(p->load, p->path, true, NULL, text, sizeof(text)) < 0)
		fail("%s after kill -9: %s", p->path, text);
}

static void kill_once(struct place *p)
{
	uint64_t seed = rng_u64(&p->rng);
	int status;
	pid_t child;

	atomic_store(&p->load->running, false);
	child = fork();
	if (child == 0)
		live(p, seed);
	while (!atomic_load(&p->load->running) && waitpid(child, &status, WNOHANG) == 0)
		usleep(200);
	usleep((useconds_t)rng_below(&p->rng, 250000));
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	if (WIFEXITED(status))
		fail("%s: the process ended by itself with %d", p->path, WEXITSTATUS(status));
	p->kills++;
	recover(p);
	verify(p);
}

static void merge_all(struct place *p)
{
	struct vhd_disk *d = open_disk(p);
	struct sp_err err = { 0 };

	while (vhd_disk_layers(d) > 1) {
		struct vhd_live_snapshot *list;
		size_t count;

		if (vhd_live_list(d, &list, &count, &err) < 0 || count == 0)
			fail("%s: %u layers, and no snapshot", p->path, vhd_disk_layers(d));
		p->snapshots++;
		p->rests += list[0].merging;
		if (merge(d, &list[0]) < 0)
			fail("%s: %s cannot be merged in the end", p->path, list[0].name);
		vhd_live_list_free(list);
	}
	if (vhd_disk_close(d, &err) < 0)
		fail("%s: %s", p->path, sp_err_text(&err));
	verify(p);
}

static void one_disk(struct place *p, unsigned kills)
{
	struct vhd_create_opts o = { .format = p->format, .size = LOAD_SIZE };
	struct sp_err err = { 0 };

	snprintf(p->path, sizeof(p->path), "%s/disk.%s", p->dir, vhd_format_name(p->format));
	if (vhd_create(p->path, &o, &err) < 0)
		fail("%s: %s", p->path, sp_err_text(&err));
	p->load = load_new();
	for (unsigned i = 0; i < kills; i++)
		kill_once(p);
	merge_all(p);
	printf("kill-live %s: %" PRIu64 " killed, %" PRIu64 " sets taken back and %" PRIu64 " completed, %" PRIu64
	       " layers left of which %" PRIu64 " of merges, %" PRIu64 " writes acknowledged, 0 lost\n",
	       p->path, p->kills, p->dropped, p->completed, p->snapshots, p->rests, atomic_load(&p->load->writes));
	load_free(p->load);
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "kills", 1, NULL, 'n' }, { "seed", 1, NULL, 's' }, { 0 } };
	static const enum vhd_format_id formats[] = { VHD_FORMAT_VHDX, VHD_FORMAT_VHD };
	unsigned kills = 60, folders;
	uint64_t seed = 0;
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 'n': kills = (unsigned)strtoul(optarg, NULL, 0); break;
		case 's': seed = strtoull(optarg, NULL, 0); break;
		default: return 2;
		}
	}
	folders = (unsigned)(argc - optind);
	if (folders < 1 || folders > SP_ARRAY_SIZE(dirs))
		return 2;
	atexit(clean_up);
	if (seed == 0)
		seed = test_seed("kill-live");
	for (unsigned i = 0; i < folders; i++) {
		snprintf(dirs[i], sizeof(dirs[i]), "%s/spindle-kill-XXXXXX", argv[optind + (int)i]);
		if (!mkdtemp(dirs[i]))
			fail("%s: %s", dirs[i], strerror(errno));
		for (size_t f = 0; f < SP_ARRAY_SIZE(formats); f++) {
			struct place p = { .format = formats[f] };

			memcpy(p.dir, dirs[i], sizeof(p.dir));
			rng_init(&p.rng, seed + 10 * i + f);
			one_disk(&p, sp_div_ceil(kills, folders * (unsigned)SP_ARRAY_SIZE(formats)));
		}
	}
	return 0;
}
