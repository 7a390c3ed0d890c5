"""What becomes of a ticket: void, passed on, an admission taken back."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import pytest
from django.db import connection

from analytics.models import Direction, Scan
from core import db
from core.errors import NotFound, QrsiteError
from tests.factories import NOW, admit, attempt, issue, make_device, make_event, verdicts
from tests.fake_driver import until
from tests.test_scan_faults import sessions_that_wait
from tests.test_tickets_admission import race
from tickets import issuing, lifecycle, queries
from tickets.admission import ScanAnnulled
from tickets.models import Event, Kind, Ticket, Transfer

ENTRY, EXIT = Direction.ENTRY, Direction.EXIT
SOON = NOW + timedelta(minutes=1)


def pass_on(ticket_id, *, holder="Grace", email="", reference=None):
    return lifecycle.transfer(
        ticket_id=ticket_id, holder=holder, email=email, reference=reference, by="service Shop", now=NOW
    )


def test_a_void_ticket_is_refused_from_then_on_and_stays_void(device, ticket):
    first = lifecycle.void(ticket_id=ticket.id, now=NOW)
    again = lifecycle.void(ticket_id=ticket.id, now=SOON)

    assert (first.voided_at, again.voided_at) == (NOW, NOW)
    assert verdicts(admit(device, attempt(device, ticket.code, "a"))) == [("refused", "void", False)]


def test_what_is_passed_on_has_a_new_code_and_the_old_one_is_refused(device, event, ticket):
    new = pass_on(ticket.id, email="grace@example.org")
    new_code = issuing.code_of(event_id=event.id, ticket_id=new.id)

    answers = admit(device, attempt(device, ticket.code, "a"), attempt(device, new_code, "b"))

    assert verdicts(answers) == [("refused", "transferred", False), ("admitted", None, False)]
    assert (new.holder, new.email, new.kind, new.event_id) == (
        "Grace",
        "grace@example.org",
        "standard",
        event.id,
    )
    assert list(
        Transfer.objects.values_list("from_ticket_id", "to_ticket_id", "transferred_at", "transferred_by")
    ) == [(ticket.id, new.id, NOW, "service Shop")]


def test_the_sellers_reference_stays_with_the_ticket_that_was_sold(event):
    wish = issuing.Wish("Ada", "", "standard", "order-1")
    [sold] = issuing.issue(event_id=event.id, wishes=[wish], now=NOW)

    new = pass_on(sold.ticket_id)

    assert issuing.issue(event_id=event.id, wishes=[wish], now=SOON) == [sold]
    assert new.reference is None


def test_the_same_transfer_again_returns_the_same_ticket(ticket):
    new = pass_on(ticket.id, reference="move-1")

    assert pass_on(ticket.id, reference="move-1").id == new.id
    with pytest.raises(lifecycle.TicketTransferred) as refused:
        pass_on(ticket.id, reference="move-2")
    assert refused.value.details == {"to": str(new.id)}
    assert Ticket.objects.count() == 2


def test_the_reference_of_another_holders_transfer_returns_nobody_elses_ticket(ticket):
    pass_on(ticket.id, holder="Eve", reference="move-1")

    with pytest.raises(lifecycle.TicketTransferred):
        pass_on(ticket.id, holder="Mallory", reference="move-1")


@pytest.mark.django_db(transaction=True)
def test_voiding_waits_for_nobody_who_issues():
    event = make_event()
    [ticket] = issue(event)
    connection.close()
    issuing_now, voided = threading.Event(), threading.Event()

    def issues():
        with db.begin() as conn:
            queries.lock_event(conn, event_id=event.id)
            issuing_now.set()
            assert voided.wait(5)

    def voids():
        assert issuing_now.wait(5)
        lifecycle.void(ticket_id=ticket.id, now=NOW)
        voided.set()

    race(2, lambda index: voids() if index else issues())

    assert Ticket.objects.get().voided_at == NOW


def test_a_ticket_is_passed_on_again_by_its_new_holder(event, ticket):
    second = pass_on(ticket.id)
    third = pass_on(second.id, holder="Linus")

    assert list(Transfer.objects.order_by("id").values_list("from_ticket_id", "to_ticket_id")) == [
        (ticket.id, second.id),
        (second.id, third.id),
    ]


def test_what_is_void_or_used_or_gone_is_not_passed_on(device, event):
    void, used = issue(event, 2)
    lifecycle.void(ticket_id=void.id, now=NOW)
    admit(device, attempt(device, used.code, "a"))

    for ticket_id, error in ((void.id, lifecycle.TicketVoid), (used.id, lifecycle.TicketUsed), (5, NotFound)):
        with pytest.raises(error):
            pass_on(ticket_id)

    assert not Transfer.objects.exists()


def test_a_reference_of_another_ticket_is_refused(event, ticket):
    issuing.issue(event_id=event.id, wishes=[issuing.Wish("Ada", "", "standard", "taken")], now=NOW)

    with pytest.raises(lifecycle.ReferenceTaken):
        pass_on(ticket.id, reference="taken")

    assert Ticket.objects.get(id=ticket.id).transferred_at is None


def test_a_ticket_that_was_passed_on_is_voided_by_its_new_number(ticket):
    new = pass_on(ticket.id)

    with pytest.raises(lifecycle.TicketTransferred) as refused:
        lifecycle.void(ticket_id=ticket.id, now=NOW)

    assert refused.value.details == {"to": str(new.id)}
    assert lifecycle.void_many([ticket.id, new.id], now=NOW) == [new.id]


@pytest.mark.django_db
def test_a_transfer_takes_no_place_of_the_capacity():
    event = make_event(capacity=1)
    [ticket] = issue(event)
    pass_on(ticket.id)

    with pytest.raises(issuing.CapacityExceeded):
        issue(event)


@pytest.mark.django_db(transaction=True)
def test_of_a_scan_and_a_transfer_at_once_only_one_code_gets_in():
    event = make_event()
    device = make_device(event)[0]
    tickets = issue(event, 20)
    connection.close()

    def work(index):
        for number, ticket in enumerate(tickets):
            if index % 2:
                admit(device, attempt(device, ticket.code, f"{index}-{number}"))
            else:
                with suppress(QrsiteError):
                    pass_on(ticket.id)

    race(4, work)

    used = set(Ticket.objects.exclude(admitted_at=None).values_list("id", flat=True))
    moved = set(Ticket.objects.exclude(transferred_at=None).values_list("id", flat=True))
    assert used | moved == {ticket.id for ticket in tickets}
    assert not used & moved
    assert Transfer.objects.count() == len(moved)


def take_back(device, nonce, *, now=SOON):
    return lifecycle.annul(event_id=device.gate.event_id, nonce=nonce, device_id=device.id, now=now)


def state():
    return Ticket.objects.values_list("admitted_at", "admitted_gate_id", "inside").get()


def test_after_an_annulment_the_ticket_is_as_if_it_had_not_been_scanned(device, ticket):
    admit(device, attempt(device, ticket.code, "a"))

    row = take_back(device, "a")

    assert (row.annulled_at, row.verdict) == (SOON, "admitted")
    assert state() == (None, None, False)
    assert verdicts(admit(device, attempt(device, ticket.code, "b"), now=SOON)) == [("admitted", None, False)]
    assert state() == (SOON, device.gate_id, True)
    assert Scan.objects.count() == 2


def test_the_nonce_of_what_was_taken_back_lets_nobody_in(device, ticket):
    admit(device, attempt(device, ticket.code, "a"))
    take_back(device, "a")

    [again] = admit(device, attempt(device, ticket.code, "a"))

    assert isinstance(again, ScanAnnulled)
    assert state() == (None, None, False)


def test_taking_back_again_changes_nothing(device, ticket):
    admit(device, attempt(device, ticket.code, "a"))
    take_back(device, "a")
    admit(device, attempt(device, ticket.code, "b"), now=SOON)

    again = take_back(device, "a", now=NOW + timedelta(hours=9))

    assert again.annulled_at == SOON
    assert state() == (SOON, device.gate_id, True)


def test_the_last_that_happened_to_a_ticket_is_taken_back_and_nothing_before_it(device, ticket):
    Event.objects.update(reentry="after_exit")
    for minutes, nonce, way in ((0, "in", ENTRY), (1, "out", EXIT), (2, "again", ENTRY)):
        admit(device, attempt(device, ticket.code, nonce, way), now=NOW + timedelta(minutes=minutes))
    now = NOW + timedelta(minutes=4)

    for nonce in ("in", "out"):
        with pytest.raises(lifecycle.NotAnnullable, match="Somebody went through with this ticket since"):
            take_back(device, nonce, now=now)
    assert state() == (NOW, device.gate_id, True)
    take_back(device, "again", now=now)
    assert state() == (NOW, device.gate_id, False)
    take_back(device, "out", now=now)
    assert state() == (NOW, device.gate_id, True)
    take_back(device, "in", now=now)
    assert state() == (None, None, False)


def test_only_the_device_that_admitted_takes_back_and_only_for_a_quarter_of_an_hour(device, event, ticket):
    other = make_device(event, gate="North")[0]
    admit(device, attempt(device, ticket.code, "a"), attempt(device, "rubbish", "r"))
    late = NOW + timedelta(minutes=15, microseconds=1)

    for scanner, nonce, now, error in (
        (other, "a", SOON, lifecycle.NotAnnullable),
        (device, "a", late, lifecycle.NotAnnullable),
        (device, "r", SOON, lifecycle.NotAnnullable),
        (device, "unknown", SOON, NotFound),
    ):
        with pytest.raises(error):
            take_back(scanner, nonce, now=now)

    assert take_back(device, "a", now=NOW + timedelta(minutes=15)).annulled_at is not None


def test_kinds_are_issued_within_their_capacity_and_no_others(event):
    Kind.objects.create(event=event, name="VIP", capacity=2)
    Kind.objects.create(event=event, name="standard")

    issue(event, 5)
    issue(event, 2, kind="VIP")

    with pytest.raises(issuing.CapacityExceeded, match="The kind VIP admits 2; 0 more can be issued"):
        issue(event, kind="VIP")
    with pytest.raises(issuing.UnknownKind, match="no kind 'vip', but: VIP, standard"):
        issue(event, kind="vip")
    assert Ticket.objects.count() == 7


def test_a_voided_ticket_makes_room_for_another_of_its_kind(event):
    Kind.objects.create(event=event, name="VIP", capacity=1)
    [ticket] = issue(event, kind="VIP")
    lifecycle.void(ticket_id=ticket.id, now=NOW)

    assert len(issue(event, kind="VIP")) == 1


def test_what_was_issued_before_there_were_kinds_is_returned_by_its_reference(event):
    wish = issuing.Wish("Ada", "", "old", "r1")
    before = issuing.issue(event_id=event.id, wishes=[wish], now=NOW)
    Kind.objects.create(event=event, name="VIP")

    assert issuing.issue(event_id=event.id, wishes=[wish], now=SOON) == before


@pytest.mark.django_db(transaction=True)
def test_calls_that_race_for_the_last_of_a_kind_never_issue_beyond_it():
    event = make_event()
    Kind.objects.create(event=event, name="VIP", capacity=20)
    connection.close()

    def buy(_index):
        try:
            return len(issue(event, 3, kind="VIP"))
        except issuing.CapacityExceeded:
            return 0

    assert sum(race(10, buy)) == 18


@pytest.mark.django_db(transaction=True)
def test_an_annulment_and_a_scan_at_once_leave_the_ticket_as_the_log_has_it():
    event = make_event()
    device = make_device(event)[0]
    ticket = issue(event)[0]
    admit(device, attempt(device, ticket.code, "first"))
    connection.close()

    def work(index):
        if index == 0:
            return take_back(device, "first")
        return admit(device, attempt(device, ticket.code, f"n{index}"), now=SOON)

    race(6, work)

    entries = Scan.objects.filter(verdict="admitted", annulled_at=None)
    assert len(entries) <= 1
    assert state()[2] == bool(entries)


def while_it_waits(work, *, behind):
    """Do `behind` in a transaction that stays open until `work`, on another thread, waits for it; return what that did."""
    with ThreadPoolExecutor(1) as pool:
        with db.begin():
            behind()
            doing = pool.submit(work)
            until(lambda: doing.done() or sessions_that_wait() == 1)
        connection.close()
        return doing.result()


def told(work):
    """Return what a thread of its own got, or was told."""
    try:
        return work()
    except QrsiteError as error:
        return str(error)
    finally:
        connection.close()


@pytest.mark.django_db(transaction=True)
def test_who_takes_back_waits_for_the_scan_that_is_under_way_and_then_knows_of_it():
    event = make_event()
    device = make_device(event)[0]
    ticket = issue(event)[0]
    admit(device, attempt(device, ticket.code, "in"))

    answer = while_it_waits(
        lambda: told(lambda: take_back(device, "in")),
        behind=lambda: admit(device, attempt(device, ticket.code, "out", EXIT), now=SOON),
    )

    assert answer == "Somebody went through with this ticket since."
    assert state() == (NOW, device.gate_id, False)
    assert not Scan.objects.exclude(annulled_at=None).exists()


@pytest.mark.django_db(transaction=True)
def test_of_two_who_take_back_the_second_is_told_when_the_first_did():
    event = make_event()
    device = make_device(event)[0]
    ticket = issue(event)[0]
    admit(device, attempt(device, ticket.code, "in"))
    later = SOON + timedelta(minutes=1)

    answer = while_it_waits(
        lambda: told(lambda: take_back(device, "in", now=later).annulled_at),
        behind=lambda: take_back(device, "in"),
    )

    assert answer == SOON
    assert state() == (None, None, False)
