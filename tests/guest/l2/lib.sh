# SPDX-License-Identifier: BSD-2-Clause
# What guest scripts use. Lines that begin with "@lab" are results.

say() { echo "@lab # $*"; }

# check NAME COMMAND... - one result; what a failing command says is shown
check()
{
	local name="$test: $1" out

	shift
	if out=$("$@" 2>&1); then
		echo "@lab ok - $name"
	else
		echo "@lab not ok - $name"
		echo "$out" | tail -n 20 | sed 's/^/@lab #   /'
	fi
}

# soon SECONDS COMMAND... - until it succeeds; the last answer is shown if it never does
soon()
{
	local end=$(($(date +%s) + $1)) out

	shift
	until out=$("$@" 2>&1); do
		if [ "$(date +%s)" -ge "$end" ]; then
			echo "$out"
			return 1
		fi
		sleep 0.1
	done
}

# step NAME - tells the scenario in level 1, and waits for its answer
step()
{
	echo "@step $1"
	read -r -t 120 _ </dev/console || say "no answer to step $1"
}

same() { [ "$1" = "$2" ] || { echo "found '$1', not '$2'"; return 1; }; }

# says EXPRESSION COMMAND... - what it prints matches
says()
{
	local expression=$1 out

	shift
	out=$("$@" 2>&1)
	echo "$out" | grep -q -e "$expression" || { echo "not in the answer of $*: $expression"; echo "$out"; return 1; }
}

# quiet_kernel - no complaint in the kernel's log; SYNCHRONIZE CACHE (0x35) to a disk that is gone already is Linux' way
# of saying goodbye to it. $expected is what else may be in it.
quiet_kernel()
{
	! dmesg | grep -E 'WARNING: CPU|BUG:|Oops|Call Trace|I/O error|hung task|soft lockup|rcu.*detected stall' &&
		! dmesg | grep -v -e 'cmd 0x35 status: scsi 0x0 srb 0x20' ${expected:+-e "$expected"} |
			grep -E 'tag#.*(FAILED|srb)|EXT4-fs error'
}
