#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# Long runs with fresh seeds, for a night: power cuts, the model, hostile guests, fuzzing. Each prints the seed that repeats it.
#
#   tests/soak.sh BUILD	hours by SPINDLE_SOAK_HOURS (default 8); ends at the first failure
set -eu
build=$(realpath "$1")
end=$(($(date +%s) + ${SPINDLE_SOAK_HOURS:-8} * 3600))
round=0
while [ "$(date +%s)" -lt "$end" ]; do
	round=$((round + 1))
	seed=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
	echo "soak: round $round, seed $seed, $(date -u +%FT%TZ)"
	"$build/tests/crash/crash" --states 1000000 --qemu 2000 --seed "$seed"
	"$build/tests/model/model" --ops 5000000 --seed "$seed"
	"$build/tests/hostile_guest/provider" --mutations 20000000 --seed "$seed"
	"$build/tests/hostile_guest/sessions" exits --count 20000000 --seed "$seed" >/dev/null
	"$build/tests/hostile_guest/sessions" services --count 5000000 --seed "$seed" >/dev/null
	"$build/tests/hostile_guest/sessions" requester --count 5000000 --seed "$seed" >/dev/null
	SPINDLE_FLIP_SECONDS=60 SPINDLE_TEST_SEED=$seed "$build/tests/hostile_guest/races"
	tests/database/run.sh "$build/tests/database/database" 200
	VHD_TOOL=$build/tools/vhd-tool SPINDLE_VM=$build/vmm/spindle-vm VSS_APP=$build/tests/tool/vss_app \
		VSS_GUESTS=$build/tests/bare tests/tool/vss_matrix.py
	VHD_TOOL=$build/tools/vhd-tool SPINDLE_VM=$build/vmm/spindle-vm SPINDLE_BACKUP=$build/tools/spindle-backup \
		POKE=$build/tests/tool/poke BACKUP_LOAD=$build/tests/tool/backup_load SPIN=$build/tests/bare/spin.elf \
		ROUNDS=400 tests/tool/backup_load.sh
	SPINDLE_FUZZ_SECONDS=300 SPINDLE_FUZZ_SEED="$seed" tests/fuzz/run.sh
done
echo "soak: $round rounds, nothing found"
