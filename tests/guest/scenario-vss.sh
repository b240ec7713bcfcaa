# SPDX-License-Identifier: BSD-2-Clause
# A guest under load is frozen, its disks get snapshots, it is thawed. Numbered markers in its file system and the
# guest's own trace prove where the cut is. Its daemon is stopped, and hangs. Backups are made of it while it runs.
scenario=vss
. /lab/lib.sh

# ---- talking to the guest ----------------------------------------------------------------------------

# in_guest COMMAND [ARGUMENT] - types it, and waits for its end
in_guest()
{
	commands=$((commands + 1))
	echo "$commands: $*" >input
	vm_step "$commands:" 120
}

# for --pre: makes the daemon hang for 8 seconds
hang="echo 'hung: hang 8' >input; until grep -q '^@step hung:' console; do sleep 0.1; done"

# snapshot NAME WANTED_STATUS OPTION... - what it says: NAME.json, NAME.err
snapshot()
{
	local name=$1 wanted=$2

	shift 2
	timeout 240 spindle-vm snapshot create --output=json "$@" $vm "$name" >"$name.json" 2>"$name.err"
	same $? "$wanted" || { cat "$name.json" "$name.err"; return 1; }
}

# of NAME EXPRESSION - what is true of its result
of() { jq -e "$2" "$1.json" >/dev/null || { cat "$1.json"; return 1; }; }
err_says() { grep "$2" "$1.err" || { cat "$1.err"; return 1; }; }
timing() { say "$1: $(jq -r "$2"' | "frozen for \(.freeze_ms) ms, I/O held for \(.pause_ms) ms"' "$1.json")"; }
file_system() { snapshot "$1" 0 --require=file-system && of "$1" '.level == "file-system" and .writers[0].thawed'; }

# ---- the snapshots -----------------------------------------------------------------------------------

idle()
{
	ASAN_OPTIONS="$ASAN_OPTIONS:detect_leaks=0" spindle-vm run --name idle --mem 128 --kernel $guest/vmlinuz \
		--disk idle.vhdx --paused --serial none >idle.out 2>&1 &
	idle_pid=$!
	soon 60 spindle-vm status idle || { cat idle.out; return 1; }
}

# Another machine is asked second: meanwhile this one waits, frozen.
together()
{
	spindle-vm snapshot create --output=json --pre='[ $SPINDLE_MACHINE != idle ] || sleep 3' $vm idle together \
		>together.json 2>together.err || { cat together.err; return 1; }
}

check "disks" sh -c "cp $guest/disk.vhdx disk.vhdx && vhd-tool create -q -o block_size=1M data.vhdx 64M &&
	vhd-tool create -q -o block_size=1M idle.vhdx 64M"
commands=0
vm_start vss 2 vss --disk disk.vhdx,lun=0 --disk data.vhdx,lun=1
vm_step load 400
check "a set of two disks, file-system consistent" file_system first
timing first .
check "the other machine" idle
check "two machines as one set, frozen for three seconds" together
check "together: the guest was frozen" of together '.[0].level == "application" and .[0].freeze_ms > 3000'
check "together: the other had no guest to freeze" of together '.[1].level == "crash" and .[1].reason == "no-channel"'
timing together '.[0]'
kill $idle_pid
in_guest frozen 2

in_guest stop
check "no daemon: a snapshot" snapshot stopped 0
check "no daemon: crash consistent, and why" of stopped '.level == "crash" and .reason == "daemon-absent"'
check "no daemon: not if file-system is required" snapshot refused 1 --require=file-system
check "no daemon: the error says why" err_says refused daemon-absent
in_guest start
check "the daemon is back: file-system consistent" file_system back

in_guest hang 6
check "a daemon that hangs: a snapshot" snapshot hanging 0 --check-timeout=2
check "a daemon that hangs: crash consistent, and why" of hanging '.level == "crash" and .reason == "check-timeout"'
in_guest write
check "it goes on: file-system consistent" soon 60 file_system later

check "it hangs when it should freeze: no snapshot" snapshot late 1 --freeze-timeout=4 --pre="$hang"
check "it hangs when it should freeze: the error says why" err_says late freeze-timeout
in_guest write
check "after that: file-system consistent" soon 60 file_system last
in_guest frozen 6

