"""Typed calls of the statements in queries.sql; each takes an open connection (core.db.begin)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection

from core import sql

_STATEMENTS = sql.load("analytics")


class ScanRecord(NamedTuple):
    """One judged attempt, as it goes into the scan log."""

    nonce: str
    ticket_id: int | None
    gate_id: int
    device_id: int
    direction: str
    verdict: str
    reason: str | None
    code: str | None
    scanned_at: datetime


class EventRow(NamedTuple):
    """What statistics need to know of an event."""

    id: int
    slug: str
    name: str
    time_zone: str
    capacity: int | None


class EventTotals(NamedTuple):
    """Counts of one event at one moment; `inside` are people, `entries` and `exits` are scans."""

    issued: int
    void: int
    admitted: int
    inside: int
    scans: int
    entries: int
    exits: int
    refused: int
    refused_by_reason: dict[str, int]


def record_scans(
    conn: Connection, *, event_id: int, scans: Sequence[ScanRecord], recorded_at: datetime
) -> int:
    """Append scans to the log; return how many were new: a nonce that is there adds nothing."""
    columns = {f"{name}s": [getattr(scan, name) for scan in scans] for name in ScanRecord._fields}
    result = conn.execute(
        _STATEMENTS["record_scans"], {"event_id": event_id, "recorded_at": recorded_at, **columns}
    )
    return result.rowcount


def event_by_slug(conn: Connection, *, slug: str) -> EventRow | None:
    """Return the event of that name, if there is one."""
    row = conn.execute(_STATEMENTS["event_by_slug"], {"slug": slug}).one_or_none()
    return EventRow(*row) if row else None


def event_totals(conn: Connection, *, event_id: int) -> EventTotals:
    """Count one event's tickets and scans in one snapshot."""
    return EventTotals(*conn.execute(_STATEMENTS["event_totals"], {"event_id": event_id}).one())
