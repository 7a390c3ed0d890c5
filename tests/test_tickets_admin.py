"""What an organiser does in the admin."""

import re

import pytest
from django.contrib import admin
from django.urls import reverse

from analytics.models import Conflict, Scan
from tests.factories import NOW, admit, attempt, issue, make_device, make_event
from tickets.models import Device, Event, Gate, ServiceToken, Ticket
from tickets.tokens import token_hash

pytestmark = pytest.mark.django_db

EVENT = {
    "name": "Midsummer",
    "slug": "midsummer",
    "time_zone": "Asia/Kathmandu",
    "doors_at_0": "2026-06-20",
    "doors_at_1": "18:00",
    "starts_at_0": "2026-06-20",
    "starts_at_1": "19:00",
    "ends_at_0": "2026-06-20",
    "ends_at_1": "23:00",
    "capacity": "500",
    "reentry": "never",
    "kind_set-TOTAL_FORMS": "0",
    "kind_set-INITIAL_FORMS": "0",
    "gate_set-TOTAL_FORMS": "1",
    "gate_set-INITIAL_FORMS": "0",
    "gate_set-0-name": "North",
}


def add(client, model, data):
    return client.post(
        reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_add"), data, follow=True
    )


def errors(response):
    return {**response.context["adminform"].form.errors}


@pytest.mark.uncounted
@pytest.mark.parametrize("model", [Event, Gate, Device, ServiceToken, Ticket, Scan, Conflict])
def test_every_list_and_search_answers_under_the_strict_policy(admin_client, model):
    event = make_event()
    device = make_device(event)[0]
    ticket = issue(event)[0]
    admit(device, attempt(device, ticket.code, "a"))
    Ticket.objects.update(voided_at=NOW)
    admit(device, attempt(device, ticket.code, "b", happened_at=NOW))

    listing = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    odd = [
        "?q=%00",
        "?q=99999999999999999999",
        "?reason=%00",
        "?token_hash=1",
        "?id=x",
        "?e=1",
        "?o=x",
        "?p=x",
        "?event=x",
        "?event=99999999999999999999",
        "?state=%00",
    ]
    for query in ["", "?q=a", "?o=1", *odd]:
        page = admin_client.get(listing + query, follow=True)
        assert page.status_code == 200 or (page.status_code == 400 and query in odd)
        assert "default-src 'self'" in page["Content-Security-Policy"]


def test_an_event_is_added_with_its_gates(admin_client):
    add(admin_client, Event, EVENT)

    event = Event.objects.get()
    assert (event.slug, event.capacity, [gate.name for gate in event.gate_set.all()]) == (
        "midsummer",
        500,
        ["North"],
    )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"starts_at_1": "17:00"}, "__all__"),
        ({"ends_at_1": "18:30"}, "__all__"),
        ({"slug": "no spaces"}, "slug"),
        ({"name": "a\x00b"}, "name"),
        ({"capacity": "-1"}, "capacity"),
        ({"capacity": "99999999999"}, "capacity"),
    ],
)
def test_an_event_that_makes_no_sense_is_refused_with_a_word(admin_client, change, field):
    response = add(admin_client, Event, {**EVENT, **change})

    assert list(errors(response)) == [field]
    assert not Event.objects.exists()


def test_two_events_of_one_name_in_addresses_are_refused(admin_client):
    make_event(slug="midsummer")

    assert list(errors(add(admin_client, Event, EVENT))) == ["slug"]


@pytest.mark.parametrize(("model", "prefix"), [(Device, "qrd_"), (ServiceToken, "qrs_")])
def test_a_token_is_shown_once_and_works(admin_client, model, prefix):
    event = make_event()
    gate = Gate.objects.create(event=event, name="North")

    page = add(admin_client, model, {"name": "New", "gate": gate.id, "scopes": ["stats:read"]})

    token = re.search(rf"{prefix}[\w-]+", page.content.decode())[0]
    row = model.objects.get()
    assert bytes(row.token_hash) == token_hash(token)
    change = reverse(f"admin:tickets_{model._meta.model_name}_change", args=[row.id])
    assert token not in admin_client.get(change).content.decode()


@pytest.mark.parametrize("model", [Device, ServiceToken])
def test_a_token_is_revoked_not_deleted(admin_client, model):
    add(
        admin_client,
        model,
        {
            "name": "New",
            "gate": Gate.objects.create(event=make_event(), name="N").id,
            "scopes": ["stats:read"],
        },
    )
    row = model.objects.get()
    listing = reverse(f"admin:tickets_{model._meta.model_name}_changelist")

    admin_client.post(listing, {"action": "revoke", "_selected_action": [row.id]})

    row.refresh_from_db()
    assert row.revoked_at is not None
    delete = reverse(f"admin:tickets_{model._meta.model_name}_delete", args=[row.id])
    assert admin_client.post(delete, {"post": "yes"}).status_code == 403


