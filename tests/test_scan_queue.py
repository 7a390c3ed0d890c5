"""Queues made offline, the conflicts that they bring to light, dry runs, annulments and the log, over HTTP."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import Permission
from django.utils import timezone

from analytics import queries as log
from analytics.models import Conflict, Direction, Scan
from core import db, purpose
from tests.factories import (
    admit,
    attempt,
    issue,
    make_device,
    make_open_event,
    make_service,
    rules_of,
    verdicts,
)
from tests.test_tickets_api import Caller, refusal
from tickets import admission, judging, queries, rate, scanning
from tickets.models import Device, Event, Ticket

pytestmark = pytest.mark.django_db


@pytest.fixture
def event(either_layout):
    return make_open_event()


@pytest.fixture
def north(event):
    return Caller(make_device(event, gate="North", name="Phone 1")[1])


@pytest.fixture
def south(event):
    return Caller(make_device(event, gate="South", name="Phone 2")[1])


@pytest.fixture
def office():
    return Caller(make_service("tickets:read", "tickets:write"))


def ago(**spent):
    return (timezone.now() - timedelta(**spent)).isoformat()


def offline(code, nonce, scanned_at=None, **more):
    return {"code": code, "nonce": nonce, "scanned_at": scanned_at or ago(minutes=30), **more}


def send(device, *scans, **more):
    return device.post("/api/v1/scans/batch", {"scans": list(scans), **more}).json()


def told(answer):
    return [
        (result["nonce"], result.get("verdict"), result.get("reason"), result.get("error", {}).get("code"))
        for result in answer["results"]
    ]


def test_a_queue_is_judged_in_order_and_a_bad_item_fails_none_of_the_others(event, north):
    first, second = issue(event, 2)

    answer = send(
        north,
        offline(first.code, "a"),
        offline(first.code, "b"),
        {"nonce": "no code"},
        "rubbish",
        None,
        offline(second.code, "white space"),
        offline(second.code, "c", direction="up"),
        offline(second.code, "d", reason="because"),
        offline(second.code, "e", "yesterday"),
        offline("rubbish \x00", "f"),
        offline(second.code, "a"),
        offline(first.code, "g", direction="exit"),
        offline(second.code, "h"),
        offline(first.code, "i", force_reason="Let in"),
    )

    assert told(answer) == [
        ("a", "admitted", None, None),
        ("b", "refused", "already_admitted", None),
        ("no code", None, None, "invalid"),
        (None, None, None, "invalid"),
        (None, None, None, "invalid"),
        ("white space", None, None, "invalid"),
        ("c", None, None, "invalid"),
        ("d", None, None, "invalid"),
        ("e", None, None, "invalid"),
        ("f", "refused", "unreadable", None),
        ("a", None, None, "nonce_reused"),
        ("g", "admitted", None, None),
        ("h", "admitted", None, None),
        ("i", None, None, "force_forbidden"),
    ]
    assert Scan.objects.count() == 5
    assert list(Scan.objects.values_list("offline", flat=True).distinct()) == [True]


def test_the_same_queue_again_gets_the_same_verdicts(event, north):
    queue = [offline(ticket.code, f"n{ticket.id}") for ticket in issue(event, 3)]

    first, again = send(north, *queue), send(north, *queue)

    assert [result.pop("replayed") for result in again["results"]] == [True] * 3
    assert [result.pop("replayed") for result in first["results"]] == [False] * 3
    assert first == again


def test_the_clients_time_is_kept_and_put_right_by_its_clocks_offset(event, north):
    [ticket] = issue(event)
    ahead = timedelta(hours=3)
    sent_at = timezone.now() + ahead
    scanned_at = sent_at - timedelta(minutes=20)

    answer = send(north, offline(ticket.code, "a", scanned_at.isoformat()), sent_at=sent_at.isoformat())

    row, device = Scan.objects.get(), Device.objects.get()
    assert row.scanned_at == scanned_at
    assert abs(row.happened_at - (scanned_at - ahead)) < timedelta(seconds=5)
    assert abs(answer["clock_offset_ms"] - ahead / timedelta(milliseconds=1)) < 5000
    assert (device.clock_offset_ms, device.clock_measured_at) == (answer["clock_offset_ms"], row.recorded_at)
    assert abs(Ticket.objects.get().admitted_at - row.happened_at) < timedelta(milliseconds=1)


def test_what_was_scanned_in_time_is_admitted_though_the_queue_comes_after_the_end(event, north):
    first, second = issue(event, 2)
    Event.objects.update(ends_at=timezone.now() - timedelta(minutes=10), starts_at=ago(minutes=50))

    answer = send(north, offline(first.code, "a", ago(minutes=11)), offline(second.code, "b", ago(minutes=9)))

    assert told(answer) == [("a", "admitted", None, None), ("b", "refused", "too_late", None)]


def test_no_clock_makes_the_doors_open_earlier(event, north):
    [ticket] = issue(event)
    tomorrow = timezone.now() + timedelta(days=1)
    Event.objects.update(doors_at=tomorrow, starts_at=tomorrow, ends_at=tomorrow + timedelta(hours=1))

    answer = send(north, offline(ticket.code, "a", (tomorrow + timedelta(minutes=5)).isoformat()))

    assert told(answer) == [("a", "refused", "too_early", None)]
    assert Scan.objects.get().happened_at <= timezone.now()


def test_whom_the_device_turned_away_is_never_admitted(event, north):
    [ticket] = issue(event)

    answer = send(north, offline(ticket.code, "a", reason="already_admitted"))
    later = north.post("/api/v1/scans", {"code": ticket.code, "nonce": "b"}).json()

    assert told(answer) == [("a", "refused", "already_admitted", None)]
    assert later["verdict"] == "admitted"
    assert not Conflict.objects.exists()


def test_a_ticket_that_was_used_elsewhere_is_a_conflict_with_both_scans(event, north, south, office):
    [ticket] = issue(event)
    north.post("/api/v1/scans", {"code": ticket.code, "nonce": "online"})

    send(south, offline(ticket.code, "offline", ago(minutes=12)))
    listed = office.get(f"/api/v1/events/{event.slug}/conflicts").json()

    earlier, scan = Scan.objects.get(nonce="online"), Scan.objects.get(nonce="offline")
    [conflict] = listed["conflicts"]
    assert listed["next"] is None
    for moment in ("happened_at", "earlier_happened_at", "noticed_at"):
        assert conflict.pop(moment)
    assert conflict == {
        "id": Conflict.objects.get().id,
        "ticket_id": str(ticket.id),
        "holder": "Holder 0",
        "reason": "already_admitted",
        "scan_id": scan.id,
        "gate": "South",
        "device": "Phone 2",
        "earlier_scan_id": earlier.id,
        "earlier_gate": "North",
        "earlier_device": "Phone 1",
        "earlier_user": None,
        "minutes_apart": 12.0,
        "signed_off_at": None,
        "signed_off_by": "",
        "note": "",
    }


def test_two_offline_devices_meet_when_the_second_queue_comes(event, north, south):
    [ticket] = issue(event)

    send(north, offline(ticket.code, "a", ago(minutes=5)))
    send(south, offline(ticket.code, "b", ago(minutes=9)), offline(ticket.code, "c", ago(minutes=8)))
    send(south, offline(ticket.code, "b", ago(minutes=9)))

    ids = {scan.nonce: scan.id for scan in Scan.objects.all()}
    assert list(Conflict.objects.order_by("scan_id").values_list("scan_id", "earlier_scan_id")) == [
        (ids["b"], ids["a"]),
        (ids["c"], ids["a"]),
    ]


def test_what_a_device_refused_itself_is_no_conflict(event, north):
    [ticket] = issue(event)

    send(
        north,
        offline(ticket.code, "a"),
        offline(ticket.code, "b"),
        offline("rubbish", "c"),
        offline(ticket.code, "d", direction="exit"),
        offline(ticket.code, "e", direction="exit"),
    )

    assert not Conflict.objects.exists()


@pytest.mark.uncounted
def test_a_void_ticket_that_was_let_in_offline_is_a_conflict_without_an_earlier_scan(event, north):
    [ticket] = issue(event)
    Ticket.objects.update(voided_at=timezone.now())

    send(north, offline(ticket.code, "a"))

    assert Conflict.objects.values_list("reason", "earlier_scan_id").get() == ("void", None)


@pytest.mark.uncounted
def test_a_conflict_names_the_other_entry_whatever_the_reason(event, north, south):
    [ticket] = issue(event)
    north.post("/api/v1/scans", {"code": ticket.code, "nonce": "in"})
    Ticket.objects.update(voided_at=timezone.now())

    send(south, offline(ticket.code, "copy", ago(minutes=1)))

    known = Scan.objects.get(nonce="in").id
    assert Conflict.objects.values_list("reason", "earlier_scan_id").get() == ("void", known)


@pytest.mark.uncounted
def test_a_conflict_is_signed_off_once(event, north, office):
    for ticket in issue(event, 3):
        Ticket.objects.filter(id=ticket.id).update(voided_at=timezone.now())
        send(north, offline(ticket.code, f"n{ticket.id}"))
    path = f"/api/v1/events/{event.slug}/conflicts"
    newest, middle, oldest = (row["id"] for row in office.get(path).json()["conflicts"])

    first = office.post(f"{path}/{middle}/sign-off", {"note": "Twins"}).json()
    again = Caller(make_service("tickets:write")).post(f"{path}/{middle}/sign-off", {"note": "Other"}).json()

    assert (first["id"], first["note"], first["signed_off_by"]) == (middle, "Twins", "service Shop")
    assert again == first
    assert [row["id"] for row in office.get(f"{path}?open=true").json()["conflicts"]] == [newest, oldest]
    page = office.get(f"{path}?limit=2").json()
    rest = office.get(f"{path}?limit=2&after={page['next']}").json()
    assert [row["id"] for row in page["conflicts"] + rest["conflicts"]] == [newest, middle, oldest]
    assert rest["next"] is None


@pytest.mark.parametrize("conflict_id", ["0", "99", str(2**63 - 1), str(2**70)])
def test_a_conflict_that_is_not_there_is_a_404(event, office, conflict_id):
    path = f"/api/v1/events/{event.slug}/conflicts/{conflict_id}/sign-off"

    assert refusal(office.post(path, {"note": "x"})) == (404, "not_found")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "scans"),
        ({"scans": []}, "scans"),
        ({"scans": {}}, "scans"),
        ({"scans": [1] * 1001}, "scans"),
        ({"scans": [1], "sent_at": "noon"}, "sent_at"),
        ({"scans": [1], "sent_at": "1899-12-31T23:59:59Z"}, "sent_at"),
    ],
)
def test_what_is_no_queue_is_a_422(north, body, field):
    answer = north.post("/api/v1/scans/batch", body)

    assert refusal(answer) == (422, "invalid")
    assert answer.json()["error"]["fields"][0]["field"] == field


def test_a_thousand_scans_are_one_call(event, north):
    tickets = issue(event, 500)
    queue = [
        offline(ticket.code, f"{way}{ticket.id}", direction=way)
        for ticket in tickets
        for way in ("entry", "exit")
    ]

    answer = send(north, *queue)

    assert [result["verdict"] for result in answer["results"]] == ["admitted"] * 1000
    assert Ticket.objects.filter(inside=False).exclude(admitted_at=None).count() == 500


def test_a_queue_counts_as_many_calls(event, monkeypatch):
    monkeypatch.setattr(rate, "DEVICES", rate.RateLimit())
    device = Caller(make_device(event, rate_per_s=20)[1])

    answers = [device.post("/api/v1/scans/batch", {"scans": [1]}).status_code for _ in range(3)]

    assert answers == [200, 200, 429]


def test_what_postgres_does_not_take_is_one_items_error(event, north, monkeypatch):
    tickets = issue(event, 3)
    made = scanning.offline_scan_of

    def poison(sent, *arguments):
        scan = made(sent, *arguments)
        return scan._replace(nonce="poison \x00") if sent.nonce == "b" else scan

    monkeypatch.setattr(scanning, "offline_scan_of", poison)
    answer = send(north, *(offline(ticket.code, nonce) for ticket, nonce in zip(tickets, "abc", strict=True)))

    assert told(answer) == [
        ("a", "admitted", None, None),
        ("b", None, None, "internal"),
        ("c", "admitted", None, None),
    ]


def test_a_dry_run_says_what_would_be_and_records_nothing(event, north):
    first, second = issue(event, 2)
    north.post("/api/v1/scans", {"code": first.code, "nonce": "a"})
    path = "/api/v1/scans?dry_run=1"

    fresh = north.post(path, {"code": second.code, "nonce": "b"}).json()
    used = north.post(path, {"code": first.code, "nonce": "c"}).json()
    replayed = north.post(path, {"code": first.code, "nonce": "a"}).json()

    assert (fresh["verdict"], fresh["scan_id"], fresh["ticket"]["id"]) == ("admitted", None, str(second.id))
    assert (used["reason"], used["first_gate"], used["scan_id"]) == ("already_admitted", "North", None)
    assert (replayed["verdict"], replayed["replayed"]) == ("admitted", True)
    assert Scan.objects.count() == 1
    assert Ticket.objects.filter(inside=True).count() == 1
    assert refusal(north.post("/api/v1/scans?dry_run=maybe", {"code": "x", "nonce": "d"})) == (422, "invalid")


def test_an_admission_is_taken_back_by_its_nonce(event, north, south):
    [ticket] = issue(event)
    north.post("/api/v1/scans", {"code": ticket.code, "nonce": "a~:+=@b"})

    wrong = south.post("/api/v1/scans/a~:+=@b/annul", {})
    answer = north.post("/api/v1/scans/a~:+=@b/annul", {})
    again = north.post("/api/v1/scans", {"code": ticket.code, "nonce": "a~:+=@b"})
    fresh = north.post("/api/v1/scans", {"code": ticket.code, "nonce": "b"})

    row = Scan.objects.get(nonce="a~:+=@b")
    assert refusal(wrong) == (409, "not_annullable")
    assert (answer.status_code, answer.json()["scan_id"], answer.json()["nonce"]) == (200, row.id, "a~:+=@b")
    assert refusal(again) == (409, "scan_annulled")
    assert fresh.json()["verdict"] == "admitted"
    assert refusal(north.post("/api/v1/scans/unknown/annul", {})) == (404, "not_found")


def test_taking_back_what_never_arrived_does_not_keep_it_from_arriving(event, north):
    [ticket] = issue(event)

    early = north.post("/api/v1/scans/late/annul", {})
    late = north.post("/api/v1/scans", {"code": ticket.code, "nonce": "late"}).json()

    assert refusal(early) == (404, "not_found")
    assert late["verdict"] == "admitted"


def test_the_log_is_read_page_by_page_newest_first(event, north, south, office):
    for number, ticket in enumerate(issue(event, 3)):
        north.post("/api/v1/scans", {"code": ticket.code, "nonce": f"n{number}"})
    south.post("/api/v1/scans", {"code": "rubbish", "nonce": "r"})
    path = f"/api/v1/scans?event={event.slug}"

    def nonces(query):
        return [scan["nonce"] for scan in office.get(path + query).json()["scans"]]

    page = office.get(f"{path}&limit=3").json()
    assert [scan["nonce"] for scan in page["scans"]] == ["r", "n2", "n1"]
    assert nonces(f"&limit=3&after={page['next']}") == ["n0"]
    assert nonces("&verdict=refused") == ["r"]
    assert nonces("&gate=North&verdict=admitted") == ["n2", "n1", "n0"]
    assert nonces("&gate=Nowhere") == []
    row = page["scans"][0]
    assert (row["code"], row["gate"], row["device"], row["ticket_id"]) == (
        "rubbish",
        "South",
        "Phone 2",
        None,
    )


def test_whoever_checked_in_by_hand_is_named_in_the_log_and_in_conflicts(
    event, south, office, django_user_model
):
    grace = django_user_model.objects.create(username="grace")
    [ticket] = issue(event)
    gate = Device.objects.get(name="Phone 2").gate_id
    by_hand = judging.Scan(ticket.code, "by hand", timezone.now(), Direction.ENTRY, gate, user_id=grace.id)
    admission.admit(rules=rules_of(event), scans=[by_hand], now=timezone.now())
    send(south, offline(ticket.code, "copy", ago(minutes=1)))

    scans = office.get(f"/api/v1/scans?event={event.slug}").json()["scans"]
    [conflict] = office.get(f"/api/v1/events/{event.slug}/conflicts").json()["conflicts"]

    assert {row["nonce"]: (row["device"], row["user"]) for row in scans} == {
        "by hand": (None, "grace"),
        "copy": ("Phone 2", None),
    }
    assert (conflict["device"], conflict["earlier_device"], conflict["earlier_user"]) == (
        "Phone 2",
        None,
        "grace",
    )


def test_who_reads_the_log_takes_no_connection_that_gates_are_guaranteed(event, office, north, monkeypatch):
    served_as = []
    page, admit_them = log.scan_page, admission.admit
    monkeypatch.setattr(
        log, "scan_page", lambda *a, **k: served_as.append(purpose.current()) or page(*a, **k)
    )
    monkeypatch.setattr(
        admission, "admit", lambda **k: served_as.append(purpose.current()) or admit_them(**k)
    )

    office.get(f"/api/v1/scans?event={event.slug}")
    north.post("/api/v1/scans", {"code": "x", "nonce": "a"})
    send(north, offline("x", "b"))

    assert served_as == [purpose.WEB, purpose.SCAN, purpose.SCAN]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 422),
        ("?event=nowhere", 404),
        ("?event={slug}&verdict=maybe", 422),
        ("?event={slug}&limit=0", 422),
        ("?event={slug}&limit=1001", 422),
        ("?event={slug}&after=x", 422),
        ("?event={slug}&after=99999999999999999999", 422),
        ("?event=%00", 422),
        ("?event={slug}&gate=%00", 422),
        ("?event={slug}&gate=" + "x" * 201, 422),
    ],
)
def test_an_odd_question_about_the_log_is_told(event, office, query, status):
    assert office.get("/api/v1/scans" + query.format(slug=event.slug)).status_code == status


def test_who_may_read_the_log_and_who_may_not(event, north, admin_client, client, django_user_model):
    path = f"/api/v1/scans?event={event.slug}"
    conflicts = f"/api/v1/events/{event.slug}/conflicts"

    assert refusal(north.get(path)) == (403, "forbidden")
    assert refusal(Caller().get(path)) == (401, "unauthorized")
    assert refusal(Caller(make_service("stats:read")).get(path)) == (403, "forbidden")
    assert admin_client.get(path).status_code == admin_client.get(conflicts).status_code == 200
    reader = Caller(make_service("tickets:read"))
    assert refusal(reader.post(f"{conflicts}/1/sign-off", {"note": "x"})) == (403, "forbidden")


def test_tickets_are_voided_and_passed_on_over_http(event, office, north):
    first, second = issue(event, 2)

    void = office.post(f"/api/v1/tickets/{first.id}/void", {})
    named = office.post(f"/api/v1/tickets/{second.id}/transfer", {"to": "Grace"})
    again = office.post(f"/api/v1/tickets/{second.id}/transfer", {"to": {"holder": "Linus"}})
    moved = named.json()
    scans = [
        north.post("/api/v1/scans", {"code": code, "nonce": f"n{place}"}).json()["reason"]
        for place, code in enumerate((first.code, second.code, moved["code"]))
    ]

    assert (void.status_code, void.json()["voided_at"] is not None) == (200, True)
    assert (named.status_code, moved["holder"], moved["reference"]) == (201, "Grace", None)
    assert refusal(again) == (409, "ticket_transferred")
    assert again.json()["error"]["to"] == moved["id"]
    assert scans == ["void", "transferred", None]
    for path in (f"{first.id}/transfer", f"{moved['id']}/transfer"):
        assert office.post(f"/api/v1/tickets/{path}", {"to": {"holder": "X", "email": ""}}).status_code == 422
        assert office.post(f"/api/v1/tickets/{path}", {"to": ""}).status_code == 422
    assert refusal(office.post("/api/v1/tickets/5/void", {})) == (404, "not_found")
    assert refusal(office.post(f"/api/v1/tickets/{2**80}/void", {})) == (404, "not_found")
    assert refusal(north.post(f"/api/v1/tickets/{moved['id']}/void", {})) == (403, "forbidden")


def test_a_moment_that_is_put_right_stays_a_moment(event, north):
    [ticket] = issue(event)

    answer = send(north, offline(ticket.code, "a", "2000-01-01T00:00:00Z"), sent_at="2199-12-31T00:00:00Z")

    assert told(answer) == [("a", "refused", "too_early", None)]
    assert Scan.objects.get().happened_at < datetime(2000, 1, 1, tzinfo=UTC)


def row_and_log(event):
    """The ticket as its row says, and as the log says."""
    fields = ("admitted_at", "admitted_gate_id", "inside", "passed_at")
    before = list(Ticket.objects.order_by("id").values_list(*fields))
    with db.begin() as conn:
        ids = list(Ticket.objects.values_list("id", flat=True))
        queries.lock_tickets(conn, event_id=event.id, ticket_ids=ids)
        queries.restate(conn, event_id=event.id, ticket_ids=ids)
    return before, list(Ticket.objects.order_by("id").values_list(*fields))


def online(device, code, nonce, minutes_ago, **more):
    """A scan that the server judged some minutes ago."""
    now = timezone.now() - timedelta(minutes=minutes_ago)
    row = Device.objects.get(name=device)
    return verdicts(admit(row, attempt(row, code, nonce, **more), now=now))[0][1]


@pytest.fixture
def in_and_out(event, north, south):
    Event.objects.update(reentry="after_exit", doors_at=ago(hours=3))
    return issue(event)[0]


def test_an_exit_that_is_heard_of_late_lets_nobody_in_a_second_time(event, in_and_out, north, south):
    code = in_and_out.code
    for nonce, minutes, way in (
        ("1", 60, Direction.ENTRY),
        ("2", 30, Direction.EXIT),
        ("3", 20, Direction.ENTRY),
    ):
        assert online("Phone 1", code, nonce, minutes, direction=way) is None

    answer = send(south, offline(code, "late", ago(minutes=31), direction="exit"))
    again = north.post("/api/v1/scans", {"code": code, "nonce": "copy"}).json()

    assert told(answer) == [("late", "admitted", None, None)]
    assert again["reason"] == "already_admitted"
    before, after = row_and_log(event)
    assert before == after


def test_an_entry_is_judged_as_of_when_it_happened(event, in_and_out, south):
    """In at -40 and out just now: whoever came in at -20 was a second person."""
    code = in_and_out.code
    online("Phone 1", code, "in", 40)
    online("Phone 1", code, "out", 0, direction=Direction.EXIT)

    answer = send(south, offline(code, "second", ago(minutes=20)))

    assert told(answer) == [("second", "refused", "already_admitted", None)]
    assert Conflict.objects.get().earlier_scan_id == Scan.objects.get(nonce="in").id
    before, after = row_and_log(event)
    assert before == after


def test_an_entry_before_one_that_is_known_is_a_conflict_too(event, in_and_out, south):
    online("Phone 1", in_and_out.code, "known", 10)

    answer = send(south, offline(in_and_out.code, "before", ago(minutes=20)))

    assert told(answer) == [("before", "refused", "already_admitted", None)]
    assert Conflict.objects.get().earlier_scan_id == Scan.objects.get(nonce="known").id


def test_an_exit_whose_entry_comes_later_still_counts(event, in_and_out, north, south):
    code = in_and_out.code

    out = send(south, offline(code, "out", ago(minutes=10), direction="exit"))
    came = send(north, offline(code, "in", ago(minutes=20)))
    again = north.post("/api/v1/scans", {"code": code, "nonce": "again"}).json()

    assert told(out) == [("out", "refused", "not_inside", None)]
    assert told(came) == [("in", "admitted", None, None)]
    assert again["verdict"] == "admitted"
    before, after = row_and_log(event)
    assert before == after


@pytest.mark.parametrize("policy", ["never", "after_exit", "always"])
def test_after_any_queues_in_any_order_the_rows_are_what_the_log_says(event, north, south, policy):
    Event.objects.update(reentry=policy, doors_at=ago(hours=9))
    chance = random.Random(policy)
    tickets = issue(event, 3)

    for turn in range(30):
        device = chance.choice([north, south])
        scans = [
            offline(
                chance.choice(tickets).code,
                f"{turn}-{number}",
                ago(minutes=chance.randrange(300)),
                direction=chance.choice(["entry", "exit"]),
                **chance.choice([{}, {}, {"reason": "void"}]),
            )
            for number in range(5)
        ]
        send(device, *scans)
        device.post("/api/v1/scans", {"code": chance.choice(tickets).code, "nonce": f"{turn}"})
        device.post(f"/api/v1/scans/{turn}/annul", {})
        before, after = row_and_log(event)
        assert before == after


def test_whoever_waited_for_a_ticket_comes_after_whoever_had_it(event, in_and_out):
    """A scan's time is taken before it waits: a later one may be through first."""
    code = in_and_out.code
    online("Phone 1", code, "first", 10)
    online("Phone 2", code, "waited", 11, direction=Direction.EXIT)

    first, waited = Scan.objects.order_by("id")
    assert waited.happened_at > first.happened_at
    before, after = row_and_log(event)
    assert before == after


