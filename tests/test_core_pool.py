"""The pool by itself, on connections that cost nothing; on a real server: test_pool_*.py."""

import gc
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psycopg2
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy.exc import TimeoutError as PoolTimeout

from core import lease, link, outage, pool
from core.purpose import ADMIN, BACKGROUND, HEALTH, PURPOSES, SCAN, WEB, entering
from tests.fake_driver import Connection, Driver, take, until, waiting
from tests.test_core_db import in_thread


def queue_up(fair, executor, item, note, hold=None):
    """Start a thread that waits for a connection, and return once it does."""
    before = waiting(fair)

    def work():
        with entering(item, "test"):
            proxy = fair.connect()
        note()
        if hold:
            hold.wait(10)
        proxy.close()

    future = executor.submit(work)
    until(lambda: waiting(fair) == before + 1)
    return future


def test_waiters_are_served_in_the_order_in_which_they_came(make):
    fair = make(1, 0)
    held, served = take(fair), []

    with ThreadPoolExecutor(8) as executor:
        for number in range(8):
            queue_up(fair, executor, WEB, lambda number=number: served.append(number))
        held.close()

    assert served == list(range(8))


def test_who_gives_back_and_asks_again_stands_behind_those_who_wait(make):
    fair = make(1, 0)
    served = []

    with ThreadPoolExecutor(1) as executor:
        held = take(fair)
        queue_up(fair, executor, WEB, lambda: served.append("the one who waited"))
        held.close()
        again = take(fair)
        served.append("the one who came back")
        again.close()

    assert served == ["the one who waited", "the one who came back"]


def test_a_wait_ends_at_its_deadline_and_says_who_holds_what(make):
    fair = make(1, 0, timeout=0.05)
    with entering(WEB, "GET /slow"):
        held = fair.connect()

    with pytest.raises(PoolTimeout) as caught:
        in_thread(lambda: take(fair, BACKGROUND))

    held.close()
    assert "None came free for background within 0.05 s. 1 of 1 in use, 0 idle" in str(caught.value)
    assert "GET /slow on MainThread" in str(caught.value)
    assert waiting(fair) == 0


def test_a_thread_that_would_wait_for_itself_fails_at_once_with_both_places(make):
    fair = make(1, 0)
    held = take(fair)

    with pytest.raises(lease.NestedCheckout) as caught:
        take(fair)

    held.close()
    assert str(caught.value).count("test_a_thread_that_would_wait_for_itself") == 2


def test_background_work_leaves_free_what_the_others_are_guaranteed(make):
    fair = make(shares=True, timeout=0.05)
    background = [take(fair, BACKGROUND) for _ in range(8)]

    with pytest.raises(PoolTimeout):
        in_thread(lambda: take(fair, BACKGROUND))
    urgent = [take(fair, item) for item in [SCAN] * 2 + [HEALTH] + [WEB] * 3 + [ADMIN]]

    for proxy in background + urgent:
        proxy.close()
    assert fair.checkedout() == 0


def test_the_urgent_borrow_what_the_others_leave_idle(make):
    fair = make(shares=True)

    scans = [take(fair, SCAN) for _ in range(15)]

    assert fair.checkedout() == 15
    for proxy in scans:
        proxy.close()


def test_who_waits_below_its_guarantee_comes_before_those_who_borrow(make):
    fair = make(shares=True)
    scans, served = [take(fair, SCAN) for _ in range(15)], []

    with ThreadPoolExecutor(2) as executor:
        hold = threading.Event()
        queue_up(fair, executor, SCAN, lambda: served.append("scan"), hold)
        queue_up(fair, executor, WEB, lambda: served.append("web"), hold)
        scans.pop().close()
        assert (waiting(fair), served) == (2, [])  # one place must stay free for a probe
        scans.pop().close()
        until(lambda: waiting(fair) == 0)
        hold.set()

    assert sorted(served) == ["scan", "web"]
    for proxy in scans:
        proxy.close()


