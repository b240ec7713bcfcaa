#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""For each kind of damage: exactly what a user of vhd-tool sees.

A row damages a good image in one way (checksums are made right again unless they are the point), runs "info" and
"check" on it and compares their messages and exit codes with bad_input.txt. Identities, checksums and the folder are
masked. "bad_input.py --print" shows what is said now in the form of that file.
"""
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import uuid

TOOL, POKE = os.environ["VHD_TOOL"], os.environ["POKE"]
EXPECTED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bad_input.txt")
MIB = 1 << 20

# ---- VHDX ----------------------------------------------------------------------------------------------

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


def guid(text):
    return uuid.UUID(text).bytes_le


BAT, METADATA = guid("2DC27766-F623-4200-9D64-115E9BFD4A08"), guid("8B7CA206-4790-4B9A-B8FE-575F050F886E")
PARAMETERS, DISK_SIZE = guid("CAA16737-FA36-4D43-B3B6-33F0AA44E76B"), guid("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
SECTOR, LOCATOR = guid("8141BF1D-A96F-4709-BA47-F233A8FAAB5F"), guid("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C")
OTHER = guid("11111111-2222-3333-4444-555555555555")


class Image:
    def __init__(self, path):
        with open(path, "rb") as f:
            self.b = bytearray(f.read())

    def put(self, offset, data):
        self.b[offset:offset + len(data)] = data

    def flip(self, offset):
        self.b[offset] ^= 0x01

    def get(self, form, offset):
        return struct.unpack_from(form, self.b, offset)[0]


class Vhdx(Image):
    HEADERS, TABLES = (0x10000, 0x20000), (0x30000, 0x40000)

    def seal(self, offset, size):
        self.put(offset + 4, bytes(4))
        self.put(offset + 4, struct.pack("<I", crc32c(self.b[offset:offset + size])))

    def headers(self, at, data):
        for h in self.HEADERS:
            self.put(h + at, data)
            self.seal(h, 4096)

    def tables(self, at, data):
        for t in self.TABLES:
            self.put(t + at, data)
            self.seal(t, 65536)

    def entry(self, region):
        """Offset of the entry of a region within a region table."""
        t = self.TABLES[0]
        return next(16 + 32 * i for i in range(self.get("<I", t + 8)) if self.b[t + 16 + 32 * i:t + 32 + 32 * i] == region)

    def region(self, region):
        return self.get("<Q", self.TABLES[0] + self.entry(region) + 16)

    def item_entry(self, item):
        """Offset in the file of the metadata table's entry of an item."""
        m = self.region(METADATA)
        return next(m + 32 + 32 * i for i in range(self.get("<H", m + 10)) if self.b[m + 32 + 32 * i:m + 48 + 32 * i] == item)

    def item(self, item):
        return self.region(METADATA) + self.get("<I", self.item_entry(item) + 16)

    def bat(self, index, value=None):
        at = self.region(BAT) + 8 * index
        if value is not None:
            self.put(at, struct.pack("<Q", value))
        return self.get("<Q", at)


def u16(x):
    return struct.pack("<H", x)


def u32(x):
    return struct.pack("<I", x)


def u64(x):
    return struct.pack("<Q", x)


def both(f):
    def damage(i):
        for copy in (0, 1):
            f(i, copy)
    return damage


def equal_sequences(i):
    i.put(i.HEADERS[0] + 8, i.b[i.HEADERS[1] + 8:i.HEADERS[1] + 16])
    i.seal(i.HEADERS[0], 4096)
    i.flip(i.HEADERS[0] + 16)
    i.seal(i.HEADERS[0], 4096)


def duplicate_item(i):
    m = i.region(METADATA)
    i.put(i.item_entry(SECTOR), i.b[i.item_entry(DISK_SIZE):i.item_entry(DISK_SIZE) + 16])


def extra_region(i):
    for t in i.TABLES:
        i.put(t + 8, u32(3))
        i.put(t + 16 + 64, OTHER + u64(len(i.b) - MIB) + u32(MIB) + u32(1))
        i.seal(t, 65536)


def tear_log(i):
    log = i.get("<Q", i.HEADERS[0] + 72)
    i.b[log:log + MIB] = bytes(MIB)


def bat_twice(i):
    i.bat(3, i.bat(0))


