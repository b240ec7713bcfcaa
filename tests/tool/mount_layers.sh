#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# vhd-mount: layers/<n>/disk shows the disk as it was before each snapshot, while the leaf is being written.
. "$(dirname "$0")/mount_common.sh"
[ -n "${VHD_TOOL:-}" ] || skip "no vhd-tool to make the chain"
need jq

# layer N OPTION... IMAGE - write something of its own and over what is below, through the mount and to the copy
layer()
{
	local n=$1

	shift
	mount_image "$@"
	put "$mnt/disk" $((2 * n)) 3 $((n + 10))
	unmount_image
	if [ "$n" = 0 ]; then
		truncate -s 32M "$want.0"
	else
		cp "$want.$((n - 1))" "$want.$n"
	fi
	put "$want.$n" $((2 * n)) 3 $((n + 10))
}

for format in vhdx vhd; do
	say $format
	want=$dir/$format.want
	mkdir -p "$dir/sub"
	"$VHD_TOOL" create -q -f $format "$dir/base.$format" 32M
	layer 0 "$dir/base.$format"
	"$VHD_TOOL" create -q -f $format --image-root="$dir" -b "$dir/base.$format" "$dir/sub/middle.$format"
	layer 1 --image-root="$dir" "$dir/sub/middle.$format"
	"$VHD_TOOL" create -q -f $format -b "$dir/sub/middle.$format" "$dir/leaf.$format"
	layer 2 "$dir/leaf.$format"

	sums=$(sha256sum "$dir/base.$format" "$dir/sub/middle.$format")
	mount_image "$dir/leaf.$format"
	[ "$(ls "$mnt/layers" | tr '\n' ' ')" = "0 1 2 " ] || fail "layers: $(ls "$mnt/layers")"
	[ "$(jq -r '.layers | length' "$mnt/info.json")" = 3 ] || fail "info.json: $(cat "$mnt/info.json")"
	cmp "$mnt/layers/0/disk" "$want.2"
	cmp "$mnt/layers/1/disk" "$want.1"
	cmp "$mnt/layers/2/disk" "$want.0"
	put "$mnt/disk" 0 8 99
	put "$want.2" 0 8 99
	cmp "$mnt/layers/0/disk" "$want.2"
	cmp "$mnt/layers/1/disk" "$want.1"
	cmp "$mnt/disk" "$want.2"
	refuse dd if=/dev/zero of="$mnt/layers/1/disk" bs=512 count=1 conv=notrunc status=none
	for name in 3 00 +1 -1 x ''; do
		[ -z "$name" ] || [ ! -e "$mnt/layers/$name" ] || fail "layers/$name exists"
	done
	unmount_image
	[ "$(sha256sum "$dir/base.$format" "$dir/sub/middle.$format")" = "$sums" ] || fail "a parent has been touched"

	say "$format: read-only and without layers"
	mount_image -o ro --no-layers "$dir/leaf.$format"
	[ ! -e "$mnt/layers" ] || fail "layers/ is there in spite of --no-layers"
	cmp "$mnt/disk" "$want.2"
	"$VHD_TOOL" info --chain --output=json "$dir/leaf.$format" | jq -S . >"$dir/info"
	jq -S .layers "$mnt/info.json" | diff - "$dir/info" || fail "info.json and vhd-tool info tell different things"
	unmount_image

	say "$format: a parent outside the root, a parent missing"
	refuse "$VHD_MOUNT" "$dir/sub/middle.$format" "$mnt"
	mv "$dir/base.$format" "$dir/moved.$format"
	refuse "$VHD_MOUNT" "$dir/leaf.$format" "$mnt"
	mount_image --orphan=eio -o ro "$dir/leaf.$format"
	cmp -n $((8 << 20)) "$mnt/disk" "$want.2"
	refuse dd if="$mnt/disk" bs=1M skip=20 count=1 of=/dev/null status=none
	unmount_image
	mount_image -o ro,orphan=zero "$dir/leaf.$format"
	dd if="$mnt/disk" bs=1M skip=20 count=1 status=none | cmp -n $((1 << 20)) - /dev/zero
	[ "$(jq .disk.orphaned "$mnt/info.json")" = true ] || fail "info.json does not tell of the missing parent"
	unmount_image
done
