"""One engine, one connection a thread, one transaction for ORM and raw SQL."""

import ast
import gc
import io
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psycopg2
import psycopg2.sql
import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import BaseCommand
from django.db import (
    DataError,
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
    connection,
    connections,
    transaction,
)
from django.http import HttpResponse
from psycopg2.extensions import ISOLATION_LEVEL_SERIALIZABLE
from psycopg2.extras import DictCursor
from sqlalchemy.exc import ResourceClosedError

from core import db
from core.purpose import WEB, entering, process_name
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


def server_connections():
    """Connections that the server has of this process, asked outside the pool."""
    outside = psycopg2.connect(**connection.get_connection_params(), application_name="the test's own")
    try:
        with outside.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE %s",
                [f"qrsite:{process_name()}:%"],
            )
            return cursor.fetchone()[0]
    finally:
        outside.close()


def in_thread(work):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_the_engine_is_made_of_the_settings():
    pool = db.engine.pool

    assert (pool.size(), pool._max_overflow, pool.timeout(), pool._recycle) == (5, 10, 30, 1800)
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

    assert places == ["bench/contestants.py", "core/db.py"]  # the bench runs our rivals


@pytest.mark.django_db(transaction=True)
def test_the_pool_follows_django_to_the_test_database():
    with db.engine.connect() as conn:
        pooled = conn.exec_driver_sql("SELECT current_database()").scalar_one()

    assert pooled == connection.settings_dict["NAME"]
    assert pooled.startswith("test_")


@pytest.mark.django_db(transaction=True)
def test_a_connection_to_the_database_that_django_left_is_replaced(monkeypatch):
    with db.engine.connect() as conn:
        before = conn.exec_driver_sql("SELECT current_database()").scalar_one()

    monkeypatch.setitem(connection.settings_dict, "NAME", "postgres")
    with db.engine.connect() as conn:
        after = conn.exec_driver_sql("SELECT current_database()").scalar_one()

    assert (before.startswith("test_"), after) == (True, "postgres")


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
def test_raw_sql_sees_an_open_atomic_and_is_rolled_back_with_it():
    seen = None

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        event = make_event(name="never was")
        seen = events_named("never was")
        with db.begin() as conn:
            conn.exec_driver_sql("UPDATE event SET name = 'raw' WHERE id = %s", (event.id,))
        assert Event.objects.get(id=event.id).name == "raw"
        raise ZeroDivisionError

    assert (seen, events_named("never was"), events_named("raw")) == (1, 0, 0)


@pytest.mark.django_db(transaction=True)
def test_a_failed_block_in_an_atomic_undoes_only_itself():
    with transaction.atomic():
        event = make_event(name="stays")
        with pytest.raises(IntegrityError), db.begin() as conn:
            conn.exec_driver_sql("UPDATE event SET name = 'lost' WHERE id = %s", (event.id,))
            conn.exec_driver_sql("INSERT INTO event SELECT * FROM event")

    assert (events_named("stays"), events_named("lost")) == (1, 0)


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
def test_autocommit_of_the_orm_does_not_leak_into_raw_sql():
    event = make_event(name="before")  # leaves the connection in autocommit
    connection.close()

    with pytest.raises(ZeroDivisionError), db.engine.begin() as conn:
        conn.exec_driver_sql("UPDATE event SET name = 'after' WHERE id = %s", (event.id,))
        raise ZeroDivisionError

    assert events_named("before") == 1


@pytest.mark.django_db(transaction=True)
def test_an_open_transaction_of_raw_sql_does_not_leak_into_the_orm():
    with db.engine.connect() as conn:
        conn.exec_driver_sql("SELECT 1")  # SQLAlchemy leaves autocommit off

    with connection.cursor():
        assert connection.get_autocommit() is True


