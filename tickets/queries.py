"""Typed calls of the statements in queries.sql; each takes an open connection (core.db.begin)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from core import sql
from tickets.rules import EventRules, GateRules, KindRules, TicketState

_STATEMENTS = sql.load("tickets")


class StoredVerdict(NamedTuple):
    """A verdict given before, with its ticket as it is now."""

    nonce: str
    scan_id: int | None
    direction: str
    verdict: str
    reason: str | None
    ticket_id: int | None
    code: str | None
    device_id: int | None
    user_id: int | None
    forced_over: str | None
    annulled_at: datetime | None
    holder: str | None
    kind: str | None
    admitted_at: datetime | None
    gate: str | None


class DeviceAtGate(NamedTuple):
    """A device with the gate that it scans for, and what it may."""

    device_id: int
    gate_id: int
    event_id: int
    is_supervisor: bool
    rate_per_s: int | None


class Passage(NamedTuple):
    """Somebody went in or out with a ticket."""

    at: datetime
    direction: str
    gate_id: int


class NewTicket(NamedTuple):
    """A ticket to issue."""

    ticket_id: int
    holder: str
    email: str
    kind: str
    reference: str | None


def stored_verdicts(conn: Connection, *, event_id: int, nonces: Iterable[str]) -> dict[str, StoredVerdict]:
    """Return the verdicts that these nonces got before, by nonce."""
    rows = conn.exec_driver_sql(
        _STATEMENTS["stored_verdicts"], {"event_id": event_id, "nonces": list(nonces)}
    )
    return {row.nonce: StoredVerdict(*row) for row in rows}


def devices_by_token(conn: Connection, *, token_hashes: Iterable[bytes]) -> dict[bytes, DeviceAtGate]:
    """Return the devices that are not revoked, by the hash of their token."""
    rows = conn.exec_driver_sql(_STATEMENTS["devices_by_token"], {"token_hashes": list(token_hashes)})
    return {bytes(row.token_hash): DeviceAtGate(*row[1:]) for row in rows}


def event_rules(conn: Connection, *, event_id: int) -> EventRules:
    """Return what decides about the event's tickets."""
    event = conn.exec_driver_sql(_STATEMENTS["event_rules"], {"event_id": event_id}).one()
    gates = conn.exec_driver_sql(_STATEMENTS["gate_rules"], {"event_id": event_id})
    kinds = conn.exec_driver_sql(_STATEMENTS["kind_rules"], {"event_id": event_id})
    return EventRules(
        event_id=event_id,
        doors_at=event.doors_at,
        ends_at=event.ends_at,
        zone=ZoneInfo(event.time_zone),
        reentry=event.reentry,
        kinds={row.name: KindRules(row.admits_from, row.admits_until) for row in kinds},
        gates={
            row.gate_id: GateRules(row.name, None if row.kinds is None else frozenset(row.kinds))
            for row in gates
        },
    )


def kind_capacities(conn: Connection, *, event_id: int) -> dict[str, int | None]:
    """Return the kinds that the event has, each with its capacity."""
    rows = conn.exec_driver_sql(_STATEMENTS["kind_rules"], {"event_id": event_id})
    return {row.name: row.capacity for row in rows}


def lock_tickets(conn: Connection, *, event_id: int, ticket_ids: Iterable[int]) -> dict[int, TicketState]:
    """Lock tickets until the transaction ends and return those that exist, by id."""
    rows = conn.exec_driver_sql(
        _STATEMENTS["lock_tickets"], {"event_id": event_id, "ticket_ids": sql.array(ticket_ids)}
    )
    return {row.ticket_id: TicketState(*row) for row in rows}


def existing_tickets(conn: Connection, *, event_id: int, ticket_ids: Iterable[int]) -> set[int]:
    """Return which of these tickets the event has."""
    rows = conn.exec_driver_sql(
        _STATEMENTS["existing_tickets"], {"event_id": event_id, "ticket_ids": list(ticket_ids)}
    )
    return {row.ticket_id for row in rows}


def save_states(conn: Connection, *, event_id: int, tickets: Sequence[TicketState]) -> None:
    """Write the admission of tickets that lock_tickets holds."""
    columns = {
        f"{name}s": sql.array([getattr(ticket, name) for ticket in tickets])
        for name in ("ticket_id", "admitted_at", "admitted_gate_id", "inside", "passed_at", "scanned")
    }
    conn.exec_driver_sql(_STATEMENTS["save_states"], {"event_id": event_id, **columns})


def passages(conn: Connection, *, event_id: int, ticket_ids: Iterable[int]) -> dict[int, list[Passage]]:
    """Return who went in and out with these tickets, by ticket, in the order in which it happened."""
    found: dict[int, list[Passage]] = {}
    for row in conn.exec_driver_sql(
        _STATEMENTS["passages"], {"event_id": event_id, "ticket_ids": list(ticket_ids)}
    ):
        found.setdefault(row.ticket_id, []).append(Passage(*row[1:]))
    return found


def restate(conn: Connection, *, event_id: int, ticket_ids: Iterable[int]) -> dict[int, TicketState]:
    """Write the admission of tickets that lock_tickets holds as the scan log has it; return what they are now, by id."""
    rows = conn.exec_driver_sql(
        _STATEMENTS["restate"], {"event_id": event_id, "ticket_ids": list(ticket_ids)}
    )
    return {row.ticket_id: TicketState(*row) for row in rows}


def lock_event(conn: Connection, *, event_id: int) -> int | None:
    """Make other calls that issue for this event wait; return its capacity, None for no limit."""
    capacity: int | None = conn.exec_driver_sql(
        _STATEMENTS["lock_event"], {"event_id": event_id}
    ).scalar_one()
    return capacity


def insert_tickets(
    conn: Connection, *, event_id: int, tickets: Sequence[NewTicket], issued_at: datetime
) -> set[int]:
    """Add tickets, but for those whose reference the event has; return the ids of those added."""
    columns = {f"{name}s": [getattr(ticket, name) for ticket in tickets] for name in NewTicket._fields}
    rows = conn.exec_driver_sql(
        _STATEMENTS["insert_tickets"], {"event_id": event_id, "issued_at": issued_at, **columns}
    )
    return {row.ticket_id for row in rows}


def tickets_by_reference(
    conn: Connection, *, event_id: int, references: Iterable[str]
) -> dict[str, NewTicket]:
    """Return the event's tickets that have one of these references, by reference."""
    rows = conn.exec_driver_sql(
        _STATEMENTS["tickets_by_reference"], {"event_id": event_id, "references": list(references)}
    )
    return {row.reference: NewTicket(*row) for row in rows}


def valid_tickets(conn: Connection, *, event_id: int) -> dict[str, int]:
    """Count the event's tickets that are neither void nor transferred, by kind."""
    rows = conn.exec_driver_sql(_STATEMENTS["valid_tickets"], {"event_id": event_id})
    return {row.kind: row.tickets for row in rows}


def devices_seen(conn: Connection, *, device_ids: Iterable[int], seen_at: datetime) -> None:
    """Note that devices were seen, at most once a minute for each; never waits for a lock."""
    conn.exec_driver_sql(_STATEMENTS["devices_seen"], {"device_ids": list(device_ids), "seen_at": seen_at})


def note_clock(conn: Connection, *, device_id: int, offset_ms: int, measured_at: datetime) -> None:
    """Note how far ahead of ours a device's clock is."""
    conn.exec_driver_sql(
        _STATEMENTS["note_clock"],
        {"device_id": device_id, "offset_ms": offset_ms, "measured_at": measured_at},
    )
