"""The site behind a real PgBouncer in transaction mode, with the settings of README and three server connections."""

import logging
import multiprocessing
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import django
import httpx
import psycopg2
import pytest
from django.core.management import call_command
from django.db import OperationalError, connection, connections, transaction

from core import db
from core.postgres_account import account_for
from core.purpose import WEB, entering
from tests.factories import make_event
from tests.serving import Server, free_port
from tickets.models import Event

README = (Path(__file__).parent.parent / "README.md").read_text()
PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
SERVER_CONNECTIONS = 3
SLOTS = 15
WITHIN_S = 20
# README says 10 s; a test would have to wait for that.
LOCK_TIMEOUT = "500ms"

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="no pgbouncer here (Debian: apt-get install pgbouncer)"),
]


def until(is_so):
    """Wait for something that no event tells of."""
    deadline = time.monotonic() + WITHIN_S
    while not (answer := is_so()):
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)
    return answer


@contextmanager
def connected(**parameters):
    with closing(psycopg2.connect(**parameters)) as outside:
        outside.autocommit = True
        with outside.cursor() as cursor:
            yield cursor


def ask(question, **parameters):
    with connected(**parameters) as cursor:
        cursor.execute(question)
        return cursor.fetchall()


class Bouncer:
    """A PgBouncer on a Unix socket in a folder of its own, and an empty database behind it."""

    def __init__(self, folder):
        self.direct = {**connection.get_connection_params(), "dbname": "postgres"}
        db.connect(**self.direct).close()  # starts the server, if it is ours
        self.dbname = f"bounced_{secrets.token_hex(4)}"
        self.user = ask("SELECT current_user", **self.direct)[0][0]
        self.through = {"host": str(folder), "port": 6432, "user": self.user, "dbname": self.dbname}
        self.console = {**self.through, "dbname": "pgbouncer"}
        self.process = None

    def start(self):
        self.tell_postgres(f"CREATE DATABASE {self.dbname}")
        # What the site must not depend on.
        self.tell_postgres(f"ALTER DATABASE {self.dbname} SET timezone = 'Europe/Berlin'")
        self.let_locks_wait(LOCK_TIMEOUT)
        folder, server = Path(self.through["host"]), connection.settings_dict
        address = f"host='{server['HOST']}'" if server["HOST"] else ""
        address += f" port={server['PORT']}" if server["PORT"] else ""
        [documented] = re.findall(r"```ini\n(.*?)```", README, re.DOTALL)
        (folder / "users").write_text(f'"{self.user}" "{server["PASSWORD"]}"\n')
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = {address}\n[pgbouncer]\nunix_socket_dir = {folder}\nauth_type = trust\n"
            f"auth_file = {folder}/users\nadmin_users = {self.user}\n"
            f"default_pool_size = {SERVER_CONNECTIONS}\n{documented}"
        )
        identity = {}
        if os.geteuid() == 0:
            # PgBouncer refuses to run as root; and only its owner may pass to the embedded server's socket.
            account = account_for(Path(server["HOST"]))
            identity = {"user": account.uid, "group": account.gid, "extra_groups": []}
            for path in (folder, *folder.iterdir()):
                os.chown(path, account.uid, account.gid)
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [PROGRAM, str(folder / "pgbouncer.ini")], stdout=log, stderr=log, **identity
            )
        until(self.answers)

    def answers(self):
        assert self.process.poll() is None, (Path(self.through["host"]) / "log").read_text()
        with suppress(psycopg2.OperationalError):
            return ask("SHOW VERSION", **self.console)

    def url(self):
        return f"postgres://{quote(self.user)}@/{self.dbname}?host={quote(self.through['host'], safe='')}&port=6432"

    def tell_postgres(self, statement):
        with connected(**self.direct) as cursor:
            cursor.execute(statement)

    def let_locks_wait(self, timeout):
        """As README says, but for this database only: the role has others."""
        self.tell_postgres(
            f"ALTER ROLE CURRENT_USER IN DATABASE {self.dbname} SET lock_timeout = '{timeout}'"
        )
        if self.process is not None:
            with connected(**self.console) as cursor:
                cursor.execute("RECONNECT")
                cursor.execute("WAIT_CLOSE")

    def waiting(self):
        """Clients that wait for a server connection, by PgBouncer's own count."""
        with connected(**self.console) as cursor:
            cursor.execute("SHOW POOLS")
            names = [column.name for column in cursor.description]
            rows = [dict(zip(names, row, strict=True)) for row in cursor]
        return sum(row["cl_waiting"] for row in rows if row["database"] == self.dbname)

    def ask_postgres(self, question):
        """Ask about the database behind PgBouncer from outside it."""
        return ask(question.format(f"'{self.dbname}'"), **self.direct)[0][0]

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait(WITHIN_S)
        self.tell_postgres(f"DROP DATABASE IF EXISTS {self.dbname} WITH (FORCE)")


