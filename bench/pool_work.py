"""What one contestant does in a process of its own: `python -m bench.pool_work <contestant> <timeout in seconds>`.

Started by bench.pool in the contestant's environment. Each line of JSON on stdin is a task, `{"do": "churn", …}`; each
line on stdout is an answer. Everything else that is printed goes to stderr. Imports only the standard library.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from bench.contestant import CAP, Contestant
from bench.contestants import CONTESTANTS
from bench.pool_storm import storm

CROWD = 20  # more than the pool has


def main() -> None:
    """Do one task after the other until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    pool = CONTESTANTS[sys.argv[1]](float(sys.argv[2]))

    def answer(words: dict[str, Any]) -> None:
        answers.write(json.dumps(words) + "\n")

    answer({"ready": True})
    for line in sys.stdin:
        task = json.loads(line)
        work: Callable[..., dict[str, Any]] = TASKS[task.pop("do")]
        answer(work(pool, **task))
    os._exit(0)  # whatever threads still wait for


def checkout(pool: Contestant, *, rounds: int) -> dict[str, Any]:
    """One thread, nobody waits: microseconds for checkout and return, round by round."""
    once = pool.once
    for _ in range(200):
        once()
    us = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(300):
            once()
        us.append((time.perf_counter() - start) / 300 * 1e6)
    return {"us": us}


def load(pool: Contestant, *, seconds: float, threads: int, hold_s: float, pause_s: float) -> dict[str, Any]:
    """Many threads take, hold and give for some seconds: turns and waits."""
    stop_at = time.monotonic() + seconds
    errors: Counter[str] = Counter()

    def work(_number: int) -> list[float]:
        waits = []
        while (start := time.monotonic()) < stop_at:
            try:
                taken = pool.take()
            except Exception as error:
                errors[type(error).__name__] += 1
                waits.append(time.monotonic() - start)
                continue
            waits.append(time.monotonic() - start)
            time.sleep(hold_s)
            pool.give(taken)
            if pause_s:
                time.sleep(pause_s)
        return waits

    with ThreadPoolExecutor(threads) as executor:
        by_thread = list(executor.map(work, range(threads)))
    waits = sorted(wait for waits in by_thread for wait in waits)
    return {
        "turns": len(waits),
        "fewest_turns": min(map(len, by_thread)),
        "most_turns": max(map(len, by_thread)),
        "longest_wait_s": round(waits[-1], 3),
        "p99_wait_ms": round(_p99(waits) * 1000, 2),
        "failed": sum(errors.values()),
    }


def busy(pool: Contestant, *, seconds: float, threads: int) -> dict[str, Any]:
    """Many threads ask SELECT 1 in a loop: every failure, and every millisecond in which one succeeded."""
    stop_at = time.time() + seconds
    failures: list[tuple[float, float, str]] = []
    successes: set[float] = set()

    def work(_number: int) -> None:
        while (start := time.time()) < stop_at:
            try:
                _turn(pool)
                successes.add(round(time.time(), 3))
            except Exception as error:
                failures.append((start, time.time(), f"{type(error).__name__}: {error}"[:90]))
            time.sleep(0.005)

    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(work, range(threads)))
    return {"failures": failures, "successes": sorted(successes)}


def warm(pool: Contestant, *, threads: int) -> dict[str, Any]:
    """Have that many connections out at once, then none."""
    together = threading.Barrier(threads, timeout=30)

    def work(_number: int) -> None:
        taken = pool.take()
        together.wait()
        pool.give(taken)

    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(work, range(threads)))
    return {}


def one_by_one(pool: Contestant, *, number: int) -> dict[str, Any]:
    """Ask, one after the other: how many failed."""
    failed = 0
    for _ in range(number):
        try:
            _turn(pool)
        except Exception:
            failed += 1
    return {"failed": failed}


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
                    _turn(pool)
                except Exception:
                    failed += 1
                took.append(time.monotonic() - start)
                time.sleep(0.005)
        return took, failed

    def p99(self) -> float:
        return _p99(sorted(self._took))

    def numbers(self, prefix: str) -> dict[str, Any]:
        """Tell all of it, in milliseconds."""
        return {
            f"{prefix}_scans": len(self._took),
            f"{prefix}_p50_ms": round(statistics.median(self._took) * 1000, 2),
            f"{prefix}_p99_ms": round(self.p99() * 1000, 2),
            f"{prefix}_longest_ms": round(max(self._took) * 1000, 2),
            f"{prefix}_failed": self._failed,
        }


def _turn(pool: Contestant) -> None:
    taken = pool.take()
    try:
        pool.ask(taken)
    finally:
        pool.give(taken)


def _p99(ordered: list[float]) -> float:
    return ordered[int(len(ordered) * 0.99)]


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    work.__name__: work for work in (checkout, load, storm, busy, warm, one_by_one, background)
}

if __name__ == "__main__":
    main()
