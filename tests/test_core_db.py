"""One engine, one connection a thread, one transaction for ORM and raw SQL."""

import ast
import io
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psycopg2
import psycopg2.sql
import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import (
    DataError,
    IntegrityError,
    InternalError,
    ProgrammingError,
    connection,
    connections,
    transaction,
)
from psycopg2.extensions import ISOLATION_LEVEL_SERIALIZABLE
from psycopg2.extras import DictCursor
from sqlalchemy.exc import ResourceClosedError

from core import db
from core.purpose import WEB, entering, process_name
from core.session import without_values
from tests.factories import make_event
from tickets.models import Event

ROOT = Path(__file__).parent.parent
BACKEND_PID = "SELECT pg_backend_pid()"
CAP = settings.POOL_SIZE + settings.POOL_MAX_OVERFLOW


def orm_pid():
    with connection.cursor() as cursor:
        cursor.execute(BACKEND_PID)
        return cursor.fetchone()[0]


def raw_pid():
    with db.begin() as conn:
        return conn.exec_driver_sql(BACKEND_PID).scalar_one()


def events_named(name):
    with db.begin() as conn:
        return conn.exec_driver_sql("SELECT count(*) FROM event WHERE name = %s", (name,)).scalar_one()


def outside(question, *values):
    """Ask the server on a connection that is neither the pool's nor Django's; return the first value."""
    asking = psycopg2.connect(**connection.get_connection_params(), application_name="the test's own")
    try:
        asking.autocommit = True
        with asking.cursor() as cursor:
            cursor.execute(question, values)
            return cursor.fetchone()[0] if cursor.description else None
    finally:
        asking.close()


def server_connections():
    """Count the connections that the server has of this process."""
    question = "SELECT count(*)::int FROM pg_stat_activity WHERE application_name LIKE %s"
    return outside(question, f"qrsite:{process_name()}:%")


def in_thread(work):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_the_engine_is_made_of_the_settings():
    pool = db.engine.pool

    assert (pool.size(), pool._max_overflow, pool.timeout(), pool._recycle_s) == (5, 10, 30, 1800)
    assert db.engine.dialect.driver == "psycopg2"


def test_the_engine_is_the_only_one_in_the_repository():
    places = []
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    for path in map(ROOT.joinpath, listed.stdout.split()):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Name | ast.Attribute | ast.alias):
                name = getattr(node, "id", None) or getattr(node, "attr", None) or node.name
                if name.split(".")[-1] in {"create_engine", "engine_from_config", "create_async_engine"}:
                    places.append(str(path.relative_to(ROOT)))

    # The bench runs our rivals.
    assert set(places) == {"bench/contestants.py", "bench/scan_django.py", "core/db.py"}
    assert places.count("core/db.py") == 1


@pytest.mark.django_db(transaction=True)
def test_orm_and_raw_sql_of_one_thread_run_on_one_connection():
    with transaction.atomic():
        pids = {orm_pid(), raw_pid(), raw_pid(), orm_pid()}

    assert len(pids) == 1
    assert db.pool_stats().checked_out == 1


@pytest.mark.django_db(transaction=True)
def test_raw_sql_borrows_for_just_its_block_where_the_orm_holds_nothing():
    connection.close()

    with db.begin():
        during = db.pool_stats().checked_out

    assert (during, db.pool_stats().checked_out) == (1, 0)


@pytest.mark.django_db(transaction=True)
def test_a_block_of_its_own_commits_when_it_is_left_and_rolls_back_when_it_raises():
    with db.begin() as conn:
        event = make_event(name="first")
        conn.exec_driver_sql("UPDATE event SET name = 'committed' WHERE id = %s", (event.id,))

    with pytest.raises(ZeroDivisionError), db.begin() as conn:
        conn.exec_driver_sql("UPDATE event SET name = 'undone' WHERE id = %s", (event.id,))
        raise ZeroDivisionError

    assert in_thread(lambda: (events_named("committed"), events_named("undone"))) == (1, 0)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("act", ["commit", "rollback", "close", "begin", "begin_nested"])
def test_a_lent_connection_leaves_the_transaction_to_who_lent_it(act):
    with db.begin() as conn, pytest.raises(RuntimeError, match="owns this transaction"):
        getattr(conn, act)()


