#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Makes the images that the file `expected` tells about.

usage: images.py FOLDER [NAME...]

Each function makes one image in a folder and is called as the image is. Checksums that are known from elsewhere are
asserted here, so that the bytes are those of the vectors and not of some mistake shared by all of them.
"""
import os
import struct
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from layout import *  # noqa: E402,F403  everything there is a building brick

UUID, CHILD_UUID = bytes(range(16)), bytes(range(16, 32))
TIME = 0x2EC79B96
IMAGES = {}


def image(make):
    IMAGES[make.__name__] = make
    return make


# ---- VHD ---------------------------------------------------------------------------------------------

def fixed(folder, name, size, footer, *written):
    f = File(size)
    for first, count in written:
        f.put(first * SECTOR, sectors('base', first, count))
    f.put(size, footer)
    return f.write(os.path.join(folder, name))


@image
def vhd_f1(folder):
    footer = vhd_footer(4 * MIB, 2, (120, 4, 17))
    assert struct.unpack_from('>I', footer, 64)[0] == 0xFFFFF04B
    return fixed(folder, 'f1.vhd', 4 * MIB, footer, (0, 2), (8191, 1))


@image
def vhd_f2(folder):
    footer = vhd_footer(256 * MIB, 2, (4576, 16, 63), b'qemu', 0x00050003, 0x27A6A65D,
                        bytes.fromhex('987BB1CD841441FCA4ABD069452BF223'))
    assert struct.unpack_from('>I', footer, 64)[0] == 0xFFFFE5E5
    return fixed(folder, 'f2.vhd', 256 * MIB, footer, (0, 1), (524287, 1))


@image
def vhd_f3(folder):
    footer = vhd_footer(5 << 30, 2, (10402, 16, 63), b'wa\0\0', 0x00070000, TIME,
                        bytes.fromhex('8C54DF94BD35714C945FE5444453921A'))
    assert struct.unpack_from('>I', footer, 64)[0] == 0xFFFFE747
    return fixed(folder, 'f3.vhd', 5 << 30, footer, (0, 1), (10485759, 1))


@image
def vhd_geometry_zero(folder):
    return fixed(folder, 'zero.vhd', 4 * MIB, vhd_footer(4 * MIB, 2, (0, 0, 0), bytes(4)), (0, 1), (8191, 1))


@image
def vhd_original_size(folder):
    return fixed(folder, 'orig.vhd', 4 * MIB, vhd_footer(4 * MIB, 2, (120, 4, 17), original=3 * MIB), (0, 1), (8191, 1))


@image
def vhd_footer_511(folder):
    return fixed(folder, '511.vhd', 4 * MIB, vhd_footer(4 * MIB, 2, (120, 4, 17))[:511], (0, 1), (8191, 1))


@image
def vhd_f4(folder):
    footer = vhd_footer(1 << 30, 3, (2080, 16, 63), time=TIME)
    whole = footer + vhd_header(512) + b'\xff' * 2048 + footer
    assert crc32c(whole) == 0x653B8D41
    return File().put(0, whole).write(os.path.join(folder, 'f4.vhd'))


def dynamic(footer, header, bat_entries, *blocks, bat=1536):
    """blocks: (sector in the file, bitmap, first sector of the disk, [sectors of the block with content])"""
    f = File().put(0, footer).put(512, header)
    f.put(bat, struct.pack('>%dI' % len(bat_entries), *bat_entries).ljust((len(bat_entries) * 4 + 511) // 512 * 512, b'\xff'))
    for at, bitmap, disk, content in blocks:
        f.put(at * SECTOR, bitmap.ljust(512, b'\0'))
        f.length = max(f.length, at * SECTOR + 512 + 2 * MIB)
        for n in content:
            f.put((at + 1 + n) * SECTOR, sector('child' if footer[63] == 4 else 'base', disk + n))
    return f


def small_dynamic(damage_start=False, damage_end=False):
    """4 MiB, blocks in the file in the wrong order, a gap between them, a table larger than needed."""
    footer = vhd_footer(4 * MIB, 3, (120, 4, 17), time=TIME)
    f = dynamic(footer, vhd_header(128), [4200, 4] + [0xFFFFFFFF] * 126,
                (4, b'\xff' * 512, 4096, [0, 4095]), (4200, b'\xc0', 0, [0, 1]))
    f.put(f.length, bytes(511) + b'\xc7' if damage_end else footer)
    return f.put(0, bytes(512)) if damage_start else f


@image
def vhd_dynamic(folder):
    return small_dynamic().write(os.path.join(folder, 'dyn.vhd'))


@image
def vhd_end_lost(folder):
    return small_dynamic(damage_end=True).write(os.path.join(folder, 'end.vhd'))


@image
def vhd_copy_lost(folder):
    return small_dynamic(damage_start=True).write(os.path.join(folder, 'copy.vhd'))


@image
def vhd_unset_bits(folder):
    """Damaged: content under bits that say "never written"."""
    footer = vhd_footer(2 * MIB, 3, (60, 4, 17), time=TIME)
    f = dynamic(footer, vhd_header(1), [4], (4, b'\xa0', 0, [0, 1, 2, 9]))
    return f.put(f.length, footer).write(os.path.join(folder, 'bits.vhd'))


@image
def vhd_differencing(folder):
    """The bitmap 80 01: sectors 0 and 15 come from the child."""
    parent = vhd_footer(2 * MIB, 2, (60, 4, 17), time=TIME, uuid=UUID)
    fixed(folder, 'base.vhd', 2 * MIB, parent, (0, 4096))
    relative = '.\\base.vhd'.encode('utf-16-le')
    absolute = 'C:\\vm\\base.vhd'.encode('utf-16-le')
    assert relative.hex().upper() == '2E005C0062006100730065002E00760068006400' and len(absolute) == 28
    locators = [(b'W2ru', 512, 20, 3584), (b'W2ku', 512, 28, 4096)]
    vector = vhd_header(512, parent=(UUID, TIME, 'base.vhd', locators))
    assert struct.unpack_from('>I', vector, 36)[0] == 0xFFFFEBA1
    footer = vhd_footer(2 * MIB, 4, (60, 4, 17), time=TIME + 1, uuid=CHILD_UUID)
    f = dynamic(footer, vhd_header(1, parent=(UUID, TIME, 'base.vhd', locators)), [16], (16, b'\x80\x01', 0, [0, 15]))
    f.put(3584, relative).put(4096, absolute)
    return f.put(f.length, footer).write(os.path.join(folder, 'child.vhd'))


# ---- VHDX: what the state of a block means -----------------------------------------------------------

@image
def vhdx_m1(folder):
    f = vhdx()
    path = f.write(os.path.join(folder, 'm1.vhdx'))
    with open(path, 'rb') as whole:
        assert crc32c(whole.read()) == 0x9EBBF438
    return path


def put_block(f, layer, mib, block, content, per_block=4096):
    for n in content:
        f.put((mib << 20) + n * SECTOR, sector(layer, block * per_block + n))
    f.length = max(f.length, (mib << 20) + per_block * SECTOR)
    return f


@image
def vhdx_states(folder):
    """Block 0 undefined, 1 zero, 2 unmapped with its old place, 3 present."""
    f = bat(vhdx(), (0, 1, 0), (1, 2, 0), (2, 3, 4), (3, 6, 6))
    put_block(f, 'base', 4, 2, [0, 1])
    return put_block(f, 'base', 6, 3, [0, 4095]).write(os.path.join(folder, 'states.vhdx'))


@image
def vhdx_state_5(folder):
    return put_block(bat(vhdx(), (0, 6, 4), (1, 5, 0)), 'base', 4, 0, [0]).write(os.path.join(folder, 'state5.vhdx'))


@image
def vhdx_state_7(folder):
    """Partially present, in an image that has no parent."""
    return put_block(bat(vhdx(), (0, 7, 4)), 'base', 4, 0, [0]).write(os.path.join(folder, 'state7.vhdx'))


@image
def vhdx_region_lost(folder):
    f = put_block(bat(vhdx(), (0, 6, 4)), 'base', 4, 0, [0, 9])
    return f.put(192 * KIB, bytes(4096)).write(os.path.join(folder, 'region.vhdx'))


def with_headers(folder, name, *headers):
    f = put_block(bat(vhdx(headers=headers), (0, 6, 4)), 'base', 4, 0, [0, 9])
    return f.write(os.path.join(folder, name))


@image
def vhdx_header_lost(folder):
    return with_headers(folder, 'header.vhdx', bytes(4096), vhdx_header(2))


@image
def vhdx_headers_equal(folder):
    return with_headers(folder, 'equal.vhdx', vhdx_header(2), vhdx_header(2))


@image
def vhdx_headers_differ(folder):
    return with_headers(folder, 'differ.vhdx', vhdx_header(2), vhdx_header(2, file_guid=b'\7' * 16))


@image
def vhdx_4k(folder):
    """Logical sectors of 4096 bytes: other chunk ratio, same bytes."""
    f = bat(vhdx(lss=4096), (0, 6, 4), (3, 6, 6))
    put_block(f, 'base', 4, 0, range(8))
    return put_block(f, 'base', 6, 3, [4095]).write(os.path.join(folder, '4k.vhdx'))


@image
def vhdx_fixed_chunks(folder):
    """Fixed, 256 MiB blocks: entry 16 is the bitmap slot of the first chunk, block 16 is entry 17."""
    blocks = 17
    f = vhdx(size=(blocks * 256) << 20, length=(4 + blocks * 256) << 20, block_size=256 * MIB, fixed=True)
    for b in range(blocks):
        bat(f, (b + b // 16, 6, 4 + 256 * b))
        f.put((4 + 256 * b) << 20, sector('base', b * 524288))
    return f.write(os.path.join(folder, 'fixed.vhdx'))


@image
def vhdx_differencing(folder):
    """The bitmap 05 80; block 1 from the parent, block 2 zero, block 3 whole."""
    parent = b'\4\3\2\1\6\5\x08\x07\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10'
    f = vhdx(headers=(vhdx_header(1, data_guid=parent), vhdx_header(2, data_guid=parent)))
    for b in range(4):
        put_block(bat(f, (b, 6, 4 + 2 * b)), 'base', 4 + 2 * b, b, range(4096))
    f.write(os.path.join(folder, 'base.vhdx'))
    locator = vhdx_locator([('parent_linkage', '{01020304-0506-0708-090a-0b0c0d0e0f10}'),
                            ('relative_path', '.\\base.vhdx'), ('absolute_win32_path', 'C:\\vm\\base.vhdx')])
    assert len(locator) == 276 and crc32c(locator) == 0xC37CCEB5
    f = bat(vhdx(locator=locator), (0, 7, 4), (2, 2, 0), (3, 6, 6), (2048, 6, 8))
    put_block(f, 'child', 4, 0, [0, 1, 2, 15, 16])
    put_block(f, 'child', 6, 3, range(4096))
    f.put(8 * MIB, b'\x05\x80'.ljust(MIB, b'\0'))
    return f.write(os.path.join(folder, 'child.vhdx'))


# ---- VHDX: a log to replay ---------------------------------------------------------------------------

LOG = b'\x11' * 16
MAPPED = struct.pack('<Q', 0x400006).ljust(4096, b'\0')		# block 0 at 4 MiB
MAPPED_2 = struct.pack('<QQ', 0x400006, 0x600006).ljust(4096, b'\0')	# and block 1 at 6 MiB


def dirty(folder, name, *entries, length=8, present=()):
    """entries: (offset in the ring, bytes). Both blocks hold content; the table does not know of them yet."""
    f = vhdx(log_guid=LOG, length=length * MIB)
    put_block(f, 'base', 4, 0, [0, 9]) if length > 4 else None
    put_block(f, 'base', 6, 1, [0, 9]) if length > 6 else None
    f.length = length * MIB
    bat(f, *present)
    for at, entry in entries:
        in_ring(f, at, entry)
    return f.write(os.path.join(folder, name))


@image
def log_l0(folder):
    entry = log_entry(1, 0, [], flushed=4 * MIB, last=4 * MIB)
    assert struct.unpack_from('<I', entry, 4)[0] == 0x95809B1F
    return dirty(folder, 'l0.vhdx', (0, entry))


@image
def log_l1(folder):
    entry = log_entry(1, 0, [(3 * MIB, MAPPED)])
    assert struct.unpack_from('<I', entry, 4)[0] == 0x5D78D1A8
    return dirty(folder, 'l1.vhdx', (0, entry), length=6)


@image
def log_l2(folder):
    entry = log_entry(0x0000000500000007, 0, [(5 * MIB, bytes(range(256)) * 16), (4 * MIB, MIB)])
    assert struct.unpack_from('<I', entry, 4)[0] == 0x9D9E7749
    return dirty(folder, 'l2.vhdx', (0, entry), length=6, present=[(0, 6, 4)])


@image
def log_empty(folder):
    return dirty(folder, 'empty.vhdx')


@image
def log_bad_crc(folder):
    entry = bytearray(log_entry(1, 0, [(3 * MIB, MAPPED)]))
    entry[4] ^= 1
    return dirty(folder, 'crc.vhdx', (0, bytes(entry)))


@image
def log_extends(folder):
    """LastFileOffset 9 MiB, while the file ends with block 0 at 6 MiB; block 1 of the entry lies behind that."""
    return dirty(folder, 'extends.vhdx', (0, log_entry(1, 0, [(3 * MIB, MAPPED_2)], last=9 * MIB)), length=6)


@image
def log_truncated_file(folder):
    return dirty(folder, 'short.vhdx', (0, log_entry(1, 0, [(3 * MIB, MAPPED)], flushed=20 * MIB, last=20 * MIB)), length=6)


@image
def log_torn(folder):
    torn = log_entry(6, 0, [(3 * MIB, MAPPED_2)])
    return dirty(folder, 'torn.vhdx', (0, log_entry(5, 0, [(3 * MIB, MAPPED)])), (8192, torn[:4096] + bytes(4096)))


@image
def log_tail_rule(folder):
    """The tail of entry 6 is itself: entry 5 must not be applied. It would zero sector 8 and on of block 0."""
    return dirty(folder, 'tail.vhdx', (0, log_entry(5, 0, [(4 * MIB + 4096, 4096)])),
                 (4096, log_entry(6, 4096, [(3 * MIB, MAPPED)])))


@image
def log_wrapped(folder):
    """Entry 5 begins in the last 4 KiB of the ring and goes on at its start."""
    at = MIB - 4096
    return dirty(folder, 'wrapped.vhdx', (at, log_entry(5, at, [(3 * MIB, MAPPED_2)])),
                 (4096, log_entry(6, at, [(4 * MIB + 4096, 4096)])))


@image
def log_127_pages(folder):
    """129 sectors: the descriptors need a second one."""
    pages = [(3 * MIB, MAPPED)] + [(4 * MIB + 4096 * n, sectors('log', 8 * n, 8)) for n in range(1, 127)]
    return dirty(folder, '127.vhdx', (0, log_entry(1, 0, pages)))


@image
def log_into_header(folder):
    return dirty(folder, 'header1.vhdx', (0, log_entry(1, 0, [(64 * KIB, vhdx_header(9))])))


@image
def log_into_log(folder):
    return dirty(folder, 'log.vhdx', (0, log_entry(1, 0, [(3 * MIB, MAPPED), (MIB + 65536, bytes(4096))])))


@image
def log_guid_zero(folder):
    """Well-formed entries of a log that is closed: not a log."""
    f = put_block(vhdx(), 'base', 4, 0, [0])
    in_ring(f, 0, log_entry(1, 0, [(3 * MIB, MAPPED)]))
    return f.write(os.path.join(folder, 'closed.vhdx'))


@image
def log_other_guid(folder):
    """Entry 9 carries the identity of an older log: only entry 1 counts."""
    return dirty(folder, 'other.vhdx', (0, log_entry(1, 0, [(3 * MIB, MAPPED)])),
                 (65536, log_entry(9, 65536, [(3 * MIB, MAPPED_2)], guid=b'\x22' * 16)))


def main():
    folder, names = sys.argv[1], sys.argv[2:] or list(IMAGES)
    for name in names:
        os.makedirs(os.path.join(folder, name), exist_ok=True)
        print(IMAGES[name](os.path.join(folder, name)))


if __name__ == '__main__':
    main()
