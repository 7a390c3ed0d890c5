"""A pool that is fair, hard-capped, shared by purposes and careful with a database that is away.

Built on SQLAlchemy's Pool: it keeps the records, events and proxies; this decides who gets one when. Used beyond its
documented surface, and held by tests: `_do_get`, `_do_return_conn`, `_create_connection`, `_invalidate_time`, and of its
records `fairy_ref` and `needs_gc`.

A slot that comes free is handed to whose turn it is (core/turns), so that nobody can snatch it (SQLAlchemy's issue 7679).
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2
from sqlalchemy import event
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool.base import _ConnectionRecord

from core import purpose
from core.keeper import Keeper
from core.lease import Lease, NestedCheckout
from core.link import Link
from core.meter import Meter
from core.outage import Outage
from core.purpose import Purpose
from core.status import ReadablePool
from core.turns import Turns, Waiter

LINGER_S = 60.0  # how long a connection above pool_size stays open unused: 5 + 10 without it opened 163 for 12 threads
INTRODUCE_TIMEOUT_S = 0.4


class FairPool(ReadablePool):
    """Hand connections (core.link.PooledConnection) to threads in turn; never open more than size + overflow."""

    def __init__(
        self, creator: Any, pool_size: int = 5, max_overflow: int = 10, timeout: float = 30.0, **kwargs: Any
    ) -> None:
        super().__init__(creator, **kwargs | {"reset_on_return": None})
        # Named as QueuePool names them, for whoever looks.
        self._size = pool_size
        self._max_overflow = max_overflow
        self._cap = pool_size + max_overflow
        self._timeout, self._has_shares = timeout, False
        self.target: Callable[[], Any] = lambda: None  # where connections should lead to now
        event.listen(self, "reset", self._clean)
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget every connection without touching it: in a forked child they are the parent's."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: deque[Link] = deque()  # the last used on the right
        self._leases: dict[_ConnectionRecord, Lease] = {}
        self._turns: Turns[Link] = Turns(self._cap)
        self._turns.share(in_force=self._has_shares)
        self._returned: deque[tuple[Lease, bool, float]] = deque()
        self._closing = 0
        self._connecting = 0
        self._suspect_until_s = 0.0
        self.sound_at_s = 0.0  # when a connection last was made, or came back in good order
        self.outage = Outage(self._cap)
        self.meter = Meter()
        self.keeper = Keeper(self)

    def reserve_shares(self, *, in_force: bool = True) -> None:
        """Put the guarantees of all purposes into force: in a process that serves, where several meet."""
        self._has_shares = in_force
        purpose.serve(from_now_on=in_force)
        self._turns.share(in_force=in_force)

    def _do_get(self) -> _ConnectionRecord:
        asked_s = time.monotonic()
        wanted = purpose.current()
        link = self._slot(wanted)
        try:
            link = self._usable(link, wanted, time.monotonic())
            self._leases[link.record] = Lease(link, wanted, asked_s)
        except BaseException:
            if link is not None:
                with suppress(Exception):
                    link.close()
            with self._changing():
                self._turns.give_back(wanted)
            raise
        self.keeper.call()
        return link.record

    def _slot(self, wanted: Purpose) -> Link | None:
        """Wait for a slot of the cap; return the idle connection in it, None where one has to be made."""
        link = waiter = None
        with self._lock:
            if self._turns.may_take(wanted, self._free()):
                link = self._take_slot(wanted)
            elif self._is_hopeless():
                self.meter.refusals += 1
                raise self.outage.refusal()
            else:
                waiter = Waiter[Link](wanted)
                self._turns.wait(waiter)
                self._serve_waiters()
        self._settle()
        return link if waiter is None else self._wait(waiter)

    def _free(self) -> int:
        """Count the slots that can be given now; in and after an outage a few connect at a time."""
        if not self._idle and (self.outage.is_pending or self._connecting >= self.outage.connecting_max):
            return 0
        return self._cap - self._turns.used - self._closing - len(self.keeper.leaving)

    def _is_hopeless(self) -> bool:
        """Tell whether there is nothing to wait for: nobody works, nothing is idle, and somebody tries or just tried."""
        is_tried = self.outage.is_pending or self._connecting > 0
        return self.outage.is_on and is_tried and not self._idle and not self._leases

    def _take_slot(self, wanted: Purpose) -> Link | None:
        """Use a slot; return the idle connection in it, one that served this purpose before others."""
        self._turns.take(wanted)
        idle = self._idle
        if not idle:
            self._connecting += 1
            return None
        if idle[-1].purpose is not wanted:
            for link in reversed(idle):
                if link.purpose is wanted:
                    idle.remove(link)
                    return link
        return idle.pop()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock; then serve whoever can be served now, and book what came back meanwhile."""
        with self._lock:
            yield
            self._serve_waiters()
        self._settle()

    def _serve_waiters(self) -> None:
        """Hand free slots to those whose turn it is. The lock is held."""
        while self._turns.waiting and (waiter := self._turns.next(self._free())) is not None:
            waiter.serve(self._take_slot(waiter.purpose))
        if self._turns.waiting and self._is_hopeless():
            self._turns.send_all_away(self.outage.refusal)

    def _wait(self, waiter: Waiter[Link]) -> Link | None:
        held = [lease for lease in self.leases() if lease.thread is threading.current_thread()]
        timeout_s = waiter.purpose.timeout_s or self._timeout
        try:
            waiter.ready.acquire(timeout=0 if held else timeout_s)
        except BaseException:  # Ctrl-C
            with self._changing():
                if not waiter.is_served:
                    self._turns.leave(waiter)
                elif waiter.error is None:
                    self._put_back(waiter.purpose, waiter.thing)
            raise
        if not waiter.is_served:
            with self._changing():
                if not waiter.is_served:  # it may have been served at the last moment
                    self._turns.leave(waiter)
                    self.meter.timeouts[waiter.purpose.rank] += not held
        if waiter.error is not None:
            raise waiter.error
        if waiter.is_served:
            return waiter.thing
        if held:
            raise NestedCheckout(held[0])
        raise PoolTimeout(f"None came free for {waiter.purpose} within {timeout_s:g} s. {self.status()}")

    def _put_back(self, owner: Purpose, link: Link | None) -> None:
        """Undo a slot that nobody will use. The lock is held."""
        self._turns.give_back(owner)
        if link is None:
            self._connecting -= 1
        else:
            self._idle.append(link)

    def _usable(self, link: Link | None, wanted: Purpose, now_s: float) -> Link:
        """Return a live connection for a slot that is ours."""
        if link is None:
            try:
                return self._connect(wanted)
            finally:
                with self._changing():
                    self._connecting -= 1
        if self._is_current(link) and link.is_worth_keeping(self.target(), now_s):
            if link.purpose is wanted and link.is_trusted(now_s, suspect_until_s=self._suspect_until_s):
                return link
            try:
                with self.keeper.hanging_up_after(INTRODUCE_TIMEOUT_S, link):
                    link.introduce(wanted)
                self.sound_at_s = now_s
                return link
            except psycopg2.Error:  # what broke this one broke the others that were idle, too
                self.discard(everything=True, broken=1)
        link.close()
        if self._is_hopeless():
            raise self.outage.refusal()
        return self._connect(wanted)

    def _connect(self, wanted: Purpose) -> Link:
        start_s = time.monotonic()
        try:
            record: Any = self._create_connection()
            link = Link(record, wanted, target=self.target(), recycle_s=self._recycle)
            link.session.see_off = self.keeper.see_off
        except psycopg2.OperationalError as error:
            with self._lock:
                self.outage.begin(error)
                self.meter.connect_failures += 1
            raise
        with self._lock:
            self.outage.end()
            self.meter.connect.observe(time.monotonic() - start_s)
        self.sound_at_s = link.idle_since_s
        return link

    def _is_current(self, link: Link) -> bool:
        return link.is_current(valid_from_time=self._invalidate_time)

    def _clean(self, _connection: Any, record: Any, _state: Any) -> None:
        """Make the session as good as new (SQLAlchemy's reset event)."""
        lease = self._leases.get(record)
        if lease is not None and self._pid == os.getpid():
            if record.needs_gc and not lease.leak:
                lease.leak = "was forgotten"
            try:
                lease.is_dirty = lease.link.clean()
            except psycopg2.Error as error:  # broken, or beyond cleaning
                record.invalidate(error)

    def _do_return_conn(self, record: Any) -> None:
        # Taken before a fork: the parent's. Python frees what other threads held before any at-fork hook runs.
        lease = self._leases.pop(record, None) if self._pid == os.getpid() else None
        if lease is None:
            return
        if lease.leak:
            self.keeper.leaked.append(lease)
        link = lease.link
        is_sound = self._is_current(link)
        now_s = time.monotonic()
        try:
            if is_sound:
                self.sound_at_s = link.idle_since_s = now_s
            else:
                self._suspect_until_s = now_s  # what broke this one may have broken those that are idle
                link.close()  # while it still has its slot: the cap holds at the server, too
        finally:
            self._returned.append((lease, is_sound, now_s))
            self._settle()

    def _settle(self) -> None:
        """Book what was returned; if somebody holds the lock, that one does it right after, and nobody waits for it.

        The garbage collector may return a forgotten connection at any moment, also in a thread that holds the lock.
        """
        while self._returned and self._lock.acquire(blocking=False):
            try:
                while self._returned:
                    lease, is_sound, at_s = self._returned.popleft()
                    self._turns.give_back(lease.purpose)
                    self.meter.returned(lease, at_s, is_sound=is_sound)
                    if is_sound:
                        self._idle.append(lease.link)
                if self._turns.waiting:
                    self._serve_waiters()
            finally:
                self._lock.release()

    def discard(self, *, everything: bool = False, broken: int = 0) -> None:
        """Close idle connections: those above pool_size that lingered long enough, or all."""
        discarded = []
        with self._lock:
            self.meter.invalidations += broken
            if everything:
                self._invalidate_time = time.time()
            due_s = time.monotonic() - LINGER_S
            while self._idle and (everything or (self.overflow() and self._idle[0].idle_since_s <= due_s)):
                discarded.append(self._idle.popleft())
            self._closing += len(discarded)
        try:
            for link in discarded:
                link.close()
        finally:
            with self._changing():
                self._closing -= len(discarded)

    def dispose(self) -> None:
        """Close what is idle now, and what is in use when it comes back."""
        self.discard(everything=True)

    def recreate(self) -> FairPool:
        """Return this pool: a second one would have a second cap (SQLAlchemy's dispose() lends 30 of 15)."""
        return self
