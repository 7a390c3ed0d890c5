"""Typed calls of the statements in queries.sql; each takes an open connection (core.db.begin)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection

from core import sql
from tickets.rules import TicketState

_STATEMENTS = sql.load("tickets")


class StoredVerdict(NamedTuple):
    """A verdict given before, with its ticket as it is now."""

    nonce: str
    scan_id: int
    direction: str
    verdict: str
    reason: str | None
    ticket_id: int | None
    code: str | None
    holder: str | None
    kind: str | None
    admitted_at: datetime | None
    gate: str | None


class DeviceAtGate(NamedTuple):
    """A device with the gate that it scans for, and when the gate's event admits."""

    device_id: int
    gate_id: int
    event_id: int
    doors_at: datetime
    ends_at: datetime
    time_zone: str


class NewTicket(NamedTuple):
    """A ticket to issue."""

    ticket_id: int
    holder: str
    email: str
    kind: str
    reference: str | None


def stored_verdicts(conn: Connection, *, event_id: int, nonces: Iterable[str]) -> dict[str, StoredVerdict]:
    """Return the verdicts that these nonces got before, by nonce."""
    rows = conn.execute(_STATEMENTS["stored_verdicts"], {"event_id": event_id, "nonces": list(nonces)})
    return {row.nonce: StoredVerdict(*row) for row in rows}


def devices_by_token(conn: Connection, *, token_hashes: Iterable[bytes]) -> dict[bytes, DeviceAtGate]:
    """Return the devices that are not revoked, by the hash of their token."""
    rows = conn.execute(_STATEMENTS["devices_by_token"], {"token_hashes": list(token_hashes)})
    return {bytes(row.token_hash): DeviceAtGate(*row[1:]) for row in rows}


def lock_tickets(conn: Connection, *, event_id: int, ticket_ids: Iterable[int]) -> dict[int, TicketState]:
    """Lock tickets until the transaction ends and return those that exist, by id."""
    rows = conn.execute(_STATEMENTS["lock_tickets"], {"event_id": event_id, "ticket_ids": list(ticket_ids)})
    return {row.ticket_id: TicketState(*row) for row in rows}


def existing_tickets(conn: Connection, *, event_id: int, ticket_ids: Iterable[int]) -> set[int]:
    """Return which of these tickets the event has."""
    rows = conn.execute(
        _STATEMENTS["existing_tickets"], {"event_id": event_id, "ticket_ids": list(ticket_ids)}
    )
    return {row.ticket_id for row in rows}


def save_states(conn: Connection, *, event_id: int, tickets: Sequence[TicketState]) -> None:
    """Write the admission of tickets that lock_tickets holds."""
    columns = {
        f"{name}s": [getattr(ticket, name) for ticket in tickets]
        for name in ("ticket_id", "admitted_at", "admitted_gate_id", "inside")
    }
    conn.execute(_STATEMENTS["save_states"], {"event_id": event_id, **columns})


def restore_states(conn: Connection, *, event_id: int, ticket_ids: Iterable[int]) -> None:
    """Write the admission that the scan log has of tickets whose row has none."""
    conn.execute(_STATEMENTS["restore_states"], {"event_id": event_id, "ticket_ids": list(ticket_ids)})


def lock_event(conn: Connection, *, event_id: int) -> int | None:
    """Make other calls that issue for this event wait; return its capacity, None for no limit."""
    capacity: int | None = conn.execute(_STATEMENTS["lock_event"], {"event_id": event_id}).scalar_one()
    return capacity


def insert_tickets(
    conn: Connection, *, event_id: int, tickets: Sequence[NewTicket], issued_at: datetime
) -> None:
    """Add tickets, but for those whose reference the event has."""
    columns = {f"{name}s": [getattr(ticket, name) for ticket in tickets] for name in NewTicket._fields}
    conn.execute(_STATEMENTS["insert_tickets"], {"event_id": event_id, "issued_at": issued_at, **columns})


def tickets_by_reference(
    conn: Connection, *, event_id: int, references: Iterable[str]
) -> dict[str, NewTicket]:
    """Return the event's tickets that have one of these references, by reference."""
    rows = conn.execute(
        _STATEMENTS["tickets_by_reference"], {"event_id": event_id, "references": list(references)}
    )
    return {row.reference: NewTicket(*row) for row in rows}


def valid_tickets(conn: Connection, *, event_id: int) -> int:
    """Count the event's tickets that are neither void nor transferred."""
    count: int = conn.execute(_STATEMENTS["valid_tickets"], {"event_id": event_id}).scalar_one()
    return count


def devices_seen(conn: Connection, *, device_ids: Iterable[int], seen_at: datetime) -> None:
    """Note that devices were seen, at most once a minute for each; never waits for a lock."""
    conn.execute(_STATEMENTS["devices_seen"], {"device_ids": list(device_ids), "seen_at": seen_at})
