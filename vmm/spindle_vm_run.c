/* SPDX-License-Identifier: BSD-2-Clause */
/* "run": the machine's process from options to exit status. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "vmm/broker.h"
#include "vmm/config_int.h"
#include "vmm/control.h"
#include "vmm/jail.h"
#include "vmm/machine.h"
#include "vmm/spindle_vm.h"

enum { OPT_DVD = 256, OPT_MEM, OPT_CPUS, OPT_KERNEL, OPT_INITRD, OPT_APPEND, OPT_SERIAL, OPT_QMP, OPT_NAME, OPT_DISK,
       OPT_CONFIG, OPT_PAUSED, OPT_NO_REBOOT, OPT_NO_JAIL, OPT_POLL, OPT_STORVSP, OPT_ATTACH_FROM,
       OPT_HELP };

static const struct option options[] = {
	{ "config", required_argument, NULL, OPT_CONFIG },
	{ "name", required_argument, NULL, OPT_NAME },
	{ "disk", required_argument, NULL, OPT_DISK },
	{ "dvd", required_argument, NULL, OPT_DVD },
	{ "mem", required_argument, NULL, OPT_MEM },
	{ "cpus", required_argument, NULL, OPT_CPUS },
	{ "kernel", required_argument, NULL, OPT_KERNEL },
	{ "initrd", required_argument, NULL, OPT_INITRD },
	{ "append", required_argument, NULL, OPT_APPEND },
	{ "serial", required_argument, NULL, OPT_SERIAL },
	{ "qmp", required_argument, NULL, OPT_QMP },
	{ "attach-from", required_argument, NULL, OPT_ATTACH_FROM },
	{ "storvsp-socket", required_argument, NULL, OPT_STORVSP },
	{ "paused", no_argument, NULL, OPT_PAUSED },
	{ "no-reboot", no_argument, NULL, OPT_NO_REBOOT },
	{ "no-jail", no_argument, NULL, OPT_NO_JAIL },
	{ "poll-us", required_argument, NULL, OPT_POLL },
	{ "help", no_argument, NULL, OPT_HELP },
	{ 0 },
};

static const char synopsis[] =
	"[OPTION...]\n"
	"  --disk FILE[,KEY=VALUE...]  a disk: VHDX, VHD, raw file or block device; keys: lun, controller, format,\n"
	"                              ro, snapshot, writethrough, track, iops, bps, burst-iops, burst-bps,\n"
	"                              min-iops, serial\n"
	"  --dvd FILE|none[,KEY=VALUE...]  a DVD drive with that ISO image\n"
	"  --kernel FILE, --initrd FILE   of the host, or diskN:/path (diskN:pM:/path) inside the guest's own disk\n"
	"  --append TEXT               kernel command line (console=ttyS0 panic=-1)\n"
	"  --mem SIZE                  512M; without a suffix in MiB\n"
	"  --cpus N                    1 to 64\n"
	"  --serial WHERE              stdio, none, unix:PATH, pty, file:PATH, tcp:PORT (on 127.0.0.1)\n"
	"  --name NAME                 default: from the first disk\n"
	"  --qmp SOCKET                one more control socket\n"
	"  --attach-from FOLDER        disks below it may be attached later, besides those beside the first ones\n"
	"  --storvsp-socket SOCKET     disks of controller 3 are for clients of the storvsc library there\n"
	"  --config FILE               the same as JSON; options given later override it\n"
	"  --paused, --no-reboot, --poll-us N, --no-jail";

static int unsigned_option(unsigned *at, const char *text, unsigned max)
{
	uint64_t n;
	int r = vmm_config_number(text, max, &n);

	if (r == 0)
		*at = (unsigned)n;
	return r;
}

static int name_option(struct vmm_config *c, const char *text)
{
	if (!*text || strlen(text) > VMM_NAME_MAX)
		return -EINVAL;
	strcpy(c->name, text);
	return 0;
}

static int one_option(struct vmm_config *c, int option, struct sp_err *err)
{
	switch (option) {
	case OPT_CONFIG:
		return vmm_config_json(c, optarg, err);
	case OPT_DISK:
	case OPT_DVD:
		return vmm_config_add_disk(c, optarg, option == OPT_DVD, err);
	case OPT_NAME:
		return name_option(c, optarg);
	case OPT_MEM:
		return vmm_config_memory(c, optarg);
	case OPT_CPUS:
		return unsigned_option(&c->cpus, optarg, VMM_CPUS_MAX);
	case OPT_POLL:
		return unsigned_option(&c->poll_us, optarg, 1000000);
	case OPT_KERNEL:
		return vmm_config_set_string(&c->kernel, optarg);
	case OPT_INITRD:
		return vmm_config_set_string(&c->initrd, optarg);
	case OPT_APPEND:
		return vmm_config_set_string(&c->append, optarg);
	case OPT_SERIAL:
		return vmm_config_set_string(&c->serial, optarg);
	case OPT_QMP:
		return vmm_config_set_string(&c->qmp, optarg);
	case OPT_ATTACH_FROM:
		return vmm_config_set_string(&c->attach_from, optarg);
	case OPT_STORVSP:
		return vmm_config_set_string(&c->storvsp_socket, optarg);
	case OPT_PAUSED:
		c->paused = true;
		return 0;
	case OPT_NO_REBOOT:
		c->no_reboot = true;
		return 0;
	case OPT_NO_JAIL:
		c->no_jail = true;
		return 0;
	default:
		return -EINVAL;
	}
}

/* EXIT_DONE: go on. */
static int parse(struct vmm_config *c, int argc, char **argv)
{
	struct sp_err err = { 0 };
	int option, index = 0, r = 0;

	while (r == 0 && (option = getopt_long(argc, argv, "", options, &index)) != -1) {
		if (option == '?')
			return vm_usage("run", synopsis);
		if (option == OPT_HELP) {
			printf("usage: spindle-vm run %s\n", synopsis);
			exit(EXIT_DONE);
		}
		r = one_option(c, option, &err);
		if (r < 0 && !err.code)
			return vm_fail(EXIT_USAGE, "--%s %s is not understood", options[index].name, optarg);
	}
	if (r == 0 && optind < argc)
		return vm_fail(EXIT_USAGE, "\"%s\": run takes options only", argv[optind]);
	if (r == 0)
		r = vmm_config_check(c, &err);
	if (r == 0)
		return EXIT_DONE;
	/* What cannot be meant is a mistake in usage; a file that cannot be read is a failure. */
	return vm_fail(r == -EINVAL || r == -ERANGE ? EXIT_USAGE : EXIT_FAILED, "%s", sp_err_text(&err));
}

