"""One scan as an ordinary site does it: six statements in a transaction of its own. What all peers of bench.scan run.

The checks, the tables and what is written are the site's (tickets.admission); a statement is about one row, which is
simpler and costs less than the site's arrays. Runs in environments where neither the site nor Django exists.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable, Generator
from datetime import datetime
from typing import Any

from nacl.signing import SigningKey

from tickets import codes

# Every one returns a row at most; binds are `:name`.
STATEMENTS = {
    "device": """
        SELECT device.id, gate.id, event.id, event.doors_at, event.ends_at, event.reentry
          FROM device
          JOIN gate ON gate.id = device.gate_id
          JOIN event ON event.id = gate.event_id
         WHERE device.token_hash = :token_hash AND device.revoked_at IS NULL""",
    "replay": """
        SELECT id, verdict, reason FROM ticket_scans WHERE event_id = :event_id AND nonce = :nonce""",
    "lock": """
        SELECT holder, ticket.kind, voided_at, transferred_at, admitted_at, inside, kind.admits_from, kind.admits_until,
               (SELECT name FROM gate WHERE gate.id = ticket.admitted_gate_id),
               EXISTS (SELECT FROM gate_kind WHERE gate_id = :gate_id)
               AND NOT EXISTS (SELECT FROM gate_kind WHERE gate_id = :gate_id AND kind_id = kind.id)
          FROM ticket
          LEFT JOIN ticket_kind AS kind ON kind.event_id = ticket.event_id AND kind.name = ticket.kind
         WHERE ticket.event_id = :event_id AND ticket.id = :ticket_id FOR UPDATE OF ticket""",
    "record": """
        INSERT INTO ticket_scans (event_id, nonce, ticket_id, gate_id, device_id, direction, verdict, reason, code,
                                  scanned_at, recorded_at, happened_at, offline, reentry)
             VALUES (:event_id, :nonce, :ticket_id, :gate_id, :device_id, 'entry', :verdict, :reason, :code,
                     :now, :now, :now, FALSE, :reentry)
        ON CONFLICT (event_id, nonce) DO NOTHING
          RETURNING id""",
    "admit": """
        UPDATE ticket SET admitted_at = :now, admitted_gate_id = :gate_id, inside = TRUE
         WHERE event_id = :event_id AND id = :ticket_id
        RETURNING id""",
    # As a batch of ours counts (analytics.counters), for one scan: a slot for each connection, so that none waits.
    "count": """
        INSERT INTO event_counts AS kept
             SELECT CAST(:event_id AS integer), gate_id, span_min,
                    CASE span_min WHEN 0 THEN TIMESTAMPTZ 'epoch'
                         ELSE date_bin(make_interval(mins => span_min), CAST(:now AS timestamptz),
                                       TIMESTAMPTZ 'epoch') END,
                    mod(pg_backend_pid(), 16), 1, CAST(:now AS timestamptz), admitted, 0, admitted, 1 - admitted, 0, 0, 0,
                    CASE WHEN is_whole THEN -admitted ELSE 0 END, CASE WHEN is_whole THEN admitted ELSE 0 END,
                    CASE WHEN is_whole THEN admitted ELSE 0 END, 0
               FROM (SELECT gate_id, span_min, CAST(:admitted AS integer) AS admitted, gate_id + span_min = 0 AS is_whole
                       FROM (VALUES (0), (CAST(:gate_id AS integer))) AS gate (gate_id)
                 CROSS JOIN (VALUES (0), (1), (15)) AS span (span_min)
                   ORDER BY gate_id, span_min) AS counter
        ON CONFLICT (event_id, gate_id, span_min, since, slot) DO UPDATE
                SET changes = kept.changes + 1, changed_at = EXCLUDED.changed_at,
                    entries = kept.entries + EXCLUDED.entries, admitted = kept.admitted + EXCLUDED.admitted,
                    refused = kept.refused + EXCLUDED.refused, missing = kept.missing + EXCLUDED.missing,
                    inside = kept.inside + EXCLUDED.inside, scanned = kept.scanned + EXCLUDED.scanned
          RETURNING changes""",
}
_BIND = re.compile(r":(\w+)")
Row = Any
Answer = tuple[int, dict[str, Any]]
Steps = Generator[tuple[str, dict[str, Any]], Row, Answer]

_KEYS = {
    int(number): SigningKey(base64.b64decode(seed)).verify_key
    for number, _, seed in (key.partition(":") for key in os.environ["QR_SIGNING_KEYS"].split(","))
}


def read(code: str) -> codes.TicketRef | str:
    """Return the ticket that a code names, or why it names none. Before the transaction: it takes its time."""
    try:
        return codes.read(code, _KEYS)
    except codes.CodeRefused as refused:
        return refused.reason


def steps(ref: codes.TicketRef | str, code: str, nonce: str, token: str, now: datetime) -> Steps:
    """Yield a statement and its binds, be sent its row or None, return the answer."""
    device = yield "device", {"token_hash": hashlib.sha256(token.encode()).digest()}
    if device is None:
        return 401, {"error": {"code": "unauthorized", "message": "This token is unknown or revoked."}}
    device_id, gate_id, event_id, doors_at, ends_at, reentry = device
    attempt = {"event_id": event_id, "nonce": nonce}
    stored = yield "replay", attempt
    ticket, reason, ticket_id = None, ref if isinstance(ref, str) else None, None
    if isinstance(ref, codes.TicketRef):
        if ref.event_id == event_id:
            ticket = yield "lock", {"event_id": event_id, "ticket_id": ref.ticket_id, "gate_id": gate_id}
        reason, ticket_id = _reason(ref, event_id, ticket, doors_at, ends_at, reentry, now), ref.ticket_id
    if stored:
        scan_id, verdict, reason = stored
    else:
        verdict = "refused" if reason else "admitted"
        where = {"gate_id": gate_id, "device_id": device_id, "ticket_id": ticket_id if ticket else None}
        what = {"verdict": verdict, "reason": reason, "code": None if ticket else code[:256]}
        when = {"now": now, "reentry": bool(ticket and ticket[4])}
        recorded = yield "record", {**attempt, **where, **what, **when}
        if recorded is None:
            return 409, {"error": {"code": "in_flight", "message": "The same scan is being judged."}}
        [scan_id] = recorded
        if reason is None:
            ids = {"event_id": event_id, "ticket_id": ticket_id}
            yield "admit", {**ids, "gate_id": gate_id, "now": now}
        counted = {"event_id": event_id, "gate_id": gate_id, "now": now}
        yield "count", {**counted, "admitted": int(reason is None)}
    return 200, {
        "verdict": verdict,
        "reason": reason,
        "message": reason or "Admitted.",
        "replayed": bool(stored),
        "ticket": ticket and {"id": str(ticket_id), "holder": ticket[0], "kind": ticket[1]},
        "first_admitted_at": ((ticket and ticket[4]) or now).isoformat(),
        "first_gate": ticket and ticket[8],
        "scan_id": scan_id,
    }


def drive(steps: Steps, ask: Callable[[str, dict[str, Any]], Row]) -> Answer:
    """Run the statements by `ask` and return the answer."""
    row: Row = None
    try:
        wanted = next(steps)
        while True:
            row = ask(*wanted)
            wanted = steps.send(row)
    except StopIteration as end:
        answer: Answer = end.value
        return answer


def pyformat(statement: str) -> str:
    """Return a statement as psycopg wants it."""
    return _BIND.sub(r"%(\1)s", statement)


def numbered(statement: str) -> tuple[str, list[str]]:
    """Return a statement as asyncpg wants it, and the names of its binds in order."""
    names = list(dict.fromkeys(_BIND.findall(statement)))
    return _BIND.sub(lambda bind: f"${names.index(bind[1]) + 1}", statement), names


def _reason(
    ref: codes.TicketRef,
    event_id: int,
    ticket: Row,
    doors_at: datetime,
    ends_at: datetime,
    reentry: str,
    now: datetime,
) -> str | None:
    """Judge as tickets.rules does; no load of the bench asks for an exit."""
    rules = (
        ("wrong_event", ref.event_id != event_id),
        ("unknown_ticket", ticket is None),
        ("void", ticket and ticket[2]),
        ("transferred", ticket and ticket[3]),
        ("too_early", now < ((ticket and ticket[6]) or doors_at)),
        ("too_late", now > ((ticket and ticket[7]) or ends_at)),
        ("wrong_gate", ticket and ticket[9]),
        ("already_admitted", ticket and reentry != "always" and ticket[5 if reentry == "after_exit" else 4]),
    )
    return next((reason for reason, holds in rules if holds), None)
