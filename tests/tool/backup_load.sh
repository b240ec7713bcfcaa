#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Live backups of two disks under a load that knows what belongs into each. ROUNDS: how many.
. "$(dirname "$0")/lib.sh"
: "${SPINDLE_VM:?the built spindle-vm}" "${SPIN:?a guest that runs for ever}" "${SPINDLE_BACKUP:?the built spindle-backup}"
: "${BACKUP_LOAD:?the built backup_load}" "${ROUNDS:=100}"
[ -w /dev/kvm ] || { echo "skipped: /dev/kvm"; exit 77; }
# Looking for leaks needs what the jail forbids.
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
export XDG_RUNTIME_DIR=$work/run
mkdir run
chmod 700 run
trap 'kill $pid 2>/dev/null || true; wait; rm -rf "$work"' EXIT

vt create -q a.vhdx 32M
vt create -q b.vhdx 32M
"$SPINDLE_VM" run --name m --mem 32 --cpus 4 --kernel "$SPIN" --serial none --paused --storvsp-socket ring.sock \
	--disk a.vhdx,controller=3 --disk b.vhdx,controller=3 </dev/null >vm.out 2>vm.err &
pid=$!
for _ in $(seq 100); do
	! "$SPINDLE_VM" status m >/dev/null 2>&1 || break
	sleep 0.1
done
"$BACKUP_LOAD" ring.sock "$ROUNDS" 33554432 repo/web a b \
	"'$SPINDLE_BACKUP' create repo web --machine m --no-quiesce --output=json" || { cat vm.err >&2; fail "backup_load"; }
equal "$("$SPINDLE_VM" snapshot list m --output=json | json 'd')" "[]"
"$SPINDLE_VM" stop --force m
wait $pid || fail "exit status of the machine"
status 0 "$SPINDLE_BACKUP" verify repo
says out "$ROUNDS points, all is well"
vt check -q a.vhdx
vt check -q b.vhdx
