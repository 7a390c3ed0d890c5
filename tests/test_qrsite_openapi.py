"""OpenAPI says what the API takes, gives and refuses; that it does say so of every answer is checked in conftest.py."""

import json

import pytest
from jsonschema import ValidationError

from core.errors import QrsiteError
from qrsite.api import api
from tests import contract
from tests.factories import make_device, make_open_event, make_service
from tests.test_tickets_api import Caller
from tickets.models import SCOPES
from tickets.rules import REASONS

pytestmark = pytest.mark.django_db

OPERATIONS = sorted(contract.operations())
# What a client may meet at the front door and in an outage, and what depends on more than the call:
# tests of their own meet these, and conftest.py looks at what they get.
ELSEWHERE = {408, 409, 410, 413, 429, 503}
DEEP = b"[" * 200_000


def documented(operation):
    """By status, the codes of its errors."""
    return {
        status: set(
            answer["content"]["application/json"]["schema"]["allOf"][1]["properties"]["error"]["properties"][
                "code"
            ]["enum"]
        )
        for status, answer in operation["responses"].items()
        if status >= 400
    }


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=[" ".join(name) for name in OPERATIONS])
def test_an_operation_answers_with_the_errors_that_it_documents(method, path):
    event = make_open_event()
    device, service = Caller(make_device(event)[1]), Caller(make_service(*SCOPES))
    gone = path.format_map({"slug": "nowhere", "ticket_id": 1, "nonce": "gone", "conflict_id": 1})
    here = path.format_map({"slug": event.slug, "ticket_id": 1, "nonce": "white space", "conflict_id": 1})
    good = {"tickets": [{"holder": "Ada"}], "to": "Ada", "note": "x", "secret": "x"}
    answers = [
        send(caller, target, body)
        for caller in (Caller(), Caller("qrd_unknown"), Caller("qrs_unknown"), device, service)
        for target, body in (
            (gone, good),
            (f"{gone}?event=nowhere&other=nowhere", good),
            (f"{here}?event=%00&limit=0&dry_run=maybe&zone=Nowhere&minutes=0&spans=0", good),
            (here, {}),
            (here, DEEP),
        )
        for send in (Caller.post if method == "post" else lambda caller, target, _body: caller.get(target),)
    ]

    seen = {answer.status_code for answer in answers if answer.status_code >= 400}

    assert seen == set(contract.operations()[method, path]["responses"]) - ELSEWHERE - {200, 201, 304}


def test_every_error_of_the_api_is_documented_by_who_gives_it():
    """The classes that only the admin and the commands raise aside."""
    codes = {
        code
        for operation in contract.operations().values()
        for each in documented(operation).values()
        for code in each
    }
    classes = {error.code for error in every(QrsiteError) if not error.__module__.startswith("tests.")}

    assert classes - codes == {"file_refused", "key_refused", "too_many_tickets", "upload_gone"}
    assert codes - classes == {"database_unavailable", "malformed", "timeout", "too_large"}


def every(error):
    return {found for child in error.__subclasses__() for found in {child, *every(child)}}


def test_what_a_scan_may_be_refused_with_is_all_listed():
    assert documented(contract.operations()["post", "/api/v1/scans"]) == {
        400: {"malformed"},
        401: {"unauthorized"},
        403: {"forbidden", "force_forbidden"},
        408: {"timeout"},
        409: {"nonce_reused", "scan_annulled"},
        413: {"too_large"},
        422: {"invalid"},
        429: {"too_many_calls"},
        503: {"overloaded", "database_unavailable"},
    }


def test_a_queue_is_documented_item_by_item():
    shapes = contract.description()["components"]["schemas"]
    offline = {"code": "x", "nonce": "n", "reason": "void"}

    contract.validate(shapes["QueueIn"], {"scans": [offline]})
    with pytest.raises(ValidationError, match="'because' is not valid"):
        contract.validate(shapes["QueueIn"], {"scans": [{**offline, "reason": "because"}]})
    with pytest.raises(ValidationError, match="'code' is a required property"):
        contract.validate(shapes["OfflineScanIn"], {"nonce": "n"})
    assert shapes["QueueOut"]["properties"]["results"]["items"] == {
        "anyOf": [{"$ref": "#/components/schemas/JudgedScan"}, {"$ref": "#/components/schemas/FailedScan"}]
    }


@pytest.mark.parametrize(
    ("shape", "field"),
    [
        ("ScanOut", "reason"),
        ("JudgedScan", "reason"),
        ("LoggedScan", "reason"),
        ("LoggedScan", "forced_over"),
    ],
)
def test_reasons_are_the_words_of_the_rules(shape, field):
    shown = contract.description()["components"]["schemas"][shape]["properties"][field]

    assert shown["anyOf"] == [{"type": "string", "enum": list(REASONS)}, {"type": "null"}]


def test_files_say_what_they_are():
    kinds = {
        path.rpartition("/")[2]: list(operation["responses"][200]["content"])
        for (method, path), operation in contract.operations().items()
        if "{ticket_id}/" in path and method == "get"
    }

    assert kinds == {"qr.svg": ["image/svg+xml"], "qr.png": ["image/png"], "ticket.pdf": ["application/pdf"]}


def test_asking_for_the_description_again_gives_the_same():
    assert json.dumps(api.get_openapi_schema()) == json.dumps(api.get_openapi_schema())
