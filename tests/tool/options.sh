#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Help, version, usage errors and completion are there for every verb.
. "$(dirname "$0")/lib.sh" || exit 1
verbs="create info map check repair convert compare merge rebase hash probe"

status 0 vt --version
says out "vhd-tool "
status 1 vt
status 1 vt frobnicate
says err 'there is no verb "frobnicate"'
status 0 vt help
for v in $verbs snapshot; do
	says out "  $v "
done
for v in $verbs "snapshot create" "snapshot list" "snapshot revert" "snapshot delete"; do
	status 0 vt $v --help
	cp out help
	says help "usage: vhd-tool $v [OPTION...]"
	status 0 vt help $v
	cmp out help
	[ "$v" = compare ] || [ "$v" = hash ] && want=2 || want=1
	status $want vt $v
	says err "vhd-tool $v: arguments are missing"
	status $want vt $v --no-such-option x
	status $want vt $v a b c d
	says err "vhd-tool $v: one argument too many"
done

# every reporting verb knows both outputs and refuses others
for v in info map check repair hash probe; do
	status 0 vt $v --help
	says out "--output=human|json"
	[ $v = hash ] && want=2 || want=1
	status $want vt $v --output=xml file
	says err '"xml" is neither human nor json'
done
# everything that writes in place can be asked first
for v in repair merge rebase "snapshot revert" "snapshot delete"; do
	status 0 vt $v --help
	says out "--dry-run"
done

status 1 vt info -f qcow2 file
says err '"qcow2" is not a format (raw, vhd, vpc, vhdx)'
status 1 vt info --orphan=maybe file
says err '"maybe" is neither eio nor zero'
status 1 vt convert --progress=999 a b
says err '"999" is not an open descriptor'
status 1 vt info nowhere.vhdx
equal "$(cat err)" "vhd-tool: nowhere.vhdx: No such file or directory"

# completion
. "$COMPLETION"
complete_words() {
	COMP_WORDS=("$@")
	COMP_CWORD=$(($# - 1))
	compopt() { :; }
	_vhd_tool
	echo "${COMPREPLY[*]}"
}
equal "$(complete_words "$VHD_TOOL" co)" "convert compare"
equal "$(complete_words "$VHD_TOOL" snapshot re)" "revert"
equal "$(complete_words "$VHD_TOOL" info -f v)" "vhd vpc vhdx"
equal "$(complete_words "$VHD_TOOL" info --im)" "--image-root"
equal "$(complete_words "$VHD_TOOL" map --output = j)" "json"
