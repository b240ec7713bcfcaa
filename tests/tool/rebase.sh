#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
. "$(dirname "$0")/lib.sh" || exit 1

for f in vhdx vhd; do
	raw src.raw 8M
	vt convert --force src.raw old.$f
	cp old.$f moved.$f
	raw src.raw 8M			# other content
	vt convert --force src.raw new.$f
	vt create -q --force -b old.$f child.$f
	"$POKE" child.$f 4096:4096:1 7000064:512:2
	want=$(sum_of child.$f)

	status 1 vt rebase child.$f
	says err "-b PARENT is missing"
	before=$(sha256sum child.$f)
	status 0 vt rebase --dry-run -b new.$f child.$f
	equal "$(sha256sum child.$f)" "$before"

	# the same content under another name
	status 0 vt rebase -u -b moved.$f child.$f
	equal "$(vt info --output=json child.$f | json 'd["full-backing-filename"]')" "$work/moved.$f"
	equal "$(sum_of child.$f)" "$want"

	# other content below: the child reads as before
	status 0 vt rebase -b new.$f child.$f
	equal "$(vt info --output=json child.$f | json 'd["full-backing-filename"]')" "$work/new.$f"
	equal "$(sum_of child.$f)" "$want"
	status 0 vt check child.$f

	# alone
	status 0 vt rebase -b '' child.$f
	equal "$(vt info --output=json child.$f | json '"backing-filename" in d')" False
	rm -f old.$f new.$f moved.$f
	equal "$(sum_of child.$f)" "$want"

	status 1 vt rebase -b nowhere.$f child.$f
done
