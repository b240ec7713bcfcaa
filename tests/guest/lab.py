#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The guest lab: Debian's cloud kernel as guest of spindle-vm, on any machine, however deep it is virtual itself.

usage: lab.py --build DIR [--scenarios A,B] [--with PROGRAM]... [--keep] [--timeout SECONDS]

Level 1 is that same kernel under qemu-system-x86_64, whose emulation of AMD's SVM gives it a working /dev/kvm. Its disk
holds what the build folder has, the scenarios (scenario-NAME.sh), and level 2: the kernel again, an initial RAM disk,
guest scripts (l2/). One boot of level 1 runs all scenarios; each boots its guests as often as it needs. Both levels
write results to their consoles, "@lab ok - NAME", and this program makes TAP of them. BUILD/guest/NAME.log has it all.
"""
import argparse
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from image import Kernel, Tree, Unavailable, make_ext4, one_partition, program  # noqa: E402

L1_MODULES = ['irqbypass', 'kvm', 'kvm-amd', 'virtio_pci', 'virtio_blk', 'loop', 'fuse']
L2_MODULES = ['hv_vmbus', 'sd_mod', 'sr_mod', 'sg', 'isofs', 'hv_storvsc', 'hv_utils']
L2_PROGRAMS = ['lsblk', 'blkid', 'sg_inq', 'sg_vpd', 'sg_luns', 'sg_readcap', 'sg_unmap', 'sg_write_same', 'sg_sync',
               'sg_get_lba_status', 'sg_compare_and_write', 'sg_persist', 'sg_opcodes',
               'hv_kvp_daemon', 'hv_vss_daemon']
L1_PROGRAMS = ['jq', 'fusermount3', 'dumpe2fs', 'e2fsck', 'debugfs']

OS_RELEASE = 'NAME="Spindle lab"\nID=spindle-lab\nVERSION="1"\nVERSION_ID="1"\nPRETTY_NAME="Spindle lab"\n'


def scripts(tree, folder, place):
    for name in sorted(os.listdir(os.path.join(HERE, folder))):
        tree.file(os.path.join(place, name), os.path.join(HERE, folder, name), 0o755)


# ---- level 2 -----------------------------------------------------------------------------------------

def guest_initrd(kernel, path, more_modules):
    tree = Tree()
    tree.folder('dev', 'proc', 'sys', 'run', 'tmp', 'mnt', 'sbin')
    for name in L2_PROGRAMS:
        tree.program(name)
    tree.busybox()
    tree.insmods(kernel, more_modules + L2_MODULES)
    scripts(tree, 'l2', '/test')
    tree.link('/init', '/test/init')
    tree.link('/sbin/poweroff', '/test/poweroff')
    tree.link('/sbin/reboot', '/test/poweroff')
    tree.data('/etc/os-release', OS_RELEASE)
    tree.cpio(path)


def guest_disk(work, path):
    """A raw disk with an ext4 partition: files with their checksums, and fio with its many libraries."""
    top = os.path.join(work, 'guest-disk')
    tree = Tree()
    tree.program('fio', '/tools/bin', '/tools/lib')
    chance = random.Random(1)
    sums = ''
    for number in range(6):
        data = chance.randbytes(chance.choice([1, 4095, 70000, 900001]))
        tree.data('/base/%d' % number, data)
        sums += '%s  base/%d\n' % (hashlib.sha256(data).hexdigest(), number)
    tree.data('/base.sums', sums)
    tree.write(top)
    # Nothing is left for the kernel to zero behind the tests' back.
    make_ext4(path + '.fs', top, '255M', '-E', 'lazy_itable_init=0,lazy_journal_init=0')
    one_partition(path, path + '.fs')
    shutil.rmtree(top)


# ---- level 1 -----------------------------------------------------------------------------------------

def outer_initrd(kernel, path):
    tree = Tree()
    tree.folder('dev', 'proc', 'sys', 'root')
    tree.busybox()
    tree.insmods(kernel, L1_MODULES)
    tree.file('/init', os.path.join(HERE, 'l1/boot'), 0o755)
    tree.cpio(path)


def outer_disk(options, kernel, work, path):
    top = os.path.join(work, 'outer-disk')
    tree = Tree()
    tree.folder('dev', 'proc', 'sys', 'run', 'tmp', 'mnt', 'scratch', 'var/run', 'etc')
    build = options.build
    ours = [build + '/tools/vhd-tool', build + '/tools/spindle-backup', build + '/fuse/vhd-mount', options.vmm]
    for name in ours + L1_PROGRAMS + options.with_programs:
        tree.program(name)
    tree.busybox()
    scripts(tree, 'l1', '/lab')
    for name in os.listdir(HERE):
        if name.startswith('scenario-'):
            tree.file('/lab/' + name, os.path.join(HERE, name), 0o755)
    for source, place in options.with_files:
        tree.file(place, source, 0o755)
    tree.data('/etc/passwd', 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n')
    tree.data('/etc/group', 'root:x:0:\nnogroup:x:65534:\n')
    tree.data('/etc/fuse.conf', 'user_allow_other\n')
    tree.link('/etc/mtab', '/proc/mounts')
    wanted = [item for item in os.environ.items() if item[0].endswith('SAN_OPTIONS') or item[0].startswith('LAB_')]
    tree.data('/lab/env', ''.join("export %s='%s'\n" % item for item in wanted))
    tree.file('/lab/guest/vmlinuz', kernel.image)
    tree.write(top)

    guest_initrd(kernel, os.path.join(top, 'lab/guest/initrd'), options.guest_modules)
    disk = os.path.join(work, 'disk.raw')
    guest_disk(work, disk)
    subprocess.run([build + '/tools/vhd-tool', 'convert', '-q', '-o', 'block_size=1M', disk,
                    os.path.join(top, 'lab/guest/disk.vhdx')], check=True)
    os.unlink(disk)
    make_ext4(path, top, '3G', '-O', '^has_journal', '-m', '0')
    shutil.rmtree(top)


def qemu_command(options, kernel, initrd, disk, scenarios):
    # A clock that ticks by itself: a lost interrupt is one tick, not the last one.
    line = ('console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check nohz=off highres=off '
            'lab.scenarios=' + ','.join(scenarios))
    return [program('qemu-system-x86_64'), '-accel', options.accel, '-cpu', 'EPYC-Milan,+svm,+npt', '-M', 'q35',
            '-smp', str(options.smp), '-m', str(options.mem), '-nographic', '-no-reboot', '-nodefaults',
            '-net', 'none', *options.qemu,
            '-serial', 'stdio', '-kernel', kernel.image, '-initrd', initrd, '-append', line,
            '-drive', 'if=virtio,format=raw,cache=unsafe,file=' + disk]


# ---- results -----------------------------------------------------------------------------------------

class Results:
    """Makes TAP of the lines of the console."""

    LINE = re.compile(r'(?:L2\| )?@lab (ok - |not ok - |# )?(.*)')

    def __init__(self):
        self.count = self.failed = 0
        self.started = time.monotonic()

    def result(self, passed, name):
        self.count += 1
        self.failed += not passed
        print('%s %d - %s' % ('ok' if passed else 'not ok', self.count, name.replace('#', '')), flush=True)

    def line(self, text):
        match = self.LINE.match(text)
        if not match:
            return
        kind, rest = match.groups()
        if kind in ('ok - ', 'not ok - '):
            self.result(kind == 'ok - ', rest)
        else:
            print('# %3d s: %s' % (time.monotonic() - self.started, rest), flush=True)


class Outer:
    """One run of level 1. QEMU's emulation of SVM sometimes comes to a stand for ever, in its own code: then level 1
    writes no more to its second serial port, which it does every second otherwise."""

    SILENCE = 75

    def __init__(self, options, command, alive):
        self.alive = alive
        self.scenario, self.ended, self.hung = None, False, False
        self.qemu = subprocess.Popen(command + ['-serial', 'file:' + alive], stdin=subprocess.DEVNULL,
                                     stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.deadline = options.deadline
        threading.Thread(target=self.guard, daemon=True).start()

    def guard(self):
        size, since = 0, time.monotonic()
        while self.qemu.poll() is None and not self.hung and time.monotonic() < self.deadline:
            time.sleep(1)
            if os.path.exists(self.alive) and os.path.getsize(self.alive) != size:
                size, since = os.path.getsize(self.alive), time.monotonic()
            self.hung = time.monotonic() - since > self.SILENCE
        self.qemu.kill()

    def watch(self, out, results):
        for raw in self.qemu.stdout:
            text = raw.decode(errors='replace').rstrip('\r\n')
            out.write('%6.1f %s\n' % (time.monotonic() - results.started, text))
            out.flush()
            self.ended = self.ended or text == '@end'
            if text.startswith('@scenario '):
                self.scenario = text.split()[1]
            results.line(text)
        self.qemu.wait()


def run_outer(options, kernel, work, log, results):
    """True if level 1 came to its end by itself. What was left when it came to a stand is tried again, five times."""
    initrd, disk = os.path.join(work, 'initrd'), os.path.join(work, 'disk')
    left = options.scenarios.split(',')
    options.deadline = time.monotonic() + options.timeout
    with open(log, 'w') as out:
        for _ in range(6):
            outer = Outer(options, qemu_command(options, kernel, initrd, disk, left), os.path.join(work, 'alive'))
            outer.watch(out, results)
            if outer.ended or not outer.hung:
                break
            left = left[left.index(outer.scenario or left[0]):]
            print('# %3d s: the emulation stands still: once more, from %s on' % (
                time.monotonic() - results.started, left[0]), flush=True)
    return outer.ended


def run(options):
    folder = os.path.join(options.build, 'guest')
    os.makedirs(folder, exist_ok=True)
    program('qemu-system-x86_64')
    kernel = Kernel(os.path.join(folder, 'kernel'))
    results = Results()
    log = os.path.join(folder, options.scenarios.replace(',', '+') + '.log')
    with tempfile.TemporaryDirectory(dir=folder, prefix='lab-') as work:
        disk = os.path.join(work, 'disk')
        outer_initrd(kernel, os.path.join(work, 'initrd'))
        outer_disk(options, kernel, work, disk)
        print('# %3d s: images made, kernel %s' % (time.monotonic() - results.started, kernel.release), flush=True)
        ended = run_outer(options, kernel, work, log, results)
        for name, place in options.take:
            verb = 'rdump' if name.endswith('/') else 'dump'
            subprocess.run([program('debugfs'), '-R', '%s %s %s' % (verb, name.rstrip('/'), place), disk], check=True,
                           stderr=subprocess.DEVNULL)
        if options.keep:
            shutil.copy(disk, os.path.join(folder, 'kept-disk'))
    results.result(ended, 'level 1 came to its end')
    if results.failed:
        print('# consoles: %s; its end:' % log)
        with open(log) as f:
            for text in f.read().split('\n')[-40:]:
                print('#  ', text)
    print('1..%d' % results.count)
    return results.failed != 0


def prepare(options):
    """What a guest needs on a host with KVM of its own."""
    kernel = Kernel(os.path.join(options.build, 'guest', 'kernel'))
    shutil.copy(kernel.image, os.path.join(options.prepare, 'vmlinuz'))
    guest_initrd(kernel, os.path.join(options.prepare, 'initrd'), options.guest_modules)
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--build', required=True, type=os.path.abspath, help='build folder')
    parser.add_argument('--scenarios', default='chain,vss', help='names of scenarios, separated by commas')
    parser.add_argument('--vmm', help='the VMM (default: that of the build folder)')
    parser.add_argument('--with', dest='with_programs', action='append', default=[], metavar='PROGRAM',
                        help='one more program for level 1')
    parser.add_argument('--with-file', dest='with_files', nargs=2, action='append', default=[],
                        metavar=('FILE', 'PLACE'), help='one more file for level 1')
    parser.add_argument('--guest-module', dest='guest_modules', action='append', default=[], metavar='NAME',
                        help='one more module for the guest')
    parser.add_argument('--accel', default='tcg,thread=single', help='how QEMU emulates level 1')
    parser.add_argument('--qemu', action='append', default=[], metavar='ARGUMENT',
                        help='one more for QEMU, such as --qemu=-monitor --qemu=unix:FILE,server,nowait')
    parser.add_argument('--smp', type=int, default=1, help='processors of level 1')
    parser.add_argument('--mem', type=int, default=2048, help='MiB of level 1')
    parser.add_argument('--timeout', type=int, default=1700, help='seconds for all of level 1')
    parser.add_argument('--take', nargs=2, action='append', default=[], metavar=('FILE', 'PLACE'),
                        help='a file of level 1, or a folder (NAME/) to fetch in the end, into PLACE')
    parser.add_argument('--prepare', metavar='FOLDER', help="only put the guest's kernel and initial RAM disk there")
    parser.add_argument('--keep', action='store_true', help='keep the disk of level 1 as BUILD/guest/kept-disk')
    options = parser.parse_args()
    options.vmm = options.vmm or options.build + '/vmm/spindle-vm'
    try:
        return prepare(options) if options.prepare else run(options)
    except Unavailable as reason:
        print('1..0 # SKIP %s' % reason)
        return 0


if __name__ == '__main__':
    sys.exit(main())
