"""What a person does with one ticket in the admin, and the organiser with kinds, gates and conflicts."""

import re
import uuid

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from analytics.models import Scan
from tests.factories import admit as admit_at
from tests.factories import attempt, client_who_may, issue, make_device, make_open_event
from tests.test_tickets_admin import EVENT, add
from tickets.models import Device, Event, Gate, Kind, Ticket

pytestmark = pytest.mark.django_db


@pytest.fixture
def event():
    return make_open_event()


@pytest.fixture
def device(event):
    return make_device(event)[0]


@pytest.fixture
def ticket(event):
    return issue(event)[0]


def admit(device, *scans):
    return admit_at(device, *scans, now=timezone.now())


def page(name, ticket):
    return reverse(f"admin:tickets_ticket_{name}", args=[ticket.id])


def buttons_of(client, ticket):
    shown = client.get(page("change", ticket)).content.decode()
    return {name for name in ("check_in", "pass_on", "void") if f'href="{page(name, ticket)}"' in shown}


def check_in(client, ticket, at, **fields):
    sent = {"gate": at.id, "direction": "entry", "nonce": uuid.uuid4(), **fields}
    return client.post(page("check_in", ticket), sent, follow=True).content.decode()


def test_a_check_in_by_hand_is_judged_and_logged_as_any_scan(admin_client, admin_user, device, ticket):
    first = check_in(admin_client, ticket, device.gate)
    second = check_in(admin_client, ticket, device.gate)
    out = check_in(admin_client, ticket, device.gate, direction="exit")

    assert "Holder 0: Admitted." in first
    assert re.search(r"Holder 0: Already admitted at \d\d:\d\d, Main gate\.", second)
    assert "Holder 0: Goodbye." in out
    assert list(Scan.objects.order_by("id").values_list("direction", "reason", "device_id", "user_id")) == [
        ("entry", None, None, admin_user.id),
        ("entry", "already_admitted", None, admin_user.id),
        ("exit", None, None, admin_user.id),
    ]


def test_a_check_in_of_the_wrong_ticket_is_taken_back(admin_client, device, ticket):
    check_in(admin_client, ticket, device.gate)
    form = admin_client.get(page("check_in", ticket)).content.decode()
    nonce = re.search(r'name="take_back" value="([\w-]+)"', form)[1]

    pages = [
        admin_client.post(page("check_in", ticket), {"take_back": nonce}, follow=True).content.decode()
        for _ in range(2)
    ]

    assert "the entry was taken back" in pages[0]
    assert "nothing here that can be taken back" in pages[1]
    assert Ticket.objects.values_list("admitted_at", "inside").get() == (None, False)
    assert "take_back" not in admin_client.get(page("check_in", ticket)).content.decode()


def test_what_a_device_admitted_the_desk_does_not_take_back(admin_client, device, ticket):
    admit(device, attempt(device, ticket.code, "a"))

    shown = admin_client.post(page("check_in", ticket), {"take_back": "a"}, follow=True).content.decode()

    assert "nothing here that can be taken back" in shown
    assert Ticket.objects.get().inside


def test_two_clicks_are_one_scan(admin_client, device, ticket):
    form = admin_client.get(page("check_in", ticket)).content.decode()
    nonce = re.search(r'name="nonce" value="([\w-]+)"', form)[1]

    pages = [check_in(admin_client, ticket, device.gate, nonce=nonce) for _ in range(2)]
    changed = check_in(admin_client, ticket, device.gate, nonce=nonce, direction="exit")

    assert all("Holder 0: Admitted." in page for page in pages)
    assert "Holder 0: nothing was done, for this form had been sent before. Fill in a new one." in changed
    assert Scan.objects.count() == 1


def test_the_desk_sees_what_each_gate_would_say_and_nothing_is_recorded(admin_client, event, device, ticket):
    closed = Gate.objects.create(event=event, name="Backstage")
    closed.kinds.add(Kind.objects.create(event=event, name="crew"))

    shown = admin_client.get(page("check_in", ticket)).content.decode()

    rows = re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', shown)
    assert rows == [
        ("Main gate", "Admitted."),
        ("Backstage", "This gate does not admit this kind of ticket."),
    ]
    assert not Scan.objects.exists()


