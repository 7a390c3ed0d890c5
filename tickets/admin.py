"""The organiser's pages: events, gates, devices, tickets, service tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import segno
from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.views.decorators.http import require_POST

from analytics.models import Scan
from core.admin import CarefulAdmin
from tickets import enrolment, issuing
from tickets.models import SCOPES, Device, Event, Gate, ServiceToken, Ticket, validate_time_zone
from tickets.tokens import DEVICE_PREFIX, SERVICE_PREFIX, new_token, token_hash

GATE_PAGE = "/gate/"
MAX_QRS = 100


class GateInline(admin.TabularInline):
    """Gates beside their event."""

    model = Gate
    extra = 1
    can_delete = False


@admin.register(Event)
class EventAdmin(CarefulAdmin):
    """Events with their gates; their times are those of the venue."""

    list_display = ("name", "slug", "time_zone", "doors", "starts", "ends", "capacity")
    search_fields = ("name", "slug")
    prepopulated_fields = {"slug": ("name",)}
    inlines = (GateInline,)

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
        return _local(event, event.doors_at)

    @admin.display(ordering="starts_at")
    def starts(self, event: Event) -> str:
        """Show a time of the venue."""
        return _local(event, event.starts_at)

    @admin.display(ordering="ends_at")
    def ends(self, event: Event) -> str:
        """Show a time of the venue."""
        return _local(event, event.ends_at)


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


class TokenAdmin(CarefulAdmin):
    """Things with a token: it is made on saving, shown once, and revoked, never deleted."""

    actions = ["revoke"]
    readonly_fields = ["created_at", "revoked_at"]
    token_prefix = ""

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Make the token of a new row and show it, this once."""
        if change:
            return super().save_model(request, obj, form, change)
        token = new_token(self.token_prefix)
        obj.token_hash = token_hash(token)
        super().save_model(request, obj, form, change)
        messages.warning(
            request, format_html("Copy the token now, it is not shown again: <code>{}</code>", token)
        )

    @admin.action(description="Revoke: the token stops working at once", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Revoke the chosen tokens that are not revoked yet."""
        count = queryset.filter(revoked_at=None).update(revoked_at=timezone.now())
        self.message_user(request, f"Revoked: {count}.")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Scans name the device for good."""
        return False

    @admin.display(boolean=True, description="valid")
    def is_valid(self, obj: Any) -> bool:
        """Tell whether the token works."""
        return obj.revoked_at is None


@admin.register(Device)
class DeviceAdmin(TokenAdmin):
    """Scanners, each at one gate."""

    token_prefix = DEVICE_PREFIX
    list_display = ("name", "gate", "event", "is_valid", "created", "enrolled", "last_seen")
    list_select_related = ("gate__event",)
    list_filter = ("gate__event",)
    search_fields = ("name", "gate__name")
    actions = ["enrol", "revoke"]
    readonly_fields = ["created", "enrolled", "last_seen", "revoked_at"]

    def get_urls(self) -> list[URLPattern]:
        """Add the button of a device's page."""
        view = self.admin_site.admin_view(require_POST(self.enrol_view))
        return [path("<int:device_id>/enrol/", view, name="tickets_device_enrol"), *super().get_urls()]

    def enrol_view(self, request: HttpRequest, device_id: int) -> HttpResponse:
        """Show the QR of one device."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        page = self.enrol(request, self.get_queryset(request).filter(id=device_id))
        return page or redirect("admin:tickets_device_changelist")

    @admin.action(description="Enrol: show a QR for each, valid once", permissions=["change"])
    def enrol(self, request: HttpRequest, queryset: QuerySet[Device]) -> HttpResponse | None:
        """Make a secret for each of the chosen devices and show it, this once, as a QR for the gate's page."""
        devices = list(queryset.select_related("gate__event")[: MAX_QRS + 1])
        if not 0 < len(devices) <= MAX_QRS:
            self.message_user(request, f"Choose 1 to {MAX_QRS} devices.", messages.ERROR)
            return None
        now = timezone.now()
        try:
            secrets = enrolment.invite(devices=devices, now=now)
        except enrolment.DeviceRevoked as error:
            self.message_user(request, str(error), messages.ERROR)
            return None
        for device in devices:
            self.log_change(request, device, "Made a QR to enrol it.")
        invitations = [
            _invitation(device, request.build_absolute_uri(f"{GATE_PAGE}#enrol={secret}"), now)
            for device, secret in zip(devices, secrets, strict=True)
        ]
        context = {
            **self.admin_site.each_context(request),
            "title": "Enrol",
            "opts": self.opts,
            "minutes": enrolment.VALID_FOR.seconds // 60,
            "invitations": invitations,
        }
        return TemplateResponse(request, "admin/tickets/device/enrol.html", context)

    @admin.display(ordering="created_at")
    def created(self, device: Device) -> str:
        """Show a time of the venue."""
        return _local_or_never(device, device.created_at)

    @admin.display(ordering="enrolled_at")
    def enrolled(self, device: Device) -> str:
        """Show a time of the venue."""
        return _local_or_never(device, device.enrolled_at)

    @admin.display(ordering="last_seen_at")
    def last_seen(self, device: Device) -> str:
        """Show a time of the venue, to the minute."""
        return _local_or_never(device, device.last_seen_at)

    @admin.display(ordering="gate__event")
    def event(self, device: Device) -> Event:
        """Name the event of the gate."""
        return device.gate.event


class ServiceTokenForm(forms.ModelForm):
    """Scopes as boxes to tick."""

    scopes = forms.MultipleChoiceField(
        choices=[(scope, scope) for scope in SCOPES], widget=forms.CheckboxSelectMultiple
    )

    class Meta:
        model = ServiceToken
        fields = ("name", "scopes")


@admin.register(ServiceToken)
class ServiceTokenAdmin(TokenAdmin):
    """Services that call the API."""

    token_prefix = SERVICE_PREFIX
    form = ServiceTokenForm
    list_display = ("name", "scopes", "is_valid", "created_at")
    search_fields = ("name",)


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
        """Void the chosen tickets that are not void yet; locked in the order that gates lock them."""
        with transaction.atomic():
            ids = queryset.filter(voided_at=None).order_by("id").select_for_update(of=("self",))
            chosen = Ticket.objects.filter(id__in=[ticket.id for ticket in ids])
            count = chosen.update(voided_at=timezone.now())
        self.message_user(request, f"Voided: {count}.")


def _zone(name: str) -> ZoneInfo:
    try:
        validate_time_zone(name)
    except ValidationError:
        return ZoneInfo("UTC")
    return ZoneInfo(name)


def _local(event: Event, when: datetime) -> str:
    return f"{when.astimezone(event.zone):%a %d %b %Y, %H:%M}"


def _local_or_never(device: Device, when: datetime | None) -> str:
    return _local(device.gate.event, when) if device.gate_id and when else "never"


def _invitation(device: Device, url: str, now: datetime) -> dict[str, Any]:
    return {
        "device": device,
        "url": url,
        "until": _local(device.gate.event, now + enrolment.VALID_FOR),
        "qr": segno.make(url, error="m", micro=False).svg_data_uri(scale=8, border=4),
    }


def _has_no_scans(**where: int) -> bool:
    return not Scan.objects.filter(**where).exists()
