# SPDX-License-Identifier: BSD-2-Clause
# For make demo: a guest boots with a chain of images that came with --with-file, and writes into it.
scenario=demo
. /lab/lib.sh

vm_start demo 1 demo --disk /demo/linux.vhdx
vm_end 150 0
check "vhd-tool check" vhd-tool check /demo/linux.vhdx
