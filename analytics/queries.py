"""Typed calls of the statements in queries.sql; each takes an open connection (core.db.begin)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import Connection

from analytics.models import ALL_GATES, ALL_TIME, REPAIRS_SLOT
from core import sql
from core.errors import NotFound

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


class Delta(NamedTuple):
    """What to add to a counter of scans and tickets (analytics.models.EventCount)."""

    gate_id: int
    span_min: int
    since: datetime
    entries: int = 0
    exits: int = 0
    admitted: int = 0
    refused: int = 0
    issued: int = 0
    void: int = 0
    transferred: int = 0
    missing: int = 0
    inside: int = 0
    scanned: int = 0
    annulled: int = 0


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WHOLE_EVENT = Delta(ALL_GATES, ALL_TIME, EPOCH)
NUMBERS = Delta._fields[3:]


class RefusalDelta(NamedTuple):
    """What to add to a counter of refusals (analytics.models.RefusalCount)."""

    gate_id: int
    device_id: int
    reason: str
    refused: int


class RefusedCode(NamedTuple):
    """How much more often a code was refused, and when and why last (analytics.models.RefusedCode)."""

    ticket_id: int
    code: str
    refused: int
    last_at: datetime
    reason: str


_TEXTS = {"nonce", "direction", "verdict", "reason", "code", "forced_over", "force_reason"}


class EventRow(NamedTuple):
    """What statistics need to know of an event."""

    id: int
    slug: str
    name: str
    time_zone: str
    capacity: int | None
    doors_at: datetime
    ends_at: datetime


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
    rows = conn.exec_driver_sql(
        _STATEMENTS["record_scans"], {"event_id": event_id, "recorded_at": recorded_at, **columns}
    )
    return {row.nonce: row.scan_id for row in rows}


def add_counts(
    conn: Connection,
    *,
    event_id: int,
    slot: int,
    counts: Sequence[Delta] = (),
    refusals: Sequence[RefusalDelta] = (),
    codes: Sequence[RefusedCode] = (),
    now: datetime,
) -> None:
    """Add to an event's counters; everything in key order, so that two transactions can't wait for each other.

    `counts` hold WHOLE_EVENT's counter whatever there is to add to it: who asks whether anything changed looks there.
    """
    key = {"event_id": event_id, "slot": slot}
    if counts:
        values = [sql.array(column) for column in zip(*counts, strict=True)]
        named = dict(zip(("gate_ids", "span_mins", "sinces", *NUMBERS), values, strict=True))
        conn.exec_driver_sql(_STATEMENTS["add_event_counts"], {**key, "counted_at": now, **named})
    if refusals:
        gates, devices, reasons, refused = (list(column) for column in zip(*refusals, strict=True))
        columns = {"gate_ids": gates, "device_ids": devices, "reasons": reasons, "refused": refused}
        conn.exec_driver_sql(_STATEMENTS["add_refusal_counts"], {**key, **columns})
    if codes:
        tickets, texts, refused, last_ats, reasons = (list(column) for column in zip(*codes, strict=True))
        columns = {
            "ticket_ids": tickets,
            "codes": texts,
            "refused": refused,
            "last_ats": last_ats,
            "reasons": reasons,
        }
        conn.exec_driver_sql(_STATEMENTS["add_refused_codes"], {"event_id": event_id, **columns})


class Mark(NamedTuple):
    """A ticket that was scanned, and whose row does not say so."""

    ticket_id: int


Lacking = Sequence[Delta | RefusalDelta | RefusedCode | Mark]
# By the name of what add_counts takes, but for the marks.
_DIFFERENCES: tuple[tuple[str, str, Callable[..., Delta | RefusalDelta | RefusedCode | Mark]], ...] = (
    # First, so that it is mended first: whoever scans such a ticket before counts it once more.
    ("marks", "unmarked_tickets", Mark),
    ("counts", "ticket_differences", Delta),
    ("counts", "scan_differences", Delta),
    ("refusals", "refusal_differences", RefusalDelta),
    ("codes", "code_differences", RefusedCode),
)


def differences(conn: Connection, *, event_id: int, rows: int) -> Iterator[tuple[str, Lacking]]:
    """Recount an event and yield what its counters lack: kinds as add_counts names them, or "marks", and at most so many rows each."""
    for counter, name, made in _DIFFERENCES:
        options = {"yield_per": rows}
        result = conn.exec_driver_sql(_STATEMENTS[name], {"event_id": event_id}, execution_options=options)
        for found in result.partitions():
            yield counter, [made(*row) for row in found]


def repairs(conn: Connection, *, event_id: int) -> int:
    """Return how often an event's counters were repaired."""
    rows = conn.exec_driver_sql(_STATEMENTS["repairs"], {"event_id": event_id, "slot": REPAIRS_SLOT})
    return int(rows.scalar_one_or_none() or 0)


def mark_scanned(conn: Connection, *, event_id: int, ticket_ids: Sequence[int]) -> None:
    """Note of tickets that they were scanned."""
    conn.exec_driver_sql(
        _STATEMENTS["mark_scanned"], {"event_id": event_id, "ticket_ids": sql.array(ticket_ids)}
    )


def event_slugs(conn: Connection) -> list[tuple[int, str]]:
    """Return the ids and slugs of all events."""
    found: list[tuple[int, str]] = []
    while page := [
        (row.id, row.slug)
        for row in conn.exec_driver_sql(
            _STATEMENTS["event_slugs"], {"after_id": found[-1][0] if found else 0, "page": 1000}
        )
    ]:
        found += page
    return found


def record_conflicts(conn: Connection, *, event_id: int, nonces: Sequence[str], noticed_at: datetime) -> None:
    """Note offline entries of the log that were refused, with the entries that had used their tickets."""
    conn.exec_driver_sql(
        _STATEMENTS["record_conflicts"],
        {"event_id": event_id, "nonces": list(nonces), "noticed_at": noticed_at},
    )


def event_by_slug(conn: Connection, *, slug: str) -> EventRow | None:
    """Return the event of that name, if there is one."""
    row = conn.exec_driver_sql(_STATEMENTS["event_by_slug"], {"slug": slug}).one_or_none()
    return EventRow(*row) if row else None


def event_named(conn: Connection, slug: str) -> EventRow:
    """Return the event of that name.

    Raises:
        NotFound
    """
    event = event_by_slug(conn, slug=slug)
    if event is None:
        raise NotFound(f"There is no event {slug}.")
    return event


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
    return [LoggedScan(*row) for row in conn.exec_driver_sql(_STATEMENTS["scan_page"], binds)]


def conflict_page(
    conn: Connection, *, event_id: int, before_id: int | None, open_only: bool, page: int
) -> list[ConflictRow]:
    """Return the event's conflicts before an id, newest first."""
    binds = {"event_id": event_id, "before_id": before_id, "open_only": open_only, "page": page}
    return [ConflictRow(*row) for row in conn.exec_driver_sql(_STATEMENTS["conflict_page"], binds)]


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
    row = conn.exec_driver_sql(_STATEMENTS["sign_off_conflict"], binds).one_or_none()
    if row is None:
        return None
    # Whoever asks whether anything changed, because it counts open conflicts, must hear of it.
    add_counts(conn, event_id=event_id, slot=0, counts=[WHOLE_EVENT], now=signed_off_at)
    return SignOff(*row)
