"""Over HTTP: issue, show, scan; and whatever else clients send."""

import io
import json
import uuid

import pytest
import zxingcpp
from django.test import Client
from django.utils import timezone
from PIL import Image

from analytics.models import Scan
from tests.factories import make_device, make_event, make_open_event, make_service
from tickets.auth import Unauthorized
from tickets.models import Device, Event, ServiceToken, Ticket

pytestmark = pytest.mark.django_db


class Caller:
    """A client with a token, that sends and reads JSON."""

    def __init__(self, token=None):
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.client = Client(raise_request_exception=False)

    def get(self, path, headers=()):
        return self.client.get(path, headers={**self.headers, **dict(headers)})

    def post(self, path, body):
        data = body if isinstance(body, str | bytes) else json.dumps(body)
        return self.client.post(path, data, content_type="application/json", headers=self.headers)


@pytest.fixture
def event():
    return make_open_event()


@pytest.fixture
def shop():
    return Caller(make_service("tickets:write", "tickets:read", "stats:read"))


@pytest.fixture
def device(event):
    return Caller(make_device(event)[1])


def issue(shop, event, *tickets):
    response = shop.post(
        f"/api/v1/events/{event.slug}/tickets", {"tickets": list(tickets) or [{"holder": "Ada"}]}
    )
    assert response.status_code == 201, response.content
    return response.json()["tickets"]


def scan(device, code, **fields):
    return device.post("/api/v1/scans", {"code": code, "nonce": uuid.uuid4().hex, **fields})


def refusal(response):
    return response.status_code, response.json()["error"]["code"]


def test_an_issued_ticket_is_complete(shop, event):
    wish = {"holder": "Ada", "email": "ada@example.org", "kind": "vip", "reference": "order-1"}

    [ticket] = issue(shop, event, wish)

    assert {**ticket, "id": None, "code": None} == {**wish, "id": None, "code": None}
    assert len(ticket["code"]) == 117
    assert Ticket.objects.get().id == int(ticket["id"])


def test_tickets_come_back_in_the_order_asked_for(shop, event):
    names = [f"Guest {number}" for number in range(1000)]

    assert [ticket["holder"] for ticket in issue(shop, event, *({"holder": name} for name in names))] == names


def test_the_same_reference_again_returns_the_same_ticket(shop, event):
    [first] = issue(shop, event, {"holder": "Ada", "reference": "r"})

    again = issue(shop, event, {"holder": "Bob", "reference": "r"}, {"holder": "Cy", "reference": "r"})

    assert again == [first, first]
    assert Ticket.objects.count() == 1


def test_a_reference_belongs_to_its_event(shop, event):
    [here] = issue(shop, event, {"holder": "Ada", "reference": "r"})
    [there] = issue(shop, make_open_event(), {"holder": "Ada", "reference": "r"})

    assert here["id"] != there["id"]


@pytest.mark.uncounted
def test_beyond_the_capacity_nothing_is_issued(shop):
    event = make_open_event(capacity=2)
    first = issue(shop, event, {"holder": "Ada", "reference": "a"})
    body = {"tickets": [{"holder": "Bob"}, {"holder": "Cy"}]}

    response = shop.post(f"/api/v1/events/{event.slug}/tickets", body)

    assert refusal(response) == (409, "capacity_exceeded")
    assert response.json()["error"]["left"] == 1
    assert Ticket.objects.count() == 1
    Ticket.objects.update(voided_at=timezone.now())
    issue(shop, event, {"holder": "Bob"}, {"holder": "Cy"})
    assert issue(shop, event, {"holder": "Ada", "reference": "a"}) == first


def test_a_capacity_that_was_lowered_takes_no_ticket_back(shop):
    event = make_open_event()
    first = issue(shop, event, {"holder": "Ada", "reference": "a"}, {"holder": "Bob"}, {"holder": "Cy"})
    Event.objects.update(capacity=1)

    assert issue(shop, event, {"holder": "Ada", "reference": "a"}) == first[:1]
    response = shop.post(f"/api/v1/events/{event.slug}/tickets", {"tickets": [{"holder": "Dan"}]})
    assert response.json()["error"] == {
        "code": "capacity_exceeded",
        "message": "The event admits 1; 0 more can be issued.",
        "left": 0,
    }


