#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# An existing QMP client, DigitalOcean's go-qemu as Debian packages it, finds its way with our control socket.
. "$(dirname "$0")/lib.sh" || exit 1
here=$(cd "$(dirname "$0")" && pwd)
. "$(dirname "$0")/vm_lib.sh" || exit 1
need go
source=/usr/share/gocode/src/github.com/digitalocean/go-qemu
[ -d $source ] || { echo "skipped: golang-github-digitalocean-go-qemu-dev is not installed"; exit 77; }

# What is made of the package stays in our folder.
mkdir -p go/src/qmpcheck
cp "$here/vm_qmp.go" go/src/qmpcheck/main.go
GO111MODULE=off GOPATH=$work/go:/usr/share/gocode GOCACHE=$work/cache GOFLAGS= HOME=$work \
	go build -o qmpcheck qmpcheck >go.out 2>&1 || { cat go.out >&2; fail "the client does not build"; }
image b.vhdx
mkdir disks
cp b.vhdx disks/a.vhdx
start --attach-from disks
timeout 30 ./qmpcheck run/spindle/m.sock "$PWD/disks/a.vhdx" >said 2>&1 || { cat said >&2; fail "the client failed"; }
diff - said <<'END'
version 7
{"status":"running","running":true,"singlestep":false}
{"name":"m"}
{} STOP
{"status":"paused","running":false,"singlestep":false}
{} RESUME
{"device":"scsi0:0"}
{}
{} DEVICE_DELETED
error: no disk at "scsi0:0"; disks are called scsi0:0, scsi0:1, ...
error: no such command; query-commands lists them
{} SHUTDOWN
END
ended 0
left_nothing
