"""An event's kinds of tickets in the admin: when each is admitted, and when one can go."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError

from tickets.models import Event, Gate, Kind, Ticket


class KindForm(forms.ModelForm):
    """A kind of ticket; its name stays, for tickets carry it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["name"].disabled = self.instance.pk is not None


class KindFormSet(forms.BaseInlineFormSet):
    """The kinds of one event, with the times that the event is given at the same moment."""

    def clean(self) -> None:
        """Refuse a kind that would never be admitted, and keep one that tickets or gates need."""
        super().clean()
        for form in self.deleted_forms:
            if problem := why_kept(form.instance):
                raise ValidationError(problem)
        for form in self.forms:
            if form not in self.deleted_forms and form.is_valid() and form.has_changed():
                _check_window(form, self.instance)


class KindInline(admin.StackedInline):
    """Kinds of tickets beside their event."""

    model = Kind
    form = KindForm
    formset = KindFormSet
    extra = 0
    fields = ("name", "capacity", "admits_from", "admits_until")


def why_kept(kind: Kind) -> str | None:
    """Say why a kind can't be deleted: a ticket has it, or a gate would admit every kind without it."""
    if Ticket.objects.filter(event_id=kind.event_id, kind=kind.name).exists():
        return f"The kind {kind} stays: there are tickets of it."
    for gate in Gate.objects.filter(kinds=kind).prefetch_related("kinds"):
        if len(gate.kinds.all()) == 1:
            return f"The gate {gate} admits only {kind}, and without it every kind: change the gate first."
    return None


def _check_window(form: Any, event: Event) -> None:
    if not (event.doors_at and event.ends_at):  # their own fields say what is wrong with them
        return
    opens, closes = form.instance.admits_from, form.instance.admits_until
    if opens and opens >= event.ends_at:
        form.add_error("admits_from", "The event is over by then: choose a time before it ends.")
    elif closes and closes <= event.doors_at:
        form.add_error("admits_until", "The doors are not open yet: choose a time after they open.")
