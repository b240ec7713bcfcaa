#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# Fuzzes every target for SPINDLE_FUZZ_SECONDS (60) each, as many at once as there are processors. Builds with clang in
# build-fuzz beside the build folder given; fails on any finding, whose input it leaves there and tells in base64. Mutates
# by a fixed seed unless SPINDLE_FUZZ_SEED is set: 0 draws one.
set -eu
cd "$(dirname "$0")/../.."

# No result of an earlier run may stand for this one.
rm -f build-fuzz/meson-logs/testlog.json
if ! command -v clang >/dev/null; then
	echo "fuzz: needs clang and its libFuzzer (packages clang and libclang-rt-14-dev)" >&2
	exit 1
fi
options=(-Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false -Dtools=false)
if [ -f build-fuzz/build.ninja ]; then
	meson setup --reconfigure build-fuzz "${options[@]}" >/dev/null
else
	CC=clang meson setup build-fuzz "${options[@]}" >/dev/null
fi
ninja -C build-fuzz fuzz-programs
meson test -C build-fuzz --no-rebuild --suite fuzzing --verbose
