"""One physical connection as the pool sees it: its age, whom it serves, and whether it can be trusted.

It is looked at, at every checkout, so mostly without a round trip.
"""

from __future__ import annotations

import random
import select
import time
from collections.abc import Callable
from typing import Any, Protocol

from sqlalchemy.pool.base import _ConnectionRecord

from core.outage import JITTER
from core.purpose import Purpose

TRUSTED_S = 5.0  # how long an idle connection is trusted


class PooledConnection(Protocol):
    """What the pool wants of a connection (core.session.Session)."""

    closed: int
    see_off: Callable[[Any], None] | None

    def fileno(self) -> int: ...
    def clean(self) -> bool: ...
    def introduce(self, purpose: str) -> None: ...
    def cancel(self) -> None: ...
    def get_backend_pid(self) -> int: ...
    def cut(self) -> None: ...
    def hang_up(self) -> None: ...
    def close(self) -> None: ...
    def describe(self) -> dict[str, Any]: ...


class Link:
    """One connection, from connect to close."""

    __slots__ = (
        "_born_for",
        "_expires_at_s",
        "_poller",
        "born_s",
        "idle_since_s",
        "purpose",
        "record",
        "session",
        "target",
    )

    def __init__(
        self, record: _ConnectionRecord, serves: Purpose, *, born_s: float, target: Any, recycle_s: float
    ) -> None:
        session: Any = record.dbapi_connection
        self.record = record
        self.session: PooledConnection = session
        self.born_s = born_s  # before it connected
        self.target = target
        self.purpose = self._born_for = serves
        self.idle_since_s = time.monotonic()
        # Not all of one age at once: that would be a herd of connects.
        lifetime_s = recycle_s * (1 - random.uniform(0, JITTER)) if recycle_s >= 0 else float("inf")
        self._expires_at_s = self.idle_since_s + lifetime_s
        self._poller = select.poll()  # select.select() stops at descriptor 1023
        self._poller.register(session.fileno(), select.POLLIN | select.POLLRDHUP)

    def is_open(self) -> bool:
        """Tell whether nobody closed it."""
        held: Any = self.record.dbapi_connection
        return held is self.session and not held.closed and not self.record._is_hard_or_soft_invalidated()

    def is_hung_up(self) -> bool:
        """Tell whether the server closed it; whoever uses it can only fail."""
        gone = select.POLLRDHUP | select.POLLHUP | select.POLLNVAL
        return not self.is_open() or any(events & gone for _, events in self._poller.poll(0))

    def is_worth_keeping(self, target: Any, now_s: float) -> bool:
        """Tell whether it is young enough, and leads to where the settings say."""
        return now_s < self._expires_at_s and self.target == target

    def is_trusted(self, now_s: float, *, suspect_until_s: float) -> bool:
        """Tell without a round trip whether it is fine: recently used, and its server has said nothing since.

        A server that is alive says nothing of its own accord; what can be read is mostly its farewell.
        """
        idle_since_s = self.idle_since_s
        return (
            idle_since_s > now_s - TRUSTED_S and idle_since_s > suspect_until_s and not self._poller.poll(0)
        )

    def introduce(self, wanted: Purpose) -> None:
        """Tell the server whom it serves now, one round trip.

        Raises:
            psycopg2.Error: the server does not answer.
        """
        self.session.introduce(wanted.name)
        self.purpose = wanted

    def clean(self) -> bool:
        """Make the session as good as new; tell whether somebody had changed it."""
        is_dirty = self.session.clean()
        if is_dirty:
            self.purpose = self._born_for  # a reset brings back the name of its first day
        return is_dirty

    def close(self) -> None:
        """Close it, even where its record has let go of it (SQLAlchemy's detach): it counts until it is closed."""
        self.record.close()
        self.session.close()