def test_the_nonce_of_another_device_is_another_scan(event, north, south):
    [ticket] = issue(event)
    north.post("/api/v1/scans", {"code": ticket.code, "nonce": "1"})

    answer = south.post("/api/v1/scans", {"code": ticket.code, "nonce": "1"})

    assert refusal(answer) == (409, "nonce_reused")


def test_a_nonce_keeps_its_verdict_when_its_key_was_retired(event, north, monkeypatch):
    [ticket] = issue(event)
    first = north.post("/api/v1/scans", {"code": ticket.code, "nonce": "a"}).json()
    monkeypatch.setattr(judging, "_read", lambda code: "unknown_key")

    again = north.post("/api/v1/scans", {"code": ticket.code, "nonce": "a"}).json()

    assert again == {**first, "replayed": True}


def test_forced_in_and_turned_away_is_no_scan(event):
    supervisor = Caller(make_device(event, is_supervisor=True)[1])
    [ticket] = issue(event)

    answer = send(supervisor, offline(ticket.code, "a", reason="void", force_reason="Known"))

    assert told(answer) == [("a", None, None, "invalid")]
    assert "either a reason" in answer["results"][0]["error"]["message"]


def test_an_entry_that_a_conflict_rests_on_is_not_taken_back(event, north, south):
    [ticket] = issue(event)
    north.post("/api/v1/scans", {"code": ticket.code, "nonce": "a"})
    send(south, offline(ticket.code, "b", ago(minutes=1)))

    assert refusal(north.post("/api/v1/scans/a/annul", {})) == (409, "not_annullable")


