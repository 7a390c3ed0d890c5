"""Who is admitted: the rules, in the order in which they are judged. Pure: no database, no clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.db import models

from analytics.models import Direction


class Reentry(models.TextChoices):
    """Whether a ticket that was admitted is admitted again."""

    NEVER = "never", "never"
    AFTER_EXIT = "after_exit", "after an exit scan"
    ALWAYS = "always", "always"


class TicketState(NamedTuple):
    """A ticket of this event as its row says.

    `admitted_at` and its gate are those of the first entry; `passed_at` is when somebody last went in or out with it.
    """

    ticket_id: int
    holder: str
    kind: str
    voided_at: datetime | None
    transferred_at: datetime | None
    admitted_at: datetime | None
    admitted_gate_id: int | None
    inside: bool
    passed_at: datetime | None
    scanned: bool = False  # presented at a gate, whatever the verdict


class KindRules(NamedTuple):
    """When a kind of ticket is admitted, where that differs from its event."""

    admits_from: datetime | None
    admits_until: datetime | None


class GateRules(NamedTuple):
    """What a gate is called, and the kinds that it admits; None: all of them."""

    name: str
    kinds: frozenset[str] | None


class EventRules(NamedTuple):
    """What decides about the tickets of one event: kinds by name, gates by id."""

    event_id: int
    doors_at: datetime
    ends_at: datetime
    zone: ZoneInfo
    reentry: str
    kinds: dict[str, KindRules]
    gates: dict[int, GateRules]


_NO_KIND = KindRules(None, None)


class Case(NamedTuple):
    """One attempt with everything that decides it."""

    ticket: TicketState | None
    of_other_event: bool
    direction: str
    gate_id: int
    rules: EventRules
    at: datetime

    @property
    def entry(self) -> bool:
        """Whether the holder wants in. Nobody is kept inside by a rule about entering."""
        return self.direction == Direction.ENTRY

    @property
    def opens_at(self) -> datetime:
        """From when on tickets of this kind are admitted."""
        return self.rules.kinds.get(_of(self).kind, _NO_KIND).admits_from or self.rules.doors_at

    @property
    def closes_at(self) -> datetime:
        """Until when tickets of this kind are admitted."""
        return self.rules.kinds.get(_of(self).kind, _NO_KIND).admits_until or self.rules.ends_at

    @property
    def is_wrong_gate(self) -> bool:
        """Whether this gate admits only other kinds."""
        gate = self.rules.gates.get(self.gate_id)
        return gate is not None and gate.kinds is not None and _of(self).kind not in gate.kinds

    @property
    def is_used(self) -> bool:
        """Whether the ticket was admitted, and the event's policy is against doing so again now."""
        if self.rules.reentry == Reentry.ALWAYS:
            return False
        ticket = _of(self)
        return ticket.inside if self.rules.reentry == Reentry.AFTER_EXIT else ticket.admitted_at is not None


Rule = Callable[[Case], bool]

# After `unreadable`, `unknown_key` and `bad_signature`, which tickets.codes finds. The first that holds refuses.
RULES: tuple[tuple[str, Rule], ...] = (
    ("unknown_ticket", lambda case: case.ticket is None and not case.of_other_event),
    ("wrong_event", lambda case: case.of_other_event),
    ("void", lambda case: case.entry and _of(case).voided_at is not None),
    ("transferred", lambda case: case.entry and _of(case).transferred_at is not None),
    ("too_early", lambda case: case.entry and case.at < case.opens_at),
    ("too_late", lambda case: case.entry and case.at > case.closes_at),
    ("wrong_gate", lambda case: case.entry and case.is_wrong_gate),
    ("already_admitted", lambda case: case.entry and case.is_used),
    ("not_inside", lambda case: not case.entry and not _of(case).inside),
)

# What the person at the gate reads.
MESSAGES = {
    "unreadable": "This is not one of our codes.",
    "unknown_key": "This code was signed with a key that is not in use.",
    "bad_signature": "This code is forged or damaged.",
    "unknown_ticket": "There is no such ticket.",
    "wrong_event": "This ticket is for another event.",
    "void": "This ticket is void.",
    "transferred": "This ticket was passed on: only its new code is valid.",
    "too_early": "The doors are not open yet for this ticket.",
    "too_late": "This ticket is admitted no more: its time is over.",
    "wrong_gate": "This gate does not admit this kind of ticket.",
    "already_admitted": "Already admitted.",
    "not_inside": "This ticket is not inside.",
}
REASONS = tuple(MESSAGES)


def judge(case: Case) -> str | None:
    """Return the reason to refuse, or None to admit."""
    for reason, holds in RULES:
        if holds(case):
            return reason
    return None


def _of(case: Case) -> TicketState:
    assert case.ticket is not None, "rules about a ticket come after those about its absence"
    return case.ticket
