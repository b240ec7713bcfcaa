# SPDX-License-Identifier: BSD-2-Clause
"""Structures of VHD and VHDX, written down a second time from the specifications and sharing nothing with the engine.

A file under construction is a list of (offset, bytes) and a length; what nobody wrote is a hole.
"""
import struct

SECTOR = 512
KIB, MIB = 1 << 10, 1 << 20
ONES = 0xFFFFFFFFFFFFFFFF


def sector(layer, number):
    """What sector `number` of `layer` holds: 32 lines that say so."""
    return (b'%-7.7s%08d\n' % (layer.encode(), number)) * 32


def sectors(layer, first, count):
    return b''.join(sector(layer, n) for n in range(first, first + count))


class File:
    def __init__(self, length=0):
        self.parts, self.length = [], length

    def put(self, offset, data):
        self.parts.append((offset, data))
        self.length = max(self.length, offset + len(data))
        return self

    def write(self, path):
        with open(path, 'wb') as f:
            f.truncate(self.length)
            for offset, data in self.parts:
                f.seek(offset)
                f.write(data)
        return path


# ---- VHD ---------------------------------------------------------------------------------------------

def vhd_checksum(data):
    return ~sum(data) & 0xFFFFFFFF


def with_checksum(data, at):
    data = data[:at] + bytes(4) + data[at + 4:]
    return data[:at] + struct.pack('>I', vhd_checksum(data)) + data[at + 4:]


def vhd_footer(size, kind, geometry, creator=b'win ', version=0x000A0000, time=0, uuid=bytes(range(16)), original=None):
    c, h, s = geometry
    return with_checksum(struct.pack(
        '>8sIIQI4sI4sQQHBBII16sB427x', b'conectix', 2, 0x10000, ONES if kind == 2 else 512, time, creator, version,
        b'Wi2k', size if original is None else original, size, c, h, s, kind, 0, uuid, 0), 64)


def vhd_header(entries, block_size=2 * MIB, bat=1536, parent=None):
    """parent: (uuid, time, name, [(code, space, length, offset)])"""
    uuid, time, name, locators = parent or (bytes(16), 0, '', [])
    table = b''.join(struct.pack('>4sIIIQ', code, space, length, 0, offset) for code, space, length, offset in locators)
    return with_checksum(struct.pack(
        '>8sQQIIII16sII512s192s256x', b'cxsparse', ONES, bat, 0x10000, entries, block_size, 0, uuid, time, 0,
        name.encode('utf-16-be'), table), 36)


def vhd_set_creator(path, creator):
    """In every footer of an existing image."""
    with open(path, 'r+b') as f:
        for at, whence in ((0, 0), (-SECTOR, 2)):
            f.seek(at, whence)
            start = f.tell()
            footer = f.read(SECTOR)
            if footer[:8] == b'conectix':
                f.seek(start)
                f.write(with_checksum(footer[:28] + creator + footer[32:], 64))


# ---- VHDX --------------------------------------------------------------------------------------------

CRC_TABLE = []
for i in range(256):
    for _ in range(8):
        i = i >> 1 ^ (0x82F63B78 if i & 1 else 0)
    CRC_TABLE.append(i)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def with_crc(data, at=4):
    data = data[:at] + bytes(4) + data[at + 4:]
    return data[:at] + struct.pack('<I', crc32c(data)) + data[at + 4:]


def vhdx_header(sequence, log_guid=bytes(16), file_guid=b'\1' * 16, data_guid=b'\2' * 16):
    return with_crc(struct.pack('<4sIQ16s16s16sHHIQ4016x', b'head', 0, sequence, file_guid, data_guid, log_guid,
                                0, 1, MIB, MIB))


BAT_GUID = bytes.fromhex('6677C22D23F600429D64115E9BFD4A08')
METADATA_GUID = bytes.fromhex('06A27C8B90479A4BB8FE575F050F886E')


def vhdx_regions(bat=(3 * MIB, MIB), metadata=(2 * MIB, MIB)):
    entries = b''.join(struct.pack('<16sQII', guid, *where, 1)
                       for guid, where in ((BAT_GUID, bat), (METADATA_GUID, metadata)))
    return with_crc(struct.pack('<4sIII', b'regi', 0, 2, 0) + entries + bytes(65536 - 16 - len(entries)))


