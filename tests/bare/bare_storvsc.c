/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bare_storvsc GUEST.elf - a bare guest with a bus, a controller and disks: one in an image, one that hangs, one that
 * comes and goes. Twice: a machine that was reset begins like a new one.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/env.h"
#include "storvsp/storvsp.h"
#include "tests/bare/host.h"
#include "tests/support/gate_backend.h"
#include "vhd/ops.h"
#include "vmm/vmbus_server.h"

#define TIMEOUT_MS 30000u
#define CPUS 2u
#define DISK_SIZE SP_MIB(16)
#define FLIGHT 8u
#define LUN(n) ((struct storvsp_address){ .lun = (n) })

struct machine {
	struct bare_host host;
	struct vmm_bus *bus;
	struct storvsp *controller;
	struct vhd_disk *disk;
	struct gate *slow;
	char folder[64], image[96];
	pthread_t operator;
	bool over;			/* atomic */
};

static void must(int r, const char *what, const struct sp_err *err)
{
	if (r >= 0)
		return;
	fprintf(stderr, "%s: %s; %s\n", what, strerror(-r), err ? sp_err_text(err) : "");
	exit(1);
}

/* ---- between surface and bus ------------------------------------------------------------------------- */

static uint16_t post_message(void *ctx, uint32_t connection_id, const void *payload, unsigned len)
{
	return (uint16_t)vmm_bus_message(((struct machine *)ctx)->bus, connection_id, payload, len);
}

static void signal_event(void *ctx, uint32_t connection_id)
{
}

static void bus_post(void *ctx, unsigned vp, const void *payload, unsigned len)
{
	must(vmm_hv_post(((struct machine *)ctx)->host.hv, vp, payload, len), "message", NULL);
}

static void bus_set_event(void *ctx, unsigned vp, unsigned flag)
{
	vmm_hv_set_event(((struct machine *)ctx)->host.hv, vp, flag);
}

static int bus_bind(void *ctx, uint32_t connection_id, int event_fd)
{
	return vmm_partition_bind_signal(((struct machine *)ctx)->host.partition, connection_id, event_fd);
}

static void bus_unbind(void *ctx, uint32_t connection_id, int event_fd)
{
	vmm_partition_unbind_signal(((struct machine *)ctx)->host.partition, connection_id, event_fd);
}

static const struct bare_host_ops host_ops = { post_message, signal_event };
static const struct vmm_bus_ops bus_ops = {
	.post = bus_post, .set_event = bus_set_event, .bind_signal = bus_bind, .unbind_signal = bus_unbind,
};

/* ---- disks ------------------------------------------------------------------------------------------- */

static void attach(struct machine *m, uint8_t lun, struct scsi_backend *backend)
{
	struct scsi_lu_opts o = { .kind = SCSI_DISK, .backend = backend, .identity = { { 9, 8, 7, lun } } };
	struct sp_err err = { 0 };
	struct scsi_lu *lu;

	must(scsi_lu_new(&o, &lu, &err), "unit", &err);
	must(storvsp_attach(m->controller, LUN(lun), lu, NULL, TIMEOUT_MS, &err), "attach", &err);
}

static void make_disk(struct machine *m)
{
	struct vhd_create_opts create = { .format = VHD_FORMAT_VHDX, .size = DISK_SIZE, .block_size = 1u << 20 };
	struct vhd_open_opts open = { .flags = VHD_OPEN_WRITE };
	struct scsi_backend *backend;
	struct sp_err err = { 0 };

	snprintf(m->folder, sizeof(m->folder), "/tmp/bare_storvsc.XXXXXX");
	if (!mkdtemp(m->folder))
		must(-errno, "folder", NULL);
	snprintf(m->image, sizeof(m->image), "%s/disk.vhdx", m->folder);
	must(vhd_create(m->image, &create, &err), "create", &err);
	must(vhd_disk_open(m->image, &open, &m->disk, &err), "open", &err);
	must(scsi_backend_disk(m->disk, &backend), "backend", NULL);
	attach(m, 0, backend);
}

