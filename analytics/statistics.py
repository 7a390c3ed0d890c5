"""The numbers: exact at the moment of the connection's snapshot, read from counters, so flat in cost as scans grow.

Each takes an open connection; several that are to agree take one of `core.db.in_one_snapshot`. Moments are passed in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from analytics import buckets
from analytics.buckets import Bucket
from analytics.models import ALL_GATES, MINUTE, QUARTER
from analytics.queries import EventRow
from core import sql

_STATEMENTS = sql.load("analytics")
PEAK_WITHIN = timedelta(days=7)
RECENT = timedelta(minutes=15)
HALF_LIFE = timedelta(hours=1)
_UTC = ZoneInfo("UTC")
_BEFORE_ALL = datetime(1900, 1, 1, tzinfo=_UTC)
TREND_WITHIN = 12 * HALF_LIFE  # older entries count less than a four-thousandth


class EventTotals(NamedTuple):
    """Counts of one event; tickets first, then scans.

    A ticket that was passed on and its new one are both issued, and the old one is transferred. `admitted` came in at
    least once, `unique_tickets` were presented, whatever the verdict; `no_shows` are valid, and nobody came in with them
    so far. `scans` are all attempts, also those that were `annulled`.
    """

    issued: int
    void: int
    transferred: int
    admitted: int
    no_shows: int
    inside: int
    unique_tickets: int
    scans: int
    entries: int
    exits: int
    refused: int
    annulled: int
    conflicts: int
    open_conflicts: int
    refused_by_reason: dict[str, int]


class EventLine(NamedTuple):
    """One event in the list of all."""

    id: int
    slug: str
    name: str
    time_zone: str
    capacity: int | None
    issued: int
    void: int
    transferred: int
    admitted: int
    no_shows: int
    inside: int
    unique_tickets: int
    entries: int
    exits: int
    refused: int
    annulled: int


SUMMED = EventLine._fields[EventLine._fields.index("issued") :]


class GateTotals(NamedTuple):
    """One gate; `recent_…` are of the last 15 minutes, `last_minute` the last in which something was scanned."""

    gate_id: int
    gate: str
    entries: int
    exits: int
    admitted: int
    refused: int
    recent_entries: int
    recent_exits: int
    last_minute: datetime | None


class Span(NamedTuple):
    """What happened from a moment on, until the next span begins."""

    since: datetime
    entries: int
    exits: int
    admitted: int
    refused: int


class Cell(NamedTuple):
    """One hour of the week by the venue's clock; weekday 1 is Monday."""

    weekday: int
    hour: int
    entries: int
    exits: int
    refused: int


class Throughput(NamedTuple):
    """How fast people come in: entries of the last whole minutes, and what that means.

    `per_minute` is the mean of the last five; `clear_min` how many minutes the `no_shows` would take at that rate, None
    where nobody comes; `capacity_share` how full it is, None without a capacity.
    """

    last_minute: int
    last_5_minutes: int
    last_15_minutes: int
    per_minute: float
    peak_minute: datetime | None
    peak_entries: int
    inside: int
    capacity: int | None
    capacity_share: float | None
    no_shows: int
    clear_min: float | None


class Refusals(NamedTuple):
    """Refused scans, grouped in three ways; None is a gate or device that is gone, or no device: checked in by hand."""

    refused: int
    by_reason: dict[str, int]
    by_gate: list[tuple[str | None, int]]
    by_device: list[tuple[str | None, int]]


class RefusedScan(NamedTuple):
    """A row of the log of refused scans."""

    scan_id: int
    ticket_id: int | None
    gate: str | None
    device: str | None
    user: str | None
    direction: str
    reason: str
    code: str | None
    happened_at: datetime
    recorded_at: datetime
    offline: bool


class RepeatedCode(NamedTuple):
    """A code that was refused more than once."""

    ticket_id: int | None
    code: str | None
    refused: int
    last_at: datetime
    reason: str


class TransferRow(NamedTuple):
    """A ticket that was passed on."""

    id: int
    from_ticket_id: int
    to_ticket_id: int
    from_holder: str
    to_holder: str
    transferred_at: datetime
    transferred_by: str


class Trend(NamedTuple):
    """An event that people are entering; an entry counts half as much an hour later."""

    id: int
    slug: str
    name: str
    score: float
    entries: int


class SinceDoors(NamedTuple):
    """What happened from so many minutes after the doors opened on, and the entries of all spans up to its end."""

    minute: int
    entries: int
    entries_so_far: int


class DeviceRow(NamedTuple):
    """A device in use, with when it was last seen (at most a minute late) and how far its clock is ahead."""

    device: str
    gate: str
    last_seen_at: datetime | None
    clock_offset_ms: int | None


