#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Times the engine beside its peers and prints ratios; docs/benchmarks.md tells what each row means.

usage: bench.py BUILD_DIR [--quick] [--runs N] [--only ROW]... [--where tmpfs|disk]... [--nice N] [--json FILE]

Ours and the peer take turns, so that what else the machine does hits both. Every figure is a median; "unsure" says
that single pairs of runs fell on both sides of the goal. All files live in
one folder per place and go away at the end, whatever happens. Exit status 1 when a measurement broke, not when a goal
was missed.
"""
import argparse
import datetime
import json
import os
import platform
import random
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
PACKAGES = {'fio': 'fio', 'qemu-img': 'qemu-utils', 'qemu-storage-daemon': 'qemu-system-common or qemu-utils',
            'vhdimount': 'libvhdi-utils', 'fusermount3': 'fuse3', 'qemu-system-x86_64': 'qemu-system-x86'}


class Skip(Exception):
    """A row, or a part of it, that cannot be measured here; the text says why."""


# ---- running programs ---------------------------------------------------------------------------------


class Run:
    """What a finished program cost and said."""

    def __init__(self, seconds, cpu, out):
        self.seconds, self.cpu, self.out = seconds, cpu, out


def run(argv):
    """Runs a command to its end; RuntimeError with what it said when it fails."""
    with tempfile.TemporaryFile() as said:
        start = time.monotonic()
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        out = said.read().decode(errors='replace')
    if process.returncode != 0:
        raise RuntimeError('%s: exit status %d: %s' % (shlex.join(argv), process.returncode, out.strip()[-500:]))
    return Run(seconds, usage.ru_utime + usage.ru_stime, out)


def json_in(text):
    """The JSON object in what a program printed, warnings before it or not."""
    return json.loads(text[text.index('{'):])


def need(*programs):
    missing = [p for p in programs if not shutil.which(p)]
    if missing:
        raise Skip(', '.join('%s is not installed (package %s)' % (p, PACKAGES[p]) for p in missing))


# ---- figures ------------------------------------------------------------------------------------------


class Side:
    """One side of a comparison: a command, and how to get (figure, units of work done) out of a run of it."""

    def __init__(self, argv, figure, before=None, name=None):
        self.argv, self.figure, self.before = argv, figure, before
        self.name = name or os.path.basename(argv[0])
        self.values, self.cpu = [], []      # cpu: seconds of processor time per unit of work

    def once(self):
        if self.before:
            self.before()
        done = run(self.argv)
        value, work = self.figure(done)
        self.values.append(value)
        self.cpu.append(done.cpu / work)

    def median(self):
        return statistics.median(self.values)

    def report(self):
        return {'name': self.name, 'median': self.median(), 'runs': self.values, 'cpu-seconds-per-unit': self.cpu,
                'command': shlex.join(self.argv)}


class Bench:
    """What the rows share: settings, places, results."""

    def __init__(self, args):
        self.args = args
        self.build = os.path.abspath(args.build)
        self.tool = os.path.join(self.build, 'tools/vhd-tool')
        self.backup = os.path.join(self.build, 'tools/spindle-backup')
        self.queue = os.path.join(self.build, 'tests/peers/spindle-bench')
        self.live = os.path.join(self.build, 'tests/peers/spindle-bench-live')
        self.ring = os.path.join(self.build, 'tests/peers/spindle-bench-ring')
        self.mount = os.path.join(self.build, 'fuse/vhd-mount')
        self.quick = args.quick
        self.runs = args.runs or (3 if args.quick else 5)
        self.seconds = 1 if args.quick else 2
        self.results, self.skipped, self.broken = [], [], []
        self.row = self.where = self.dir = None
        self.shown = None

    def path(self, name):
        return os.path.join(self.dir, name)

    def room(self, size):
        free = shutil.disk_usage(self.dir).free
        if self.where == 'tmpfs':   # its pages are memory, which may be short before the file system is
            with open('/proc/meminfo', encoding='ascii') as f:
                free = min(free, next(int(l.split()[1]) << 10 for l in f if l.startswith('MemAvailable:')))
        if free < size * 1.1:
            raise Skip('%s has %.1f GiB free, %.1f are needed' % (self.dir, free / GIB, size * 1.1 / GIB))

    def heading(self):
        title = '%s, %s' % (self.row, self.where)
        if self.shown != title:
            print('\n== %s' % title)
            self.shown = title

    def show(self, side):
        print('   $ %s' % shlex.join(side.argv))

    def compare(self, what, ours, peer, goal=None, unit='IO/s', runs=None):
        """Both sides in turns; more is better unless the unit is seconds."""
        self.heading()
        print(' - %s' % what)
        self.show(ours)
        self.show(peer)
        for _ in range(runs or self.runs):
            ours.once()
            peer.once()
        a, b = ours.median(), peer.median()
        ratio = b / a if unit == 's' else a / b
        pairs = [y / x if unit == 's' else x / y for x, y in zip(ours.values, peer.values)]
        self.add(what, unit, ours.report(), peer.report(), ratio, goal, (min(pairs), max(pairs)))
        print('   %s, %s %s: ratio %.2f%s; processor time for the same work %.2f' % (
            number(a, unit), peer.name, number(b, unit), ratio, verdict(self.results[-1]), cpu_ratio(ours, peer)))

    def limit(self, what, side, goal, unit, runs=None):
        """A figure that has a ceiling of its own instead of a peer."""
        self.heading()
        print(' - %s' % what)
        self.show(side)
        for _ in range(runs or self.runs):
            side.once()
        self.add(what, unit, side.report(), None, None, goal)
        print('   %s%s' % (number(side.median(), unit), verdict(self.results[-1])))

    def add(self, what, unit, ours, peer, ratio, goal, spread=None):
        reached = None
        if goal is not None:
            reached = ours['median'] <= goal if peer is None else ratio >= goal
        self.results.append({'row': self.row, 'where': self.where, 'what': what, 'unit': unit, 'ours': ours,
                             'peer': peer, 'ratio': ratio, 'spread': spread, 'goal': goal, 'reached': reached,
                             'unsure': bool(spread and goal and spread[0] < goal <= spread[1])})
        sys.stdout.flush()

    def part(self, measure, *args):
        """Runs a part of a row; what stops it does not stop the others."""
        try:
            measure(*args)
        except Skip as why:
            self.heading()
            print(' - skipped: %s' % why)
            self.skipped.append({'row': self.row, 'where': self.where, 'why': str(why)})
        except (RuntimeError, ValueError, OSError) as error:
            self.heading()
            print(' - broken: %s' % error)
            self.broken.append({'row': self.row, 'where': self.where, 'why': str(error)})
        sys.stdout.flush()


def cpu_ratio(ours, peer):
    """Our processor time for the same work, as a part of the peer's. Of servers, only the client's is in it."""
    theirs = statistics.median(peer.cpu)
    return statistics.median(ours.cpu) / theirs if theirs else float('nan')


def number(value, unit):
    if unit == 's':
        return '%.3f s' % value
    if unit == 'ms':
        return '%.2f ms' % value
    if unit == 'us':
        return '%.2f us' % value
    if unit == 'KiB':
        return '%.1f MiB' % (value / 1024)
    return '%s %s' % ('{:,.0f}'.format(value), unit)


def verdict(result):
    goal = result['goal']
    if goal is None:
        return ''
    text = ('goal >= %g' % goal) if result['peer'] else 'goal <= %s' % number(goal, result['unit'])
    return ' (%s: %s%s)' % (text, 'reached' if result['reached'] else 'MISSED', ', unsure' * result['unsure'])


# ---- sides --------------------------------------------------------------------------------------------


def spindle_figure(done):
    said = json_in(done.out)
    return said['iops'], said['ops']


def spindle(bench, image, **options):
    argv = [bench.queue]
    for key, value in options.items():
        argv.append('--' + key.replace('_', '-') + ('' if value is True else '=%s' % value))
    argv.append(image)
    return Side(argv, spindle_figure, name='spindle')


def timed(bench, image, rw, **more):
    side = spindle(bench, image, rw=rw, bs=4096, qd=32, seconds=bench.seconds, **more)
    side.before = before_write(bench, rw)
    return side


def before_write(bench, rw):
    """Nothing dirty at the start, so that no run pays for the one before."""
    return os.sync if bench.where == 'disk' and 'write' in rw else None


def fio_figure(done):
    job = json_in(done.out)['jobs'][0]
    return job['read']['iops'] + job['write']['iops'], job['read']['total_ios'] + job['write']['total_ios']


def fio_uring(bench, raw, rw, size):
    """As fast as fio can be made: no clock per operation, no map of visited blocks, no dropping of caches before; reads
    in batches, which helps them (writes it slows down).
    --thread, because its processes would found sessions of their own, with a priority of their own."""
    batch = ['--iodepth_batch_submit=16', '--iodepth_batch_complete_min=8', '--iodepth_batch_complete_max=32']
    batch = batch if rw == 'randread' else []
    return Side(['fio', '--thread', '--name=peer', '--filename=' + raw, '--ioengine=io_uring', '--fixedbufs',
                 '--registerfiles', '--iodepth=32', '--bs=4k', '--rw=' + rw, '--size=%d' % size, '--time_based',
                 '--runtime=%d' % bench.seconds, '--norandommap', '--gtod_reduce=1', '--invalidate=0',
                 *batch, '--output-format=json'], fio_figure, before_write(bench, rw), 'fio')


def qemu_seconds(done):
    for line in done.out.splitlines():
        if line.startswith('Run completed in '):
            return float(line.split()[3])
    raise RuntimeError('qemu-img bench said no time: ' + done.out)


def qemu_bench(image, fmt, count, bs, step, write, aio, flush=0):
    argv = ['qemu-img', 'bench', '-f', fmt, '-t', 'writeback', '-i', aio, '-d', '32', '-c', str(count), '-s', str(bs),
            '-S', str(step)] + (['-w'] if write else []) + (['--flush-interval=%d' % flush] if flush else []) + [image]
    return Side(argv, lambda r: (count / qemu_seconds(r), count), name='qemu-img bench')


def fastest_aio(image, fmt, bs, step, write):
    """Which of qemu's two ways is faster here: the peer shall be at its best."""
    speed = {}
    for aio in ('io_uring', 'threads'):
        side = qemu_bench(image, fmt, 20000, bs, step, write, aio)
        side.once()
        side.once()
        speed[aio] = max(side.values)
    return max(speed, key=speed.get), max(speed.values())


