#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Backups of a machine while it runs and while it does not: what is copied, what is left, what happens on failure.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/vm_lib.sh"
: "${SPINDLE_BACKUP:?the built spindle-backup}" "${RING_CLIENT:?a client of storvsp sockets}"
mkdir images
trap 'chmod -R u+w "$work"; kill_left' EXIT

sb() { "$SPINDLE_BACKUP" "$@"; }

# start [OPTION...]: the machine as m.json has it, and until it answers
start() {
	"$SPINDLE_VM" run --config m.json "$@" </dev/null >vm.out 2>vm.err &
	vm_pid=$!
	soon sv status m
}

stop() {
	sv stop --force m
	ended 0
}

# write LUN OFFSET TEXT, as a client of the disk would
write() { "$RING_CLIENT" ring.sock "$1" write "$2" "$3"; }
# text FILE OFFSET LENGTH
text() { rm -f t.raw; vt convert -q -O raw "$1" t.raw; dd if=t.raw bs=1 skip="$2" count="$3" status=none; }
snapshots() { sv snapshot list m --output=json | json '[s["name"] for s in d]'; }
files() { (cd images; ls | tr '\n' ' '); }
# points DEVICE: how many tracking points there are; what changed since the last one is the same page by page
points() {
	python3 - "$1" <<-'END'
	import json, socket, sys
	s = socket.socket(socket.AF_UNIX)
	s.connect('run/spindle/m.sock')
	f = s.makefile('rw')
	f.readline()
	def call(command, **arguments):
	    f.write(json.dumps({'execute': command, 'arguments': arguments}) + '\n')
	    f.flush()
	    while True:
	        answer = json.loads(f.readline())
	        if 'event' not in answer:
	            return answer['return']
	call('qmp_capabilities')
	points = call('spindle-track-points', device=sys.argv[1])
	print(len(points))
	since = {'device': sys.argv[1], 'since': points[-1]['id']}
	whole = call('spindle-track-changes', **since)
	pages, answer = [], {'next': 0}
	while 'next' in answer:
	    answer = call('spindle-track-changes', limit=1, offset=answer['next'], **since)
	    assert len(answer['ranges']) <= 1 and answer['bytes'] == whole['bytes']
	    pages += answer['ranges']
	assert pages == whole['ranges'] and whole['bytes'] == sum(length for _, length in pages)
	END
}

vt create -q images/root.vhdx 64M
vt create -q images/data.vhdx 32M
vt create -q images/seed.vhdx 4M
cat >m.json <<END
{ "name": "m", "mem": "32M", "kernel": "$SPIN", "serial": "none", "storvsp-socket": "ring.sock",
  "disks": [ { "file": "images/root.vhdx", "controller": 3, "lun": 0 }, { "file": "images/data.vhdx", "controller": 3 },
	     { "file": "images/seed.vhdx", "ro": true } ] }
END

# ---- running: full, incremental ------------------------------------------------------------------------
start
write 0 0 first
write 1 1048576 data
status 0 sb create repo web --machine m --output=json
equal "$(json 'd["full"], d["level"], d["reasons"]' <out)" "(True, 'crash', 'no-channel')"
equal "$(snapshots)" "[]"
equal "$(points scsi3:0)" 1
write 0 40000000 second
write 0 4096 third
equal "$(points scsi3:0)" 1
status 0 sb create repo web --machine m --no-quiesce --output=json
equal "$(json 'd["full"], d["reasons"]' <out)" "(False, 'not-asked')"
[ "$(json 'd["bytes-read"]' <out)" -le 2097152 ] || fail "unchanged ranges were read: $(cat out)"
equal "$(points scsi3:0)" 1
equal "$(points scsi3:1)" 1
equal "$(sb list --output=json repo | json '[(p["parent"], p["level"]) for p in d[0]["points"]]')" \
	"[(0, 'crash'), (1, 'crash')]"
write 0 0 later
status 0 sb verify --content repo
mkdir r1 r2
status 0 sb restore -q repo web r1 --point 1
status 0 sb restore -q repo web r2
equal "$(text r1/root.vhdx 0 5)" first
equal "$(text r2/root.vhdx 0 5)" first
equal "$(text r2/root.vhdx 40000000 6)" second
equal "$(text r2/data.vhdx 1048576 4)" data

# ---- scripts, levels -----------------------------------------------------------------------------------
status 0 sb create repo web --machine m --pre 'echo pre >>log' --post 'echo post >>log'
equal "$(tr '\n' , <log)" "pre,post,"
status 3 sb create repo web --machine m --require application
status 3 sb create repo web --machine m --require application --writer nobody.sock
says err "nobody.sock"
status 3 sb create repo web --machine m --require file-system
status 3 sb create repo web --machine m --require offline
status 1 sb create repo web --machine other
says err other
status 1 sb create repo web --machine m root.vhdx
status 1 sb create repo web
status 1 sb create repo web --config m.json
says err "--machine m"
equal "$(snapshots)" "[]"
equal "$(points scsi3:0)" 1
equal "$(sb list --output=json repo | json 'len(d[0]["points"])')" 3

