#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# Installs into an empty folder and builds the example of README.md against that, as another project would.
#
# usage: consumer.sh SOURCE_ROOT BUILD_ROOT		CC and SANITIZE (as -Db_sanitize) in the environment
set -eu -o pipefail
source_root=$1 build_root=$2

skip() { echo "skipped: $*"; exit 77; }
fail() { echo "FAILED: $*" >&2; exit 1; }

for program in meson pkg-config; do
	command -v "$program" >/dev/null || skip "$program is not installed"
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What a package for developers would bring; the programs have tests of their own.
meson install -C "$build_root" --no-rebuild --destdir "$work/root" --tags runtime,devel >"$work/log" 2>&1 ||
	{ cat "$work/log" >&2; fail "meson install"; }
pc=$(find "$work/root" -name libspindle.pc)
[ -n "$pc" ] || fail "no libspindle.pc"
PKG_CONFIG_PATH=$(dirname "$pc")
# libspindle.pc stands below the staging folder; everything else it asks for does not.
prefix=$work/root$(pkg-config --with-path="$PKG_CONFIG_PATH" --variable=prefix libspindle)
pkg() { pkg-config --with-path="$PKG_CONFIG_PATH" --define-variable=prefix="$prefix" "$@" libspindle; }
libdir=$(pkg --variable=libdir)
[ -e "$libdir/libspindle.so.0" ] || fail "no $libdir/libspindle.so.0"
readelf -d "$libdir/libspindle.so" | grep -qF '[libspindle.so.0]' || fail "the library has another soname"

read -r -a cflags <<<"$(pkg --cflags)"
read -r -a libs <<<"$(pkg --libs)"
read -r -a compiler <<<"$CC"
sanitize=()
[ "${SANITIZE:-none}" = none ] || sanitize=("-fsanitize=$SANITIZE")

# The first C example of README.md, word for word.
sed -n '/^```c$/,/^```$/p' "$source_root/README.md" | sed '1d; /^```$/,$d' >"$work/example.c"
[ -s "$work/example.c" ] || fail "README.md has no example in C"
cd "$work"
"${compiler[@]}" -std=c11 -Wall -Wextra -Werror "${sanitize[@]}" -o example example.c "${cflags[@]}" "${libs[@]}"
export LD_LIBRARY_PATH=$libdir
said=$(./example disk.vhdx)
echo "$said"
[ "$said" = "disk.vhdx: 10737418240 bytes, 1 layer, reads: hello" ] || fail "the example said something else"
! ./example /nowhere/disk.vhdx 2>err || fail "the example made a disk in a folder that is not there"
grep -q '^/nowhere/disk.vhdx: ' err || { cat err >&2; fail "the story of the error is missing"; }

# Every header, first, on its own; in C++ as well, where there is a compiler for it.
cd "$prefix/include/spindle"
for header in */*.h; do
	echo "#include \"$header\"" >"$work/alone.c"
	"${compiler[@]}" -std=c11 -Wall -Wextra -Werror -pedantic -fsyntax-only "${cflags[@]}" "$work/alone.c"
done
if command -v g++ >/dev/null; then
	for header in */*.h; do echo "#include \"$header\""; done >"$work/all.cc"
	echo 'int main() { struct sp_job job{}; struct vhd_disk *d; sp_job_start(&job, 1); return vhd_disk_open("", nullptr, &d, nullptr); }' \
		>>"$work/all.cc"
	g++ -std=c++17 -Wall -Wextra -Werror "${sanitize[@]}" -o "$work/all" "$work/all.cc" "${cflags[@]}" "${libs[@]}"
fi
echo "installed, found, built and run"
