"""Who is admitted: every reason, replays, and exactly once whatever runs beside it."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import DatabaseError, IntegrityError, connection, connections, transaction

from analytics.models import Direction, Scan
from analytics.statistics import event_totals
from core import db
from tests.factories import NOW, admit, attempt, issue, make_device, make_event, verdicts
from tickets import codes, issuing, queries
from tickets.admission import NonceReused
from tickets.judging import APART, CODE_KEPT_CHARS
from tickets.models import Event, Kind, Ticket
from tickets.rules import MESSAGES, REASONS, RULES

ENTRY, EXIT = Direction.ENTRY, Direction.EXIT


def log():
    return list(
        Scan.objects.order_by("id").values_list(
            "nonce", "direction", "verdict", "reason", "ticket_id", "code"
        )
    )


def test_a_fresh_ticket_is_admitted_and_logged(device, ticket):
    [answer] = admit(device, attempt(device, ticket.code, "a"))

    assert (answer.stored.verdict, answer.stored.reason, answer.message) == ("admitted", None, "Admitted.")
    assert (answer.stored.ticket_id, answer.stored.admitted_at, answer.stored.gate) == (
        ticket.id,
        NOW,
        "Main gate",
    )
    assert log() == [("a", "entry", "admitted", None, ticket.id, None)]
    assert Ticket.objects.values_list("admitted_at", "admitted_gate_id", "inside").get(id=ticket.id) == (
        NOW,
        device.gate_id,
        True,
    )


def test_a_second_scan_is_refused_with_when_and_where(device, ticket):
    admit(device, attempt(device, ticket.code, "a"))
    other_gate = make_device(device.gate.event, gate="North")[0]

    [answer] = admit(other_gate, attempt(other_gate, ticket.code, "b"), now=NOW + timedelta(minutes=3))

    assert verdicts([answer]) == [("refused", "already_admitted", False)]
    assert answer.message == "Already admitted at 21:30, Main gate."  # in the venue's zone
    assert (answer.stored.admitted_at, answer.stored.gate) == (NOW, "Main gate")


def test_a_duplicate_on_another_day_is_told_the_date(device, ticket):
    Event.objects.update(ends_at=NOW + timedelta(days=9))
    admit(device, attempt(device, ticket.code, "a"))

    [answer] = admit(device, attempt(device, ticket.code, "b"), now=NOW + timedelta(days=1))

    assert answer.message == "Already admitted on 12 Jun 2026 at 21:30, Main gate."


@pytest.mark.uncounted
def test_the_same_nonce_gets_the_stored_verdict(device, ticket):
    first = admit(device, attempt(device, ticket.code, "a"))
    change(ticket, voided_at=NOW)

    again = admit(device, attempt(device, ticket.code, "a"), now=AT["too_late"])

    assert again == [first[0]._replace(replayed=True)]
    assert len(log()) == 1


@pytest.mark.parametrize("earlier", ["a ticket", "rubbish"])
def test_a_nonce_of_another_attempt_gets_nobody_in(device, ticket, event, earlier):
    other = issue(event)[0]
    admit(device, attempt(device, ticket.code if earlier == "a ticket" else earlier, "a"))

    for scan in (
        attempt(device, other.code, "a"),
        attempt(device, "other rubbish", "a"),
        attempt(device, ticket.code, "a", EXIT),
    ):
        [refused] = admit(device, scan)
        assert isinstance(refused, NonceReused)
        assert "make a new one" in str(refused)

    assert len(log()) == 1
    assert not Ticket.objects.get(id=other.id).inside


def test_a_reused_nonce_in_a_batch_costs_the_others_nothing(device, ticket, event):
    other = issue(event)[0]

    first, again, last = admit(
        device,
        attempt(device, ticket.code, "a"),
        attempt(device, other.code, "a"),
        attempt(device, other.code, "b"),
    )

    assert (first.stored.verdict, last.stored.verdict) == ("admitted", "admitted")
    assert isinstance(again, NonceReused)


def test_a_refusal_is_replayed_too(device, ticket):
    admit(device, attempt(device, ticket.code, "a"))
    first = admit(device, attempt(device, ticket.code, "b"))

    assert admit(device, attempt(device, ticket.code, "b")) == [first[0]._replace(replayed=True)]


def test_scans_of_one_batch_are_judged_in_order(device, ticket):
    answers = admit(
        device,
        attempt(device, ticket.code, "1", EXIT),
        attempt(device, ticket.code, "2"),
        attempt(device, ticket.code, "3"),
        attempt(device, ticket.code, "2"),
        attempt(device, ticket.code, "4", EXIT),
        attempt(device, ticket.code, "5", EXIT),
        attempt(device, ticket.code, "6"),
        attempt(device, "rubbish", "7"),
    )

    assert verdicts(answers) == [
        ("refused", "not_inside", False),
        ("admitted", None, False),
        ("refused", "already_admitted", False),
        ("admitted", None, True),
        ("admitted", None, False),
        ("refused", "not_inside", False),
        ("refused", "already_admitted", False),
        ("refused", "unreadable", False),
    ]
    assert Ticket.objects.values_list("admitted_at", "admitted_gate_id", "inside").get() == (
        NOW + APART,
        device.gate_id,
        False,
    )


def change(ticket, **fields):
    Ticket.objects.filter(id=ticket.id).update(**fields)
    return ticket.code


REFUSALS = {
    "unreadable": lambda ticket, event: "no code",
    "unknown_key": lambda ticket, event: signed(event.id, ticket.id, key_id=200),
    "bad_signature": lambda ticket, event: signed(event.id, ticket.id, key_id=1),
    "unknown_ticket": lambda ticket, event: issuing.code_of(event_id=event.id, ticket_id=1),
    "wrong_event": lambda ticket, event: issue(make_event())[0].code,
    "void": lambda ticket, event: change(ticket, voided_at=NOW),
    "transferred": lambda ticket, event: change(ticket, transferred_at=NOW),
    "too_early": lambda ticket, event: ticket.code,
    "too_late": lambda ticket, event: ticket.code,
    "wrong_gate": lambda ticket, event: ticket.code,
    "already_admitted": lambda ticket, event: change(ticket, admitted_at=NOW),
    "not_inside": lambda ticket, event: ticket.code,
}
AT = {"too_early": NOW - timedelta(hours=2), "too_late": NOW + timedelta(hours=5)}


def signed(event_id, ticket_id, key_id):
    from nacl.signing import SigningKey

    return codes.make(codes.TicketRef(event_id, ticket_id), key_id=key_id, key=SigningKey.generate())


@pytest.mark.uncounted
@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_given_and_logged(reason, device, ticket, event):
    code = REFUSALS[reason](ticket, event)
    direction = EXIT if reason == "not_inside" else ENTRY

    device.gate.kinds.set([Kind.objects.create(event=event, name="VIP")] if reason == "wrong_gate" else [])

    [answer] = admit(device, attempt(device, code, "x", direction), now=AT.get(reason, NOW))

    assert verdicts([answer]) == [("refused", reason, False)]
    known = REASONS.index(reason) >= REASONS.index("void")
    assert log() == [
        ("x", direction, "refused", reason, ticket.id if known else None, None if known else code)
    ]
    assert (answer.stored.ticket_id is not None, answer.stored.holder is not None) == (known, known)


def test_the_reasons_are_judged_in_the_documented_order():
    found_in_the_code_itself = ("unreadable", "unknown_key", "bad_signature")

    assert tuple(MESSAGES) == found_in_the_code_itself + tuple(reason for reason, _ in RULES)


@pytest.mark.uncounted
def test_a_ticket_with_everything_wrong_is_refused_for_the_first_reason(device, ticket):
    change(ticket, voided_at=NOW, transferred_at=NOW, admitted_at=NOW)

    assert verdicts(admit(device, attempt(device, ticket.code, "a"), now=AT["too_late"])) == [
        ("refused", "void", False)
    ]


@pytest.mark.uncounted
def test_nobody_is_kept_inside(device, ticket):
    admit(device, attempt(device, ticket.code, "in"))
    change(ticket, voided_at=NOW)

    [answer] = admit(device, attempt(device, ticket.code, "out", EXIT), now=AT["too_late"])

    assert (answer.stored.verdict, answer.message) == ("admitted", "Goodbye.")


def test_the_code_of_an_event_that_does_not_exist_names_no_ticket(device):
    code = issuing.code_of(event_id=2**31 - 1, ticket_id=5)

    assert verdicts(admit(device, attempt(device, code, "a"))) == [("refused", "unknown_ticket", False)]


def test_what_was_read_is_kept_cut(device):
    admit(device, attempt(device, "x" * 1000, "a"))

    assert log() == [("a", "entry", "refused", "unreadable", None, "x" * CODE_KEPT_CHARS)]


def test_the_doors_open_and_close_to_the_second(device, event):
    first, last, early, late = issue(event, 4)

    answers = [
        admit(device, attempt(device, first.code, "1"), now=event.doors_at)[0],
        admit(device, attempt(device, last.code, "2"), now=event.ends_at)[0],
        admit(device, attempt(device, early.code, "3"), now=event.doors_at - timedelta(microseconds=1))[0],
        admit(device, attempt(device, late.code, "4"), now=event.ends_at + timedelta(microseconds=1))[0],
    ]

    assert [reason for _, reason, _ in verdicts(answers)] == [None, None, "too_early", "too_late"]


@pytest.mark.uncounted
def test_where_a_tickets_row_lies_the_log_has_the_last_word(device, ticket):
    admit(device, attempt(device, ticket.code, "a"))
    change(ticket, admitted_at=None, admitted_gate_id=None, inside=False)

    [answer] = admit(device, attempt(device, ticket.code, "b"), now=NOW + timedelta(minutes=1))

    assert verdicts([answer]) == [("refused", "already_admitted", False)]
    assert (answer.stored.admitted_at, answer.stored.gate) == (NOW, "Main gate")


@pytest.mark.uncounted
def test_postgres_itself_keeps_no_second_admission(device, ticket):
    admit(device, attempt(device, ticket.code, "a"))
    row = Scan.objects.get()
    row.id, row.nonce = None, "b"

    with pytest.raises(IntegrityError):
        row.save(force_insert=True)


@pytest.mark.uncounted
def test_a_process_of_the_version_before_goes_on_recording_while_this_one_is_rolled_out(device, ticket):
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO ticket_scans (event_id, nonce, ticket_id, gate_id, device_id, direction, verdict, scanned_at,"
            " recorded_at, offline) VALUES (%s, 'old', %s, %s, %s, 'entry', 'admitted', now(), now(), FALSE)",
            [device.gate.event_id, ticket.id, device.gate_id, device.id],
        )

    assert verdicts(admit(device, attempt(device, ticket.code, "new"))) == [
        ("refused", "already_admitted", False)
    ]


def test_no_scans_need_no_answer(device):
    assert admit(device) == []


def race(number, work):
    """Run work(0) … work(number - 1) on threads that start together, and return what they returned."""
    together = threading.Barrier(number, timeout=20)

    def run(index):
        try:
            together.wait()
            return work(index)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(run, range(number)))


@pytest.mark.django_db(transaction=True)
def test_of_64_parallel_scans_of_one_ticket_exactly_one_is_admitted():
    event = make_event()
    device = make_device(event)[0]
    ticket = issue(event)[0]
    connection.close()

    answers = race(64, lambda index: admit(device, attempt(device, ticket.code, f"n{index}"))[0])

    assert Counter(verdicts(answers)) == {
        ("admitted", None, False): 1,
        ("refused", "already_admitted", False): 63,
    }
    assert Counter(Scan.objects.values_list("verdict", flat=True)) == {"admitted": 1, "refused": 63}
    assert {answer.stored.gate for answer in answers} == {"Main gate"}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("readable", [True, False])
def test_the_same_nonce_in_flight_many_times_gets_one_verdict(readable):
    event = make_event()
    device = make_device(event)[0]
    code = issue(event)[0].code if readable else "rubbish"
    connection.close()

    answers = race(16, lambda index: admit(device, attempt(device, code, "same"))[0])

    assert len({answer.stored for answer in answers}) == 1
    assert Counter(answer.replayed for answer in answers) == {False: 1, True: 15}
    assert Scan.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_one_nonce_on_two_tickets_at_once_admits_only_one_of_them():
    event = make_event()
    device = make_device(event)[0]
    tickets = issue(event, 8)
    connection.close()

    def scan(index):
        [answer] = admit(device, attempt(device, tickets[index].code, "same"))
        return answer.code if isinstance(answer, NonceReused) else answer.stored.verdict

    assert Counter(race(8, scan)) == {"admitted": 1, "nonce_reused": 7}
    assert Ticket.objects.filter(inside=True).count() == 1


@pytest.mark.django_db(transaction=True)
def test_batches_that_cross_each_other_all_come_through_and_admit_each_ticket_once():
    event = make_event()
    device = make_device(event)[0]
    tickets = issue(event, 30)
    connection.close()

    def batch(index):
        order = tickets if index % 2 else tickets[::-1]
        return admit(device, *(attempt(device, ticket.code, f"{index}-{ticket.id}") for ticket in order))

    answers = [answer for answers in race(8, batch) for answer in answers]

    assert Counter(answer.stored.verdict for answer in answers) == {"admitted": 30, "refused": 210}
    assert Counter(Scan.objects.values_list("verdict", flat=True)) == {"admitted": 30, "refused": 210}


@pytest.mark.django_db(transaction=True)
def test_a_deadlock_is_tried_again(monkeypatch):
    event = make_event()
    device = make_device(event)[0]
    ticket = issue(event)[0]
    lock, calls = queries.lock_tickets, []

    def deadlock_once(conn, **arguments):
        calls.append(arguments)
        if len(calls) == 1:
            conn.exec_driver_sql("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END $$")
        return lock(conn, **arguments)

    monkeypatch.setattr(queries, "lock_tickets", deadlock_once)

    assert verdicts(admit(device, attempt(device, ticket.code, "a"))) == [("admitted", None, False)]
    assert len(calls) == 2


@pytest.mark.django_db(transaction=True)
def test_statistics_add_up_while_gates_are_busy():
    event = make_event()
    device = make_device(event)[0]
    tickets = issue(event, 60)
    connection.close()

    def work(index):
        if index == 0:
            with db.begin() as conn:
                return [event_totals(conn, event_id=event.id) for _ in range(100)]
        for number, ticket in enumerate(tickets):
            admit(device, attempt(device, ticket.code, f"{index}-{number}"))
        return []

    for totals in race(6, work)[0]:
        assert totals.scans == totals.entries + totals.exits + totals.refused
        assert totals.refused == sum(totals.refused_by_reason.values())
        assert totals.entries == totals.admitted


@pytest.mark.django_db(transaction=True)
def test_calls_that_race_for_the_last_places_never_issue_beyond_the_capacity():
    event = make_event(capacity=50)
    connection.close()

    def buy(_index):
        try:
            return len(issue(event, 7))
        except issuing.CapacityExceeded:
            return 0

    assert sum(race(15, buy)) == 49
    assert Ticket.objects.count() == 49


@pytest.mark.django_db
def test_a_row_keeps_its_event_and_is_saved_by_it():
    event, other = make_event(), make_event()
    ticket = Ticket.objects.get(id=issue(event)[0].id)

    ticket.event, ticket.holder = other, "Ada"
    with pytest.raises(DatabaseError, match="did not affect any rows"), transaction.atomic():
        ticket.save()
    ticket.event = event
    ticket.save()

    assert Ticket.objects.values_list("event_id", "holder").get() == (event.id, "Ada")
