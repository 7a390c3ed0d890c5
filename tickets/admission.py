"""Judge scans and record them: the one way in which a ticket is admitted."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from django.db import IntegrityError, InterfaceError, OperationalError
from sqlalchemy import Connection

from analytics.counters import Tally
from analytics.queries import record_conflicts, record_scans
from core import db
from core.errors import QrsiteError
from tickets import codes, judging, queries
from tickets.judging import Judged, ReadCodes, Scan
from tickets.rules import EventRules, TicketState

log = logging.getLogger(__name__)

ATTEMPTS = 5
# serialization_failure, deadlock_detected: PostgreSQL asks for the same again.
RETRIED_SQLSTATES = {"40001", "40P01"}
UNIQUE_VIOLATION = "23505"


class NonceReused(QrsiteError):
    """The nonce names another attempt: answering with that one's verdict would let the wrong person in."""

    code = "nonce_reused"
    status = 409


class ScanAnnulled(QrsiteError):
    """The nonce names an admission that was taken back: answering "admitted" again would let somebody in uncounted."""

    code = "scan_annulled"
    status = 409


class Answer(NamedTuple):
    """What the gate is told."""

    stored: queries.StoredVerdict
    message: str
    replayed: bool


Tickets = dict[int, TicketState]
Outcome = Answer | NonceReused | ScanAnnulled


class _NonceTaken(Exception):
    """A nonce of ours was answered before, or by another transaction while we judged."""


def rules_of(event_id: int) -> EventRules:
    """Return what decides about an event's tickets at this moment."""
    with db.begin() as conn:
        return queries.event_rules(conn, event_id=event_id)


def admit(*, rules: EventRules, scans: Sequence[Scan], now: datetime) -> list[Outcome]:
    """Judge scans of one event in the order given, record them, and return an answer for each.

    One transaction: when this returns, every answer is on disk (in an open `atomic()`: will be, with it). A ticket is
    admitted once, whatever runs beside it: its row is locked, and a unique index has the last word. A nonce that was
    answered before gets the stored verdict, also while the first is in flight: the second waits for its row, then
    replays it. One that came with another code or direction than before gets the error in place of an answer.

    Raises:
        django.db.OperationalError: the database did not answer. Nothing was recorded, or the client can't
            know: the same nonce again tells.
    """
    named = judging.read(scans)
    # Most nonces are new, which their index tells when they are written; then they need not be looked up before.
    looks_up = False
    for _ in range(ATTEMPTS):
        try:
            return _admit(rules, scans, named, now, looks_up=looks_up)
        except _NonceTaken:
            looks_up = True
        except IntegrityError as error:
            # A ticket's row says "not admitted", and the log knows better. The log is right.
            if getattr(error.__cause__, "pgcode", None) != UNIQUE_VIOLATION:
                raise
            _restore_from_log(rules.event_id, named, now)
        except OperationalError as error:
            if getattr(error.__cause__, "pgcode", None) not in RETRIED_SQLSTATES:
                raise
    raise OperationalError("These scans kept colliding with others.")


def admit_apart(*, rules: EventRules, scans: Sequence[Scan], now: datetime) -> Sequence[Outcome | Exception]:
    """Judge scans as `admit` does; where they fail together, each alone, so that none spoils the others."""
    try:
        return admit(rules=rules, scans=scans, now=now)
    except (OperationalError, InterfaceError) as error:
        return [error] * len(scans)
    except Exception as error:
        if len(scans) == 1:
            return [error]
        log.warning("%s scans are judged one by one, for together they failed: %s", len(scans), error)
        return [outcome for scan in scans for outcome in admit_apart(rules=rules, scans=[scan], now=now)]


def rehearse(*, rules: EventRules, scan: Scan, now: datetime) -> Outcome:
    """Judge a scan as `admit` would at this moment, and record nothing; `scan_id` is None where it is no replay."""
    named = judging.read([scan])
    with db.begin() as conn:
        stored = queries.stored_verdicts(conn, event_id=rules.event_id, nonces=[scan.nonce])
        [judged], _ = _judge(conn, rules, [scan], named, now)
    verdict = stored.get(scan.nonce) or judging.verdict_of(judged, scan_id=None, rules=rules)
    return _answer(scan, named, verdict, now, rules, is_replay=bool(stored))


def _admit(
    rules: EventRules, scans: Sequence[Scan], named: ReadCodes, now: datetime, *, looks_up: bool
) -> list[Outcome]:
    event_id = rules.event_id
    verdicts: dict[str, queries.StoredVerdict] = {}
    with db.begin() as conn:
        if looks_up:
            nonces = {scan.nonce for scan in scans}
            verdicts = queries.stored_verdicts(conn, event_id=event_id, nonces=nonces)
        seen = set(verdicts)
        fresh: dict[str, Scan] = {}
        for scan in scans:
            if scan.nonce not in seen:
                fresh.setdefault(scan.nonce, scan)
        if fresh:
            judged, before = _judge(conn, rules, fresh.values(), named, now)
            verdicts |= _write(conn, rules, judged, before, now)
    outcomes: list[Outcome] = []
    for scan in scans:
        is_replay = scan.nonce in seen
        outcomes.append(_answer(scan, named, verdicts[scan.nonce], now, rules, is_replay=is_replay))
        seen.add(scan.nonce)
    return outcomes


