"""What one borrower of a connection must not leave to the next: the pitfalls of docs/pool.md up to 17, but for 9."""

import gc
from contextlib import contextmanager

import psycopg2.extras
import pytest
from django.db import InterfaceError, OperationalError, connection, connections, transaction
from django.db.backends.signals import connection_created
from django.db.models import JSONField
from django.db.models.expressions import RawSQL
from psycopg2.extensions import ISOLATION_LEVEL_SERIALIZABLE, new_type, register_type
from psycopg2.extras import DictCursor, register_default_jsonb

from core import db, link
from core.session import SessionCursor
from tests.factories import make_event
from tests.test_core_db import (
    BACKEND_PID,
    CAP,
    events_named,
    in_thread,
    orm_pid,
    outside,
    raw_pid,
    server_connections,
)
from tickets.models import Event

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_pool")]


def out():
    return db.pool_stats().checked_out


def fetch(session, question):
    """Ask as a stranger would, with a cursor of the driver's own making."""
    with session.cursor() as cursor:
        cursor.execute(question)
        return cursor.fetchone()[0] if cursor.description else None


@contextmanager
def orm():
    """Borrow as the ORM does."""
    connection.ensure_connection()
    try:
        yield connection.connection
    finally:
        connection.close()


@contextmanager
def raw():
    """Borrow as raw SQL does that wants nothing of the ORM, and keep what was done."""
    with db.engine.connect() as conn:
        yield conn.connection.driver_connection
        conn.commit()


def test_p01_autocommit_of_the_orm_never_reaches_raw_sql():
    event = make_event(name="before")  # leaves the connection in autocommit
    connection.close()

    with pytest.raises(ZeroDivisionError), db.engine.begin() as conn:
        conn.exec_driver_sql("UPDATE event SET name = 'after' WHERE id = %s", (event.id,))
        raise ZeroDivisionError

    assert events_named("before") == 1


def test_p01_a_transaction_that_raw_sql_left_open_never_reaches_the_orm():
    with db.engine.connect() as conn:
        conn.exec_driver_sql("SELECT 1")  # SQLAlchemy leaves autocommit off

    with orm() as session:
        assert (connection.get_autocommit(), session.autocommit) == (True, True)


def test_p02_what_django_sets_is_set_on_the_drivers_connection():
    connection.ensure_connection()

    with transaction.atomic():
        in_atomic = connection.connection.autocommit
    after = connection.connection.autocommit

    assert isinstance(connection.connection, psycopg2.extensions.connection)
    assert (in_atomic, after) == (False, True)
    assert connection.pg_version == connection.connection.info.server_version
    assert connection.ops.compose_sql("SELECT %s", ["it's"]) == "SELECT 'it''s'"
    assert connection.pooled_connection().info == {}  # SQLAlchemy's own is not hidden by the driver's


def test_p03_a_connection_in_use_is_nobody_elses_even_if_only_a_cursor_is_kept():
    cursor = connection.cursor()
    cursor.execute(BACKEND_PID)
    mine = cursor.fetchone()[0]
    del connections["default"]
    gc.collect()

    others = {in_thread(raw_pid) for _ in range(3)}
    cursor.execute(BACKEND_PID)

    assert mine not in others
    assert cursor.fetchone()[0] == mine
    cursor.db.close()


def test_p04_a_connection_can_not_be_used_after_it_was_given_back():
    with pytest.raises(Exception, match="Cannot open a new connection in an atomic block"):
        with transaction.atomic():
            connection.close()
            assert connection.connection is None
            orm_pid()


def test_p04_a_cursor_that_outlives_its_loan_reaches_nobody_elses_transaction():
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    rows = Event.objects.raw("SELECT 1 AS id").iterator()
    connection.close()

    with pytest.raises(InterfaceError, match="already closed"):
        cursor.execute("SELECT 1")
    del rows
    gc.collect()
    assert in_thread(lambda: (orm_pid() > 0, connections.close_all())[0])


def test_p05_a_connection_to_another_database_is_made_outside_the_pool_and_counted():
    other = type(db.orm())({**connection.settings_dict, "NAME": "template1"}, alias="default")
    try:
        with connection._nodb_cursor() as nodb, other.cursor() as cursor:
            answers = []
            for each in (nodb, cursor):
                each.execute(
                    "SELECT current_database(), split_part(current_setting('application_name'), ':', 3)"
                )
                answers.append(each.fetchone())
            during = db.snapshot()["outside"], out(), db.pool_stats().checked_in
    finally:
        other.close()

    assert answers == [("postgres", "outside"), ("template1", "outside")]
    assert (during, db.snapshot()["outside"]) == ((2, 0, 0), 0)


