#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# vhd-mount: a full host is ENOSPC to the writer, not a lost write; what was flushed stays, and space that comes back
# is used.
. "$(dirname "$0")/mount_common.sh"
[ "$(id -u)" = 0 ] || skip "needs root to mount a tiny tmpfs"

small=$dir/small
mkdir "$small"
mount -t tmpfs -o size=16m none "$small" || skip "cannot mount tmpfs"

fill()
{
	python3 - "$mnt/disk" "$dir/want" <<-'END'
	import errno, os, sys
	disk, want = os.open(sys.argv[1], os.O_RDWR), os.open(sys.argv[2], os.O_RDWR)
	done, block = 0, b"spindle!" * 8192
	try:
	    while done < 64 << 20:
	        n = os.pwrite(disk, block, done)
	        os.pwrite(want, block[:n], done)
	        done += n
	except OSError as e:
	    assert e.errno == errno.ENOSPC, e
	else:
	    raise AssertionError("64 MiB went into 16 MiB")
	assert done > 4 << 20, f"full after {done} bytes"
	assert os.pread(disk, done, 0) == os.pread(want, done, 0)
	# Of the write that failed, each sector is as before or as it was to become.
	rest = os.pread(disk, len(block), done)
	for at in range(0, len(rest), 512):
	    assert rest[at:at + 512] in (bytes(512), block[:512]), f"sector at {done + at}"
	os.pwrite(want, rest, done)
	END
}

for format in vhdx vpc; do
	say $format
	image=$small/disk.$format
	if [ $format = vpc ]; then
		qemu-img create -q -f vpc -o force_size=on "$image" 64M
	else
		qemu-img create -q -f vhdx -o log_size=1M,block_size=1M "$image" 64M
	fi
	rm -f "$dir/want"
	truncate -s 64M "$dir/want"
	fallocate -l 2M "$small/ballast"
	mount_image --format=$format "$image"
	fill
	rm "$small/ballast"
	put "$mnt/disk" 50 1 7
	put "$dir/want" 50 1 7
	cmp "$mnt/disk" "$dir/want"
	unmount_image
	mount_image --format=$format -o ro "$image"
	cmp "$mnt/disk" "$dir/want"
	unmount_image
	compare_image "$image" $format "$dir/want"
	rm "$image"
done
