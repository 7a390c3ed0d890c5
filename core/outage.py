"""What is known of a database that can't be reached: one at a time tries again, with growing pauses."""

from __future__ import annotations

import logging
import random
import time

import psycopg2

from core import purpose

log = logging.getLogger(__name__)

PAUSE_S = (0.1, 0.4)  # the first and the longest between two attempts: back within a second of the database
JITTER = 0.1


class DatabaseAway(psycopg2.OperationalError):
    """The database could not be reached a moment ago; the next attempt is not due yet."""


class Outage:
    """The state of a breaker; its owner's lock guards it."""

    def __init__(self, connecting_limit: int) -> None:
        self._limit = connecting_limit
        self.connecting_max = connecting_limit
        self.last_error = ""  # text: an exception would keep its frames, and what is in them
        self._pause_s = 0.0
        self._retry_at_s = 0.0
        self._since_s = 0.0

    @property
    def is_on(self) -> bool:
        """Tell whether the last attempt failed."""
        return self._pause_s > 0

    @property
    def is_pending(self) -> bool:
        """Tell whether the next attempt is not due yet."""
        return self._pause_s > 0 and time.monotonic() < self._retry_at_s

    def refusal(self) -> DatabaseAway:
        """Return what a caller is told; a new one each time, since raising it adds the caller's frames."""
        return DatabaseAway(f"The database is away: {self.last_error}")

    def begin(self, error: BaseException) -> None:
        """Note that an attempt failed; those that fail together count as one."""
        self.last_error = " ".join(str(error).split())
        self.connecting_max = 1
        if not self.is_on:
            self._since_s = time.monotonic()
        if not self.is_on and purpose.is_server():  # a command says it itself, and ends
            log.error("The database is away: %s", self.last_error)
        if not self.is_pending:
            self._pause_s = min(max(self._pause_s * 2, PAUSE_S[0]), PAUSE_S[1])
            self._retry_at_s = time.monotonic() + self._pause_s * random.uniform(1 - JITTER, 1 + JITTER)

    def end(self) -> None:
        """Note that an attempt succeeded; each success lets twice as many connect at once."""
        if self.is_on and purpose.is_server():
            log.warning("The database is back after %.1f s.", time.monotonic() - self._since_s)
        self._pause_s = 0.0
        self.connecting_max = min(self.connecting_max * 2, self._limit)
