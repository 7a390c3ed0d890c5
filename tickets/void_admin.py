"""Voiding tickets in the admin: asked first, for it can't be taken back, and logged of those that it was done to."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone

from tickets import lifecycle
from tickets.models import Event, Ticket
from tickets.story import VOIDED

CONFIRMED = "confirmed"


class VoidAdmin(admin.ModelAdmin):
    """Tickets that can be voided, one or many."""

    def get_urls(self) -> list[URLPattern]:
        """Add the page of one ticket."""
        view = self.admin_site.admin_view(self.void_view)
        return [path("<int:ticket_id>/void/", view, name="tickets_ticket_void"), *super().get_urls()]

    def void_view(self, request: HttpRequest, ticket_id: int) -> HttpResponse:
        """Void one ticket, once that was confirmed."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        chosen = self.get_queryset(request).filter(id=ticket_id)
        if not chosen.exists():
            raise Http404
        page = self.void(request, chosen)
        return page or redirect("admin:tickets_ticket_change", ticket_id)

    @admin.action(description="Void: refuse these tickets from now on", permissions=["change"])
    def void(self, request: HttpRequest, queryset: QuerySet[Ticket]) -> HttpResponse | None:
        """Void the chosen tickets that are neither void nor passed on: as many as were confirmed, or ask again."""
        open_tickets = queryset.filter(voided_at=None, transferred_at=None)
        count = open_tickets.count()
        if not count:
            self.message_user(
                request, "Nothing to void: what was chosen is void or passed on.", messages.WARNING
            )
            return None
        if request.POST.get(CONFIRMED) != str(count):
            return self._ask(request, open_tickets, count, queryset.count() - count)
        # Of one event or many: the log names a ticket by its id, which is unique over all of them.
        ids = lifecycle.void_many(
            open_tickets.values_list("id", flat=True),
            now=timezone.now(),
            log=lambda voided: LogEntry.objects.log_actions(request.user.pk, voided, CHANGE, VOIDED),  # type: ignore[arg-type]
        )
        self.message_user(request, f"Voided: {len(ids):,}.")
        return None

    def _ask(
        self, request: HttpRequest, tickets: QuerySet[Ticket], count: int, others: int
    ) -> TemplateResponse:
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "title": f"Void {count:,} ticket{'s' if count > 1 else ''}?",
            "opts": self.opts,
            "count": count,
            "others": others,
            "first": tickets.first(),
            "inside": tickets.filter(inside=True).count(),
            "events": Event.objects.filter(id__in=tickets.order_by().values("event_id")),
            "chosen": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "select_across": request.POST.get("select_across", "0"),
            "checkbox": ACTION_CHECKBOX_NAME,
            "confirmed": CONFIRMED,
        }
        return TemplateResponse(request, "admin/tickets/ticket/void.html", context)
