"""What SQL makes of the log is what plain Python makes of it, whatever the log holds."""

import random
from datetime import timedelta

import pytest

from analytics import queries
from analytics.models import Conflict, Scan
from core import db
from tests.factories import NOW, issue, make_device, make_event

pytestmark = [pytest.mark.django_db, pytest.mark.uncounted]

REASONS = ["already_admitted", "already_admitted", "void", "not_inside"]


@pytest.fixture
def event(either_layout):
    return make_event()


def any_log(event, chance, scans=120):
    """Write scans of few tickets by few devices at few moments, some of them taken back: ties and gaps of every kind."""
    tickets = [ticket.id for ticket in issue(event, 4)]
    devices = [make_device(event, gate=gate)[0] for gate in ("North", "South", "East")]
    records = []
    for number in range(scans):
        device, reason = chance.choice(devices), chance.choice([None, chance.choice(REASONS)])
        ticket_id = chance.choice(tickets if reason is None else [*tickets, None])
        records.append(
            queries.ScanRecord(
                nonce=f"n{number}",
                ticket_id=ticket_id,
                gate_id=device.gate_id,
                device_id=device.id,
                user_id=None,
                direction=chance.choice(["entry", "entry", "exit"]),
                verdict="refused" if reason else "admitted",
                reason=reason,
                code=None if ticket_id else "x",
                scanned_at=NOW,
                happened_at=NOW + timedelta(minutes=chance.randrange(60)),
                offline=True,
                reentry=True,  # the index on the first entry is for others to test
                forced_over=None,
                force_reason=None,
            )
        )
    with db.begin() as conn:
        queries.record_scans(conn, event_id=event.id, scans=records, recorded_at=NOW)
    admitted = Scan.objects.filter(event_id=event.id, verdict="admitted").values_list("id", flat=True)
    Scan.objects.filter(id__in=chance.sample(sorted(admitted), len(admitted) // 3)).update(annulled_at=NOW)
    return list(Scan.objects.filter(event_id=event.id).order_by("id"))


def entry_that_used(scan, log):
    """The last entry before a scan, or else the first after it; None where nobody came in with its ticket."""
    entries = [
        row
        for row in log
        if (row.ticket_id, row.verdict, row.direction, row.annulled_at)
        == (scan.ticket_id, "admitted", "entry", None)
    ]
    before = [row for row in entries if row.happened_at <= scan.happened_at]
    if before:
        return max(before, key=lambda row: (row.happened_at, -row.id))
    return min(entries, key=lambda row: (row.happened_at, row.id), default=None)


@pytest.mark.parametrize("seed", range(4))
def test_the_conflicts_are_those_that_a_recount_finds_each_with_the_right_entry(event, seed):
    chance = random.Random(seed)
    any_log(make_event(), chance)
    log = any_log(event, chance)

    with db.begin() as conn:
        nonces = [row.nonce for row in log]
        queries.record_conflicts(conn, event_id=event.id, nonces=nonces, noticed_at=NOW)

    expected = []
    for scan in log:
        if (scan.verdict, scan.direction) == ("refused", "entry") and scan.ticket_id is not None:
            earlier = entry_that_used(scan, log)
            knew_it = earlier is not None and earlier.device_id == scan.device_id
            if scan.reason != "already_admitted" or not knew_it:
                expected.append((scan.id, scan.ticket_id, scan.reason, earlier and earlier.id))
    found = Conflict.objects.order_by("scan_id")
    assert list(found.values_list("scan_id", "ticket_id", "reason", "earlier_scan_id")) == expected
    assert len(expected) > 10