LEFT_BEHIND = {
    "setting": ("SET search_path = nowhere", "SHOW search_path", '"$user", public'),
    "timeout": ("SET statement_timeout = 7", "SHOW statement_timeout", "0"),
    "role": ("SET ROLE pg_monitor", "SELECT current_user = session_user", True),
    "advisory lock": (
        "SELECT pg_advisory_lock(7)",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
        0,
    ),
    "temporary table": ("CREATE TEMP TABLE t ()", "SELECT count(*) FROM pg_class WHERE relname = 't'", 0),
    "listen": ("LISTEN c", "SELECT count(*) FROM pg_listening_channels()", 0),
    "held cursor": ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "SELECT count(*) FROM pg_cursors", 0),
    "open transaction": (
        "BEGIN; SELECT pg_current_xact_id()",
        "SELECT pg_current_xact_id_if_assigned() IS NULL",
        True,
    ),
    "hidden setting": (
        "SELECT set_config('search_path', 'nowhere', false)",
        "SHOW search_path",
        '"$user", public',
    ),
    "second of two": ("SET search_path = nowhere; SELECT 1", "SHOW search_path", '"$user", public'),
    "select into": ("SELECT 1 AS a INTO TEMP t", "SELECT count(*) FROM pg_class WHERE relname = 't'", 0),
    "block": (
        "DO $$ BEGIN PERFORM set_config('search_path', 'x', false); END $$",
        "SHOW search_path",
        '"$user", public',
    ),
    "schema of temporary tables": (
        "CREATE TABLE pg_temp.t ()",
        "SELECT count(*) FROM pg_class WHERE relname = 't'",
        0,
    ),
    "settings as a table": (
        "UPDATE pg_settings SET setting = 'nowhere' WHERE name = 'search_path'",
        "SHOW search_path",
        '"$user", public',
    ),
    "isolation": (
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SHOW transaction_isolation",
        "read committed",
    ),
}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("leave", "look", "clean"), LEFT_BEHIND.values(), ids=LEFT_BEHIND)
def test_nothing_that_the_orm_left_on_a_connection_reaches_the_next_borrower(leave, look, clean):
    db.engine.dispose()  # one connection, so that the next borrower gets the same
    with connection.cursor() as cursor:
        cursor.execute(leave)
    connection.close()

    with db.engine.connect() as conn:
        raw = conn.exec_driver_sql(look).scalar_one()
    with connection.cursor() as cursor:
        cursor.execute(look)
        orm = cursor.fetchone()[0]

    assert (raw, orm) == (clean, clean)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("leave", "look", "clean"), LEFT_BEHIND.values(), ids=LEFT_BEHIND)
def test_nothing_that_raw_sql_left_on_a_connection_reaches_the_next_borrower(leave, look, clean):
    connection.close()
    db.engine.dispose()
    with db.engine.connect() as conn:
        conn.exec_driver_sql(leave)
        conn.commit()

    with connection.cursor() as cursor:
        cursor.execute(look)
        assert cursor.fetchone()[0] == clean


@pytest.mark.django_db(transaction=True)
def test_json_is_text_for_the_orm_and_a_dict_for_raw_sql_on_one_connection():
    question = """SELECT '{"a": 1}'::jsonb"""

    with transaction.atomic(), connection.cursor() as cursor, db.begin() as conn:
        cursor.execute(question)
        orm_before = cursor.fetchone()[0]
        raw = conn.exec_driver_sql(question).scalar_one()

    assert (orm_before, raw) == ('{"a": 1}', {"a": 1})


@pytest.mark.django_db(transaction=True)
def test_a_request_gives_its_connection_back(settings):
    from django.core.handlers.wsgi import WSGIHandler
    from django.test import RequestFactory

    settings.ROOT_URLCONF = __name__
    environ = RequestFactory().get("/query").environ
    environ.pop("wsgi.errors", None)

    def request():
        response = WSGIHandler()(environ, lambda *_: None)
        during = db.pool_stats().checked_out
        response.close()
        return response.content, during, db.pool_stats().checked_out

    assert in_thread(request) == (b"ok", 1, 0)


def _query(request):
    orm_pid()
    raw_pid()
    return HttpResponse("ok")


def _urlpatterns():
    from django.urls import path

    return [path("query", _query)]


urlpatterns = _urlpatterns()


@pytest.mark.django_db(transaction=True)
def test_a_command_gives_its_connection_back():
    class Command(BaseCommand):
        def handle(self, *args, **options):
            orm_pid()

    in_thread(lambda: Command().run_from_argv(["manage.py", "look"]))

    assert db.pool_stats().checked_out == 0


