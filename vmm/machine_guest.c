/* SPDX-License-Identifier: BSD-2-Clause */
/* The guest's life: loaded, run, reset, ended; and its last words. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "vmm/json_text.h"
#include "vmm/kernel_file.h"
#include "vmm/machine_int.h"
#include "vmm/machine_snapshot_int.h"

/* ---- what the Hyper-V surface needs ------------------------------------------------------------------- */

static void hv_inject(void *ctx, unsigned vp, uint8_t vector)
{
	struct vmm_machine *m = ctx;

	vmm_partition_inject(m->partition, vp, vector);
}

static uint16_t hv_message(void *ctx, uint32_t connection_id, const void *payload, unsigned len)
{
	struct vmm_machine *m = ctx;

	return (uint16_t)vmm_bus_message(m->bus, connection_id, payload, len);
}

static void hv_signal(void *ctx, uint32_t connection_id)
{
	/* No eventfd took it: the channel has been closed meanwhile. */
}

static uint64_t hv_tsc(void *ctx, unsigned vp)
{
	struct vmm_machine *m = ctx;

	return vmm_partition_tsc(m->partition, vp);
}

static void hv_reset(void *ctx)
{
	struct vmm_machine *m = ctx;

	vmm_partition_request(m->partition, VMM_STOP_RESET);
}

/* On a vCPU thread: kept for the main thread; the first words count. */
static void hv_crash(void *ctx, const uint64_t param[5], const char *text, unsigned len)
{
	struct vmm_machine *m = ctx;
	uint64_t one = 1;

	pthread_mutex_lock(&m->crash_lock);
	if (!m->crashed) {
		len = len < CRASH_TEXT_MAX ? len : CRASH_TEXT_MAX;
		memcpy(m->crash_text, text, len);
		m->crash_text[len] = '\0';
		m->crashed = true;
	}
	pthread_mutex_unlock(&m->crash_lock);
	if (write(m->attention_fd, &one, sizeof(one)) < 0)
		return;			/* full: it is readable anyhow */
}

static const struct vmm_hv_ops hv_ops = {
	.inject = hv_inject, .post_message = hv_message, .signal_event = hv_signal, .reset = hv_reset,
	.crash = hv_crash, .tsc = hv_tsc,
};

/* Console text of a guest may hold anything: printable ASCII and line ends go out. */
static void printable(char *text)
{
	for (; *text; text++)
		if ((*text < ' ' && *text != '\n') || *text > '~')
			*text = '?';
}

static void on_attention(void *ctx, uint32_t events)
{
	struct vmm_machine *m = ctx;
	json_object *data = json_object_new_object();
	uint64_t count;

	if (read(m->attention_fd, &count, sizeof(count)) < 0 || !data) {
		json_object_put(data);
		return;
	}
	pthread_mutex_lock(&m->crash_lock);
	printable(m->crash_text);
	vm_json_add_text(data, "action", "run");
	vm_json_add_text(data, "log", m->crash_text);
	pthread_mutex_unlock(&m->crash_lock);
	machine_event(m, "GUEST_PANICKED", data);
}

/* ---- what the bus needs ------------------------------------------------------------------------------- */

static void bus_post(void *ctx, unsigned vp, const void *payload, unsigned len)
{
	struct vmm_machine *m = ctx;

	vmm_hv_post(m->hv, vp, payload, len);	/* full: a guest that takes no messages loses them */
}

static void bus_set_event(void *ctx, unsigned vp, unsigned flag)
{
	struct vmm_machine *m = ctx;

	vmm_hv_set_event(m->hv, vp, flag);
}

static int bus_bind(void *ctx, uint32_t connection_id, int event_fd)
{
	struct vmm_machine *m = ctx;

	return vmm_partition_bind_signal(m->partition, connection_id, event_fd);
}

static void bus_unbind(void *ctx, uint32_t connection_id, int event_fd)
{
	struct vmm_machine *m = ctx;

	vmm_partition_unbind_signal(m->partition, connection_id, event_fd);
}

/* ---- new, free ---------------------------------------------------------------------------------------- */

static void on_stop(void *ctx, uint32_t events);

