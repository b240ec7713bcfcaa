# SPDX-License-Identifier: BSD-2-Clause
# Sourced by the scripts of this folder.
set -eEu -o pipefail
# What ends a script without a word has at least a place.
trap 'echo "FAILED: ${BASH_SOURCE[0]##*/}:$LINENO: $BASH_COMMAND" >&2' ERR
: "${VHD_TOOL:?the built vhd-tool}" "${POKE:?the built poke}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

fail() {
	echo "FAILED: $*" >&2
	exit 1
}

# need PROGRAM...: this test says nothing without them
need() {
	local p
	for p; do
		command -v "$p" >/dev/null || { echo "skipped: $p is not installed"; exit 77; }
	done
}

vt() {
	"$VHD_TOOL" "$@"
}

# status N COMMAND...: runs it, keeps what it says in ./out and ./err
status() {
	local want=$1 got=0
	shift
	"$@" >out 2>err || got=$?
	[ "$got" = "$want" ] || { cat out err >&2; fail "$* answered $got instead of $want"; }
}

# says FILE TEXT: a line of FILE holds TEXT
says() {
	grep -qF -- "$2" "$1" || { cat "$1" >&2; fail "nowhere: $2"; }
}

says_not() {
	! grep -qF -- "$2" "$1" || { cat "$1" >&2; fail "should not be there: $2"; }
}

equal() {
	[ "$1" = "$2" ] || fail "\"$1\" is not \"$2\""
}

# json EXPRESSION <FILE: a Python expression over d, the parsed document
json() {
	python3 -c 'import json, sys
d = json.load(sys.stdin)
print(eval(sys.argv[1]))' "$1"
}

# raw NAME SIZE: a sparse raw disk with a few stretches of data
raw() {
	truncate -s "$2" "$1"
	printf 'first' | dd of="$1" conv=notrunc status=none
	head -c 200000 /dev/urandom | dd of="$1" bs=4096 seek=100 conv=notrunc status=none
	head -c 3000000 /dev/urandom | dd of="$1" bs=1M seek=7 conv=notrunc status=none
	printf 'last' | dd of="$1" bs=1 seek=$(($(stat -c %s "$1") - 4)) conv=notrunc status=none
}

sum_of() {
	vt hash "$1" | cut -d' ' -f1
}
