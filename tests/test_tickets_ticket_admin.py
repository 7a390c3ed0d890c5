"""The list and the form of tickets in the admin."""

import re

import pytest
from django.urls import reverse

from tests.factories import NOW, issue, make_event
from tickets.models import Kind, Ticket
from tickets.ticket_lists import STATES, state_of

pytestmark = pytest.mark.django_db
LISTING = "/admin/tickets/ticket/"
STATE_OF_FIELDS = {
    "issued": {},
    "inside": {"admitted_at": NOW, "inside": True},
    "left": {"admitted_at": NOW},
    "void": {"voided_at": NOW, "transferred_at": NOW, "admitted_at": NOW},
    "transferred": {"transferred_at": NOW},
}


def wish(event, **fields):
    return {
        "event": event.id,
        "holder": "Ada",
        "email": "ada@example.org",
        "kind": "",
        "reference": "",
        **fields,
    }


def add(client, sent):
    return client.post(reverse("admin:tickets_ticket_add"), sent)


def form_of(page):
    return page.context["adminform"].form


def ids_in(page):
    return {ticket.id for ticket in page.context["cl"].result_list}


@pytest.mark.uncounted
def test_the_list_is_filtered_by_what_became_of_tickets(admin_client):
    tickets = [ticket.id for ticket in issue(make_event(), len(STATE_OF_FIELDS))]
    by_state = dict(zip(STATE_OF_FIELDS, tickets, strict=True))
    for state, id in by_state.items():
        Ticket.objects.filter(id=id).update(**STATE_OF_FIELDS[state], holder=state)

    found = {state: ids_in(admin_client.get(f"{LISTING}?state={state}")) for state in STATES}

    valid = {by_state[state] for state in ("issued", "inside", "left")}
    assert found == {"valid": valid, **{state: {id} for state, id in by_state.items()}}
    assert all(state_of(ticket) == ticket.holder for ticket in Ticket.objects.all())


def test_the_list_is_filtered_by_the_kinds_of_the_chosen_event(admin_client):
    event, other = make_event(), make_event()
    for of, name in ((event, "vip"), (other, "crew")):
        Kind.objects.create(event=of, name=name)
    vip = issue(event, kind="vip")[0].id
    issue(other, kind="crew")

    page = admin_client.get(f"{LISTING}?event__id__exact={event.id}&kind=vip")

    assert ids_in(page) == {vip}
    assert set(re.findall(r"kind=(\w+)", page.content.decode())) == {"vip"}


def test_times_in_the_list_and_on_the_page_are_those_of_the_venue(admin_client):
    ticket = issue(make_event())[0]

    pages = [admin_client.get(LISTING), admin_client.get(f"{LISTING}{ticket.id}/change/")]

    assert all("Fri 12 Jun 2026, 21:30" in page.content.decode() for page in pages)


def test_a_kind_that_the_event_has_not_is_said_in_the_form_which_stays_filled_in(admin_client):
    event = make_event()
    Kind.objects.create(event=event, name="vip")

    page = add(admin_client, wish(event, kind="vpi"))

    assert dict(form_of(page).errors) == {"kind": ["The event has no kind 'vpi', but: vip."]}
    assert form_of(page)["email"].value() == "ada@example.org"
    assert '<option value="vip"></option>' in page.content.decode()
    assert not Ticket.objects.exists()


def test_a_ticket_too_many_is_said_in_the_form_which_stays_filled_in(admin_client):
    event = make_event(capacity=1)
    issue(event)

    page = add(admin_client, wish(event))

    assert dict(form_of(page).errors) == {"__all__": ["The event admits 1; 0 more can be issued."]}
    assert form_of(page)["holder"].value() == "Ada"
    assert Ticket.objects.count() == 1


def test_a_ticket_is_issued_once_though_it_was_tried_before(admin_client):
    page = add(admin_client, wish(make_event(capacity=1), reference="r1"))

    assert page.status_code == 302
    assert Ticket.objects.values_list("holder", "reference").get() == ("Ada", "r1")


@pytest.mark.uncounted
def test_a_print_with_one_void_ticket_says_how_to_leave_it_out(admin_client):
    ids = [ticket.id for ticket in issue(make_event(), 2)]
    Ticket.objects.filter(id=ids[0]).update(voided_at=NOW)

    page = admin_client.post(LISTING, {"action": "print_pages", "_selected_action": ids}, follow=True)

    assert "Choose among those of the state “valid”, which leaves them out." in page.content.decode()
