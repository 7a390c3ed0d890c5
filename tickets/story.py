"""Everything that happened to one ticket, as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db.models import Q

from analytics.models import Conflict, Direction, Scan
from tickets.log_names import Names
from tickets.models import Ticket, Transfer
from tickets.rules import MESSAGES

MAX_SCANS = 500
VOIDED = "Voided."
Told = tuple[datetime, str, str]  # when, what, who


class Moment(NamedTuple):
    """Something that happened to a ticket, when, and by whom."""

    at: datetime
    local: str
    what: str
    who: str


class Story(NamedTuple):
    """What happened, the first first; of very many scans the last, without the `left_out` before them."""

    moments: list[Moment]
    left_out: int


def story_of(ticket: Ticket) -> Story:
    """Return what happened to a ticket: issued, changed, passed on, scanned, voided."""
    scans = Scan.objects.filter(event_id=ticket.event_id, ticket_id=ticket.id)
    shown = list(scans.order_by("-id")[:MAX_SCANS])
    told = [(ticket.issued_at, "Issued.", ""), *_logged(ticket), *_moves(ticket), *_scanned(ticket, shown)]
    moments = [Moment(at, ticket.event.local(at), what, who) for at, what, who in sorted(told)]
    return Story(moments, scans.count() - len(shown) if len(shown) == MAX_SCANS else 0)


def _logged(ticket: Ticket) -> Iterator[Told]:
    kind = ContentType.objects.get_for_model(Ticket)
    entries = LogEntry.objects.filter(content_type=kind, object_id=str(ticket.id)).select_related("user")
    voided_by = ""
    for entry in entries.order_by("-id"):
        what, who = entry.get_change_message(), str(entry.user)
        if what != VOIDED:
            yield entry.action_time, what, who
        elif ticket.voided_at and entry.action_time >= ticket.voided_at:
            voided_by = who
    if ticket.voided_at:
        yield ticket.voided_at, VOIDED, voided_by


def _moves(ticket: Ticket) -> Iterator[Told]:
    either = Q(from_ticket_id=ticket.id) | Q(to_ticket_id=ticket.id)
    for move in Transfer.objects.filter(either, event_id=ticket.event_id):
        is_old = move.from_ticket_id == ticket.id
        what = (
            f"Passed on: see ticket {move.to_ticket_id}."
            if is_old
            else f"Came from ticket {move.from_ticket_id}."
        )
        yield move.transferred_at, what, move.transferred_by


def _scanned(ticket: Ticket, scans: list[Scan]) -> Iterator[Told]:
    names = Names(scans)
    conflicts = {
        conflict.scan_id: conflict
        for conflict in Conflict.objects.filter(
            event_id=ticket.event_id, scan_id__in=[scan.id for scan in scans]
        )
    }
    for scan in scans:
        conflict, where, who = conflicts.get(scan.id), names.gate(scan), names.who(scan)
        yield scan.happened_at, _said(scan, where, is_conflict=conflict is not None), who
        if scan.annulled_at:
            yield scan.annulled_at, f"The {scan.direction} at {where} was taken back.", who
        if conflict and conflict.signed_off_at:
            what = f"The conflict about the entry at {where} was signed off: {conflict.note}"
            yield conflict.signed_off_at, what, conflict.signed_off_by


def _said(scan: Scan, where: str, *, is_conflict: bool) -> str:
    place = f"{'Entry' if scan.direction == Direction.ENTRY else 'Exit'} at {where}"
    offline = " (made offline)" if scan.offline else ""
    if is_conflict:
        return f"{place}: let in offline, should have been refused: {MESSAGES[str(scan.reason)]}"
    if scan.reason == "not_inside" and scan.offline:
        return f"{place}{offline}: its entry was not known then."
    if scan.reason:
        return f"{place} {'turned away offline' if scan.offline else 'refused'}: {MESSAGES[scan.reason]}"
    if scan.forced_over:
        return f"{place}{offline} in spite of: {MESSAGES[scan.forced_over]} Because: {scan.force_reason}"
    return f"{place}{offline}."
