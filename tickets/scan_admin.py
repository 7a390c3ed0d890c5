"""The scan log in the admin, to read: with names for its numbers, and the venue's times."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html

from core.admin import CarefulAdmin
from tickets.log_names import Names
from tickets.models import Event
from tickets.rules import REASONS


class EventFilter(admin.SimpleListFilter):
    """Rows of one event: they know it by its number."""

    title = "event"
    parameter_name = "event"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Offer the events."""
        return [(str(event.id), event.name) for event in Event.objects.only("id", "name")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Keep the rows of the chosen one."""
        return queryset.filter(event_id=self.value()) if self.value() else queryset


class ReasonFilter(admin.SimpleListFilter):
    """Rows of one reason: those that there may be, for reading them off the log would read all of it."""

    title = "reason"
    parameter_name = "reason"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Offer the reasons."""
        return [(reason, reason) for reason in REASONS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Keep the rows of the chosen one."""
        return queryset.filter(reason=self.value()) if self.value() else queryset


class _NamedList(ChangeList):
    """A page of rows whose names are read together."""

    def get_results(self, request: HttpRequest) -> None:
        """Read the page, and then its names."""
        super().get_results(request)
        self.result_list: Any = list(self.result_list)
        self.model_admin.look_up(self.result_list)  # type: ignore[attr-defined]


class LedgerAdmin(CarefulAdmin):
    """Rows that come from gates: nobody adds or deletes one here."""

    ordering = ("-id",)
    list_per_page = 50
    show_full_result_count = False

    class Media:
        css = {"all": ("tickets/admin.css",)}

    def look_up(self, rows: Sequence[Any]) -> None:
        """Give each row what its columns need that is not in it."""
        raise NotImplementedError

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Read names for a page at a time, not for each row."""
        return _NamedList

    def get_object(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Read a row with its names."""
        row = super().get_object(request, *args, **kwargs)
        if row is not None:
            self.look_up([row])
        return row

    def has_add_permission(self, request: HttpRequest) -> bool:
        """They come from gates."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Every attempt is kept."""
        return False


class ScanAdmin(LedgerAdmin):
    """Every attempt, the refused ones too; without what was read, for a code of another event opens its door."""

    list_display = ("happened", "event", "gate", "who", "direction", "verdict", "reason", "ticket_id")
    list_filter = (EventFilter, "verdict", ReasonFilter, "direction")
    search_fields = ("=ticket_id", "=nonce")
    fields = (
        "event",
        "gate",
        "who",
        "ticket",
        "direction",
        "verdict",
        "reason",
        "happened",
        "recorded",
        "offline",
        "forced_over",
        "force_reason",
        "annulled",
        "reentry",
        "nonce",
    )
    readonly_fields = fields

    def look_up(self, rows: Sequence[Any]) -> None:
        """Name events, gates, devices and people."""
        names = Names(rows)
        for scan in rows:
            scan.names = names

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """What was answered stays answered."""
        return False

    @admin.display(description="when", ordering="id")
    def happened(self, scan: Any) -> str:
        """Show the moment that was judged."""
        return self._local(scan, scan.happened_at)

    @admin.display
    def recorded(self, scan: Any) -> str:
        """Show when we heard of it."""
        return self._local(scan, scan.recorded_at)

    @admin.display(description="taken back")
    def annulled(self, scan: Any) -> str:
        """Show when it was taken back."""
        return self._local(scan, scan.annulled_at) if scan.annulled_at else "no"

    @admin.display
    def event(self, scan: Any) -> str:
        """Name the event."""
        return str(scan.names.event(scan))

    @admin.display
    def gate(self, scan: Any) -> str:
        """Name the gate."""
        return str(scan.names.gate(scan))

    @admin.display(description="device or person")
    def who(self, scan: Any) -> str:
        """Name who scanned."""
        return str(scan.names.who(scan))

    @admin.display
    def ticket(self, scan: Any) -> str:
        """Lead to what else happened to the ticket."""
        return history_link(scan.ticket_id, str(scan.ticket_id)) if scan.ticket_id else "none of this event"

    def _local(self, scan: Any, when: datetime) -> str:
        return str(scan.names.local(scan, when))


def history_link(ticket_id: int, words: str) -> str:
    """Return a link to a ticket's history."""
    return format_html(
        '<a href="{}">{}</a>', reverse("admin:tickets_ticket_history", args=[ticket_id]), words
    )
