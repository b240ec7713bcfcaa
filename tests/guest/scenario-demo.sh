# SPDX-License-Identifier: BSD-2-Clause
# For make demo: a guest boots with a chain of images that came with --with-file, writes into it, and is backed up while
# it writes. On a host with KVM of its own it runs there: LAB, DEMO and guest say where things are.
scenario=demo
. "${LAB:-/lab}/lib.sh"
demo=${DEMO:-/demo}

# backup NAME - one more point, of frozen file systems
backup()
{
	spindle-backup create -q --output=json --machine demo --require=file-system "$demo/repository" guest >"$1.json" ||
		return
	jq -r '"\(.level) consistent, \(."bytes-read") bytes read, \(."bytes-written") written; " +
		"file systems frozen for \(.snapshot.freeze_ms) ms, I/O held for \(.snapshot.pause_ms) ms"' "$1.json" >told
}
tell() { [ ! -s told ] || say "$1: $(cat told)"; }

vm_start demo 1 demo --disk "$demo/linux.vhdx"
if vm_step load 150; then
	check "a full backup while the guest writes" backup full
	tell full
	vm_go
	vm_step changed 100
	check "an incremental backup after a change" backup incremental
	tell incremental
	vm_go
fi
vm_end 150 0
check "vhd-tool check" sound "$demo/linux.vhdx"