@pytest.fixture(scope="module")
def bouncer():
    # Not in pytest's folder: that is closed to the account that PgBouncer runs as.
    with tempfile.TemporaryDirectory() as folder:
        bouncer = Bouncer(folder)
        try:
            bouncer.start()
            yield bouncer
        finally:
            bouncer.stop()


@pytest.fixture(scope="module")
def site(bouncer):
    """Have functions run in a process of the site that PgBouncer stands in front of; return what comes of them later."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=django.setup) as process:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DATABASE_URL", bouncer.url())
            patch.setenv("PGBOUNCER", "true")
            process.submit(in_a_thread, migrate).result()

        def call(function):
            return process.submit(in_a_thread, function)

        yield call


def migrate():
    call_command("migrate", verbosity=0)


def in_a_thread(function):
    """As a request does: what the thread borrowed goes back when it ends."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


@contextmanager
def reports():
    """What is said of sessions that somebody changed."""
    handler, messages = logging.Handler(), []
    handler.emit = lambda record: messages.append(record.getMessage())
    log = logging.getLogger("core.session")
    log.addHandler(handler)
    try:
        yield messages
    finally:
        log.removeHandler(handler)


def undo_an_event():
    with suppress(ZeroDivisionError), transaction.atomic():
        event = make_event(name="never was")
        with db.begin() as conn:
            seen = conn.exec_driver_sql("SELECT name FROM event WHERE id = %s", (event.id,)).scalar_one()
        raise ZeroDivisionError
    return seen, Event.objects.filter(name="never was").exists()


def test_orm_and_raw_sql_share_a_transaction(site):
    assert site(undo_an_event).result(WITHIN_S) == ("never was", False)


def rename_40_events_at_once():
    def rename(_number):
        try:
            with transaction.atomic():
                event = make_event()
                with db.begin() as conn:
                    conn.exec_driver_sql("UPDATE event SET name = 'renamed' WHERE id = %s", (event.id,))
            return Event.objects.get(id=event.id).name
        finally:
            connections.close_all()

    with ThreadPoolExecutor(40) as pool:
        return Counter(pool.map(rename, range(40))), db.pool_stats()


def test_40_threads_on_15_slots_get_along_with_3_server_connections(bouncer, site):
    done = threading.Event()
    opened = "SELECT count(*) FROM pg_stat_activity WHERE datname = {}"

    def watch():
        counts = []
        while not done.is_set():
            counts.append(bouncer.ask_postgres(opened))
        return max(counts)

    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        watched = pool.submit(watch)
        stack.callback(done.set)
        others = [stack.enter_context(connected(**bouncer.through)) for _ in range(SERVER_CONNECTIONS)]
        for other in others:
            other.execute("BEGIN")
        renamed = site(rename_40_events_at_once)
        until(lambda: bouncer.waiting() == SLOTS)
        for other in others:
            other.execute("COMMIT")
        outcome = renamed.result(WITHIN_S)

    assert outcome == (Counter(renamed=40), db.PoolStats(5, SLOTS, 0, SLOTS - 5))
    assert watched.result() == SERVER_CONNECTIONS


def look_at_the_clock():
    db.engine.dispose()
    with reports() as messages:
        with db.engine.connect() as conn:
            raw = conn.exec_driver_sql("SHOW timezone").scalar_one()
        with connection.cursor() as cursor:
            cursor.execute("SHOW timezone")
            orm = cursor.fetchone()[0]
        connection.close()
    return raw, orm, messages


