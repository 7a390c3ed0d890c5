"""What a person does with one ticket in the admin: check in by hand, pass on, and read all that happened to it."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, NamedTuple

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone

from analytics.models import Direction, Scan, Verdict
from core import db
from core.errors import QrsiteError
from tickets import admission, issuing, judging, lifecycle, queries
from tickets.models import Device, Gate, Ticket, Transfer, validate_line
from tickets.rules import MESSAGES

MAY_CHECK_IN, MAY_FORCE = "tickets.check_in_ticket", "tickets.force_admission"
MAX_MOMENTS = 500


class Moment(NamedTuple):
    """Something that happened to a ticket, when, and by whom."""

    at: datetime
    local: str
    what: str
    who: str


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


class TransferForm(forms.ModelForm):
    """Whom a ticket is passed on to."""

    class Meta:
        model = Ticket
        fields = ("holder", "email")
        labels = {"holder": "New holder"}


class Desk(admin.ModelAdmin):
    """The pages of one ticket beside its form."""

    def get_urls(self) -> list[URLPattern]:
        """Add the pages."""
        pages = {"check-in": self.check_in_view, "pass-on": self.pass_on_view}
        return [
            path(
                f"<int:ticket_id>/{name}/",
                self.admin_site.admin_view(view),
                name=f"tickets_ticket_{name.replace('-', '_')}",
            )
            for name, view in pages.items()
        ] + super().get_urls()

    def check_in_view(self, request: HttpRequest, ticket_id: int) -> HttpResponse:
        """Judge the ticket as its scan at a gate would be, and record it with the person's name."""
        if not request.user.has_perm(MAY_CHECK_IN):
            raise PermissionDenied
        ticket = self._find(request, ticket_id)
        if nonce := request.POST.get("take_back"):
            return self._take_back(request, ticket, nonce)
        form = CheckInForm(
            request.POST or None,
            initial={"nonce": uuid.uuid4()},
            ticket=ticket,
            may_force=request.user.has_perm(MAY_FORCE),
        )
        if request.method == "POST" and form.is_valid():
            outcome = _check_in(ticket, form.cleaned_data, request.user, timezone.now())
            is_admitted = isinstance(outcome, admission.Answer) and outcome.stored.reason is None
            level = messages.SUCCESS if is_admitted else messages.ERROR
            self.message_user(request, f"{ticket.holder}: {_words(outcome)}", level)
            return redirect("admin:tickets_ticket_change", ticket.id)
        now = timezone.now()
        context = {"foresight": _foresight(ticket, now), "last": _last_by_hand(ticket, now)}
        return self._page(request, ticket, form, "Check in by hand", context)

    def _take_back(self, request: HttpRequest, ticket: Ticket, nonce: str) -> HttpResponse:
        now = timezone.now()
        last = _last_by_hand(ticket, now)
        try:
            if last is None or last.nonce != nonce:
                raise lifecycle.NotAnnullable("There is nothing here that can be taken back.")
            lifecycle.annul(event_id=ticket.event_id, nonce=nonce, now=now)
        except QrsiteError as error:
            self.message_user(request, str(error), messages.ERROR)
        else:
            self.message_user(request, f"{ticket.holder}: the {last.direction} was taken back.")
            self.log_change(request, ticket, f"Took back the {last.direction}.")
        return redirect("admin:tickets_ticket_change", ticket.id)

    def pass_on_view(self, request: HttpRequest, ticket_id: int) -> HttpResponse:
        """Pass the ticket on, and lead to the new one."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        ticket = self._find(request, ticket_id)
        form = TransferForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                new = lifecycle.transfer(
                    ticket_id=ticket.id,
                    holder=form.cleaned_data["holder"],
                    email=form.cleaned_data["email"],
                    reference=None,
                    by=request.user.get_username(),
                    now=timezone.now(),
                )
            except QrsiteError as error:
                self.message_user(request, str(error), messages.ERROR)
                return redirect("admin:tickets_ticket_change", ticket.id)
            self.message_user(request, f"Passed on to {new.holder}: the old code is refused from now on.")
            return redirect("admin:tickets_ticket_change", new.id)
        return self._page(request, ticket, form, "Pass on", {})

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show all that happened to the ticket: issued, changed, passed on, scanned, voided."""
        ticket = self.get_object(request, object_id)
        if ticket is None or not self.has_view_permission(request, ticket):
            return super().history_view(request, object_id, extra_context)
        context = {
            **self.admin_site.each_context(request),
            "title": "History",
            "subtitle": ticket,
            "opts": self.opts,
            "object": ticket,
            "moments": story(ticket),
        }
        return TemplateResponse(request, "admin/tickets/ticket/history.html", context)

    def _find(self, request: HttpRequest, ticket_id: int) -> Ticket:
        found = self.get_queryset(request).select_related("event").filter(id=ticket_id)
        ticket: Ticket | None = found.first()
        if ticket is None:
            raise Http404
        return ticket

    def _page(
        self, request: HttpRequest, ticket: Ticket, form: forms.BaseForm, title: str, context: dict[str, Any]
    ) -> HttpResponse:
        everywhere = self.admin_site.each_context(request)
        context = {**everywhere, "title": title, "opts": self.opts, "ticket": ticket, "form": form, **context}
        return TemplateResponse(request, "admin/tickets/ticket/desk.html", context)


