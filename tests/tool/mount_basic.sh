#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# vhd-mount: what is written through the mount is what other programs find in the image, and the edges of a file whose
# size is fixed.
. "$(dirname "$0")/mount_common.sh"

want=$dir/want.raw

holes_and_edges()
{
	python3 - "$mnt/disk" "$want" "$1" <<-'END'
	import ctypes, errno, mmap, os, sys
	MIB = 1 << 20
	libc = ctypes.CDLL(None, use_errno=True)

	def refused(number, call, *args):
	    try:
	        call(*args)
	    except OSError as e:
	        assert e.errno == number, f"{call.__name__}{args}: {e}"
	    else:
	        raise AssertionError(f"{call.__name__}{args} was accepted")

	def fallocate(fd, mode, offset, length):
	    r = libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length))
	    if r < 0:
	        raise OSError(ctypes.get_errno(), "fallocate")

	disk, want = os.open(sys.argv[1], os.O_RDWR), os.open(sys.argv[2], os.O_RDWR)
	size = os.fstat(disk).st_size
	assert size == os.fstat(want).st_size

	# PUNCH_HOLE | KEEP_SIZE, then ZERO_RANGE: with ragged ends, inside and across blocks, over what is there.
	for mode, offset, length in (3, 6 * MIB + 100, 12345), (3, 40 * MIB, 9 * MIB), (0x10, 5 * MIB, 4096), (0x11, 50 * MIB - 7, 99):
	    fallocate(disk, mode, offset, length)
	    os.pwrite(want, bytes(length), offset)
	    assert os.pread(disk, length, offset) == bytes(length), "a hole does not read zeros"

	# Nothing was written above 60 MiB, and 40..49 MiB has been punched. Data below is data.
	if sys.argv[3] == "dynamic":
	    assert os.lseek(disk, 5 * MIB + 4096, os.SEEK_DATA) == 5 * MIB + 4096
	    refused(errno.ENXIO, os.lseek, disk, size - MIB, os.SEEK_DATA)
	    assert os.lseek(disk, size - MIB, os.SEEK_HOLE) == size - MIB
	refused(errno.ENXIO, os.lseek, disk, size, os.SEEK_HOLE)

	# The size is fixed.
	refused(errno.EPERM, os.ftruncate, disk, size - 1)
	refused(errno.EPERM, os.truncate, sys.argv[1], 0)
	refused(errno.EPERM, os.open, sys.argv[1], os.O_WRONLY | os.O_TRUNC)
	os.ftruncate(disk, size)
	refused(errno.ENOSPC, os.pwrite, disk, b"x", size)
	assert os.pwrite(disk, b"abcd", size - 2) == 2, "a write across the end is not cut there"
	os.pwrite(want, b"ab", size - 2)
	refused(errno.EPERM, os.chmod, sys.argv[1], 0o644)
	refused(errno.EACCES if os.getuid() else errno.EROFS, os.open, os.path.dirname(sys.argv[1]) + "/layers/0/disk", os.O_RDWR)

	# A direct write is seen by who opens later without O_DIRECT, and the other way round.
	direct = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)
	page = mmap.mmap(-1, 4096)
	page.write(b"d" * 4096)
	os.pread(disk, 4096, 3 * MIB)
	os.pwritev(direct, [page], 3 * MIB)
	os.pwrite(want, b"d" * 4096, 3 * MIB)
	fresh = os.open(sys.argv[1], os.O_RDWR)
	assert os.pread(fresh, 4096, 3 * MIB) == b"d" * 4096, "stale cache after a direct write"
	os.pwrite(fresh, b"b" * 4096, 3 * MIB)
	os.pwrite(want, b"b" * 4096, 3 * MIB)
	os.preadv(direct, [page], 3 * MIB)
	assert page[:] == b"b" * 4096, "a direct read does not see a buffered write"

	# The other view of the same bytes.
	view = os.open(os.path.dirname(sys.argv[1]) + "/layers/0/disk", os.O_RDONLY)
	assert os.pread(view, 4096, 3 * MIB) == b"b" * 4096
	os.pwrite(disk, b"v" * 4096, 3 * MIB)
	os.pwrite(want, b"v" * 4096, 3 * MIB)
	view = os.open(os.path.dirname(sys.argv[1]) + "/layers/0/disk", os.O_RDONLY)
	assert os.pread(view, 4096, 3 * MIB) == b"v" * 4096, "stale cache in layers/0/disk"
	END
}

