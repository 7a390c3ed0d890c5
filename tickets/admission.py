"""Judge scans and record them: the one way in which a ticket is admitted."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.db import IntegrityError, OperationalError
from sqlalchemy import Connection

from analytics.models import Direction, Verdict
from analytics.queries import ScanRecord, record_scans
from core import db
from core.errors import QrsiteError
from tickets import codes, queries
from tickets.keys import key_ring
from tickets.rules import MESSAGES, Case, EventWindow, TicketState, judge

log = logging.getLogger(__name__)

CODE_KEPT_CHARS = 256
ATTEMPTS = 4
# serialization_failure, deadlock_detected: PostgreSQL asks for the same again.
RETRIED_SQLSTATES = {"40001", "40P01"}
UNIQUE_VIOLATION = "23505"


class Scan(NamedTuple):
    """One attempt, as a device of the event sends it. `nonce` is the client's name for it."""

    code: str
    nonce: str
    scanned_at: datetime
    direction: Direction
    gate_id: int
    device_id: int


class NonceReused(QrsiteError):
    """The nonce names another attempt: answering with that one's verdict would let the wrong person in."""

    code = "nonce_reused"
    status = 409


class Answer(NamedTuple):
    """What the gate is told."""

    stored: queries.StoredVerdict
    message: str
    replayed: bool


ReadCodes = dict[str, codes.TicketRef | str]  # by code: what it names, or the reason why it names nothing


class _NonceTaken(Exception):
    """Another transaction answered one of our nonces while we judged."""


def admit(
    *, event_id: int, window: EventWindow, scans: Sequence[Scan], now: datetime
) -> list[Answer | NonceReused]:
    """Judge scans of one event in the order given, record them, and return an answer for each.

    One transaction: when this returns, every answer is on disk (in an open `atomic()`: will be, with it). A ticket is
    admitted once, whatever runs beside it: its row is locked, and a unique index has the last word. A nonce that was
    answered before gets the stored verdict, also while the first is in flight: the second waits for its row, then
    replays it. One that came with another code or direction than before gets the error in place of an answer.

    Raises:
        django.db.OperationalError: the database did not answer. Nothing was recorded, or the client can't
            know: the same nonce again tells.
    """
    read = {scan.code: _read(scan.code) for scan in scans}
    for _ in range(ATTEMPTS):
        try:
            return _admit(event_id, window, scans, read, now)
        except _NonceTaken:
            continue
        except IntegrityError as error:
            # A ticket's row says "not admitted", and the log knows better. The log is right.
            if getattr(error.__cause__, "pgcode", None) != UNIQUE_VIOLATION:
                raise
            _restore_from_log(event_id, read)
        except OperationalError as error:
            if getattr(error.__cause__, "pgcode", None) not in RETRIED_SQLSTATES:
                raise
    raise OperationalError("These scans kept colliding with others.")


def _admit(
    event_id: int, window: EventWindow, scans: Sequence[Scan], read: ReadCodes, now: datetime
) -> list[Answer | NonceReused]:
    nonces = {scan.nonce for scan in scans}
    with db.begin() as conn:
        stored = queries.stored_verdicts(conn, event_id=event_id, nonces=nonces)
        seen = set(stored)
        fresh: dict[str, Scan] = {}
        for scan in scans:
            if scan.nonce not in seen:
                fresh.setdefault(scan.nonce, scan)
        if fresh:
            records, changed = _judge(conn, event_id, window, fresh.values(), read, now)
            if record_scans(conn, event_id=event_id, scans=records, recorded_at=now) < len(records):
                raise _NonceTaken
            if changed:
                queries.save_states(conn, event_id=event_id, tickets=changed)
            stored = queries.stored_verdicts(conn, event_id=event_id, nonces=nonces)
    answers: list[Answer | NonceReused] = []
    for scan in scans:
        verdict = stored[scan.nonce]
        if scan.nonce in seen and not _is_same_attempt(scan, read[scan.code], verdict):
            answers.append(
                NonceReused(f"The nonce {scan.nonce} was used for another scan: make a new one for each.")
            )
        else:
            answers.append(Answer(verdict, message(verdict, now=now, zone=window.zone), scan.nonce in seen))
        seen.add(scan.nonce)
    return answers


