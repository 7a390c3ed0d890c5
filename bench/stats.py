"""The statistics: what they cost to read and to keep at ten million scans, and whether they are exact meanwhile.

Starts a PostgreSQL of its own, fills two databases with 50 events of 10 gates (100,000 scans, and as many as --scans says),
and removes all of it afterwards. Whatever is compared is compared within one run, taking turns: numbers of two runs
don't compare. Prints one line of JSON a case, then tables; exits with 1 where a goal is missed. The case `cost` needs wrk
(Debian: apt install wrk). All of it takes a quarter of an hour and 12 GB of disk.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from bench import stats_cases
from bench.environments import VAR
from bench.output import print_table, progress
from bench.scan_cases import CLIENTS
from bench.scan_contestants import wrk
from bench.scan_stage import Stage
from bench.server import Server
from bench.spike import machine
from bench.stats_stage import EVENTS, Archive
from bench.worker import GivenUp, Numbers

TICKETS, QUICK_TICKETS = 200_000, 40_000  # of the case `cost`
SCANS, QUICK_SCANS = 10_000_000, 1_000_000
CASES: dict[str, Callable[..., Numbers]] = {
    case.__name__: case
    for case in (
        stats_cases.build,
        stats_cases.questions,
        stats_cases.raw,
        stats_cases.exact,
        stats_cases.designs,
        stats_cases.cost,
    )
}
Outcomes = dict[str, Numbers]


class Goal(NamedTuple):
    """What a case has to reach."""

    case: str
    words: str
    reached: float | None
    limit: float
    where: str = "-"

    @property
    def verdict(self) -> str:
        """Tell whether the number is good enough; none at all is not."""
        return "yes" if self.reached is not None and self.reached <= self.limit else "NO"


def main() -> int:
    """Run the cases, tell what came of them, return the exit code."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything started is ended
    names = list(options.case or CASES)
    VAR.mkdir(parents=True, exist_ok=True)
    with (VAR / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if "cost" in names:
                wrk()
        except BlockingIOError:
            sys.stderr.write("Another bench of this checkout is running.\n")
            return 2
        except GivenUp as error:
            sys.stderr.write(f"{error}\n")
            return 2
        outcomes = _play(options, names)
    goals = goals_of(outcomes)
    if not options.json:
        for table in tables_of(outcomes):
            print_table(table)
        print_table(
            [("case", "goal", "worst", "where", "reached")]
            + [
                (
                    goal.case,
                    goal.words,
                    "none" if goal.reached is None else f"{goal.reached:.4g}",
                    goal.where,
                    goal.verdict,
                )
                for goal in goals
            ]
        )
    return int(any(goal.verdict == "NO" for goal in goals))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="cases:\n"
        + "\n".join(f"  {name:9} {(case.__doc__ or '').splitlines()[0]}" for name, case in CASES.items()),
    )
    parser.add_argument("--case", action="append", choices=CASES, help="only this one; may be repeated")
    parser.add_argument(
        "--scans", type=int, help=f"in the large database ({SCANS}, with --quick {QUICK_SCANS})"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the scans, and shorter: three minutes"
    )
    parser.add_argument("--json", action="store_true", help="only the lines of JSON, no tables")
    return parser.parse_args()


def _play(options: argparse.Namespace, names: list[str]) -> Outcomes:
    outcomes: Outcomes = {}
    scans = options.scans or (QUICK_SCANS if options.quick else SCANS)
    server = Server(VAR / "postgres")
    try:
        server.start()
        archive = Archive(Stage(server, QUICK_TICKETS if options.quick else TICKETS), scans)
        for name in names:
            load = round(os.getloadavg()[0], 1)  # before: who else is at work on this machine
            try:
                outcomes[name] = CASES[name](archive, options.quick, progress(name))
            except GivenUp as error:
                outcomes[name] = {}
                sys.stderr.write(f"\r{name}: {error}\n")
            progress(name)("")
            where = {**machine(), "load": load, "scans": scans, "events": EVENTS}
            print(json.dumps({"bench": f"stats.{name}", **where, **outcomes[name]}))  # noqa: T201
            sys.stdout.flush()
    finally:
        server.remove()
        shutil.rmtree(VAR / "site", ignore_errors=True)
        (VAR / "scan" / "codes.txt").unlink(missing_ok=True)
    return outcomes


def goals_of(outcomes: Outcomes) -> list[Goal]:
    """Return what the cases that were run have to reach."""
    goals: list[Goal] = []
    if "build" in outcomes:
        found = outcomes["build"]
        large: Any = found.get("large", {})
        goals += [
            Goal("build", "all counters within 120 s", large.get("seconds"), 120),
            Goal("build", "peak memory ≤ 1.5 times that at 100,000 scans", found.get("memory_ratio"), 1.5),
        ]
    if "questions" in outcomes:
        found = outcomes["questions"]
        goals += [
            _worst("questions", "median ≤ 5 ms", found, "median_ms", 5),
            _worst("questions", "p99 ≤ 20 ms", found, "p99_ms", 20),
            _worst("questions", "median ≤ 1.5 times that at 100,000 scans", found, "ratio", 1.5),
        ]
    if "exact" in outcomes:
        found = outcomes["exact"]
        asked = found.get("asked", 0)
        goals.append(
            Goal("exact", f"answers of {asked} that differ from a recount: 0", found.get("differed"), 0)
        )
    if "cost" in outcomes:
        found = outcomes["cost"]
        words = f"share of the scans/s at {' and '.join(map(str, CLIENTS))} clients ≤ 0.15"
        goals.append(_worst("cost", words, found, "cost", 0.15))
    return goals


def _worst(case: str, words: str, found: Numbers, key: str, limit: float) -> Goal:
    if not found:
        return Goal(case, words, None, limit)
    where = max(found, key=lambda name: found[name][key])
    return Goal(case, words, found[where][key], limit, where)


def tables_of(outcomes: Outcomes) -> list[list[tuple[str, ...]]]:
    """Return a table of the questions, with what the field does beside them, and one of the designs."""
    tables: list[list[tuple[str, ...]]] = []
    asked, raw = outcomes.get("questions", {}), outcomes.get("raw", {})
    if asked or raw:
        head = ("question", "100,000: ms", "all: ms", "p99 ms", "ratio", "live COUNT ms")
        keys = ("small_ms", "median_ms", "p99_ms", "ratio")
        tables.append(
            [head]
            + [
                (
                    name,
                    *(f"{asked[name][key]:g}" if name in asked else "-" for key in keys),
                    f"{raw[name]['median_ms']:g}" if name in raw else "-",
                )
                for name in dict.fromkeys([*asked, *raw])
            ]
        )
    for case, first in (("designs", "design"), ("cost", "clients")):
        if found := outcomes.get(case):
            keys = tuple(next(iter(found.values())))
            rows = [
                (name, *("-" if row[key] is None else f"{row[key]:g}" for key in keys))
                for name, row in found.items()
            ]
            tables.append([(first, *(key.replace("_", " ") for key in keys)), *rows])
    return tables


if __name__ == "__main__":
    sys.exit(main())