def test_whom_a_device_let_in_though_its_lost_answer_refused_is_a_conflict(event, north, south):
    [ticket] = issue(event)
    north.post("/api/v1/scans", {"code": ticket.code, "nonce": "first"})
    south.post("/api/v1/scans", {"code": ticket.code, "nonce": "lost"})

    answers = [send(south, offline(ticket.code, "lost")) for _ in range(2)]

    assert [told(answer) for answer in answers] == [[("lost", "refused", "already_admitted", None)]] * 2
    ids = {scan.nonce: scan.id for scan in Scan.objects.all()}
    assert Conflict.objects.values_list("scan_id", "earlier_scan_id").get() == (ids["lost"], ids["first"])


def test_whom_a_device_turned_away_though_its_lost_answer_admitted_may_still_come(event, north, south):
    [ticket] = issue(event)
    north.post("/api/v1/scans", {"code": ticket.code, "nonce": "lost"})
    Scan.objects.update(recorded_at=ago(hours=2))

    answers = [send(north, offline(ticket.code, "lost", reason="already_admitted")) for _ in range(2)]
    later = south.post("/api/v1/scans", {"code": ticket.code, "nonce": "b"}).json()

    assert [told(answer) for answer in answers] == [[("lost", None, None, "scan_annulled")]] * 2
    assert later["verdict"] == "admitted"
    before, after = row_and_log(event)
    assert before == after


