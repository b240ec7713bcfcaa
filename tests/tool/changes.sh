#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
. "$(dirname "$0")/lib.sh" || exit 1

ranges='[(x["start"], x["length"]) for x in d["ranges"]], d["everything"], d["changed-bytes"]'

for format in vhdx vhd raw; do
	vt create -q -f $format disk.$format 64M
	disk="disk.$format -f $format"
	# nothing is tracked yet
	status 0 vt changes --output=json $disk
	equal "$(json d <out)" "[]"
	status 0 vt changes --since monday --output=json $disk
	equal "$(json "$ranges" <out)" "([(0, 67108864)], True, 67108864)"
	says err "not tracked"

	status 0 vt changes --point monday $disk
	id=$(cat out)
	status 0 vt changes --since monday --output=json $disk
	equal "$(json "$ranges" <out)" "([], False, 0)"
	status 0 vt changes --since "$id" $disk
	equal "$(wc -l <out)" 1
	status 1 vt changes --point monday $disk
	says err "already"
	status 0 vt changes --point tuesday $disk
	status 0 vt changes --list --output=json $disk
	equal "$(json '[(x["name"], x["everything"]) for x in d]' <out)" "[('monday', False), ('tuesday', False)]"
	equal "$(json 'd[0]["id"]' <out)" "$id"
	status 1 vt changes --since sunday $disk
	says err "no such point: sunday"
	status 1 vt changes --since tuesday --until monday $disk
	says err "older"

	# somebody writes who does not track
	"$POKE" disk.$format 1048576:4096:1
	status 0 vt changes --since monday --output=json $disk
	equal "$(json "$ranges" <out)" "([(0, 67108864)], True, 67108864)"
	says err "without its changes being tracked"
	status 0 vt changes --since monday --until tuesday --output=json $disk
	equal "$(json "$ranges" <out)" "([], False, 0)"

	status 0 vt changes --forget monday $disk
	status 1 vt changes --forget monday $disk
	status 0 vt changes --stop $disk
	test ! -e disk.$format.track || fail "the side-car is still there"
done

status 1 vt changes --until a disk.vhdx
says err "needs --since"
status 1 vt changes --since a --list disk.vhdx
says err "at a time"
