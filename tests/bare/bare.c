/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bare SCENARIO GUEST.elf - runs a bare guest on /dev/kvm and looks at what it prints, and at how it ends.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/env.h"
#include "tests/bare/host.h"
#include "tests/bare/walk.h"

#define TIMEOUT_MS 30000u

static int failures;

static void expect(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "not as expected: %s\n", what);
	failures++;
}

static uint16_t refuse_message(void *ctx, uint32_t connection_id, const void *payload, unsigned len)
{
	return WALK_NOBODY_STATUS;
}

static void ignore_signal(void *ctx, uint32_t connection_id)
{
}

static const struct bare_host_ops no_ops = { refuse_message, ignore_signal };

/* ---- walk -------------------------------------------------------------------------------------------- */

struct walk {
	struct bare_host host;
	int bound_fd, end_fd;
	unsigned rung, exits;		/* signals that came by eventfd, and by exit */
};

static uint16_t walk_message(void *ctx, uint32_t connection_id, const void *payload, unsigned len)
{
	struct walk *w = ctx;
	struct walk_request request;

	if (connection_id != WALK_MESSAGES)
		return WALK_NOBODY_STATUS;
	expect(len == sizeof(request), "length of a request");
	memcpy(&request, payload, sizeof(request));
	for (uint32_t i = 0; i < request.count; i++) {
		struct walk_reply reply = { .number = i };

		expect(vmm_hv_post(w->host.hv, request.vp, &reply, sizeof(reply)) == 0, "a reply is queued");
	}
	return 0;
}

static void walk_signal(void *ctx, uint32_t connection_id)
{
	struct walk *w = ctx;

	w->exits++;
	vmm_hv_set_event(w->host.hv, 0, connection_id);
}

static const struct bare_host_ops walk_ops = { walk_message, walk_signal };

static void *channel_thread(void *arg)
{
	struct walk *w = arg;
	struct pollfd fd[] = { { .fd = w->bound_fd, .events = POLLIN }, { .fd = w->end_fd, .events = POLLIN } };
	eventfd_t value;

	while (poll(fd, 2, -1) >= 0 && !fd[1].revents) {
		eventfd_read(w->bound_fd, &value);
		w->rung++;
		vmm_hv_set_event(w->host.hv, 0, WALK_BOUND);
	}
	eventfd_read(w->end_fd, &value);
	return NULL;
}

static const char walk_lines[] =
	"walk\n"
	"cpuid: Microsoft Hv, up to 40000005\n"
	"processors: 2\n"
	"msrs\n"
	"hypercalls\n"
	"messages on 0: 1\n"
	"messages on 0: 5\n"
	"signals\n"
	"reference time\n"
	"messages on 1: 2\n"
	"done\n";

static void walk_once(struct walk *w)
{
	uint64_t began = sp_env_monotonic_ns();
	struct sp_err err = { 0 };
	pthread_t thread;
	int reason;

	w->rung = w->exits = 0;
	pthread_create(&thread, NULL, channel_thread, w);
	bare_host_run(&w->host);
	expect(vmm_partition_bind_signal(w->host.partition, WALK_BOUND, w->bound_fd) == 0, "a signal is bound");
	expect(vmm_partition_bind_signal(w->host.partition, WALK_BOUND, w->bound_fd) == -EEXIST, "but once");
	reason = bare_host_wait(&w->host, TIMEOUT_MS, &err);
	eventfd_write(w->end_fd, 1);
	pthread_join(thread, NULL);
	vmm_partition_unbind_signal(w->host.partition, WALK_BOUND, w->bound_fd);
	if (reason != VMM_STOP_POWER_OFF)
		fprintf(stderr, "ended with %d, %s; printed:\n%s\n", reason, sp_err_text(&err), w->host.output);
	expect(reason == VMM_STOP_POWER_OFF, "power off");
	if (strcmp(w->host.output, walk_lines) != 0)
		fprintf(stderr, "printed:\n%s\n", w->host.output);
	expect(strcmp(w->host.output, walk_lines) == 0, "the lines of the walk");
	expect(w->rung == 1 && w->exits == 1, "one signal by eventfd, one by exit");
	printf("walk: %u ms\n", (unsigned)((sp_env_monotonic_ns() - began) / 1000000));
}

