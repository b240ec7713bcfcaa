# SPDX-License-Identifier: BSD-2-Clause
# What scenarios use in level 1: checks, and one machine at a time with its console in the file "console".
#
# A guest script says "@step NAME" and waits; the scenario answers with vm_go. Lines that begin with "@lab" are results.
guest=${guest:-/lab/guest}
vm=

say() { echo "@lab # $*"; }

# check NAME COMMAND... - one result; what a failing command says is shown
check()
{
	local name="$scenario: $1" out

	shift
	if out=$("$@" 2>&1); then
		echo "@lab ok - $name"
	else
		echo "@lab not ok - $name"
		echo "$out" | tail -n 20 | sed 's/^/@lab #   /'
		return 1
	fi
}

# soon SECONDS COMMAND... - until it succeeds; the last answer is shown if it never does
soon()
{
	local end=$(($(date +%s) + $1)) out

	shift
	until out=$("$@" 2>&1); do
		if [ "$(date +%s)" -ge "$end" ]; then
			echo "$out"
			return 1
		fi
		sleep 0.2
	done
}

gone() { ! kill -0 "$1" 2>/dev/null; }
same() { [ "$1" = "$2" ] || { echo "found '$1', not '$2'"; return 1; }; }

# vm_start NAME CPUS TEST [OPTION...] - a machine with the lab's kernel that runs the guest script TEST
vm_start()
{
	local name=$1 cpus=$2 test=$3

	shift 3
	vm=$name
	: >console
	rm -f input
	mkfifo input
	exec 3<>input
	# The jail has no room for what a leak checker does at the end of a process. The guest's watchdogs measure the load
	# of the machine below: what really hangs does not come to its next step.
	ASAN_OPTIONS="$ASAN_OPTIONS:detect_leaks=0" spindle-vm run --name "$name" --cpus "$cpus" --mem "${vm_mem:-384}" \
		--kernel $guest/vmlinuz --initrd $guest/initrd \
		--append "console=ttyS0 panic=-1 nowatchdog rcupdate.rcu_cpu_stall_suppress=1 spindle.test=$test $vm_append" \
		--serial stdio --no-reboot "$@" <&3 >console 2>vm.err &
	vm_pid=$!
	vm_started=$(date +%s)
}

# What a guest that does not get on waits for, maybe.
vm_state()
{
	spindle-vm status "$vm" --output=json | jq -c '.vmbus.channels[]' | sed 's/^/VM| /'
	for task in /proc/$vm_pid/task/*; do
		echo "VM| $(cat "$task/comm") waits in $(cat "$task/wchan")"
	done
}

# vm_step NAME SECONDS - until the guest has come there
vm_step()
{
	local end=$(($(date +%s) + $2))

	until grep -q "^@step $1" console; do
		if gone $vm_pid; then
			say "$vm ended before step $1"
			return 1
		elif [ "$(date +%s)" -ge "$end" ]; then
			say "$vm did not come to step $1 in $2 s: killed"
			vm_state
			kill -9 $vm_pid
			return 1
		fi
		sleep 0.1
	done
	say "$vm: step $1 after $(($(date +%s) - vm_started)) s"
}

vm_go() { echo go >&3; }

# vm_end SECONDS WANTED_STATUS - waits until the machine is gone, shows its console, which has the guest's results
vm_end()
{
	local status

	if ! soon "$1" gone $vm_pid; then
		say "$vm is still there after $1 s: killed"
		kill -9 $vm_pid
	fi
	wait $vm_pid
	status=$?
	say "$vm ended after $(($(date +%s) - vm_started)) s"
	exec 3>&-
	tr -d '\r' <console | sed 's/^/L2| /'
	[ ! -s vm.err ] || sed 's/^/VM| /' vm.err
	[ $status -lt 128 ] || dmesg | tail -n 5 | sed 's/^/L1| /'
	check "$vm: exit status of the VMM" same $status "$2"
	check "$vm: the guest's script came to its end" grep -q "^@done" console
	vm=
}

# console_in_order <EXPRESSIONS - lines of the console match them, in this order
console_in_order()
{
	local at=1 expression found

	while read -r expression; do
		[ -n "$expression" ] || continue
		found=$(tail -n "+$at" console | grep -n -m 1 -e "$expression" | cut -d: -f1)
		if [ -z "$found" ]; then
			echo "after line $at of the console nothing matches: $expression"
			return 1
		fi
		at=$((at + found))
	done
}

# sound IMAGE - no errors; free space inside the file (3) is what a file system's discards leave
sound() { vhd-tool check "$1" || [ $? -eq 3 ]; }

# with_files IMAGE COMMAND... - runs a command in the mounted file system of the first partition
with_files()
{
	local image=$1 status

	shift
	vhd-mount "$image" /mnt || return
	mkdir -p /tmp/files
	if mount -t ext4 -o "${files_options:-loop,ro}" /mnt/p1 /tmp/files; then
		(cd /tmp/files && "$@")
		status=$?
		umount /tmp/files
	else
		status=1
	fi
	fusermount3 -u /mnt
	soon 60 sound "$image" || return
	return $status
}