# ---- a repository that fails: the machine and older points are as they were ----------------------------
write 0 8192 fourth
chmod 500 repo/web
if [ "$(id -u)" != 0 ]; then
	status 1 sb create repo web --machine m
	equal "$(snapshots)" "[]"
	equal "$(points scsi3:0)" 1
fi
chmod 700 repo/web
(ulimit -f 512; trap '' XFSZ; status 1 sb create repo web --machine m --full)
equal "$(snapshots)" "[]"
equal "$(points scsi3:0)" 1
status 0 sb create repo web --machine m --output=json
equal "$(json 'd["full"]' <out)" False
[ "$(json 'd["bytes-read"]' <out)" -le 2097152 ] || fail "unchanged ranges were read: $(cat out)"

# ---- a signal while the snapshot is being taken --------------------------------------------------------
"$SPINDLE_BACKUP" create repo web --machine m --pre 'touch begun; sleep 2' >out 2>err &
client=$!
soon test -e begun
kill -TERM $client
got=0
wait $client || got=$?
equal "$got" 143
says err "given up"
equal "$(snapshots)" "[]"

# ---- ^C and kill -9 -------------------------------------------------------------------------------------
for signal in INT KILL; do
	write 0 12288 $signal
	"$SPINDLE_BACKUP" create repo web --machine m --full --rate-limit 1M >out 2>err &
	client=$!
	for _ in $(seq 100); do
		[ "$(snapshots)" = "[]" ] || break
		sleep 0.05
	done
	sleep 0.3
	kill -$signal $client
	wait $client && fail "it ended well"
	[ $signal = KILL ] || equal "$(snapshots)" "[]"
done
equal "$(sb list --output=json repo | json 'len(d[0]["points"])')" 4
status 0 sb create repo web --machine m
equal "$(snapshots)" "[]"
equal "$(points scsi3:0)" 1
status 0 sb verify repo

# ---- the machine is started again: its disks are still tracked -----------------------------------------
stop
start
write 1 2097152 again
status 0 sb create repo web --machine m --output=json
equal "$(json 'd["full"]' <out)" False
[ "$(json 'd["bytes-read"]' <out)" -le 2097152 ] || fail "unchanged ranges were read: $(cat out)"

# ---- stopped: by its configuration ---------------------------------------------------------------------
stop
equal "$(files)" "data.vhdx data.vhdx.track root.vhdx root.vhdx.track seed.vhdx "
status 0 sb create repo web --config m.json --output=json
equal "$(json 'd["full"], d["level"]' <out)" "(False, 'offline')"
equal "$(json 'd["bytes-read"]' <out)" 0
"$POKE" images/data.vhdx 8388608:4096:7
status 0 sb create repo web --config m.json --output=json
[ "$(json 'd["bytes-read"]' <out)" -ge 2097152 ] || fail "what somebody else wrote was not looked for"
equal "$(vt hash images/data.vhdx | cut -d' ' -f1)" "$(vt hash repo/web/*"$(json 'd["point"]' <out)"-data.vhdx | cut -d' ' -f1)"
status 0 sb create repo web --config m.json --output=json
equal "$(json 'd["bytes-read"]' <out)" 0
start
write 1 3145728 more
status 0 sb create repo web --machine m --output=json
[ "$(json 'd["bytes-read"]' <out)" -le 2097152 ] || fail "unchanged ranges were read: $(cat out)"
status 0 sb verify --content repo
stop

# ---- thinned out, the newest point is still one of a machine; it boots where it lies ----------------------
status 0 sb prune -q --keep-last 2 repo web
before=$(sha256sum repo/web/*.vhdx)
"$SPINDLE_BACKUP" boot repo web -- --name m --serial none </dev/null >vm.out 2>vm.err &
vm_pid=$!
soon sv status m
status 0 sv status m --output=json
equal "$(json 'd["memory_mib"]' <out)" 32
status 0 sv stats m
says out scsi3:1
stop
equal "$(sha256sum repo/web/*.vhdx)" "$before"

# ---- restored, it runs ---------------------------------------------------------------------------------
mkdir again
status 0 sb restore -q repo web again
equal "$(json '[x["file"].split("/")[-2:] for x in d["disks"]]' <again/machine.json)" \
	"[['again', 'root.vhdx'], ['again', 'data.vhdx'], ['images', 'seed.vhdx']]"
equal "$(text again/data.vhdx 3145728 4)" more
cp again/machine.json m.json
start
equal "$("$RING_CLIENT" ring.sock 1 read 3145728)" more
stop

# ---- files with a side-car of their own ----------------------------------------------------------------
vt create -q images/lone.vhdx 16M
status 0 sb create repo lone images/lone.vhdx --track
status 0 sb create repo lone images/lone.vhdx --track --output=json
equal "$(json 'd["bytes-read"]' <out)" 0
