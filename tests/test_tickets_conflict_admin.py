"""Conflicts in the admin: what each is about, and how it is signed off."""

import re
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse

from analytics.models import Conflict
from tests.factories import NOW, admit, attempt, client_who_may, issue, make_device, make_event

pytestmark = pytest.mark.django_db
LISTING = "/admin/analytics/conflict/"


@pytest.fixture
def event():
    return make_event(name="Midsummer")


def make_conflict(event):
    """Let in at North at 21:32, while South had let in the same ticket at 21:30; return it with its ticket."""
    ticket = issue(event)[0]
    north, south = (make_device(event, gate=gate, name=f"{gate} phone")[0] for gate in ("North", "South"))
    admit(south, attempt(south, ticket.code, f"s{ticket.id}"), now=NOW)
    late = attempt(north, ticket.code, f"n{ticket.id}", happened_at=NOW + timedelta(minutes=2))
    admit(north, late, now=NOW + timedelta(minutes=10))
    return Conflict.objects.latest("id"), ticket


def change(conflict):
    return reverse("admin:analytics_conflict_change", args=[conflict.id])


def listed(client, query=""):
    page = client.get(LISTING + query).content.decode()
    return re.findall(r'<(?:td|th) class="field-(\w+)[^>]*>(?:<a[^>]*>)?(.*?)</', page)


def said(page):
    return [str(message) for message in page.context["messages"]]


def facts(page):
    pattern = r'<label>([^<]*):</label>\s*<div class="readonly">(.*?)</div>'
    return dict(re.findall(pattern, page.content.decode(), re.DOTALL))


def test_the_list_says_what_each_conflict_is_about(admin_client, event):
    make_conflict(event)

    assert listed(admin_client) == [
        ("noticed", "Fri 12 Jun 2026, 21:40"),
        ("event", "Midsummer"),
        ("holder", "Holder 0"),
        ("reason", "already_admitted"),
        ("let_in_at", "North, North phone"),
        ("other_at", "South, South phone"),
        ("apart", "2.0"),
        ("signed_off", "not yet"),
    ]


def test_the_list_reads_names_for_a_page_at_a_time(admin_client, event, django_assert_max_num_queries):
    for _ in range(12):
        make_conflict(event)

    with django_assert_max_num_queries(20):
        assert len(listed(admin_client)) == 12 * 8


def test_the_list_is_filtered_by_event_and_by_what_is_open(admin_client, event):
    done, _ = make_conflict(event)
    make_conflict(make_event(name="Other"))
    Conflict.objects.filter(id=done.id).update(signed_off_at=NOW, signed_off_by="boss", note="Paid")

    by_query = {
        query: [value for column, value in listed(admin_client, query) if column == "event"]
        for query in (f"?event={event.id}", "?state=open", "?state=signed_off", "?reason=void")
    }

    assert list(by_query.values()) == [["Midsummer"], ["Other"], ["Midsummer"], []]


def test_a_conflict_has_both_entries_and_leads_to_the_tickets_history(admin_client, event):
    conflict, ticket = make_conflict(event)

    shown = facts(admin_client.get(change(conflict)))

    history = reverse("admin:tickets_ticket_history", args=[ticket.id])
    assert shown == {
        "Event": "Midsummer",
        "Ticket": f'<a href="{history}">Holder 0 ({ticket.id})</a>',
        "Should have been refused": "Already admitted.",
        "Let in": "North, North phone, Fri 12 Jun 2026, 21:32",
        "Other entry": "South, South phone, Fri 12 Jun 2026, 21:30",
        "Minutes apart": "2.0",
        "Noticed": "Fri 12 Jun 2026, 21:40",
        "Signed off": "not yet",
    }


def test_it_is_signed_off_once_with_a_note(admin_client, event):
    conflict, _ = make_conflict(event)

    empty = admin_client.post(change(conflict), {"note": ""})
    done = admin_client.post(change(conflict), {"note": "Twins"}, follow=True)
    late = admin_client.post(change(conflict), {"note": "Other"}, follow=True)

    conflict.refresh_from_db()
    assert list(empty.context["adminform"].form.errors) == ["note"]
    assert (conflict.note, conflict.signed_off_by, conflict.signed_off_at is not None) == (
        "Twins",
        "admin",
        True,
    )
    assert (done.redirect_chain, said(done)) == ([(LISTING, 302)], ["Signed off."])
    assert said(late) == ["admin had signed it off before: Twins"]
    assert not LogEntry.objects.exists()


def test_the_button_says_what_it_does_and_goes_when_that_is_done(admin_client, event):
    conflict, _ = make_conflict(event)

    def buttons():
        return re.findall(
            r'<input type="submit" [^>]*value="([^"]*)"', admin_client.get(change(conflict)).content.decode()
        )

    before = buttons()
    admin_client.post(change(conflict), {"note": "Twins"})

    assert (before, buttons()) == (["Sign off"], [])


def test_who_may_only_look_signs_nothing_off(event):
    conflict, _ = make_conflict(event)
    client = client_who_may("view_conflict")

    looked, sent = client.get(change(conflict)), client.post(change(conflict), {"note": "Nobody"})

    assert (looked.status_code, sent.status_code) == (200, 403)
    assert not Conflict.objects.exclude(signed_off_at=None).exists()


def test_no_conflict_is_deleted(admin_client, event):
    conflict, _ = make_conflict(event)

    assert (
        admin_client.post(reverse("admin:analytics_conflict_delete", args=[conflict.id])).status_code == 403
    )


def test_the_scan_log_has_names_and_the_venues_times(admin_client, event):
    conflict, ticket = make_conflict(event)

    page = admin_client.get(f"/admin/analytics/scan/?event={event.id}").content.decode()
    rows = re.findall(r'<(?:td|th) class="field-(?!ticket_id)\w+[^>]*>(?:<a[^>]*>)?(.*?)</', page)
    one = facts(admin_client.get(reverse("admin:analytics_scan_change", args=[conflict.scan_id])))

    assert [rows[:7], rows[7:]] == [
        [
            "Fri 12 Jun 2026, 21:32",
            "Midsummer",
            "North",
            "North phone",
            "Entry",
            "Refused",
            "already_admitted",
        ],
        ["Fri 12 Jun 2026, 21:30", "Midsummer", "South", "South phone", "Entry", "Admitted", "-"],
    ]
    assert (one["When"], one["Recorded"]) == ("Fri 12 Jun 2026, 21:32", "Fri 12 Jun 2026, 21:40")
    assert ticket.code not in page
