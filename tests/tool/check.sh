#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# check and repair, and their exit codes.
. "$(dirname "$0")/lib.sh" || exit 1

for f in vhdx vhd; do
	vt create -q good.$f 32M
	"$POKE" good.$f 0:4096:1 9000000:100000:2
	status 0 vt check good.$f
	says out "No errors were found on the image."
	status 0 vt check --output=json good.$f
	equal "$(json 'd["format"], d["check-errors"], d["corruptions"], d["leaks"], d["findings"]' <out)" "('$f', 0, 0, 0, [])"
	status 0 vt repair good.$f
	status 0 vt check -q good.$f
	equal "$(cat out err)" ""
done

# cannot run at all, and nothing to check
status 1 vt check nowhere.vhdx
status 1 vt check -r some good.vhdx
head -c 100000 /dev/urandom >junk
status 1 vt check junk
status 63 vt check -f raw junk
status 63 vt repair -f raw junk

# a lost copy of a structure: repaired from the other one
header_lost() { dd if=/dev/zero of="$1" bs=4096 seek=16 count=1 conv=notrunc status=none; }
cp good.vhdx h.vhdx
header_lost h.vhdx
vt check h.vhdx >out || true
says out "[repairable]"
before=$(sha256sum h.vhdx)
status 0 vt repair --dry-run h.vhdx || true
says out "[would be repaired]"
equal "$(sha256sum h.vhdx)" "$before"
vt repair h.vhdx >out
says out "[repaired]"
status 0 vt check h.vhdx
equal "$(sum_of h.vhdx)" "$(sum_of good.vhdx)"

cp good.vhd f.vhd
dd if=/dev/zero of=f.vhd bs=512 count=1 conv=notrunc status=none
vt check -r all f.vhd >out
says out "[repaired]"
status 0 vt check f.vhd
equal "$(sum_of f.vhd)" "$(sum_of good.vhd)"

# a waiting log is replayed, never thrown away
cp good.vhdx d.vhdx
"$POKE" -k d.vhdx 20000000:4096:9
sum=$(sum_of d.vhdx)
vt repair d.vhdx >out
equal "$(sum_of d.vhdx)" "$sum"
equal "$(vt info --output=json d.vhdx | json 'd["dirty-flag"]')" False

# signatures gone: the ending of the name still tells
cp good.vhdx sig.vhdx
printf 'XXXXXXXX' | dd of=sig.vhdx conv=notrunc status=none
status 2 vt check sig.vhdx
says out "file type identifier"

# leaks
cp good.vhd leak.vhd
python3 - leak.vhd <<'PY'
import sys
with open(sys.argv[1], 'r+b') as f:
    f.seek(-512, 2); footer = f.read(512)
    f.seek(-512, 2); f.write(bytes(2 << 20)); f.write(footer)
PY
status 3 vt check leak.vhd
says out "leak"
status 0 vt repair leak.vhd
equal "$(stat -c %s leak.vhd)" "$(stat -c %s good.vhd)"
equal "$(sum_of leak.vhd)" "$(sum_of good.vhd)"

if command -v qemu-img >/dev/null; then
	for f in good h d; do status 0 qemu-img check -f vhdx $f.vhdx; done
fi
