"""The admin's form of a ticket: what issuing would refuse is said in the form, which stays filled in."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from tickets import issuing
from tickets.models import Event, Kind, Ticket

MAX_OFFERED = 200


class KindInput(forms.TextInput):
    """A kind, with those that there are to choose from: events without kinds take any word."""

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        """Draw the field and its list."""
        kinds = Kind.objects.order_by("name").values_list("name", flat=True).distinct()[:MAX_OFFERED]
        field = super().render(name, value, {**(attrs or {}), "list": f"{name}-offered"}, renderer)
        options = format_html_join("", '<option value="{}"></option>', ((kind,) for kind in kinds))
        return format_html('{}<datalist id="{}-offered">{}</datalist>', field, name, options)


class TicketForm(forms.ModelForm):
    """A ticket; its reference is looked at even where its event can't be changed."""

    class Meta:
        model = Ticket
        fields = ("event", "holder", "email", "kind", "reference")
        widgets = {"kind": KindInput(attrs={"class": "vTextField"})}

    def clean_reference(self) -> str | None:
        """Store "no reference" as NULL: empty text could stand only once."""
        reference: str | None = self.cleaned_data["reference"] or None
        others = Ticket.objects.filter(event_id=self.instance.event_id, reference=reference)
        if self.instance.event_id and reference and others.exclude(id=self.instance.id).exists():
            raise ValidationError("Another ticket of this event has this reference.")
        return reference

    def clean(self) -> dict[str, Any]:
        """Issue a new ticket and take it back, to hear what stands against it."""
        sent = super().clean() or self.cleaned_data
        if self.instance._state.adding and not self.errors:
            wish = issuing.Wish(sent["holder"], sent["email"], sent["kind"], sent["reference"])
            event: Event = sent["event"]
            try:
                with transaction.atomic():
                    issuing.issue(event_id=event.id, wishes=[wish], now=timezone.now())
                    transaction.set_rollback(True)
            except issuing.UnknownKind as error:
                self.add_error("kind", str(error))
            except issuing.CapacityExceeded as error:
                self.add_error(None, str(error))
        return sent
