"""What load, kills, freezes and restarts must not do to the pool: M1 to M10 and 18 of docs/pool.md."""

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import psutil
import psycopg2
import pytest
from django.db import OperationalError, connection, connections, transaction

from core import db, keeper, link, outage, probe
from core.errors import PoolExhausted
from core.lease import NestedCheckout
from core.outage import DatabaseAway
from core.pool import FairPool
from core.postgres import DATABASE, USER, EmbeddedPostgres
from core.purpose import BACKGROUND, SCAN, WEB, entering, process_name
from core.session import HANG_UP_TIMEOUT_S
from tests.factories import make_event
from tests.fake_driver import until
from tests.test_core_db import (
    CAP,
    events_named,
    in_thread,
    orm_pid,
    outside,
    raw_pid,
    server_connections,
)
from tests.test_core_pool import queue_up
from tests.test_core_postgres import everybodys_folder, kill_server, postmaster
from tests.test_pool_pitfalls import out
from tickets.models import Event

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("empty_pool"),
]


@pytest.fixture(scope="module")
def own_postgres():
    with everybodys_folder() as folder:
        server = EmbeddedPostgres(folder / "postgres", notify=lambda message: None)
        server.ensure_running()
        yield server
        server.release()


@pytest.fixture
def own(own_postgres):
    """A PostgreSQL that nobody else uses, and Django and the pool pointed at it."""
    place = {"HOST": str(own_postgres.socket_dir), "PORT": "", "NAME": DATABASE, "USER": USER, "PASSWORD": ""}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in place.items():
            patch.setitem(connection.settings_dict, name, value)
        yield own_postgres
        own_postgres.ensure_running()
        until(answers)
        connection.close()
        db.engine.dispose()


@contextmanager
def frozen(*pids, at_most_s=20.0):
    """Freeze processes. Who waits for them without a deadline gets them back at last, and fails."""
    processes = [psutil.Process(pid) for pid in pids]

    def thaw():
        for process in reversed(processes):
            with suppress(psutil.NoSuchProcess):
                process.resume()

    too_long = threading.Timer(at_most_s, thaw)
    try:
        for process in processes:
            process.suspend()
        too_long.start()
        yield
        assert too_long.is_alive(), "somebody waited for a frozen server"
    finally:
        too_long.cancel()
        thaw()


def answers():
    """Tell whether the database can be used, as a request of its own would find."""
    with suppress(OperationalError):
        return in_thread(orm_pid) > 0
    return False


def scan_once():
    with entering(SCAN, "a scan"):
        return orm_pid()


def idle(number):
    """Leave so many connections idle in the pool; return their server processes."""
    held = [db.engine.connect() for _ in range(number)]
    pids = [conn.connection.driver_connection.get_backend_pid() for conn in held]
    for conn in held:
        conn.close()
    return pids


def at_once(number, work):
    """Do the work on so many threads that start together."""
    together = threading.Barrier(number, timeout=20)

    def start(index):
        together.wait()
        try:
            return work(index)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(number) as executor:
        return list(executor.map(start, range(number)))


def test_p18_a_frozen_server_is_not_usable_and_says_so_within_a_deadline(own):
    before = orm_pid()

    with frozen(before):
        usable = connection.is_usable()
        connection.close()

    assert usable is False
    assert orm_pid() != before


def test_m01_forty_threads_in_a_tight_loop_have_about_as_many_turns_each():
    turns = [0] * 40

    def work(index):
        while sum(turns) < 1200:
            with db.engine.connect() as conn:
                conn.exec_driver_sql("SELECT pg_sleep(0.005)")
            turns[index] += 1

    at_once(40, work)

    assert min(turns) * 3 > max(turns)


def test_m02_who_waits_is_told_at_once_when_a_connect_fails(own):
    fair = FairPool(lambda: db.connect(**connection.get_connection_params()), 1, 0, timeout=30)
    held = fair.connect()

    with ThreadPoolExecutor(3) as executor:
        waiters = [queue_up(fair, executor, BACKGROUND, lambda: None) for _ in range(3)]
        own.release()
        held.invalidate()
        errors = [waiter.exception(20) for waiter in waiters]

    assert {type(error) for error in errors} <= {psycopg2.OperationalError, DatabaseAway}
    assert "No such file" in str(errors[0])
    assert fair.checkedout() == 0


