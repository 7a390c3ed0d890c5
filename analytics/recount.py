"""Prove the counters: recount them from the raw rows, in one snapshot, and mend what differs, while scans go on.

What is missing is added, never set: whatever is counted meanwhile is in neither the recount nor the difference. So the
recount only reads, and what it found is added afterwards, in small transactions that make nobody wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from django.db import OperationalError

from analytics import queries
from analytics.models import REPAIRS_SLOT
from analytics.queries import WHOLE_EVENT, Delta
from core import db

ATTEMPTS = 5
ROWS = 5_000  # read at once
ADDED = 500  # in one transaction: a gate that refuses one of these codes waits for it
HELD = 100_000  # differences in memory; what is left is found by the next recount
EXAMPLES_MAX = 100


class Recount(NamedTuple):
    """How many counters of an event are off, and some of them: what each lacks."""

    differences: int
    examples: list[dict[str, Any]]


class _Overtaken(Exception):
    """Another repair has added since we counted."""


def recount(*, event_id: int, mends: bool, now: datetime) -> Recount:
    """Compare an event's counters with its raw rows, and add what is missing if wanted.

    Raises:
        django.db.OperationalError: the database did not answer, or other repairs came between, five times.
    """
    found = Recount(0, [])
    overtaken = 0
    while overtaken < ATTEMPTS:
        repairs, lacking, differences = _compare(event_id, held=HELD if mends else EXAMPLES_MAX)
        if not found.differences:
            examples = [{"counter": counter, **row._asdict()} for counter, row in lacking[:EXAMPLES_MAX]]
            found = Recount(differences, examples)
        if not mends or not lacking:
            return found
        try:
            _mend(event_id, repairs, lacking, now)
        except _Overtaken:
            overtaken += 1
            continue
        if len(lacking) == differences:
            return found
    raise OperationalError("Other repairs of this event came between: try again.")


Found = list[tuple[str, Any]]


def _compare(event_id: int, *, held: int) -> tuple[int, Found, int]:
    """Return how often the event was repaired before, so many differences, and how many there are."""
    lacking: Found = []
    differences = 0
    with db.in_one_snapshot() as conn:
        repairs = queries.repairs(conn, event_id=event_id)
        for counter, rows in queries.differences(conn, event_id=event_id, rows=ROWS):
            differences += len(rows)
            lacking += [(counter, row) for row in rows[: held - len(lacking)]]
    return repairs, lacking, differences


def _mend(event_id: int, repairs: int, lacking: Found, now: datetime) -> None:
    for start in range(0, len(lacking), ADDED):
        rows: dict[str, list[Any]] = {}
        for counter, row in lacking[start : start + ADDED]:
            rows.setdefault(counter, []).append(row)
        with db.begin() as conn:
            # This row is every repair's first: who comes second waits here, then sees that it was overtaken.
            queries.add_counts(conn, event_id=event_id, slot=REPAIRS_SLOT, counts=[WHOLE_EVENT], now=now)
            repairs += 1
            if queries.repairs(conn, event_id=event_id) != repairs:
                raise _Overtaken
            if marks := rows.pop("marks", None):
                queries.mark_scanned(conn, event_id=event_id, ticket_ids=[mark.ticket_id for mark in marks])
            rows["counts"] = _merged(rows.get("counts", []))
            # One more addition to that row, where it is among them, is one more repair.
            queries.add_counts(conn, event_id=event_id, slot=REPAIRS_SLOT, now=now, **rows)
            repairs = queries.repairs(conn, event_id=event_id)


def _merged(counts: list[Delta]) -> list[Delta]:
    """Add up what belongs to one counter: WHOLE_EVENT's lacks tickets and scans, each found by itself."""
    sums: dict[Any, tuple[int, ...]] = {}
    for key, numbers in ((row[:3], row[3:]) for row in counts):
        sums[key] = tuple(map(sum, zip(sums[key], numbers, strict=True))) if key in sums else numbers
    return sorted(Delta(*key, *numbers) for key, numbers in sums.items())


def recount_all(
    events: list[tuple[int, str]], *, mends: bool, now: datetime, tell: Callable[[int], None]
) -> Iterator[tuple[str, Recount]]:
    """Recount events one after the other, and yield what differs with their slugs; `tell` hears how many are done."""
    for done, (event_id, slug) in enumerate(events):
        tell(done)
        if (one := recount(event_id=event_id, mends=mends, now=now)).differences:
            yield slug, one
