"""`GET /health/db` of a real `manage.py serve --demo`, in the states that an uptime monitor is there for."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from bench.contestants import OURS
from bench.environments import ROOT, VAR
from bench.server import Server
from bench.worker import GivenUp, Numbers

READY_WITHIN_S = 60
STOP_WITHIN_S = 15
SETTLE_S = 1.2  # what the site knows of the database may be a second old
PATIENCE_S = 10  # of the one who asks
SCANS = 60
# Where only the site's connections hang, either answer is true: what counts is that there is one in time.
EXPECTED = {
    "cold": {200},
    "idle": {200},
    "exhausted": {200},
    "frozen": {503},
    "frozen_backends": {200, 503},
    "refused": {503},
    "frozen_after_outage": {503},
}


class Site:
    """One `serve --demo` on a port of its own and on the bench's PostgreSQL."""

    def __init__(self, server: Server) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._var = VAR / "site"
        self._log = VAR / "site.log"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "POOL_"))}
        own = {"DATABASE_URL": server.url, "VAR_DIR": str(self._var), "PORT": str(self._port)}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "manage.py", "serve", "--demo"],
                cwd=ROOT,
                env={**kept, **own, "WEB_CONCURRENCY": "2", "DJANGO_SETTINGS_MODULE": "qrsite.settings"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def get(self, path: str) -> tuple[int, float, Any]:
        """Return status, seconds and body; status 0 where no answer came."""
        start = time.monotonic()
        client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        status, body = 0, None
        with suppress(OSError, http.client.HTTPException):
            client.request("GET", path)
            response = client.getresponse()
            status, body = response.status, json.loads(response.read())
        seconds = time.monotonic() - start
        client.close()
        return status, seconds, body

    def wait(self, path: str, within_s: float = READY_WITHIN_S) -> float:
        """Return after how many seconds it answered 200."""
        start = time.monotonic()
        while self._process.poll() is None and time.monotonic() - start < within_s:
            if self.get(path)[0] == 200:
                return time.monotonic() - start
            time.sleep(0.05)
        words = self._log.read_text().strip().splitlines()[-1:]
        raise GivenUp(f"{path} never answered 200; the site's last words: {words}")

    def scan(self, number: int = 0) -> int:
        """Scan one of the demo's tickets; return the status, 0 where no answer came."""
        demo = json.loads((self._var / "demo.json").read_text())
        codes = demo["sample_codes"]
        body = {"code": codes[number % len(codes)], "nonce": uuid.uuid4().hex}
        headers = {"Authorization": f"Bearer {demo['device_token']}", "Content-Type": "application/json"}
        client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            client.request("POST", "/api/v1/scans", json.dumps(body), headers)
            return client.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            client.close()

    def stop(self) -> None:
        """Press Ctrl-C, and make sure that nothing stays."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGINT)
        try:
            self._process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def health(
    server: Server, names: list[str], seconds: float, progress: Callable[[str], None]
) -> dict[str, Numbers]:
    """Ask /health/db for some seconds in each state, while 60 scans hang where scans can hang."""
    if OURS not in names:
        return {}
    progress("cold")
    site = Site(server)
    states: dict[str, Numbers] = {}
    try:
        site.wait("/health/live")
        states["cold"] = _summary([site.get("/health/db") for _ in range(3)])
        site.wait("/health/ready")
        for state, enter in STATES.items():
            progress(state)
            with ThreadPoolExecutor(SCANS) as clients:
                with enter(server):
                    scans = [] if state == "idle" else [clients.submit(site.scan, n) for n in range(SCANS)]
                    time.sleep(SETTLE_S)
                    asked = []
                    stop_at = time.monotonic() + seconds
                    while time.monotonic() < stop_at:
                        asked.append(site.get("/health/db"))
                        time.sleep(0.05)
                states[state] = _summary(asked)
                states[state]["well_again_s"] = round(site.wait("/health/db"), 2)
                if scans:
                    states[state]["scans"] = Counter(str(scan.result()) for scan in scans)
    finally:
        site.stop()
    wrong = [state for state, numbers in states.items() if not _is_right(state, numbers)]
    worst_s = max(numbers["worst_s"] for numbers in states.values())
    return {OURS: {"worst_s": worst_s, "wrong_states": len(wrong), "wrong": wrong, "states": states}}


@contextmanager
def _idle(_server: Server) -> Iterator[None]:
    yield


@contextmanager
def _exhausted(server: Server) -> Iterator[None]:
    """Lock what every scan writes to: as many requests as may hold a connection hold one and wait."""
    with server.asking() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE ticket_scans, ticket IN ACCESS EXCLUSIVE MODE")
        yield


@contextmanager
def _refused(server: Server) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.start_again()


@contextmanager
def _frozen(server: Server) -> Iterator[None]:
    with server.frozen():
        yield


@contextmanager
def _frozen_backends(server: Server) -> Iterator[None]:
    with server.frozen(backends_of="qrsite"):
        yield


# In this order: each starts where the one before left the site.
STATES = {
    "idle": _idle,
    "exhausted": _exhausted,
    "frozen": _frozen,
    "frozen_backends": _frozen_backends,
    "refused": _refused,
    "frozen_after_outage": _frozen,
}


def _summary(asked: list[tuple[int, float, Any]]) -> Numbers:
    numbers: Numbers = {
        "asked": len(asked),
        "worst_s": round(max(seconds for _status, seconds, _body in asked), 3),
        "statuses": Counter(str(status) for status, _seconds, _body in asked),
    }
    numbers["most_checked_out"] = max(body["checked_out"] if body else 0 for _status, _seconds, body in asked)
    return numbers


def _is_right(state: str, numbers: Numbers) -> bool:
    return {int(status) for status in numbers["statuses"]} <= EXPECTED[state]
