"""The statistics in the admin, as organisers read them."""

import re
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from threading import Thread

import pytest
import sqlalchemy
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from analytics.models import Conflict, Direction
from core import db
from tests.factories import (
    NOW,
    admit,
    attempt,
    client_who_may,
    issue,
    make_device,
    make_event,
    make_open_event,
)
from tickets import lifecycle
from tickets.models import Gate

pytestmark = pytest.mark.django_db

ALL = "/admin/tickets/event/statistics/"


@pytest.fixture
def event():
    return make_event(name="Midsummer", capacity=10)


@pytest.fixture
def device(event):
    return make_device(event)[0]


@pytest.fixture
def scanned(event, device):
    """Three came in within an hour, one of them left, one came back in vain, and something else was shown twice."""
    tickets = issue(event, 5)
    for minute, ticket in enumerate(tickets[:3]):
        admit(device, attempt(device, ticket.code, f"in-{minute}"), now=NOW + timedelta(minutes=20 * minute))
    at = NOW + timedelta(minutes=50)
    admit(device, attempt(device, tickets[0].code, "out", Direction.EXIT), now=at)
    for word in "ab":
        admit(device, attempt(device, tickets[0].code, word), attempt(device, "x", f"x{word}"), now=at)
    return tickets


def url(event, query=""):
    return f"/admin/tickets/event/{event.id}/statistics/{query}"


def text(client, address):
    answer = client.get(address)
    assert answer.status_code == 200
    return answer.content.decode()


def counters(page):
    cells = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page)
    return {name: re.sub(r"<.*?>", "", number) for name, number in cells}