/* Twice: a machine that was reset begins like a new one. */
static void walk(const char *elf)
{
	struct walk w = { .bound_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .end_fd = eventfd(0, EFD_CLOEXEC) };

	bare_host_open(&w.host, elf, 2, &walk_ops, &w);
	walk_once(&w);
	walk_once(&w);
	bare_host_close(&w.host);
	close(w.bound_fd);
	close(w.end_fd);
}

/* ---- pause and stop ---------------------------------------------------------------------------------- */

#define PAUSES 10000u			/* the window of a lost kick is small */
#define PATIENCE_MS 3000u			/* for one pause */

struct pauser {
	struct bare_host *host;
	unsigned done;				/* atomic */
};

static void *pause_often(void *arg)
{
	struct pauser *p = arg;

	for (unsigned i = 0; i < PAUSES; i++) {
		vmm_partition_pause(p->host->partition);
		vmm_partition_resume(p->host->partition);
		__atomic_store_n(&p->done, i + 1, __ATOMIC_SEQ_CST);
		/* Shorter and longer than the way of a thread that was woken into the guest. */
		for (volatile unsigned spin = 0; spin < i % 64 * 500; spin++)
			;
	}
	return NULL;
}

static void wait_for_pauses(const struct pauser *p)
{
	unsigned done = 0, idle_ms = 0;

	while (done < PAUSES) {
		unsigned now = __atomic_load_n(&p->done, __ATOMIC_SEQ_CST);

		idle_ms = now == done ? idle_ms + 1 : 0;
		done = now;
		if (idle_ms == PATIENCE_MS) {
			fprintf(stderr, "a kick was lost: a pause does not end\n");
			_exit(1);
		}
		usleep(1000);
	}
}

static void spin(const char *elf)
{
	struct bare_host host;
	struct pauser pauser = { .host = &host };
	uint64_t began = sp_env_monotonic_ns();
	pthread_t thread;
	int reason;

	bare_host_open(&host, elf, 2, &no_ops, NULL);
	bare_host_run(&host);
	for (unsigned i = 0; i < TIMEOUT_MS && !bare_host_printed(&host, "spinning\n"); i++)
		usleep(1000);
	pthread_create(&thread, NULL, pause_often, &pauser);
	wait_for_pauses(&pauser);
	pthread_join(thread, NULL);
	vmm_partition_request(host.partition, VMM_STOP_RESET);
	vmm_partition_request(host.partition, VMM_STOP_POWER_OFF);
	reason = bare_host_wait(&host, TIMEOUT_MS, NULL);
	expect(reason == VMM_STOP_RESET, "the first reason counts");
	bare_host_run(&host);
	usleep(2000);
	expect(vmm_partition_stop(host.partition, NULL) == VMM_STOP_QUIT, "stopped without a reason");
	printf("spin: %u pauses, %u ms\n", PAUSES, (unsigned)((sp_env_monotonic_ns() - began) / 1000000));
	bare_host_close(&host);
}

/* ---- bad ends ---------------------------------------------------------------------------------------- */

static void fall(const char *elf)
{
	struct bare_host host;
	struct vmm_boot_state nowhere = { .mode = VMM_BOOT_PVH, .rip = 0xfee01000 };
	struct sp_err err = { 0 };

	bare_host_open(&host, elf, 1, &no_ops, NULL);
	bare_host_run(&host);
	expect(bare_host_wait(&host, TIMEOUT_MS, NULL) == VMM_STOP_RESET, "a triple fault is a reset");
	expect(strcmp(host.output, "falling\n") == 0, "and not before the guest wants it");
	if (vmm_partition_run(host.partition, &nowhere, &err) < 0)
		abort();
	expect(bare_host_wait(&host, TIMEOUT_MS, &err) == VMM_STOP_ERROR, "no instructions where no RAM is");
	expect(strstr(sp_err_text(&err), "0xfee01000") != NULL, "the error names the place");
	printf("fall: %s\n", sp_err_text(&err));
	bare_host_close(&host);
}

int main(int argc, char **argv)
{
	static const struct { const char *name; void (*run)(const char *elf); } scenarios[] = {
		{ "walk", walk }, { "spin", spin }, { "fall", fall },
	};

	for (unsigned i = 0; argc == 3 && i < SP_ARRAY_SIZE(scenarios); i++) {
		if (strcmp(argv[1], scenarios[i].name) == 0) {
			scenarios[i].run(argv[2]);
			return failures ? 1 : 0;
		}
	}
	fprintf(stderr, "usage: bare walk|spin|fall GUEST.elf\n");
	return 2;
}
