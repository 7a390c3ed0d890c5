"""Whether the database answers, told within a deadline even where it hangs.

A driver that waits for a frozen server can't be told to stop (connect_timeout, statement_timeout and TCP settings do not
help: the kernel goes on acknowledging). So one thread at a time asks, through the pool, and those who want to know wait
for it no longer than they can. While it hangs, everybody is told at once, and it holds one connection: that of `health`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from django.db import Error

from core import db
from core.errors import PoolExhausted
from core.purpose import HEALTH, entering

T = TypeVar("T")
log = logging.getLogger(__name__)

WITHIN_S = 0.6
FRESH_S = 1.0  # a hundred monitors cost one probe a second


class Probe(Generic[T]):
    """Ask the database one question, one thread at a time."""

    def __init__(
        self, question: Callable[[], T], *, where_busy: Callable[[], T | None] = lambda: None
    ) -> None:
        self._question = question
        self._where_busy = where_busy
        self.forget()
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Start afresh: in a forked child the thread that asks does not exist."""
        self._lock = threading.Lock()
        self._asked: Future[T | None] | None = None
        self._asked_at_s = self._answered_at_s = 0.0

    def ask(self) -> tuple[Future[T | None], float]:
        """Have the database asked, unless it is being asked or answered within the last second; return when it is late."""
        with self._lock:
            is_stale = time.monotonic() - self._answered_at_s > FRESH_S
            if self._asked is None or (self._asked.done() and is_stale):
                self._asked, self._asked_at_s = Future(), time.monotonic()
                try:
                    threading.Thread(target=self._ask, args=(self._asked,), name="probe", daemon=True).start()
                except RuntimeError:  # no thread to be had now
                    self._asked.set_result(None)
            return self._asked, self._asked_at_s + WITHIN_S

    def answer(self) -> T | None:
        """Return what the database answered within the last second or answers within 0.6 s, else None."""
        asked, late_at_s = self.ask()
        left_s = late_at_s - time.monotonic()
        try:
            return asked.result(timeout=max(left_s, 0))
        except TimeoutError:
            return None

    def _ask(self, asked: Future[T | None]) -> None:
        answer = None
        try:
            with entering(HEALTH, "probe"):
                answer = self._question()
        except PoolExhausted:
            answer = self._where_busy()
        except Error as error:
            log.warning("The database does not answer: %s", " ".join(str(error).split()))
        finally:
            self._answered_at_s = time.monotonic()
            asked.set_result(answer)


def _ping() -> bool:
    db.ping(within_s=WITHIN_S)
    return True


# Busy is not broken, as long as connections come and go.
database = Probe(_ping, where_busy=lambda: db.pool.is_lively() or None)