def test_a_conflict_names_the_entry_before_it(event, north, south):
    """Not a later one, of the same device at that: that would hide the conflict."""
    [ticket] = issue(event)
    online("Phone 1", ticket.code, "first", 50)
    online("Phone 2", ticket.code, "forced", 5, force_reason="Known")

    send(south, offline(ticket.code, "between", ago(minutes=30)))

    assert Conflict.objects.get().earlier_scan_id == Scan.objects.get(nonce="first").id


@pytest.mark.parametrize("offset", ["+23:59", "-23:59", "+16:00"])
def test_a_far_offset_from_utc_is_a_time_too(event, north, offset):
    first, second = issue(event, 2)

    alone = north.post(
        "/api/v1/scans", {"code": first.code, "nonce": "a", "scanned_at": f"2026-01-01T00:00:00{offset}"}
    )
    queued = send(north, offline(second.code, "b", f"2026-01-01T00:00:00{offset}", direction="exit"))

    assert (alone.status_code, told(queued)) == (200, [("b", "refused", "not_inside", None)])
    assert Scan.objects.count() == 2


@pytest.mark.parametrize("nonce", ["%00", "a%00b", "white%20space", "x" * 129])
def test_what_is_no_nonce_is_told(north, nonce):
    assert refusal(north.post(f"/api/v1/scans/{nonce}/annul", {})) == (422, "invalid")