def test_under_a_flood_of_the_urgent_everybody_gets_its_guarantee(make):
    fair = make(5, 5, shares=True)
    stop, served = threading.Event(), []

    def flood():
        while not stop.is_set():
            proxy = take(fair, SCAN)
            time.sleep(0.0005)
            proxy.close()

    with ThreadPoolExecutor(20) as executor:
        futures = [executor.submit(flood) for _ in range(15)]
        for item in (HEALTH, WEB, WEB):
            with entering(item, "test"):
                executor.submit(take, fair, item).result(5).close()
            served.append(item)
        stop.set()
        for future in futures:
            future.result(5)

    assert served == [HEALTH, WEB, WEB]


@pytest.mark.parametrize("cap", range(1, 20))
def test_a_pool_of_any_size_serves_every_purpose(make, cap):
    fair = make(1, cap - 1, shares=True)

    for item in PURPOSES:
        take(fair, item).close()

    assert sum(fair._turns._guaranteed) <= (cap + 1) // 2


def test_connections_above_the_size_linger_instead_of_being_opened_again(make, driver):
    fair = make(1, 3)

    for _ in range(5):
        for proxy in [take(fair) for _ in range(4)]:
            proxy.close()

    assert (driver.made, fair.checkedin(), fair.overflow()) == (4, 4, 3)


def test_connections_above_the_size_close_when_they_were_idle_long_enough(make, driver, monkeypatch):
    monkeypatch.setattr(pool, "LINGER_S", 0.05)
    fair = make(1, 3)

    for proxy in [take(fair) for _ in range(4)]:
        proxy.close()

    until(lambda: len(driver.open) == 1)
    assert (fair.checkedin(), fair.overflow()) == (1, 0)


def test_the_cap_holds_through_dispose_with_every_connection_out(make, driver):
    fair = make(2, 1, timeout=0.05)
    out = [take(fair) for _ in range(3)]

    fair.dispose()
    assert fair.recreate() is fair
    with pytest.raises(PoolTimeout):
        in_thread(lambda: take(fair, BACKGROUND))
    for proxy in out:
        proxy.close()
    for proxy in [take(fair) for _ in range(3)]:
        proxy.close()

    assert (driver.most, driver.made, fair.checkedout()) == (3, 6, 0)


def test_a_failed_connect_answers_those_who_wait_at_once(make, driver):
    fair = make(1, 0)
    held = take(fair)

    with ThreadPoolExecutor(3) as executor:
        waiters = [queue_up(fair, executor, WEB, lambda: None) for _ in range(3)]
        driver.error = psycopg2.OperationalError("connection refused")
        held.invalidate()
        errors = [waiter.exception(5) for waiter in waiters]

    assert {type(error) for error in errors} <= {psycopg2.OperationalError, outage.DatabaseAway}
    assert fair.checkedout() == 0


def test_while_the_database_is_away_one_tries_and_the_others_are_told_at_once(make, driver, monkeypatch):
    monkeypatch.setattr(outage, "PAUSE_S", (0.2, 0.2))
    fair = make()
    driver.error = psycopg2.OperationalError("connection refused")

    for _ in range(20):
        with pytest.raises(psycopg2.OperationalError, match="connection refused"):
            take(fair)
    told_at_once = driver.attempts
    until(lambda: not fair.outage.is_pending)
    driver.error = None
    take(fair).close()

    assert (told_at_once, driver.attempts, driver.made) == (1, 2, 1)


def test_after_an_outage_connections_come_back_slowly(make, driver):
    fair = make()
    fair.outage.begin(psycopg2.OperationalError("gone"))

    allowed = []
    for _ in range(5):
        allowed.append(fair.outage.connecting_max)
        fair.outage.end()

    assert allowed == [1, 2, 4, 8, 15]


