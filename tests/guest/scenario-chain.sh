# SPDX-License-Identifier: BSD-2-Clause
# A guest lives on a snapshot chain; the host watches, changes its disks, stops it, and finds its files in the image.
scenario=chain
. /lab/lib.sh
status() { spindle-vm status "$vm" --output=json; }

# ---- a chain of three layers, files in two of them ---------------------------------------------------

write_middle()
{
	mkdir middle
	for n in 1 2 3; do
		dd if=/dev/urandom of=middle/$n bs=$((n * 5001)) count=10 2>/dev/null
	done
	sha256sum middle/* >middle.sums
}

chain()
{
	cp $guest/disk.vhdx disk.vhdx && vhd-tool snapshot create disk.vhdx base || return
	files_options=loop,rw with_files disk.vhdx write_middle || return
	vhd-tool snapshot create disk.vhdx middle && vhd-tool create -q -o block_size=1M data.vhdx 64M &&
		vhd-tool create -q -o block_size=1M hot.vhdx 32M && vhd-tool info disk.vhdx
}

check "a chain of three layers is made" chain

# ---- the guest runs ----------------------------------------------------------------------------------

# KiB that the file has on the host
allocated() { echo $(($(stat -c '%b * %B' disk.vhdx) / 1024)); }
shrunk() { [ $((before - $(allocated))) -ge 24576 ] || { echo "from $before to $(allocated) KiB"; return 1; }; }

# In the order in which a guest's kernel finds what we offer.
console_lines()
{
	console_in_order <<-LINES
		Linux version .*-cloud-amd64
		Command line: console=ttyS0
		BIOS-e820: \[mem 0x0000000000100000-
		Hypervisor detected: Microsoft Hyper-V
		Hyper-V: privilege flags low 0x
		Hyper-V: LAPIC Timer Frequency: 0x
		ACPI: RSDP 0x
		Booting paravirtualized kernel on Hyper-V
		smp: Brought up 1 node, 4 CPUs
		ttyS0 at I/O 0x3f8 .* is a 16550A
		Run /init as init process
		hv_vmbus: Vmbus version:5.3
		hv_vmbus: registering driver hv_storvsc
		hv_utils: Registering HyperV Utility Driver
	LINES
}

# of a name, wherever the status has it
has() { status | jq -e "[.. | objects | .$1? | strings] | any(. == \"$2\")" >/dev/null || { status; return 1; }; }

vm_start real 4 disk --disk disk.vhdx,lun=0 --disk data.vhdx,lun=1
if vm_step trim-before 400; then
	check "console: each part of the platform, in order" console_lines
	check "status: running" sh -c "spindle-vm status $vm --output=json | jq -e '.status == \"running\"'"
	before=$(allocated)
	vm_go
	if vm_step trim-after 200; then
		check "fstrim shrinks the host's file by 24 MiB or more" soon 20 shrunk
		say "disk.vhdx: $before KiB before fstrim, $(allocated) KiB after"
		vm_go
	fi
fi
if vm_step attach 200; then
	check "attach" spindle-vm attach $vm --disk hot.vhdx,lun=2
	vm_go
fi
if vm_step resize 120; then
	check "resize" spindle-vm resize $vm scsi0:2 48M
	vm_go
fi
if vm_step detach 120; then
	check "detach" spindle-vm detach $vm scsi0:2
	vm_go
fi
if vm_step again 120; then
	check "attach, the same LUN again" spindle-vm attach $vm --disk hot.vhdx,lun=2
	vm_go
fi
if vm_step services 120; then
	check "heartbeat is read on the host" soon 30 has heartbeat ok
	check "KVP: the guest's system is read on the host" soon 60 has OSName "Spindle lab"
	check "stats: requests of the disk" sh -c "spindle-vm stats $vm | grep -q ."
	vm_go
fi
vm_step stop 120 && check "stop" spindle-vm stop $vm
vm_end 120 0

# ---- the image afterwards, a snapshot, and a second boot ---------------------------------------------

for image in disk.vhdx data.vhdx hot.vhdx; do
	check "after the first boot: vhd-tool check $image" sound $image
done
check "snapshot" vhd-tool snapshot create disk.vhdx guest

vm_append="quiet hv_vmbus.max_version=0x40001" vm_start older 1 again --disk disk.vhdx,lun=0
vm_end 300 0
check "after the second boot: vhd-tool check" sound disk.vhdx
for of in base middle guest last; do
	check "vhd-mount: files of $of are as written" with_files disk.vhdx sha256sum -c $of.sums
done
