#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# usage: run.sh DATABASE SNAPSHOTS: in a folder of its own
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$1" "$work" "$2"
