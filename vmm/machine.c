/* SPDX-License-Identifier: BSD-2-Clause */
#include "vmm/machine_int.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/env.h"
#include "vmm/machine_snapshot_int.h"

const char *vmm_state_name(enum vmm_state s)
{
	static const char *const name[] = { "prelaunch", "running", "paused", "shutdown", "internal-error" };

	return name[s];
}

enum vmm_state vmm_machine_state(const struct vmm_machine *m)
{
	return m->state;
}

const struct vmm_config *vmm_machine_config(const struct vmm_machine *m)
{
	return m->config;
}

const struct sp_err *vmm_machine_failure(const struct vmm_machine *m)
{
	return &m->failure;
}

/* ---- events ------------------------------------------------------------------------------------------ */

int vmm_machine_on_event(struct vmm_machine *m, vmm_event_fn fn, void *ctx)
{
	if (m->listeners == MACHINE_LISTENERS)
		return -ENOSPC;
	m->listener[m->listeners].fn = fn;
	m->listener[m->listeners++].ctx = ctx;
	return 0;
}

void vmm_machine_off_event(struct vmm_machine *m, vmm_event_fn fn, void *ctx)
{
	for (unsigned i = 0; i < m->listeners; i++) {
		if (m->listener[i].fn != fn || m->listener[i].ctx != ctx)
			continue;
		m->listener[i] = m->listener[--m->listeners];
		return;
	}
}

void machine_event(struct vmm_machine *m, const char *name, void *data)
{
	for (unsigned i = 0; i < m->listeners; i++)
		m->listener[i].fn(m->listener[i].ctx, name, json_object_get(data));
	json_object_put(data);
}

void vmm_machine_on_end(struct vmm_machine *m, void (*ended)(void *ctx), void *ctx)
{
	m->ended = ended;
	m->ended_ctx = ctx;
}

/* ---- services ---------------------------------------------------------------------------------------- */

static uint64_t reference_time(void *ctx)
{
	struct vmm_machine *m = ctx;

	return vmm_hv_reference_time(m->hv);
}

static bool is_paused(void *ctx)
{
	struct vmm_machine *m = ctx;

	return m->state != VMM_RUNNING;
}

static int services_new(struct vmm_machine *m, struct sp_err *err)
{
	const struct vmm_ic_host host = { .reference_time = reference_time, .paused = is_paused, .ctx = m };

	for (unsigned kind = 0; kind < MACHINE_SERVICES; kind++) {
		uint32_t id;
		int r = vmm_ic_new(kind, m->loop, &host, &m->service[kind], err);

		if (r == 0)
			r = vmm_bus_offer(m->bus, vmm_ic_offer(m->service[kind]), &id);
		if (r < 0)
			return sp_err_prefix(err, r, "integration services");
	}
	return 0;
}

/* ---- together and apart ------------------------------------------------------------------------------ */

int vmm_machine_new(const struct vmm_config *config, struct vmm_loop *loop, struct vmm_broker *broker,
		    struct vmm_machine **ret_machine, struct sp_err *err)
{
	struct vmm_machine *m = sp_zalloc(sizeof(*m));
	int r;

	if (!m)
		return sp_err_set(err, -ENOMEM, "out of memory");
	m->config = config;
	m->here = realpath(".", NULL);	/* while folders can be looked at */
	m->loop = loop;
	m->broker = broker;
	m->state = VMM_STARTING;
	m->attention_fd = -1;
	pthread_mutex_init(&m->crash_lock, NULL);
	r = machine_guest_new(m, err);
	if (r == 0)
		r = machine_console_new(m, err);
	if (r == 0)
		r = machine_recover(m, err);
	if (r == 0)
		r = machine_disks_new(m, err);
	if (r == 0)
		r = services_new(m, err);
	if (r == 0)
		r = machine_snapshots_new(m, err);
	if (r == 0)
		r = machine_guest_load(m, err);
	if (r < 0) {
		vmm_machine_free(m);
		return r;
	}
	*ret_machine = m;
	return 0;
}

void vmm_machine_free(struct vmm_machine *m)
{
	if (!m)
		return;
	if (m->partition && m->started)
		vmm_partition_stop(m->partition, NULL);
	vmm_bus_free(m->bus);		/* closes every channel: nobody touches the memory any more */
	machine_snapshots_free(m);
	machine_disks_free(m);
	for (unsigned i = 0; i < MACHINE_SERVICES; i++)
		vmm_ic_free(m->service[i]);
	machine_console_free(m);
	machine_guest_free(m);
	pthread_mutex_destroy(&m->crash_lock);
	free(m->here);
	sp_free(m);
}

void vmm_machine_seal(struct vmm_machine *m)
{
	m->sealed = true;
}

int vmm_machine_start(struct vmm_machine *m, struct sp_err *err)
{
	int r;

	m->started_ns = sp_env_monotonic_ns();
	if (m->config->paused) {
		m->state = VMM_PAUSED;
		return 0;
	}
	r = machine_guest_run(m, err);
	if (r == 0)
		m->state = VMM_RUNNING;
	return r;
}

/* ---- states ------------------------------------------------------------------------------------------ */

int vmm_machine_pause(struct vmm_machine *m)
{
	if (m->state == VMM_PAUSED)
		return 0;
	if (m->state != VMM_RUNNING)
		return -EINVAL;
	vmm_partition_pause(m->partition);
	m->state = VMM_PAUSED;
	machine_event(m, "STOP", NULL);
	return 0;
}

int vmm_machine_resume(struct vmm_machine *m)
{
	int r = 0;

	if (m->state == VMM_RUNNING)
		return 0;
	if (m->state != VMM_PAUSED)
		return -EINVAL;
	if (m->started)
		vmm_partition_resume(m->partition);
	else
		r = machine_guest_run(m, NULL);
	if (r < 0)
		return r;
	m->state = VMM_RUNNING;
	vmm_ic_sync_time(m->service[VMM_IC_TIMESYNC]);	/* its clock stood still */
	machine_event(m, "RESUME", NULL);
	return 0;
}

static void powerdown_answered(void *ctx, int res)
{
	struct vmm_machine *m = ctx;

	if (res < 0)
		machine_event(m, "POWERDOWN_REFUSED", NULL);
}

int vmm_machine_powerdown(struct vmm_machine *m, bool reboot, struct sp_err *err)
{
	int r;

	if (m->state != VMM_RUNNING)
		return sp_err_set(err, -EINVAL, "the machine is %s", vmm_state_name(m->state));
	r = vmm_ic_shutdown(m->service[VMM_IC_SHUTDOWN], reboot, powerdown_answered, m);
	if (r == -ENOTCONN)
		return sp_err_set(err, r, "no shutdown service runs in the guest (module hv_utils); \"quit\" switches "
				  "it off hard");
	if (r < 0)
		return sp_err_set(err, r, "the guest has been asked already");
	machine_event(m, "POWERDOWN", NULL);
	return 0;
}

void vmm_machine_quit(struct vmm_machine *m)
{
	if (m->started && !m->ending)
		vmm_partition_request(m->partition, VMM_STOP_QUIT);
	else
		machine_end(m, VMM_SHUTDOWN);
}

int vmm_machine_reset(struct vmm_machine *m, struct sp_err *err)
{
	if (!m->started)
		return sp_err_set(err, -EINVAL, "the machine does not run");
	vmm_partition_request(m->partition, VMM_STOP_RESET);
	return 0;
}
