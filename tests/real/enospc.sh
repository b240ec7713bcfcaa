#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Space ends under a growing disk and under a conversion: a clean error, nothing lost, and on it goes when there is space again.
. "$(dirname "$0")/common.sh"

mkdir "$dir/mnt"
for image in disk.vhd disk.vhdx; do
	mount -t tmpfs -o size=${REAL_TMPFS:-9m} none "$dir/mnt"
	dd if=/dev/zero of="$dir/mnt/ballast" bs=1M count=3 status=none
	"$WRITER" full "$dir/mnt/$image" "$dir/mnt/ballast"
	"$VHD_TOOL" check -q "$dir/mnt/$image" || fail "$image is damaged"
	umount "$dir/mnt"
done

"$VHD_TOOL" create -q "$dir/source.vhdx" 64M
"$WRITER" fill "$dir/source.vhdx"
for target in copy.vhdx copy.vhd copy.raw; do
	mount -t tmpfs -o size=4m none "$dir/mnt"
	if "$VHD_TOOL" convert -q "$dir/source.vhdx" "$dir/mnt/$target" 2>"$dir/said"; then
		fail "$target: 8 MiB went into 4"
	fi
	grep -qi "space" "$dir/said" || fail "$target: the message does not say why: $(cat "$dir/said")"
	sed 's/^/   /' "$dir/said"
	[ -z "$(ls -A "$dir/mnt")" ] || fail "$target: left behind: $(ls -A "$dir/mnt")"
	mount -o remount,size=80m "$dir/mnt"
	"$VHD_TOOL" convert -q "$dir/source.vhdx" "$dir/mnt/$target"
	"$VHD_TOOL" compare -q "$dir/source.vhdx" "$dir/mnt/$target" || fail "$target differs"
	umount "$dir/mnt"
done
echo "conversions: 3 refused, and done when there was space"
