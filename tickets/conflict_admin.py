"""The conflicts in the scan log: who was let in and should not have been, to look into and to sign off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone

from analytics import queries
from analytics.models import Conflict, Scan
from core import db
from tickets.log_names import Names, local
from tickets.models import Event, Ticket
from tickets.rules import MESSAGES
from tickets.scan_admin import EventFilter, LedgerAdmin, ReasonFilter, history_link

NONE = "none"


class Facts(NamedTuple):
    """What a conflict is about, in words."""

    event: Event | None
    holder: str
    let_in_at: str
    let_in: str
    other_at: str
    other: str
    apart: str


class StateFilter(admin.SimpleListFilter):
    """Those to look into, or those that somebody did."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Offer both."""
        return [("open", "open"), ("signed_off", "signed off")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Conflict]) -> QuerySet[Conflict]:
        """Keep the chosen ones."""
        is_open = {"open": True, "signed_off": False}.get(self.value() or "")
        return queryset if is_open is None else queryset.filter(signed_off_at__isnull=is_open)


class ConflictAdmin(LedgerAdmin):
    """Whom a device let in offline and should not have; somebody looks into it and signs it off with a note."""

    list_display = ("noticed", "event", "holder", "reason", "let_in_at", "other_at", "apart", "signed_off")
    list_filter = (StateFilter, EventFilter, ReasonFilter)
    search_fields = ("=ticket_id",)
    fields = ("event", "ticket", "why", "let_in", "other", "apart", "noticed", "signed_off", "note")
    readonly_fields = fields[:-1]

    def look_up(self, rows: Sequence[Any]) -> None:
        """Read events, tickets and both scans of each."""
        facts = _facts_of(rows)
        for conflict in rows:
            conflict.facts = facts[conflict.id]

    def get_form(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Ask for the note: it is what signs a conflict off."""
        form = super().get_form(request, *args, **kwargs)
        if "note" in form.base_fields:
            form.base_fields["note"].required = True
            form.base_fields["note"].widget = forms.Textarea(attrs={"rows": 3, "class": "vLargeTextField"})
        return form

    def has_change_permission(self, request: HttpRequest, obj: Conflict | None = None) -> bool:
        """Signing off is a permission of its own, and done once."""
        is_open = obj is None or obj.signed_off_at is None
        return is_open and request.user.has_perm("analytics.sign_off_conflict")

    def change_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        """Tell whoever comes second that somebody signed it off meanwhile."""
        if request.method == "POST" and self.has_change_permission(request):
            conflict = self.get_object(request, object_id)
            if conflict is not None and conflict.signed_off_at is not None:
                self._say_who_was_first(request, conflict.signed_off_by, conflict.note)
                return redirect(request.path)
        return super().change_view(request, object_id, *args, **kwargs)

    def save_model(self, request: HttpRequest, obj: Conflict, form: Any, change: bool) -> None:
        """Sign the conflict off by whoever wrote the note; the first who does stays the one who did."""
        me = request.user.get_username()
        with db.begin() as conn:
            signed = queries.sign_off_conflict(
                conn,
                event_id=obj.event_id,
                conflict_id=obj.id,
                signed_off_at=timezone.now(),
                signed_off_by=me,
                note=obj.note,
            )
        if signed and (signed.signed_off_by, signed.note) != (me, obj.note):
            self._say_who_was_first(request, signed.signed_off_by, signed.note)
        else:
            self.message_user(request, "Signed off.", messages.SUCCESS)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Log nothing: the row says who signed it off, and whoever came second changed nothing."""

    def response_change(self, request: HttpRequest, obj: Conflict) -> HttpResponse:
        """Lead back to the list, as it was filtered."""
        return self.response_post_save_change(request, obj)

    def _say_who_was_first(self, request: HttpRequest, who: str, note: str) -> None:
        self.message_user(request, f"{who} had signed it off before: {note}", messages.WARNING)

    @admin.display(ordering="id")
    def noticed(self, conflict: Any) -> str:
        """Show when we heard of it, in the venue's time."""
        return local(conflict.facts.event, conflict.noticed_at)

    @admin.display
    def event(self, conflict: Any) -> str:
        """Name the event."""
        return str(conflict.facts.event or conflict.event_id)

    @admin.display
    def holder(self, conflict: Any) -> str:
        """Name whose ticket it is."""
        return str(conflict.facts.holder)

    @admin.display
    def ticket(self, conflict: Any) -> str:
        """Lead to all that happened to the ticket."""
        return history_link(conflict.ticket_id, f"{conflict.facts.holder} ({conflict.ticket_id})")

    @admin.display(description="should have been refused")
    def why(self, conflict: Any) -> str:
        """Say why."""
        return str(MESSAGES.get(conflict.reason, conflict.reason))

    @admin.display(description="let in")
    def let_in_at(self, conflict: Any) -> str:
        """Say where and by which device."""
        return str(conflict.facts.let_in_at)

    @admin.display(description="other entry")
    def other_at(self, conflict: Any) -> str:
        """Say the same of another entry with the ticket."""
        return str(conflict.facts.other_at)

    @admin.display(description="let in")
    def let_in(self, conflict: Any) -> str:
        """Say where, by which device and when."""
        return str(conflict.facts.let_in)

    @admin.display(description="other entry")
    def other(self, conflict: Any) -> str:
        """Say the same of another entry with the ticket."""
        return str(conflict.facts.other)

    @admin.display(description="minutes apart")
    def apart(self, conflict: Any) -> str:
        """Say how long was between the two."""
        return str(conflict.facts.apart)

    @admin.display(description="signed off", ordering="signed_off_at")
    def signed_off(self, conflict: Any) -> str:
        """Say by whom and when."""
        if conflict.signed_off_at is None:
            return "not yet"
        return f"{conflict.signed_off_by}, {local(conflict.facts.event, conflict.signed_off_at)}"


def _facts_of(conflicts: Sequence[Conflict]) -> dict[int, Facts]:
    ids = {scan_id for row in conflicts for scan_id in (row.scan_id, row.earlier_scan_id) if scan_id}
    scans = Scan.objects.in_bulk(ids)
    names = Names(scans.values())
    events = Event.objects.in_bulk({row.event_id for row in conflicts})
    holders = dict(
        Ticket.objects.filter(id__in={row.ticket_id for row in conflicts}).values_list("id", "holder")
    )
    facts = {}
    for row in conflicts:
        scan, other = scans.get(row.scan_id), scans.get(row.earlier_scan_id or 0)
        apart = abs(scan.happened_at - other.happened_at).total_seconds() / 60 if scan and other else None
        facts[row.id] = Facts(
            event=events.get(row.event_id),
            holder=holders.get(row.ticket_id, ""),
            let_in_at=_place(scan, names),
            let_in=_told(scan, names),
            other_at=_place(other, names),
            other=_told(other, names),
            apart=NONE if apart is None else f"{apart:.1f}",
        )
    return facts


def _place(scan: Scan | None, names: Names) -> str:
    return f"{names.gate(scan)}, {names.who(scan)}" if scan else NONE


def _told(scan: Scan | None, names: Names) -> str:
    return f"{_place(scan, names)}, {names.local(scan, scan.happened_at)}" if scan else NONE