class Silent(NamedTuple):
    """Gates at which nothing was scanned, and devices that were not seen, for so long."""

    gates: list[GateTotals]
    devices: list[DeviceRow]


def changes(conn: Connection, event_id: int | None = None) -> tuple[int, datetime | None]:
    """Tell how often anything of an event, or of all, was counted, and when last: what was read since is still right."""
    name = "all_changes" if event_id is None else "event_changes"
    row = conn.exec_driver_sql(_STATEMENTS[name], {} if event_id is None else {"event_id": event_id}).one()
    return row.changes, row.changed_at


def event_totals(conn: Connection, *, event_id: int) -> EventTotals:
    """Count one event's tickets and scans."""
    return EventTotals(*conn.exec_driver_sql(_STATEMENTS["event_totals"], {"event_id": event_id}).one())


def all_totals(conn: Connection, *, after_id: int = 0, page: int = 1000) -> list[EventLine]:
    """Count every event after an id, in id order."""
    rows = conn.exec_driver_sql(_STATEMENTS["all_totals"], {"after_id": after_id, "page": page})
    return [EventLine(*row) for row in rows]


def every_event(conn: Connection) -> list[EventLine]:
    """Count every event, in id order."""
    lines: list[EventLine] = []
    while page := all_totals(conn, after_id=lines[-1].id if lines else 0):
        lines += page
    return lines


def sums(lines: Iterable[EventLine]) -> dict[str, int]:
    """Sum up events, number by number."""
    totals = Counter(dict.fromkeys(SUMMED, 0))
    for line in lines:
        for name in SUMMED:
            totals[name] += getattr(line, name)
    return dict(totals)


def gates(conn: Connection, *, event_id: int, now: datetime) -> list[GateTotals]:
    """Count what happened at each gate, by name."""
    recent_from = buckets.start_of(now, Bucket.MINUTE, _UTC) - RECENT
    rows = conn.exec_driver_sql(
        _STATEMENTS["gate_totals"], {"event_id": event_id, "recent_from": recent_from}
    )
    return [GateTotals(*row) for row in rows]


def gate_id(conn: Connection, *, event_id: int, name: str) -> int | None:
    """Return the number of the event's gate of that name."""
    found: int | None = conn.exec_driver_sql(
        _STATEMENTS["gate_by_name"], {"event_id": event_id, "name": name}
    ).scalar_one_or_none()
    return found


def active_range(
    conn: Connection, *, event_id: int, gate_id: int = ALL_GATES
) -> tuple[datetime, datetime] | None:
    """Return from when to when anything was scanned, to a quarter of an hour; None where nothing was."""
    row = conn.exec_driver_sql(_STATEMENTS["active_range"], {"event_id": event_id, "gate_id": gate_id}).one()
    return None if row.first_at is None else (row.first_at, row.last_at + timedelta(minutes=QUARTER))


def timeline(
    conn: Connection,
    *,
    event_id: int,
    starts: list[datetime],
    until: datetime,
    span_min: int,
    gate_id: int = ALL_GATES,
) -> list[Span]:
    """Count what happened in each of the spans that begin at `starts`, the last of which ends at `until`.

    `starts` lie on whole minutes, with `span_min` 15 on whole quarters of an hour.
    """
    if not starts:
        return []
    binds = {
        "event_id": event_id,
        "gate_id": gate_id,
        "span_min": span_min,
        "starts": sql.array(starts),
        "until": until,
    }
    found = {row.place: row[1:] for row in conn.exec_driver_sql(_STATEMENTS["timeline"], binds)}
    return [Span(start, *found.get(place, (0, 0, 0, 0))) for place, start in enumerate(starts, 1)]


def span_of(bucket: Bucket) -> int:
    """Return the length of the counted spans that such a bucket is a sum of."""
    return MINUTE if bucket == Bucket.MINUTE else QUARTER


def heatmap(conn: Connection, *, event_id: int, zone: str, since: datetime, until: datetime) -> list[Cell]:
    """Count by hour of the week and the venue's clock: 168 cells, Monday's first."""
    binds = {"event_id": event_id, "zone": zone, "since": since, "until": until}
    found = {row[:2]: row[2:] for row in conn.exec_driver_sql(_STATEMENTS["heatmap"], binds)}
    places = ((weekday, hour) for weekday in range(1, 8) for hour in range(24))
    return [Cell(*place, *found.get(place, (0, 0, 0))) for place in places]


