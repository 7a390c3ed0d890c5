"""What a statistic is made of: the rows that analytics.statistics returns."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple


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


class Sums(NamedTuple):
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
    conflicts: int
    open_conflicts: int
    refused_by_reason: dict[str, int]


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

    `per_minute` is the mean of the last five; `clear_min` how many minutes the `no_shows` would take at the rate at which
    tickets come that had not been in, None where none comes; `capacity_share` how full it is, None without a capacity.
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


class RefusedBy(NamedTuple):
    """Refused scans of a gate or a device. `name` is None where it is gone; `id` is None for no device: by hand."""

    id: int | None
    name: str | None
    refused: int


class Refusals(NamedTuple):
    """Refused scans, grouped in three ways, each with most first."""

    refused: int
    by_reason: dict[str, int]
    by_gate: list[RefusedBy]
    by_device: list[RefusedBy]


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
    time_zone: str
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
