"""A pool that is fair, hard-capped, shared by purposes and careful with a database that is away.

Built on SQLAlchemy's Pool: it keeps the records, events and proxies; this decides who gets one when. Used beyond its
documented surface, and held by tests: `_do_get`, `_do_return_conn`, `_create_connection`, `_invalidate_time`.

A slot that comes free is handed to the one whose turn it is (core/turns), so that nobody who comes later can snatch it
(SQLAlchemy's QueuePool lets them: its issue 7679). A failed connect is told to everybody who waits (core/outage).
"""

from __future__ import annotations

import random
import select
import threading
import time
from collections import deque
from typing import Any, cast

import psycopg2
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry, Pool
from sqlalchemy.pool.base import _ConnectionRecord

from core import purpose
from core.lease import Lease, formatted, stack
from core.outage import JITTER, DatabaseAway, Outage, line
from core.purpose import Purpose
from core.turns import Turns, Waiter

LINGER_S = 60.0  # how long a connection above pool_size stays open unused: 5 + 10 without it opened 163 for 12 threads
PING_AFTER_S = 5.0  # how long an idle connection is trusted


class NestedCheckout(RuntimeError):
    """A thread that holds a connection asks for a second one and would have to wait for it."""


class FairPool(Pool):
    """Hand connections to threads in turn; never open more than pool_size + max_overflow."""

    def __init__(
        self, creator: Any, pool_size: int = 5, max_overflow: int = 10, timeout: float = 30.0, **kwargs: Any
    ) -> None:
        super().__init__(creator, **kwargs)
        self._size = pool_size
        self._cap = pool_size + max_overflow
        self._timeout_s = timeout
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget every connection without touching it: in a forked child they are the parent's."""
        self._lock = threading.Lock()
        self._idle: deque[_ConnectionRecord] = deque()  # the last used on the right
        self._leases: dict[_ConnectionRecord, Lease] = {}
        self._turns: Turns[_ConnectionRecord] = Turns(self._cap)
        self._closing = 0
        self._connecting = 0
        self._suspect_until_s = 0.0
        self._sweeper: threading.Timer | None = None
        self._outage = Outage(self._cap)

    def reserve_shares(self) -> None:
        """Put the guarantees of all purposes into force: where several meet, in a process that serves."""
        self._turns.reserve_shares()

    def _do_get(self) -> _ConnectionRecord:
        wanted = purpose.current()
        waiter = None
        with self._lock:
            if not self._idle:
                self._outage.check()
            if self._turns.may_take(wanted, self._free()):
                record = self._take_slot(wanted)
            else:
                waiter = Waiter[_ConnectionRecord](wanted)
                self._turns.wait(waiter)
                self._serve_waiters()
        if waiter is not None:
            record = self._wait(waiter)
        record = self._connected(record, wanted)
        self._leases[record] = Lease.now(wanted)
        return record

    def _free(self) -> int:
        """Count the slots that can be given now; after an outage a few connect at a time."""
        if not self._idle and self._connecting >= self._outage.connecting_max:
            return 0
        return self._cap - self._turns.used - self._closing

    def _take_slot(self, wanted: Purpose) -> _ConnectionRecord | None:
        """Use a slot; return the idle connection in it, None where one has to be made."""
        self._turns.take(wanted)
        if self._idle:
            return self._idle.pop()
        self._connecting += 1
        return None

    def _serve_waiters(self) -> None:
        """Hand free slots to those whose turn it is. The lock is held."""
        while self._turns.waiting and (waiter := self._turns.next(self._free())) is not None:
            waiter.serve(self._take_slot(waiter.purpose))

    def _wait(self, waiter: Waiter[_ConnectionRecord]) -> _ConnectionRecord | None:
        held = [lease for lease in list(self._leases.values()) if lease.thread is threading.current_thread()]
        timeout_s = waiter.purpose.timeout_s or self._timeout_s
        if not waiter.ready.acquire(timeout=0 if held else timeout_s):
            with self._lock:
                if not waiter.is_served:
                    self._turns.leave(waiter)
                    self._serve_waiters()
        if waiter.error is not None:
            raise waiter.error
        if waiter.is_served:
            return waiter.thing
        if held:
            raise NestedCheckout(
                f"This thread holds a connection already ({held[0]}), taken at:\n{formatted(held[0].stack)}"
                f"and would wait for itself at:\n{formatted(stack())}"
            )
        raise PoolTimeout(f"None came free for {waiter.purpose} within {timeout_s:g} s. {self.describe()}")

    def _connected(self, record: _ConnectionRecord | None, wanted: Purpose) -> _ConnectionRecord:
        """Return a live connection in a slot that is ours; give the slot back where there is none to be had."""
        if record is not None and self._is_alive(record):
            return record
        is_counted = record is None  # in _connecting
        try:
            if record is not None:
                record.close()
                with self._lock:
                    self._outage.check()
            record = cast(_ConnectionRecord, self._create_connection())
        except BaseException as error:
            with self._lock:
                self._turns.give_back(wanted)
                self._connecting -= is_counted
                if isinstance(error, psycopg2.OperationalError) and not isinstance(error, DatabaseAway):
                    self._outage.begin(error)
                    self._turns.send_all_away(DatabaseAway(f"The database is away: {line(error)}"))
                self._serve_waiters()
            raise
        with self._lock:
            self._connecting -= is_counted
            self._outage.end()
            self._serve_waiters()
        return record

    def _is_alive(self, record: _ConnectionRecord) -> bool:
        """Look whether an idle connection can be handed out; ask the server only after a while."""
        connection = record.dbapi_connection
        age_s = time.time() - record.last_connect_time
        if (
            connection is None
            or record.last_connect_time < self._invalidate_time
            or age_s > self._expires_s(record)
        ):
            return False
        # An idle server says nothing: what can be read here is its farewell. Costs no round trip.
        is_quiet = not _poller(record, connection.fileno()).poll(0)
        idle_since_s = record.info["idle_since_s"]
        if is_quiet and idle_since_s > max(_now() - PING_AFTER_S, self._suspect_until_s):
            return True
        try:
            connection.autocommit = True  # or the ping would begin a transaction
            connection.cursor().execute("SELECT 1")
            connection.autocommit = False
        except psycopg2.Error:
            # What broke this one broke the others that were idle, too.
            self._discard(everything=True)
            return False
        return True

    def _expires_s(self, record: _ConnectionRecord) -> float:
        if self._recycle < 0:
            return float("inf")
        share: float = record.info.setdefault("recycle_share", 1 - random.uniform(0, JITTER))
        return self._recycle * share

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        record = cast(_ConnectionRecord, record)
        lease = self._leases.pop(record, None)
        if lease is None:  # taken before a fork: the parent's
            return
        is_sound = record.dbapi_connection is not None and record.last_connect_time >= self._invalidate_time
        if not is_sound:
            self._suspect_until_s = _now()  # what broke this one may have broken those that are idle
            record.close()  # while it still has its slot: the cap holds at the server, too
        record.info["idle_since_s"] = _now()
        with self._lock:
            self._turns.give_back(lease.purpose)
            if is_sound:
                self._idle.append(record)
            self._serve_waiters()
            self._plan_sweep()

    def _plan_sweep(self) -> None:
        if self._sweeper is None and self._idle and self._turns.used + len(self._idle) > self._size:
            self._sweeper = threading.Timer(LINGER_S, self._sweep)
            self._sweeper.daemon = True
            self._sweeper.start()

    def _sweep(self) -> None:
        self._discard(everything=False)
        with self._lock:
            self._sweeper = None
            self._plan_sweep()

    def _discard(self, *, everything: bool) -> None:
        """Close idle connections: those above pool_size that lingered long enough, or all."""
        discarded = []
        with self._lock:
            if everything:
                self._invalidate_time = time.time()
            while self._idle and (
                everything
                or (
                    self._turns.used + len(self._idle) > self._size
                    and _now() - self._idle[0].info["idle_since_s"] >= LINGER_S
                )
            ):
                discarded.append(self._idle.popleft())
            self._closing += len(discarded)
        for record in discarded:
            record.close()
        with self._lock:
            self._closing -= len(discarded)
            self._serve_waiters()

    def dispose(self) -> None:
        """Close what is idle now, and what is in use when it comes back."""
        self._discard(everything=True)

    def recreate(self) -> FairPool:
        """Return this pool: a second one would have a second cap (SQLAlchemy's dispose() lends 30 of 15)."""
        return self

    def status(self) -> str:
        """Say in one line what every connection is doing."""
        return self.describe()

    def describe(self) -> str:
        """Name holders, waiters and the last failure to connect: what somebody who waited in vain needs to know."""
        with self._lock:
            leases = sorted(self._leases.values(), key=lambda lease: lease.since_s)
            waiting = self._turns.lengths()
            idle = len(self._idle)
        words = [f"{len(leases)} of {self._cap} in use, {idle} idle, waiting: {waiting or 'nobody'}."]
        if leases:
            words.append(f"Held longest: {'; '.join(map(str, leases[:3]))}.")
        if self._outage.last_error is not None:
            words.append(f"Last failure to connect: {line(self._outage.last_error)}.")
        return " ".join(words)

    def size(self) -> int:
        """Return pool_size."""
        return self._size

    def checkedin(self) -> int:
        """Count connections that are open and idle."""
        return len(self._idle)

    def checkedout(self) -> int:
        """Count connections that are in use or being made for somebody."""
        return self._turns.used

    def overflow(self) -> int:
        """Count connections above pool_size."""
        return max(self.checkedin() + self.checkedout() - self._size, 0)


def _poller(record: _ConnectionRecord, descriptor: int) -> select.poll:
    poller: select.poll | None = record.info.get("poller")
    if poller is None:
        poller = record.info["poller"] = select.poll()  # select.select() stops at descriptor 1023
        poller.register(descriptor, select.POLLIN)
    return poller


def _now() -> float:
    return time.monotonic()