def throughput(conn: Connection, *, event: EventRow, now: datetime) -> Throughput:
    """Tell how fast people come in, and how long the rest would take."""
    until = buckets.start_of(now, Bucket.MINUTE, _UTC)
    active = active_range(conn, event_id=event.id)
    peak_from = (active[1] if active else until) - PEAK_WITHIN
    binds = {"event_id": event.id, "until": until, "peak_from": peak_from}
    row = conn.exec_driver_sql(_STATEMENTS["throughput"], binds).one()
    totals = event_totals(conn, event_id=event.id)
    per_minute = row.entries_5 / 5
    return Throughput(
        last_minute=row.entries_1,
        last_5_minutes=row.entries_5,
        last_15_minutes=row.entries_15,
        per_minute=per_minute,
        peak_minute=row.peak_minute,
        peak_entries=row.peak_entries,
        inside=totals.inside,
        capacity=event.capacity,
        capacity_share=totals.inside / event.capacity if event.capacity else None,
        no_shows=totals.no_shows,
        clear_min=totals.no_shows / per_minute if per_minute > 0 else None,
    )


def refusals(conn: Connection, *, event_id: int) -> Refusals:
    """Count refused scans by reason, by gate and by device, each with most first."""
    by_reason: Counter[str] = Counter()
    by_gate: Counter[str | None] = Counter()
    by_device: Counter[str | None] = Counter()
    for row in conn.exec_driver_sql(_STATEMENTS["refusals"], {"event_id": event_id}):
        by_reason[row.reason] += row.refused
        by_gate[row.gate] += row.refused
        by_device[row.device] += row.refused
    return Refusals(
        by_reason.total(), dict(by_reason.most_common()), by_gate.most_common(), by_device.most_common()
    )


def refused_page(
    conn: Connection, *, event_id: int, before_id: int | None = None, page: int = 100
) -> list[RefusedScan]:
    """Return the event's refused scans before an id, newest first."""
    binds = {"event_id": event_id, "before_id": before_id, "page": page}
    return [RefusedScan(*row) for row in conn.exec_driver_sql(_STATEMENTS["refused_page"], binds)]


def repeated_codes(conn: Connection, *, event_id: int, page: int = 20) -> list[RepeatedCode]:
    """Return the codes that were refused most often, if more than once."""
    rows = conn.exec_driver_sql(_STATEMENTS["repeated_codes"], {"event_id": event_id, "page": page})
    return [RepeatedCode(*row) for row in rows]


def transfer_page(
    conn: Connection, *, event_id: int, before_id: int | None = None, page: int = 100
) -> list[TransferRow]:
    """Return the event's transfers before an id, newest first."""
    binds = {"event_id": event_id, "before_id": before_id, "page": page}
    return [TransferRow(*row) for row in conn.exec_driver_sql(_STATEMENTS["transfer_page"], binds)]


def transfer_chain(conn: Connection, *, event_id: int, ticket_id: int) -> list[TransferRow]:
    """Return every transfer of the chain that a ticket is in, the oldest first."""
    binds = {"event_id": event_id, "ticket_id": ticket_id}
    return [TransferRow(*row) for row in conn.exec_driver_sql(_STATEMENTS["transfer_chain"], binds)]


def trends(conn: Connection, *, now: datetime, page: int = 20) -> list[Trend]:
    """Return the events that people are entering, those with most entries lately first."""
    binds = {
        "now": now,
        "since": now - TREND_WITHIN,
        "half_life_s": int(HALF_LIFE.total_seconds()),
        "page": page,
    }
    return [Trend(*row) for row in conn.exec_driver_sql(_STATEMENTS["all_trends"], binds)]


def since_doors(conn: Connection, *, event: EventRow, bucket_min: int, spans: int) -> list[SinceDoors]:
    """Count entries in spans from the minute in which the doors opened, to lay two events over each other.

    Who came before that is in `entries_so_far` alone.
    """
    doors = buckets.start_of(event.doors_at, Bucket.MINUTE, _UTC)
    step = timedelta(minutes=bucket_min)
    starts = [_BEFORE_ALL, *(doors + place * step for place in range(spans))]
    found = timeline(conn, event_id=event.id, starts=starts, until=doors + spans * step, span_min=MINUTE)
    so_far, counted = found[0].entries, []
    for place, span in enumerate(found[1:]):
        so_far += span.entries
        counted.append(SinceDoors(place * bucket_min, span.entries, so_far))
    return counted


def silent(conn: Connection, *, event_id: int, now: datetime, for_min: int) -> Silent:
    """Return the gates at which nothing was scanned for so many minutes, and the devices that were not seen."""
    since = now - timedelta(minutes=for_min)
    devices = [
        DeviceRow(*row) for row in conn.exec_driver_sql(_STATEMENTS["devices"], {"event_id": event_id})
    ]
    return Silent(
        [
            gate
            for gate in gates(conn, event_id=event_id, now=now)
            if gate.last_minute is None or gate.last_minute + timedelta(minutes=1) <= since
        ],
        [device for device in devices if device.last_seen_at is None or device.last_seen_at < since],
    )
