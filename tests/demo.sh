#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# What Spindle does, on real file systems, each claim verified by a program that is not Spindle.
#
# usage: demo.sh BUILD_DIR
#
# Needs no root. Without /dev/fuse, or the means to run a guest, it says so and proves the rest.
set -eu -o pipefail
PATH=$PATH:/usr/sbin:/sbin
build=$(cd "${1:?usage: demo.sh BUILD_DIR}" && pwd)
tool=$build/tools/vhd-tool mount=$build/fuse/vhd-mount vmm=$build/vmm/spindle-vm
backup=$build/tools/spindle-backup
here=$(cd "$(dirname "$0")" && pwd)
started=$SECONDS

# ---- how it talks ------------------------------------------------------------------------------------

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi
proved=() skipped=()

step() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
note() { echo "   $*"; }
die() { echo "demo: FAILED: $*" >&2; exit 1; }

# run COMMAND... - shows the command, as it could be typed, and what it says
run()
{
	local shown="$*"

	shown=${shown//$tool/vhd-tool}
	shown=${shown//$backup/spindle-backup}
	echo "${dim}\$${plain} ${shown//$mount/vhd-mount}"
	"$@" 2>&1 | sed "s|$work/||g; s/^/   /"
}

# same WHAT A B - two answers to the same question
same()
{
	[ "$2" = "$3" ] || die "$1: $2 is not $3"
	note "same: $1"
}

prove() { proved+=("$*"); }
skip() { skipped+=("$*"); note "not shown: $*"; }

sum() { sha256sum "$@" | cut -d' ' -f1; }
hash_of() { "$tool" hash "$1" | cut -d' ' -f1; }

# by_qemu FILE - SHA-256 of what QEMU reads in it
by_qemu()
{
	rm -f qemu.raw
	qemu-img convert -f vhdx -O raw "$1" qemu.raw
	sum qemu.raw
	rm -f qemu.raw
}

# ---- mounts ------------------------------------------------------------------------------------------

daemon=
mounted() { mountpoint -q "$work/mnt" || ! kill -0 "$daemon" 2>/dev/null; }

# attach ARG... IMAGE - vhd-mount stays a child of this script, so that its end can be waited for
attach()
{
	echo "${dim}\$${plain} vhd-mount $* mnt"
	"$mount" -f "$@" "$work/mnt" 2>mount.err &
	daemon=$!
	for _ in $(seq 500); do
		mounted && break
		sleep 0.02
	done
	mountpoint -q "$work/mnt" || { cat mount.err >&2; die "did not mount: $*"; }
}

detach()
{
	fusermount3 -u "$work/mnt"
	wait "$daemon" || die "vhd-mount ended badly"
	daemon=
}

clean_up()
{
	local status=$?

	trap - EXIT
	cd /
	if [ -d "$work/mnt" ] && mountpoint -q "$work/mnt"; then
		fusermount3 -u -q "$work/mnt" || fusermount3 -u -z -q "$work/mnt" || :
	fi
	[ -z "$daemon" ] || { kill "$daemon" 2>/dev/null; wait "$daemon" 2>/dev/null; } || :
	rm -rf --one-file-system "$work"
	exit $status
}

missing=
for program in qemu-img mke2fs mkntfs ntfscp ntfscat ntfsls debugfs e2fsck sfdisk; do
	command -v "$program" >/dev/null || missing="$missing $program"
done
[ -z "$missing" ] || { echo "demo: missing:$missing; 'make deps' installs them" >&2; exit 1; }
[ -x "$tool" ] && [ -x "$mount" ] || { echo "demo: no programs in $build; run 'make'" >&2; exit 1; }
work=$(mktemp -d "${TMPDIR:-/tmp}/spindle-demo.XXXXXX")
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
cd "$work"
mkdir mnt
fuse=yes
if ! [ -r /dev/fuse ] || ! [ -w /dev/fuse ] || ! command -v fusermount3 >/dev/null; then
	fuse=
	echo "demo: /dev/fuse is not usable here; nothing is mounted, the rest is shown"
fi

# ---- two disks ---------------------------------------------------------------------------------------

part_mib=1
step "A Linux disk (GPT, ext4) and a Windows disk (GPT, NTFS), made without Spindle"
mkdir -p files/etc files/srv
echo "version 1" >files/etc/version
echo "the first edition" >files/srv/report.txt
head -c 20000000 /dev/urandom >files/srv/data.bin
data_sum=$(sum files/srv/data.bin)

# disk NAME GUID_ALIAS SIZE_MIB PARTITION - a partition table around a file system
disk()
{
	truncate -s "$3M" "$1"
	printf 'label: gpt\nstart=%d, size=%d, type=%s, name=system\n' $((part_mib * 2048)) \
		$((($3 - 2) * 2048)) "$2" | sfdisk -q "$1"
	dd if="$4" of="$1" bs=1M seek=$part_mib conv=notrunc,sparse status=none
	rm "$4"
}

truncate -s 254M ext4
mke2fs -q -t ext4 -L linux-root -E root_owner="$(id -u):$(id -g)" -d files ext4
disk linux.raw linux 256 ext4
truncate -s 126M ntfs
mkntfs -F -Q -q -L windows ntfs >/dev/null 2>&1
ntfscp -q ntfs files/etc/version version.txt
ntfscp -q ntfs files/srv/data.bin data.bin
disk windows.raw EBD0A0A2-B9E5-4433-87C0-68B6B72699C7 128 ntfs
run ls -sh linux.raw windows.raw

step "Convert to VHDX, verify by hash"
for name in linux windows; do
	run "$tool" convert --verify $name.raw $name.vhdx
	want=$(sum $name.raw)
	same "$name: SHA-256 by Spindle, and of the raw disk by sha256sum" "$(hash_of $name.vhdx)" "$want"
	same "$name: SHA-256 of what qemu-img reads in the VHDX" "$(by_qemu $name.vhdx)" "$want"
	qemu-img check -q -f vhdx $name.vhdx || die "qemu-img check"
done
run "$tool" probe linux.vhdx
prove "conversion keeps every byte: sha256sum of the raw disks = Spindle = qemu-img, for ext4 and NTFS"

# ---- snapshots ---------------------------------------------------------------------------------------

# change VERSION - new content in both file systems, as a guest would
change()
{
	echo "version $1" >version
	if [ -z "$fuse" ]; then
		return
	fi
	if command -v fuse2fs >/dev/null; then
		attach --files=p1 linux.vhdx
		cp version mnt/etc/version
		echo "edition $1, with much more in it" >mnt/srv/report.txt
		head -c 3000000 /dev/urandom >"mnt/srv/new-in-$1.bin"
		ls -l mnt/etc/version mnt/srv | sed "s|$work/||; s/^/   /"
	else
		attach linux.vhdx
		debugfs -w -R "rm /etc/version" mnt/p1 2>/dev/null
		debugfs -w -R "write version /etc/version" mnt/p1 >/dev/null 2>&1
		note "wrote /etc/version with debugfs: fuse2fs is not installed"
	fi
	detach
	attach windows.vhdx
	run ntfscp -q -f mnt/p1 version version.txt
	detach
}

states=(first second now)
for n in 1 2; do
	step "Snapshot \"${states[n - 1]}\", then change files in both disks"
	for name in linux windows; do
		declare "${name}_$n=$(hash_of $name.vhdx)"
		run "$tool" snapshot create $name.vhdx "${states[n - 1]}"
	done
	change $((n + 1))
done
linux_3=$(hash_of linux.vhdx) windows_3=$(hash_of windows.vhdx)
run "$tool" snapshot list linux.vhdx
echo "${dim}\$${plain} vhd-tool info --chain linux.vhdx"
"$tool" info --chain linux.vhdx | grep -E '^(image|file format|disk size|backing file)' | sed 's/^/   /'
if qemu-img info linux.vhdx >/dev/null 2>&1; then
	note "this qemu-img opens the chain, too"
else
	note "(qemu-img does not open differencing VHDX: \"$(qemu-img info linux.vhdx 2>&1 | head -1 | sed 's/.*: //')\")"
fi

same "snapshot first of the Linux disk still has the hash of linux.raw" "$(hash_of linux.first.vhdx)" "$(sum linux.raw)"
same "snapshot first of the Windows disk still has the hash of windows.raw" "$(hash_of windows.first.vhdx)" "$(sum windows.raw)"
same "snapshot second has the hash of its moment" "$(hash_of linux.second.vhdx)" "$linux_2"
[ -z "$fuse" ] || prove "snapshots keep their state bit by bit while the disk goes on changing"

if [ -n "$fuse" ]; then
	step "Every layer at once (as uid $(id -u)): files by debugfs and ntfscat, which know nothing of VHDX"
	attach -o ro linux.vhdx
	run ls mnt mnt/layers
	for layer in 0 1 2; do
		version=$(debugfs -R "cat /etc/version" "mnt/layers/$layer/disk?offset=$((part_mib << 20))" 2>/dev/null)
		note "layer $layer (${states[2 - layer]}): /etc/version says \"$version\""
		same "the version of that moment" "$version" "version $((3 - layer))"
		declare seen="linux_$((3 - layer))"
		same "layer $layer, sha256sum of mnt/layers/$layer/disk" "$(sum mnt/layers/$layer/disk)" "${!seen}"
	done
	debugfs -R "dump /srv/data.bin data.out" mnt/p1 >/dev/null 2>&1
	same "a file of 20 MB from inside, by sha256sum" "$(sum data.out)" "$data_sum"
	e2fsck -fn mnt/p1 >/dev/null 2>&1 || die "e2fsck is not content"
	note "e2fsck -fn is content with mnt/p1"
	detach
	for n in 1 2 3; do
		image=windows.${states[n - 1]}.vhdx
		[ $n != 3 ] || image=windows.vhdx
		attach -o ro "$image"
		same "$image, version.txt by ntfscat" "$(ntfscat mnt/p1 version.txt)" "version $n"
		detach
	done
	prove "each layer shows its own files: ext4 by debugfs, NTFS by ntfscat, all by vhd-mount as uid $(id -u)"

	step "kill -9 after a sync"
	attach linux.vhdx
	head -c 4000000 /dev/urandom >noise
	dd if=noise of=mnt/disk bs=1M seek=254 count=1 conv=notrunc,fsync status=none
	kill -9 "$daemon"
	wait "$daemon" 2>/dev/null || :
	daemon=
	fusermount3 -u -z -q mnt || :
	same "log" "$("$tool" info linux.vhdx | grep -c '^log: not empty')" 1
	attach -o ro linux.vhdx
	same "the synced bytes are there, from a log replayed in memory" \
		"$(dd if=mnt/disk bs=1M skip=254 count=1 status=none | sha256sum)" "$(head -c 1048576 noise | sha256sum)"
	detach
	linux_3=$(hash_of linux.vhdx)
	prove "after kill -9 everything that was synced is there; the dirty log is replayed"
else
	skip "mounting, files of the layers, kill -9 (no /dev/fuse)"
fi

# ---- a guest -----------------------------------------------------------------------------------------

# This host's processor runs guests by itself.
has_kvm() { [ -w /dev/kvm ] && grep -qwE 'vmx|svm' /proc/cpuinfo; }

# The same script runs here or there; jq reads what spindle-backup says.
guest_here()
{
	command -v jq >/dev/null || { echo "SKIP no jq here" >guest.log; return 1; }
	mkdir guest
	python3 "$here/guest/lab.py" --build "$build" --prepare guest >guest.log 2>&1 || return 1
	[ -e guest/initrd ] || return 1
	PATH=$build/vmm:$build/tools:$build/fuse:$PATH LAB=$here/guest/l1 DEMO=$work guest=$work/guest \
		sh "$here/guest/scenario-demo.sh" >guest.log 2>&1 </dev/null || :
	sed -nE 's/^(L2\| )?@lab ok - demo: (demo: )?/   ok: /p; s/^(L2\| )?@lab not ok - /   FAILED: /p
		s/^(L2\| )?@lab # (Linux|full:|incremental:)/   guest: \2/p' guest.log
	grep -q '^L2| @done' guest.log && ! grep -q '@lab not ok' guest.log
}

# The same in a machine that is emulated: its KVM is, too.
guest_nested()
{
	local image
	local -a files=()

	for image in linux.vhdx linux.first.vhdx linux.second.vhdx; do
		files+=(--with-file "$work/$image" "/demo/$image")
	done
	note "this processor runs no guests by itself: an emulated host (QEMU) does, with spindle-vm in it; a minute"
	python3 "$here/guest/lab.py" --build "$build" --scenarios demo --timeout 400 "${files[@]}" \
		--take /demo/linux.vhdx "$work/changed.vhdx" --take /demo/repository/ "$work" >guest.log 2>&1 || return 1
	sed -nE 's/^ok [0-9]+ - demo: (demo: )?/   ok: /p; s/^not ok [0-9]+ - /   FAILED: /p
		s/^# .* s: (Linux|full:|incremental:)/   guest: \1/p' guest.log
	[ -s changed.vhdx ] || return 1
	mv changed.vhdx linux.vhdx
}

guest_boots()
{
	if has_kvm; then guest_here; else guest_nested; fi
}

step "A real guest boots from the chain: Debian's kernel, on spindle-vm; it is backed up while it writes, twice"
if ! [ -x "$vmm" ]; then
	skip "a guest (spindle-vm is not built)"
elif guest_boots; then
	"$tool" convert -q -O raw linux.vhdx guest.raw
	from_guest() { debugfs -R "$1" "guest.raw?offset=$((part_mib << 20))" 2>/dev/null; }
	note "on the host: /etc/from-guest says \"$(from_guest "cat /etc/from-guest")\""
	from_guest "dump /srv/from-guest.bin guest.bin"
	same "2 MB written in the guest, by sha256sum there and here" "$(sum guest.bin)" \
		"$(from_guest "cat /srv/from-guest.sum" | cut -d' ' -f1)"
	changed=$(from_guest "cat /srv/change.sum" | cut -d' ' -f1)
	rm guest.raw guest.bin
	linux_3=$(hash_of linux.vhdx)
	prove "an unmodified Linux kernel finds the chain by VMBus and StorVSP; debugfs reads on the host what it wrote"
elif grep -q 'SKIP' guest.log; then
	skip "a guest ($(sed -n 's/.*SKIP //p' guest.log | head -1))"
else
	tail -n 30 guest.log >&2
	die "the guest"
fi

# ---- the backup of that guest ------------------------------------------------------------------------

# point N - a point of the backup is mounted; e2fsck, without replaying anything, finds nothing to mend
point()
{
	echo "${dim}\$${plain} spindle-backup mount --point=$1 repository guest mnt"
	"$backup" mount --point="$1" repository guest mnt
	e2fsck -fn mnt/p1 >e2fsck.out 2>&1 || { cat e2fsck.out >&2; die "point $1: e2fsck is not content"; }
	if dumpe2fs -h mnt/p1 2>/dev/null | grep -q needs_recovery; then die "point $1: its journal must be replayed"; fi
	note "e2fsck is content with point $1, and no journal needs to be replayed: it was frozen"
}

if [ -d repository ]; then
	step "Verify the backup, and read a file out of it"
	run "$backup" list repository guest
	run "$backup" verify --content repository
	ls -s --block-size=K repository/guest/*.vhdx | sed 's/^/   /'
	if [ -n "$fuse" ]; then
		point 1
		same "bytes of a file in the first point that was made later" \
			"$(debugfs -R "cat /srv/change.bin" mnt/p1 2>/dev/null | wc -c)" 0
		fusermount3 -u mnt
		point 2
		debugfs -R "dump /srv/change.bin change.bin" mnt/p1 2>/dev/null
		same "a file out of the incremental backup, by sha256sum here and in the guest" "$(sum change.bin)" "$changed"
		fusermount3 -u mnt
		prove "a guest under load was backed up twice, frozen and thawed; mount shows its files, e2fsck their order"
	else
		skip "files out of the backup (no /dev/fuse)"
	fi
fi

# ---- merge, revert, check ----------------------------------------------------------------------------

step "Merge both snapshots of the Linux disk into its base"
run "$tool" merge -n 2 --dry-run linux.vhdx
run "$tool" merge -n 2 linux.vhdx
merged=linux.first.vhdx
[ -e linux.vhdx ] && merged=linux.vhdx
same "the merged disk reads as the chain did" "$(hash_of $merged)" "$linux_3"
same "the same by qemu-img and sha256sum" "$(by_qemu $merged)" "$linux_3"
readers=qemu-img
if [ -n "$fuse" ] && command -v vhdimount >/dev/null; then
	readers="qemu-img and libvhdi"
	vhdimount "$merged" mnt >/dev/null
	other=$(sum mnt/vhdi1)
	fusermount3 -u mnt
	same "the same by libvhdi and sha256sum" "$other" "$linux_3"
fi
prove "merge moves two layers into the base; $readers read there what the chain read before"

step "Revert the Windows disk to \"first\""
run "$tool" snapshot revert windows.vhdx first
same "the disk of the beginning" "$(hash_of windows.vhdx)" "$windows_1"
run "$tool" snapshot list windows.vhdx
prove "revert gives back the disk of the first moment, bit by bit"

step "Check all images; a manifest finds a changed MiB"
for image in *.vhdx; do
	run "$tool" check "$image"
done
qemu-img check -q -f vhdx "$merged" || die "qemu-img check"
run "$tool" hash -o manifest "$merged"
run "$tool" convert -o subformat=fixed "$merged" upload.vhd
run "$tool" hash --verify manifest upload.vhd
printf 'x' | dd of=upload.vhd bs=1 seek=200000000 conv=notrunc status=none
if run "$tool" hash --verify manifest upload.vhd; then die "a changed byte was not noticed"; fi
prove "vhd-tool check and qemu-img check find nothing wrong; one changed byte in a fixed VHD is found"

# ---- the end -----------------------------------------------------------------------------------------

printf '\n%sProved:%s\n' "$bold" "$plain"
printf '  * %s\n' "${proved[@]}"
[ ${#skipped[@]} = 0 ] || printf '  - not shown: %s\n' "${skipped[@]}"
echo "in $((SECONDS - started)) seconds"
