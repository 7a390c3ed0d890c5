"""Every statistic is what plain Python makes of the rows, whatever happened at the gates."""

import random
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from analytics import buckets, queries, recount, rows, statistics
from analytics.buckets import Bucket
from analytics.models import Conflict, Direction, Scan
from core import db
from core.errors import QrsiteError
from tests.conftest import partition_hot_tables
from tests.factories import NOW, attempt, issue, make_device, make_event
from tickets import admission, issuing, lifecycle
from tickets.models import Device, Gate, Ticket, Transfer

pytestmark = pytest.mark.django_db

# Over midnight and over a year's end in Kathmandu (+5:45), a night that is an hour longer, and one that is shorter, in
# Berlin, and a zone at half an hour.
NIGHTS = [
    ("Asia/Kathmandu", datetime(2026, 12, 31, 16, 0, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 10, 24, 22, 30, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 3, 8, 5, 0, tzinfo=UTC)),
    ("Australia/Adelaide", datetime(2026, 6, 12, 12, 0, tzinfo=UTC)),
]


def happened(where):
    """Return an event, after a few hours in which everything happened to it that can; beside another."""
    if where == "hash partitions":
        partition_hot_tables()
    zone, doors_at = NIGHTS[0] if where == "hash partitions" else where
    chance = random.Random(zone)
    times = {"doors_at": doors_at, "starts_at": doors_at, "ends_at": doors_at + timedelta(hours=9)}
    other = make_event(**times)
    something_happens(other, chance, steps=6)
    event = make_event(time_zone=zone, capacity=80, reentry="after_exit", **times)
    something_happens(event, chance, steps=45)
    return event


@pytest.fixture(params=NIGHTS, ids=[zone for zone, _ in NIGHTS])
def night(request):
    return happened(request.param)


@pytest.fixture(params=[NIGHTS[1], "hash partitions"], ids=["Europe/Berlin", "hash partitions"])
def some_night(request):
    """One of them, for what does not depend on clocks."""
    return happened(request.param)


def something_happens(event, chance, *, steps):
    """Issue, scan in and out, online and offline, also years late and by a clock in the future, annul, void, pass on."""
    devices = [
        make_device(event, gate=gate, name=f"Scanner {n}")[0] for gate in ("North", "South") for n in (1, 2)
    ]
    tickets = issue(event, 14)
    texts = ["no code", "another", "no code of ours"]
    now, nonces = event.doors_at - timedelta(minutes=30), []
    for step in range(steps):
        now += timedelta(seconds=chance.choice([5, 40, 400, 1500]))
        device = chance.choice(devices)
        what = chance.choice(["online"] * 6 + ["offline"] * 3 + ["annul"] * 2 + ["void", "transfer", "issue"])
        what = {3: "void", 5: "transfer"}.get(step, what)
        codes = chance.choices([*[ticket.code for ticket in tickets], *texts], k=chance.randint(1, 9))
        direction = chance.choice([Direction.ENTRY, Direction.ENTRY, Direction.EXIT])
        if what in ("online", "offline"):
            scans = []
            for place, code in enumerate(codes):
                late = timedelta(minutes=chance.choice([1, 20, 200, 2_000_000]))
                nonces.append((f"{step}-{place}", device))
                theirs = now + timedelta(days=chance.choice([0, 0, 400, -400]))  # by a clock that is off
                scans.append(attempt(device, code, nonces[-1][0], direction)._replace(scanned_at=theirs))
                if what == "offline":
                    reason = chance.choice([None, None, "void"])
                    scans[-1] = scans[-1]._replace(happened_at=now - late, refused_offline=reason)
            scans.append(scans[0])  # a device that did not hear the answer
            admission.admit(rules=admission.rules_of(event.id), scans=scans, now=now)
        elif what == "annul" and nonces:
            nonce, by = chance.choice(nonces[-20:])
            with suppress(QrsiteError):
                lifecycle.annul(event_id=event.id, nonce=nonce, device_id=by.id, now=now, within=None)
        elif what == "void":
            lifecycle.void_many([chance.choice(tickets).id], now=now)
        elif what == "transfer":
            with suppress(QrsiteError):
                old = chance.choice(tickets)
                new = lifecycle.transfer(
                    ticket_id=old.id, holder=f"New {step}", email="", reference=None, by="test", now=now
                )
                code = issuing.code_of(event_id=event.id, ticket_id=new.id)
                tickets.append(old._replace(id=new.id, code=code))
        else:
            tickets += issue(event, 2)