def test_an_idle_connection_is_trusted_for_a_while_and_then_asked(make, driver, monkeypatch):
    fair = make(1, 0)
    take(fair).close()
    [only] = driver.open
    take(fair).close()
    trusted = list(only.introductions)

    monkeypatch.setattr(link, "TRUSTED_S", 0)
    take(fair).close()

    assert (trusted, only.introductions, driver.made) == ([], ["web"], 1)


def test_a_connection_whose_server_said_farewell_is_replaced_and_so_are_the_other_idle_ones(make, driver):
    fair = make(3, 0)
    for proxy in [take(fair) for _ in range(3)]:
        proxy.close()
    old = set(driver.open)
    for dead in old:
        dead.is_dead = True
        dead.servers.close()

    new = [take(fair) for _ in range(3)]

    assert not old & driver.open
    assert (driver.most, sum(len(dead.introductions) for dead in old)) == (3, 1)
    for proxy in new:
        proxy.close()


def test_one_broken_connection_makes_those_that_were_idle_suspect(make, driver):
    fair = make(3, 0)
    first, second, broken = [take(fair) for _ in range(3)]
    first.close()
    second.close()
    broken.invalidate()

    again = [take(fair) for _ in range(2)]

    assert sorted(len(made.introductions) for made in driver.open) == [1, 1]
    for proxy in again:
        proxy.close()


def test_connections_expire_but_not_all_at_once(make):
    fair = make(5, 0, recycle=1000)
    proxies = [take(fair) for _ in range(5)]
    links = [held.link for held in fair.leases()]
    start_s = time.monotonic()

    young = [one.is_worth_keeping(None, start_s + 899) for one in links]
    old = [one.is_worth_keeping(None, start_s + 1001) for one in links]

    assert (young, old) == ([True] * 5, [False] * 5)
    assert len({one._expires_at_s for one in links}) == 5
    for proxy in proxies:
        proxy.close()


def test_a_lease_knows_who_took_it(make):
    fair = make()
    with entering(SCAN, "POST /api/v1/scans"):
        held = fair.connect()

    [taken] = fair.leases()
    held.close()

    assert str(taken).startswith("POST /api/v1/scans on MainThread for 0.0 s")
    assert "in test_a_lease_knows_who_took_it" in lease.formatted(taken.stack)


def test_a_connection_that_the_garbage_collector_finds_is_closed_even_if_a_thread_holds_the_lock(
    make, driver
):
    fair = make(1, 0)
    forgotten = take(fair)

    with fair._lock:
        del forgotten
        gc.collect()
    until(lambda: fair.checkedout() == 0)

    assert (fair.checkedin(), driver.open) == (0, set())


def test_one_failing_connect_takes_nothing_from_those_whom_others_can_serve(make, driver):
    fair = make(1, 2)
    held = [take(fair) for _ in range(2)]
    driver.error = psycopg2.OperationalError("sorry, too many clients already")

    with pytest.raises(psycopg2.OperationalError, match="too many clients"):
        in_thread(lambda: take(fair))
    with ThreadPoolExecutor(2) as executor:
        waiters = [queue_up(fair, executor, WEB, lambda: None) for _ in range(2)]
        for proxy in held:
            proxy.close()
        assert [waiter.exception(5) for waiter in waiters] == [None, None]


def test_who_holds_a_connection_that_is_dead_makes_nobody_wait_for_it_in_an_outage(make, driver, monkeypatch):
    monkeypatch.setattr(outage, "PAUSE_S", (5.0, 5.0))
    fair = make(1, 2)
    held = [take(fair) for _ in range(2)]
    for dead in driver.open:
        dead.servers.close()
    driver.error = psycopg2.OperationalError("connection refused")

    with pytest.raises(psycopg2.OperationalError, match="connection refused"):
        in_thread(lambda: take(fair))
    for _ in range(5):
        with pytest.raises(outage.DatabaseAway, match="connection refused"):
            in_thread(lambda: take(fair))

    assert (driver.attempts - driver.made, fair.meter.refusals) == (1, 5)
    for proxy in held:
        proxy.close()


