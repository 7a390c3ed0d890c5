"""Where spans of time begin by a venue's clock. Pure: no database, no clock of its own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from itertools import islice
from zoneinfo import ZoneInfo


class Bucket(StrEnum):
    """How long a span of a timeline is."""

    MINUTE = "minute"
    QUARTER = "15min"
    HOUR = "hour"
    DAY = "day"


_MINUTES = {Bucket.MINUTE: 1, Bucket.QUARTER: 15, Bucket.HOUR: 60}


def start_of(at: datetime, bucket: Bucket, zone: ZoneInfo) -> datetime:
    """Return when the span began that a moment is in, in UTC.

    A day begins at midnight, or at the first moment that it has; where the clock is set back, its hour comes twice.
    """
    local = at.astimezone(zone)
    if bucket == Bucket.DAY:
        return _midnight(local.date(), zone)
    past = local.minute % _MINUTES[bucket]
    return at.astimezone(UTC) - timedelta(minutes=past, seconds=local.second, microseconds=local.microsecond)


def starts(since: datetime, until: datetime, bucket: Bucket, zone: ZoneInfo) -> Iterator[datetime]:
    """Yield when each span begins, from the one that `since` is in to the last that begins before `until`, in UTC."""
    start = start_of(since, bucket, zone)
    while start < until:
        yield start
        start = end_of(start, bucket, zone)


def end_of(start: datetime, bucket: Bucket, zone: ZoneInfo) -> datetime:
    """Return when the span ends that begins at a moment."""
    if bucket == Bucket.DAY:
        return _midnight(start.astimezone(zone).date() + timedelta(days=1), zone)
    # Not just so much later: Lord Howe's clock is changed by half an hour.
    return start_of(start + timedelta(minutes=_MINUTES[bucket]), bucket, zone)


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
