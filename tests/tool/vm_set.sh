# SPDX-License-Identifier: BSD-2-Clause
# Several machines as one set, with a writer on the host and scripts: all have their snapshot, or none has.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/vm_lib.sh"
: "${VSS_GUESTS:?guests that freeze}" "${VSS_APP:?an application that does}"
pids=
trap 'kill -9 $pids 2>/dev/null || true; wait; rm -rf "$work"' EXIT

freezes() { [ "$(sv status "$1" --output=json | json 'd["services"]["vss"]["state"]')" = ok ]; }

# start NAME GUEST: until the guest's service is there
start() {
	vt create -q "$1.vhdx" 64M
	"$SPINDLE_VM" run --name "$1" --mem 32 --kernel "$VSS_GUESTS/vss_$2.elf" --disk "$1.vhdx" --serial "file:$1.serial" \
		>/dev/null 2>"$1.err" &
	pids="$pids $!"
	(soon freezes "$1") || { cat "$1.err" >&2; exit 1; }
}

names() { sv snapshot list "$1" --output=json | json '[s["name"] for s in d]'; }
said() { tr -d '\r' <"$1.serial" | grep -c "$2" || true; }

start one answers
start two answers
start three refuses
"$VSS_APP" app.sock app.log &
pids="$pids $!"

# ---- all -----------------------------------------------------------------------------------------------
status 0 sv snapshot create --require=application --writer=app.sock --pre 'echo pre $SPINDLE_MACHINE >>log' \
	--post 'echo post $SPINDLE_MACHINE >>log' one two good --output=json
equal "$(json '[(r["machine"], r["level"], len(r["writers"])) for r in d]' <out)" \
	"[('one', 'application', 4), ('two', 'application', 4)]"
equal "$(cut -d' ' -f1 app.log | tr '\n' ,)" "freeze,thaw,good,"
equal "$(sort log | tr '\n' ,)" "post one,post two,pre one,pre two,"
equal "$(names one)$(names two)" "['good']['good']"
equal "$(said one freeze)$(said one thaw)$(said two freeze)$(said two thaw)" 1111

# ---- one cannot: none has, and everybody is thawed ------------------------------------------------------
: >log
status 1 sv snapshot create --require=file-system --writer=app.sock --pre 'echo pre $SPINDLE_MACHINE >>log' \
	--post 'echo post $SPINDLE_MACHINE >>log' one three two bad
says err freeze-error
equal "$(cut -d' ' -f1 app.log | tr '\n' ,)" "freeze,thaw,good,freeze,thaw,bad,"
equal "$(grep -c pre log)" "$(grep -c post log)"
equal "$(said one freeze) $(said three freeze)" "$(said one thaw) $(said three thaw)"
for _ in $(seq 50); do		# those that were made are taken away
	[ "$(names one)$(names two)$(names three)" != "['good']['good'][]" ] || break
	sleep 0.1
done
equal "$(names one)$(names two)$(names three)" "['good']['good'][]"

# ---- one is no more ------------------------------------------------------------------------------------
status 1 sv snapshot create one nobody two bad
says err nobody
status 0 sv snapshot create --require=application --writer=app.sock one two better
for m in one two three; do
	sv stop --force $m
done
for m in one two three; do
	vt check -q $m.vhdx || fail "check of $m.vhdx"
done
