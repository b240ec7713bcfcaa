#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# vhd-mount: p1..pN are the partitions, and --files mounts what is on them in user space.
. "$(dirname "$0")/mount_common.sh"
need sgdisk mkfs.ext4 mkntfs fuse2fs ntfs-3g e2fsck

image=$dir/disk.vhdx
qemu-img create -q -f vhdx "$image" 128M


say "partition table and file systems through the mount"
mount_image "$image"
sgdisk -n 1:2048:+40M -n 3:0:+40M -n 4:0:+8M "$mnt/disk" >/dev/null 2>&1 || fail "sgdisk"
unmount_image
mount_image "$image"
[ "$(cd "$mnt" && echo p*)" = "p1 p3 p4" ] || fail "partitions: $(ls "$mnt")"
[ "$(stat -c %s "$mnt/p1")" = $((40 << 20)) ] || fail "size of p1"
cmp -n $((40 << 20)) -i 0:$((1 << 20)) "$mnt/p1" "$mnt/disk"
mkfs.ext4 -q "$mnt/p1"
mkntfs -q -F -Q "$mnt/p3" 2>/dev/null >&2 || fail "mkntfs"
unmount_image

say "--files has to know which one"
refuse "$VHD_MOUNT" --files "$image" "$mnt"
grep -q "p1 (ext4), p3 (ntfs)" "$dir/refused" || fail "does not list them: $(cat "$dir/refused")"
refuse "$VHD_MOUNT" --files=p2 "$image" "$mnt"
refuse "$VHD_MOUNT" --files=p4 "$image" "$mnt"
(
	PATH=$dir refuse "$VHD_MOUNT" --files=p1 "$image" "$mnt"
	PATH=$PATH:/bin:/usr/bin
	grep -q "fuse2fs is not installed.*package fuse2fs" "$dir/refused" || fail "$(cat "$dir/refused")"
)

for part in p1 p3; do
	say "$part: write files, read them back"
	mount_image --files=$part "$image"
	echo "hello from $part" >"$mnt/hello"
	mkdir "$mnt/folder"
	put_random=$(head -c 3000000 /dev/urandom | tee "$mnt/folder/random" | sha256sum)
	sync "$mnt/hello" "$mnt/folder/random"
	how=$(grep " $mnt " /proc/self/mountinfo)
	case $how in
	*nosuid,nodev*) ;;
	*) fail "suid or dev: $how" ;;
	esac
	case $how in
	*allow_other*) fail "open to all users: $how" ;;
	esac
	unmount_image

	mount_image --files=$part -o ro "$image"
	[ "$(cat "$mnt/hello")" = "hello from $part" ] || fail "hello"
	[ "$(sha256sum <"$mnt/folder/random")" = "$put_random" ] || fail "random"
	refuse touch "$mnt/new"
	kill "$daemon"
	ended 0

	say "$part: SIGTERM while in use"
	mount_image --files=$part "$image"
	exec 9>"$mnt/open"
	echo "still open" >&9
	kill "$daemon"
	ended 0
	exec 9>&-
	mount_image --files=$part -o ro "$image"
	[ "$(cat "$mnt/open")" = "still open" ] || fail "what was written before SIGTERM is lost"
	unmount_image
done

say "a file system that was not unmounted: the journal is replayed first"
mount_image "$image"
cp "$mnt/p1" "$dir/p1"
if [ "$(id -u)" = 0 ] && mkdir "$dir/loop" && mount -o loop "$dir/p1" "$dir/loop" 2>/dev/null; then
	echo journal >"$dir/loop/journalled"
	sync "$dir/loop/journalled"
	cp "$dir/p1" "$dir/dirty"
	umount "$dir/loop"
	dd if="$dir/dirty" of="$mnt/p1" bs=1M conv=notrunc,fsync status=none
	unmount_image
	mount_image --files=p1 "$image"
	[ "$(cat "$mnt/journalled")" = journal ] || fail "the journal was not replayed"
fi
unmount_image

say "the file systems are sound"
mount_image "$image"
e2fsck -fn "$mnt/p1" >/dev/null 2>&1 || fail "e2fsck"
command -v ntfsfix >/dev/null && { ntfsfix -n "$mnt/p3" >/dev/null || fail "ntfsfix"; }
unmount_image

say "no folder is left behind"
left=$(find "${XDG_RUNTIME_DIR:-/tmp}" /tmp -maxdepth 1 -name 'vhd-mount-*' -newer "$dir/p1" 2>/dev/null || :)
[ -z "$left" ] || fail "left: $left"