def log_of(event):
    return list(Scan.objects.filter(event_id=event.id).order_by("id"))


def counts(scan):
    """Whether a scan happened, as far as the numbers go: it was not taken back."""
    return scan.annulled_at is None


def passed(scans, direction):
    return [
        scan for scan in scans if scan.verdict == "admitted" and scan.direction == direction and counts(scan)
    ]


def refused(scans):
    return [scan for scan in scans if scan.verdict == "refused"]


def test_the_totals_are_a_recount_of_the_rows(some_night):
    with db.in_one_snapshot() as conn:
        totals = statistics.event_totals(conn, event_id=some_night.id)

    log, tickets = log_of(some_night), list(Ticket.objects.filter(event_id=some_night.id))
    conflicts = Conflict.objects.filter(event_id=some_night.id)
    assert totals == rows.EventTotals(
        issued=len(tickets),
        void=sum(ticket.voided_at is not None for ticket in tickets),
        transferred=sum(ticket.transferred_at is not None for ticket in tickets),
        admitted=sum(ticket.admitted_at is not None for ticket in tickets),
        no_shows=sum(
            ticket.voided_at is None and ticket.transferred_at is None and ticket.admitted_at is None
            for ticket in tickets
        ),
        inside=sum(ticket.inside for ticket in tickets),
        unique_tickets=len({scan.ticket_id for scan in log if scan.ticket_id}),
        scans=len(log),
        entries=len(passed(log, "entry")),
        exits=len(passed(log, "exit")),
        refused=len(refused(log)),
        annulled=sum(not counts(scan) for scan in log),
        conflicts=conflicts.count(),
        open_conflicts=conflicts.count(),
        refused_by_reason=dict(Counter(scan.reason for scan in refused(log))),
    )
    assert (
        min(totals.void, totals.transferred, totals.admitted, totals.entries, totals.exits, totals.annulled)
        > 0
    )


def test_the_list_of_all_events_says_of_each_what_its_own_page_says(some_night):
    with db.in_one_snapshot() as conn:
        lines = {line.slug: line for line in statistics.all_totals(conn)}
        totals = statistics.event_totals(conn, event_id=some_night.id)
        sums = statistics.sums(conn)
        [first] = statistics.all_totals(conn, page=1)
        rest = statistics.all_totals(conn, before_id=first.id)

    line = lines[some_night.slug]
    assert [first, *rest] == list(lines.values())
    assert line[:5] == (
        some_night.id,
        some_night.slug,
        some_night.name,
        some_night.time_zone,
        some_night.capacity,
    )
    assert line[5:] == tuple(getattr(totals, name) for name in line._fields[5:])
    assert sums[:11] == tuple(map(sum, zip(*(line[5:] for line in lines.values()), strict=True)))
    log = refused(Scan.objects.all())
    assert sums.refused_by_reason == Counter(scan.reason for scan in log)
    assert sums.conflicts == Conflict.objects.count()


@pytest.mark.parametrize("gate", [None, "North"])
def test_a_timeline_has_every_span_also_the_empty_ones(night, gate):
    for bucket in Bucket:
        assert_timeline_is_right(night, bucket, gate)