def test_a_ticket_is_issued_changed_and_voided_but_keeps_its_event(admin_client):
    event, other = make_event(), make_event()
    wish = {"event": event.id, "holder": "Ada", "email": "", "kind": "vip", "reference": ""}

    add(admin_client, Ticket, wish)
    add(admin_client, Ticket, {**wish, "holder": "Bob"})
    ada = Ticket.objects.get(holder="Ada")
    change = reverse("admin:tickets_ticket_change", args=[ada.id])
    admin_client.post(change, {**wish, "holder": "Ada L.", "event": other.id})
    page = admin_client.get(change).content.decode()
    listing = reverse("admin:tickets_ticket_changelist")
    admin_client.post(listing, {"action": "void", "_selected_action": [ada.id], "confirmed": "1"})

    ada.refresh_from_db()
    assert (ada.holder, ada.event_id, ada.reference, ada.voided_at is not None) == (
        "Ada L.",
        event.id,
        None,
        True,
    )
    assert f"/api/v1/tickets/{ada.id}/qr.svg" in page
    assert Ticket.objects.count() == 2


def test_the_admin_issues_nothing_beyond_the_capacity(admin_client):
    event = make_event(capacity=1)
    wish = {"event": event.id, "holder": "Ada", "email": "", "kind": "", "reference": ""}

    add(admin_client, Ticket, wish)
    page = add(admin_client, Ticket, wish)

    assert "The event admits 1; 0 more can be issued." in page.content.decode()
    assert Ticket.objects.count() == 1


def test_nobody_changes_the_scan_log(admin_client):
    event = make_event()
    device = make_device(event)[0]
    admit(device, attempt(device, issue(event)[0].code, "a"), now=NOW)
    scan = Scan.objects.get()

    assert admin_client.get(reverse("admin:analytics_scan_add")).status_code == 403
    assert (
        admin_client.post(reverse("admin:analytics_scan_delete", args=[scan.id]), {"post": "yes"}).status_code
        == 403
    )
    assert (
        admin_client.post(reverse("admin:analytics_scan_change", args=[scan.id]), {"nonce": "b"}).status_code
        == 403
    )


def test_an_event_with_tickets_can_not_be_deleted(admin_client):
    event = make_event()
    issue(event)

    admin_client.post(reverse("admin:tickets_event_delete", args=[event.id]), {"post": "yes"})

    assert Event.objects.filter(id=event.id).exists()


def test_events_are_counted_with_their_tickets():
    from django.db.models import Count

    event = make_event()
    issue(event, 3)

    assert Event.objects.annotate(tickets=Count("ticket")).get().tickets == 3
    assert [row.scans for row in Ticket.objects.annotate(scans=Count("event"))] == [1, 1, 1]


@pytest.mark.parametrize("chosen", ["abc", "\x00", "1e9", "99999999999999999999999"])
@pytest.mark.parametrize(("model", "action"), [(Ticket, "void"), (Device, "revoke")])
def test_an_odd_choice_leads_back_to_the_list(admin_client, model, action, chosen):
    listing = reverse(f"admin:tickets_{model._meta.model_name}_changelist")

    page = admin_client.post(listing, {"action": action, "_selected_action": [chosen]}, follow=True)

    assert page.status_code == 200


def test_times_are_those_of_the_venue(admin_client):
    add(admin_client, Event, EVENT)

    event = Event.objects.get()
    form = admin_client.get(reverse("admin:tickets_event_change", args=[event.id])).content.decode()
    listing = admin_client.get(reverse("admin:tickets_event_changelist")).content.decode()
    assert event.doors_at.isoformat() == "2026-06-20T12:15:00+00:00"
    assert 'value="18:00:00"' in form
    assert "Sat 20 Jun 2026, 18:00" in listing


def test_a_change_in_the_admin_never_undoes_what_the_gate_did_meanwhile(admin_client):
    event = make_event()
    device = make_device(event)[0]
    ticket = issue(event)[0]
    stale = Ticket.objects.get(id=ticket.id)
    admit(device, attempt(device, ticket.code, "a"))

    form = type("Form", (), {"changed_data": ["holder"]})
    stale.holder = "Ada L."
    admin.site._registry[Ticket].save_model(None, stale, form, change=True)

    assert Ticket.objects.values_list("holder", "admitted_at", "inside").get() == ("Ada L.", NOW, True)


def test_a_reference_that_is_taken_is_refused_with_a_word(admin_client):
    event = make_event()
    wish = {"event": event.id, "holder": "Ada", "email": "", "kind": "", "reference": "r1"}
    add(admin_client, Ticket, wish)
    add(admin_client, Ticket, {**wish, "reference": "r2"})
    second = Ticket.objects.get(reference="r2")

    new = add(admin_client, Ticket, wish)
    changed = admin_client.post(reverse("admin:tickets_ticket_change", args=[second.id]), wish)

    assert list(errors(changed)) == ["reference"]
    assert list(errors(new)) in (["reference"], ["__all__"])


def test_what_has_scans_is_kept(admin_client):
    event = make_event()
    device = make_device(event)[0]
    admit(device, attempt(device, "rubbish", "a"))
    Device.objects.update(gate=Gate.objects.create(event=event, name="Other"))

    for model, row in ((Gate, device.gate), (Event, event)):
        delete = reverse(f"admin:tickets_{model._meta.model_name}_delete", args=[row.id])
        assert admin_client.post(delete, {"post": "yes"}).status_code == 403
