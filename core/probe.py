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
from concurrent.futures import Future

from django.db import Error

from core import db
from core.errors import PoolExhausted
from core.purpose import HEALTH, entering

log = logging.getLogger(__name__)

WITHIN_S = 0.6
FRESH_S = 1.0  # a hundred monitors cost one probe a second


class Probe:
    """Ask the database, one thread at a time."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start afresh: in a forked child the thread that asks does not exist."""
        self._lock = threading.Lock()
        self._asked: Future[bool] | None = None
        self._asked_at_s = 0.0

    def answers(self) -> bool:
        """Tell whether the database answered within the last second, or does within 0.6 s."""
        with self._lock:
            if self._asked is None or (self._asked.done() and time.monotonic() - self._asked_at_s > FRESH_S):
                self._asked, self._asked_at_s = Future(), time.monotonic()
                threading.Thread(target=self._ask, args=(self._asked,), name="probe", daemon=True).start()
            asked, left_s = self._asked, self._asked_at_s + WITHIN_S - time.monotonic()
        try:
            return asked.result(timeout=max(left_s, 0))
        except TimeoutError:
            return False

    @staticmethod
    def _ask(asked: Future[bool]) -> None:
        try:
            with entering(HEALTH, "probe"):
                db.ping(within_s=WITHIN_S)
            asked.set_result(True)
        except PoolExhausted:
            # Busy is not broken, as long as connections come and go.
            asked.set_result(db.pool.is_lively())
        except Error as error:
            log.warning("The database does not answer: %s", " ".join(str(error).split()))
            asked.set_result(False)
        except BaseException:
            asked.set_result(False)
            raise


database = Probe()
os.register_at_fork(after_in_child=database.forget)