def assert_timeline_is_right(night, bucket, gate):
    zone = ZoneInfo(night.time_zone)
    since, until = night.doors_at - timedelta(hours=1), night.doors_at + timedelta(hours=8, minutes=7)
    gate_id = Gate.objects.get(event=night, name=gate).id if gate else 0
    starts = list(buckets.starts(since, until, bucket, zone))
    end = next(
        span for span in buckets.starts(since, until + timedelta(days=2), bucket, zone) if span >= until
    )

    with db.in_one_snapshot() as conn:
        found = statistics.timeline(
            conn,
            event_id=night.id,
            starts=starts,
            until=end,
            span_min=statistics.span_of(bucket),
            gate_id=gate_id,
        )

    log = [scan for scan in log_of(night) if gate_id in (0, scan.gate_id)]
    tickets = [
        ticket
        for ticket in Ticket.objects.filter(event_id=night.id, admitted_at__isnull=False)
        if gate_id in (0, ticket.admitted_gate_id)
    ]
    expected = []
    for start, stop in pairwise([*starts, end]):
        there = [scan for scan in log if start <= scan.happened_at < stop]
        expected.append(
            rows.Span(
                start,
                entries=len(passed(there, "entry")),
                exits=len(passed(there, "exit")),
                admitted=sum(start <= ticket.admitted_at < stop for ticket in tickets),
                refused=len(refused(there)),
            )
        )
    assert found == expected
    assert sum(span.entries for span in found) > 0


def test_the_heatmap_is_by_the_clock_of_the_venue(night):
    zone = ZoneInfo(night.time_zone)
    since, until = night.doors_at - timedelta(days=3000), night.doors_at + timedelta(days=9)
    since, until = (buckets.start_of(at, Bucket.DAY, zone) for at in (since, until))

    with db.in_one_snapshot() as conn:
        cells = statistics.heatmap(conn, event_id=night.id, zone=zone, since=since, until=until)

    expected = {}
    for scan in log_of(night):
        local = scan.happened_at.astimezone(zone)
        if since <= scan.happened_at < until:
            expected.setdefault((local.isoweekday(), local.hour), []).append(scan)
    assert cells == [
        rows.Cell(weekday, hour, len(passed(there, "entry")), len(passed(there, "exit")), len(refused(there)))
        for weekday in range(1, 8)
        for hour in range(24)
        for there in [expected.get((weekday, hour), [])]
    ]
    assert sum(cell.entries > 0 for cell in cells) > 2


def test_each_gate_has_its_own_numbers(some_night):
    now = some_night.doors_at + timedelta(hours=4, seconds=30)
    recent = now.replace(second=0) - timedelta(minutes=15)

    with db.in_one_snapshot() as conn:
        gates = statistics.gates(conn, event_id=some_night.id, now=now)

    expected = []
    for gate in Gate.objects.filter(event=some_night).order_by("name"):
        log = [scan for scan in log_of(some_night) if scan.gate_id == gate.id]
        lately = [scan for scan in log if scan.happened_at >= recent]
        at = [scan.happened_at.replace(second=0, microsecond=0) for scan in log if counts(scan)]
        admitted = Ticket.objects.filter(
            event_id=some_night.id, admitted_gate_id=gate.id, admitted_at__isnull=False
        )
        expected.append(
            rows.GateTotals(
                gate_id=gate.id,
                gate=gate.name,
                entries=len(passed(log, "entry")),
                exits=len(passed(log, "exit")),
                admitted=admitted.count(),
                refused=len(refused(log)),
                recent_entries=len(passed(lately, "entry")),
                recent_exits=len(passed(lately, "exit")),
                last_minute=max(at, default=None),
            )
        )
    assert gates == expected


def test_the_throughput_is_that_of_whole_minutes(night):
    for hours in (0.4, 2, 4, 400):
        assert_throughput_is_right(night, hours)


def assert_throughput_is_right(night, hours):
    now = night.doors_at + timedelta(hours=hours)
    with db.in_one_snapshot() as conn:
        event = queries.event_by_slug(conn, slug=night.slug)
        found = statistics.throughput(conn, event=event, now=now)
        totals = statistics.event_totals(conn, event_id=night.id)

    log, until = log_of(night), now.replace(second=0, microsecond=0)
    entries = Counter(scan.happened_at.replace(second=0, microsecond=0) for scan in passed(log, "entry"))
    last_quarter = max(scan.happened_at for scan in log if counts(scan))
    last_quarter -= timedelta(minutes=last_quarter.minute % 15, seconds=last_quarter.second)
    week = last_quarter.replace(microsecond=0) + timedelta(minutes=15) - timedelta(days=7)
    peak = max(
        ((number, at) for at, number in entries.items() if at >= week),
        key=lambda one: (one[0], -one[1].timestamp()),
    )
    last = [
        sum(number for at, number in entries.items() if until - timedelta(minutes=minutes) <= at < until)
        for minutes in (1, 5, 15)
    ]
    rate = last[1] / 5
    newcomers = sum(
        until - timedelta(minutes=5) <= ticket.admitted_at < until
        for ticket in Ticket.objects.filter(event_id=night.id, admitted_at__isnull=False)
    )
    assert found == rows.Throughput(
        *last,
        per_minute=rate,
        peak_minute=peak[1],
        peak_entries=peak[0],
        inside=totals.inside,
        capacity=80,
        capacity_share=totals.inside / 80,
        no_shows=totals.no_shows,
        clear_min=totals.no_shows / (newcomers / 5) if newcomers else None,
    )


