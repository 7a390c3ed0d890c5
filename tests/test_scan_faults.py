"""What kills, crashes, deadlocks, poison and wrong clocks must not do to a gate: on real processes and a real PostgreSQL."""

import json
import os
import re
import signal
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

import base45
import psutil
import psycopg2
import pytest
from django.db import connection
from hypothesis import given, settings
from hypothesis import strategies as st

from core import db
from tests import factories
from tests.doors import by_the_lane, request, scan
from tests.factories import NOW, admit, attempt, make_device, make_event, make_open_event, verdicts
from tests.fake_driver import until
from tests.phones import gate_of
from tests.serving import servers


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with servers() as start:
        yield start(tmp_path_factory.mktemp("faults") / "var")


@pytest.fixture
def gate(server):
    with gate_of(server) as gate:
        yield gate


def issue(server, number):
    return [code for first in range(0, number, 1000) for code in server.issue(min(1000, number - first))]


@contextmanager
def transaction(server):
    """Lend a cursor in a transaction past the site's pool; what it did is undone at the end."""
    connection = psycopg2.connect(server.demo["database_url"])
    try:
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.rollback()
        connection.close()


def who_waits(server):
    """Return the server processes whose scan waits for a lock in PostgreSQL."""
    named = server.ask(
        "SELECT application_name FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND application_name LIKE 'qrsite:%:scan'"
    )
    return [int(name.split(":")[1].rpartition("-")[2]) for (name,) in named]


def ticket_of(code):
    return int.from_bytes(base45.b45decode(code)[6:14])


def assert_the_books_balance(server, codes, outcomes):
    """Every verdict that was given is on disk and no other; each ticket was admitted once, in the log and in its row."""
    nonces = ",".join(f"'{outcome.nonce}'" for outcome in outcomes)
    rows = server.ask(f"SELECT nonce, verdict, reason FROM ticket_scans WHERE nonce IN ({nonces})")
    given = [(one.nonce, one.answer["verdict"], one.answer["reason"]) for one in outcomes]
    tickets = Counter(one.answer["ticket"]["id"] for one in outcomes if one.answer["verdict"] == "admitted")
    in_their_rows = server.ask(
        f"""SELECT count(*) FROM ticket JOIN ticket_scans ON ticket_scans.event_id = ticket.event_id
            AND ticket_id = ticket.id AND verdict = 'admitted' AND happened_at = admitted_at AND inside
            WHERE ticket.id IN ({",".join(tickets)})"""
    )
    of_these_tickets = server.ask(
        f"SELECT count(*) FROM ticket_scans WHERE ticket_id IN ({','.join(tickets)})"
    )

    assert len(outcomes) == 2 * len(codes)
    assert sorted(rows) == sorted(given)
    assert (len(tickets), set(tickets.values())) == (len(codes), {1})
    assert in_their_rows == [(len(codes),)]
    assert of_these_tickets == [(2 * len(codes),)]


def kill(process):
    process.kill()
    process.wait(10)


def kill_the_oldest_worker(server, gate):
    kill(gate.workers()[0])


def kill_a_backend(server, gate):
    """After which PostgreSQL ends all of them and recovers from its log, as after a power cut."""
    [(pid,)] = server.ask("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'qrsite:%' LIMIT 1")
    os.kill(pid, signal.SIGKILL)


def kill_the_postmaster(server, gate):
    postmaster = int((server.var / "postgres/data/postmaster.pid").read_text().split()[0])
    psutil.Process(postmaster).kill()  # and not until somebody reaps it: in a container that may be nobody


def spike(server, gate, *faults):
    """Let many scan every ticket twice while faults happen, and look at the books; return what became of the scans."""
    codes = issue(server, 600)
    outcomes = gate.storm(codes, *(partial(fault, server, gate) for fault in faults))
    assert_the_books_balance(server, codes, outcomes)
    return outcomes


def test_processes_killed_in_a_spike_lose_no_answer_and_admit_nobody_twice(server, gate):
    before = gate.workers()

    outcomes = spike(server, gate, *[kill_the_oldest_worker] * 4)

    assert any(outcome.cut_off for outcome in outcomes)
    assert not set(gate.workers()) & set(before)


@pytest.mark.parametrize("fault", [kill_a_backend, kill_the_postmaster])
def test_a_postgres_killed_in_a_spike_loses_no_answer_and_admits_nobody_twice(server, gate, fault):
    before = gate.workers()

    outcomes = spike(server, gate, fault, fault)

    assert any(outcome.told_to_come_back for outcome in outcomes)
    assert not any(outcome.cut_off for outcome in outcomes)
    assert gate.workers() == before


@contextmanager
def commits_that_wait(server, _code):
    """Make the commit of each scan wait, at its last moment, until this block ends."""
    with transaction(server) as cursor:
        cursor.connection.autocommit = True
        cursor.execute(
            """
            CREATE FUNCTION wait_for_the_test() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END $$;
            CREATE CONSTRAINT TRIGGER wait_for_the_test AFTER INSERT ON ticket_scans
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_for_the_test();
            SELECT pg_advisory_lock(1)
            """
        )
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock(1)")
            cursor.execute("DROP FUNCTION wait_for_the_test CASCADE")