@pytest.mark.django_db(transaction=True)
def test_a_thread_that_ends_without_closing_gives_its_connection_back_without_the_collector():
    connection.close()
    gc.collect()
    gc.disable()
    try:
        threads = [threading.Thread(target=orm_pid) for _ in range(2 * CAP)]
        for thread in threads:
            thread.start()
            thread.join()
        assert db.pool_stats().checked_out == 0
    finally:
        gc.enable()


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
def test_as_many_threads_as_connections_all_hold_one_at_once():
    connection.close()
    together = threading.Barrier(CAP, timeout=20)

    def work(_number):
        with transaction.atomic():
            pids = {orm_pid()}
            together.wait()
            pids |= {raw_pid()}
            together.wait()
            stats = db.pool_stats()
            together.wait()
        connections.close_all()
        return pids, stats

    with ThreadPoolExecutor(CAP) as pool:
        results = list(pool.map(work, range(CAP)))

    assert len(set.union(*(pids for pids, _ in results))) == CAP
    assert {stats for _, stats in results} == {db.PoolStats(5, 0, CAP, 10)}


@pytest.mark.django_db(transaction=True)
def test_an_exhausted_pool_is_djangos_operational_error(monkeypatch):
    connection.close()
    monkeypatch.setattr(db.engine.pool, "_timeout", 0.05)
    held = [db.engine.connect() for _ in range(CAP)]
    try:
        with pytest.raises(
            OperationalError, match=r"None came free for background within 0.05 s\. 15 of 15 in use"
        ):
            in_thread(orm_pid)
    finally:
        for conn in held:
            conn.close()


@pytest.mark.django_db(transaction=True)
def test_a_connection_can_not_be_used_after_it_was_given_back():
    with pytest.raises(Exception, match="Cannot open a new connection in an atomic block"):
        with transaction.atomic():
            connection.close()
            orm_pid()


@pytest.mark.django_db(transaction=True)
def test_a_broken_connection_is_replaced_for_the_next_request():
    before = orm_pid()
    with connection.cursor() as cursor, pytest.raises(OperationalError):
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    connection.close_if_unusable_or_obsolete()

    assert orm_pid() != before


@pytest.mark.django_db(transaction=True)
def test_the_pools_numbers_never_go_below_zero():
    connection.close()
    db.engine.dispose()

    assert db.pool_stats() == db.PoolStats(pool_size=5, checked_in=0, checked_out=0, overflow=0)


@pytest.mark.django_db(transaction=True)
def test_a_cursor_that_outlives_its_loan_reaches_nobody_elses_transaction():
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    rows = Event.objects.raw("SELECT 1 AS id").iterator()
    connection.close()

    with pytest.raises(InterfaceError, match="already closed"):
        cursor.execute("SELECT 1")
    del rows
    gc.collect()
    assert in_thread(lambda: (orm_pid() > 0, connections.close_all())[0])


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
def test_inside_a_block_errors_are_djangos_too():
    with db.begin() as conn:
        event = make_event()
        with pytest.raises(IntegrityError), transaction.atomic():
            conn.exec_driver_sql("INSERT INTO event SELECT * FROM event WHERE id = %s", (event.id,))

    assert Event.objects.filter(id=event.id).exists()


@pytest.mark.django_db(transaction=True)
def test_a_connection_with_a_begin_sent_as_text_is_cleaned_and_kept():
    connection.close()
    db.engine.dispose()
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
    before = orm_pid()
    connection.close()

    assert orm_pid() == before


@pytest.mark.django_db(transaction=True)
def test_a_connection_that_died_in_the_pool_is_replaced_unnoticed():
    connection.close()
    db.engine.dispose()
    before = orm_pid()
    connection.close()
    outside = psycopg2.connect(**connection.get_connection_params())
    with outside.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [before])
    outside.close()

    assert orm_pid() != before


@pytest.mark.django_db(transaction=True)
def test_a_session_that_nobody_changed_is_handed_over_without_a_word_to_the_server():
    connection.close()
    db.engine.dispose()
    make_event()
    with transaction.atomic():
        Event.objects.update(name="x")
    Event.objects.count()
    with db.begin() as conn:
        conn.exec_driver_sql("SELECT name FROM event;")
    session = connection.connection
    connection.close()
    with db.engine.connect() as conn:
        conn.exec_driver_sql("SELECT 1")

    assert (session.resets, session.autocommit, session.isolation_level) == (0, False, None)


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
        "GET /culprit left its session changed by: SET statement_timeout = %s …; it was reset"
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