def test_refusals_are_grouped_by_reason_gate_and_device(some_night):
    with db.in_one_snapshot() as conn:
        found = statistics.refusals(conn, event_id=some_night.id)

    devices = dict(Device.objects.values_list("id", "name"))
    gates = dict(Gate.objects.values_list("id", "name"))
    log = refused(log_of(some_night))
    assert (found.refused, found.by_reason) == (len(log), dict(Counter(scan.reason for scan in log)))
    assert {row[:2]: row.refused for row in found.by_gate} == Counter(
        (scan.gate_id, gates[scan.gate_id]) for scan in log
    )
    assert {row[:2]: row.refused for row in found.by_device} == Counter(
        (scan.device_id, devices[scan.device_id]) for scan in log
    )
    assert list(found.by_reason.values()) == sorted(found.by_reason.values(), reverse=True)


def test_a_code_that_is_tried_again_and_again_is_on_top(some_night):
    with db.in_one_snapshot() as conn:
        found = statistics.repeated_codes(conn, event_id=some_night.id, page=1000)

    times = Counter((scan.ticket_id, scan.code) for scan in refused(log_of(some_night)))
    assert {(row.ticket_id, row.code): row.refused for row in found} == {
        key: number for key, number in times.items() if number > 1
    }
    assert [row.refused for row in found] == sorted((row.refused for row in found), reverse=True)
    for row in found:
        last = max(
            (
                scan
                for scan in refused(log_of(some_night))
                if (scan.ticket_id, scan.code) == (row.ticket_id, row.code)
            ),
            key=lambda scan: scan.happened_at,
        )
        assert (row.last_at, row.reason) == (last.happened_at, last.reason)


def test_the_refused_scans_are_paged_newest_first(some_night):
    pages, before = [], None
    with db.in_one_snapshot() as conn:
        while page := statistics.refused_page(conn, event_id=some_night.id, before_id=before, page=7):
            pages, before = pages + page, page[-1].scan_id

    assert [(row.scan_id, row.reason, row.happened_at) for row in pages] == [
        (scan.id, scan.reason, scan.happened_at) for scan in reversed(refused(log_of(some_night)))
    ]


def test_a_chain_of_transfers_is_found_from_every_ticket_in_it(event):
    now, chain = NOW, [issue(event)[0].id]
    for number in range(4):
        chain.append(
            lifecycle.transfer(
                ticket_id=chain[-1], holder=f"Holder {number}", email="", reference=None, by="shop", now=now
            ).id
        )

    with db.in_one_snapshot() as conn:
        found = [
            statistics.transfer_chain(conn, event_id=event.id, ticket_id=ticket_id) for ticket_id in chain
        ]
        recent = statistics.transfer_page(conn, event_id=event.id)
        lone = statistics.transfer_chain(conn, event_id=event.id, ticket_id=1)

    assert {tuple(pair) for pair in ((row.from_ticket_id, row.to_ticket_id) for row in found[0])} == set(
        pairwise(chain)
    )
    assert found == [recent[::-1]] * 5
    assert [(row.from_holder, row.to_holder) for row in recent[:1]] == [("Holder 2", "Holder 3")]
    assert (lone, Transfer.objects.count()) == ([], 4)


