#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
. "$(dirname "$0")/lib.sh" || exit 1
need sfdisk mkfs.ext4
PATH=$PATH:/sbin:/usr/sbin

# no table
truncate -s 16M e.raw
mkfs.ext4 -q -L whole -U 11111111-2222-3333-4444-555555555555 e.raw
status 0 vt probe e.raw
says out 'no partition table; on the disk: ext4 label "whole" uuid 11111111-2222-3333-4444-555555555555'
truncate -s 1M z.raw
status 0 vt probe -f raw z.raw
says out "nothing known"

# GPT, in every format
truncate -s 64M g.raw
sfdisk -q g.raw <<'T'
label: gpt
label-id: AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE
start=2048, size=16384, name="boot part"
start=40960, size=32768, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4
T
mkfs.ext4 -q -L root -E offset=$((40960 * 512)) g.raw 16M
for f in raw vhdx vhd; do
	[ $f = raw ] || vt convert g.raw g.$f
	status 0 vt probe --output=json g.$f
	equal "$(json 'd["table"], d["table-uuid"], len(d["partitions"])' <out)" \
		"('gpt', 'aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee', 2)"
	equal "$(json '[(p["number"], p["offset"], p["size"]) for p in d["partitions"]]' <out)" \
		"[(1, 1048576, 8388608), (2, 20971520, 16777216)]"
	equal "$(json 'd["partitions"][0]["name"]' <out)" "boot part"
	equal "$(json 'd["partitions"][1]["type"]' <out)" "0fc63daf-8483-4772-8e79-3d69d8477de4"
	equal "$(json 'd["partitions"][0]["filesystem"]' <out)" "None"
	equal "$(json 'd["partitions"][1]["filesystem"]["label"]' <out)" root
done

# what a child changes counts, also while it waits in a log
vt create -q -b g.vhdx child.vhdx
label=$((40960 * 512 + 1024 + 120))
"$POKE" -k child.vhdx "$label:4:88"
status 0 vt probe child.vhdx
says out 'ext4 label "XXXX"' || true
status 0 vt probe --output=json g.vhdx
equal "$(json 'd["partitions"][1]["filesystem"]["label"]' <out)" root
mv g.vhdx gone.vhdx
status 1 vt probe child.vhdx
status 0 vt probe --orphan=eio child.vhdx
says err "parts of the disk could not be read"
mv gone.vhdx g.vhdx

# MBR with logical partitions far apart
truncate -s 200M m.raw
sfdisk -q m.raw <<'T'
label: dos
start=2048, size=20480, type=83
start=40960, size=360000, type=5
start=43008, size=20480, type=83
start=204800, size=20480, type=82
start=307200, size=20480, type=83
T
mkfs.ext4 -q -L far -E offset=$((307200 * 512)) m.raw 8M
vt convert m.raw m.vhdx
status 0 vt probe --output=json m.vhdx
equal "$(json '[(p["number"], p["offset"] // 512, p["type"], p["extended"]) for p in d["partitions"]]' <out)" \
	"[(1, 2048, '0x83', False), (2, 40960, '0x05', True), (5, 43008, '0x83', False), (6, 204800, '0x82', False), (7, 307200, '0x83', False)]"
equal "$(json 'd["partitions"][4]["filesystem"]["label"]' <out)" far

# labels that live far from the start
label_far() {
	vt convert "$1" far.vhdx --force
	status 0 vt probe far.vhdx
	says out "$2 label \"$3\""
}
if command -v mkntfs >/dev/null; then
	truncate -s 300M n.raw
	mkntfs -q -F -Q -L "NTFS here" n.raw >/dev/null 2>&1
	label_far n.raw ntfs "NTFS here"
fi
if command -v mkfs.vfat >/dev/null; then
	truncate -s 600M v.raw
	mkfs.vfat -F 32 -n FATLABEL v.raw >/dev/null
	label_far v.raw vfat FATLABEL
fi
if command -v mkfs.exfat >/dev/null; then
	truncate -s 600M x.raw
	mkfs.exfat -L exlabel x.raw >/dev/null 2>&1 || mkfs.exfat -n exlabel x.raw >/dev/null
	label_far x.raw exfat exlabel
fi

# 4 KiB sectors: the table counts in them
vt create -q -o logical_sector_size=4096 k.vhdx 64M
python3 - >k.raw <<'PY'
import struct, sys, uuid, zlib
S = 4096
size = 64 << 20
last = size // S - 1
entry = uuid.UUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4").bytes_le + uuid.UUID(int=7).bytes_le + \
    struct.pack("<QQQ", 256, 4095, 0) + "four".encode("utf-16-le").ljust(72, b"\0")
table = entry.ljust(128 * 128, b"\0")
def header(here, other, at):
    def make(crc):
        return struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, crc, 0, here, other, 6, last - 5,
                           uuid.UUID(int=9).bytes_le, at, 128, 128, zlib.crc32(table))
    return make(zlib.crc32(make(0))).ljust(S, b"\0")
disk = bytearray(size)
disk[446:462] = struct.pack("<BBBBBBBBII", 0, 0, 2, 0, 0xee, 255, 255, 255, 1, last)
disk[510:512] = b"\x55\xaa"
disk[S:2 * S] = header(1, last, 2)
disk[2 * S:2 * S + len(table)] = table
disk[last * S:] = header(last, 1, last - 4)
disk[(last - 4) * S:(last - 4) * S + len(table)] = table
sys.stdout.buffer.write(disk)
PY
vt convert -f raw -O vhdx -o logical_sector_size=4096 k.raw k4.vhdx
status 0 vt probe --output=json k4.vhdx
equal "$(json '[(p["offset"], p["size"], p["name"]) for p in d["partitions"]]' <out)" "[(1048576, 15728640, 'four')]"
