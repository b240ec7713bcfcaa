#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# The serial console's other ends, and "console".
. "$(dirname "$0")/lib.sh" || exit 1
. "$(dirname "$0")/vm_lib.sh" || exit 1
need socat

# The guest says one line after each reset.
hears() {
	: >heard
	"$@" </dev/null >heard 2>/dev/null &
	local pid=$!
	for _ in $(seq 5); do
		for _ in $(seq 40); do		# some hosts emulate each instruction
			sleep 0.05
			! grep -q spinning heard || break 2
		done
		sv reset m
	done
	kill $pid 2>/dev/null || :
	wait $pid 2>/dev/null || :
	says heard spinning
}
console() { jq -r .console <(sv status m --output=json); }
off() { sv stop --force m; ended 0; }

start --cpus 2 --serial file:text
soon grep -q spinning text
status 1 sv console m
says err "--serial unix:PATH"
off

start --cpus 2 --serial stdio
soon grep -q spinning vm.out
off

mkdir folder
(cd folder && exec "$SPINDLE_VM" run --name m --mem 32 --cpus 2 --kernel "$SPIN" --serial unix:c.sock) &
vm_pid=$!
soon sv status m
equal "$(console)" "unix:$PWD/folder/c.sock"
equal "$(stat -c %a folder/c.sock)" 600
hears "$SPINDLE_VM" console m
hears socat -u UNIX-CONNECT:folder/c.sock -
off
[ ! -e folder/c.sock ] || fail "the console's socket has stayed behind"
left_nothing

start --cpus 2 --serial pty
[ -c "$(console | cut -d: -f2)" ] || fail "no terminal: $(console)"
hears "$SPINDLE_VM" console m
off

start --cpus 2 --serial tcp:0
hears "$SPINDLE_VM" console m
sv pause m			# a reset lets it run again
hears socat -u "TCP:$(console | cut -d: -f2-)" -
off

# the end of the machine is the end of "console", whatever its input is; its escape is Ctrl-]
start --cpus 2 --serial unix:c.sock
sv console m </dev/null >heard &
reader=$!
soon grep -q spinning heard
status 0 sv stop --force m
ended 0
wait $reader || fail "console ended badly"
start --cpus 2 --serial unix:c.sock
printf '\035' | sv console m >heard || fail "Ctrl-]"
off
