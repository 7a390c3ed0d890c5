"""A contestant in a process of its own, seen from the bench."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from bench.contestant import OVERFLOW, SIZE
from bench.contestants import OURS, QrsiteMixed
from bench.environments import ROOT, VAR, python_of
from bench.server import Server

Numbers = dict[str, Any]
SPARE_S = 60  # how much longer than asked for a contestant may take before it is given up


class GivenUp(Exception):
    """A contestant died or did not come to an end."""


class Worker:
    """A contestant in a process of its own."""

    def __init__(self, name: str, server: Server, *, timeout_s: float = 30) -> None:
        self._log = VAR / f"{name}.log"
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PG", "POOL_"))},
            **server.environment,
            "DJANGO_SETTINGS_MODULE": "qrsite.settings",
            "VAR_DIR": str(VAR / "site"),
            "POOL_SIZE": str(SIZE),
            "POOL_MAX_OVERFLOW": str(OVERFLOW),
            "POOL_TIMEOUT": str(int(timeout_s)),
        }
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [str(python_of(name)), "-m", "bench.pool_work", name, str(timeout_s)],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.pid = self._process.pid
        try:
            self.answer(within_s=SPARE_S)
        except GivenUp:
            self.close()
            raise

    def begin(self, do: str, **task: Any) -> None:
        """Give it a task."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # answer() says why
            self._process.stdin.write(json.dumps({"do": do, **task}) + "\n")
            self._process.stdin.flush()

    def answer(self, *, within_s: float) -> Numbers:
        """Return what came of its task."""
        assert self._process.stdout is not None
        watch = threading.Timer(within_s, self._process.kill)
        watch.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watch.cancel()
        if not line:
            words = self._log.read_text().strip().splitlines()[-1:]
            raise GivenUp(f"stuck or dead: {words[0][:200] if words else 'it said nothing'}")
        numbers: Numbers = json.loads(line)
        return numbers

    def do(self, do: str, *, seconds: float = 0, **task: Any) -> Numbers:
        """Give it a task and wait."""
        timed = {"seconds": seconds} if seconds else {}
        self.begin(do, **timed, **task)
        return self.answer(within_s=seconds + SPARE_S)

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()


@contextmanager
def workers(
    names: list[str], server: Server, *, mixed: bool = False, **options: Any
) -> Iterator[dict[str, Worker]]:
    """Lend a process for each; `mixed`: ours is borrowed from by raw SQL and by the ORM."""
    started: dict[str, Worker] = {}
    try:
        for name in names:
            adapter = QrsiteMixed.name if mixed and name == OURS else name
            started[name] = Worker(adapter, server, **options)
        yield started
    finally:
        for worker in started.values():
            worker.close()
