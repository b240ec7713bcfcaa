# SPDX-License-Identifier: BSD-2-Clause
# Sourced by the mount_*.sh tests. Each works in a folder of its own, which goes away with every mount in it.
# VHD_MOUNT names the program under test.
set -eu

: "${VHD_MOUNT:?names the vhd-mount to be tested}"

skip() { echo "skipped: $*"; exit 77; }
fail() { echo "FAILED: $*" >&2; exit 1; }
say() { echo "-- $*"; }

need()
{
	local program

	for program; do
		command -v "$program" >/dev/null || skip "$program is not installed"
	done
}

# Exactly this command must fail.
refuse()
{
	if "$@" 2>"$dir/refused"; then
		fail "accepted: $*"
	fi
}

PATH=$PATH:/usr/sbin:/sbin
[ -r /dev/fuse ] && [ -w /dev/fuse ] || skip "/dev/fuse is not usable"
need fusermount3 qemu-img python3 mountpoint
dir=$(mktemp -d)
mnt=$dir/mnt
mkdir "$mnt"
daemon=

clean_up()
{
	local status=$? where

	trap - EXIT
	cd /
	[ -z "$daemon" ] || kill "$daemon" 2>/dev/null || :
	# Innermost last: mountinfo lists in the order of mounting.
	sed -n "s|^[0-9]* [0-9]* [0-9:]* [^ ]* \($dir[^ ]*\) .*|\1|p" /proc/self/mountinfo | tac | while read -r where; do
		fusermount3 -u -z -q "$where" 2>/dev/null || umount -l "$where" 2>/dev/null || :
	done
	[ -z "$daemon" ] || wait "$daemon" 2>/dev/null || :
	rm -rf --one-file-system "$dir"
	exit $status
}
trap clean_up EXIT
trap 'exit 1' INT TERM

# wait_for SECONDS COMMAND... - until it is true
wait_for()
{
	local tries=$(($1 * 50))

	shift
	while ! "$@"; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || fail "waited in vain for: $*"
		sleep 0.02
	done
}

# mount_image ARG... - in the foreground of a background job, so that its exit status can be had
mount_image()
{
	"$VHD_MOUNT" -f "$@" "$mnt" &
	daemon=$!
	wait_for 20 mounted_or_dead
	mountpoint -q "$mnt" || fail "did not mount: $*"
}

mounted_or_dead() { mountpoint -q "$mnt" || ! kill -0 "$daemon" 2>/dev/null; }

# ended WANT - the mount is over; its exit status
ended()
{
	local status=0

	wait "$daemon" || status=$?
	daemon=
	[ $status -eq "$1" ] || fail "exit status $status instead of $1"
	! mountpoint -q "$mnt" || fail "still mounted after its end"
}

unmount_image()
{
	fusermount3 -u "$mnt"
	ended 0
}

# put FILE OFFSET_MIB COUNT_MIB SEED - the same bytes for the same seed
put()
{
	python3 - "$@" <<-'END'
	import os, random, sys
	name, offset, count, seed = sys.argv[1], *map(int, sys.argv[2:])
	fd = os.open(name, os.O_WRONLY)
	data = random.Random(seed).randbytes(count << 20)
	done = 0
	while done < len(data):
	    done += os.pwrite(fd, data[done:], (offset << 20) + done)
	os.fsync(fd)
	END
}

# compare_image IMAGE FORMAT RAW - by an independent reader
compare_image()
{
	qemu-img compare -f "$2" -F raw "$1" "$3" >/dev/null || fail "$1 differs from what was written"
}