def test_a_ticket_is_shown(shop, event):
    [ticket] = issue(shop, event)

    shown = shop.get(f"/api/v1/tickets/{ticket['id']}").json()

    assert shown.pop("issued_at")
    assert shown == {
        **ticket,
        "event": event.slug,
        "voided_at": None,
        "transferred_at": None,
        "admitted_at": None,
        "inside": False,
    }


def test_the_picture_that_we_draw_is_what_gets_scanned(shop, event, device):
    [ticket] = issue(shop, event)
    png = shop.get(f"/api/v1/tickets/{ticket['id']}/qr.png")
    svg = shop.get(f"/api/v1/tickets/{ticket['id']}/qr.svg")

    [read] = zxingcpp.read_barcodes(Image.open(io.BytesIO(png.content)))

    assert (png["Content-Type"], svg["Content-Type"]) == ("image/png", "image/svg+xml")
    assert png["Cache-Control"] == "private, no-store"
    assert svg.content.startswith(b"<?xml")
    assert scan(device, read.text).json()["verdict"] == "admitted"


def test_a_scan_is_answered_in_full(shop, event, device):
    [ticket] = issue(shop, event, {"holder": "Ada", "kind": "vip"})

    answer = scan(device, ticket["code"]).json()

    row = Scan.objects.get()
    assert answer == {
        "verdict": "admitted",
        "reason": None,
        "message": "Admitted.",
        "replayed": False,
        "ticket": {"id": ticket["id"], "holder": "Ada", "kind": "vip"},
        "first_admitted_at": answer["first_admitted_at"],
        "first_gate": "Main gate",
        "scan_id": row.id,
    }
    assert answer["first_admitted_at"].endswith("Z")
    assert row.scanned_at == row.recorded_at


def test_a_nonce_of_another_scan_is_a_409(device):
    assert scan(device, "x", nonce="n").json()["replayed"] is False

    assert scan(device, "x", nonce="n").json()["replayed"] is True
    assert refusal(scan(device, "y", nonce="n")) == (409, "nonce_reused")


def test_the_clients_clock_is_kept_beside_the_servers(event, device):
    scan(device, "x", scanned_at="2026-06-12T21:30:00.5+02:00")

    assert Scan.objects.get().scanned_at.isoformat() == "2026-06-12T19:30:00.500000+00:00"


def test_the_code_of_another_event_is_refused_and_tells_nothing_of_its_holder(shop, event, device):
    [ticket] = issue(shop, make_open_event())

    answer = scan(device, ticket["code"]).json()

    assert (answer["reason"], answer["ticket"]) == ("wrong_event", None)


READ_BY_A_SCANNER = {
    "nothing": ("", ""),
    "NUL": ("a\x00b", "a\\x00b"),
    "a lone surrogate": ("a\ud800b", "a\\ud800b"),
    "a long text": ("ü" * 1000, "ü" * 255 + "…"),
    "an emoji": ("🎫", "🎫"),
    "SQL": ("'; DROP TABLE ticket; --", "'; DROP TABLE ticket; --"),
}


@pytest.mark.parametrize(("read", "kept"), READ_BY_A_SCANNER.values(), ids=READ_BY_A_SCANNER)
def test_whatever_a_scanner_reads_is_judged_and_kept(device, read, kept):
    response = scan(device, read)

    assert (response.status_code, response.json()["reason"]) == (200, "unreadable")
    assert Scan.objects.get().code == kept


@pytest.mark.parametrize("more", [" " * 500, "\n" * 139 + "x"])
def test_a_genuine_code_in_a_longer_text_is_not_cut_into_a_genuine_code(shop, event, device, more):
    [ticket] = issue(shop, event)

    assert scan(device, ticket["code"] + more).json()["reason"] == "unreadable"


def test_a_device_that_forgot_what_year_it_is_scans_all_the_same(shop, event, device):
    [ticket] = issue(shop, event)

    answer = scan(device, ticket["code"], scanned_at="1970-01-01T00:00:00+02:00")

    assert (answer.status_code, answer.json()["verdict"]) == (200, "admitted")


