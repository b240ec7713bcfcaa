#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Checks what a compiler does not: which folder includes which, who may call what, and that headers stand alone.

usage: arrows.py SOURCE_ROOT COMPILER [ARG...]

Speaks TAP, one test per rule. Each rule is first tried on a sample that breaks it.
"""
import fnmatch
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

# Which rooms a room may look at, beside itself. An entry with a slash is that one header.
ARROWS = {
    'base': [],
    'vhd': ['base'],
    'vmbus': ['base'],
    'storvsp': ['base', 'vhd', 'vhd/store.h', 'vmbus'],
    'storvsc': ['base', 'vmbus', 'storvsp/vstor_wire.h'],
    'vss': ['base', 'vhd', 'vhd/disk_int.h', 'vhd/store.h'],
    'backup': ['base', 'vhd', 'vhd/disk_int.h', 'vhd/ops_int.h', 'vhd/op_workers.h', 'vhd/store.h'],
    'fuse': ['base', 'vhd', 'vss'],
    'vmm': ['base', 'vhd', 'vhd/disk_int.h', 'vhd/live.h', 'vhd/store.h', 'vss', 'storvsp', 'vmbus'],
    # ... and of the machines the library that speaks with a running one: spindle-backup is a client of its socket.
    'tools': ['backup', 'base', 'vhd', 'vss', 'storvsp', 'storvsc', 'vmbus', 'vmm/client.h', 'vmm/requester.h'],
}
# What a room shows to others; a room that is not here shows all but *_int.h.
PUBLIC = {
    'vhd': ['vhd.h', 'ops.h', 'check.h', 'probe.h', 'track.h'],
}
# (includer, header): why it may nevertheless.
INCLUDE_EXCEPTIONS = {
}

# Calls that belong to a few files, so that tests can put something else in their place.
ENGINE = ['base/*', 'vhd/*']
RESERVED = [
    ('descriptors belong to the store', ['vhd/store*'], ENGINE,
     'open openat openat2 creat read write pread pwrite readv writev preadv pwritev preadv2 pwritev2 close dup dup2 '
     'lseek fsync fdatasync sync_file_range syncfs sync ftruncate truncate fallocate posix_fallocate fcntl ioctl flock '
     'stat fstat lstat fstatat statx access faccessat rename renameat renameat2 unlink unlinkat link linkat symlink '
     'mkdir mkdirat mmap munmap msync copy_file_range sendfile splice opendir fdopendir readdir fopen fdopen '
     'realpath readlink readlinkat syscall'),
    ('memory comes from base/alloc.h', ['base/alloc.c'], ENGINE,
     'malloc calloc realloc reallocarray free strdup strndup asprintf vasprintf posix_memalign aligned_alloc memalign '
     'alloca open_memstream getline'),
    ('time and chance come from base/env.h', ['base/env.c'], ENGINE,
     'time gettimeofday clock_gettime getrandom getentropy rand random srand srandom drand48 arc4random'),
    ('a library neither prints nor exits', ['base/log.c'], ENGINE,
     'printf fprintf vprintf vfprintf puts fputs putchar perror fwrite exit _exit abort'),
    ('strings have a length', [], ['*'], 'strcat sprintf vsprintf gets strtok strncpy'),
]
# (file, function): why it may nevertheless.
CALL_EXCEPTIONS = {
    ('base/log.c', 'strdup'): 'lives as long as the process and must not disturb the counting of allocations',
    ('base/env.c', 'abort'): 'no randomness at all: images with equal identities would lose data',
    ('vhd/store_device.c', 'getline'): 'reads /proc/self/mountinfo; lines have no bound, and the operator wrote them',
    ('vhd/store_device.c', 'free'): 'what getline() gave',
    ('vhd/chain.c', 'realpath'): 'makes a name given by the operator absolute; opens nothing',
    ('vhd/op_probe.c', 'close'): 'a memfd that no store took over; libblkid reads nothing but descriptors',
    ('vhd/op_path.c', 'realpath'): 'makes a name given by the operator absolute; opens nothing',
    ('vhd/queue.c', 'write'): 'rings an eventfd',
    ('vhd/op_stream.c', 'write'): 'the target may be a pipe, which is not a store',
}

COMMENT_OR_STRING = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"', re.M)


def room_of(path):
    return path.split('/')[0]


def line_of(text, at):
    return text.count('\n', 0, at) + 1


def code_only(text):
    """Blanks comments and literals, keeping the lines where they are."""
    return COMMENT_OR_STRING.sub(lambda m: re.sub(r'[^\n]', ' ', m.group()), text)


def may_include(path, header):
    room, of = room_of(path), room_of(header)
    if room == of or room not in ARROWS:
        return True
    if header in ARROWS[room]:
        return True
    if of not in ARROWS[room]:
        return False
    name = header.split('/', 1)[1]
    return name in PUBLIC[of] if of in PUBLIC else not name.endswith('_int.h')


def check_includes(sources, used):
    for path, text in sources.items():
        for m in INCLUDE.finditer(text):
            header = m.group(1)
            where = '%s:%d' % (path, line_of(text, m.start()))
            if '/' not in header:
                yield '%s: "%s" is not named from the root of the project' % (where, header)
            elif (path, header) in INCLUDE_EXCEPTIONS:
                used.add((path, header))
            elif not may_include(path, header):
                yield '%s: %s/ may not include %s' % (where, room_of(path), header)


def check_calls(sources, used):
    for why, homes, where, names in RESERVED:
        call = re.compile(r'(?<![\w.>])(%s)[ \t]*\(' % '|'.join(names.split()))
        for path, text in sources.items():
            if not any(fnmatch.fnmatch(path, w) for w in where) or any(fnmatch.fnmatch(path, h) for h in homes):
                continue
            code = code_only(text)
            for m in call.finditer(code):
                if (path, m.group(1)) in CALL_EXCEPTIONS:
                    used.add((path, m.group(1)))
                else:
                    yield '%s:%d: %s(): %s' % (path, line_of(code, m.start()), m.group(1), why)


def check_exceptions(sources, used):
    for key in list(INCLUDE_EXCEPTIONS) + list(CALL_EXCEPTIONS):
        if key[0] in sources and key not in used:
            yield 'the exception of %s for %s is not needed' % key


def check_licence(sources, used):
    for path, text in sources.items():
        if 'SPDX-License-Identifier: BSD-2-Clause' not in '\n'.join(text.split('\n', 3)[:3]):
            yield '%s: no SPDX line at the top' % path


def check_width(sources, used):
    for path, text in sources.items():
        if not path.endswith(('.c', '.h')):
            continue
        for number, line in enumerate(text.split('\n'), 1):
            if len(line.expandtabs(8)) > 120:
                yield '%s:%d: %d columns, 120 are enough' % (path, number, len(line.expandtabs(8)))
            if line != line.rstrip():
                yield '%s:%d: blanks at the end of the line' % (path, number)


def compiles(compiler, flags, language, header):
    run = subprocess.run(compiler + flags + ['-x', language, '-fsyntax-only', '-Wall', '-Werror', '-'],
                         input='#include "%s"\n' % header, capture_output=True, text=True)
    return None if run.returncode == 0 else '%s does not compile alone as %s:\n%s' % (header, language, run.stderr)


def check_alone(root, sources, compiler):
    packages = ['fuse3', 'json-c', 'liburing', 'libisal', 'cmocka']
    flags = ['-D_GNU_SOURCE', '-D_FILE_OFFSET_BITS=64', '-I', root]
    for package in packages:
        run = subprocess.run(['pkg-config', '--cflags', package], capture_output=True, text=True)
        flags += run.stdout.split() if run.returncode == 0 else []
    jobs = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, text in sources.items():
            if not path.endswith('.h'):
                continue
            jobs.append(pool.submit(compiles, compiler, flags + ['-std=gnu11'], 'c', path))
            # What promises to be usable from C++ is. Some compilers come without that half.
            if 'extern "C"' in text and compiles(compiler, [], 'c++', 'stddef.h') is None:
                jobs.append(pool.submit(compiles, compiler, flags, 'c++', path))
        return [j.result() for j in jobs if j.result()]


# What each rule must object to; and, with None, what it must let pass.
SAMPLES = [
    (check_includes, 'base/x.c', '#include "vhd/vhd.h"\n', 'may not include'),
    (check_includes, 'vhd/x.c', '#include "tools/opts.h"\n', 'may not include'),
    (check_includes, 'fuse/x.c', '#include "vhd/image.h"\n', 'may not include'),
    (check_includes, 'storvsp/x.c', '#include "vmm/vmm.h"\n', 'may not include'),
    (check_includes, 'storvsc/x.c', '#include "storvsp/storvsp.h"\n', 'may not include'),
    (check_includes, 'storvsc/x.c', '#include "storvsp/vstor_wire.h"\n', None),
    (check_includes, 'tools/x.c', '#include "vhd/ops.h"\n', None),
    (check_includes, 'tools/x.c', '#include "vmm/client.h"\n', None),
    (check_includes, 'tools/x.c', '#include "vmm/config.h"\n', 'may not include'),
    (check_includes, 'tests/x.c', '#include "vhd/image.h"\n', None),
    (check_includes, 'vhd/x.c', '#include "image.h"\n', 'from the root'),
    (check_calls, 'vhd/x.c', 'r = pread(fd, b, n, 0);\n', 'store'),
    (check_calls, 'vhd/x.c', 'r = img->format->open(img); store_read(s); /* read(2) */ e("write(");\n', None),
    (check_calls, 'vhd/store_x.c', 'r = pread(fd, b, n, 0);\n', None),
    (check_calls, 'vhd/x.c', 'p = malloc (3);\n', 'alloc.h'),
    (check_calls, 'vhd/x.c', 't = time(NULL);\n', 'env.h'),
    (check_calls, 'base/x.c', 'exit(1);\n', 'exits'),
    (check_calls, 'tools/x.c', 'printf("x"); strcat(a, b);\n', 'length'),
    (check_licence, 'vhd/x.c', 'int x;\n', 'SPDX'),
    (check_licence, 'vhd/x.c', '/* SPDX-License-Identifier: BSD-2-Clause */\n', None),
    (check_width, 'vhd/x.c', '\t' * 14 + 'x' * 9 + '\n', '121 columns'),
    (check_width, 'vhd/x.c', 'x; \n', 'blanks'),
]


def check_samples():
    for rule, path, text, want in SAMPLES:
        found = list(rule({path: text}, set()))
        if (want is None and found) or (want and not any(want in f for f in found)):
            yield '%s on %s, %r: %s' % (rule.__name__, path, text, found or 'nothing found')


def read_sources(root):
    sources = {}
    for folder, folders, files in os.walk(root):
        # A build folder below the root holds generated code, which has other rules.
        folders[:] = sorted(f for f in folders if not f.startswith(('.', 'build')))
        for name in sorted(files):
            path = os.path.relpath(os.path.join(folder, name), root)
            if name.endswith(('.c', '.h', '.py', '.sh')) or name == 'meson.build':
                with open(os.path.join(root, path), encoding='utf-8') as f:
                    sources[path] = f.read()
    return sources


def main():
    root, compiler = sys.argv[1], sys.argv[2:]
    everything = read_sources(root)
    c = {path: text for path, text in everything.items() if path.endswith(('.c', '.h'))}
    used = set()
    results = [
        ('the rules bite', list(check_samples())),
        ('folders include along the arrows', list(check_includes(c, used))),
        ('calls stay in their files', list(check_calls(c, used))),
        ('no exception without need', list(check_exceptions(c, used))),
        ('every file names its licence', list(check_licence(everything, used))),
        ('120 columns, no blanks at the end', list(check_width(c, used))),
        ('headers compile alone', check_alone(root, c, compiler)),
    ]
    print('1..%d' % len(results))
    for number, (name, found) in enumerate(results, 1):
        print('%s %d - %s' % ('not ok' if found else 'ok', number, name))
        for f in found:
            print('\n'.join('# ' + line for line in f.splitlines()))
    return any(found for _, found in results)


if __name__ == '__main__':
    sys.exit(main())
