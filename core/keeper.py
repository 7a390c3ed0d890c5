"""A thread that looks after the pool while there is something to look after: what is due, overdue, or forgotten."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg2

from core.lease import Lease, Stack, formatted
from core.link import Link
from core.purpose import BACKGROUND
from core.session import has_hung_up

if TYPE_CHECKING:
    from core.pool import FairPool

log = logging.getLogger(__name__)

TICK_S = 0.2
LONG_HELD_S = 60.0
LEAVES_WITHIN_S = 2.0
_REPORTED_MAX = 500


class Keeper:
    """Look every 0.2 s, until nothing is in use and nothing lingers."""

    def __init__(self, pool: FairPool) -> None:
        self._pool = pool
        # Reentrant: the garbage collector may return a connection, and call, while it is held.
        self._lock = threading.RLock()
        self._is_called = False
        self._is_awake = False
        self._asked: dict[object, tuple[Link, float]] = {}
        self._cutting = threading.RLock()  # a cut ends before its connection can be lent on
        self._reported: set[Stack] = set()
        self._leaked: deque[Lease] = deque()
        self.leaving: deque[tuple[socket.socket | None, float]] = deque()  # until when they count at most

    def call(self) -> None:
        """Make sure that somebody looks soon. Cheap: this is called at every checkout."""
        self._is_called = True
        if not self._is_awake:
            self._wake()

    def take(self, lease: Lease) -> None:
        """Tell of what was leaked, and close what was forgotten, soon: Python frees that at any line of any thread."""
        self._leaked.append(lease)
        self.call()

    def see_off(self, wire: socket.socket | None) -> None:
        """Count a server process that takes its time to go until it has gone, but 2 s at most; takes no lock.

        One that is frozen, or behind a wire that is cut, may stay for minutes, and the gate can't wait for that. None:
        its end can't be seen.
        """
        self.leaving.append((wire, time.monotonic() + LEAVES_WITHIN_S))
        self.call()

    @contextmanager
    def hanging_up_after(self, timeout_s: float, link: Link) -> Iterator[None]:
        """Cut the connection if this block takes longer, by up to a tick; the block has failed then, however it ended.

        A driver that waits for a frozen server can't be told to stop, and no timeout of libpq or TCP helps, since the
        kernel goes on acknowledging. Shutting down the socket does.

        Raises:
            psycopg2.OperationalError: it took longer.
        """
        token, pid = object(), os.getpid()
        self._asked[token] = link, time.monotonic() + timeout_s
        self.call()
        is_cut = False
        try:
            yield
        finally:
            if pid == os.getpid():  # in a forked child the lock may be held by nobody
                with self._cutting:
                    is_cut = self._asked.pop(token, None) is None
            if is_cut:
                link.session.close()
        if is_cut:
            raise psycopg2.OperationalError(f"The server did not answer within {timeout_s:g} s.")

    def _wake(self) -> None:
        with self._lock:
            if self._is_awake:
                return
            self._is_awake = True
            try:
                threading.Thread(target=self._run, name="pool-keeper", daemon=True).start()
            except RuntimeError:  # no thread to be had, or the interpreter ends
                self._is_awake = False

    def _run(self) -> None:
        is_needed = True
        while is_needed:
            time.sleep(TICK_S)
            self._is_called = False
            try:
                has_more = self._look()
            except Exception:
                log.exception("What the pool's keeper tried failed; it goes on")
                has_more = True
            with self._lock:
                # Who calls from now on finds nobody awake, and starts another thread.
                is_needed = self._is_awake = has_more or self._is_called

    def _look(self) -> bool:
        """Do what is due; tell whether there will be more."""
        pool, now_s = self._pool, time.monotonic()
        for token, (link, deadline_s) in self._asked.copy().items():
            if now_s > deadline_s:
                with self._cutting:
                    if self._asked.pop(token, None) is not None:
                        link.session.cut()
        for lease in pool.leases():
            if not lease.thread.is_alive() and lease.thread is not threading.main_thread():
                lease.reclaim("was held by a thread that ended")
            elif now_s - lease.since_s > LONG_HELD_S and lease.purpose is not BACKGROUND:
                self._report(lease, f"has been held for over {LONG_HELD_S:g} s")
        while self._leaked:
            lease = self._leaked.popleft()
            if lease.is_forgotten:
                pool.take_back(lease)
            self._report(lease, f"{lease.leak}; its slot is free again")
        for leaving in list(self.leaving):
            wire, until_s = leaving
            if now_s > until_s or (wire is not None and has_hung_up(wire, within_s=0)):
                self.leaving.remove(leaving)
                if wire is not None:
                    wire.close()
        pool.discard()
        return bool(self._asked or pool.checkedout() or pool.overflow() or self._leaked or self.leaving)

    def _report(self, lease: Lease, what: str) -> None:
        """Say it once a place."""
        if lease.stack not in self._reported and len(self._reported) < _REPORTED_MAX:
            self._reported.add(lease.stack)
            log.warning("A connection of %s %s. Taken at:\n%s", lease, what, formatted(lease.stack))
