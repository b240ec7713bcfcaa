#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# An interrupted conversion says so by its exit code and leaves nothing behind.
. "$(dirname "$0")/lib.sh" || exit 1

truncate -s 8G src.raw
for i in $(seq 0 40); do printf 'data' | dd of=src.raw bs=1M seek=$((i * 200)) conv=notrunc status=none; done
head -c 150000000 /dev/urandom | dd of=src.raw bs=1M seek=100 conv=notrunc status=none

for sig in INT:130 TERM:143; do
	rm -f fifo
	mkfifo fifo
	# job control: a background job would otherwise ignore SIGINT
	set -m
	"$VHD_TOOL" convert --verify --progress=3 src.raw out.vhdx 3>fifo 2>err &
	pid=$!
	set +m
	head -1 fifo >/dev/null &	# the first line: it is at work
	wait $!
	kill -"${sig%:*}" $pid
	got=0
	wait $pid || got=$?
	equal "$got" "${sig#*:}"
	[ ! -e out.vhdx ] || fail "half an image is there"
	equal "$(find . -name '.out*' | wc -l)" 0
done
