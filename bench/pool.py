"""Our pool beside SQLAlchemy's QueuePool, on the same server, in one run, taking turns.

Needs a PostgreSQL: --database-url, or that of a running `make run` (var/demo.json).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg2
from sqlalchemy import event
from sqlalchemy.pool import Pool, QueuePool

from bench.spike import machine
from core.pool import FairPool

CAP: dict[str, Any] = {"pool_size": 5, "max_overflow": 10}


def main() -> None:
    """Run every case on both pools and print one line of JSON a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database-url", help="postgres://…")
    parser.add_argument("--seconds", type=float, default=5, help="length of the timed cases (5)")
    options = parser.parse_args()
    url = options.database_url or json.loads(Path("var/demo.json").read_text())["database_url"]
    opened = [0]

    def connect() -> Any:
        opened[0] += 1
        return psycopg2.connect(url)

    pools: dict[str, Callable[[], Pool]] = {
        "FairPool": lambda: FairPool(connect, **CAP),
        "QueuePool": lambda: QueuePool(connect, **CAP),
    }
    cases: dict[str, Callable[[Pool], dict[str, float]]] = {
        "checkout_return": _checkout,
        "fairness": lambda pool: _fairness(pool, options.seconds),
        "churn": lambda pool: _churn(pool, options.seconds),
        "dispose_cap": _dispose_cap,
    }
    for case, run in cases.items():
        outcome: dict[str, Any] = {"bench": f"pool.{case}", **machine()}
        for name, make in pools.items():
            opened[0] = 0
            pool = make()
            outcome[name] = run(pool) | {"opened": opened[0]}
            pool.dispose()
        print(json.dumps(outcome))  # noqa: T201


def _checkout(pool: Pool) -> dict[str, float]:
    """One thread, nobody waits: microseconds for checkout and return."""
    pool.connect().close()
    rounds = []
    for _ in range(30):
        start = time.perf_counter()
        for _ in range(1000):
            pool.connect().close()
        rounds.append((time.perf_counter() - start) * 1000)
    return {"median_us": round(statistics.median(rounds), 1)}


def _fairness(pool: Pool, seconds: float) -> dict[str, float]:
    """40 threads, 15 connections, each held for 20 ms, asked for again at once: the longest wait, all turns."""
    return _load(pool, seconds, threads=40, hold_s=0.02, pause_s=0)


def _churn(pool: Pool, seconds: float) -> dict[str, float]:
    """12 threads, 5 ms held, 5 ms not: how many connections are opened."""
    return _load(pool, seconds, threads=12, hold_s=0.005, pause_s=0.005)


def _load(pool: Pool, seconds: float, *, threads: int, hold_s: float, pause_s: float) -> dict[str, float]:
    stop_at = time.monotonic() + seconds

    def work(_number: int) -> list[float]:
        waits = []
        while (start := time.monotonic()) < stop_at:
            proxy = pool.connect()
            waits.append(time.monotonic() - start)
            time.sleep(hold_s)
            proxy.close()
            time.sleep(pause_s)
        return waits

    with ThreadPoolExecutor(threads) as executor:
        by_thread = list(executor.map(work, range(threads)))
    waits = sorted(wait for waits in by_thread for wait in waits)
    return {
        "turns": len(waits),
        "fewest_turns": min(map(len, by_thread)),
        "longest_wait_s": round(waits[-1], 3),
        "p99_wait_ms": round(waits[int(len(waits) * 0.99)] * 1000, 2),
    }


def _dispose_cap(pool: Pool) -> dict[str, float]:
    """All 15 out, dispose(), and as many more as can be had within 50 ms: connections open at once."""
    is_open: set[int] = set()
    most = 0

    @event.listens_for(pool, "connect")
    def _opened(connection: Any, _record: Any) -> None:
        nonlocal most
        is_open.add(id(connection))
        most = max(most, len(is_open))

    @event.listens_for(pool, "close")
    def _closed(connection: Any, _record: Any) -> None:
        is_open.discard(id(connection))

    out = [pool.connect() for _ in range(15)]
    pool.dispose()
    more: list[Any] = []

    def take() -> None:
        more.append(pool.recreate().connect() if isinstance(pool, FairPool) else pool.connect())

    takers = [threading.Thread(target=take, daemon=True) for _ in range(15)]
    for taker in takers:
        taker.start()
    time.sleep(0.5)
    for proxy in out:
        proxy.close()
    for taker in takers:
        taker.join(timeout=0.5)
        for proxy in list(more):
            more.remove(proxy)
            proxy.close()
    return {"open_at_once": most}


if __name__ == "__main__":
    main()
    os._exit(0)  # threads that QueuePool left waiting
