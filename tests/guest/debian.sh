#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# A whole Debian, as mmdebstrap makes it, boots from a VHDX in the guest lab: its own kernel out of its own disk,
# systemd, a login prompt, its root on /dev/sda1. Not a part of "make check": it downloads much and takes minutes.
#
# usage: debian.sh BUILD_DIR	(SPINDLE_DEBIAN_MIRROR names a mirror, SPINDLE_DEBIAN_SUITE a release)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
build=$(cd "${1:?usage: debian.sh BUILD_DIR}" && pwd)
PATH=$PATH:/usr/sbin:/sbin
mkdir -p "$build/guest"
disk=$build/guest/debian.vhdx

command -v mmdebstrap >/dev/null || { echo "debian: no mmdebstrap here (tests/packages.txt)"; exit 77; }

# The last hook sees the finished tree with its owners, whatever means mmdebstrap has to make it; what is mounted in it
# (/proc, /sys) does not show through a plain bind mount.
if [ ! -f "$disk" ]; then
	rm -f "$disk".*
	truncate -s 1500M "$disk.fs"
	mmdebstrap --variant=minbase --skip=output/dev \
		--include=systemd-sysv,udev,linux-image-cloud-amd64,initramfs-tools,zstd,e2fsprogs,hyperv-daemons,kmod \
		--aptopt='Acquire::Languages "none"' --dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		--customize-hook='chroot "$1" passwd -d root' \
		--customize-hook='echo spindle-debian >"$1/etc/hostname"' \
		--customize-hook='echo "/dev/sda1 / ext4 errors=remount-ro 0 1" >"$1/etc/fstab"' \
		--customize-hook='rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/*_*' \
		--customize-hook="mkdir '$disk.tree' && mount --bind \"\$1\" '$disk.tree'" \
		--customize-hook="mke2fs -q -F -t ext4 -L root -d '$disk.tree' '$disk.fs'" \
		--customize-hook="umount '$disk.tree' && rmdir '$disk.tree'" \
		"${SPINDLE_DEBIAN_SUITE:-bookworm}" /dev/null ${SPINDLE_DEBIAN_MIRROR:+"$SPINDLE_DEBIAN_MIRROR"}
	"$here/image.py" partition "$disk.raw" "$disk.fs"
	"$build/tools/vhd-tool" convert -q -O vhdx "$disk.raw" "$disk.new"
	rm -f "$disk.raw" "$disk.fs"
	mv "$disk.new" "$disk"
fi

exec "$here/lab.py" --build "$build" --scenarios debian --mem 3072 --timeout 3600 \
	--with-file "$disk" /lab/guest/debian.vhdx
