"""Statistics over HTTP: what may be asked, and that asking again costs next to nothing."""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from analytics import queries, statistics
from analytics.models import Conflict, Direction, Scan
from core import db
from tests.factories import NOW, admit, attempt, issue, make_device, make_event, make_service, rules_of
from tests.test_tickets_api import Caller, refusal
from tickets import lifecycle
from tickets.queries import DeviceAtGate
from tickets.scanning import judge_queue

pytestmark = pytest.mark.django_db

PARTS = ["", "/timeline", "/heatmap", "/gates", "/throughput", "/invalid-attempts", "/transfers", "/silent"]


@pytest.fixture
def event(db):
    return make_event()


@pytest.fixture
def device(event):
    return make_device(event)[0]


@pytest.fixture
def reader(db):
    return Caller(make_service("stats:read", "tickets:read"))


@pytest.fixture
def scanned(event, device):
    """Three came in within an hour, one of them left, and one came back in vain."""
    tickets = issue(event, 5)
    for minute, ticket in enumerate(tickets[:3]):
        admit(device, attempt(device, ticket.code, f"in-{minute}"), now=NOW + timedelta(minutes=20 * minute))
    at = NOW + timedelta(minutes=50)
    admit(device, attempt(device, tickets[0].code, "out", Direction.EXIT), now=at)
    admit(device, attempt(device, tickets[0].code, "again"), attempt(device, "x", "what"), now=at)
    return tickets


def test_a_timeline_without_a_range_is_all_that_there_is(reader, event, scanned):
    told = reader.get(f"/api/v1/events/{event.slug}/stats/timeline?bucket=15min").json()

    assert (told["zone"], told["bucket"], told["gate"]) == ("Europe/Berlin", "15min", None)
    assert [(span["since"][11:16], *list(span.values())[1:]) for span in told["spans"]] == [
        ("21:30", 1, 0, 1, 0),
        ("21:45", 1, 0, 1, 0),
        ("22:00", 1, 0, 1, 0),
        ("22:15", 0, 1, 0, 2),
    ]
    assert told["until"] == "2026-06-12T22:30:00+02:00"


def test_a_limit_without_a_range_leaves_the_last_spans(reader, event, scanned):
    told = reader.get(f"/api/v1/events/{event.slug}/stats/timeline?bucket=15min&limit=2").json()

    assert [span["since"][11:16] for span in told["spans"]] == ["22:00", "22:15"]


def test_a_range_is_by_the_clock_that_it_names(reader, event, scanned):
    base = f"/api/v1/events/{event.slug}/stats/timeline?bucket=hour"
    asked = [
        "&from=2026-06-12T21:00&to=2026-06-12T23:00",
        "&from=2026-06-12T19:00Z&to=2026-06-12T21:00Z",
        "&from=2026-06-13T00:45&to=2026-06-13T02:45&zone=Asia/Kathmandu",
    ]

    entries = [[span["entries"] for span in reader.get(base + words).json()["spans"]] for words in asked]

    assert entries == [[2, 1], [2, 1], [0, 3, 0]]


def test_a_gate_has_a_timeline_of_its_own(reader, event, scanned):
    make_device(event, gate="South")
    base = f"/api/v1/events/{event.slug}/stats/timeline"

    assert sum(span["entries"] for span in reader.get(f"{base}?gate=Main gate").json()["spans"]) == 3
    assert reader.get(f"{base}?gate=South").json()["spans"] == []
    assert refusal(reader.get(f"{base}?gate=West")) == (404, "not_found")


@pytest.mark.parametrize(
    "words",
    [
        "bucket=week",
        "limit=0",
        "limit=1001",
        "zone=Mars/Olympus",
        "zone=../../etc/passwd",
        "zone=%00",
        "from=yesterday",
        "from=2026-06-13T00:00&to=2026-06-12T00:00",
        "from=2026-06-12T00:00&to=2026-06-12T00:00",
        "bucket=minute&from=2026-06-12&to=2026-06-13",
        "from=0001-01-01T00:00&to=2026-06-12",
        "from=0001-01-01T00:00:00%2B14:00&to=2026-06-12",
        "from=2026-06-12&to=9999-12-31T23:59:59-14:00",
        "gate=%00",
    ],
)
def test_a_wrong_parameter_is_named(reader, event, scanned, words):
    answer = reader.get(f"/api/v1/events/{event.slug}/stats/timeline?{words}")

    assert refusal(answer) == (422, "invalid")
    assert answer.json()["error"]["fields"][0]["field"] in words


