"""A PostgreSQL of the bench's own, which it may restart and freeze, and which counts connections for it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg2
from psycopg2.extensions import make_dsn

from core.environment import socket_url
from core.postgres import DATABASE, USER, EmbeddedPostgres

GONE_WITHIN_S = 30
Owner = tuple[str, int]  # first word of the application_name, process
# `name:<pid>`, and `qrsite:<host>-<pid>:<purpose>`
_PID = re.compile(r"[:-](\d+)(?=:|$)")
_SESSION = re.compile(
    r"^\S+ \[(\d+)\] (?:LOG:  connection authorized: .*application_name=(.+)|LOG:  (disconnection): .*|FATAL:  .*)$",
    re.MULTILINE,
)
_AUTHORIZED = re.compile(r"^(\d+\.\d+) .*connection authorized: .*application_name=(.+)$", re.MULTILINE)


class Server:
    """Started once, removed at the end."""

    def __init__(self, home: Path) -> None:
        self._postgres = EmbeddedPostgres(home, notify=lambda _message: None)
        self.url = socket_url(self._postgres.socket_dir, user=USER, name=DATABASE)
        # For contestants: libpq reads these.
        self.environment = {
            "PGHOST": str(self._postgres.socket_dir),
            "PGUSER": USER,
            "PGDATABASE": DATABASE,
            "DATABASE_URL": self.url,
        }

    def start(self) -> None:
        """Start, with a log of who connects and room for contestants that break their cap."""
        self._thaw()  # what a killed bench left
        self._postgres.ensure_running()
        with self.asking() as cursor:
            for setting in (
                "log_connections = on",
                "log_disconnections = on",
                "log_line_prefix = '%n [%p] '",
                "max_connections = 600",
            ):
                cursor.execute(f"ALTER SYSTEM SET {setting}")
        self.stop()
        self._postgres.ensure_running()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: fast (SIGINT) or at once and to be recovered (SIGQUIT)."""
        postmaster = self.postmaster()
        postmaster.send_signal(how)
        deadline_s = time.monotonic() + GONE_WITHIN_S
        while postmaster.is_running() and postmaster.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline_s:
                raise TimeoutError("PostgreSQL does not stop")
            time.sleep(0.01)

    def start_again(self) -> None:
        """Return once it accepts connections."""
        self._postgres.ensure_running()

    def remove(self) -> None:
        """Stop it for good and remove its files."""
        self._thaw()
        self._postgres.release()
        shutil.rmtree(self._postgres.home.resolve(), ignore_errors=True)
        shutil.rmtree(self._postgres.socket_dir, ignore_errors=True)
        if self._postgres.home.is_symlink():  # root's lies elsewhere
            self._postgres.home.unlink()

    @contextmanager
    def frozen(self, backends_of: str = "") -> Iterator[int]:
        """Freeze the whole server, or only the backends whose application_name starts so; tell how many processes."""
        if backends_of:
            with self.asking() as cursor:
                question = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE %s || '%%'"
                cursor.execute(question, [backends_of])
                processes = [psutil.Process(pid) for (pid,) in cursor.fetchall()]
        else:
            postmaster = self.postmaster()
            postmaster.suspend()  # first, so that it makes no more children
            processes = [postmaster, *postmaster.children()]
        try:
            for process in processes:
                process.suspend()
            yield len(processes)
        finally:
            self._resume(processes)

    @contextmanager
    def asking(self, database: str = DATABASE) -> Iterator[Any]:
        """Lend a cursor past all pools, in autocommit."""
        connection = self._connect(database)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def accepts(self) -> bool:
        """Tell whether it accepts a connection now."""
        try:
            self._connect().close()
        except psycopg2.OperationalError:
            return False
        return True

    def postmaster(self) -> psutil.Process:
        """Return the process that all others of it come from."""
        return psutil.Process(int((self._postgres.home / "data/postmaster.pid").read_text().split()[0]))

    def log_position(self) -> int:
        """Return where its log ends now."""
        return self._log().stat().st_size

    def connects(self, position: int, pid: int) -> list[float]:
        """Return when a process connected, as the server logged it since a position."""
        found = _AUTHORIZED.findall(self._logged(position))
        return [float(at_s) for at_s, name in found if pid_of(name) == pid]

    def most_at_once(self, position: int) -> Counter[Owner]:
        """Count the most sessions that each process had, from their beginnings and ends in the log since a position."""
        events = _SESSION.findall(self._logged(position))
        # Who is killed before it is ready is not logged as disconnected: its last words are its end.
        ends_later: set[str] = set()
        is_end = [False] * len(events)
        for index in reversed(range(len(events))):
            backend, name, disconnection = events[index]
            is_end[index] = bool(disconnection) or (not name and backend not in ends_later)
            (ends_later.discard if name else ends_later.add)(backend)
        most: Counter[Owner] = Counter()
        now: Counter[Owner] = Counter()
        owners: dict[str, Owner] = {}
        for (backend, name, _), ends in zip(events, is_end, strict=True):
            if name and (owner := owner_of(name)):
                owners[backend] = owner
                now[owner] += 1
                most[owner] = max(most[owner], now[owner])
            elif ends and backend in owners:
                now[owners.pop(backend)] -= 1
        return most

    def _connect(self, database: str = DATABASE) -> Any:
        where = {"host": str(self._postgres.socket_dir), "user": USER, "dbname": database}
        return psycopg2.connect(make_dsn(application_name="bench", **where))

    def _logged(self, position: int) -> str:
        with self._log().open("rb") as log:
            log.seek(position)
            return log.read().decode(errors="replace")

    def _log(self) -> Path:
        return self._postgres.home / "log"

    def _thaw(self) -> None:
        with suppress(FileNotFoundError, psutil.NoSuchProcess):
            self._resume([self.postmaster(), *self.postmaster().children()])

    @staticmethod
    def _resume(processes: Iterable[psutil.Process]) -> None:
        for process in reversed(list(processes)):
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)


def pid_of(application_name: str) -> int | None:
    """Return the process that an application_name names."""
    found = _PID.findall(application_name)
    return int(found[-1]) if found else None


def owner_of(application_name: str) -> Owner | None:
    """Return whose connection it is."""
    process = pid_of(application_name)
    return None if process is None else (application_name.partition(":")[0], process)


def backends(cursor: Any) -> dict[int, Owner]:
    """Return the server's processes and whose they are, as they were one after the other while this was read."""
    cursor.execute(
        "SELECT pid, application_name FROM pg_stat_activity WHERE backend_type = 'client backend'"
        " AND application_name <> 'bench'"
    )
    return {backend: owner for backend, name in cursor.fetchall() if (owner := owner_of(name))}
