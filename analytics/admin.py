"""The scan log, to read."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from analytics.models import Scan
from core.admin import CarefulAdmin


@admin.register(Scan)
class ScanAdmin(CarefulAdmin):
    """Every attempt; nobody adds, changes or deletes one here."""

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
    ordering = ("-id",)
    list_per_page = 50
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Scans come from gates."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """What was answered stays answered."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Every attempt is kept."""
        return False
