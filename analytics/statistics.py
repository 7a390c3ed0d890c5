"""The numbers: exact at the moment of the connection's snapshot, read from counters, so flat in cost as scans grow.

Each takes an open connection; several that are to agree take one of `core.db.in_one_snapshot`. Moments are passed in.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from analytics import buckets
from analytics.buckets import Bucket
from analytics.models import ALL_GATES, MINUTE, QUARTER
from analytics.queries import EventRow
from analytics.rows import (
    Cell,
    DeviceRow,
    EventLine,
    EventTotals,
    GateTotals,
    Refusals,
    RefusedBy,
    RefusedScan,
    RepeatedCode,
    Silent,
    SinceDoors,
    Span,
    Sums,
    Throughput,
    TransferRow,
    Trend,
)
from core import sql

_STATEMENTS = sql.load("analytics")
PEAK_WITHIN = timedelta(days=7)
RECENT = timedelta(minutes=15)
HALF_LIFE = timedelta(hours=1)
_UTC = ZoneInfo("UTC")
BEFORE_ALL = datetime(1900, 1, 1, tzinfo=_UTC)
TREND_WITHIN = 12 * HALF_LIFE  # older entries count less than a four-thousandth


def changes(conn: Connection, event_id: int | None = None) -> tuple[int, datetime | None]:
    """Tell how often anything of an event, or of all, was counted, and when last: what was read since is still right."""
    name = "all_changes" if event_id is None else "event_changes"
    row = conn.exec_driver_sql(_STATEMENTS[name], {} if event_id is None else {"event_id": event_id}).one()
    return row.changes, row.changed_at


def event_totals(conn: Connection, *, event_id: int) -> EventTotals:
    """Count one event's tickets and scans."""
    return EventTotals(*conn.exec_driver_sql(_STATEMENTS["event_totals"], {"event_id": event_id}).one())


def all_totals(conn: Connection, *, before_id: int | None = None, page: int = 100) -> list[EventLine]:
    """Count every event before an id, the newest first."""
    rows = conn.exec_driver_sql(_STATEMENTS["all_totals"], {"before_id": before_id, "page": page})
    return [EventLine(*row) for row in rows]


def sums(conn: Connection) -> Sums:
    """Count all events together."""
    return Sums(*conn.exec_driver_sql(_STATEMENTS["all_sums"]).one())


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


def heatmap(
    conn: Connection, *, event_id: int, zone: ZoneInfo, since: datetime, until: datetime
) -> list[Cell]:
    """Count by hour of the week and a clock, between two quarters of an hour: 168 cells, Monday's first."""
    binds = {"event_id": event_id, "since": since, "until": until}
    cells = {(weekday, hour): [0, 0, 0] for weekday in range(1, 8) for hour in range(24)}
    for row in conn.exec_driver_sql(_STATEMENTS["quarters"], binds):
        # Not by PostgreSQL, whose time zones are of another release than Python's, by which all else here is.
        local = row.since.astimezone(zone)
        cell = cells[local.isoweekday(), local.hour]
        for place, number in enumerate(row[1:]):
            cell[place] += number
    return [Cell(*place, *numbers) for place, numbers in cells.items()]


def throughput(conn: Connection, *, event: EventRow, now: datetime) -> Throughput:
    """Tell how fast people come in, and how long the rest would take."""
    until = buckets.start_of(now, Bucket.MINUTE, _UTC)
    active = active_range(conn, event_id=event.id)
    peak_from = (active[1] if active else until) - PEAK_WITHIN
    binds = {"event_id": event.id, "until": until, "peak_from": peak_from}
    row = conn.exec_driver_sql(_STATEMENTS["throughput"], binds).one()
    totals = event_totals(conn, event_id=event.id)
    per_minute, clears_per_minute = row.entries_5 / 5, row.admitted_5 / 5
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
        clear_min=totals.no_shows / clears_per_minute if clears_per_minute > 0 else None,
    )


def refusals(conn: Connection, *, event_id: int) -> Refusals:
    """Count refused scans by reason, by gate and by device, each with most first."""
    by_reason: Counter[str] = Counter()
    by_gate: Counter[tuple[int | None, str | None]] = Counter()
    by_device: Counter[tuple[int | None, str | None]] = Counter()
    for row in conn.exec_driver_sql(_STATEMENTS["refusals"], {"event_id": event_id}):
        by_reason[row.reason] += row.refused
        by_gate[row.gate_id, row.gate] += row.refused
        by_device[row.device_id or None, row.device] += row.refused
    return Refusals(
        by_reason.total(),
        dict(by_reason.most_common()),
        [RefusedBy(*key, refused) for key, refused in by_gate.most_common()],
        [RefusedBy(*key, refused) for key, refused in by_device.most_common()],
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
    starts = [BEFORE_ALL, *(doors + place * step for place in range(spans))]
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