# Block 0 and 3 are allocated, 1 and 2 are not.
VHDX = [
    ("identifier", "x", lambda i: i.flip(0)),
    ("file cut to 1000 bytes", "x", lambda i: i.b.__delitem__(slice(1000, None))),
    ("file cut in the log", "x", lambda i: i.b.__delitem__(slice(MIB + 4096, None))),
    ("file cut in the last block", "x", lambda i: i.b.__delitem__(slice(len(i.b) - 4096, None))),
    ("one header gone", "x", lambda i: i.put(i.HEADERS[1], bytes(4096))),
    ("both headers gone", "x", both(lambda i, c: i.put(i.HEADERS[c], bytes(4096)))),
    ("both headers with a flipped bit", "x", both(lambda i, c: i.flip(i.HEADERS[c] + 2000))),
    ("headers of equal number differ", "x", equal_sequences),
    ("format version 2", "x", lambda i: i.headers(66, u16(2))),
    ("log version 1 in use", "xd", lambda i: i.headers(64, u16(1))),
    ("log not aligned", "x", lambda i: i.headers(72, u64(MIB + 4096))),
    ("log past the end", "x", lambda i: i.headers(72, u64(1 << 40))),
    ("log of 2 GiB", "x", lambda i: i.headers(68, u32(1 << 31))),
    ("log in use but empty", "xd", tear_log),
    ("one region table gone", "x", lambda i: i.put(i.TABLES[0], bytes(65536))),
    ("both region tables gone", "x", both(lambda i, c: i.put(i.TABLES[c], bytes(65536)))),
    ("both region tables with a flipped bit", "x", both(lambda i, c: i.flip(i.TABLES[c] + 60000))),
    ("3000 regions", "x", lambda i: i.tables(8, u32(3000))),
    ("BAT region not aligned", "x", lambda i: i.tables(i.entry(BAT) + 16, u64(3 * MIB + 512))),
    ("BAT region past the end", "x", lambda i: i.tables(i.entry(BAT) + 16, u64(1 << 40))),
    ("BAT region over the log", "x", lambda i: i.tables(i.entry(BAT) + 16, u64(MIB))),
    ("no BAT region", "x", lambda i: i.tables(i.entry(BAT), OTHER)),
    ("unknown required region", "x", extra_region),
    ("metadata signature", "x", lambda i: i.flip(i.region(METADATA))),
    ("3000 metadata items", "x", lambda i: i.put(i.region(METADATA) + 10, u16(3000))),
    ("item outside of its region", "x", lambda i: i.put(i.item_entry(DISK_SIZE) + 16, u32(MIB))),
    ("item twice", "x", duplicate_item),
    ("unknown required item", "x", lambda i: i.put(i.item_entry(SECTOR), OTHER)),
    ("item of wrong length", "x", lambda i: i.put(i.item_entry(DISK_SIZE) + 20, u32(4))),
    ("block size 3 MiB", "x", lambda i: i.put(i.item(PARAMETERS), u32(3 * MIB))),
    ("block size 512 MiB", "x", lambda i: i.put(i.item(PARAMETERS), u32(512 * MIB))),
    ("size 0", "x", lambda i: i.put(i.item(DISK_SIZE), u64(0))),
    ("size 65 TiB", "x", lambda i: i.put(i.item(DISK_SIZE), u64(65 << 40))),
    ("size not in sectors", "x", lambda i: i.put(i.item(DISK_SIZE), u64(8 * MIB + 100))),
    ("size beyond the BAT", "x", lambda i: i.put(i.item(DISK_SIZE), u64(1 << 40))),
    ("logical sectors of 1024 bytes", "x", lambda i: i.put(i.item(SECTOR), u32(1024))),
    ("BAT entry with reserved bits", "x", lambda i: i.bat(0, i.bat(0) | 8)),
    ("BAT entry of state 4", "x", lambda i: i.bat(0, i.bat(0) & ~7 | 4)),
    ("BAT entry past the end", "x", lambda i: i.bat(0, 1 << 40 | 6)),
    ("BAT entry in the header section", "x", lambda i: i.bat(0, 6)),
    ("BAT entry in the log", "x", lambda i: i.bat(0, MIB | 6)),
    ("two blocks in one place", "x", bat_twice),
    ("partly present block without parent", "x", lambda i: i.bat(0, i.bat(0) & ~7 | 7)),
    ("partly present block without bitmap", "xc", lambda i: i.bat(4096, 0)),
    ("parent flag without locator", "x", lambda i: i.put(i.item(PARAMETERS) + 4, u32(2))),
    ("locator of another type", "xc", lambda i: i.flip(i.item(LOCATOR))),
    ("locator with 60000 pairs", "xc", lambda i: i.put(i.item(LOCATOR) + 18, u16(60000))),
    ("locator value outside", "xc", lambda i: i.put(i.item(LOCATOR) + 24, u32(1 << 20))),
]