def test_numbers_of_gates_refusals_and_transfers(reader, event, device, scanned):
    new = lifecycle.transfer(
        ticket_id=scanned[4].id,
        holder="Bea",
        email="",
        reference=None,
        by="shop",
        now=NOW + timedelta(hours=1),
    )
    base = f"/api/v1/events/{event.slug}/stats"

    [gate] = reader.get(f"{base}/gates").json()["gates"]
    invalid = reader.get(f"{base}/invalid-attempts").json()
    moved = reader.get(f"{base}/transfers?ticket={new.id}").json()

    assert {key: gate[key] for key in ("gate", "entries", "exits", "admitted", "refused")} == {
        **{"gate": "Main gate", "entries": 3, "exits": 1, "admitted": 3, "refused": 2}
    }
    assert (invalid["refused"], invalid["by_reason"]) == (2, {"already_admitted": 1, "unreadable": 1})
    assert invalid["by_gate"] == [{"id": device.gate_id, "name": "Main gate", "refused": 2}]
    assert invalid["by_device"] == [{"id": device.id, "name": "Scanner", "refused": 2}]
    assert [scan["ticket_id"] for scan in invalid["scans"]] == [None, str(scanned[0].id)]
    assert [(row["from_ticket_id"], row["to_ticket_id"]) for row in moved["transfers"]] == [
        (str(scanned[4].id), str(new.id))
    ]
    assert reader.get(f"{base}/transfers").json() | {"as_of": 0} == moved | {"as_of": 0}


def test_pages_of_refused_scans_follow_each_other(reader, event, device):
    admit(device, *(attempt(device, "x", f"n{number}") for number in range(5)))
    base = f"/api/v1/events/{event.slug}/stats/invalid-attempts?limit=2"

    first = reader.get(base).json()
    second = reader.get(f"{base}&after={first['next']}").json()
    last = reader.get(f"{base}&after={second['next']}").json()

    ids = [scan["scan_id"] for page in (first, second, last) for scan in page["scans"]]
    assert (len(ids), ids, last["next"]) == (5, sorted(ids, reverse=True), None)
    [repeated] = first["repeated"]
    assert (repeated["ticket_id"], repeated["code"], repeated["refused"]) == (None, "x", 5)


def test_the_code_of_another_event_is_shown_to_nobody(reader, event, device):
    [ticket] = issue(make_event())
    admit(device, *(attempt(device, ticket.code, nonce) for nonce in ("a", "b")))

    told = reader.get(f"/api/v1/events/{event.slug}/stats/invalid-attempts")

    assert ticket.code not in told.content.decode()
    assert [row["reason"] for row in told.json()["repeated"]] == ["wrong_event"]


def test_all_events_are_listed_page_by_page_and_summed_up(reader):
    for number in range(3):
        issue(make_event(), number + 1)

    first = reader.get("/api/v1/stats?limit=2").json()
    rest = reader.get(f"/api/v1/stats?limit=2&after={first['next']}").json()

    assert [line["issued"] for line in first["events"] + rest["events"]] == [3, 2, 1]
    assert (first["totals"]["issued"], rest["totals"], rest["next"]) == (6, first["totals"], None)


