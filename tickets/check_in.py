"""Check a ticket in by hand: judged and recorded as a scan at a gate, with the name of who did it."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, NamedTuple

from django import forms

from analytics.models import Direction, Scan, Verdict
from core import db
from tickets import admission, issuing, judging, lifecycle
from tickets.models import Gate, Ticket, validate_line

NOBODY = 0  # who only looks is not recorded


class Foreseen(NamedTuple):
    """What a gate would say now."""

    gate_id: int
    gate: str
    words: str
    is_admitted: bool


class CheckInForm(forms.Form):
    """Let a holder in or out by hand. The nonce makes of two clicks one scan."""

    gate = forms.ModelChoiceField(Gate.objects.none(), empty_label=None)
    direction = forms.ChoiceField(choices=Direction.choices)
    force_reason = forms.CharField(
        max_length=200,
        required=False,
        label="Admit in spite of a refusal, because",
        validators=[validate_line],
        help_text="Only where it has to be: it is kept in the log with your name.",
    )
    nonce = forms.UUIDField(widget=forms.HiddenInput)

    def __init__(self, *args: Any, ticket: Ticket, may_force: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        gates: Any = self.fields["gate"]
        gates.queryset = Gate.objects.filter(event_id=ticket.event_id)
        if not may_force:
            del self.fields["force_reason"]


def last_by_hand(ticket: Ticket, now: datetime) -> Scan | None:
    """Return the last check-in by hand that can still be taken back."""
    return (
        Scan.objects.filter(
            event_id=ticket.event_id,
            ticket_id=ticket.id,
            device_id=None,
            verdict=Verdict.ADMITTED,
            annulled_at=None,
            recorded_at__gte=now - lifecycle.ANNULLED_WITHIN,
        )
        .order_by("-happened_at")
        .first()
    )


def _attempt(
    ticket: Ticket, gate_id: int, nonce: str, direction: Direction, now: datetime, user_id: int
) -> judging.Scan:
    code = issuing.code_of(event_id=ticket.event_id, ticket_id=ticket.id)
    return judging.Scan(code, nonce, now, direction, gate_id, user_id=user_id)


def record(ticket: Ticket, sent: dict[str, Any], user: Any, now: datetime) -> admission.Outcome:
    """Judge and record it; the same form again is the same scan."""
    nonce, direction = f"by-hand-{sent['nonce']}", Direction(sent["direction"])
    scan = _attempt(ticket, sent["gate"].id, nonce, direction, now, user.pk)
    scan = scan._replace(force_reason=sent.get("force_reason") or None)
    [outcome] = admission.admit(rules=admission.rules_of(ticket.event_id), scans=[scan], now=now)
    return outcome


def is_admitted(outcome: admission.Outcome) -> bool:
    """Tell whether the holder may go through."""
    return isinstance(outcome, admission.Answer) and outcome.stored.reason is None


def words(outcome: admission.Outcome) -> str:
    """Say what came of a check-in; its nonce is the form's, of which the person knows nothing."""
    if isinstance(outcome, admission.NonceReused):
        return "nothing was done, for this form had been sent before. Fill in a new one."
    if isinstance(outcome, admission.ScanAnnulled):
        return "nothing was done, for this check-in was taken back. Fill in a new form."
    return outcome.message


def foresight(ticket: Ticket, now: datetime) -> list[Foreseen]:
    """Return what each gate would say of an entry now."""
    foreseen = []
    with db.begin():  # one transaction for all gates
        rules = admission.rules_of(ticket.event_id)
        for gate_id, gate in sorted(rules.gates.items()):
            attempt = _attempt(ticket, gate_id, f"rehearsal-{uuid.uuid4()}", Direction.ENTRY, now, NOBODY)
            outcome = admission.rehearse(rules=rules, scan=attempt, now=now)
            foreseen.append(Foreseen(gate_id, gate.name, words(outcome), is_admitted(outcome)))
    return foreseen