def table(page, caption):
    """Return the rows of the table of that caption, pictures as their labels."""
    found = re.search(rf"<caption>{re.escape(caption)}.*?</caption>(.*?)</table>", page, re.DOTALL)
    if found is None:
        return None
    body = re.sub(
        r'<svg.*?aria-label="(.*?)".*?</svg>', r"\1", found[1].partition("<tbody>")[2], flags=re.DOTALL
    )
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    return [
        [re.sub(r"<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL)]
        for row in rows
    ]


def labels(page):
    return re.findall(r'<svg class="picture".*?aria-label="(.*?)"', page)


def test_an_event_is_counted(admin_client, event, scanned):
    page = text(admin_client, url(event))

    assert counters(page) == {
        "Issued": "5",
        "Admitted": "3",
        "Inside": "2",
        "Full, of 10": "20%",
        "No-shows": "2",
        "Refused scans": "4",
        "Void": "0",
        "Passed on": "0",
        "Open conflicts": "0",
    }
    assert re.search(r"As of <b>.*?</b>; times of Europe/Berlin\.", page)
    assert "Nobody came in during the last 5 minutes." in page
    assert "Best minute of the last week with scans: Fri 12 Jun 2026, 21:30, 1 came in." in page


def test_every_picture_says_what_it_shows_and_has_its_numbers_beside_it(admin_client, event, scanned):
    page = text(admin_client, url(event))

    assert labels(page) == [
        "Scans by 15 minutes, Fri 12 Jun, 21:30 to Fri 12 Jun, 22:15: 3 in, 4 refused; "
        "most came in at Fri 12 Jun, 21:30: 1.",
        "Entries by hour of the week: most on Friday from 21 to 22, 2 of 3.",
    ]
    assert table(page, "A row is 15 minutes") == [
        ["Fri 12 Jun, 21:30", "1", "1", "0", "0"],
        ["Fri 12 Jun, 21:45", "1", "1", "0", "0"],
        ["Fri 12 Jun, 22:00", "1", "1", "0", "0"],
        ["Fri 12 Jun, 22:15", "0", "0", "1", "4"],
    ]
    hours = table(page, "Who came in, by hour of the week")
    assert (len(hours), hours[21], hours[22]) == (
        24,
        ["21", "0", "0", "0", "0", "2", "0", "0"],
        ["22", "0", "0", "0", "0", "1", "0", "0"],
    )


def test_gates_and_refusals_have_bars_and_numbers(admin_client, event, scanned):
    Gate.objects.create(event=event, name="North")

    page = text(admin_client, url(event))

    assert table(page, "Scans at each gate") == [
        ["Main gate", "3", "100% of all", "0", "1", "4", "Fri 12 Jun 2026, 22:20"],
        ["North", "0", "0% of all", "0", "0", "0", "never"],
    ]
    assert table(page, "Refused by reason") == [
        ["already_admitted", "2", "50% of all"],
        ["unreadable", "2", "50% of all"],
    ]
    assert f"/admin/analytics/scan/?event={event.id}&amp;reason=unreadable" in page
    assert table(page, "Refused by gate") == [["Main gate", "4", "100% of all"]]
    assert table(page, "Refused by device") == [["Scanner", "4", "100% of all"]]


def test_what_is_tried_again_leads_to_its_story(admin_client, event, scanned):
    ticket = scanned[0].id
    story = reverse("admin:tickets_ticket_history", args=[ticket])

    pages = [text(client, url(event)) for client in (admin_client, client_who_may("view_scan"))]

    for page in pages:
        assert sorted(table(page, "Codes that were refused again and again")) == sorted(
            [
                [str(ticket), "2", "already_admitted", "Fri 12 Jun 2026, 22:20"],
                ["x", "2", "unreadable", "Fri 12 Jun 2026, 22:20"],
            ]
        )
    assert [story in page for page in pages] == [True, False]


def test_what_was_passed_on_is_listed(admin_client, event, scanned):
    lifecycle.transfer(
        ticket_id=scanned[4].id,
        holder="Ada",
        email="",
        reference=None,
        by="desk",
        now=NOW + timedelta(hours=1),
    )

    page = text(admin_client, url(event))

    assert table(page, "Tickets that were passed on last") == [
        ["Fri 12 Jun 2026, 22:30", "Holder 4", "Ada", "desk"]
    ]


def test_while_the_doors_are_open_the_pace_and_the_silent_are_told(admin_client):
    event = make_open_event()
    device = make_device(event)[0]
    make_device(event, gate="North", name="Sleeper")
    before = timezone.now() - timedelta(minutes=2)
    tickets = issue(event, 15)
    admit(device, *(attempt(device, ticket.code, ticket.code[-9:]) for ticket in tickets[:10]), now=before)

    page = text(admin_client, url(event))

    assert "2.0 a minute came in during the last 5 minutes." in page
    assert "At that rate the 5 who are missing would take 3 minutes." in page
    assert "<b>Nothing was scanned for 10 minutes at:</b> <bdi>North</bdi>." in page
    assert (
        "<b>Not seen for 10 minutes:</b> <bdi>Scanner (Main gate)</bdi>, <bdi>Sleeper (North)</bdi>." in page
    )


def test_of_many_silent_gates_some_are_named(admin_client):
    event = make_open_event()
    Gate.objects.bulk_create(Gate(event=event, name=f"Gate {number:02}") for number in range(22))

    page = text(admin_client, url(event))

    assert "<bdi>Gate 18</bdi>, <bdi>Gate 19</bdi> and 2 more." in page


def test_open_conflicts_lead_to_their_list(admin_client, event, device):
    ticket, at = issue(event)[0], NOW + timedelta(minutes=1)
    other = make_device(event, gate="North", name="Other")[0]
    admit(device, attempt(device, ticket.code, "a"))
    admit(other, attempt(other, ticket.code, "b", happened_at=at), now=at)
    link = f"/admin/analytics/conflict/?state=open&amp;event={event.id}"

    pages = [text(client, url(event)) for client in (admin_client, client_who_may("view_scan"))]

    assert (
        [counters(page)["Open conflicts"] for page in pages]
        == [str(Conflict.objects.count())] * 2
        == ["1"] * 2
    )
    assert [link in page for page in pages] == [True, False]


def test_an_event_without_anything_has_a_page(admin_client):
    page = text(admin_client, url(make_event()))

    assert set(counters(page).values()) == {"0"}
    assert labels(page) == []
    for words in ("Nothing was scanned so far.", "The event has no gate.", "Nothing was refused."):
        assert words in page


def links(page):
    return [
        (query.replace("&amp;", "&"), words)
        for query, words in re.findall(r'<a href="(\?[^"#]*)#timeline"[^>]*>(.*?)</a>', page)
    ]


def test_the_bars_may_be_of_other_lengths(admin_client, event, scanned):
    by_hour = text(admin_client, url(event, "?bucket=hour"))
    by_day = text(admin_client, url(event, "?bucket=day"))

    assert links(by_hour) == [
        ("?bucket=minute", "a minute"),
        ("?bucket=15min", "15 minutes"),
        ("?bucket=hour", "an hour"),
        ("?bucket=day", "a day"),
    ]
    assert '<a href="?bucket=hour#timeline" aria-current="true">' in by_hour
    assert table(by_hour, "A row is an hour") == [
        ["Fri 12 Jun, 21:00", "2", "2", "0", "0"],
        ["Fri 12 Jun, 22:00", "1", "1", "1", "4"],
    ]
    assert table(by_day, "A row is a day") == [["Fri 12 Jun 2026", "3", "3", "1", "4"]]


def test_there_are_never_more_bars_than_fit_and_the_earlier_ones_are_a_link_away(admin_client):
    event = make_event(ends_at=NOW + timedelta(days=40))
    device = make_device(event)[0]
    for days, ticket in zip((0, 3, 30), issue(event, 3), strict=True):
        admit(device, attempt(device, ticket.code, f"day-{days}"), now=NOW + timedelta(days=days))

    plain = text(admin_client, url(event))
    by_hour = text(admin_client, url(event, "?bucket=hour"))
    earlier = dict(map(reversed, links(by_hour)))["Earlier"]
    before = text(admin_client, url(event, earlier))

    assert [row[0] for row in table(plain, "A row is a day")] == [
        "Fri 12 Jun 2026",
        "Mon 15 Jun 2026",
        "Sun 12 Jul 2026",
    ]
    assert [row[0] for row in table(by_hour, "A row is an hour")] == ["Sun 12 Jul, 21:00"]
    assert earlier == "?bucket=hour&until=2026-07-04T12:00Z"
    assert "Latest" in dict(map(reversed, links(before)))
    assert table(before, "A row is an hour") is None
    assert "Nothing was scanned in this time." in before


def test_the_hour_that_comes_twice_is_two_bars(admin_client):
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    event = make_event(
        doors_at=first - timedelta(hours=1), starts_at=first, ends_at=first + timedelta(hours=9)
    )
    device = make_device(event)[0]
    for hour, ticket in enumerate(issue(event, 2)):
        admit(device, attempt(device, ticket.code, f"hour-{hour}"), now=first + timedelta(hours=hour))

    page = text(admin_client, url(event, "?bucket=hour"))

    assert [row[:2] for row in table(page, "A row is an hour")] == [
        ["Sun 25 Oct, 02:00 CEST", "1"],
        ["Sun 25 Oct, 02:00 CET", "1"],
    ]
    assert table(page, "Who came in, by hour of the week")[2] == ["2", "0", "0", "0", "0", "0", "0", "2"]


@pytest.mark.parametrize(
    "query",
    [
        "?bucket=week",
        "?bucket=%00",
        "?until=%00",
        "?until=2026-06-12",
        "?until=0001-01-01T00:00%2B14:00",
        "?until=9999-12-31T23:59-12:00",
        "?bucket=minute&until=2026-06-12T19:50Z",
    ],
)
def test_odd_questions_are_answered(admin_client, event, scanned, query):
    assert admin_client.get(url(event, query)).status_code == 200


ODD = ["<script>alert(1)</script>", "\u05d0\u05d1 & \u05d2", "W" * 200, "a\"b'c"]


class Tags(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, page):
        super().__init__()
        self.open, self.scripts, self.inline = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.inline += [name for name, _ in attrs if name == "style" or name.startswith("on")]
        if tag == "script":
            self.scripts.append(dict(attrs).get("src"))


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_names_and_nothing_runs_inline(admin_client, name):
    event = make_event(name=name)
    device = make_device(event, gate=name[:100], name=name[:100])[0]
    ticket = issue(event)[0]
    admit(
        device, attempt(device, ticket.code, "a"), attempt(device, f"{name}", "b"), attempt(device, name, "c")
    )

    for address in (url(event), ALL):
        found = Tags(text(admin_client, address))

        assert all(source and source.startswith("/static/") for source in found.scripts)
        assert found.inline == []


def test_all_events_are_listed_the_newest_first_with_what_they_sum_up_to(admin_client, event, scanned):
    other = make_event(name="Solstice")
    issue(other, 2)

    page = text(admin_client, ALL)

    assert counters(page) == {
        "Events": "2",
        "Issued": "7",
        "Admitted": "3",
        "Inside": "2",
        "No-shows": "4",
        "Refused scans": "4",
    }
    assert table(page, "All events, the newest first") == [
        ["Solstice", "2", "0", "0", "2", "0"],
        ["Midsummer", "5", "3", "2", "2", "4"],
    ]
    assert f'href="{url(event)}"' in page
    assert "Nobody came in anywhere for 12 hours." in page


def test_what_people_enter_now_is_on_top(admin_client):
    for name, number in (("Few", 1), ("Many", 3)):
        event = make_open_event(name=name)
        device = make_device(event)[0]
        scans = [attempt(device, ticket.code, ticket.code[-9:]) for ticket in issue(event, number)]
        admit(device, *scans, now=timezone.now())

    page = text(admin_client, ALL)

    assert table(page, "Events that people enter now") == [
        ["Many", "3", "75% of all"],
        ["Few", "1", "25% of all"],
    ]


def test_many_events_come_in_pages(admin_client):
    for _ in range(101):
        make_event()

    first, second, last = (text(admin_client, f"{ALL}?page={page}") for page in ("1", "2", "x"))

    assert [len(table(page, "All events, the newest first: page")) for page in (first, second, last)] == [
        100,
        1,
        100,
    ]
    assert '<a href="?page=2#events">Older</a>' in first
    assert '<a href="?page=1#events">Newer</a>' in second


def test_an_empty_site_has_a_page(admin_client):
    page = text(admin_client, ALL)

    assert set(counters(page).values()) == {"0"}
    assert "There is no event." in page


@contextmanager
def watching(tell):
    """Tell of each raw statement before it runs."""

    def before(_conn, _cursor, statement, *_more):
        tell(statement)

    sqlalchemy.event.listen(db.engine, "before_cursor_execute", before)
    yield
    sqlalchemy.event.remove(db.engine, "before_cursor_execute", before)


def statements(client, address):
    raw = []
    with CaptureQueriesContext(connection) as orm, watching(raw.append):
        text(client, address)
    return len(orm) + len(raw)


def test_a_page_costs_as_many_statements_however_much_there_is(admin_client):
    event = make_event()
    empty = statements(admin_client, url(event)), statements(admin_client, ALL)
    for gate in range(20):
        other = make_device(event, gate=f"Gate {gate}", name=f"Device {gate}")[0]
        ticket = issue(event)[0]
        for times in range(3):
            at = NOW + timedelta(hours=times)
            admit(
                other,
                attempt(other, ticket.code, f"{gate}-{times}"),
                attempt(other, f"{gate}", f"x{gate}-{times}"),
                now=at,
            )
        make_event()

    full = statements(admin_client, url(event)), statements(admin_client, ALL)

    # The timeline and the heatmap of an event without scans are not asked for.
    assert full == (empty[0] + 2, empty[1])
    assert full[0] <= 20
    assert full[1] <= 9


@pytest.mark.django_db(transaction=True)
def test_all_numbers_of_a_page_are_of_one_moment(admin_client, event, device):
    ticket = issue(event)[0]
    waiting = [Thread(target=admitting, args=(device, ticket))]

    def meanwhile(statement):
        if waiting and not statement.startswith("SET"):
            thread = waiting.pop()
            thread.start()
            thread.join()

    with watching(meanwhile):
        before = text(admin_client, url(event))
    after = text(admin_client, url(event))

    seen = [
        (counters(page)["Admitted"], [row[1] for row in table(page, "Scans at each gate")], len(labels(page)))
        for page in (before, after)
    ]
    assert seen == [("0", ["0"], 0), ("1", ["1"], 2)]


def admitting(device, ticket):
    admit(device, attempt(device, ticket.code, "meanwhile"))
    connection.close()


def test_only_staff_who_may_read_scans_see_them(event):
    may, may_not = client_who_may("view_scan"), client_who_may("view_event", "change_event", "view_ticket")

    for address in (url(event), ALL):
        assert [client.get(address).status_code for client in (may, may_not, Client())] == [200, 403, 302]
    for number in ("4711", "9" * 30):
        assert may.get(f"/admin/tickets/event/{number}/statistics/").status_code == 404


def test_a_button_leads_there_for_those_who_may(admin_client, event):
    may_not = client_who_may("view_event")
    places = [
        (reverse("admin:tickets_event_change", args=[event.id]), url(event)),
        (reverse("admin:tickets_event_changelist"), ALL),
        (reverse("admin:analytics_scan_changelist"), ALL),
    ]

    for place, address in places:
        assert f'<a href="{address}">Statistics</a>' in text(admin_client, place)
    for place, address in places[:2]:
        assert address not in text(may_not, place)
