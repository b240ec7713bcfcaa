#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Everybody who takes part in a snapshot dies or hangs at each point of its way, as real processes.

usage: vss_matrix.py [CELL...]		a cell: VICTIM-POINT-kill|stop, or a guest's name

Victims: the writer on the host, the requester, the machine, the guest (reset, paused). The writer's program runs the
deed: before and after its answers to CHECK (checking, preparing), FREEZE (freezing, committing), THAW (thawing,
finishing). In each cell: who is left is thawed in time, no snapshot is good without everybody frozen, a later one
works, the disks are in order. Speaks TAP.
"""
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

TOOL, VM, APP, GUESTS = (os.environ.get(v, '') for v in ('VHD_TOOL', 'SPINDLE_VM', 'VSS_APP', 'VSS_GUESTS'))
POINTS = ('check', 'checked', 'freeze', 'frozen', 'thaw', 'thawed')
WINDOW, SLACK = 2, 4			# seconds; slack for a loaded machine
ODD_GUESTS = {'hangs_check': ('check-timeout',), 'hangs_freeze': ('freeze-timeout',), 'refuses': ('freeze-error',),
              'falls': ('writer-gone',), 'hangs_thaw': ('freeze-timeout', 'thaw-failed')}
SOON = [(v, p, 'kill') for v in ('writer', 'requester', 'machine', 'guest') for p in POINTS]
WAITING = [(v, p, 'stop') for v in ('writer', 'requester', 'machine', 'guest') for p in POINTS]


class Broken(Exception):
    pass


def need(condition, *what):
    if not condition:
        raise Broken(' '.join(str(w) for w in what))


def until(condition, seconds, *what):
    end = time.monotonic() + seconds
    while not condition():
        need(time.monotonic() < end, 'not within %g s:' % seconds, *what)
        time.sleep(0.02)


def may_be_good(victim, point, how):
    """Whether everybody may have been frozen nevertheless when the disks switched, and told to thaw after."""
    if victim == 'writer' or victim == 'requester':
        return point == 'thawed'
    if victim == 'machine':
        return point == 'thawed' or (how == 'stop' and point in ('check', 'checked', 'thaw'))
    return how == 'kill' or point in ('frozen', 'thaw', 'thawed')


class Cell:
    def __init__(self, victim, point=None, how=None, guest='answers'):
        self.victim, self.point, self.how, self.guest = victim, point, how, guest
        self.work = tempfile.mkdtemp(prefix='vss-')
        os.mkdir(self.work + '/run', 0o700)
        self.env = dict(os.environ, XDG_RUNTIME_DIR=self.work + '/run',
                        ASAN_OPTIONS=os.environ.get('ASAN_OPTIONS', '') + ':detect_leaks=0')
        self.children = []

    def path(self, name):
        return os.path.join(self.work, name)

    def read(self, name):
        try:
            with open(self.path(name), errors='replace') as f:
                return f.read().split('\n')
        except FileNotFoundError:
            return []

    def spawn(self, *args, name=None):
        with open(self.path((name or 'out') + '.err'), 'a') as err:
            p = subprocess.Popen(args, cwd=self.work, env=self.env, stdin=subprocess.DEVNULL, stderr=err,
                                 stdout=subprocess.PIPE if name == 'requester' else subprocess.DEVNULL, text=True)
        self.children.append(p)
        if name:
            with open(self.path(name + '.new'), 'w') as f:
                f.write(str(p.pid))
            os.rename(self.path(name + '.new'), self.path(name + '.pid'))
        return p

    def run(self, *args):
        return subprocess.run(args, cwd=self.work, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=60)

    # ---- participants

    def start_machine(self):
        self.machine = self.spawn(VM, 'run', '--name', 'm', '--mem', '32', '--serial', 'file:serial', '--kernel',
                                  '%s/vss_%s.elf' % (GUESTS, self.guest), '--disk', 'a.vhdx', '--disk', 'b.vhdx',
                                  name='machine')
        until(lambda: self.run(VM, 'status', 'm').returncode == 0, 15, 'the machine')

    def guest_is_up(self):
        status = self.run(VM, 'status', 'm', '--output=json')
        return status.returncode == 0 and json.loads(status.stdout)['services']['vss']['state'] == 'ok'

    def start_writer(self, *deed):
        self.writer = self.spawn(APP, 'writer.sock', 'log', *deed, name='writer')
        until(lambda: os.path.exists(self.path('writer.sock')), 10, 'the writer')

    def create(self, name, *options):
        return self.spawn(VM, 'snapshot', 'create', '--check-timeout=%d' % WINDOW, '--freeze-timeout=%d' % WINDOW,
                          '--output=json', *options, 'm', name, name='requester')

    def deed(self):
        number = 'KILL' if self.how == 'kill' else 'STOP'
        if self.victim == 'guest':
            return '%s %s m' % (VM, 'reset' if self.how == 'kill' else 'pause')
        return 'while [ ! -e %s.pid ]; do sleep 0.01; done; kill -%s $(cat %s.pid)' % (
            self.victim, number, self.victim)

    # ---- what must hold

    def writer_is_free(self):
        said = [line.split()[0] for line in self.read('log') if line]
        return not [s for s in said if s in ('freeze', 'thaw')][-1:] == ['freeze']

    def guest_is_free(self):
        said = [line.strip() for line in self.read('serial') if line.strip() in ('vss', 'freeze', 'thaw')]
        return said[-1:] != ['freeze']

    def frozen_times(self):
        begin, times = None, []
        for line in self.read('log'):
            words = line.split()
            if words and words[0] == 'freeze':
                begin = float(words[1])
            elif words and words[0] == 'thaw' and begin:
                times.append(float(words[1]) - begin)
                begin = None
        return times

    def others_are_free(self):
        """The victim itself may not be able to."""
        if self.victim != 'writer' and not self.writer_is_free():
            return False
        if self.victim in ('guest', 'machine') and self.how == 'stop':
            return True
        return (self.victim == 'machine') or self.guest_is_free()

    def check_good(self):
        """A first snapshot that is called good: the guest was frozen once, without a restart, and so was the writer."""
        guest = [line.strip() for line in self.read('serial') if line.strip() in ('vss', 'freeze', 'thaw')]
        need('freeze' in guest and guest[guest.index('freeze') + 1:][:1] == ['thaw'], 'good, but the guest', guest)
        said = [line.split()[0] for line in self.read('log') if line]
        need(said[:2] == ['freeze', 'thaw'] or self.victim == 'writer', 'good, but the writer', said)

    def revive(self):
        if self.victim == 'writer' and self.how == 'kill':
            self.start_writer()
        elif self.victim == 'machine' and self.how == 'kill':
            self.machine.wait(10)
            self.start_machine()
        elif self.victim == 'guest' and self.how == 'stop':
            self.run(VM, 'resume', 'm')
        elif self.how == 'stop':
            os.kill(getattr(self, self.victim).pid, signal.SIGCONT)

    def later_one(self, *options):
        until(self.guest_is_up, 15, 'the guest')
        for attempt in range(40):
            p = self.create('later', *options)
            out = p.communicate(timeout=60)[0]
            if p.returncode == 0:
                return json.loads(out)
            time.sleep(0.25)		# the first one is still being taken back
        raise Broken('no later snapshot: %s' % self.read('requester.err')[-3:])

    def names(self):
        listed = self.run(VM, 'snapshot', 'list', 'm', '--output=json')
        need(listed.returncode == 0, 'list', listed.stdout)
        return [s['name'] for s in json.loads(listed.stdout)]

    def end(self):
        self.run(VM, 'stop', '--force', 'm')
        self.machine.wait(20)
        for disk in ('a.vhdx', 'b.vhdx'):
            checked = self.run(TOOL, 'check', '-q', disk)
            need(checked.returncode == 0, 'check of', disk, checked.stdout)
        left = [f for f in os.listdir(self.work) if '.live' in f or '.tmp' in f]
        need(not left, 'left behind:', left)

    def first_one(self):
        """How the requester ended: True good, False no snapshot, None it could not tell."""
        self.requester = self.create('first', '--writer=writer.sock', '--require=application')
        alone = self.how == 'stop' and self.victim in ('requester', 'machine')  # no end comes without a revival
        if alone:
            until(lambda: self.point in ('check', 'checked') or self.read('log'), 10, 'the deed')
            time.sleep(WINDOW + 0.5)
            until(self.others_are_free, SLACK, 'others thawed')
            self.revive()
        out = self.requester.communicate(timeout=60)[0]
        until(self.others_are_free, SLACK, 'others thawed')
        if not alone:
            self.revive()
        need(self.requester.returncode in (0, 1, -9), 'exit status', self.requester.returncode)
        if self.requester.returncode == -9:
            return None
        if self.requester.returncode == 0:
            need(json.loads(out)['level'] == 'application', 'level', out)
        return self.requester.returncode == 0

    def check_all(self):
        for disk in ('a.vhdx', 'b.vhdx'):
            self.run(TOOL, 'create', '-q', disk, '64M')
        self.start_machine()
        self.start_writer(self.point, self.deed())
        until(self.guest_is_up, 15, 'the guest')
        good = self.first_one()
        if good:
            need(may_be_good(self.victim, self.point, self.how), 'it is called good')
            self.check_good()
        until(lambda: self.writer_is_free() or (self.victim == 'writer' and self.how == 'kill'), SLACK, 'writer thawed')
        until(self.guest_is_free, SLACK, 'guest thawed')
        if self.victim not in ('writer',):
            need(max(self.frozen_times() + [0]) < WINDOW + SLACK, 'frozen for', self.frozen_times())
        recovered = self.run(VM, 'snapshot', 'recover')
        need(recovered.returncode == 0, 'recover:', recovered.stdout)
        need(not glob.glob(self.path('run/spindle/frozen-*')), 'still on record')
        need(self.later_one('--writer=writer.sock', '--require=application')['level'] == 'application', 'later one')
        names = self.names()
        need('later' in names, names)
        if good is not None and not (self.victim == 'machine' and self.how == 'kill'):
            need(('first' in names) == good, 'the requester said %s, but' % good, names)
        elif self.victim == 'requester' and self.point not in ('thaw', 'thawed'):
            need('first' not in names, 'nobody knows of', names)
        self.end()

    def check_odd_guest(self):
        for disk in ('a.vhdx', 'b.vhdx'):
            self.run(TOOL, 'create', '-q', disk, '64M')
        self.start_machine()
        self.start_writer()
        until(self.guest_is_up, 15, 'the guest')
        p = self.create('first', '--writer=writer.sock', '--require=application')
        out = p.communicate(timeout=60)[0]
        reason = json.loads(out)['reason']
        need(p.returncode == 1 and reason in ODD_GUESTS[self.guest], 'reason', reason, p.returncode)
        until(self.writer_is_free, SLACK, 'writer thawed')
        need('thaw' in ' '.join(self.read('log')) or self.guest == 'hangs_check', 'never frozen')
        need(self.guest in ('hangs_check', 'falls') or 'thaw' in self.read('serial') or self.guest == 'hangs_freeze',
             'the guest was not told', self.read('serial'))
        self.run(VM, 'reset', 'm')
        later = self.later_one('--no-quiesce')
        need(later['level'] == 'crash' and self.names() == ['later'], later, self.names())
        self.end()

    def close(self):
        for p in self.children:
            if p.poll() is None:
                p.send_signal(signal.SIGCONT)
                p.kill()
                p.wait()
            if p.stdout:
                p.stdout.close()
        shutil.rmtree(self.work, ignore_errors=True)


def name_of(cell):
    return cell if isinstance(cell, str) else '-'.join(cell)


def try_cell(cell):
    c = Cell('guest', guest=cell) if isinstance(cell, str) else Cell(*cell)
    begin = time.monotonic()
    try:
        c.check_odd_guest() if isinstance(cell, str) else c.check_all()
        return cell, None, time.monotonic() - begin
    except Exception as e:
        notes = ['%s: %s' % (type(e).__name__, e)]
        for name in ('requester.err', 'machine.err', 'log', 'serial'):
            notes += ['%s: %s' % (name, line) for line in c.read(name)[-12:] if line]
        return cell, notes, time.monotonic() - begin
    finally:
        c.close()


def main():
    if not os.access('/dev/kvm', os.W_OK):
        print('1..0 # SKIP no /dev/kvm')
        return
    cells = [c for c in list(ODD_GUESTS) + WAITING + SOON if not sys.argv[1:] or name_of(c) in sys.argv[1:]]
    print('1..%d' % len(cells), flush=True)
    failed = 0
    with ThreadPoolExecutor(6) as pool:
        for i, (cell, notes, seconds) in enumerate(pool.map(try_cell, cells)):
            print('%sok %d - %s # %.1f s' % ('not ' if notes else '', i + 1, name_of(cell), seconds), flush=True)
            for line in notes or []:
                print('#', line)
            failed += bool(notes)
    sys.exit(failed > 0)


main()