def test_p05_a_connection_to_the_database_that_django_left_is_replaced(monkeypatch):
    with raw() as session:
        before = fetch(session, "SELECT current_database()")

    monkeypatch.setitem(connection.settings_dict, "NAME", "postgres")
    with raw() as session:
        after = fetch(session, "SELECT current_database()")

    assert (before.startswith("test_"), after, server_connections()) == (True, "postgres", 1)


def test_p06_a_broken_connection_is_closed_and_never_handed_on():
    before = orm_pid()
    with connection.cursor() as cursor, pytest.raises(OperationalError):
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    connection.close_if_unusable_or_obsolete()
    given_back = db.pool_stats()

    assert given_back == db.PoolStats(pool_size=5, checked_in=0, checked_out=0, overflow=0)
    assert orm_pid() != before


def test_p07_a_begin_sent_as_text_leaves_no_transaction_and_no_lock_behind():
    with orm() as session:
        for statement in ("BEGIN", "LOCK TABLE event IN ACCESS EXCLUSIVE MODE"):
            fetch(session, statement)
        before = session.get_backend_pid()

    state = outside("SELECT state FROM pg_stat_activity WHERE pid = %s", before)
    locks = outside("SELECT count(*) FROM pg_locks WHERE pid = %s AND locktype = 'relation'", before)

    assert (state, locks, orm_pid()) == ("idle", 0, before)


SEARCH_PATH = "SHOW search_path", '"$user", public'
NO_TABLE = "SELECT count(*) FROM pg_class WHERE relname = 't'", 0

# What somebody does, how to see it on a session, and what a session shows to which nobody did it.
LEFT_BEHIND = {
    "setting": ("SET search_path = nowhere", *SEARCH_PATH),
    "timeout": ("SET statement_timeout = 7000", "SHOW statement_timeout", "0"),
    "role": ("SET ROLE pg_monitor", "SELECT current_user = session_user", True),
    "advisory lock": (
        "SELECT pg_advisory_lock(7)",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
        0,
    ),
    "temporary table": ("CREATE TEMP TABLE t ()", *NO_TABLE),
    "listen": ("LISTEN c", "SELECT count(*) FROM pg_listening_channels()", 0),
    "held cursor": ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "SELECT count(*) FROM pg_cursors", 0),
    "prepared statement": ("PREPARE p AS SELECT 1", "SELECT count(*) FROM pg_prepared_statements", 0),
    "hidden setting": ("SELECT set_config('search_path', 'nowhere', false)", *SEARCH_PATH),
    "second of two": ("SET search_path = nowhere; SELECT 1", *SEARCH_PATH),
    "select into": ("SELECT 1 AS a INTO TEMP t", *NO_TABLE),
    "block": ("DO $$ BEGIN PERFORM set_config('search_path', 'x', false); END $$", *SEARCH_PATH),
    "schema of temporary tables": ("CREATE TABLE pg_temp.t ()", *NO_TABLE),
    "settings as a table": (
        "UPDATE pg_settings SET setting = 'nowhere' WHERE name = 'search_path'",
        *SEARCH_PATH,
    ),
    "isolation by SQL": (
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SHOW default_transaction_isolation",
        "read committed",
    ),
    "isolation by the driver": (
        lambda session: session.set_session(isolation_level="SERIALIZABLE"),
        lambda session: (session.isolation_level, fetch(session, "SHOW transaction_isolation")),
        (None, "read committed"),
    ),
    "read only by the driver": (
        lambda session: session.set_session(readonly=True),
        lambda session: (session.readonly, fetch(session, "SHOW transaction_read_only")),
        (None, "off"),
    ),
    "deferrable by the driver": (
        lambda session: session.set_session(deferrable=True),
        lambda session: (session.deferrable, fetch(session, "SHOW transaction_deferrable")),
        (None, "off"),
    ),
    "encoding by SQL": (
        "SET client_encoding = 'LATIN1'",
        lambda session: (session.encoding, fetch(session, "SHOW client_encoding")),
        ("UTF8", "UTF8"),
    ),
    "encoding by the driver": (
        lambda session: session.set_client_encoding("LATIN9"),
        lambda session: (session.encoding, fetch(session, "SHOW client_encoding")),
        ("UTF8", "UTF8"),
    ),
    "json": (
        lambda session: register_default_jsonb(conn_or_curs=session, loads=lambda _text: "another's"),
        """SELECT '{"a": 1}'::jsonb""",
        {"a": 1},
    ),
    "type": (
        lambda session: register_type(
            new_type((25,), "SHOUTED", lambda text, _: text and text.upper()), session
        ),
        "SELECT 'quiet'::text",
        "quiet",
    ),
    "cursor factory": (
        lambda session: setattr(session, "cursor_factory", DictCursor),
        lambda session: session.cursor_factory,
        SessionCursor,
    ),
    "notices": (
        "DO $$ BEGIN RAISE NOTICE 'a secret'; END $$",
        lambda session: list(session.notices),
        [],
    ),
    "notifications": (
        "LISTEN c; NOTIFY c; SELECT 1",
        lambda session: (session.poll(), list(session.notifies))[1],
        [],
    ),
}


