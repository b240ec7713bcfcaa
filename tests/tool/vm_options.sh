#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# What spindle-vm refuses, and how: 2 and a hint for what cannot be meant, 1 and the file's name for what does not work.
. "$(dirname "$0")/lib.sh" || exit 1
. "$(dirname "$0")/vm_lib.sh" || exit 1
image a.vhdx
echo text >text

run_row() {
	local want=$1 text=$2

	shift 2
	status "$want" timeout 20 "$SPINDLE_VM" run "$@"
	says err "$text"
}

k="--kernel $SPIN --serial none --mem 32"
run_row 2 "no kernel"
run_row 2 "no kernel" --disk a.vhdx
run_row 2 "usage: spindle-vm run" --unknown
run_row 2 "usage: spindle-vm run" --disk
run_row 2 "\"extra\"" $k extra
run_row 2 "lun=64" $k --disk a.vhdx,lun=64
run_row 2 "is no key" $k --disk a.vhdx,colour=red
run_row 2 "both are to be unit 3" $k --disk a.vhdx,lun=3 --dvd none,lun=3
run_row 2 "--mem lots" --kernel "$SPIN" --mem lots
run_row 2 "memory: 16 MiB" --kernel "$SPIN" --mem 1
run_row 2 "--cpus 65" $k --cpus 65
run_row 2 "0 processors" $k --cpus 0
run_row 2 "--name " $k --name ""
run_row 2 "name \"a b\"" $k --name "a b"
run_row 2 "\"radio\" is no console" --kernel "$SPIN" --serial radio
run_row 2 "tcp:99999" --kernel "$SPIN" --serial tcp:99999
run_row 1 "missing.elf" --kernel missing.elf --serial none
run_row 1 "text" --kernel text --serial none
run_row 1 "missing.initrd" $k --initrd missing.initrd
run_row 1 "missing.vhdx" $k --disk missing.vhdx
run_row 1 "text" $k --disk text,format=vhdx
run_row 1 "/none/q.sock" $k --qmp /none/q.sock
run_row 1 "text" $k --qmp text
run_row 1 "/none/console" --kernel "$SPIN" --serial file:/none/console
run_row 1 "no-such.json" --config no-such.json
mkfifo fifo
run_row 1 "fifo" --kernel fifo --serial none
run_row 1 "disk0" --kernel disk0:/vmlinuz --disk a.vhdx --serial none

# JSON
echo '{"mem":32,"cpus":2,"name":"json","kernel":"'"$SPIN"'","serial":"none","disks":[{"file":"a.vhdx","ro":true}]}' >good.json
echo '{"mem":32,"colour":"red"}' >unknown.json
echo '{"mem":32' >half.json
run_row 2 'unknown.json: unknown key "colour"' --config unknown.json
run_row 2 "half.json: no JSON object" --config half.json
vm=json start --config good.json --name json --cpus 1
equal "$(sv status json --output=json | jq -c '[.name,.cpus,.memory_mib]')" '["json",1,32]'
status 0 sv stop --force json
ended 0

# the other verbs
for verb in status stop reset pause resume console stats attach detach insert eject read-only resize limit; do
	status 2 sv $verb
	says err "usage: spindle-vm $verb"
	[ $verb = console ] || status 0 sv $verb --help
done
for words in "status nobody" "stop nobody" "reset nobody" "pause nobody" "console nobody" "stats nobody" \
	"detach nobody 0" "resize nobody 0 1m" "limit nobody 0" "eject nobody 0" "insert nobody 0 f" \
	"attach nobody --disk f" "read-only nobody 0 on"; do
	status 1 sv $words
	says err 'no machine "nobody" runs'
done
status 2 sv status m --output=xml
status 2 sv stop m --timeout=soon
status 2 sv stats m --watch=0
status 2 sv list extra
status 2 sv doctor extra
status 2 sv fly
status 2 sv
status 0 sv --help
status 0 sv --version
says out "spindle-vm "

# doctor
got=0
sv doctor >out 2>err || got=$?
[ $got -le 1 ] || fail "doctor answered $got"
says out "/dev/kvm"
says out "folder for control sockets"
chmod 755 run/spindle
status 1 sv doctor
says out "not a folder of ours alone"
status 1 sv list
says err "not a folder of ours alone"