@pytest.mark.uncounted
def test_only_who_may_force_is_asked_for_a_reason_and_can(event, device, ticket):
    Ticket.objects.update(voided_at=timezone.now())
    desk = client_who_may("check_in_ticket", "view_ticket")
    boss = client_who_may("check_in_ticket", "view_ticket", "force_admission")

    refused = check_in(desk, ticket, device.gate, force_reason="Please")
    asked = "force_reason" in desk.get(page("check_in", ticket)).content.decode()
    without = check_in(boss, ticket, device.gate)
    forced = check_in(boss, ticket, device.gate, force_reason="Known to the band")

    assert ("This ticket is void" in refused, asked, "This ticket is void" in without) == (True, False, True)
    assert "Admitted by the supervisor, in spite of: This ticket is void." in forced
    assert list(Scan.objects.order_by("id").values_list("forced_over", "force_reason")) == [
        (None, None),
        (None, None),
        ("void", "Known to the band"),
    ]


@pytest.mark.parametrize(
    ("permissions", "buttons"),
    [
        (["view_ticket"], set()),
        (["view_ticket", "check_in_ticket"], {"check_in"}),
        (["change_ticket"], {"pass_on", "void"}),
        (["change_ticket", "check_in_ticket"], {"check_in", "pass_on", "void"}),
    ],
)
def test_a_ticket_has_the_buttons_of_what_somebody_may_do(ticket, permissions, buttons):
    assert buttons_of(client_who_may(*permissions), ticket) == buttons


@pytest.mark.uncounted
@pytest.mark.parametrize(
    ("state", "buttons"),
    [
        ("admitted_at", {"check_in", "void"}),
        ("voided_at", {"check_in"}),
        ("transferred_at", {"check_in"}),
    ],
)
def test_a_ticket_has_no_button_that_could_only_fail(admin_client, ticket, state, buttons):
    Ticket.objects.update(**{state: timezone.now()})

    assert buttons_of(admin_client, ticket) == buttons


def test_who_may_only_check_in_reads_what_came_of_it(device, ticket):
    desk = client_who_may("check_in_ticket")

    shown = check_in(desk, ticket, device.gate)
    nonce = re.search(r'name="take_back" value="([\w-]+)"', shown)[1]
    back = desk.post(page("check_in", ticket), {"take_back": nonce}, follow=True).content.decode()

    assert "Holder 0: Admitted." in shown
    assert "the entry was taken back" in back
    assert f'href="{page("change", ticket)}"' not in shown


def test_the_gate_that_would_admit_is_chosen_first(admin_client, event, ticket):
    closed = Gate.objects.create(event=event, name="Artists")
    closed.kinds.add(Kind.objects.create(event=event, name="crew"))
    gate = Gate.objects.create(event=event, name="Main gate")

    shown = admin_client.get(page("check_in", ticket)).content.decode()

    assert re.findall(r'<option value="(\d+)" selected>Main gate', shown) == [str(gate.id)]


def test_an_event_without_a_gate_says_where_to_add_one(admin_client, event, ticket):
    to_event = reverse("admin:tickets_event_change", args=[event.id])

    boss = admin_client.get(page("check_in", ticket)).content.decode()
    desk = client_who_may("check_in_ticket").get(page("check_in", ticket)).content.decode()

    assert f'<a href="{to_event}">Add a gate to the event</a>' in boss
    assert "Ask somebody who may change the event to add a gate" in desk
    assert 'name="gate"' not in boss + desk


def test_a_forced_exit_is_called_one(admin_client, device, ticket):
    shown = check_in(admin_client, ticket, device.gate, direction="exit", force_reason="Lost")

    assert "Let out by the supervisor, in spite of: This ticket is not inside." in shown


@pytest.mark.parametrize("name", ["check_in", "pass_on", "void"])
def test_who_may_only_look_does_nothing(device, ticket, name):
    client = client_who_may("view_ticket")

    assert client.get(page(name, ticket)).status_code == 403
    assert client.post(page(name, ticket), {"holder": "Grace"}).status_code == 403
    assert (Scan.objects.count(), Ticket.objects.count()) == (0, 1)
    assert Client().get(page(name, ticket)).status_code == 302