static int partition_new(struct vmm_machine *m, struct sp_err *err)
{
	struct vmm_partition_opts opts = {
		.kvm_fd = -1, .cpus = m->config->cpus, .memory = m->memory, .pio = m->pio,
	};
	struct vmm_hv_opts hv = { .vps = m->config->cpus };
	int r = vmm_partition_new(&opts, &m->partition, err);

	if (r < 0)
		return r;
	hv.tsc_hz = vmm_partition_tsc_hz(m->partition);
	hv.invariant_tsc = vmm_partition_invariant_tsc(m->partition);
	r = vmm_hv_new(&hv, m->memory, &hv_ops, m, &m->hv, err);
	if (r < 0)
		return r;
	vmm_partition_set_hv(m->partition, m->hv);
	return 0;
}

static int bus_new(struct vmm_machine *m, struct sp_err *err)
{
	static const struct vmm_bus_ops ops = {
		.post = bus_post, .set_event = bus_set_event, .bind_signal = bus_bind, .unbind_signal = bus_unbind,
	};

	return vmm_bus_new(vmm_memory_bus(m->memory), &ops, m, m->config->cpus, &m->bus, err);
}

static int watches_new(struct vmm_machine *m, struct sp_err *err)
{
	int r;

	m->attention_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->attention_fd < 0)
		return sp_err_set(err, -errno, "eventfd: %s", strerror(errno));
	r = vmm_loop_add(m->loop, m->attention_fd, EPOLLIN, on_attention, m, &m->attention_watch);
	if (r == 0)
		r = vmm_loop_add(m->loop, vmm_partition_stop_fd(m->partition), EPOLLIN, on_stop, m, &m->stop_watch);
	return r < 0 ? sp_err_set(err, r, "event loop: %s", strerror(-r)) : 0;
}

int machine_guest_new(struct vmm_machine *m, struct sp_err *err)
{
	int r = vmm_memory_new(m->config->memory, &m->memory, err);

	if (r == 0 && vmm_pio_new(&m->pio) < 0)
		r = sp_err_set(err, -ENOMEM, "out of memory");
	if (r == 0)
		r = partition_new(m, err);
	if (r == 0)
		r = watches_new(m, err);
	return r == 0 ? bus_new(m, err) : r;
}

void machine_guest_free(struct vmm_machine *m)
{
	vmm_loop_remove(m->stop_watch);
	vmm_loop_remove(m->attention_watch);
	if (m->partition)
		vmm_partition_free(m->partition);
	vmm_hv_free(m->hv);
	vmm_pio_free(m->pio);
	vmm_memory_free(m->memory);
	if (m->attention_fd >= 0)
		close(m->attention_fd);
}

/* ---- load, run ---------------------------------------------------------------------------------------- */

/* A file of the host, opened by the broker: reading is allowed in the jail, opening is not. */
static int read_all(int fd, uint8_t **ret_bytes, size_t *ret_len)
{
	off_t len = lseek(fd, 0, SEEK_END);
	uint8_t *bytes;
	size_t at = 0;

	if (len < 0)
		return -errno;
	if ((uint64_t)len > VMM_KERNEL_FILE_MAX)
		return -EFBIG;
	bytes = sp_alloc((size_t)len + 1);
	if (!bytes)
		return -ENOMEM;
	while (at < (size_t)len) {
		ssize_t n = pread(fd, bytes + at, (size_t)len - at, (off_t)at);

		if (n <= 0) {
			sp_free(bytes);
			return n < 0 ? -errno : -EIO;
		}
		at += (size_t)n;
	}
	*ret_bytes = bytes;
	*ret_len = at;
	return 0;
}

static int read_by_broker(struct vmm_machine *m, const char *name, uint8_t **ret_bytes, size_t *ret_len,
			  struct sp_err *err)
{
	int fd, r = vmm_broker_open(m->broker, name, O_RDONLY | O_CLOEXEC, &fd, err);

	if (r < 0)
		return r;
	r = read_all(fd, ret_bytes, ret_len);
	close(fd);
	return r < 0 ? sp_err_set(err, r, "%s: %s", name, strerror(-r)) : 0;
}