MALFORMED = {
    "no JSON": b"{",
    "a list": b"[]",
    "null": b"null",
    "a number": b"7",
    "invalid UTF-8": b'{"code": "\xff"}',
    "too deep": b"[" * 200_000,
    "an endless number": b'{"code": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_body_is_a_400(device, body):
    assert refusal(device.post("/api/v1/scans", body)) == (400, "malformed")


WRONG_FIELDS = {
    "no body": ("", "body"),
    "no fields": ({}, "code"),
    "a number as code": ({"code": 1, "nonce": "n"}, "code"),
    "a list as code": ({"code": ["a"], "nonce": "n"}, "code"),
    "no nonce": ({"code": "a"}, "nonce"),
    "an empty nonce": ({"code": "a", "nonce": ""}, "nonce"),
    "a long nonce": ({"code": "a", "nonce": "n" * 129}, "nonce"),
    "NUL in the nonce": ({"code": "a", "nonce": "n\x00"}, "nonce"),
    "a line end in the nonce": ({"code": "a", "nonce": "n\n"}, "nonce"),
    "a surrogate in the nonce": ({"code": "a", "nonce": "\ud800"}, "nonce"),
    "a direction of its own": ({"code": "a", "nonce": "n", "direction": "up"}, "direction"),
    "no time": ({"code": "a", "nonce": "n", "scanned_at": "yesterday"}, "scanned_at"),
    "a time without zone": ({"code": "a", "nonce": "n", "scanned_at": "2026-01-01T00:00:00"}, "scanned_at"),
    "a time before computers": (
        {"code": "a", "nonce": "n", "scanned_at": "0001-01-01T00:00:00+14:00"},
        "scanned_at",
    ),
    "a time after PostgreSQL": ({"code": "a", "nonce": "n", "scanned_at": 1e300}, "scanned_at"),
}


@pytest.mark.parametrize(("body", "field"), WRONG_FIELDS.values(), ids=WRONG_FIELDS)
def test_a_wrong_field_is_a_422_that_names_it(device, body, field):
    response = device.post("/api/v1/scans", body)

    assert refusal(response) == (422, "invalid")
    assert response.json()["error"]["fields"][0]["field"].split(".")[0] == field
    assert not Scan.objects.exists()


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/api/v1/scans", "event"),
        ("/api/v1/scans?event=x&limit=0", "limit"),
        ("/api/v1/scans?event=x&gate=%00", "gate"),
        ("/api/v1/events/x/conflicts?open=perhaps", "open"),
        ("/api/v1/events/x/conflicts?after=x", "after"),
    ],
)
def test_a_wrong_parameter_is_a_422_that_names_it(shop, path, field):
    error = shop.get(path).json()["error"]

    assert [wrong["field"] for wrong in error["fields"]] == [field]
    assert error["message"].startswith(f"{field}: ")


def test_a_wrong_part_of_the_path_is_named(device):
    error = device.post("/api/v1/scans/white%20space/annul", {}).json()["error"]

    assert [wrong["field"] for wrong in error["fields"]] == ["nonce"]


@pytest.mark.parametrize(
    ("word", "is_dry"), [("True", True), ("yes", True), ("1", True), ("0", False), ("no", False)]
)
def test_yes_and_no_are_the_same_words_everywhere(shop, event, device, word, is_dry):
    [ticket] = issue(shop, event)

    answer = device.post(f"/api/v1/scans?dry_run={word}", {"code": ticket["code"], "nonce": "n"})

    assert (answer.json()["verdict"], Scan.objects.exists()) == ("admitted", not is_dry)
    assert shop.get(f"/api/v1/events/{event.slug}/conflicts?open={word}").status_code == 200


WRONG_TICKETS = {
    "none": ([], "tickets"),
    "too many": ([{"holder": "Ada"}] * 1001, "tickets"),
    "no holder": ([{"holder": "Ada"}, {}], "tickets.1.holder"),
    "an empty holder": ([{"holder": "  "}], "tickets.0.holder"),
    "a long holder": ([{"holder": "x" * 201}], "tickets.0.holder"),
    "NUL": ([{"holder": "a\x00"}], "tickets.0.holder"),
    "a surrogate": ([{"holder": "\ud800"}], "tickets.0.holder"),
    "a control character": ([{"holder": "Ada", "reference": "a\x1bb"}], "tickets.0.reference"),
    "no email": ([{"holder": "Ada", "email": "nobody"}], "tickets.0.email"),
    "a number": ([{"holder": 7}], "tickets.0.holder"),
}


