"""Run PostgreSQL 18 out of a Python wheel, from a folder of the project, for as long as a process uses it.

Each user holds a shared flock on `users.lock`; the kernel drops it even after kill -9, so nothing is counted in
files. Whoever leaves drops its lock and then tries the exclusive one: getting it proves that nobody else uses
the server, and holding it while stopping makes a newcomer wait and then start again. All who leave at once drop
before they try, so one of them gets it.

Trust authentication is safe only because the socket lies in a folder that nobody else may enter.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import secrets
import shlex
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

import psutil

from core.postgres_account import (
    Account,
    PostgresError,
    account_for,
    digest,
    folder_within_reach,
    install_within_reach,
    link,
    make_parents,
    make_private,
    refuse_foreign,
)

__all__ = ["DATABASE", "USER", "EmbeddedPostgres", "PostgresError"]

DATABASE = "qrsite"
USER = "qrsite"

_SOCKET = ".s.PGSQL.5432"
_SOCKET_PATH_MAX_BYTES = 100  # the kernel's limit is 107 on Linux and 103 on macOS
_TIMEOUT_S = 60
_STOP_FAST_S = 5
_INITDB = (
    f"--auth=trust -E UTF8 -U {USER} --no-instructions --locale=C --locale-provider=builtin --builtin-locale=C.UTF-8"
    " --set max_connections=100 --set log_checkpoints=off --set timezone=UTC --set log_timezone=UTC"
).split()


def _to_stderr(message: str) -> None:
    sys.stderr.write(f"{message}\n")


class EmbeddedPostgres:
    """One PostgreSQL on one folder, shared by all processes that name the same folder."""

    def __init__(self, home: Path, *, notify: Callable[[str], None] = _to_stderr) -> None:
        self.home = home.absolute()
        self._notify = notify
        self._users: int | None = None
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._forget_inherited_lock)

    @property
    def socket_dir(self) -> Path:
        """Return the folder of the Unix socket: follows from the home alone and makes nothing on disk."""
        inside = self._folder / "socket"
        # A comma separates hosts for libpq, and folders for the server.
        if len(os.fsencode(inside / _SOCKET)) <= _SOCKET_PATH_MAX_BYTES and "," not in str(inside):
            return inside
        # Not gettempdir(): TMPDIR may differ between the processes that have to meet here.
        return Path("/tmp") / f"qrsite-{digest(self._folder)}"

    def ensure_running(self) -> None:
        """Return once the server accepts connections and counts this process among its users.

        Idempotent, thread-safe, and cheap enough to call before every physical connect.

        Raises: PostgresError.
        """
        if self._users is not None and self._is_ready():
            return
        with self._lock:
            try:
                if self._users is None:
                    self._register()
                if not self._is_ready():
                    self._start()
            except OSError as error:
                raise PostgresError(f"{error}: repair that or set DATABASE_URL") from error

    def release(self) -> None:
        """Stop using the server; the last user stops it. Idempotent, and called at exit."""
        with self._lock:
            users, self._users = self._users, None
            if users is None:
                return
            atexit.unregister(self.release)
            try:
                fcntl.flock(users, fcntl.LOCK_UN)
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._stop()
            except BlockingIOError:
                self._notify("embedded PostgreSQL keeps running: other processes use it")
            except (OSError, PostgresError) as error:
                self._notify(f"embedded PostgreSQL could not be stopped: {error}")
            finally:
                # A close alone would leave the lock with a child forked meanwhile by another thread.
                fcntl.flock(users, fcntl.LOCK_UN)
                os.close(users)

    @cached_property
    def _account(self) -> Account:
        return account_for(self.home)

    @cached_property
    def _folder(self) -> Path:
        return folder_within_reach(self.home, self._account)

    @cached_property
    def _bin(self) -> Path:
        return install_within_reach(self._account) / "bin"

    def _register(self) -> None:
        """Hold the shared lock; waits while another process stops the server."""
        make_parents(self._folder)
        if self._folder != self.home.resolve():
            link(self.home, self._folder)
        # Before the first connect, not only before a start: somebody else may have planted a socket.
        for folder in (self._folder, self.socket_dir):
            make_private(folder, self._account)
        if (self._folder / "data").exists():
            refuse_foreign(self._folder / "data", self._account.uid)
        users = _open_lock(self._folder / "users.lock", self._account)
        try:
            fcntl.flock(users, fcntl.LOCK_SH)
        except BaseException:
            os.close(users)
            raise
        self._users = users
        atexit.register(self.release)

    def _forget_inherited_lock(self) -> None:
        """In a forked child: leave the parent's lock to the parent (closing a copy does not unlock it)."""
        self._lock = threading.Lock()
        users, self._users = self._users, None
        if users is not None:
            os.close(users)

    def _is_ready(self) -> bool:
        """Tell whether the postmaster accepts sessions: a socket that answers may still be in crash recovery."""
        with suppress(FileNotFoundError):
            status = (self._folder / "data" / "postmaster.pid").read_bytes().splitlines()[7:8]
            if status == [b"ready   "]:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.setblocking(False)
                    # EAGAIN: alive, with a full queue of connection requests.
                    return probe.connect_ex(str(self.socket_dir / _SOCKET)) in (0, errno.EAGAIN)
        return False

    def _start(self) -> None:
        deadline_s = time.monotonic() + _TIMEOUT_S
        with _locked(self._folder / "start.lock", self._account):
            if not (self._folder / "data").exists():
                self._initdb()
            while not self._is_ready():
                if time.monotonic() > deadline_s:
                    raise PostgresError(f"PostgreSQL does not answer; the log is {self._folder / 'log'}")
                if self._has_postmaster():  # It starts, recovers or stops.
                    time.sleep(0.02)
                else:
                    self._start_postmaster()

    def _initdb(self) -> None:
        """Make `data` appear in one rename, with its database in it."""
        self._notify(f"creating the embedded PostgreSQL in {self._folder}")
        for left in self._folder.glob("data.new-*"):
            shutil.rmtree(left, ignore_errors=True)
        # A new name each time: the initdb of a process that was killed may still be writing into its own.
        new = self._folder / f"data.new-{secrets.token_hex(4)}"
        self._run("initdb", "-D", new.name, *_INITDB)
        create_database = f"CREATE DATABASE {DATABASE};\n"
        self._run(
            "postgres", "--single", "--exit_on_error=on", "-D", new.name, "postgres", stdin=create_database
        )
        new.rename(self._folder / "data")
        # Without it a power cut may undo the rename, and the next start would wipe committed rows in data.new.
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _has_postmaster(self) -> bool:
        """Tell whether a postmaster lives on this folder, whatever its state."""
        pid = _pid_in(self._folder / "data" / "postmaster.pid")
        return pid is not None and _is_postmaster(pid, self._folder / "data")

    def _start_postmaster(self) -> None:
        """Start where no postmaster runs. Returns without one if children of a killed one still leave."""
        for lock_file in (self._folder / "data" / "postmaster.pid", self.socket_dir / f"{_SOCKET}.lock"):
            pid = _pid_in(lock_file)
            # A dead pid PostgreSQL judges better itself; a reused one, or none, it takes for a running server.
            if pid is None or psutil.pid_exists(pid):
                lock_file.unlink(missing_ok=True)
        log = self._folder / "log"
        log_bytes = log.stat().st_size if log.exists() else 0
        # As arguments, so that a moved project needs no edit.
        socket_options = f"--unix_socket_directories={self.socket_dir}", "--unix_socket_permissions=0700"
        options = shlex.join([*socket_options, "--listen_addresses="])
        try:
            self._run("pg_ctl", "start", "-t", str(_TIMEOUT_S), "-D", "data", "-l", "log", "-o", options)
        except PostgresError as error:
            words = log.read_bytes()[log_bytes:].decode(errors="replace") if log.exists() else ""
            if "is still in use" not in words:
                raise PostgresError(f"{_last_line(words) or error}; the log is {log}") from error
            time.sleep(0.1)
        else:
            self._notify(f"embedded PostgreSQL started in {self._folder}")

    def _stop(self) -> None:
        if self._has_postmaster():
            try:
                self._run("pg_ctl", "stop", "-t", str(_STOP_FAST_S), "-m", "fast", "-D", "data")
            except PostgresError:
                # PostgreSQL 18 hangs for good where this reaches it in crash recovery. So nothing is lost: it recovers
                # again at the next start.
                self._run("pg_ctl", "stop", "-t", str(_TIMEOUT_S), "-m", "immediate", "-D", "data")
            self._notify("embedded PostgreSQL stopped")

    def _run(self, program: str, *arguments: str, stdin: str = "") -> None:
        """Run a program of PostgreSQL as the server's account.

        In the folder and with names relative to it, since pg_ctl hands its paths to a shell unquoted.
        """
        outcome = self._account.run([str(self._bin / program), *arguments], cwd=self._folder, stdin=stdin)
        if outcome.returncode != 0:
            raise PostgresError(f"{program}: {_last_line(outcome.stderr) or outcome.returncode}")


def _last_line(words: str) -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "FATAL" in line or "PANIC" in line), (lines or [""])[-1])


def _open_lock(path: Path, account: Account) -> int:
    # O_NOFOLLOW: root opens files here in a folder that a lesser account owns.
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    if os.geteuid() == 0:
        os.fchown(lock, account.uid, account.gid)
    return lock


@contextmanager
def _locked(path: Path, account: Account) -> Iterator[None]:
    lock = _open_lock(path, account)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


def _pid_in(lock_file: Path) -> int | None:
    with suppress(FileNotFoundError, ValueError, IndexError):
        return abs(int(lock_file.read_bytes().split()[0]))  # negative while somebody runs postgres --single
    return None


def _is_postmaster(pid: int, data: Path) -> bool:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or not process.name().startswith("postgres"):
            return False
        return os.path.samefile(process.cwd(), data)
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False
    except psutil.AccessDenied:
        # Root in a container may not look at it: rather wait in vain than run two postmasters on one folder.
        return True
