# SPDX-License-Identifier: BSD-2-Clause
# Disks of hv_storvsc: sda with a file system on a snapshot chain, sdb empty, later sdc that comes, grows and goes.
test=disk
. /test/lib.sh

# ---- channels ----------------------------------------------------------------------------------------

storvsc=/sys/bus/vmbus/drivers/hv_storvsc
channels() { cat $storvsc/*/channel_vp_mapping | cut -d: -f2 | sort -n | tr '\n' ' '; }
four_channels() { same "$(channels)" "0 1 2 3 "; }

check "4 processors" same "$(nproc)" 4
check "hv_storvsc has bound a controller" test -d $storvsc/*-*-*-*-*
check "4 channels, one for each processor" soon 20 four_channels
check "/dev/sda and its partition" soon 30 test -b /dev/sda1
check "/dev/sdb" soon 10 test -b /dev/sdb
check "no phantom disks" same "$(ls /sys/class/scsi_device | wc -l)" 2
dmesg -n 1

# ---- files and fio -----------------------------------------------------------------------------------

fio() { LD_LIBRARY_PATH=/mnt/tools/lib /mnt/tools/bin/fio --minimal "$@"; }
sums() { (cd /mnt && sha256sum -c "$1" >/run/sums 2>&1) || { cat /run/sums; return 1; }; }

# each channel has seen interrupts while jobs ran on each processor
busy_channels()
{
	local at count

	for at in $storvsc/*/channels/*; do
		count=$(cat "$at/interrupts")
		echo "channel $(basename "$at") on processor $(cat "$at/cpu"): $count interrupts, $(cat "$at/events") events"
		[ "$count" -gt 0 ] || return 1
	done
}

check "ext4 is mounted" mount -t ext4 /dev/sda1 /mnt
check "files of the base are as written" sums base.sums
check "files of the second layer are as written" sums middle.sums
check "fio: what was written is read, on 4 processors at once" fio --name=verify --directory=/mnt --size=2M \
	--rw=randwrite --bsrange=4k-64k --bs_unaligned=0 --direct=1 --ioengine=libaio --iodepth=16 --numjobs=4 \
	--cpus_allowed=0-3 --cpus_allowed_policy=split --verify=crc32c --fsync=64
check "fio: the bare disk, with flushes" fio --name=bare --filename=/dev/sdb --size=4M --rw=randrw --bs=4k \
	--direct=1 --ioengine=libaio --iodepth=32 --verify=crc32c --fdatasync=32
check "each channel has carried requests" busy_channels
mkdir -p /mnt/guest
for n in 1 2 3; do
	dd if=/dev/urandom of=/mnt/guest/$n bs=10007 count=$((n * 20)) 2>/dev/null
done
(cd /mnt && sha256sum guest/* >guest.sums)
sync

# ---- trim: the scenario measures the file ------------------------------------------------------------

dd if=/dev/urandom of=/run/noise bs=1M count=4 2>/dev/null
for n in 1 2 3 4 5 6 7 8 9; do cat /run/noise; done >/mnt/big
sync
step trim-before
rm /mnt/big /run/noise /mnt/verify*
sync
check "fstrim" fstrim -v /mnt
# One flush makes it durable, and by the next nobody uses the old places any more: then the host has them back.
for n in 1 2 3; do
	echo $n >/mnt/after
	sync
done
step trim-after

# ---- what SCSI says ----------------------------------------------------------------------------------

check "INQUIRY: a disk" says "PQual=0.*PDT=0" sg_inq /dev/sda
check "INQUIRY: vendor" says "Vendor identification: Msft" sg_inq /dev/sda
check "INQUIRY: product" says "Product identification: Virtual Disk" sg_inq /dev/sda
for page in sn di bl bdc lbpv; do
	check "VPD: page $page is listed" says "\[$page\]" sg_vpd --page=sv /dev/sda
	check "VPD: page $page" sg_vpd --page=$page /dev/sda
done
check "VPD di: NAA name" says "NAA" sg_vpd --page=di /dev/sda
check "VPD di: another disk, another name" sh -c \
	'[ "$(sg_vpd --page=di /dev/sda)" != "$(sg_vpd --page=di /dev/sdb)" ]'
check "VPD lbpv: UNMAP" says "Unmap command supported (LBPU): 1" sg_vpd --page=lbpv /dev/sda
check "READ CAPACITY(16): thin" says "lbpme=1" sg_readcap --16 /dev/sda
check "READ CAPACITY(16): size" says "Number of logical blocks=131072" sg_readcap --16 /dev/sdb
check "REPORT LUNS: both" says "imply 2\|2 lun entr" sg_luns /dev/sda
check "an unknown page is refused" sh -c '! sg_vpd --page=0xc7 /dev/sda'
check "lsblk: the disks can discard" sh -c 'lsblk -dnbo DISC-MAX /dev/sda /dev/sdb | grep -qv "^ *0$"'

# ---- commands by hand, on the empty disk -------------------------------------------------------------

# of a whole MiB
sum_at() { dd if=/dev/sdb bs=1M skip=$1 count=1 iflag=direct 2>/dev/null | sha256sum; }
zeros=$(dd if=/dev/zero bs=1M count=1 2>/dev/null | sha256sum)
unmap_reads_zeros()
{
	dd if=/dev/urandom of=/dev/sdb bs=1M seek=8 count=4 oflag=direct 2>/dev/null
	[ "$(sum_at 8)" != "$zeros" ] || return 1
	sg_unmap --lba=16384 --num=4096 /dev/sdb || return
	same "$(sum_at 8)$(sum_at 9)" "$zeros$zeros"
}

check "UNMAP: reads as zeros" unmap_reads_zeros
check "GET LBA STATUS after it" sg_get_lba_status --lba=16384 /dev/sdb
check "WRITE SAME(16) with UNMAP" sg_write_same --16 --unmap --lba=20480 --num=2048 /dev/sdb
check "and reads as zeros" same "$(sum_at 10)" "$zeros"
check "and leaves the next" sh -c '[ "$1" != "$2" ]' - "$(sum_at 11)" "$zeros"
check "SYNCHRONIZE CACHE" sg_sync /dev/sdb
check "REPORT SUPPORTED OPERATION CODES" says "Unmap" sg_opcodes /dev/sdb
check "PERSISTENT RESERVE: register" sg_persist --out --register --param-sark=0x5eed /dev/sdb
check "PERSISTENT RESERVE: keys" says "0x5eed" sg_persist --in --read-keys /dev/sdb
check "PERSISTENT RESERVE: unregister" sg_persist --out --register --param-rk=0x5eed --param-sark=0 /dev/sdb

# ---- a disk comes, grows and goes --------------------------------------------------------------------

sectors() { cat /sys/class/block/sdc/size; }
# The news of another size comes with the answer to a command.
grown() { dd if=/dev/sdc of=/dev/null bs=4096 count=1 iflag=direct; same "$(sectors)" 98304; }
no_sdc() { [ ! -e /sys/class/block/sdc ] || return 1; }

step attach
check "hot add: /dev/sdc" soon 30 test -b /dev/sdc
check "hot add: size" same "$(sectors)" 65536
check "hot add: can be written" dd if=/dev/urandom of=/dev/sdc bs=64k count=8 oflag=direct
step resize
check "resize: seen by the guest" soon 30 grown
check "resize: the new end can be written" dd if=/dev/zero of=/dev/sdc bs=1M seek=47 count=1 oflag=direct
step detach
check "hot remove: /dev/sdc is gone" soon 30 no_sdc
check "hot remove: the others are there" sums guest.sums
step again
check "a LUN is used again: /dev/sdc" soon 30 test -b /dev/sdc

# ---- services and the end ----------------------------------------------------------------------------

check "KVP daemon" hv_kvp_daemon
step services
check "the kernel has nothing to complain about" quiet_kernel
echo "@step stop"
sleep 60
