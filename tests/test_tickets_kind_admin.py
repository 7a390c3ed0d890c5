"""Kinds of tickets in the admin: their windows, and when one can go, with its event or without."""

import pytest
from django.urls import reverse

from tests.factories import issue, make_event
from tests.test_tickets_admin import EVENT, add
from tickets.models import Event, Gate, Kind

pytestmark = pytest.mark.django_db


def form_of(event, kind, **fields):
    """What the browser sends of an event's page with one kind."""
    local = {
        name: getattr(event, name).astimezone(event.zone) for name in ("doors_at", "starts_at", "ends_at")
    }
    times = {f"{name}_0": f"{at:%Y-%m-%d}" for name, at in local.items()}
    times |= {f"{name}_1": f"{at:%H:%M:%S}" for name, at in local.items()}
    return {
        **{name: getattr(event, name) for name in ("name", "slug", "time_zone", "reentry")},
        **times,
        "capacity": "",
        "kind_set-TOTAL_FORMS": "1",
        "kind_set-INITIAL_FORMS": "1",
        "kind_set-0-id": kind.id,
        "kind_set-0-event": event.id,
        "gate_set-TOTAL_FORMS": "0",
        "gate_set-INITIAL_FORMS": "0",
        **{f"kind_set-0-{name}": value for name, value in fields.items()},
    }


def change(client, event, kind, **fields):
    page = reverse("admin:tickets_event_change", args=[event.id])
    return client.post(page, form_of(event, kind, **fields))


def problems(page):
    """What the page says against its kinds; nothing where it was saved."""
    if page.status_code == 302:
        return []
    formset = page.context["inline_admin_formsets"][0].formset
    return [
        *formset.non_form_errors(),
        *(words for form in formset for line in form.errors.values() for words in line),
    ]


def test_a_kind_keeps_its_name_and_changes_the_rest(admin_client):
    event = make_event()
    kind = Kind.objects.create(event=event, name="vip")

    page = change(admin_client, event, kind, name="other", capacity="7")

    assert problems(page) == []
    assert Kind.objects.values_list("name", "capacity").get() == ("vip", 7)


@pytest.mark.parametrize(
    ("day", "time", "field", "words"),
    [
        ("2026-06-20", "23:00", "admits_from", "The event is over by then: choose a time before it ends."),
        ("2027-06-20", "17:00", "admits_from", "The event is over by then: choose a time before it ends."),
        ("2026-06-20", "18:00", "admits_until", "The doors are not open yet: choose a time after they open."),
        ("2025-06-20", "20:00", "admits_until", "The doors are not open yet: choose a time after they open."),
        ("2026-06-20", "17:00", "admits_from", None),
        ("2026-06-20", "20:00", "admits_until", None),
    ],
)
def test_a_kind_that_would_never_be_admitted_is_refused_with_a_word(admin_client, day, time, field, words):
    kinds = {
        "kind_set-TOTAL_FORMS": "1",
        "kind_set-0-name": "vip",
        f"kind_set-0-{field}_0": day,
        f"kind_set-0-{field}_1": time,
    }

    page = add(admin_client, Event, {**EVENT, **kinds})

    assert Event.objects.exists() == (words is None)
    if words:
        assert problems(page) == [words]


def test_a_kind_that_nobody_has_is_deleted(admin_client):
    event = make_event()
    kind = Kind.objects.create(event=event, name="vpi")
    Kind.objects.create(event=event, name="vip")

    page = change(admin_client, event, kind, DELETE="on")

    assert problems(page) == []
    assert list(Kind.objects.values_list("name", flat=True)) == ["vip"]


def test_a_kind_that_a_ticket_has_stays(admin_client):
    event = make_event()
    kind = Kind.objects.create(event=event, name="vip")
    issue(event, kind="vip")

    page = change(admin_client, event, kind, DELETE="on")

    assert problems(page) == ["The kind vip stays: there are tickets of it."]
    assert Kind.objects.exists()


def test_the_only_kind_of_a_gate_stays_for_the_gate_would_admit_all(admin_client):
    event = make_event()
    kind = Kind.objects.create(event=event, name="crew")
    Gate.objects.create(event=event, name="Backstage").kinds.add(kind)

    page = change(admin_client, event, kind, DELETE="on")

    assert problems(page) == [
        "The gate Backstage admits only crew, and without it every kind: change the gate first."
    ]
    assert Kind.objects.exists()


def test_an_event_is_deleted_with_its_kinds(admin_client):
    event = make_event()
    Kind.objects.create(event=event, name="vip")
    delete = reverse("admin:tickets_event_delete", args=[event.id])

    asked = admin_client.get(delete).content.decode()
    before = Kind.objects.count()
    admin_client.post(delete, {"post": "yes"})

    assert "Ticket kind: vip" in asked
    assert (before, Kind.objects.count(), Event.objects.count()) == (1, 0, 0)


def test_an_event_with_tickets_keeps_them_and_its_kinds(admin_client):
    event = make_event()
    Kind.objects.create(event=event, name="vip")
    issue(event, kind="vip")

    admin_client.post(reverse("admin:tickets_event_delete", args=[event.id]), {"post": "yes"})

    assert (Event.objects.count(), Kind.objects.count()) == (1, 1)