def story(ticket: Ticket) -> list[Moment]:
    """Return what happened to a ticket, the first first."""
    event = ticket.event
    gates = dict(Gate.objects.filter(event_id=ticket.event_id).values_list("id", "name"))
    people = get_user_model().objects.in_bulk
    scans = list(
        Scan.objects.filter(event_id=ticket.event_id, ticket_id=ticket.id).order_by("-id")[:MAX_MOMENTS]
    )
    devices = Device.objects.in_bulk({scan.device_id for scan in scans})
    users = people({scan.user_id for scan in scans})
    moments = [(ticket.issued_at, "Issued.", "")]
    if ticket.voided_at:
        moments.append((ticket.voided_at, "Voided.", ""))
    for move in Transfer.objects.filter(event_id=ticket.event_id, from_ticket_id=ticket.id):
        moments.append(
            (move.transferred_at, f"Passed on: see ticket {move.to_ticket_id}.", move.transferred_by)
        )
    for move in Transfer.objects.filter(event_id=ticket.event_id, to_ticket_id=ticket.id):
        moments.append((move.transferred_at, f"Came from ticket {move.from_ticket_id}.", move.transferred_by))
    for scan in scans:
        who = devices.get(scan.device_id) or users.get(scan.user_id) or ""
        where = gates.get(scan.gate_id, "a gate that is gone")
        moments.append((scan.happened_at, _said(scan, where), str(who)))
        if scan.annulled_at:
            moments.append((scan.annulled_at, f"The {scan.direction} at {where} was taken back.", str(who)))
    kind = ContentType.objects.get_for_model(Ticket)
    for entry in LogEntry.objects.filter(content_type=kind, object_id=str(ticket.id)).select_related("user"):
        moments.append((entry.action_time, entry.get_change_message(), str(entry.user)))
    return [Moment(at, event.local(at), what, who) for at, what, who in sorted(moments)]


def _last_by_hand(ticket: Ticket, now: datetime) -> Scan | None:
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


def _said(scan: Scan, where: str) -> str:
    way = "Entry" if scan.direction == Direction.ENTRY else "Exit"
    offline = " (made offline)" if scan.offline else ""
    if scan.reason:
        return f"{way} at {where}{offline} refused: {MESSAGES[scan.reason]}"
    if scan.forced_over:
        return f"{way} at {where}{offline} in spite of: {MESSAGES[scan.forced_over]} Because: {scan.force_reason}"
    return f"{way} at {where}{offline}."


def _attempt(ticket: Ticket, gate_id: int, now: datetime, **more: Any) -> judging.Scan:
    return judging.Scan(
        code=issuing.code_of(event_id=ticket.event_id, ticket_id=ticket.id),
        nonce=more.pop("nonce", f"rehearsal-{uuid.uuid4()}"),
        scanned_at=now,
        direction=more.pop("direction", Direction.ENTRY),
        gate_id=gate_id,
        **more,
    )


def _check_in(ticket: Ticket, sent: dict[str, Any], user: Any, now: datetime) -> admission.Outcome:
    with db.begin() as conn:
        rules = queries.event_rules(conn, event_id=ticket.event_id)
    scan = _attempt(
        ticket,
        sent["gate"].id,
        now,
        nonce=f"by-hand-{sent['nonce']}",
        direction=Direction(sent["direction"]),
        user_id=user.pk,
        force_reason=sent.get("force_reason") or None,
    )
    [outcome] = admission.admit(rules=rules, scans=[scan], now=now)
    return outcome


def _words(outcome: admission.Outcome) -> str:
    return outcome.message if isinstance(outcome, admission.Answer) else str(outcome)


def _foresight(ticket: Ticket, now: datetime) -> list[tuple[str, str]]:
    """Return what each gate would say of an entry now."""
    with db.begin() as conn:
        rules = queries.event_rules(conn, event_id=ticket.event_id)
        answers = [
            (
                gate.name,
                admission.rehearse(rules=rules, scan=_attempt(ticket, gate_id, now, user_id=0), now=now),
            )
            for gate_id, gate in sorted(rules.gates.items())
        ]
    return [(name, _words(answer)) for name, answer in answers]
