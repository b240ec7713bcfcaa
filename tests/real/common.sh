# SPDX-License-Identifier: BSD-2-Clause
# Sourced by the scripts here. Each runs as root in a mount namespace of its own and leaves nothing behind: no mount, no loop
# device, no file. WRITER, EIOFS and VHD_TOOL name the programs.
set -eu

skip() { echo "skipped: $*"; exit 77; }
fail() { echo "FAILED: $*" >&2; exit 1; }

PATH=$PATH:/usr/sbin:/sbin
[ "$(id -u)" = 0 ] || skip "needs root"
for program in unshare losetup mount findmnt mkfs.ext4 mkfs.xfs; do
	command -v $program >/dev/null || skip "$program is not installed"
done
[ -e /dev/loop-control ] || skip "no loop devices"
if [ -z "${REAL_INSIDE:-}" ]; then
	REAL_INSIDE=1 exec unshare -m --propagation private bash "$0" "$@"
fi

dir=$(mktemp -d "${TMPDIR:-/var/tmp}/spindle-real-XXXXXX")
daemon=

clean_up()
{
	local status=$? where loop

	trap - EXIT
	cd /
	rm -f "$dir/trouble"
	findmnt -rn -o TARGET | grep "^$dir" | tac | while read -r where; do
		umount "$where" 2>/dev/null || umount -l "$where" || :
	done
	for loop in ${loops:-}; do
		losetup -d "$loop" 2>/dev/null || :
	done
	[ -z "$daemon" ] || wait "$daemon" 2>/dev/null || :
	rm -rf --one-file-system "$dir"
	exit $status
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM
loops=

# attach FILE - sets $loop
attach()
{
	loop=$(losetup --find --show "$1") || skip "no loop device to be had"
	loops="$loops $loop"
}

# file_system TYPE - $loop with it, mounted on $dir/mnt
file_system()
{
	case $1 in
	ext4) mkfs.ext4 -q -F "$loop" ;;
	xfs) mkfs.xfs -q -f "$loop" ;;
	esac
	mkdir -p "$dir/mnt"
	mount -t "$1" "$loop" "$dir/mnt" || skip "$1 cannot be mounted"
}
