#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# A chain of 200 incrementals: verified, restored anywhere, thinned out in the middle, at the end and by rules.
. "$(dirname "$0")/lib.sh"
: "${SPINDLE_BACKUP:?the built spindle-backup}"
POINTS=200
declare -A sum

sb() { "$SPINDLE_BACKUP" "$@"; }

# same POINT: it is restored as it was
same() {
	rm -f restored.raw
	sb restore -q --point="$1" repo vm restored.raw
	equal "$(sha256sum <restored.raw | cut -d' ' -f1)" "${sum[$1]}"
}

truncate -s 4M a.raw
for point in $(seq $POINTS); do
	printf 'point %d' $point | dd of=a.raw bs=1 seek=$((point * 20011 % 4194000)) conv=notrunc status=none
	sb create -q repo vm a.raw
	sum[$point]=$(sha256sum <a.raw | cut -d' ' -f1)
done
equal "$(sb list --output=json repo | json 'len(d[0]["points"]), d[0]["points"][-1]["parent"]')" "(200, 199)"
status 0 sb verify --content --point=200 repo vm
for point in 1 2 99 100 199 200; do same $point; done

# the image at the end reads through all of them
equal "$(vt hash repo/vm/000200-a.vhdx | cut -d' ' -f1)" "${sum[200]}"

status 0 sb prune -q --keep-last=120 repo vm
equal "$(sb list --output=json repo | json 'len(d[0]["points"]), d[0]["points"][0]["point"], d[0]["points"][0]["parent"]')" \
	"(120, 81, 0)"
for point in 81 82 140 200; do same $point; done
status 0 sb verify repo vm

# damage in the middle is found, and named
printf 'x' | dd of=repo/vm/000140-a.vhdx bs=1 seek=70000 conv=notrunc status=none
status 2 sb verify repo vm
says out 000140-a.vhdx