def test_a_queue_has_no_dry_run(event, north):
    [ticket] = issue(event)

    answer = north.post("/api/v1/scans/batch?dry_run=1", {"scans": [offline(ticket.code, "a")]})

    assert refusal(answer) == (422, "invalid")
    assert not Scan.objects.exists()


def test_the_code_of_another_events_ticket_is_shown_to_nobody(event, north, office):
    other = issue(make_open_event())[0]
    north.post("/api/v1/scans", {"code": other.code, "nonce": "a"})

    [row] = office.get(f"/api/v1/scans?event={event.slug}").json()["scans"]

    assert (row["reason"], row["code"]) == ("wrong_event", None)


def test_what_came_together_is_listed_in_the_order_in_which_it_was_judged(event, north, office):
    codes = [ticket.code for ticket in issue(event, 4)]
    minutes_ago = dict(zip("dbca", (9, 8, 7, 6), strict=True))
    send(
        north,
        *(
            offline(code, nonce, ago(minutes=minutes_ago[nonce]))
            for code, nonce in zip(codes, "dbca", strict=True)
        ),
    )

    listed = [scan["nonce"] for scan in office.get(f"/api/v1/scans?event={event.slug}").json()["scans"]]

    assert listed == ["a", "c", "b", "d"]


def test_who_may_not_see_conflicts_reads_no_names(event, client, django_user_model):
    helper = django_user_model.objects.create(username="helper", is_staff=True)
    helper.user_permissions.set(Permission.objects.filter(codename="view_scan"))
    client.force_login(helper)

    assert client.get(f"/api/v1/scans?event={event.slug}").status_code == 200
    assert refusal(client.get(f"/api/v1/events/{event.slug}/conflicts")) == (403, "forbidden")
