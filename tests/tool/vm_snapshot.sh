# SPDX-License-Identifier: BSD-2-Clause
# Snapshots of a running machine, whose guest has no services: crash consistent, and it says why.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/vm_lib.sh"

layers() { vt info --backing-chain --output=json "$1" | json "len(d)"; }

vt create -q a.vhdx 64M
vt create -q b.vhdx 64M
start --disk a.vhdx --disk b.vhdx

# ---- create -------------------------------------------------------------------------------------------
status 0 sv snapshot create m monday --output=json
equal "$(json 'd["level"]' <out)" crash
equal "$(json 'd["reason"]' <out)" no-channel
equal "$(json 'd["disks"]' <out)" 2
equal "$(json 'd["writers"][0]["thawed"]' <out)" True
status 0 sv snapshot create --no-quiesce m tuesday --output=json
equal "$(json 'd["reason"]' <out)" not-asked
status 1 sv snapshot create --require=file-system m wednesday
says err no-channel
status 1 sv snapshot create m monday
says err monday
status 1 sv snapshot create m 'a/b'
status 2 sv snapshot create m

# ---- scripts ------------------------------------------------------------------------------------------
status 0 sv snapshot create m scripted --pre 'echo pre $SPINDLE_MACHINE $SPINDLE_SNAPSHOT >>log' --post 'echo post >>log'
equal "$(tr '\n' , <log)" "pre m scripted,post,"
status 1 sv snapshot create --require=application m refused --pre 'touch pre; exit 3' --post 'touch post'
[ ! -e pre ] || fail "the script ran although the level could not be reached"

# ---- a requester that is killed -------------------------------------------------------------------------
# Its script is thawed by the next command; the machine gives the snapshot up without waiting for a deadline.
"$SPINDLE_VM" snapshot create m killed --pre 'until [ -s victim ]; do sleep 0.01; done; kill -9 $(cat victim)' \
	--post 'echo post $SPINDLE_MACHINE $SPINDLE_SNAPSHOT >late' &
client=$!
echo $client >victim.new
mv victim.new victim
status 137 wait $client
[ ! -e late ] || fail "who has run it?"
ls run/spindle/frozen-* >/dev/null || fail "nothing on record"
begin=$SECONDS
status 0 sv snapshot recover
says err "thawed"
equal "$(cat late)" "post m killed"
! ls run/spindle/frozen-* 2>/dev/null || fail "still on record"
soon sv snapshot create m after		# the machine of the dead one may still be taking its set back
[ $((SECONDS - begin)) -lt 15 ] || fail "the machine still waits for the dead"
rm late
status 0 sv snapshot recover
[ ! -e late ] || fail "paid twice"
status 0 sv snapshot delete m after

# ---- a script that hangs, a writer that is not there, a signal -------------------------------------------
begin=$SECONDS
status 1 sv snapshot create --freeze-timeout=2 m slow --pre 'sleep 100' --post 'touch woken'
[ $((SECONDS - begin)) -lt 30 ] && [ -e woken ] || fail "a script that hangs holds everything up"
status 0 sv snapshot create --writer=nobody.sock m alone --output=json
equal "$(json '[(w["name"], w["frozen"], w["reason"]) for w in d["writers"]]' <out)" \
	"[('guest', False, 'no-channel'), ('nobody.sock', False, 'unreachable')]"
status 0 sv snapshot delete m alone
"$SPINDLE_VM" snapshot create m signalled --pre 'touch begun; sleep 5' --post 'touch ended' >out 2>err &
client=$!
soon test -e begun
kill -TERM $client
wait $client && fail "an aborted snapshot" || true
[ -e ended ] || fail "the post script did not run"
says err aborted

# ---- list ---------------------------------------------------------------------------------------------
status 0 sv snapshot list m --output=json
equal "$(json '[(s["name"], s["parent"], s["level"], len(s["disks"])) for s in d]' <out)" \
	"[('scripted', 'tuesday', 'crash', 2), ('tuesday', 'monday', 'crash', 2), ('monday', '', 'crash', 2)]"

# ---- delete -------------------------------------------------------------------------------------------
status 0 sv snapshot delete m scripted
status 1 sv snapshot delete m scripted
says err scripted
status 0 sv snapshot delete m tuesday
status 0 sv snapshot list m --output=json
equal "$(json '[s["name"] for s in d]' <out)" "['monday']"

# ---- kill in between: the next start puts it in order ---------------------------------------------------
for delay in 0 0.01 0.02 0.05; do
	sv snapshot create m "kill$delay" >/dev/null 2>&1 &
	client=$!
	sleep $delay
	kill -9 $vm_pid
	wait $client || true
	wait $vm_pid 2>/dev/null || true
	start --disk a.vhdx --disk b.vhdx
	sv snapshot list m >/dev/null || fail "no list after a kill"
done
sv stop --force m
ended 0
vt check -q a.vhdx || fail "check of a.vhdx"
vt check -q b.vhdx || fail "check of b.vhdx"
[ -z "$(ls | grep -e '\.live' -e '\.tmp' || true)" ] || fail "left behind: $(ls)"

# ---- revert -------------------------------------------------------------------------------------------
status 0 sv snapshot revert --dry-run monday a.vhdx b.vhdx
says out "would discard"
status 0 sv snapshot revert monday a.vhdx b.vhdx
equal "$(layers a.vhdx)" 2
status 1 sv snapshot revert friday a.vhdx b.vhdx