@pytest.mark.django_db(transaction=True)
def test_errors_of_raw_sql_are_djangos():
    with pytest.raises(IntegrityError) as caught, db.begin() as conn:
        conn.exec_driver_sql("INSERT INTO event (name) VALUES (%s)", ("a secret",))

    assert caught.value.__cause__.pgcode == "23502"


@pytest.mark.django_db(transaction=True)
def test_many_threads_mixing_both_stay_within_the_cap_and_never_stall():
    connection.close()
    seen = []

    def work(number):
        for _ in range(10):
            with transaction.atomic():
                assert orm_pid() == raw_pid()
            with db.begin() as conn:
                Event.objects.count()
                conn.exec_driver_sql("SELECT pg_sleep(0.001)")
            connections.close_all()
        if number % 10 == 0:
            seen.append(server_connections())

    with ThreadPoolExecutor(4 * CAP) as pool:
        list(pool.map(work, range(4 * CAP)))

    assert max(seen) <= CAP
    assert db.pool_stats().checked_out == 0


@pytest.mark.django_db(transaction=True)
def test_the_pools_numbers_never_go_below_zero():
    connection.close()
    db.engine.dispose()

    assert db.pool_stats() == db.PoolStats(pool_size=5, checked_in=0, checked_out=0, overflow=0)


@pytest.mark.django_db(transaction=True)
def test_a_lent_connection_can_not_be_used_after_its_block():
    with db.begin() as conn:
        result = conn.exec_driver_sql("SELECT 7")

    assert result.scalar_one() == 7
    with pytest.raises(ResourceClosedError):
        conn.exec_driver_sql("SELECT 1")


@pytest.mark.django_db(transaction=True)
def test_raw_sql_refuses_a_transaction_that_is_marked_broken_as_the_orm_does():
    with transaction.atomic():
        transaction.set_rollback(True)
        with pytest.raises(transaction.TransactionManagementError), db.begin():
            pass


@pytest.mark.django_db(transaction=True)
def test_an_error_that_is_swallowed_in_a_block_is_not_taken_for_success():
    event = make_event(name="before")

    with pytest.raises(InternalError, match="nothing was saved"), db.begin() as conn:
        conn.exec_driver_sql("UPDATE event SET name = 'after' WHERE id = %s", (event.id,))
        with suppress(DataError):
            conn.exec_driver_sql("SELECT 1 / 0")

    assert events_named("before") == 1


@pytest.mark.django_db(transaction=True)
def test_all_that_is_read_in_one_snapshot_is_of_one_moment_and_nothing_is_written():
    make_event(name="the first")
    connection.close()

    with db.in_one_snapshot() as conn:
        before = conn.exec_driver_sql("SELECT count(*) FROM event").scalar_one()
        in_thread(lambda: make_event(name="another"))
        after = conn.exec_driver_sql("SELECT count(*) FROM event").scalar_one()
    with pytest.raises(InternalError, match="read-only"), db.in_one_snapshot() as conn:
        conn.exec_driver_sql("DELETE FROM event")

    assert (before, after, Event.objects.count()) == (1, 1, 2)


@pytest.mark.django_db(transaction=True)
def test_inside_a_block_errors_are_djangos_too():
    with db.begin() as conn:
        event = make_event()
        with pytest.raises(IntegrityError), transaction.atomic():
            conn.exec_driver_sql("INSERT INTO event SELECT * FROM event WHERE id = %s", (event.id,))

    assert Event.objects.filter(id=event.id).exists()


@pytest.mark.django_db(transaction=True)
def test_isolation_level_and_cursor_factory_are_the_borrowers_and_end_with_the_loan(monkeypatch):
    options = connection.settings_dict["OPTIONS"]
    look = "SELECT current_setting('transaction_isolation')"
    connection.close()
    db.engine.dispose()  # one connection, so that the next borrower gets the same
    with monkeypatch.context() as patch:
        patch.setitem(options, "isolation_level", ISOLATION_LEVEL_SERIALIZABLE)
        patch.setitem(options, "cursor_factory", DictCursor)
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(look)
            during = dict(cursor.fetchone())
        connection.close()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(look)
        after = cursor.fetchone()

    assert (during, after) == ({"current_setting": "serializable"}, ("read committed",))


