# SPDX-License-Identifier: BSD-2-Clause
# spindle-vm beside QEMU's machines: the same kernel, initial RAM disk and VHDX files, in turns. The file "figures" gets
# a line for each figure: VMM, name, value. LAB_RUNS says how often.
scenario=bench
. /lab/lib.sh
mem=384
append="console=ttyS0 quiet panic=-1 nowatchdog rcupdate.rcu_cpu_stall_suppress=1 spindle.test=bench"

# ---- the machines ------------------------------------------------------------------------------------

run_spindle()
{
	exec spindle-vm run --name bench --mem $mem --kernel $guest/vmlinuz --initrd $guest/initrd --append "$append" \
		--disk disk.vhdx --disk data.vhdx --serial stdio
}

# run_qemu MACHINE DEVICE - guest RAM in a memfd, as ours: what the process has beside it can be told apart
run_qemu()
{
	exec qemu-system-x86_64 -L /share -M "$1",memory-backend=ram -object memory-backend-memfd,id=ram,size=${mem}M \
		-accel kvm -cpu host -m $mem -display none -nodefaults -no-user-config -net none -no-reboot \
		-kernel $guest/vmlinuz -initrd $guest/initrd -append "$append" -serial stdio \
		-drive file=disk.vhdx,format=vhdx,if=none,id=a,aio=io_uring -device "$2",drive=a \
		-drive file=data.vhdx,format=vhdx,if=none,id=b,aio=io_uring -device "$2",drive=b
}
run_q35() { run_qemu q35 virtio-blk-pci; }
run_microvm() { run_qemu microvm virtio-blk-device; }

# ---- figures -----------------------------------------------------------------------------------------

figure() { echo "$1 $2 $3" | tee -a figures | sed 's/^/@lab # bench: /'; }
ms() { awk '{ printf "%d\n", $1 * 1000 }' /proc/uptime; }

# KiB of its own: without guest RAM, which is shared memory
own_memory() { cat /proc/$1/status | awk '/^RssAnon|^RssFile/ { sum += $2 } END { print sum }'; }

# Reads the console line by line, so that nothing polls while the guest runs.
follow()
{
	local name=$1 line what value rest

	while read -r line; do
		line=${line%?}
		case $line in
		@init*)
			figure "$name" boot $(($(ms) - started))
			;;
		@figure*)
			read -r rest what value <<-LINE
				$line
			LINE
			[ -n "$value" ] || return 1
			figure "$name" "$what" "$value"
			;;
		@done*)
			return 0
			;;
		esac
		echo "$line" >>"$name.console"
	done
	return 1
}

# measure NAME - boots it, follows it, ends it
measure()
{
	local pid status

	rm -f disk.vhdx
	cp $guest/disk.vhdx disk.vhdx && cp full.vhdx data.vhdx && sync || return
	: >"$1.console"
	mkfifo out
	started=$(ms)
	"run_$1" </dev/null >out 2>"$1.err" &
	pid=$!
	follow "$1" <out
	status=$?
	[ $status -ne 0 ] || figure "$1" memory "$(own_memory $pid)"
	kill $pid
	wait $pid
	rm out
	[ $status -eq 0 ] || tail -n 20 "$1.console" "$1.err"
	return $status
}

full_disk()
{
	dd if=/dev/urandom of=full.raw bs=1M count=64 status=none && vhd-tool convert -q -O vhdx -o block_size=1M full.raw full.vhdx && rm full.raw
}

check "a disk full of data" full_disk
for n in $(seq "${LAB_RUNS:-3}"); do
	for machine in spindle q35 microvm; do
		measure $machine >measure.out 2>&1
		status=$?
		grep '^@lab #' measure.out
		check "$machine, run $n" sh -c "cat measure.out; exit $status"
	done
done