@pytest.mark.parametrize(("tickets", "field"), WRONG_TICKETS.values(), ids=WRONG_TICKETS)
def test_wrong_tickets_are_a_422_and_none_is_issued(shop, event, tickets, field):
    response = shop.post(f"/api/v1/events/{event.slug}/tickets", {"tickets": tickets})

    assert refusal(response) == (422, "invalid")
    assert response.json()["error"]["fields"][0]["field"] == field
    assert not Ticket.objects.exists()


@pytest.mark.parametrize("path", ["/api/v1/scans", "/api/v1/events/{}/tickets"])
def test_a_body_of_10_mb_is_a_413(shop, device, event, path):
    caller = device if "scans" in path else shop

    assert refusal(caller.post(path.format(event.slug), b"x" * 10_000_000)) == (413, "too_large")


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/tickets/1",
        "/api/v1/tickets/99999999999999999999999",
        "/api/v1/tickets/0/qr.svg",
        "/api/v1/tickets/x",
    ],
)
def test_a_ticket_that_does_not_exist_is_a_404(shop, path):
    assert refusal(shop.get(path)) == (404, "not_found")


@pytest.mark.parametrize("slug", ["nowhere", "no%00where", "%ff", "a" * 300, "..%2f"])
def test_an_unknown_event_is_a_404(shop, slug):
    body = {"tickets": [{"holder": "Ada"}]}

    assert refusal(shop.post(f"/api/v1/events/{slug}/tickets", body)) == (404, "not_found")
    assert refusal(shop.get(f"/api/v1/events/{slug}/stats")) == (404, "not_found")


CALLS = {
    "scan": ("post", "/api/v1/scans"),
    "issue": ("post", "/api/v1/events/{slug}/tickets"),
    "ticket": ("get", "/api/v1/tickets/1"),
    "svg": ("get", "/api/v1/tickets/1/qr.svg"),
    "png": ("get", "/api/v1/tickets/1/qr.png"),
    "pdf": ("get", "/api/v1/tickets/1/ticket.pdf"),
    "stats": ("get", "/api/v1/events/{slug}/stats"),
}


def call(caller, name, event):
    method, path = CALLS[name]
    path = path.format(slug=event.slug)
    return caller.get(path) if method == "get" else caller.post(path, {})


@pytest.mark.parametrize("token", [None, "", "x", "qrd_unknown", "qrs_unknown", "\x7f" * 300])
@pytest.mark.parametrize("name", CALLS)
def test_without_a_valid_token_nothing_answers(event, name, token):
    expected = (401, "unauthorized")
    if token == ("qrs_unknown" if name == "scan" else "qrd_unknown"):
        expected = (403, "forbidden")  # the wrong kind of token, valid or not

    assert refusal(call(Caller(token), name, event)) == expected


@pytest.mark.parametrize("name", sorted(set(CALLS) - {"scan"}))
def test_a_device_may_only_scan(device, event, name):
    assert refusal(call(device, name, event)) == (403, "forbidden")


def test_a_service_can_not_scan(shop, event):
    assert refusal(call(shop, "scan", event)) == (403, "forbidden")


@pytest.mark.parametrize("name", sorted(set(CALLS) - {"scan"}))
def test_a_service_needs_the_scope(event, name):
    assert refusal(call(Caller(make_service("reports:read")), name, event)) == (403, "forbidden")


def test_a_revoked_token_stops_working_at_once(shop, device, event):
    assert scan(device, "x").status_code == 200

    Device.objects.update(revoked_at=timezone.now())
    ServiceToken.objects.update(revoked_at=timezone.now())

    assert refusal(scan(device, "x")) == (401, "unauthorized")
    assert refusal(call(shop, "issue", event)) == (401, "unauthorized")
    assert Unauthorized.status == 401


def test_tokens_are_kept_as_hashes(event):
    device, token = make_device(event)

    assert token.encode() not in bytes(device.token_hash)
    assert len(device.token_hash) == 32


