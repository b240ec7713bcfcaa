#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
. "$(dirname "$0")/lib.sh" || exit 1

vt create -q base.vhdx 64M
vt create -q -b base.vhdx mid.vhdx
vt create -q -b mid.vhdx leaf.vhdx
status 0 vt info leaf.vhdx
says out "image: leaf.vhdx"
says out "file format: vhdx (differencing)"
says out "virtual size: 64 MiB (67108864 bytes)"
says out "backing file: .\\mid.vhdx (actual path: $work/mid.vhdx)"
says_not out "image: $work/mid.vhdx"
status 0 vt info --chain leaf.vhdx
equal "$(grep -c ^image: out)" 3
says out "image: $work/base.vhdx"
status 0 vt info --backing-chain --output=json leaf.vhdx
equal "$(json '[x["filename"] for x in d]' <out)" "['leaf.vhdx', '$work/mid.vhdx', '$work/base.vhdx']"
equal "$(json '[x["dirty-flag"] for x in d]' <out)" "[False, False, False]"

# a waiting log is said, and the file stays as it is
cp base.vhdx dirty.vhdx
"$POKE" -k dirty.vhdx 0:4096:7
before=$(sha256sum dirty.vhdx)
status 0 vt info dirty.vhdx
says out "log: not empty, replayed in memory for this look"
equal "$(vt info --output=json dirty.vhdx | json 'd["dirty-flag"]')" True
equal "$(sha256sum dirty.vhdx)" "$before"

# a parent that was written to
cp base.vhdx keep.vhdx
"$POKE" base.vhdx 0:512:1
status 1 vt info --chain leaf.vhdx
says err "its identity is"
says err "vhd-tool rebase -u"
says out "image: leaf.vhdx"
status 1 vt info --output=json mid.vhdx
equal "$(json 'd["error"]["errno"]' <out)" 116
equal "$(json 'd["subformat"]' <out)" differencing
cp keep.vhdx base.vhdx

# a parent that is not there
mv mid.vhdx away.vhdx
status 1 vt info leaf.vhdx
says err "parent of $work/leaf.vhdx not found; the image names \".\\mid.vhdx\""
says err "--orphan=eio or --orphan=zero opens the image without its parent"
says out "expected parent identity: "
status 0 vt info --orphan=eio leaf.vhdx
mv away.vhdx mid.vhdx

# an image that does not open at all
cp base.vhdx broken.vhdx
dd if=/dev/zero of=broken.vhdx bs=64K seek=1 count=2 conv=notrunc status=none
status 1 vt info broken.vhdx
says out "file format: vhdx"
says out "damage: "
status 1 vt info --output=json broken.vhdx
equal "$(json 'd["error"]["errno"]' <out)" 74
mkdir dir
status 1 vt info dir
status 1 vt info ''

# raw is told by its name
head -c 1000000 /dev/zero >disk.raw
status 0 vt info -f raw disk.raw
says out "file format: raw"

# looking at an image that is open elsewhere
if command -v qemu-io >/dev/null; then
	vt create -q lock.vhdx 10M
	coproc LOCKED { qemu-io -f vhdx lock.vhdx; }
	for _ in $(seq 50); do grep -q "$(stat -c %i lock.vhdx)" /proc/locks && break; sleep 0.1; done
	status 1 vt info lock.vhdx
	says err "-U looks at it"
	status 0 vt info -U lock.vhdx
	kill "$LOCKED_PID"
fi
