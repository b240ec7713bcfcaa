#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
. "$(dirname "$0")/lib.sh" || exit 1

for f in vhdx vhd; do
	vt create -q disk.$f 8M
	"$POKE" disk.$f 0:4096:1
	one=$(sum_of disk.$f)
	status 0 vt snapshot create disk.$f one
	"$POKE" disk.$f 4096:4096:2
	two=$(sum_of disk.$f)
	vt snapshot create -q disk.$f two
	"$POKE" disk.$f 8192:4096:3
	three=$(sum_of disk.$f)
	[ "$one" != "$two" ] && [ "$two" != "$three" ]

	status 0 vt snapshot list disk.$f
	equal "$(awk 'NR > 1 { print $1, $2 }' out)" "1 two
2 one"
	status 0 vt snapshot list --output=json disk.$f
	equal "$(json '[(x["name"], x["depth"]) for x in d]' <out)" "[('two', 1), ('one', 2)]"
	equal "$(sum_of disk.one.$f)" "$one"
	equal "$(sum_of disk.two.$f)" "$two"

	status 1 vt snapshot create disk.$f two
	status 1 vt snapshot create disk.$f ../evil
	status 1 vt snapshot revert disk.$f nowhere
	status 1 vt snapshot delete disk.$f nowhere
	equal "$(sum_of disk.$f)" "$three"

	# asking changes nothing
	before=$(sha256sum ./*.$f)
	status 0 vt snapshot revert --dry-run disk.$f one
	status 0 vt snapshot delete --dry-run disk.$f one
	equal "$(sha256sum ./*.$f)" "$before"

	status 0 vt snapshot revert disk.$f two
	equal "$(sum_of disk.$f)" "$two"
	"$POKE" disk.$f 12288:4096:4
	four=$(sum_of disk.$f)
	status 0 vt snapshot delete disk.$f two
	equal "$(sum_of disk.$f)" "$four"
	equal "$(vt snapshot list --output=json disk.$f | json '[x["name"] for x in d]')" "['one']"
	status 0 vt snapshot revert disk.$f one
	equal "$(sum_of disk.$f)" "$one"
	status 0 vt snapshot delete disk.$f one
	equal "$(sum_of disk.$f)" "$one"
	equal "$(vt snapshot list --output=json disk.$f | json 'd')" "[]"
	equal "$(ls ./*.$f)" "./disk.$f"
	status 0 vt check disk.$f
done