def test_staff_who_are_signed_in_may_look_but_not_issue(event, shop, admin_client):
    [ticket] = issue(shop, event)

    assert admin_client.get(f"/api/v1/tickets/{ticket['id']}/qr.svg").status_code == 200
    assert admin_client.get(f"/api/v1/events/{event.slug}/stats").status_code == 200
    body = json.dumps({"tickets": [{"holder": "Ada"}]})
    answer = admin_client.post(f"/api/v1/events/{event.slug}/tickets", body, content_type="application/json")
    assert refusal(answer) == (401, "unauthorized")


def test_staff_without_the_permission_may_not_look(event, shop, client, django_user_model):
    [ticket] = issue(shop, event)
    client.force_login(django_user_model.objects.create(username="helper", is_staff=True))

    assert refusal(client.get(f"/api/v1/tickets/{ticket['id']}/qr.svg")) == (403, "forbidden")
    assert refusal(client.get(f"/api/v1/events/{event.slug}/stats")) == (403, "forbidden")


def test_an_ordinary_account_may_not_look(event, shop, client, django_user_model):
    [ticket] = issue(shop, event)
    client.force_login(django_user_model.objects.create(username="guest"))

    assert refusal(client.get(f"/api/v1/tickets/{ticket['id']}/qr.svg")) == (401, "unauthorized")


def test_the_wrong_method_is_a_405(device):
    assert refusal(device.get("/api/v1/scans/batch")) == (405, "method_not_allowed")


def test_the_api_documents_itself_to_staff_only(client, admin_client):
    assert client.get("/api/v1/openapi.json").status_code == 302
    paths = admin_client.get("/api/v1/openapi.json").json()["paths"]

    assert sorted(paths) == [
        "/api/v1/devices/enrol",
        "/api/v1/events/{slug}/conflicts",
        "/api/v1/events/{slug}/conflicts/{conflict_id}/sign-off",
        "/api/v1/events/{slug}/stats",
        *(
            f"/api/v1/events/{{slug}}/stats/{part}"
            for part in (
                *("compare", "gates", "heatmap", "invalid-attempts", "silent", "throughput", "timeline"),
                "transfers",
            )
        ),
        "/api/v1/events/{slug}/tickets",
        "/api/v1/keys",
        "/api/v1/scans",
        "/api/v1/scans/batch",
        "/api/v1/scans/{nonce}/annul",
        "/api/v1/stats",
        "/api/v1/stats/trending",
        "/api/v1/tickets/{ticket_id}",
        "/api/v1/tickets/{ticket_id}/qr.png",
        "/api/v1/tickets/{ticket_id}/qr.svg",
        "/api/v1/tickets/{ticket_id}/ticket.pdf",
        "/api/v1/tickets/{ticket_id}/transfer",
        "/api/v1/tickets/{ticket_id}/void",
    ]
    page = admin_client.get("/api/v1/docs").content.decode()
    assert "https://" not in page


def test_statistics_count_what_happened(shop, event, device):
    codes = [ticket["code"] for ticket in issue(shop, event, *({"holder": "Ada"} for _ in range(5)))]
    shop.post(f"/api/v1/tickets/{issue(shop, event)[0]['id']}/void", {})
    for code in [codes[0], codes[0], codes[0], codes[1], "x"]:
        scan(device, code)
    scan(device, codes[1], direction="exit")
    other = make_event()

    stats = shop.get(f"/api/v1/events/{event.slug}/stats").json()
    empty = shop.get(f"/api/v1/events/{other.slug}/stats").json()

    assert stats.pop("as_of") <= empty.pop("as_of")
    assert stats == {
        "event": event.slug,
        "name": event.name,
        "time_zone": "Europe/Berlin",
        "capacity": None,
        "issued": 6,
        "void": 1,
        "transferred": 0,
        "admitted": 2,
        "no_shows": 3,
        "inside": 1,
        "unique_tickets": 2,
        "scans": 6,
        "entries": 2,
        "exits": 1,
        "refused": 3,
        "annulled": 0,
        "conflicts": 0,
        "open_conflicts": 0,
        "refused_by_reason": {"already_admitted": 2, "unreadable": 1},
    }
    assert {key: value for key, value in empty.items() if value} == {
        "event": other.slug,
        "name": other.name,
        "time_zone": "Europe/Berlin",
    }
