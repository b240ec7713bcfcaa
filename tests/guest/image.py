#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""What a lab boots: Debian's kernel, initial RAM disks, folders that become disks. Needs no root."""
import glob
import os
import re
import shutil
import struct
import subprocess
import sys

SECTOR, MIB = 512, 1 << 20
KERNEL_META = 'linux-image-cloud-amd64'
SEARCH = os.environ.get('PATH', '') + ':/usr/sbin:/sbin:/usr/bin:/bin'


class Unavailable(Exception):
    """Something this machine lacks: a reason to skip, not to fail."""


def program(name):
    path = shutil.which(name, path=SEARCH)
    if not path:
        raise Unavailable('no %s here (tests/packages.txt names its package)' % name)
    return path


def libraries(path):
    """The shared libraries a program needs, its loader included, by the names it looks for."""
    out = subprocess.run(['ldd', path], capture_output=True, text=True).stdout
    missing = re.search(r'(\S+) => not found', out)
    if missing:
        raise Unavailable('%s needs %s' % (path, missing.group(1)))
    return sorted(set(re.findall(r'(/\S+) \(0x', out)))


# ---- the kernel --------------------------------------------------------------------------------------

def apt(args, folder, private):
    """Runs apt-get in a folder, maybe with lists of its own: the system's may be missing or stale."""
    options = []
    if private:
        os.makedirs(os.path.join(folder, 'apt', 'lists', 'partial'), exist_ok=True)
        options = ['-o', 'Dir::State::lists=%s/apt/lists' % folder, '-o', 'Dir::Cache=%s/apt' % folder]
    run = subprocess.run(['apt-get', '-q'] + options + args, cwd=folder, capture_output=True, text=True, timeout=120)
    return options, run


def kernel_name(options):
    run = subprocess.run(['apt-cache'] + options + ['depends', KERNEL_META], capture_output=True, text=True)
    match = re.search(r'Depends: (linux-image-\S+-cloud-amd64)', run.stdout)
    return match.group(1) if match else None


def download(folder):
    """Brings the kernel package that KERNEL_META stands for into a folder."""
    error = 'no package lists'
    for private in False, True:
        options = []
        if private:
            options, run = apt(['update'], folder, True)
            error = run.stderr or error
        name = kernel_name(options)
        if not name:
            continue
        _, run = apt(['download', name], folder, private)
        found = glob.glob(os.path.join(folder, name + '_*.deb'))
        if run.returncode == 0 and found:
            return found[0]
        error = run.stderr
    raise Unavailable('no package %s to be had: %s' % (KERNEL_META, ' '.join(error.split())[-300:]))


class Kernel:
    """Debian's cloud kernel, unpacked below a folder that is kept; nothing is installed."""

    def __init__(self, folder):
        os.makedirs(folder, exist_ok=True)
        tree = os.path.join(folder, 'tree')
        if not os.path.isdir(tree):
            program('apt-get')
            debs = glob.glob(os.path.join(folder, 'linux-image-*.deb'))
            shutil.rmtree(tree + '.new', ignore_errors=True)
            subprocess.run([program('dpkg'), '-x', debs[0] if debs else download(folder), tree + '.new'], check=True)
            os.rename(tree + '.new', tree)
        self.image, = glob.glob(tree + '/boot/vmlinuz-*')
        self.release = os.path.basename(self.image)[len('vmlinuz-'):]
        self.modules = os.path.join(tree, 'lib/modules', self.release)
        self.files = {os.path.basename(p)[:-3].replace('-', '_'): p
                      for p in glob.glob(self.modules + '/kernel/**/*.ko', recursive=True)}
        with open(self.modules + '/modules.builtin') as f:
            self.builtin = {os.path.basename(line.strip())[:-3].replace('-', '_') for line in f}

    def load_order(self, names):
        """The files of modules and of all they depend on, in an order in which insmod accepts them."""
        order = []

        def visit(name):
            name = name.replace('-', '_')
            if name in self.builtin or self.files.get(name) in order:
                return
            with open(self.files[name], 'rb') as f:
                depends = re.search(rb'\0depends=([^\0]*)\0', f.read())
            for needed in (depends.group(1).decode() if depends else '').split(','):
                if needed:
                    visit(needed)
            order.append(self.files[name])

        for name in names:
            visit(name)
        return order


# ---- folders that boot -------------------------------------------------------------------------------

