"""What `python -m bench.stats` measures."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from bench.environments import ROOT
from bench.scan_cases import CLIENTS, cpu, spike
from bench.scan_contestants import OURS, UNCOUNTED
from bench.stats_designs import DESIGNS, TABLE
from bench.stats_raw import RAW
from bench.stats_stage import LARGE, SMALL, Archive
from bench.stats_work import QUESTIONS
from bench.worker import GivenUp, Numbers

Progress = Callable[[str], None]
AT_ONCE = (
    10  # calls, before the other database is asked the same: whatever else this machine does, it does to both
)
RAW_TIMES = 3
EXACT, DESIGN = "stats_exact", "stats_designs"
PROCESSES = 2
STARTS_WITHIN_S = 5
COUNTERS = "event_counts, refusal_counts, refused_codes"


def build(archive: Archive, quick: bool, progress: Progress) -> Numbers:
    """Count what was never counted: `stats verify --repair` on both databases, with its time and its memory."""
    archive.fill(progress)
    for name in (SMALL, LARGE):
        if name not in archive.built:
            archive.built[name] = _build(archive, name, progress)
    small, large = archive.built[SMALL], archive.built[LARGE]
    growth = {"memory_ratio": round(large["peak_mb"] / small["peak_mb"], 2)}
    return {"small": small, "large": large, **growth, "filled_s": archive.filled_s}


def _build(archive: Archive, name: str, progress: Progress) -> Numbers:
    progress(f"{archive.sizes[name]:,} scans are counted")
    with archive.server.asking(name) as cursor:
        cursor.execute(f"TRUNCATE {COUNTERS}")
    began_s = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "manage.py", "stats", "verify", "--repair", "--json"],
        cwd=ROOT,
        env=archive.stage.environment(name),
        stdout=subprocess.PIPE,
        stderr=sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL,  # its progress bar
        text=True,
    )
    assert process.stdout is not None
    told = json.loads(process.stdout.read())
    # As wait() does, which doesn't tell what the process needed.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    took_s = time.monotonic() - began_s
    with archive.server.asking(name) as cursor:
        cursor.execute(f"VACUUM (ANALYZE) {COUNTERS}")
    return {
        "scans": archive.sizes[name],
        "seconds": round(took_s, 1),
        "peak_mb": round(usage.ru_maxrss / 1024, 1),
        "counters": told["differences"],
    }


def questions(archive: Archive, quick: bool, progress: Progress) -> Numbers:
    """Every endpoint of statistics, at 100,000 scans and at all: what the database takes for an answer."""
    build(archive, quick, progress)
    askers = {
        name: _start(archive, name, "stats_work", archive.token, stdin=subprocess.PIPE)
        for name in (SMALL, LARGE)
    }
    asked: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in askers}
    try:
        for asker in askers.values():
            _hear(asker)  # it has warmed up
        for turn in range((60 if quick else 200) // AT_ONCE):
            progress(f"{len(QUESTIONS)} questions, turn {turn + 1}")
            for question in QUESTIONS:
                for name, asker in askers.items():
                    assert asker.stdin is not None
                    asker.stdin.write(json.dumps([question, AT_ONCE]) + "\n")
                    asker.stdin.flush()
                    asked[name][question] += _hear(asker)
    finally:
        for asker in askers.values():
            asker.kill()
            asker.wait()
    numbers: Numbers = {}
    for question in QUESTIONS:
        small, large = (sorted(asked[name][question]) for name in (SMALL, LARGE))
        medians = [statistics.median(millis) for millis in (small, large)]
        numbers[question] = {
            "small_ms": round(medians[0], 2),
            "median_ms": round(medians[1], 2),
            "p99_ms": round(large[int(len(large) * 0.99)], 2),
            "ratio": round(medians[1] / medians[0], 2),
        }
    return numbers


def raw(archive: Archive, quick: bool, progress: Progress) -> Numbers:
    """The same, asked of the rows by a live COUNT, as it is done where nothing is counted."""
    archive.fill(progress)
    numbers: Numbers = {}
    with archive.server.asking(LARGE) as cursor:
        cursor.execute("SELECT id FROM event ORDER BY id DESC LIMIT %s", [RAW_TIMES])
        events = [event_id for (event_id,) in cursor.fetchall()]
        for question, statements in RAW.items():
            progress(f"{question}, of the rows")
            millis = []
            for event_id in events:
                began_s = time.monotonic()
                for statement in statements:
                    cursor.execute(statement, {"event_id": event_id})
                    cursor.fetchall()
                millis.append((time.monotonic() - began_s) * 1000)
            numbers[question] = {"median_ms": round(statistics.median(millis), 1)}
    return numbers


def exact(archive: Archive, quick: bool, progress: Progress) -> Numbers:
    """Eight writers scan online and hours late, take back, void and roll back; a reader recounts meanwhile."""
    archive.copy(EXACT)
    _run(archive, EXACT, "stats_exact", "issue")
    progress("recounting while eight write")
    writers = [
        _start(archive, EXACT, "stats_exact", "write", str(seed), stdin=subprocess.PIPE)
        for seed in range(PROCESSES)
    ]
    try:
        read = _run(archive, EXACT, "stats_exact", "read", str(100 if quick else 300))
    finally:
        told = [writer.communicate()[0] for writer in writers]  # ends their input, so they come to an end
    if any(writer.returncode for writer in writers):
        raise GivenUp("a writer died")
    written = sum((Counter(json.loads(words)) for words in told), Counter[str]())
    with archive.server.asking(EXACT) as cursor:
        cursor.execute("SELECT count(*) FROM ticket_scans")
        [rows] = cursor.fetchone()
    return {**read, "written": written, "rows": rows, "scans_lost": written["kept"] - rows}


def designs(archive: Archive, quick: bool, progress: Progress) -> Numbers:
    """The same batches, not counted, counted in slots, and through a queue of deltas (docs/adr/0017)."""
    numbers: Numbers = {}
    seconds = 4 if quick else 10
    for design in DESIGNS:
        progress(design)
        archive.copy(DESIGN)
        with archive.server.asking(DESIGN) as cursor:
            cursor.execute(TABLE)
        begin_at_s = time.time() + STARTS_WITHIN_S
        processes = [
            _start(archive, DESIGN, "stats_designs", design, str(worker), f"{begin_at_s:.3f}", str(seconds))
            for worker in range(1 + PROCESSES)
        ]
        time.sleep(max(begin_at_s - time.time(), 0))
        with cpu(archive.stage, None) as cpu_s:
            told = [_told(process) for process in processes]
        batches = sum(one["batches"] for one in told[1:])
        with archive.server.asking(DESIGN) as cursor:
            cursor.execute("SELECT count(*) FROM bench_delta")
            [pending] = cursor.fetchone()
        numbers[design] = {
            "batches_per_s": round(batches / seconds, 1),
            "db_cpu_ms_per_batch": round(cpu_s["database"] * 1000 / max(batches, 1), 2),
            "rows_pending": pending,
            **told[0],
        }
    return numbers


def cost(archive: Archive, quick: bool, progress: Progress) -> Numbers:
    """The scan lane with its counters and without, taking turns: what counting costs in scans/s."""
    stage = archive.stage
    progress("issuing tickets")
    stage.fill()
    turns: dict[str, list[Numbers]] = {name: [] for name in (OURS, UNCOUNTED)}
    for turn in range(2 if quick else 5):
        # Neither is always the one that comes after a pause.
        for name in sorted(turns, reverse=bool(turn % 2)):
            turns[name].append(spike(stage, name, 2 if quick else 3, progress))
    return {
        str(clients): _cost(*([one[str(clients)] for one in turns[name]] for name in turns))
        for clients in CLIENTS
    }


def _cost(counted: list[Numbers], uncounted: list[Numbers]) -> Numbers:
    """Compare turn by turn: what else this machine does comes and goes. CPU tells the same with less noise."""
    if errors := [one["errors"] for one in counted + uncounted if one["errors"]]:
        raise GivenUp(f"errors: {errors}")

    def cpu_ms(one: Numbers) -> float:
        return float(one["db_cpu_s_per_1000"] + one["site_cpu_s_per_1000"])

    pairs = list(zip(counted, uncounted, strict=True))
    return {
        "counted_per_s": round(statistics.median(one["scans_per_s"] for one in counted)),
        "uncounted_per_s": round(statistics.median(one["scans_per_s"] for one in uncounted)),
        "cost": round(
            1 - statistics.median(one["scans_per_s"] / other["scans_per_s"] for one, other in pairs), 3
        ),
        "counted_cpu_ms": round(statistics.median(map(cpu_ms, counted)), 3),
        "uncounted_cpu_ms": round(statistics.median(map(cpu_ms, uncounted)), 3),
        "cpu_cost": round(1 - statistics.median(cpu_ms(other) / cpu_ms(one) for one, other in pairs), 3),
    }


def _start(archive: Archive, database: str, module: str, *words: str, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"bench.{module}", *words]
    environment = archive.stage.environment(database)
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, **more)


def _hear(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise GivenUp(f"{process.args!r} said nothing")
    return json.loads(line)


def _told(process: subprocess.Popen[str]) -> Numbers:
    words, _ = process.communicate()
    if process.returncode:
        raise GivenUp(f"{process.args!r} exited with {process.returncode}")
    numbers: Numbers = json.loads(words)
    return numbers


def _run(archive: Archive, database: str, module: str, *words: str) -> Numbers:
    return _told(_start(archive, database, module, *words))
