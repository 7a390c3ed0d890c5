"""manage.py stats verify: the proof, as an operator runs it."""

import io
import json

import pytest
from django.core.management import CommandError, call_command

from analytics.models import EventCount
from tests.factories import admit, attempt, issue, make_device, make_event
from tickets.models import Ticket

pytestmark = pytest.mark.django_db


def verify(*words):
    """Return the exit code, what was printed, and the sentence that was said of a failure."""
    out = io.StringIO()
    try:
        call_command("stats", "verify", *words, stdout=out, stderr=io.StringIO())
    except CommandError as error:
        return error.returncode, out.getvalue(), str(error)
    return 0, out.getvalue(), ""


@pytest.fixture
def event(db):
    event = make_event(slug="summer")
    [device, _] = make_device(event)
    admit(device, *(attempt(device, ticket.code, str(ticket.id)) for ticket in issue(event, 3)))
    return event


def test_what_is_right_is_said_to_be(event):
    make_event()

    code, out, _ = verify()

    assert (code, out.partition(" recounted in ")[0]) == (0, "2 events")
    assert out.endswith(" s: 0 counters differed.\n")


@pytest.mark.uncounted
def test_what_is_off_is_listed_and_mended_only_if_asked_for(event):
    Ticket.objects.filter(event_id=event.id).update(inside=False)
    EventCount.objects.filter(event_id=event.id, span_min=1).delete()

    code, out, words = verify("--event", "summer")
    mended, _, said = verify("--repair")

    lines = out.splitlines()
    assert (code, words) == (1, "The counters are off: --repair mends them.")
    gate = make_device(event)[0].gate_id
    minute = "1 min from 2026-06-12 19:30Z"
    assert [line.rstrip() for line in lines[:5]] == [
        "summer: 3 differ",
        f"  counter  {'of':{len(minute) + 11}}  lacks",
        f"  counts   {'all gates, all time':{len(minute) + 11}}  inside -3",
        f"  counts   all gates, {minute}  entries +3, admitted +3",
        f"  counts   {f'gate {gate}, {minute}':{len(minute) + 11}}  entries +3, admitted +3",
    ]
    assert (mended, said) == (1, "The counters were off; now they are right.")
    assert verify()[0] == 0


@pytest.mark.uncounted
def test_a_machine_gets_one_object(event):
    EventCount.objects.filter(event_id=event.id, span_min=1).delete()

    code, out, _ = verify("--json")

    told = json.loads(out)
    assert (code, told["events"], told["differences"], told["repaired"]) == (1, 1, 2, False)
    first = told["by_event"]["summer"]["examples"][0]
    assert {key: value for key, value in first.items() if value} == {
        "counter": "counts",
        "span_min": 1,
        "since": "2026-06-12 19:30:00+00:00",
        "entries": 3,
        "admitted": 3,
    }


def test_an_event_that_is_not_there_is_misuse(event):
    assert verify("--event", "winter") == (2, "", "There is no event winter.")
