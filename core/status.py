"""What a pool looks like at this moment, in words and in numbers; reading it stops nobody."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from sqlalchemy.pool import Pool
from sqlalchemy.pool.base import _ConnectionRecord

from core.lease import Lease, longest
from core.link import Link
from core.meter import Meter
from core.outage import Outage
from core.purpose import PURPOSES, process_name
from core.turns import Turns, Waiter

LIVELY_S = 30.0


class ReadablePool(Pool):
    """The state of a pool, and its numbers named as QueuePool names them."""

    _size: int
    _max_overflow: int
    _timeout: float
    _lock: threading.Lock
    _idle: deque[Link]
    _leases: dict[_ConnectionRecord, Lease]
    _turns: Turns[Link]
    sound_at_s: float
    outage: Outage
    meter: Meter

    def size(self) -> int:
        """Return pool_size."""
        return self._size

    def cap(self) -> int:
        """Return pool_size + max_overflow: never more are open."""
        return self._size + self._max_overflow

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

    def is_lively(self) -> bool:
        """Tell whether all are in use and some came back sound lately: who waits in vain then finds it busy, not broken."""
        is_full = self.checkedout() >= self.cap() and not self.outage.is_on
        return is_full and time.monotonic() - self.sound_at_s < LIVELY_S

    def leases(self) -> list[Lease]:
        """List what is in use, the longest first."""
        return list(self._leases.copy().values())

    def lease_of(self, proxy: Any) -> Lease | None:
        """Return what is known of a borrowed connection, by SQLAlchemy's proxy of it."""
        return self._leases.get(proxy._connection_record)

    def waiters(self) -> list[Waiter[Link]]:
        """List who waits, by purpose and then in turn."""
        return self._turns.waiters()

    def status(self) -> str:
        """Name holders, waiters and the last failure to connect: what somebody who waited in vain needs to know."""
        leases = self.leases()
        waiting = [waiter.purpose.name for waiter in self.waiters()]
        by_purpose = ", ".join(f"{name} {waiting.count(name)}" for name in dict.fromkeys(waiting))
        words = [
            f"{len(leases)} of {self.cap()} in use, {self.checkedin()} idle, waiting: {by_purpose or 'nobody'}.",
            *longest(leases),
        ]
        if self.outage.last_error:
            words.append(f"Last failure to connect: {self.outage.last_error}.")
        return " ".join(words)

    def snapshot(self) -> dict[str, Any]:
        """Return all there is to know, as JSON can hold it; times in seconds."""
        now_s = time.monotonic()
        leases, waiters, meter = self.leases(), self.waiters(), self.meter
        return {
            "process": process_name(),
            "size": self.size(),
            "cap": self.cap(),
            "in_use": self.checkedout(),
            "idle": self.checkedin(),
            "overflow": self.overflow(),
            "waiting": len(waiters),
            "oldest_wait_s": max((now_s - waiter.since_s for waiter in waiters), default=0.0),
            "connect_error": self.outage.last_error if self.outage.is_on else "",
            "connect": meter.connect.snapshot(),
            "connect_failures": meter.connect_failures,
            "refusals": meter.refusals,
            "database_up": 0 if self.outage.is_on else 1,
            "invalidations": meter.invalidations,
            "dirty_returns": meter.dirty_returns,
            "leaks": meter.leaks,
            "purposes": {
                item.name: {
                    "in_use": sum(lease.purpose is item for lease in leases),
                    "waiting": sum(waiter.purpose is item for waiter in waiters),
                    "timeouts": meter.timeouts[item.rank],
                    "acquire": meter.acquire[item.rank].snapshot(),
                    "usage": meter.usage[item.rank].snapshot(),
                }
                for item in PURPOSES
            },
            "holders": [lease.snapshot(now_s) for lease in leases],
            "waiters": [
                {"purpose": waiter.purpose.name, "label": waiter.label, "waited_s": now_s - waiter.since_s}
                for waiter in waiters
            ],
        }
