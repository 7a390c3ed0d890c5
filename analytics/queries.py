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
    device_id: int | None
    user_id: int | None
    direction: str
    verdict: str
    reason: str | None
    code: str | None
    scanned_at: datetime
    happened_at: datetime
    offline: bool
    reentry: bool
    forced_over: str | None
    force_reason: str | None


_TEXTS = {"nonce", "direction", "verdict", "reason", "code", "forced_over", "force_reason"}


class EventRow(NamedTuple):
    """What statistics need to know of an event."""

    id: int
    slug: str
    name: str
    time_zone: str
    capacity: int | None


class EventTotals(NamedTuple):
    """Counts of one event at one moment; `inside` are people, `entries` and `exits` are scans.

    A ticket that was passed on and its new one are both issued, and the old one is transferred.
    """

    issued: int
    void: int
    transferred: int
    admitted: int
    inside: int
    scans: int
    entries: int
    exits: int
    refused: int
    refused_by_reason: dict[str, int]


class LoggedScan(NamedTuple):
    """A row of the scan log, with the names of its gate and of the device or the person who scanned."""

    scan_id: int
    nonce: str
    ticket_id: int | None
    gate: str | None
    device: str | None
    user: str | None
    direction: str
    verdict: str
    reason: str | None
    code: str | None
    scanned_at: datetime
    recorded_at: datetime
    happened_at: datetime
    offline: bool
    forced_over: str | None
    force_reason: str | None
    annulled_at: datetime | None


class ConflictRow(NamedTuple):
    """An offline entry that was refused, and the entry that had used its ticket, if any."""

    id: int
    ticket_id: int
    holder: str
    reason: str
    scan_id: int
    gate: str | None
    device: str | None
    happened_at: datetime
    earlier_scan_id: int | None
    earlier_gate: str | None
    earlier_device: str | None
    earlier_user: str | None
    earlier_happened_at: datetime | None
    minutes_apart: float | None
    noticed_at: datetime
    signed_off_at: datetime | None
    signed_off_by: str
    note: str


class SignOff(NamedTuple):
    """Who signed a conflict off, when, with which words."""

    signed_off_at: datetime
    signed_off_by: str
    note: str


def record_scans(
    conn: Connection, *, event_id: int, scans: Sequence[ScanRecord], recorded_at: datetime
) -> dict[str, int]:
    """Append scans to the log; return the ids of those that were new, by nonce: one that is there adds nothing."""
    values = zip(*scans, strict=True)
    columns = {
        f"{name}s": list(column) if name in _TEXTS else sql.array(column)
        for name, column in zip(ScanRecord._fields, values, strict=True)
    }
    rows = conn.execute(
        _STATEMENTS["record_scans"], {"event_id": event_id, "recorded_at": recorded_at, **columns}
    )
    return {row.nonce: row.scan_id for row in rows}


def record_conflicts(conn: Connection, *, event_id: int, nonces: Sequence[str], noticed_at: datetime) -> None:
    """Note offline entries of the log that were refused, with the entries that had used their tickets."""
    conn.execute(
        _STATEMENTS["record_conflicts"],
        {"event_id": event_id, "nonces": list(nonces), "noticed_at": noticed_at},
    )


def event_by_slug(conn: Connection, *, slug: str) -> EventRow | None:
    """Return the event of that name, if there is one."""
    row = conn.execute(_STATEMENTS["event_by_slug"], {"slug": slug}).one_or_none()
    return EventRow(*row) if row else None


def event_totals(conn: Connection, *, event_id: int) -> EventTotals:
    """Count one event's tickets and scans in one snapshot."""
    return EventTotals(*conn.execute(_STATEMENTS["event_totals"], {"event_id": event_id}).one())


def scan_page(
    conn: Connection,
    *,
    event_id: int,
    before_id: int | None,
    verdict: str | None,
    gate: str | None,
    page: int,
) -> list[LoggedScan]:
    """Return the event's scans before an id, newest first; a gate by its name."""
    binds = {"event_id": event_id, "before_id": before_id, "verdict": verdict, "gate": gate, "page": page}
    return [LoggedScan(*row) for row in conn.execute(_STATEMENTS["scan_page"], binds)]


def conflict_page(
    conn: Connection, *, event_id: int, before_id: int | None, open_only: bool, page: int
) -> list[ConflictRow]:
    """Return the event's conflicts before an id, newest first."""
    binds = {"event_id": event_id, "before_id": before_id, "open_only": open_only, "page": page}
    return [ConflictRow(*row) for row in conn.execute(_STATEMENTS["conflict_page"], binds)]


def sign_off_conflict(
    conn: Connection,
    *,
    event_id: int,
    conflict_id: int,
    signed_off_at: datetime,
    signed_off_by: str,
    note: str,
) -> SignOff | None:
    """Sign a conflict off and return who did it first; None where there is none."""
    binds = {
        "event_id": event_id,
        "conflict_id": conflict_id,
        "signed_off_at": signed_off_at,
        "signed_off_by": signed_off_by,
        "note": note,
    }
    row = conn.execute(_STATEMENTS["sign_off_conflict"], binds).one_or_none()
    return SignOff(*row) if row else None