@pytest.mark.parametrize(
    "fields", [{"gate": 99}, {"direction": "up"}, {"nonce": "x"}, {"force_reason": "a\x00b"}]
)
def test_an_odd_form_is_shown_again(admin_client, device, ticket, fields):
    shown = check_in(admin_client, ticket, device.gate, **fields)

    assert "errorlist" in shown
    assert not Scan.objects.exists()


def test_the_gate_of_another_event_is_none_of_this_ticket(admin_client, device, ticket):
    other = make_device(make_open_event())[0]

    assert "errorlist" in check_in(admin_client, ticket, other.gate)


def test_a_ticket_is_passed_on_at_the_desk(admin_client, ticket):
    sent = {"holder": "Grace", "email": "grace@example.org"}

    moved = admin_client.post(page("pass_on", ticket), sent, follow=True)
    again = admin_client.post(page("pass_on", ticket), sent, follow=True)
    wrong = admin_client.post(page("pass_on", ticket), {"holder": "", "email": "x"})

    new = Ticket.objects.get(holder="Grace")
    assert moved.redirect_chain == [(reverse("admin:tickets_ticket_change", args=[new.id]), 302)]
    assert "Passed on to Grace" in moved.content.decode()
    assert again.redirect_chain == moved.redirect_chain
    assert "It had been passed on already: this is the ticket of its new holder." in again.content.decode()
    assert list(wrong.context["form"].errors) == ["holder", "email"]
    assert Ticket.objects.count() == 2


def test_a_ticket_that_does_not_exist_has_no_pages(admin_client):
    codes = {
        name: admin_client.get(reverse(f"admin:tickets_ticket_{name}", args=[5])).status_code
        for name in ("check_in", "pass_on", "void", "history")
    }

    assert codes == {"check_in": 404, "pass_on": 404, "void": 404, "history": 302}


def test_an_event_is_added_with_its_kinds_and_their_venue_times(admin_client):
    kinds = {
        "kind_set-TOTAL_FORMS": "1",
        "kind_set-0-name": "VIP",
        "kind_set-0-capacity": "20",
        "kind_set-0-admits_from_0": "2026-06-20",
        "kind_set-0-admits_from_1": "17:00",
    }

    add(admin_client, Event, {**EVENT, **kinds, "reentry": "after_exit"})

    kind = Kind.objects.get()
    assert (kind.event.reentry, kind.name, kind.capacity, kind.admits_from.isoformat()) == (
        "after_exit",
        "VIP",
        20,
        "2026-06-20T11:15:00+00:00",
    )


def test_a_gate_offers_the_kinds_of_its_own_event(admin_client, event):
    gate = Gate.objects.create(event=event, name="North")
    mine = Kind.objects.create(event=event, name="mine")
    other = Kind.objects.create(event=make_open_event(), name="other")
    change = reverse("admin:tickets_gate_change", args=[gate.id])

    form = admin_client.get(change).content.decode()
    admin_client.post(change, {"name": "North", "kinds": [mine.id]})
    wrong = admin_client.post(change, {"name": "North", "kinds": [other.id]})

    assert re.findall(r'name="kinds" value="(\d+)"', form) == [str(mine.id)]
    assert list(gate.kinds.values_list("name", flat=True)) == ["mine"]
    assert wrong.status_code == 200
    assert admin_client.get(reverse("admin:tickets_gate_add")).status_code == 200


def test_only_who_may_makes_a_device_a_supervisors(event):
    gate = Gate.objects.create(event=event, name="North")
    sent = {"name": "Phone", "gate": gate.id, "rate_per_s": "50", "is_supervisor": "on"}
    path = reverse("admin:tickets_device_add")

    client_who_may("add_device", "view_device").post(path, sent)
    client_who_may("add_device", "view_device", "grant_supervisor").post(path, sent)

    assert list(Device.objects.order_by("id").values_list("is_supervisor", flat=True)) == [False, True]


def test_only_who_may_make_a_supervisors_device_enrols_one(event):
    device = make_device(event, is_supervisor=True)[0]
    path = reverse("admin:tickets_device_enrol", args=[device.id])

    refused = client_who_may("change_device", "view_device").post(path, follow=True)
    granted = client_who_may("change_device", "view_device", "grant_supervisor").post(path)

    assert "enrolled by somebody who may make one" in refused.content.decode()
    assert "#enrol=" in granted.content.decode()
