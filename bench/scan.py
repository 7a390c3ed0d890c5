"""Our scan lane beside ordinary ways to judge a scan, on one PostgreSQL, in one run: same checks, tables and codes.

Brings everything along but wrk (Debian: apt install wrk): installs the others into environments under var/bench/ (once),
starts a PostgreSQL of its own with 100 connections, and removes that afterwards. Prints one line of JSON a case, then
tables; exits with 1 where ours misses a goal. Numbers of two runs don't compare: machines are noisy, and here the load,
the sites and PostgreSQL share one. pgbench is the limit: one statement a scan, no signatures, no HTTP.
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

from bench import scan_cases, scan_queues
from bench.environments import ROOT, VAR, python_in
from bench.output import print_table, progress
from bench.scan_cases import CLIENTS, CROWD
from bench.scan_contestants import CONTESTANTS, LIMIT, OURS, PEERS, PROCESSES, wrk
from bench.scan_drawing import svg
from bench.scan_stage import Stage
from bench.server import Server
from bench.spike import machine
from bench.worker import GivenUp, Numbers

PICTURE = ROOT / "docs" / "scan-bench.svg"
Outcomes = dict[str, dict[str, Numbers]]  # by case, by contestant


class Case(NamedTuple):
    """One case, for how many seconds a contestant plays it, in full and in --quick, and who plays."""

    play: Callable[..., Numbers]
    seconds: float
    quick_s: float
    players: tuple[str, ...]


CASES = {
    "spike": Case(scan_cases.spike, 5, 2, tuple(CONTESTANTS)),
    "lone": Case(scan_cases.lone, 10, 5, (OURS,)),
    "queue": Case(scan_queues.queue, 10, 5, (OURS,)),
    "crowd": Case(scan_cases.crowd, 30, 5, (OURS,)),
}


class Goal(NamedTuple):
    """What ours has to reach: a number of its own, or a share of another's."""

    case: str
    words: str
    ours: float | None
    limit: float
    at_least: bool = False
    beside: str = "-"

    @property
    def verdict(self) -> str:
        """Tell whether the number is good enough; none at all is not."""
        if self.ours is None:
            return "NO"
        return "yes" if (self.ours >= self.limit if self.at_least else self.ours <= self.limit) else "NO"