ITEMS = [bytes.fromhex(guid) for guid in (
    '3767A1CA36FA434DB3B633F0AA44E76B', '2442A52F1BCD7648B2115DBED83BF4B8', 'AB12CABEE6B2234593EFC309E000C746',
    '1DBF41816FA90947BA47F233A8FAAB5F', 'C748A3CD5D4471449CC9E9885251C556')]
LOCATOR_ITEM = bytes.fromhex('2D5FD3A80BB34D45ABF7D3D84834AB0C')
LOCATOR_TYPE = bytes.fromhex('B7EF4AB09ED1814AB78925B8E9445913')


def vhdx_metadata(size, block_size=2 * MIB, fixed=False, lss=512, pss=4096, disk_id=bytes(range(16)), locator=None):
    """The table and the items behind it, the first 64 KiB and a bit of the region."""
    flags = (1 if fixed else 0) | (2 if locator else 0)
    values = [struct.pack('<II', block_size, flags), struct.pack('<Q', size), disk_id,
              struct.pack('<I', lss), struct.pack('<I', pss)]
    kinds = [4, 6, 6, 6, 6]
    guids = list(ITEMS)
    if locator:
        values.append(locator)
        kinds.append(4)
        guids.append(LOCATOR_ITEM)
    entries, items, at = b'', b'', 65536
    for guid, value, kind in zip(guids, values, kinds):
        entries += struct.pack('<16sIIII', guid, at, len(value), kind, 0)
        items += value
        at += len(value)
    table = struct.pack('<8sHH20x', b'metadata', 0, len(values)) + entries
    return table + bytes(65536 - len(table)) + items


def vhdx_locator(pairs):
    """Keys and values stored one after the other behind the entries."""
    entries, texts, at = b'', b'', 20 + 12 * len(pairs)
    for key, value in pairs:
        k, v = key.encode('utf-16-le'), value.encode('utf-16-le')
        entries += struct.pack('<IIHH', at, at + len(k), len(k), len(v))
        texts += k + v
        at += len(k) + len(v)
    return LOCATOR_TYPE + struct.pack('<HH', 0, len(pairs)) + entries + texts


def vhdx(size=8 * MIB, log_guid=bytes(16), length=4 * MIB, headers=None, **metadata):
    """M1 of the vectors; everything else is a change of it."""
    ident = b'vhdxfile' + 'TEST'.encode('utf-16-le')
    headers = headers or (vhdx_header(1, log_guid), vhdx_header(2, log_guid))
    f = File(length).put(0, ident)
    f.put(64 * KIB, headers[0]).put(128 * KIB, headers[1])
    f.put(192 * KIB, REGIONS).put(256 * KIB, REGIONS)
    return f.put(2 * MIB, vhdx_metadata(size, **metadata))


def bat(f, *entries):
    """entries: (index, state, offset in MiB)"""
    for index, state, mib in entries:
        f.put(3 * MIB + 8 * index, struct.pack('<Q', mib << 20 | state))
    return f


def log_entry(sequence, tail, descriptors, guid=b'\x11' * 16, flushed=6 * MIB, last=6 * MIB):
    """descriptors: (offset, page of 4 KiB) or (offset, length to zero)"""
    described, data = b'', b''
    for offset, what in descriptors:
        if isinstance(what, int):
            described += struct.pack('<4sIQQQ', b'zero', 0, what, offset, sequence)
        else:
            described += struct.pack('<4s4s8sQQ', b'desc', what[-4:], what[:8], offset, sequence)
            data += b'data' + struct.pack('<I', sequence >> 32) + what[8:4092] + struct.pack('<I', sequence & 0xFFFFFFFF)
    head = 64 + len(described)
    room = (head + 4095) // 4096 * 4096
    entry = struct.pack('<4sIIIQII16sQQ', b'loge', 0, room + len(data), tail, sequence, len(descriptors), 0, guid,
                        flushed, last)
    return with_crc(entry + described + bytes(room - head) + data)


def in_ring(f, at, entry):
    """Into the log of 1 MiB at 1 MiB, around its end when need be."""
    first = entry[:MIB - at]
    f.put(MIB + at, first)
    if len(first) < len(entry):
        f.put(MIB, entry[len(first):])
    return f


REGIONS = vhdx_regions()
