"""Judge scans in the order given, by what was read from the database. Pure: no database, no clock."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from analytics.models import Direction, Verdict
from analytics.queries import ScanRecord
from tickets import codes
from tickets.keys import key_ring
from tickets.queries import StoredVerdict
from tickets.rules import MESSAGES, Case, EventRules, TicketState, judge

CODE_KEPT_CHARS = 256
# Scans of one batch are told apart in time, so that "the last one" has a meaning: first judged, first happened.
APART = timedelta(microseconds=1)


class Scan(NamedTuple):
    """One attempt at a gate of the event, by a device or a person. `nonce` is the client's name for it.

    `force_reason` is what a supervisor says who wants it admitted in spite of a refusal: who may, the caller checks.
    `happened_at` is given where the scan was made offline: when it was, by our clock; `refused_offline` then is why the
    device turned the holder away.
    """

    code: str
    nonce: str
    scanned_at: datetime
    direction: Direction
    gate_id: int
    device_id: int | None = None
    user_id: int | None = None
    force_reason: str | None = None
    happened_at: datetime | None = None
    refused_offline: str | None = None


ReadCodes = dict[str, codes.TicketRef | str]  # by code: what it names, or the reason why it names nothing


class Judged(NamedTuple):
    """A scan with its row for the log, and its ticket as it is afterwards."""

    record: ScanRecord
    ticket: TicketState | None
    is_conflict: bool  # the holder is inside, for all we know, in spite of the refusal


def read(scans: Iterable[Scan]) -> ReadCodes:
    """Return what each code names; this is where signatures are checked."""
    return {scan.code: _read(scan.code) for scan in scans}


def judge_in_order(
    scans: Iterable[Scan],
    *,
    named: ReadCodes,
    tickets: dict[int, TicketState],
    elsewhere: Collection[codes.TicketRef],
    rules: EventRules,
    now: datetime,
) -> list[Judged]:
    """Judge each scan by what the ones before it made of the tickets.

    `tickets` are those of the event, by id, and afterwards as the scans leave them; `elsewhere` are those that other
    events have.
    """
    judged = []
    for place, scan in enumerate(scans):
        at = (scan.happened_at or now) + place * APART
        ref = named[scan.code]
        ticket: TicketState | None = None
        if isinstance(ref, codes.TicketRef):
            ticket = tickets.get(ref.ticket_id) if ref.event_id == rules.event_id else None
            reason = judge(Case(ticket, ref in elsewhere, scan.direction, scan.gate_id, rules, at))
        else:
            reason = ref
        forced_over = reason if ticket and scan.force_reason else None
        if not forced_over:
            reason = reason or scan.refused_offline
        is_admitted = ticket is not None and (reason is None or forced_over is not None)
        record = _record(scan, ticket, None if is_admitted else reason, forced_over, at)
        if ticket is not None and is_admitted:
            ticket = tickets[ticket.ticket_id] = _pass_through(ticket, scan, at)
        was_let_in = record.offline and not scan.refused_offline and scan.direction == Direction.ENTRY
        judged.append(Judged(record, ticket, was_let_in and ticket is not None and not is_admitted))
    return judged


def verdict_of(judged: Judged, *, scan_id: int | None, rules: EventRules) -> StoredVerdict:
    """Return what the log will say of a scan."""
    record, ticket, _ = judged
    gate = ticket and ticket.admitted_gate_id and rules.gates.get(ticket.admitted_gate_id)
    return StoredVerdict(
        nonce=record.nonce,
        scan_id=scan_id,
        direction=record.direction,
        verdict=record.verdict,
        reason=record.reason,
        ticket_id=record.ticket_id,
        code=record.code,
        forced_over=record.forced_over,
        annulled_at=None,
        holder=ticket and ticket.holder,
        kind=ticket and ticket.kind,
        admitted_at=ticket and ticket.admitted_at,
        gate=gate.name if gate else None,
    )


def message(verdict: StoredVerdict, *, now: datetime, zone: ZoneInfo) -> str:
    """Return the sentence for the person at the gate; a duplicate learns when and where it was first."""
    if verdict.forced_over is not None:
        return f"Admitted by the supervisor, in spite of: {MESSAGES[verdict.forced_over]}"
    if verdict.reason is None:
        return "Goodbye." if verdict.direction == Direction.EXIT else "Admitted."
    if verdict.reason != "already_admitted" or verdict.admitted_at is None:
        return MESSAGES[verdict.reason]
    local, today = verdict.admitted_at.astimezone(zone), now.astimezone(zone).date()
    when = f"at {local:%H:%M}" if local.date() == today else f"on {local:%d %b %Y} at {local:%H:%M}"
    return f"Already admitted {when}{f', {verdict.gate}' if verdict.gate else ''}."


def is_same_attempt(scan: Scan, ref: codes.TicketRef | str, verdict: StoredVerdict) -> bool:
    """Tell whether a nonce came with the code and direction that it came with before."""
    if verdict.ticket_id is None:
        is_same_code = verdict.code == scan.code[:CODE_KEPT_CHARS]
    else:
        is_same_code = isinstance(ref, codes.TicketRef) and ref.ticket_id == verdict.ticket_id
    return is_same_code and verdict.direction == scan.direction


def _read(code: str) -> codes.TicketRef | str:
    try:
        return codes.read(code, key_ring().verify_keys)
    except codes.CodeRefused as refused:
        return refused.reason


def _pass_through(ticket: TicketState, scan: Scan, at: datetime) -> TicketState:
    if scan.direction == Direction.EXIT:
        return ticket._replace(inside=False)
    if ticket.admitted_at is not None:
        return ticket._replace(inside=True)
    return ticket._replace(inside=True, admitted_at=at, admitted_gate_id=scan.gate_id)


def _record(
    scan: Scan, ticket: TicketState | None, reason: str | None, forced_over: str | None, at: datetime
) -> ScanRecord:
    return ScanRecord(
        nonce=scan.nonce,
        ticket_id=ticket.ticket_id if ticket else None,
        gate_id=scan.gate_id,
        device_id=scan.device_id,
        user_id=scan.user_id,
        direction=scan.direction.value,
        verdict=(Verdict.REFUSED if reason else Verdict.ADMITTED).value,
        reason=reason,
        code=None if ticket else scan.code[:CODE_KEPT_CHARS],
        scanned_at=scan.scanned_at,
        happened_at=at,
        offline=scan.happened_at is not None,
        reentry=ticket is not None and ticket.admitted_at is not None,
        forced_over=forced_over,
        force_reason=scan.force_reason,
    )
