#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Disks of a running machine: added, removed, resized, limited, protected; media of DVD drives.
. "$(dirname "$0")/lib.sh" || exit 1
. "$(dirname "$0")/vm_lib.sh" || exit 1
image a.vhdx
image b.vhdx
vt create -q c.vhd 32M
truncate -s 4M d.raw
truncate -s 1M one.iso
truncate -s 2M two.iso
mkdir elsewhere
image elsewhere/e.vhdx
vt snapshot create -q a.vhdx base

block() {
	python3 -c 'import json, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
f = s.makefile("rw")
f.readline()
for command in "qmp_capabilities", sys.argv[2]:
    f.write(json.dumps({"execute": command}) + "\n")
    f.flush()
    answer = json.loads(f.readline())
print(json.dumps(answer["return"]))' "$work/run/spindle/m.sock" "$1"
}
# at DEVICE EXPRESSION
at() { block query-block | jq -c ".[] | select(.device == \"$1\") | $2"; }

start --disk a.vhdx --disk d.raw,format=raw,lun=5,controller=1 --dvd one.iso
equal "$(block query-block | jq -c '[.[] | .device]')" '["scsi0:0","scsi1:5","scsi0:1"]'
equal "$(at scsi0:0 '[.type,.size,.read_only,.throw_away,.failed,(.chain|length)]')" '["disk",67108864,false,false,false,2]'
equal "$(at scsi0:1 '[.type,.size,.read_only]')" '["dvd",1048576,true]'
equal "$(at scsi1:5 '.chain[0].format')" '"raw"'

# attach, from this folder and from another
status 0 sv attach m --disk b.vhdx,iops=100
says out scsi0:2
equal "$(at scsi0:2 .limits.iops)" 100
(cd elsewhere && status 0 sv attach m --disk e.vhdx,ro,lun=9)
equal "$(at scsi0:9 .read_only)" true
status 0 sv attach --dvd none m
says out scsi0:3
status 1 sv attach m --disk a.vhdx
says err a.vhdx
status 1 sv attach m --disk c.vhd,lun=9
says err "unit 9 of controller 0 is taken"
status 1 sv attach m --disk c.vhd,controller=3
says err "no controller 3"
status 1 sv attach m --disk none.vhdx
says err none.vhdx
status 1 sv attach m --disk c.vhd,snapshot
says err "only when the machine starts"
# what lies elsewhere is not for a sealed machine
status 1 sv attach m --disk /etc/passwd,format=raw,ro
says err "--attach-from"
status 2 sv attach m --disk a,b
status 2 sv attach m
status 2 sv attach m --disk a --dvd b

# resize
status 0 sv resize m scsi0:2 96m
equal "$(at scsi0:2 .size)" 100663296
status 1 sv resize m 0:2 1m
says err b.vhdx
status 1 sv resize m scsi0:1 96m
says err "no disk"
status 1 sv resize m scsi0:44 96m
says err 'no disk at "scsi0:44"'
status 2 sv resize m scsi0:2 big

# limits
status 0 sv limit m scsi0:2 --iops=500 --bps=10m
equal "$(at scsi0:2 '[.limits.iops,.limits.bps]')" '[500,10485760]'
status 0 sv limit m scsi0:2
equal "$(at scsi0:2 '[.limits.iops,.limits.bps]')" '[0,0]'
status 1 sv limit m scsi9:2 --iops=500
status 2 sv limit m scsi0:2 --iops=many

# read-only
status 0 sv read-only m scsi0:2 on
equal "$(at scsi0:2 .read_only)" true
status 0 sv read-only m scsi0:2 off
status 1 sv read-only m scsi0:9 off
says err "opened read-only"
status 2 sv read-only m scsi0:2 perhaps

# statistics
status 0 sv stats m
says out "scsi0:2"
equal "$(sv stats m --output=json | jq -c 'keys')" '["scsi0","scsi1"]'
equal "$(block query-blockstats | jq -c '[.[] | .stats.wr_operations] | add')" 0

# media
status 0 sv insert m scsi0:1 two.iso
equal "$(at scsi0:1 '[.size,.filename|tostring|sub(".*/";"")]')" '["2097152","two.iso"]'
status 1 sv insert m scsi0:1 none.iso
says err none.iso
equal "$(at scsi0:1 .size)" 2097152
status 0 sv eject m scsi0:1
equal "$(at scsi0:1 '[.size,.filename]')" '[null,null]'
status 0 sv eject m scsi0:1
status 0 sv insert m scsi0:1 one.iso
equal "$(at scsi0:1 .size)" 1048576
status 0 sv insert --force m scsi0:3 two.iso
status 1 sv insert m scsi0:0 two.iso
says err "no DVD drive"

# detach: the file is free at once, and can come back
status 0 sv detach m scsi0:2
vt check -q b.vhdx
equal "$(vt info --output=json b.vhdx | jq '.["virtual-size"]')" 100663296
status 1 sv detach m scsi0:2
status 0 sv attach m --disk b.vhdx
status 0 sv stop --force m
ended 0
for i in a.vhdx b.vhdx elsewhere/e.vhdx; do vt check -q $i; done

# --attach-from
mkdir other
image other/o.vhdx
mkdir base
cp d.raw base/
start --disk base/d.raw,format=raw --attach-from other
status 0 sv attach m --disk other/o.vhdx
status 1 sv attach m --disk b.vhdx
says err "--attach-from"
status 0 sv stop --force m
ended 0
status 1 "$SPINDLE_VM" run --name m --kernel "$SPIN" --serial none --attach-from nowhere
says err nowhere
