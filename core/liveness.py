"""Whether an idle connection can still be trusted; asked at every checkout, so mostly without a round trip."""

from __future__ import annotations

import random
import select
import time

import psycopg2
from sqlalchemy.pool.base import _ConnectionRecord

from core.outage import JITTER

PING_AFTER_S = 5.0  # how long an idle connection is trusted


def is_expired(record: _ConnectionRecord, recycle_s: float) -> bool:
    """Tell whether a connection lived long enough; not all of one age expire at once."""
    if recycle_s < 0:
        return False
    share: float = record.info.setdefault("recycle_share", 1 - random.uniform(0, JITTER))
    return time.time() - record.last_connect_time > recycle_s * share


def is_trusted(record: _ConnectionRecord, *, suspect_until_s: float) -> bool:
    """Tell without a round trip whether a connection is fine: recently used, and its server has said nothing since.

    A server that is alive says nothing of its own accord; what can be read from an idle one is mostly its farewell.
    """
    connection = record.dbapi_connection
    assert connection is not None
    poller: select.poll | None = record.info.get("poller")
    if poller is None:
        poller = select.poll()  # select.select() stops at descriptor 1023
        try:
            poller.register(connection.fileno(), select.POLLIN)
        except (psycopg2.Error, OSError, ValueError):  # somebody closed it
            return False
        record.info["poller"] = poller
    idle_since_s: float = record.info["idle_since_s"]
    return idle_since_s > max(time.monotonic() - PING_AFTER_S, suspect_until_s) and not poller.poll(0)


def answers(record: _ConnectionRecord) -> bool:
    """Ask the server, one round trip."""
    connection = record.dbapi_connection
    assert connection is not None
    try:
        connection.autocommit = True  # or this would begin a transaction
        connection.cursor().execute("SELECT 1")
        connection.autocommit = False
    except psycopg2.Error:
        return False
    return True
