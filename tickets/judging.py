"""Judge scans in the order given, by what was read from the database. Pure: no database, no clock."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from analytics.models import Direction, Verdict
from analytics.queries import ScanRecord
from tickets import codes
from tickets.keys import key_ring
from tickets.queries import Passage, StoredVerdict
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


Passages = dict[int, list[Passage]]  # by ticket, in the order in which they happened
ReadCodes = dict[str, codes.TicketRef | str]  # by code: what it names, or the reason why it names nothing


class Judged(NamedTuple):
    """A scan with its row for the log, and its ticket as it is afterwards."""

    record: ScanRecord
    ticket: TicketState | None
    is_changed: bool  # the ticket is not as it was
    is_conflict: bool  # the holder is inside, for all we know, in spite of the refusal


def read(scans: Iterable[Scan]) -> ReadCodes:
    """Return what each code names; this is where signatures are checked."""
    return {scan.code: _read(scan.code) for scan in scans}


def judge_in_order(
    scans: Iterable[Scan],
    *,
    named: ReadCodes,
    tickets: dict[int, TicketState],
    passages: Passages,
    elsewhere: Collection[codes.TicketRef],
    rules: EventRules,
    now: datetime,
) -> list[Judged]:
    """Judge each scan by what the ones before it made of the tickets, an offline one as of when it happened.

    `tickets` are those of the event, by id, and `passages` those of the tickets that have offline scans; afterwards both
    are as the scans leave them. `elsewhere` are the tickets that other events have.
    """
    judged = []
    for place, scan in enumerate(scans):
        ref = named[scan.code]
        ticket: TicketState | None = None
        if isinstance(ref, codes.TicketRef) and ref.event_id == rules.event_id:
            ticket = tickets.get(ref.ticket_id)
        history = passages.get(ticket.ticket_id, []) if ticket else []
        at = (scan.happened_at or now) + place * APART
        seen = ticket
        if ticket and scan.happened_at:
            seen = _as_of(ticket, history, at, scan.direction)
        reason = (
            ref
            if isinstance(ref, str)
            else judge(Case(seen, ref in elsewhere, scan.direction, scan.gate_id, rules, at))
        )
        if ticket and ticket.passed_at and not scan.happened_at:
            # Whoever waited for the ticket's row comes after whoever had it, whatever the clock said when they came.
            at = max(at, ticket.passed_at + APART)
        forced_over = reason if ticket and scan.force_reason else None
        if not forced_over:
            reason = reason or scan.refused_offline
        is_admitted = ticket is not None and (reason is None or forced_over is not None)
        record = _record(scan, ticket, None if is_admitted else reason, forced_over, at)
        # Out is out: an exit that was made offline counts, though its entry may still be in another phone's queue.
        is_changed = is_admitted or (record.offline and record.reason == "not_inside")
        if ticket is not None and is_changed:
            if record.offline:
                insort(history, Passage(at, scan.direction.value, scan.gate_id))
                ticket = _after(ticket, history)
                passages[ticket.ticket_id] = history
            else:
                ticket = _pass_through(ticket, scan, at)
            tickets[ticket.ticket_id] = ticket
        if ticket is not None and not ticket.scanned:
            ticket = tickets[ticket.ticket_id] = ticket._replace(scanned=True)
            is_changed = True
        was_let_in = record.offline and not scan.refused_offline and scan.direction == Direction.ENTRY
        is_conflict = was_let_in and ticket is not None and not is_admitted
        judged.append(Judged(record, ticket, is_changed, is_conflict))
    return judged


def _as_of(ticket: TicketState, history: list[Passage], at: datetime, direction: str) -> TicketState:
    """Return a ticket as it was when somebody went through with it, as far as is known by now.

    If the next who went through after an entry went in, too, then one of the two had no business there.
    """
    place = bisect_right(history, at, key=lambda passage: passage.at)
    inside = place > 0 and history[place - 1].direction == Direction.ENTRY
    if direction == Direction.ENTRY and place < len(history):
        inside = inside or history[place].direction == Direction.ENTRY
    return ticket._replace(inside=inside)


def _after(ticket: TicketState, history: list[Passage]) -> TicketState:
    """Return a ticket as all that happened leaves it; queries.restate says the same of the log."""
    first = next((passage for passage in history if passage.direction == Direction.ENTRY), None)
    return ticket._replace(
        inside=history[-1].direction == Direction.ENTRY,
        admitted_at=first and first.at,
        admitted_gate_id=first and first.gate_id,
        passed_at=history[-1].at,
    )


def verdict_of(judged: Judged, *, scan_id: int | None, rules: EventRules) -> StoredVerdict:
    """Return what the log will say of a scan."""
    record, ticket = judged.record, judged.ticket
    gate = ticket and ticket.admitted_gate_id and rules.gates.get(ticket.admitted_gate_id)
    return StoredVerdict(
        nonce=record.nonce,
        scan_id=scan_id,
        direction=record.direction,
        verdict=record.verdict,
        reason=record.reason,
        ticket_id=record.ticket_id,
        code=record.code,
        device_id=record.device_id,
        user_id=record.user_id,
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
        done = "Let out" if verdict.direction == Direction.EXIT else "Admitted"
        return f"{done} by the supervisor, in spite of: {MESSAGES[verdict.forced_over]}"
    if verdict.reason is None:
        return "Goodbye." if verdict.direction == Direction.EXIT else "Admitted."
    if verdict.reason != "already_admitted" or verdict.admitted_at is None:
        return MESSAGES[verdict.reason]
    local, today = verdict.admitted_at.astimezone(zone), now.astimezone(zone).date()
    when = f"at {local:%H:%M}" if local.date() == today else f"on {local:%d %b %Y} at {local:%H:%M}"
    return f"Already admitted {when}{f', {verdict.gate}' if verdict.gate else ''}."


def is_same_attempt(scan: Scan, ref: codes.TicketRef | str, verdict: StoredVerdict) -> bool:
    """Tell whether a nonce came from where it came before, with the same code and direction."""
    if verdict.ticket_id is None:
        is_same_code = verdict.code == scan.code[:CODE_KEPT_CHARS]
    else:
        # What the code claims will do: its key may have been retired since.
        claimed = codes.claimed(scan.code) if isinstance(ref, str) else ref
        is_same_code = claimed is not None and claimed.ticket_id == verdict.ticket_id
    is_same_place = (scan.device_id, scan.user_id) == (verdict.device_id, verdict.user_id)
    return is_same_code and is_same_place and verdict.direction == scan.direction


def _read(code: str) -> codes.TicketRef | str:
    try:
        return codes.read(code, key_ring().verify_keys)
    except codes.CodeRefused as refused:
        return refused.reason


def _pass_through(ticket: TicketState, scan: Scan, at: datetime) -> TicketState:
    if scan.direction == Direction.EXIT:
        return ticket._replace(inside=False, passed_at=at)
    if ticket.admitted_at is not None:
        return ticket._replace(inside=True, passed_at=at)
    return ticket._replace(inside=True, passed_at=at, admitted_at=at, admitted_gate_id=scan.gate_id)


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
