"""The admin of who may call: devices, enrolled by a QR, and services."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import segno
from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import ForeignKey, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.html import format_html

from core.admin import CarefulAdmin
from tickets import enrolment
from tickets.models import SCOPES, Device, Event, Gate, ServiceToken
from tickets.tokens import DEVICE_PREFIX, SERVICE_PREFIX, new_token, token_hash

GATE_PAGE = "/gate/"
MAX_QRS = 100
MAY_GRANT = "tickets.grant_supervisor"


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

    @admin.action(description="Revoke: the token stops working within 5 seconds", permissions=["change"])
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


class GateChoice(forms.ModelChoiceField):
    """Gates by name and event."""

    def label_from_instance(self, gate: Any) -> str:
        """Name a gate."""
        return f"{gate.name}, {gate.event}"


class DeviceAdmin(TokenAdmin):
    """Scanners, each at one gate."""

    token_prefix = DEVICE_PREFIX
    list_display = ("name", "gate", "event", "is_valid", "created", "enrolled", "last_seen")
    list_select_related = ("gate__event",)
    list_filter = ("gate__event",)
    search_fields = ("name", "gate__name")
    actions = ["enrol", "revoke"]
    readonly_fields = ["created", "enrolled", "last_seen", "clock", "revoked_at"]

    def get_readonly_fields(self, request: HttpRequest, obj: Device | None = None) -> list[str]:
        """Let only those make a device a supervisor's who may."""
        more = [] if request.user.has_perm(MAY_GRANT) else ["is_supervisor"]
        return [*self.readonly_fields, *more]

    def formfield_for_foreignkey(
        self, db_field: ForeignKey[Any, Any], request: HttpRequest, **kwargs: Any
    ) -> Any:
        """Offer gates with their events: many events have a Main gate."""
        gates = Gate.objects.select_related("event").order_by("-event__starts_at", "event__name", "name")
        return GateChoice(gates)

    def get_urls(self) -> list[URLPattern]:
        """Add the button of a device's page."""
        view = self.admin_site.admin_view(self.enrol_view)
        return [path("<int:device_id>/enrol/", view, name="tickets_device_enrol"), *super().get_urls()]

    def enrol_view(self, request: HttpRequest, device_id: int) -> HttpResponse:
        """Show the QR of one device."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        if request.method != "POST":  # who had to log in between comes by GET
            return redirect("admin:tickets_device_change", device_id)
        page = self.enrol(request, self.get_queryset(request).filter(id=device_id))
        return page or redirect("admin:tickets_device_changelist")

    @admin.action(description="Enrol: show a QR for each, valid once", permissions=["change"])
    def enrol(self, request: HttpRequest, queryset: QuerySet[Device]) -> HttpResponse | None:
        """Make a secret for each of the chosen devices and show it, this once, as a QR for the gate's page."""
        devices = list(queryset.select_related("gate__event")[: MAX_QRS + 1])
        if not 0 < len(devices) <= MAX_QRS:
            self.message_user(request, f"Choose 1 to {MAX_QRS} devices.", messages.ERROR)
            return None
        if any(device.is_supervisor for device in devices) and not request.user.has_perm(MAY_GRANT):
            self.message_user(
                request, "A supervisor's device is enrolled by somebody who may make one.", messages.ERROR
            )
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

    @admin.display
    def clock(self, device: Device) -> str:
        """Say how wrong the device's clock was when it last sent what it had scanned offline."""
        if device.clock_offset_ms is None or device.clock_measured_at is None:
            return "not measured"
        way = "ahead" if device.clock_offset_ms > 0 else "behind"
        seconds = abs(device.clock_offset_ms) / 1000
        return f"{seconds:.1f} s {way}, {device.gate.event.local(device.clock_measured_at)}"

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


class ServiceTokenAdmin(TokenAdmin):
    """Services that call the API."""

    token_prefix = SERVICE_PREFIX
    form = ServiceTokenForm
    list_display = ("name", "scopes", "is_valid", "created_at")
    search_fields = ("name",)


def _local_or_never(device: Device, when: datetime | None) -> str:
    return device.gate.event.local(when) if device.gate_id and when else "never"


def _invitation(device: Device, url: str, now: datetime) -> dict[str, Any]:
    return {
        "device": device,
        "url": url,
        "until": device.gate.event.local(now + enrolment.VALID_FOR),
        "qr": segno.make(url, error="m", micro=False).svg_data_uri(scale=8, border=4),
    }