def test_m03_the_cap_holds_at_the_server_when_all_are_out_and_the_engine_is_disposed_of(monkeypatch):
    monkeypatch.setattr(SCAN, "timeout_s", 0.05)
    held = [db.engine.connect() for _ in range(CAP)]
    db.engine.dispose()
    seen = [server_connections()]

    with pytest.raises(PoolExhausted):
        in_thread(scan_once)
    for conn in held:
        conn.close()
    given_back = db.pool_stats()
    held = [db.engine.connect() for _ in range(CAP)]
    seen.append(server_connections())
    for conn in held:
        conn.close()

    assert (seen, out()) == ([CAP, CAP], 0)
    assert given_back == db.PoolStats(pool_size=5, checked_in=0, checked_out=0, overflow=0)


def test_m03_kills_and_disposals_under_load_never_open_more_than_the_cap():
    stop = threading.Event()
    seen = []

    def work(_number):
        while not stop.is_set():
            with suppress(OperationalError), entering(WEB, "load"), db.begin() as conn:
                conn.exec_driver_sql("SELECT pg_sleep(0.001)")

    def disturb():
        kill = "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE {} LIMIT 3) a"
        try:
            for _ in range(15):
                outside(kill.format("application_name LIKE %s"), f"qrsite:{process_name()}:%")
                db.engine.dispose()
                seen.append(server_connections())
        finally:
            stop.set()

    with ThreadPoolExecutor(41) as executor:
        futures = [executor.submit(work, number) for number in range(40)]
        disturb()
        for future in futures:
            future.result()

    assert out() == 0
    assert max(seen) <= CAP


def test_m04_a_session_that_nobody_changed_is_handed_over_without_a_word_to_the_server():
    make_event()
    with transaction.atomic():
        Event.objects.update(name="x")
    Event.objects.count()
    with db.begin() as conn:
        conn.exec_driver_sql("SELECT name FROM event;")
    session = connection.connection
    connection.close()
    look = "SELECT query_start FROM pg_stat_activity WHERE pid = %s"
    before = outside(look, session.get_backend_pid())
    for _ in range(100):
        with db.engine.connect():
            pass
        connection.ensure_connection()
        connection.close()

    assert outside(look, session.get_backend_pid()) == before
    assert (session.resets, session.autocommit, session.isolation_level) == (0, False, None)


def test_m05_threads_that_end_without_closing_give_back_without_the_collector():
    gc.collect()
    gc.disable()
    try:
        threads = [threading.Thread(target=orm_pid) for _ in range(2 * CAP)]
        for thread in threads:
            thread.start()
            thread.join()
        assert out() == 0
    finally:
        gc.enable()


def test_m06_nobody_notices_that_every_idle_connection_was_killed():
    killed = idle(CAP)
    outside("SELECT count(pg_terminate_backend(pid, 5000)) FROM unnest(%s) AS pid", killed)

    pids = at_once(CAP, lambda _: orm_pid())

    assert not set(pids) & set(killed)
    assert server_connections() <= CAP


@pytest.mark.parametrize("stop", ["in order", "killed"])
def test_m06_nobody_notices_that_the_server_was_restarted_while_nothing_was_asked(own, stop):
    before = idle(5)
    own.release() if stop == "in order" else kill_server(own.home)
    own.ensure_running()

    pids = at_once(5, lambda _: orm_pid())

    assert not set(pids) & set(before)
    assert db.pool.outage.is_on is False


def test_m06_while_the_server_is_down_everybody_is_told_and_few_try(own):
    idle(5)
    failures = db.pool.meter.connect_failures
    own.release()

    for _ in range(50):
        with pytest.raises(OperationalError):
            orm_pid()
    tried = db.pool.meter.connect_failures - failures
    own.ensure_running()
    until(answers)

    assert 1 <= tried < 25
    assert db.pool_stats() == db.PoolStats(pool_size=5, checked_in=1, checked_out=0, overflow=0)


