#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Disks of controller 3 belong to a client on the host, with the rest of a machine's life around them.
. "$(dirname "$0")/lib.sh" || exit 1
. "$(dirname "$0")/vm_lib.sh" || exit 1
: "${RING_CLIENT:?the built ring_client}"
image a.vhdx
image b.vhdx
echo text >data

for jail in "" --no-jail; do
	start $jail --disk a.vhdx --disk b.vhdx,controller=3 --storvsp-socket client.sock
	equal "$(stat -c %a client.sock)" 600
	equal "$(sv stats m --output=json | jq -c keys)" '["scsi0","scsi3"]'
	status 0 "$RING_CLIENT" client.sock 0 write 4194304 "by a client"
	status 0 "$RING_CLIENT" client.sock 0 read 4194304
	says out "by a client"
	equal "$(sv stats m | awk '$1 == "scsi3:0" { print $3, $5 }')" "1 512"
	status 0 sv detach m scsi3:0
	status 1 "$RING_CLIENT" client.sock 0 size
	status 0 sv attach m --disk b.vhdx,controller=3
	status 0 "$RING_CLIENT" client.sock 0 read 4194304
	says out "by a client"
	status 0 sv stop --force m
	ended 0
	left_nothing
	vt check -q b.vhdx
done
status 1 "$SPINDLE_VM" run --name m --kernel "$SPIN" --serial none --storvsp-socket data
says err data
