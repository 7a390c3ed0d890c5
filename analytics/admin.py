"""The scan log, to read; the conflicts in it, to sign off."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest
from django.utils import timezone

from analytics import queries
from analytics.models import Conflict, Scan
from core import db
from core.admin import CarefulAdmin


class LedgerAdmin(CarefulAdmin):
    """Rows that come from gates: nobody adds or deletes one here."""

    ordering = ("-id",)
    list_per_page = 50
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        """They come from gates."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Every attempt is kept."""
        return False


@admin.register(Scan)
class ScanAdmin(LedgerAdmin):
    """Every attempt, the refused ones too; without what was read, for a code of another event opens its door."""

    exclude = ("code",)

    list_display = (
        "recorded_at",
        "event_id",
        "gate_id",
        "device_id",
        "direction",
        "verdict",
        "reason",
        "ticket_id",
    )
    list_filter = ("verdict", "reason", "direction")
    search_fields = ("=ticket_id", "=nonce")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """What was answered stays answered."""
        return False


@admin.register(Conflict)
class ConflictAdmin(LedgerAdmin):
    """Whom a device let in offline and should not have; somebody looks into it and signs it off."""

    list_display = (
        "noticed_at",
        "event_id",
        "ticket_id",
        "reason",
        "scan_id",
        "earlier_scan_id",
        "signed_off_by",
    )
    list_filter = (("signed_off_at", admin.EmptyFieldListFilter), "reason")
    search_fields = ("=ticket_id",)
    fields = (*(field.name for field in Conflict._meta.fields if field.name != "note"), "note")

    def get_form(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Ask for the note: it is what signs a conflict off."""
        form = super().get_form(request, *args, **kwargs)
        if "note" in form.base_fields:
            form.base_fields["note"].required = True
        return form

    def get_readonly_fields(self, request: HttpRequest, obj: Conflict | None = None) -> list[str]:
        """Let a note be written once, which signs the conflict off."""
        is_open = obj is not None and obj.signed_off_at is None
        return [name for name in map(str, self.fields) if name != "note" or not is_open]

    def has_change_permission(self, request: HttpRequest, obj: Conflict | None = None) -> bool:
        """Signing off is a permission of its own."""
        return request.user.has_perm("analytics.sign_off_conflict")

    def save_model(self, request: HttpRequest, obj: Conflict, form: Any, change: bool) -> None:
        """Sign the conflict off by whoever wrote the note; the first who does stays the one who did."""
        with db.begin() as conn:
            signed = queries.sign_off_conflict(
                conn,
                event_id=obj.event_id,
                conflict_id=obj.id,
                signed_off_at=timezone.now(),
                signed_off_by=request.user.get_username(),
                note=obj.note,
            )
        if signed and signed.note != obj.note:
            messages.warning(request, f"{signed.signed_off_by} had signed it off before: {signed.note}")
