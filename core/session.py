"""Sessions that notice when somebody changes them, so that only those are reset.

DISCARD ALL on every return would cost a round trip (0.14 ms on loopback) and every cached plan. What changes a session is
told by PostgreSQL's own command tag, and by words that a clean-looking statement may contain. A function of one's own
that hides a `set_config` is not seen: give such a function `SET … FROM CURRENT` or call `core.db` with SET LOCAL.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import psycopg2
from django.conf import settings
from psycopg2 import extensions

from core import purpose
from core.purpose import process_name

log = logging.getLogger(__name__)

HANG_UP_TIMEOUT_S = 0.2

_CLEAN_TAG = re.compile(
    "(SELECT|INSERT|UPDATE|DELETE|MERGE|COPY|FETCH|MOVE|CLOSE|BEGIN|START|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|EXPLAIN|SHOW"
    "|LOCK|SET CONSTRAINTS|CREATE|ALTER|DROP|TRUNCATE|COMMENT|GRANT|REVOKE|ANALYZE|VACUUM|REINDEX|NOTIFY)"
)
# Several statements in one text show only the last one's tag; U&"" can spell any name.
_SUSPICIOUS = re.compile(r"""set_config|advisory|temp|dblink|pg_settings|u&"|;\s*\S""", re.IGNORECASE)
_SET_LOCAL = re.compile(r"\s*SET\s+(LOCAL|TRANSACTION)\b", re.IGNORECASE)
_PROCEDURE = re.compile(r"\s*(CALL|DO)\b", re.IGNORECASE)
# In this order: comments, names in quotes (which stay), texts of every kind, also cut off ones.
_VALUES = re.compile(
    r"""--[^\n]*|/\*.*?(?:\*/|$)|(?P<name>"(?:[^"]|"")*")|\b[eE]'(?:[^'\\]|\\.|'')*(?:'|$)"""
    r"""|'(?:[^']|'')*(?:'|$)|\$(\w*)\$.*?(?:\$\2\$|$)|(?<![\w$%])\.?\d[\w.]*""",
    re.DOTALL,
)
_SETTING = re.compile(r"\s*(SET|RESET)\s+(?:(SESSION|LOCAL)\s+)?([\w.]+).*", re.IGNORECASE | re.DOTALL)
_STATES = {
    extensions.TRANSACTION_STATUS_IDLE: "idle",
    extensions.TRANSACTION_STATUS_ACTIVE: "running",
    extensions.TRANSACTION_STATUS_INTRANS: "idle in transaction",
    extensions.TRANSACTION_STATUS_INERROR: "in a failed transaction",
}
_reported: set[tuple[str, str]] = set()
_REPORTED_MAX = 500


