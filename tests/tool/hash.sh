#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
. "$(dirname "$0")/lib.sh" || exit 1

raw a.raw 10486272		# the last chunk is one sector
want=$(sha256sum <a.raw | cut -d' ' -f1)
equal "$(vt hash a.raw)" "$want  a.raw"
equal "$(vt hash --output=json a.raw | json 'd["sha256"], d["virtual-size"]')" "('$want', 10486272)"
raw b.raw 10M
want=$(sha256sum <b.raw | cut -d' ' -f1)
vt convert b.raw b.vhdx
vt convert -o subformat=fixed b.raw b.vhd
equal "$(sum_of b.vhdx)" "$want"
equal "$(sum_of b.vhd)" "$want"
equal "$(vt hash -m 1 b.vhdx | cut -d' ' -f1)" "$want"

# manifest
vt hash -o m b.vhdx >/dev/null
{
	printf 'spindle-manifest 1\nsize 10485760\nchunk 1048576\nsha256 %s\n' "$want"
	for i in $(seq 0 9); do
		printf '%s %s\n' "$i" "$(dd if=b.raw bs=1M skip="$i" count=1 status=none | sha256sum | cut -d' ' -f1)"
	done
} >by-hand
cmp m by-hand
vt hash -o - b.vhd | cmp - by-hand
status 0 vt hash --verify m b.vhd
says out "b.vhd: matches m"

# differences
for i in 1 2 5; do printf x | dd of=b.raw bs=1 seek=$((i * 1048576 + 77)) conv=notrunc status=none; done
status 1 vt hash --verify m b.raw
equal "$(cat out)" "differs: offset 1048576 (0x100000), 2097152 bytes
differs: offset 5242880 (0x500000), 1048576 bytes"
status 1 vt hash --verify m --output=json b.raw
equal "$(json 'd["matches"], d["differing-ranges"], d["first-differences"][0]' <out)" \
	"(False, 2, {'start': 1048576, 'length': 2097152})"
truncate -s 9M b.raw
status 1 vt hash --verify m b.raw
says out "size differs: 9437184 bytes, the manifest says 10485760"

# errors
status 2 vt hash nowhere
status 2 vt hash --verify nowhere b.vhdx
sed 's/^3 .*/3 00/' m >bad
status 2 vt hash --verify bad b.vhdx
says err 'vhd-tool: bad: line 8 of the manifest: "INDEX HASH" expected'
