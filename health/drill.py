"""The operator's side of a drill: break a running system in bounded ways and see whether it keeps its promises."""

from __future__ import annotations

import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import psutil
from django.conf import settings

from core import control, db
from core.purpose import SCAN
from health.fleet import SQL

HEALTH_WITHIN_S = 0.8
NOTICED_WITHIN_S = 3.0
HOLD_S = 20.0


class Broken(Exception):
    """A promise was not kept; the message says what was seen."""


class Impossible(Exception):
    """This can't be tried here; the message says why."""


class Outcome(NamedTuple):
    """What came of one step."""

    step: str
    verdict: str  # pass, fail, skip
    words: str


class Drill:
    """Steps against every server process of this machine; each cleans up after itself."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._processes = control.processes()
        self._most: dict[str, int] = {}

    def run(self, steps: list[str]) -> Iterator[Outcome]:
        """Yield the outcome of each step as it ends.

        Raises:
            Impossible: no server process listens on this machine.
        """
        if not self._processes:
            raise Impossible(
                "No server process of this site runs on this machine under this VAR_DIR: start it with manage.py serve."
            )
        try:
            self._health()
        except (OSError, ValueError) as error:
            raise Impossible(
                f"Nothing answers at {self._url}/health/db ({error}): say where it listens, --url."
            ) from error
        with self._counting():
            for step in steps:
                if step != "cap":
                    yield self._outcome(step, STEPS[step][1])
        if "cap" in steps:
            yield self._outcome("cap", STEPS["cap"][1])

    def _outcome(self, step: str, act: Callable[[Drill], str]) -> Outcome:
        if settings.PGBOUNCER and step in {"kill", "freeze", "cap"}:
            return Outcome(step, "skip", "the server knows PgBouncer's connections, not the site's")
        try:
            return Outcome(step, "pass", act(self))
        except Broken as broken:
            return Outcome(step, "fail", str(broken))
        except Impossible as reason:
            return Outcome(step, "skip", str(reason))
        except (OSError, RuntimeError) as error:
            return Outcome(step, "fail", f"{type(error).__name__}: {error}")

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """Count every process's connections at the server, ten times a second, while the drill runs."""
        done = threading.Event()

        def count() -> None:
            while not done.wait(0.1):
                with db.begin() as conn:
                    for process, connections in conn.exec_driver_sql(SQL["connections_by_process"]):
                        self._most[process] = max(self._most.get(process, 0), connections)

        counter = threading.Thread(target=count, name="drill-counter", daemon=True)
        counter.start()
        try:
            yield
        finally:
            done.set()
            counter.join(5)

    def cap(self) -> str:
        """Compare what was counted with the cap."""
        caps = {process: control.ask(process, "status")["cap"] for process in self._processes}
        seen = {process: self._most.get(process, 0) for process in self._processes}
        if not any(seen.values()):
            raise Impossible("no other step ran while connections were counted")
        for process, most in seen.items():
            _expect(most <= caps[process], f"{process} held {most} of {caps[process]}")
        return f"at most {max(seen.values())} of {max(caps.values())} connections in any process, all through the drill"

    def kill(self) -> str:
        """Kill what is idle; the next to ask must not notice."""
        killed = 0
        for process in self._processes:
            self._take(process)  # so that there is something to kill
            with db.begin() as conn:
                killed += len(conn.exec_driver_sql(SQL["kill_idle"], {"process": process}).all())
            self._take(process)
        return f"{killed} idle connections were killed; nobody noticed"

    def freeze(self) -> str:
        """Freeze the server: what works for the site, and what would make another; probes must say so in time."""
        backends = self._backends()
        postmasters = {parent for backend in backends if (parent := backend.parent())}
        frozen = [*postmasters, *backends]
        slowest_s, seen, start_s = 0.0, 0, time.monotonic()
        # Whatever becomes of this process: nobody is left frozen.
        thaw = (
            f"sleep {NOTICED_WITHIN_S + 1:g}; kill -CONT {' '.join(str(process.pid) for process in frozen)}"
        )
        subprocess.Popen(["/bin/sh", "-c", thaw], start_new_session=True, stderr=subprocess.DEVNULL)
        try:
            for process in frozen:
                process.suspend()
            while seen != 503 and time.monotonic() - start_s < NOTICED_WITHIN_S:
                seen, took_s = self._health()
                slowest_s = max(slowest_s, took_s)
        finally:
            for process in reversed(frozen):
                with suppress(psutil.NoSuchProcess):
                    process.resume()
        _expect(seen == 503, f"/health/db still said {seen} after {NOTICED_WITHIN_S:g} s")
        _expect(slowest_s <= HEALTH_WITHIN_S, f"/health/db took {slowest_s:.2f} s")
        self._until_healthy()
        return f"{len(frozen)} processes of the server frozen; /health/db said 503 within {slowest_s:.2f} s, and 200 after it"

    def exhaust(self) -> str:
        """Let background work take all it can, then take everything: scans, probes and deadlines must hold."""
        slowest_s, taken = 0.0, 0
        for process in self._processes:
            try:
                cap = control.ask(process, "status")["cap"]
                taken = self._hold(process, "background", cap)
                slowest_s = max(slowest_s, self._take(process))
                self._hold(process, "scan", cap)
                code, took_s = self._health()
                _expect(
                    code == 200 and took_s <= HEALTH_WITHIN_S,
                    f"busy: /health/db said {code} in {took_s:.2f} s",
                )
                answer = control.ask(process, "take", purpose="scan", timeout_s=10)
                _expect(
                    bool(answer["error"]) and answer["seconds"] <= (SCAN.timeout_s or 0) + 0.5,
                    f"a scan that could not be served waited {answer['seconds']:.2f} s",
                )
            finally:
                control.ask(process, "let_go")
            self._take(process)
        _expect(slowest_s <= 0.5, f"with {taken} background holders a scan waited {slowest_s:.2f} s")
        return f"beside {taken} background holders a scan took {slowest_s * 1000:.0f} ms; all taken: refused in time, /health/db 200"

    def nest(self) -> str:
        """Ask for a second connection on a thread that holds the last one: it must fail at once."""
        answer = ""
        for process in self._processes:
            try:
                cap = control.ask(process, "status")["cap"]
                self._hold(process, "scan", cap - 1)
                answer = control.ask(process, "nest", purpose="scan", timeout_s=10)
                _expect(
                    answer.startswith("refused after 0.0"), f"a thread that would wait for itself: {answer}"
                )
            finally:
                control.ask(process, "let_go")
        return f"a thread that would wait for itself was {answer}"

    def leak(self) -> str:
        """Let a thread end with a connection: it must come back, and be counted."""
        for process in self._processes:
            before = control.ask(process, "status")["leaks"]
            control.ask(process, "leak")
            deadline_s = time.monotonic() + NOTICED_WITHIN_S
            while control.ask(process, "status")["leaks"] == before:
                _expect(time.monotonic() < deadline_s, "a connection of an ended thread did not come back")
                time.sleep(0.05)
        return "connections of ended threads came back; the log names them"

    def fork(self) -> str:
        """Fork: the child must get a connection of its own, the parent keep the one it holds."""
        for process in self._processes:
            told = control.ask(process, "fork", timeout_s=10)
            is_right = (
                told["before"] == told["after"]
                and told["child"].isdigit()
                and int(told["child"]) != told["before"]
            )
            _expect(is_right, f"parent {told['before']} then {told['after']}, child {told['child']}")
        return "children talked to the server on connections of their own, parents kept theirs"

    def _take(self, process: str) -> float:
        answer = control.ask(process, "take", purpose="scan", timeout_s=10)
        _expect(not answer["error"], f"{process}: {answer['error']}")
        seconds: float = answer["seconds"]
        return seconds

    def _hold(self, process: str, purpose: str, count: int) -> int:
        held: int = control.ask(
            process, "hold", timeout_s=30, purpose=purpose, count=count, seconds=HOLD_S, within_s=1.5
        )
        return held

    def _health(self) -> tuple[int, float]:
        start_s = time.monotonic()
        try:
            with urllib.request.urlopen(f"{self._url}/health/db", timeout=5) as response:
                code = response.status
        except urllib.error.HTTPError as error:
            code = error.code
        return code, time.monotonic() - start_s

    def _until_healthy(self) -> None:
        deadline_s = time.monotonic() + NOTICED_WITHIN_S
        while (code := self._health()[0]) != 200:
            _expect(
                time.monotonic() < deadline_s,
                f"/health/db said {code} {NOTICED_WITHIN_S:g} s after it was over",
            )
            time.sleep(0.05)

    def _backends(self) -> list[psutil.Process]:
        """Find the server's processes that work for the site.

        Raises:
            Impossible: they are not on this machine, or not ours to stop.
        """
        found = []
        for process in self._processes:
            self._take(process)
            with db.begin() as conn:
                pids = conn.exec_driver_sql(SQL["backends"], {"process": process}).scalars().all()
            for pid in pids:
                try:
                    backend = psutil.Process(pid)
                    if not backend.name().startswith("postgres"):
                        raise psutil.NoSuchProcess(pid)
                    backend.nice()
                    found.append(backend)
                except (psutil.NoSuchProcess, psutil.AccessDenied) as error:
                    raise Impossible(
                        "PostgreSQL does not run here, or under an account that is not ours"
                    ) from error
        return found


STEPS: dict[str, tuple[str, Callable[[Drill], str]]] = {
    "kill": ("kill the idle connections of every process", Drill.kill),
    "freeze": ("stop the server, as far as the site sees it, for up to 3 s", Drill.freeze),
    "exhaust": ("take every connection of every process, for a few seconds", Drill.exhaust),
    "nest": ("ask for a second connection where there is none", Drill.nest),
    "leak": ("end a thread that holds a connection", Drill.leak),
    "fork": ("fork every server process once", Drill.fork),
    "cap": ("count connections at the server meanwhile", Drill.cap),
}


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise Broken(what)