def test_stale_connections_are_replaced_as_slowly_as_new_ones_are_made_after_an_outage(make, driver):
    fair = make(2, 0)
    for proxy in [take(fair) for _ in range(2)]:
        proxy.close()
    for dead in driver.open:
        dead.is_dead = True
        dead.servers.close()
    fair.outage.connecting_max = 1
    first, go = threading.Event(), threading.Event()
    connect = driver.connect

    def slowly():
        first.set()
        assert go.wait(10)
        return connect()

    driver.connect = fair._creator = lambda *_: slowly()
    with ThreadPoolExecutor(2) as executor:
        working = [executor.submit(lambda: take(fair).close()) for _ in range(2)]
        assert first.wait(10)
        until(lambda: waiting(fair) == 1)
        at_once = fair._connecting
        go.set()
        assert [one.result(10) for one in working] == [None, None]

    assert at_once == 1


def test_who_found_a_dead_connection_comes_before_those_who_wait(make, driver):
    fair = make(1, 0)
    served = []
    take(fair, WEB).close()
    [dead] = driver.open
    introduced, go = threading.Event(), threading.Event()
    ours, servers = socket.socketpair()

    def introduce(_purpose):
        introduced.set()
        assert go.wait(10)
        fair.keeper.see_off(ours)  # so that who found it has to wait, too
        raise psycopg2.OperationalError("gone")

    dead.introduce = introduce

    def work():
        proxy = take(fair, SCAN)
        served.append("who found it")
        proxy.close()

    with ThreadPoolExecutor(2) as executor:
        finder = executor.submit(work)
        assert introduced.wait(10)
        waiter = queue_up(fair, executor, SCAN, lambda: served.append("who waited"))
        go.set()
        until(lambda: waiting(fair) == 2)
        servers.close()
        assert [finder.result(10), waiter.result(10)] == [None, None]

    assert served == ["who found it", "who waited"]


def test_sqlalchemy_never_connects_by_itself_in_a_slot_whose_last_connection_may_be_leaving(make, driver):
    fair = make(1, 0, recycle=1000)
    record = fair._do_get()

    fair.dispose()
    record.starttime -= 10_000

    assert (record.get_connection() in driver.open, driver.made) == (True, 1)


def test_a_connection_that_was_invalidated_softly_is_replaced_by_the_pool(make, driver):
    fair = make(1, 0)
    proxy = take(fair)
    proxy.invalidate(soft=True)
    proxy.close()

    again = take(fair)
    [held] = fair.leases()

    assert (held.link.session, driver.made, driver.most) == (again.driver_connection, 2, 1)
    again.close()


def test_a_caller_whose_deadline_is_near_closes_nothing_but_the_connection_that_it_could_not_ask(
    make, driver, monkeypatch
):
    monkeypatch.setattr(SCAN, "timeout_s", 0.01)
    fair = make(3, 0)
    for proxy in [take(fair) for _ in range(3)]:
        proxy.close()
    for slow in driver.open:
        monkeypatch.setattr(slow, "introduce", lambda purpose: until(lambda: not fair.keeper._asked))
    before = set(driver.open)

    with suppress(PoolTimeout):
        take(fair, SCAN).close()

    assert len(before & driver.open) == 2


def test_a_thread_that_holds_one_connection_waits_for_no_longer_than_its_deadline(make, driver):
    fair = make(1, 0, timeout=0.05)
    held = take(fair)
    fair.keeper.see_off(None)
    start_s = time.monotonic()

    with pytest.raises(lease.NestedCheckout):
        take(fair, BACKGROUND)

    assert time.monotonic() - start_s < 1
    held.close()


