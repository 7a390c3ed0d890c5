"""What the keeper looks after: frozen servers, ended threads, connections that lingered or were forgotten."""

import gc
import socket
import threading
import time

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeout

from core import keeper
from core.purpose import BACKGROUND, SCAN, WEB
from tests.fake_driver import take, until


def said(caplog):
    """What a keeper said of this file's connections; those of other tests' pools may be awake still."""
    told = [record.getMessage() for record in caplog.records if record.name == "core.keeper"]
    return [words for words in told if "test_core_keeper.py" in words]


def test_a_server_that_does_not_answer_is_hung_up_on_and_its_connection_replaced(make, driver, monkeypatch):
    monkeypatch.setattr("core.pool.INTRODUCE_TIMEOUT_S", 0.05)
    fair = make(1, 0)
    take(fair, WEB).close()
    [frozen] = driver.open
    frozen.hangs = True

    start_s = time.monotonic()
    take(fair, SCAN).close()

    assert time.monotonic() - start_s < 5
    assert (frozen in driver.open, driver.made, driver.most) == (False, 2, 1)


def test_who_was_hung_up_on_has_failed_even_if_the_answer_came_at_the_last_moment(make, driver, monkeypatch):
    monkeypatch.setattr("core.pool.INTRODUCE_TIMEOUT_S", 0.0)
    fair = make(1, 0)
    take(fair, WEB).close()
    [late] = driver.open
    monkeypatch.setattr(late, "introduce", lambda purpose: until(lambda: not fair.keeper._asked))

    take(fair, SCAN).close()

    assert (late in driver.open, driver.made) == (False, 2)


def test_a_connection_whose_thread_ended_comes_back_without_the_collector_and_the_log_says_who(
    make, driver, caplog
):
    fair = make(1, 0)
    kept = []
    gc.collect()
    gc.disable()
    try:
        thread = threading.Thread(target=lambda: kept.append(take(fair)), name="careless")
        thread.start()
        thread.join()
        take(fair).close()
        until(lambda: said(caplog))
    finally:
        gc.enable()

    assert (driver.most, fair.meter.leaks) == (1, 1)
    [words] = said(caplog)
    assert words.startswith("A connection of test on careless for ")
    assert "was held by a thread that ended; its slot is free again" in words
    assert "test_core_keeper.py" in words


def test_using_a_connection_that_was_taken_back_raises(make):
    fair = make(1, 0)
    kept = []
    thread = threading.Thread(target=lambda: kept.append(take(fair)))
    thread.start()
    thread.join()
    until(lambda: fair.checkedout() == 0)

    assert not kept[0].is_valid
    with pytest.raises(AssertionError):
        kept[0].cursor()


def test_a_forgotten_connection_is_counted_and_told_once_a_place(make, caplog):
    fair = make(1, 0)

    for _ in range(3):
        take(fair)
    until(lambda: fair.meter.leaks == 3)

    until(lambda: any("was forgotten" in words for words in said(caplog)))
    assert len([words for words in said(caplog) if " was forgotten; its slot is free again" in words]) == 1


def test_who_holds_a_connection_for_long_is_named_while_it_does(make, caplog, monkeypatch):
    monkeypatch.setattr(keeper, "LONG_HELD_S", 0.0)
    fair = make(1, 0)

    held = take(fair)
    until(lambda: said(caplog))
    held.close()

    assert "has been held for over 0 s" in said(caplog)[0]


def test_a_server_process_that_takes_its_time_to_go_counts_until_it_has_gone(make, driver):
    fair = make(1, 0, timeout=0.05)
    ours, servers = socket.socketpair()
    fair.keeper.see_off(ours)

    with pytest.raises(PoolTimeout):
        take(fair, BACKGROUND)
    servers.close()
    until(lambda: not fair.keeper.leaving)
    take(fair, BACKGROUND).close()

    assert (driver.made, ours.fileno()) == (1, -1)


def test_nobody_is_awake_where_nothing_is_open_to_look_after(make):
    fair = make(1, 0)

    take(fair).close()
    until(lambda: not fair.keeper._is_awake)
    take(fair).close()

    assert fair.keeper._is_awake


def test_what_goes_wrong_once_does_not_end_the_keeper(make, driver, monkeypatch, caplog):
    fair = make(1, 0)
    looks = []

    def look():
        looks.append(1)
        if len(looks) == 1:
            raise MemoryError
        return False

    monkeypatch.setattr(fair.keeper, "_look", look)
    take(fair).close()
    until(lambda: not fair.keeper._is_awake)

    assert len(looks) >= 2
    assert "What the pool's keeper tried failed; it goes on" in caplog.messages


def test_a_server_process_that_never_goes_stops_counting_after_a_while(make, monkeypatch):
    monkeypatch.setattr(keeper, "LEAVES_WITHIN_S", 0.05)
    fair = make(1, 0)
    ours, servers = socket.socketpair()

    fair.keeper.see_off(ours)
    fair.keeper.see_off(None)
    until(lambda: not fair.keeper.leaving)

    assert (ours.fileno(), servers.fileno() > 0) == (-1, True)
    servers.close()


def test_a_thread_that_holds_one_connection_waits_for_those_that_are_leaving(make, driver):
    fair = make(2, 0)
    held = take(fair)
    ours, servers = socket.socketpair()
    fair.keeper.see_off(ours)
    servers.close()

    take(fair).close()

    assert driver.made == 2
    held.close()


def test_a_generator_that_is_collected_while_the_keeper_cuts_stops_nobody(make):
    fair = make(1, 0)
    held = take(fair)
    [lent] = fair.leases()

    def block():
        with fair.keeper.hanging_up_after(5, lent.link):
            yield

    forgotten = block()
    next(forgotten)
    with fair.keeper._cutting:
        del forgotten
        gc.collect()

    assert not fair.keeper._asked
    held.close()