# ---- VHD -----------------------------------------------------------------------------------------------


class Vhd(Image):
    def footers(self):
        return [0, len(self.b) - 512] if self.b[:8] == b"conectix" else [len(self.b) - 512]

    def seal(self, offset, size, at):
        self.put(offset + at, bytes(4))
        self.put(offset + at, struct.pack(">I", ~sum(self.b[offset:offset + size]) & 0xFFFFFFFF))

    def footer(self, at, data):
        for f in self.footers():
            self.put(f + at, data)
            self.seal(f, 512, 64)

    def header(self, at, data):
        self.put(512 + at, data)
        self.seal(512, 1024, 36)

    def bat(self, index, value=None):
        at = self.get(">Q", 512 + 16) + 4 * index
        if value is not None:
            self.put(at, struct.pack(">I", value))
        return self.get(">I", at)


def be32(x):
    return struct.pack(">I", x)


def be64(x):
    return struct.pack(">Q", x)


def lose_footers(i):
    for f in i.footers():
        i.put(f, bytes(512))


def stale_footers(i):
    for f in i.footers():
        i.flip(f + 100)


VHD = [
    ("both footers gone", "v", lose_footers),
    ("both footers with a flipped bit", "v", stale_footers),
    ("end footer gone", "v", lambda i: i.put(len(i.b) - 512, bytes(512))),
    ("footer copy gone", "v", lambda i: i.put(0, bytes(512))),
    ("footer copy with a flipped bit", "v", lambda i: i.flip(100)),
    ("fixed: footer gone", "vf", lose_footers),
    ("fixed: file too short", "vf", lambda i: i.b.__delitem__(slice(0, MIB))),
    ("file of 300 bytes", "v", lambda i: i.b.__delitem__(slice(300, None))),
    ("file format version 2", "v", lambda i: i.footer(12, be32(0x20000))),
    ("disk type 5", "v", lambda i: i.footer(60, be32(5))),
    ("size 0", "v", lambda i: i.footer(48, be64(0))),
    ("size not in sectors", "v", lambda i: i.footer(48, be64(8 * MIB + 100))),
    ("size beyond 32 bits of sectors", "v", lambda i: i.footer(48, be64(1 << 50))),
    ("header offset past the end", "v", lambda i: i.footer(16, be64(1 << 40))),
    ("header offset near 2^64", "v", lambda i: i.footer(16, be64(2 ** 64 - 512))),
    ("header offset not aligned", "v", lambda i: i.footer(16, be64(513))),
    ("header cookie", "v", lambda i: i.header(0, b"dxsparse")),
    ("header with a flipped bit", "v", lambda i: i.flip(512 + 900)),
    ("header version 2", "v", lambda i: i.header(24, be32(0x20000))),
    ("block size 3 MiB", "v", lambda i: i.header(32, be32(3 * MIB))),
    ("block size 1 GiB", "v", lambda i: i.header(32, be32(1 << 30))),
    ("block size 0", "v", lambda i: i.header(32, be32(0))),
    ("too few BAT entries", "v", lambda i: i.header(28, be32(1))),
    ("2^32 - 1 BAT entries", "v", lambda i: i.header(28, be32(2 ** 32 - 1))),
    ("BAT past the end", "v", lambda i: i.header(16, be64(1 << 40))),
    ("BAT not aligned", "v", lambda i: i.header(16, be64(1537))),
    ("BAT entry past the end", "v", lambda i: i.bat(0, 0x7FFFFFFF)),
    ("BAT entry in the headers", "v", lambda i: i.bat(0, 1)),
    ("two blocks in one place", "v", lambda i: i.bat(1, i.bat(0))),
    ("file cut in the last block", "v", lambda i: i.b.__delitem__(slice(len(i.b) - 4096, None))),
    ("parent locator outside", "vc", lambda i: i.header(576 + 16, be64(1 << 40))),
    ("parent not named at all", "vc", lambda i: i.header(64, bytes(512 + 8 * 24))),
    ("saved state", "v", lambda i: i.footer(84, b"\x01")),
]

# ---- chains --------------------------------------------------------------------------------------------


def run_tool(*args):
    subprocess.run([TOOL, *args], check=True, stdout=subprocess.DEVNULL)


def poke(*args):
    subprocess.run([POKE, *args], check=True)


def chain_missing(ext):
    os.remove(f"p.{ext}")


def chain_swapped(ext):
    run_tool("create", "-q", "--force", f"p.{ext}", "8M")


