"""Prove the counters: recount them from the raw rows, in one snapshot, and mend what differs, while scans go on.

What is missing is added, never set: whatever is counted meanwhile is in neither the recount nor the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from django.db import OperationalError
from sqlalchemy import Connection

from analytics import queries
from analytics.models import REPAIRS_SLOT
from analytics.queries import WHOLE_EVENT
from core import db

ATTEMPTS = 5
SERIALIZATION_FAILURE = "40001"
ROWS = 5_000  # read, and mended, at once
EXAMPLES_MAX = 100


class Recount(NamedTuple):
    """How many counters of an event are off, and some of them: what each lacks."""

    differences: int
    examples: list[dict[str, Any]]


def recount(*, event_id: int, mends: bool, now: datetime) -> Recount:
    """Compare an event's counters with its raw rows, and add what is missing if wanted.

    Raises:
        django.db.OperationalError: the database did not answer, or another recount mended the same five times.
    """
    if mends:
        _mark_scanned(event_id)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with db.in_one_snapshot(writes=mends) as conn:
                return _compare(conn, event_id, mends, now)
        except OperationalError as error:
            if attempt == ATTEMPTS or getattr(error.__cause__, "pgcode", None) != SERIALIZATION_FAILURE:
                raise
    raise AssertionError


def _compare(conn: Connection, event_id: int, mends: bool, now: datetime) -> Recount:
    differences = 0
    examples: list[dict[str, Any]] = []
    for counter, lacking in queries.differences(conn, event_id=event_id, rows=ROWS):
        differences += len(lacking)
        examples += [{"counter": counter, **row._asdict()} for row in lacking[: EXAMPLES_MAX - len(examples)]]
        if mends:
            found: dict[str, Any] = {counter: lacking}
            queries.add_counts(conn, event_id=event_id, slot=REPAIRS_SLOT, now=now, **found)
    if mends and differences:
        queries.add_counts(conn, event_id=event_id, slot=REPAIRS_SLOT, counts=[WHOLE_EVENT], now=now)
    return Recount(differences, examples)


def _mark_scanned(event_id: int) -> None:
    """Bring tickets in line that were scanned by a process of the version before the mark (docs/operations.md)."""
    with db.in_one_snapshot() as conn:
        unmarked = queries.unmarked_tickets(conn, event_id=event_id)
    for start in range(0, len(unmarked), ROWS):
        with db.begin() as conn:
            queries.mark_scanned(conn, event_id=event_id, ticket_ids=unmarked[start : start + ROWS])


def recount_all(
    events: list[tuple[int, str]], *, mends: bool, now: datetime, tell: Callable[[int], None]
) -> dict[str, Recount]:
    """Recount events, a transaction for each, and return what differs by slug; `tell` hears how many are done."""
    found = {}
    for done, (event_id, slug) in enumerate(events):
        tell(done)
        if (one := recount(event_id=event_id, mends=mends, now=now)).differences:
            found[slug] = one
    return found