@pytest.mark.parametrize("taker", [orm, raw], ids=["to the orm", "to raw sql"])
@pytest.mark.parametrize("giver", [orm, raw], ids=["from the orm", "from raw sql"])
@pytest.mark.parametrize(
    ("leave", "look", "clean"),
    [pytest.param(*case, id=name) for name, case in LEFT_BEHIND.items()],
)
def test_p08_nothing_that_one_borrower_did_to_a_session_reaches_the_next(giver, taker, leave, look, clean):
    def seen(session):
        return look(session) if callable(look) else fetch(session, look)

    with giver() as session:
        giver_pid = session.get_backend_pid()
        leave(session) if callable(leave) else fetch(session, leave)
        # Else the next borrower's look would prove nothing. In a transaction some take effect only in the next.
        assert not session.autocommit or seen(session) != clean

    with taker() as session:
        assert (seen(session), session.get_backend_pid()) == (clean, giver_pid)


@pytest.mark.parametrize("taker", [orm, raw], ids=["to the orm", "to raw sql"])
def test_p08_a_transaction_in_which_somebody_wrote_ends_with_the_loan(taker):
    with connection.cursor() as cursor:
        cursor.execute("BEGIN; SELECT pg_current_xact_id()")
    connection.close()

    with taker() as session:
        assert fetch(session, "SELECT pg_current_xact_id_if_assigned() IS NULL") is True


def test_p10_a_connection_that_died_in_the_pool_is_replaced_unnoticed():
    before = orm_pid()
    connection.close()
    outside("SELECT pg_terminate_backend(%s, 5000)", before)

    assert orm_pid() != before
    assert server_connections() == 1


def test_p10_a_connection_that_was_idle_for_a_while_is_asked_before_it_is_lent(monkeypatch):
    monkeypatch.setattr(link, "TRUSTED_S", 0)
    before = orm_pid()
    connection.close()

    connection.ensure_connection()

    assert connection.connection.get_backend_pid() == before
    said = outside("SELECT query FROM pg_stat_activity WHERE pid = %s", before)
    assert said.startswith("SET application_name = 'qrsite:")


def test_p11_giving_back_at_the_end_of_a_request_borrows_nothing_and_asks_nothing():
    connection.close_if_unusable_or_obsolete()
    untouched = db.pool_stats().checked_in, out()
    before = orm_pid()
    connection.errors_occurred = True
    connection.close_if_unusable_or_obsolete()

    assert (untouched, out()) == ((0, 0), 0)
    assert outside("SELECT query FROM pg_stat_activity WHERE pid = %s", before) == BACKEND_PID


def test_p12_an_isolation_level_of_raw_sql_ends_with_its_block():
    with db.engine.connect().execution_options(isolation_level="SERIALIZABLE") as conn:
        during = conn.exec_driver_sql("SHOW transaction_isolation").scalar_one()
        assert conn.connection.driver_connection.isolation_level == ISOLATION_LEVEL_SERIALIZABLE

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SHOW transaction_isolation")
        after = cursor.fetchone()[0]

    assert (during, after) == ("serializable", "read committed")


def test_p13_a_checkout_by_django_costs_no_round_trip():
    for _ in range(10):
        with orm() as session:
            pass
    pid = session.get_backend_pid()

    assert outside("SELECT (query, state) = ('', 'idle') FROM pg_stat_activity WHERE pid = %s", pid) is True


@pytest.mark.parametrize("taker", [orm, raw])
def test_p13_both_sides_are_in_one_time_zone(taker):
    with taker() as session:
        assert fetch(session, "SHOW TimeZone") == "UTC"


