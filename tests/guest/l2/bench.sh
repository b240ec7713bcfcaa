# SPDX-License-Identifier: BSD-2-Clause
# Speed of the second disk, whatever bus it hangs on: lines "@figure NAME VALUE".
test=bench
. /test/lib.sh

have_disks() { [ -b "$1a1" ] && [ -b "$1b" ]; }
either() { have_disks /dev/sd || have_disks /dev/vd; }

# speed NAME FIELD - IO/s, in that field of fio's terse output
speed()
{
	echo "@figure $1 $(LD_LIBRARY_PATH=/mnt/tools/lib /mnt/tools/bin/fio --minimal --name="$1" --filename=${disk}b \
		--rw="$1" --bs=4k --direct=1 --ioengine=libaio --iodepth=16 --ramp_time=1 --time_based --runtime=4 |
		cut -d';' -f"$2")"
}

check "two disks" soon 60 either
either || dmesg | tail -n 30
disk=/dev/sd
have_disks $disk || disk=/dev/vd
mount -t ext4 -o ro,noload ${disk}a1 /mnt
speed randread 8
speed randwrite 49
echo "@done"
sleep 600
