#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Adds up the last test runs of some build folders: the failed ones by name, then one closing line.

usage: sum.py BUILD_DIR...

A program that reports its own cases, by TAP or as cmocka does, counts by case; any other counts as one.
Exit status 1 when something failed or a folder holds no results.
"""
import json
import os
import re
import sys

RUN = re.compile(r'^\[ RUN      \] ', re.M)
RUN_OK = re.compile(r'^\[       OK \] ', re.M)
RUN_SKIPPED = re.compile(r'^\[  SKIPPED \] ', re.M)
TAP_PLAN = re.compile(r'^1\.\.\d+', re.M)
TAP_CASE = re.compile(r'^(not )?ok\b(.*)$', re.M)


def count_cases(out):
    """(passed, failed, skipped) by the program's own account, all 0 when it gives none."""
    started = len(RUN.findall(out))
    if started:
        passed, skipped = len(RUN_OK.findall(out)), len(RUN_SKIPPED.findall(out))
        return passed, started - passed - skipped, skipped  # a case that crashed never says how it ended
    passed = failed = skipped = 0
    if TAP_PLAN.search(out):
        for bad, rest in TAP_CASE.findall(out):
            if re.search(r'# *skip', rest, re.I):
                skipped += 1
            elif bad and not re.search(r'# *todo', rest, re.I):
                failed += 1
            else:
                passed += 1
    return passed, failed, skipped


def count(entry):
    result = entry['result']
    passed, failed, skipped = count_cases(entry.get('stdout') or '')
    if result == 'SKIP':
        return 0, 0, max(skipped, 1)
    if result in ('OK', 'EXPECTEDFAIL'):
        # What was meant to fail has passed by failing.
        return (passed, failed, skipped) if passed + skipped and not failed else (1, 0, 0)
    return passed, max(failed, 1), skipped  # a leak, a crash or a timeout counts beside passed cases


def main():
    total = [0, 0, 0]
    for build in sys.argv[1:]:
        log = os.path.join(build, 'meson-logs', 'testlog.json')
        if not os.path.exists(log):
            print('failed: %s has no test results' % build)
            total[1] += 1
            continue
        with open(log, encoding='utf-8') as f:
            entries = [json.loads(line) for line in f if line.strip()]
        for entry in entries:
            counts = count(entry)
            total = [a + b for a, b in zip(total, counts)]
            if counts[1]:
                print('failed: %s (%s, %s)' % (entry['name'], build, entry['result'].lower()))
    print('%d passed, %d failed, %d skipped' % tuple(total))
    return total[1] != 0


if __name__ == '__main__':
    sys.exit(main())
