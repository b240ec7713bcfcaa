#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Installs what tests/packages.txt lists and this machine lacks: as root at once, otherwise says how.
set -eu

if ! command -v dpkg-query >/dev/null; then
	echo "deps: no Debian here; install what tests/packages.txt names by the means of this system"
	exit 0
fi

missing=
for package in $(sed 's/#.*//' "$(dirname "$0")/packages.txt"); do
	status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
	[ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
	echo "deps: packages are missing; install them with"
	echo "  sudo apt-get install -y --no-install-recommends$missing"
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# $missing is a list of words.
# shellcheck disable=SC2086
apt-get install -q -y --no-install-recommends $missing
