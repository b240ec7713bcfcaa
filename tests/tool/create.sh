#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
. "$(dirname "$0")/lib.sh" || exit 1

# formats, sizes, options
vt create -q a.vhdx 100M
equal "$(vt info --output=json a.vhdx | json 'd["format"], d["virtual-size"], d["subformat"]')" "('vhdx', 104857600, 'dynamic')"
vt create -q a.vhd 1.5M
equal "$(vt info --output=json a.vhd | json 'd["format"], d["virtual-size"], d["subformat"]')" "('vhd', 1572864, 'dynamic')"
vt create -q -f vpc -o subformat=fixed b.img 3M
equal "$(vt info -f vhd --output=json b.img | json 'd["format"], d["virtual-size"], d["subformat"]')" "('vhd', 3145728, 'fixed')"
vt create -q a.raw 12345
equal "$(stat -c %s a.raw)" 12345
vt create -q -o block_size=1M,log_size=2M,logical_sector_size=4096,physical_sector_size=4096 o.vhdx 64M
vt info --output=json o.vhdx >o.json
equal "$(json 'd["cluster-size"], d["logical-sector-size"], d["physical-sector-size"]' <o.json)" "(1048576, 4096, 4096)"
equal "$(json 'd["format-specific"]["data"]["log"]["length"]' <o.json)" 2097152
vt create -q -o subformat=fixed,preallocation=falloc f.vhdx 16M
[ "$(stat -c '%b' f.vhdx)" -ge $((16 * 2048)) ] || fail "a preallocated image is sparse"
vt create -q big.vhdx 64T
[ "$(du -k big.vhdx | cut -f1)" -lt 200000 ] || fail "an empty 64 TiB image takes much room"

# refusals
status 1 vt create a.vhdx 1G
says err "vhd-tool: a.vhdx: exists already"
says err "--force replaces it"
vt create -q --force a.vhdx 200M
equal "$(vt info --output=json a.vhdx | json 'd["virtual-size"]')" 209715200
status 1 vt create n.vhdx
says err "a size is needed"
status 1 vt create n.vhdx 0
status 1 vt create n.vhdx 1.1
status 1 vt create n.vhdx 65T
status 1 vt create n.vhd 3T
status 1 vt create -o block_size=3M n.vhdx 1G
status 1 vt create -o block_size=512M n.vhdx 1G
status 1 vt create -o logical_sector_size=1024 n.vhdx 1G
status 1 vt create nowhere/n.vhdx 1G
status 1 vt create . 1G
[ ! -e n.vhdx ] || fail "a refused image is there"

# children
vt create -q -b a.vhdx c.vhdx
vt info --output=json c.vhdx >c.json
equal "$(json 'd["subformat"], d["virtual-size"], d["full-backing-filename"]' <c.json)" \
	"('differencing', 209715200, '$work/a.vhdx')"
equal "$(json 'd["parent-identity"]' <c.json)" "$(vt info --output=json a.vhdx | json 'd["identity"]')"
equal "$(json 'd["format-specific"]["data"]["disk_id"]' <c.json)" \
	"$(vt info --output=json a.vhdx | json 'd["format-specific"]["data"]["disk_id"]')"
vt create -q -B a.vhdx c2.vhdx 300M
equal "$(vt info --output=json c2.vhdx | json 'd["virtual-size"]')" 314572800
vt create -q -b a.vhd -F vpc c.vhd
equal "$(vt info --output=json c.vhd | json 'd["full-backing-filename"]')" "$work/a.vhd"
vt create -q -b o.vhdx c4k.vhdx
equal "$(vt info --output=json c4k.vhdx | json 'd["logical-sector-size"]')" 4096
status 1 vt create -b a.vhd x.vhdx
says err "both must have the same format"
status 1 vt create -b a.vhdx -F vhd x.vhdx
status 1 vt create -b a.raw x.raw
status 1 vt create -b nowhere.vhdx x.vhdx
status 1 vt create -u -b a.vhdx x.vhdx
status 1 vt create -o subformat=fixed -b a.vhdx x.vhdx
status 1 vt create -o logical_sector_size=4096 -b a.vhdx x.vhdx

# a parent in another folder needs the image root that later opening will need
mkdir -p one/sub two
vt create -q one/base.vhdx 10M
status 1 vt create -b one/base.vhdx two/child.vhdx
says err "--image-root=DIR names the folder"
vt create -q --image-root=. -b one/base.vhdx two/child.vhdx
status 1 vt info two/child.vhdx
status 0 vt info --image-root=. two/child.vhdx
vt create -q --image-root=one -b one/base.vhdx one/sub/child.vhdx
equal "$(vt info --image-root=one --output=json one/sub/child.vhdx | json 'd["backing-filename"]')" '..\base.vhdx'
ln -s base.vhdx one/link.vhdx		# what is stored is the real name: links are not followed later
vt create -q -b one/link.vhdx one/by-link.vhdx
equal "$(vt info --output=json one/by-link.vhdx | json 'd["full-backing-filename"]')" "$work/one/base.vhdx"
cp a.vhdx 'ünï — 名.vhdx'
vt create -q -b 'ünï — 名.vhdx' u.vhdx
equal "$(vt info --output=json u.vhdx | json 'd["full-backing-filename"]')" "$work/ünï — 名.vhdx"

# nothing is left over
equal "$(find . -name '.*.tmp-*' | wc -l)" 0

if command -v qemu-img >/dev/null; then
	equal "$(qemu-img info --output=json a.vhdx | json 'd["virtual-size"]')" 209715200
	status 0 qemu-img check big.vhdx
	equal "$(qemu-img info -f vpc --output=json b.img | json 'd["virtual-size"]')" 3145728
fi
