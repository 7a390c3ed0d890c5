"""The scan lane answers as the view does, in batches, and leaves to the view what is odd."""

import asyncio
import threading
import time

import pytest
from django.db import DataError, OperationalError, connection

from analytics.models import Scan
from core import db
from core.purpose import SCAN
from qrsite import scan_door
from qrsite.scan_door import ScanDoor
from tests.doors import by_the_lane, request, scan, through
from tests.factories import issue, make_device, make_open_event, make_service
from tickets import admission, lane
from tickets.models import Device, Ticket

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def event(transactional_db):
    return make_open_event()


@pytest.fixture
def scanner(event):
    return make_device(event)


def test_an_answer_of_the_lane_is_whole(event, scanner):
    device, token = scanner
    [ticket] = issue(event)

    [(status, body, headers)] = by_the_lane(request(token, scan(ticket.code, "a")))

    row = Scan.objects.get()
    stored = Ticket.objects.get()
    assert (status, body) == (
        200,
        {
            "verdict": "admitted",
            "reason": None,
            "message": "Admitted.",
            "replayed": False,
            "ticket": {"id": str(ticket.id), "holder": "Holder 0", "kind": "standard"},
            "first_admitted_at": stored.admitted_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "first_gate": "Main gate",
            "scan_id": row.id,
        },
    )
    assert (row.device_id, row.gate_id, row.nonce) == (device.id, device.gate_id, "a")
    assert headers["cache-control"] == "private, no-store"


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"{", {}),
        ({"code": "x"}, {}),
        ({"code": "x", "nonce": "white space"}, {}),
        ({"code": "x", "nonce": "a", "direction": "up"}, {}),
        ({"code": "\ud800", "nonce": "a"}, {}),
        ({"code": "x", "nonce": "a"}, {"authorization": "Basic x"}),
        ({"code": "x", "nonce": "a"}, {"authorization": "Bearer qrd_unknown"}),
        ({"code": "x", "nonce": "a"}, {"host": "evil.example"}),
    ],
)
def test_whatever_is_odd_is_left_to_the_view(scanner, body, headers):
    assert by_the_lane(request(scanner[1], body, **headers)) == [None]
    assert Scan.objects.count() == 0


def test_a_service_token_is_left_to_the_view(event):
    assert by_the_lane(request(make_service("tickets:read"), scan("x", "a"))) == [None]


def test_a_public_site_answers_scans_over_tls_only(scanner, settings):
    settings.SECURE_SSL_REDIRECT, settings.SECURE_HSTS_SECONDS = True, 60
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

    plain, secure = by_the_lane(
        request(scanner[1], scan("x", "a")),
        request(scanner[1], scan("x", "b"), **{"x-forwarded-proto": "https"}),
    )

    assert plain is None
    assert (secure[0], secure[2]["strict-transport-security"]) == (200, "max-age=60")


def test_whatever_clients_say_the_middleware_is_asked_once_and_memory_is_bounded(scanner, monkeypatch):
    asked, ask = [], scan_door._headers
    monkeypatch.setattr(scan_door, "_headers", lambda request: asked.append(request) or ask(request))
    monkeypatch.setattr(scan_door, "KNOWN_MAX", 5)

    async def knock():
        door = ScanDoor()
        for number in range(12):
            await through(door, *request("qrd_x", {}, **{"x-forwarded-proto": str(number)}))
            await through(door, *request("qrd_x", {}, host=f"evil-{number}.example"))
        return len(door._known)

    assert asyncio.run(knock()) <= 5
    assert len(asked) == 1


def test_scans_that_come_at_once_share_a_transaction_and_a_connection(event, scanner, monkeypatch):
    _, token = scanner
    tickets = issue(event, 100)
    batches, most = [], []
    judge = admission.admit

    def count(**arguments):
        batches.append(len(arguments["scans"]))
        most.append(db.pool.checkedout())
        return judge(**arguments)

    monkeypatch.setattr(admission, "admit", count)
    connection.close()
    answers = by_the_lane(*(request(token, scan(ticket.code, f"n{ticket.id}")) for ticket in tickets))

    assert {answer[1]["verdict"] for answer in answers} == {"admitted"}
    assert (batches, max(most)) == ([1, 99], 0)
    assert Ticket.objects.filter(inside=True).count() == 100


