"""Where spans of time begin by a venue's clock. Pure: no database, no clock of its own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache
from itertools import islice
from zoneinfo import ZoneInfo, available_timezones


class Bucket(StrEnum):
    """How long a span of a timeline is."""

    MINUTE = "minute"
    QUARTER = "15min"
    HOUR = "hour"
    DAY = "day"


_MINUTES = {Bucket.MINUTE: 1, Bucket.QUARTER: 15, Bucket.HOUR: 60}
_HOUR = timedelta(hours=1)


@lru_cache(1)
def _zones() -> set[str]:
    return available_timezones()


def is_place(zone: str) -> bool:
    """Tell whether a name is that of an IANA time zone: not of a file ("localtime", "Factory"), nor one without a place."""
    return zone in _zones() and ("/" in zone or zone == "UTC")


def start_of(at: datetime, bucket: Bucket, zone: ZoneInfo) -> datetime:
    """Return when the span began that a moment is in, in UTC.

    A day begins at midnight, or at the first moment that it has, and its hours are counted from there: where the clock is
    set back, an hour comes twice, and where it is changed by half an hour, they are half an hour off until midnight.
    """
    if bucket in (Bucket.MINUTE, Bucket.QUARTER):
        at = at.astimezone(UTC)  # every clock is off by whole quarters of an hour
        return at.replace(minute=at.minute - at.minute % _MINUTES[bucket], second=0, microsecond=0)
    day = at.astimezone(zone).date()
    while _midnight(day + timedelta(days=1), zone) <= at:
        day += timedelta(days=1)  # a clock that was set back past midnight says yesterday again
    midnight = _midnight(day, zone)
    return midnight if bucket == Bucket.DAY else midnight + (at - midnight) // _HOUR * _HOUR


def starts(since: datetime, until: datetime, bucket: Bucket, zone: ZoneInfo) -> Iterator[datetime]:
    """Yield when each span begins, from the one that `since` is in to the last that begins before `until`, in UTC."""
    start = start_of(since, bucket, zone)
    while start < until:
        yield start
        start = end_of(start, bucket, zone)


def end_of(start: datetime, bucket: Bucket, zone: ZoneInfo) -> datetime:
    """Return when the span ends that begins at a moment."""
    if bucket in (Bucket.MINUTE, Bucket.QUARTER):
        return start + timedelta(minutes=_MINUTES[bucket])
    today = start_of(start, Bucket.DAY, zone)
    day = start.astimezone(zone).date()
    midnights = (_midnight(day + timedelta(days=days), zone) for days in (0, 1, 2))
    tomorrow = next(midnight for midnight in midnights if midnight > today)
    return tomorrow if bucket == Bucket.DAY else min(start + _HOUR, tomorrow)


def first_of(until: datetime, bucket: Bucket, zone: ZoneInfo, spans: int) -> datetime:
    """Return when the first of so many spans begins, the last of which is the one that `until` is in."""
    if bucket == Bucket.DAY:
        return _midnight(until.astimezone(zone).date() - timedelta(days=spans - 1), zone)
    length = timedelta(minutes=_MINUTES[bucket])
    return start_of(start_of(until, bucket, zone) - (spans - 1) * length, bucket, zone)


def at_most(
    since: datetime, until: datetime, bucket: Bucket, zone: ZoneInfo, limit: int
) -> list[datetime] | None:
    """Return when all spans of a range begin, or None where there are more than the limit."""
    found = list(islice(starts(since, until, bucket, zone), limit + 1))
    return None if len(found) > limit else found


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    # Where midnight is skipped, `fold=0` names it by the offset before: that is the moment of the change.
    return datetime.combine(day, time(), zone).astimezone(UTC)
