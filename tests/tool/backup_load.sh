#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Live backups of two disks under a load that knows what belongs into each. ROUNDS: how many.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/vm_lib.sh"
: "${SPINDLE_BACKUP:?the built spindle-backup}" "${BACKUP_LOAD:?the built backup_load}" "${ROUNDS:=100}"

vt create -q a.vhdx 32M
vt create -q b.vhdx 32M
start --cpus 4 --paused --storvsp-socket ring.sock --disk a.vhdx,controller=3 --disk b.vhdx,controller=3
"$BACKUP_LOAD" ring.sock "$ROUNDS" 33554432 repo/web a b \
	"'$SPINDLE_BACKUP' create repo web --machine m --no-quiesce --output=json" || { cat vm.err >&2; fail "backup_load"; }
equal "$(sv snapshot list m --output=json | json 'd')" "[]"
sv stop --force m
ended 0
status 0 "$SPINDLE_BACKUP" verify repo
says out "$ROUNDS points, all is well"
vt check -q a.vhdx
vt check -q b.vhdx
