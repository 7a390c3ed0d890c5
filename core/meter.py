"""Counters and histograms of a pool: a few list operations under the pool's own lock, read without stopping anybody."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from core.lease import Lease
from core.purpose import PURPOSES

BOUNDS_S = (
    0.0001,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    0.8,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)


class Histogram:
    """How often something took how long, by upper bounds in seconds."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def observe(self, took_s: float) -> None:
        """Count one."""
        self.counts[bisect_left(BOUNDS_S, took_s)] += 1
        self.sum_s += took_s

    def snapshot(self) -> dict[str, Any]:
        """Return counts per bound (the last: above all bounds; not cumulated) and the sum in seconds."""
        return {"counts": list(self.counts), "sum_s": self.sum_s}


class Meter:
    """What happened in a pool; its owner's lock guards it."""

    def __init__(self) -> None:
        self.acquire = [Histogram() for _ in PURPOSES]
        self.usage = [Histogram() for _ in PURPOSES]
        self.timeouts = [0] * len(PURPOSES)
        self.connect = Histogram()
        self.connect_failures = 0
        self.refusals = 0  # told at once that the database is away
        self.invalidations = 0
        self.dirty_returns = 0
        self.leaks = 0

    def returned(self, lease: Lease, at_s: float, *, is_sound: bool) -> None:
        """Count one lease that ended."""
        rank = lease.purpose.rank
        self.acquire[rank].observe(lease.since_s - lease.asked_s)
        self.usage[rank].observe(at_s - lease.since_s)
        if not is_sound and not lease.leak:
            self.invalidations += 1
        if lease.is_dirty:
            self.dirty_returns += 1
        if lease.leak:
            self.leaks += 1
