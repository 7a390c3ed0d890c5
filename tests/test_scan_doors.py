"""What both doors of `POST /api/v1/scans` do alike: every test here goes through the lane, and through the view."""

import pytest

from analytics.models import Scan
from tests.doors import by_the_lane, by_the_view, request, scan
from tests.factories import issue, make_device, make_event, make_open_event
from tickets import issuing, rate
from tickets.models import Device, Event, Kind, Ticket
from tickets.rules import REASONS

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(params=["the lane", "the view"])
def door(request):
    if request.param == "the view":
        return by_the_view
    return lambda data, headers: by_the_lane((data, headers))[0]


@pytest.fixture
def event(transactional_db):
    return make_open_event()


@pytest.fixture
def scanner(event):
    return make_device(event)


def send(ask, token, body):
    return ask(*request(token, body))


def refused(event, ticket, reason):
    """Make it so that a scan of the ticket is refused for the reason; return what is scanned."""
    code = ticket.code
    now = event.starts_at
    match reason:
        case "unreadable":
            return "rubbish \x00"
        case "unknown_key":
            from tests.test_tickets_admission import signed

            return signed(event.id, ticket.id, key_id=200)
        case "bad_signature":
            from tests.test_tickets_admission import signed

            return signed(event.id, ticket.id, key_id=1)
        case "unknown_ticket":
            return issuing.code_of(event_id=event.id, ticket_id=1)
        case "wrong_event":
            return issue(make_event())[0].code
        case "void":
            Ticket.objects.update(voided_at=now)
        case "transferred":
            Ticket.objects.update(transferred_at=now)
        case "too_early":
            Event.objects.update(doors_at=event.ends_at, starts_at=event.ends_at, ends_at="2199-01-01T00:00Z")
        case "too_late":
            Event.objects.update(
                doors_at="2020-01-01T00:00Z", starts_at="2020-01-01T00:00Z", ends_at="2020-01-02T00:00Z"
            )
        case "wrong_gate":
            event.gate_set.get().kinds.add(Kind.objects.create(event=event, name="VIP"))
        case "already_admitted":
            Ticket.objects.update(admitted_at=now, inside=True)
    return code


@pytest.mark.uncounted
@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_a_verdict(door, event, scanner, reason):
    code = refused(event, issue(event)[0], reason)
    direction = "exit" if reason == "not_inside" else "entry"

    status, body, _ = send(door, scanner[1], scan(code, "a", direction=direction))

    assert (status, body["verdict"], body["reason"], body["replayed"]) == (200, "refused", reason, False)
    assert Scan.objects.values_list("verdict", "reason").get() == ("refused", reason)


def test_a_nonce_gets_its_verdict_again_and_no_other_scan_does(door, event, scanner):
    first, second = issue(event, 2)

    answers = [
        send(door, scanner[1], scan(code, nonce, **more))
        for code, nonce, more in (
            (first.code, "a", {}),
            (first.code, "a", {}),
            (first.code, "b", {}),
            (first.code, "b", {}),
            (second.code, "a", {}),
            (first.code, "a", {"direction": "exit"}),
        )
    ]

    told = [(status, body.get("reason"), body.get("replayed")) for status, body, _ in answers]
    assert told == [
        (200, None, False),
        (200, None, True),
        (200, "already_admitted", False),
        (200, "already_admitted", True),
        (409, None, None),
        (409, None, None),
    ]
    assert {body["error"]["code"] for _, body, _ in answers[4:]} == {"nonce_reused"}


@pytest.mark.uncounted
def test_both_doors_write_the_same_row_and_say_it_with_the_same_headers(event, scanner):
    first, second = issue(event, 2)
    fields = {"scanned_at": "2026-01-01T12:00:00+02:00", "force_reason": "Let in"}
    Device.objects.update(is_supervisor=True)
    Ticket.objects.update(voided_at=event.doors_at)

    lane = by_the_lane(request(scanner[1], scan(first.code, "lane", **fields)))[0]
    view = by_the_view(*request(scanner[1], scan(second.code, "view", **fields)))

    def alike(headers):
        return {
            **headers,
            "content-length": None,
            "content-type": headers["content-type"].partition(";")[0],
        }

    assert list(lane[1]) == list(view[1])
    assert (lane[0], lane[1]["message"], alike(lane[2])) == (view[0], view[1]["message"], alike(view[2]))
    volatile = ("id", "nonce", "ticket_id", "recorded_at", "happened_at")
    rows = [{k: v for k, v in row.items() if k not in volatile} for row in Scan.objects.values()]
    assert rows[0] == rows[1]
    assert rows[0]["forced_over"] == "void"


def test_a_plain_device_forces_nobody_in(door, event, scanner):
    [ticket] = issue(event)

    status, body, _ = send(door, scanner[1], scan(ticket.code, "a", force_reason="Please"))

    assert (status, body["error"]["code"]) == (403, "force_forbidden")
    assert not Scan.objects.exists()


@pytest.mark.uncounted
def test_a_supervisors_device_needs_a_reason(door, event, scanner):
    Device.objects.update(is_supervisor=True)
    [ticket] = issue(event)
    Ticket.objects.update(voided_at=event.doors_at)

    forced = send(door, scanner[1], scan(ticket.code, "a", force_reason="Known to us"))
    answers = [
        by_the_view(*request(scanner[1], scan(ticket.code, "b", force_reason=words))) for words in ("", " \n")
    ]

    assert (forced[0], forced[1]["verdict"]) == (200, "admitted")
    assert [status for status, _, _ in answers] == [422, 422]


def test_a_device_that_calls_too_often_is_told_and_others_are_not(door, event, monkeypatch):
    monkeypatch.setattr(rate, "DEVICES", rate.RateLimit())
    _, hasty = make_device(event, rate_per_s=2)
    _, calm = make_device(event, rate_per_s=2)

    answers = [send(door, hasty, scan("x", f"n{number}")) for number in range(6)]
    other = send(door, calm, scan("x", "other"))

    assert [status for status, _, _ in answers] == [200] * 4 + [429] * 2
    assert answers[-1][1]["error"]["code"] == "too_many_calls"
    assert answers[-1][2]["retry-after"] == "1"
    assert other[0] == 200
    assert Scan.objects.count() == 5


@pytest.mark.parametrize("scanned_at", ["2000-01-01T00:00:00Z", "2199-12-31T23:59:59Z", None])
def test_no_clock_of_a_device_changes_a_verdict(door, event, scanner, scanned_at):
    first, early = issue(event, 2)
    sent = {"scanned_at": scanned_at} if scanned_at else {}

    inside = send(door, scanner[1], scan(first.code, "a", **sent))
    Event.objects.update(doors_at=event.ends_at, starts_at=event.ends_at, ends_at="2199-01-01T00:00Z")
    _, fresh_token = make_device(event)  # the lane knows the event's times of a moment ago
    outside = send(door, fresh_token, scan(early.code, "b", **sent))

    assert (inside[1]["reason"], outside[1]["reason"]) == (None, "too_early")


def test_last_seen_is_noted(door, scanner):
    send(door, scanner[1], scan("x", "a"))

    assert Device.objects.get().last_seen_at is not None