def test_two_events_are_compared_from_when_their_doors_opened(reader, event, device, scanned):
    other = make_event(
        doors_at=NOW + timedelta(days=1), starts_at=NOW + timedelta(days=2), ends_at=NOW + timedelta(days=3)
    )
    [its_device, _] = make_device(other)
    [ticket] = issue(other)
    admit(its_device, attempt(its_device, ticket.code, "n"), now=other.doors_at + timedelta(minutes=61))
    path = f"/api/v1/events/{event.slug}/stats/compare?other={other.slug}&bucket_min=30&spans=4"

    told = reader.get(path)
    tag = told.headers["ETag"]

    assert [[span["entries_so_far"] for span in one["spans"]] for one in told.json()["events"]] == [
        [0, 0, 2, 3],
        [0, 0, 1, 1],
    ]
    admit(its_device, attempt(its_device, "x", "m"), now=other.doors_at)
    assert reader.get(path, headers={"If-None-Match": tag}).status_code == 200


def test_trending_events_are_those_that_people_enter_now(reader):
    now = datetime.now(UTC)
    event = make_event(doors_at=now - timedelta(hours=1), starts_at=now, ends_at=now + timedelta(hours=1))
    [device, _] = make_device(event)
    [ticket] = issue(event)
    admit(device, attempt(device, ticket.code, "n"), now=now)

    told = reader.get("/api/v1/stats/trending").json()

    assert [(row["slug"], row["entries"], 0.5 < row["score"] <= 1) for row in told["events"]] == [
        (event.slug, 1, True)
    ]


NAMES = ["/invalid-attempts", "/transfers"]


@pytest.mark.parametrize(
    "path",
    ["/api/v1/stats", "/api/v1/stats/trending", *(f"/api/v1/events/x/stats{part}" for part in PARTS)],
)
def test_numbers_are_for_who_may_read_statistics_and_names_for_who_may_read_tickets(path):
    event = make_event(slug="x")
    callers = [
        Caller(),
        Caller(make_device(event)[1]),
        *map(Caller, map(make_service, ("tickets:read", "stats:read"))),
    ]

    shows_names = path.endswith(tuple(NAMES))
    assert [caller.get(path).status_code for caller in callers] == [
        *(401, 403),
        *((200, 403) if shows_names else (403, 200)),
    ]


def test_no_number_is_newer_than_as_of(reader, event, device, monkeypatch):
    in_one_snapshot = db.in_one_snapshot

    @contextmanager
    def after_a_wait():
        admit(device, attempt(device, "x", "meanwhile"), now=datetime.now(UTC))
        with in_one_snapshot() as conn:
            yield conn

    monkeypatch.setattr("analytics.api.db.in_one_snapshot", after_a_wait)
    told = reader.get(f"/api/v1/events/{event.slug}/stats").json()

    assert told["refused"] == 1
    assert datetime.fromisoformat(told["as_of"]) >= Scan.objects.get().recorded_at - timedelta(milliseconds=1)


def test_a_conflict_that_is_noticed_or_signed_off_changes_the_tag(reader, event, device, monkeypatch):
    monkeypatch.setattr("analytics.api.timezone.now", lambda: NOW)
    [other, _] = make_device(event, gate="Other")
    [ticket] = issue(event)
    admit(other, attempt(other, ticket.code, "first"))
    admit(
        device, attempt(device, ticket.code, "n")
    )  # refused; the answer got lost, and the phone let the holder in
    path = f"/api/v1/events/{event.slug}/stats"
    tags = [reader.get(path).headers["ETag"]]

    at_gate = DeviceAtGate(device.id, device.gate_id, event.id, False, None)
    judge_queue(
        [{"code": ticket.code, "nonce": "n", "scanned_at": NOW.isoformat()}],
        **{"device": at_gate, "rules": rules_of(event), "sent_at": None, "now": NOW},
    )
    noticed = reader.get(path)
    with db.begin() as conn:
        conflict = Conflict.objects.get()
        queries.sign_off_conflict(
            conn, event_id=event.id, conflict_id=conflict.id, signed_off_at=NOW, signed_off_by="me", note=""
        )
    signed = reader.get(path)

    tags += [noticed.headers["ETag"], signed.headers["ETag"]]
    assert [answer.json()["open_conflicts"] for answer in (noticed, signed)] == [1, 0]
    assert len(set(tags)) == 3