def _judge(
    conn: Connection, rules: EventRules, scans: Collection[Scan], named: ReadCodes, now: datetime
) -> tuple[list[Judged], Tickets]:
    """Judge scans whose tickets stay locked until the transaction ends; return these as they were, too."""
    refs = {ref for scan in scans if isinstance(ref := named[scan.code], codes.TicketRef)}
    ours = _ids_of(rules.event_id, refs)
    tickets = queries.lock_tickets(conn, event_id=rules.event_id, ticket_ids=ours) if ours else {}
    offline = tickets if any(scan.happened_at for scan in scans) else ()
    passages = queries.passages(conn, event_id=rules.event_id, ticket_ids=offline) if offline else {}
    elsewhere = set(_tickets_elsewhere(conn, {ref for ref in refs if ref.event_id != rules.event_id}))
    before = tickets.copy()
    judged = judging.judge_in_order(
        scans,
        named=named,
        tickets=tickets,
        passages=passages,
        elsewhere=elsewhere,
        rules=rules,
        now=now,
    )
    return judged, before


def _write(
    conn: Connection, rules: EventRules, judged: Sequence[Judged], before: Tickets, now: datetime
) -> dict[str, queries.StoredVerdict]:
    """Record scans and what they made of their tickets; return their verdicts by nonce."""
    event_id = rules.event_id
    ids = record_scans(conn, event_id=event_id, scans=[item.record for item in judged], recorded_at=now)
    if len(ids) < len(judged):
        raise _NonceTaken
    changed = {item.ticket.ticket_id: item.ticket for item in judged if item.ticket and item.is_changed}
    if changed:
        queries.save_states(conn, event_id=event_id, tickets=list(changed.values()))
    if conflicts := [item.record.nonce for item in judged if item.is_conflict]:
        record_conflicts(conn, event_id=event_id, nonces=conflicts, noticed_at=now)
    tally = Tally(event_id)
    tally.scanned(item.record for item in judged)
    for ticket_id, ticket in changed.items():
        tally.changed(before[ticket_id], ticket)
    tally.add(conn, now=now)
    return {
        item.record.nonce: judging.verdict_of(item, scan_id=ids[item.record.nonce], rules=rules)
        for item in judged
    }


def _answer(
    scan: Scan,
    named: ReadCodes,
    verdict: queries.StoredVerdict,
    now: datetime,
    rules: EventRules,
    *,
    is_replay: bool,
) -> Outcome:
    if is_replay and not judging.is_same_attempt(scan, named[scan.code], verdict):
        return NonceReused(f"The nonce {scan.nonce} was used for another scan: make a new one for each.")
    if verdict.annulled_at is not None:
        return taken_back()
    return Answer(verdict, judging.message(verdict, now=now, zone=rules.zone), is_replay)


def taken_back() -> ScanAnnulled:
    """Return what the nonce of an admission gets that was taken back."""
    return ScanAnnulled("This admission was taken back. Scan again, with a new nonce.")


def _tickets_elsewhere(conn: Connection, refs: Collection[codes.TicketRef]) -> Iterator[codes.TicketRef]:
    """Yield those of other events' tickets that exist; one event per statement, in event order."""
    for event_id in sorted({ref.event_id for ref in refs}):
        ids = {ref.ticket_id for ref in refs if ref.event_id == event_id}
        for ticket_id in queries.existing_tickets(conn, event_id=event_id, ticket_ids=ids):
            yield codes.TicketRef(event_id, ticket_id)


def _restore_from_log(event_id: int, named: ReadCodes, now: datetime) -> None:
    ids = _ids_of(event_id, named.values())
    log.error(
        "Event %s: admissions of tickets are missing from their rows, restoring: %s", event_id, sorted(ids)
    )
    with db.begin() as conn:
        restate_counted(conn, Tally(event_id), ids, now=now)


def restate_counted(conn: Connection, tally: Tally, ticket_ids: Collection[int], *, now: datetime) -> None:
    """Lock tickets, bring them in line with the log, and add what that changes, with the tally's own, to the counters."""
    before = queries.lock_tickets(conn, event_id=tally.event_id, ticket_ids=ticket_ids)
    after = queries.restate(conn, event_id=tally.event_id, ticket_ids=ticket_ids)
    for ticket_id, ticket in after.items():
        tally.changed(before[ticket_id], ticket)
    tally.add(conn, now=now)


def _ids_of(event_id: int, refs: Iterable[codes.TicketRef | str]) -> set[int]:
    return {ref.ticket_id for ref in refs if isinstance(ref, codes.TicketRef) and ref.event_id == event_id}