def test_m06_a_probe_that_waits_in_vain_while_the_server_is_down_does_not_call_it_busy(own, monkeypatch):
    monkeypatch.setattr(outage, "PAUSE_S", (5.0, 5.0))
    probe.database.forget()
    held = db.engine.connect()
    own.release()
    with pytest.raises(OperationalError):
        in_thread(orm_pid)

    try:
        is_well = probe.database.answer()
        until(lambda: probe.database._asked.done())
        verdict = probe.database._asked.result()
    finally:
        held.close()
        monkeypatch.undo()
        db.pool.outage.end()
        probe.database.forget()

    assert (is_well, verdict) == (None, None)


def test_m07_an_idle_connection_to_a_frozen_process_is_replaced(own, monkeypatch):
    monkeypatch.setattr(link, "TRUSTED_S", 0)
    [before] = idle(1)

    with frozen(before):
        after = orm_pid()

    assert after != before


def test_m07_a_connect_to_a_frozen_server_ends_with_the_deadline_of_its_purpose(own):
    # The five seconds of settings would be too long.
    with frozen(postmaster(own.home), at_most_s=4), pytest.raises(OperationalError, match="timeout expired"):
        in_thread(scan_once)


def test_m07_a_probe_hangs_up_on_a_server_that_froze(own):
    before = orm_pid()

    with frozen(before), pytest.raises(OperationalError):
        db.ping(within_s=0.2)
    connection.close()

    assert orm_pid() != before


def test_m07_a_probe_inside_a_transaction_hangs_up_too(own):
    with transaction.atomic():
        with frozen(orm_pid(), at_most_s=2), pytest.raises(OperationalError):
            db.ping(within_s=0.2)
        transaction.set_rollback(True)


def test_m03_a_connection_that_was_cut_counts_for_a_while_since_its_end_can_not_be_seen(monkeypatch):
    monkeypatch.setattr(keeper, "LEAVES_WITHIN_S", 0.3)
    connection.close()
    db.engine.dispose()
    until(lambda: not db.pool.keeper.leaving)

    with pytest.raises(OperationalError), db.within(0):
        until(lambda: not db.pool.keeper._asked)
    connection.close()
    counted = len(db.pool.keeper.leaving)
    until(lambda: not db.pool.keeper.leaving)

    assert counted == 1


def test_m07_idle_connections_to_frozen_processes_are_hung_up_on_together(own):
    pids = idle(CAP)
    start_s = time.monotonic()

    with frozen(*pids):
        db.pool.dispose()
        took_s = time.monotonic() - start_s

    assert took_s < CAP * HANG_UP_TIMEOUT_S / 2
    until(lambda: not db.pool.keeper.leaving)


def test_m08_an_exhausted_pool_is_djangos_operational_error(monkeypatch):
    monkeypatch.setattr(db.pool, "_timeout", 0.05)
    held = [db.engine.connect() for _ in range(CAP)]
    try:
        with pytest.raises(
            OperationalError, match=r"None came free for background within 0.05 s\. 15 of 15 in use"
        ):
            in_thread(orm_pid)
    finally:
        for conn in held:
            conn.close()


def test_m09_raw_sql_sees_and_changes_what_an_open_atomic_locked_and_is_rolled_back_with_it():
    seen = None

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        event = make_event(name="never was")
        seen = events_named("never was")
        with db.begin() as conn:
            conn.exec_driver_sql("UPDATE event SET name = 'raw' WHERE id = %s", (event.id,))
        assert Event.objects.get(id=event.id).name == "raw"
        raise ZeroDivisionError

    assert (seen, events_named("never was"), events_named("raw")) == (1, 0, 0)


def test_m09_threads_that_each_ask_for_a_second_connection_fail_and_never_stall():
    together = threading.Barrier(CAP, timeout=20)

    def ask_for_two(_index):
        orm_pid()
        together.wait()
        with pytest.raises(NestedCheckout):
            db.engine.connect()
        together.wait()
        return raw_pid()

    pids = at_once(CAP, ask_for_two)

    assert (len(set(pids)), out()) == (CAP, 0)


def test_m10_a_dozen_threads_that_come_and_go_open_a_dozen_connections():
    def connects():
        return sum(db.pool.snapshot()["connect"]["counts"])

    before = connects()

    def work(_index):
        for _ in range(25):
            with db.engine.connect() as conn:
                conn.exec_driver_sql("SELECT pg_sleep(0.005)")
            threading.Event().wait(0.005)

    at_once(12, work)

    assert connects() - before <= 12