def test_p13_a_role_that_django_assumes_holds_for_both_sides_of_its_loan_and_ends_with_it(monkeypatch):
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "assume_role", "pg_monitor")
    with db.begin() as conn:
        during = conn.exec_driver_sql("SELECT current_user").scalar_one()

    with raw() as session:
        after = fetch(session, "SELECT current_user = session_user")

    assert (during, after) == ("pg_monitor", True)


def test_p13_what_a_receiver_of_connection_created_sets_ends_with_the_loan():
    def receiver(connection, **_signal):
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = 7000")

    connection_created.connect(receiver)
    try:
        with orm() as session:
            during = fetch(session, "SHOW statement_timeout")
    finally:
        connection_created.disconnect(receiver)

    with raw() as session:
        assert (during, fetch(session, "SHOW statement_timeout")) == ("7s", "0")


def forget_the_zone():
    """As Django's receiver of setting_changed does."""
    for name in ("timezone", "timezone_name"):
        vars(db.orm()).pop(name, None)


def test_p14_a_new_time_zone_keeps_the_pool_and_its_cap_and_reaches_the_next_checkout(monkeypatch):
    held = [db.engine.connect() for _ in range(CAP)]
    monkeypatch.setitem(connection.settings_dict, "TIME_ZONE", "Asia/Tokyo")
    forget_the_zone()
    connection.ensure_timezone()
    in_use = server_connections()
    for conn in held:
        conn.close()

    with orm() as session:
        of_the_orm = fetch(session, "SHOW TimeZone")
    with raw() as session:
        of_raw_sql = fetch(session, "SHOW TimeZone")
    monkeypatch.undo()
    forget_the_zone()

    assert (in_use, server_connections()) == (CAP, 1)
    assert (of_the_orm, of_raw_sql) == ("Asia/Tokyo", "UTC")


def test_p15_json_is_text_for_the_orm_and_a_dict_for_raw_sql_on_one_connection():
    question = """SELECT '{"a": 1}'::jsonb"""

    with transaction.atomic(), connection.cursor() as cursor, db.begin() as conn:
        cursor.execute(question)
        orm_before = cursor.fetchone()[0]
        of_raw_sql = conn.exec_driver_sql(question).scalar_one()

    assert (orm_before, of_raw_sql) == ('{"a": 1}', {"a": 1})


def test_p15_a_json_field_reads_the_same_whatever_raw_sql_registered_on_its_connection():
    make_event()
    document = RawSQL("""'{"a": [1, null]}'::jsonb""", [], output_field=JSONField())

    with transaction.atomic(), db.begin() as conn:
        register_default_jsonb(
            conn_or_curs=conn.connection.driver_connection, loads=lambda _text: "another's"
        )
        documents = list(Event.objects.values_list(document, flat=True))

    assert documents == [{"a": [1, None]}]


def test_p16_a_cursor_factory_that_is_wrapped_at_each_checkout_never_grows():
    def instrument(connection, **_signal):
        plain = connection.connection.cursor_factory
        connection.connection.cursor_factory = type("Instrumented", (plain,), {})

    connection_created.connect(instrument)
    try:
        layers = []
        for _ in range(5):
            with orm() as session:
                layers.append((session.get_backend_pid(), session.cursor_factory.__mro__[1]))
    finally:
        connection_created.disconnect(instrument)

    assert set(layers) == {(layers[0][0], SessionCursor)}


def test_p17_a_half_read_iterator_leaves_no_cursor_to_the_next_borrower():
    for _ in range(3):
        make_event()
    abandoned = []
    for _ in range(2):  # a new wrapper on the same thread gives its cursors the same names
        rows = Event.objects.iterator(chunk_size=1)
        next(rows)
        abandoned.append(rows)
        with connection.connection.cursor() as cursor:
            cursor.execute("SELECT name, is_holdable FROM pg_cursors")
            names = cursor.fetchall()
        connection.close()
        del connections["default"]
    with raw() as session:
        left = fetch(session, "SELECT count(*) FROM pg_cursors")

    assert ([holds for _name, holds in names], left) == ([True], 0)


def test_p17_a_held_cursor_that_its_owner_forgot_ends_with_the_loan():
    with orm() as session:
        forgotten = session.cursor("forgotten", withhold=True)
        forgotten.execute("SELECT generate_series(1, 9)")
        del forgotten
        gc.collect()
        during = fetch(session, "SELECT count(*) FROM pg_cursors")

    with raw() as session:
        assert (during, fetch(session, "SELECT count(*) FROM pg_cursors")) == (1, 0)