/* What the guest wrote last at the start of each processor's region. */
static bool disk_as_expected(struct machine *m)
{
	bool same = true;

	for (unsigned cpu = 0; cpu < CPUS; cpu++) {
		uint64_t word[2];

		must(vhd_disk_read(m->disk, word, sizeof(word), cpu * SP_MIB(4)), "read", NULL);
		same &= word[0] == (cpu * 100 + 1) * 0x9e3779b97f4a7c15u && word[1] == word[0] + 1;
	}
	return same;
}

/* ---- who does what the guest waits for --------------------------------------------------------------- */

static bool wait_line(struct machine *m, const char *line)
{
	while (!bare_host_printed(&m->host, line)) {
		if (__atomic_load_n(&m->over, __ATOMIC_ACQUIRE))
			return false;
		usleep(500);
	}
	return true;
}

static void *operate(void *arg)
{
	struct machine *m = arg;
	struct gate *hot;

	if (!wait_line(m, "\nplug\n"))
		return NULL;
	hot = gate_new(SP_MIB(1));
	attach(m, 1, gate_backend(hot));
	if (!wait_line(m, "\nunplug\n"))
		return NULL;
	storvsp_detach(m->controller, LUN(1), NULL);
	if (!wait_line(m, "\nresetting\n"))
		return NULL;
	gate_wait(m->slow, FLIGHT);
	usleep(10000);
	gate_open(m->slow);
	return NULL;
}

/* ---- the machine ------------------------------------------------------------------------------------- */

static const char expected[] =
	"storvsc\n"
	"offers: 1\n"
	"protocol: 602, transfers of 1048576\n"
	"channels: 2\n"
	"read, write, flush, unmap\n"
	"plug\n"
	"unplug\n"
	"unplugged\n"
	"resetting\n"
	"reset\n"
	"done\n";

static void open_machine(struct machine *m, const char *elf)
{
	struct storvsp_opts opts = { .name = "scsi0", .max_subchannels = CPUS - 1 };
	struct sp_err err = { 0 };
	uint32_t id;

	bare_host_open(&m->host, elf, CPUS, &host_ops, m);
	must(vmm_bus_new(vmm_memory_bus(m->host.memory), &bus_ops, m, CPUS, &m->bus, &err), "bus", &err);
	must(storvsp_new(&opts, &m->controller, &err), "controller", &err);
	make_disk(m);
	m->slow = gate_new(SP_MIB(1));
	attach(m, 2, gate_backend(m->slow));
	must(vmm_bus_offer(m->bus, storvsp_offer(m->controller), &id), "offer", NULL);
}

static void close_machine(struct machine *m)
{
	struct sp_err err = { 0 };

	vmm_bus_free(m->bus);
	storvsp_free(m->controller);
	must(vhd_disk_close(m->disk, &err), "close", &err);
	unlink(m->image);
	rmdir(m->folder);
	bare_host_close(&m->host);
}

static bool run_once(struct machine *m)
{
	uint64_t began = sp_env_monotonic_ns();
	struct sp_err err = { 0 };
	int reason;

	gate_shut(m->slow);
	__atomic_store_n(&m->over, false, __ATOMIC_RELEASE);
	bare_host_run(&m->host);
	pthread_create(&m->operator, NULL, operate, m);	/* now: it shall not see what the last guest printed */
	reason = bare_host_wait(&m->host, TIMEOUT_MS, &err);
	__atomic_store_n(&m->over, true, __ATOMIC_RELEASE);
	pthread_join(m->operator, NULL);
	gate_open(m->slow);
	vmm_bus_reset(m->bus);
	if (reason != VMM_STOP_POWER_OFF || strcmp(m->host.output, expected) != 0) {
		fprintf(stderr, "ended with %d, %s; printed:\n%s\n", reason, sp_err_text(&err), m->host.output);
		return false;
	}
	printf("storvsc: %u ms\n", (unsigned)((sp_env_monotonic_ns() - began) / 1000000));
	return disk_as_expected(m);
}

int main(int argc, char **argv)
{
	static struct machine m;
	bool fine;

	if (argc != 2) {
		fprintf(stderr, "usage: bare_storvsc GUEST.elf\n");
		return 2;
	}
	open_machine(&m, argv[1]);
	fine = run_once(&m) && run_once(&m);
	close_machine(&m);
	return fine ? 0 : 1;
}
