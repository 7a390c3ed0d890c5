"""The cases of `python -m bench.pool` that every pool can play: who does what when, and what the server saw of it."""

from __future__ import annotations

import random
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from bench.contestant import CAP
from bench.contestants import OTHERS, OURS, QrsiteDjango, QueuePool
from bench.server import Owner, Server, backends
from bench.worker import SPARE_S, GivenUp, Numbers, Worker, workers

Progress = Callable[[str], None]
BEFORE_S = 0.5  # of a restart under load
AFTER_S = 3.0
NEVER_S = 99.0


def checkout(server: Server, names: list[str], seconds: float, progress: Progress) -> dict[str, Numbers]:
    """One thread, nobody waits; all take short turns until the time is over."""
    names = [QrsiteDjango.name, *names] if OURS in names else names
    us: dict[str, list[float]] = {name: [] for name in names}
    with workers(names, server) as playing:
        stop_at = time.monotonic() + seconds * len(names)
        while time.monotonic() < stop_at or not us[names[-1]]:
            for name, worker in playing.items():
                progress(name)
                us[name] += worker.do("checkout", rounds=5)["us"]
    return {
        name: {"median_us": round(statistics.median(found), 1), "least_us": round(min(found), 1)}
        for name, found in us.items()
    }


def fairness(server: Server, names: list[str], seconds: float, progress: Progress) -> dict[str, Numbers]:
    """40 threads, 15 connections, each held for 20 ms and asked for again at once."""
    # Those whose turns are compared play again, the other way round: noise comes and goes.
    compared = [name for name in reversed(names) if name in (OURS, QueuePool.name)]
    again = compared if len(compared) == 2 else []
    found = _load(server, names + again, seconds, progress, threads=40, hold_s=0.02, pause_s=0)
    queue_pool = found[QueuePool.name].get("turns") if again else None
    for numbers in found.values() if queue_pool else ():
        if "turns" in numbers:
            numbers["turns_of_QueuePool"] = round(numbers["turns"] / queue_pool, 3)
    return found


def churn(server: Server, names: list[str], seconds: float, progress: Progress) -> dict[str, Numbers]:
    """12 threads, 5 ms held, 5 ms not: how many connections are opened."""
    return _load(server, names, seconds, progress, threads=12, hold_s=0.005, pause_s=0.005)


def _load(
    server: Server, names: list[str], seconds: float, progress: Progress, **task: Any
) -> dict[str, Numbers]:
    def play(name: str) -> Numbers:
        position = server.log_position()
        with workers([name], server) as playing:
            numbers = playing[name].do("load", seconds=seconds, **task)
            time.sleep(0.1)
            return numbers | {"opened": len(server.connects(position, playing[name].pid))}

    played: dict[str, list[Numbers]] = {name: [] for name in names}
    for name in names:
        played[name].append(_played(play, name, progress))
    return {name: _together(rounds) for name, rounds in played.items()}


def _played(play: Callable[[str], Numbers], name: str, progress: Progress) -> Numbers:
    """Let one play; one that dies or sticks does not spoil it for the others."""
    progress(name)
    try:
        return play(name)
    except GivenUp as error:
        return {"error": str(error)}


def _together(rounds: list[Numbers]) -> Numbers:
    """Say of several rounds how many turns one had on average, and otherwise the worst."""
    if broken := [one for one in rounds if "error" in one]:
        return broken[0]
    numbers: Numbers = {"turns": round(statistics.mean(one["turns"] for one in rounds))}
    numbers["fewest_turns"] = min(one["fewest_turns"] for one in rounds)
    for key in ("most_turns", "longest_wait_s", "p99_wait_ms", "opened", "failed"):
        numbers[key] = max(one[key] for one in rounds)
    return numbers


def storm(server: Server, names: list[str], seconds: float, progress: Progress) -> dict[str, Numbers]:
    """Random threads, killed backends, forks and dispose(): the most connections that a process had at the server.

    Ours alone for all of the time, then all others together for a third of it: what is counted does not depend on speed.
    """
    found: dict[str, Numbers] = {}
    ours = [name for name in names if name not in OTHERS]
    for together, share in ((ours, 1.0), ([name for name in names if name in OTHERS], 1 / 3)):
        progress(", ".join(together))
        if together:
            found |= _storm(server, together, seconds * share)
    return found


