"""What the statistics look like as JSON; rows are those of analytics.statistics, field by field."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple, get_type_hints

from ninja import Schema
from pydantic import create_model

from analytics import rows
from analytics.buckets import Bucket


def _shape(row: type[NamedTuple], *, without: tuple[str, ...] = (), **others: Any) -> type[Schema]:
    """Make the schema of a row, but for some of its fields."""
    fields: dict[str, Any] = {
        name: (others.get(name, kind), ...)
        for name, kind in get_type_hints(row).items()
        if name not in without
    }
    return create_model(row.__name__, __base__=Schema, __doc__=row.__doc__, **fields)


# Ticket numbers are text, as everywhere in the API: JavaScript's numbers end before them.
Totals = _shape(rows.EventTotals)
Sums: Any = _shape(rows.Sums)
Line: Any = _shape(rows.EventLine)
Gate: Any = _shape(rows.GateTotals)
TimelineSpan: Any = _shape(rows.Span)
HeatmapCell: Any = _shape(rows.Cell)
Rate = _shape(rows.Throughput)
Refused: Any = _shape(rows.RefusedScan, ticket_id=str | None)
RefusedBy: Any = _shape(rows.RefusedBy)
Repeated: Any = _shape(rows.RepeatedCode, ticket_id=str | None)
Transfer: Any = _shape(rows.TransferRow, from_ticket_id=str, to_ticket_id=str)
Trend: Any = _shape(rows.Trend)
Device: Any = _shape(rows.DeviceRow)
DoorsSpan: Any = _shape(rows.SinceDoors)


class Answer(Schema):
    """Of which event the numbers are, at which moment, and where its days begin."""

    event: str
    time_zone: str
    as_of: datetime


class EventStats(Answer, Totals):  # type: ignore[misc, valid-type]
    """One event in numbers."""

    name: str
    capacity: int | None


class AllStats(Schema):
    """A page of all events, and what they sum up to. `next` is None on the last page."""

    as_of: datetime
    totals: Sums
    events: list[Line]
    next: str | None


class Trending(Schema):
    """The events that people are entering, most first."""

    as_of: datetime
    events: list[Trend]


class Timeline(Answer):
    """Spans without gaps, by the clock of `zone`; the last one ends at `until`."""

    zone: str
    bucket: Bucket
    gate: str | None
    until: datetime | None
    spans: list[TimelineSpan]


class Heatmap(Answer):
    """168 hours of a week by the clock of `zone`, of all time or of a range."""

    zone: str
    since: datetime | None
    until: datetime | None
    cells: list[HeatmapCell]


class Gates(Answer):
    """The event's gates, by name."""

    gates: list[Gate]


class ThroughputOut(Answer, Rate):  # type: ignore[misc, valid-type]
    """How fast people come in."""


class InvalidAttempts(Answer):
    """What was refused. `code` is what was read, where it names no ticket; that of another event is not shown."""

    refused: int
    by_reason: dict[str, int]
    by_gate: list[RefusedBy]
    by_device: list[RefusedBy]
    repeated: list[Repeated]
    scans: list[Refused]
    next: str | None


class Transfers(Answer):
    """Tickets that were passed on."""

    transfers: list[Transfer]
    next: str | None


class FromDoors(Schema):
    """One event, from the minute in which its doors opened."""

    event: str
    doors_at: datetime
    spans: list[DoorsSpan]


class Comparison(Answer):
    """Two events laid over each other."""

    bucket_min: int
    events: list[FromDoors]


class SilentGate(Schema):
    """A gate, and the last minute in which something was scanned there."""

    gate: str
    last_minute: datetime | None


class SilentOut(Answer):
    """What has been silent for so many minutes."""

    minutes: int
    gates: list[SilentGate]
    devices: list[Device]