# Dirty pages of a shared mapping are nowhere but in the kernel until the mount writes them back.
dirty_mapping_then()
{
	python3 - "$mnt/disk" "$want" "$1" "$daemon" <<-'END'
	import mmap, os, signal, sys
	fd = os.open(sys.argv[1], os.O_RDWR)
	m = mmap.mmap(fd, 1 << 20)
	for at in range(0, 1 << 20, 4096):
	    m[at:at + 8] = b"mapped%02d" % int(sys.argv[3])
	want = os.open(sys.argv[2], os.O_RDWR)
	for at in range(0, 1 << 20, 4096):
	    os.pwrite(want, b"mapped%02d" % int(sys.argv[3]), at)
	os.kill(int(sys.argv[4]), int(sys.argv[3]))
	while os.path.exists(f"/proc/{sys.argv[4]}/fd/0"):	# mapped until the end
	    signal.sigtimedwait([], 0.01)
	END
}

round_trip()	# FORMAT KIND QEMU_IMG_OPTION...
{
	local format=$1 kind=$2 image=$dir/disk.$1 signal signals

	say "$*"
	shift 2
	qemu-img create -q -f "$format" "$@" "$image" 64M
	rm -f "$want"
	truncate -s 64M "$want"

	mount_image --format="$format" "$image"
	[ "$(stat -c %a:%s "$mnt/disk")" = 600:67108864 ] || fail "mode or size of disk: $(stat -c %a:%s "$mnt/disk")"
	python3 -c 'import json, sys; f = json.load(open(sys.argv[1])); assert f["layers"][0]["virtual-size"] == 67108864' \
		"$mnt/info.json"
	cmp "$mnt/disk" "$want"
	for file in "$mnt/disk" "$want"; do
		put "$file" 0 3 1
		put "$file" 5 4 2
		put "$file" 38 16 3
	done
	holes_and_edges $kind
	cmp "$mnt/disk" "$want"
	refuse "$VHD_MOUNT" "$image" "$dir"
	grep -q "in use\|open for writing\|locked" "$dir/refused" || fail "no word of the lock: $(cat "$dir/refused")"
	unmount_image
	compare_image "$image" "$format" "$want"

	[ "$format $kind" = "vhdx dynamic" ] && signals="15 2 1" || signals=15
	for signal in $signals; do
		mount_image --format="$format" "$image"
		dirty_mapping_then $signal
		ended 0
		compare_image "$image" "$format" "$want"
	done

	mount_image --format="$format" -o ro "$image"
	cmp "$mnt/disk" "$want"
	[ "$(stat -c %a "$mnt/disk")" = 400 ] || fail "mode of disk on a read-only mount"
	refuse touch "$mnt/disk"
	unmount_image
	[ "$format" = raw ] || qemu-img check -q -f "$format" "$image" || [ $? = 63 ] || fail "qemu-img check"
}

round_trip raw fixed
round_trip vhdx dynamic
round_trip vhdx fixed -o subformat=fixed
round_trip vpc dynamic -o force_size=on
round_trip vpc fixed -o subformat=fixed,force_size=on

say "in the background"
"$VHD_MOUNT" "$dir/disk.vhdx" "$mnt"
mountpoint -q "$mnt" || fail "not mounted although vhd-mount has come back"
cmp "$mnt/disk" "$want"
fusermount3 -u "$mnt"

say "errors reach the caller"
refuse "$VHD_MOUNT" "$dir/none.vhdx" "$mnt"
refuse "$VHD_MOUNT" "$dir/disk.raw" "$dir/none"
refuse "$VHD_MOUNT" "$dir/disk.raw"
refuse "$VHD_MOUNT" --orphan=maybe "$dir/disk.raw" "$mnt"
refuse "$VHD_MOUNT" -o nonsense "$dir/disk.raw" "$mnt"
! mountpoint -q "$mnt" || fail "mounted after an error"
