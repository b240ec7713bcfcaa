/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/bare/host.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"

static void die(const char *what, const struct sp_err *err)
{
	fprintf(stderr, "%s: %s\n", what, sp_err_text(err));
	exit(1);
}

/* ---- devices ----------------------------------------------------------------------------------------- */

static uint32_t console_read(void *device, uint16_t port, unsigned size)
{
	return port == 5 ? 0x60 : 0;		/* LSR: ready for the next byte */
}

static void console_write(void *device, uint16_t port, unsigned size, uint32_t value)
{
	struct bare_host *h = device;

	if (port != 0)
		return;
	pthread_mutex_lock(&h->lock);
	if (h->output_len < sizeof(h->output) - 1)
		h->output[h->output_len++] = (char)value;
	pthread_mutex_unlock(&h->lock);
}

static uint32_t power_read(void *device, uint16_t port, unsigned size)
{
	return 0;
}

static void power_write(void *device, uint16_t port, unsigned size, uint32_t value)
{
	struct bare_host *h = device;

	if (VMM_PORT_SLEEP + port == VMM_PORT_RESET)
		vmm_partition_request(h->partition, VMM_STOP_RESET);
	else if (value & 1u << 5)
		vmm_partition_request(h->partition, VMM_STOP_POWER_OFF);
}

static const struct vmm_pio_ops console_ops = { console_read, console_write };
static const struct vmm_pio_ops power_ops = { power_read, power_write };

/* ---- what the surface asks for ----------------------------------------------------------------------- */

static void inject(void *ctx, unsigned vp, uint8_t vector)
{
	vmm_partition_inject(((struct bare_host *)ctx)->partition, vp, vector);
}

static uint64_t tsc(void *ctx, unsigned vp)
{
	return vmm_partition_tsc(((struct bare_host *)ctx)->partition, vp);
}

static uint16_t post_message(void *ctx, uint32_t connection_id, const void *payload, unsigned len)
{
	struct bare_host *h = ctx;

	return h->ops->post_message(h->ctx, connection_id, payload, len);
}

static void signal_event(void *ctx, uint32_t connection_id)
{
	struct bare_host *h = ctx;

	h->ops->signal_event(h->ctx, connection_id);
}

static void reset(void *ctx)
{
	vmm_partition_request(((struct bare_host *)ctx)->partition, VMM_STOP_RESET);
}

static void crash(void *ctx, const uint64_t param[5], const char *text, unsigned len)
{
	fprintf(stderr, "the guest says it crashed: %s\n", text);
}

static const struct vmm_hv_ops hv_ops = {
	.inject = inject, .tsc = tsc, .post_message = post_message, .signal_event = signal_event, .reset = reset,
	.crash = crash,
};

/* ---- life -------------------------------------------------------------------------------------------- */

static void read_image(struct bare_host *h, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0 || !(h->image = malloc((size_t)st.st_size)) ||
	    read(fd, h->image, (size_t)st.st_size) != st.st_size) {
		perror(path);
		exit(1);
	}
	close(fd);
	h->image_len = (size_t)st.st_size;
}

void bare_host_open(struct bare_host *h, const char *elf, unsigned cpus, const struct bare_host_ops *ops, void *ctx)
{
	struct vmm_partition_opts opts = { .kvm_fd = -1, .cpus = cpus, .trace = true };
	struct vmm_hv_opts hv_opts = { .vps = cpus };
	struct sp_err err = { 0 };

	*h = (struct bare_host){ .ops = ops, .ctx = ctx };
	pthread_mutex_init(&h->lock, NULL);
	read_image(h, elf);
	if (vmm_memory_new(SP_MIB(32), &h->memory, &err) < 0 || vmm_pio_new(&h->pio) < 0)
		die("memory", &err);
	vmm_pio_claim(h->pio, VMM_PORT_COM1, 8, &console_ops, h);
	vmm_pio_claim(h->pio, VMM_PORT_SLEEP, 3, &power_ops, h);
	opts.memory = h->memory;
	opts.pio = h->pio;
	if (vmm_partition_new(&opts, &h->partition, &err) < 0) {
		fprintf(stderr, "no usable KVM: %s\n", sp_err_text(&err));
		exit(BARE_SKIP);
	}
	hv_opts.tsc_hz = vmm_partition_tsc_hz(h->partition);
	hv_opts.invariant_tsc = vmm_partition_invariant_tsc(h->partition);
	if (vmm_hv_new(&hv_opts, h->memory, &hv_ops, h, &h->hv, &err) < 0)
		die("surface", &err);
	vmm_partition_set_hv(h->partition, h->hv);
}

void bare_host_close(struct bare_host *h)
{
	vmm_partition_free(h->partition);
	vmm_hv_free(h->hv);
	vmm_pio_free(h->pio);
	vmm_memory_free(h->memory);
	free(h->image);
	pthread_mutex_destroy(&h->lock);
}

void bare_host_run(struct bare_host *h)
{
	struct vmm_boot_opts opts = { .kernel = h->image, .kernel_len = h->image_len, .cpus = 1 };
	struct vmm_boot_state boot;
	struct sp_err err = { 0 };

	h->output_len = 0;
	memset(h->output, 0, sizeof(h->output));
	if (vmm_memory_clear(h->memory) < 0 || vmm_boot_load(h->memory, &opts, &boot, &err) < 0)
		die("boot", &err);
	vmm_hv_reset(h->hv);
	if (vmm_partition_run(h->partition, &boot, &err) < 0)
		die("run", &err);
}

int bare_host_wait(struct bare_host *h, unsigned ms, struct sp_err *err)
{
	struct pollfd fd = { .fd = vmm_partition_stop_fd(h->partition), .events = POLLIN };
	bool stopped = poll(&fd, 1, (int)ms) == 1;
	int reason = (int)vmm_partition_stop(h->partition, err);

	return stopped ? reason : -1;
}

bool bare_host_printed(struct bare_host *h, const char *text)
{
	bool found;

	pthread_mutex_lock(&h->lock);
	found = strstr(h->output, text);
	pthread_mutex_unlock(&h->lock);
	return found;
}
