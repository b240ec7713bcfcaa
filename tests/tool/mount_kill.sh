#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# vhd-mount: kill -9 in the middle of writing loses nothing that was flushed before, leaves no lock behind, and the
# image opens again. Each round writes numbered sectors and notes the last number whose fsync had returned.
. "$(dirname "$0")/mount_common.sh"

rounds=${MOUNT_KILL_ROUNDS:-3}

writer()
{
	python3 - "$mnt/disk" "$dir/flushed" "$1" <<-'END'
	import os, random, struct, sys
	disk, note = os.open(sys.argv[1], os.O_RDWR), os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
	order, number = random.Random(int(sys.argv[3])), 0
	try:
	    while True:
	        for _ in range(16):
	            number += 1
	            sector = struct.pack("<IIQ", int(sys.argv[3]), 0x5eed, number) * 32
	            os.pwrite(disk, sector, order.randrange(0, 64 << 20, 512))
	        os.fsync(disk)
	        os.pwrite(note, b"%-20d" % number, 0)
	except OSError:
	    pass
	END
}

# What the flushed writes left, each sector by its last writer. Later ones may be there too, nothing else.
verify()
{
	python3 - "$mnt/disk" "$dir/flushed" "$dir/known" "$1" <<-'END'
	import os, pickle, random, struct, sys
	disk, round_ = os.open(sys.argv[1], os.O_RDONLY), int(sys.argv[4])
	flushed = int(open(sys.argv[2]).read() or 0)
	known = pickle.load(open(sys.argv[3], "rb")) if os.path.exists(sys.argv[3]) else {}
	order, maybe = random.Random(round_), {}
	for number in range(1, flushed + 64):	# more than two rounds to fsync cannot have begun
	    at = order.randrange(0, 64 << 20, 512)
	    if number <= flushed:
	        known[at] = (round_, number)
	    else:
	        maybe.setdefault(at, set()).add((round_, number))
	for at in set(known) | set(maybe):
	    data = os.pread(disk, 512, at)
	    r, magic, n = struct.unpack_from("<IIQ", data)
	    found = (r, n) if magic == 0x5eed else None
	    assert data == (data[:16] * 32 if found else bytes(512)), f"torn or foreign sector at {at}"
	    assert found == known.get(at) or found in maybe.get(at, ()), f"sector {at}: {found}, flushed was {known.get(at)}"
	    if found:
	        known[at] = found
	pickle.dump(known, open(sys.argv[3], "wb"))
	print("   ", flushed, "writes flushed and found")
	END
}

for format in vhdx vpc; do
	image=$dir/disk.$format
	rm -f "$dir/known"
	if [ $format = vpc ]; then
		qemu-img create -q -f vpc -o force_size=on "$image" 64M
	else
		qemu-img create -q -f vhdx -o block_size=1M "$image" 64M
	fi
	for round in $(seq "$rounds"); do
		say "$format, round $round"
		mount_image --format=$format "$image"
		rm -f "$dir/flushed"
		writer "$round" &
		writer=$!
		wait_for 20 test -s "$dir/flushed"
		sleep 0.$((RANDOM % 5))$((RANDOM % 10))
		kill -9 "$daemon"
		wait "$daemon" 2>/dev/null || :
		daemon=
		wait "$writer" || :
		fusermount3 -u "$mnt"
		if [ $((round % 2)) = 0 ]; then		# with the log replayed in memory only
			mount_image --format=$format -o ro "$image"
			verify "$round"
			unmount_image
		fi
		mount_image --format=$format "$image"
		verify "$round"
		unmount_image
	done
done
