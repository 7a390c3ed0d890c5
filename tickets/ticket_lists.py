"""How the list of tickets is narrowed down: by what became of them, and by kind."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from tickets.models import Kind, Ticket

VALID = Q(voided_at=None, transferred_at=None)
# In the order of the words: void beats everything, for the gate refuses it whatever else it was.
STATES = {
    "valid": VALID,
    "issued": VALID & Q(admitted_at=None),
    "inside": VALID & Q(admitted_at__isnull=False, inside=True),
    "left": VALID & Q(admitted_at__isnull=False, inside=False),
    "void": Q(voided_at__isnull=False),
    "transferred": Q(voided_at=None, transferred_at__isnull=False),
}


def state_of(ticket: Ticket) -> str:
    """Say in a word what the gate would make of a ticket; STATES finds those of each word."""
    if ticket.voided_at:
        return "void"
    if ticket.transferred_at:
        return "transferred"
    if ticket.admitted_at:
        return "inside" if ticket.inside else "left"
    return "issued"


class StateFilter(admin.SimpleListFilter):
    """Tickets of which something became."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Offer the words; "valid" is all that are neither void nor transferred."""
        return [(state, state) for state in STATES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Ticket]) -> QuerySet[Ticket]:
        """Keep those of the chosen word."""
        return queryset.filter(STATES.get(self.value() or "", Q()))


class KindFilter(admin.SimpleListFilter):
    """Tickets of one kind: of those that the events have, for reading them off the tickets would read all of them."""

    title = "kind"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Offer the kinds of the chosen event, or of all of them."""
        kinds = Kind.objects.order_by("name")
        event = request.GET.get("event__id__exact", "")
        if event.isdecimal() and len(event) < 10:
            kinds = kinds.filter(event_id=event)
        return [(name, name) for name in kinds.values_list("name", flat=True).distinct()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Ticket]) -> QuerySet[Ticket]:
        """Keep those of the chosen one."""
        return queryset.filter(kind=self.value()) if self.value() else queryset