# backup NAME - a point, of frozen file systems
backup()
{
	timeout 240 spindle-backup create -q --output=json --machine $vm --require=file-system repo set >"$1.json" \
		2>"$1.err" || { cat "$1.err"; vm_state; return 1; }
}
size()
{
	jq -r '"\(."bytes-read") bytes read, \(."bytes-written") written, frozen for \(.snapshot.freeze_ms) ms"' "$1.json"
}
small() { jq -se '.[1]["bytes-read"] * 4 < .[0]["bytes-read"]' full.json small.json || ! cat full.json small.json; }
snapshots() { spindle-vm snapshot list $vm --output=json | jq -r '.[].name' | tr '\n' ' '; }

backup full
check "it is full" of full .full
say "full: $(size full)"
in_guest change
check "an incremental backup, file-system consistent" backup small
check "it is not full" of small '.full == false'
check "and much smaller" small
say "incremental: $(size small)"
in_guest write
check "the machine's snapshots are those it had" same "$(snapshots | wc -w)" 7
in_guest frozen 8
echo "- end" >input
vm_end 120 0

# ---- the copies --------------------------------------------------------------------------------------

# look COPY - shows it in /mnt: a snapshot, "now", or a point of the backup
look()
{
	case $1 in
	now) vhd-mount -o ro disk.vhdx /mnt ;;
	point-*) spindle-backup mount --disk=disk "--point=${1#point-}" repo set /mnt ;;
	*) vhd-mount -o ro "disk.$1.vhdx" /mnt ;;
	esac
}

# partition COPY COMMAND... - with the first partition as its last argument
partition()
{
	local copy=$1 status

	shift
	look "$copy" || return
	"$@" /mnt/p1
	status=$?
	fusermount3 -u /mnt
	return $status
}

replay_needed() { partition "$1" dumpe2fs -h 2>&1 | grep '^Filesystem features:.*needs_recovery'; }
no_replay_needed() { ! replay_needed "$1"; }
file_of() { partition "$1" debugfs -R "cat /$2" 2>/dev/null; }

# cut_proved NAME NUMBER - of that freeze. Its trace has when it began and when it had each marker on the disk, in
# hundredths of a second, cut off; $frozen and $thawed are exact.
cut_proved()
{
	local last frozen thawed

	file_of "$1" markers >"$1.markers"
	last=$(tail -n 1 "$1.markers")
	seq "$last" | cmp - "$1.markers" || return
	read -r frozen thawed <<-TIMES
		$(sed -n "$2p" freezes)
	TIMES
	awk -v last="$last" -v frozen="$frozen" -v thawed="$thawed" '
		$3 + 0.01 <= frozen { before++; if ($1 > last) wrong("was there before, and is not in the copy") }
		$2 >= thawed { after++; if ($1 <= last) wrong("came afterwards, and is in the copy") }
		$3 >= frozen && $3 + 0.01 <= thawed { wrong("was written while nothing should be") }
		function wrong(what) { print "marker", $0, what; bad = 1 }
		END {
			print before, "markers before", frozen, ",", after, "after", thawed, "last in the copy:", last
			exit bad || !before || !after
		}' trace
}

# Clocks of emulated machines are not worth much: half of it will do.
long_freeze() { sed -n "$1p" freezes | awk '{ print; exit $2 - $1 < 1.5 }'; }

file_of now trace >trace
file_of now freezes >freezes
say "$(wc -l <trace) markers; frozen $(awk '{ printf "%s%.0f ms", (NR > 1 ? ", " : ""), ($2 - $1) * 1000 }' freezes)"
check "together: a long freeze, says the guest" long_freeze 2
number=0
for copy in first together back later - last point-1 point-2; do
	number=$((number + 1))
	[ $copy != - ] || continue	# frozen, but too late
	check "$copy: the journal need not be replayed" no_replay_needed $copy
	check "$copy: e2fsck is content" partition $copy e2fsck -fn
	check "$copy: the cut is where the guest was frozen" cut_proved $copy $number
done
for copy in stopped hanging; do
	check "$copy: a crash: the journal must be replayed" replay_needed $copy
done
check "spindle-backup verify" spindle-backup verify -q --content repo
changed()
{
	file_of point-2 changed.sum >changed.sum
	file_of point-2 changed >changed
	sha256sum -c changed.sum
}
check "a file out of the incremental is as the guest wrote it" changed
no_part() { ! ls -- *.refused.* *.late.* 2>/dev/null; }
check "no snapshot is left of those that failed" no_part
for image in disk.vhdx data.vhdx; do
	check "vhd-tool check $image" sound $image
done
