"""All that happened to a ticket, as its history page tells it."""

import re
from datetime import timedelta

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.urls import reverse
from django.utils import timezone

from analytics.models import Conflict, Direction, Scan
from tests.factories import NOW, admit, attempt, issue, make_device, make_event
from tickets import lifecycle, story
from tickets.models import Event, Ticket

pytestmark = pytest.mark.django_db


@pytest.fixture
def event():
    return make_event(reentry="after_exit")


@pytest.fixture
def device(event):
    return make_device(event)[0]


@pytest.fixture
def ticket(event):
    return issue(event)[0]


def log(admin_user, ticket, words):
    LogEntry.objects.log_actions(admin_user.pk, [Ticket.objects.get(id=ticket.id)], CHANGE, words)


def told(ticket):
    moments = story.story_of(Ticket.objects.get(id=ticket.id)).moments
    return [(moment.what, moment.who) for moment in moments]


def minutes(count):
    return NOW + timedelta(minutes=count)


def test_it_is_told_in_order(event, device, ticket):
    admit(device, attempt(device, ticket.code, "a"), now=minutes(1))
    admit(device, attempt(device, ticket.code, "b"), now=minutes(2))
    admit(device, attempt(device, ticket.code, "c", Direction.EXIT), now=minutes(3))
    lifecycle.annul(event_id=event.id, nonce="c", device_id=device.id, now=minutes(4))
    lifecycle.void(ticket_id=ticket.id, now=minutes(5))
    admit(device, attempt(device, ticket.code, "d", force_reason="Known"), now=minutes(6))

    assert told(ticket) == [
        ("Issued.", ""),
        ("Entry at Main gate.", "Scanner"),
        ("Entry at Main gate refused: Already admitted.", "Scanner"),
        ("Exit at Main gate.", "Scanner"),
        ("The exit at Main gate was taken back.", "Scanner"),
        ("Voided.", ""),
        ("Entry at Main gate in spite of: This ticket is void. Because: Known", "Scanner"),
    ]


def test_the_page_shows_the_venues_times(admin_client, device, ticket):
    admit(device, attempt(device, ticket.code, "a"), now=minutes(1))

    shown = admin_client.get(reverse("admin:tickets_ticket_history", args=[ticket.id])).content.decode()

    assert re.findall(r"<time[^>]*>(.*?)</time></th><td>(.*?)</td><td>(.*?)</td>", shown) == [
        ("Fri 12 Jun 2026, 21:30", "Issued.", ""),
        ("Fri 12 Jun 2026, 21:31", "Entry at Main gate.", "Scanner"),
    ]
    assert "times of Europe/Berlin" in shown


def test_who_voided_it_is_said_once(admin_user, ticket):
    lifecycle.void(ticket_id=ticket.id, now=NOW)
    for _ in range(2):
        log(admin_user, ticket, "Voided.")

    assert told(ticket) == [("Issued.", ""), ("Voided.", "admin")]


def test_a_ticket_that_is_valid_was_never_voided_whatever_an_old_log_says(admin_user, ticket):
    log(admin_user, ticket, "Voided.")

    assert told(ticket) == [("Issued.", "")]


def test_whom_a_device_let_in_offline_is_told_from_whom_it_turned_away(event, device, ticket):
    lifecycle.void(ticket_id=ticket.id, now=NOW)
    admit(device, attempt(device, ticket.code, "a", happened_at=minutes(1)), now=minutes(9))
    away = attempt(device, ticket.code, "b", happened_at=minutes(2), refused_offline="void")
    admit(device, away, now=minutes(9))

    assert told(ticket)[2:] == [
        ("Entry at Main gate: let in offline, should have been refused: This ticket is void.", "Scanner"),
        ("Entry at Main gate turned away offline: This ticket is void.", "Scanner"),
    ]


def test_signing_off_a_conflict_is_a_moment(event, device, ticket):
    lifecycle.void(ticket_id=ticket.id, now=NOW)
    admit(device, attempt(device, ticket.code, "a", happened_at=minutes(1)), now=minutes(9))
    Conflict.objects.update(signed_off_at=minutes(20), signed_off_by="boss", note="She paid.")

    assert told(ticket)[-1] == ("The conflict about the entry at Main gate was signed off: She paid.", "boss")


def test_an_exit_that_came_before_its_entry_is_no_refusal(device, ticket):
    out = attempt(device, ticket.code, "a", Direction.EXIT, happened_at=minutes(1))
    admit(device, out, now=minutes(9))

    assert told(ticket)[1:] == [
        ("Exit at Main gate (made offline): its entry was not known then.", "Scanner")
    ]


def test_a_history_that_is_cut_says_so(admin_client, monkeypatch, device, ticket):
    monkeypatch.setattr(story, "MAX_SCANS", 2)
    for number in range(5):
        admit(device, attempt(device, ticket.code, f"a{number}"), now=minutes(number))

    shown = admin_client.get(reverse("admin:tickets_ticket_history", args=[ticket.id])).content.decode()

    assert shown.count("Already admitted.") == 2
    assert "Without 3 earlier scans" in shown


def test_a_ticket_that_was_passed_on_leads_both_ways(ticket):
    new = lifecycle.transfer(
        ticket_id=ticket.id, holder="Grace", email="", reference=None, by="admin", now=timezone.now()
    )

    assert told(ticket)[-1] == (f"Passed on: see ticket {new.id}.", "admin")
    assert (f"Came from ticket {ticket.id}.", "admin") in told(new)
    assert (Event.objects.count(), Scan.objects.count()) == (1, 0)
