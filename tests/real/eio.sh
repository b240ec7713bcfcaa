#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# A real file system on a disk that begins to lose writes: whoever flushes is told, nothing succeeds afterwards, the tool says so.
. "$(dirname "$0")/common.sh"

[ -e /dev/fuse ] || skip "no FUSE"
mkdir "$dir/fuse"

for type in ext4 xfs; do
	for image in disk.vhdx disk.vhd; do
		truncate -s 0 "$dir/disk"
		truncate -s 512M "$dir/disk"
		"$EIOFS" "$dir/disk" "$dir/trouble" "$dir/fuse" -f 2>"$dir/fuse.log" &
		daemon=$!
		for _ in $(seq 100); do
			[ -e "$dir/fuse/disk" ] && break
			sleep 0.05
		done
		attach "$dir/fuse/disk"
		file_system $type
		echo "-- $type, $image"
		"$WRITER" poison "$dir/mnt/$image" "$dir/trouble"
		rm "$dir/trouble"
		umount "$dir/mnt" 2>/dev/null || umount -l "$dir/mnt"
		# What was there before, and a tool that meets the error: neither success nor a half image.
		mount -t $type "$loop" "$dir/mnt" || fail "the file system is gone"
		"$VHD_TOOL" create -q "$dir/source.vhdx" 16M
		"$WRITER" fill "$dir/source.vhdx"
		touch "$dir/trouble"
		if "$VHD_TOOL" convert -q "$dir/source.vhdx" "$dir/mnt/copy.vhdx" 2>"$dir/said"; then
			fail "convert succeeded on a disk that loses writes"
		fi
		grep -q . "$dir/said" || fail "convert failed without a word"
		sed 's/^/   /' "$dir/said"
		[ ! -e "$dir/mnt/copy.vhdx" ] || fail "a half-made copy stands under the final name"
		rm "$dir/trouble" "$dir/source.vhdx"
		umount "$dir/mnt" 2>/dev/null || umount -l "$dir/mnt"
		losetup -d "$loop"
		umount "$dir/fuse"
		wait "$daemon" || :
		daemon=
	done
done
