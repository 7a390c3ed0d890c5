"""A bucket of tokens for each device."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from tickets.rate import RateLimit


def allowed(limit, key, now_s, times, *, rate_per_s=20):
    return sum(limit.allow(key, rate_per_s=rate_per_s, now_s=now_s) for _ in range(times))


def test_a_burst_goes_through_and_then_the_rate():
    limit = RateLimit()

    assert allowed(limit, 7, 100.0, 60) == 40
    assert allowed(limit, 7, 101.0, 60) == 20
    assert allowed(limit, 7, 101.04, 60) == 0
    assert allowed(limit, 7, 101.05, 60) == 1


def test_a_bucket_never_holds_more_than_the_burst():
    limit = RateLimit()
    allowed(limit, 7, 100.0, 60)

    assert allowed(limit, 7, 100_000.0, 60) == 40


def test_who_asks_in_vain_loses_nothing_by_it():
    limit = RateLimit()
    allowed(limit, 7, 0.0, 1000)

    assert allowed(limit, 7, 1.0, 100) == 20


def test_devices_do_not_share():
    limit = RateLimit()
    allowed(limit, 7, 0.0, 100)

    assert allowed(limit, 8, 0.0, 10, rate_per_s=1) == 2


def test_memory_is_bounded_and_who_was_seen_last_is_kept():
    limit = RateLimit(keys_max=100)
    for key in range(100_000):
        allowed(limit, key, 0.0, 1)
        allowed(limit, "busy", 0.0, 1)

    assert len(limit) == 100
    assert allowed(limit, "busy", 0.0, 1) == 0


def test_a_clock_that_jumps_back_gives_nothing_away_and_locks_nobody_out():
    limit = RateLimit()
    allowed(limit, 7, 100.0, 60)

    assert allowed(limit, 7, 99.0, 60) == 0
    assert allowed(limit, 7, 102.0, 60) == 40


def test_a_call_may_cost_more_than_one_and_at_most_a_full_bucket():
    limit = RateLimit()

    assert limit.allow(7, rate_per_s=10, now_s=0.0, cost=15)
    assert allowed(limit, 7, 0.0, 10, rate_per_s=10) == 5
    assert limit.allow(8, rate_per_s=10, now_s=0.0, cost=100)
    assert not limit.allow(8, rate_per_s=10, now_s=8.0)
    assert limit.allow(8, rate_per_s=10, now_s=8.2)


@given(
    st.lists(st.floats(0, 0.5), min_size=1, max_size=200),
    st.integers(1, 100),
    st.floats(0, 1e6),
)
def test_in_no_stretch_of_time_more_goes_through_than_burst_and_rate_allow(gaps, rate_per_s, start_s):
    limit, burst = RateLimit(), 2 * rate_per_s
    now_s, passed_at_s = start_s, []
    for gap in gaps:
        now_s += gap
        if limit.allow(7, rate_per_s=rate_per_s, now_s=now_s):
            passed_at_s.append(now_s)

    for first, begin_s in enumerate(passed_at_s):
        for count, end_s in enumerate(passed_at_s[first:], start=1):
            assert count <= burst + rate_per_s * (end_s - begin_s) + 0.001


def test_threads_at_once_get_no_more_than_the_burst():
    limit = RateLimit()
    passed = []

    def work():
        passed.append(allowed(limit, 7, 1.0, 1000, rate_per_s=250))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(passed) == 500
