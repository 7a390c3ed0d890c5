"""A thread that looks after the pool while there is something to look after: what is due, overdue, or forgotten."""

from __future__ import annotations

import logging
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
_REPORTED_MAX = 500


class Keeper:
    """Look every 0.2 s, until nothing is in use and nothing lingers."""

    def __init__(self, pool: FairPool) -> None:
        self._pool = pool
        # Reentrant: the garbage collector may return a connection, and call, while it is held.
        self._lock = threading.RLock()
        self._is_called = False
        self._is_awake = False
        self._asked: dict[Link, float] = {}
        self._reported: set[Stack] = set()
        self.leaked: deque[Lease] = deque()  # what came back without being given back
        self.leaving: deque[socket.socket] = deque()  # closed here, and the server's process is still there

    def call(self) -> None:
        """Make sure that somebody looks soon. Cheap: this is called at every checkout."""
        self._is_called = True
        if not self._is_awake:
            self._wake()

    def see_off(self, wire: socket.socket) -> None:
        """Count a server process that takes its time to go until it has gone; takes no lock."""
        self.leaving.append(wire)
        self.call()

    @contextmanager
    def hanging_up_after(self, timeout_s: float, link: Link) -> Iterator[None]:
        """Cut the connection if this block takes longer, by up to a tick; the block has failed then, however it ended.

        A driver that waits for a frozen server can't be told to stop, and no timeout of libpq or TCP helps, since the
        kernel goes on acknowledging. Shutting down the socket does.

        Raises:
            psycopg2.OperationalError: it took longer.
        """
        self._asked[link] = time.monotonic() + timeout_s
        self.call()
        is_cut = False
        try:
            yield
        finally:
            is_cut = self._asked.pop(link, None) is None  # if not yet, it is being cut at this moment
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
            has_more = self._look()
            with self._lock:
                # Who calls from now on finds nobody awake, and starts another thread.
                is_needed = self._is_awake = has_more or self._is_called

    def _look(self) -> bool:
        """Do what is due; tell whether there will be more."""
        pool, now_s = self._pool, time.monotonic()
        for link, deadline_s in self._asked.copy().items():
            if now_s > deadline_s and self._asked.pop(link, None) is not None:
                link.session.cut()
        for lease in pool.leases():
            if not lease.thread.is_alive() and lease.thread is not threading.main_thread():
                lease.reclaim("was held by a thread that ended")
            elif now_s - lease.since_s > LONG_HELD_S and lease.purpose is not BACKGROUND:
                self._report(lease, f"has been held for over {LONG_HELD_S:g} s")
        for wire in list(self.leaving):
            if has_hung_up(wire, within_s=0):
                wire.close()
                self.leaving.remove(wire)
        while self.leaked:
            lease = self.leaked.popleft()
            self._report(lease, f"{lease.leak}; it is back in the pool")
        pool.discard()
        return bool(self._asked or pool.checkedout() or pool.overflow() or self.leaked or self.leaving)

    def _report(self, lease: Lease, what: str) -> None:
        """Say it once a place."""
        if lease.stack not in self._reported and len(self._reported) < _REPORTED_MAX:
            self._reported.add(lease.stack)
            log.warning("A connection of %s %s. Taken at:\n%s", lease, what, formatted(lease.stack))
