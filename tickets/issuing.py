"""Issue tickets: once per reference, of a kind that the event has, never beyond a capacity."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection

from analytics.counters import Tally
from core import db
from core.errors import QrsiteError
from tickets import codes, queries
from tickets.keys import key_ring
from tickets.models import random_ticket_id


class CapacityExceeded(QrsiteError):
    """These tickets would be more than the event, or one of their kinds, admits."""

    code = "capacity_exceeded"
    status = 409


class UnknownKind(QrsiteError):
    """The event has kinds of tickets, and this is none of them: it would escape their rules."""

    code = "unknown_kind"
    status = 422


class Wish(NamedTuple):
    """A ticket that somebody wants issued; the same `reference` again means the same ticket."""

    holder: str
    email: str
    kind: str
    reference: str | None


class Batch(NamedTuple):
    """The tickets of one batch in the order asked for, and the ids of those that the event had not."""

    tickets: list[queries.NewTicket]
    added: set[int]


def issue(*, event_id: int, wishes: Sequence[Wish], now: datetime) -> list[queries.NewTicket]:
    """Issue tickets of one event, all or none, and return them in the order asked for.

    A reference that the event has returns its ticket as it is, in this call or any other.

    Raises:
        CapacityExceeded, UnknownKind: nothing was issued.
    """
    with in_batches(event_id=event_id, now=now) as add:
        return add(wishes).tickets


@contextmanager
def in_batches(*, event_id: int, now: datetime) -> Iterator[Callable[[Sequence[Wish]], Batch]]:
    """Issue as `issue` does, in as many calls as the block makes: they are one, and counted once, when it ends.

    Raises:
        CapacityExceeded, UnknownKind: nothing was issued.
    """
    with db.begin() as conn:
        capacity = queries.lock_event(conn, event_id=event_id)
        kinds = queries.kind_capacities(conn, event_id=event_id)
        limits = {kind: limit for kind, limit in kinds.items() if limit is not None}
        is_limited = capacity is not None or bool(limits)
        before = queries.valid_tickets(conn, event_id=event_id) if is_limited else {}

        issued = 0

        def add(wishes: Sequence[Wish]) -> Batch:
            nonlocal issued
            batch = _add(conn, event_id, wishes, now)
            issued += len(batch.added)
            check_kinds({ticket.kind for ticket in batch.tickets if ticket.ticket_id in batch.added}, kinds)
            return batch

        yield add
        if is_limited:
            after = queries.valid_tickets(conn, event_id=event_id)
            for kind, limit in limits.items():
                _check_capacity(f"The kind {kind}", limit, before.get(kind, 0), after.get(kind, 0))
            if capacity is not None:
                _check_capacity("The event", capacity, sum(before.values()), sum(after.values()))
        if issued:
            tally = Tally(event_id)
            tally.issued(issued)
            tally.add(conn, now=now)


def _add(conn: Connection, event_id: int, wishes: Sequence[Wish], now: datetime) -> Batch:
    new = [queries.NewTicket(random_ticket_id(), *wish) for wish in wishes]
    added = queries.insert_tickets(conn, event_id=event_id, tickets=new, issued_at=now)
    # Mostly none. Where PostgreSQL has no statistics of the event yet, looking them up reads all its tickets.
    had = {
        ticket.reference for ticket in new if ticket.reference is not None and ticket.ticket_id not in added
    }
    kept = queries.tickets_by_reference(conn, event_id=event_id, references=had) if had else {}
    return Batch(
        [ticket if ticket.ticket_id in added else kept[str(ticket.reference)] for ticket in new], added
    )


def check_kinds(wanted: Collection[str], kinds: Collection[str]) -> None:
    """Make sure that the event, if it has kinds, has these.

    Raises:
        UnknownKind: it has not.
    """
    if kinds and (unknown := sorted(set(wanted) - set(kinds))):
        known = ", ".join(kinds)
        raise UnknownKind(f"The event has no kind {unknown[0]!r}, but: {known}.", field="kind")


def _check_capacity(whose: str, limit: int, before: int, after: int) -> None:
    if after > max(limit, before):
        left = max(limit - before, 0)
        raise CapacityExceeded(f"{whose} admits {limit}; {left} more can be issued.", left=left)


def code_of(*, event_id: int, ticket_id: int) -> str:
    """Return a ticket's code, signed with the key that signs now."""
    ring = key_ring()
    return codes.make(codes.TicketRef(event_id, ticket_id), key_id=ring.signing_id, key=ring.signing_key)
