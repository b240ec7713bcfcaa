/* SPDX-License-Identifier: BSD-2-Clause */
#include "vmm/spindle_vm.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct verb {
	const char *name, *what;
	int (*run)(int argc, char **argv);
} verbs[] = {
	{ "run", "start a machine and stay with it until it is off", vm_run },
	{ "list", "machines that run", vm_list },
	{ "status", "state, bus, services (--output=json: everything)", vm_status },
	{ "stop", "shut the guest down (--force: switch it off)", vm_stop },
	{ "reset", "hard reset", vm_reset },
	{ "pause", "stop the processors", vm_pause },
	{ "resume", "let them run again", vm_resume },
	{ "console", "connect to the serial console; leave with Ctrl-]", vm_console },
	{ "stats", "disk statistics (--watch=SECONDS)", vm_stats },
	{ "attach", "add a disk or DVD to a running machine", vm_attach },
	{ "detach", "remove one", vm_detach },
	{ "insert", "put another medium into a DVD drive", vm_insert },
	{ "eject", "take it out", vm_eject },
	{ "read-only", "protect a disk from writes, or no longer", vm_read_only },
	{ "resize", "make a disk larger", vm_resize },
	{ "limit", "change a disk's limits", vm_limit },
	{ "snapshot", "create, list, delete or revert snapshots of all its disks", vm_snapshot },
	{ "doctor", "what this host has, and what is missing", vm_doctor },
};
#define VERBS (sizeof(verbs) / sizeof(verbs[0]))

int vm_fail(int status, const char *fmt, ...)
{
	va_list args;

	fputs("spindle-vm: ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	return status;
}

int vm_usage(const char *verb, const char *synopsis)
{
	fprintf(stderr, "usage: spindle-vm %s %s\n", verb, synopsis);
	return EXIT_USAGE;
}

static void help(FILE *to)
{
	fputs("usage: spindle-vm VERB [ARGUMENT...]\n\n", to);
	for (unsigned i = 0; i < VERBS; i++)
		fprintf(to, "  %-9s  %s\n", verbs[i].name, verbs[i].what);
	fputs("\nOne's own machine in one command:\n"
	      "  spindle-vm run --disk web.vhdx --kernel disk0:/vmlinuz --initrd disk0:/initrd.img \\\n"
	      "             --append 'root=/dev/sda1 console=ttyS0'\n"
	      "spindle-vm(1) tells the rest.\n", to);
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		help(stderr);
		return EXIT_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		help(stdout);
		return EXIT_DONE;
	}
	if (strcmp(argv[1], "--version") == 0) {
		printf("spindle-vm %s\n", SPINDLE_VERSION);
		return EXIT_DONE;
	}
	for (unsigned i = 0; i < VERBS; i++)
		if (strcmp(argv[1], verbs[i].name) == 0)
			return verbs[i].run(argc - 1, argv + 1);
	return vm_fail(EXIT_USAGE, "no verb \"%s\"; --help lists them", argv[1]);
}
