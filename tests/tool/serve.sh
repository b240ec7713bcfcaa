#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# storvsp-serve: options, a client's bytes in the image, one client at a time, the end by signal and by a dead client.
. "$(dirname "$0")/lib.sh"
: "${STORVSP_SERVE:?the built storvsp-serve}" "${RING_CLIENT:?the built ring_client}"

socket=$work/socket
server=

# serve ARG...: in the background, ready on return
serve() {
	rm -f serve.out		# the one before was ready, too
	"$STORVSP_SERVE" --socket="$socket" "$@" >serve.out 2>serve.err &
	server=$!
	for _ in {1..300}; do
		grep -qs 'storvsp-serve:' serve.out && return
		kill -0 $server 2>/dev/null || break
		sleep 0.02
	done
	cat serve.out serve.err >&2
	fail "storvsp-serve $* is not ready"
}

# served STATUS: ends it with SIGTERM
served() {
	local got=0
	kill -TERM $server
	wait $server || got=$?
	equal "$got" "$1"
	[ ! -e "$socket" ] || fail "the socket is still there"
}

client() {
	status 0 "$RING_CLIENT" "$socket" "$@"
}

# options
status 2 "$STORVSP_SERVE"
says err 'nothing to serve'
status 2 "$STORVSP_SERVE" --disk=a.vhdx,speed=9
says err 'speed'
status 2 "$STORVSP_SERVE" --disk=a.vhdx,lun=64
says err '0 to 63'
status 2 "$STORVSP_SERVE" --disk=a.vhdx,iops=many
says err 'iops'
status 2 "$STORVSP_SERVE" --disk=,ro
status 2 "$STORVSP_SERVE" --null=0
status 1 "$STORVSP_SERVE" --socket="$socket" --disk=missing.vhdx
says err 'missing.vhdx'
status 1 "$STORVSP_SERVE" --socket="$socket" --null=1M --disk=x,lun=3 --disk=y,lun=3
says err 'lun=3'
XDG_RUNTIME_DIR='' status 1 "$STORVSP_SERVE" --null=1M
says err '--socket'
touch file
status 1 "$STORVSP_SERVE" --socket=file --null=1M
says err 'nobody listens'
status 0 "$STORVSP_SERVE" --help
says out '--poll-us'

# what a client writes is in the image
vt create -q a.vhdx 64M
vt create -q b.vhd 16M
serve --disk=a.vhdx --disk=b.vhd,lun=7,ro --null=1G --poll-us=20
client 0 size
says out 67108864
client 7 size
says out 16777216
client 1 size
says out 1073741824
client 0 write 1048576 'through the ring'
status 1 "$RING_CLIENT" "$socket" 7 write 0 'not here'
says err 'Read-only'
status 1 "$RING_CLIENT" "$socket" 2 size
status 1 "$STORVSP_SERVE" --socket="$socket" --null=1M
says err 'is there already'
served 0
vt check -q a.vhdx
vt convert -q -O raw a.vhdx a.raw
equal "$(dd if=a.raw bs=1M skip=1 count=1 status=none | tr -d '\0' | head -c 16)" 'through the ring'

# one client at a time; a dead one makes room
serve --disk=a.vhdx
mkfifo hold
"$RING_CLIENT" "$socket" 0 hold <hold >held &
holder=$!
exec 9>hold
for _ in {1..300}; do
	grep -q holding held && break
	sleep 0.02
done
status 1 "$RING_CLIENT" "$socket" 0 size
says err 'has a client already'
kill -KILL $holder
wait $holder 2>/dev/null || true
exec 9>&-
for _ in {1..300}; do
	"$RING_CLIENT" "$socket" 0 read 1048576 >out 2>err && break
	sleep 0.02
done
says out 'through the ring'

# a killed server leaves its socket, which the next one replaces
kill -KILL $server
wait $server 2>/dev/null || true
[ -S "$socket" ] || fail "the socket went away"
status 1 "$RING_CLIENT" "$socket" 0 size
says err 'nobody listens'
serve --disk=a.vhdx
client 0 read 1048576
says out 'through the ring'
served 0
