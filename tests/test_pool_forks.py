"""What a fork must not do to the pool of either process: 30 of docs/pool.md."""

import gc
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from urllib.parse import quote, urlencode

import httpx
import psutil
import pytest
from django.db import connection, transaction

from core import db
from core.purpose import process_name
from tests.factories import make_event
from tests.fake_driver import until
from tests.test_core_db import ROOT, events_named, orm_pid, outside, raw_pid
from tests.test_pool_pitfalls import out
from tests.test_pool_returns import KEYED, NEEDS_THE_ORM
from tickets.models import Event

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("empty_pool"),
    # Python 3.12 warns of forks beside threads; here they are what is tested.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def test_p30_a_forked_child_has_a_pool_of_its_own_and_the_parent_is_unharmed():
    event = make_event(name="before the fork")
    with transaction.atomic():
        before = orm_pid()
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(write, f"{orm_pid()} {out()}".encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        os.close(write)
        childs_pid, childs_out = os.read(read, 100).split()
        os.close(read)
        event.refresh_from_db()
        assert orm_pid() == before

    assert (int(childs_pid) != before, int(childs_out), event.name) == (True, 1, "before the fork")


def fork_a_child_that_collects():
    child = os.fork()
    if child == 0:
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)


def test_p30_a_fork_leaves_the_transactions_of_other_threads_alone():
    make_event(name="before")
    connection.close()
    is_open, go = threading.Event(), threading.Event()

    def work():
        with suppress(ZeroDivisionError), transaction.atomic():
            before = orm_pid()
            Event.objects.update(name="in a transaction")
            is_open.set()
            go.wait(10)
            Event.objects.update(name="after the fork")
            assert orm_pid() == before
            raise ZeroDivisionError
        connection.close()

    with ThreadPoolExecutor(1) as executor:
        working = executor.submit(work)
        is_open.wait(10)
        fork_a_child_that_collects()
        go.set()
        working.result(10)

    assert events_named("before") == 1


def test_p30_a_fork_leaves_the_server_side_cursors_of_other_threads_alone():
    is_open, go = threading.Event(), threading.Event()

    def work():
        with transaction.atomic(), connection.chunked_cursor() as cursor:
            cursor.execute("SELECT generate_series(1, 1000)")
            first = cursor.fetchone()
            is_open.set()
            go.wait(10)
            rest = len(cursor.fetchall())
        connection.close()
        return first[0], rest

    with ThreadPoolExecutor(1) as executor:
        working = executor.submit(work)
        is_open.wait(10)
        fork_a_child_that_collects()
        go.set()

        assert working.result(10) == (1, 999)


def _write_and_fail(event_id):
    """In a child: change an event in a transaction of the child's own, and roll it back."""
    with suppress(ZeroDivisionError), db.begin() as conn:
        conn.exec_driver_sql("UPDATE event SET name = 'the child''s' WHERE id = %s", (event_id,))
        raise ZeroDivisionError


def test_p30_a_child_that_was_forked_inside_a_transaction_begins_its_own():
    event = make_event(name="before")

    with transaction.atomic():
        orm_pid()
        child = get_context("fork").Process(target=_write_and_fail, args=[event.id])
        child.start()
        child.join(20)

    assert (child.exitcode, events_named("before")) == (0, 1)


def _look(_number):
    return os.getpid(), raw_pid(), orm_pid(), out()


def test_p30_children_of_multiprocessing_have_pools_of_their_own():
    with transaction.atomic():
        make_event(name="rolled back by the parent")
        mine = orm_pid()
        with get_context("fork").Pool(2) as children:
            seen = children.map_async(_look, range(8), chunksize=1).get(20)
            children.close()
            children.join()
        assert orm_pid() == mine
        transaction.set_rollback(True)

    sessions = {
        (process, backend)
        for process, of_raw_sql, of_the_orm, _ in seen
        for backend in (of_raw_sql, of_the_orm)
    }
    assert {number for *_, number in seen} == {1}
    assert len({process for process, _ in sessions}) == len(sessions)  # one each, and it is used again
    assert mine not in {backend for _, backend in sessions}
    assert events_named("rolled back by the parent") == 0


