"""Scans beside background work, for one contestant, in the process of bench.pool_work."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from bench.contestant import CAP, Contestant

CROWD = 20  # more than the pool has


def background(pool: Contestant, *, seconds: float, crowd_s: float, scanners: int) -> dict[str, Any]:
    """Scan threads take, ask and give: alone, beside background threads that hold all but one, and beside a crowd.

    Alone a third of the time, and both by turns: noise comes and goes.
    """
    pool.reserve_shares()
    _Scans(scanners).run(pool, 0.5)  # connects
    alone, beside, crowd = _Scans(scanners), _Scans(scanners), _Scans(scanners)
    for _ in range(3):
        alone.run(pool, seconds / 9)
        held = _beside(pool, CAP - 1, lambda: beside.run(pool, seconds / 3))
    crowd_held = _beside(pool, CROWD, lambda: crowd.run(pool, crowd_s))
    return {
        **alone.numbers("alone"),
        "held": held,
        **beside.numbers("beside"),
        "crowd_held": crowd_held,
        **crowd.numbers("crowd"),
        "p99_ratio": round(beside.p99() / alone.p99(), 2),
        "crowd_p99_ratio": round(crowd.p99() / alone.p99(), 2),
    }


def _beside(pool: Contestant, holders: int, work: Callable[[], None]) -> int:
    """Work while so many background threads want a connection and keep it; return how many had one at the start."""
    done = threading.Event()
    holding: list[int] = []

    def hold(number: int) -> None:
        with pool.entering("background"), suppress(Exception):
            taken = pool.take()
            holding.append(number)
            done.wait()
            pool.give(taken)

    with ThreadPoolExecutor(holders) as executor:
        all_of_them = executor.map(hold, range(holders))
        time.sleep(0.3)
        held = len(holding)
        work()
        done.set()
        list(all_of_them)
    return held


class _Scans:
    """What scan threads see."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._took: list[float] = []
        self._failed = 0

    def run(self, pool: Contestant, seconds: float) -> None:
        """Scan for some seconds on all threads."""
        stop_at = time.monotonic() + seconds
        with ThreadPoolExecutor(self._threads) as executor:
            for took, failed in executor.map(lambda _: self._scan(pool, stop_at), range(self._threads)):
                self._took += took
                self._failed += failed

    @staticmethod
    def _scan(pool: Contestant, stop_at: float) -> tuple[list[float], int]:
        took, failed = [], 0
        with pool.entering("scan"):
            while (start := time.monotonic()) < stop_at:
                try:
                    pool.turn()
                except Exception:
                    failed += 1
                took.append(time.monotonic() - start)
                time.sleep(0.005)
        return took, failed

    def p99(self) -> float:
        return p99(sorted(self._took))

    def numbers(self, prefix: str) -> dict[str, Any]:
        """Tell all of it, in milliseconds."""
        return {
            f"{prefix}_scans": len(self._took),
            f"{prefix}_p50_ms": round(statistics.median(self._took) * 1000, 2),
            f"{prefix}_p99_ms": round(self.p99() * 1000, 2),
            f"{prefix}_longest_ms": round(max(self._took) * 1000, 2),
            f"{prefix}_failed": self._failed,
        }


def p99(ordered: list[float]) -> float:
    """Return what 99 of a hundred don't exceed."""
    return ordered[int(len(ordered) * 0.99)]
