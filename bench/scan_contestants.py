"""Who judges scans in `python -m bench.scan`, each with two processes and at most 15 connections in each."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psutil

from bench.contestant import CAP, OVERFLOW, SIZE
from bench.environments import ROOT, python_in
from bench.scan_stage import Stage
from bench.worker import GivenUp

PROCESSES = 2
READY_WITHIN_S, LEAVES_WITHIN_S = 60, 10
OURS, LIMIT = "qrsite", "pgbench"
_GUNICORN = (
    "-m",
    "gunicorn",
    "bench.scan_django:application",
    f"--workers={PROCESSES}",
    "--worker-class=gthread",
    f"--threads={CAP}",
    "--keep-alive=60",
    "--worker-connections=4000",
    "--backlog=2048",
    "--log-level=warning",
    "--bind=127.0.0.1:{port}",
)


class Contestant(NamedTuple):
    """A site, and how it is served."""

    environment: str
    command: tuple[str, ...]


CONTESTANTS = {
    OURS: Contestant("", ("manage.py", "serve")),
    "gunicorn": Contestant("psycopg2", _GUNICORN),
    "gunicorn-0": Contestant("psycopg2", _GUNICORN),
    "django-native": Contestant("psycopg3", _GUNICORN),
    "django-db-connection-pool": Contestant("psycopg2", _GUNICORN),
    "fastapi": Contestant(
        "asyncpg",
        (
            "-m",
            "uvicorn",
            "bench.scan_fastapi:application",
            f"--workers={PROCESSES}",
            "--host=127.0.0.1",
            "--port={port}",
            "--no-access-log",
            "--log-level=warning",
        ),
    ),
    "engine-per-call": Contestant("psycopg2", _GUNICORN),
    LIMIT: Contestant("", ()),
}
UNCOUNTED = "uncounted"
_BESIDE = {UNCOUNTED: Contestant("", ("-m", "bench.stats_uncounted"))}  # plays in bench.stats only
PEERS = tuple(name for name in CONTESTANTS if name not in (OURS, LIMIT))


@contextmanager
def serving(name: str, stage: Stage, processes: int = PROCESSES) -> Iterator[tuple[int, psutil.Process]]:
    """Serve on a free port; lend that and the process that all others come from."""
    contestant, port = (CONTESTANTS | _BESIDE)[name], _free_port()
    command = [word.format(port=port) for word in contestant.command]
    environment = {
        **stage.environment(),
        "BENCH_CONTESTANT": name,
        "PORT": str(port),
        "WEB_CONCURRENCY": str(processes),
        "POOL_SIZE": str(SIZE),
        "POOL_MAX_OVERFLOW": str(OVERFLOW),
    }
    log = stage.folder / f"{name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(python_in(contestant.environment)), *command],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait(name, process, port)
        yield port, psutil.Process(process.pid)
    finally:
        _end(process)


def wrk() -> str:
    """Return where wrk is.

    Raises:
        GivenUp: nowhere.
    """
    if found := shutil.which("wrk"):
        return found
    raise GivenUp("wrk is missing: install it (Debian: apt install wrk)")


def _wait(name: str, process: subprocess.Popen[bytes], port: int) -> None:
    """Return once it answers HTTP, whatever it says."""
    deadline_s = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            client.request("GET", "/health/live")
            client.getresponse().read()
            client.close()
        except OSError:
            time.sleep(0.1)
        else:
            time.sleep(1)  # for the other process, too
            return
    raise GivenUp(f"{name} does not serve; its log is beside the bench's environments")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(LEAVES_WITHIN_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
