"""What is known of a database that can't be reached: one at a time tries again, with growing pauses."""

from __future__ import annotations

import random
import time

import psycopg2

PAUSE_S = (0.1, 2.0)  # the first and the longest between two attempts
JITTER = 0.1
ATTEMPT_S = 5.0  # within this a prober has its answer (connect_timeout)


class DatabaseAway(psycopg2.OperationalError):
    """The database could not be reached a moment ago; the next attempt is not due yet."""


class Outage:
    """The state of a breaker; its owner's lock guards it."""

    def __init__(self, connecting_limit: int) -> None:
        self._limit = connecting_limit
        self.connecting_max = connecting_limit
        self.last_error: BaseException | None = None
        self._pause_s = 0.0
        self._retry_at_s = 0.0

    def check(self) -> None:
        """Let one caller through when an attempt is due, and tell the others at once.

        Raises:
            DatabaseAway: no attempt is due.
        """
        if not self._pause_s:
            return
        if time.monotonic() < self._retry_at_s:
            raise DatabaseAway(f"The database is away: {line(self.last_error)}")
        self._retry_at_s = time.monotonic() + ATTEMPT_S

    def begin(self, error: BaseException) -> None:
        """Note that an attempt failed."""
        self.last_error = error
        self.connecting_max = 1
        self._pause_s = min(max(self._pause_s * 2, PAUSE_S[0]), PAUSE_S[1])
        self._retry_at_s = time.monotonic() + self._pause_s * random.uniform(1 - JITTER, 1 + JITTER)

    def end(self) -> None:
        """Note that an attempt succeeded; each success lets twice as many connect at once."""
        self._pause_s = 0.0
        self.connecting_max = min(self.connecting_max * 2, self._limit)


def line(error: BaseException | None) -> str:
    """Write an error on one line."""
    return " ".join(str(error).split())
