#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# A machine's life as its operator sees it: states, ends, and what is left behind.
. "$(dirname "$0")/lib.sh" || exit 1
. "$(dirname "$0")/vm_lib.sh" || exit 1
image a.vhdx

status 0 sv list
equal "$(cat out)" ""
start --cpus 2 --disk a.vhdx
status 0 sv list
says out "m                        running"
equal "$(sv list --output=json | jq -c .)" '[{"status":"running","running":true,"singlestep":false,"name":"m"}]'
status 0 sv status m
says out "state       running"
says out "memory      32 MiB"
says out "processors  2"
says out "shutdown    no driver"
equal "$(sv status m --output=json | jq -c '[.name,.status,.running,.memory_mib,.cpus,.resets,.console]')" \
	'["m","running",true,32,2,0,"none"]'
is '.uptime_seconds | type' number || fail "uptime"

# states
status 0 sv pause m
status 0 sv pause m
is .status paused || fail "not paused"
status 0 sv resume m
is .status running || fail "not running"
status 0 sv reset m
soon is .resets 1
status 0 sv pause m
status 0 sv reset m
soon is .resets 2
is .status running || fail "a reset ends the pause"

# the guest has no services: it can only be switched off
status 1 sv stop m
says err "no shutdown service"
status 1 sv stop --timeout=1 --reboot m
is .status running || fail "still running"

# a second machine of that name; and the lock of the disk
status 1 "$SPINDLE_VM" run --name m --kernel "$SPIN" --serial none
says err "m.sock: a machine of this name runs already"
status 1 "$SPINDLE_VM" run --name n --kernel "$SPIN" --serial none --disk a.vhdx
says err "a.vhdx"
status 1 vt create --force a.vhdx 1M
says err "a.vhdx"
equal "$(sv list | wc -l)" 1

# --force: when the verb is back, disks are closed and the name is free
status 0 sv stop --force m
vt check -q a.vhdx
start --disk a.vhdx
status 0 sv pause m
status 0 sv stop --force m
vt check -q a.vhdx
ended 0
left_nothing
status 1 sv status m
says err 'no machine "m" runs'

# never started
start --paused
is .status paused || fail "not paused"
status 1 sv reset m
status 0 sv resume m
is .status running || fail "not running"
status 0 sv stop --force m
ended 0
start --paused
status 0 sv stop --force m
ended 0

# a guest that resets itself, or is reset, with --no-reboot
start --no-reboot
status 0 sv reset m
ended 0

# signals
for sig in TERM INT HUP; do
	start --disk a.vhdx,snapshot
	kill -$sig $vm_pid
	ended 0
	left_nothing
done

# kill -9: the broker clears up, the disk opens
start --disk a.vhdx,snapshot --qmp more.sock --serial unix:con.sock
equal "$(find . -name '*.sock' | wc -l)" 3
[ -e a.vhdx.scratch-$vm_pid ] || fail "no throw-away child"
kill -9 $vm_pid
wait $vm_pid 2>/dev/null || :
vm_pid=
soon left_nothing
vt check -q a.vhdx

# without the jail, where leaks are looked for
vm_pid=
ASAN_OPTIONS=$leaks_looked_for "$SPINDLE_VM" run --no-jail --name m --mem 32 --kernel "$SPIN" --serial none --disk a.vhdx,snapshot --dvd none \
	</dev/null >vm.out 2>vm.err &
vm_pid=$!
soon sv status m
status 0 sv stop --force m
ended 0
left_nothing
