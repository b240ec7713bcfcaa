#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Images that Spindle writes, read by qemu-img and libvhdi; images that QEMU writes, read by Spindle and libvhdi; and
images made by hand, with what they hold worked out by hand, for what the others get wrong (tests/images/expected).

usage: crosscheck.py [-v] [NAME...]	VHD_TOOL and POKE name the programs; NAMEs are parts of names of cases

Speaks TAP, one test per image. The other programs may disagree with Spindle only by a defect that is known: docs/quirks.md
has them by number, and the closing lines count them. Contents are compared by SHA-256 of the whole virtual disk.
"""
import collections
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'images'))
import images  # noqa: E402
import layout  # noqa: E402

KIB, MIB = 1 << 10, 1 << 20
HUGE = 512 * MIB  # beyond, contents are compared in places, to save time
VHD_TOOL, POKE = os.environ.get('VHD_TOOL', 'vhd-tool'), os.environ.get('POKE', 'poke')


class Failed(Exception):
    pass


def run(*args, ok=True):
    # Fresh processes are many: a hung one must not stop the whole.
    r = subprocess.run(args, capture_output=True, text=True, errors='replace', timeout=120)
    if ok and r.returncode != 0:
        raise Failed('%s answered %d: %s%s' % (' '.join(args), r.returncode, r.stdout, r.stderr))
    return r


def digest(path):
    """SHA-256 of a file; of one beyond HUGE, of the first MiB of every 64 and the last."""
    size = os.path.getsize(path)
    places = [0] if size <= HUGE else list(range(0, size, 64 * MIB)) + [size - MIB]
    h = hashlib.sha256()
    with open(path, 'rb', buffering=0) as f:
        for at in places:
            f.seek(at)
            left = size if size <= HUGE else MIB
            while left > 0:
                piece = f.read(min(MIB, left))
                if not piece:
                    break
                h.update(piece)
                left -= len(piece)
    return h.hexdigest()


# ---- content -----------------------------------------------------------------------------------------

class Disk:
    """What a virtual disk must read: a sparse raw file."""

    def __init__(self, folder, size, seed=None):
        self.size, self.path = size, os.path.join(folder, 'want.raw')
        with open(self.path, 'wb') as f:
            f.truncate(size)
        if seed is not None:
            self.scatter(random.Random(zlib.crc32(seed.encode())))

    def put(self, offset, data):
        with open(self.path, 'r+b') as f:
            f.seek(offset)
            f.write(data)

    def scatter(self, rng):
        """A few stretches of noise, some aligned and some not, one of zeros, the first and the last sector."""
        for _ in range(rng.randint(3, 8)):
            length = min(rng.choice([512, 4 * KIB, 60 * KIB + 512, 300 * KIB]), self.size)
            at = rng.randrange(0, self.size - length + 1) & -rng.choice([512, 4096])
            self.put(at, rng.randbytes(length) if rng.random() < .9 else bytes(length))
        for at in (0, self.size - 512):
            if rng.random() < .5:
                self.put(at, rng.randbytes(512))

    def extend(self, size):
        with open(self.path, 'r+b') as f:
            f.truncate(size)
        self.size = size

    def sha256(self):
        return digest(self.path)


# ---- readers: (size, SHA-256) or why not -------------------------------------------------------------

def read_spindle(path, folder, fmt):
    out = json.loads(run(VHD_TOOL, 'info', '--output=json', path).stdout)
    if out['virtual-size'] <= HUGE:
        out = json.loads(run(VHD_TOOL, 'hash', '--output=json', path).stdout)
        return out['virtual-size'], out['sha256']
    raw = os.path.join(folder, 'spindle.raw')
    run(VHD_TOOL, 'convert', '-O', 'raw', path, raw)
    try:
        return os.path.getsize(raw), digest(raw)
    finally:
        os.unlink(raw)


def read_qemu(path, folder, fmt):
    raw, copy = os.path.join(folder, 'qemu.raw'), os.path.join(folder, 'qemu.copy')
    try:
        r = run('qemu-img', 'convert', '-f', fmt, '-O', 'raw', path, raw, ok=False)
        if r.returncode != 0 and 'log that needs to be replayed' in r.stderr:
            # Only a writable open replays.
            shutil.copy(path, copy)
            r = run('qemu-img', 'check', '-q', '-r', 'all', '-f', fmt, copy, ok=False)
            r = run('qemu-img', 'convert', '-f', fmt, '-O', 'raw', copy, raw, ok=False)
        if r.returncode != 0:
            return 'refused: ' + r.stderr.strip().split('\n')[-1]
        return os.path.getsize(raw), digest(raw)
    finally:
        for f in (raw, copy):
            if os.path.exists(f):
                os.unlink(f)


def read_libvhdi(path, folder, fmt):
    mount = tempfile.mkdtemp(dir=folder)
    r = run('vhdimount', path, mount, ok=False)
    if r.returncode != 0:
        return 'refused: ' + ' '.join(r.stderr.split())[-100:]
    try:
        # vhdi1 is the base of a chain, the last one its leaf.
        raw = os.path.join(mount, max(os.listdir(mount), key=lambda name: int(name[4:])))
        return os.path.getsize(raw), digest(raw)
    except OSError as e:
        return 'read error: %s' % e
    finally:
        for _ in range(50):
            if run('fusermount3', '-u', mount, ok=False).returncode == 0:
                break
            time.sleep(.05)


PEERS = {'qemu': read_qemu, 'libvhdi': read_libvhdi}


# ---- one image ---------------------------------------------------------------------------------------

class Case:
    """make(folder) answers (path, size, SHA-256), or (path, None, words of the error) when reading must fail.

    quirks: by peer, the number of the defect that makes it disagree; None: this peer is not asked.
    """

    def __init__(self, name, make, fmt, ours=False, check=True, **quirks):
        self.name, self.make, self.fmt, self.ours, self.check, self.quirks = name, make, fmt, ours, check, quirks
        self.agreed, self.known, self.gone, self.error = [], [], [], None

    def run(self, base, peers):
        folder = tempfile.mkdtemp(dir=base)
        try:
            self.judge(folder, peers)
        except (Failed, AssertionError, OSError, subprocess.TimeoutExpired, ValueError, KeyError) as e:
            self.error = '%s: %s' % (type(e).__name__, e)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return self

    def judge(self, folder, peers):
        path, size, want = self.make(folder)
        before = self.stamp(path)
        if size is None:
            self.must_fail(path, folder, want)
        else:
            got = read_spindle(path, folder, self.fmt)
            if got != (size, want):
                raise Failed('Spindle reads %s, the image holds %s' % (got, (size, want)))
        if self.check and size is not None:
            self.must_be_sound(path)
        for peer in peers:
            self.ask(peer, path, folder, (size, want))
        if self.stamp(path) != before:
            raise Failed('reading has changed the file')

    @staticmethod
    def stamp(path):
        st = os.stat(path)
        return st.st_size, st.st_mtime_ns, st.st_ino

    def must_fail(self, path, folder, words):
        r = run(VHD_TOOL, 'convert', '-O', 'raw', path, os.path.join(folder, 'none.raw'), ok=False)
        if r.returncode == 0 or words not in r.stderr:
            raise Failed('Spindle does not refuse with "%s" but says: %s' % (words, r.stderr or 'nothing'))

    def must_be_sound(self, path):
        r = run(VHD_TOOL, 'check', path, ok=False)
        if r.returncode != 0 and (self.ours or r.returncode != 3):
            raise Failed('vhd-tool check answers %d: %s' % (r.returncode, r.stdout + r.stderr))
        if self.ours and self.fmt == 'vhdx' and 'qemu' not in self.quirks:
            run('qemu-img', 'check', '-f', 'vhdx', path)

    def ask(self, peer, path, folder, want):
        quirk = self.quirks.get(peer, 0)
        if quirk is None:
            return
        got = PEERS[peer](path, folder, self.fmt)
        same = isinstance(got, str) if want[0] is None else got == want
        if not same and not quirk:
            raise Failed('%s disagrees: reads %s, Spindle %s' % (peer, got, want))
        if same and quirk:
            self.gone.append((peer, quirk))
        elif quirk:
            self.known.append((peer, quirk))
        if same:
            self.agreed.append(peer)

    def line(self, number):
        told = ['%s agrees' % p for p in self.agreed] + ['%s: quirk %d' % k for k in self.known]
        return '%s %d - %s (%s)' % ('not ok' if self.error else 'ok', number, self.name, ', '.join(told) or 'alone')


# ---- Spindle writes ----------------------------------------------------------------------------------

def converted(size, fmt, options, seed):
    def make(folder):
        disk = Disk(folder, size, seed)
        path = os.path.join(folder, 'image.' + fmt)
        run(VHD_TOOL, 'convert', '-q', '-f', 'raw', '-O', fmt, '-o', options, disk.path, path)
        return path, size, disk.sha256()
    return make


def must_be_dirty(path, dirty=True):
    if json.loads(run(VHD_TOOL, 'info', '--output=json', path).stdout)['dirty-flag'] != dirty:
        raise Failed('the log is %sdirty' % ('not ' if dirty else ''))


def guest(size, fmt, options, seed, kill=False, creator=None):
    """Written piece by piece through the engine, over and over the same blocks."""
    def make(folder):
        rng = random.Random(zlib.crc32(seed.encode()))
        disk = Disk(folder, size)
        path = os.path.join(folder, 'image.' + fmt)
        run(VHD_TOOL, 'create', '-q', '-f', fmt, '-o', options, path, str(size))
        for last in (False, True):
            pokes = []
            for _ in range(rng.randint(1, 12)):
                length = min(rng.choice([1, 512, 700, 4096, 65536, 1 << 20]), size)
                at, byte = rng.randrange(0, size - length + 1), rng.randrange(256)
                disk.put(at, bytes([byte]) * length)
                pokes.append('%d:%d:%d' % (at, length, byte))
            run(POKE, *(['-k'] if kill and last else []), path, *pokes)
        if kill:
            must_be_dirty(path)
        if creator:
            layout.vhd_set_creator(path, creator)
        return path, size, disk.sha256()
    return make


# Sizes of the CHS table: where sectors per track or heads change, and sizes no geometry can express.
CHS_SECTORS = [2048, 6144, 8192, 20480, 40960, 69631, 69632, 69648, 69649, 81920, 87040, 87056, 131072, 204800,
               260096, 261120, 262144, 278527, 278528, 2049, 4097, 99999]
# Creator code, and the quirk QEMU 7.2 has with it: it believes the geometry of those it does not know.
CREATORS = [(b'win ', 0), (b'qem2', 0), (b'd2v ', 0), (b'CTXS', 0), (b'tap\0', 0), (b'vpc ', 1), (b'vs  ', 1),
            (b'vbox', 1), (b'wa\0\0', 1), (b'\0\0\0\0', 1), (b'qemu', 1)]


def spindle_vhd():
    for n in CHS_SECTORS:
        for kind in ('dynamic', 'fixed'):
            yield Case('Spindle, VHD %s, %d sectors' % (kind, n),
                       converted(n * 512, 'vhd', 'subformat=' + kind, 'a%d%s' % (n, kind)), 'vpc', ours=True)
    for creator, quirk in CREATORS:
        for kind in ('dynamic', 'fixed'):
            yield Case('Spindle, VHD %s, creator %s' % (kind, creator),
                       guest(20 * MIB, 'vhd', 'subformat=' + kind, kind, creator=creator), 'vpc', ours=True, qemu=quirk)
    for n in range(6):
        options = 'block_size=%s' % ('2M', '512K')[n % 2]
        yield Case('Spindle, VHD %s, a guest wrote it (%d)' % (options, n),
                   guest(33 * MIB + 512 * n, 'vhd', options, 'g%d' % n), 'vpc', ours=True)


def spindle_vhdx():
    for shift in range(9):
        for n, size in enumerate((MIB, 20 * MIB, 33 * MIB + 512)):
            # 256 MiB blocks of a fixed image are written in full: one of them is enough.
            for kind in ('dynamic', 'fixed')[:1 if shift > 5 and n else 2]:
                options = 'subformat=%s,block_size=%dM' % (kind, 1 << shift)
                make = (converted, guest)[(n + shift) % 2]
                yield Case('Spindle, VHDX %s, %d bytes' % (options, size),
                           make(size, 'vhdx', options, options + str(n)), 'vhdx', ours=True)
    for lss, pss in ((512, 512), (512, 4096), (4096, 4096)):
        options = 'logical_sector_size=%d,physical_sector_size=%d' % (lss, pss)
        quirk = {'qemu': 15} if lss == 4096 else {}
        yield Case('Spindle, VHDX %s' % options, guest(24 * MIB, 'vhdx', options, options), 'vhdx', ours=True, **quirk)
    for n in range(8):
        options = 'block_size=%dM,log_size=%dM' % ((1, 2, 8, 32)[n % 4], 1 + n % 3)
        # The log must be replayed, though what it says has reached its place: flushed is flushed.
        yield Case('Spindle, VHDX %s, killed after a flush (%d)' % (options, n),
                   guest(40 * MIB, 'vhdx', options, 'k%d' % n, kill=True), 'vhdx')


# ---- QEMU writes -------------------------------------------------------------------------------------

def qemu_converted(size, fmt, options, seed):
    def make(folder):
        disk = Disk(folder, size, seed)
        path = os.path.join(folder, 'image.' + fmt)
        run('qemu-img', 'convert', '-f', 'raw', '-O', fmt, '-o', options, disk.path, path)
        grown = json.loads(run('qemu-img', 'info', '-f', fmt, '--output=json', path).stdout)['virtual-size']
        if grown < size or 'force_size=on' in options and grown != size:
            raise Failed('%s: qemu made %d bytes of %d' % (path, grown, size))
        disk.extend(grown)
        return path, grown, disk.sha256()
    return make


def qemu_io_writes(disk, rng, count, room):
    """Somewhere in the first `room` bytes."""
    for _ in range(count):
        length = rng.choice([512, 4096, 65536, 300 * KIB])
        at, byte = rng.randrange(0, room - length) & -512, rng.randrange(1, 256)
        disk.put(at, bytes([byte]) * length)
        yield 'write -P %d %d %d' % (byte, at, length)


def qemu_killed(size, fmt, options, seed):
    """kill -9 after a flush that qemu-io reports as done."""
    def make(folder):
        disk, rng = Disk(folder, size), random.Random(zlib.crc32(seed.encode()))
        path = os.path.join(folder, 'image.' + fmt)
        run('qemu-img', 'create', '-q', '-f', fmt, '-o', options, path, str(size))
        commands = list(qemu_io_writes(disk, rng, 6, size)) + ['flush', 'length', 'sleep 1000000']
        # Into a pipe it would keep its answers to itself.
        args = ['stdbuf', '-oL', 'qemu-io', '-f', fmt] + sum((['-c', c] for c in commands), []) + [path]
        with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as p:
            # A write answers two lines; what "length" says comes after the flush.
            for line in p.stdout:
                if not line.startswith('wrote') and 'ops;' not in line:
                    break
            p.send_signal(signal.SIGKILL)
            p.communicate()
        return path, size, disk.sha256()
    return make


def qemu_dirty(size, options, seed, table_mib=2):
    """The write of the table fails after its log entry is durable: the log stays, as after a power cut."""
    def make(folder):
        disk, rng = Disk(folder, size), random.Random(zlib.crc32(seed.encode()))
        path = os.path.join(folder, 'image.vhdx')
        run('qemu-img', 'create', '-q', '-f', 'vhdx', '-o', options, path, str(size))
        for command in qemu_io_writes(disk, rng, rng.randrange(4), 32 * MIB):
            run('qemu-io', '-f', 'vhdx', '-c', command, path)
        fail = {'driver': 'vhdx', 'file': {
            'driver': 'blkdebug', 'image': {'driver': 'file', 'filename': path},
            'inject-error': [{'event': 'none', 'iotype': 'write', 'sector': table_mib * 2048}]}}
        # The last block, which nobody wrote to before.
        at, byte = size - 4096, rng.randrange(1, 256)
        disk.put(at, bytes([byte]) * 4096)
        run('qemu-io', 'json:' + json.dumps(fail), '-c', 'write -P %d %d 4096' % (byte, at), ok=False)
        must_be_dirty(path)
        return path, size, disk.sha256()
    return make


def replayed(make):
    """The same after a writable open by Spindle."""
    def again(folder):
        path, size, want = make(folder)
        run(VHD_TOOL, 'repair', path, ok=False)
        must_be_dirty(path, False)
        return path, size, want
    return again


def qemu_images():
    for n in CHS_SECTORS[:12]:
        for force in ('on', 'off'):
            kind = ('dynamic', 'fixed')[(n + len(force)) % 2]
            yield Case('QEMU, VHD %s, %d sectors, force_size=%s' % (kind, n, force),
                       qemu_converted(n * 512, 'vpc', 'subformat=%s,force_size=%s' % (kind, force), 'q%d' % n), 'vpc')
    for shift in range(9):
        for kind in ('dynamic', 'fixed'):
            for zero in ('on', 'off'):
                options = 'subformat=%s,block_size=%dM,block_state_zero=%s' % (kind, 1 << shift, zero)
                size = (20 * MIB, 33 * MIB + 512)[shift % 2]
                yield Case('QEMU, VHDX %s' % options, qemu_converted(size, 'vhdx', options, options), 'vhdx')
    for n in range(4):
        yield Case('QEMU, VHD, killed after a flush (%d)' % n, qemu_killed(20 * MIB, 'vpc', 'force_size=on', 'v%d' % n), 'vpc')
    for n in range(8):
        options = 'block_size=%dM' % (1, 2, 8, 16)[n % 4]
        yield Case('QEMU, VHDX %s, killed after a flush (%d)' % (options, n),
                   qemu_killed(40 * MIB, 'vhdx', options, 'x%d' % n), 'vhdx')
    for n in range(8):
        options = 'block_size=%dM,log_size=%dM' % ((1, 2, 4, 8)[n % 4], 1 + n // 4)
        make = qemu_dirty(41 * MIB, options, 'd%d' % n, 2 + n // 4)
        yield Case('QEMU, VHDX %s, dirty log (%d)' % (options, n), make, 'vhdx', libvhdi=36)
        yield Case('QEMU, VHDX %s, log replayed by Spindle (%d)' % (options, n), replayed(make), 'vhdx')


# ---- by hand -----------------------------------------------------------------------------------------

def read_expected(path):
    """[(name, size in sectors or None, [(first, count, content)] or words, {peer: quirk})]"""
    entries = []
    with open(path, encoding='utf-8') as f:
        for words in (line.split() for line in f if line.strip() and not line.startswith('#')):
            if words[0] == 'image':
                entries.append([words[1], None, [], {}])
            elif words[0] == 'reads':
                entries[-1][1] = int(words[1])
            elif words[0] == 'refuses':
                entries[-1][2] = ' '.join(words[1:])
            elif words[0] in PEERS:
                entries[-1][3][words[0]] = {'agrees': 0, '-': None, 'quirk': int(words[2]) if len(words) > 2 else 0}[words[1]]
            else:
                entries[-1][2].append((int(words[0]), int(words[1]), words[2]))
    return entries


def by_hand(name, size, rows):
    def make(folder):
        path = images.IMAGES[name](folder)
        if size is None:
            return path, None, rows
        disk = Disk(folder, size * 512)
        for first, count, content in rows:
            disk.put(first * 512, bytes(range(256)) * 2 * count if content == 'ramp' else
                     layout.sectors(content, first, count))
        return path, size * 512, disk.sha256()
    return make


def hand_made():
    expected = read_expected(os.path.join(os.path.dirname(images.__file__), 'expected'))
    if sorted(e[0] for e in expected) != sorted(images.IMAGES):
        raise SystemExit('tests/images: images.py and expected tell of different images')
    for name, size, rows, quirks in expected:
        yield Case('by hand, ' + name, by_hand(name, size, rows), 'vpc' if name.startswith('vhd_') else 'vhdx',
                   check=False, **quirks)


# ---- all ---------------------------------------------------------------------------------------------

def find_peers():
    peers, why = [], []
    for peer, programs in (('qemu', ['qemu-img', 'qemu-io']), ('libvhdi', ['vhdimount', 'fusermount3'])):
        missing = [p for p in programs if not shutil.which(p)]
        if peer == 'libvhdi' and not missing and not os.access('/dev/fuse', os.R_OK | os.W_OK):
            missing = ['/dev/fuse']
        if missing:
            why.append('%s is not asked: no %s' % (peer, ', '.join(missing)))
        else:
            peers.append(peer)
    return peers, why


def main():
    words = [w for w in sys.argv[1:] if w != '-v']
    peers, why = find_peers()
    if 'qemu' not in peers:
        print('1..0 # SKIP ' + '; '.join(why))
        return 0
    cases = [c for group in (spindle_vhd, spindle_vhdx, qemu_images, hand_made) for c in group()
             if not words or any(w in c.name for w in words)]
    base = tempfile.mkdtemp(prefix='crosscheck-')
    print('1..%d' % len(cases))
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for number, case in enumerate(pool.map(lambda c: c.run(base, peers), cases), 1):
                print(case.line(number), flush=True)
                if case.error:
                    print('\n'.join('# ' + text for text in case.error.splitlines()), flush=True)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    for text in why:
        print('# ' + text)
    return summary(cases)


def summary(cases):
    agreed = sum(len(c.agreed) for c in cases)
    known = collections.Counter(k for c in cases for k in c.known)
    print('# %d images: %d agreements, %d known disagreements, %d failures' %
          (len(cases), agreed, sum(known.values()), sum(bool(c.error) for c in cases)))
    for (peer, quirk), count in sorted(known.items()):
        print('# known: %s, quirk %d: %d' % (peer, quirk, count))
    for peer, quirk in sorted({g for c in cases for g in c.gone}):
        print('# gone in this version, or not met: %s, quirk %d' % (peer, quirk))
    return any(c.error for c in cases)


if __name__ == '__main__':
    sys.exit(main())