def chain_loop(ext):
    os.remove(f"p.{ext}")
    os.link(f"bad.{ext}", f"p.{ext}")


def chain_link(ext):
    os.rename(f"p.{ext}", f"q.{ext}")
    os.symlink(f"q.{ext}", f"p.{ext}")


def chain_fifo(ext):
    os.remove(f"p.{ext}")
    os.mkfifo(f"p.{ext}")


def chain_damaged(ext):
    with open(f"p.{ext}", "r+b") as f:
        f.truncate(1000)


CHAINS = [
    ("parent missing", chain_missing), ("parent swapped", chain_swapped), ("parent is the child", chain_loop),
    ("parent is a symbolic link", chain_link), ("parent is a FIFO", chain_fifo), ("parent damaged", chain_damaged),
]

# ---- running -------------------------------------------------------------------------------------------


def make_images(ext, options):
    run_tool("create", "-q", *options, f"p.{ext}", "8M")
    poke(f"p.{ext}", "0:1048576:1", "3145728:4096:2")
    run_tool("create", "-q", *options, "-b", f"p.{ext}", f"c.{ext}")
    poke(f"c.{ext}", "4194304:4096:3")


def prepare():
    make_images("vhdx", ["-o", "block_size=1M"])
    make_images("vhd", [])
    run_tool("create", "-q", "-o", "subformat=fixed", "f.vhd", "3M")
    shutil.copy("p.vhdx", "d.vhdx")
    poke("-k", "d.vhdx", "5242880:4096:4")


def mask(text, folder):
    text = text.replace(folder + "/", "").replace(folder, "<folder>")
    text = re.sub(r"\{?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\}?", "<guid>", text)
    return re.sub(r"checksum is \w+, computed \w+", "checksum is <sum>, computed <sum>", text)


def say(verb, path, folder, wanted):
    p = subprocess.run([TOOL, verb, path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    lines = [f"{verb} {p.returncode}"]
    for line in p.stdout.splitlines():
        if wanted.match(line):
            lines.append("    " + mask(line, folder).rstrip())
    return lines


def outcome(path, folder):
    return (say("info", path, folder, re.compile("vhd-tool: |warning: |.*Sanitizer|.*runtime error")) +
            say("check", path, folder, re.compile("vhd-tool: |(warning|error|leak): |.*Sanitizer|.*runtime error")))


FILES = {"x": "p.vhdx", "xd": "d.vhdx", "xc": "c.vhdx", "v": "p.vhd", "vf": "f.vhd", "vc": "c.vhd"}


def damaged_rows(folder):
    for kind, table, ext in ((Vhdx, VHDX, "vhdx"), (Vhd, VHD, "vhd")):
        for name, source, damage in table:
            image = kind(FILES[source])
            damage(image)
            with open(f"bad.{ext}", "wb") as f:
                f.write(image.b)
            yield f"{ext}: {name}", outcome(f"bad.{ext}", folder)


def chain_rows(folder):
    for ext in ("vhdx", "vhd"):
        for name, damage in CHAINS:
            shutil.copy2(f"p.{ext}", "keep")
            shutil.copy2(f"c.{ext}", f"bad.{ext}")
            damage(ext)
            yield f"{ext}: {name}", outcome(f"bad.{ext}", folder)
            os.remove(f"p.{ext}") if os.path.lexists(f"p.{ext}") else None
            shutil.move("keep", f"p.{ext}")


def read_expected():
    rows, name = {}, None
    with open(EXPECTED) as f:
        for line in f:
            line = line.rstrip("\n")
            if line.startswith("["):
                name = line[1:-1]
                rows[name] = []
            elif line and not line.startswith("#"):
                rows[name].append(line)
    return rows


def main():
    show = "--print" in sys.argv
    expected = {} if show else read_expected()
    with tempfile.TemporaryDirectory() as folder:
        folder = os.path.realpath(folder)
        os.chdir(folder)
        prepare()
        rows = list(damaged_rows(folder)) + list(chain_rows(folder))
        os.chdir("/")
    if show:
        for name, lines in rows:
            print(f"[{name}]", *lines, "", sep="\n")
        return
    print(f"1..{len(rows) + 1}")
    for number, (name, lines) in enumerate(rows, 1):
        good = lines == expected.get(name)
        print("ok" if good else "not ok", number, "-", name)
        if not good:
            for line in ["said:", *lines, "expected:", *expected.get(name, ["nothing"])]:
                print("# " + line)
    stale = set(expected) - {name for name, _ in rows}
    print("not ok" if stale else "ok", len(rows) + 1, "- every expectation has its row", *sorted(stale))


main()