FORKS_DURING_THE_FIRST_CONNECT = """
import os, threading
import django

django.setup()
from sqlalchemy import event
from core import db
from tests.test_pool_pitfalls import out
from tests.test_core_db import orm_pid, raw_pid

connecting, go = threading.Event(), threading.Event()

@event.listens_for(db.engine, "connect", insert=True)
def hold(_session, _record):
    connecting.set()
    go.wait(20)

other = threading.Thread(target=raw_pid)
other.start()
connecting.wait(20)
child = os.fork()
if child == 0:
    go.set()
    with db.engine.connect() as conn:
        print(conn.exec_driver_sql("SELECT 1").scalar(), out(), raw_pid() == orm_pid(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
go.set()
other.join()
"""


def test_p30_a_child_that_was_forked_during_the_first_connect_connects_by_itself():
    environment = {**os.environ, "DATABASE_URL": database_url()}
    command = [sys.executable, "-c", FORKS_DURING_THE_FIRST_CONNECT]

    process = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=20, check=False
    )

    assert (process.stdout, process.returncode) == ("1 1 True\n", 0), process.stderr


GUNICORN = """
def pid():
    from django.db import connection
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]

def when_ready(server):
    print("parent", pid(), flush=True)

def on_exit(server):
    print("parent", pid(), flush=True)
"""
SESSIONS = """
SELECT jsonb_agg(jsonb_build_array(split_part(application_name, ':', 2), pid) ORDER BY pid)
  FROM pg_stat_activity
 WHERE datname = current_database() AND application_name LIKE 'qrsite:%%'
   AND split_part(application_name, ':', 2) <> %s
"""


def database_url():
    """Name the test database as a process of its own would have to."""
    place = connection.settings_dict
    user = ":".join(quote(place[name], safe="") for name in ("USER", "PASSWORD") if place[name])
    query = urlencode({name.lower(): place[name] for name in ("HOST", "PORT") if place[name]})
    return f"postgres://{user}@/{place['NAME']}?{query}"


def test_p30_workers_of_gunicorn_that_were_forked_off_a_used_pool_have_their_own(tmp_path):
    (tmp_path / "config.py").write_text(GUNICORN)
    command = ["-m", "gunicorn", "--preload", "--workers=2", f"--bind=unix:{tmp_path}/door", "--config"]
    command += [str(tmp_path / "config.py"), "qrsite.wsgi:application"]
    environment = {**os.environ, "DATABASE_URL": database_url()}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    statuses = set()

    def ask(_number=0):
        with httpx.Client(transport=httpx.HTTPTransport(uds=f"{tmp_path}/door"), timeout=20) as client:
            return client.get(f"http://localhost{NEEDS_THE_ORM}", headers=KEYED).status_code

    def all_have_a_session():
        with ThreadPoolExecutor(8) as executor:
            statuses.update(executor.map(ask, range(8)))
        return len({process for process, _ in outside(SESSIONS, process_name())}) == 3

    try:
        until(lambda: (tmp_path / "door").exists() or server.poll() is not None)
        until(all_have_a_session)
        workers = [worker.pid for worker in psutil.Process(server.pid).children()]
        sessions = outside(SESSIONS, process_name())
    finally:
        server.send_signal(signal.SIGTERM)
        said = server.communicate(timeout=20)[0].split()

    host = process_name().removeprefix("command-").rpartition("-")[0]
    assert server.returncode == 0, (tmp_path / "log").read_text()
    assert statuses == {401}
    assert sorted(process for process, _ in sessions) == sorted(
        f"{host}-{pid}" for pid in [server.pid, *workers]
    )
    assert said == ["parent", said[1]] * 2
    assert [f"{host}-{server.pid}", int(said[1])] in sessions
