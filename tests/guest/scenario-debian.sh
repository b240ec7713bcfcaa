# SPDX-License-Identifier: BSD-2-Clause
# A whole Debian boots from a child of its VHDX, with the kernel that it has on that disk.
scenario=debian
. /lab/lib.sh

# prompt EXPRESSION SECONDS - until the console's end matches; the last line need not be complete
prompt() { soon "$2" sh -c "tail -c 400 console | tr -d '\r' | tail -n 3 | grep -q -e '$1'"; }
# type TEXT - into the console, then waits for the shell
type_line() { echo "$1" >&3; sleep 1; prompt '^root@spindle-debian:~#' "${2:-60}"; }

check "a child of the image" vhd-tool create -q -b $guest/debian.vhdx disk.vhdx

vm=debian
: >console
mkfifo input
exec 3<>input
ASAN_OPTIONS="$ASAN_OPTIONS:detect_leaks=0" spindle-vm run --name $vm --cpus 2 --mem 1024 --kernel disk0:/vmlinuz --initrd disk0:/initrd.img \
	--append "console=ttyS0 root=/dev/sda1 ro panic=-1 systemd.show_status=true" \
	--disk disk.vhdx --serial stdio <&3 >console 2>vm.err &
vm_pid=$!
vm_started=$(date +%s)

if check "a login prompt" prompt 'spindle-debian login:' 600; then
	say "login prompt after $(($(date +%s) - vm_started)) s"
	echo root >&3
	check "root's shell" prompt '^root@spindle-debian:~#' 120
	type_line 'dmesg -n 1; findmnt -no SOURCE,FSTYPE,OPTIONS /; echo "step-a"'
	check "the root is /dev/sda1, for writing" grep -q "^/dev/sda1 *ext4 *rw" console
	type_line 'systemctl is-system-running --wait' 300
	check "systemd has started everything" grep -q '^running' console
	type_line 'systemctl is-active hv-kvp-daemon hv-vss-daemon | sort -u' 60
	type_line 'dd if=/dev/urandom of=/root/file bs=10007 count=300; sha256sum /root/file >/root/sums; sync'
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
sound() { vhd-tool check "$1" || [ $? -eq 3 ]; }
check "vhd-tool check" sound disk.vhdx
file_is_there() { sed 's|/root/|root/|' root/sums | sha256sum -c; }
check "vhd-mount: the guest's file is as written" with_files disk.vhdx file_is_there