def _judge(
    conn: Connection,
    event_id: int,
    window: EventWindow,
    scans: Collection[Scan],
    read: ReadCodes,
    now: datetime,
) -> tuple[list[ScanRecord], list[TicketState]]:
    """Return the log rows of scans, and the tickets that they changed; those stay locked."""
    refs = {ref for scan in scans if isinstance(ref := read[scan.code], codes.TicketRef)}
    ours = {ref.ticket_id for ref in refs if ref.event_id == event_id}
    tickets = queries.lock_tickets(conn, event_id=event_id, ticket_ids=ours) if ours else {}
    elsewhere = set(_tickets_elsewhere(conn, {ref for ref in refs if ref.event_id != event_id}))
    records, changed = [], {}
    for scan in scans:
        ref = read[scan.code]
        ticket: TicketState | None = None
        if isinstance(ref, codes.TicketRef):
            # Looked up anew for each scan: the ones before it may have changed the ticket.
            ticket = tickets.get(ref.ticket_id) if ref.event_id == event_id else None
            reason = judge(Case(ticket, ref in elsewhere, scan.direction, window, now))
        else:
            reason = ref
        if ticket is not None and reason is None:
            tickets[ticket.ticket_id] = changed[ticket.ticket_id] = _pass_through(ticket, scan, now)
        records.append(_record(scan, ticket, reason))
    return records, list(changed.values())


def message(verdict: queries.StoredVerdict, *, now: datetime, zone: ZoneInfo) -> str:
    """Return the sentence for the person at the gate; a duplicate learns when and where it was first."""
    if verdict.reason is None:
        return "Goodbye." if verdict.direction == Direction.EXIT else "Admitted."
    if verdict.reason != "already_admitted" or verdict.admitted_at is None:
        return MESSAGES[verdict.reason]
    local, today = verdict.admitted_at.astimezone(zone), now.astimezone(zone).date()
    when = f"at {local:%H:%M}" if local.date() == today else f"on {local:%d %b %Y} at {local:%H:%M}"
    return f"Already admitted {when}{f', {verdict.gate}' if verdict.gate else ''}."


def _read(code: str) -> codes.TicketRef | str:
    try:
        return codes.read(code, key_ring().verify_keys)
    except codes.CodeRefused as refused:
        return refused.reason


def _tickets_elsewhere(conn: Connection, refs: Collection[codes.TicketRef]) -> Iterator[codes.TicketRef]:
    """Yield those of other events' tickets that exist; one event per statement, in event order."""
    for event_id in sorted({ref.event_id for ref in refs}):
        ids = {ref.ticket_id for ref in refs if ref.event_id == event_id}
        for ticket_id in queries.existing_tickets(conn, event_id=event_id, ticket_ids=ids):
            yield codes.TicketRef(event_id, ticket_id)


def _pass_through(ticket: TicketState, scan: Scan, now: datetime) -> TicketState:
    if scan.direction == Direction.EXIT:
        return ticket._replace(inside=False)
    return ticket._replace(inside=True, admitted_at=now, admitted_gate_id=scan.gate_id)


def _is_same_attempt(scan: Scan, ref: codes.TicketRef | str, verdict: queries.StoredVerdict) -> bool:
    if verdict.ticket_id is None:
        is_same_code = verdict.code == scan.code[:CODE_KEPT_CHARS]
    else:
        is_same_code = isinstance(ref, codes.TicketRef) and ref.ticket_id == verdict.ticket_id
    return is_same_code and verdict.direction == scan.direction


def _restore_from_log(event_id: int, read: ReadCodes) -> None:
    ids = {
        ref.ticket_id
        for ref in read.values()
        if isinstance(ref, codes.TicketRef) and ref.event_id == event_id
    }
    log.error(
        "Event %s: admissions of tickets are missing from their rows, restoring: %s", event_id, sorted(ids)
    )
    with db.begin() as conn:
        queries.restore_states(conn, event_id=event_id, ticket_ids=ids)


def _record(scan: Scan, ticket: TicketState | None, reason: str | None) -> ScanRecord:
    return ScanRecord(
        nonce=scan.nonce,
        ticket_id=ticket.ticket_id if ticket else None,
        gate_id=scan.gate_id,
        device_id=scan.device_id,
        direction=scan.direction.value,
        verdict=(Verdict.REFUSED if reason else Verdict.ADMITTED).value,
        reason=reason,
        code=None if ticket else scan.code[:CODE_KEPT_CHARS],
        scanned_at=scan.scanned_at,
    )
