"""A bucket of tokens for each device."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickets.rate import RateLimit


def allowed(limit, key, now_s, times):
    return sum(limit.allow(key, now_s) for _ in range(times))


def test_a_burst_goes_through_and_then_the_rate():
    limit = RateLimit(rate_per_s=20, burst=40)

    assert allowed(limit, 7, 100.0, 60) == 40
    assert allowed(limit, 7, 101.0, 60) == 20
    assert allowed(limit, 7, 101.04, 60) == 0
    assert allowed(limit, 7, 101.05, 60) == 1


def test_a_bucket_never_holds_more_than_the_burst():
    limit = RateLimit(rate_per_s=20, burst=40)
    allowed(limit, 7, 100.0, 60)

    assert allowed(limit, 7, 100_000.0, 60) == 40


def test_who_asks_in_vain_loses_nothing_by_it():
    limit = RateLimit(rate_per_s=1, burst=1)
    allowed(limit, 7, 0.0, 1000)

    assert limit.allow(7, 1.0)


def test_devices_do_not_share():
    limit = RateLimit(rate_per_s=1, burst=2)
    allowed(limit, 7, 0.0, 10)

    assert allowed(limit, 8, 0.0, 10) == 2


def test_memory_is_bounded_and_who_was_seen_last_is_kept():
    limit = RateLimit(rate_per_s=1, burst=1, keys_max=100)
    limit.allow("busy", 0.0)
    for key in range(100_000):
        limit.allow(key, 0.0)
        limit.allow("busy", 0.0)

    assert len(limit) == 100
    assert not limit.allow("busy", 0.0)


def test_a_clock_that_jumps_back_gives_nothing_away_and_locks_nobody_out():
    limit = RateLimit(rate_per_s=20, burst=40)
    allowed(limit, 7, 100.0, 60)

    assert allowed(limit, 7, 99.0, 60) == 0
    assert allowed(limit, 7, 102.0, 60) == 40


@pytest.mark.parametrize(("rate_per_s", "burst"), [(0, 1), (-1, 1), (1, 0)])
def test_nonsense_is_refused(rate_per_s, burst):
    with pytest.raises(ValueError, match="positive"):
        RateLimit(rate_per_s, burst)


@given(
    st.lists(st.floats(0, 0.5), min_size=1, max_size=200),
    st.integers(1, 100),
    st.integers(1, 50),
    st.floats(0, 1e6),
)
def test_in_no_stretch_of_time_more_goes_through_than_burst_and_rate_allow(gaps, rate_per_s, burst, start_s):
    limit = RateLimit(rate_per_s, burst)
    now_s, passed_at_s = start_s, []
    for gap in gaps:
        now_s += gap
        if limit.allow(7, now_s):
            passed_at_s.append(now_s)

    for first, begin_s in enumerate(passed_at_s):
        for count, end_s in enumerate(passed_at_s[first:], start=1):
            assert count <= burst + rate_per_s * (end_s - begin_s) + 0.001


def test_threads_at_once_get_no_more_than_the_burst():
    limit = RateLimit(rate_per_s=0.001, burst=500)
    passed = []
    threads = [threading.Thread(target=lambda: passed.append(allowed(limit, 7, 1.0, 1000))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(passed) == 500
