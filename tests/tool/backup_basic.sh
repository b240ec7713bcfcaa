#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Full and incremental backups, list, verify, restore to any point, prune, copy, keys.
. "$(dirname "$0")/lib.sh" || exit 1
: "${SPINDLE_BACKUP:?the built spindle-backup}"

sb() {
	"$SPINDLE_BACKUP" "$@"
}

# restored POINT DISK: hash of the disk as restored
restored() {
	rm -f restored.raw
	sb restore -q --point="$1" --disk="$2" repo vm restored.raw
	sha256sum <restored.raw | cut -d' ' -f1
}

raw a.raw 10486272
raw b.raw 20M
vt convert -q b.raw b.vhdx
declare -A a b
for point in 1 2 3 4 5; do
	sb create repo vm root=a.raw b.vhdx >said
	a[$point]=$(sha256sum <a.raw | cut -d' ' -f1)
	b[$point]=$(sum_of b.vhdx)
	[ $point = 1 ] && says said "point 1, full" || says said "point $point, incremental"
	printf "point $point" | dd of=a.raw bs=1 seek=$((point * 1000000)) conv=notrunc status=none
	"$POKE" b.vhdx $((point * 3000000)):70000:$point 7340032:4096:0
done
equal "$(sb list --output=json repo | json 'len(d[0]["points"]), d[0]["points"][4]["parent"]')" "(5, 4)"
says <(sb list repo) "on 4"
says <(sb verify --content repo) "vm: 5 points, all is well"
for point in 1 2 3 4 5; do
	equal "$(restored $point root)" "${a[$point]}"
	equal "$(restored $point b)" "${b[$point]}"
done

# the files are images like any other
equal "$(sum_of repo/vm/000003-b.vhdx)" "${b[3]}"
if command -v qemu-img >/dev/null; then
	qemu-img convert -q -f vhdx -O raw repo/vm/000001-b.vhdx q.raw
	equal "$(sha256sum <q.raw | cut -d' ' -f1)" "${b[1]}"
fi

# restoring never replaces a file unasked; a folder takes all disks
status 1 sb restore --disk=root repo vm restored.raw
says err "exists already"
sb restore -q --force --disk=root repo vm restored.raw
mkdir all
sb restore -q repo vm all
equal "$(sum_of all/b.vhdx)" "${b[5]}"

# one copy, carried on after it was killed
"$SPINDLE_BACKUP" copy -q --rate-limit=1M repo vm second & pid=$!
sleep 1
kill -9 $pid
wait $pid 2>/dev/null || true
sb copy repo vm second >said
sb verify -q --content second vm
for file in repo/vm/*.vhdx repo/vm/0*.json; do cmp "$file" "second/vm/${file##*/}"; done

# prune: what stays reads as before
sb prune --dry-run --keep-last=2 repo vm >said
says said "would drop point 3"
equal "$(sb list --output=json repo vm | json 'len(d[0]["points"])')" 5
sb prune -q --keep-last=2 repo vm
equal "$(sb list --output=json repo vm | json '[p["point"] for p in d[0]["points"]], d[0]["points"][0]["parent"]')" \
	"([4, 5], 0)"
sb verify -q --content repo vm
equal "$(ls repo/vm)" "$(printf '%s\n' 000004-b.vhdx 000004-root.vhdx 000004.json 000005-b.vhdx 000005-root.vhdx \
	000005.json lock set.json)"
for point in 4 5; do
	equal "$(restored $point root)" "${a[$point]}"
	equal "$(restored $point b)" "${b[$point]}"
done
sb create -q repo vm root=a.raw b.vhdx
sb verify -q --content repo vm
equal "$(restored 6 root)" "$(sha256sum <a.raw | cut -d' ' -f1)"
sb create --full repo vm root=a.raw b.vhdx >said
says said "point 7, full"
sb prune -q --keep-last=1 repo vm
sb verify -q --content repo vm
equal "$(sb list --output=json repo | json '[p["point"] for p in d[0]["points"]]')" "[7]"

# rules by day: all of them of today
for point in 1 2 3 4 5; do
	sb create -q days vm root=a.raw
done
sb prune --dry-run --keep-daily=3 days vm >said
equal "$(cat said)" "would drop point 1
would drop point 2
would drop point 3
would drop point 4"

# damage: one bit, a missing file, swapped files, a shortened file
sb create -q bad vm root=a.raw b.vhdx
"$POKE" b.vhdx 0:4096:77
sb create -q bad vm root=a.raw b.vhdx
sb verify -q bad
broken() {
	status 2 sb verify bad vm
	says out "$1"
}
keep=$(mktemp -d -p .)
cp -a bad/vm/. "$keep"
heal() {
	rm -rf bad/vm
	cp -a "$keep" bad/vm
}
printf '\001' | dd of=bad/vm/000001-b.vhdx bs=1 seek=70000 conv=notrunc status=none
broken "000001-b.vhdx: SHA-256 differs in 1 MiB, the first at 0x0"
heal
rm bad/vm/000002-root.vhdx
broken "000002-root.vhdx: missing"
heal
mv bad/vm/000001-b.vhdx x && mv bad/vm/000002-b.vhdx bad/vm/000001-b.vhdx && mv x bad/vm/000002-b.vhdx
broken "000001-b.vhdx: "
says out "000002-b.vhdx: "
heal
truncate -s -1M bad/vm/000002-b.vhdx
broken "000002-b.vhdx: has "
heal
rm bad/vm/000002.json
broken "000002.json: missing"
heal
cp bad/vm/000001.json bad/vm/000002.json
broken "000002.json: damaged"
heal
sed -i 's/offline/crash/' bad/vm/000001.json
broken "000001.json: damaged"
heal
sed -i 's/"next": 3/"next": 4/' bad/vm/set.json
broken "set.json: damaged"
heal
sb verify -q bad

# keys
head -c 32 /dev/urandom >secret
head -c 32 /dev/urandom >other
sb create -q --key=secret signed vm root=a.raw
sb verify -q --key=secret signed
status 2 sb verify --key=other signed
says out "the signature is not one of this key"
if command -v openssl >/dev/null; then
	openssl genpkey -algorithm ed25519 -out private.pem 2>/dev/null
	openssl pkey -in private.pem -pubout -out public.pem
	openssl genpkey -algorithm ed25519 -out wrong.pem 2>/dev/null
	sb create -q --key=private.pem signed2 vm root=a.raw
	sb create -q --key=private.pem signed2 vm root=a.raw
	sb verify -q --key=public.pem signed2
	sb verify -q --key=private.pem signed2
	status 2 sb verify --key=wrong.pem signed2
	status 2 sb verify --key=secret signed2
	says out "the key is for hmac-sha256"
	status 1 sb prune -q --keep-last=1 signed2 vm
	says err "needs the key"
	sb prune -q --keep-last=1 --key=private.pem signed2 vm
	sb verify -q --key=public.pem signed2
	status 1 sb create --key=public.pem signed2 vm root=a.raw
fi
status 2 sb verify --key=secret bad
says out "not signed"

# misuse
status 1 sb create repo ../x a.raw
says err "no name of a set"
status 1 sb create repo vm x/y=a.raw
status 3 sb create --level=crash --require=file-system repo vm a.raw
status 1 sb list nowhere
status 2 sb verify repo nowhere
status 1 sb prune repo vm
