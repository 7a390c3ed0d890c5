"""What becomes of a ticket after it was issued: voided, passed on, taken back from the gate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from datetime import datetime, timedelta
from itertools import groupby

from django.db import IntegrityError, transaction

from analytics.counters import Tally
from analytics.models import Conflict, Verdict
from analytics.models import Scan as ScanRow
from core import db
from core.errors import NotFound, QrsiteError
from tickets import admission, queries
from tickets.models import Ticket, Transfer

ANNULLED_WITHIN = timedelta(minutes=15)


class TicketVoid(QrsiteError):
    """A void ticket can't be passed on."""

    code = "ticket_void"
    status = 409


class TicketTransferred(QrsiteError):
    """The ticket was passed on: what is asked for must be asked of the new one, which `to` names."""

    code = "ticket_transferred"
    status = 409


class TicketUsed(QrsiteError):
    """Somebody entered with the ticket: passed on, it would admit a second person."""

    code = "ticket_used"
    status = 409


class ReferenceTaken(QrsiteError):
    """Another ticket of the event has this reference."""

    code = "reference_taken"
    status = 409


class NotAnnullable(QrsiteError):
    """The scan admitted nobody, is another device's, or too old; the message says which."""

    code = "not_annullable"
    status = 409


def void(*, ticket_id: int, now: datetime) -> Ticket:
    """Refuse a ticket from now on, and return it; again, nothing changes.

    Raises:
        NotFound, TicketTransferred
    """
    with transaction.atomic():
        ticket = _lock(ticket_id)
        if ticket.transferred_at is not None:
            raise _transferred(ticket)
        if ticket.voided_at is None:
            _void([ticket], now)
    return ticket


def void_many(
    ticket_ids: Iterable[int], *, now: datetime, log: Callable[[list[Ticket]], object] = lambda _voided: None
) -> list[int]:
    """Refuse tickets from now on, but for those passed on; return the ids of those that were not void before.

    Locked in the order that gates lock them in. `log` hears of them before they are counted: counters are written last,
    for gates wait for those.
    """
    with transaction.atomic():
        chosen = Ticket.objects.filter(id__in=list(ticket_ids), voided_at=None, transferred_at=None)
        locked = list(chosen.order_by("event_id", "id").select_for_update(of=("self",)))
        log(locked)
        for _, tickets in groupby(locked, key=lambda ticket: ticket.event_id):
            _void(list(tickets), now)
    return [ticket.id for ticket in locked]


def transfer(
    *, ticket_id: int, holder: str, email: str, reference: str | None, by: str, now: datetime
) -> Ticket:
    """Pass a ticket on: refuse its code from now on, and return the new holder's ticket.

    With a reference, the same call again returns the same ticket. The old ticket keeps its own: whoever asks for that
    again must not get the new holder's code.

    Raises:
        NotFound, TicketVoid, TicketUsed, TicketTransferred, ReferenceTaken
    """
    with db.begin() as conn:
        old = _lock(ticket_id)
        if old.transferred_at is not None:
            new = _successor(old)
            if reference is not None and (new.reference, new.holder) == (reference, holder):
                return new
            raise _transferred(old)
        if old.voided_at is not None:
            raise TicketVoid("This ticket is void: it can't be passed on.")
        if old.admitted_at is not None:
            raise TicketUsed("Somebody entered with this ticket: it can't be passed on.")
        before = copy(old)
        old.transferred_at = now
        old.save(update_fields=["transferred_at"])
        new = Ticket(
            event_id=old.event_id,
            holder=holder,
            email=email,
            kind=old.kind,
            reference=reference,
            issued_at=now,
        )
        _add(new)
        Transfer(
            event_id=old.event_id,
            from_ticket_id=old.id,
            to_ticket_id=new.id,
            transferred_at=now,
            transferred_by=by,
        ).save(force_insert=True)
        tally = Tally(old.event_id)
        tally.issued(1)
        tally.changed(before, old)
        tally.add(conn, now=now)
    return new


def annul(
    *,
    event_id: int,
    nonce: str,
    now: datetime,
    device_id: int | None = None,
    within: timedelta | None = ANNULLED_WITHIN,
) -> ScanRow:
    """Take back an admission of this device, or one by hand, and return its row; again, nothing changes.

    The row is marked, and the ticket is as if it had never happened. Only the last that happened to a ticket can be
    taken back: whoever went out had been in.

    Raises:
        NotFound: the event has no scan of this nonce.
        NotAnnullable
    """
    with db.begin() as conn:
        scan = ScanRow.objects.filter(event_id=event_id, nonce=nonce).first()
        if scan is None:
            raise NotFound("There is no scan of this nonce.")
        if scan.device_id != device_id:
            raise NotAnnullable("Only the device that admitted can take it back.")
        if scan.verdict != Verdict.ADMITTED or scan.ticket_id is None:
            raise NotAnnullable("This scan admitted nobody.")
        # The ticket first, as everywhere: a scan of it may be under way.
        tickets = queries.lock_tickets(conn, event_id=event_id, ticket_ids=[scan.ticket_id])
        scan.refresh_from_db()
        if scan.annulled_at is not None:
            return scan
        if within is not None and now - scan.recorded_at > within:
            minutes = within.seconds // 60
            raise NotAnnullable(f"Only the admissions of the last {minutes} minutes can be taken back.")
        if tickets[scan.ticket_id].passed_at != scan.happened_at:
            raise NotAnnullable("Somebody went through with this ticket since.")
        if Conflict.objects.filter(event_id=event_id, earlier_scan_id=scan.id).exists():
            raise NotAnnullable("Another device let somebody in with this ticket, too: see the conflicts.")
        scan.annulled_at = now
        scan.save(update_fields=["annulled_at"])
        tally = Tally(event_id)
        tally.annulled(scan.direction, scan.gate_id, scan.happened_at)
        admission.restate_counted(conn, tally, [scan.ticket_id], now=now)
    return scan


def _void(tickets: list[Ticket], now: datetime) -> None:
    """Make locked tickets of one event void."""
    tally = Tally(tickets[0].event_id)
    for ticket in tickets:
        before = copy(ticket)
        ticket.voided_at = now
        tally.changed(before, ticket)
    ids = [ticket.id for ticket in tickets]
    with db.begin() as conn:
        Ticket.objects.filter(event_id=tally.event_id, id__in=ids).update(voided_at=now)
        tally.add(conn, now=now)


def _lock(ticket_id: int) -> Ticket:
    found = Ticket.objects.filter(id=ticket_id).values_list("event_id", flat=True).first()
    if found is None:
        raise NotFound("There is no such ticket.")
    return (
        Ticket.objects.select_related("event")
        .select_for_update(of=("self",))
        .get(event_id=found, id=ticket_id)
    )


def _add(new: Ticket) -> None:
    try:
        with transaction.atomic():
            new.save(force_insert=True)
    except IntegrityError as error:
        raise ReferenceTaken("Another ticket of this event has this reference.") from error


def _successor(old: Ticket) -> Ticket:
    link = Transfer.objects.get(event_id=old.event_id, from_ticket_id=old.id)
    return Ticket.objects.select_related("event").get(event_id=old.event_id, id=link.to_ticket_id)


def _transferred(old: Ticket) -> TicketTransferred:
    new = _successor(old)
    return TicketTransferred("This ticket was passed on: its new one is in `to`.", to=str(new.id))
