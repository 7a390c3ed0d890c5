"""Who gets one of the slots of a pool, and when: all that is decided under the pool's lock.

A slot that comes free is handed to whose turn it is (core/turns), so that nobody can snatch it (SQLAlchemy's issue 7679).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import TimeoutError as PoolTimeout

from core.keeper import LEAVES_WITHIN_S, Keeper
from core.lease import Lease, NestedCheckout
from core.link import Link
from core.purpose import Purpose
from core.status import ReadablePool
from core.turns import Waiter


class SlottedPool(ReadablePool):
    """The slots of a pool: lent in turn, never more than its cap, and told at once where nothing is to be had."""

    _cap: int
    _closing: int
    _connecting: int
    _returned: deque[tuple[Lease, bool, float]]
    keeper: Keeper

    def _slot(self, wanted: Purpose, deadline_s: float, *, again: bool = False) -> Link | None:
        """Wait for a slot of the cap; return the idle connection in it, None where one has to be made.

        `again`: in exchange for one whose connection was dead, before all of its purpose. It may have to wait: what was
        closed counts until the server is rid of it, and after an outage a few connect at a time.
        """
        link = waiter = None
        self._settle()
        with self._lock:
            if again:
                self._turns.give_back(wanted)
            if self._turns.may_take(wanted, self._free()):
                link = self._take_slot(wanted)
            elif self._is_hopeless():
                self.meter.refusals += 1
                self._serve_waiters()
                raise self.outage.refusal()
            else:
                waiter = Waiter[Link](wanted)
                self._turns.wait(waiter, first=again)
                self._serve_waiters()
        self._settle()
        return link if waiter is None else self._wait(waiter, deadline_s)

    def _free(self) -> int:
        """Count the slots that can be given now; in and after an outage a few connect at a time."""
        if not self._idle and (self.outage.is_pending or self._connecting >= self.outage.connecting_max):
            return 0
        return self._cap - self._turns.used - self._closing - len(self.keeper.leaving)

    def _is_hopeless(self) -> bool:
        """Tell whether there is nothing to wait for: nothing lives, and somebody tries to connect or just tried."""
        if self._idle or not self.outage.is_on or not (self.outage.is_pending or self._connecting):
            return False
        return all(lease.link.is_hung_up() for lease in self.leases())

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

    def _wait(self, waiter: Waiter[Link], deadline_s: float) -> Link | None:
        self.keeper.call()
        held = [lease for lease in self.leases() if lease.thread is threading.current_thread()]
        patience_s = deadline_s - time.monotonic()
        if held:
            # What leaves, closes or connects ends by itself; whoever holds a connection may be waiting for us.
            is_brief = self.keeper.leaving or self._closing or self._connecting
            patience_s = min(LEAVES_WITHIN_S, patience_s) if is_brief else 0
        try:
            waiter.ready.acquire(timeout=max(patience_s, 0))
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
        if held and self.outage.is_on:
            raise self.outage.refusal()
        if held:
            raise NestedCheckout(held[0])
        raise self._too_late(waiter.purpose)

    def _too_late(self, wanted: Purpose) -> PoolTimeout:
        allowed_s = wanted.timeout_s or self._timeout
        return PoolTimeout(f"None came free for {wanted} within {allowed_s:g} s. {self.status()}")

    def _put_back(self, owner: Purpose, link: Link | None) -> None:
        """Undo a slot that nobody will use. The lock is held."""
        self._turns.give_back(owner)
        if link is None:
            self._connecting -= 1
        else:
            self._idle.append(link)

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
