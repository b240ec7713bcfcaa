# SPDX-License-Identifier: BSD-2-Clause
# Sourced after lib.sh by the tests of spindle-vm: machines with a guest that only spins, one at a time in $vm.
: "${SPINDLE_VM:?the built spindle-vm}" "${SPIN:?the guest}"
[ -w /dev/kvm ] || { echo "skipped: no /dev/kvm"; exit 77; }
need jq
export XDG_RUNTIME_DIR=$work/run
mkdir -m 700 run
vm=m vm_pid=
# In a jail the leak checker cannot look at its process; vm_life.sh has a machine without one.
leaks_looked_for=${ASAN_OPTIONS:-}
export ASAN_OPTIONS=$leaks_looked_for:detect_leaks=0

kill_left() {
	[ -z "$vm_pid" ] || kill -9 "$vm_pid" 2>/dev/null || :
	rm -rf "$work"
}
trap kill_left EXIT

sv() { "$SPINDLE_VM" "$@"; }

# soon COMMAND...: it succeeds within ten seconds
soon() {
	local i

	for i in $(seq 200); do
		! ("$@") >/dev/null 2>&1 || return 0	# in a shell of its own: what fails there is asked again
		sleep 0.05
	done
	fail "never: $*"
}

gone() { ! kill -0 "$vm_pid" 2>/dev/null; }
is() { [ "$(sv status "$vm" --output=json | jq -r "$1")" = "$2" ]; }

# start OPTION...: a machine, until its control socket answers
start() {
	"$SPINDLE_VM" run --name "$vm" --mem 32 --kernel "$SPIN" --serial none "$@" </dev/null >vm.out \
		2>vm.err &
	vm_pid=$!
	soon sv status "$vm"
}

# ended STATUS: the machine has ended with it
ended() {
	local got=0

	soon gone
	wait "$vm_pid" || got=$?
	vm_pid=
	[ "$got" = "$1" ] || { cat vm.err >&2; fail "the machine ended with $got instead of $1"; }
}

# left_nothing: no socket, no throw-away child
left_nothing() {
	equal "$(find . -name '*.sock' -o -name '*.scratch-*' | sort)" ""
}

image() {
	vt create -q -o block_size=1M "$1" "${2:-64M}"
}
