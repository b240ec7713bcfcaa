#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
. "$(dirname "$0")/lib.sh" || exit 1

for f in vhdx vhd; do
	raw src.raw 12M
	vt convert --force src.raw base.$f
	vt create -q --force -b base.$f mid.$f
	"$POKE" mid.$f 1000448:70000:1 6000128:4096:2
	vt create -q --force -b mid.$f leaf.$f
	"$POKE" leaf.$f 1024000:512:3 7340032:2097152:0
	want=$(sum_of leaf.$f)

	# asking changes nothing
	before=$(sha256sum base.$f mid.$f leaf.$f)
	status 0 vt merge --dry-run -n 2 leaf.$f
	says out "would merge leaf.$f"
	equal "$(sha256sum base.$f mid.$f leaf.$f)" "$before"

	status 1 vt merge -n 3 leaf.$f
	status 1 vt merge base.$f
	equal "$(sum_of leaf.$f)" "$want"

	# one layer, then the rest
	status 0 vt merge --output=json leaf.$f
	target=$(json 'd["target"]' <out)
	equal "$(json 'd["dry-run"], d["layers"]' <out)" "(False, 1)"
	equal "$(sum_of "$target")" "$want"
	status 0 vt merge -m 2 "$target"
	equal "$(ls | grep -c "\.$f$")" 1
	last=$(ls ./*.$f)
	equal "$(sum_of "$last")" "$want"
	equal "$(vt info --output=json "$last" | json '"backing-filename" in d')" False
	status 0 vt check "$last"
	rm -f ./*.$f
done
