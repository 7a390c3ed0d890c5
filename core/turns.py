"""Whose turn it is: the queues of all purposes, what each is guaranteed and what each uses.

One rule for sharing: a purpose may take a free slot if enough stay free for what the more urgent purposes are
guaranteed and don't use. So the urgent borrow what others leave idle, and never the other way round. Whoever waits
below its own guarantee is served first, then whoever waits longest.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Generic, TypeVar

from core import purpose
from core.purpose import PURPOSES, Purpose

T = TypeVar("T")
BEFORE_ALL = 2**62


class Waiter(Generic[T]):
    """One who stands in the queue of its purpose until it is served with a thing, with nothing, or with an error."""

    __slots__ = ("error", "is_served", "label", "number", "purpose", "ready", "since_s", "thing")
    _numbers = count()

    def __init__(self, wanted: Purpose) -> None:
        self.purpose = wanted
        self.label = purpose.label()
        self.number = next(self._numbers)
        self.since_s = time.monotonic()
        self.thing: T | None = None
        self.error: BaseException | None = None
        self.is_served = False
        self.ready = threading.Lock()
        self.ready.acquire()

    def serve(self, thing: T | None = None, error: BaseException | None = None) -> None:
        """Wake the one who waits."""
        self.thing, self.error, self.is_served = thing, error, True
        self.ready.release()


class Turns(Generic[T]):
    """Queues, guarantees and use; its owner's lock guards it."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._guaranteed = [0] * len(PURPOSES)
        self._guaranteed_sum = 0  # or more
        self._in_use = [0] * len(PURPOSES)
        self._queues: list[deque[Waiter[T]]] = [deque() for _ in PURPOSES]
        self.used = 0
        self.waiting = 0

    def share(self, *, in_force: bool) -> None:
        """Put the guarantees into force: together about half of the cap, so that a pool of one serves everybody."""
        left = self._guaranteed_sum = min((self._cap + 1) // 2, self._cap - 1) if in_force else 0
        for item in PURPOSES:
            self._guaranteed[item.rank] = min(item.guaranteed, left)
            left -= self._guaranteed[item.rank]

    def may_take(self, wanted: Purpose, free: int) -> bool:
        """Tell whether somebody who comes now, finding nobody waiting, is served without waiting."""
        return not self.waiting and (free > self._guaranteed_sum or free > self._kept_free_from(wanted))

    def take(self, owner: Purpose) -> None:
        """Count a slot as used."""
        self._in_use[owner.rank] += 1
        self.used += 1

    def give_back(self, owner: Purpose) -> None:
        """Count a slot as free."""
        self._in_use[owner.rank] -= 1
        self.used -= 1

    def wait(self, waiter: Waiter[T], *, first: bool = False) -> None:
        """Join the queue, at its end or before everybody in it."""
        queue = self._queues[waiter.purpose.rank]
        if first:
            waiter.number -= BEFORE_ALL
            queue.insert(sum(other.number < 0 for other in queue), waiter)
        else:
            queue.append(waiter)
        self.waiting += 1

    def leave(self, waiter: Waiter[T]) -> None:
        """Leave the queue unserved."""
        self._queues[waiter.purpose.rank].remove(waiter)
        self.waiting -= 1

    def next(self, free: int) -> Waiter[T] | None:
        """Take the one out of the queues whose turn it is, if there are slots for it."""
        if not self.waiting or free <= 0:
            return None
        is_owed = False
        first: tuple[bool, int, Waiter[T]] | None = None
        for item in PURPOSES:
            queue = self._queues[item.rank]
            if not queue:
                continue
            borrows = self._in_use[item.rank] >= self._guaranteed[item.rank]
            is_owed |= not borrows
            if free > self._kept_free_from(item):
                turn = (borrows, queue[0].number, queue[0])
                first = turn if first is None or turn[:2] < first[:2] else first
        # Where somebody below its guarantee can't be served yet, nobody borrows: free slots add up until it can.
        if first is None or (first[0] and is_owed):
            return None
        self.leave(first[2])
        return first[2]

    def send_all_away(self, refusal: Callable[[], BaseException]) -> None:
        """Answer everybody who waits, each with an error of its own."""
        for queue in self._queues:
            while queue:
                self.waiting -= 1
                queue.popleft().serve(error=refusal())

    def waiters(self) -> list[Waiter[T]]:
        """List who waits, by purpose and then in turn; needs no lock."""
        return [waiter for queue in self._queues for waiter in queue.copy()]

    def _kept_free_from(self, wanted: Purpose) -> int:
        kept = 0
        for guaranteed, in_use in zip(self._guaranteed[: wanted.rank], self._in_use, strict=False):
            if in_use < guaranteed:
                kept += guaranteed - in_use
        return kept
