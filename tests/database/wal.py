#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The example writer on a database with a write-ahead log, and its protocol spoken by another program.

usage: wal.py SQLITE_WRITER

Frozen, the database file alone is the database: a copy of it opens without its log, and adds up. Speaks TAP.
"""
import os
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time

HELLO, CHECK, READY, FREEZE, FROZEN, REFUSED, THAW, THAWED, COMPLETE = range(1, 10)
MESSAGE = struct.Struct('<IHHII112s')


class Writer:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(20)
        for _ in range(500):
            try:
                self.socket.connect(path)
                break
            except OSError:
                time.sleep(0.01)
        self.serial = 0
        self.hello = self.receive()

    def receive(self):
        data = self.socket.recv(4096)
        if len(data) != MESSAGE.size:
            return None
        magic, version, kind, serial, value, text = MESSAGE.unpack(data)
        assert (magic, version) == (0x57565053, 1)
        return kind, serial, value, text.split(b'\0')[0].decode()

    def ask(self, kind, value=0, text=''):
        self.serial += 1
        self.socket.send(MESSAGE.pack(0x57565053, 1, kind, self.serial, value, text.encode()))
        return self.receive() if kind != COMPLETE else None


def load(path, stop, written):
    db = sqlite3.connect(path, timeout=30, isolation_level=None)
    while not stop.is_set():
        db.executescript('BEGIN IMMEDIATE; UPDATE n SET a = a + 1; UPDATE n SET b = b - 1; COMMIT')
        written[0] += 1
        time.sleep(0.0005)
    db.close()


def adds_up(path, copy):
    shutil.copyfile(path, copy)
    db = sqlite3.connect(copy)
    good = db.execute('PRAGMA integrity_check').fetchone() == ('ok',)
    a, b = db.execute('SELECT a, b FROM n').fetchone()
    db.close()
    for suffix in ('', '-wal', '-shm'):
        if os.path.exists(copy + suffix):
            os.unlink(copy + suffix)
    return good and a + b == 0


def result(number, good, what):
    print('%sok %d - %s' % ('' if good else 'not ', number, what), flush=True)


def main():
    work = tempfile.mkdtemp()
    path, sock = os.path.join(work, 'db'), os.path.join(work, 'sock')
    db = sqlite3.connect(path, isolation_level=None)
    db.execute('PRAGMA journal_mode=WAL')
    db.execute('CREATE TABLE n(a, b)')
    db.execute('INSERT INTO n VALUES(0, 0)')
    program = subprocess.Popen([sys.argv[1], sock, path])
    stop, written = threading.Event(), [0]
    threads = [threading.Thread(target=load, args=(path, stop, written)) for _ in range(2)]
    for t in threads:
        t.start()
    print('1..6')
    w = Writer(sock)
    result(1, w.hello == (HELLO, 0, 2, 'sqlite'), 'greeting')
    bad, behind = [], 0
    for i in range(20):
        before = written[0]
        while written[0] < before + 2:
            time.sleep(0.001)
        behind += os.path.getsize(path + '-wal') > 0
        answers = [w.ask(CHECK, text='s')[0], w.ask(FREEZE, 10000)[0]]
        wal = os.path.getsize(path + '-wal')
        good = adds_up(path, path + '.copy')
        answers.append(w.ask(THAW)[0])
        w.ask(COMPLETE, 1)
        if answers != [READY, FROZEN, THAWED] or wal or not good:
            bad.append((i, answers, wal, good))
    result(2, not bad, 'twenty times: no log beside the database, which adds up %s' % bad[:3])
    result(3, behind > 0, 'there was a log in between')

    # Nobody says "thaw": the window does.
    begin = time.monotonic()
    frozen = w.ask(FREEZE, 300)
    early = w.receive()
    late = w.ask(THAW)
    result(4, frozen[0] == FROZEN and early[:3] == (THAWED, 0, 1) and late[0] == THAWED and late[2] == 1 and
           0.25 < time.monotonic() - begin < 5, 'thawed by the end of the window, and it says so')

    # The connection goes.
    w.ask(FREEZE, 60000)
    w.socket.close()
    before = written[0]
    time.sleep(0.5)
    result(5, written[0] > before + 1, 'thawed by the end of the connection')

    # What is no message ends the connection, and the next one is served.
    w = Writer(sock)
    w.socket.send(b'x' * 4000)
    result(6, w.receive() is None and Writer(sock).hello[0] == HELLO, 'no message')
    stop.set()
    for t in threads:
        t.join()
    db.close()
    program.terminate()
    program.wait(10)
    shutil.rmtree(work)


main()