def main() -> int:
    """Play the cases, tell what came of them, return the exit code."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything started is ended
    names = [name for name in CONTESTANTS if name in (options.contestant or CONTESTANTS)]
    VAR.mkdir(parents=True, exist_ok=True)
    with (VAR / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write("Another bench of this checkout is running.\n")
            return 2
        try:
            wrk()
            for name in names:
                python_in(CONTESTANTS[name].environment)
        except GivenUp as error:
            sys.stderr.write(f"{error}\n")
            return 2
        except subprocess.CalledProcessError as error:
            sys.stderr.write(f"Could not install what the others need: {error.stderr.strip()[-300:]}\n")
            return 2
        outcomes = _play(options, names)
    goals = [goal for case in outcomes for goal in _goals(case, outcomes[case])]
    if not options.json:
        if "spike" in outcomes:
            print_table(_spike_rows(outcomes["spike"]))
        print_table(
            [("case", "goal", "ours", "beside", "reached")]
            + [
                (
                    goal.case,
                    goal.words,
                    "none" if goal.ours is None else f"{goal.ours:.4g}",
                    goal.beside,
                    goal.verdict,
                )
                for goal in goals
            ]
        )
    if set(outcomes.get("spike", {})) == set(CONTESTANTS) and not options.quick:
        PICTURE.write_text(svg(outcomes["spike"], CLIENTS[-1]))
    return int(any(goal.verdict == "NO" for goal in goals))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="cases:\n"
        + "\n".join(
            f"  {name:6} {(case.play.__doc__ or '').splitlines()[0]}" for name, case in CASES.items()
        ),
    )
    parser.add_argument("--case", action="append", choices=CASES, help="only this one; may be repeated")
    parser.add_argument(
        "--contestant", action="append", choices=CONTESTANTS, help="only this one; may be repeated"
    )
    parser.add_argument("--seconds", type=float, help="how long each measurement takes (5; the crowd 30)")
    parser.add_argument("--tickets", type=int, default=200_000, help="how many are issued (200000)")
    parser.add_argument("--quick", action="store_true", help="shorter: under three minutes; no picture")
    parser.add_argument("--json", action="store_true", help="only the lines of JSON, no tables")
    return parser.parse_args()


def _play(options: argparse.Namespace, names: list[str]) -> Outcomes:
    outcomes: Outcomes = {}
    server = Server(VAR / "postgres")
    try:
        server.start()
        stage = Stage(server, options.tickets)
        progress("issuing")(f"{options.tickets} tickets")
        stage.fill()
        for case_name in options.case or CASES:
            case, found = CASES[case_name], {}
            seconds = options.seconds or (case.quick_s if options.quick else case.seconds)
            load = round(os.getloadavg()[0], 1)  # before: who else is at work on this machine
            for name in (player for player in case.players if player in names):
                try:
                    found[name] = case.play(stage, name, seconds, progress(case_name))
                except GivenUp as error:
                    found[name] = {}
                    sys.stderr.write(f"\r{case_name}: {error}\n")
            progress(case_name)("")
            outcomes[case_name] = found
            where = {**machine(), "load": load, "seconds": seconds, "tickets": options.tickets}
            print(json.dumps({"bench": f"scan.{case_name}", **where, **found}))  # noqa: T201
            sys.stdout.flush()
    finally:
        server.remove()
        shutil.rmtree(VAR / "site", ignore_errors=True)
        (VAR / "scan" / "codes.txt").unlink(missing_ok=True)
    return outcomes


def _goals(case: str, found: dict[str, Numbers]) -> list[Goal]:
    ours = found.get(OURS, {})
    if case == "lone":
        return [Goal(case, "median ≤ 1.2 times the plain view's", ours.get("ratio"), 1.2)]
    if case == "queue":
        return [
            Goal(case, "signed scans/s on one process ≥ 8,000", ours.get("scans_per_s"), 8000, at_least=True),
            Goal(case, "admissions lost or twice: 0", ours.get("admissions_lost"), 0),
        ]
    if case == "crowd":
        return [
            Goal(
                case,
                f"{CROWD}: answers but verdicts and 503 with Retry-After: 0",
                ours.get("other_answers"),
                0,
            ),
            Goal(case, f"{CROWD}: admissions lost or twice: 0", ours.get("admissions_lost"), 0),
            Goal(case, f"{CROWD}: connections a process ≤ 2", ours.get("connections_a_process"), 2),
        ]
    return [goal for clients in CLIENTS for goal in _spike_goals(clients, found)]


def _spike_goals(clients: int, found: dict[str, Numbers]) -> list[Goal]:
    at = {name: numbers.get(str(clients), {}) for name, numbers in found.items()}
    ours = at.get(OURS, {})
    # Who failed some was not faster with the others.
    rivals = {
        name: numbers for name, numbers in at.items() if name in PEERS and not numbers.get("errors", True)
    }

    def beside(words: str, key: str, limit: float, names: Any, *, at_least: bool = False) -> Goal:
        known = {name: at[name][key] for name in names if at.get(name, {}).get(key)}
        words = f"{clients}: {words}"
        if not known or ours.get(key) is None:
            return Goal("spike", words, None, limit)
        name = (max if at_least else min)(known, key=lambda name: known[name])
        share = ours[key] / known[name]
        return Goal("spike", words, share, limit, at_least, f"{known[name]:g} {name}")

    return [
        beside("scans/s ≥ 3.5 times the best peer's", "scans_per_s", 3.5, rivals, at_least=True),
        beside("scans/s ≥ pgbench's", "scans_per_s", 1.0, [LIMIT], at_least=True),
        beside("p99 ≤ ½ of the best peer's", "p99_ms", 0.5, rivals),
        beside("database CPU a scan ≤ ⅓ of the best peer's", "db_cpu_s_per_1000", 0.333, rivals),
        Goal("spike", f"{clients}: connections ≤ {2 * PROCESSES}", ours.get("connections"), 2 * PROCESSES),
        Goal("spike", f"{clients}: tickets admitted twice: 0", ours.get("admitted_twice"), 0),
    ]


def _spike_rows(found: dict[str, Numbers]) -> list[tuple[str, ...]]:
    keys = ("scans_per_s", "p50_ms", "p99_ms", "db_cpu_s_per_1000", "connections", "admitted_twice")
    rows: list[tuple[str, ...]] = [
        (
            "contestant",
            "clients",
            "scans/s",
            "p50 ms",
            "p99 ms",
            "DB CPU s/1000",
            "connections",
            "twice",
            "errors",
        )
    ]
    for name, numbers in found.items():
        for clients, row in numbers.items():
            errors = " ".join(f"{what}:{times}" for what, times in row["errors"].items())
            rows.append((name, clients, *(f"{row[key]:g}" for key in keys), errors or "-"))
    return rows


if __name__ == "__main__":
    sys.exit(main())
