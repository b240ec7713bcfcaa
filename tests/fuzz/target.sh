#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# target.sh PROGRAM NAME - fuzz one target for SPINDLE_FUZZ_SECONDS (60), starting from the committed corpus. What it
# learns stays in corpus-NAME of the build folder, a finding in finding-NAME-*.
set -u
program=$1
name=$2
seeds=$(dirname "$0")/corpus/$name
learned=corpus-$name
mkdir -p "$learned" "$seeds"

"$program" -max_total_time="${SPINDLE_FUZZ_SECONDS:-60}" -timeout=60 -report_slow_units=60 -rss_limit_mb=3000 -malloc_limit_mb=1100 \
	-max_len=1024 -artifact_prefix="finding-$name-" -print_final_stats=1 -verbosity=1 -entropic=0 \
	"$learned" "$seeds" >"log-$name" 2>&1
status=$?
grep -E '^(SUMMARY|fuzz:|artifact_prefix|==.*ERROR)' "log-$name"
# Coverage in blocks, from the last line of progress.
awk -v name="$name" '/^#.* cov: / { cov = $4 } /number_of_executed_units/ { n = $2 } /average_exec_per_sec/ { s = $2 }
	END { printf "%s: %d inputs, %d per second, coverage %d\n", name, n, s, cov }' "log-$name"
exit $status
