#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
. "$(dirname "$0")/lib.sh" || exit 1

raw a.raw 16M
vt convert a.raw a.vhdx
vt convert a.vhdx a.vhd
status 0 vt compare a.raw a.vhdx
equal "$(cat out)" "Images are identical."
status 0 vt compare -f vhdx -F vhd -s a.vhdx a.vhd

cp a.raw b.raw
printf x | dd of=b.raw bs=1 seek=5000001 conv=notrunc status=none
status 1 vt compare b.raw a.vhdx
equal "$(cat out)" "Content mismatch at offset 5000001!"
status 1 vt compare -q b.raw a.vhdx
equal "$(cat out)" ""
status 1 vt compare --output=json a.vhd b.raw
equal "$(json 'd["identical"], d["offset"], d["size-differs"]' <out)" "(False, 5000001, False)"

# another size
cp a.raw longer.raw
truncate -s 17M longer.raw
status 0 vt compare a.vhdx longer.raw
says out "Warning: Image size mismatch!"
status 1 vt compare -s a.vhdx longer.raw
equal "$(cat out)" "Strict mode: Image size mismatch!"
printf x | dd of=longer.raw bs=1M seek=16 conv=notrunc status=none
status 1 vt compare a.vhdx longer.raw
says out "Content mismatch at offset 16777216!"

# errors
status 2 vt compare a.raw nowhere.raw
status 2 vt compare a.raw
vt create -q -b a.vhdx child.vhdx
mv a.vhdx gone.vhdx
status 2 vt compare child.vhdx a.raw
status 4 vt compare --orphan=eio child.vhdx a.raw

if command -v qemu-img >/dev/null; then
	qemu-img create -q -f vhdx empty.vhdx 16M
	vt create -q ours.vhdx 16M
	status 0 vt compare empty.vhdx ours.vhdx
fi
