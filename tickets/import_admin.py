"""The admin's pages to import tickets: look at a file first, then import just that file."""

from __future__ import annotations

import tempfile
from typing import Any

from django import forms
from django.contrib import messages
from django.core import signing
from django.core.exceptions import PermissionDenied
from django.core.files.uploadedfile import UploadedFile
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from core.admin import CarefulAdmin
from tickets import import_files, importing
from tickets.csv_rows import FileRefused
from tickets.models import Event

SALT = "tickets.import_admin"


class EventChoice(forms.ModelChoiceField):
    """Events by name and slug: two may have one name."""

    def label_from_instance(self, event: Any) -> str:
        """Name an event."""
        return f"{event.name} ({event.slug})"


class ImportForm(forms.Form):
    """A file, and the event that its tickets are for."""

    event = EventChoice(Event.objects.all())
    file = forms.FileField(
        label="CSV file", widget=forms.ClearableFileInput(attrs={"accept": ".csv,.tsv,.txt,text/csv"})
    )


class ImportAdmin(CarefulAdmin):
    """Tickets that can be imported."""

    def get_urls(self) -> list[URLPattern]:
        """Add the two steps."""
        look = self.admin_site.admin_view(require_http_methods(["GET", "HEAD", "POST"])(self.import_view))
        confirm = self.admin_site.admin_view(self.import_confirm_view)
        return [
            path("import/", look, name="tickets_ticket_import"),
            path("import/confirm/", confirm, name="tickets_ticket_import_confirm"),
            *super().get_urls(),
        ]

    def import_view(self, request: HttpRequest) -> HttpResponse:
        """Ask for a file; say what is in it and what importing it would do, and do nothing."""
        self._require_permission(request)
        form = ImportForm(request.POST, request.FILES) if request.method == "POST" else ImportForm()
        context = {
            **self.admin_site.each_context(request),
            "title": "Import tickets",
            "opts": self.opts,
            "may_view": self.has_view_permission(request),
            "form": form,
            "max_rows": importing.MAX_ROWS,
            "kept_errors": importing.KEPT_ERRORS,
        }
        if form.is_valid():
            try:
                context |= _look(request, **form.cleaned_data)
            except FileRefused as error:
                form.add_error("file", str(error))
        return TemplateResponse(request, "admin/tickets/ticket/import.html", context)

    def import_confirm_view(self, request: HttpRequest) -> HttpResponse:
        """Import the file that this person looked at, once."""
        self._require_permission(request)
        if request.method != "POST":  # who had to log in between comes by GET
            self.message_user(request, "Nothing was imported: look at the file again.", messages.WARNING)
            return redirect("admin:tickets_ticket_import")
        try:
            name, event_id, user_id = signing.loads(
                request.POST.get("upload", ""), salt=SALT, max_age=import_files.KEPT_FOR_S
            )
            if user_id != request.user.pk:
                raise PermissionDenied
            event = Event.objects.get(id=event_id)
            with transaction.atomic(), import_files.taken(name) as file:
                outcome = importing.issue(event_id=event.id, spool=file, now=timezone.now(), is_dry=False)
                if not outcome.refused:
                    self.log_change(request, event, f"Imported {outcome.new} tickets.")
        except (signing.BadSignature, Event.DoesNotExist, import_files.UploadGone):
            self.message_user(request, str(import_files.UploadGone()), messages.ERROR)
            return redirect("admin:tickets_ticket_import")
        if outcome.refused:
            self.message_user(request, f"Nothing was imported. {outcome.refused}", messages.ERROR)
            return redirect("admin:tickets_ticket_import")
        self.message_user(
            request,
            f"Imported {outcome.new:,} tickets for {event}; {outcome.already:,} had been issued before.",
        )
        if not self.has_view_permission(request):
            return redirect("admin:tickets_ticket_import")
        return redirect(f"{reverse('admin:tickets_ticket_changelist')}?event__id__exact={event.id}")

    def _require_permission(self, request: HttpRequest) -> None:
        if not self.has_add_permission(request):
            raise PermissionDenied


def _look(request: HttpRequest, *, event: Event, file: UploadedFile) -> dict[str, Any]:
    with tempfile.TemporaryFile("w+") as spool:
        checked = importing.check(file.file, spool, kinds=importing.kinds_of(event))  # type: ignore[arg-type]
        outcome = importing.issue(event_id=event.id, spool=spool, now=timezone.now(), is_dry=True)
        upload = ""
        if outcome.new and not (checked.errors or outcome.refused):
            name = import_files.keep(spool)
            upload = signing.dumps([name, event.id, request.user.pk], salt=SALT)
    return {"event": event, "checked": checked, "outcome": outcome, "upload": upload}
