"""Where days, hours and quarters begin by the clock of a venue."""

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from analytics.buckets import Bucket, at_most, first_of, start_of, starts

BERLIN, KATHMANDU, BEIRUT = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kathmandu"), ZoneInfo("Asia/Beirut")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")


def utc(*numbers):
    return datetime(*numbers, tzinfo=UTC)


def local_times(found, zone):
    return [f"{start.astimezone(zone):%m-%d %H:%M}" for start in found]


@pytest.mark.parametrize(
    ("bucket", "local"),
    [
        (Bucket.MINUTE, "12-31 23:59"),
        (Bucket.QUARTER, "12-31 23:45"),
        (Bucket.HOUR, "12-31 23:00"),
        (Bucket.DAY, "12-31 00:00"),
    ],
)
def test_a_span_begins_on_the_venues_clock_also_at_a_quarter_to(bucket, local):
    at = datetime(2026, 12, 31, 23, 59, 31, 5, KATHMANDU)

    assert local_times([start_of(at, bucket, KATHMANDU)], KATHMANDU) == [local]


def test_a_day_is_23_or_25_hours_long_where_the_clock_is_changed():
    spring = list(starts(utc(2026, 3, 28, 12), utc(2026, 3, 30, 12), Bucket.DAY, BERLIN))
    autumn = list(starts(utc(2026, 10, 24, 12), utc(2026, 10, 26, 12), Bucket.DAY, BERLIN))

    assert [(b - a) / timedelta(hours=1) for a, b in pairwise(spring)] == [24, 23]
    assert [(b - a) / timedelta(hours=1) for a, b in pairwise(autumn)] == [24, 25]


def test_the_hour_that_comes_twice_is_two_spans_and_the_one_that_is_skipped_is_none():
    autumn = starts(utc(2026, 10, 24, 23), utc(2026, 10, 25, 3), Bucket.HOUR, BERLIN)
    spring = starts(utc(2026, 3, 29, 0), utc(2026, 3, 29, 3), Bucket.HOUR, BERLIN)

    assert local_times(autumn, BERLIN) == ["10-25 01:00", "10-25 02:00", "10-25 02:00", "10-25 03:00"]
    assert local_times(spring, BERLIN) == ["03-29 01:00", "03-29 03:00", "03-29 04:00"]


def test_a_day_without_a_midnight_begins_at_its_first_moment():
    found = starts(utc(2026, 3, 27, 23), utc(2026, 3, 30, 0), Bucket.DAY, BEIRUT)

    assert local_times(found, BEIRUT) == ["03-28 00:00", "03-29 01:00", "03-30 00:00"]


def test_hours_are_half_an_hour_off_until_midnight_where_the_clock_is_changed_by_that():
    found = local_times(starts(utc(2026, 10, 3, 14), utc(2026, 10, 4, 15), Bucket.HOUR, LORD_HOWE), LORD_HOWE)

    assert found[:3] == ["10-04 00:00", "10-04 01:00", "10-04 02:30"]
    assert found[-3:] == ["10-04 23:30", "10-05 00:00", "10-05 01:00"]


@pytest.mark.parametrize(
    ("name", "year"),
    [
        *(
            ("Australia/Lord_Howe", 2026),
            ("Asia/Gaza", 2011),
            ("America/St_Johns", 2010),
            ("Asia/Pyongyang", 2015),
        ),
        *(("Asia/Beirut", 2026), ("Africa/Cairo", 2026), ("Europe/Dublin", 2026), ("Pacific/Apia", 2011)),
        *(("America/Havana", 2026), ("Africa/Casablanca", 2026), ("Antarctica/Troll", 2026)),
    ],
)
@pytest.mark.parametrize("bucket", [Bucket.HOUR, Bucket.DAY])
def test_every_moment_is_in_the_span_that_it_says_whatever_the_clock_did(name, year, bucket):
    zone = ZoneInfo(name)
    begin, end = utc(year, 1, 1), utc(year + 1, 1, 1)
    found = list(starts(begin, end, bucket, zone))

    assert found == sorted(set(found))
    for number in range(1, 5_000):
        at = begin + number * timedelta(minutes=103, seconds=7)
        if found[0] <= at < found[-1]:
            assert start_of(at, bucket, zone) == found[bisect_right(found, at) - 1]


@pytest.mark.parametrize("bucket", Bucket)
@pytest.mark.parametrize("zone", [BERLIN, KATHMANDU, LORD_HOWE], ids=str)
def test_spans_follow_each_other_and_the_last_so_many_end_with_the_moment_asked_for(bucket, zone):
    until = utc(2026, 10, 26, 7, 13, 5)

    since = first_of(until, bucket, zone, 48)
    found = at_most(since, until, bucket, zone, 60)

    assert found is not None
    assert found == sorted(set(found))
    assert abs(len(found) - 48) <= 1  # an hour more or less where the clock is changed by half of one
    assert found[-1] == start_of(until, bucket, zone)
    assert all(start_of(start, bucket, zone) == start for start in found)


def test_a_range_of_too_many_spans_is_none():
    assert at_most(utc(2026, 1, 1), utc(2026, 1, 2), Bucket.MINUTE, BERLIN, 1439) is None
    assert len(at_most(utc(2026, 1, 1), utc(2026, 1, 2), Bucket.MINUTE, BERLIN, 1440) or []) == 1440
