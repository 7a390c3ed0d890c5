"""Counters are exact at whatever moment they are read, whoever writes, rolls back or dies meanwhile."""

import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import pytest
from django.db import connection, transaction

from analytics import queries, recount
from analytics.counters import Tally
from analytics.models import REPAIRS_SLOT, SLOTS, EventCount
from analytics.queries import WHOLE_EVENT
from core import db
from core.errors import QrsiteError
from tests.factories import NOW, admit, attempt, issue, make_device, make_event
from tickets import admission, lifecycle

pytestmark = pytest.mark.django_db(transaction=True)


class Cancelled(Exception):
    pass


def write(event, devices, tickets, seed, turns):
    """Scan, online and hours late, take back, void, and roll a third of it back."""
    chance, rules = random.Random(seed), admission.rules_of(event.id)
    nonces = []
    for turn in range(turns):
        device = chance.choice(devices)
        now = NOW + timedelta(minutes=turn)
        late = chance.choice([None, None, now - timedelta(minutes=chance.randrange(300))])
        scans = [
            attempt(device, chance.choice([*tickets, "x"]), f"{seed}-{turn}-{place}", happened_at=late)
            for place in range(6)
        ]
        with suppress(Cancelled), transaction.atomic():
            admission.admit(rules=rules, scans=scans, now=now)
            if chance.random() < 0.3:
                raise Cancelled
        if nonces and chance.random() < 0.3:
            nonce, by = chance.choice(nonces[-12:])
            with suppress(Cancelled, QrsiteError), transaction.atomic():
                lifecycle.annul(event_id=event.id, nonce=nonce, device_id=by.id, now=now, within=None)
                if chance.random() < 0.3:
                    raise Cancelled
        nonces += [(scan.nonce, device) for scan in scans]
    connection.close()


def test_at_no_moment_does_a_counter_differ_from_the_rows_while_eight_write_and_roll_back():
    event = make_event(reentry="always")
    devices = [make_device(event, gate=gate)[0] for gate in ("North", "South")]
    tickets = [ticket.code for ticket in issue(event, 30)]
    connection.close()
    done = threading.Event()

    def read():
        seen = []
        while not done.is_set() or not seen:
            seen.append(recount.recount(event_id=event.id, mends=False, now=NOW))
        connection.close()
        return seen

    with ThreadPoolExecutor(9) as executor:
        reading = executor.submit(read)
        try:
            writing = [executor.submit(write, event, devices, tickets, seed, 12) for seed in range(8)]
            for one in writing:
                one.result(60)
        finally:
            done.set()
        seen = reading.result(60)

    assert len(seen) > 5
    assert set(map(repr, seen)) == {repr(recount.Recount(0, []))}


def test_a_repair_while_scans_go_on_adds_what_is_missing_and_nothing_else():
    event = make_event(reentry="always")
    devices = [make_device(event)[0]]
    tickets = [ticket.code for ticket in issue(event, 30)]
    write(event, devices, tickets, "before", 5)
    with db.begin() as conn:
        for table in ("event_counts", "refusal_counts", "refused_codes"):
            conn.exec_driver_sql(f"DELETE FROM {table}")
    connection.close()

    with ThreadPoolExecutor(4) as executor:
        writing = [executor.submit(write, event, devices, tickets, seed, 10) for seed in range(3)]
        mended = [recount.recount(event_id=event.id, mends=True, now=NOW) for _ in range(3)]
        for one in writing:
            one.result(60)

    assert mended[0].differences > 0
    assert recount.recount(event_id=event.id, mends=False, now=NOW) == recount.Recount(0, [])


def test_of_repairs_that_run_at_once_each_difference_is_added_once():
    event = make_event()
    issue(event, 30)
    with db.begin() as conn:
        conn.exec_driver_sql("DELETE FROM event_counts")
    connection.close()
    everybody = threading.Barrier(3)

    def repair(_number):
        everybody.wait(10)
        found = recount.recount(event_id=event.id, mends=True, now=NOW)
        connection.close()
        return found.differences

    with ThreadPoolExecutor(3) as executor:
        assert max(executor.map(repair, range(3))) == 1

    assert recount.recount(event_id=event.id, mends=False, now=NOW) == recount.Recount(0, [])


def test_a_repair_that_another_overtook_counts_again(monkeypatch):
    event = make_event()
    issue(event, 30)
    with db.begin() as conn:
        conn.exec_driver_sql("DELETE FROM event_counts")
    compare, overtaken = recount._compare, []

    def compare_and_be_overtaken(event_id, *, held):
        found = compare(event_id, held=held)
        if len(overtaken) < 2:
            overtaken.append(found)
            with db.begin() as conn:
                queries.add_counts(conn, event_id=event_id, slot=REPAIRS_SLOT, counts=[WHOLE_EVENT], now=NOW)
        return found

    monkeypatch.setattr(recount, "_compare", compare_and_be_overtaken)

    assert recount.recount(event_id=event.id, mends=True, now=NOW).differences == 1
    assert recount.recount(event_id=event.id, mends=False, now=NOW) == recount.Recount(0, [])
    assert len(overtaken) == 2


def test_of_a_process_that_is_killed_before_it_commits_nothing_is_counted():
    event = make_event()
    [device, _] = make_device(event)
    tickets = issue(event, 2)
    connection.close()
    read, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with transaction.atomic():
                admit(device, attempt(device, tickets[0].code, "killed"))
                os.write(write_end, b"x")
                signal.pause()
        finally:
            os._exit(1)
    os.read(read, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read)
    os.close(write_end)

    [answer] = admit(device, attempt(device, tickets[0].code, "alive"))

    assert answer.stored.verdict == "admitted"
    assert recount.recount(event_id=event.id, mends=False, now=NOW) == recount.Recount(0, [])


def test_threads_count_in_slots_of_their_own_and_wait_for_each_other_only_where_these_run_out():
    event = make_event()
    connection.close()
    everybody = threading.Barrier(4)

    def count(_number):
        with db.begin() as conn:
            tally = Tally(event.id)
            tally.issued(1)
            tally.add(conn, now=NOW)
            everybody.wait(10)  # all have added, and none has committed
        connection.close()

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(count, range(4)))

    slots = list(EventCount.objects.filter(event_id=event.id).values_list("slot", flat=True))
    assert len(slots) == len(set(slots)) == 4
    assert all(0 <= slot < SLOTS for slot in slots)
    with db.begin() as conn:
        conn.exec_driver_sql("DELETE FROM event_counts")