def test_times_are_utc_whatever_the_database_and_other_clients_have(bouncer, site):
    with connected(**bouncer.through) as other:
        other.execute("SHOW timezone")
        assert other.fetchone() == ("Europe/Berlin",)
        other.execute("SET timezone = 'Asia/Tokyo'")

        assert site(look_at_the_clock).result(WITHIN_S) == ("UTC", "UTC", [])


def count_events():
    return Event.objects.count()


def test_a_wait_for_a_lock_ends(bouncer, site):
    with connected(**bouncer.direct | {"dbname": bouncer.dbname}) as other:
        other.execute("BEGIN; LOCK TABLE event")
        with pytest.raises(OperationalError, match="lock timeout"):
            site(count_events).result(WITHIN_S)


def change_a_session_beside_another():
    db.engine.dispose()
    proxy = db.engine.raw_connection()
    other = proxy.driver_connection
    with reports() as messages:
        with entering(WEB, "GET /culprit"), connection.cursor() as cursor:
            cursor.execute("SET timezone = 'Asia/Tokyo'")
            session = connection.connection
            proxy.close()
            connection.close()
        with db.engine.connect() as conn:
            after = conn.exec_driver_sql("SHOW timezone").scalar_one()
            is_other = conn.connection.driver_connection is other
    return messages, session.closed, after, is_other


def test_who_changes_a_session_is_named_and_nobody_elses_server_connection_is_reset(bouncer, site):
    messages, *rest = site(change_a_session_beside_another).result(WITHIN_S)

    assert messages == [
        "GET /culprit left its session changed by: SET timezone …; others may get it from PgBouncer"
    ]
    assert rest == [1, "UTC", True]  # closed; the next one gets the other session, and that is as it was
    reset = "SELECT count(*) FROM pg_stat_activity WHERE datname = {} AND query = 'DISCARD ALL'"
    assert bouncer.ask_postgres(reset) == 0


def leave_a_lock_in_an_open_transaction():
    proxy = db.engine.raw_connection()
    proxy.cursor().execute("SELECT pg_advisory_lock(7)")
    proxy.close()


def test_what_is_left_in_an_open_transaction_goes_with_its_server_connection(bouncer, site):
    site(leave_a_lock_in_an_open_transaction).result(WITHIN_S)

    locks = (
        "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
        " WHERE datname = {} AND locktype = 'advisory'"
    )
    until(lambda: bouncer.ask_postgres(locks) == 0)


def read_events_while_another_has_the_server_connection():
    ids = {make_event().id for _ in range(3)}
    events = Event.objects.iterator(chunk_size=1)
    read = {next(events).id}
    with db.engine.connect() as other:
        other.exec_driver_sql("SELECT 1")
        read |= {event.id for event in events}
    return ids - read


def test_rows_are_read_in_chunks(site):
    assert site(read_events_while_another_has_the_server_connection).result(WITHIN_S) == set()


def test_one_ticket_is_admitted_once_by_processes_that_max_connections_could_not_hold(bouncer, tmp_path):
    server = Server(tmp_path / "var", DATABASE_URL=bouncer.url(), PGBOUNCER="true", POOL_MAX_OVERFLOW="45")
    try:
        [code] = server.issue(1)
        with httpx.Client() as client:
            answers = [server.scan(client, code).json() for _ in range(2)]
    finally:
        server.stop()

    assert [(answer["verdict"], answer["reason"]) for answer in answers] == [
        ("admitted", None),
        ("refused", "already_admitted"),
    ]


def test_without_an_end_to_waits_for_a_lock_serve_refuses_to_start(bouncer):
    variables = {"DATABASE_URL": bouncer.url(), "PGBOUNCER": "true", "PORT": str(free_port())}
    bouncer.let_locks_wait("0")
    try:
        process = subprocess.run(
            [sys.executable, "manage.py", "serve"],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
        )
    finally:
        bouncer.let_locks_wait(LOCK_TIMEOUT)

    assert process.returncode == 1
    assert "run ALTER ROLE CURRENT_USER SET lock_timeout = '10s'" in process.stderr
    assert process.stderr.count("\n") == 1