@pytest.mark.django_db(transaction=True)
def test_an_isolation_level_that_does_not_exist_borrows_nothing(monkeypatch):
    connection.close()
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "isolation_level", -1)

    with pytest.raises(ImproperlyConfigured, match="Invalid transaction isolation level -1"):
        connection.ensure_connection()

    assert db.pool_stats().checked_out == 0


@pytest.mark.django_db(transaction=True)
def test_who_leaves_a_session_changed_is_named_once(caplog):
    for _ in range(3):
        with entering(WEB, "GET /culprit"), connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = %s", [7])
            connection.close()

    assert [record.getMessage() for record in caplog.records if record.name == "core.session"] == [
        "GET /culprit left its session changed by: SET statement_timeout …; it was reset"
    ]


@pytest.mark.django_db(transaction=True)
def test_iterators_are_not_named_one_by_one(caplog):
    for _ in range(3):
        list(Event.objects.iterator())
        connection.close()

    assert len([record for record in caplog.records if record.name == "core.session"]) <= 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "leave",
    [
        lambda cursor: cursor.execute(b"CREATE\nTEMP TABLE t ()"),
        lambda cursor: cursor.execute(psycopg2.sql.SQL("CREATE\nTEMP TABLE t ()")),
        lambda cursor: cursor.copy_expert("CREATE TEMP TABLE t ()", io.StringIO()),
        lambda cursor: cursor.connection.cursor(cursor_factory=DictCursor).execute("CREATE TEMP TABLE t ()"),
    ],
)
def test_odd_ways_to_change_a_session_are_noticed(leave):
    connection.close()
    db.engine.dispose()
    with connection.cursor() as cursor, suppress(ProgrammingError):
        leave(cursor.cursor)
    connection.close()

    with db.begin() as conn:
        assert conn.exec_driver_sql("SELECT count(*) FROM pg_class WHERE relname = 't'").scalar_one() == 0


@pytest.mark.django_db(transaction=True)
def test_a_statement_that_failed_and_a_local_setting_are_no_change(caplog):
    connection.close()
    db.engine.dispose()
    with connection.cursor() as cursor, suppress(DataError):
        cursor.execute("SELECT 'a secret'::int")
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = 7000")
        connection.check_constraints()
        list(Event.objects.iterator())
    session = connection.connection
    connection.close()

    assert session.resets == 0
    assert [record for record in caplog.records if record.name == "core.session"] == []


@pytest.mark.django_db(transaction=True)
def test_a_transaction_that_psycopg2_knows_nothing_of_reaches_nobody():
    connection.close()
    db.engine.dispose()
    proxy = db.engine.raw_connection()
    session = proxy.driver_connection
    session.autocommit = True
    with session.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("CREATE TABLE left_behind ()")
    session.autocommit = False
    proxy.close()

    with db.begin() as conn:
        assert conn.exec_driver_sql("SELECT to_regclass('left_behind')").scalar_one() is None


@pytest.mark.django_db(transaction=True)
def test_what_many_executions_change_is_noticed_too():
    connection.close()
    db.engine.dispose()
    with connection.cursor() as cursor:
        cursor.executemany("SET statement_timeout = %s", [[7000], [8000]])
    connection.close()

    with db.begin() as conn:
        assert conn.exec_driver_sql("SHOW statement_timeout").scalar_one() == "0"


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("-- don't\nSELECT 'SECRET', 'x'", "… SELECT …, …"),
        (r"SELECT E'it\'s SECRET', 1", "SELECT …, …"),
        ("SELECT \"it's\", 'SECRET'", 'SELECT "it\'s", …'),
        ("/* SECRET */ SELECT $tag$SECRET$tag$", "… SELECT …"),
        ("SET my.token = SECRET", "SET my.token …"),
        ("SELECT 0xDEADBEEF, 1_000, .5, %s, a1 FROM t2 LIMIT 21", "SELECT …, …, …, %s, a1 FROM t2 LIMIT …"),
        ("SELECT 'cut of", "SELECT …"),
    ],
)
def test_a_statement_is_shown_without_its_values(statement, shown):
    assert without_values(statement) == shown


@pytest.mark.django_db(transaction=True)
def test_deadlines_of_one_connection_nest():
    with db.within(5), db.within(5):
        assert connection.is_usable()


@pytest.mark.django_db(transaction=True)
def test_a_statement_is_cancelled_by_the_number_of_its_lease():
    assert db.cancel(10**9) is None
