"""Who is admitted: the rules, in the order in which they are judged. Pure: no database, no clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from analytics.models import Direction


class TicketState(NamedTuple):
    """A ticket of this event as its row says."""

    ticket_id: int
    holder: str
    kind: str
    voided_at: datetime | None
    transferred_at: datetime | None
    admitted_at: datetime | None
    admitted_gate_id: int | None
    inside: bool


class EventWindow(NamedTuple):
    """When an event admits, and where it is."""

    doors_at: datetime
    ends_at: datetime
    zone: ZoneInfo


class Case(NamedTuple):
    """One attempt with everything that decides it."""

    ticket: TicketState | None
    of_other_event: bool
    direction: str
    window: EventWindow
    now: datetime

    @property
    def entry(self) -> bool:
        """Whether the holder wants in. Nobody is kept inside by a rule about entering."""
        return self.direction == Direction.ENTRY


Rule = Callable[[Case], bool]

# After `unreadable`, `unknown_key` and `bad_signature`, which tickets.codes finds. The first that holds refuses.
RULES: tuple[tuple[str, Rule], ...] = (
    ("unknown_ticket", lambda case: case.ticket is None and not case.of_other_event),
    ("wrong_event", lambda case: case.of_other_event),
    ("void", lambda case: case.entry and _of(case).voided_at is not None),
    ("transferred", lambda case: case.entry and _of(case).transferred_at is not None),
    ("too_early", lambda case: case.entry and case.now < case.window.doors_at),
    ("too_late", lambda case: case.entry and case.now > case.window.ends_at),
    ("already_admitted", lambda case: case.entry and _of(case).admitted_at is not None),
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
    "too_early": "The doors are not open yet.",
    "too_late": "This event is over.",
    "already_admitted": "Already admitted.",
    "not_inside": "This ticket is not inside.",
}
REASONS = tuple(MESSAGES)


def judge(case: Case) -> str | None:
    """Return the reason to refuse, or None to admit."""
    return next((reason for reason, holds in RULES if holds(case)), None)


def _of(case: Case) -> TicketState:
    assert case.ticket is not None, "rules about a ticket come after those about its absence"
    return case.ticket
