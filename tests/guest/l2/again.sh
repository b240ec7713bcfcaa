# SPDX-License-Identifier: BSD-2-Clause
# The next boot of the same disk, after a snapshot: by an older protocol, ended by a restart of the guest's own.
test=again
. /test/lib.sh
sums() { (cd /mnt && sha256sum -c "$1" >/run/sums 2>&1) || { cat /run/sums; return 1; }; }

check "the protocol asked for" says "Vmbus version:4.1" dmesg
check "/dev/sda1" soon 30 test -b /dev/sda1
dmesg -n 1
check "ext4 is mounted" mount -t ext4 /dev/sda1 /mnt
for of in base middle guest; do
	check "files of $of are as written" sums $of.sums
done
dd if=/dev/urandom of=/mnt/last bs=4099 count=100 2>/dev/null
(cd /mnt && sha256sum last >last.sums)
check "file system can be unmounted" umount /mnt
check "hv_storvsc can be unloaded" rmmod hv_storvsc
check "and loaded again" insmod /lib/modules/hv_storvsc.ko
check "/dev/sda1 is back" soon 30 test -b /dev/sda1
check "the kernel has nothing to complain about" quiet_kernel
echo "@done"
busybox reboot -f