class Tree:
    """Files by their place in a future file system. Becomes a cpio archive or a folder for mke2fs -d."""

    def __init__(self):
        self.entries = {}  # path: ('file', source, mode) | ('data', bytes, mode) | ('link', target)
        self.folders = set()

    def folder(self, *paths):
        for path in paths:
            while path.strip('/'):
                self.folders.add(path.strip('/'))
                path = os.path.dirname(path.strip('/'))

    def _put(self, path, entry):
        self.folder(os.path.dirname(path))
        self.entries[path.strip('/')] = entry

    def file(self, path, source, mode=0o644):
        self._put(path, ('file', source, mode))

    def data(self, path, data, mode=0o644):
        self._put(path, ('data', data if isinstance(data, bytes) else data.encode(), mode))

    def link(self, path, target):
        self._put(path, ('link', target))

    def program(self, name, place='/bin', libs=None):
        """A program of this machine with its libraries, which keep their places, or go to the folder libs."""
        source = name if os.path.isabs(name) else program(name)
        if not os.path.exists(source):
            raise Unavailable('%s is not built' % source)
        self.file(os.path.join(place, os.path.basename(source)), source, 0o755)
        for lib in libraries(source):
            self.file(os.path.join(libs, os.path.basename(lib)) if libs else lib, os.path.realpath(lib), 0o755)

    def busybox(self):
        """A static busybox and a link for each of its applets."""
        source = program('busybox')
        self.file('/bin/busybox', source, 0o755)
        for applet in subprocess.run([source, '--list'], capture_output=True, text=True, check=True).stdout.split():
            if applet != 'busybox' and 'bin/' + applet not in self.entries:
                self.link('/bin/' + applet, 'busybox')

    def insmods(self, kernel, names):
        """Modules and the script /lib/load, which loads them in order, with parameters from the kernel command line."""
        lines = ['args() { tr " " "\\n" </proc/cmdline | sed -n "s/^$1\\.//p"; }\n']
        for path in kernel.load_order(names):
            name = os.path.basename(path)
            self.file('/lib/modules/' + name, path)
            lines.append('insmod /lib/modules/%s $(args %s) || echo "@lab not ok - insmod %s"\n' % (
                name, name[:-3], name))
        self.data('/lib/load', '#!/bin/sh\n' + ''.join(lines), 0o755)

    def _content(self, entry):
        if entry[0] == 'file':
            with open(entry[1], 'rb') as f:
                return f.read()
        return entry[1] if entry[0] == 'data' else entry[1].encode()

    def cpio(self, path):
        """Uncompressed: unpacking costs more in the lab than loading."""
        with open(path, 'wb') as out:
            inode = 0

            def member(name, mode, data):
                nonlocal inode
                inode += 1
                head = [inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
                out.write(b'070701' + b''.join(b'%08X' % field for field in head) + name.encode() + b'\0')
                out.write(b'\0' * (-out.tell() % 4) + data)
                out.write(b'\0' * (-out.tell() % 4))

            for name in sorted(self.folders):
                member(name, 0o40755, b'')
            for name, entry in sorted(self.entries.items()):
                mode = 0o120777 if entry[0] == 'link' else 0o100000 | entry[2]
                member(name, mode, self._content(entry))
            member('TRAILER!!!', 0, b'')

    def write(self, top):
        """The same as files below a folder."""
        for name in sorted(self.folders):
            os.makedirs(os.path.join(top, name), exist_ok=True)
        for name, entry in self.entries.items():
            path = os.path.join(top, name)
            if entry[0] == 'link':
                os.symlink(entry[1], path)
                continue
            if entry[0] == 'file':
                subprocess.run(['cp', '--sparse=always', entry[1], path], check=True)
            else:
                with open(path, 'wb') as f:
                    f.write(entry[1])
            os.chmod(path, entry[2])


def make_ext4(path, folder, size, *options):
    """A file of an ext4 file system with what is in a folder; everything belongs to root."""
    if os.path.exists(path):
        os.unlink(path)
    subprocess.run([program('mke2fs'), '-q', '-F', '-t', 'ext4', '-d', folder, '-E', 'root_owner=0:0', *options, path,
                    size], check=True, stdout=subprocess.DEVNULL)


def one_partition(path, file_system):
    """A disk with an MBR and one partition from 1 MiB on, with a file system that is a file already; that file goes."""
    size = os.path.getsize(file_system)
    entry = struct.pack('<B3sB3sII', 0, b'\xfe\xff\xff', 0x83, b'\xfe\xff\xff', MIB // SECTOR, size // SECTOR)
    with open(path, 'wb') as disk:
        disk.write(bytes(446) + entry + bytes(48) + b'\x55\xaa')
    subprocess.run(['dd', 'if=' + file_system, 'of=' + path, 'bs=1M', 'seek=1', 'conv=sparse,notrunc', 'status=none'],
                   check=True)
    os.truncate(path, MIB + size)
    os.unlink(file_system)


if __name__ == '__main__':
    if len(sys.argv) != 4 or sys.argv[1] != 'partition':
        sys.exit('usage: image.py partition DISK FILE_SYSTEM')
    one_partition(*sys.argv[2:])
