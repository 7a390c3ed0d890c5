"""Issue tickets: once per reference, never beyond the event's capacity."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from core import db
from core.errors import QrsiteError
from tickets import codes, queries
from tickets.keys import key_ring
from tickets.models import random_ticket_id


class CapacityExceeded(QrsiteError):
    """These tickets would be more than the event admits."""

    code = "capacity_exceeded"
    status = 409


class Wish(NamedTuple):
    """A ticket that somebody wants issued; the same `reference` again means the same ticket."""

    holder: str
    email: str
    kind: str
    reference: str | None


def issue(*, event_id: int, wishes: Sequence[Wish], now: datetime) -> list[queries.NewTicket]:
    """Issue tickets of one event, all or none, and return them in the order asked for.

    A reference that the event has returns its ticket as it is, in this call or any other.

    Raises:
        CapacityExceeded: nothing was issued.
    """
    new = [queries.NewTicket(random_ticket_id(), *wish) for wish in wishes]
    references = {wish.reference for wish in wishes if wish.reference is not None}
    with db.begin() as conn:
        capacity = queries.lock_event(conn, event_id=event_id)
        before = queries.valid_tickets(conn, event_id=event_id) if capacity is not None else 0
        queries.insert_tickets(conn, event_id=event_id, tickets=new, issued_at=now)
        kept = queries.tickets_by_reference(conn, event_id=event_id, references=references)
        if capacity is not None and queries.valid_tickets(conn, event_id=event_id) > max(capacity, before):
            left = max(capacity - before, 0)
            raise CapacityExceeded(f"The event admits {capacity}; {left} more can be issued.", left=left)
    return [ticket if ticket.reference is None else kept[ticket.reference] for ticket in new]


def code_of(*, event_id: int, ticket_id: int) -> str:
    """Return a ticket's code, signed with the key that signs now."""
    ring = key_ring()
    return codes.make(codes.TicketRef(event_id, ticket_id), key_id=ring.signing_id, key=ring.signing_key)
