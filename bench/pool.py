"""Our pool beside those that Django sites use, on one PostgreSQL, in one run, taking turns.

Brings everything along: installs the other pools into environments under var/bench/ (once), starts a PostgreSQL of its
own, and removes that afterwards. Prints one line of JSON a case, then a table; exits with 1 where ours misses a goal.
Numbers of two runs don't compare: machines are noisy. Contestants: ours (core.db.engine, as the site has it), SQLAlchemy's
QueuePool, django-db-connection-pool, Django's native pool, psycopg_pool; each with 5 + 10 connections.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from bench import pool_cases
from bench.contestant import CAP
from bench.contestants import OTHERS, OURS, QrsiteDjango
from bench.environments import VAR, python_of
from bench.output import print_table, progress
from bench.pool_health import health
from bench.server import Server
from bench.spike import machine
from bench.worker import GivenUp, Numbers


class Case(NamedTuple):
    """One case, and for how many seconds a contestant plays it, in full and in --quick."""

    play: Callable[..., dict[str, Numbers]]
    seconds: float
    quick_s: float


CASES = {
    "checkout": Case(pool_cases.checkout, 2, 0.5),
    "fairness": Case(pool_cases.fairness, 5, 1.2),
    "churn": Case(pool_cases.churn, 4, 1),
    "storm": Case(pool_cases.storm, 60, 6),
    "restart": Case(pool_cases.restart, 5, 1),
    "background": Case(pool_cases.background, 30, 3),
    "health": Case(health, 3, 1),
}


class Goal(NamedTuple):
    """What ours has to reach in a case."""

    case: str
    words: str
    key: str
    limit: float | None  # None: only to be looked at
    at_least: bool = False
    of: str = OURS

    def verdict(self, number: Any) -> str:
        """Tell whether a number is good enough; none at all is not."""
        if self.limit is None:
            return "-"
        if number is None:
            return "NO"
        return "yes" if (number >= self.limit if self.at_least else number <= self.limit) else "NO"


GOALS = [
    Goal("checkout", "median ≤ 15 µs", "median_us", 15),
    Goal("checkout", "through the ORM, median µs", "median_us", None, of=QrsiteDjango.name),
    Goal("fairness", "longest wait ≤ 0.16 s", "longest_wait_s", 0.16),
    Goal("fairness", "turns ≥ 0.97 of QueuePool's", "turns_of_QueuePool", 0.97, at_least=True),
    Goal("churn", "connections opened ≤ 15", "opened", CAP),
    Goal("storm", "connections at once, a process ≤ 15", "most_at_once", CAP),
    Goal("restart", "first success after ≤ 1 s", "first_success_s", 1.0),
    Goal("restart", "connects in the worst second ≤ 15", "connects_worst_s", CAP),
    Goal("background", "scan p99 ≤ 2 times that without", "p99_ratio", 2.0),
    Goal("background", "same beside 20, which is too many", "crowd_p99_ratio", None),
    Goal("health", "worst answer ≤ 0.8 s", "worst_s", 0.8),
    Goal("health", "states with a wrong status: 0", "wrong_states", 0),
]


def main() -> int:
    """Play the cases, tell what came of them, return the exit code."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing stays frozen
    names = [name for name in (OURS, *OTHERS) if name in (options.contestant or (OURS, *OTHERS))]
    VAR.mkdir(parents=True, exist_ok=True)
    with (VAR / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write("Another bench of this checkout is running.\n")
            return 2
        try:
            for name in names:
                python_of(name)
        except subprocess.CalledProcessError as error:
            sys.stderr.write(f"The other pools can't be installed: {error.stderr.strip().splitlines()[-1]}\n")
            return 2
        outcomes = _play(options, names)
    rows = [_row(goal, outcomes[goal.case]) for goal in GOALS if goal.case in outcomes and OURS in names]
    if not options.json and rows:
        print_table([("case", "goal", "ours", "best other", "reached"), *rows])
    return 1 if any(row[-1] == "NO" for row in rows) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.pool",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="cases:\n"
        + "\n".join(
            f"  {name:11} {(case.play.__doc__ or '').splitlines()[0]}" for name, case in CASES.items()
        )
        + "\n\ngoals:\n"
        + "\n".join(f"  {goal.case:11} {goal.words}" for goal in GOALS),
    )
    parser.add_argument("--case", action="append", choices=CASES, help="only this one; may be repeated")
    parser.add_argument(
        "--contestant", action="append", choices=(OURS, *OTHERS), help="only this one; may be repeated"
    )
    parser.add_argument(
        "--seconds", type=float, help="how long ours plays each case; of restart: how long the server is away"
    )
    parser.add_argument(
        "--quick", action="store_true", help="shorter cases: less than two minutes in all, instead of six"
    )
    parser.add_argument("--json", action="store_true", help="only the lines of JSON, no table")
    return parser.parse_args()


def _play(options: argparse.Namespace, names: list[str]) -> dict[str, dict[str, Numbers]]:
    outcomes: dict[str, dict[str, Numbers]] = {}
    server = Server(VAR / "postgres")
    try:
        server.start()
        for name in options.case or CASES:
            case = CASES[name]
            seconds = options.seconds or (case.quick_s if options.quick else case.seconds)
            load = round(os.getloadavg()[0], 1)  # before: who else is at work on this machine
            try:
                outcomes[name] = case.play(server, names, seconds, progress(name))
            except GivenUp as error:
                outcomes[name] = {}
                sys.stderr.write(f"\r{name}: {error}\n")
            progress(name)("")
            where = {**machine(), "load": load, "seconds": seconds}
            print(json.dumps({"bench": f"pool.{name}", **where, **outcomes[name]}))  # noqa: T201
            sys.stdout.flush()
    finally:
        server.remove()
        shutil.rmtree(VAR / "site", ignore_errors=True)
    return outcomes


def _row(goal: Goal, outcome: dict[str, Numbers]) -> tuple[str, str, str, str, str]:
    """Say what ours reached, and the best of the others that do the same."""
    ours = outcome.get(goal.of, {}).get(goal.key)
    rivals = [name for name in OTHERS if goal.of == OURS or name in _THROUGH_DJANGO]
    theirs = {name: outcome.get(name, {}).get(goal.key) for name in rivals}
    known = {name: number for name, number in theirs.items() if number is not None}
    best = "-"
    if known:
        name = (max if goal.at_least else min)(known, key=lambda name: known[name])
        best = f"{known[name]:g} {name}"
    shown = "none" if ours is None else f"{ours:g}"
    return goal.case, goal.words, shown, best, goal.verdict(ours)


_THROUGH_DJANGO = [name for name in OTHERS if "jango" in name]


if __name__ == "__main__":
    sys.exit(main())
