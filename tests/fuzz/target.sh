#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# target.sh PROGRAM NAME - fuzz one target for SPINDLE_FUZZ_SECONDS (60), starting from the committed corpus. What it
# learns stays in corpus-NAME of the build folder, a finding in finding-NAME-*.
#
# SPINDLE_FUZZ_SEED (1) is the seed of the mutations, 0 draws one. It is fixed so that a check judges the change at hand
# and not the luck of the draw; looking for what is new is the work of "make fuzz" and "make soak", which draw.
set -u
program=$1
name=$2
seeds=$(dirname "$0")/corpus/$name
learned=corpus-$name
log=log-$name
mkdir -p "$learned" "$seeds"

# The log of another machine may be all there is to go by: the input itself, and how the run ended.
tell_failure()
{
	echo "$name: failed with status $1, $(grep -o 'Seed: [0-9]*' "$log"); the last lines of $log:"
	tail -n 20 "$log"
	sed -n 's/.*Test unit written to //p' "$log" | while read -r finding; do
		echo "$name: to get $finding and run it again:"
		echo "echo $(base64 -w 0 "$finding") | base64 -d >$finding; $program $finding"
	done
}

"$program" -max_total_time="${SPINDLE_FUZZ_SECONDS:-60}" -seed="${SPINDLE_FUZZ_SEED:-1}" -timeout=60 \
	-report_slow_units=60 -rss_limit_mb=3000 -malloc_limit_mb=1100 -max_len=1024 \
	-artifact_prefix="finding-$name-" -print_final_stats=1 -verbosity=1 -entropic=0 \
	"$learned" "$seeds" >"$log" 2>&1
status=$?
grep -E '^(SUMMARY|fuzz:|artifact_prefix|==.*ERROR)' "$log"
# Coverage in blocks, from the last line of progress.
awk -v name="$name" '/^#.* cov: / { cov = $4 } /number_of_executed_units/ { n = $2 } /average_exec_per_sec/ { s = $2 }
	END { printf "%s: %d inputs, %d per second, coverage %d\n", name, n, s, cov }' "$log"
[ "$status" -eq 0 ] || tell_failure "$status"
exit $status
