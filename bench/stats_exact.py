"""Writers that scan, take back and roll back, and a reader that recounts what the counters say meanwhile.

`python -m bench.stats_exact write <seed>` runs four threads until its input ends; `… read <times>` compares so many times,
each in one snapshot, and `… issue` makes the tickets before. All print one object.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from importlib import import_module
from typing import Any
from zoneinfo import ZoneInfo

EVENTS = 4  # few, so that writers meet at counters; more than one, so that a recount stays short
TICKETS = 400
THREADS = 4
SCANS = 6
PLAIN = {
    "event": """
        SELECT ticket.*, log.*
          FROM (SELECT count(*) AS issued, count(voided_at) AS void, count(transferred_at) AS transferred,
                       count(admitted_at) AS admitted,
                       count(*) FILTER (WHERE coalesce(voided_at, transferred_at, admitted_at) IS NULL) AS no_shows,
                       count(*) FILTER (WHERE inside) AS inside
                  FROM ticket WHERE event_id = %(event_id)s) AS ticket,
               (SELECT count(DISTINCT ticket_id) AS unique_tickets, count(*) AS scans,
                       count(*) FILTER (WHERE verdict = 'admitted' AND direction = 'entry' AND annulled_at IS NULL) AS entries,
                       count(*) FILTER (WHERE verdict = 'admitted' AND direction = 'exit' AND annulled_at IS NULL) AS exits,
                       count(*) FILTER (WHERE verdict = 'refused') AS refused, count(annulled_at) AS annulled
                  FROM ticket_scans WHERE event_id = %(event_id)s) AS log""",
    "gates": """
          SELECT gate.name,
                 count(*) FILTER (WHERE verdict = 'admitted' AND direction = 'entry' AND annulled_at IS NULL) AS entries,
                 count(*) FILTER (WHERE verdict = 'admitted' AND direction = 'exit' AND annulled_at IS NULL) AS exits,
                 (SELECT count(*) FROM ticket WHERE event_id = %(event_id)s AND admitted_gate_id = gate.id) AS admitted,
                 count(*) FILTER (WHERE verdict = 'refused') AS refused
            FROM gate LEFT JOIN ticket_scans AS scan ON scan.event_id = %(event_id)s AND scan.gate_id = gate.id
           WHERE gate.event_id = %(event_id)s
        GROUP BY gate.id ORDER BY gate.name""",
    "minutes": """
          SELECT date_trunc('minute', happened_at) AS since,
                 count(*) FILTER (WHERE verdict = 'admitted' AND direction = 'entry' AND annulled_at IS NULL) AS entries,
                 count(*) FILTER (WHERE verdict = 'admitted' AND direction = 'exit' AND annulled_at IS NULL) AS exits,
                 count(*) FILTER (WHERE verdict = 'refused') AS refused
            FROM ticket_scans WHERE event_id = %(event_id)s
        GROUP BY since HAVING count(*) > count(annulled_at) ORDER BY since""",
    "reasons": """
          SELECT reason, count(*) FROM ticket_scans WHERE event_id = %(event_id)s AND verdict = 'refused' GROUP BY reason""",
}


class _Cancelled(Exception):
    """What rolls a third back."""


def issue() -> dict[str, int]:
    """Make the tickets that are scanned."""
    issuing, models = import_module("tickets.issuing"), import_module("tickets.models")
    for event in models.Event.objects.order_by("id")[:EVENTS]:
        wishes = [issuing.Wish(f"Guest {number}", "", "standard", None) for number in range(TICKETS)]
        issuing.issue(event_id=event.id, wishes=wishes, now=event.doors_at)
    return {"tickets": EVENTS * TICKETS}


def write(seed: int) -> Counter[str]:
    """Scan in four threads, until the input ends; count what was done."""
    done = threading.Event()
    threading.Thread(target=_wait_for_the_end, args=[done], daemon=True).start()
    with ThreadPoolExecutor(THREADS) as executor:
        threads = [executor.submit(_write, f"{seed}-{number}", done) for number in range(THREADS)]
        return sum((thread.result() for thread in threads), Counter())


def _wait_for_the_end(done: threading.Event) -> None:
    sys.stdin.read()
    done.set()


def _write(name: str, done: threading.Event) -> Counter[str]:
    chance, counted = random.Random(name), Counter[str]()
    connection, transaction = (
        getattr(import_module("django.db"), part) for part in ("connection", "transaction")
    )
    admission, lifecycle = import_module("tickets.admission"), import_module("tickets.lifecycle")
    judging, failed = import_module("tickets.judging"), import_module("core.errors").QrsiteError
    directions, stages = import_module("analytics.models").Direction, _stages()
    nonces: list[tuple[int, str, int]] = []
    turn = 0
    while not done.is_set():
        turn += 1
        event, rules, devices, tickets = chance.choice(stages)
        device_id, gate_id = chance.choice(devices)
        now = event.doors_at + timedelta(hours=6, seconds=turn)
        late = now - timedelta(minutes=chance.randrange(300)) if chance.random() < 0.3 else None
        scans = [
            judging.Scan(
                chance.choice(tickets)[1] if chance.random() < 0.95 else "x",
                f"{name}-{turn}-{place}",
                late or now,
                directions.EXIT if chance.random() < 0.2 else directions.ENTRY,
                gate_id,
                device_id,
                happened_at=late,
            )
            for place in range(SCANS)
        ]
        # One of the three, as the site does it: counters come last in a transaction.
        luck, kept = chance.random(), 0
        try:
            with suppress(failed), transaction.atomic():
                if nonces and luck < 0.15:
                    event_id, nonce, by = chance.choice(nonces[-20:])
                    lifecycle.annul(event_id=event_id, nonce=nonce, device_id=by, now=now, within=None)
                    counted["annulled"] += 1
                elif luck < 0.17:
                    lifecycle.void(ticket_id=chance.choice(tickets)[0], now=now)
                    counted["void"] += 1
                else:
                    admission.admit(rules=rules, scans=scans, now=now)
                    counted["late" if late else "online"] += SCANS
                    kept = SCANS
                    nonces += [(event.id, scan.nonce, device_id) for scan in scans]
                if chance.random() < 1 / 3:
                    raise _Cancelled
            counted["kept"] += kept
        except _Cancelled:
            counted["rolled_back"] += 1
        counted["transactions"] += 1
    connection.close()
    return counted


def _stages() -> list[Any]:
    """Return the events, each with its rules, devices and tickets."""
    admission, issuing = import_module("tickets.admission"), import_module("tickets.issuing")
    models = import_module("tickets.models")
    return [
        (
            event,
            admission.rules_of(event.id),
            list(models.Device.objects.filter(gate__event=event).values_list("id", "gate_id")),
            [
                (ticket, issuing.code_of(event_id=event.id, ticket_id=ticket))
                for ticket in models.Ticket.objects.filter(event=event).values_list("id", flat=True)
            ],
        )
        for event in models.Event.objects.order_by("id")[:EVENTS]
    ]


def read(times: int) -> dict[str, Any]:
    """Compare the counters with the rows so many times; tell how often anything differed, and some of it."""
    db, models = import_module("core.db"), import_module("tickets.models")
    events = list(models.Event.objects.order_by("id")[:EVENTS])
    differed, examples = 0, []
    for turn in range(times):
        with db.in_one_snapshot() as conn:
            found = list(_unlike(conn, events[turn % EVENTS]))
        differed += bool(found)
        examples += found
    return {
        "asked": times,
        "differed": differed,
        "examples": [repr(one) for one in examples[:5]],
    }


def _unlike(conn: Any, event: Any) -> Iterator[Any]:
    queries, statistics = import_module("analytics.queries"), import_module("analytics.statistics")
    buckets = import_module("analytics.buckets")
    utc, event_id = ZoneInfo("UTC"), event.id

    def plain(name: str) -> list[Any]:
        found: list[Any] = conn.exec_driver_sql(PLAIN[name], {"event_id": event_id}).all()
        return found

    yield from queries.differences(conn, event_id=event_id, rows=1000)
    totals = statistics.event_totals(conn, event_id=event_id)._asdict()
    [recounted] = plain("event")
    if recounted._asdict().items() - {key: totals[key] for key in recounted._asdict()}.items():
        yield "event", totals, recounted
    if dict(map(tuple, plain("reasons"))) != totals["refused_by_reason"]:
        yield "reasons", totals
    gates = [tuple(gate)[1:6] for gate in statistics.gates(conn, event_id=event_id, now=event.doors_at)]
    if gates != [tuple(row) for row in plain("gates")]:
        yield "gates", gates
    if active := statistics.active_range(conn, event_id=event_id):
        starts = list(buckets.starts(*active, buckets.Bucket.MINUTE, utc))
        spans = statistics.timeline(conn, event_id=event_id, starts=starts, until=active[1], span_min=1)
        minutes = [
            (span.since, span.entries, span.exits, span.refused)
            for span in spans
            if span.entries + span.exits + span.refused
        ]
        if minutes != [tuple(row) for row in plain("minutes")]:
            yield "timeline", minutes


if __name__ == "__main__":
    import_module("django").setup()
    _do: dict[str, Callable[..., Any]] = {"issue": issue, "write": write, "read": read}
    print(json.dumps(_do[sys.argv[1]](*map(int, sys.argv[2:]))))  # noqa: T201
