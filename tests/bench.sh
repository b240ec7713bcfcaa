#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# "make bench": the engine beside its peers. usage: bench.sh BUILD_DIR [OPTION...]; options as of peers/bench.py, also
# by the environment: make bench BENCH="--quick --only random"
set -eu

build=${1:-build}
[ $# -eq 0 ] || shift
# $BENCH is a list of words.
# shellcheck disable=SC2086
exec python3 "$(dirname "$0")/peers/bench.py" "$build" ${BENCH:-} "$@"
