"""A pool that is fair, hard-capped, shared by purposes and careful with a database that is away.

Built on SQLAlchemy's Pool: it keeps the records, events and proxies; this decides who gets one when. Used beyond its
documented surface, and held by tests: `_do_get`, `_do_return_conn`, `_create_connection`, `_invalidate_time`.

A slot that comes free is handed to the one whose turn it is (core/turns), so that nobody who comes later can snatch it
(SQLAlchemy's QueuePool lets them: its issue 7679). A failed connect is told to everybody who waits (core/outage).
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any, cast

import psycopg2
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry, Pool
from sqlalchemy.pool.base import _ConnectionRecord

from core import liveness, purpose
from core.lease import Lease, formatted, longest, stack
from core.outage import DatabaseAway, Outage
from core.purpose import Purpose
from core.turns import Turns, Waiter

LINGER_S = 60.0  # how long a connection above pool_size stays open unused: 5 + 10 without it opened 163 for 12 threads
LIVELY_S = 30.0


class NestedCheckout(RuntimeError):
    """A thread that holds a connection asks for a second one and would have to wait for it."""


class FairPool(Pool):
    """Hand connections to threads in turn; never open more than pool_size + max_overflow."""

    def __init__(
        self, creator: Any, pool_size: int = 5, max_overflow: int = 10, timeout: float = 30.0, **kwargs: Any
    ) -> None:
        super().__init__(creator, **kwargs)
        # Named as QueuePool names them, for whoever looks.
        self._size = pool_size
        self._max_overflow = max_overflow
        self._cap = pool_size + max_overflow
        self._timeout = timeout
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget every connection without touching it: in a forked child they are the parent's."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: deque[_ConnectionRecord] = deque()  # the last used on the right
        self._leases: dict[_ConnectionRecord, Lease] = {}
        self._turns: Turns[_ConnectionRecord] = Turns(self._cap)
        self._returned: deque[tuple[Purpose, _ConnectionRecord | None]] = deque()
        self._closing = 0
        self._connecting = 0
        self._suspect_until_s = 0.0
        self._sound_at_s = 0.0
        self._sweeper: threading.Timer | None = None
        self._outage = Outage(self._cap)

    def reserve_shares(self) -> None:
        """Put the guarantees of all purposes into force: where several meet, in a process that serves."""
        self._turns.reserve_shares()

    def _do_get(self) -> _ConnectionRecord:
        wanted = purpose.current()
        record = self._slot(wanted)
        try:
            record = self._connected(record)
            self._leases[record] = Lease.now(wanted)
        except BaseException:
            if record is not None:
                with suppress(Exception):
                    record.close()
            with self._lock:
                self._turns.give_back(wanted)
                self._serve_waiters()
            self._settle()
            raise
        return record

    def _slot(self, wanted: Purpose) -> _ConnectionRecord | None:
        """Wait for a slot of the cap; return the idle connection in it, None where one has to be made."""
        waiter = None
        with self._lock:
            if self._is_hopeless():
                raise self._outage.refusal()
            if self._turns.may_take(wanted, self._free()):
                record = self._take_slot(wanted)
            else:
                waiter = Waiter[_ConnectionRecord](wanted)
                self._turns.wait(waiter)
                self._serve_waiters()
        self._settle()
        return record if waiter is None else self._wait(waiter)

    def _free(self) -> int:
        """Count the slots that can be given now; in and after an outage a few connect at a time."""
        if not self._idle and (self._outage.is_pending or self._connecting >= self._outage.connecting_max):
            return 0
        return self._cap - self._turns.used - self._closing

    def _is_hopeless(self) -> bool:
        """Tell whether there is nothing to wait for: nobody works, nothing is idle, no attempt is due."""
        return self._outage.is_pending and not self._idle and not self._leases and not self._connecting

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
        if self._turns.waiting and self._is_hopeless():
            self._turns.send_all_away(self._outage.refusal)

    def _wait(self, waiter: Waiter[_ConnectionRecord]) -> _ConnectionRecord | None:
        me = threading.current_thread()
        is_full = self._turns.used >= self._cap
        held = [lease for lease in self._leases.copy().values() if is_full and lease.thread is me]
        timeout_s = waiter.purpose.timeout_s or self._timeout
        try:
            waiter.ready.acquire(timeout=0 if held else timeout_s)
        except BaseException:  # Ctrl-C
            self._stop_waiting(waiter)
            if waiter.is_served and waiter.error is None:
                self._hand_back(waiter.purpose, waiter.thing)
            raise
        self._stop_waiting(waiter)
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

    def _stop_waiting(self, waiter: Waiter[_ConnectionRecord]) -> None:
        if not waiter.is_served:
            with self._lock:
                if not waiter.is_served:  # it may have been served at the last moment
                    self._turns.leave(waiter)
                    self._serve_waiters()
            self._settle()

    def _hand_back(self, owner: Purpose, record: _ConnectionRecord | None) -> None:
        """Undo a slot that nobody will use."""
        with self._lock:
            self._turns.give_back(owner)
            if record is None:
                self._connecting -= 1
            else:
                self._idle.append(record)
            self._serve_waiters()
        self._settle()

    def _connected(self, record: _ConnectionRecord | None) -> _ConnectionRecord:
        """Return a live connection for a slot that is ours."""
        is_counted = record is None  # in _connecting
        try:
            if record is not None:
                if self._is_alive(record):
                    return record
                record.close()
                if self._is_hopeless():
                    raise self._outage.refusal()
            record = cast(_ConnectionRecord, self._create_connection())
        except psycopg2.OperationalError as error:
            if not isinstance(error, DatabaseAway):
                with self._lock:
                    self._outage.begin(error)
            raise
        else:
            with self._lock:
                self._outage.end()
            self._sound_at_s = _now()
            return record
        finally:
            if is_counted:
                with self._lock:
                    self._connecting -= 1
                    self._serve_waiters()
            self._settle()

    def _is_alive(self, record: _ConnectionRecord) -> bool:
        is_current = record.dbapi_connection is not None and record.last_connect_time >= self._invalidate_time
        if not is_current or liveness.is_expired(record, self._recycle):
            return False
        if liveness.is_trusted(record, suspect_until_s=self._suspect_until_s) or liveness.answers(record):
            return True
        # What broke this one broke the others that were idle, too.
        self._discard(everything=True)
        return False

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        record = cast(_ConnectionRecord, record)
        # Taken before a fork: the parent's. Python frees what other threads held before any at-fork hook runs.
        lease = self._leases.pop(record, None) if self._pid == os.getpid() else None
        if lease is None:
            return
        is_sound = record.dbapi_connection is not None and record.last_connect_time >= self._invalidate_time
        try:
            if is_sound:
                self._sound_at_s = _now()
            else:
                self._suspect_until_s = _now()  # what broke this one may have broken those that are idle
                record.close()  # while it still has its slot: the cap holds at the server, too
            record.info["idle_since_s"] = _now()
        finally:
            self._returned.append((lease.purpose, record if is_sound else None))
            self._settle()

    def _settle(self) -> None:
        """Book what was returned; if somebody holds the lock, that one does it right after.

        Returning never waits for the lock: the garbage collector may return a forgotten connection at any moment, also
        in a thread that holds it.
        """
        while self._returned and self._lock.acquire(blocking=False):
            try:
                while self._returned:
                    owner, record = self._returned.popleft()
                    self._turns.give_back(owner)
                    if record is not None:
                        self._idle.append(record)
                self._serve_waiters()
                self._plan_sweep()
            finally:
                self._lock.release()

    def _plan_sweep(self) -> None:
        if self._sweeper is None and self._idle and self._turns.used + len(self._idle) > self._size:
            sweeper = threading.Timer(LINGER_S, self._sweep)
            sweeper.daemon = True
            with suppress(RuntimeError):  # no thread to be had, or the interpreter ends
                sweeper.start()
                self._sweeper = sweeper

    def _sweep(self) -> None:
        try:
            self._discard(everything=False)
        finally:
            with self._lock:
                self._sweeper = None
                self._plan_sweep()
            self._settle()

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
        try:
            for record in discarded:
                record.close()
        finally:
            with self._lock:
                self._closing -= len(discarded)
                self._serve_waiters()
            self._settle()

    def dispose(self) -> None:
        """Close what is idle now, and what is in use when it comes back."""
        self._discard(everything=True)

    def recreate(self) -> FairPool:
        """Return this pool: a second one would have a second cap (SQLAlchemy's dispose() lends 30 of 15)."""
        return self

    def is_lively(self) -> bool:
        """Tell whether connections were made or returned sound lately: what can be known of the server without asking."""
        return _now() - self._sound_at_s < LIVELY_S

    def describe(self) -> str:
        """Name holders, waiters and the last failure to connect: what somebody who waited in vain needs to know."""
        with self._lock:
            leases = list(self._leases.copy().values())
            waiting = self._turns.lengths()
            idle = len(self._idle)
        self._settle()
        words = [
            f"{len(leases)} of {self._cap} in use, {idle} idle, waiting: {waiting or 'nobody'}.",
            *longest(leases),
        ]
        if self._outage.last_error:
            words.append(f"Last failure to connect: {self._outage.last_error}.")
        return " ".join(words)

    status = describe

    def size(self) -> int:
        """Return pool_size."""
        return self._size

    def timeout(self) -> float:
        """Return pool_timeout: seconds, for purposes that have no deadline of their own."""
        return self._timeout

    def checkedin(self) -> int:
        """Count connections that are open and idle."""
        return len(self._idle)

    def checkedout(self) -> int:
        """Count connections that are in use or being made for somebody."""
        return self._turns.used

    def overflow(self) -> int:
        """Count connections above pool_size."""
        return max(self.checkedin() + self.checkedout() - self._size, 0)


def _now() -> float:
    return time.monotonic()