def test_what_is_being_closed_counts_until_it_is(make, driver, monkeypatch):
    fair = make(1, 0, timeout=0.05)
    take(fair).close()
    [closing] = driver.open
    refused = []

    def hang_up():
        with pytest.raises(PoolTimeout):
            in_thread(lambda: take(fair, BACKGROUND))
        refused.append(True)

    monkeypatch.setattr(closing, "hang_up", hang_up)
    fair.dispose()
    take(fair, BACKGROUND).close()

    assert (refused, driver.most) == ([True], 1)


def test_a_purpose_gets_the_connection_that_it_had_before(make, driver):
    fair = make(2, 0)
    scan, web = take(fair, SCAN), take(fair, WEB)
    web.close()
    scan.close()

    take(fair, WEB).close()

    assert [made.introductions for made in driver.open] == [[], []]


def test_connects_that_fail_together_count_as_one():
    away = outage.Outage(15)

    for _ in range(15):
        away.begin(psycopg2.OperationalError("refused"))

    assert away._pause_s == outage.PAUSE_S[0]
    assert away.refusal() is not away.refusal()


def test_a_close_that_is_interrupted_loses_no_slot(make, driver, monkeypatch):
    fair = make(1, 0)
    proxy = take(fair)
    fair.dispose()
    monkeypatch.setattr(Connection, "close", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))

    with pytest.raises(KeyboardInterrupt):
        proxy.close()
    monkeypatch.undo()

    assert fair.checkedout() == 0
    take(fair).close()


def test_an_idle_connection_that_somebody_closed_is_replaced(make, driver):
    fair = make(1, 0)
    take(fair).close()
    fair._idle[0].session.ours.close()
    fair._idle[0].session.is_dead = True

    take(fair).close()

    assert driver.made == 2


class PoolMachine(RuleBasedStateMachine):
    """Whatever is taken, returned, broken or disposed of, the books are right and the cap holds."""

    CAP = 4

    def __init__(self):
        super().__init__()
        self.driver = Driver()
        self.fair = pool.FairPool(self.driver.connect, 2, 2, 5)
        self.fair.reserve_shares()
        self.out = []
        self.timeouts_s = [item.timeout_s for item in PURPOSES]
        for item in PURPOSES:
            item.timeout_s = None  # the pool's own
        # What is drawn next must not depend on how fast this machine is.
        self.pause_s, outage.PAUSE_S = outage.PAUSE_S, (1e-9, 1e-9)

    def teardown(self):
        outage.PAUSE_S = self.pause_s
        for item, timeout_s in zip(PURPOSES, self.timeouts_s, strict=True):
            item.timeout_s = timeout_s
        for proxy in self.out:
            proxy.close()
        for left in list(self.driver.open):
            left.close()

    @rule(item=st.sampled_from(PURPOSES))
    def take(self, item):
        with suppress(PoolTimeout, lease.NestedCheckout, psycopg2.OperationalError):
            self.out.append(take(self.fair, item))

    @precondition(lambda self: self.out)
    @rule(index=st.integers(0, 3))
    def give_back(self, index):
        self.out.pop(index % len(self.out)).close()

    @precondition(lambda self: self.out)
    @rule(index=st.integers(0, 3))
    def invalidate(self, index):
        self.out.pop(index % len(self.out)).invalidate()

    @rule()
    def dispose(self):
        self.fair.dispose()

    @rule()
    def idle_connections_die(self):
        for idle in list(self.fair._idle):
            idle.session.is_dead = True
            idle.session.servers.close()

    @rule(is_away=st.booleans())
    def database_goes_and_comes(self, is_away):
        self.driver.error = psycopg2.OperationalError("refused") if is_away else None

    @invariant()
    def the_books_are_right(self):
        assert self.driver.most <= self.CAP
        assert self.fair.checkedout() == len(self.out) == len(self.fair._leases)
        assert len(self.driver.open) == self.fair.checkedin() + self.fair.checkedout()
        assert waiting(self.fair) == 0
        assert self.fair._connecting == self.fair._closing == 0


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
