#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# All tests: the release build without a warning; the tests under ASan and UBSan, then the threaded ones under TSan, then a
# minute of fuzzing for each target (SPINDLE_FUZZ_SECONDS; 0 leaves it out), then the seeded defects that the tests must
# notice. Goes on after a failure, so that the closing line counts everything; the exit status tells whether all passed.
# Guests race for SPINDLE_FLIP_SECONDS (20) under each of the two sanitizers.
set -u
cd "$(dirname "$0")/.." || exit 1

# configure DIR OPTION... - make or update a build folder
configure()
{
	local dir=$1

	shift
	if [ -f "$dir/build.ninja" ]; then
		meson setup --reconfigure "$dir" "$@" >/dev/null
	else
		meson setup "$dir" "$@"
	fi
}

# run DIR ARG... - the tests of a build folder; without a test log the summary counts the run itself as failed
run()
{
	local dir=$1

	shift
	rm -f "$dir/meson-logs/testlog.json"
	meson test -C "$dir" --print-errorlogs "$@"
}

status=0
# With all optimisation the compiler sees more.
configure build-release -Dwerror=true --buildtype=release && ninja -C build-release --quiet || status=1
configure build-check -Dwerror=true -Db_sanitize=address,undefined -Db_lundef=false &&
	ninja -C build-check && run build-check || status=1
configure build-tsan -Dwerror=true -Dsanitize_threads=true -Dtools=true &&
	run build-tsan --suite threads || status=1
folders=(build-check build-tsan)
if [ "${SPINDLE_FUZZ_SECONDS:-60}" -gt 0 ]; then
	tests/fuzz/run.sh || status=1
	folders+=(build-fuzz)
fi

configure build-seed -Dseed_bug=RUNTIME -Dc_args=-O1 &&
	ninja -C build-seed && run build-seed --suite seeded || status=1
folders+=(build-seed)

tests/sum.py "${folders[@]}" || status=1
exit $status
