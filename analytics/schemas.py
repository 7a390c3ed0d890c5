"""What the statistics look like as JSON; rows are those of analytics.statistics, field by field."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple, get_type_hints

from ninja import Schema
from pydantic import create_model

from analytics import statistics
from analytics.buckets import Bucket


def _shape(rows: type[NamedTuple], *, without: tuple[str, ...] = (), **others: Any) -> type[Schema]:
    """Make the schema of a row, but for some of its fields."""
    fields: dict[str, Any] = {
        name: (others.get(name, kind), ...)
        for name, kind in get_type_hints(rows).items()
        if name not in without
    }
    return create_model(rows.__name__, __base__=Schema, __doc__=rows.__doc__, **fields)


# Ticket numbers are text, as everywhere in the API: JavaScript's numbers end before them.
Totals = _shape(statistics.EventTotals)
Line: Any = _shape(statistics.EventLine)
Gate: Any = _shape(statistics.GateTotals)
TimelineSpan: Any = _shape(statistics.Span)
HeatmapCell: Any = _shape(statistics.Cell)
Rate = _shape(statistics.Throughput)
Refused: Any = _shape(statistics.RefusedScan, ticket_id=str | None)
Repeated: Any = _shape(statistics.RepeatedCode, ticket_id=str | None)
Transfer: Any = _shape(statistics.TransferRow, from_ticket_id=str, to_ticket_id=str)
Trend: Any = _shape(statistics.Trend)
Device: Any = _shape(statistics.DeviceRow)
DoorsSpan: Any = _shape(statistics.SinceDoors)


class Answer(Schema):
    """Of which event the numbers are, at which moment, and where its days begin."""

    event: str
    time_zone: str
    as_of: datetime


class EventStats(Answer, Totals):  # type: ignore[misc, valid-type]
    """One event in numbers."""

    name: str
    capacity: int | None


class Sums(Schema):
    """All events together."""

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


class AllStats(Schema):
    """A page of all events, and what they sum up to. `next_after` is None on the last page."""

    as_of: datetime
    totals: Sums
    events: list[Line]
    next_after: int | None


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
    """168 hours of a week by the clock of `zone`."""

    zone: str
    cells: list[HeatmapCell]


class Gates(Answer):
    """The event's gates, by name."""

    gates: list[Gate]


class ThroughputOut(Answer, Rate):  # type: ignore[misc, valid-type]
    """How fast people come in."""


class AtGate(Schema):
    """Refused scans of a gate; None: it is gone."""

    gate: str | None
    refused: int


class OfDevice(Schema):
    """Refused scans of a device; None: it is gone, or somebody checked in by hand."""

    device: str | None
    refused: int


class InvalidAttempts(Answer):
    """What was refused. `code` is what was read, where it names no ticket; that of another event is not shown."""

    refused: int
    by_reason: dict[str, int]
    by_gate: list[AtGate]
    by_device: list[OfDevice]
    repeated: list[Repeated]
    scans: list[Refused]
    next_after: int | None


class Transfers(Answer):
    """Tickets that were passed on."""

    transfers: list[Transfer]
    next_after: int | None


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