/* ---- the process -------------------------------------------------------------------------------------- */

struct process {
	struct vmm_config config;
	struct vmm_loop *loop;
	struct vmm_broker *broker;
	struct vmm_machine *machine;
	struct vmm_control *control;
	int signal_fd, socket_fd;
	char socket_path[108];
};

static void on_end(void *ctx)
{
	struct process *p = ctx;

	vmm_loop_quit(p->loop);
}

static void on_signal(void *ctx, uint32_t events)
{
	struct process *p = ctx;
	struct signalfd_siginfo info;

	if (read(p->signal_fd, &info, sizeof(info)) == sizeof(info))
		vmm_machine_quit(p->machine);
}

static int take_signals(struct process *p, struct sp_err *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	p->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return p->signal_fd < 0 ? sp_err_set(err, -errno, "signalfd: %s", strerror(errno)) : 0;
}

static int add_qmp(struct process *p, struct sp_err *err)
{
	int fd, r;

	if (!p->config.qmp)
		return 0;
	r = vmm_control_listen(p->config.qmp, &fd, err);
	return r < 0 ? r : vmm_control_add(p->control, fd, p->config.qmp);
}

/* Everything that needs a name or a right comes before the jail. */
static int set_up(struct process *p, struct sp_err *err)
{
	int r = vm_socket_path(p->config.name, p->socket_path, err);

	if (r == 0)
		r = vmm_control_listen(p->socket_path, &p->socket_fd, err);
	if (r == 0)
		r = take_signals(p, err);
	if (r == 0 && !p->config.no_jail)
		r = vmm_broker_start(&p->broker, err);
	if (r == 0 && vmm_loop_new(&p->loop) < 0)
		r = sp_err_set(err, -ENOMEM, "out of memory");
	if (r == 0)
		r = vmm_machine_new(&p->config, p->loop, p->broker, &p->machine, err);
	if (r < 0)
		return r;
	vmm_machine_on_end(p->machine, on_end, p);
	r = vmm_control_new(p->machine, p->loop, &p->control, err);
	if (r == 0)
		r = vmm_control_add(p->control, p->socket_fd, p->socket_path);
	if (r == 0) {
		p->socket_fd = -1;	/* the control's now */
		r = add_qmp(p, err);
	}
	if (r == 0)
		r = vmm_loop_add(p->loop, p->signal_fd, EPOLLIN, on_signal, p, NULL);
	return r;
}

static int enter_jail(struct process *p, struct sp_err *err)
{
	struct vmm_jail_report report;
	int r;

	if (p->config.no_jail)
		return 0;
	vmm_broker_remove_at_end(p->broker, p->socket_path);
	if (p->config.qmp)
		vmm_broker_remove_at_end(p->broker, p->config.qmp);
	if (p->config.storvsp_socket)
		vmm_broker_remove_at_end(p->broker, p->config.storvsp_socket);
	if (strncmp(p->config.serial, "unix:", 5) == 0)
		vmm_broker_remove_at_end(p->broker, p->config.serial + 5);
	r = p->config.attach_from ? vmm_broker_allow(p->broker, p->config.attach_from, err) : 0;
	if (r == 0)
		r = vmm_broker_seal(p->broker, err);
	if (r == 0)
		r = vmm_jail_enter(&report, err);
	if (r == 0)
		vmm_machine_seal(p->machine);
	return r;
}

/* Connections last: who waits for the end of one finds disks closed, and names free. */
static void tear_down(struct process *p)
{
	vmm_control_machine_gone(p->control);
	vmm_machine_free(p->machine);
	vmm_broker_stop(p->broker);
	vmm_control_free(p->control);
	vmm_loop_free(p->loop);
	if (p->signal_fd >= 0)
		close(p->signal_fd);
	if (p->socket_fd >= 0) {
		close(p->socket_fd);
		unlink(p->socket_path);
	}
}

int vm_run(int argc, char **argv)
{
	struct process p = { .signal_fd = -1, .socket_fd = -1 };
	struct sp_err err = { 0 };
	int status, r;

	vmm_config_init(&p.config);
	status = parse(&p.config, argc, argv);
	if (status == EXIT_DONE) {
		r = set_up(&p, &err);
		if (r == 0)
			r = enter_jail(&p, &err);
		if (r == 0)
			r = vmm_machine_start(p.machine, &err);
		if (r == 0)
			r = vmm_loop_run(p.loop);
		if (r == 0 && vmm_machine_state(p.machine) == VMM_FAILED) {
			err = *vmm_machine_failure(p.machine);
			r = -EIO;
		}
		tear_down(&p);
		status = r < 0 ? vm_fail(EXIT_FAILED, "%s", err.code ? sp_err_text(&err) : strerror(-r)) : EXIT_DONE;
	}
	vmm_config_fini(&p.config);
	return status;
}
