#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# cut.sh ext4|xfs - power cuts as the kernel sees them: the file system is shut down without its journal, mounted again, and
# must hold what was acknowledged. Shows that files and folders are really synced.
. "$(dirname "$0")/common.sh"

type=$1
cuts=${REAL_CUTS:-50}
seed=${REAL_SEED:-$RANDOM$RANDOM}
echo "cut.sh $type: REAL_SEED=$seed REAL_CUTS=$cuts"
truncate -s 512M "$dir/image"
attach "$dir/image"
file_system "$type"
"$WRITER" cuts $((cuts / 2)) "$seed" vhdx "$loop" "$dir/mnt"
"$WRITER" cuts $((cuts / 4)) "$seed" vhd "$loop" "$dir/mnt"
"$WRITER" names $((cuts - cuts / 2 - cuts / 4)) "$seed" "$loop" "$dir/mnt" "$VHD_TOOL"
