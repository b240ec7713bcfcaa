#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
. "$(dirname "$0")/lib.sh" || exit 1

vt create -q -o block_size=1M base.vhdx 8M
"$POKE" base.vhdx 1048576:1048576:1
vt create -q -o block_size=1M -b base.vhdx leaf.vhdx
"$POKE" leaf.vhdx 3145728:4096:2 1048576:512:3

status 0 vt map --output=json leaf.vhdx
equal "$(json '[(x["start"], x["length"], x["depth"], x["present"], x["zero"], x["data"]) for x in d]' <out)" \
	"[(0, 1048576, 1, False, True, False), (1048576, 512, 0, True, False, True), (1049088, 1048064, 1, True, False, True), \
(2097152, 1048576, 1, False, True, False), (3145728, 4096, 0, True, False, True), (3149824, 5238784, 1, False, True, False)]"
# offsets are where the bytes really are
offset=$(json 'd[1]["offset"]' <out)
equal "$(dd if=leaf.vhdx bs=1 skip="$offset" count=512 status=none | tr -d '\003' | wc -c)" 0

status 0 vt map leaf.vhdx
equal "$(head -1 out | tr -s ' ')" "Offset Length Mapped to File"
says out "$work/base.vhdx"
equal "$(wc -l <out)" 4

# part of it
status 0 vt map --output=json -s 1M -l 1M leaf.vhdx
equal "$(json 'd[0]["start"], sum(x["length"] for x in d)' <out)" "(1048576, 1048576)"
status 1 vt map -s 9M leaf.vhdx
says err "past the end of the disk"
status 0 vt map -s 8M --output=json leaf.vhdx
equal "$(cat out)" "[]"

# without the parent
mv base.vhdx gone.vhdx
status 1 vt map leaf.vhdx
status 0 vt map --orphan=zero --output=json leaf.vhdx
equal "$(json '[x["length"] for x in d if x.get("unknown")]' <out)" "[1048576, 2096640, 5238784]"
status 0 vt map --orphan=eio leaf.vhdx
says out "(missing parent)"

if command -v qemu-img >/dev/null; then
	vt create -q q.vhdx 8M
	qemu-io -f vhdx -c 'write 2M 64k' q.vhdx >/dev/null
	equal "$(vt map --output=json q.vhdx | json '[(x["start"], x["data"]) for x in d if x["start"] == 2097152 or x["data"]][0][1]')" True
fi
