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
from contextlib import suppress
from functools import lru_cache
from typing import Any

import psycopg2
from psycopg2 import extensions

from core import purpose

log = logging.getLogger(__name__)

HANG_UP_TIMEOUT_S = 0.2

_CLEAN_TAG = re.compile(
    "(SELECT|INSERT|UPDATE|DELETE|MERGE|COPY|FETCH|MOVE|CLOSE|BEGIN|START|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|EXPLAIN|SHOW"
    "|LOCK|CREATE|ALTER|DROP|TRUNCATE|COMMENT|GRANT|REVOKE|ANALYZE|VACUUM|REINDEX|NOTIFY)"
)
# Several statements in one text show only the last one's tag.
_SUSPICIOUS = re.compile(r"set_config|advisory|\btemp|dblink|;\s*\S", re.IGNORECASE)
_reported: set[tuple[str, str]] = set()


class Session(extensions.connection):
    """A connection of the pool."""

    changed_by: str | None = None
    resets = 0

    def clean(self) -> None:
        """Make the session as good as new; free of charge where nobody changed it.

        Raises:
            psycopg2.Error: it can't be cleaned, and must be closed.
        """
        status = self.info.transaction_status
        if self.changed_by is None and status != extensions.TRANSACTION_STATUS_IDLE and not self.autocommit:
            self.rollback()
        elif self.changed_by is not None or status != extensions.TRANSACTION_STATUS_IDLE:
            self._report(self.changed_by or "BEGIN")
            if self.autocommit and status != extensions.TRANSACTION_STATUS_IDLE:
                # Somebody sent BEGIN as text; psycopg2 doesn't know, and its reset() would fail.
                with self.cursor() as cursor:
                    cursor.execute("ROLLBACK")
            self.reset()
            self.resets += 1
            self.changed_by = None
        self.set_session("default", "default", "default", autocommit=False)
        self.notices.clear()
        self.notifies.clear()

    def close(self) -> None:
        """Close, and wait for the server to hang up: until its process is gone it counts against max_connections."""
        try:
            wire = socket.socket(fileno=os.dup(self.fileno()))
        except (psycopg2.Error, OSError):  # broken: there is nobody to wait for
            return super().close()
        super().close()
        with wire, suppress(OSError):
            wire.settimeout(HANG_UP_TIMEOUT_S)
            while wire.recv(4096):
                pass

    def _report(self, statement: str) -> None:
        place = purpose.label(), " ".join(statement.split())[:80]
        if place not in _reported:
            _reported.add(place)
            log.warning(
                "%s left its session changed by: %s …; it was reset", place[0] or "Somebody", place[1]
            )


class SessionCursor(extensions.cursor):
    """A cursor that tells its session what it did to it."""

    connection: Session

    def execute(self, query: Any, variables: Any = None) -> None:
        """Execute, and look at what it was."""
        try:
            super().execute(query, variables)
        finally:
            self._note(query)

    def executemany(self, query: Any, variables: Any) -> None:
        """Execute often, and look at what it was."""
        try:
            super().executemany(query, variables)
        finally:
            self._note(query)

    def callproc(self, name: Any, *arguments: Any) -> Any:
        """Call a function: what it does nobody knows."""
        self.connection.changed_by = f"callproc {name}"
        return super().callproc(name, *arguments)

    def _note(self, query: Any) -> None:
        text = query if isinstance(query, str) else str(query)
        if not _CLEAN_TAG.match(self.statusmessage or "ERROR") or _is_suspicious(text):
            self.connection.changed_by = text


@lru_cache(maxsize=2048)
def _is_suspicious(text: str) -> bool:
    return _SUSPICIOUS.search(text.rstrip("; \n")) is not None
