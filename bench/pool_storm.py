"""The storm of one contestant: threads, forks and dispose() at random, in the process of bench.pool_work."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

from bench.contestant import CAP, Contestant

FORKED_S = 1.0  # how long a forked child works
STUCK_S = 4.0  # after which it counts as stuck


def storm(pool: Contestant, *, seconds: float, threads: int, seed: int) -> dict[str, Any]:
    """Threads come and go and hold at random, while this one disposes and forks; others kill."""
    dice = random.Random(seed)
    stop_at = time.monotonic() + seconds
    seen: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    living: set[threading.Thread] = set()
    children: dict[int, float] = {}
    next_dispose_s = next_fork_s = 0.0
    while (now := time.monotonic()) < stop_at:
        living = {thread for thread in living if thread.is_alive()}
        while len(living) < threads:
            until = min(stop_at, now + dice.uniform(0.05, 2))
            thread = threading.Thread(
                target=_live, args=(pool, until, dice.random(), seen, errors), daemon=True
            )
            thread.start()
            living.add(thread)
        if now > next_dispose_s:
            next_dispose_s = now + dice.uniform(0.05, 0.8)
            seen["disposes"] += 1
            with suppress(Exception):
                pool.dispose()
        if now > next_fork_s and now < stop_at - FORKED_S:
            next_fork_s = now + dice.uniform(0.5, 3)
            seen["forks"] += 1
            children[_fork(pool, dice.random())] = now
        _reap(children, seen, patience_s=STUCK_S)
        time.sleep(0.01)
    for thread in living:
        thread.join(timeout=max(stop_at + 5 - time.monotonic(), 0))
    seen["threads_stuck"] = sum(thread.is_alive() for thread in living)
    while children:
        _reap(children, seen, patience_s=STUCK_S)
        time.sleep(0.01)
    return {"forks_stuck": 0, **seen, "errors": errors}


def _live(pool: Contestant, until: float, seed: float, seen: Counter[str], errors: Counter[str]) -> None:
    dice = random.Random(seed)
    while time.monotonic() < until:
        try:
            taken = pool.take()
            try:
                if dice.random() < 0.7:
                    pool.ask(taken)
                time.sleep(dice.expovariate(100))
            finally:
                pool.give(taken)
            seen["turns"] += 1
        except Exception as error:
            errors[type(error).__name__] += 1
            time.sleep(0.001)


def _fork(pool: Contestant, seed: float) -> int:
    """Let a child work on a pool of its own for a while; return its process id."""
    child = os.fork()
    if child:
        return child
    try:
        pool.start_afresh()
        until = time.monotonic() + FORKED_S
        nobody: Counter[str] = Counter()
        workers = [
            threading.Thread(target=_live, args=(pool, until, seed + index, nobody, nobody), daemon=True)
            for index in range(CAP + 5)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        os._exit(0)


def _reap(children: dict[int, float], seen: Counter[str], *, patience_s: float) -> None:
    for child, since_s in list(children.items()):
        if os.waitpid(child, os.WNOHANG)[0]:
            del children[child]
        elif time.monotonic() - since_s > patience_s:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            del children[child]
            seen["forks_stuck"] += 1
