# SPDX-License-Identifier: BSD-2-Clause
# For make demo: what a guest sees of the disk, and what it leaves there; then it goes on writing, and is backed up.
test=demo
. /test/lib.sh

check "the disk is there, by hv_storvsc" soon 60 test -b /dev/sda1
dmesg -n 1
check "ext4 is mounted" mount -t ext4 /dev/sda1 /mnt
say "$(uname -sr), $(cat /sys/block/sda/device/model), $(cat /mnt/etc/version)"
echo "written by $(uname -sr)" >/mnt/etc/from-guest
dd if=/dev/urandom of=/mnt/srv/from-guest.bin bs=100001 count=20 2>/dev/null
(cd /mnt/srv && sha256sum from-guest.bin >from-guest.sum)

load()
{
	while [ ! -e /run/enough ]; do
		dd if=/dev/urandom of=/mnt/srv/load.bin bs=64k count=16 conv=notrunc,fsync 2>/dev/null
	done
}

check "the daemon that freezes file systems" hv_vss_daemon
load &
soon 30 test -s /mnt/srv/load.bin
step load
dd if=/dev/urandom of=/mnt/srv/change.bin bs=100001 count=20 conv=fsync 2>/dev/null
(cd /mnt/srv && sha256sum change.bin >change.sum)
sync
step changed
touch /run/enough
wait
check "ext4 is unmounted" umount /mnt
echo "@done"
busybox poweroff -f
