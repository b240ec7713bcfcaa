#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Runs libiscsi's conformance suite against the SCSI units and judges what it says.

usage: run.py ISCSI_TARGET VHD_TOOL [FAMILY...]

Speaks TAP, one line per test of the suite. Every test must pass. What it leaves out, and where it is wrong itself, is
named in skips.txt with the reason; a skip or failure that is not there fails, and so does an entry that is not needed.
"""
import fnmatch
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

SUITE = 'iscsi-test-cu'
TARGET_NAME = 'iqn.2000-01.example.spindle:test'
FAMILY_SECONDS = 60

# A unit to be judged: its name in skips.txt, how the target opens it, size, options of the image, families (None: all),
# and families that another run has.
READING = ['Inquiry', 'Mandatory', 'ModeSense6', 'PrinReadKeys', 'PrinReportCapabilities', 'Read6', 'Read10', 'Read12',
           'Read16', 'ReadCapacity10', 'ReadCapacity16', 'ReadOnly', 'ReportSupportedOpcodes', 'TestUnitReady']
DRIVE = ['Inquiry', 'Mandatory', 'ModeSense6', 'Read10', 'Read12', 'ReadCapacity10', 'ReportSupportedOpcodes',
         'StartStopUnit', 'TestUnitReady']
LARGE_BLOCKS = ['CompareAndWrite', 'GetLBAStatus', 'Inquiry', 'Read12', 'Read16', 'ReadCapacity10', 'ReadCapacity16',
                'Unmap', 'Write12', 'Write16', 'WriteSame10']
WAITING = ['Reserve6']		# mostly sleeps
LONGEST = ['WriteVerify10', 'WriteVerify12', 'WriteVerify16', 'Verify10', 'Verify12', 'Verify16']
DISK = ('--disk', '64M', ['-f', 'vhdx'])
# GetLBAStatus.UnmapSingle asks for block i + 1, but expects the first of the next physical block.
DISK_512 = ('--disk', '64M', ['-f', 'vhdx', '-o', 'physical_sector_size=512'])
STATUS = ['GetLBAStatus']
FRESH = ['MultipathIO']		# clears 256 blocks, but works on one more, which must be zero
RUNS = [
    ('disk', *DISK, WAITING, []),
    ('disk', *DISK, FRESH, []),
    ('disk', *DISK, LONGEST, []),
    ('disk', *DISK_512, STATUS, []),
    ('disk', *DISK, None, WAITING + LONGEST + STATUS + FRESH),
    ('4k', '--disk', '256M', ['-f', 'vhdx', '-o', 'logical_sector_size=4096'], LARGE_BLOCKS, []),
    ('readonly', '--read-only', '64M', ['-f', 'vhdx'], READING, []),
    ('dvd', '--dvd', '64M', ['-f', 'raw'], DRIVE, []),
]

# What a test says stands behind its name, and its verdict at the start of a line or at once.
TEST = re.compile(r'^  Test: (\S+) \.\.\.(.*?)(?=^  Test: |^Suite|^Run Summary|\Z)', re.S | re.M)
VERDICT = re.compile(r'^(passed|FAILED)', re.M)


def families_of_suite():
    listing = subprocess.run([SUITE, '-l'], capture_output=True, text=True, check=False).stdout
    return sorted(set(re.findall(r'^SCSI\.(\w+)$', listing, re.M)))


class Skips:
    """Lines "UNIT VERDICT FAMILY.TEST REASON": VERDICT is skip (the suite leaves it out) or wrong (it errs itself)."""

    def __init__(self, path):
        self.entries = []
        with open(path, encoding='utf-8') as f:
            for line in f:
                words = line.split('#')[0].split(None, 3)
                if len(words) == 4:
                    self.entries.append({'unit': words[0], 'verdict': words[1], 'test': words[2],
                                         'reason': words[3].strip(), 'used': False})

    def find(self, unit, verdict, test):
        for e in self.entries:
            if e['verdict'] == verdict and unit == e['unit'] and fnmatch.fnmatch(test, e['test']):
                e['used'] = True
                return e['reason']
        return None

    def unused(self, families):
        return [e for e in self.entries if not e['used'] and
                any(fnmatch.fnmatch(f, e['test'].split('.')[0]) for f in families.get(e['unit'], []))]


def run_family(family, url):
    """What each test came to: {name: (passed, [reason of a skip], output)}; and the whole output."""
    # The path of a second session, for those tests that want two.
    urls = [url, url] if family == 'MultipathIO' else [url]
    with subprocess.Popen([SUITE, '-d', '-v', '-t', 'SCSI.' + family] + urls, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors='replace', start_new_session=True) as suite:
        try:
            output, _ = suite.communicate(timeout=FAMILY_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(suite.pid, signal.SIGKILL)
            output = suite.communicate()[0] + '\nkilled after %d seconds\n' % FAMILY_SECONDS
    results = {}
    for name, said in TEST.findall(output):
        verdict = VERDICT.search(said)
        before = said[:verdict.start()] if verdict else said
        results[name] = (verdict and verdict.group() == 'passed', re.findall(r'\[SKIPPED\] *(.*)', before), said)
    return results, output


def expected_tests(listing, family):
    return re.findall(r'^SCSI\.%s\.(\S+)$' % re.escape(family), listing, re.M)


def run_unit(target, vhd_tool, run, only, listing):
    """All wanted families before one unit, in a target of its own: (results, what the target complained of)."""
    label, how, size, options, families, elsewhere = run
    results, complaint = [], ''
    wanted = [f for f in (families or families_of_suite()) if f not in elsewhere and (not only or f in only)]
    if not wanted:
        return label, wanted, results, complaint
    with tempfile.TemporaryDirectory(prefix='spindle-iscsi-') as folder:
        image = os.path.join(folder, 'image')
        subprocess.run([vhd_tool, 'create'] + options + [image, size], check=True, stdout=subprocess.DEVNULL)
        with subprocess.Popen([target, how, image], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, errors='replace') as server:
            port = server.stdout.readline().strip()
            url = 'iscsi://127.0.0.1:%s/%s/0' % (port, TARGET_NAME)
            for family in wanted if port else []:
                tests, output = run_family(family, url)
                for name in expected_tests(listing, family):
                    results.append((family + '.' + name, tests.get(name, (False, [], output[-2000:]))))
            _, complaint = server.communicate()
            if server.returncode != 0:
                complaint += 'the target ended with %d\n' % server.returncode
    return label, wanted, results, complaint


class Tap:
    def __init__(self):
        self.number, self.failed = 0, 0

    def line(self, good, text, detail=''):
        self.number += 1
        self.failed += not good and ' # TODO ' not in text
        print('%s %d - %s' % ('ok' if good else 'not ok', self.number, text))
        for line in detail.splitlines() if not good else []:
            print('#   ' + line)


def judge(tap, skips, label, name, result):
    passed, left_out, said = result
    if not passed:
        wrong = skips.find(label, 'wrong', name)
        tap.line(False, '%s %s%s' % (label, name, ' # TODO ' + wrong if wrong else ''), said)
    elif left_out:
        reason = skips.find(label, 'skip', name)
        if reason:
            tap.line(True, '%s %s # SKIP %s' % (label, name, reason))
        else:
            tap.line(False, '%s %s was skipped, which skips.txt does not explain' % (label, name), '\n'.join(left_out))
    else:
        tap.line(True, '%s %s' % (label, name))


def main():
    target, vhd_tool, only = sys.argv[1], sys.argv[2], sys.argv[3:]
    if not shutil.which(SUITE):
        print('1..0 # SKIP %s (package libiscsi-bin) is not installed' % SUITE)
        return 0
    tap = Tap()
    skips = Skips(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'skips.txt'))
    listing = subprocess.run([SUITE, '-l'], capture_output=True, text=True, check=False).stdout
    families = {}
    with ThreadPoolExecutor(3) as pool:
        for label, wanted, results, complaint in pool.map(
                lambda run: run_unit(target, vhd_tool, run, only, listing), RUNS):
            families.setdefault(label, []).extend(wanted)
            for name, result in results:
                judge(tap, skips, label, name, result)
            if wanted:
                tap.line(not complaint, '%s: the target ends well' % label, complaint)
    for e in skips.unused(families):
        tap.line(False, '%(unit)s %(test)s: skips.txt excuses it, but there is no need' % e)
    print('1..%d' % tap.number)
    return tap.failed != 0


if __name__ == '__main__':
    sys.exit(main())
