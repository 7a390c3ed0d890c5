"""The examples of docs/scanning.md are sent as they stand there, and answered as it says."""

import json
import re

import pytest

from tests.factories import NOW, make_device, make_open_event
from tests.test_docs import ROOT
from tests.test_tickets_api import Caller
from tickets import issuing

pytestmark = pytest.mark.django_db


@pytest.fixture
def page():
    blocks = re.findall(r"^```json\n(.*?)^```", (ROOT / "docs/scanning.md").read_text(), re.M | re.S)
    return [json.loads(block) for block in blocks]


@pytest.fixture
def codes():
    event = make_open_event()
    wishes = [issuing.Wish(name, "", "standard", None) for name in ("Ada Lovelace", "Grace Hopper")]
    codes = [
        issuing.code_of(event_id=event.id, ticket_id=ticket.ticket_id)
        for ticket in issuing.issue(event_id=event.id, wishes=wishes, now=NOW)
    ]
    return event, codes


def whatever_the_numbers(answer):
    """Ids, moments and the offset of a clock are others each time; everything else stays, and stays in its place."""
    text = json.dumps(answer)
    nonces = set(re.findall(r'"nonce": "(\w+)"', text))
    return re.sub(r"-?\d+", "0", text), nonces


def test_the_examples_are_answered_as_the_page_says(page, codes):
    event, (ada, grace) = codes
    north = Caller(make_device(event, gate="North")[1])
    scan, scan_answer, queue, queue_answer = page
    assert north.post("/api/v1/scans", {"code": ada, "nonce": "before"}).json()["verdict"] == "admitted"
    for item, code in zip(queue["scans"], (grace, ada, grace), strict=True):
        assert item["code"] == "…"
        item["code"] = code

    one = north.post("/api/v1/scans", {**scan, "code": ada}).json()
    many = north.post("/api/v1/scans/batch", queue).json()

    assert whatever_the_numbers(one) == whatever_the_numbers(scan_answer)
    assert whatever_the_numbers(many) == whatever_the_numbers(queue_answer)