class Session(extensions.connection):
    """A connection of the pool."""

    changed_by: str | None = None
    is_cut = False
    resets = 0
    last_statement: Any = ""
    see_off: Callable[[socket.socket | None], None] | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.owner_pid = os.getpid()  # a child that forks off must not speak on it
        self._own_types: dict[int, Any] = {}
        self._ending = threading.RLock()
        self._hung_up: tuple[socket.socket, float] | None = None

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        """Open a cursor; one of another kind can't be watched, so the session counts as changed."""
        cursor = super().cursor(*arguments, **options)
        if not isinstance(cursor, SessionCursor):
            self.changed_by = f"a {type(cursor).__name__}"
        return cursor

    def set_client_encoding(self, encoding: str) -> None:
        """Change the encoding, for as long as the session is borrowed."""
        self.changed_by = "set_client_encoding"
        super().set_client_encoding(encoding)

    def introduce(self, purpose: str) -> None:
        """Tell the server whom the session serves now: one round trip, outside any transaction.

        Raises:
            psycopg2.Error: the server does not answer.
        """
        self.autocommit = True  # or this would begin a transaction
        with super().cursor(cursor_factory=extensions.cursor) as unwatched:
            unwatched.execute("SET application_name = %s", [application_name(purpose)])
        self.autocommit = False

    def clean(self) -> bool:
        """Make the session as good as new; free of charge where nobody changed it. Tell whether somebody had.

        Behind PgBouncer DISCARD ALL could meet another server connection than the changed one, so the session is
        closed instead. If its transaction is open, PgBouncer closes that server connection, too.

        Raises:
            psycopg2.Error: it can't be cleaned, and must be closed.
        """
        status = self.get_transaction_status()
        if status == extensions.TRANSACTION_STATUS_UNKNOWN:
            raise psycopg2.OperationalError("The connection is broken.")
        is_changed = self.changed_by is not None
        if settings.PGBOUNCER and (
            is_changed or (self.autocommit and status != extensions.TRANSACTION_STATUS_IDLE)
        ):
            self._report(self.changed_by or "BEGIN", "others may get it from PgBouncer")
            self.close()
            return True
        if status != extensions.TRANSACTION_STATUS_IDLE:
            if self.autocommit:
                # Somebody sent BEGIN as text; psycopg2 doesn't know, and its reset() would fail.
                is_changed = True
                with self.cursor() as cursor:
                    cursor.execute("ROLLBACK")
            elif not is_changed:
                self.rollback()
                if self.get_transaction_status() != extensions.TRANSACTION_STATUS_IDLE:
                    # BEGIN as text, and autocommit toggled: psycopg2 knows of no transaction, and ends none.
                    raise psycopg2.OperationalError(
                        "It was left in a transaction that psycopg2 does not know of."
                    )
        if is_changed:
            self._report(self.changed_by or "BEGIN", "it was reset")
            self.reset()
            self.resets += 1
            self.changed_by = None
        self.set_session("default", "default", "default", autocommit=False)
        self.cursor_factory = SessionCursor
        if self.string_types != self._own_types:
            # Casters that a borrower registered (register_type, register_default_json, …).
            self.string_types.clear()
            self.string_types.update(self._own_types)
        self.last_statement = ""
        if self.notices:
            self.notices.clear()
        if self.notifies:
            self.notifies.clear()
        return is_changed

    def keep_types(self) -> None:
        """Take the casters that are registered now for its own: those of SQLAlchemy's dialect."""
        self._own_types = dict(self.string_types)

    def cut(self) -> None:
        """Hang up at once, from any thread: whoever waits for the server here gets an error."""
        # Not while another thread closes it: its descriptor's number may be somebody else's.
        with self._ending, suppress(psycopg2.Error, OSError):
            wire = socket.socket(fileno=os.dup(self.fileno()))
            self.is_cut = True
            with wire:
                wire.shutdown(socket.SHUT_RDWR)

    def describe(self) -> dict[str, Any]:
        """Return the server's process, what it does, and the last statement without the values in it; no I/O."""
        if self.closed:
            return {"backend_pid": None, "state": "closed", "last_statement": ""}
        return {
            "backend_pid": self.get_backend_pid(),
            "state": _STATES.get(self.get_transaction_status(), "unknown"),
            "last_statement": without_values(_text(self.last_statement, self)),
        }

    def hang_up(self) -> None:
        """Close, without waiting for the server: close() does that, soon, for many at once."""
        if self.owner_pid != os.getpid():
            return
        with self._ending:
            was_cut, self.is_cut = self.is_cut, False
            if not was_cut:
                with suppress(psycopg2.Error, OSError):  # broken: the server hung up, or is gone
                    self._hung_up = socket.socket(fileno=os.dup(self.fileno())), time.monotonic()
            super().close()
        if was_cut and self.see_off is not None:
            self.see_off(None)

    def close(self) -> None:
        """Close, and wait for the server to hang up: until its process is gone it counts against max_connections.

        One that takes its time is left to `see_off`, where somebody set that; and one that was cut, since no end of it
        can be seen any more.
        """
        self.hang_up()
        if self._hung_up is None:
            return
        (wire, at_s), self._hung_up = self._hung_up, None
        left_s = max(at_s + HANG_UP_TIMEOUT_S - time.monotonic(), 0)
        if has_hung_up(wire, within_s=left_s) or self.see_off is None:
            wire.close()
        else:
            self.see_off(wire)

    def _report(self, statement: str, outcome: str) -> None:
        words = purpose.label() or "Somebody", without_values(statement)[:80]
        if words not in _reported and len(_reported) < _REPORTED_MAX:
            _reported.add(words)
            log.warning("%s left its session changed by: %s; %s", *words, outcome)


