"""The organiser's pages about tickets: issue, find, print; what is done at the desk is in tickets.desk."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import FileResponse, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

from core.errors import QrsiteError
from tickets import issuing, printing
from tickets.desk import Desk
from tickets.import_admin import ImportAdmin
from tickets.models import Ticket
from tickets.paper import Layout
from tickets.ticket_form import TicketForm
from tickets.ticket_lists import KindFilter, StateFilter, state_of
from tickets.void_admin import VoidAdmin


class TicketAdmin(Desk, VoidAdmin, ImportAdmin):
    """Tickets: issued and voided here, admitted at the gate."""

    form = TicketForm
    list_display = ("holder", "event", "kind", "reference", "state", "issued")
    list_select_related = ("event",)
    list_filter = ("event", StateFilter, KindFilter)
    search_fields = ("holder", "email", "reference", "=id")
    list_per_page = 50
    show_full_result_count = False
    actions = ("print_pages", "print_cards", "void")

    class Media:
        css = {"all": ("tickets/admin.css",)}

    def get_readonly_fields(self, request: HttpRequest, obj: Ticket | None = None) -> tuple[str, ...]:
        """Keep a ticket with its event, which its code names, and with its kind, which is counted."""
        return ("event", "kind", "id", "state", "issued", "qr") if obj else ()

    def has_delete_permission(self, request: HttpRequest, obj: Ticket | None = None) -> bool:
        """Tickets are voided: their scans stay."""
        return False

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Say why a ticket can't be issued, where another took the last place since the form was looked at."""
        try:
            return super().changeform_view(request, *args, **kwargs)
        except (issuing.CapacityExceeded, issuing.UnknownKind) as error:
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
        return state_of(ticket)

    @admin.display(ordering="issued_at")
    def issued(self, ticket: Ticket) -> str:
        """Show a time of the venue."""
        return ticket.event.local(ticket.issued_at)

    @admin.display(description="QR")
    def qr(self, ticket: Ticket) -> str:
        """Show the code as picture and text, and where to print it."""
        pdf = reverse("api:ticket_pdf", args=[ticket.id])
        return format_html(
            '<img src="{}" alt="QR code of this ticket" width="240" height="240"> {}<br><code>{}</code>',
            reverse("api:ticket_qr_svg", args=[ticket.id]),
            format_html('<a href="{}">PDF</a>', pdf) if printing.is_printable(ticket) else "",
            issuing.code_of(event_id=ticket.event_id, ticket_id=ticket.id),
        )

    @admin.action(description="Print: a page for each", permissions=["view"])
    def print_pages(self, request: HttpRequest, queryset: QuerySet[Ticket]) -> FileResponse | None:
        """Print the chosen tickets, in the order of the list."""
        return self._print(request, queryset, "pages")

    @admin.action(description="Print: a sheet of cards", permissions=["view"])
    def print_cards(self, request: HttpRequest, queryset: QuerySet[Ticket]) -> FileResponse | None:
        """Print the chosen tickets, in the order of the list."""
        return self._print(request, queryset, "cards")

    def _print(self, request: HttpRequest, queryset: QuerySet[Ticket], layout: Layout) -> FileResponse | None:
        tickets = queryset.select_related("event")[: printing.TICKETS_MAX + 1]
        try:
            return printing.answer(list(tickets), layout)
        except QrsiteError as error:
            self.message_user(request, str(error), messages.ERROR)
            return None
