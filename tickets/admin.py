"""The organiser's pages: events with their kinds and gates; tickets are in tickets.ticket_admin, tokens in tickets.token_admin."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import ManyToManyField
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone

from analytics.models import Conflict, Scan
from core.admin import CarefulAdmin
from tickets.conflict_admin import ConflictAdmin
from tickets.dashboard import Dashboard
from tickets.kind_admin import KindInline
from tickets.models import Device, Event, Gate, Kind, ServiceToken, Ticket, validate_time_zone
from tickets.scan_admin import ScanAdmin
from tickets.ticket_admin import TicketAdmin
from tickets.token_admin import DeviceAdmin, ServiceTokenAdmin

admin.site.register(Scan, ScanAdmin)
admin.site.register(Conflict, ConflictAdmin)
admin.site.register(Device, DeviceAdmin)
admin.site.register(ServiceToken, ServiceTokenAdmin)
admin.site.register(Ticket, TicketAdmin)


class GateInline(admin.TabularInline):
    """Gates beside their event; which kinds they admit is on their own page."""

    model = Gate
    fields = ("name",)
    extra = 1
    can_delete = False
    show_change_link = True


@admin.register(Event)
class EventAdmin(CarefulAdmin, Dashboard):
    """Events with their gates; their times are those of the venue."""

    list_display = ("name", "slug", "time_zone", "doors", "starts", "ends", "capacity")
    search_fields = ("name", "slug")
    prepopulated_fields = {"slug": ("name",)}
    inlines = (KindInline, GateInline)

    class Media:
        css = {"all": ("tickets/admin.css",)}

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
        """Keep a gate with its event: its scans are that event's. Then its event's kinds can be chosen from."""
        return ("event",) if obj else ()

    def get_exclude(self, request: HttpRequest, obj: Gate | None = None) -> tuple[str, ...]:
        """Leave the kinds out until the event is known."""
        return () if obj else ("kinds",)

    def formfield_for_manytomany(
        self, db_field: ManyToManyField[Any, Any], request: HttpRequest, **kwargs: Any
    ) -> Any:
        """Offer the kinds of the gate's own event, as boxes to tick."""
        match = request.resolver_match
        gate = self.get_object(request, match.kwargs["object_id"]) if match else None
        kwargs["queryset"] = Kind.objects.filter(event_id=gate.event_id) if gate else Kind.objects.none()
        kwargs["widget"] = forms.CheckboxSelectMultiple()
        return super().formfield_for_manytomany(db_field, request, **kwargs)

    def has_delete_permission(self, request: HttpRequest, obj: Gate | None = None) -> bool:
        """Every attempt is kept, so its gate is."""
        return (
            obj is not None and super().has_delete_permission(request, obj) and _has_no_scans(gate_id=obj.id)
        )


def _zone(name: str) -> ZoneInfo:
    try:
        validate_time_zone(name)
    except ValidationError:
        return ZoneInfo("UTC")
    return ZoneInfo(name)


def _has_no_scans(**where: int) -> bool:
    return not Scan.objects.filter(**where).exists()
