#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
. "$(dirname "$0")/lib.sh" || exit 1

raw src.raw 20M
want=$(sha256sum <src.raw | cut -d' ' -f1)

# any to any, through every format and back
n=0
for from in raw vhd vhdx; do
	for to in raw vhd vhdx; do
		for how in dynamic fixed; do
			n=$((n + 1))
			vt convert -f raw -O $from src.raw a$n
			vt convert -f $from -O $to -o subformat=$how --verify a$n b$n
			equal "$(vt hash -f $to b$n | cut -d' ' -f1)" "$want"
			equal "$(vt info -f $to --output=json b$n | json 'd["format"]')" $to
			rm a$n b$n
		done
	done
done

# format by the ending of the name; holes stay holes
vt convert src.raw out.vhdx
equal "$(vt info --output=json out.vhdx | json 'd["format"]')" vhdx
vt convert out.vhdx back.raw
cmp src.raw back.raw
[ "$(stat -c %b back.raw)" -lt 16384 ] || fail "the holes of the source were filled"
vt convert -S 0 -o subformat=fixed src.raw full.vhdx
[ "$(stat -c %b full.vhdx)" -ge 40960 ] || fail "-S 0 leaves holes"

# a chain becomes one image
vt create -q -b out.vhdx mid.vhdx
"$POKE" mid.vhdx 5000192:8192:5
vt create -q -b mid.vhdx leaf.vhdx
"$POKE" leaf.vhdx 5004288:512:6 0:1048576:0
vt convert leaf.vhdx flat.vhd
equal "$(sum_of flat.vhd)" "$(sum_of leaf.vhdx)"
equal "$(vt info --output=json flat.vhd | json '"backing-filename" in d')" False

# a waiting log of the source counts
cp out.vhdx dirty.vhdx
"$POKE" -k dirty.vhdx 10000384:4096:9
vt convert dirty.vhdx clean.raw
equal "$(dd if=clean.raw bs=1 skip=10000384 count=4096 status=none | tr -d '\011' | wc -c)" 0

# to a pipe
for f in raw vhd vhdx; do
	vt convert -O $f src.raw - | cat >piped.$f
	equal "$(vt hash -f $f piped.$f | cut -d' ' -f1)" "$want"
	[ $f = raw ] || status 0 vt check piped.$f
done
status 1 vt convert --verify src.raw -
# the reader goes away
set +e
vt convert -O raw src.raw - 2>pipe.err | head -c 10 >/dev/null
got=${PIPESTATUS[0]}
set -e
equal "$got" 1
says pipe.err "vhd-tool: src.raw: "

# refusals
status 1 vt convert src.raw out.vhdx
says err "exists already"
cp out.vhdx old.vhdx
vt convert --force src.raw old.vhdx
status 1 vt convert --force src.raw src.raw
status 1 vt convert --force leaf.vhdx out.vhdx
says err "belongs to the source's chain"
status 1 vt convert nowhere.raw x.vhdx
status 1 vt convert -o block_size=3M src.raw x.vhdx
[ ! -e x.vhdx ] || fail "a refused target is there"

# progress for programs
vt convert --progress=3 src.raw p.vhdx 3>lines
equal "$(tail -1 lines)" "100/100"
equal "$(grep -vcE '^[0-9]+/100$' lines)" 0
equal "$(sort -n -u lines | wc -l)" "$(wc -l <lines)"
status 0 vt convert -p src.raw p2.vhdx	# no terminal, no bar
equal "$(cat err)" ""

# no temporary files
equal "$(find . -name '.*.tmp-*' | wc -l)" 0

if command -v qemu-img >/dev/null; then
	status 0 qemu-img compare -f raw -F vhdx src.raw out.vhdx
	status 0 qemu-img check -f vhdx out.vhdx
	vt convert -O vhd src.raw q.vhd
	status 0 qemu-img compare -f raw -F vpc src.raw q.vhd
	for how in dynamic fixed; do
		qemu-img convert -f raw -O vhdx -o subformat=$how src.raw theirs.vhdx
		equal "$(sum_of theirs.vhdx)" "$want"
		qemu-img convert -f raw -O vpc -o subformat=$how,force_size=on src.raw theirs.vhd
		equal "$(vt hash -f vhd theirs.vhd | cut -d' ' -f1)" "$want"
	done
fi
