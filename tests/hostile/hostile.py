#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Opens images with hostile parent locators under strace and judges every open() by where it led.

usage: hostile.py HOSTILE [VHD_TOOL]      (TAP; exit status 77 without strace)

Within a case only these are right: the image itself; openat2() on the allowed folder with a relative name and the kernel
told to stay beneath and to follow no links; and whatever was opened must lie below the allowed folder.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

TRACE = 'trace=open,openat,openat2,creat,execve,execveat,open_by_handle_at,connect'
CALL = re.compile(r'^(?:\[pid +)?(\d+)?\]? *(\w+)\((.*)\) += (-?\d+)(?:<(.*)>)?(?: .*)?$')
MARK = re.compile(r'"/hostile/case/(\d+)"')
CONFINED = ('RESOLVE_BENEATH', 'RESOLVE_NO_SYMLINKS', 'RESOLVE_NO_MAGICLINKS', 'RESOLVE_NO_XDEV')
STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')


def unquote(text):
    return text.encode('latin-1', 'replace').decode('unicode_escape', 'replace')


def strace(args, trace, **more):
    return subprocess.run(['strace', '-f', '-y', '-s', '70000', '-e', TRACE, '-e', 'signal=none', '-o', trace] + args,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=150, **more)


def below(path, root):
    return path == root or path.startswith(root + '/')


def judge_call(call, args, result, found, image, root):
    """Why this call is wrong, or None."""
    if call in ('execve', 'execveat', 'creat', 'open_by_handle_at', 'connect'):
        return '%s(%.100s)' % (call, args)
    name = STRING.search(args)
    name = unquote(name.group(1)) if name else '?'
    if result >= 0 and found and not below(found, root):
        return '%s reached %s' % (call, found)
    if call == 'openat2':
        where = re.match(r'(?:\d+|AT_FDCWD)<(.*?)>, ', args)
        if not where or not below(where.group(1), root) or name.startswith('/'):
            return 'openat2 starts outside: %.200s' % args
        if not all(flag in args for flag in CONFINED):
            return 'openat2 is not confined: %.200s' % args[-200:]
        return None
    if name not in (image, root):       # by the operator's own words
        return '%s(%.200s)' % (call, args)
    return None


def read_trace(path, cases):
    """What was wrong, by case; and how many calls were looked at."""
    wrong, looked, current = {}, 0, None
    with open(path, encoding='latin-1') as f:
        for line in f:
            line = line.rstrip('\n')
            mark = MARK.search(line)
            if mark:
                current = int(mark.group(1))
                continue
            if current is None or current >= len(cases):
                continue
            m = CALL.match(line)
            if not m:
                wrong.setdefault(current, 'trace says: %.200s' % line)
                continue
            looked += 1
            case = cases[current]
            why = judge_call(m.group(2), m.group(3), int(m.group(4)), m.group(5), case['image'], case['root'])
            if why:
                wrong.setdefault(current, why)
    return wrong, looked


def make(hostile, top):
    made = subprocess.run([hostile, 'make', top], stdout=subprocess.PIPE, check=True).stdout.decode()
    cases = []
    for line in made.splitlines():
        name, image, root, expect = line.split('\t')
        cases.append({'name': name, 'image': image, 'root': os.path.dirname(image) if root == '-' else root,
                      'expect': expect.split(',')})
    return made, cases


def judge(case, answer, wrong):
    """Why the case failed, or None."""
    if answer is None:
        return 'no answer: it blocked, or died'
    result, told, ms, text = answer
    if wrong:
        return wrong
    if result not in case['expect']:
        return 'answers %s (%s), expected %s' % (result, text, ' or '.join(case['expect']))
    if result != '0' and (told != 'told' or not text):
        return 'fails with %s without a word' % result
    if any(ord(c) < 32 for c in text):
        return 'the message holds control characters: %r' % text
    if int(ms) >= 2000:
        return 'took %s ms' % ms
    return None


def run_engine(hostile, top):
    """TAP lines for the engine itself."""
    made, cases = make(hostile, top)
    trace = os.path.join(top, 'trace')
    done = strace([hostile, 'open', '-'], trace, input=made.encode())
    answers = {}
    for line in done.stdout.decode('utf-8', 'replace').split('\n'):
        part = line.split('\t')
        if len(part) >= 5:
            answers[int(part[0])] = part[1:4] + ['\t'.join(part[4:])]
    wrong, looked = read_trace(trace, cases)
    for n, case in enumerate(cases):
        yield case['name'], judge(case, answers.get(n), wrong.get(n))
    yield 'the program ended by itself', None if done.returncode == 0 else done.stderr.decode('utf-8', 'replace')[-2000:]
    # A trace that was read wrongly would find nothing wrong.
    yield 'the trace was read', None if looked >= len(cases) else '%d calls for %d cases' % (looked, len(cases))


def run_tool(tool, top):
    """TAP lines for the program people use, on one image of each kind of text."""
    root = os.path.join(top, 'root')
    images = sorted(os.path.join(root, n) for n in os.listdir(root) if re.match(r'c\d+-[05]\.', n))[::7]
    for image in images:
        trace = os.path.join(top, 'trace')
        done = strace([tool, 'info', '--chain', image], trace)
        name = 'vhd-tool info --chain %s' % os.path.basename(image)
        bad = None
        with open(trace, encoding='latin-1') as f:
            for line in f:
                m = CALL.match(line.rstrip('\n'))
                if m and m.group(5) and below(m.group(5), top) and not below(m.group(5), root):
                    bad = 'reached ' + m.group(5)
                if m and '/dev/' in m.group(3) and 'base' in m.group(3):
                    bad = m.group(3)
        if done.returncode not in (0, 1):
            bad = 'exit status %d: %s' % (done.returncode, done.stderr.decode('utf-8', 'replace')[-500:])
        elif done.returncode == 1 and not done.stderr.strip() and not done.stdout.strip():
            bad = 'fails without a word'
        yield name, bad


def strace_works():
    if not shutil.which('strace'):
        return False
    try:
        with tempfile.NamedTemporaryFile() as f:
            return strace(['true'], f.name).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def main():
    if not strace_works():
        print('1..0 # skip strace is missing or may not trace here')
        return 77
    # A leak check stops threads by ptrace, which is taken.
    os.environ['ASAN_OPTIONS'] = os.environ.get('ASAN_OPTIONS', '') + ':detect_leaks=0'
    failed = count = 0
    with tempfile.TemporaryDirectory(prefix='hostile-') as top:
        top = os.path.realpath(top)
        cases = list(run_engine(sys.argv[1], top))
        if len(sys.argv) > 2:
            cases += run_tool(sys.argv[2], top)
        for name, why in cases:
            count += 1
            failed += why is not None
            print('%sok %d - %s' % ('not ' if why else '', count, name.replace('#', '')))
            if why:
                print('# ' + ascii(why))
    print('1..%d' % count)
    return failed != 0


if __name__ == '__main__':
    sys.exit(main())