@contextmanager
def locked(server, code):
    """Hold the row of a ticket until this block ends."""
    with transaction(server) as cursor:
        cursor.execute("SELECT FROM ticket WHERE id = %s FOR UPDATE", [ticket_of(code)])
        yield


@pytest.mark.parametrize(("obstacle", "replayed"), [(commits_that_wait, True), (locked, False)])
def test_who_lost_the_process_gets_the_verdict_that_was_committed_or_else_is_judged(
    server, gate, obstacle, replayed
):
    [code] = issue(server, 1)
    with ThreadPoolExecutor(1) as pool:
        with obstacle(server, code):
            scan = pool.submit(gate.phone().scan_until_judged, code, uuid.uuid4().hex)
            until(lambda: who_waits(server))
            kill(psutil.Process(who_waits(server)[0]))
        outcome = scan.result()

    assert outcome.cut_off > 0
    assert (outcome.answer["verdict"], outcome.answer["replayed"]) == ("admitted", replayed)
    assert server.ask(f"SELECT count(*) FROM ticket_scans WHERE ticket_id = {ticket_of(code)}") == [(1,)]


@pytest.mark.parametrize("rounds", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_of_64_scans_at_once_over_two_processes_one_is_admitted_each_time(server, gate, rounds):
    codes = issue(server, rounds)
    # The processes in turn: when one has its first scan of a ticket, the other one has its own.
    phones = [phone for pair in zip(*gate.phones_of_each_worker(32), strict=True) for phone in pair]
    before = len(server.output())

    for code in codes:
        for phone in phones:
            phone.send(code)
        answers = [phone.receive() for phone in phones]
        assert Counter((status, said["reason"]) for status, said in answers) == {
            (200, None): 1,
            (200, "already_admitted"): 63,
        }
        assert len({(said["first_admitted_at"], said["first_gate"]) for _, said in answers}) == 1

    tickets = ",".join(str(ticket_of(code)) for code in codes)
    rows = (
        f"SELECT ticket_id, verdict, count(*) FROM ticket_scans WHERE ticket_id IN ({tickets}) GROUP BY 1, 2"
    )
    assert sorted(Counter(map(gate.worker_of, phones)).values()) == [32, 32]
    assert sorted(server.ask(rows)) == sorted(
        row for code in codes for row in ((ticket_of(code), "admitted", 1), (ticket_of(code), "refused", 63))
    )
    # The unique index would mend it, and say so.
    assert "missing from their rows" not in server.output()[before:]


def test_a_scan_that_postgres_refuses_spoils_none_of_its_batch(server, gate):
    stall, *codes = issue(server, 20)
    nonces = [uuid.uuid4().hex for _ in codes]
    first, *phones = gate.phones_of_each_worker(21)[0]
    last = phones.pop()
    with transaction(server) as cursor:
        cursor.connection.autocommit = True
        cursor.execute("ALTER TABLE ticket_scans ADD CONSTRAINT no_poison CHECK (nonce <> %s)", [nonces[7]])
        try:
            with locked(server, stall):
                first.send(stall)
                until(lambda: who_waits(server))
                for phone, code, nonce in zip(phones, codes, nonces, strict=True):
                    phone.send(code, nonce)
                last.wait_for_its_process()  # so the process has read what came before
            answers = [phone.receive() for phone in (first, *phones)]
        finally:
            cursor.execute("ALTER TABLE ticket_scans DROP CONSTRAINT no_poison")

    status, said = answers.pop(8)
    assert (status, said["error"]["code"]) == (500, "internal")
    assert Counter((status, said["verdict"]) for status, said in answers) == {(200, "admitted"): 19}
    assert "19 scans are judged one by one" in server.output()
    assert phones[7].scan(codes[7], nonces[7])[1]["verdict"] == "admitted"


ANY_TEXT = st.text(st.characters(), max_size=400)  # with NUL, lone surrogates and all else that JSON can say
ANY_NONCE = st.from_regex(r"[A-Za-z0-9._~:+=@-]{1,96}", fullmatch=True)


@settings(max_examples=100, deadline=None)
@given(read=st.lists(st.tuples(ANY_TEXT, ANY_NONCE), min_size=1, max_size=16), as_ascii=st.booleans())
def test_whatever_scanners_read_is_judged_and_kept(server, read, as_ascii):
    bodies = [{"code": code, "nonce": nonce + uuid.uuid4().hex} for code, nonce in read]
    with gate_of(server) as gate:
        phones = [gate.phone() for _ in bodies]
        for phone, body in zip(phones, bodies, strict=True):
            # A lone surrogate has no UTF-8; JSON can say it all the same.
            is_sent_as_ascii = as_ascii or re.search("[\ud800-\udfff]", body["code"])
            phone.send_body(json.dumps(body, ensure_ascii=bool(is_sent_as_ascii)).encode())
        answers = [phone.receive() for phone in phones]

    nonces = ",".join(f"'{body['nonce']}'" for body in bodies)
    rows = f"SELECT count(*) FROM ticket_scans WHERE reason = 'unreadable' AND nonce IN ({nonces})"
    assert {(status, said.get("reason")) for status, said in answers} == {(200, "unreadable")}
    assert server.ask(rows) == [(len(read),)]


SET_WRONG = ("1970-01-01T00:00:00+02:00", "2026-01-01T00:00:00+14:00", "2199-12-31T23:59:59Z")


@pytest.mark.parametrize("first_at", SET_WRONG)
@pytest.mark.parametrize("second_at", SET_WRONG)
def test_a_devices_clock_changes_no_verdict(server, gate, first_at, second_at):
    [code] = issue(server, 1)
    nonce = uuid.uuid4().hex
    phone = gate.phone()

    _, first = phone.scan(code, nonce, scanned_at=first_at)
    _, duplicate = phone.scan(code, scanned_at=second_at)
    _, again = phone.scan(code, nonce, scanned_at=second_at)

    assert (first["verdict"], first["replayed"]) == ("admitted", False)
    assert (duplicate["reason"], duplicate["first_admitted_at"]) == (
        "already_admitted",
        first["first_admitted_at"],
    )
    assert again == {**first, "replayed": True}
    # What the device said is kept, and the server's own time is what counts.
    rows = server.ask(
        f"""SELECT scanned_at IN ('{first_at}', '{second_at}'), recorded_at BETWEEN now() - interval '9 s' AND now()
            FROM ticket_scans WHERE ticket_id = {ticket_of(code)}"""
    )
    assert rows == [(True, True)] * 2


@pytest.mark.django_db
@pytest.mark.parametrize(("hours", "reason"), [(-2, "too_early"), (5, "too_late")])
@pytest.mark.parametrize("wrong_hours", [-3, 0, 6])
def test_a_devices_clock_opens_and_closes_no_door(hours, reason, wrong_hours):
    event = make_event()
    device = make_device(event)[0]
    [ticket] = factories.issue(event)
    scan = attempt(device, ticket.code, "a")._replace(scanned_at=NOW + timedelta(hours=wrong_hours))

    assert verdicts(admit(device, scan, now=NOW + timedelta(hours=hours))) == [("refused", reason, False)]


@pytest.fixture
def sessions_set_to(empty_pool, monkeypatch):
    """Give the sessions that this process opens from now on other settings of PostgreSQL."""

    def set_to(options):
        monkeypatch.setitem(connection.settings_dict["OPTIONS"], "options", options)
        connection.close()
        db.engine.dispose()

    yield set_to
    connection.close()


@contextmanager
def other_session():
    """Lend a cursor of a session past the pool, in a transaction; its waits end no deadlock before a minute."""
    parameters = connection.get_connection_params()
    other = psycopg2.connect(**{**parameters, "cursor_factory": None, "options": "-c deadlock_timeout=1min"})
    try:
        with other.cursor() as cursor:
            yield cursor
    finally:
        other.rollback()
        other.close()


def lock(cursor, ticket):
    cursor.execute("SELECT FROM ticket WHERE id = %s FOR UPDATE", [ticket.id])


def sessions_that_wait():
    with other_session() as asking:
        asking.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return asking.fetchone()[0]


@pytest.mark.django_db(transaction=True)
def test_scans_that_a_deadlock_threw_out_are_judged_all_the_same(sessions_set_to):
    event = make_open_event()
    token = make_device(event)[1]
    low, middle, high = sorted(factories.issue(event, 3))
    scans = [request(token, scan("x", "alone"))]
    scans += [request(token, scan(ticket.code, f"n{ticket.id}")) for ticket in (high, low, middle)]
    sessions_set_to("-c deadlock_timeout=50ms")

    with ThreadPoolExecutor(2) as pool, other_session() as opposite, other_session() as between:
        lock(opposite, high)
        lock(between, middle)
        judged = pool.submit(by_the_lane, *scans)
        until(lambda: sessions_that_wait() == 1)  # the batch has `low`
        wants = pool.submit(lock, opposite, low)
        until(lambda: sessions_that_wait() == 2)
        between.connection.rollback()  # the batch goes on to `high`, and so closes the circle
        wants.result()  # which only PostgreSQL can open, for the batch gives up nothing
        opposite.connection.rollback()
        answers = judged.result()

    told = [(status, said["verdict"]) for status, said, _ in answers]
    assert told == [(200, "refused"), *[(200, "admitted")] * 3]


@pytest.mark.uncounted
@pytest.mark.django_db(transaction=True)
def test_a_scan_that_could_not_be_serialized_is_judged_on_what_is_there_now(sessions_set_to):
    event = make_open_event()
    token = make_device(event)[1]
    [ticket] = factories.issue(event)
    sessions_set_to(r"-c default_transaction_isolation=repeatable\ read")

    with ThreadPoolExecutor(1) as pool, other_session() as other:
        other.execute("UPDATE ticket SET voided_at = now() WHERE id = %s", [ticket.id])
        judged = pool.submit(by_the_lane, request(token, scan(ticket.code, "a")))
        until(lambda: sessions_that_wait() == 1)
        other.connection.commit()
        [(status, said, _)] = judged.result()

    assert (status, said["reason"]) == (200, "void")
