"""What a person does with one ticket in the admin: check in by hand, pass on, read its story."""

from __future__ import annotations

import uuid
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone

from core.errors import QrsiteError
from tickets import check_in, lifecycle
from tickets.models import Ticket
from tickets.story import story_of

MAY_CHECK_IN, MAY_FORCE = "tickets.check_in_ticket", "tickets.force_admission"


class TransferForm(forms.ModelForm):
    """Whom a ticket is passed on to."""

    class Meta:
        model = Ticket
        fields = ("holder", "email")
        labels = {"holder": "New holder"}


class Desk(admin.ModelAdmin):
    """The pages of one ticket beside its form."""

    def get_urls(self) -> list[URLPattern]:
        """Add the pages."""
        pages = {"check-in": self.check_in_view, "pass-on": self.pass_on_view}
        return [
            path(
                f"<int:ticket_id>/{name}/",
                self.admin_site.admin_view(view),
                name=f"tickets_ticket_{name.replace('-', '_')}",
            )
            for name, view in pages.items()
        ] + super().get_urls()

    def check_in_view(self, request: HttpRequest, ticket_id: int) -> HttpResponse:
        """Judge the ticket as its scan at a gate would be, and record it with the person's name."""
        if not request.user.has_perm(MAY_CHECK_IN):
            raise PermissionDenied
        ticket = self._find(request, ticket_id)
        if nonce := request.POST.get("take_back"):
            return self._take_back(request, ticket, nonce)
        now = timezone.now()
        foresight = check_in.foresight(ticket, now)
        admitting = next((answer.gate_id for answer in foresight if answer.is_admitted), None)
        form = check_in.CheckInForm(
            request.POST or None,
            initial={"nonce": uuid.uuid4(), "gate": admitting},
            ticket=ticket,
            may_force=request.user.has_perm(MAY_FORCE),
        )
        if request.method == "POST" and form.is_valid():
            outcome = check_in.record(ticket, form.cleaned_data, request.user, now)
            level = messages.SUCCESS if check_in.is_admitted(outcome) else messages.ERROR
            self.message_user(request, f"{ticket.holder}: {check_in.words(outcome)}", level)
            return self._back(request, ticket)
        context = {
            "foresight": foresight,
            "lacks_gates": not foresight,
            "last": check_in.last_by_hand(ticket, now),
        }
        return self._page(request, ticket, form, "Check in by hand", context)

    def _take_back(self, request: HttpRequest, ticket: Ticket, nonce: str) -> HttpResponse:
        now = timezone.now()
        last = check_in.last_by_hand(ticket, now)
        try:
            if last is None or last.nonce != nonce:
                raise lifecycle.NotAnnullable("There is nothing here that can be taken back.")
            lifecycle.annul(event_id=ticket.event_id, nonce=nonce, now=now)
        except QrsiteError as error:
            self.message_user(request, str(error), messages.ERROR)
        else:
            self.message_user(request, f"{ticket.holder}: the {last.direction} was taken back.")
            self.log_change(request, ticket, f"Took back the {last.direction}.")
        return self._back(request, ticket)

    def pass_on_view(self, request: HttpRequest, ticket_id: int) -> HttpResponse:
        """Pass the ticket on, and lead to the new one."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        ticket = self._find(request, ticket_id)
        form = TransferForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                new = lifecycle.transfer(
                    ticket_id=ticket.id,
                    holder=form.cleaned_data["holder"],
                    email=form.cleaned_data["email"],
                    reference=None,
                    by=request.user.get_username(),
                    now=timezone.now(),
                )
            except lifecycle.TicketTransferred as error:
                words = "It had been passed on already: this is the ticket of its new holder."
                self.message_user(request, words, messages.WARNING)
                return redirect("admin:tickets_ticket_change", error.details["to"])
            except QrsiteError as error:
                self.message_user(request, str(error), messages.ERROR)
                return redirect("admin:tickets_ticket_change", ticket.id)
            self.message_user(request, f"Passed on to {new.holder}: the old code is refused from now on.")
            return redirect("admin:tickets_ticket_change", new.id)
        return self._page(request, ticket, form, "Pass on", {})

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show all that happened to the ticket: issued, changed, passed on, scanned, voided."""
        ticket = self.get_object(request, object_id)
        if ticket is None or not self.has_view_permission(request, ticket):
            return super().history_view(request, object_id, extra_context)
        context = {
            **self.admin_site.each_context(request),
            "title": "History",
            "subtitle": ticket,
            "opts": self.opts,
            "ticket": ticket,
            "may_view": True,
            "story": story_of(ticket),
        }
        return TemplateResponse(request, "admin/tickets/ticket/history.html", context)

    def _back(self, request: HttpRequest, ticket: Ticket) -> HttpResponse:
        """Lead to a page where whoever did something may read what came of it."""
        may_view = self.has_view_permission(request)
        return redirect(f"admin:tickets_ticket_{'change' if may_view else 'check_in'}", ticket.id)

    def _find(self, request: HttpRequest, ticket_id: int) -> Ticket:
        found = self.get_queryset(request).select_related("event").filter(id=ticket_id)
        ticket: Ticket | None = found.first()
        if ticket is None:
            raise Http404
        return ticket

    def _page(
        self, request: HttpRequest, ticket: Ticket, form: forms.BaseForm, title: str, context: dict[str, Any]
    ) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.opts,
            "ticket": ticket,
            "may_view": self.has_view_permission(request),
            "form": form,
            **context,
        }
        return TemplateResponse(request, "admin/tickets/ticket/desk.html", context)