def test_a_new_event_and_doors_that_open_earlier_change_the_tag(reader, event, monkeypatch):
    monkeypatch.setattr("analytics.api.timezone.now", lambda: NOW)
    other = make_event()
    paths = ["/api/v1/stats", f"/api/v1/events/{event.slug}/stats/compare?other={other.slug}"]
    before = [reader.get(path).headers["ETag"] for path in paths]

    make_event()
    other.doors_at -= timedelta(hours=1)
    other.save()

    assert [
        reader.get(path, headers={"If-None-Match": tag}).status_code
        for path, tag in zip(paths, before, strict=True)
    ] == [*(200, 200)]


@pytest.mark.parametrize("zone", ["CET", "EET", "localtime", "Factory"])
def test_a_zone_is_a_place(reader, event, zone):
    for part in ("heatmap", "timeline"):
        assert refusal(reader.get(f"/api/v1/events/{event.slug}/stats/{part}?zone={zone}")) == (
            422,
            "invalid",
        )


@pytest.mark.parametrize(
    ("words", "refused", "since", "until"),
    [
        ("", 1, None, None),
        ("from=2026-06-12T21:37", 1, "2026-06-12T21:30:00+02:00", None),
        ("to=2026-06-12T21:37", 1, None, "2026-06-12T21:45:00+02:00"),
        ("to=2026-06-12T21:30", 0, None, "2026-06-12T21:30:00+02:00"),
    ],
)
def test_a_heatmap_is_of_whole_quarters_and_says_which(reader, event, device, words, refused, since, until):
    admit(device, attempt(device, "x", "n"), now=NOW + timedelta(minutes=10))  # 21:40 in Berlin

    told = reader.get(f"/api/v1/events/{event.slug}/stats/heatmap?{words}").json()

    assert (sum(cell["refused"] for cell in told["cells"]), told["since"], told["until"]) == (
        refused,
        since,
        until,
    )


def test_a_phone_that_forgot_the_time_is_in_the_heatmap_of_all_time(reader, event, device):
    admit(device, attempt(device, "x", "n", happened_at=datetime(1970, 1, 1, 5, tzinfo=UTC)))

    cells = reader.get(f"/api/v1/events/{event.slug}/stats/heatmap").json()["cells"]

    assert [cell for cell in cells if cell["refused"]] == [
        {"weekday": 4, "hour": 6, "entries": 0, "exits": 0, "refused": 1}
    ]


def test_who_comes_back_does_not_clear_the_queue(reader, device, event):
    event.reentry = "always"
    event.save()
    [ticket, *_] = issue(event, 10)
    admit(device, attempt(device, ticket.code, "first"), now=NOW - timedelta(minutes=30))
    admit(device, attempt(device, ticket.code, "again"), now=NOW - timedelta(minutes=3))

    with db.in_one_snapshot() as conn:
        found = statistics.throughput(conn, event=queries.event_by_slug(conn, slug=event.slug), now=NOW)

    assert (found.no_shows, found.last_5_minutes, found.clear_min) == (9, 1, None)


def test_an_event_of_the_far_future_is_not_compared(reader, event):
    far = datetime(9999, 12, 31, 20, tzinfo=UTC)
    other = make_event(doors_at=far, starts_at=far, ends_at=far + timedelta(hours=1))

    assert refusal(reader.get(f"/api/v1/events/{event.slug}/stats/compare?other={other.slug}")) == (
        422,
        "invalid",
    )


def test_the_reason_of_a_code_is_that_of_its_last_refusal_also_within_a_queue(event, device):
    [ticket] = issue(event)
    late, early = (NOW - timedelta(minutes=minutes) for minutes in (1, 30))
    admit(
        device,
        attempt(device, ticket.code, "late", happened_at=late, refused_offline="void"),
        attempt(device, ticket.code, "early", happened_at=early, refused_offline="too_early"),
    )

    with db.begin() as conn:
        [row] = statistics.repeated_codes(conn, event_id=event.id)

    assert (row.refused, row.reason, row.last_at) == (2, "void", late)
