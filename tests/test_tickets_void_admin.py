"""Tickets are voided in the admin: after a question, and logged of those that it was done to."""

import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse
from django.utils import timezone

from tests.factories import issue, make_event
from tickets.models import Ticket

pytestmark = pytest.mark.django_db
LISTING = "/admin/tickets/ticket/"


def choose(client, ids, query="", **more):
    sent = {"action": "void", "_selected_action": ids, **more}
    return client.post(LISTING + query, sent, follow=True)


def said(page):
    return [str(message) for message in page.context["messages"]]


def void_ids():
    return set(Ticket.objects.exclude(voided_at=None).values_list("id", flat=True))


def logged():
    return sorted(LogEntry.objects.values_list("object_id", "change_message", "user__username"))


def test_nothing_is_voided_before_it_is_confirmed(admin_client):
    ids = [ticket.id for ticket in issue(make_event(name="Midsummer"), 3)]

    asked = choose(admin_client, ids[:2])
    before = void_ids()
    done = choose(admin_client, ids[:2], confirmed="2")

    assert "Void 2 tickets?" in asked.content.decode()
    assert "2 tickets of <b>Midsummer</b>" in asked.content.decode()
    assert (before, void_ids()) == (set(), set(ids[:2]))
    assert said(done) == ["Voided: 2."]
    assert logged() == sorted((str(id), "Voided.", "admin") for id in ids[:2])


@pytest.mark.uncounted
def test_only_what_was_voided_is_logged_as_voided(admin_client):
    new, void, moved = (ticket.id for ticket in issue(make_event(), 3))
    Ticket.objects.filter(id=void).update(voided_at=timezone.now())
    Ticket.objects.filter(id=moved).update(transferred_at=timezone.now())

    asked = choose(admin_client, [new, void, moved])
    done = choose(admin_client, [new, void, moved], confirmed="1")
    again = choose(admin_client, [new, void, moved], confirmed="1")

    assert "2 of those chosen are void or passed on already" in asked.content.decode()
    assert said(done) == ["Voided: 1."]
    assert said(again) == ["Nothing to void: what was chosen is void or passed on."]
    assert logged() == [(str(new), "Voided.", "admin")]


def test_all_that_a_filter_finds_are_voided_only_while_they_are_as_many_as_was_said(admin_client):
    event = make_event()
    chosen = issue(event, 60)
    other = issue(make_event())[0].id
    query = f"?event__id__exact={event.id}"
    first = [chosen[0].id]

    asked = choose(admin_client, first, query, select_across="1")
    late = issue(event)[0].id
    asked_again = choose(admin_client, first, query, select_across="1", confirmed="60")
    done = choose(admin_client, first, query, select_across="1", confirmed="61")

    assert "Void 60 tickets?" in asked.content.decode()
    assert "Void 61 tickets?" in asked_again.content.decode()
    assert said(done) == ["Voided: 61."]
    assert void_ids() == {late, *(ticket.id for ticket in chosen)}
    assert other not in void_ids()


def test_one_ticket_is_voided_on_its_own_page(admin_client):
    ticket = issue(make_event())[0]
    page = reverse("admin:tickets_ticket_void", args=[ticket.id])

    asked = admin_client.get(page).content.decode()
    before = void_ids()
    done = admin_client.post(page, {"confirmed": "1"}, follow=True)

    assert "Void 1 ticket?" in asked
    assert "every gate refuses it from now on" in " ".join(asked.split())
    assert before == set()
    assert done.redirect_chain == [(reverse("admin:tickets_ticket_change", args=[ticket.id]), 302)]
    assert void_ids() == {ticket.id}
    assert logged() == [(str(ticket.id), "Voided.", "admin")]