def test_one_ticket_scanned_at_once_is_admitted_once_in_a_batch(event, scanner):
    _, token = scanner
    [ticket] = issue(event)

    answers = by_the_lane(*(request(token, scan(ticket.code, f"n{index}")) for index in range(64)))

    assert sorted(answer[1]["verdict"] for answer in answers) == ["admitted"] + ["refused"] * 63


def test_events_do_not_meet_in_a_batch(scanner, event):
    other = make_open_event(slug="other")
    _, others = make_device(other)
    [here], [there] = issue(event), issue(other)

    answers = by_the_lane(
        request(scanner[1], scan(here.code, "same")),
        request(others, scan(there.code, "same")),
        request(scanner[1], scan(there.code, "wrong")),
        request(others, scan(here.code, "wrong")),
    )

    assert [answer[1]["reason"] for answer in answers] == [None, None, "wrong_event", "wrong_event"]


def test_one_scan_that_can_not_be_recorded_never_spoils_the_others(event, scanner, monkeypatch):
    _, token = scanner
    tickets = issue(event, 20)
    judge = admission.admit

    def poisoned(**arguments):
        if any(each.nonce == "poison" for each in arguments["scans"]):
            raise DataError("no such text")
        return judge(**arguments)

    monkeypatch.setattr(admission, "admit", poisoned)
    nonces = ["poison" if index == 7 else f"n{index}" for index in range(20)]
    answers = by_the_lane(
        *(request(token, scan(ticket.code, nonce)) for ticket, nonce in zip(tickets, nonces, strict=True))
    )

    assert [answer[0] for answer in answers] == [500 if nonce == "poison" else 200 for nonce in nonces]
    assert Ticket.objects.filter(inside=True).count() == 19


def test_a_scan_whose_device_is_odd_never_spoils_the_others(event, scanner, monkeypatch):
    _, odd = make_device(event, gate="Odd")
    check = lane.check_rate

    def fail_for_one(device):
        if device.gate_id != scanner[0].gate_id:
            raise ZeroDivisionError
        check(device)

    monkeypatch.setattr(lane, "check_rate", fail_for_one)
    answers = by_the_lane(
        *(request(token, scan("x", f"n{n}")) for n, token in enumerate([scanner[1], odd] * 3))
    )

    assert [answer[0] for answer in answers] == [200, 500] * 3


def test_a_revoked_device_is_refused_within_seconds(event, scanner, monkeypatch):
    _, token = scanner

    async def scan_and_revoke():
        door = ScanDoor()
        first = await through(door, *request(token, scan("x", "a")))
        await asyncio.to_thread(
            lambda: (Device.objects.update(revoked_at=event.doors_at), connection.close())
        )
        remembered = await through(door, *request(token, scan("x", "b")))
        later = time.monotonic() + 6
        monkeypatch.setattr(time, "monotonic", lambda: later)
        return first[0], remembered[0], await through(door, *request(token, scan("x", "c")))

    assert asyncio.run(scan_and_revoke()) == (200, 200, None)


def test_without_a_connection_everybody_is_told_to_come_back(scanner, monkeypatch):
    monkeypatch.setattr(SCAN, "timeout_s", 0.05)
    held = [db.engine.connect() for _ in range(db.pool.cap() - db.pool.checkedout())]
    try:
        answers = by_the_lane(*(request(scanner[1], scan("x", f"n{index}")) for index in range(5)))
    finally:
        for conn in held:
            conn.close()

    assert {(answer[0], answer[1]["error"]["code"], answer[2]["retry-after"]) for answer in answers} == {
        (503, "overloaded", "1")
    }


def test_who_waits_too_long_or_in_too_long_a_queue_is_told(scanner, monkeypatch):
    go, busy = threading.Event(), threading.Event()

    def slow(**arguments):
        busy.set()
        go.wait(10)
        raise OperationalError("away")

    monkeypatch.setattr(admission, "admit", slow)
    monkeypatch.setattr(lane, "WAITING_MAX", 2)
    monkeypatch.setattr(lane, "DEADLINE_S", 0.2)

    async def crowd():
        door = ScanDoor()
        first = asyncio.create_task(through(door, *request(scanner[1], scan("x", "a"))))
        while not busy.is_set():
            await asyncio.sleep(0)
        others = [
            asyncio.create_task(through(door, *request(scanner[1], scan("x", f"n{index}"))))
            for index in range(3)
        ]
        answers = [await task for task in (first, *others)]
        go.set()
        return answers

    answers = asyncio.run(crowd())

    assert [(answer[0], answer[1]["error"]["code"]) for answer in answers] == [(503, "overloaded")] * 4
