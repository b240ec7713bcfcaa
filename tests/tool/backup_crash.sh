#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Killed at any moment, a backup is absent or incomplete, and continued; a full repository leaves older points alone;
# a long chain restores at any point and prunes.
. "$(dirname "$0")/lib.sh" || exit 1
: "${SPINDLE_BACKUP:?the built spindle-backup}"
kills=${BACKUP_KILLS:-30} chain=${BACKUP_CHAIN:-50}

sb() {
	"$SPINDLE_BACKUP" "$@"
}

# killed 30 times
head -c 12M /dev/urandom >a.raw
for i in $(seq "$kills"); do
	"$SPINDLE_BACKUP" create -q --rate-limit=$((4 + i * 2))M repo vm root=a.raw & pid=$!
	sleep "0.$((RANDOM % 60 + 10))"
	kill -9 $pid 2>/dev/null || true
	wait $pid 2>/dev/null || true
	[ ! -e repo/vm/set.json ] || sb verify -q repo vm
	printf "change $i" | dd of=a.raw bs=1 seek=$((RANDOM * 300)) conv=notrunc status=none
done
sb create -q repo vm root=a.raw
sb verify -q --content repo vm
sb restore -q repo vm back.raw
cmp a.raw back.raw
status 0 ls repo/vm
says_not out .part

# a chain of many
truncate -s 8M c.raw
for i in $(seq "$chain"); do
	printf "point $i" | dd of=c.raw bs=1 seek=$((i * 131 * 1024)) conv=notrunc status=none
	sum[i]=$(sha256sum <c.raw)
	sb create -q repo chain root=c.raw
done
sb verify -q --content --point="$chain" repo chain
for i in 1 $((chain / 2)) "$chain"; do
	sb restore -q --force --point="$i" repo chain back.raw
	equal "$(sha256sum <back.raw)" "${sum[i]}"
done
# a prune that is killed is finished by the next one
"$SPINDLE_BACKUP" prune -q --keep-last=3 repo chain & pid=$!
sleep 0.3
kill -9 $pid 2>/dev/null || true
wait $pid 2>/dev/null || true
sb prune -q --keep-last=3 repo chain
sb verify -q --content repo chain
for i in $((chain - 2)) "$chain"; do
	sb restore -q --force --point="$i" repo chain back.raw
	equal "$(sha256sum <back.raw)" "${sum[i]}"
done

# no room
[ "$(id -u)" = 0 ] || exit 0
mkdir small
mount -t tmpfs -o size=24m none small || exit 0
trap 'umount "$work/small"; rm -rf "$work"' EXIT
head -c 10M /dev/urandom >d.raw
sb create -q small vm root=d.raw
before=$(cd small/vm && sha256sum ./*)
head -c 10M /dev/urandom >d.raw
status 1 sb create small vm root=d.raw
says err "No space left"
sb verify -q small vm
equal "$(cd small/vm && sha256sum ./0*)" "$(grep ' ./0' <<<"$before")"
truncate -s 0 d.raw
truncate -s 10M d.raw
sb create -q small vm root=d.raw
sb verify -q --content small vm