class SessionCursor(extensions.cursor):
    """A cursor that tells its session what it did to it."""

    connection: Session

    def execute(self, query: Any, variables: Any = None) -> None:
        """Execute, and look at what it was."""
        self.connection.last_statement = query
        try:
            super().execute(query, variables)
        except psycopg2.Error:
            self._note(query, has_failed=True)
            raise
        self._note(query)

    def executemany(self, query: Any, variables: Any) -> None:
        """Execute often, and look at what it was."""
        self.connection.last_statement = query
        try:
            super().executemany(query, variables)
        except psycopg2.Error:
            self._note(query, has_failed=True)
            raise
        self._note(query)

    def copy_expert(self, query: Any, *arguments: Any, **options: Any) -> None:  # type: ignore[override]
        """Copy, and look at what it was: psycopg2 runs any statement here."""
        self.connection.last_statement = query
        try:
            super().copy_expert(query, *arguments, **options)
        finally:
            self._note(query)

    def callproc(self, name: Any, *arguments: Any) -> Any:
        """Call a function: what it does nobody knows."""
        self.connection.changed_by = f"callproc {name}"
        return super().callproc(name, *arguments)

    def _note(self, query: Any, *, has_failed: bool = False) -> None:
        text = _text(query, self)
        if _looks_suspicious(text):
            self.connection.changed_by = text
        elif has_failed:
            # What failed changed nothing, and the status is that of an earlier statement; but a procedure may commit.
            if _PROCEDURE.match(text):
                self.connection.changed_by = text
        elif self.name:
            if self.withhold:
                self.connection.changed_by = "a cursor WITH HOLD"  # its name is new each time
        elif not _CLEAN_TAG.match(self.statusmessage or "") and not _SET_LOCAL.match(text):
            self.connection.changed_by = text


def has_hung_up(wire: socket.socket, *, within_s: float) -> bool:
    """Tell whether the other side closed a connection that we closed; 0 looks without waiting."""
    deadline_s = time.monotonic() + within_s
    try:
        for _ in range(100):  # it may be sending without an end
            wire.settimeout(max(deadline_s - time.monotonic(), 0))
            if not wire.recv(65536):
                return True
    except (TimeoutError, BlockingIOError):
        return False
    except OSError:
        return True
    return False


def _text(query: Any, context: Session | SessionCursor) -> str:
    if isinstance(query, bytes):
        return query.decode(errors="replace")
    compose = getattr(query, "as_string", None)
    return str(compose(context) if compose else query)


def without_values(statement: str) -> str:
    """Return a statement on one line, no value in it: texts, numbers and comments are left out."""
    bare = _VALUES.sub(lambda found: found["name"] or "…", statement)
    return " ".join(_SETTING.sub(r"\1 \3 …", bare).split())[:200]


def application_name(purpose: str) -> str:
    """Return how pg_stat_activity names a connection of this process."""
    return f"qrsite:{process_name()}:{purpose}"


def _looks_suspicious(text: str) -> bool:
    # Long texts hold rows; they are not worth remembering.
    return _is_suspicious(text) if len(text) < 4096 else _SUSPICIOUS.search(text) is not None


@lru_cache(maxsize=1024)
def _is_suspicious(text: str) -> bool:
    return _SUSPICIOUS.search(text.rstrip("; \n")) is not None
