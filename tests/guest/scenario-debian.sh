# SPDX-License-Identifier: BSD-2-Clause
# A whole Debian boots from a child of its VHDX, with the kernel that it has on that disk.
scenario=debian
. /lab/lib.sh

# seen EXPRESSION SECONDS - until the console has it; not when the machine is gone
seen()
{
	local end=$(($(date +%s) + $2))

	until tr -d '\r' <console | grep -q -e "$1"; do
		if gone $vm_pid || [ "$(date +%s)" -ge "$end" ]; then
			tail -n 5 console
			return 1
		fi
		sleep 0.5
	done
}

# in_guest COMMAND [SECONDS] - in the shell on the console, to its end
in_guest()
{
	commands=$((commands + 1))
	echo "$1; echo @end-$commands" >&3
	seen "^@end-$commands" "${2:-60}"
}

check "a child of the image" sh -c "ln $guest/debian.vhdx . && vhd-tool create -q -b debian.vhdx disk.vhdx"

vm=debian
: >console
mkfifo input
exec 3<>input
ASAN_OPTIONS="$ASAN_OPTIONS:detect_leaks=0" spindle-vm run --name $vm --cpus 2 --mem 1024 --disk disk.vhdx \
	--kernel disk0:/vmlinuz --initrd disk0:/initrd.img --append "console=ttyS0 root=/dev/sda1 ro panic=-1" \
	--serial stdio <&3 >console 2>vm.err &
vm_pid=$!
vm_started=$(date +%s)

commands=0
if check "a login prompt" seen 'spindle-debian login:' 1200; then
	say "login prompt after $(($(date +%s) - vm_started)) s"
	echo root >&3
	check "a shell" seen 'root@spindle-debian:' 120
	echo "dmesg -n 1; stty -echo; PS1= exec sh" >&3
	in_guest true
	in_guest 'systemctl is-system-running --wait' 400
	check "systemd has started everything" grep -q '^running' console
	in_guest 'findmnt -no SOURCE,FSTYPE,OPTIONS /'
	check "the root is /dev/sda1, for writing" grep -q "^/dev/sda1 *ext4 *rw" console
	in_guest 'readlink -f /sys/block/sda'
	check "the disk hangs on the bus" grep -q '^/sys/devices/.*VMBUS.*/sda' console
	in_guest 'dd if=/dev/urandom of=/root/file bs=10007 count=300; sha256sum /root/file >/root/sums; sync' 120
	check "stop" spindle-vm stop $vm
	if ! soon 240 gone $vm_pid; then
		say "still there: killed"
		kill -9 $vm_pid
	fi
else
	kill -9 $vm_pid
fi
wait $vm_pid
check "exit status of the VMM" same $? 0
tr -d '\r' <console | sed 's/^/L2| /'
[ ! -s vm.err ] || sed 's/^/VM| /' vm.err
check "systemd has come to its end" grep -q "reboot: Power down" console
check "vhd-tool check" sound disk.vhdx
file_is_there() { sed 's|/root/|root/|' root/sums | sha256sum -c; }
check "vhd-mount: the guest's file is as written" with_files disk.vhdx file_is_there
