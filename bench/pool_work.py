"""What one contestant does in a process of its own: `python -m bench.pool_work <contestant> <timeout in seconds>`.

Started by bench.pool in the contestant's environment. Each line of JSON on stdin is a task, `{"do": "churn", …}`; each
line on stdout is an answer. Everything else that is printed goes to stderr. Imports only the standard library.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.contestant import Contestant
from bench.contestants import CONTESTANTS
from bench.pool_background import background, p99
from bench.pool_storm import storm


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
        "p99_wait_ms": round(p99(waits) * 1000, 2),
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
                pool.turn()
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
        taken = _taken(pool, within_s=20)
        together.wait()
        pool.give(taken)

    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(work, range(threads)))
    return {}


def _taken(pool: Contestant, within_s: float) -> Any:
    until = time.monotonic() + within_s
    while True:
        try:
            return pool.take()
        except Exception:  # the server was away a moment ago
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def one_by_one(pool: Contestant, *, number: int) -> dict[str, Any]:
    """Ask, one after the other: how many failed."""
    failed = 0
    for _ in range(number):
        try:
            pool.turn()
        except Exception:
            failed += 1
    return {"failed": failed}


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    work.__name__: work for work in (checkout, load, storm, busy, warm, one_by_one, background)
}

if __name__ == "__main__":
    main()
