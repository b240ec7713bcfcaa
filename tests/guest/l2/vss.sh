# SPDX-License-Identifier: BSD-2-Clause
# A guest that writes all the time, with a daemon that freezes its file systems; does what the scenario types.
test=vss
. /test/lib.sh

check "/dev/sda1" soon 30 test -b /dev/sda1
dmesg -n 1
check "ext4 is mounted" mount -t ext4 /dev/sda1 /mnt
syslogd -O /run/log

# ---- when the daemon freezes and thaws, by the clock of /proc/uptime -----------------------------------

tracing=/sys/kernel/tracing
mount -t tracefs none $tracing
echo boot >$tracing/trace_clock
echo "cmd == 0xc0045877 || cmd == 0xc0045878" >$tracing/events/syscalls/sys_enter_ioctl/filter
echo 1 >$tracing/events/syscalls/sys_enter_ioctl/enable
echo 1 >$tracing/events/syscalls/sys_exit_ioctl/enable

# A line for each time: end of FIFREEZE, begin of FITHAW.
freezes()
{
	awk '/hv_vss_daemon/ && match($0, / [0-9]+[.][0-9]+:/) {
		at = substr($0, RSTART + 1, RLENGTH - 2)
		if (/cmd: c0045877/) freezing = 1
		else if (/cmd: c0045878/) print frozen, at
		else if (freezing && / -> 0x0$/) { frozen = at; freezing = 0 }
	}' $tracing/trace
}

# ---- two loads ---------------------------------------------------------------------------------------

# Numbered markers: each is on the disk before the next is begun. The trace, in memory, has when.
mark()
{
	local n=0 from to rest

	while [ ! -e /run/enough ]; do
		n=$((n + 1))
		read -r from rest </proc/uptime
		echo $n | dd of=/mnt/markers oflag=append conv=notrunc,fsync status=none
		read -r to rest </proc/uptime
		echo "$n $from $to" >>/run/trace
	done
}

noise()
{
	while [ ! -e /run/enough ]; do
		LD_LIBRARY_PATH=/mnt/tools/lib /mnt/tools/bin/fio --minimal --name=noise --filename=/mnt/noise --size=8M \
			--rw=randwrite --bs=4k --ioengine=libaio --iodepth=8 --direct=1 --fsync=32 --rate_iops=200
	done >/run/noise 2>&1
}

marked() { wc -l </run/trace; }
later() { [ "$(marked)" -ge "$1" ] || { echo "$(marked) markers, not $1"; return 1; }; }

mark &
noise &
check "VSS daemon" hv_vss_daemon
check "markers are written" soon 60 later 20
check "so is noise" soon 60 test -s /mnt/noise
echo "@step load"

# ---- what the host types: a name for the answer, a command, its argument -------------------------------

said() { grep -c "$1" /run/log; }

while read -r answer command argument </dev/console; do
	case $command in
	stop)
		kill "$(pidof hv_vss_daemon)"
		check "the daemon is gone" soon 10 sh -c '! pidof hv_vss_daemon'
		;;
	start)
		check "VSS daemon, again" hv_vss_daemon
		sleep 1
		;;
	hang)
		kill -STOP "$(pidof hv_vss_daemon)"
		(sleep "$argument"; kill -CONT "$(pidof hv_vss_daemon)") &
		;;
	write)
		check "the guest goes on writing" soon 90 later $(($(marked) + 10))
		;;
	change)
		dd if=/dev/urandom of=/mnt/changed bs=100003 count=20 conv=fsync status=none
		sha256sum /mnt/changed | sed 's|/mnt/||' >/mnt/changed.sum
		;;
	frozen)
		check "frozen $argument times by the daemon" same "$(said 'op=FREEZE: succeeded')" "$argument"
		check "and thawed as often" same "$(said 'op=THAW: succeeded')" "$argument"
		;;
	end)
		break
		;;
	esac
	echo "@step $answer"
done

touch /run/enough
wait
freezes >/run/freezes
check "what was seen goes to the disk" cp /run/trace /run/freezes /mnt
check "file system can be unmounted" umount /mnt
# The unit attention that tells of another discard granularity.
expected="status: scsi 0x2 srb 0x84 hv 0x0"
check "the kernel has nothing to complain about" quiet_kernel
cat /run/log
echo "@done"
busybox poweroff -f
