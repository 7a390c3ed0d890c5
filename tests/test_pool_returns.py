"""Who gives a connection back, and when: the pitfalls of docs/pool.md from 19 on, and what settings may not say."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx
import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import BaseCommand
from django.db import DatabaseError, InterfaceError, connection, connections, transaction
from django.http import HttpResponse, StreamingHttpResponse
from django.test import RequestFactory
from django.urls import path

from core import db
from core.lease import NestedCheckout
from tests.factories import make_event
from tests.fake_driver import until
from tests.test_core_db import (
    CAP,
    ROOT,
    events_named,
    in_thread,
    orm_pid,
    outside,
    raw_pid,
    server_connections,
)
from tests.test_pool_pitfalls import fetch, out, raw
from tests.test_qrsite_asgi import END, ask, chunks
from tickets.models import Event

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_pool")]

KEYED = {"Authorization": "Bearer qrs_x"}  # of nobody: the ORM has to look for it
NEEDS_THE_ORM = "/api/v1/events/x/stats"


def call(url):
    """Call Django as a server does; return what the server gets, still open."""
    environ = RequestFactory().get(url).environ
    environ.pop("wsgi.errors", None)
    return WSGIHandler()(environ, lambda *_: None)


def start_with(folder, name, value):
    (folder / "wrong_settings.py").write_text(
        f"from qrsite.settings import *\nDATABASES['default'][{name!r}] = {value!r}\n"
    )
    return subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(folder), "DJANGO_SETTINGS_MODULE": "wrong_settings"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("age_s", [60, None])
def test_p09_a_setting_that_keeps_connections_between_requests_is_refused_with_the_reason(age_s, tmp_path):
    process = start_with(tmp_path, "CONN_MAX_AGE", age_s)

    assert (process.returncode, process.stdout, process.stderr.count("\n")) == (2, "", 1)
    assert "CONN_MAX_AGE must be 0: the pool keeps connections open" in process.stderr


def test_p19_a_connection_that_threads_share_is_one_loan_and_comes_back_once():
    connection.close()
    wrapper = db.orm()
    wrapper.ensure_connection()
    with pytest.raises(DatabaseError, match="can only be used in that same thread"):
        in_thread(wrapper.cursor)

    wrapper.inc_thread_sharing()
    try:
        shared = in_thread(lambda: wrapper.cursor())
        during = db.pool_stats().checked_out
    finally:
        wrapper.dec_thread_sharing()
    wrapper.close()

    assert (during, db.pool_stats().checked_out) == (1, 0)
    with pytest.raises(InterfaceError, match="already closed"):
        shared.execute("SELECT 1")


def test_p20_the_pool_follows_django_to_the_test_database():
    with raw() as session:
        pooled = fetch(session, "SELECT current_database()")

    assert pooled == connection.settings_dict["NAME"]
    assert pooled.startswith("test_")


def fill_the_pool():
    """Leave five idle connections, and none in use."""
    for conn in [db.engine.connect() for _ in range(5)]:
        conn.exec_driver_sql("SELECT 1")
        conn.close()


def test_p20_a_test_database_is_cloned_and_dropped_while_the_pool_has_idle_connections(monkeypatch):
    fill_the_pool()
    name = connection.settings_dict["NAME"]
    exists = "SELECT count(*) FROM pg_database WHERE datname = %s"

    connection.creation.clone_test_db("clone", verbosity=0)
    cloned = outside(exists, f"{name}_clone")
    monkeypatch.setitem(connection.settings_dict, "NAME", f"{name}_clone")
    fill_the_pool()
    monkeypatch.undo()
    in_use = outside("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", f"{name}_clone")
    connection.creation.destroy_test_db(suffix="clone", verbosity=0)

    assert (cloned, in_use, outside(exists, f"{name}_clone")) == (1, 5, 0)


def test_p20_a_test_database_is_created_from_a_template_while_the_pool_has_idle_connections_to_it(
    monkeypatch,
):
    fill_the_pool()
    name = connection.settings_dict["NAME"]
    monkeypatch.setitem(connection.settings_dict["TEST"], "NAME", f"{name}_created")
    monkeypatch.setitem(connection.settings_dict["TEST"], "TEMPLATE", name)

    try:
        with suppress(SystemExit):
            connection.creation._create_test_db(verbosity=0, autoclobber=True)
        made = outside("SELECT count(*) FROM pg_database WHERE datname = %s", f"{name}_created")
    finally:
        outside(f'DROP DATABASE IF EXISTS "{name}_created"')

    assert made == 1


@pytest.mark.django_db(transaction=False)
def test_p21_in_a_test_that_is_a_transaction_raw_sql_sees_and_changes_its_rows_without_waiting():
    event = make_event(name="in a test")
    Event.objects.update(name="locked by the ORM")

    with db.begin() as conn:
        changed = conn.exec_driver_sql(
            "UPDATE event SET name = 'raw' WHERE name = 'locked by the ORM'"
        ).rowcount
        limit = conn.exec_driver_sql("SHOW lock_timeout").scalar_one()
    event.refresh_from_db()

    assert (changed, event.name, limit) == (1, "raw", "10s")


class Quiet(WSGIRequestHandler):
    def log_message(self, *_arguments):
        pass


def test_p22_a_request_through_a_real_server_gives_its_connection_back():
    from qrsite.wsgi import application

    db.pool.reserve_shares(in_force=False)
    seen = []

    def look(environ, start_response):
        for chunk in (answer := application(environ, start_response)):
            seen.append(out())
            yield chunk
        answer.close()

    with make_server("127.0.0.1", 0, look, handler_class=Quiet) as server, ThreadPoolExecutor(1) as executor:
        serving = [executor.submit(server.handle_request) for _ in range(3)]
        url = f"http://127.0.0.1:{server.server_port}{NEEDS_THE_ORM}"
        statuses = [httpx.get(url, headers=KEYED).status_code for _ in serving]
        for future in serving:
            future.result(10)
        after = out()  # while the thread that served lives

    assert (statuses, seen, after) == ([401] * 3, [1] * 3, 0)


def _query(request):
    return HttpResponse(f"{orm_pid() == raw_pid()} {out()}")


def _fail(request):
    orm_pid()
    raise ZeroDivisionError


def _ask_elsewhere(request):
    orm_pid()
    db.orm().give_back_if_idle()
    while_waiting = out()  # for another host, say
    orm_pid()
    return HttpResponse(f"{while_waiting} {out()}")


def _ask_nothing(request):
    return HttpResponse(f"{out()}")


def _stream(request):
    return StreamingHttpResponse(f"{orm_pid() == raw_pid()} " for _ in range(3))


def _stream_rows(request):
    return StreamingHttpResponse(f"{event.name} " for event in Event.objects.iterator(chunk_size=1))


urlpatterns = [
    path("query", _query),
    path("fail", _fail),
    path("elsewhere", _ask_elsewhere),
    path("nothing", _ask_nothing),
    path("stream", _stream),
    path("stream-rows", _stream_rows),
]


@pytest.mark.parametrize(
    ("url", "status", "body"), [("/query", 200, b"True 1"), ("/elsewhere", 200, b"0 1"), ("/none", 404, None)]
)
def test_p23_a_request_holds_at_most_one_connection_and_none_after_its_end(url, status, body, settings):
    settings.ROOT_URLCONF = __name__

    def request():
        response = call(url)
        response.close()
        return response.status_code, response.content if body else None, out()

    assert in_thread(request) == (status, body, 0)


def test_p23_a_request_that_fails_gives_its_connection_back(settings):
    settings.ROOT_URLCONF = __name__

    def request():
        response = call("/fail")
        response.close()
        return response.status_code, out()

    assert in_thread(request) == (500, 0)


def test_p24_a_stream_holds_nothing_while_its_client_takes_its_time(settings):
    settings.ROOT_URLCONF = __name__

    def request():
        response = call("/stream")
        between = [(chunk, out()) for chunk in response]
        response.close()
        return between, out()

    assert in_thread(request) == ([(b"True ", 0)] * 3, 0)


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "never closed"])
def test_p24_a_stream_that_is_not_read_to_its_end_gives_back_what_it_reads_from(is_closed, settings):
    settings.ROOT_URLCONF = __name__
    for _ in range(3):
        make_event(name="one of three")
    connection.close()

    def request():
        response = call("/stream-rows")
        chunk, during = next(iter(response)), out()
        if is_closed:
            response.close()
        else:
            del response
            gc.collect()
        return chunk, during, out()

    assert in_thread(request) == (b"one of three ", 1, 0)


def test_p25_a_setting_that_takes_a_connection_for_every_view_is_refused_with_the_reason(tmp_path):
    process = start_with(tmp_path, "ATOMIC_REQUESTS", True)

    assert (process.returncode, process.stdout, process.stderr.count("\n")) == (2, "", 1)
    assert "ATOMIC_REQUESTS must be off: it takes a connection before the view is entered" in process.stderr


def test_p25_a_view_without_a_query_answers_while_every_connection_is_in_use(settings):
    settings.ROOT_URLCONF = __name__
    held = [db.engine.connect() for _ in range(CAP)]
    try:
        answer = in_thread(lambda: call("/nothing").content)
    finally:
        for conn in held:
            conn.close()

    assert answer == str(CAP).encode()


def test_p26_a_command_gives_its_connection_back_and_its_loop_holds_one_only_inside_its_blocks():
    seen = []

    class Command(BaseCommand):
        def handle(self, *args, **options):
            for _ in range(3):
                with db.begin() as conn:
                    conn.exec_driver_sql("SELECT 1")
                    seen.append(out())
                seen.append(out())
            orm_pid()
            seen.append(out())

    in_thread(lambda: Command().run_from_argv(["manage.py", "look"]))

    assert (seen, out()) == ([1, 0] * 3 + [1], 0)


def test_p27_what_a_thread_kept_and_somebody_still_refers_to_is_taken_back_when_the_thread_ended():
    kept, go = [], threading.Event()

    def keep():
        kept.append(db.engine.connect())
        go.wait(20)

    gc.collect()
    gc.disable()
    try:
        threads = [threading.Thread(target=keep) for _ in range(CAP)]
        for thread in threads:
            thread.start()
        until(lambda: len(kept) == CAP)
        held = server_connections()
        go.set()
        until(lambda: out() == 0)
    finally:
        gc.enable()

    assert held == CAP
    assert {conn.connection.is_valid for conn in kept} == {False}
    until(lambda: server_connections() == 0)
    for conn in kept:
        conn.invalidate()


def test_p28_requests_through_the_asgi_door_leave_nothing_on_threads_that_live_on():
    from qrsite import asgi

    door = asgi.FrontDoor()
    headers = [(b"host", b"localhost"), (b"authorization", KEYED["Authorization"].encode())]

    async def many():
        asks = [ask(door, chunks(then=END), path=NEEDS_THE_ORM, headers=headers) for _ in range(40)]
        return {answer[0] for answer in await asyncio.gather(*asks)}

    statuses = asyncio.run(many())

    assert (statuses, out()) == ({401}, 0)
    assert server_connections() <= asgi.THREADS


@pytest.mark.parametrize("is_sensitive", [True, False])
def test_p28_work_that_async_code_sends_to_threads_gives_back_when_they_end(is_sensitive):
    async def many():
        async with ThreadSensitiveContext():  # as Django's own ASGI handler does for a request
            work = sync_to_async(orm_pid, thread_sensitive=is_sensitive)
            return await asyncio.gather(*(work() for _ in range(20)))

    pids = in_thread(lambda: asyncio.run(many()))

    assert len(pids) == 20
    until(lambda: out() == 0)


def test_p28_a_thread_that_lives_on_keeps_nothing_of_a_block_of_raw_sql():
    with ThreadPoolExecutor(1) as executor:
        pids = {executor.submit(raw_pid).result() for _ in range(3)}
        during = out()

    assert (len(pids), during) == (1, 0)


def test_p29_as_many_threads_as_connections_all_hold_one_and_run_raw_sql_on_it():
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


def test_p29_a_thread_that_would_wait_for_its_second_connection_fails_at_once_with_both_places():
    def first_place():
        return db.engine.connect()

    def second_place():
        return db.engine.connect()

    held = [first_place() for _ in range(CAP)]
    start_s = time.monotonic()
    try:
        with pytest.raises(NestedCheckout) as caught:
            second_place()
    finally:
        for conn in held:
            conn.close()

    assert time.monotonic() - start_s < db.pool.timeout() / 2
    assert "in first_place\n" in str(caught.value)
    assert "in second_place\n" in str(caught.value)


def test_p31_a_failed_block_in_an_atomic_undoes_only_itself():
    with transaction.atomic():
        event = make_event(name="stays")
        with pytest.raises(DatabaseError), db.begin() as conn:
            conn.exec_driver_sql("UPDATE event SET name = 'lost' WHERE id = %s", (event.id,))
            conn.exec_driver_sql("INSERT INTO event SELECT * FROM event")

    assert (events_named("stays"), events_named("lost")) == (1, 0)


def test_p31_hooks_and_transactions_stay_with_their_thread_whoever_has_the_connection_next():
    ran = []

    def another_borrower():
        with transaction.atomic():
            transaction.on_commit(lambda: ran.append("the other's"))
            pid = orm_pid()
        connection.close()
        return pid, connection.in_atomic_block

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        transaction.on_commit(lambda: ran.append("rolled back"))
        before = orm_pid()
        raise ZeroDivisionError
    connection.close()
    others_pid, others_state = in_thread(another_borrower)
    with transaction.atomic():
        transaction.on_commit(lambda: ran.append("mine"))
        with db.begin():
            transaction.on_commit(lambda: ran.append("mine, of a savepoint"))
        assert (orm_pid(), ran) == (before, ["the other's"])

    assert (others_pid, others_state) == (before, False)
    assert ran == ["the other's", "mine", "mine, of a savepoint"]