static int read_boot_file(struct vmm_machine *m, const char *name, uint8_t **ret_bytes, size_t *ret_len,
			  struct sp_err *err)
{
	struct vhd_disk *disk[VMM_CONTROLLERS * VMM_LUNS];
	struct vmm_kernel_file where;
	unsigned disks = 0;
	int r = vmm_kernel_file_parse(name, &where, err);

	if (r < 0)
		return r;
	if (!where.in_disk && m->broker)
		return read_by_broker(m, name, ret_bytes, ret_len, err);
	for (struct machine_disk *d = m->disks; d; d = d->next)
		disk[disks++] = d->disk;
	return vmm_kernel_file_read(name, disk, disks, ret_bytes, ret_len, err);
}

int machine_guest_load(struct vmm_machine *m, struct sp_err *err)
{
	struct vmm_boot_opts opts = { .command_line = m->config->append, .cpus = m->config->cpus };
	SP_AUTO_FREE uint8_t *kernel = NULL, *initrd = NULL;
	int r = read_boot_file(m, m->config->kernel, &kernel, &opts.kernel_len, err);

	if (r == 0 && m->config->initrd)
		r = read_boot_file(m, m->config->initrd, &initrd, &opts.initrd_len, err);
	if (r < 0)
		return r;
	opts.kernel = kernel;
	opts.initrd = initrd;
	r = vmm_boot_load(m->memory, &opts, &m->boot, err);
	return r < 0 ? sp_err_prefix(err, r, "%s", m->config->kernel) : 0;
}

int machine_guest_run(struct vmm_machine *m, struct sp_err *err)
{
	int r = vmm_partition_run(m->partition, &m->boot, err);

	m->started = m->started || r == 0;
	return r;
}

/* ---- stop, reset -------------------------------------------------------------------------------------- */

void machine_end(struct vmm_machine *m, enum vmm_state state)
{
	if (m->ending)
		return;
	m->ending = true;
	m->state = state;
	machine_event(m, "SHUTDOWN", NULL);
	if (m->ended)
		m->ended(m->ended_ctx);
}

/* The processors stand: everything as after power on, except for disks and their contents. */
static int reboot(struct vmm_machine *m, struct sp_err *err)
{
	int r;

	vmm_bus_reset(m->bus);
	vmm_hv_reset(m->hv);
	vmm_serial_reset(m->serial);
	for (unsigned c = 0; c < VMM_CONTROLLERS; c++)
		if (m->controller[c].vsp)
			storvsp_power_on(m->controller[c].vsp);
	r = vmm_memory_clear(m->memory);
	if (r < 0)
		return sp_err_set(err, r, "cannot clear the guest's memory: %s", strerror(-r));
	pthread_mutex_lock(&m->crash_lock);
	m->crashed = false;
	pthread_mutex_unlock(&m->crash_lock);
	r = machine_guest_load(m, err);
	if (r == 0 && m->state == VMM_PAUSED)
		vmm_partition_resume(m->partition);	/* it counts: once for the one pause */
	if (r == 0)
		r = machine_guest_run(m, err);
	if (r == 0) {
		m->resets++;
		machine_snapshot_reset(m);
		m->state = VMM_RUNNING;
		machine_event(m, "RESET", NULL);
	}
	return r;
}

static void failed(struct vmm_machine *m, const struct sp_err *err)
{
	json_object *data = json_object_new_object();

	if (data)
		vm_json_add_text(data, "reason", sp_err_text(err));
	m->failure = *err;
	machine_event(m, "INTERNAL_ERROR", data);
	machine_end(m, VMM_FAILED);
}

static void on_stop(void *ctx, uint32_t events)
{
	struct vmm_machine *m = ctx;
	struct sp_err err = { 0 };
	enum vmm_stop reason = vmm_partition_stop(m->partition, &err);

	m->started = false;
	if (reason == VMM_STOP_RESET && !m->config->no_reboot) {
		if (reboot(m, &err) < 0)
			failed(m, &err);
	} else if (reason == VMM_STOP_ERROR) {
		failed(m, &err);
	} else {
		machine_end(m, VMM_SHUTDOWN);
	}
}