# ---- making images ------------------------------------------------------------------------------------


FILL = 64 * KIB


def create(bench, image, *options):
    run([bench.tool, 'create', '-q', *options, image[0], *image[1:]])


def full_image(bench, name, size, fmt='vhdx'):
    """A dynamic image whose every block holds data, or a raw file. The size of the writes matters: it is the size of
    the folios in the page cache, and ext4 walks a whole folio for each 4 KiB written into it."""
    path = bench.path(name)
    create(bench, (path, str(size)), '-f', fmt)
    fill(bench, path, size, fmt)
    return path


def fill(bench, path, size, fmt='vhdx'):
    run([bench.queue, '--format=' + fmt, '--rw=write', '--bs=%d' % FILL, '--qd=8', '--ops=%d' % (size // FILL), path])


def raw_file(bench, name, size, part=1.0):
    """Incompressible data in extents of 64 KiB to 4 MiB that cover @part of the file, holes between them."""
    path = bench.path(name)
    rng = random.Random(size)
    pool = os.urandom(4 * MIB)
    with open(path, 'wb', buffering=0) as f:
        f.truncate(size)
        at = 0
        while at < size:
            length = min(rng.randrange(1, 65) * 64 * KIB, size - at)
            os.pwrite(f.fileno(), pool[:length], at)
            at += length
            if part < 1:
                at += int(length * (1 - part) / part) // 4096 * 4096
    return path


def settle(*paths):
    """Written to the medium and read once: every run then meets the same state."""
    for path in paths:
        with open(path, 'rb', buffering=0) as f:
            os.fsync(f.fileno())
            while f.read(4 * MIB):
                pass


def remove(*paths):
    for path in paths:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


# ---- row: random I/O ----------------------------------------------------------------------------------

SCATTER = 162017 * 4096     # odd number of 4 KiB cells, about 0.618 GiB: visits all of a power of two, never near


def row_random(bench):
    size = 256 * MIB if bench.quick else GIB
    bench.room(2 * size)
    image, raw = full_image(bench, 'random.vhdx', size), full_image(bench, 'random.raw', size, 'raw')
    settle(image, raw)
    for rw in ('randread', 'randwrite'):
        bench.part(random_fio, bench, image, raw, rw, size)
        bench.part(random_qemu, bench, image, rw)


def random_fio(bench, image, raw, rw, size):
    need('fio')
    bench.compare('4 KiB %s QD32, fio on raw' % rw, timed(bench, image, rw), fio_uring(bench, raw, rw, size), 0.85)


def random_qemu(bench, image, rw):
    need('qemu-img')
    write = rw == 'randwrite'
    step = SCATTER % os.path.getsize(image)
    aio, speed = fastest_aio(image, 'vhdx', 4096, step, write)
    peer = qemu_bench(image, 'vhdx', max(20000, int(speed * bench.seconds)), 4096, step, write, aio)
    ours = spindle(bench, image, rw='write' if write else 'read', bs=4096, step=step, qd=32, seconds=bench.seconds)
    ours.before = peer.before = before_write(bench, rw)
    bench.compare('4 KiB scattered %s QD32, qemu on the same VHDX' % rw[4:], ours, peer, 3)


# ---- row: change tracking ------------------------------------------------------------------------------

def row_track(bench):
    size = 256 * MIB if bench.quick else GIB
    bench.room(size)
    image = full_image(bench, 'track.vhdx', size)   # one for both sides: where its pages lie matters more
    settle(image)
    for how, more in (('', {}), (', a flush every 64', {'flush_every': 64})):
        more['idle_thread'] = True      # tracking has one, and a second thread alone costs 3 %
        peer = timed(bench, image, 'randwrite', **more)
        peer.name = 'tracking off'
        bench.compare('4 KiB randwrite QD32%s, changes tracked' % how, timed(bench, image, 'randwrite', track=True, **more),
                      peer, 0.97 if not how else None)


# ---- row: chain ---------------------------------------------------------------------------------------

LAYERS = 64


def make_chain(bench, name, size, spread):
    """LAYERS images; with @spread, each child overwrites one cell of 64 at random."""
    paths = [full_image(bench, name + '-00.vhdx', size)]
    for n in range(1, LAYERS):
        paths.append(bench.path('%s-%02d.vhdx' % (name, n)))
        create(bench, (paths[-1],), '-b', paths[-2])
        if spread:
            run([bench.queue, '--rw=randwrite', '--bs=4096', '--qd=32', '--seed=%d' % n,
                 '--ops=%d' % (size // 4096 // LAYERS), paths[-1]])
    return paths


def row_chain(bench):
    size = 256 * MIB if bench.quick else GIB
    bench.room(4 * size)
    one = full_image(bench, 'one.vhdx', size)
    spread = make_chain(bench, 'spread', size, True)
    settle(one, *spread)
    bench.part(chain_reads, bench, spread[-1], one, 'data in all layers')
    bench.part(chain_writes, bench, spread[-1], one, size)
    remove(*spread)
    below = make_chain(bench, 'below', size, False)
    settle(below[0])
    bench.part(chain_reads, bench, below[-1], one, 'all data in the base')
    remove(one, *below)


def chain_reads(bench, leaf, one, what):
    """With the map of the chain known, which is what lasts; then from the first look on."""
    for warm, how, goal in (({'warm': True}, '', 0.9), ({}, ', map unknown at the start', None)):
        ours, peer = timed(bench, leaf, 'randread', **warm), timed(bench, one, 'randread', **warm)
        peer.name = 'one layer'
        bench.compare('4 KiB randread QD32, %d layers, %s%s' % (LAYERS, what, how), ours, peer, goal)


def chain_writes(bench, leaf, one, size):
    """First into cells that the leaf does not hold yet (a new bitmap bit each), then where it holds them."""
    peer = timed(bench, one, 'randwrite')
    peer.name = 'one layer'
    ours = spindle(bench, leaf, rw='randwrite', bs=4096, qd=32, seed=99, ops=size // 4096 // 8)
    bench.compare('4 KiB randwrite QD32, %d layers, first write of a cell' % LAYERS, ours, peer, runs=1)
    fill(bench, leaf, size)
    peer = timed(bench, one, 'randwrite')
    peer.name = 'one layer'
    bench.compare('4 KiB randwrite QD32, %d layers, allocated' % LAYERS, timed(bench, leaf, 'randwrite'), peer, 0.9)


# ---- row: allocating writes ---------------------------------------------------------------------------


def row_allocate(bench):
    need('qemu-img')
    size = 256 * MIB if bench.quick else GIB
    bench.room(size)
    bench.part(allocate_raw, bench, size)
    for fmt, name, goal in (('vhdx', 'vhdx', 2), ('vhd', 'vpc', 4)):
        bench.part(allocate_stride, bench, fmt, name, size, 64 * KIB, 'in order', goal)
        bench.part(allocate_stride, bench, fmt, name, size, 64 * KIB * 10007, 'scattered', goal)


def allocate_stride(bench, fmt, qemu_name, size, step, what, goal):
    """Every run begins with a fresh image, the same for both sides."""
    image, count = bench.path('allocate.' + fmt), size // (64 * KIB) // 2
    step = step % size

    def fresh():
        create(bench, (image, str(size)), '--force')
        os.sync()

    fresh()
    speed = {}
    for way in ('io_uring', 'threads'):
        side = qemu_bench(image, qemu_name, count // 4, 64 * KIB, step, True, way, 64)
        side.before = fresh
        side.once()
        speed[way] = side.values[0]
    aio = max(speed, key=speed.get)
    ours = spindle(bench, image, rw='write', bs=64 * KIB, step=step, qd=32, ops=count, flush_every=64)
    peer = qemu_bench(image, qemu_name, count, 64 * KIB, step, True, aio, 64)
    ours.before = peer.before = fresh
    bench.compare('64 KiB first writes %s, flush every 64, %s' % (what, fmt.upper()), ours, peer, goal)
    remove(image)


def allocate_raw(bench, size):
    """What the place allows: fio extending a raw file, and we through a VHDX."""
    need('fio')
    image, raw = bench.path('allocate.vhdx'), bench.path('allocate.raw')

    def fresh():
        remove(raw)
        create(bench, (image, str(size)), '--force')
        os.sync()

    ours = spindle(bench, image, rw='write', bs=64 * KIB, qd=32, ops=size // (128 * KIB), flush_every=64)
    peer = Side(['fio', '--thread', '--name=raw', '--filename=' + raw, '--ioengine=psync', '--rw=write', '--bs=64k',
                 '--size=%d' % (size // 2), '--fallocate=none', '--fdatasync=64', '--gtod_reduce=1',
                 '--output-format=json'], fio_figure, fresh, 'fio on raw')
    ours.before = fresh
    bench.compare('64 KiB first writes in order, flush every 64, VHDX, fio on raw', ours, peer)
    remove(image, raw)


# ---- row: convert -------------------------------------------------------------------------------------


def row_convert(bench):
    need('qemu-img')
    size = 2 * GIB if bench.quick else 8 * GIB
    bench.room(size)    # a quarter of it is data, in three formats and a target
    files = {'raw': raw_file(bench, 'disk.raw', size, 0.25)}
    for fmt in ('vhdx', 'vhd'):
        files[fmt] = bench.path('disk.' + fmt)
        run([bench.tool, 'convert', '-q', files['raw'], files[fmt]])
    settle(*files.values())
    for source, target in (('raw', 'vhdx'), ('vhdx', 'raw'), ('raw', 'vhd'), ('vhd', 'raw'), ('vhdx', 'vhd'),
                           ('vhd', 'vhdx')):
        bench.part(convert, bench, files, source, target)
    remove(*files.values())


def wall(done):
    return done.seconds, 1


def convert(bench, files, source, target):
    names = {'raw': 'raw', 'vhdx': 'vhdx', 'vhd': 'vpc'}
    out = bench.path('out.' + target)

    def clean():
        remove(out)
        if bench.where == 'disk':
            os.sync()

    size_exact = ['-o', 'force_size=on'] if target == 'vhd' else []
    ours = Side([bench.tool, 'convert', '-q', files[source], out], wall, clean, 'spindle')
    peer = Side(['qemu-img', 'convert', '-W', '-m', '16', '-f', names[source], '-O', names[target], *size_exact,
                 files[source], out], wall, clean, 'qemu-img')
    bench.compare('convert %s to %s' % (source, target), ours, peer, 1.5, 's')
    if bench.where == 'disk':   # both end with everything on the medium
        ours = Side(ours.argv, ours.figure, clean, 'spindle')
        peer = Side(peer.argv[:2] + ['-t', 'writeback'] + peer.argv[2:], peer.figure, clean, 'qemu-img, flushing')
        bench.compare('convert %s to %s, qemu flushing as we do' % (source, target), ours, peer, 1.5, 's', 3)
    remove(out)


# ---- row: sizes ---------------------------------------------------------------------------------------


def row_empty(bench):
    source, out = bench.path('empty.vhdx'), bench.path('empty.raw')
    create(bench, (source, str(TIB)))
    bench.limit('convert an empty 1 TiB VHDX to raw',
                Side([bench.tool, 'convert', '-q', source, out], wall, lambda: remove(out)), 0.1, 's')
    remove(source, out)


def row_open(bench):
    bench.part(open_large, bench)
    bench.part(open_many, bench, 100 if bench.quick else 1000)


def open_side(bench, image, key):
    return Side([bench.queue, '--open-only', image], lambda r: (json_in(r.out)[key], 1))


def open_large(bench):
    image = bench.path('large.vhdx')
    create(bench, (image, str(64 * TIB)))
    bench.limit('open of a 64 TiB VHDX', open_side(bench, image, 'open-ms'), 20, 'ms')
    bench.limit('peak memory of that process', open_side(bench, image, 'max-rss-kib'), 24 * 1024, 'KiB')
    remove(image)


def open_many(bench, count):
    paths = [bench.path('l%04d.vhdx' % n) for n in range(count)]
    create(bench, (paths[0], str(GIB)))
    for below, path in zip(paths, paths[1:]):
        create(bench, (path,), '-b', below)
    bench.limit('open of %d layers' % count, open_side(bench, paths[-1], 'open-ms'), 1000, 'ms')
    remove(*paths)


# ---- row: mounts --------------------------------------------------------------------------------------


class Mount:
    """A FUSE server in the foreground, and the file it shows the disk as."""

    def __init__(self, argv, point, disk, ready):
        self.argv, self.point, self.disk = argv, point, disk
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        for _ in range(500):
            if self.process.poll() is not None or ready():
                break
            time.sleep(0.02)
        if not ready():
            self.close()
            raise RuntimeError('did not mount: ' + shlex.join(argv))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        subprocess.run(['fusermount3', '-u', '-q', self.point], check=False, stderr=subprocess.DEVNULL)
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        subprocess.run(['fusermount3', '-u', '-z', '-q', self.point], check=False, stderr=subprocess.DEVNULL)


def mounted(path):
    with open('/proc/self/mountinfo', encoding='utf-8') as f:
        return any(line.split()[4] == path for line in f)


def spindle_mount(bench, image):
    point = bench.path('ours')
    os.makedirs(point, exist_ok=True)
    return Mount([bench.mount, '-f', image, point], point, point + '/disk', lambda: mounted(point))


def qemu_mount(bench, image):
    point = bench.path('qemu')
    open(point, 'w', encoding='ascii').close()
    return Mount(['qemu-storage-daemon', '--blockdev', 'file,node-name=file,aio=io_uring,filename=' + image,
                  '--blockdev', 'vhdx,node-name=disk,file=file',
                  '--export', 'fuse,id=disk,node-name=disk,writable=on,mountpoint=' + point], point, point,
                 lambda: mounted(point))


def vhdi_mount(bench, image):
    point = bench.path('vhdi')
    os.makedirs(point, exist_ok=True)
    return Mount(['vhdimount', '-v', image, point], point, point + '/vhdi1', lambda: mounted(point))


def fio_mount(bench, disk, rw, bs, jobs, size, direct):
    argv = ['fio', '--thread', '--name=mount', '--filename=' + disk, '--ioengine=psync', '--rw=' + rw, '--bs=%d' % bs,
            '--numjobs=%d' % jobs, '--size=%d' % size, '--time_based', '--runtime=%d' % bench.seconds, '--norandommap',
            '--direct=%d' % direct, '--group_reporting', '--output-format=json']
    return Side(argv, fio_figure, name='spindle')   # blocks of 1 MiB: IO/s are MiB/s


MOUNT_CASES = (('randread', 4096, 4), ('randwrite', 4096, 4), ('read', MIB, 1), ('write', MIB, 1))


def row_mount(bench):
    need('fio', 'qemu-storage-daemon', 'fusermount3')
    if not os.access('/dev/fuse', os.R_OK | os.W_OK):
        raise Skip('/dev/fuse is not usable')
    size = 256 * MIB if bench.quick else GIB
    bench.room(2 * size)
    ours, qemu = full_image(bench, 'ours.vhdx', size), full_image(bench, 'qemu.vhdx', size)
    settle(ours, qemu)
    with spindle_mount(bench, ours) as a, qemu_mount(bench, qemu) as b:
        print('\n   ours: %s\n   qemu: %s' % (shlex.join(a.argv), shlex.join(b.argv)))
        for direct in (1, 0):
            for rw, bs, jobs in MOUNT_CASES:
                bench.part(mount_compare, bench, (a, b, 'qemu-storage-daemon'), (rw, bs, jobs, size, direct), 1.3)
    with spindle_mount(bench, ours) as a:
        bench.part(mount_vhdi, bench, a, qemu, size)
    remove(ours, qemu)


def mount_vhdi(bench, ours, image, size):
    need('vhdimount')
    with vhdi_mount(bench, image) as b:
        print('\n   vhdimount: %s' % shlex.join(b.argv))
        for rw, bs, jobs in MOUNT_CASES[::2]:
            bench.part(mount_compare, bench, (ours, b, 'vhdimount'), (rw, bs, jobs, size, 1), 5)


def mount_compare(bench, mounts, case, goal):
    ours, peer, name = mounts
    rw, bs, jobs, size, direct = case
    a, b = fio_mount(bench, ours.disk, *case), fio_mount(bench, peer.disk, *case)
    b.name = name
    what = 'mount, %s %s, %d job%s%s' % ('4 KiB' if bs == 4096 else '1 MiB', rw, jobs, 's' if jobs > 1 else '',
                                       ', O_DIRECT' if direct else ', through the page cache')
    bench.compare(what + ', ' + name, a, b, goal if direct else None, 'IO/s' if bs < MIB else 'MiB/s')


# ---- row: rings ---------------------------------------------------------------------------------------


def ring(bench, *what, **options):
    """A storvsc client and the provider in one process, one channel, both polling."""
    argv = [bench.ring] + ['--%s=%s' % (key, value) for key, value in options.items()]
    return Side(argv + ['--seconds=%d' % bench.seconds] + list(what), spindle_figure, name='spindle')


class Server:
    """A program that serves a UNIX socket until it is left."""

    def __init__(self, argv, socket):
        self.argv, self.socket = argv, socket
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        for _ in range(500):
            if os.path.exists(socket) or self.process.poll() is not None:
                break
            time.sleep(0.02)
        if not os.path.exists(socket):
            self.close()
            raise RuntimeError('does not serve: ' + shlex.join(argv))

    def __enter__(self):
        print('\n   peer: %s' % shlex.join(self.argv))
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.process.terminate()
        self.process.wait()
        remove(self.socket)


def fio_nbd(bench, socket, name, rw, size):
    if ' nbd' not in ' '.join(run(['fio', '--enghelp']).out.split()):
        raise Skip('this fio has no nbd engine')
    argv = ['fio', '--thread', '--name=nbd', '--ioengine=nbd', '--uri=nbd+unix:///%s?socket=%s' % (name, socket),
            '--rw=' + rw, '--bs=4k', '--iodepth=64', '--size=%d' % size, '--time_based',
            '--runtime=%d' % bench.seconds, '--norandommap', '--output-format=json']
    return Side(argv, fio_figure, name='nbdkit' if not name else 'qemu-storage-daemon')


def row_ring(bench):
    if bench.where != 'tmpfs':
        raise Skip('rings are measured in memory')
    size = 256 * MIB if bench.quick else GIB
    bench.room(2 * size)
    image = full_image(bench, 'ring.vhdx', size)
    settle(image)
    bench.part(ring_null, bench)
    for rw in ('randread', 'randwrite'):
        engine = ring(bench, '--engine', image, rw=rw, qd=64)
        engine.name = 'engine alone'
        bench.part(bench.compare, 'ring: 4 KiB %s QD64 on a VHDX' % rw, ring(bench, image, rw=rw, qd=64), engine, 0.8)
        bench.part(ring_nbd, bench, image, rw, size)
    bench.part(ring_latency, bench, image)
    remove(image)


def ring_null(bench):
    need('nbdkit', 'fio')
    socket = bench.path('nbdkit')
    with Server(['nbdkit', '-f', '-U', socket, 'memory', '1G'], socket):
        bench.compare('ring: 4 KiB randread QD64, null unit, nbdkit memory', ring(bench, null=GIB, rw='randread', qd=64),
                      fio_nbd(bench, socket, '', 'randread', GIB), 10)


def ring_nbd(bench, image, rw, size):
    need('qemu-storage-daemon', 'fio')
    socket, copy = bench.path('qsd'), bench.path('qsd.vhdx')
    shutil.copyfile(image, copy)
    try:
        with Server(['qemu-storage-daemon', '--blockdev', 'file,node-name=file,aio=io_uring,filename=' + copy,
                     '--blockdev', 'vhdx,node-name=disk,file=file', '--nbd-server', 'addr.type=unix,addr.path=' + socket,
                     '--export', 'nbd,id=disk,node-name=disk,writable=on,name=disk'], socket):
            bench.compare('ring: 4 KiB %s QD64 on a VHDX, NBD export' % rw, ring(bench, image, rw=rw, qd=64),
                          fio_nbd(bench, socket, 'disk', rw, size), 5)
    finally:
        remove(copy)


class Added(Side):
    """How much longer the median request takes with a ring than without."""

    def __init__(self, bench, image):
        def median(done):
            said = json_in(done.out)
            return said['median-us'], said['ops']
        super().__init__(ring(bench, image, rw='randread', qd=1).argv, median, name='spindle')
        self.without = ring(bench, '--engine', image, rw='randread', qd=1).argv

    def once(self):
        alone, _ = self.figure(run(self.without))
        super().once()
        self.values[-1] -= alone


def ring_latency(bench, image):
    bench.limit('ring: added to a 4 KiB read at QD1', Added(bench, image), 3, 'us')


# ---- all together -------------------------------------------------------------------------------------

# ---- row: live ----------------------------------------------------------------------------------------


def live_side(bench, key, unit, *argv):
    folder = bench.path('live')

    def fresh():
        shutil.rmtree(folder, ignore_errors=True)
        os.mkdir(folder)

    return Side([bench.live, *argv, folder], lambda r: (json_in(r.out)[key], 1), fresh, 'spindle')


def row_live(bench):
    snapshots, size = 50 if bench.quick else 100, 32 * MIB
    bench.room(2 * snapshots * size)    # all stay, and on a slow machine each layer becomes full
    count = '--count=%d' % snapshots
    # A medium that has to take 600 MiB a second of random writes at once is the figure then, not the snapshot.
    load = ['--size=%d' % size] + (['--iops=4000'] if bench.where == 'disk' else [])
    for key, what, goal in (('gap-p99-ms', 'longest gap around a snapshot, 99 % of them', 10),
                            ('quiet-p99-ms', 'the same without a snapshot', None)):
        bench.limit(what, live_side(bench, key, 'ms', 'gap', count, *load), goal, 'ms')
    for key, what, goal in (('freeze-median-ms', 'freeze to thaw, 2 disks, median', 20),
                            ('freeze-p99-ms', 'freeze to thaw, 2 disks, 99 % of them', 100)):
        bench.limit(what, live_side(bench, key, 'ms', 'freeze', '--disks=2', count, *load), goal, 'ms')
    size = 256 * MIB if bench.quick else 512 * MIB
    bench.room(4 * size)
    bench.part(live_merge, bench, size, 0, 'unthrottled', 0.5)
    bench.part(live_merge, bench, size, MERGE_RATE, 'at the default rate', 0.85)


MERGE_RATE = 64 * MIB       # of spindle-vm snapshot delete


def live_merge(bench, size, rate, how, goal):
    """Both figures of a pair come from one process, one right after the other."""
    folder = bench.path('live')
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder)
    argv = [bench.live, 'merge', '--size=%d' % size, '--rate=%d' % rate, '--count=%d' % bench.runs, folder]
    done = run(argv)
    said = json_in(done.out)
    ours, peer = (Side(argv, None, name=name) for name in ('merging', 'quiet'))
    ours.values, peer.values = said['merging-iops'], said['quiet-iops']
    what = '4 KiB randwrite QD32 while a merge runs %s' % how
    bench.heading()
    print(' - %s\n   $ %s' % (what, shlex.join(argv)))
    pairs = [a / b for a, b in zip(ours.values, peer.values)]
    bench.add(what, 'IO/s', ours.report(), peer.report(), statistics.median(pairs), goal, (min(pairs), max(pairs)))
    print('   %s, quiet %s: ratio %.2f%s' % (number(ours.median(), 'IO/s'), number(peer.median(), 'IO/s'),
                                             statistics.median(pairs), verdict(bench.results[-1])))
    shutil.rmtree(folder)


# ---- row: backup --------------------------------------------------------------------------------------


def row_backup(bench):
    need('qemu-img')
    size = GIB if bench.quick else 16 * GIB
    bench.room(2 * size)    # half of it is data: source, backup, the peer's copy
    raw, source = raw_file(bench, 'source.raw', size, 0.5), bench.path('source.vhdx')
    run([bench.tool, 'convert', '-q', raw, source])
    remove(raw)
    settle(source)
    bench.part(backup_full, bench, source)
    bench.part(backup_incremental, bench, source)
    remove(source)


def backup_side(bench, source, repository, before, name):
    return Side([bench.backup, 'create', '-q', '--track', repository, 'vm', 'disk=' + source], wall, before, name)


def backup_full(bench, source):
    repository, out = bench.path('full'), bench.path('out.vhdx')

    def clean():
        shutil.rmtree(repository, ignore_errors=True)
        remove(out)
        if bench.where == 'disk':
            os.sync()

    peer = Side(['qemu-img', 'convert', '-W', '-m', '16', '-f', 'vhdx', '-O', 'vhdx', source, out], wall, clean,
                'qemu-img convert')
    bench.compare('full backup with SHA-256, qemu-img copies without',
                  backup_side(bench, source, repository, clean, 'spindle-backup'), peer, 0.8, 's')
    if bench.where == 'disk':   # both end with everything on the medium
        peer = Side(peer.argv[:2] + ['-t', 'writeback'] + peer.argv[2:], wall, clean, 'qemu-img, flushing')
        bench.compare('full backup with SHA-256, qemu flushing as we do',
                      backup_side(bench, source, repository, clean, 'spindle-backup'), peer, 0.8, 's')
    clean()


def backup_incremental(bench, source):
    """After 1 % has changed, in pieces of 1 MiB, against a full one of the same disk."""
    repository, other = bench.path('incremental'), bench.path('again')
    part = json_in(run([bench.tool, 'info', '--output=json', source]).out)['virtual-size'] // 100 // MIB
    seeds = iter(range(1, 1000))
    run([bench.backup, 'create', '-q', '--track', repository, 'vm', 'disk=' + source])

    def change():
        run([bench.queue, '--format=vhdx', '--rw=randwrite', '--bs=%d' % MIB, '--qd=8', '--ops=%d' % part,
             '--seed=%d' % next(seeds), '--track', source])
        if bench.where == 'disk':
            os.sync()

    full = backup_side(bench, source, other, lambda: shutil.rmtree(other, ignore_errors=True), 'full')
    bench.compare('incremental after 1 % changed, against a full one',
                  backup_side(bench, source, repository, change, 'incremental'), full, 20, 's')
    shutil.rmtree(repository)
    shutil.rmtree(other)


# ---- a guest ------------------------------------------------------------------------------------------

GUEST_PEERS = ('q35', 'microvm')
# What QEMU's machines need in the lab, and Linux for their disks.
GUEST_FIRMWARE = ('seabios/bios-256k.bin', 'seabios/bios-microvm.bin', 'qemu/linuxboot_dma.bin', 'qemu/kvmvapic.bin')
GUEST_MODULES = ('virtio_pci', 'virtio_mmio', 'virtio_blk')


def guest_command(bench, figures):
    lab = os.path.join(os.path.dirname(os.path.abspath(__file__)), '../guest/lab.py')
    command = [sys.executable, os.path.normpath(lab), '--build', bench.build, '--scenarios', 'bench',
               '--with', 'qemu-system-x86_64', '--take', '/scratch/bench/figures', figures]
    for module in GUEST_MODULES:
        command += ['--guest-module', module]
    for name in GUEST_FIRMWARE:
        path = os.path.join('/usr/share', name)
        if not os.path.exists(path):
            raise Skip('no %s here (package qemu-system-x86 brings it)' % path)
        command += ['--with-file', path, '/share/' + os.path.basename(path)]
    return command


def guest_figures(bench):
    """What the scenario bench wrote: {(VMM, name): [figures]}."""
    path, values = bench.path('figures'), {}
    os.environ['LAB_RUNS'] = str(min(bench.runs, 3))
    done = run(guest_command(bench, path))
    if 'SKIP' in done.out:
        raise Skip(done.out.split('SKIP', 1)[1].split('\n', 1)[0].strip())
    with open(path, encoding='ascii') as f:
        for line in f:
            vmm, name, value = line.split()
            values.setdefault((vmm, name), []).append(float(value))
    return values


def guest_report(values, vmm, name, scale=1):
    runs = [v * scale for v in values[vmm, name]]
    return {'name': vmm, 'median': statistics.median(runs), 'runs': runs}


def guest_compare(bench, values, name, what, unit, scale=1, goal=1):
    """The runs were in turns already."""
    for peer in GUEST_PEERS:
        a, b = guest_report(values, 'spindle', name, scale), guest_report(values, peer, name, scale)
        less = unit in ('s', 'KiB')
        pairs = [y / x if less else x / y for x, y in zip(a['runs'], b['runs'])]
        ratio = b['median'] / a['median'] if less else a['median'] / b['median']
        print(' - %s: %s, %s %s: ratio %.2f' % (what, number(a['median'], unit), peer, number(b['median'], unit), ratio))
        bench.add('%s, %s' % (what, peer), unit, a, b, ratio, goal, (min(pairs), max(pairs)))


def row_guest(bench):
    if bench.where != 'disk':
        raise Skip('its disks lie in an emulated machine: one place is enough')
    need('qemu-system-x86_64')
    values = guest_figures(bench)
    bench.heading()
    guest_compare(bench, values, 'boot', "start of the VMM to the guest's first program", 's', 0.001)
    guest_compare(bench, values, 'randread', '4 KiB random reads in the guest', 'IO/s')
    guest_compare(bench, values, 'randwrite', '4 KiB random writes in the guest', 'IO/s')
    guest_compare(bench, values, 'memory', "memory beside the guest's", 'KiB', goal=None)
    bench.add("memory beside the guest's", 'KiB', guest_report(values, 'spindle', 'memory'), None, None, 16 * 1024)


ROWS = {'random': row_random, 'track': row_track, 'chain': row_chain, 'allocate': row_allocate,
        'convert': row_convert, 'empty': row_empty, 'open': row_open, 'mount': row_mount, 'ring': row_ring,
        'live': row_live, 'backup': row_backup, 'guest': row_guest}
PLACES = {'tmpfs': '/dev/shm', 'disk': '/var/tmp'}


def parse(argv):
    parser = argparse.ArgumentParser(description='Times the engine beside its peers; prints ratios.')
    parser.add_argument('build', help='a build folder, --buildtype=release')
    parser.add_argument('--quick', action='store_true', help='smaller files, 3 runs of 1 s')
    parser.add_argument('--runs', type=int, metavar='N', help='how many of each instead of 5, or 3')
    parser.add_argument('--only', action='append', choices=ROWS, metavar='ROW', help=', '.join(ROWS))
    parser.add_argument('--where', action='append', choices=PLACES, help='default: both')
    parser.add_argument('--nice', type=int, default=0, help='priority of what runs; below 0 (root) when busy')
    parser.add_argument('--json', metavar='FILE', help='results for programs (default: BUILD_DIR/bench.json)')
    return parser.parse_args(argv)


def version(argv):
    try:
        return run(argv).out.splitlines()[0].strip()
    except (OSError, RuntimeError, IndexError):
        return None


def about(bench):
    with open('/proc/cpuinfo', encoding='utf-8') as f:
        cpu = next((l.split(':')[1].strip() for l in f if l.startswith('model name')), platform.machine())
    return {'date': datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
            'kernel': platform.release(), 'cpu': cpu, 'cpus': os.cpu_count(), 'runs': bench.runs,
            'seconds': bench.seconds, 'quick': bench.quick, 'nice': bench.args.nice,
            'versions': {'spindle': version([bench.tool, '--version']), 'fio': version(['fio', '--version']),
                         'qemu': version(['qemu-img', '--version']), 'libvhdi': version(['vhdimount', '-V'])},
            'places': {w: file_system(PLACES[w]) for w in bench.args.where or PLACES}}


def file_system(path):
    return '%s (%s)' % (path, version(['stat', '-f', '-c', '%T', path]))


def print_about(facts):
    print('%s, %d x %s, Linux %s' % (facts['date'], facts['cpus'], facts['cpu'], facts['kernel']))
    print(', '.join('%s: %s' % (k, v or 'not installed') for k, v in facts['versions'].items()))
    print('medians of %d runs, load average %.1f' % (facts['runs'], os.getloadavg()[0]))


def table(results):
    rows = [('where', 'what', 'ours', 'peer', 'ratio', 'of pairs', 'goal', 'reached')]
    for r in results:
        unit, peer = r['unit'], r['peer']
        goal = '' if r['goal'] is None else '>= %g' % r['goal'] if peer else '<= %s' % number(r['goal'], unit)
        rows.append((r['where'], r['what'], number(r['ours']['median'], unit),
                     number(peer['median'], unit) if peer else '', '%.2f' % r['ratio'] if peer else '',
                     '%.2f-%.2f' % r['spread'] if peer else '', goal,
                     {True: 'yes', False: 'NO', None: ''}[r['reached']] + ' (unsure)' * r['unsure']))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return '\n'.join(' | '.join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows)


def measure(bench):
    for row in bench.args.only or ROWS:
        for where in bench.args.where or PLACES:
            root = os.path.join(PLACES[where], 'bench')
            os.makedirs(root, exist_ok=True)
            bench.row, bench.where, bench.dir = row, where, tempfile.mkdtemp(prefix='%d-' % os.getpid(), dir=root)
            try:
                bench.part(ROWS[row], bench)
            finally:
                shutil.rmtree(bench.dir, ignore_errors=True)
                try:
                    os.rmdir(root)
                except OSError:
                    pass    # another run is there


def set_priority(nice):
    """Of this program and those it runs; where the kernel groups by session, of the session."""
    os.nice(nice)
    if nice and os.path.exists('/proc/self/autogroup'):
        try:
            os.setsid()     # a group of its own, so that nobody else's priority changes
        except PermissionError:
            pass            # leads its session already
        with open('/proc/self/autogroup', 'w', encoding='ascii') as f:
            f.write(str(nice))


def main():
    bench = Bench(parse(sys.argv[1:]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))     # so that the files go away
    for program in (bench.tool, bench.backup, bench.queue, bench.ring, bench.live,
                    bench.mount):
        if not os.access(program, os.X_OK):
            sys.exit('bench: %s is missing; build it with: ninja -C %s' % (program, bench.args.build))
    set_priority(bench.args.nice)
    facts = about(bench)
    facts['load-before'] = os.getloadavg()
    print_about(facts)
    try:
        measure(bench)
    except KeyboardInterrupt:
        print('\ninterrupted')
    facts['load-after'] = os.getloadavg()
    print('\n%s' % table(bench.results))
    for word in ('skipped', 'broken'):
        for entry in getattr(bench, word):
            print('%s: %s, %s: %s' % (word, entry['row'], entry['where'], entry['why']))
    goals = [r for r in bench.results if r['reached'] is not None]
    print('load average %.1f before, %.1f after; %d of %d goals reached, %d of all unsure' % (
        facts['load-before'][0], facts['load-after'][0], sum(r['reached'] for r in goals), len(goals),
        sum(r['unsure'] for r in goals)))
    name = bench.args.json or os.path.join(bench.build, 'bench.json')
    with open(name, 'w', encoding='utf-8') as f:
        json.dump(dict(facts, results=bench.results, skipped=bench.skipped, broken=bench.broken), f, indent=1)
    print('written: %s' % name)
    return 1 if bench.broken else 0


if __name__ == '__main__':
    sys.exit(main())
