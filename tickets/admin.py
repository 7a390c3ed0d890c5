"""The organiser's pages: events, gates, tickets; devices and services are in tickets.token_admin."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

from analytics.models import Scan
from core.admin import CarefulAdmin
from tickets import issuing, lifecycle
from tickets.models import Device, Event, Gate, Kind, ServiceToken, Ticket, validate_time_zone
from tickets.token_admin import DeviceAdmin, ServiceTokenAdmin

admin.site.register(Device, DeviceAdmin)
admin.site.register(ServiceToken, ServiceTokenAdmin)


class GateInline(admin.TabularInline):
    """Gates beside their event; which kinds they admit is on their own page."""

    model = Gate
    fields = ("name",)
    extra = 1
    can_delete = False
    show_change_link = True


class KindInline(admin.TabularInline):
    """Kinds of tickets beside their event."""

    model = Kind
    extra = 0
    can_delete = False


@admin.register(Event)
class EventAdmin(CarefulAdmin):
    """Events with their gates; their times are those of the venue."""

    list_display = ("name", "slug", "time_zone", "doors", "starts", "ends", "capacity")
    search_fields = ("name", "slug")
    prepopulated_fields = {"slug": ("name",)}
    inlines = (KindInline, GateInline)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: Any = None,
    ) -> HttpResponse:
        """Read and show times in the zone of the venue, not of the server."""
        event = self.get_object(request, object_id) if object_id else None
        zone = request.POST.get("time_zone") or (event.time_zone if event else "UTC")
        with timezone.override(_zone(str(zone))):
            response = super().changeform_view(request, object_id, form_url, extra_context)
            return response.render() if isinstance(response, TemplateResponse) else response

    def has_delete_permission(self, request: HttpRequest, obj: Event | None = None) -> bool:
        """Every attempt is kept, so its event is."""
        return (
            obj is not None and super().has_delete_permission(request, obj) and _has_no_scans(event_id=obj.id)
        )

    @admin.display(description="doors open", ordering="doors_at")
    def doors(self, event: Event) -> str:
        """Show a time of the venue."""
        return event.local(event.doors_at)

    @admin.display(ordering="starts_at")
    def starts(self, event: Event) -> str:
        """Show a time of the venue."""
        return event.local(event.starts_at)

    @admin.display(ordering="ends_at")
    def ends(self, event: Event) -> str:
        """Show a time of the venue."""
        return event.local(event.ends_at)


@admin.register(Gate)
class GateAdmin(CarefulAdmin):
    """Where tickets are scanned."""

    list_display = ("name", "event")
    list_select_related = ("event",)
    list_filter = ("event",)
    search_fields = ("name",)

    def get_readonly_fields(self, request: HttpRequest, obj: Gate | None = None) -> tuple[str, ...]:
        """Keep a gate with its event: its scans are that event's."""
        return ("event",) if obj else ()

    def has_delete_permission(self, request: HttpRequest, obj: Gate | None = None) -> bool:
        """Every attempt is kept, so its gate is."""
        return (
            obj is not None and super().has_delete_permission(request, obj) and _has_no_scans(gate_id=obj.id)
        )


class TicketForm(forms.ModelForm):
    """A ticket; its reference is looked at even where its event can't be changed."""

    def clean_reference(self) -> str | None:
        """Store "no reference" as NULL: empty text could stand only once."""
        reference: str | None = self.cleaned_data["reference"] or None
        others = Ticket.objects.filter(event_id=self.instance.event_id, reference=reference)
        if self.instance.event_id and reference and others.exclude(id=self.instance.id).exists():
            raise ValidationError("Another ticket of this event has this reference.")
        return reference


@admin.register(Ticket)
class TicketAdmin(CarefulAdmin):
    """Tickets: issued and voided here, admitted at the gate."""

    form = TicketForm
    list_display = ("holder", "event", "kind", "reference", "state", "issued_at")
    list_select_related = ("event",)
    list_filter = ("event",)
    search_fields = ("holder", "email", "reference", "=id")
    list_per_page = 50
    show_full_result_count = False
    actions = ("void",)

    def get_readonly_fields(self, request: HttpRequest, obj: Ticket | None = None) -> tuple[str, ...]:
        """Keep a ticket with its event: its code names it."""
        return ("event", "id", "state", "issued_at", "qr") if obj else ()

    def has_delete_permission(self, request: HttpRequest, obj: Ticket | None = None) -> bool:
        """Tickets are voided: their scans stay."""
        return False

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Say why a ticket can't be issued, instead of failing."""
        try:
            return super().changeform_view(request, *args, **kwargs)
        except issuing.CapacityExceeded as error:
            self.message_user(request, str(error), messages.ERROR)
            return redirect(request.path)

    def save_model(self, request: HttpRequest, obj: Ticket, form: Any, change: bool) -> None:
        """Issue a new ticket as the API does: within the capacity, once per reference."""
        if change:
            return super().save_model(request, obj, form, change)
        wish = issuing.Wish(obj.holder, obj.email, obj.kind, obj.reference)
        [issued] = issuing.issue(event_id=obj.event_id, wishes=[wish], now=timezone.now())
        obj.id = issued.ticket_id

    @admin.display
    def state(self, ticket: Ticket) -> str:
        """Say in a word what the gate would make of it."""
        if ticket.voided_at:
            return "void"
        if ticket.transferred_at:
            return "transferred"
        if ticket.admitted_at:
            return "inside" if ticket.inside else "left"
        return "issued"

    @admin.display(description="QR")
    def qr(self, ticket: Ticket) -> str:
        """Show the code as picture and text."""
        return format_html(
            '<img src="{}" alt="QR code of this ticket" width="240" height="240"><br><code>{}</code>',
            reverse("api:ticket_qr_svg", args=[ticket.id]),
            issuing.code_of(event_id=ticket.event_id, ticket_id=ticket.id),
        )

    @admin.action(description="Void: refuse these tickets from now on", permissions=["change"])
    def void(self, request: HttpRequest, queryset: QuerySet[Ticket]) -> None:
        """Void the chosen tickets that are neither void nor passed on."""
        count = lifecycle.void_many(queryset.values_list("id", flat=True), now=timezone.now())
        self.message_user(request, f"Voided: {count}.")


def _zone(name: str) -> ZoneInfo:
    try:
        validate_time_zone(name)
    except ValidationError:
        return ZoneInfo("UTC")
    return ZoneInfo(name)


def _has_no_scans(**where: int) -> bool:
    return not Scan.objects.filter(**where).exists()
