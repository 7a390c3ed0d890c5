"""Connections that cost nothing and can be told to break, for tests of the pool by itself."""

import socket
import time

import psycopg2

from core.purpose import WEB, entering


class Driver:
    """Makes connections that only count; can be told to be away."""

    def __init__(self):
        self.open = set()
        self.made = 0
        self.most = 0
        self.attempts = 0
        self.error = None

    def connect(self):
        self.attempts += 1
        if self.error:
            raise self.error
        made = Connection(self)
        self.open.add(made)
        self.made += 1
        self.most = max(self.most, len(self.open))
        return made


class Connection:
    def __init__(self, driver):
        self.driver = driver
        self.introductions = []
        self.closed = 0
        self.cleaned = 0
        self.is_dead = False
        self.hangs = False
        self.ours, self.servers = socket.socketpair()

    def fileno(self):
        return self.ours.fileno()

    def clean(self):
        self.cleaned += 1
        return False

    def describe(self):
        return {}

    def introduce(self, purpose):
        self.introductions.append(purpose)
        if self.hangs:
            self.ours.recv(1)
        if self.is_dead or self.hangs:
            raise psycopg2.OperationalError("server closed the connection")

    def cut(self):
        self.ours.shutdown(socket.SHUT_RDWR)

    def hang_up(self):
        pass

    def close(self):
        self.closed = 1
        self.driver.open.discard(self)
        self.ours.close()
        self.servers.close()


def waiting(fair):
    return fair._turns.waiting


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def take(fair, item=WEB):
    with entering(item, "test"):
        return fair.connect()