def test_trends_are_entries_that_count_half_as_much_an_hour_later(some_night):
    now = some_night.doors_at + timedelta(hours=3, minutes=11)

    with db.in_one_snapshot() as conn:
        trends = statistics.trends(conn, now=now)

    since = now - timedelta(hours=12)
    expected = {}
    for scan in passed(list(Scan.objects.all()), "entry"):
        quarter = scan.happened_at.replace(second=0, microsecond=0)
        quarter -= timedelta(minutes=quarter.minute % 15)
        if since <= quarter <= now:
            age_h = (now - quarter) / timedelta(hours=1)
            expected[scan.event_id] = expected.get(scan.event_id, 0) + 0.5**age_h
    assert {trend.id: trend.score for trend in trends} == pytest.approx(expected)
    assert [trend.id for trend in trends] == sorted(expected, key=lambda event_id: -expected[event_id])


def test_entries_since_the_doors_opened_can_be_laid_over_those_of_another_event(night):
    with db.in_one_snapshot() as conn:
        event = queries.event_by_slug(conn, slug=night.slug)
        found = statistics.since_doors(conn, event=event, bucket_min=20, spans=15)

    entries = [scan.happened_at for scan in passed(log_of(night), "entry")]
    expected = []
    for place in range(15):
        start = night.doors_at + place * timedelta(minutes=20)
        stop = start + timedelta(minutes=20)
        expected.append(
            rows.SinceDoors(
                place * 20, sum(start <= at < stop for at in entries), sum(at < stop for at in entries)
            )
        )
    assert found == expected


def test_what_has_been_silent_for_too_long_is_listed(event):
    north, south = (make_device(event, gate=gate, name=gate)[0] for gate in ("North", "South"))
    [ticket] = issue(event)
    admission.admit(
        rules=admission.rules_of(event.id),
        scans=[attempt(north, ticket.code, "n")],
        now=NOW + timedelta(seconds=20),
    )
    Device.objects.filter(id=north.id).update(last_seen_at=NOW + timedelta(seconds=20))

    with db.in_one_snapshot() as conn:
        early, late = (
            statistics.silent(conn, event_id=event.id, now=NOW + timedelta(minutes=minutes), for_min=10)
            for minutes in (10, 11)
        )

    assert [gate.gate for gate in early.gates] == ["South"]
    assert [device.device for device in early.devices] == [south.name]
    assert [gate.gate for gate in late.gates] == ["North", "South"]
    assert [device.device for device in late.devices] == [north.name, south.name]


def test_an_event_without_scans_has_zeros_and_no_range(event):
    with db.in_one_snapshot() as conn:
        row = queries.event_by_slug(conn, slug=event.slug)
        totals = statistics.event_totals(conn, event_id=event.id)
        throughput = statistics.throughput(conn, event=row, now=NOW)

        assert statistics.active_range(conn, event_id=event.id) is None
        assert statistics.changes(conn, event.id) == (0, None)
    assert totals == rows.EventTotals(*[0] * 14, {})
    assert throughput == rows.Throughput(0, 0, 0, 0, None, 0, 0, None, None, 0, None)


def test_counters_that_are_lost_are_built_again_from_the_rows(some_night):
    with db.in_one_snapshot() as conn:
        before = statistics.event_totals(conn, event_id=some_night.id)
        spans = statistics.active_range(conn, event_id=some_night.id)
    with db.begin() as conn:
        for table in ("event_counts", "refusal_counts", "refused_codes"):
            conn.exec_driver_sql(f"DELETE FROM {table} WHERE event_id = %s", (some_night.id,))
    Ticket.objects.filter(event_id=some_night.id).update(scanned=False)

    found = recount.recount(event_id=some_night.id, mends=True, now=NOW)
    again = recount.recount(event_id=some_night.id, mends=False, now=NOW)

    with db.in_one_snapshot() as conn:
        after = statistics.event_totals(conn, event_id=some_night.id)
        assert statistics.active_range(conn, event_id=some_night.id) == spans
    assert (after, again) == (before, recount.Recount(0, []))
    assert found.differences > 100
    assert len(found.examples) == recount.EXAMPLES_MAX
    marked = {ticket.id for ticket in Ticket.objects.filter(event_id=some_night.id, scanned=True)}
    assert marked == {scan.ticket_id for scan in log_of(some_night) if scan.ticket_id}
