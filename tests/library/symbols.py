#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""What the public headers declare, what the symbol map lists and what the library shows are the same names.

usage: symbols.py LIBRARY MAP HEADER...
"""
import re
import shutil
import subprocess
import sys

COMMENT = re.compile(r'/\*.*?\*/', re.S)
DIRECTIVE = re.compile(r'^[ \t]*#(?:.*\\\n)*.*$', re.M)
FUNCTION = re.compile(r'\b((?:sp|vhd)_\w+)\s*\(')


def declared(headers):
    names = set()
    for path in headers:
        with open(path, encoding='utf-8') as f:
            names |= set(FUNCTION.findall(DIRECTIVE.sub('', COMMENT.sub('', f.read()))))
    return names


def mapped(path):
    with open(path, encoding='utf-8') as f:
        text = re.sub(r'#.*', '', f.read())
    return re.findall(r'\w+', text.split('global:')[1].split('local:')[0])


def shown(library):
    out = subprocess.run(['nm', '-D', '--defined-only', '--with-symbol-versions', library],
                         check=True, capture_output=True, text=True).stdout
    names = [line.split()[-1] for line in out.splitlines()]
    return {n for n in names if not n.startswith('LIBSPINDLE_')}


def difference(a, b, text_a, text_b):
    return ['%s: in %s, not in %s' % (n, text_a, text_b) for n in sorted(a - b)] + \
        ['%s: in %s, not in %s' % (n, text_b, text_a) for n in sorted(b - a)]


def main():
    library, map_path, headers = sys.argv[1], sys.argv[2], sys.argv[3:]
    if not shutil.which('nm'):
        print('1..0 # SKIP nm is not installed')
        return 0
    headers, listed = declared(headers), mapped(map_path)
    names = set(listed)
    results = [
        ('the headers declare something', [] if len(headers) > 40 else ['only %d functions found' % len(headers)]),
        ('the map names what the headers declare', difference(headers, names, 'the headers', 'the map')),
        ('the map names nothing twice', sorted({n for n in listed if listed.count(n) > 1})),
        ('the library shows what the map names',
         difference({n + '@@LIBSPINDLE_0' for n in names}, shown(library), 'the map', 'the library')),
    ]
    print('1..%d' % len(results))
    for number, (name, found) in enumerate(results, 1):
        print('%s %d - %s' % ('not ok' if found else 'ok', number, name))
        for f in found:
            print('# ' + f)
    return any(found for _, found in results)


if __name__ == '__main__':
    sys.exit(main())