def _storm(server: Server, names: list[str], seconds: float) -> dict[str, Numbers]:
    done = threading.Event()
    most: Counter[Owner] = Counter()
    kills: Counter[str] = Counter()

    def watch_and_kill() -> None:
        next_kill_s = samples = 0.0
        before: dict[int, Owner] = {}
        with server.asking() as cursor:
            while not done.wait(0.005):
                # One reading is no proof: under load it took 0.1 s, some left and others came meanwhile, and it saw 19 of
                # 15. What two in a row have seen was there at once, between them.
                seen = backends(cursor)
                samples += 1
                for owner, count in Counter(seen[backend] for backend in seen.keys() & before.keys()).items():
                    most[owner] = max(most[owner], count)
                before = seen
                if time.monotonic() > next_kill_s:
                    next_kill_s = time.monotonic() + random.uniform(0.02, 0.4)
                    for word in {word for word, _process in seen.values()}:
                        backend = random.choice([pid for pid in seen if seen[pid][0] == word])
                        cursor.execute("SELECT pg_terminate_backend(%s)", [backend])
                        kills[word] += 1
        kills["samples"] = int(samples)

    position = server.log_position()
    found: dict[str, Numbers] = {}
    with workers(names, server, mixed=True, timeout_s=2) as playing:
        watcher = threading.Thread(target=watch_and_kill)
        watcher.start()
        try:
            for worker in playing.values():
                worker.begin("storm", seconds=seconds, threads=25, seed=random.randrange(1000))
            for name, worker in playing.items():
                try:
                    found[name] = worker.answer(within_s=seconds + SPARE_S)
                except GivenUp as error:
                    found[name] = {"error": str(error)}
        finally:
            done.set()
            watcher.join()
        # And what the server's log says of every session, however short.
        for owner, count in server.most_at_once(position).items():
            most[owner] = max(most[owner], count)
        for name, worker in playing.items():
            children = [count for (word, pid), count in most.items() if word == name and pid != worker.pid]
            found[name] |= {
                "kills": kills[name],
                "samples": kills["samples"],
                "at_once": most[name, worker.pid],
                "at_once_in_a_child": max(children, default=0),
                "most_at_once": max([most[name, worker.pid], *children]),
            }
    return found


def restart(server: Server, names: list[str], seconds: float, progress: Progress) -> dict[str, Numbers]:
    """The server is killed under 12 threads that ask, and comes back some seconds later; then it restarts unnoticed.

    Ours plays three times and shows the worst of each: how long a pool sleeps when the server is back is a matter of luck.
    """

    def play(name: str) -> Numbers:
        rounds = []
        for share in (1, 0.85, 0.7) if name == OURS else (1,):
            with workers([name], server, mixed=True, timeout_s=5) as playing:
                rounds.append(_restart(server, playing[name], seconds * share))
        return {key: max(one[key] for one in rounds) for key in rounds[0]} | {"rounds": len(rounds)}

    return {name: _played(play, name, progress) for name in names}


def _restart(server: Server, worker: Worker, away_s: float) -> Numbers:
    worker.do("warm", threads=12)
    worker.begin("busy", seconds=BEFORE_S + away_s + min(AFTER_S, away_s + 1), threads=12)
    time.sleep(BEFORE_S)
    position = server.log_position()
    stopping_s = time.time()
    server.stop(signal.SIGQUIT)
    down_s = time.time()
    time.sleep(away_s)
    starter = threading.Thread(target=server.start_again)
    starter.start()
    while not server.accepts():
        time.sleep(0.005)
    up_s = time.time()
    starter.join()
    seen = worker.answer(within_s=SPARE_S)
    connects = [at_s for at_s in server.connects(position, worker.pid) if at_s > down_s]
    failures = [(start, end) for start, end, _words in seen["failures"]]
    successes = [at_s for at_s in seen["successes"] if at_s > down_s]
    worker.do("warm", threads=CAP)
    server.stop()
    server.start_again()
    time.sleep(0.2)
    return {
        "failures": len(failures),
        "in_flight": sum(start <= down_s and end >= stopping_s for start, end in failures),
        "while_down": sum(down_s < start < up_s for start, _end in failures),
        "after_it_was_back": sum(start >= up_s for start, _end in failures),
        "longest_failure_s": round(max((end - start for start, end in failures), default=0), 3),
        "away_s": round(up_s - down_s, 2),
        "first_success_s": round(max(successes[0] - up_s, 0), 3) if successes else NEVER_S,
        # Of all seconds that begin with one: the first may be one in which a pool still sleeps.
        "connects_worst_s": max(
            (sum(0 <= at - start < 1 for at in connects) for start in connects), default=0
        ),
        "stale_after_quiet_restart": worker.do("one_by_one", number=CAP)["failed"],
    }


def background(server: Server, names: list[str], seconds: float, progress: Progress) -> dict[str, Numbers]:
    """4 scan threads ask, alone, beside 14 background threads that hold connections, and beside 20 of them.

    The others wait 1 s for a connection, as ours lets scans do, and play a sixth of the time.
    """

    def play(name: str) -> Numbers:
        beside_s = seconds if name == OURS else seconds / 6
        timeout_s = 30 if name == OURS else 1
        with workers([name], server, timeout_s=timeout_s) as playing:
            crowd_s = max(seconds / 10, 1)
            return playing[name].do("background", seconds=beside_s, crowd_s=crowd_s, scanners=4)

    return {name: _played(play, name, progress) for name in names}
