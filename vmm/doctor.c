/* SPDX-License-Identifier: BSD-2-Clause */
/* "doctor": what a machine needs of this host, each with the remedy when it is missing. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/spindle_vm.h"

enum need { NEEDED, USEFUL };

static unsigned missing;

static void say(bool good, enum need need, const char *what, const char *remedy)
{
	printf("%-7s %s%s%s\n", good ? "ok" : need == NEEDED ? "MISSING" : "no", what, good ? "" : ": ",
	       good ? "" : remedy);
	missing += !good && need == NEEDED;
}

static const struct {
	int capability;
	enum need need;
	const char *name, *remedy;
} capabilities[] = {
	{ KVM_CAP_IRQCHIP, NEEDED, "interrupt controllers in the kernel", "use a kernel with KVM for x86-64" },
	{ KVM_CAP_SIGNAL_MSI, NEEDED, "interrupts by message", "use a kernel of 3.5 or later" },
	{ KVM_CAP_IOEVENTFD, NEEDED, "signals that stay in the kernel (ioeventfd)", "use a kernel of 2.6.32 or later" },
	{ KVM_CAP_X86_USER_SPACE_MSR, NEEDED, "MSRs for user space", "use a kernel of 5.10 or later" },
	{ KVM_CAP_X86_MSR_FILTER, NEEDED, "MSR filter", "use a kernel of 5.10 or later" },
	{ KVM_CAP_GET_TSC_KHZ, NEEDED, "frequency of the time stamp counter", "use a kernel of 2.6.39 or later" },
	{ KVM_CAP_SYNC_REGS, USEFUL, "registers in shared memory", "hypercalls cost one system call more" },
	{ KVM_CAP_TSC_DEADLINE_TIMER, USEFUL, "TSC deadline timer", "guests use the slower APIC timer" },
	{ KVM_CAP_IMMEDIATE_EXIT, USEFUL, "immediate exit", "pausing takes a little longer" },
};

static void check_kvm(int kvm)
{
	int version = ioctl(kvm, KVM_GET_API_VERSION, 0);

	say(version == 12, NEEDED, "KVM interface 12", "this kernel's KVM is too old");
	for (unsigned i = 0; i < sizeof(capabilities) / sizeof(capabilities[0]); i++)
		say(ioctl(kvm, KVM_CHECK_EXTENSION, capabilities[i].capability) > 0, capabilities[i].need,
		    capabilities[i].name, capabilities[i].remedy);
}

static bool cpu_has(const char *flag)
{
	char line[8192];
	bool found = false;
	FILE *f = fopen("/proc/cpuinfo", "re");

	while (f && !found && fgets(line, sizeof(line), f)) {
		char *at = strncmp(line, "flags", 5) == 0 ? line : NULL;

		while (!found && at && (at = strstr(at + 1, flag)))
			found = at[-1] == ' ' && strchr(" \n", at[strlen(flag)]);
	}
	if (f)
		fclose(f);
	return found;
}

static void check_processor(void)
{
	say(cpu_has("vmx") || cpu_has("svm"), USEFUL, "hardware virtualization (vmx or svm)",
	    "KVM may emulate: guests run very slowly or not at all; switch it on in the firmware, or on a cloud host "
	    "choose a size with nested virtualization");
	say(cpu_has("constant_tsc") && cpu_has("nonstop_tsc"), USEFUL, "a time stamp counter that never stops",
	    "guests read the time by a slower way");
}

static void check_sandbox(void)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, 1);

	say(abi > 0, USEFUL, "Landlock", "the machine's process is confined by seccomp alone");
	say(access("/proc/sys/kernel/seccomp/actions_avail", R_OK) == 0, USEFUL, "seccomp filters",
	    "the machine's process is not confined");
}

static void check_runtime(void)
{
	struct sp_err err = { 0 };
	char path[80];
	bool good = vm_runtime_dir(path, &err) == 0;

	say(good, NEEDED, "folder for control sockets", sp_err_text(&err));
}

static const char *kvm_remedy(int error)
{
	if (error == ENOENT)
		return "load the module kvm_intel or kvm_amd, and switch virtualization on in the firmware";
	if (error == EACCES || error == EPERM)
		return "no right to open it: join the group kvm (usermod -aG kvm USER), then log in again";
	return strerror(error);
}

int vm_doctor(int argc, char **argv)
{
	int kvm;

	if (argc != 1)
		return vm_usage("doctor", "");
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	say(kvm >= 0, NEEDED, "/dev/kvm", kvm_remedy(errno));
	if (kvm >= 0)
		check_kvm(kvm);
	check_processor();
	check_sandbox();
	check_runtime();
	if (kvm >= 0)
		close(kvm);
	if (missing)
		printf("\n%u missing: machines cannot run here yet\n", missing);
	else
		puts("\nmachines can run here");
	return missing ? EXIT_FAILED : EXIT_DONE;
}
